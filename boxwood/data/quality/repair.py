"""A repaired copy of a COCO file: what training would refuse is removed or corrected, everything else stays as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from boxwood.columns import is_area
from boxwood.data.coco_file import POLYGONS, RLE_COUNTS, RLE_TEXT, CocoFile
from boxwood.data.images import read_header, read_image
from boxwood.data.quality.checks import check_boxes, check_masks
from boxwood.data.quality.warnings import duplicated_boxes
from boxwood.errors import UserError
from boxwood.ops.contours import instance_area

__all__ = ["repaired"]


def repaired(tree: Mapping[str, Any], file: CocoFile, folder: str | Path, *, exif: bool = True) -> tuple[dict[str, Any], list[str]]:
    """A copy of a file's JSON ``tree``, of which ``file`` has the arrays, that can be trained on; and what was done, in words.

    Left out are images that are missing in ``folder`` or cannot be read, images with a duplicate id or name, annotations of
    unknown images or classes, boxes without area in their image, and duplicate boxes. Sizes are corrected from the images, boxes
    are clipped to their image, masks that cannot be decoded are removed; areas that are missing or not a positive number are
    computed; keypoints outside the image become not labelled; duplicate annotation ids are replaced. Raises `UserError` where
    nothing would be left.
    """
    done: Counter[str] = Counter()
    images, sizes = _images(tree, file, Path(folder), exif, done)
    categories, replacement = _categories(tree, done)
    kept_ids = {image["id"] for image in images}
    # Boxes are checked against the corrected sizes.
    corrected = file.image_sizes.copy()
    for row, size in sizes.items():
        corrected[row] = size
    file = replace(file, image_sizes=corrected)
    boxes, _ = check_boxes(file)
    usable_parts, _ = check_masks(file)
    duplicates, seen_ids = duplicated_boxes(file), set()
    next_id = int(file.ids.max(initial=0)) + 1
    annotations: list[dict[str, Any]] = []
    for row, original in enumerate(tree["annotations"]):
        annotation = dict(original)
        if annotation["image_id"] not in kept_ids:
            done["annotations of missing images left out"] += 1
            continue
        if annotation["category_id"] not in replacement:
            done["annotations of unknown classes left out"] += 1
            continue
        if not boxes.usable[row]:
            done["boxes without area in their image left out"] += 1
            continue
        if duplicates[row]:
            done["duplicate boxes left out"] += 1
            continue
        annotation["category_id"] = replacement[annotation["category_id"]]
        x1, y1, x2, y2 = boxes.boxes[row].tolist()
        x, y, width, height = file.boxes[row].tolist()
        if max(abs(x - x1), abs(y - y1), abs(x + width - x2), abs(y + height - y2)) > 1e-3 * max(1.0, x2, y2):
            done["boxes clipped to their image"] += 1
            annotation["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        if annotation["id"] in seen_ids:
            done["duplicate annotation ids replaced"] += 1
            annotation["id"], next_id = next_id, next_id + 1
        seen_ids.add(annotation["id"])
        _repair_mask(annotation, file, row, usable_parts, done)
        if not is_area(annotation.get("area")):
            done["areas computed that were missing or not a positive number"] += 1
            annotation["area"] = instance_area(annotation.get("segmentation"), annotation["bbox"])
        _repair_keypoints(annotation, corrected[file.image_rows[row]], done)
        annotations.append(annotation)
    if not images:
        raise UserError(f"{file.path}: no image of it can be read in {folder}, so nothing is left to repair; name their folder")
    content = {**tree, "images": images, "annotations": annotations, "categories": categories}
    return content, [f"{count:,} {what}" for what, count in done.items()]


def _images(
    tree: Mapping[str, Any], file: CocoFile, folder: Path, exif: bool, done: Counter[str]
) -> tuple[list[dict[str, Any]], dict[int, tuple[int, int]]]:
    """The images that stay, and the correct size of each row."""
    images: list[dict[str, Any]] = []
    sizes: dict[int, tuple[int, int]] = {}
    ids: set[int] = set()
    names: set[str] = set()
    for row, original in enumerate(tree["images"]):
        name = file.file_name(row)
        if original["id"] in ids or name in names:
            done["images with a duplicate id or name left out"] += 1
            continue
        try:
            header = read_header(folder / name)
            read_image(folder / name)
        except UserError:
            done["images that are missing or cannot be read left out"] += 1
            continue
        image = dict(original)
        size = (int(image["height"]), int(image["width"]))
        correct = header.oriented if exif else header.stored
        if size not in (correct, header.stored):
            done["sizes of images corrected"] += 1
            image["height"], image["width"] = size = correct
        ids.add(image["id"])
        names.add(name)
        sizes[row] = size
        images.append(image)
    return images, sizes


def _categories(tree: Mapping[str, Any], done: Counter[str]) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """The classes that stay, and for every id that of the class it is replaced by."""
    categories: list[dict[str, Any]] = []
    by_name: dict[str, int] = {}
    replacement: dict[int, int] = {}
    for category in tree["categories"]:
        name = str(category["name"])
        if category["id"] in replacement:
            done["classes with a duplicate id left out"] += 1
        elif name in by_name:
            done["classes with a duplicate name merged"] += 1
            replacement[category["id"]] = by_name[name]
        else:
            replacement[category["id"]] = by_name[name] = category["id"]
            categories.append(dict(category))
    return categories, replacement


def _repair_mask(annotation: dict[str, Any], file: CocoFile, row: int, usable_parts: Any, done: Counter[str]) -> None:
    if file.mask_kinds[row] == POLYGONS:
        usable = usable_parts[file.parts[row] : file.parts[row + 1]]
        if not usable.all():
            done["masks from which parts that are no polygon were removed"] += 1
            annotation["segmentation"] = [part for part, good in zip(annotation["segmentation"], usable, strict=True) if good]
    elif file.mask_kinds[row] in (RLE_TEXT, RLE_COUNTS):
        sound = file.rle_sizes[row].tolist() == file.image_sizes[file.image_rows[row]].tolist()
        if sound:
            try:
                file.decoded(row)
            except ValueError:
                sound = False
        if not sound:
            done["masks that cannot be decoded or have another size removed"] += 1
            del annotation["segmentation"]


def _repair_keypoints(annotation: dict[str, Any], size: Any, done: Counter[str]) -> None:
    """Those outside the image are not labelled."""
    if not annotation.get("keypoints"):
        return
    points = np.array(annotation["keypoints"], dtype=np.float64).reshape(-1, 3)
    outside = (points[:, 2] > 0) & ((points[:, :2] < -1) | (points[:, :2] > size[::-1])).any(axis=1)
    if outside.any():
        done["instances whose keypoints outside the image are marked as not labelled"] += 1
        points[outside] = 0
        annotation["keypoints"] = points.flatten().tolist()
        annotation["num_keypoints"] = int((points[:, 2] > 0).sum())
