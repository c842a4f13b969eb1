"""Matching: the ground-truth instance that each anchor or proposal is assigned to."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BACKGROUND", "IGNORED", "match"]

BACKGROUND = -1
"""A candidate that overlaps every instance by less than the low threshold."""


IGNORED = -2
"""A candidate that overlaps too much for background and too little for foreground: not used."""


def match(overlaps: Tensor, foreground: float, background: float, *, allow_low_quality: bool = False) -> Tensor:
    """The instance that each candidate is assigned to.

    Each candidate goes to the instance it overlaps most: with an overlap of at least ``foreground`` it is matched, below
    ``background`` it is `BACKGROUND`, else `IGNORED`. With ``allow_low_quality`` the candidates that overlap an instance most
    among all (ties included) are matched too, whatever the overlap (Faster R-CNN, section 3.1.2, rule i); each of them keeps the
    instance that it overlaps most itself.

    Args:
        overlaps: (N, A) IoU of each instance with each candidate. N = 0 makes everything background.

    Returns:
        (A,) int64: the index of the instance, `BACKGROUND` or `IGNORED`.

    Example: two instances, three candidates; the last is the first instance's best though it overlaps by 0.4 alone.

    >>> match(torch.tensor([[0.1, 0.2, 0.4], [0.8, 0.2, 0.0]]), 0.7, 0.3, allow_low_quality=True).tolist()
    [1, -1, 0]
    """
    if overlaps.shape[0] == 0:
        return torch.full(overlaps.shape[1:], BACKGROUND, dtype=torch.int64, device=overlaps.device)
    best, instance = overlaps.max(dim=0)
    matched = instance.masked_fill(best < foreground, IGNORED).masked_fill(best < background, BACKGROUND)
    if allow_low_quality:
        best_of_instance = overlaps.amax(dim=1, keepdim=True)
        rescued = ((overlaps == best_of_instance) & (best_of_instance > 0)).any(dim=0)
        matched = torch.where(rescued, instance, matched)
    return matched
