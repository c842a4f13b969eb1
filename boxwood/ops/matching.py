"""Matching: the ground-truth instance that each anchor or proposal is assigned to."""

from __future__ import annotations

import torch
from torch import Tensor

from boxwood.ops.boxes import iou

__all__ = ["BACKGROUND", "IGNORED", "match", "match_boxes"]

BACKGROUND = -1
"""A candidate whose IoU with every instance is below the low threshold."""


IGNORED = -2
"""A candidate whose highest IoU is between the two thresholds: not used."""


PAIRS_AT_ONCE = 2**24
"""Pairs of an instance and a candidate whose IoU is in memory at once, about 20 bytes each."""


def match(overlaps: Tensor, foreground: float, background: float, *, allow_low_quality: bool = False) -> Tensor:
    """The instance that each candidate is assigned to.

    Each candidate is assigned to the instance with which its IoU is highest: with an IoU of at least ``foreground`` it is matched,
    below ``background`` it is `BACKGROUND`, else `IGNORED`. With ``allow_low_quality`` the candidates with an instance's highest
    IoU (ties included) are matched too, whatever that IoU (Faster R-CNN, section 3.1.2, rule i); each of them keeps the instance
    with which its own IoU is highest.

    Args:
        overlaps: (..., N, A) IoU of each instance with each candidate. N = 0 makes everything background.

    Returns:
        (..., A) int64: the index of the instance, `BACKGROUND` or `IGNORED`.

    Example: two instances, three candidates; the last is the first instance's best though their IoU is 0.4.

    >>> match(torch.tensor([[0.1, 0.2, 0.4], [0.8, 0.2, 0.0]]), 0.7, 0.3, allow_low_quality=True).tolist()
    [1, -1, 0]
    """
    if overlaps.shape[-2] == 0:
        return torch.full((*overlaps.shape[:-2], overlaps.shape[-1]), BACKGROUND, dtype=torch.int64, device=overlaps.device)
    best, instance = overlaps.max(dim=-2)
    matched = _by_threshold(best, instance, foreground, background)
    return torch.where(_is_best(overlaps, overlaps.amax(dim=-1)), instance, matched) if allow_low_quality else matched


def match_boxes(
    instances: Tensor,
    candidates: Tensor,
    foreground: float,
    background: float,
    *,
    allow_low_quality: bool = False,
    usable: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`match` for boxes, a chunk of candidates at a time, so that many instances and candidates need little memory.

    Args:
        instances: (B, N, 4) xyxy, N >= 1; rows of zeros stand for no instance.
        candidates: (A, 4) for all images, or (B, A, 4).
        usable: (B, A) bool: candidates whose IoU is taken as 0 elsewhere.

    Returns:
        ``matched`` (B, A) int64 as of `match`, and ``best`` (B, A), the highest IoU of each candidate.
    """
    count = candidates.shape[-2]
    size = max(1, PAIRS_AT_ONCE // (instances.shape[0] * instances.shape[1]))

    def overlaps(start: int) -> Tensor:
        part = iou(instances, candidates[..., start : start + size, :])
        return part if usable is None else part * usable[:, None, start : start + size]

    starts = range(0, count, size)
    parts = [overlaps(start) for start in starts] if len(starts) == 1 else None
    columns = [(part.max(dim=-2), part.amax(dim=-1)) for part in (parts or map(overlaps, starts))]
    best = torch.cat([values for (values, _), _ in columns], dim=-1)
    instance = torch.cat([indices for (_, indices), _ in columns], dim=-1)
    matched = _by_threshold(best, instance, foreground, background)
    if allow_low_quality:
        best_of_instance = torch.stack([values for _, values in columns]).amax(dim=0)
        is_best = torch.cat([_is_best(part, best_of_instance) for part in (parts or map(overlaps, starts))], dim=-1)
        matched = torch.where(is_best, instance, matched)
    return matched, best


def _by_threshold(best: Tensor, instance: Tensor, foreground: float, background: float) -> Tensor:
    return instance.masked_fill(best < foreground, IGNORED).masked_fill(best < background, BACKGROUND)


def _is_best(overlaps: Tensor, best_of_instance: Tensor) -> Tensor:
    """Candidates with an instance's highest IoU: (..., N, A), (..., N) -> (..., A) bool."""
    highest = best_of_instance[..., None]
    return ((overlaps == highest) & (highest > 0)).any(dim=-2)
