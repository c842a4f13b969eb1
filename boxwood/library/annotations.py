"""The annotation files that a function is about: one that is named, or the train and the val set of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boxwood.config import apply_overrides
from boxwood.data import CocoConfig
from boxwood.data.coco_file import CocoFile
from boxwood.errors import UserError
from boxwood.recipes import resolve
from boxwood.run_config import RunConfig

__all__ = ["coco_parts", "is_annotation_file", "overview", "run_config"]


def is_annotation_file(source: str | Path | RunConfig) -> bool:
    """Whether ``source`` is one annotation file (``.json``), and not a configuration."""
    return not isinstance(source, RunConfig) and str(source).endswith(".json")


def run_config(source: str | Path | RunConfig, overrides: Sequence[str] = ()) -> RunConfig:
    """A configuration, given as such or by its name, with ``overrides`` applied."""
    return apply_overrides(source, overrides) if isinstance(source, RunConfig) else resolve(str(source), overrides)


def coco_parts(run: RunConfig) -> list[CocoConfig]:
    """The train and the val set of a configuration. Raises `UserError` where one is not read from annotation files."""
    parts = []
    for name, part in (("train", run.data.train), ("val", run.data.val)):
        if not isinstance(part, CocoConfig):
            raise UserError(f"data.{name} is of kind '{part.kind()}'; only data sets in COCO's format are checked and counted")
        parts.append(part)
    return parts


def overview(file: CocoFile) -> str:
    """What is in a file, in a few words."""
    images, annotations, classes = len(file.image_ids), len(file.ids), len(file.categories)
    return f"{images:,} images, {annotations:,} annotations, {classes:,} classes"
