"""Which annotation files a command of ``boxwood data`` is about: one that is named, or those of a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxwood.errors import UserError

if TYPE_CHECKING:
    from boxwood.data import CocoConfig
    from boxwood.data.coco_file import CocoFile

__all__ = ["coco_parts", "overview"]


def coco_parts(source: str, overrides: tuple[str, ...]) -> list[CocoConfig]:
    """The train and the val set of a configuration. Raises `UserError` where one is not in COCO's format."""
    from boxwood.data import CocoConfig
    from boxwood.recipes import resolve

    run = resolve(source, overrides)
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
