"""The device of a process, and the few things that are asked of `torch.distributed`. With one process each of these does nothing.

Processes are started by torchrun, which says in the environment how many there are. Tensors on the CPU and objects go through
gloo, tensors on a GPU through NCCL; so processes can agree on small things without waiting for their GPUs.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from boxwood.errors import UserError

__all__ = [
    "any_process",
    "barrier",
    "choose_device",
    "gather_objects",
    "on_rank_zero",
    "process_group",
    "rank",
    "rank_zero_reports",
    "world_size",
]

FIRST_SAYS_WITHIN = timedelta(seconds=5)
"""How long another process waits to hear from rank 0 before it tells its own error."""


def choose_device(name: str, key: str = "train.device") -> torch.device:
    """The device that a person names; ``auto`` is the GPU of this process where there is one, else the CPU.

    Raises `UserError` where the device is unknown or not there; it says that ``key`` is what is to be changed.
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
            found = f"only {count} GPUs were" if count else "no GPU was"
            raise UserError(f"{key}={name}: {found} found; choose {key}=cpu or another")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise UserError(f"{key}=mps: this machine has none; choose {key}=cpu")
    elif device.type != "cpu":
        raise UserError(f"{key}={name}: Boxwood runs on cpu, cuda and mps")
    return device


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun has started for as long as the context lasts; only rank 0 logs what is below a warning.

    After an error the group is left without a word to the others: they notice the broken connection, and torchrun ends them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _joined():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    logger = logging.getLogger("boxwood")
    level = logger.level
    if dist.get_rank() > 0:
        logger.setLevel(logging.WARNING)
    try:
        yield
        barrier()
        _leave()
    except KeyboardInterrupt:
        _leave()
        raise
    finally:
        logger.setLevel(level)


def _leave() -> None:
    """Leave the group, and free it now: gloo's threads end the process with an abort where it is garbage until Python ends."""
    dist.destroy_process_group()
    gc.collect()


def rank() -> int:
    """This process's number, 0 for the one that writes the files."""
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    """How many processes work together."""
    return dist.get_world_size() if _joined() else 1


def barrier() -> None:
    """Wait until every process is here."""
    any_process(False)


def any_process(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is set on any process. All processes must ask; costs one message, and no GPU is waited for."""
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
    """Let rank 0 write something while the others wait. Its `UserError`, or the system's, is raised on all as a `UserError`."""
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


def rank_zero_reports(problem: str) -> bool:
    """Whether rank 0 tells the user the same problem, so that this process need not; on rank 0: leave word for the others.

    For errors that end all processes: nobody has to be in the process group, nor to answer. torchrun's own process passes the word
    on; where something else has started the processes, the answer is no.
    """
    number = int(os.environ.get("RANK", "0"))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    key = f"boxwood/problem/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(host, port, timeout=FIRST_SAYS_WITHIN, wait_for_workers=False)  # type: ignore[attr-defined]  # unlisted
        if number == 0:
            store.set(key, problem)
            return False
        return bool(store.get(key) == problem.encode())
    except RuntimeError:  # torchrun is gone, or rank 0 has nothing to say
        return False


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
