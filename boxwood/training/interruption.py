"""Ctrl-C, SIGTERM and SIGHUP: finish the step, save, stop."""

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
    """Raised on all processes at the same step, or at the same batch of an evaluation."""


class Interruption:
    """A context in which SIGINT, SIGTERM and SIGHUP (a closed terminal) set ``requested``; a second SIGINT raises
    `KeyboardInterrupt` at once.

    A second SIGTERM changes nothing: torchrun may send one after it has passed on a Ctrl-C. Under nohup, SIGHUP stays ignored.
    Python handles signals in the main thread alone; in another thread the context does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number is None or (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                    continue
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
        """Raise `Interrupted` on all processes if any of them has got a signal."""
        if any_process(self.requested)[0]:
            raise Interrupted

    def until(self, batches: Generator[T]) -> Iterator[T]:
        """The batches of this process; raises `Interrupted` on all processes once any of them has got a signal.

        The processes exchange a message before every batch, and until the last of them is done, so that none waits for another.
        """
        with closing(batches):
            while True:
                batch = next(batches, None)
                is_stopped, has_more = any_process(self.requested, batch is not None)
                if is_stopped:
                    raise Interrupted
                if batch is not None:
                    yield batch
                elif not has_more:
                    return
