"""The weights file: safetensors, with the configuration and the classes in its metadata.

A file is self-contained, since it holds the configuration of its network, and reading it runs no code. Its metadata, all text, are
``format`` (``boxwood``), ``format_version``, ``config`` (a complete `RunConfig` as YAML) and ``categories`` (JSON).
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from boxwood.config import from_yaml, to_yaml
from boxwood.errors import UserError
from boxwood.files import write_whole
from boxwood.models.config import ModelConfig, only_built_in, without_pretrained
from boxwood.models.detector import Detector
from boxwood.models.inference_config import TestConfig
from boxwood.run_config import RunConfig
from boxwood.structures import Categories

__all__ = ["SavedWeights", "load_state", "read_weights", "restore_model", "save_weights", "some_of"]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
MAX_HEADER_BYTES = 20_000_000
"""Of the JSON at the start of a file: names, types, shapes and the metadata; ours have about 100,000. safetensors reads more, and
takes many times their memory."""
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
    facts = asdict(categories)
    if categories.interactions is None:
        del facts["interactions"]  # which 0.1 does not know
    metadata = {
        "format": "boxwood",
        "format_version": str(FORMAT_VERSION),
        "config": to_yaml(config),
        "categories": json.dumps(facts, ensure_ascii=False),
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
    if not re.fullmatch("[0-9]{1,9}", version) or int(version) > FORMAT_VERSION:
        raise UserError(
            f"{path}: has format version {version[:20] or 'unknown'}, this Boxwood reads {FORMAT_VERSION}; install a newer one"
        )
    try:
        categories, text = _categories(metadata["categories"], path), metadata["config"]
    except (KeyError, ValueError, RecursionError) as error:
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
    config, test = without_pretrained(model or saved.config.model), test or saved.config.test
    if only_built_in(config):  # other classes may need values while they are built
        _compare_without_memory(config, saved, test, where)
    restored = config.build(saved.categories, test)
    load_state(restored, saved.state, where=where)
    return restored


def _compare_without_memory(config: ModelConfig, saved: SavedWeights, test: TestConfig, where: str) -> None:
    """Compare the network's shapes before it is built: a configuration in a file can ask for any amount of memory.

    Raises `UserError` as `load_state` does, and where the configuration is that of no network.
    """
    try:
        with torch.device("meta"):
            model = config.build(saved.categories, test)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except Exception as error:  # of parts that do not fit each other, such as 64 channels in 7 groups
        reason = f"{type(error).__name__}: {_line(error)[:200]}"
        raise UserError(f"{where}: its configuration is that of no network ({reason}); name another file") from None
    _compare(model, saved.state, None, where)


def load_state(
    model: nn.Module, state: Mapping[str, Tensor], *, saved_classes: int | None = None, where: str = "weights"
) -> list[str]:
    """Load a state dict into a model with ``categories``; returns the names of the tensors that keep the model's values.

    There are none, unless the state has ``saved_classes`` classes and the model a different number: then tensors that differ in one
    dimension, by the ratio of the numbers of classes (with or without a background class), keep the model's values. Raises
    `UserError`, and changes nothing, where anything else differs: it names the tensors that are missing, unexpected, or of another
    shape, or have values that are NaN or infinite. ``where`` begins the message.
    """
    model_state = model.state_dict()
    skipped = _compare(model, state, saved_classes, where)
    _check_finite({name: value for name, value in state.items() if name not in skipped}, where)
    model.load_state_dict({**state, **{name: model_state[name] for name in skipped}})
    return skipped


def _compare(model: nn.Module, state: Mapping[str, Tensor], saved_classes: int | None, where: str) -> list[str]:
    """The tensors that differ only by the number of classes. Raises `UserError` where anything else differs, see `load_state`."""
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
    return skipped


def _check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Raise `UserError` where weights are NaN or infinite: every score that they reach is NaN."""
    wrong = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if wrong:
        counts = [f"{name}: {int((~torch.isfinite(state[name])).sum())} of {state[name].numel()}" for name in wrong]
        raise UserError(
            f"{where}: has values that are NaN or infinite in {len(wrong)} of {len(state)} tensors ({some_of(counts)}); the "
            "training diverged or the file is damaged: take an earlier checkpoint, or copy the file again"
        )


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
        length = int.from_bytes(start[:8], "little")
        if start[8:] == b"{" and MAX_HEADER_BYTES < length < path.stat().st_size:
            raise UserError(f"{path}: has {length} bytes of names and metadata, more than the {MAX_HEADER_BYTES} that are read")
        with safe_open(path, "pt") as archive:
            metadata: dict[str, str] | None = archive.metadata()
            return metadata or {}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name an existing .safetensors file") from None
    except SafetensorError:
        # The file begins with the length of its header in 8 bytes, and the header is JSON.
        if len(start) == 9 and length <= 5 * MAX_HEADER_BYTES and start[8:] == b"{":
            raise UserError(f"{path}: is cut short or damaged; copy it again") from None
        raise UserError(f"{path}: not a safetensors file; name one that boxwood train wrote") from None


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        safetensors.torch.save_file(tensors, path, metadata)
    except SafetensorError as error:
        raise OSError(_line(error)) from None


def _categories(text: str, path: Path) -> Categories:
    """The classes in the metadata. Raises ValueError where they contradict themselves."""
    categories = msgspec.json.decode(text, type=Categories)
    ids, names, facts = categories.ids, categories.names, categories.keypoints
    if not ids or len(ids) != len(names) or len(set(ids)) != len(ids):
        raise ValueError(f"{len(names)} names of classes for {len(set(ids))} ids")
    if facts and (len(facts.flip) != len(facts.names) or not all(0 <= other < len(facts.names) for other in facts.flip)):
        raise ValueError("keypoints whose mirror images are none of them")
    verbs = categories.interactions
    if verbs and not len(verbs.verbs) == len(verbs.verb_ids) == len(verbs.roles):
        raise ValueError(f"{len(verbs.verbs)} names of verbs for {len(verbs.verb_ids)} ids and roles of {len(verbs.roles)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        logger.warning(
            "%s: %d names of classes stand more than once (%s)", path, len(twice), some_of([name[:40] for name in twice])
        )
    return categories


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
