"""The weights file: safetensors, with the configuration and the classes in its metadata.

A file is self-contained, since it holds the configuration of its network, and reading it runs no code. Its metadata, all text, are
``format`` (``boxwood``), ``format_version``, ``config`` (a complete `RunConfig` as YAML) and ``categories`` (JSON).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from boxwood.config import from_yaml, to_yaml
from boxwood.errors import UserError
from boxwood.files import write_whole
from boxwood.models.config import ModelConfig, without_pretrained
from boxwood.models.detector import Detector
from boxwood.models.inference_config import TestConfig
from boxwood.run_config import RunConfig
from boxwood.structures import Categories, KeypointFacts

__all__ = ["SavedWeights", "load_state", "read_weights", "restore_model", "save_weights", "some_of"]

FORMAT_VERSION = 1
MAX_HEADER_BYTES = 100_000_000
"""The limit of safetensors."""
MAX_NAMED = 6
"""Maximum number of tensors that an error names for each problem."""


@dataclass(frozen=True)
class SavedWeights:
    """The contents of a weights file."""

    state: dict[str, Tensor]
    config: RunConfig
    categories: Categories


def save_weights(path: Path | str, state: Mapping[str, Tensor], config: RunConfig, categories: Categories) -> None:
    """Write a state dict with its configuration and classes, completely or not at all.

    Raises `UserError` where the file cannot be written; an existing file is then unchanged.
    """
    metadata = {
        "format": "boxwood",
        "format_version": str(FORMAT_VERSION),
        "config": to_yaml(config),
        "categories": json.dumps(asdict(categories), ensure_ascii=False),
    }
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in state.items():
        # safetensors refuses tensors that share memory (tied weights), so the second is copied.
        value = tensor.detach().cpu().contiguous()
        tensors[name] = value.clone() if value.numel() and value.data_ptr() in storages else value
        storages.add(value.data_ptr())
    write_whole(Path(path), lambda temporary: _save(tensors, temporary, metadata))


def read_weights(path: Path | str) -> SavedWeights:
    """Read a file written by `save_weights`; tensors on the CPU.

    A configuration with classes outside Boxwood (kinds ``module:Class``) needs their modules imported first. Raises `UserError`
    where the file is missing, truncated, not a safetensors file written by Boxwood, of a newer format, or its configuration is not
    valid.
    """
    path = Path(path)
    metadata = _metadata(path)
    if metadata.get("format") != "boxwood":
        raise UserError(
            f"{path}: a safetensors file, but not Boxwood's (no configuration in it); name one that boxwood train wrote"
        )
    version = metadata.get("format_version", "")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise UserError(
            f"{path}: has format version {version or 'unknown'}, this Boxwood reads {FORMAT_VERSION}; install a newer one"
        )
    try:
        categories, text = _categories(json.loads(metadata["categories"])), metadata["config"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: its metadata are damaged ({type(error).__name__}: {_line(error)}); name another file") from None
    config = from_yaml(RunConfig, text, where=str(path))
    try:
        state = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({_line(error)}); copy it again or name another file") from None
    return SavedWeights(state, config, categories)


def restore_model(
    saved: SavedWeights, *, model: ModelConfig | None = None, test: TestConfig | None = None, where: str = "weights"
) -> Detector:
    """The detector in a weights file, on the CPU; ``model`` and ``test`` replace its configuration.

    Pretrained weights of its backbone are not downloaded again. Raises `UserError` as `load_state` does.
    """
    restored = without_pretrained(model or saved.config.model).build(saved.categories, test or saved.config.test)
    load_state(restored, saved.state, where=where)
    return restored


def load_state(
    model: nn.Module, state: Mapping[str, Tensor], *, saved_classes: int | None = None, where: str = "weights"
) -> list[str]:
    """Load a state dict into a model with ``categories``; returns the names of the tensors that keep the model's values.

    There are none, unless the state has ``saved_classes`` classes and the model a different number: then tensors that differ in one
    dimension, by the ratio of the numbers of classes (with or without a background class), keep the model's values. Raises
    `UserError`, and changes nothing, where anything else differs: it names the tensors that are missing, unexpected, or of another
    shape. ``where`` begins the message.
    """
    model_state = model.state_dict()
    categories = getattr(model, "categories", None)
    classes = (saved_classes, len(categories)) if saved_classes is not None and categories is not None else None
    missing = [name for name in model_state if name not in state]
    unexpected = [name for name in state if name not in model_state]
    other = [name for name in model_state if name in state and model_state[name].shape != state[name].shape]
    skipped = [
        name for name in other if classes is not None and _follows_classes(state[name].shape, model_state[name].shape, *classes)
    ]
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(model_state[name].shape)}" for name in other if name not in skipped
    ]
    if missing or unexpected or wrong:
        problems = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
        details = "; ".join(f"{len(names)} tensors {problem} ({some_of(names)})" for problem, names in problems.items() if names)
        raise UserError(
            f"{where}: of another architecture than the model: {details}; use the configuration that they were trained with"
        )
    model.load_state_dict({**state, **{name: model_state[name] for name in skipped}})
    return skipped


def some_of(names: Sequence[str]) -> str:
    """The first few tensor names for a message, and how many more there are."""
    more = f", and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


# ------------------------------------------------------------------------------------------------------ internals


def _metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, which must be complete."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
        with safe_open(path, "pt") as archive:
            metadata: dict[str, str] | None = archive.metadata()
            return metadata or {}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name an existing .safetensors file") from None
    except SafetensorError:
        # The file begins with the length of its header in 8 bytes, and the header is JSON.
        if len(start) == 9 and int.from_bytes(start[:8], "little") <= MAX_HEADER_BYTES and start[8:] == b"{":
            raise UserError(f"{path}: is cut short or damaged; copy it again") from None
        raise UserError(f"{path}: not a safetensors file; name one that boxwood train wrote") from None


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        safetensors.torch.save_file(tensors, path, metadata)
    except SafetensorError as error:
        raise OSError(_line(error)) from None


def _categories(tree: dict[str, Any]) -> Categories:
    facts = tree["keypoints"]
    keypoints = facts and KeypointFacts(
        tuple(facts["names"]), tuple(facts["flip"]), tuple((a, b) for a, b in facts["skeleton"]), tuple(facts["sigmas"])
    )
    return Categories(tuple(int(number) for number in tree["ids"]), tuple(str(name) for name in tree["names"]), keypoints)


def _follows_classes(saved: torch.Size, model: torch.Size, saved_classes: int, model_classes: int) -> bool:
    """Whether two shapes differ in one dimension, the same multiple of the classes in both, or of classes and background."""
    if len(saved) != len(model):
        return False
    pairs = [(a, b) for a, b in zip(saved, model, strict=True) if a != b]
    return len(pairs) == 1 and any(
        pairs[0][0] * (model_classes + extra) == pairs[0][1] * (saved_classes + extra) for extra in (0, 1)
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
