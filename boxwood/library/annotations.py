"""The data sets that a function is about: those of a file or folder of annotations, or the train and val set of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from boxwood.data import CocoConfig
from boxwood.data.coco_file import CocoFile
from boxwood.data.layouts import DataSource, data_sources, is_data_source
from boxwood.errors import UserError
from boxwood.recipes import names, override, resolve
from boxwood.run_config import RunConfig

__all__ = ["Part", "coco_parts", "is_annotations", "one_source", "overview", "parts_of", "run_config"]


@dataclass(frozen=True)
class Part:
    """A data set by its name, such as train; the name is ``all`` where there is one set."""

    name: str
    data: CocoConfig
    """``images`` is empty where no folder is known."""


def is_annotations(source: str | Path | RunConfig) -> bool:
    """Whether ``source`` is a file or folder of annotations, and not a configuration."""
    return not isinstance(source, RunConfig) and str(source) not in names() and is_data_source(source)


def parts_of(source: str | Path | RunConfig, overrides: Sequence[str] = (), images: str | Path | None = None) -> list[Part]:
    """The data sets of a file or folder, or of a configuration; of one set, ``images`` is the folder of the pictures.

    Raises `UserError` where a folder or a configuration holds no such data sets.
    """
    if not is_annotations(source):
        if images is not None:
            raise UserError(f"--images {images}: goes with annotations; a configuration has data.train.images and data.val.images")
        return [Part(name, part) for name, part in zip(("train", "val"), coco_parts(run_config(source, overrides)), strict=True)]
    if overrides:
        raise UserError(f"'{overrides[0]}': key=value goes with a configuration, not with an annotation file")
    assert not isinstance(source, RunConfig)
    sources = data_sources(source)
    if images is not None and len(sources) > 1:
        raise UserError(f"--images {images}: {source} has the sets {', '.join(sources)}; name the annotations of one of them")
    return [Part(name, _config(one, images)) for name, one in sources.items()]


def one_source(source: str | Path, images: str | Path | None = None) -> CocoConfig:
    """The data set of a file or folder that has one. Raises `UserError` where it has several."""
    parts = parts_of(source, (), images)
    first, *others = parts
    if others:
        sets = f"{source}: has the sets {', '.join(part.name for part in parts)}"
        if first.data.annotations == others[0].data.annotations:
            command = f"boxwood data convert {source} {first.name}.json --split {first.data.split}"
            raise UserError(f"{sets}; write one as a COCO file first: {command}")
        raise UserError(f"{sets}; name one, such as {first.data.annotations}")
    return first.data


def run_config(source: str | Path | RunConfig, overrides: Sequence[str] = ()) -> RunConfig:
    """A configuration, given as such or by its name, with ``overrides`` applied."""
    return override(source, overrides) if isinstance(source, RunConfig) else resolve(str(source), overrides)


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


# ------------------------------------------------------------------------------------------------------------ internals


def _config(source: DataSource, images: str | Path | None) -> CocoConfig:
    return CocoConfig(annotations=str(source.annotations), images=str(images or source.images or ""), split=source.split)
