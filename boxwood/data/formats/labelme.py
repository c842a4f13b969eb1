"""LabelMe's and X-AnyLabeling's JSON, one file for each image: shapes with a label and points in pixels."""

from __future__ import annotations

import base64
import io
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import mask as coco_mask
from numpy.typing import NDArray
from PIL import Image

from boxwood.columns import is_point, is_whole, read_json, short
from boxwood.data.formats.collect import Collected, origin_of
from boxwood.errors import UserError
from boxwood.files import IMAGE_FORMATS, media_kind
from boxwood.pixels import MAX_PIXELS, read_header

__all__ = ["CORNERS", "read_labelme"]

logger = logging.getLogger(__name__)

CORNERS = 32
"""Corners of the polygon that approximates a circle."""
TILT = 0.01
"""Pixels by which the corners of a rectangle may differ from those of an upright box."""
NO_CLASSES = {
    "__ignore__": "regions to ignore (__ignore__)",
    "_background_": "regions of background (_background_)",
}
"""Labels that LabelMe's own programs do not take for classes."""


def read_labelme(folder: Path, images: Path | None = None) -> tuple[dict[str, Any], list[str]]:
    """A COCO dictionary of the LabelMe files ``*.json`` in a folder and those below it, and descriptions of what it lacks.

    File names are each ``imagePath``, relative to ``images``, by default to ``folder``; where that is a path of another machine,
    the name of the picture beside the file. Sizes that are null are read from the pictures. Rectangles become boxes, polygons and
    circles outlines, embedded masks run lengths; of rotated boxes the upright extent is taken. Shapes of one label and ``group_id``
    are parts of one instance. A file without shapes is an image of background; pictures without a file are left out.

    Raises `UserError` where there are no files, or one cannot be read or is not valid.
    """
    files = sorted(path for path in folder.rglob("*.json") if path.is_file())
    collected = Collected()
    lost = collected.lost
    labelled: set[str] = set()
    for path in files:
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            lost["hidden .json files"] += 1
            continue
        tree = read_json(path, "copy it again")
        if not isinstance(tree, dict) or "shapes" not in tree:
            lost[".json files that are not LabelMe's"] += 1
            continue
        if not isinstance(tree["shapes"], list):
            raise UserError(f"{path}: 'shapes' must be a list, got {short(tree['shapes'])}; name a LabelMe file")
        picture = _picture_of(path, tree, images)
        labelled.add(os.path.abspath(picture))
        height, width = _size_of(path, tree, picture)
        image_id = collected.image(_name_of(picture, images or folder, path), height, width)
        _count_flags(lost, tree, "images")
        groups: dict[tuple[str, str | int], int] = {}
        for row, shape in enumerate(tree["shapes"]):
            _take(collected, image_id, shape, groups, (height, width), f"{path}: shapes row {row}")
    if not collected.images:
        raise UserError(
            f"{folder}: has no *.json of LabelMe, with 'shapes'; name a folder of LabelMe's files, or COCO's .json itself"
        )
    for what in _unlabelled(images or folder, labelled):
        lost[what] += 1
    return collected.coco()


# ------------------------------------------------------------------------------------------------------------ internals


def _unlabelled(folder: Path, labelled: set[str]) -> Iterator[str]:
    """For each picture in a folder that no file names a description of what was left out."""
    for path in folder.rglob("*"):
        kind = media_kind(path).kind
        if kind == "other" or os.path.abspath(path) in labelled or path.name.startswith(".") or not path.is_file():
            continue
        if kind == "image":
            yield "pictures without a .json file (left out)"
        else:
            yield f"pictures of a format that is not read ({path.suffix.lower()})"


def _picture_of(path: Path, tree: dict[str, Any], images: Path | None) -> Path:
    """Where the picture of a file lies, or should lie."""
    name = tree.get("imagePath")
    if not isinstance(name, str) or not name.strip():
        beside = [other for other in sorted(path.parent.glob(f"{_escaped(path.stem)}.*")) if media_kind(other).kind == "image"]
        if name is None and beside:
            return beside[0]
        raise UserError(f"{path}: 'imagePath' must be text, got {short(name)}; name the picture there")
    name = name.replace("\\", "/")
    base = name.rsplit("/", 1)[-1]
    is_elsewhere = name.startswith("/") or re.match("[A-Za-z]:/", name) is not None
    places = [path.parent / base] if is_elsewhere else [path.parent / name, path.parent / base]
    if images is not None:
        places = [images / base, *places] if is_elsewhere else [images / name, images / base, *places]
    there = next((place for place in places if os.path.exists(place)), None)
    if there is not None and there.name == base and is_elsewhere:
        logger.info("%s: the picture %s is taken from %s", path, name, there)
    return Path(os.path.normpath(there or places[0]))


def _escaped(text: str) -> str:
    """A name in which `Path.glob` sees no pattern."""
    return re.sub(r"([*?[])", r"[\1]", text)


def _name_of(picture: Path, folder: Path, path: Path) -> str:
    try:
        return Path(os.path.relpath(picture, folder)).as_posix()
    except ValueError as error:  # another drive, or a name that no file can have
        raise UserError(f"{path}: 'imagePath' cannot be read ({error}); correct the file") from None


def _size_of(path: Path, tree: dict[str, Any], picture: Path) -> tuple[int, int]:
    height, width = tree.get("imageHeight"), tree.get("imageWidth")
    if height is None or width is None:
        if not os.path.exists(picture):
            raise UserError(
                f"{path}: has no 'imageHeight' and 'imageWidth', and its picture is not at {picture}; put it there, "
                "or name the folder of the pictures with --images"
            )
        return read_header(picture).oriented
    if not all(is_whole(side) and side is not True for side in (height, width)):
        raise UserError(
            f"{path}: 'imageHeight' and 'imageWidth' must be whole numbers, "
            f"got {short(height)} and {short(width)}; correct the file"
        )
    return int(height), int(width)


def _count_flags(lost: Any, entry: dict[str, Any], of: str) -> None:
    """Count what COCO has no place for: the flags that are set, and X-AnyLabeling's attributes."""
    for key in ("flags", "attributes"):
        values = entry.get(key)
        if isinstance(values, dict):
            lost[f"{key} of {of}"] += sum(bool(value) for value in values.values())


def _take(
    collected: Collected,
    image_id: int,
    shape: Any,
    groups: dict[tuple[str, str | int], int],
    size: tuple[int, int],
    where: str,
) -> None:
    label = shape.get("label") if isinstance(shape, dict) else None
    points = shape.get("points") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label or not isinstance(points, list) or not all(map(is_point, points)):
        raise UserError(f"{where}: must have a label, and points [x, y]; correct the file")
    kind, group = shape.get("shape_type") or "polygon", shape.get("group_id")
    before = len(collected.instances)
    if label in NO_CLASSES:
        collected.lost[NO_CLASSES[label]] += 1
    elif kind == "rectangle" and len(points) == 2:
        collected.box(image_id, label, (*points[0], *points[1]))
    elif kind in ("rectangle", "rotation") and len(points) == 4:
        xs, ys = zip(*points, strict=True)
        corners = (min(xs), min(ys), max(xs), max(ys))
        collected.box(image_id, label, corners)
        collected.lost["rotations of boxes (their upright extent is taken)"] += not _is_upright(points, corners)
    elif kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        turns = [2 * math.pi * corner / CORNERS for corner in range(CORNERS)]
        collected.outline(image_id, label, [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns])
    elif kind == "mask" and len(points) == 2:
        _take_mask(collected, image_id, label, shape, size, where)
    elif kind == "polygon" and len(points) >= 3:
        collected.outline(image_id, label, [(x, y) for x, y in points])
        if isinstance(group, int | str):
            if (label, group) in groups:
                _join(collected, groups[label, group])
            else:
                groups[label, group] = len(collected.instances) - 1
    else:
        known = kind in ("rectangle", "rotation", "circle", "mask", "polygon")
        ending = f" of {len(points)} points" if known else ""
        collected.lost[f"shapes of the kind {kind:.40}{ending}" if isinstance(kind, str) else "shapes of no kind"] += 1
    if len(collected.instances) > before:
        collected.instances[-1] |= origin_of(shape.get("score"), shape.get("source"))
        if shape.get("difficult") is True:
            collected.instances[-1]["ignore"] = 1
    _count_flags(collected.lost, shape, "shapes")


def _is_upright(points: list[Any], corners: tuple[float, ...]) -> bool:
    """Whether four points are the corners of their extent."""
    x1, y1, x2, y2 = corners
    return all(
        any(abs(x - a) <= TILT and abs(y - b) <= TILT for x, y in points) for a, b in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    )


def _join(collected: Collected, place: int) -> None:
    """Merge the last instance into the one at index ``place``."""
    part, whole = collected.instances.pop(), collected.instances[place]
    x1, y1 = (min(whole["bbox"][axis], part["bbox"][axis]) for axis in (0, 1))
    x2, y2 = (max(instance["bbox"][axis] + instance["bbox"][axis + 2] for instance in (whole, part)) for axis in (0, 1))
    whole["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    whole["area"] += part["area"]
    whole["segmentation"] += part["segmentation"]


def _take_mask(collected: Collected, image_id: int, label: str, shape: dict[str, Any], size: tuple[int, int], where: str) -> None:
    """Add an instance by its mask: a PNG in base64 of the pixels from the first point to the second, both included."""
    (x1, y1), (x2, y2) = ((round(x), round(y)) for x, y in shape["points"])
    crop = _decoded(shape.get("mask"), (y2 - y1 + 1, x2 - x1 + 1), where)
    height, width = size
    if height * width > MAX_PIXELS or min(size) < 1:
        raise UserError(f"{where}: a mask in an image of {width} x {height} pixels cannot be read; correct the file")
    top, left = max(y1, 0), max(x1, 0)
    part = crop[top - y1 : max(height - y1, 0), left - x1 : max(width - x1, 0)]
    if not part.any():
        collected.lost["masks without a pixel in their image"] += 1
        return
    collected.lost["masks partly outside their image (clipped)"] += int(part.sum()) < int(crop.sum())
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    box = [int(left + columns[0]), int(top + rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    collected.mask(image_id, label, _run_lengths(part, top, left, size), [float(number) for number in box], int(part.sum()))


def _run_lengths(part: NDArray[np.bool_], top: int, left: int, size: tuple[int, int]) -> dict[str, Any]:
    """A mask of an image of ``size`` that is ``part`` from a pixel on and empty elsewhere, in COCO's JSON format.

    >>> _run_lengths(np.array([[True, False], [True, True]]), 1, 1, (3, 4))
    {'size': [3, 4], 'counts': '422O1'}
    """
    height, width = size
    # A column at a time, without the pixels of the whole image: where runs begin and end, counted down the columns.
    padded = np.pad(part, ((1, 1), (0, 0))).T
    column, row = np.nonzero(padded[:, 1:] != padded[:, :-1])
    changes = (left + column) * height + top + row
    joined = changes[1:-1].reshape(-1, 2)
    apart = joined[:, 0] != joined[:, 1]  # a run that ends with its column goes on in the next
    ends = np.concatenate([[0], changes[:1], joined[apart].ravel(), np.unique([changes[-1], height * width])])
    code = coco_mask.frPyObjects({"size": [height, width], "counts": np.diff(ends).tolist()}, height, width)
    counts = code["counts"]
    return {"size": [height, width], "counts": counts.decode("ascii") if isinstance(counts, bytes) else str(counts)}


def _decoded(text: Any, size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """The pixels of an embedded mask of ``size`` (height, width); those that are not 0 belong to it."""
    if not isinstance(text, str):
        raise UserError(f"{where}: a mask must have 'mask', a PNG in base64, got {short(text)}; correct the file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(base64.b64decode(text)), formats=IMAGE_FORMATS) as image:
                if (image.height, image.width) == size and image.width * image.height * len(image.getbands()) <= MAX_PIXELS:
                    pixels: NDArray[np.bool_] = np.asarray(image).reshape(*size, -1) != 0
                    belongs: NDArray[np.bool_] = np.logical_or.reduce(pixels, axis=2)
                    return belongs
                got = f"{image.width} x {image.height}"
    except Exception as error:  # damaged images make Pillow's readers raise errors of many types
        raise UserError(f"{where}: 'mask' is not a PNG in base64 ({' '.join(str(error).split()):.80}); correct the file") from None
    raise UserError(f"{where}: its points enclose {size[1]} x {size[0]} pixels and its mask has {got}; correct the file")
