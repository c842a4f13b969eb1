"""Keypoints inside boxes: the heatmap cell that is each one's target, and the highest place of a heatmap.

Letters: R boxes, K keypoints of each, S cells a side of a heatmap.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DECODED_AT_ONCE = 8
"""Boxes whose heatmaps are enlarged at once where shapes are fixed: 17 of 1344 x 1344 cells for each take 1 GB."""

PIXELS_AT_ONCE = 2**26
"""Pixels of enlarged heatmaps in the memory of a GPU at once, of 4 bytes each."""

__all__ = ["bicubic_weights", "decode_keypoints", "keypoint_similarity", "keypoint_targets"]


def keypoint_targets(keypoints: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The one cell of an S x S grid over its box in which each keypoint lies (Mask R-CNN, section 5).

    Args:
        keypoints: (R, K, 3) x, y in the frame of the boxes, visibility 0 for those not labelled.
        boxes: (R, 4) xyxy.
        size: S.

    Returns:
        ``cells`` (R, K) int64, row * S + column, and ``valid`` (R, K) bool: labelled and inside the box, its right and lower
        border included. Cells that are not valid are 0.

    >>> points = torch.tensor([[[5.0, 5, 2], [10, 10, 1], [11, 3, 2], [3, 3, 0]]])
    >>> cells, valid = keypoint_targets(points, torch.tensor([[0.0, 0, 10, 10]]), 4)
    >>> cells.tolist(), valid.tolist()
    ([[10, 15, 0, 0]], [[True, True, False, False]])
    """
    start, extent = boxes[:, None, :2], (boxes[:, None, 2:] - boxes[:, None, :2])
    offset = keypoints[..., :2] - start
    inside = ((offset >= 0) & (offset <= extent)).all(dim=-1)
    cell = (offset * size / extent.clamp(min=torch.finfo(extent.dtype).tiny)).floor().clamp(0, size - 1).to(torch.int64)
    valid = inside & (keypoints[..., 2] > 0)
    return (cell[..., 1] * size + cell[..., 0]) * valid, valid


def decode_keypoints(logits: Tensor, boxes: Tensor, largest: tuple[int, int] | None = None) -> Tensor:
    """The highest place of each heatmap, enlarged to its box's whole pixels by bicubic interpolation.

    ``logits`` (R, K, S, S), ``boxes`` (R, 4) xyxy -> (R, K, 3): x, y in the frame of the boxes, and the height of the peak, a
    logit. ``largest`` is a height and a width that no box exceeds: with it shapes are fixed and no value is read on the host.
    Without it the host reads the sizes of the boxes, once; a GPU then works on many boxes of about the same size at a time.
    """
    if largest is not None:
        starts = range(0, len(boxes), DECODED_AT_ONCE)
        chunks = [slice(start, start + DECODED_AT_ONCE) for start in starts]
        return torch.cat([_decode(logits[chunk], boxes[chunk], largest) for chunk in chunks])
    shapes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).ceil().to(torch.int64).tolist()  # width and height in whole pixels
    on_cpu = logits.device.type == "cpu"
    groups = [[row] for row in range(len(shapes))] if on_cpu else _alike(shapes, PIXELS_AT_ONCE // logits.shape[1])
    order = torch.tensor([row for group in groups for row in group], dtype=torch.int64).to(logits.device, non_blocking=True)
    points = logits.new_zeros(*logits.shape[:2], 3)
    with torch.autocast(logits.device.type, enabled=False):  # products of 16 bits would round the places
        for group, rows in zip(groups, torch.split(order, list(map(len, groups))), strict=True):
            size = max(shapes[row][1] for row in group), max(shapes[row][0] for row in group)
            points[rows] = _decode(logits[rows], boxes[rows], size, exact=len(group) == 1)
    return points


def _alike(shapes: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """The indices of (width, height) in groups of about the same longer side and shape: as many as have ``most`` pixels when they
    are as wide and as high as the group's widest and highest."""

    def scale(row: int) -> int:  # of a factor of two; below 64 it makes no difference
        return max(*shapes[row], 63).bit_length()

    groups: list[list[int]] = []
    width = height = 0
    for row in sorted(range(len(shapes)), key=lambda row: (scale(row), shapes[row][0] / shapes[row][1])):
        width, height = max(width, shapes[row][0]), max(height, shapes[row][1])
        if not groups or scale(row) != scale(groups[-1][0]) or (len(groups[-1]) + 1) * width * height > most:
            groups.append([])
            width, height = shapes[row]
        groups[-1].append(row)
    return groups


def _decode(logits: Tensor, boxes: Tensor, largest: tuple[int, int], *, exact: bool = False) -> Tensor:
    """`decode_keypoints` with heatmaps enlarged to ``largest`` and cut to their boxes; with ``exact`` that is the size of all."""
    extents = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    (height, width), sides = largest, extents.ceil()
    rows, columns = _bicubic(logits.shape[2], sides[:, 1], height), _bicubic(logits.shape[3], sides[:, 0], width)
    enlarged = rows[:, None] @ logits @ columns[:, None].mT
    if not exact:
        below = torch.arange(height, device=boxes.device) >= sides[:, 1, None]
        beside = torch.arange(width, device=boxes.device) >= sides[:, 0, None]
        enlarged = enlarged.masked_fill_(below[:, None, :, None] | beside[:, None, None, :], -torch.inf)
    peaks, indices = enlarged.flatten(2).max(dim=2)
    cells = torch.stack([indices % width, indices // width], dim=2) + 0.5
    return torch.cat([boxes[:, None, :2] + cells * extents[:, None] / sides[:, None], peaks[..., None]], dim=2)


def keypoint_similarity(points: Tensor, others: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """Object keypoint similarity of every pair, 0..1, all keypoints counted: the mean of exp(-d^2 / (2 area (2 sigma)^2)), as COCO
    defines it.

    ``points`` (..., N, K, 2) x, y, ``others`` (..., M, K, 2), ``areas`` (..., N) square pixels of the boxes of ``points``,
    ``sigmas`` (K,) -> (..., N, M).

    >>> points, others = torch.zeros(1, 2, 2), torch.tensor([[[0.0, 0], [3, 4]]])
    >>> keypoint_similarity(points, others, torch.tensor([50.0]), torch.tensor([0.25, 0.5]))  # (1 + 1/e^0.25) / 2
    tensor([[0.8894]])
    """
    squared = ((points[..., :, None, :, :] - others[..., None, :, :, :]) ** 2).sum(dim=-1)
    return torch.exp(-squared / (2 * areas[..., :, None, None] * (2 * sigmas) ** 2)).mean(dim=-1)


def bicubic_weights(size: int, enlarged: int) -> Tensor:
    """The (enlarged, size) matrix that interpolates a row of values: cubic convolution with a = -0.75 (Keys, 1981, equation 4), the
    outermost values repeated beyond the border, pixel centres at i + 0.5."""
    return _bicubic(size, torch.full((1,), float(enlarged)), enlarged)[0]


def _bicubic(size: int, enlarged: Tensor, largest: int) -> Tensor:
    """`bicubic_weights` for each of ``enlarged`` (R,), with as many rows as the largest needs -> (R, largest, size)."""
    a = -0.75
    position = (torch.arange(largest, dtype=torch.float32, device=enlarged.device) + 0.5) * (size / enlarged.double()).float()[
        :, None
    ] - 0.5
    first = position.floor()
    steps = torch.arange(-1, 3, device=enlarged.device)
    distance = ((position - first)[..., None] - steps).abs()
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    index = (first[..., None] + steps).clamp(0, size - 1).to(torch.int64)
    matrix = torch.zeros(*position.shape, size, device=enlarged.device)
    return matrix.scatter_add(2, index, torch.where(distance <= 1, near, far))
