"""The log of a run: ``metrics.jsonl`` for programs, lines or a progress bar on the terminal, and the loggers of `boxwood.loggers`.

A line of ``metrics.jsonl`` is one JSON object:

    step               updates done
    split              "train": means over the updates since the last such line; "val": an evaluation after this step
    loss, loss_*       the sum of the losses, and each of them
    gradient_norm      before clipping (train)
    lr                 of the last update (train)
    images_per_second  over all processes, without the time of evaluation and saving (train)
    data_wait          the fraction of that time in which the loop waited for data, 0..1 (train)
    memory_mb          the peak so far: allocated on the GPU, else resident (train)
    bbox_AP, segm_AP   and the other numbers of the evaluator (val)

A number that is not finite is null. Only rank 0 has a `RunLog`.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from boxwood.distributed import gather_objects, on_rank_zero
from boxwood.files import write_text
from boxwood.loggers import Logger, TensorBoardConfig
from boxwood.run_config import RunConfig

__all__ = ["Meter", "RunLog", "open_log"]

logger = logging.getLogger(__name__)


class RunLog:
    """Writes a run's numbers to ``metrics.jsonl`` in ``out``, to the terminal, and to ``loggers``; a context manager, which closes
    the loggers.

    ``steps`` is the length of the run, ``start`` the number of updates after which it starts or resumes. A run that was killed
    after its last checkpoint leaves lines of later steps, and maybe an incomplete last line; they are removed, so that each step
    occurs once. ``evaluated`` is the last step whose evaluation is kept.
    """

    def __init__(self, out: Path, steps: int, start: int, evaluated: int, loggers: Sequence[Logger] = ()) -> None:
        self.steps = steps
        self._start = start
        self._start_time = time.monotonic()
        self._loggers = (_MetricsFile(out / "metrics.jsonl", start, evaluated), *loggers)
        self._failed: set[int] = set()
        self._bar = _ProgressBar(steps, start) if sys.stderr.isatty() else None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        for target in self._loggers:
            with self._disk_errors_logged(target):
                target.close()

    def train(self, step: int, values: Mapping[str, float]) -> None:
        """The means since the last call, after ``step`` updates."""
        self._write(step, "train", values)
        if self._bar is None:
            losses = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name.startswith("loss"))
            speed = f"lr {values['lr']:.3g}  {values['images_per_second']:.3g} images/s  waiting {values['data_wait']:.0%}"
            logger.info("step %d/%d  %s  %s  eta %s", step, self.steps, losses, speed, self.eta(step))
        else:
            self._bar.show(step, f"loss {values['loss']:.4g}  lr {values['lr']:.2g}")

    def tick(self, step: int) -> None:
        """An update is done; moves the progress bar."""
        if self._bar is not None:
            self._bar.show(step)

    def val(self, step: int, values: Mapping[str, float]) -> None:
        """An evaluation of the weights after ``step`` updates: the losses, then the numbers of the evaluator."""
        self._write(step, "val", values)
        numbers = [name for name in values if name != "loss" and not name.startswith("loss_")]
        shown = [name for name in numbers if name.endswith(("_AP", "_AP50"))] or numbers
        logger.info("step %d/%d  val  %s", step, self.steps, "  ".join(f"{name} {values[name]:.4g}" for name in ["loss", *shown]))

    def eta(self, step: int) -> str:
        """Hours, minutes and seconds to the end, at the mean speed since the start, evaluations included."""
        seconds = (time.monotonic() - self._start_time) / max(step - self._start, 1) * (self.steps - step)
        return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"

    def _write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        for target in self._loggers:
            with self._disk_errors_logged(target):
                target.write(step, split, values)

    @contextmanager
    def _disk_errors_logged(self, target: Logger) -> Iterator[None]:
        """A full disk or a lost connection must not end a training; it is logged once for each logger."""
        try:
            yield
        except OSError as error:
            if id(target) not in self._failed:
                name = target.path if isinstance(target, _MetricsFile) else type(target).__name__
                logger.error("%s: cannot be written (%s); training continues without it", name, error.strerror or error)
            self._failed.add(id(target))


def open_log(config: RunConfig, out: Path, start: int, evaluated: int) -> RunLog | None:
    """The log of a run with the loggers of its configuration, on rank 0; None on the other processes.

    All processes must call it. Raises `UserError` on all of them where a logger cannot be built.
    """
    logs: list[RunLog] = []

    def open_on_rank_zero() -> None:
        configs = list(config.train.loggers)
        if config.train.tensorboard and not any(isinstance(one, TensorBoardConfig) for one in configs):
            configs.append(TensorBoardConfig())
        logs.append(RunLog(out, config.train.steps, start, evaluated, [one.build(out, start) for one in configs]))

    on_rank_zero(open_on_rank_zero)
    return logs[0] if logs else None


class _MetricsFile:
    """``metrics.jsonl``; removes the lines of steps after ``start``, and of evaluations after ``evaluated``, when it is opened."""

    def __init__(self, path: Path, start: int, evaluated: int) -> None:
        self.path = path
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_text(path, "".join(f"{line}\n" for line in lines if _is_before(line, start, evaluated)))

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = (json.dumps({"step": step, "split": split, **finite}) + "\n").encode()
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(line) < len(line):  # on a full disk; the next line must not be appended to half of this one
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Every line is written at once, so nothing is left to do."""


def _is_before(line: str, start: int, evaluated: int) -> bool:
    """Whether a line is complete, and of a step up to ``start``, or of an evaluation up to ``evaluated``."""
    try:
        entry = json.loads(line)
        return bool(entry["step"] <= (start if entry["split"] == "train" else evaluated))
    except (ValueError, KeyError, TypeError):
        return False


class Meter:
    """Sums losses on their device, and measures the time between two readings."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._updates = 0
        self._begin()

    def _begin(self) -> None:
        self._start, self._waited, self._paused, self._timed = time.perf_counter(), 0.0, 0.0, 0

    def add(self, values: Mapping[str, Tensor], weight: float) -> None:
        """Add values of the current update; they stay on their device."""
        terms = [value.detach().float() for value in values.values()]
        for name, term in zip(values, terms, strict=True):
            if name not in self._sums:
                self._sums[name] = torch.zeros_like(term)
        sums = [self._sums[name] for name in values]
        self._sums |= zip(values, torch._foreach_add(sums, terms, alpha=weight), strict=True)

    def count(self) -> None:
        """An update is complete."""
        self._updates += 1
        self._timed += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside is counted as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside is not counted."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def read(self, images: int, lr: float) -> dict[str, float]:
        """The means over all updates and processes since the last reading; ``images`` is the number of an update, ``lr`` the
        learning rate of the last one."""
        means = {name: value.item() / max(self._updates, 1) for name, value in self._sums.items()}
        # .item() waits for the device, so the measured time includes all of its work.
        seconds = max(time.perf_counter() - self._start - self._paused, 1e-9)
        parts = gather_objects((means, self._waited / seconds))
        names = list(dict.fromkeys(name for values, _ in parts for name in values))
        result = {name: sum(values.get(name, 0.0) for values, _ in parts) / len(parts) for name in names}
        result["lr"] = lr
        result["images_per_second"] = images * self._timed / seconds
        result["data_wait"] = sum(wait for _, wait in parts) / len(parts)
        result["memory_mb"] = _peak_memory_mb(self._device)
        self._sums, self._updates = {}, 0
        self._begin()
        return result

    def state_dict(self) -> dict[str, Any]:
        """The sums, for a resumed run; times are not saved."""
        return {"sums": {name: value.cpu() for name, value in self._sums.items()}, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = {name: value.to(self._device) for name, value in state["sums"].items()}
        self._updates = state["updates"]


class _ProgressBar:
    """A line at the bottom of a terminal: steps done and time left."""

    def __init__(self, steps: int, start: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=steps, completed=start)
        # rich replaces sys.stderr by a stream that prints above the bar; the handlers of the log must write to that stream.
        root = logging.getLogger()
        self._handlers = [h for h in root.handlers if isinstance(h, logging.StreamHandler) and h.stream is sys.stderr]
        self._progress.start()
        for handler in self._handlers:
            handler.setStream(sys.stderr)

    def show(self, step: int, text: str | None = None) -> None:
        self._progress.update(self._task, completed=step, description=text)

    def stop(self) -> None:
        self._progress.stop()
        for handler in self._handlers:
            handler.setStream(sys.stderr)


def _peak_memory_mb(device: torch.device) -> float:
    """The peak of this process in megabytes of 10^6 bytes: allocated on the GPU, else resident in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
