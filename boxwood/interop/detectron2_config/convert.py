"""Converts detectron2's keys to a complete configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxwood.config import ConfigError
from boxwood.errors import UserError
from boxwood.interop.detectron2_config.networks import make_model
from boxwood.interop.detectron2_config.settings import has_published_classes, make_data, make_optim, make_test, make_train
from boxwood.interop.detectron2_config.values import read_values
from boxwood.interop.detectron_config.pickled import MAX_CHARACTERS, parse_embedded
from boxwood.models import ProposerConfig, RetinaNetConfig
from boxwood.run_config import RunConfig

__all__ = ["Detectron2Config", "find_config", "from_detectron2", "read_config"]


@dataclass(frozen=True)
class Detectron2Config:
    """What a ``config.yaml`` says of the weights beside it."""

    config: RunConfig
    bgr: bool
    """Whether the first convolution reads blue, green, red, and not red, green, blue."""
    num_classes: int | None
    """None where no output has classes."""
    published_classes: bool
    """Whether the classes are those of COCO or VOC, which the number tells."""
    notes: tuple[str, ...]
    """Keys that were left out, or read as something else."""


def find_config(weights: Path) -> Path | None:
    """The ``config.yaml`` beside a file of weights, where detectron2's trainer writes it; None if there is none."""
    path = weights.parent / "config.yaml"
    return path if path.is_file() else None


def read_config(path: Path) -> Detectron2Config:
    """Read a ``config.yaml`` of detectron2.

    Raises `UserError` where it cannot be read, is not a complete configuration of detectron2, or holds more than plain data;
    `ConfigError` with all keys that cannot be honoured.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CHARACTERS + 1).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); name detectron2's config.yaml") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; name detectron2's config.yaml") from None
    if re.search(r"^_BASE_:", text, re.MULTILINE):
        raise UserError(
            f"{path}: is incomplete, since it builds on another file (_BASE_); name the config.yaml that the trainer wrote, or "
            "print it with detectron2.model_zoo.get_config(NAME).dump()"
        )
    return from_detectron2(parse_embedded(text, str(path)), str(path))


def from_detectron2(tree: dict[str, Any], where: str = "config.yaml") -> Detectron2Config:
    """The configuration that a tree of detectron2's keys describes; a key that it lacks has detectron2's default.

    Raises `UserError` for the configuration of another program, `ConfigError` with all keys that cannot be honoured.

    >>> from_detectron2({"MODEL": {"META_ARCHITECTURE": "PanopticFPN"}}, "config.yaml")
    Traceback (most recent call last):
    boxwood.config.ConfigError: config.yaml: MODEL.META_ARCHITECTURE = 'PanopticFPN' cannot be honoured: ...
    """
    model_keys = tree.get("MODEL")
    if not isinstance(model_keys, dict) or "META_ARCHITECTURE" not in model_keys:
        lazy = "LazyConfigs are not read; " if {"model", "dataloader"} & tree.keys() else ""
        raise UserError(
            f"{where}: is no configuration of detectron2, since it lacks MODEL.META_ARCHITECTURE; {lazy}name the right file with "
            "--config, or the network with --model"
        )
    values = read_values(tree, where)
    try:
        model = make_model(values)
        data = make_data(values, model)
        train = make_train(values)
        config = RunConfig(model=model, data=data, optim=make_optim(values, train), train=train, test=make_test(values, model))
    except ConfigError as error:
        raise ConfigError([*values.problems.values(), *(f"{where}: {problem}" for problem in error.problems)]) from None
    bgr = values.check("INPUT.FORMAT", ("BGR", "RGB")) == "BGR"
    group = "RETINANET" if isinstance(model, RetinaNetConfig) else "ROI_HEADS"
    num_classes = None if isinstance(model, ProposerConfig) else values.get(f"MODEL.{group}.NUM_CLASSES")
    values.finish()
    return Detectron2Config(config, bgr, num_classes, has_published_classes(values), tuple(values.notes))
