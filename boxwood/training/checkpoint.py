"""Checkpoints: everything that a resumed run needs to give the same result as an uninterrupted one.

    checkpoints/step-00005000.pt     torch.save of the fields of `Checkpoint`; reading runs no code

Every random choice about data is seeded by its position in the run, so the number of steps determines the next batch. A checkpoint
also holds the state of each process: its random number generators (used by dropout and the like), and its sums since the last line
of the log.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from boxwood.errors import UserError
from boxwood.files import write_whole
from boxwood.weights.torch_file import read_torch_file

__all__ = [
    "Checkpoint",
    "delete_old_checkpoints",
    "newest_checkpoint",
    "preserved_random_state",
    "random_state",
    "save_checkpoint",
    "seed_process",
    "set_random_state",
]

logger = logging.getLogger(__name__)

VERSION = 2
READABLE = (1, 2)
"""Version 1 has no ``data``."""
NAME = re.compile(r"step-(\d{8,})\.pt")


@dataclass
class Checkpoint:
    """The state of a run after ``step`` updates. Plain values and tensors only."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    """Of the fp16 loss scale; empty with other precisions."""
    evaluated: int
    """The last step whose weights were evaluated; 0 before the first."""
    best: float | None
    """The highest primary metric so far."""
    metrics: str
    """The last evaluation's metrics as JSON; empty before the first."""
    config: str
    """The run's configuration as YAML."""
    classes: tuple[tuple[int, str], ...]
    """Id and name of each class, by label."""
    processes: list[dict[str, Any]]
    """The state of each process, by rank: ``random`` (`random_state`) and ``meter`` (`Meter.state_dict`)."""
    data: dict[str, dict[str, str]] = field(default_factory=dict)
    """The `fingerprint` of the data sets ``train`` and ``val``; empty in a checkpoint of an earlier version."""


def save_checkpoint(directory: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint atomically, then delete all but the newest ``keep``.

    Raises `UserError` where it cannot be written; the earlier checkpoints then stay.
    """
    path = directory / f"step-{checkpoint.step:08d}.pt"
    # dataclasses.asdict would copy every tensor.
    tree = {"version": VERSION, **{name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__}}
    write_whole(path, lambda temporary: _save(tree, temporary))
    delete_old_checkpoints(directory, keep)
    return path


def delete_old_checkpoints(directory: Path, keep: int) -> None:
    """Delete all checkpoints but the newest ``keep``."""
    for old in _by_age(directory)[keep:]:
        old.unlink(missing_ok=True)


def newest_checkpoint(directory: Path) -> Checkpoint | None:
    """The newest checkpoint that is not damaged; the log names newer ones that are. None where there is no checkpoint.

    Raises `UserError` where there are checkpoints but all are damaged.
    """
    paths = _by_age(directory)
    for path in paths:
        try:
            return _read(path)
        except _Damaged as problem:
            logger.warning("%s: %s; reading the checkpoint before it", path, problem)
    if paths:
        raise UserError(
            f"{directory}: all {len(paths)} checkpoints are damaged; start a new run with train.weights=last.safetensors"
        )
    return None


def random_state() -> dict[str, Any]:
    """The state of this process's random number generators: torch, CUDA, numpy, Python."""
    version, words, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=False)  # noqa: NPY002  (other libraries draw from it)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": {
            "key": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
            "pos": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
        "python": [version, list(words), gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    numpy = state["numpy"]
    key = numpy["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, numpy["pos"], numpy["has_gauss"], numpy["gauss"]))  # noqa: NPY002
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


def seed_process(seed: int, rank: int) -> None:
    """Seed the generators of this process; the state depends on ``seed`` and ``rank``."""
    words = np.random.SeedSequence([seed, rank]).generate_state(3)
    torch.manual_seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002  (other libraries draw from it)
    random.seed(int(words[2]))


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore the state of the generators on leaving."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def _save(tree: dict[str, Any], path: Path) -> None:
    try:
        torch.save(tree, path)
    except RuntimeError as error:  # torch's writer does not pass on the error of the operating system
        raise OSError(str(error).splitlines()[0]) from None


def _by_age(directory: Path) -> list[Path]:
    """The checkpoints, newest first."""
    steps = [(int(match[1]), path) for path in directory.glob("step-*.pt") if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(steps, reverse=True)]


class _Damaged(Exception):
    """Why a checkpoint cannot be used; the message follows its name."""


def _read(path: Path) -> Checkpoint:
    """Load a checkpoint, of which check sums are compared. Raises `_Damaged`."""
    try:
        tree = read_torch_file(path)
    except UserError as error:
        raise _Damaged(str(error).removeprefix(f"{path}: ")) from None
    version = tree.pop("version", None) if isinstance(tree, dict) else None
    if type(version) is int and version not in READABLE:
        raise UserError(
            f"{path}: has format version {version}, this Boxwood reads {VERSION}; resume with the Boxwood that wrote it"
        )
    try:
        return TypeAdapter(Checkpoint).validate_python(tree if version in READABLE else None)
    except ValidationError:
        raise _Damaged("is no checkpoint, or one with other fields") from None
