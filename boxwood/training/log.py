"""What a run tells: ``metrics.jsonl`` for programs, lines or a progress bar for people, TensorBoard where asked for.

A line of ``metrics.jsonl`` is one JSON object:

    step               updates done
    split              "train": means since the last such line; "val": an evaluation after this step
    loss, loss_*       the sum, and each loss
    gradient_norm      before clipping (train)
    lr                 of the last update (train)
    images_per_second  over all processes, evaluation and saving left out (train)
    data_wait          the fraction of that time in which the loop waited for data, 0..1 (train)
    memory_mb          the peak so far: allocated on the GPU, else resident (train)
    bbox_AP, segm_AP   and the other numbers of COCO (val)

A number that is not finite is null. Only rank 0 has a `RunLog`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from boxwood.distributed import gather_objects
from boxwood.errors import UserError
from boxwood.files import write_text

__all__ = ["Meter", "RunLog"]

logger = logging.getLogger(__name__)


class RunLog:
    """Writes a run's numbers; a context manager.

    ``steps`` is the length of the run, ``start`` the step at which it begins: lines of later steps, and a torn last one, are
    what a run left that was killed after its last checkpoint, and are cut off, so that each step stands once. ``evaluated`` is
    the last step whose evaluation stays.
    """

    def __init__(self, out: Path, steps: int, start: int, evaluated: int, tensorboard: bool) -> None:
        self.path = out / "metrics.jsonl"
        self.steps = steps
        self._first = self._done = start
        self._begun = time.monotonic()
        self._writer = _tensorboard_writer(out / "tensorboard", start) if tensorboard else None
        self._bar = _ProgressBar(steps, start) if sys.stderr.isatty() else None
        self._failed = False
        if self.path.exists():
            _cut_off(self.path, start, evaluated)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._writer is not None:
            self._writer.close()

    def train(self, step: int, values: Mapping[str, float]) -> None:
        """The means since the last call, after ``step`` updates."""
        self._write(step, "train", values)
        self._done = step
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
        """An evaluation of the weights after ``step`` updates."""
        self._write(step, "val", values)
        names = [name for name in values if name == "loss" or name.endswith(("_AP", "_AP50"))]
        logger.info("step %d/%d  val  %s", step, self.steps, "  ".join(f"{name} {values[name]:.4g}" for name in names))

    def eta(self, step: int) -> str:
        """Hours, minutes and seconds to the end, at the mean speed since the start, evaluations included."""
        seconds = (time.monotonic() - self._begun) / max(step - self._first, 1) * (self.steps - step)
        return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"

    def _write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "split": split, **finite}) + "\n")
        except OSError as error:  # a full disk must not end a training
            if not self._failed:
                logger.error("%s: cannot be written (%s); training goes on without it", self.path, error.strerror)
            self._failed = True
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{split}/{name}", value, step)


class Meter:
    """Sums losses on their device and measures time between two readings."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._updates = 0
        self._begin()

    def _begin(self) -> None:
        self._start, self._waited, self._paused, self._timed = time.perf_counter(), 0.0, 0.0, 0

    def add(self, values: Mapping[str, Tensor], weight: float) -> None:
        """Add values of the current update; nothing is brought to the host."""
        for name, value in values.items():
            term = value.detach().float() * weight
            self._sums[name] = self._sums[name] + term if name in self._sums else term

    def count(self) -> None:
        """An update is complete."""
        self._updates += 1
        self._timed += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in here is spent waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in here does not count."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def read(self, images: int, lr: float) -> dict[str, float]:
        """The means over all updates and processes since the last reading. ``images`` an update, ``lr`` of the last."""
        mine = {name: value.item() / max(self._updates, 1) for name, value in self._sums.items()}
        # After .item() the device has done its work, so the time is that of the work.
        seconds = max(time.perf_counter() - self._start - self._paused, 1e-9)
        parts = gather_objects((mine, self._waited / seconds))
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
        """The sums, for a run that goes on; the time is not kept."""
        return {"sums": {name: value.cpu() for name, value in self._sums.items()}, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = {name: value.to(self._device) for name, value in state["sums"].items()}
        self._updates = state["updates"]


class _ProgressBar:
    """A line at the bottom of a terminal: how far, how long still."""

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
        # Lines of the log are to appear above the bar, so they go through what rich puts in the place of stderr.
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
    """The peak of this process: allocated on the GPU, else resident in memory; megabytes of 10^6 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def _cut_off(path: Path, start: int, evaluated: int) -> None:
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            keep = entry["step"] <= (start if entry["split"] == "train" else evaluated)
        except (ValueError, KeyError, TypeError):
            continue  # torn by a kill
        if keep:
            lines.append(line + "\n")
    write_text(path, "".join(lines))


def _tensorboard_writer(directory: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("train.tensorboard=true: TensorBoard is not installed; run: pip install 'boxwood[tensorboard]'") from None
    return SummaryWriter(os.fspath(directory), purge_step=start + 1)
