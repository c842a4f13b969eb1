"""Detectron's arithmetic, for its weights: where it differs from continuous coordinates.

Its boxes name their last pixel: width = x2 - x1 + 1. Here too a box ends behind its last pixel, at x2 + 1, so areas, overlaps,
coding and suppression are those of `boxwood.ops.boxes`; what is left are the places where it forgot the 1 (features, masks and
keypoints are read up to x2), where it rounded, and where a scale decides: it multiplied x2, not x2 + 1.

Letters: N boxes or instances, B images, M the side of a mask, H x W pixels of the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwood.ops import nms
from boxwood.ops.geometry import Geometry

__all__ = ["DETECTRON1", "Detectron1", "cell_anchors", "clip", "mask_crops", "nms_mask"]


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], stride: int = 1, *, rounded: bool = False) -> Tensor:
    """The anchors of one cell, around its middle: for each ratio (height / width) every size -> (len(ratios) * len(sizes), 4) xyxy.

    Sides are rounded for a box as large as the stride, and enlarged then, so the areas and ratios are not those asked for.
    ``rounded`` decides nothing here.

    >>> cell_anchors([32], [0.5], 4).tolist()  # 48 x 24, where 32 x 32 pixels were asked for
    [[-22.0, -10.0, 26.0, 14.0]]
    """
    anchors = []
    for ratio in ratios:
        width = round(math.sqrt(stride * stride / ratio))
        height = round(width * ratio)
        for size in sizes:
            half_width, half_height, middle = 0.5 * width * size / stride, 0.5 * height * size / stride, 0.5 * stride
            anchors.append([middle - half_width, middle - half_height, middle + half_width, middle + half_height])
    return torch.tensor(anchors)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes cut at the borders of their image, of which each keeps a pixel at least.

    ``boxes`` (..., 4) xyxy; ``sizes`` (..., 2) height and width -> (..., 4).
    """
    limit = sizes.to(boxes.dtype).flip(-1)
    start = torch.minimum(boxes[..., :2].clamp(min=0), limit - 1)
    return torch.cat([start, torch.minimum(boxes[..., 2:].clamp(min=1), limit)], dim=-1)


def nms_mask(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor | None,
    threshold: float,
    valid: Tensor | None = None,
    lengths: Sequence[int] = (),
) -> Tensor:
    """`boxwood.ops.nms.nms_mask`, in which an overlap of exactly ``threshold`` suppresses too."""
    return nms.nms_mask(boxes, scores, groups, math.nextafter(threshold, 0.0), valid, lengths)


def mask_crops(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> Iterator[tuple[int, int, Tensor]]:
    """For each mask (top, left, (h, w) bool): its part inside the image.

    A rim of zeros a cell wide is laid around the mask, the box is enlarged as much, its corners lose their fractions, and the mask
    is scaled to those whole pixels. ``probabilities`` (N, M, M), ``boxes`` (N, 4) xyxy in an image of ``size`` (H, W).
    """
    cells = probabilities.shape[-1]
    corners = DETECTRON1.region(boxes.double())
    middle, half = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) / 2
    enlarged = half * ((cells + 2) / cells)
    whole = torch.cat([middle - enlarged, middle + enlarged], dim=1).trunc().to(torch.int64).tolist()
    rimmed = F.pad(probabilities.float(), (1, 1, 1, 1))
    for mask, (x1, y1, x2, y2) in zip(rimmed, whole, strict=True):
        width, height = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
        top, left = min(max(y1, 0), size[0]), min(max(x1, 0), size[1])
        rows = _bilinear(height, cells + 2)[top - y1 : max(min(y2 + 1, size[0]), top) - y1]
        columns = _bilinear(width, cells + 2)[left - x1 : max(min(x2 + 1, size[1]), left) - x1]
        yield top, left, rows.to(mask) @ mask @ columns.to(mask).T > threshold


def _bilinear(pixels: int, cells: int) -> Tensor:
    """The (pixels, cells) matrix that scales a row of values, the outermost repeated beyond the border."""
    position = ((torch.arange(pixels, dtype=torch.float32) + 0.5) * (cells / pixels) - 0.5).clamp(0, cells - 1)
    return (1 - (position[:, None] - torch.arange(cells)).abs()).clamp(min=0)


class Detectron1(Geometry):
    """The answers of Detectron (FAIR, 2018) to what `boxwood.ops.geometry.Geometry` is asked."""

    cell_anchors = staticmethod(cell_anchors)
    clip = staticmethod(clip)
    nms_mask = staticmethod(nms_mask)
    mask_crops = staticmethod(mask_crops)
    smallest_proposal = 1.0
    smallest_detection = -math.inf
    map_rounding = "pixels"
    beyond = "zeros"
    keypoint_shift = 0.5

    def scales(self, sizes: Tensor, original_sizes: Tensor) -> Tensor:
        """(B, 2) for x and y: the second stage works in the pixels of the original image."""
        return (sizes / original_sizes).flip(-1)

    def region(self, boxes: Tensor) -> Tensor:
        """Up to the beginning of the last pixel: features, masks and keypoints are read without the +1."""
        return torch.cat([boxes[..., :2], boxes[..., 2:] - 1], dim=-1)

    def test_bounds(self, sizes: Tensor, padded: Sequence[int]) -> Tensor:
        """The padded size, for all."""
        return torch.stack([torch.full_like(sizes[:, 0], side) for side in padded], dim=1)

    def largest(self, padded: Sequence[int], original_sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """The size of the originals."""
        heights, widths = zip(*original_sizes, strict=True)
        return max(heights), max(widths)

    def rescale(self, boxes: Tensor, factor: Tensor) -> Tensor:
        """The last pixel is multiplied, and its width added again: (..., 4), ``factor`` (..., 2) -> (..., 4).

        >>> DETECTRON1.rescale(torch.tensor([2.0, 2.0, 6.0, 6.0]), torch.tensor([2.0, 2.0])).tolist()  # pixels 2..5 become 4..10
        [4.0, 4.0, 11.0, 11.0]
        """
        return torch.cat([boxes[..., :2] * factor, (boxes[..., 2:] - 1) * factor + 1], dim=-1)

    def enlarge(self, heatmaps: Tensor) -> Tensor:
        """A deconvolution by a fixed bilinear filter: beyond the border lie zeros."""
        return super().enlarge(F.pad(heatmaps, (1, 1, 1, 1)))[..., 2:-2, 2:-2]

    def from_data(self, boxes: Tensor, scales: Tensor) -> Tensor:
        """The end of a box was multiplied as a whole; its last pixel should have been. It has a pixel of the original at least."""
        return torch.cat([boxes[..., :2], torch.maximum(boxes[..., 2:], boxes[..., :2] + scales) - scales + 1], dim=-1)


DETECTRON1 = Detectron1()
