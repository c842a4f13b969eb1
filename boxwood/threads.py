"""Work of threads beside the network: what is needed next is made ahead, what is done is written behind, all in order.

Decoders, encoders and the loops of numpy and PyTorch release Python's lock while they work, so threads are enough, and no picture
is copied between processes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["MAX_BYTES", "MAX_THREADS", "in_order", "num_processors", "num_threads", "worker_threads"]

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_THREADS = 8
"""A network on a GPU that takes 15 ms a picture is fed by so many, for pictures of 12 megapixels."""
MAX_BYTES = 2**28
"""Bytes of pictures that wait at one stage, or one picture if it has more: 7 of 12 megapixels."""


def num_processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_threads() -> int:
    """How many threads work beside the network: one for each processor that this process may use, at most `MAX_THREADS`.

    The network keeps the threads of PyTorch (``OMP_NUM_THREADS``), with which its numbers vary in the last digits.
    """
    return min(num_processors(), MAX_THREADS)


@contextmanager
def worker_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of ``count`` threads. Where the block ends by an error too, it is left when the tasks that have begun are done; those
    that wait are dropped.

    An operator of PyTorch that one of the threads calls runs in this thread alone, since all of them are busy anyway.
    """
    import torch

    pool = ThreadPoolExecutor(count, "boxwood", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        # The number is one of each thread, but threads that begin later get that of the last call.
        torch.set_num_threads(torch.get_num_threads())


def in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    ahead: int,
    size: Callable[[Item], int] = lambda item: 0,
) -> Iterator[Result]:
    """``work(item)`` of each item, in the order of the items, computed by the threads of ``pool``.

    Items are taken by the caller's thread, up to ``ahead`` results before they are asked for, and fewer where the sizes of those
    that wait are over `MAX_BYTES` together. An error of ``work`` is raised where its result would be, one of ``items`` after the
    results of the items before.
    """
    waiting: deque[tuple[Future[Result], int]] = deque()
    remaining, held = iter(items), 0
    more = True
    failure: BaseException | None = None
    while True:
        while more and len(waiting) < ahead and (held <= MAX_BYTES or not waiting):
            try:
                item = next(remaining)
            except StopIteration:
                more = False
            except BaseException as error:  # KeyboardInterrupt too: what is done is not lost
                more, failure = False, error
            else:
                waiting.append((pool.submit(work, item), size(item)))
                held += waiting[-1][1]
                del item
        if not waiting:
            break
        future, freed = waiting.popleft()
        held -= freed
        yield future.result()
        del future  # which holds the result
    if failure is not None:
        raise failure
