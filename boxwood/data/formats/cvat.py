"""CVAT's XML of images (its format "CVAT for images 1.1")."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import mask as coco_mask

from boxwood.data.formats.collect import Collected
from boxwood.data.formats.reading import read_xml
from boxwood.data.images import MAX_PIXELS
from boxwood.errors import UserError

__all__ = ["read_cvat"]

KNOWN = frozenset({"box", "polygon", "mask", "tag"})
OTHER = frozenset({"polyline", "points", "cuboid", "ellipse", "skeleton"})


def read_cvat(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A COCO dictionary of an ``annotations.xml``, and descriptions of what it lacks.

    Boxes, polygons and masks become instances; classes are in the order of the file. Raises `UserError` where the file cannot be
    read or is not valid.
    """
    root = read_xml(path)
    labels = [(name.text or "").strip() for name in root.iterfind("./meta//labels/label/name")]
    collected = Collected(tuple(dict.fromkeys(label for label in labels if label)))
    images = root.findall("image")
    if not images:
        raise UserError(f"{path}: has no images; export the task as 'CVAT for images 1.1'")
    for row, image in enumerate(images):
        where = f"{path}: image {row}"
        width, height = (int(_number(image, key, where)) for key in ("width", "height"))
        if min(width, height) < 1 or width * height > MAX_PIXELS:
            raise UserError(f"{where}: cannot be {width} x {height} pixels; correct the file")
        image_id = collected.image(_text(image, "name", where), height, width)
        for shape in image:
            _take(collected, image_id, shape, (height, width), f"{where} '{image.get('name')}'")
    return collected.coco()


def _take(collected: Collected, image_id: int, shape: ElementTree.Element, size: tuple[int, int], where: str) -> None:
    if shape.tag not in KNOWN:
        if shape.tag in OTHER:
            collected.lost[f"shapes of the kind {shape.tag}"] += 1
        return
    label = _text(shape, "label", where)
    if shape.tag == "tag":
        collected.lost["tags of whole images"] += 1
    elif shape.tag == "box":
        if float(shape.get("rotation") or 0):
            collected.lost["rotations of boxes"] += 1
        x1, y1, x2, y2 = (_number(shape, key, where) for key in ("xtl", "ytl", "xbr", "ybr"))
        collected.box(image_id, label, (x1, y1, x2, y2))
    elif shape.tag == "polygon":
        try:
            points = [(float(x), float(y)) for x, y in (point.split(",") for point in _text(shape, "points", where).split(";"))]
        except ValueError:
            points = []
        if len(points) < 3 or not all(abs(number) < 1e6 for point in points for number in point):
            raise UserError(f"{where}: a polygon must have points 'x,y;x,y;x,y', got {shape.get('points')!r:.60}; correct the file")
        collected.outline(image_id, label, points)
    else:
        _take_mask(collected, image_id, label, shape, size, where)


def _take_mask(
    collected: Collected, image_id: int, label: str, shape: ElementTree.Element, size: tuple[int, int], where: str
) -> None:
    """Add a mask, whose run lengths go along the rows of a rectangle, zeros first."""
    left, top, width, height = (int(_number(shape, key, where)) for key in ("left", "top", "width", "height"))
    try:
        counts = [int(count) for count in _text(shape, "rle", where).split(",")]
    except ValueError:
        counts = [-1]
    inside = left >= 0 and top >= 0 and left + width <= size[1] and top + height <= size[0]
    if not inside or min(width, height) < 1 or min(counts) < 0 or sum(counts) != width * height:
        raise UserError(f"{where}: a mask must lie in the image and have run lengths of its {width} x {height} pixels")
    values = np.repeat(np.arange(len(counts)) % 2, counts).astype(np.uint8)
    pixels = np.zeros(size, dtype=np.uint8, order="F")
    pixels[top : top + height, left : left + width] = values.reshape(height, width)
    code = coco_mask.encode(pixels)
    text = code["counts"].decode("ascii") if isinstance(code["counts"], bytes) else code["counts"]
    box = np.asarray(coco_mask.toBbox(code), dtype=np.float64).reshape(-1).tolist()
    collected.mask(image_id, label, {"size": list(size), "counts": text}, box, int(pixels.sum()))


def _text(element: ElementTree.Element, key: str, where: str) -> str:
    value = element.get(key)
    if not value:
        raise UserError(f"{where}: <{element.tag}> has no '{key}'; correct the file")
    return value


def _number(element: ElementTree.Element, key: str, where: str) -> float:
    try:
        number = float(_text(element, key, where))
        if abs(number) < 1e9:
            return number
    except ValueError:
        pass
    raise UserError(f"{where}: <{element.tag}> '{key}' must be a number, got {element.get(key)!r:.40}; correct the file")
