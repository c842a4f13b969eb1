"""Non-maximum suppression, with results of a fixed length."""

from __future__ import annotations

import torch
import torchvision.ops
from torch import Tensor

__all__ = ["nms_mask"]


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
    kept = torch.zeros(boxes.shape[0], dtype=torch.bool, device=boxes.device)
    if valid is None:
        valid = torch.ones_like(kept)
    boxes, scores = boxes.float(), scores.float()
    if groups is None:
        members = valid.nonzero()[:, 0]
        return kept.index_fill(0, members[torchvision.ops.nms(boxes[members], scores[members], threshold)], True)
    if boxes.device.type == "cpu":
        # One group after another: the work grows with the square of the boxes that are compared.
        order = groups[valid].unique().tolist()
        for group in order:
            kept |= nms_mask(boxes, scores, None, threshold, valid & (groups == group))
        return kept
    members = valid.nonzero()[:, 0]
    chosen = torchvision.ops.batched_nms(boxes[members], scores[members], groups[members], threshold)
    return kept.index_fill(0, members[chosen], True)
