"""Training on several processes: how a model is wrapped, so that its gradients are averaged over them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from boxwood.distributed import world_size

__all__ = ["parallelize", "without_exchange"]


def parallelize(model: nn.Module, device: torch.device) -> nn.Module:
    """The module whose ``forward`` training calls: ``model`` itself for one process, else `DistributedDataParallel` around it.

    All processes must call it, with equal weights. The backward pass then averages gradients over processes.
    """
    if world_size() == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def without_exchange(network: nn.Module) -> AbstractContextManager[None]:
    """Inside, backward passes add up gradients in this process alone; the next one outside exchanges their sum."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
