"""LabelMe's JSON, one file for each image: shapes with a label and points in pixels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from boxwood.columns import is_point, read_json
from boxwood.data.formats.collect import Collected
from boxwood.errors import UserError

__all__ = ["read_labelme"]

CORNERS = 32
"""Corners of the polygon that approximates a circle."""


def read_labelme(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """A COCO dictionary of all files ``*.json`` in a folder, and descriptions of what it lacks. File names are each ``imagePath``.

    Rectangles become boxes, polygons and circles outlines. Shapes of one label and ``group_id`` are parts of one instance. Raises
    `UserError` where there are no files, or one cannot be read or is not valid.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder}: has no *.json; name a folder of LabelMe's files")
    collected = Collected()
    for path in files:
        tree = _read(path)
        image_id = collected.image(tree["imagePath"].replace("\\", "/"), tree["imageHeight"], tree["imageWidth"])
        groups: dict[tuple[str, Any], int] = {}
        for row, shape in enumerate(tree["shapes"]):
            _take(collected, image_id, shape, groups, f"{path}: shapes row {row}")
    return collected.coco()


def _take(collected: Collected, image_id: int, shape: Any, groups: dict[tuple[str, Any], int], where: str) -> None:
    label = shape.get("label") if isinstance(shape, dict) else None
    points = shape.get("points") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label or not isinstance(points, list) or not all(map(is_point, points)):
        raise UserError(f"{where}: must have a label, and points [x, y]; correct the file")
    kind, group = shape.get("shape_type") or "polygon", shape.get("group_id")
    if kind == "rectangle" and len(points) == 2:
        collected.box(image_id, label, (*points[0], *points[1]))
    elif kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        turns = [2 * math.pi * corner / CORNERS for corner in range(CORNERS)]
        collected.outline(image_id, label, [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns])
    elif kind == "polygon" and len(points) >= 3:
        collected.outline(image_id, label, [(x, y) for x, y in points])
        if group is not None and (label, group) in groups:
            _join(collected, groups[label, group])
            return
        if group is not None:
            groups[label, group] = len(collected.instances) - 1
    else:
        collected.lost[f"shapes of the kind {kind}" if isinstance(kind, str) else "shapes of no kind"] += 1


def _join(collected: Collected, place: int) -> None:
    """Merge the last instance into the one at index ``place``."""
    part, whole = collected.instances.pop(), collected.instances[place]
    x1, y1 = (min(whole["bbox"][axis], part["bbox"][axis]) for axis in (0, 1))
    x2, y2 = (max(instance["bbox"][axis] + instance["bbox"][axis + 2] for instance in (whole, part)) for axis in (0, 1))
    whole["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    whole["area"] += part["area"]
    whole["segmentation"] += part["segmentation"]


def _read(path: Path) -> dict[str, Any]:
    tree = read_json(path, "copy it again")
    types = {"imagePath": str, "imageHeight": int, "imageWidth": int, "shapes": list}
    for key, kind in types.items():
        value = tree.get(key) if isinstance(tree, dict) else None
        if type(value) is not kind:
            raise UserError(f"{path}: '{key}' must be {'text' if kind is str else f'a {kind.__name__}'}; name a LabelMe file")
    checked: dict[str, Any] = tree
    return checked
