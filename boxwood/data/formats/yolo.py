"""YOLO's text files: a file for each image, a line for each instance; and a ``data.yaml`` that names the classes.

images/train/a.jpg, labels/train/a.txt:   2 0.5 0.5 0.25 0.1    (class, centre, width and height, as fractions of the image)
                                          2 0.1 0.1 0.9 0.1 0.9 0.9    (class, and the points of an outline)

Where ``data.yaml`` has a ``kpt_shape``, keypoints follow each box: x, y and, of 3 values, the visibility 0, 1 or 2. Their pixels
are fractions times the size of the image, as in the published labels of COCO's keypoints.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boxwood.data.formats.reading import descriptions
from boxwood.data.formats.yolo_rows import YoloRows
from boxwood.data.formats.yolo_yaml import YoloPose, YoloYaml, locate, read_yolo_yaml, write_yolo_yaml
from boxwood.errors import UserError
from boxwood.files import media_kind, write_text
from boxwood.ops.contours import signed_area
from boxwood.pixels import read_header

__all__ = ["read_yolo", "write_yolo", "yolo_pictures"]

logger = logging.getLogger(__name__)

MAX_NAME = 250
"""Bytes of a name that every file system takes, and that leave room for another ending."""
ROW = re.compile(rb"\s*[0-9]+(\.0*)?([ \t]+[-+.0-9eE]+){4}")
"""The beginning of a file of labels, beside other text files."""


def read_yolo(source: Path, split: str = "train") -> tuple[dict[str, Any], Path, list[str]]:
    """A COCO dictionary of one split of a ``data.yaml``, the folder that its file names are relative to, and descriptions of what
    the dictionary lacks.

    A split is a folder of images, a text file that lists images, or a list of these; for several the folder is the common parent.
    The labels of an image lie in ``labels/`` in place of ``images/`` in its path, or beside it; an image without any has no
    instances. Image sizes are read from the headers of the images. Category ids are the class numbers plus 1. Raises `UserError`
    where a file is missing or a line is not valid.
    """
    yaml = read_yolo_yaml(source)
    places = yaml.places(split)
    lost: Counter[str] = Counter()
    folder, files = _folder_and_images(places, yaml, split, lost)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    labels = {file: _labels_of(file) for file in files}
    for image_id, (file, text_file) in enumerate(labels.items(), start=1):
        height, width = read_header(file).oriented
        name = file.relative_to(folder).as_posix()
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for annotation in _read_labels(text_file, (height, width), yaml) if text_file else ():
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0, **annotation})
    used = {text_file for text_file in labels.values() if text_file}
    lost["files of labels without a picture that is read"] = len(set(_label_files(places)) - used)
    if unlabelled := sum(text_file is None for text_file in labels.values()):
        logger.warning("%s: %d of %d images have no text file, and so no instances", source, unlabelled, len(files))
    facts: dict[str, Any] = {"keypoints": list(yaml.pose.names)} if yaml.pose else {}
    categories = [{"id": number, "name": name, **facts} for number, name in enumerate(yaml.names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}, folder, descriptions(lost)


def yolo_pictures(yaml: YoloYaml, split: str) -> Path:
    """The folder that the file names of a split are relative to. Raises `UserError` as `read_yolo` does."""
    return _folder_and_images(yaml.places(split), yaml, split, Counter())[0]


def write_yolo(coco: Mapping[str, Any], folder: Path, split: str) -> list[str]:
    """Write ``folder/labels/SPLIT/*.txt`` and ``folder/data.yaml``, which expects the images in ``folder/images/SPLIT``; returns
    descriptions of what YOLO's format cannot hold.

    A set with keypoints is written as boxes with keypoints (``kpt_shape``), another with masks as outlines, others as boxes: YOLO
    has one kind of rows in a data set. The parts and holes of a mask become one outline, joined by lines. Boxes and outlines are
    clipped to the image, since YOLO's programs ignore an image with a value outside 0 to 1.

    An existing ``data.yaml`` keeps its other splits. Raises `UserError` where it has other classes or keypoints, where two images
    would have the same text file, and where a file name leads out of the folder.
    """
    categories = sorted(coco["categories"], key=lambda category: category["id"])
    targets = _targets(coco["images"], folder)
    before = read_yolo_yaml(folder / "data.yaml").pose if (folder / "data.yaml").is_file() else None
    rows = YoloRows.of(categories, coco["annotations"], before)
    sizes = {image["id"]: (image["height"], image["width"]) for image in coco["images"]}
    lines: dict[int, list[str]] = {image["id"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        if (line := rows.line(annotation, sizes[annotation["image_id"]])) is not None:
            lines[annotation["image_id"]].append(line)
    write_yolo_yaml(folder, [str(category["name"]) for category in categories], split, rows.pose)
    for image_id, target in targets.items():
        write_text(folder / "labels" / split / target, "".join(f"{line}\n" for line in lines[image_id]))
    return [*descriptions(rows.lost), "the ids of images and classes"]


# ------------------------------------------------------------------------------------------------------------ internals


def _folder_and_images(places: Sequence[Path], yaml: YoloYaml, split: str, lost: Counter[str]) -> tuple[Path, list[Path]]:
    """The images of a split, and the folder that has them all."""
    files = sorted({file for place in places for file in _images_of(place, yaml, split, lost)})
    if len(places) == 1 and places[0].is_dir():
        return places[0], files
    files = [Path(os.path.abspath(file)) for file in files]
    return Path(os.path.commonpath([file.parent for file in files])), files


def _images_of(place: Path, yaml: YoloYaml, split: str, lost: Counter[str]) -> list[Path]:
    """The images in a folder, or those that a text file lists."""
    candidates = place.rglob("*") if place.is_dir() else _listed_images(place, yaml, split, lost)
    files = []
    for file in candidates:
        kind = media_kind(file).kind
        if kind in ("unread", "video") and not file.is_dir():
            lost[f"pictures of a format that is not read ({file.suffix.lower()})"] += 1
        elif file.name.startswith("."):
            lost["hidden pictures (such as ._a.jpg, which macOS adds)"] += kind == "image"
        elif (kind == "image" or not place.is_dir()) and not file.is_dir():
            files.append(file)
    if not files:
        others = f" that are read ({', '.join(descriptions(lost))})" if any(lost.values()) else ""
        raise UserError(f"{place}: has no images{others}, and {yaml.path} names it for {split}; correct '{split}' or 'path' there")
    return files


def _listed_images(place: Path, yaml: YoloYaml, split: str, lost: Counter[str]) -> Iterator[Path]:
    """The images that a text file lists, one in each line, relative to the file or to the data set."""
    try:
        lines = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{place}: cannot be read ({type(error).__name__}), and {yaml.path} names it for {split}") from None
    known: set[Path] = set()
    moved = 0
    for row, line in enumerate(lines, start=1):
        if not line:
            continue
        file = locate(line, (place.parent, *yaml.roots), moved=True)
        if file is None:
            raise UserError(f"{place}:{row}: the image {line!r:.100} is not there; correct the line, or remove it")
        moved += not os.path.exists(place.parent / line.replace("\\", "/"))
        lost["repeated lines of a list of images"] += file in known
        known.add(file)
        yield file
    if moved:
        logger.warning("%s: %d of its images were not where it says, but below %s", place, moved, yaml.path.parent)


def _places_of_labels(folder: Path) -> Iterator[Path]:
    """Where the labels of the images in a folder may lie: ``images`` in its path replaced by ``labels``, the last one first; beside
    them."""
    parts = folder.absolute().parts
    for place in reversed([place for place, part in enumerate(parts) if part == "images"]):
        yield Path(*parts[:place], "labels", *parts[place + 1 :])
    yield folder.absolute()


def _labels_of(image: Path) -> Path | None:
    """The text file of an image, or None."""
    names = (place / image.with_suffix(".txt").name for place in _places_of_labels(image.parent))
    return next((name for name in names if name.is_file()), None)


def _label_files(places: Iterable[Path]) -> Iterator[Path]:
    """All files of labels that belong to folders of images."""
    for place in places:
        for folder in _places_of_labels(place) if place.is_dir() else ():
            for file in folder.rglob("*.txt"):
                if not file.name.startswith(".") and file.is_file():
                    with file.open("rb") as opened:
                        if ROW.match(opened.read(200)):
                            yield file


def _read_labels(path: Path, size: tuple[int, int], yaml: YoloYaml) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); copy it again") from None
    annotations: list[dict[str, Any]] = []
    for row, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where, num_classes = f"{path}:{row}", len(yaml.names)
        try:
            label, *numbers = map(float, line.split())
        except ValueError:
            label, numbers = float("nan"), []
        if not label.is_integer():  # numpy.savetxt writes 0.000000
            raise UserError(f"{where}: must be a class and numbers, got {line!r:.60}; correct the line")
        if not 0 <= label < num_classes:
            raise UserError(f"{where}: class {label:g} is none of the {num_classes} of data.yaml (0 to {num_classes - 1})")
        geometry = _with_keypoints(numbers, size, yaml.pose, where, line) if yaml.pose else _shape(numbers, size, where, line)
        annotations.append({"category_id": int(label) + 1, **geometry})
    return annotations


def _shape(numbers: list[float], size: tuple[int, int], where: str, line: str) -> dict[str, Any]:
    """The box, area and outline of a row, in pixels."""
    height, width = size
    if (len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2)) or not all(-10 < number < 10 for number in numbers):
        advice = "; a fifth number, such as a prediction's score, must be removed" if len(numbers) == 5 else ""
        raise UserError(f"{where}: must have 4 shares of the image, or an outline of 3 points or more, got {line!r:.60}{advice}")
    if len(numbers) == 4:
        cx, cy, w, h = numbers
        box = [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]
        return {"bbox": box, "area": box[2] * box[3]}
    points = np.array(numbers).reshape(-1, 2) * (width, height)
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    outline = points.ravel().tolist()
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": abs(signed_area(points)), "segmentation": [outline]}


def _with_keypoints(numbers: list[float], size: tuple[int, int], pose: YoloPose, where: str, line: str) -> dict[str, Any]:
    """The box and the keypoints of a row, in pixels; a row of 4 numbers is a box without keypoints."""
    height, width = size
    num_values = len(pose.names) * pose.values
    if len(numbers) not in (4, 4 + num_values):
        raise UserError(f"{where}: must have a box and {num_values} numbers of keypoints, got {line!r:.60}")
    geometry = _shape(numbers[:4], size, where, line)
    points = np.array(numbers[4:]).reshape(-1, pose.values)
    if not len(points):
        return geometry
    if not (np.abs(points[:, :2]) < 10).all() or not np.isin(points[:, 2:], (0, 1, 2)).all():
        raise UserError(f"{where}: keypoints must be shares of the image and a visibility of 0, 1 or 2, got {line!r:.60}")
    # Without a visibility, a point that is not labelled lies at 0, 0 or outside of the image.
    labelled = points[:, 2] if pose.values == 3 else 2 * ((points >= 0).all(axis=1) & (points > 0).any(axis=1))
    rows = np.column_stack([points[:, :2] * (width, height), labelled])
    rows[rows[:, 2] == 0] = 0
    return {**geometry, "keypoints": rows.ravel().tolist(), "num_keypoints": int((rows[:, 2] > 0).sum())}


def _targets(images: Iterable[Mapping[str, Any]], folder: Path) -> dict[int, Path]:
    """The text file of each image, by the image's id."""
    targets: dict[int, Path] = {}
    for image in images:
        path = Path(image["file_name"])
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise UserError(f"{str(path)!r:.200}: the image lies outside its folder; give file names relative to it")
        if any(len(part.encode(errors="replace")) > MAX_NAME for part in path.parts):
            raise UserError(f"{path.name!r:.200}: the image's name is longer than {MAX_NAME} bytes; rename it")
        targets[image["id"]] = path.with_suffix(".txt")
    if len(set(targets.values())) < len(targets):
        raise UserError(f"{folder}: two images differ only in their ending, and YOLO has one text file for both; rename one")
    return targets
