"""Sampling: which of the matched anchors or proposals a training step uses."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sample_balanced"]


def sample_balanced(positive: Tensor, negative: Tensor, num: int, fraction: float, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Draw ``num`` candidates without replacement: at most ``fraction`` of them positive, the rest negative.

    Fast R-CNN (Girshick, 2015), section 2.3. The result has a fixed length and no step looks at a value on the host, so nothing
    waits for a GPU.

    Args:
        positive, negative: (A,) bool, which candidates may be drawn as which.
        num: how many to draw; ``int(num * fraction)`` places are for positives, free ones go to negatives.
        chance: (A,) uniform random numbers in 0..1: those with the largest are drawn.

    Returns:
        ``indices`` (min(num, A),) int64 into the candidates, the positives first, and ``valid`` of the same length: False where
        there were not enough candidates. Valid entries stand before invalid ones.

    >>> positive = torch.tensor([False, True, False, True, False])
    >>> indices, valid = sample_balanced(positive, ~positive, 4, 0.25, torch.tensor([0.1, 0.5, 0.2, 0.6, 0.3]))
    >>> indices.tolist(), valid.tolist()
    ([3, 4, 2, 0], [True, True, True, True])
    """
    length = positive.shape[0]
    top, chosen = torch.where(positive, 2 + chance, -1.0).topk(min(int(num * fraction), length))
    taken = torch.zeros_like(chance).scatter(0, chosen, (top > 0).to(chance.dtype))
    key = torch.where(taken > 0, 2 + chance, torch.where(negative, chance, -1.0))
    top, indices = key.topk(min(num, length))
    return indices, top >= 0
