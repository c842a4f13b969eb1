"""Balanced sampling: a fixed number of candidates to learn from, with a share of positives."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sample_balanced"]


def sample_balanced(positive: Tensor, negative: Tensor, num: int, fraction: float, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Draw ``num`` candidates without replacement: at most ``fraction`` of them positive, the rest negative.

    Fast R-CNN (Girshick, 2015), section 2.3. The result has a fixed length and no step looks at a value on the host, so nothing waits for a GPU.

    Args:
        positive, negative: (A,) bool, which candidates may be drawn as which.
        num: how many to draw; ``int(num * fraction)`` places are for positives, free ones go to negatives.
        generator: decides the draw; on the device of ``positive``.

    Returns:
        ``indices`` (min(num, A),) int64 into the candidates, the positives first, and ``valid`` of the same length: False where there were
        not enough candidates. Valid entries stand before invalid ones.

    >>> positive = torch.tensor([False, True, False, True, False])
    >>> indices, valid = sample_balanced(positive, ~positive, 4, 0.25, torch.Generator().manual_seed(0))
    >>> positive[indices].tolist(), valid.tolist()
    ([True, False, False, False], [True, True, True, True])
    """
    device = positive.device
    length = positive.shape[0]
    chance = torch.rand(length, device=device, generator=generator)
    most_positives = min(int(num * fraction), length)
    key = torch.where(positive, 2 + chance, -1.0)
    top, chosen = key.topk(most_positives)
    taken = torch.zeros(length, device=device).scatter(0, chosen, (top > 0).float())
    key = torch.where(taken > 0, 2 + chance, torch.where(negative, chance, -1.0))
    top, indices = key.topk(min(num, length))
    return indices, top >= 0
