"""YOLO's ``data.yaml``: the classes, the keypoints, and where the images of each split lie."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxwood.columns import short
from boxwood.errors import UserError
from boxwood.files import write_text
from boxwood.safe_yaml import read

__all__ = ["YoloPose", "YoloYaml", "flip_of", "locate", "read_yolo_yaml", "write_yolo_yaml"]

logger = logging.getLogger(__name__)

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""Keys of a split; the first is the one that is written."""
MAX_KEYPOINTS = 1000
MAX_CLASSES = 100_000


@dataclass(frozen=True)
class YoloPose:
    """The keypoints that follow each box."""

    names: tuple[str, ...]
    values: int
    """Numbers of each keypoint: 2 (x, y) or 3 (x, y, visibility)."""


@dataclass(frozen=True)
class YoloYaml:
    """The content of a ``data.yaml``."""

    path: Path
    content: Mapping[str, Any]
    names: list[str]
    pose: YoloPose | None

    @property
    def roots(self) -> list[Path]:
        """The folders that its paths may be relative to: the one that ``path`` names, then its own."""
        root = self.content.get("path")
        named = [self.path.parent / root.replace("\\", "/")] if isinstance(root, str) else []
        return [*named, self.path.parent]

    def splits(self) -> dict[str, Any]:
        """What it names for each split: text, or a list of texts."""
        content = self.content
        given = {split: next((content[key] for key in keys if content.get(key)), None) for split, keys in SPLITS.items()}
        return {split: value for split, value in given.items() if isinstance(value, str | list)}

    def places(self, split: str) -> list[Path]:
        """The folders and lists of images of a split. Raises `UserError` where it names none, or one that is not there."""
        where = self.splits().get(split)
        parts = [where] if isinstance(where, str) else where
        if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
            known = ", ".join(self.splits()) or "none"
            raise UserError(f"{self.path}: '{split}' must name a folder of images; its splits are {known}")
        return [self._place(split, part) for part in parts]

    def _place(self, split: str, part: str) -> Path:
        place = locate(part, self.roots, moved=_is_absolute(part))
        if place is None:
            if part.endswith(".txt"):
                raise UserError(f"{self.path}: '{split}' names the list {self.roots[0] / part}, which cannot be read; correct it")
            raise UserError(f"{self.path}: '{split}' names {self.roots[0] / part}, which is no folder; correct it")
        if not place.is_dir() and place.suffix.lower() != ".txt":
            raise UserError(f"{self.path}: '{split}' names {place}, which is no folder and no list of images (.txt); correct it")
        elsewhere = len(self.roots) == 2 and not os.path.exists(self.roots[0])
        if elsewhere or (_is_absolute(part) and not os.path.exists(part)):
            missing = part if _is_absolute(part) else self.roots[0]
            logger.warning("%s: %s is not there; the images of '%s' are taken from %s", self.path, missing, split, place)
        return place


def read_yolo_yaml(path: Path) -> YoloYaml:
    """Read a ``data.yaml``. Raises `UserError` where it is not valid, naming the key."""
    content, _ = read(path)
    names = _names(content, path)
    count = content.get("nc")
    if type(count) is int and count != len(names):
        logger.warning("%s: 'nc' is %s, and it has %d names, which count", path, short(count), len(names))
    return YoloYaml(path, content, names, _pose(content, path, names))


def locate(part: str, roots: Sequence[Path], *, moved: bool) -> Path | None:
    r"""The file or folder that a path in a ``data.yaml`` or a list of images means, or None.

    It is relative to the first of the folders ``roots`` that has it. ``\`` is read as ``/``, and a first ``../`` may be one too
    many, as in Roboflow's files. Where the path is of another machine (``moved``), its last parts are searched in ``roots``, the
    longest first.
    """
    text = part.replace("\\", "/")
    for name in dict.fromkeys((part, text, text.removeprefix("../"))):
        for root in roots:
            if os.path.exists(root / name):
                return _without_dots(root / name)
    if moved:
        parts = [word for word in text.split("/") if word not in ("", ".", "..")]
        for start in range(1, len(parts)):
            for root in roots:
                if os.path.exists(place := root.joinpath(*parts[start:])):
                    return place
    return None


def flip_of(names: Sequence[str]) -> list[int]:
    """For each keypoint the index of the one that takes its place in a mirror image, by ``left`` and ``right`` in their names.

    >>> flip_of(("nose", "left_eye", "right_eye"))
    [0, 2, 1]
    """
    indices = {name: index for index, name in enumerate(names)}
    return [indices.get(_mirrored(name), index) for index, name in enumerate(names)]


def write_yolo_yaml(folder: Path, names: Sequence[str], split: str, pose: YoloPose | None) -> None:
    """Write ``folder/data.yaml`` for images in ``folder/images/SPLIT``; an existing one keeps its other splits.

    Raises `UserError` where the existing one has other classes or other keypoints.
    """
    path = folder / "data.yaml"
    splits: dict[str, Any] = {split: f"images/{split}"}
    if path.is_file():
        before = read_yolo_yaml(path)
        if before.names != list(names):
            raise UserError(f"{path}: has other classes than these; name another folder")
        if (before.pose and (before.pose.values, len(before.pose.names))) != (pose and (pose.values, len(pose.names))):
            raise UserError(f"{path}: has other keypoints than these ('kpt_shape'); name another folder")
        splits = before.splits() | splits
    lines = ["path: .", *(f"{key}: {_quoted(value)}" for key, value in splits.items())]
    if pose:
        lines += [f"kpt_shape: [{len(pose.names)}, {pose.values}]", f"flip_idx: {flip_of(pose.names)}", "kpt_names:"]
        lines += [f"  {number}: {_quoted(list(pose.names))}" for number in range(len(names))]
    lines += ["names:", *(f"  {number}: {_quoted(name)}" for number, name in enumerate(names))]
    write_text(path, "".join(f"{line}\n" for line in lines))


# ------------------------------------------------------------------------------------------------------------ internals


def _is_absolute(part: str) -> bool:
    """Whether a path begins at the root of some machine, this one's or that of a Windows drive."""
    return part.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[\\/]", part) is not None


def _without_dots(path: Path) -> Path:
    """The path without ``..``, unless links make that another one."""
    plain = Path(os.path.normpath(path))
    return plain if os.path.exists(plain) and os.path.samefile(plain, path) else path


def _names(content: Mapping[str, Any], path: Path) -> list[str]:
    names = content.get("names")
    if names is None and type(count := content.get("nc")) is int and 0 < count <= MAX_CLASSES:
        names = [f"class_{number}" for number in range(count)]
    if isinstance(names, dict):
        # Keys in quotes are text.
        numbered = {int(str(key)): name for key, name in names.items() if re.fullmatch(r"[0-9]{1,9}", str(key))}
        in_order = sorted(numbered) == list(range(len(names)))
        names = [numbered[number] for number in range(len(names))] if in_order else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int | float) for name in names):
        raise UserError(f"{path}: 'names' must be a list of classes, or a mapping from 0, 1, ... to them")
    texts = [str(name).lower() if isinstance(name, bool) else str(name) for name in names]
    return texts


def _pose(content: Mapping[str, Any], path: Path, classes: Sequence[str]) -> YoloPose | None:
    shape = content.get("kpt_shape")
    if shape is None or shape == [0, 3] or shape == [0, 2]:
        return None
    whole = isinstance(shape, list) and len(shape) == 2 and all(type(number) is int for number in shape)
    if not whole or not 0 < shape[0] <= MAX_KEYPOINTS or shape[1] not in (2, 3):
        raise UserError(
            f"{path}: 'kpt_shape' must be the number of keypoints and of values of each, 2 or 3, such as [17, 3], "
            f"got {short(shape)}"
        )
    count, values = shape
    flip = content.get("flip_idx")
    if flip is not None:
        indices = flip if isinstance(flip, list) and all(type(index) is int for index in flip) else []
        if sorted(indices) != list(range(count)) or any(indices[indices[index]] != index for index in indices):
            raise UserError(
                f"{path}: 'flip_idx' must have for each of the {count} keypoints the index of the one on the other side, "
                f"got {short(flip)}"
            )
    return YoloPose(_keypoint_names(content, path, count, flip, classes), values)


def _keypoint_names(
    content: Mapping[str, Any], path: Path, count: int, flip: list[int] | None, classes: Sequence[str]
) -> tuple[str, ...]:
    """The names of keypoints. A COCO file says which of them swap sides by ``left`` and ``right`` in their names, so where
    ``flip_idx`` is not that of the names, or there are none, they get new ones."""
    given = content.get("kpt_names")
    lists = list(given.values()) if isinstance(given, dict) else [given]
    names = tuple(map(str, lists[0])) if lists and isinstance(lists[0], list) else ()
    same = all(part == lists[0] for part in lists) and len(set(names)) == len(names) == count and all(names)
    if given is not None and not same:
        logger.warning("%s: 'kpt_names' is not read: it must have the same %d names for every class", path, count)
    if flip is None and not same:
        logger.warning(
            "%s: has keypoints and no 'flip_idx', so none swap sides in mirror images; add it, or leave out horizontal_flip",
            path,
        )
    if same and (flip is None or flip == flip_of(names)):
        return names
    if same:
        logger.warning("%s: 'flip_idx' is not that of left and right in 'kpt_names', so the keypoints get other names", path)
    from boxwood.data.known_classes import PERSON  # it needs torch

    if PERSON.keypoints and flip == list(PERSON.keypoints.flip) and "person" in classes:
        return PERSON.keypoints.names
    return tuple(_numbered_names(flip or list(range(count))))


def _numbered_names(flip: Sequence[int]) -> Iterator[str]:
    for index, other in enumerate(flip):
        side = "left_" if index < other else "right_" if index > other else ""
        yield f"{side}keypoint_{min(index, other)}"


def _mirrored(name: str) -> str:
    swap = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}
    return re.sub("|".join(swap), lambda side: swap[side.group()], name)


def _quoted(value: Any) -> str:
    """A text or list of texts as JSON that is also YAML: characters that YAML refuses, or takes for a line's end, are escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda match: f"\\u{ord(match.group()):04x}", text)
