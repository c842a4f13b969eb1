"""A loss or a gradient that is not finite: found before it reaches the weights, told with all that helps to find its cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwood.distributed import any_process, gather_objects
from boxwood.structures import Batch

__all__ = ["DivergenceWatch", "TrainingDiverged"]

MAX_BOXES = 20


class TrainingDiverged(RuntimeError):
    """A loss or the gradient became infinite or NaN. The weights on disk are from before."""


@dataclass(slots=True)
class _Seen:
    """What is needed to describe a batch later: little, and without waiting for the device."""

    step: int
    image_ids: tuple[int, ...]
    file_names: tuple[str, ...]
    boxes: list[Tensor]
    losses: dict[str, Tensor]


class DivergenceWatch:
    """Keeps the updates since the last check, and on the device whether all has been finite.

    On a GPU, looking at a value makes the host wait, so the loop calls `check` only when it logs, evaluates or saves. Until
    then `guard` turns every gradient of a bad update, and of those after it, into zeros on the device: weights stay finite, and
    nothing is written before a check. On a CPU looking is free, and the loop checks every update before it is made.
    """

    def __init__(self, device: torch.device, *, deferred: bool) -> None:
        self.deferred = deferred
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        self._seen: list[_Seen] = []
        self._norms: dict[int, Tensor] = {}

    def see(self, step: int, batch: Batch, losses: Mapping[str, Tensor]) -> None:
        """Note a micro-batch and its losses."""
        detached = {name: loss.detach() for name, loss in losses.items()}
        boxes = [target.boxes for target in batch.targets or ()]
        self._seen.append(_Seen(step, batch.image_ids, batch.file_names, boxes, detached))
        for loss in detached.values():
            self.finite &= torch.isfinite(loss).all()

    def guard(self, step: int, gradient_norm: Tensor, gradients: list[Tensor], *, overflow_is_ordinary: bool) -> None:
        """Zero the gradients where anything was not finite; ``overflow_is_ordinary``: with fp16, whose scaler copes."""
        if not overflow_is_ordinary:
            self._norms[step] = gradient_norm
            self.finite &= torch.isfinite(gradient_norm)
        if self.deferred:
            for gradient in gradients:
                gradient.masked_fill_(~self.finite, 0.0)

    def check(self) -> None:
        """Raise `TrainingDiverged` on all processes if anything on any of them was not finite; else forget what was seen."""
        mine = bool(self.finite)
        if any_process(not mine)[0]:
            raise TrainingDiverged(_join(gather_objects(None if mine else self._describe())))
        self._seen.clear()
        self._norms.clear()

    def _describe(self) -> tuple[bool, str]:
        """Whether a loss of this process is to blame, and the first bad update in words."""
        for seen in self._seen:
            if not all(bool(torch.isfinite(loss).all()) for loss in seen.losses.values()):
                return True, f"the loss is not finite at step {seen.step}\n{_batch_lines(seen)}"
        step, norm = next((step, norm.item()) for step, norm in self._norms.items() if not torch.isfinite(norm))
        lines = [_batch_lines(seen) for seen in self._seen if seen.step == step]
        return False, "\n".join([f"the losses are finite but the gradient is not (norm {norm}) at step {step}", *lines])


def _join(parts: list[tuple[bool, str] | None]) -> str:
    """The guilty processes' descriptions; the gradient is everybody's, so without a guilty loss those of all."""
    told = [part for part in parts if part is not None]
    guilty = [text for blame, text in told if blame] or [text for _, text in told]
    advice = "look at these images and boxes; else lower optim.lr, lengthen optim.warmup_steps, or set optim.clip_norm"
    return "training diverged: " + "\n".join(guilty) + f"\n{advice}"


def _batch_lines(seen: _Seen) -> str:
    lines = ["  losses: " + ", ".join(f"{name} {loss.item():.6g}" for name, loss in seen.losses.items())]
    for image_id, file_name, boxes in zip(seen.image_ids, seen.file_names, seen.boxes, strict=False):
        shown = [[round(value, 2) for value in box] for box in boxes[:MAX_BOXES].tolist()]
        more = f" and {len(boxes) - MAX_BOXES} more" if len(boxes) > MAX_BOXES else ""
        lines.append(f"  image {image_id} ({file_name}): {len(boxes)} boxes xyxy {shown}{more}")
    return "\n".join(lines)
