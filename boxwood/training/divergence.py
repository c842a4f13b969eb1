"""A loss or a gradient that is not finite: detected before it changes the weights, and reported with the images that caused it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwood.distributed import any_process, gather_objects
from boxwood.structures import Batch

__all__ = ["DivergenceWatch", "TrainingDiverged"]

MAX_BOXES = 20
MAX_IMAGES = 4
WHOLE_NUMBERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Types by their bytes."""


class TrainingDiverged(RuntimeError):
    """A loss or the gradient became infinite or NaN. The weights on disk are those before.

    The message names the step, the losses and the images; ``details`` has the boxes and all losses of each of them.
    """

    def __init__(self, message: str, details: str) -> None:
        super().__init__(message)
        self.details = details


@dataclass(slots=True)
class _MicroBatch:
    """The data of a micro-batch for the report; references to tensors, so that nothing waits for the device."""

    step: int
    image_ids: tuple[int, ...]
    file_names: tuple[str, ...]
    boxes: list[Tensor]
    losses: dict[str, Tensor]


class DivergenceWatch:
    """Records the micro-batches since the last check, and, on the device, whether all losses and gradients were finite.

    On a GPU, reading a value is a device sync, so with ``deferred`` the loop calls `check` only before it logs, evaluates or saves.
    Until then `guard` zeroes, on the device, every gradient of an update that is not finite and of those after it: the weights stay
    finite, and nothing is written before a check. On a CPU the loop checks every update before it is made.
    """

    def __init__(self, device: torch.device, *, deferred: bool) -> None:
        self.deferred = deferred
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        self._batches: list[_MicroBatch] = []
        self._norms: dict[int, Tensor] = {}

    def see(self, step: int, batch: Batch, losses: Mapping[str, Tensor]) -> None:
        """Record a micro-batch and its losses."""
        detached = {name: loss.detach() for name, loss in losses.items()}
        boxes = [target.boxes for target in batch.targets or ()]
        self._batches.append(_MicroBatch(step, batch.image_ids, batch.file_names, boxes, detached))
        self.finite &= torch.isfinite(torch.stack(list(detached.values()))).all()

    def guard(self, step: int, gradient_norm: Tensor, gradients: list[Tensor], *, overflow_is_ordinary: bool) -> None:
        """Zero the gradients if anything was not finite. ``overflow_is_ordinary`` with fp16, whose scaler skips such updates."""
        if not overflow_is_ordinary:
            self._norms[step] = gradient_norm
            self.finite &= torch.isfinite(gradient_norm)
        if self.deferred:
            # All in one operator, as whole numbers: 0 times NaN is NaN.
            bits = [gradient.view(WHOLE_NUMBERS[gradient.element_size()]) for gradient in gradients]
            torch._foreach_mul_(bits, self.finite.to(torch.int16))

    def check(self) -> None:
        """Raise `TrainingDiverged` on all processes if anything on any of them was not finite; else clear the record."""
        is_finite = bool(self.finite)
        if any_process(not is_finite)[0]:
            reports = gather_objects(None if is_finite else self._describe())
            raise _error([report for report in reports if report is not None])
        self._batches.clear()
        self._norms.clear()

    def _describe(self) -> _Report:
        """What is not finite in this process's first such update."""
        for batch in self._batches:
            wrong = [name for name, loss in batch.losses.items() if not bool(torch.isfinite(loss).all())]
            if wrong:
                what = f"{', '.join(wrong)} not finite" if len(wrong) < len(batch.losses) else "no loss is finite"
                return _Report(batch.step, True, what, _images([batch]), _batch_lines(batch))
        step, norm = next((step, norm.item()) for step, norm in self._norms.items() if not torch.isfinite(norm))
        batches = [batch for batch in self._batches if batch.step == step]
        what = f"the losses are finite but the gradient is not (norm {norm})"
        return _Report(step, False, what, _images(batches), "\n".join(map(_batch_lines, batches)))


@dataclass(slots=True)
class _Report:
    """Of one process."""

    step: int
    has_loss: bool
    what: str
    images: list[str]
    details: str


def _error(reports: list[_Report]) -> TrainingDiverged:
    """From the processes whose loss is not finite; without any from all, which share the gradient."""
    reports = [report for report in reports if report.has_loss] or reports
    first = min(reports, key=lambda report: report.step)
    images = [image for report in reports for image in report.images]
    shown = ", ".join(images[:MAX_IMAGES]) + (f" and {len(images) - MAX_IMAGES} more" if len(images) > MAX_IMAGES else "")
    message = (
        f"training diverged at step {first.step}: {first.what}, with the images {shown}; look at them and their boxes, else lower "
        "optim.lr, lengthen optim.warmup_steps, or set optim.clip_norm"
    )
    return TrainingDiverged(message, "\n".join(f"step {report.step}: {report.what}\n{report.details}" for report in reports))


def _images(batches: list[_MicroBatch]) -> list[str]:
    return [f"{image_id} ({name})" for batch in batches for image_id, name in zip(batch.image_ids, batch.file_names, strict=False)]


def _batch_lines(batch: _MicroBatch) -> str:
    lines = ["  losses: " + ", ".join(f"{name} {loss.item():.6g}" for name, loss in batch.losses.items())]
    for image_id, file_name, boxes in zip(batch.image_ids, batch.file_names, batch.boxes, strict=False):
        shown = [[round(value, 2) for value in box] for box in boxes[:MAX_BOXES].tolist()]
        more = f" and {len(boxes) - MAX_BOXES} more" if len(boxes) > MAX_BOXES else ""
        lines.append(f"  image {image_id} ({file_name}): {len(boxes)} boxes xyxy {shown}{more}")
    return "\n".join(lines)
