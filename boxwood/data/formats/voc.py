"""PASCAL VOC's XML, one file for each image.

    VOC2007/Annotations/000005.xml, VOC2007/ImageSets/Main/trainval.txt, VOC2007/JPEGImages/000005.jpg

VOC's boxes count pixels from 1 and include the last one; a COCO box counts from 0 and has a width. ``difficult`` objects, which the
benchmark leaves out, become ``ignore: 1``, as in Detectron's files of VOC.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boxwood.data.formats.reading import read_xml
from boxwood.errors import UserError
from boxwood.files import write_text

__all__ = ["CLASSES", "read_voc", "write_voc"]

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse"),
    *("motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""VOC's classes in its order; their ids are 1 to 20."""


def read_voc(folder: Path, split: str | None = None) -> dict[str, Any]:
    """A COCO dictionary of the annotations in ``folder/Annotations``, or of those that ``ImageSets/Main/SPLIT.txt`` names.

    File names are relative to ``JPEGImages``. If all images have numbers as names, these are their ids. The classes are `CLASSES`
    if no other occurs, else all that occur in the folder, by name, so that all its splits have the same. Raises `UserError` where
    a file is missing or not valid.
    """
    stems = _stems(folder, split)
    parsed = [(stem, *_read(folder / "Annotations" / f"{stem}.xml")) for stem in stems]
    labels = {name for _, _, objects in parsed for name, _, _ in objects}
    if not labels <= set(CLASSES):
        others = sorted({path.stem for path in (folder / "Annotations").glob("*.xml")} - set(stems))
        labels |= {name for stem in others for name, _, _ in _read(folder / "Annotations" / f"{stem}.xml")[1]}
    names = CLASSES if labels <= set(CLASSES) else sorted(labels)
    numbers = [int(stem) for stem in stems if stem.isdecimal() and stem.isascii() and len(stem) < 18]
    by_number = len(set(numbers)) == len(stems)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row, (_, image, objects) in enumerate(parsed):
        image_id = numbers[row] if by_number else row + 1
        images.append({"id": image_id, **image})
        for name, (x1, y1, x2, y2), difficult in objects:
            box = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": names.index(name) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "ignore": difficult,
                }
            )
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
    }


def write_voc(coco: Mapping[str, Any], folder: Path, split: str) -> list[str]:
    """Write ``folder/Annotations/*.xml`` and ``folder/ImageSets/Main/SPLIT.txt``; returns descriptions of what VOC cannot hold.

    Raises `UserError` where two images would have the same file name, or a file cannot be written.
    """
    names = {category["id"]: str(category["name"]) for category in coco["categories"]}
    stems = {image["id"]: Path(image["file_name"]).stem for image in coco["images"]}
    if len(set(stems.values())) < len(stems):
        twice = next(stem for stem in stems.values() if list(stems.values()).count(stem) > 1)
        raise UserError(f"{folder}: two images are called {twice}, and VOC has one file for a name; rename one")
    of_image: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in stems}
    for annotation in coco["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    for image in coco["images"]:
        root = ElementTree.Element("annotation")
        _add(root, "filename", Path(image["file_name"]).name)
        size = ElementTree.SubElement(root, "size")
        for key, value in (("width", image["width"]), ("height", image["height"]), ("depth", 3)):
            _add(size, key, value)
        _add(root, "segmented", 0)
        for annotation in of_image[image["id"]]:
            element = ElementTree.SubElement(root, "object")
            x, y, width, height = annotation["bbox"]
            difficult = int(bool(annotation.get("ignore") or annotation.get("iscrowd")))
            facts = (
                ("name", names[annotation["category_id"]]),
                ("pose", "Unspecified"),
                ("truncated", 0),
                ("difficult", difficult),
            )
            for key, value in facts:
                _add(element, key, value)
            box = ElementTree.SubElement(element, "bndbox")
            for key, value in (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + width), ("ymax", y + height)):
                _add(box, key, int(value) if value == int(value) else value)
        ElementTree.indent(root)
        write_text(folder / "Annotations" / f"{stems[image['id']]}.xml", ElementTree.tostring(root, encoding="unicode") + "\n")
    write_text(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems.values()))
    used = {annotation["category_id"] for annotation in coco["annotations"]}
    lost = {
        "classes without instances": len(names.keys() - used),
        "masks": sum(bool(annotation.get("segmentation")) for annotation in coco["annotations"]),
        "sets of keypoints": sum(bool(annotation.get("keypoints")) for annotation in coco["annotations"]),
        "crowd regions (they are difficult objects there)": sum(bool(a.get("iscrowd")) for a in coco["annotations"]),
    }
    return [f"{count:,} {what}" for what, count in lost.items() if count] + ["the ids of images and classes"]


# ------------------------------------------------------------------------------------------------------------ internals


def _stems(folder: Path, split: str | None) -> list[str]:
    if split is None:
        stems = sorted(path.stem for path in (folder / "Annotations").glob("*.xml"))
        if not stems:
            raise UserError(f"{folder}: has no Annotations/*.xml; name a folder such as VOCdevkit/VOC2007")
        return stems
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        others = sorted(other.stem for other in path.parent.glob("*.txt") if "_" not in other.stem)
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}); the splits here are {', '.join(others) or 'none'}"
        ) from None
    if not lines:
        raise UserError(f"{path}: names no images")
    # A line is a name; in the lists of single classes a name and 1, 0 or -1.
    return [line if (folder / "Annotations" / f"{line}.xml").exists() else re.sub(r"\s+(-1|0|1)$", "", line) for line in lines]


def _read(path: Path) -> tuple[dict[str, Any], list[tuple[str, tuple[float, ...], int]]]:
    """The image's file name and size, and each object's class, xmin, ymin, xmax, ymax, and whether it is difficult."""
    root = read_xml(path)
    height, width = (int(_number(root, f"size/{key}", path, "size")) for key in ("height", "width"))
    name = (root.findtext("filename") or "").strip() or f"{path.stem}.jpg"
    objects = []
    for row, element in enumerate(root.iter("object")):
        where = f"object {row}"
        label = (element.findtext("name") or "").strip()
        if not label:
            raise UserError(f"{path}: {where}: has no name; correct the file")
        corners = tuple(_number(element, f"bndbox/{key}", path, where) for key in ("xmin", "ymin", "xmax", "ymax"))
        objects.append((label, corners, int((element.findtext("difficult") or "0").strip() == "1")))
    return {"file_name": name, "height": height, "width": width}, objects


def _number(element: ElementTree.Element, path: str, file: Path, where: str) -> float:
    text = element.findtext(path)
    try:
        number = float(text or "")
        if abs(number) < 1e9:  # neither nan nor inf
            return int(number) if number == int(number) else number
    except ValueError:
        pass
    raise UserError(f"{file}: {where}: '{path}' must be a number, got {text!r:.40}; correct the file")


def _add(parent: ElementTree.Element, key: str, value: Any) -> None:
    ElementTree.SubElement(parent, key).text = str(value)
