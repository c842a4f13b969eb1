"""Losses: focal, smooth L1, and the mean over all training processes.

Losses are sums divided by explicit counts, so that a batch spread over processes gives the gradient of one process with the whole
batch.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

__all__ = ["focal", "global_mean", "smooth_l1"]


def global_mean(total: Tensor, count: Tensor | float) -> Tensor:
    """``total / count``, where ``count`` is the mean over all training processes.

    The gradients of processes are averaged. With each process's sum divided by the mean count, that average is the
    gradient of the sum over all divided by the count over all: the loss of one process with the whole batch. A count of 0 over all
    is taken as 1, so that a batch without anything to count gives 0.

    >>> global_mean(torch.tensor(6.0), torch.tensor(4)).item(), global_mean(torch.tensor(0.0), 0).item()
    (1.5, 0.0)
    """
    if isinstance(count, Tensor):
        count = count.detach().to(total.device, torch.float32)
    else:
        count = torch.full((), float(count), device=total.device)  # filled on the device: nothing is copied to it
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
