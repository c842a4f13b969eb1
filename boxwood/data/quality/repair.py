"""A repaired copy of a COCO file: what training would refuse is removed or corrected, everything else stays as it is.

`boxwood.data.quality.repair_rows` makes the rows readable first, so that files which the reader refuses are repaired too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood.columns import is_area
from boxwood.data.coco_file import POLYGONS, RLE_COUNTS, RLE_TEXT, CocoFile, coco_file_of
from boxwood.data.images import read_header, read_image
from boxwood.data.interactions import with_known_targets
from boxwood.data.quality.box_layouts import recognised_layout, turned
from boxwood.data.quality.checks import check_boxes, check_masks
from boxwood.data.quality.keypoints import placed_keypoints
from boxwood.data.quality.repair_rows import readable_rows, unused_ids
from boxwood.data.quality.warnings import duplicated_boxes
from boxwood.data.shards import open_pictures
from boxwood.errors import UserError
from boxwood.ops.contours import instance_area

__all__ = ["repaired"]


def repaired(
    tree: Mapping[str, Any], path: str | Path, folder: str | Path, *, exif: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """A copy of a file's JSON ``tree`` that can be trained on, and what was done, in words; messages name the file by ``path``.

    Corrected are rows that cannot be read (`readable_rows`), names of images that lie elsewhere in ``folder``, boxes of a file that
    writes all of them as shares of the image or as corners, and boxes whose corners are swapped. Sizes are corrected from the
    images, boxes are clipped to their image, masks that cannot be decoded are removed; areas that are missing or not a positive
    number are computed; keypoints outside the image become not labelled; duplicate annotation ids are replaced.

    Left out are images that are missing in ``folder`` or cannot be read, images with a duplicate id or name, annotations of unknown
    images or classes, boxes without area in their image, and duplicate boxes. Raises `UserError` where no image or no annotation
    would be left.
    """
    has_annotations = bool(tree["annotations"])
    tree, done = readable_rows(tree, path, folder)
    tree = with_known_targets(tree, done)
    file = coco_file_of(tree, path)
    images, sizes = _images(tree, file, Path(folder), exif, done)
    categories, replacement = _categories(tree, done)
    kept_ids = {image["id"] for image in images}
    # Boxes are checked against the corrected sizes.
    corrected = file.image_sizes.copy()
    for row, size in sizes.items():
        corrected[row] = size
    tree, file = _in_pixels(tree, replace(file, image_sizes=corrected), done)
    boxes, _ = check_boxes(file)
    usable_parts, _ = check_masks(file)
    duplicates, seen_ids = duplicated_boxes(file), set()
    new_ids = unused_ids(set(file.ids.tolist()))
    annotations: list[dict[str, Any]] = []
    for row, original in enumerate(tree["annotations"]):
        annotation = dict(original)
        fault = {
            "annotations of missing images": annotation["image_id"] not in kept_ids,
            "annotations of unknown classes": annotation["category_id"] not in replacement,
            "boxes without area in their image": not boxes.usable[row],
            "duplicate boxes": bool(duplicates[row]),
        }
        if any(fault.values()):
            done[f"{next(what for what, has_it in fault.items() if has_it)} left out"] += 1
            continue
        annotation["category_id"] = replacement[annotation["category_id"]]
        _clip(annotation, file.boxes[row].tolist(), boxes.boxes[row].tolist(), done)
        if annotation["id"] in seen_ids:
            done["duplicate annotation ids replaced"] += 1
            annotation["id"] = next(new_ids)
        seen_ids.add(annotation["id"])
        _repair_mask(annotation, file, row, usable_parts, done)
        if not is_area(annotation.get("area")):
            done["areas computed that were missing or not a positive number"] += 1
            annotation["area"] = instance_area(annotation.get("segmentation"), annotation["bbox"])
        _repair_keypoints(annotation, corrected[file.image_rows[row]], done)
        annotations.append(annotation)
    if not images:
        raise UserError(f"{file.path}: no image of it can be read in {folder}, so nothing is left to repair; name their folder")
    if has_annotations and not annotations:
        counts = ", ".join(f"{count:,} {what}" for what, count in done.items())
        raise UserError(f"{file.path}: no annotation of it can be used, so nothing is left to repair ({counts}); annotate again")
    content = with_known_targets({**tree, "images": images, "annotations": annotations, "categories": categories}, done)
    return content, [f"{count:,} {what}" for what, count in done.items()]


def _clip(annotation: dict[str, Any], box: list[float], corners: list[float], done: Counter[str]) -> None:
    """Replace a ``box`` x, y, width, height that is not between the ``corners`` to which it was clipped."""
    x, y, width, height = box
    x1, y1, x2, y2 = corners
    if max(abs(x - x1), abs(y - y1), abs(x + width - x2), abs(y + height - y2)) > 1e-3 * max(1.0, x2, y2):
        done["boxes clipped to their image"] += 1
        annotation["bbox"] = [x1, y1, x2 - x1, y2 - y1]


def _in_pixels(tree: dict[str, Any], file: CocoFile, done: Counter[str]) -> tuple[dict[str, Any], CocoFile]:
    """The tree and its arrays with boxes x, y, width, height in pixels, where all were written in another way or corners were
    swapped; an area that was that of the box remains so."""
    limits = file.image_sizes[file.image_rows][:, [1, 0, 1, 0]].astype(np.float64)
    layout = recognised_layout(file)
    if layout is not None:
        meant = layout.boxes
        done[f"boxes written as {layout.description} turned into x, y, width, height in pixels"] += len(meant)
    else:
        flipped = turned(file.boxes)
        with np.errstate(invalid="ignore"):  # of boxes with infinity, which are not inside
            inside = (flipped[:, :2] >= -1) & (flipped[:, :2] + flipped[:, 2:] <= limits[:, :2] + 1)
        swapped: NDArray[np.bool_] = np.any(file.boxes[:, 2:] < 0, axis=1) & np.all(inside, axis=1)
        if not swapped.any():
            return tree, file
        meant = np.where(swapped[:, None], flipped, file.boxes)
        done["boxes whose corners were swapped turned"] += int(swapped.sum())
    annotations = []
    with np.errstate(invalid="ignore", over="ignore"):
        of_box: NDArray[np.bool_] = np.isclose(np.abs(file.boxes[:, 2:].prod(axis=1)), np.abs(file.areas), rtol=0.01)
    for row, annotation in enumerate(tree["annotations"]):
        if meant[row].tolist() != file.boxes[row].tolist():
            annotation = {**annotation, "bbox": meant[row].tolist()}
            if of_box[row]:
                annotation["area"] = float(meant[row, 2:].prod())
        annotations.append(annotation)
    tree = {**tree, "annotations": annotations}
    if layout is not None and layout.shares:
        _scale_polygons(annotations, limits, done)
    return tree, replace(coco_file_of(tree, file.path), image_sizes=file.image_sizes)


def _scale_polygons(annotations: list[dict[str, Any]], limits: Any, done: Counter[str]) -> None:
    """Turn polygons and keypoints that are shares of the image, as the boxes of the file are, into pixels."""
    polygons = [a["segmentation"] for a in annotations if isinstance(a.get("segmentation"), list)]
    numbers = [number for parts in polygons for part in parts for number in part]
    in_shares = bool(numbers) and min(numbers) >= 0 and max(numbers) <= 1
    places = [p for a in annotations for p in (a.get("keypoints") or [])[0::3] + (a.get("keypoints") or [])[1::3]]
    keypoints_in_shares = bool(places) and min(places) >= 0 and max(places) <= 1
    for annotation, (width, height, _, _) in zip(annotations, limits.tolist(), strict=True):
        if in_shares and isinstance(annotation.get("segmentation"), list):
            sides = (width, height)
            annotation["segmentation"] = [
                [number * sides[index % 2] for index, number in enumerate(part)] for part in annotation["segmentation"]
            ]
            done["masks written as shares of their image turned into pixels"] += 1
        if keypoints_in_shares and annotation.get("keypoints"):
            scale = (width, height, 1)
            annotation["keypoints"] = [number * scale[index % 3] for index, number in enumerate(annotation["keypoints"])]
            done["keypoints written as shares of their image turned into pixels"] += 1


def _images(
    tree: Mapping[str, Any], file: CocoFile, folder: Path, exif: bool, done: Counter[str]
) -> tuple[list[dict[str, Any]], dict[int, tuple[int, int]]]:
    """The images that stay, and the correct size of each row."""
    images: list[dict[str, Any]] = []
    pictures = open_pictures(folder)
    sizes: dict[int, tuple[int, int]] = {}
    ids: set[int] = set()
    names: set[str] = set()
    for row, original in enumerate(tree["images"]):
        name = file.file_name(row)
        if original["id"] in ids or name in names:
            done["images with a duplicate id or name left out"] += 1
            continue
        try:
            picture = pictures.source(name)
            header = read_header(picture)
            read_image(picture)
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
    given = np.array(annotation["keypoints"], dtype=np.float64).reshape(-1, 3)
    points = placed_keypoints(given)
    if not np.array_equal(given, points):
        done["instances whose keypoints at nan, infinity or over a million pixels are marked as not labelled"] += 1
        annotation["keypoints"] = points.flatten().tolist()
        annotation["num_keypoints"] = int((points[:, 2] > 0).sum())
    outside = (points[:, 2] > 0) & ((points[:, :2] < -1) | (points[:, :2] > size[::-1])).any(axis=1)
    if outside.any():
        done["instances whose keypoints outside the image are marked as not labelled"] += 1
        points[outside] = 0
        annotation["keypoints"] = points.flatten().tolist()
        annotation["num_keypoints"] = int((points[:, 2] > 0).sum())
