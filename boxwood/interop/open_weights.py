"""Weights by any name: a run's directory, a weights file, a checkpoint or a model of the zoo, all opened by one function.

open_weights(source)    the state dict, the configuration and the classes
load_model(source)      the network with these weights, ready to be trained further
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from boxwood.config import from_yaml
from boxwood.errors import UserError
from boxwood.interop.zoo import is_published, read_published
from boxwood.models.detector import Detector
from boxwood.run_config import RunConfig
from boxwood.structures import Categories, KeypointFacts
from boxwood.weights.file import SavedWeights, read_weights, restore_model
from boxwood.weights.torch_file import read_torch_file

__all__ = ["OpenedWeights", "load_model", "open_weights", "weights_file"]

IN_A_RUN = ("best.safetensors", "last.safetensors")
"""The weights of a run's directory, in order of preference."""
FOREIGN = frozenset((".pth", ".ckpt", ".bin", ".pkl", ".caffemodel", ".onnx"))
"""Endings of weights files of other programs."""


@dataclass(frozen=True)
class OpenedWeights:
    """Weights, and the source they were read from."""

    saved: SavedWeights
    source: str
    """The file, or the name in the zoo."""
    initialised: tuple[str, ...] = ()
    """Randomly initialised tensors, which the file lacks: all outside the backbone for an ImageNet backbone."""


def open_weights(source: str | Path, config: RunConfig | None = None) -> OpenedWeights:
    """Read the weights that ``source`` names; tensors on the CPU.

    ``source`` is a run's directory (its ``best.safetensors``, else its ``last.safetensors``) or the ``config.yaml`` in it, a
    ``.safetensors`` file, a checkpoint (``checkpoints/step-00005000.pt``), or a name of the model zoo
    (``detectron/e2e_mask_rcnn_R-50-FPN_2x``), which is downloaded where it is not in the cache. A path that exists takes precedence
    over a name of the zoo. ``config`` is the network that an ImageNet backbone of the zoo (``detectron/imagenet/R-50``) is loaded
    into; other weights have their own configuration.

    Raises `UserError` where there are no such weights or they cannot be read.
    """
    path, name = Path(source), str(source)
    if is_published(name) and not path.exists():
        imported = read_published(name, config if "/imagenet/" in name else None)
        return OpenedWeights(imported.saved, name, tuple(imported.report.initialised))
    path = weights_file(path)
    return OpenedWeights(_read_checkpoint(path) if path.suffix == ".pt" else read_weights(path), str(path))


def load_model(source: str | Path) -> Detector:
    """A detector to train further: weights loaded, in train mode, on the CPU.

    ``source`` is as for `open_weights`. The model has ``categories``, ``losses(output, targets)`` and
    ``detections(output, batch)``; to predict on pictures, use `boxwood.load`. Raises `UserError` as `open_weights` does, and where
    the weights do not fit their configuration.
    """
    opened = open_weights(source)
    return restore_model(opened.saved, where=opened.source).train()


def weights_file(source: Path) -> Path:
    """The weights file of a run, given as its directory or its ``config.yaml``; another file's path is returned unchanged.

    Raises `UserError` where there is none.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(source)) and not source.exists():
        raise UserError(
            f"{source}: is an address; download the weights, and name their file (boxwood zoo list names what is fetched)"
        )
    if source.suffix.lower() in FOREIGN and source.is_file():
        raise UserError(f"{source}: weights of another program; write them as Boxwood's first, by boxwood weights import")
    if source.name == "config.yaml":
        source = source.parent
    if source.is_dir():
        for name in IN_A_RUN:
            if (source / name).is_file():
                return source / name
        raise UserError(f"{source}: holds neither {' nor '.join(IN_A_RUN)}; name a run that has been trained")
    if not source.exists():
        raise UserError(f"{source}: there is no such run or weights file")
    return source


# ------------------------------------------------------------------------------------------------------------ internals


@dataclass(frozen=True)
class _WeightsOfCheckpoint:
    """The fields of a checkpoint that its weights need."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)

    model: dict[str, Tensor]
    config: str
    classes: tuple[tuple[int, str], ...]


def _read_checkpoint(path: Path) -> SavedWeights:
    """The weights in a checkpoint of a run. It holds only the ids and names of the classes; their keypoints are in the run's
    weights file."""
    try:
        part = TypeAdapter(_WeightsOfCheckpoint).validate_python(read_torch_file(path))
    except ValidationError:
        raise UserError(
            f"{path}: is not a checkpoint of Boxwood; convert other programs' weights with boxwood weights import"
        ) from None
    config = from_yaml(RunConfig, part.config, where=str(path))
    ids, names = tuple(number for number, _ in part.classes), tuple(name for _, name in part.classes)
    categories = Categories(ids, names, _keypoints_of_run(path.parent.parent, ids))
    if categories.keypoints is None and "keypoints" in config.model.task_names:
        raise UserError(f"{path}: a checkpoint does not hold the names of keypoints; name the run's last.safetensors instead")
    return SavedWeights(part.model, config, categories)


def _keypoints_of_run(run: Path, ids: tuple[Any, ...]) -> KeypointFacts | None:
    """The keypoints of the classes, from the weights file of the run; None if it has none or other classes."""
    for name in IN_A_RUN:
        if (run / name).is_file() and (categories := read_weights(run / name).categories).ids == ids:
            return categories.keypoints
    return None
