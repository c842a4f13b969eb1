"""Boxes: areas, overlaps, clipping, the coding of one box relative to another, suppression, and the grids of anchors.

Boxes are (..., 4) xyxy in absolute pixels with continuous coordinates: the width is x2 - x1. What hangs on that choice stands
together in `Geometry`; `boxwood.ops.detectron1` is the other one.
Letters: N, M boxes; R boxes that are coded, each against its own reference box; B images of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwood.ops.masks import mask_crops

__all__ = [
    "CONTINUOUS",
    "MAX_LOG_SCALE",
    "Geometry",
    "anchor_grid",
    "area",
    "cell_anchors",
    "centred_inside",
    "clip",
    "decode",
    "encode",
    "giou",
    "intersection",
    "ioa",
    "iou",
    "nms_mask",
]

MAX_LOG_SCALE = math.log(1000 / 16)
"""A decoded box is at most so many times (e to this) larger than its reference; larger deltas would overflow exp."""


def area(boxes: Tensor) -> Tensor:
    """Areas in square pixels. ``boxes`` (..., 4) -> (...).

    >>> area(torch.tensor([[0.0, 0, 2, 3]])).tolist()
    [6.0]
    """
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Areas that every pair shares. ``a`` (N, 4), ``b`` (M, 4) -> (N, M)."""
    top_left = torch.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    return (bottom_right - top_left).clamp(min=0).prod(dim=-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every pair; 0 where both are empty. ``a`` (N, 4), ``b`` (M, 4) -> (N, M).

    >>> iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
    tensor([[0.3333]])
    """
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None, :] - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of each box with its partner (Rezatofighi et al., 2019, algorithm 1): IoU less the share of the smallest box
    around both that neither covers; -1..1. ``a`` and ``b`` (..., 4) -> (...).

    >>> giou(torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]]), torch.tensor([[2.0, 0, 4, 2], [3, 0, 4, 1]]))
    tensor([ 0.0000, -0.5000])
    """
    tiny = torch.finfo(a.dtype).tiny
    inner = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    shared, around = inner.clamp(min=0).prod(dim=-1), outer.prod(dim=-1)
    union = area(a) + area(b) - shared
    return shared / union.clamp(min=tiny) - (around - union) / around.clamp(min=tiny)


def ioa(a: Tensor, b: Tensor) -> Tensor:
    """The share of each box of ``a`` that lies in each of ``b``: intersection over the area of ``a``; (N, 4), (M, 4) -> (N, M)."""
    return intersection(a, b) / area(a)[:, None].clamp(min=torch.finfo(a.dtype).tiny)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes cut at the borders of their image.

    ``boxes`` (..., 4) xyxy; ``sizes`` (..., 2) height and width, one a box or broadcast -> (..., 4).
    """
    width_height = sizes.to(boxes.dtype).flip(-1)
    return torch.minimum(boxes.clamp(min=0), torch.cat([width_height, width_height], dim=-1))


def encode(boxes: Tensor, references: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Deltas that turn each reference box into its box (Girshick et al., R-CNN, 2014, equations 6 to 9).

    dx = wx (x - xr) / wr, dw = ww log(w / wr), likewise y and h, for centres x, y and sizes w, h.

    Args:
        boxes: (R, 4) xyxy, with positive sizes.
        references: (R, 4) xyxy: anchors or proposals, with positive sizes.
        weights: what dx, dy, dw, dh are multiplied with.

    Returns:
        (R, 4): dx, dy, dw, dh.
    """
    size, reference_size = boxes[..., 2:] - boxes[..., :2], references[..., 2:] - references[..., :2]
    centre, reference_centre = boxes[..., :2] + 0.5 * size, references[..., :2] + 0.5 * reference_size
    deltas = torch.cat([(centre - reference_centre) / reference_size, torch.log(size / reference_size)], dim=-1)
    return deltas * deltas.new_tensor(weights)


def decode(deltas: Tensor, references: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Boxes from deltas, the inverse of `encode`; sizes grow at most by exp(`MAX_LOG_SCALE`).

    ``deltas`` (..., 4), ``references`` (..., 4) xyxy, broadcast -> (..., 4) xyxy.

    >>> anchor = torch.tensor([[10.0, 10, 20, 30]])
    >>> decode(encode(torch.tensor([[12.0, 8, 30, 20]]), anchor), anchor)
    tensor([[12.,  8., 30., 20.]])
    """
    deltas = deltas / deltas.new_tensor(weights)
    reference_size = references[..., 2:] - references[..., :2]
    centre = references[..., :2] + 0.5 * reference_size + deltas[..., :2] * reference_size
    half = 0.5 * reference_size * deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp()
    return torch.cat([centre - half, centre + half], dim=-1)


def nms_mask(boxes: Tensor, scores: Tensor, groups: Tensor | None, threshold: float, valid: Tensor | None = None) -> Tensor:
    """Which boxes survive greedy suppression among the boxes of their group.

    In order of score, a box is kept unless it overlaps a kept box of its group by an IoU of more than ``threshold``.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,).
        groups: (N,) int64: labels or levels, each suppressed on its own; None is one group.
        threshold: IoU.
        valid: (N,) bool: the others are neither kept nor do they suppress.

    Returns:
        (N,) bool.

    >>> boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    >>> nms_mask(boxes, torch.tensor([0.8, 0.9, 0.1]), None, 0.5).tolist()
    [False, True, True]
    """
    import torchvision.ops  # only where it is needed: importing it takes most of a second and 160 MB

    kept = torch.zeros(boxes.shape[0], dtype=torch.bool, device=boxes.device)
    if valid is None:
        valid = torch.ones_like(kept)
    boxes, scores = boxes.float(), scores.float()
    if groups is None:
        members = valid.nonzero()[:, 0]
        return kept.index_fill(0, members[torchvision.ops.nms(boxes[members], scores[members], threshold)], True)
    if boxes.device.type == "cpu":
        # One group after another: the work grows with the square of the boxes that are compared.
        for group in set(groups[valid].tolist()):
            kept |= nms_mask(boxes, scores, None, threshold, valid & (groups == group))
        return kept
    members = valid.nonzero()[:, 0]
    chosen = torchvision.ops.batched_nms(boxes[members], scores[members], groups[members], threshold)
    return kept.index_fill(0, members[chosen], True)


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], stride: int = 1, *, rounded: bool = False) -> Tensor:
    """The anchors of one cell, centred at the origin: for each ratio (height / width) every size (square root of the area).

    Faster R-CNN, section 3.1.1; with a pyramid, one size a level (FPN, section 4.1). ``rounded`` rounds the corners to whole
    pixels, as torchvision does; ``stride`` decides nothing here -> (len(ratios) * len(sizes), 4) xyxy float32.

    >>> cell_anchors([16], [1.0, 4.0]).tolist()
    [[-8.0, -8.0, 8.0, 8.0], [-4.0, -16.0, 4.0, 16.0]]
    """
    size = torch.as_tensor(sizes, dtype=torch.float32)
    root = torch.as_tensor(ratios, dtype=torch.float32).sqrt()
    heights = (root[:, None] * size[None, :]).flatten()
    widths = ((1 / root)[:, None] * size[None, :]).flatten()
    anchors = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
    return anchors.round() if rounded else anchors


def anchor_grid(cell: Tensor, height: int, width: int, stride: int, offset: float = 0.5) -> Tensor:
    """The anchors of a whole map, cells row by row, in pixels of the network's input.

    Args:
        cell: (A, 4) xyxy around a cell's point.
        height, width: of the map, in cells.
        stride: pixels a cell.
        offset: where a cell's point lies, in cells: 0.5 is its middle; 0 its corner, as Detectron and torchvision have it.

    Returns:
        (height * width * A, 4) xyxy on the device of ``cell``.
    """
    x = (torch.arange(width, device=cell.device, dtype=torch.float32) + offset) * stride
    y = (torch.arange(height, device=cell.device, dtype=torch.float32) + offset) * stride
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([grid_x, grid_y, grid_x, grid_y], dim=-1).reshape(-1, 1, 4)
    return (shifts + cell).reshape(-1, 4)


def centred_inside(boxes: Tensor, size: Tensor) -> Tensor:
    """Which boxes have their centre in the image, not in the padding to the right and below: (A, 4), (2,) height and width -> (A,)
    bool."""
    return ((boxes[:, :2] + boxes[:, 2:]) / 2 < size.flip(0)).all(dim=1)


class Geometry:
    """What hangs on how boxes are counted: continuous coordinates, in which nothing is rounded and every scale is like any other.

    A model has one (`CONTINUOUS`, or `boxwood.ops.detectron1.DETECTRON1`) and asks it; it does not ask which it is.
    """

    cell_anchors = staticmethod(cell_anchors)
    clip = staticmethod(clip)
    nms_mask = staticmethod(nms_mask)
    mask_crops = staticmethod(mask_crops)
    last_pixel = (0.0, 0.0, 0.0, 0.0)
    """What is taken from a box for the region whose features are read and in which masks and keypoints lie."""
    smallest_proposal = 1e-3
    """Pixels a side; what is smaller is no proposal."""
    smallest_detection = 1e-2
    map_rounding: Literal["none", "cells", "pixels"] = "none"
    """Of `boxwood.ops.ps_roi_pool.ps_roi_pool`."""
    keypoint_shift = 0.0
    """Where in its pixel a keypoint lies, less than its middle, in pixels of the original image."""
    binary_masks = False
    """Mask targets are 0 or 1, not the covered share of a cell."""
    shares_proposals = False
    """On a pyramid the best proposals of all images of a batch together are learnt from, not the best of each."""
    fixed_counts = False
    """Losses are divided by how many anchors should have been sampled, or by positives and one more an image, not by what there
    is."""
    keeps_coarsest = False
    """RetinaNet's coarsest level may give detections of any score."""
    judges_leniently = True
    """RetinaNet's anchors that are the best of an instance learn it however little they overlap it; regions to be ignored are, and
    so is the padding."""

    def scales(self, sizes: Tensor, original_sizes: Sequence[tuple[int, int]]) -> Tensor:
        """What boxes as the second stage works on them are multiplied with to be the network's: (B, 2), for x and y.

        ``sizes`` (B, 2) height and width of the images as the network sees them, ``original_sizes`` of those in the files. It works
        in the network's pixels.
        """
        return torch.ones_like(sizes, dtype=torch.float32)

    def test_bounds(self, sizes: Tensor, padded: Sequence[int]) -> Tensor:
        """The (height, width) at which proposals for testing are cut, (B, 2): of ``sizes`` of the images (B, 2), and the ``padded``
        one of the batch, those of the images."""
        return sizes

    def rescale(self, boxes: Tensor, factor: Tensor) -> Tensor:
        """Boxes of the same image at another scale: (..., 4), ``factor`` (..., 2) for x and y."""
        return boxes * torch.cat([factor, factor], dim=-1)

    def enlarge(self, heatmaps: Tensor) -> Tensor:
        """Keypoint heatmaps (R, J, S, S) of twice the size, read bilinearly."""
        return F.interpolate(heatmaps, scale_factor=2.0, mode="bilinear", align_corners=False)

    def from_data(self, boxes: Tensor, scales: Tensor) -> Tensor:
        """True boxes and given proposals, which were scaled in continuous coordinates, as this geometry has them."""
        return boxes


CONTINUOUS = Geometry()
