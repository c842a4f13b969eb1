"""Training on several processes: how a model is wrapped, so that its gradients are averaged over them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from boxwood.distributed import world_size

__all__ = ["parallelize", "without_exchange"]


def parallelize(model: nn.Module, device: torch.device, *, sync_bn: bool = False) -> nn.Module:
    """The module whose ``forward`` training calls: ``model`` itself for one process, else `DistributedDataParallel` around it.

    All processes must call it, with equal weights. The backward pass then averages gradients over processes. With ``sync_bn`` the
    batch norms of ``model`` become `torch.nn.SyncBatchNorm`; names in the state dict stay.
    """
    if world_size() == 1:
        return model
    if sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # torch has no types for it
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def without_exchange(network: nn.Module) -> AbstractContextManager[None]:
    """Inside, backward passes add up gradients in this process alone; the next one outside exchanges their sum."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
