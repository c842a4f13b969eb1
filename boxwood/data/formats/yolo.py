"""YOLO's text files: a file for each image, a line for each instance; and a ``data.yaml`` that names the classes.

images/train/a.jpg, labels/train/a.txt:   2 0.5 0.5 0.25 0.1    (class, centre, width and height, as fractions of the image)
                                          2 0.1 0.1 0.9 0.1 0.9 0.9    (class, and the points of an outline)

Where ``data.yaml`` has a ``kpt_shape``, keypoints follow the box; these are not read, since the format does not name them.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boxwood.data.images import read_header
from boxwood.errors import UserError
from boxwood.files import write_text
from boxwood.safe_yaml import parse_mapping

__all__ = ["read_yolo", "write_yolo"]

logger = logging.getLogger(__name__)

IMAGES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))


def read_yolo(path: Path, split: str = "train") -> tuple[dict[str, Any], Path]:
    """A COCO dictionary of one split of a ``data.yaml``, and the folder that its file names are relative to.

    A split is a folder of images, a text file that lists images, or a list of these; for several the folder is the common parent.
    Image sizes are read from the headers of the images. Category ids are the class numbers plus 1. An image without a text file has
    no instances. Raises `UserError` where a file is missing or a line is not valid.
    """
    places, names, keypoints = _read_yaml(path, split)
    files = sorted({file for place in places for file in _images_of(place, path, split)})
    folder = places[0]
    if len(places) > 1 or not folder.is_dir():
        folder = Path(os.path.commonpath([file.parent for file in files]))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, file in enumerate(files, start=1):
        height, width = read_header(file).oriented
        name = file.relative_to(folder).as_posix()
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for annotation in _read_labels(_labels_of(file), (height, width), len(names), keypoints):
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0, **annotation})
    if unlabelled := sum(not _labels_of(file).exists() for file in files):
        logger.warning("%s: %d of %d images have no text file, and so no instances", path, unlabelled, len(files))
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}, folder


def write_yolo(coco: Mapping[str, Any], folder: Path, split: str) -> list[str]:
    """Write ``folder/labels/SPLIT/*.txt`` and ``folder/data.yaml``, which expects the images in ``folder/images/SPLIT``; returns
    descriptions of what YOLO's format cannot hold.

    An existing ``data.yaml`` keeps its other splits. Raises `UserError` where it has other classes, where two images would have the
    same text file, and where a file name leads out of the folder.
    """
    names = [str(category["name"]) for category in sorted(coco["categories"], key=lambda category: category["id"])]
    numbers = {category["id"]: number for number, category in enumerate(sorted(coco["categories"], key=lambda c: c["id"]))}
    lines: dict[int, list[str]] = {image["id"]: [] for image in coco["images"]}
    sizes = {image["id"]: (image["height"], image["width"]) for image in coco["images"]}
    crowds = 0
    for annotation in coco["annotations"]:
        if annotation.get("iscrowd"):
            crowds += 1
            continue
        (x, y, width, height), (rows, columns) = annotation["bbox"], sizes[annotation["image_id"]]
        shares = ((x + width / 2) / columns, (y + height / 2) / rows, width / columns, height / rows)
        lines[annotation["image_id"]].append(" ".join(map(repr, (numbers[annotation["category_id"]], *map(float, shares)))))
    targets = {image["id"]: Path(image["file_name"]).with_suffix(".txt") for image in coco["images"]}
    if len(set(targets.values())) < len(targets):
        raise UserError(f"{folder}: two images differ only in their ending, and YOLO has one text file for both; rename one")
    splits = {split: f"images/{split}"}
    if (folder / "data.yaml").is_file():
        content, _ = parse_mapping((folder / "data.yaml").read_text(encoding="utf-8-sig"), str(folder / "data.yaml"))
        if _names(content, folder / "data.yaml") != names:
            raise UserError(f"{folder / 'data.yaml'}: has other classes than these; name another folder")
        splits = {key: content[key] for key in ("train", "val", "test") if content.get(key)} | splits
    for target in targets.values():
        if target.is_absolute() or ".." in target.parts:
            raise UserError(f"{target}: the image lies outside its folder; give file names relative to it")
    for image_id, target in targets.items():
        write_text(folder / "labels" / split / target, "".join(f"{line}\n" for line in lines[image_id]))
    listed = "".join(f"  {number}: {json.dumps(name, ensure_ascii=False)}\n" for number, name in enumerate(names))
    placed = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in splits.items())
    write_text(folder / "data.yaml", f"path: .\n{placed}names:\n{listed}")
    lost = {
        "masks": sum(bool(annotation.get("segmentation")) for annotation in coco["annotations"]),
        "sets of keypoints": sum(bool(annotation.get("keypoints")) for annotation in coco["annotations"]),
        "crowd regions (left out)": crowds,
        "marks of objects to ignore": sum(bool(annotation.get("ignore")) for annotation in coco["annotations"]),
    }
    return [f"{count:,} {what}" for what, count in lost.items() if count] + ["the ids of images and classes"]


# ------------------------------------------------------------------------------------------------------------ internals


def _read_yaml(path: Path, split: str) -> tuple[list[Path], list[str], int]:
    """The folders and lists of images that a split names, the classes, and the number of keypoint values after a box."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); name the data.yaml of a data set") from None
    content, _ = parse_mapping(text, str(path))
    where = content.get(split)
    parts = [where] if isinstance(where, str) else where
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        known = [key for key in ("train", "val", "test") if isinstance(content.get(key), str | list)]
        raise UserError(f"{path}: '{split}' must name a folder of images; its splits are {', '.join(known) or 'none'}")
    root = content.get("path")
    # As YOLO's programs do: relative to the file if it is not absolute.
    base = path.parent / root if isinstance(root, str) else path.parent
    places = []
    for part in parts:
        place = next((place for place in (base / part, path.parent / part) if place.is_dir() or place.suffix == ".txt"), None)
        if place is None:
            raise UserError(f"{path}: '{split}' names {base / part}, which is no folder; correct it")
        places.append(place)
    shape = content.get("kpt_shape", [0])
    if not isinstance(shape, list) or not all(type(number) is int and 0 <= number < 10_000 for number in shape):
        raise UserError(f"{path}: 'kpt_shape' must be the number of keypoints and of values of each, such as [17, 3]")
    if keypoints := math.prod(shape):
        logger.warning("%s: has keypoints (kpt_shape), which are not read; the boxes are", path)
    return places, _names(content, path), keypoints


def _images_of(place: Path, yaml: Path, split: str) -> list[Path]:
    """The images in a folder, or those that a text file lists, one in each line, relative to the file."""
    if place.is_dir():
        files = [file for file in place.rglob("*") if file.suffix.lower() in IMAGES]
    else:
        try:
            lines = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{place}: cannot be read ({type(error).__name__}), and {yaml} names it for {split}") from None
        files = [place.parent / line for line in lines if line]
    if not files:
        raise UserError(f"{place}: has no images, and {yaml} names it for {split}; correct '{split}' or 'path' there")
    return files


def _names(content: Mapping[str, Any], path: Path) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int) for name in names):
        raise UserError(f"{path}: 'names' must be a list of classes, or a mapping from 0, 1, ... to them")
    return [str(name) for name in names]


def _labels_of(image: Path) -> Path:
    """``.../images/a.jpg`` -> ``.../labels/a.txt``; beside the image if no folder is called images."""
    parts = list(image.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_labels(path: Path, size: tuple[int, int], num_classes: int, keypoints: int) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    height, width = size
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); copy it again") from None
    annotations: list[dict[str, Any]] = []
    for row, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        try:
            label, numbers = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            raise UserError(f"{path}:{row}: must be a class and numbers, got {line!r:.60}; correct the line") from None
        if not 0 <= label < num_classes:
            raise UserError(f"{path}:{row}: class {label} is none of the {num_classes} of data.yaml (0 to {num_classes - 1})")
        if keypoints:
            if len(numbers) != 4 + keypoints:
                raise UserError(f"{path}:{row}: must have a box and {keypoints} numbers of keypoints, got {line!r:.60}")
            numbers = numbers[:4]
        if (len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2)) or not all(-10 < number < 10 for number in numbers):
            raise UserError(f"{path}:{row}: must have 4 shares of the image, or an outline of 3 points or more, got {line!r:.60}")
        if len(numbers) == 4:
            cx, cy, w, h = numbers
            box, extra = [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height], {}
        else:
            xs, ys = [x * width for x in numbers[::2]], [y * height for y in numbers[1::2]]
            box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
            extra = {"segmentation": [[number for point in zip(xs, ys, strict=True) for number in point]]}
        annotations.append({"category_id": label + 1, "bbox": box, "area": box[2] * box[3], **extra})
    return annotations
