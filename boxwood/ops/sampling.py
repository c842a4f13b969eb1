"""Sampling: which of the matched anchors or proposals a training step uses."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sample_balanced", "uniform"]


def sample_balanced(positive: Tensor, negative: Tensor, num: int, fraction: float, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Draw ``num`` candidates without replacement: at most ``fraction`` of them positive, the rest negative.

    Fast R-CNN (Girshick, 2015), section 2.3. The result has a fixed length and no step looks at a value on the host, so nothing
    waits for a GPU.

    Args:
        positive, negative: (..., A) bool, which candidates may be drawn as which.
        num: how many to draw; ``int(num * fraction)`` places are for positives, free ones go to negatives.
        chance: (..., A) uniform random numbers in 0..1: those with the largest are drawn.

    Returns:
        ``indices`` (..., min(num, A)) int64 into the candidates, the positives first, and ``valid`` of the same shape: False where
        there were not enough candidates. Valid entries stand before invalid ones.

    >>> positive = torch.tensor([False, True, False, True, False])
    >>> indices, valid = sample_balanced(positive, ~positive, 4, 0.25, torch.tensor([0.1, 0.5, 0.2, 0.6, 0.3]))
    >>> indices.tolist(), valid.tolist()
    ([3, 4, 2, 0], [True, True, True, True])
    """
    length = positive.shape[-1]
    top, positives = torch.where(positive, 2 + chance, -1.0).topk(min(int(num * fraction), length))
    taken = torch.zeros_like(chance).scatter(-1, positives, (top > 0).to(chance.dtype))
    key = torch.where(taken > 0, 2 + chance, torch.where(negative, chance, -1.0))
    top, indices = key.topk(min(num, length))
    return indices, top >= 0


def uniform(seeds: Tensor, count: int, device: torch.device) -> Tensor:
    """Uniform random numbers in 0..1 that each image's seed decides alone: ``seeds`` (B,) int64 on the CPU -> (B, ``count``)
    float32 on ``device``.

    >>> both, second = uniform(torch.tensor([1, 2]), 3, torch.device("cpu")), uniform(torch.tensor([2]), 3, torch.device("cpu"))
    >>> bool((both[1] == second[0]).all())
    True
    """
    numbers: Tensor = _uniform(seeds, count, device)
    return numbers


@torch.library.custom_op("boxwood::uniform", mutates_args=())
def _uniform(seeds: Tensor, count: int, device: torch.device) -> Tensor:
    generators = (torch.Generator(device).manual_seed(seed) for seed in seeds.tolist())
    return torch.stack([torch.rand(count, device=device, generator=generator) for generator in generators])


@_uniform.register_fake
def _(seeds: Tensor, count: int, device: torch.device) -> Tensor:
    return torch.empty(len(seeds), count, device=device)
