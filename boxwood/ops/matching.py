"""Which instance each anchor or proposal is to learn, if any, and which of them a step learns from."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BACKGROUND", "BETWEEN", "match", "sample_balanced"]

BACKGROUND = -1
"""A candidate that overlaps every instance by less than the low threshold."""
BETWEEN = -2
"""A candidate that overlaps too much for background and too little for foreground: not used."""


def match(overlaps: Tensor, foreground: float, background: float, *, allow_low_quality: bool = False) -> Tensor:
    """The instance that each candidate is assigned to.

    Each candidate goes to the instance it overlaps most: with an overlap of at least ``foreground`` it is matched, below
    ``background`` it is `BACKGROUND`, else `BETWEEN`. With ``allow_low_quality`` the candidates that overlap an instance most
    among all (ties included) are matched too, whatever the overlap (Faster R-CNN, section 3.1.2, rule i); each of them keeps the
    instance that it overlaps most itself.

    Args:
        overlaps: (N, A) IoU of each instance with each candidate. N = 0 makes everything background.

    Returns:
        (A,) int64: the index of the instance, `BACKGROUND` or `BETWEEN`.

    Example: two instances, three candidates; the last is the first instance's best though it overlaps by 0.4 alone.

    >>> match(torch.tensor([[0.1, 0.2, 0.4], [0.8, 0.2, 0.0]]), 0.7, 0.3, allow_low_quality=True).tolist()
    [1, -1, 0]
    """
    if overlaps.shape[0] == 0:
        return torch.full(overlaps.shape[1:], BACKGROUND, dtype=torch.int64, device=overlaps.device)
    best, instance = overlaps.max(dim=0)
    matched = instance.masked_fill(best < foreground, BETWEEN).masked_fill(best < background, BACKGROUND)
    if allow_low_quality:
        best_of_instance = overlaps.amax(dim=1, keepdim=True)
        rescued = ((overlaps == best_of_instance) & (best_of_instance > 0)).any(dim=0)
        matched = torch.where(rescued, instance, matched)
    return matched


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
