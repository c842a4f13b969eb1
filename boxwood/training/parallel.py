"""Training on several processes: how a model is wrapped or sharded, and how its tensors become whole again.

parallelize        ddp: each process holds the whole model; fsdp: each holds a part of every tensor
without_exchange   several backward passes, one exchange of gradients
whole_weights      a time in which the network runs without messages between the processes
whole_state        a state dict of whole tensors, from one of parts
restore_optimizer  the way back
local_parts        what this process holds
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from boxwood.distributed import world_size

__all__ = [
    "local_parts",
    "parallelize",
    "restore_optimizer",
    "shard",
    "whole",
    "whole_state",
    "whole_weights",
    "without_exchange",
]

LARGE = 1_000_000
"""Parameters of a block from which it is gathered by itself in `shard`; what is smaller is gathered with the rest of the model."""


def parallelize(
    model: nn.Module, device: torch.device, parallel: Literal["ddp", "fsdp"] = "ddp", *, sync_bn: bool = False
) -> nn.Module:
    """The module whose ``forward`` training calls: ``model`` itself for one process, else `DistributedDataParallel` around it, or
    ``model`` after `shard`.

    All processes must call it, with equal weights. The backward pass then averages gradients over processes. With ``sync_bn`` the
    batch norms of ``model`` become `torch.nn.SyncBatchNorm`; names in the state dict stay.
    """
    if world_size() == 1:
        return model
    if sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # torch has no types for it
    if parallel == "fsdp":
        shard(model, device)
        return model
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def shard(model: nn.Module, device: torch.device) -> None:
    """Split every parameter of ``model`` over the processes, in place (FSDP2, `torch.distributed.fsdp.fully_shard`).

    A process then holds a part of each weight, gradient and state of the optimizer. The large blocks of the model (elements of a
    sequence or list of modules) are gathered one by one as they run, forward and backward; the rest is whole during the step.
    """
    model.to(memory_format=torch.contiguous_format)  # fully_shard takes no other
    mesh = init_device_mesh(device.type, (world_size(),))
    for block in _large_blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "losses")  # they may use weights too
    # Torch warns of outputs that are views: its hooks on them may be lost. The losses are no views, and have the same hooks.
    warnings.filterwarnings("ignore", rf"FSDP2-wrapped module \({type(model).__name__}\) returned a view", UserWarning)


def _large_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost blocks of at least `LARGE` parameters."""
    for child in module.children():
        is_block = isinstance(module, nn.Sequential | nn.ModuleList) and next(child.children(), None) is not None
        if is_block and sum(parameter.numel() for parameter in child.parameters()) >= LARGE:
            yield child
        else:
            yield from _large_blocks(child)


def without_exchange(network: nn.Module) -> AbstractContextManager[None]:
    """Inside, backward passes add up gradients in this process alone; the next one outside exchanges their sum.

    Sharded gradients are exchanged by every backward pass, since whole ones would need the memory that sharding saves.
    """
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Inside, every process holds the whole weights, so each may run the network as often as it has images. All must enter it."""
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()
            module.set_reshard_after_forward(module is not model, recurse=False)


def whole_state(state: Any) -> Any:
    """``state``, a state dict of a model or an optimizer, with whole tensors (on the CPU) in place of sharded ones.

    All processes must call it.
    """
    if isinstance(state, DTensor):
        return whole(state).cpu()
    if isinstance(state, dict):
        return {key: whole_state(value) for key, value in state.items()}
    if isinstance(state, list):
        return [whole_state(value) for value in state]
    return state


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor, on its device. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict of whole tensors; of what belongs to a sharded parameter each process takes its part.

    Which of torch's kernels the optimizer uses stays: the state may be that of whole parameters, and these be sharded.
    """
    pairs = zip(state["param_groups"], optimizer.param_groups, strict=True)
    groups = [{**saved, "fused": group["fused"]} if "fused" in group else saved for saved, group in pairs]
    optimizer.load_state_dict({**state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                if isinstance(parameter, DTensor):
                    value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
                # In memory as the parameter is: torch's fused kernels go through both in the same order.
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def local_parts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Of each tensor what this process holds, in the same memory: all of it where it is not sharded."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
