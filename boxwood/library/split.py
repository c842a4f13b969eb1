"""`boxwood data split`: divide a data set into train, val and test."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxwood.data.annotations import read_any
from boxwood.data.coco_file import CocoFile, coco_file_of
from boxwood.data.quality.checks import check_identities, refuse
from boxwood.data.splitting import divide, subset
from boxwood.errors import UserError
from boxwood.files import write_text
from boxwood.library.annotations import is_annotations, one_source

__all__ = ["Split", "SplitPart", "split"]


@dataclass(frozen=True)
class SplitPart:
    """A file that was written, and what is in it."""

    path: Path
    num_images: int
    num_annotations: int
    class_counts: dict[str, int]
    """Annotations of each class."""


@dataclass(frozen=True)
class Split:
    """The files that `split` wrote."""

    parts: dict[str, SplitPart]
    """By ``train``, ``val`` and, where it was asked for, ``test``."""
    images: str
    """The folder that the file names are relative to; empty where it is not known."""
    not_carried: list[str]
    """Descriptions of what the source holds and the files lack."""

    def text(self) -> str:
        """A table of images and annotations per class, and the keys with which to train."""
        rows = [("", *self.parts), ("images", *(f"{part.num_images:,}" for part in self.parts.values()))]
        names = list(next(iter(self.parts.values())).class_counts)
        rows += [(name, *(f"{part.class_counts[name]:,}" for part in self.parts.values())) for name in names]
        rows.append(("annotations", *(f"{part.num_annotations:,}" for part in self.parts.values())))
        first = max(len(row[0]) for row in rows)
        lines = [f"{row[0]:{first}}" + "".join(f"{cell:>9}" for cell in row[1:]) for row in rows]
        images = self.images or "FOLDER"
        keys = (f"data.{name}.annotations={self.parts[name].path} data.{name}.images={images}" for name in ("train", "val"))
        lines += ["", f"boxwood train RECIPE {' '.join(keys)}"]
        return "\n".join([*lines, f"not carried: {', '.join(self.not_carried)}"] if self.not_carried else lines)


def split(
    source: str | Path,
    out: str | Path,
    *,
    val: float = 0.2,
    test: float = 0.0,
    by_group: str | None = None,
    by_name: str | None = None,
    seed: int = 0,
    images: str | Path | None = None,
) -> Split:
    """Divide the images of one data set into ``train.json``, ``val.json`` and, with ``test`` above 0, ``test.json`` in ``out``.

    ``source`` is any file or folder of annotations. ``val`` and ``test`` are fractions of the images, stratified by class: each
    class with at least as many images as there are parts is in all of them, unless other classes in the same images prevent it.
    Images of the same ``by_group`` stay together: ``folder``, or a key of the images such as ``video_id``; or images in whose
    names the regular expression ``by_name`` matches the same text (its first group, where it has one). Without either, copies that
    Roboflow made of one picture stay together. ``images`` is the folder of the pictures, where it is not found beside the
    annotations.

    The rows of a COCO file are written as they are, with all their keys. Raises `UserError` where the source cannot be read or has
    several sets, the fractions leave no train set, or an image has no group.
    """
    if not (val > 0 and test >= 0 and val + test < 1):
        raise UserError(f"--val {val:g} --test {test:g}: must be fractions of the images, val above 0 and both together under 1")
    if not is_annotations(source):
        raise UserError(f"{source}: is no file or folder of annotations; name a COCO .json, YOLO's data.yaml or a folder")
    data = one_source(source, images)
    tree, lost = read_any(data.annotations, data.images or None, data.split)
    file = coco_file_of(tree, data.annotations)
    refuse(check_identities(file), file.path)
    shares = {"train": 1 - val - test, "val": val} | ({"test": test} if test else {})
    groups = _groups(tree, file, by_group, by_name)
    numbers = divide(file, list(shares.values()), seed=seed, groups=groups)
    contents = {name: subset(tree, file, numbers == number) for number, name in enumerate(shares)}
    parts = {}
    for number, (name, content) in enumerate(contents.items()):
        path = Path(out) / f"{name}.json"
        if path.exists() and path.samefile(data.annotations):
            raise UserError(f"{path}: is the source, which stays as it is; name another folder")
        rows = (numbers == number)[file.image_rows]
        parts[name] = SplitPart(
            path, len(content["images"]), int(rows.sum()), _class_counts(file, file.category_ids[rows].tolist())
        )
    for name, content in contents.items():
        write_text(parts[name].path, json.dumps(content, ensure_ascii=False) + "\n")
    return Split(parts, data.images, list(lost))


# ------------------------------------------------------------------------------------------------------------ internals


def _class_counts(file: CocoFile, category_ids: list[int]) -> dict[str, int]:
    names = {int(row["id"]): str(row["name"]) for row in file.categories}
    counts = dict.fromkeys(names.values(), 0)
    for category_id in category_ids:
        counts[names[category_id]] += 1
    return counts


def _groups(tree: Mapping[str, Any], file: CocoFile, by_group: str | None, by_name: str | None) -> list[Hashable] | None:
    """The group of each image; None: as `divide` makes them."""
    if by_group is not None and by_name is not None:
        raise UserError("--by-group and --by-name: choose one")
    names = [file.file_name(row).replace("\\", "/") for row in range(len(file.image_ids))]
    if by_group == "folder":
        return [name.rpartition("/")[0] for name in names]
    if by_group is not None:
        return [_value_of(row, by_group, name, file.path) for row, name in zip(tree["images"], names, strict=True)]
    return None if by_name is None else [_matched(by_name, name, file.path) for name in names]


def _value_of(row: Mapping[str, Any], key: str, name: str, path: str) -> Hashable:
    if row.get(key) is None:
        keys = ", ".join(sorted(map(str, row))[:12])
        raise UserError(f"{path}: image '{name:.100}' has no '{key}' to group by; its keys are {keys}; or group by folder")
    return json.dumps(row[key], sort_keys=True)


def _matched(pattern: str, name: str, path: str) -> str:
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise UserError(f"--by-name {pattern}: is no regular expression ({error})") from None
    if match is None:
        raise UserError(f"{path}: --by-name {pattern} does not match the image '{name:.100}'; each image needs a group")
    return match.group(1 if match.re.groups else 0) or ""
