"""The device of a process, and a few operations of `torch.distributed`, which do nothing for one process.

Processes are started by torchrun, which sets their number in the environment. Tensors on the CPU and objects go through gloo,
tensors on a GPU through NCCL; so processes can exchange small messages without a device sync.
"""

from __future__ import annotations

import gc
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from boxwood.errors import UserError

__all__ = [
    "ProcessLost",
    "any_process",
    "barrier",
    "choose_device",
    "gather_objects",
    "on_rank_zero",
    "on_rank_zero_within",
    "process_group",
    "rank",
    "rank_zero_reports",
    "world_size",
]

LOST = re.compile(r"gloo|nccl|TCPStore|connection (closed|reset|refused)|broken pipe|timed out", re.IGNORECASE)
"""Words in the errors that torch raises, as ordinary RuntimeErrors, where the connection to another process is broken."""
REPORT_TIMEOUT = timedelta(seconds=5)
"""How long another process waits for the error of rank 0 before it prints its error."""


def choose_device(name: str, key: str = "train.device") -> torch.device:
    """The device called ``name``; ``auto`` is the GPU of this process where there is one, else the CPU.

    Raises `UserError` where the device is unknown or this machine has none; it names ``key``, the key to change.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{key}={name}: no such device; choose auto, cpu, cuda, cuda:1 or mps") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        device = torch.device("cuda", local if device.index is None else device.index)
        if device.index >= count:
            available = f"only {count} GPUs were" if count else "no GPU was"
            raise UserError(f"{key}={name}: {available} found; choose {key}=cpu or another")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise UserError(f"{key}=mps: this machine has none; choose {key}=cpu")
    elif device.type != "cpu":
        raise UserError(f"{key}={name}: Boxwood runs on cpu, cuda and mps")
    return device


class ProcessLost(RuntimeError):
    """Another process of the group has ended, or cannot be reached."""


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group of torchrun for the duration of the context; ranks above 0 log only warnings and errors.

    After an error the process leaves without a message to the others: their connections break, and torchrun ends them. Raises
    `ProcessLost` where that happens to this process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _joined():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    logger = logging.getLogger("boxwood")
    level = logger.level
    if os.environ.get("RANK", "0") != "0":
        logger.setLevel(logging.WARNING)
    try:
        # torchrun's store outlives the processes that it restarts, and has the addresses of killed ones: each start has its part.
        store, this_rank, processes = next(rendezvous("env://"))
        start = f"boxwood/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        store = dist.PrefixStore(start, store)  # type: ignore[attr-defined]  # unlisted
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=this_rank, world_size=processes)
        yield
        barrier()
        _leave()
    except KeyboardInterrupt:
        _leave()
        raise
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        this = os.environ.get("RANK", "0")
        raise ProcessLost(f"rank {this}: another process has ended or cannot be reached; see its message or torchrun's") from error
    finally:
        logger.setLevel(level)


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether torch raised this because another process has ended."""
    is_torch = type(error) is RuntimeError or isinstance(error, dist.DistError)
    return is_torch and LOST.search(str(error)) is not None


def _leave() -> None:
    """Leave the group and free it now: if it is freed when Python exits, gloo's threads abort the process."""
    dist.destroy_process_group()
    gc.collect()


def rank() -> int:
    """The number of this process; rank 0 writes the files."""
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if _joined() else 1


def barrier() -> None:
    """Wait until every process has called it."""
    any_process(False)


def any_process(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is set on any process. All processes must call it; one message, without a device sync."""
    if world_size() == 1:
        return flags
    values = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return tuple(bool(value) for value in values.tolist())


def gather_objects(value: Any) -> list[Any]:
    """The value of every process, by rank, on every process."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def on_rank_zero(work: Callable[[], None]) -> None:
    """Run ``work`` on rank 0 while the others wait. Its `UserError` or `OSError` is raised on all processes, as a `UserError`."""
    problem: str | None = None
    if rank() == 0:
        try:
            work()
        except UserError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{error.filename}: cannot be written ({error.strerror}); make room or name another directory"
    problem = gather_objects(problem)[0]
    if problem is not None:
        raise UserError(problem)


@contextmanager
def on_rank_zero_within(context: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Enter a context on rank 0 alone. A `UserError` on entering is raised on all processes."""
    with ExitStack() as stack:
        on_rank_zero(lambda: stack.enter_context(context()))
        yield


def rank_zero_reports(problem: str) -> bool:
    """Whether rank 0 reports the same problem, so that this process need not; on rank 0 it is announced to the others, and False.

    For errors that end all processes: it needs no process group, and no answer. The messages go through the store of torchrun's
    agent; where something else has started the processes, the result is False.
    """
    this_rank = int(os.environ.get("RANK", "0"))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    key = f"boxwood/problem/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(host, port, timeout=REPORT_TIMEOUT, wait_for_workers=False)  # type: ignore[attr-defined]  # unlisted
        if this_rank == 0:
            store.set(key, problem)
            return False
        return bool(store.get(key) == problem.encode())
    except RuntimeError:  # torchrun has ended, or rank 0 has no error
        return False


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
