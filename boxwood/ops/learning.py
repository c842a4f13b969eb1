"""What training computes: which instance each anchor or proposal learns, which of them a step learns from, what a mistake costs.

Losses are sums over explicit counts, so that a batch spread over processes learns exactly as it would on one.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BACKGROUND", "BETWEEN", "focal", "global_mean", "match", "sample_balanced", "smooth_l1"]

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


def global_mean(total: Tensor, count: Tensor | float) -> Tensor:
    """``total / count``, where ``count`` is the mean over all training processes.

    The gradients of processes are averaged. With each process's sum divided by the mean count, that average is the
    gradient of the sum over all divided by the count over all: the loss of one process with the whole batch. A count of 0 over all
    is taken as 1, so that a batch without anything to count gives 0.

    >>> global_mean(torch.tensor(6.0), torch.tensor(4)).item(), global_mean(torch.tensor(0.0), 0).item()
    (1.5, 0.0)
    """
    count = torch.as_tensor(count, dtype=torch.float32, device=total.device).detach()
    processes = 1
    if dist.is_available() and dist.is_initialized() and torch.is_grad_enabled():
        processes = dist.get_world_size()
        count = count.clone()
        dist.all_reduce(count)
    return total / (count.clamp(min=1.0) / processes)


def smooth_l1(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """0.5 x^2 / beta where |x| < beta, else |x| - 0.5 beta, elementwise (Fast R-CNN, equation 3, where beta is 1); beta 0 is |x|.

    >>> smooth_l1(torch.tensor([0.5, 3.0]), torch.zeros(2), beta=1.0).tolist()
    [0.125, 2.5]
    """
    if beta == 0:
        return F.l1_loss(prediction, target, reduction="none")
    return F.smooth_l1_loss(prediction, target, beta=beta, reduction="none")


def focal(logits: Tensor, positive: Tensor, alpha: float, gamma: float) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log p_t, elementwise (Lin et al., Focal Loss, 2017, equation 5).

    ``logits`` before the sigmoid, ``positive`` bool of the same shape: p_t is the probability of what is true, and alpha_t is
    ``alpha`` for positives, 1 - ``alpha`` for negatives.

    >>> focal(torch.tensor([0.0, 0.0]), torch.tensor([True, False]), alpha=0.25, gamma=2.0)  # 0.25 * 0.5^2 * ln 2, and 0.75 * ...
    tensor([0.0433, 0.1300])
    """
    of_wrong = torch.where(positive, -logits, logits)
    weight = torch.where(positive, alpha, 1 - alpha)
    return weight * of_wrong.sigmoid() ** gamma * F.softplus(of_wrong)
