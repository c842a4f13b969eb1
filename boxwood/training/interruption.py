"""Ctrl-C and SIGTERM: finish the step, save, leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from types import FrameType, TracebackType
from typing import Any, TypeVar

from boxwood.distributed import any_process

__all__ = ["Interrupted", "Interruption"]

T = TypeVar("T")


class Interrupted(Exception):
    """All processes have agreed to stop here."""


class Interruption:
    """While entered, SIGINT and SIGTERM only set ``requested``; a second SIGINT stops at once, by `KeyboardInterrupt`.

    A second SIGTERM changes nothing: torchrun may send one after it has passed on a Ctrl-C. Signals belong to the main thread;
    entered in another, this does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def check(self) -> None:
        """Raise `Interrupted` on all processes if any of them is asked to stop."""
        if any_process(self.requested)[0]:
            raise Interrupted

    def until(self, batches: Generator[T]) -> Iterator[T]:
        """The batches, until all processes have had theirs; raises `Interrupted` on all of them once any is asked to stop.

        The processes speak to each other before every batch, also those that have fewer, so that none waits for one that has left.
        """
        with closing(batches):
            while True:
                batch = next(batches, None)
                stop, more = any_process(self.requested, batch is not None)
                if stop:
                    raise Interrupted
                if batch is not None:
                    yield batch
                elif not more:
                    return
