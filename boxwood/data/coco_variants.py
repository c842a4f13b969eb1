"""What other programs write in place of COCO, and means one thing only: read as it is meant, and counted.

as_meant              rows: numbers as text, polygons without the outer list, missing ids, boxes that only the mask gives, ...
without_root_class    the class that only names the others
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hotcoco import mask as coco_mask

from boxwood.columns import are_numbers, is_whole

__all__ = ["Variant", "as_meant", "box_of_mask", "without_root_class"]


@dataclass
class Variant:
    """One kind of difference from COCO: how often, the first examples, and how it is read."""

    problem: str
    reading: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < 3:
            self.examples.append(example)


def without_root_class(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[Variant]]:
    """A COCO dictionary without the class that Roboflow writes first: it has the supercategory ``none``, is the supercategory of
    all others, and has no annotation."""
    tree = dict(tree)
    categories, annotations = tree.get("categories"), tree.get("annotations")
    if not isinstance(categories, list) or len(categories) < 2 or not all(isinstance(row, dict) for row in categories):
        return tree, []
    roots = [row for row in categories if row.get("supercategory") == "none" and isinstance(row.get("name"), str)]
    if len(roots) != 1 or any(row.get("supercategory") != roots[0]["name"] for row in categories if row is not roots[0]):
        return tree, []
    (root,) = roots
    if any(isinstance(row, dict) and row.get("category_id") == root.get("id") for row in annotations or ()):
        return tree, []
    tree["categories"] = [row for row in categories if row is not root]
    reading = Variant("classes that are only the supercategory of all others", "not a class, and left out")
    reading.add(f"'{root['name']}'")
    return tree, [reading]


def as_meant(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[Variant]]:
    """A COCO dictionary whose rows are as COCO writes them, as far as it is sure what they mean; rows that are wrong in another way
    stay as they are. The rows of ``tree`` are not changed."""
    tree = dict(tree)
    readings: dict[str, Variant] = {}

    def note(problem: str, reading: str, example: str) -> None:
        readings.setdefault(problem, Variant(problem, reading)).add(example)

    for section, keys in (("images", ("id", "height", "width")), ("categories", ("id",))):
        if isinstance(tree.get(section), list):
            tree[section] = [_with_numbers(dict(row), keys, section, i, note) if isinstance(row, dict) else row
                             for i, row in enumerate(tree[section])]  # fmt: skip
    if isinstance(tree.get("annotations"), list):
        tree["annotations"] = [
            _annotation(dict(row), i, note) if isinstance(row, dict) else row for i, row in enumerate(tree["annotations"])
        ]
        _number(tree["annotations"], note)
    return tree, list(readings.values())


def box_of_mask(segmentation: Any) -> list[float] | None:
    """x, y, width, height around polygons or run lengths as COCO writes them; None where they have no extent or are damaged."""
    if isinstance(segmentation, list):
        parts = [part for part in segmentation if isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0]
        if not parts or not all(map(are_numbers, parts)):
            return None
        points = np.concatenate([np.array(part, dtype=np.float64).reshape(-1, 2) for part in parts])
        box = [*points.min(axis=0).tolist(), *np.ptp(points, axis=0).tolist()]
    elif isinstance(segmentation, dict):
        try:
            if isinstance(segmentation["counts"], list):
                segmentation = coco_mask.frPyObjects(segmentation, *segmentation["size"])
            box = np.asarray(coco_mask.toBbox(segmentation), dtype=np.float64).reshape(-1).tolist()
        except Exception:  # The decoder's errors are of several types.
            return None
    else:
        return None
    return box if np.isfinite(box).all() and min(box[2:]) > 0 else None


# ------------------------------------------------------------------------------------------------------------ internals

_DIGITS = re.compile(r"[+-]?[0-9]{1,18}")


def _with_numbers(row: dict[str, Any], keys: tuple[str, ...], section: str, index: int, note: Any) -> dict[str, Any]:
    for key in keys:
        value = row.get(key)
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            note("whole numbers that are written as text", "read as numbers", f"{section} row {index}: '{key}' is '{value}'")
            row[key] = int(value)
    return row


def _annotation(row: dict[str, Any], index: int, note: Any) -> dict[str, Any]:
    where = f"annotations row {index}"
    _with_numbers(row, ("id", "image_id", "category_id", "iscrowd"), "annotations", index, note)
    if "iscrowd" in row and row["iscrowd"] is None:
        note("annotations whose 'iscrowd' is null", "read as 0", where)
        row["iscrowd"] = 0
    mask = row.get("segmentation")
    if isinstance(mask, list) and len(mask) >= 6 and len(mask) % 2 == 0 and are_numbers(mask):
        note("polygons without the list around them", "read as masks of one polygon", where)
        row["segmentation"] = [mask]
    elif isinstance(mask, dict):
        row["segmentation"] = _run_lengths(dict(mask), where, note)
    if not row.get("bbox") and (box := box_of_mask(row.get("segmentation"))) is not None:
        note("annotations that have a mask and no 'bbox'", "the box around the mask is taken", where)
        row["bbox"] = box
    return row


def _run_lengths(mask: dict[str, Any], where: str, note: Any) -> dict[str, Any]:
    counts = mask.get("counts")
    if isinstance(counts, str) and re.fullmatch(r"b'[^']*'|b\"[^\"]*\"", counts):
        note("run lengths that are written as Python's text of bytes, b'...'", "read without b''", where)
        mask["counts"] = counts[2:-1].replace("\\\\", "\\")
    for key in ("size", "counts"):
        numbers = mask.get(key)
        if (
            isinstance(numbers, list)
            and any(isinstance(n, float) for n in numbers)
            and all(type(n) in (int, float) and is_whole(n) for n in numbers)
        ):
            note(f"run lengths whose '{key}' has decimal points", "read as whole numbers", where)
            mask[key] = [int(n) for n in numbers]
    return mask


def _number(rows: list[Any], note: Any) -> None:
    """Ids for annotations without one, after the largest there is."""
    known = [int(row["id"]) for row in rows if isinstance(row, dict) and is_whole(row.get("id"))]
    largest = max(known, default=0)
    for index, row in enumerate(rows):
        if isinstance(row, dict) and row.get("id") is None and largest < 2**63 - 1:
            largest += 1
            note("annotations without 'id'", "numbered", f"annotations row {index}")
            row["id"] = largest
