"""A COCO file without its faults: what training would refuse is taken out or corrected, and everything else stays as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from boxwood.data.coco_file import POLYGONS, RLE_COUNTS, RLE_TEXT, CocoFile
from boxwood.data.images import read_header, read_image
from boxwood.data.quality.checks import check_boxes, check_masks
from boxwood.data.quality.warnings import duplicated_boxes
from boxwood.errors import UserError

__all__ = ["repaired"]


def repaired(tree: Mapping[str, Any], file: CocoFile, folder: str | Path, *, exif: bool = True) -> tuple[dict[str, Any], list[str]]:
    """A copy of a file's JSON ``tree``, of which ``file`` has the arrays, that can be trained on; and what was done, in words.

    Left out are images that are not in ``folder`` or cannot be read, those with an id or a name that stood before, annotations of
    no image or class, boxes without area in their image, and those that stand twice. Sizes are corrected from the images, boxes
    cut at their image, masks that cannot be decoded taken off; keypoints outside the image become not labelled; ids that stand
    twice are new. Raises `UserError` where nothing would be left.
    """
    done: Counter[str] = Counter()
    images, sizes = _images(tree, file, Path(folder), exif, done)
    categories, same = _categories(tree, done)
    kept = {image["id"] for image in images}
    # Boxes are judged in the sizes that the images really have.
    corrected = file.image_sizes.copy()
    for row, size in sizes.items():
        corrected[row] = size
    file = replace(file, image_sizes=corrected)
    boxes, _ = check_boxes(file)
    usable_parts, _ = check_masks(file)
    twice, seen = duplicated_boxes(file), set()
    next_id = int(file.ids.max(initial=0)) + 1
    annotations: list[dict[str, Any]] = []
    for row, original in enumerate(tree["annotations"]):
        annotation = dict(original)
        if annotation["image_id"] not in kept:
            done["annotations of images that are not there left out"] += 1
            continue
        if annotation["category_id"] not in same:
            done["annotations of unknown classes left out"] += 1
            continue
        if not boxes.usable[row]:
            done["boxes without area in their image left out"] += 1
            continue
        if twice[row]:
            done["boxes that stand twice left out"] += 1
            continue
        annotation["category_id"] = same[annotation["category_id"]]
        x1, y1, x2, y2 = boxes.boxes[row].tolist()
        x, y, width, height = file.boxes[row].tolist()
        if max(abs(x - x1), abs(y - y1), abs(x + width - x2), abs(y + height - y2)) > 1e-3 * max(1.0, x2, y2):
            done["boxes cut at their image"] += 1
            annotation["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        if annotation["id"] in seen:
            done["annotations with an id that stood before given a new one"] += 1
            annotation["id"], next_id = next_id, next_id + 1
        seen.add(annotation["id"])
        _repair_mask(annotation, file, row, usable_parts, done)
        _repair_keypoints(annotation, corrected[file.image_rows[row]], done)
        annotations.append(annotation)
    if not images:
        raise UserError(f"{file.path}: no image of it can be read in {folder}, so nothing is left to repair; name their folder")
    content = {**tree, "images": images, "annotations": annotations, "categories": categories}
    return content, [f"{count:,} {what}" for what, count in done.items()]


def _images(
    tree: Mapping[str, Any], file: CocoFile, folder: Path, exif: bool, done: Counter[str]
) -> tuple[list[dict[str, Any]], dict[int, tuple[int, int]]]:
    """The images that stay, and the right size of each row."""
    images: list[dict[str, Any]] = []
    sizes: dict[int, tuple[int, int]] = {}
    ids: set[int] = set()
    names: set[str] = set()
    for row, original in enumerate(tree["images"]):
        name = file.file_name(row)
        if original["id"] in ids or name in names:
            done["images with an id or a name that stood before left out"] += 1
            continue
        try:
            header = read_header(folder / name)
            read_image(folder / name)
        except UserError:
            done["images that are not there or cannot be read left out"] += 1
            continue
        image = dict(original)
        size = (int(image["height"]), int(image["width"]))
        right = header.oriented if exif else header.stored
        if size not in (right, header.stored):
            done["sizes of images corrected"] += 1
            image["height"], image["width"] = size = right
        ids.add(image["id"])
        names.add(name)
        sizes[row] = size
        images.append(image)
    return images, sizes


def _categories(tree: Mapping[str, Any], done: Counter[str]) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """The classes that stay, and for every id the one that stands for it."""
    categories: list[dict[str, Any]] = []
    by_name: dict[str, int] = {}
    same: dict[int, int] = {}
    for category in tree["categories"]:
        name = str(category["name"])
        if category["id"] in same:
            done["classes with an id that stood before left out"] += 1
        elif name in by_name:
            done["classes with a name that stood before made one with that"] += 1
            same[category["id"]] = by_name[name]
        else:
            same[category["id"]] = by_name[name] = category["id"]
            categories.append(dict(category))
    return categories, same


def _repair_mask(annotation: dict[str, Any], file: CocoFile, row: int, usable_parts: Any, done: Counter[str]) -> None:
    if file.mask_kinds[row] == POLYGONS:
        usable = usable_parts[file.parts[row] : file.parts[row + 1]]
        if not usable.all():
            done["masks without their parts that are no polygon"] += 1
            annotation["segmentation"] = [part for part, good in zip(annotation["segmentation"], usable, strict=True) if good]
    elif file.mask_kinds[row] in (RLE_TEXT, RLE_COUNTS):
        sound = file.rle_sizes[row].tolist() == file.image_sizes[file.image_rows[row]].tolist()
        if sound:
            try:
                file.decoded(row)
            except ValueError:
                sound = False
        if not sound:
            done["masks that cannot be decoded or are of another size taken off"] += 1
            del annotation["segmentation"]


def _repair_keypoints(annotation: dict[str, Any], size: Any, done: Counter[str]) -> None:
    """Those outside the image are not labelled."""
    if not annotation.get("keypoints"):
        return
    points = np.array(annotation["keypoints"], dtype=np.float64).reshape(-1, 3)
    outside = (points[:, 2] > 0) & ((points[:, :2] < -1) | (points[:, :2] > size[::-1])).any(axis=1)
    if outside.any():
        done["instances whose keypoints outside the image are now not labelled"] += 1
        points[outside] = 0
        annotation["keypoints"] = points.flatten().tolist()
        annotation["num_keypoints"] = int((points[:, 2] > 0).sum())
