"""The first part of a repair: rows of a COCO file that its reader refuses are corrected, or left out where nothing can be meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from boxwood.columns import UNWRITABLE, are_numbers, are_run_lengths, is_number, is_whole
from boxwood.data.categories import keypoint_declaration
from boxwood.data.coco_variants import as_meant, box_of_mask, without_root_class
from boxwood.data.shards import Shards, open_pictures
from boxwood.errors import UserError

__all__ = ["readable_rows", "unused_ids"]


def readable_rows(tree: Mapping[str, Any], path: str | Path, folder: str | Path) -> tuple[dict[str, Any], Counter[str]]:
    """A copy of a file's JSON ``tree`` that `boxwood.data.coco_file.coco_file_of` reads, with the names that the images have in
    ``folder``; and what was done, in words with their counts.

    Raises `UserError` where a section is not a list, or none of its images or classes can be read.
    """
    for section in ("images", "annotations", "categories"):
        if not isinstance(tree[section], list):
            raise UserError(f"{path}: is not COCO: '{section}' must be a list, got a {type(tree[section]).__name__}")
    tree, root = without_root_class(tree)
    tree, readings = as_meant(tree)
    done: Counter[str] = Counter()
    for reading in [*root, *readings]:
        done[f"{reading.problem}: {reading.reading}"] += reading.count
    images, image_ids = _images([dict(row) for row in _mappings(tree, "images", done)], folder, done)
    categories, category_ids = _categories([dict(row) for row in _mappings(tree, "categories", done)], done)
    if not images or not categories:
        empty = "images" if not images else "categories"
        raise UserError(f"{path}: none of its '{empty}' can be read, so nothing is left to repair")
    annotations = []
    for row in _mappings(tree, "annotations", done):
        annotation = _annotation(dict(row), image_ids, category_ids, done)
        if annotation is not None:
            annotations.append(annotation)
    _number(annotations, done)
    _equal_keypoints(annotations, done)
    _name_keypoints(categories, annotations, done)
    return {**tree, "images": images, "annotations": annotations, "categories": categories}, done


def unused_ids(used: set[int]) -> Iterator[int]:
    """Whole numbers of 64 bits that are not ``used``: those after the largest, if there is room."""
    largest = max(used, default=0)
    start = largest + 1 if 0 <= largest < 2**62 else 1
    return (number for number in count(start) if number not in used)


# ------------------------------------------------------------------------------------------------------------ internals


def _mappings(tree: Mapping[str, Any], section: str, done: Counter[str]) -> list[dict[str, Any]]:
    rows = [row for row in tree[section] if isinstance(row, dict)]
    if len(rows) < len(tree[section]):
        done[f"rows of '{section}' that are no mappings left out"] += len(tree[section]) - len(rows)
    return rows


def _images(rows: list[dict[str, Any]], folder: str | Path, done: Counter[str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The images that have a name, and their numbers by their ids in the file."""
    images = [row for row in rows if _is_name(row.get("file_name"))]
    if len(images) < len(rows):
        done["images without a file name left out"] += len(rows) - len(images)
    pictures = open_pictures(folder)
    if isinstance(pictures, Shards) or Path(folder).is_dir():
        located = pictures.locate([row["file_name"] for row in images])
        for index, name in {**located.read, **located.likely}.items():
            images[index]["file_name"] = name
            done["names of images replaced by those of the files"] += 1
    ids = _numbered(images, "image", done)
    for image in images:
        for key in ("height", "width"):
            if not is_whole(image.get(key)):
                image[key] = 0  # corrected from the image itself
                done[f"'{key}' of images that was no whole number removed"] += 1
    return images, ids


def _categories(rows: list[dict[str, Any]], done: Counter[str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The classes, and their numbers by their ids in the file."""
    ids = _numbered(rows, "class", done)
    for row in rows:
        if not _is_name(row.get("name")):
            done["names of classes that were no text replaced"] += 1
            row["name"] = str(row["name"]) if is_number(row.get("name")) else f"class {row['id']}"
    return rows, ids


def _numbered(rows: list[dict[str, Any]], what: str, done: Counter[str]) -> dict[str, int]:
    """Give rows numbers as ids, where they have others, and return the number of each id that was there."""
    new_ids = unused_ids({int(row["id"]) for row in rows if is_whole(row.get("id"))})
    ids: dict[str, int] = {}
    for row in rows:
        key = _key(row.get("id"))
        if not is_whole(row.get("id")):
            done[f"{what} ids that were no whole numbers replaced by numbers"] += 1
            row["id"] = next(new_ids)
        ids.setdefault(key, int(row["id"]))
    return ids


def _key(value: Any) -> str:
    """The same text for an id as a number and as the text of that number."""
    return str(int(value)) if is_whole(value) else str(value)[:1000]


def _annotation(
    row: dict[str, Any], image_ids: dict[str, int], category_ids: dict[str, int], done: Counter[str]
) -> dict[str, Any] | None:
    """An annotation that can be read, or None."""
    for key, known, what in (("image_id", image_ids, "images"), ("category_id", category_ids, "classes")):
        identity = _key(row.get(key))
        if row.get(key) is None or identity not in known:
            done[f"annotations of unknown {what} left out"] += 1
            return None
        row[key] = known[identity]
    if not is_whole(row.get("iscrowd", 0)):
        done["values of 'iscrowd' that were no whole number replaced by 0 or 1"] += 1
        row["iscrowd"] = int(row["iscrowd"] is True)
    _readable_mask(row, done)
    return row if _readable_box(row, done) else None


def _readable_box(row: dict[str, Any], done: Counter[str]) -> bool:
    """Make 'bbox' four numbers: those that its texts say, or the box around the mask. Returns whether it has some."""
    box = row.get("bbox")
    if isinstance(box, list) and len(box) == 4:
        if are_numbers(box):
            return True
        numbers = [_number_of(value) for value in box]
        if None not in numbers:
            done["boxes written as text read as numbers"] += 1
            row["bbox"] = numbers
            return True
    row["bbox"] = box_of_mask(row.get("segmentation"))
    if row["bbox"] is None:
        done["annotations without a box of four numbers left out"] += 1
        return False
    done["boxes that were not four numbers taken from the masks"] += 1
    return True


def _number_of(value: Any) -> float | None:
    if is_number(value):
        return float(value)
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _readable_mask(row: dict[str, Any], done: Counter[str]) -> None:
    mask = row.get("segmentation")
    if isinstance(mask, list):
        parts = [part for part in mask if isinstance(part, list) and are_numbers(part)]
        if len(parts) < len(mask):
            done["masks from which parts that are no numbers were removed"] += 1
            row["segmentation"] = parts
    elif mask is not None and not are_run_lengths(mask):
        done["masks that are neither polygons nor run lengths removed"] += 1
        del row["segmentation"]


def _number(rows: list[dict[str, Any]], done: Counter[str]) -> None:
    new_ids = unused_ids({int(row["id"]) for row in rows if is_whole(row.get("id"))})
    for row in rows:
        if not is_whole(row.get("id")):
            done["annotation ids that were no whole numbers replaced by numbers"] += 1
            row["id"] = next(new_ids)


def _equal_keypoints(rows: list[dict[str, Any]], done: Counter[str]) -> None:
    """Remove the keypoints of annotations that are not as most: so many times three numbers."""
    values = [row.get("keypoints") for row in rows]
    lengths = Counter(len(value) for value in values if isinstance(value, list) and value and len(value) % 3 == 0)
    width = lengths.most_common(1)[0][0] if lengths else 0
    for row in rows:
        value = row.get("keypoints")
        if value and not (isinstance(value, list) and len(value) == width and are_numbers(value)):
            done[f"keypoints that were not {width} numbers as in most annotations removed"] += 1
            del row["keypoints"]
            row.pop("num_keypoints", None)


def _name_keypoints(categories: list[dict[str, Any]], annotations: list[dict[str, Any]], done: Counter[str]) -> None:
    """Make the keypoints of categories a list of names with a skeleton as COCO's; of all categories where none names any."""
    num_given = next((len(row["keypoints"]) // 3 for row in annotations if row.get("keypoints")), 0)
    made_up = [f"keypoint_{number}" for number in range(1, num_given + 1)]
    for row in categories:
        declaration = keypoint_declaration(row)
        if declaration.problem:
            names = row.get("keypoints")
            if not keypoint_declaration({"keypoints": names}).names:
                done["lists of keypoints that were no names replaced by keypoint_1, keypoint_2, ..."] += 1
                row["keypoints"] = made_up
            for key in ("skeleton", "sigmas"):
                if row.get(key) and keypoint_declaration({"keypoints": row["keypoints"], key: row[key]}).problem:
                    done[f"'{key}' of keypoints that could not be read removed"] += 1
                    del row[key]
            declaration = keypoint_declaration(row)
        if declaration.reading:
            done[f"skeletons written {declaration.reading} written as COCO's"] += 1
            row["skeleton"] = [[start + 1, end + 1] for start, end in declaration.skeleton]
    if num_given and not any(keypoint_declaration(row).names for row in categories):
        for row in categories:
            row["keypoints"] = made_up
        done["classes whose keypoints were named keypoint_1, keypoint_2, ... (name left and right so, for mirror images)"] += len(
            categories
        )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not UNWRITABLE.search(value)
