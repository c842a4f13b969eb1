"""Keypoints inside boxes: the cell of a heatmap that each is to light up, and the place that a heatmap points at.

Letters: R boxes, K keypoints of each, S cells a side of a heatmap.
"""

from __future__ import annotations

import torch
from torch import Tensor

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


def decode_keypoints(logits: Tensor, boxes: Tensor) -> Tensor:
    """Where each heatmap, enlarged to its box's whole pixels by bicubic interpolation, is highest.

    ``logits`` (R, K, S, S), ``boxes`` (R, 4) xyxy -> (R, K, 3): x, y in the frame of the boxes, and the height of the peak, a
    logit. The enlarged map of one box at a time is in memory.
    """
    points = logits.new_zeros(*logits.shape[:2], 3)
    extents = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    sides = extents.ceil().to(torch.int64).tolist()
    for row, (width, height) in enumerate(sides):
        columns = bicubic_weights(logits.shape[3], width).to(logits)
        rows = bicubic_weights(logits.shape[2], height).to(logits)
        peaks, places = (rows @ logits[row] @ columns.mT).flatten(1).max(dim=1)
        cells = torch.stack([places % width, places // width], dim=1) + 0.5
        points[row, :, :2] = boxes[row, :2] + cells * extents[row] / torch.tensor([width, height], device=boxes.device)
        points[row, :, 2] = peaks
    return points


def keypoint_similarity(points: Tensor, others: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """Object keypoint similarity of every pair, 0..1, all keypoints counted: the mean of exp(-d^2 / (2 area (2 sigma)^2)), as COCO
    defines it.

    ``points`` (N, K, 2) x, y, ``others`` (M, K, 2), ``areas`` (N,) square pixels of the boxes of ``points``, ``sigmas`` (K,) -> (N,
    M).

    >>> points, others = torch.zeros(1, 2, 2), torch.tensor([[[0.0, 0], [3, 4]]])
    >>> keypoint_similarity(points, others, torch.tensor([50.0]), torch.tensor([0.25, 0.5]))  # (1 + 1/e^0.25) / 2
    tensor([[0.8894]])
    """
    squared = ((points[:, None] - others[None]) ** 2).sum(dim=-1)
    return torch.exp(-squared / (2 * areas[:, None, None] * (2 * sigmas) ** 2)).mean(dim=-1)


def bicubic_weights(size: int, enlarged: int) -> Tensor:
    """The (enlarged, size) matrix that interpolates a row of values: cubic convolution with a = -0.75 (Keys, 1981, equation 4), the
    outermost values repeated beyond the border, pixel centres at i + 0.5."""
    a = -0.75
    position = (torch.arange(enlarged, dtype=torch.float32) + 0.5) * (size / enlarged) - 0.5
    first = position.floor()
    matrix = torch.zeros(enlarged, size)
    for step in range(-1, 3):
        distance = (position - first - step).abs()
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = a * (((distance - 5) * distance + 8) * distance - 4)
        index = (first.to(torch.int64) + step).clamp(0, size - 1)
        matrix.scatter_add_(1, index[:, None], torch.where(distance <= 1, near, far)[:, None])
    return matrix
