"""CVAT's XML of images (its format "CVAT for images 1.1")."""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import numpy as np
from hotcoco import mask as coco_mask

from boxwood.columns import MAX_COORDINATE
from boxwood.data.formats.collect import Collected, origin_of
from boxwood.data.formats.reading import MAX_BYTES, Reading, is_true, read_xml
from boxwood.errors import UserError

__all__ = ["read_cvat"]

BYTES_A_PIXEL = 3
"""Of memory while a mask is read: its rectangle, the image's pixels and a copy."""


def read_cvat(path: Path, split: str | None = None) -> Reading:
    """The images of an ``annotations.xml``, or those of its subset ``split``.

    Boxes, polygons and masks become instances, a rotated box by its extent; classes are in the order of the file. File names begin
    with the subset where the names alone would stand for several images, as CVAT lays out the images of a project. Raises
    `UserError` where the file cannot be read or is not valid.
    """
    root = read_xml(path)
    if root.tag == "annotation":
        raise UserError(f"{path}: is VOC's XML of one image; name the folder in which it lies")
    labels = [(name.text or "").strip() for name in root.iterfind("./meta//labels/label/name")]
    collected = Collected(tuple(dict.fromkeys(label for label in labels if label)))
    images = _of_split(root.findall("image"), split, path)
    for tag in (child.tag for child in root if child.tag not in ("version", "meta", "image")):
        collected.lost[f"elements <{tag:.40}>"] += 1
    pictures = path.parent / "images"
    by_subset = _needs_subsets(images) or any(os.path.isfile(_picture(image, True, pictures)) for image in images[:1])
    for row, image in enumerate(images):
        where = f"{path}: image {row}"
        width, height = (_whole(image, key, where) for key in ("width", "height"))
        if min(width, height) < 1 or width * height * BYTES_A_PIXEL > MAX_BYTES:
            raise UserError(f"{where}: cannot be {width} x {height} pixels; correct the file")
        _text(image, "name", where)
        image_id = collected.image(_picture(image, by_subset, Path()).as_posix(), height, width)
        for shape in image:
            _take(collected, image_id, shape, (height, width), f"{where} {image.get('name')!r:.80}")
    coco, lost = collected.coco()
    return Reading(coco, pictures if pictures.is_dir() else None, lost)


def _of_split(images: list[ElementTree.Element], split: str | None, path: Path) -> list[ElementTree.Element]:
    if not images:
        raise UserError(f"{path}: has no images; export the task as 'CVAT for images 1.1'")
    of_split = [image for image in images if split is None or image.get("subset") == split]
    if not of_split:
        subsets = sorted({subset for image in images if (subset := image.get("subset"))})
        raise UserError(f"{path}: has no subset '{split}'; its subsets are {', '.join(subsets) or 'none'}")
    return of_split


def _needs_subsets(images: list[ElementTree.Element]) -> bool:
    """Whether images of different subsets have the same name."""
    subsets: dict[str | None, set[str | None]] = {}
    for image in images:
        subsets.setdefault(image.get("name"), set()).add(image.get("subset"))
    return any(len(of_name) > 1 for of_name in subsets.values())


def _picture(image: ElementTree.Element, by_subset: bool, folder: Path) -> Path:
    subset = image.get("subset") if by_subset else None
    return folder / (subset or "") / (image.get("name") or "")


def _take(collected: Collected, image_id: int, shape: ElementTree.Element, size: tuple[int, int], where: str) -> None:
    """Add a shape; what is not read of it is counted."""
    if shape.tag not in ("box", "polygon", "mask", "tag"):
        collected.lost[f"shapes of the kind {shape.tag:.40}"] += 1
        return
    label = _text(shape, "label", where)
    if shape.tag == "tag":
        collected.lost["tags of whole images"] += 1
        return
    collected.lost["attributes of shapes"] += len(shape)
    collected.lost["marks of occluded shapes"] += is_true(shape.get("occluded")) is not False
    collected.lost["groups of shapes"] += is_true(shape.get("group_id")) is not False
    if shape.tag == "box":
        collected.box(image_id, label, _extent(shape, collected.lost, where))
    elif shape.tag == "polygon":
        try:
            points = [(float(x), float(y)) for x, y in (point.split(",") for point in _text(shape, "points", where).split(";"))]
        except ValueError:
            points = []
        if len(points) < 3 or not all(abs(number) < MAX_COORDINATE for point in points for number in point):
            raise UserError(f"{where}: a polygon must have points 'x,y;x,y;x,y', got {shape.get('points')!r:.60}; correct the file")
        collected.outline(image_id, label, points)
    else:
        _take_mask(collected, image_id, label, shape, size, where)
    collected.instances[-1] |= origin_of(None, shape.get("source"))


def _extent(box: ElementTree.Element, lost: Counter[str], where: str) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of a box, which is turned around its centre by ``rotation`` degrees."""
    x1, y1, x2, y2 = (_number(box, key, where) for key in ("xtl", "ytl", "xbr", "ybr"))
    turn = math.radians(_number(box, "rotation", where) % 180) if box.get("rotation") else 0.0
    if not turn:
        return x1, y1, x2, y2
    lost["rotations of boxes (their extents are read)"] += 1
    cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
    width, height = abs(x2 - x1), abs(y2 - y1)
    x, y, half_width, half_height = (x1 + x2) / 2, (y1 + y2) / 2, (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def _take_mask(
    collected: Collected, image_id: int, label: str, shape: ElementTree.Element, size: tuple[int, int], where: str
) -> None:
    """Add a mask, whose run lengths go along the rows of a rectangle, zeros first."""
    left, top, width, height = (_whole(shape, key, where) for key in ("left", "top", "width", "height"))
    try:
        counts = [int(count) for count in _text(shape, "rle", where).split(",")]
    except ValueError:
        counts = [-1]
    inside = left >= 0 and top >= 0 and left + width <= size[1] and top + height <= size[0]
    if not inside or min(width, height) < 1 or min(counts) < 0 or sum(counts) != width * height:
        raise UserError(f"{where}: a mask must lie in the image and have run lengths of its {width} x {height} pixels")
    values = np.repeat(np.arange(len(counts), dtype=np.uint32).astype(np.uint8) % 2, counts)
    pixels = np.zeros(size, dtype=np.uint8, order="F")
    pixels[top : top + height, left : left + width] = values.reshape(height, width)
    code = coco_mask.encode(pixels)
    text = code["counts"].decode("ascii") if isinstance(code["counts"], bytes) else code["counts"]
    box = np.asarray(coco_mask.toBbox(code), dtype=np.float64).reshape(-1).tolist()
    collected.mask(image_id, label, {"size": list(size), "counts": text}, box, int(pixels.sum()))


def _whole(element: ElementTree.Element, key: str, where: str) -> int:
    number = _number(element, key, where)
    if number % 1:
        raise UserError(f"{where}: <{element.tag}> '{key}' must be a whole number, got {element.get(key)!r:.40}; correct the file")
    return int(number)


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
