"""Loggers: where a run's numbers go besides ``metrics.jsonl`` and the terminal.

A logger of a user's is one class with ``write`` and ``close`` and one `LoggerConfig` that builds it, in any module::

    train.loggers: [{kind: my_work:CsvLoggerConfig}]
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from boxwood.config import Component
from boxwood.errors import UserError

__all__ = ["Logger", "LoggerConfig", "TensorBoardConfig"]


class Logger(Protocol):
    """What a run calls. Only rank 0 has loggers."""

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """The numbers of one line of ``metrics.jsonl``, after ``step`` updates; ``split`` is ``train`` or ``val``.

        A number may be infinite or NaN. An `OSError` (a full disk, a lost connection) is logged once and does not end the training.
        """

    def close(self) -> None:
        """The run ends, also after an error."""


class LoggerConfig(Component):
    """Base of every logger's configuration."""

    @abstractmethod
    def build(self, out: Path, start_step: int) -> Logger:
        """The logger of a run in the directory ``out`` that starts, or resumes, after ``start_step`` updates.

        What an earlier part of the run wrote of later steps will be written again. Raises `UserError` where a package is missing.
        """


class TensorBoardConfig(LoggerConfig):
    """TensorBoard's event files in ``tensorboard/`` of the run directory; needs ``pip install 'boxwood[tensorboard]'``."""

    short_kind: ClassVar[str] = "tensorboard"

    def build(self, out: Path, start_step: int) -> Logger:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("TensorBoard is not installed; run: pip install 'boxwood[tensorboard]', or log without it") from None
        return _TensorBoard(SummaryWriter(os.fspath(out / "tensorboard"), purge_step=start_step + 1))


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        self.writer.close()
