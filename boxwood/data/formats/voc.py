"""PASCAL VOC's XML, one file for each image: as VOC lays it out, or beside the pictures, as LabelImg and Roboflow write it.

    VOC2007/Annotations/000005.xml, VOC2007/ImageSets/Main/trainval.txt, VOC2007/JPEGImages/000005.jpg
    photos/IMG_1.xml, photos/IMG_1.jpg

VOC's boxes count pixels from 1 and include the last one; a COCO box counts from 0 and has a width. ``difficult`` objects, which the
benchmark leaves out, become ``ignore: 1``, as in Detectron's files of VOC. ``<score>`` and ``<source>`` of an object are ours: they
say that a detector labelled it (`boxwood.data.coco_file.ANNOTATION_EXTRAS`).
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from boxwood.columns import MAX_COORDINATE
from boxwood.data.coco_file import ANNOTATION_EXTRAS
from boxwood.data.formats.collect import origin_of
from boxwood.data.formats.reading import Reading, descriptions, files_below, is_true, pictures_below, read_xml, xml_root_tag
from boxwood.errors import UserError
from boxwood.files import write_text
from boxwood.pixels import read_header

__all__ = ["CLASSES", "has_annotation_folder", "has_xml_beside_pictures", "read_voc", "voc_pictures", "voc_splits", "write_voc"]

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse"),
    *("motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""VOC's classes in its order; their ids are 1 to 20."""
ANNOTATION_FOLDERS, PICTURE_FOLDERS = ("annotations",), ("jpegimages", "images", "imgs", "img")
"""In lower case."""
NO_ANNOTATION = frozenset({"folder", "filename", "path", "source", "owner", "size", "segmented", "object"})
"""Elements of an image that are read, or say nothing of its contents."""
MARKS = {"truncated": "marks of truncated objects", "occluded": "marks of occluded objects"}


def has_annotation_folder(folder: Path) -> bool:
    """Whether a folder has ``Annotations``, in upper or lower case, with files of XML."""
    return _places(folder)[0] is not None


def has_xml_beside_pictures(folder: Path) -> bool:
    """Whether a folder, or one in it, has XML of single images, as LabelImg and Roboflow write it."""
    first = next((path for pattern in ("*.xml", "*/*.xml") for path in files_below(folder, pattern)), None)
    return first is not None and xml_root_tag(first) == "annotation"


def read_voc(folder: Path, split: str | None = None, images: Path | None = None) -> Reading:
    """The annotations in ``folder/Annotations``, or in ``folder`` itself where the XML lies beside the pictures.

    ``split`` takes those that ``ImageSets/Main/SPLIT.txt`` names, or those in the folder of this name. ``images`` is the folder of
    the pictures, by default ``JPEGImages``, ``images``, or the folder of the XML. An image has the name of the picture that is
    called as its XML, or else ``<filename>``; and the picture's size where the XML has none. If all images have numbers as names,
    these are their ids.

    The classes are `CLASSES` if the files are VOC's own, else all that occur in the folder, by name, so that all its splits have
    the same. Raises `UserError` where a file is missing or not valid.
    """
    layout = _layout(folder, split, images)
    lost: Counter[str] = Counter()
    parsed = [_read(layout.xml / f"{stem}.xml", stem, layout, lost) for stem in layout.stems]
    names = _classes(parsed, layout)
    numbers = [int(stem) for stem in layout.stems if stem.isdecimal() and stem.isascii() and len(stem) < 18]
    by_number = len(set(numbers)) == len(layout.stems)
    rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row, image in enumerate(parsed):
        image_id = numbers[row] if by_number else row + 1
        rows.append({"id": image_id, "file_name": image.name, "height": image.size[0], "width": image.size[1]})
        for label, instance in image.objects:
            place = {"id": len(annotations) + 1, "image_id": image_id, "category_id": names.index(label) + 1}
            annotations.append({**place, **instance})
    if layout.whole:
        used = {image.name for image in parsed}
        lost["pictures without an XML file"] = sum(name not in used for name in layout.pictures)
        lost.update(layout.unread)
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return Reading({"images": rows, "annotations": annotations, "categories": categories}, layout.folder, descriptions(lost))


def voc_pictures(folder: Path, split: str | None = None) -> Path:
    """The folder of the pictures that `read_voc` takes by default. Raises `UserError` where there is no such split."""
    return _layout(folder, split, None).folder


def voc_splits(folder: Path) -> list[str]:
    """The lists of images in ``ImageSets/Main`` that are not of one class, such as train and trainval."""
    return [path.stem for path in files_below(folder / "ImageSets" / "Main", "*.txt") if "_" not in path.stem]


def write_voc(coco: Mapping[str, Any], folder: Path, split: str) -> list[str]:
    """Write ``folder/Annotations/*.xml`` and ``folder/ImageSets/Main/SPLIT.txt``; returns descriptions of what VOC cannot hold.

    Folders in the names of images become folders of ``Annotations``. Raises `UserError` where two images would have the same file,
    where a name leads out of the folder or is none that XML can hold, or a file cannot be written.
    """
    names = {category["id"]: _plain(str(category["name"])) for category in coco["categories"]}
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise UserError(f"{folder}: two classes are called '{twice[0]}' where spaces at the ends do not count; rename one")
    if "" in names.values():
        raise UserError(f"{folder}: a class has a name without a character that XML can hold; rename it")
    stems = {image["id"]: _stem(str(image["file_name"]), folder) for image in coco["images"]}
    if twice := [stem for stem, count in Counter(stems.values()).items() if count > 1]:
        raise UserError(f"{folder}: two images are called {twice[0]}, and VOC has one file for a name; rename one")
    of_image: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in stems}
    flat = 0
    for annotation in coco["annotations"]:
        if min(annotation["bbox"][2:]) < 0:
            flat += 1
        else:
            of_image[annotation["image_id"]].append(annotation)
    for image in coco["images"]:
        root = _element(image, of_image[image["id"]], names)
        write_text(folder / "Annotations" / f"{stems[image['id']]}.xml", ElementTree.tostring(root, encoding="unicode") + "\n")
    write_text(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems.values()))
    used = {annotation["category_id"] for rows in of_image.values() for annotation in rows}
    lost = {
        "classes without instances": len(names.keys() - used),
        "names of classes as they were (XML has no spaces at their ends, and no control characters)": sum(
            names[category["id"]] != category["name"] for category in coco["categories"]
        ),
        "boxes of negative width or height (left out)": flat,
        "names of images without an ending (.jpg is read)": sum(
            not PurePosixPath(image["file_name"]).suffix for image in coco["images"]
        ),
        "masks": sum(bool(annotation.get("segmentation")) for annotation in coco["annotations"]),
        "sets of keypoints": sum(bool(annotation.get("keypoints")) for annotation in coco["annotations"]),
        "crowd regions (they are difficult objects there)": sum(bool(a.get("iscrowd")) for a in coco["annotations"]),
        **{
            f"values of '{key}' that XML cannot hold": sum(_loses(a, key) for a in coco["annotations"]) for key in ANNOTATION_EXTRAS
        },
    }
    return [*descriptions(lost), "the ids of images and classes"]


# -------------------------------------------------------------------------------------------------------------- folders


@dataclass(frozen=True)
class _Layout:
    """Where the files of a data set lie."""

    xml: Path
    stems: Sequence[str]
    """Of the XML files that are read: their paths below ``xml``, without the ending."""
    others: Sequence[Path]
    """The XML files of other splits."""
    whole: bool
    """Whether all files below ``xml`` are read."""
    folder: Path
    """Of the pictures, whether it is there or not."""
    pictures: Mapping[str, None]
    """The paths of the pictures below ``folder``, in order."""
    by_stem: Mapping[str, str]
    """The first picture of each path without the ending."""
    unread: Mapping[str, int]
    """Counts of files in ``folder`` of formats that are not read, by description."""


def _layout(folder: Path, split: str | None, images: Path | None) -> _Layout:
    if folder.name.lower() in ANNOTATION_FOLDERS and _places(folder.parent)[1] is not None:
        folder = folder.parent
    xml, pictures = _places(folder)
    xml = xml or folder
    files = files_below(xml, "**/*.xml")
    if split is not None and xml == folder and (inside := files_below(folder / split, "**/*.xml")):
        xml = folder = folder / split  # one of train/, valid/ and test/, as Roboflow has them
        stems, others = _below(xml, inside), sorted(set(files) - set(inside))
    else:
        every = _below(xml, files)
        if not every and split is None:
            raise UserError(
                f"{folder}: has no Annotations/*.xml, and no *.xml beside pictures; name a folder such as VOCdevkit/VOC2007"
            )
        stems = every if split is None else _listed(folder, split, xml, every)
        others = [xml / f"{stem}.xml" for stem in sorted(set(every) - set(stems))]
    place = images or pictures or next((path for path in (folder, xml) if pictures_below(path, "*")[0]), None)
    place = place or (folder if xml == folder else folder / "JPEGImages")
    found, unread = pictures_below(place)
    names = {file.relative_to(place).as_posix(): None for file in found}
    by_stem: dict[str, str] = {}
    for name in names:
        by_stem.setdefault(_without_ending(name), name)
    return _Layout(xml, stems, others, len(stems) == len(files_below(xml, "**/*.xml")), place, names, by_stem, unread)


def _places(folder: Path) -> tuple[Path | None, Path | None]:
    """The folder of XML files and that of the pictures, in upper or lower case, where there are such."""
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return None, None
    xml = next((path for path in inside if path.name.lower() in ANNOTATION_FOLDERS and files_below(path, "**/*.xml")), None)
    of_name = {path.name.lower(): path for path in inside}
    return xml, next((of_name[name] for name in PICTURE_FOLDERS if name in of_name), None)


def _below(folder: Path, files: Sequence[Path]) -> list[str]:
    return [_without_ending(file.relative_to(folder).as_posix()) for file in files]


def _without_ending(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


def _listed(folder: Path, split: str, xml: Path, stems: Sequence[str]) -> list[str]:
    """The stems that ``ImageSets/Main/SPLIT.txt`` lists, each once, or those in the folder ``split`` of the XML files."""
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    inside = [stem for stem in stems if stem.startswith(f"{split}/")]
    if inside and not os.path.exists(path):
        return inside
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        others = voc_splits(folder) or sorted({stem.split("/")[0] for stem in stems if "/" in stem})
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}); the splits here are {', '.join(others) or 'none'}"
        ) from None
    if not lines:
        raise UserError(f"{path}: names no images")
    # A line is a name; in the lists of single classes a name and 1, 0 or -1.
    listed = [line if os.path.exists(xml / f"{line}.xml") else re.sub(r"\s+(-1|0|1)$", "", line) for line in lines]
    return list(dict.fromkeys(listed))


# ------------------------------------------------------------------------------------------------------------ XML files


class _Image(NamedTuple):
    name: str
    size: tuple[int, int]
    """(height, width)."""
    objects: list[tuple[str, dict[str, Any]]]
    """Each object's class, and what COCO has of an instance."""
    of_voc: bool
    """Whether it is an image of VOC's."""


def _read(path: Path, stem: str, layout: _Layout, lost: Counter[str]) -> _Image:
    """One image; what is not read of it is counted in ``lost``."""
    root = read_xml(path)
    if root.tag == "annotations":
        raise UserError(f"{path}: is CVAT's XML and not VOC's; name this file, not its folder")
    text = (root.findtext("filename") or "").strip()
    name = _file_name(stem, text, layout)
    if text and PurePosixPath(text.replace("\\", "/")).name not in (PurePosixPath(name).name, PurePosixPath(stem).name):
        lost["names in <filename> of other pictures than that of the XML file"] += 1
    objects = []
    for row, element in enumerate(root.findall("object")):
        label = (element.findtext("name") or "").strip()
        if not label:
            raise UserError(f"{path}: object {row}: has no name; correct the file")
        if (instance := _instance(element, f"{path}: object {row}", lost)) is not None:
            objects.append((label, instance))
    lost["segmentations of images (<segmented>)"] += bool(is_true(root.findtext("segmented")))
    for tag, count in Counter(child.tag for child in root if child.tag not in NO_ANNOTATION).items():
        lost[f"elements <{tag:.40}> of images"] += count
    of_voc = bool(re.match(r"VOC\d{4}$", root.findtext("folder") or "") or "VOC" in (root.findtext("source/database") or ""))
    return _Image(name, _size(root, path, layout.folder / name), objects, of_voc)


def _file_name(stem: str, text: str, layout: _Layout) -> str:
    """The picture's path: of those that are there the one called as the XML, then ``<filename>``, whose folders may be of another
    computer; if none is there, the XML's path with the ending of ``<filename>``, or ``<filename>`` where that is another name."""
    base = PurePosixPath(text.replace("\\", "/")).name
    base = "" if base == PurePosixPath(stem).name else base  # without an ending
    named = str(PurePosixPath(stem).with_name(base)) if base else ""
    for name in ((named,) if _without_ending(named) == stem else ()) + (layout.by_stem.get(stem, ""), text, named, base):
        if name in layout.pictures:
            return name
    if layout.pictures or not base or _without_ending(named) == stem or not PurePosixPath(base).suffix:
        ending = PurePosixPath(base).suffix if _without_ending(named) == stem else ""
        return f"{stem}{ending or '.jpg'}"
    return named


def _size(root: ElementTree.Element, path: Path, picture: Path) -> tuple[int, int]:
    """(height, width) as the file has it, or else the picture: LabelImg writes 0 where it does not know."""
    if root.find("size/height") is None or root.find("size/width") is None:
        height, width = 0.0, 0.0
    else:
        height, width = (_number(root.findtext(f"size/{key}"), f"size/{key}", f"{path}: size") for key in ("height", "width"))
    if min(height, width) < 0 or height % 1 or width % 1:
        raise UserError(f"{path}: size: cannot be {width:g} x {height:g} pixels; correct the file")
    if min(height, width) > 0:
        return int(height), int(width)
    if not os.path.isfile(picture):
        name = " ".join(str(picture).split())  # <filename> may have ends of lines
        raise UserError(f"{path}: has no size of the image, and {name} is not there to be asked; name the pictures with --images")
    return read_header(picture).oriented


def _instance(element: ElementTree.Element, where: str, lost: Counter[str]) -> dict[str, Any] | None:
    """What COCO has of an object; None where it has neither a box nor a polygon."""
    polygons = [points for points in map(_points, element.findall("polygon")) if points is not None]
    lost["polygons that are not complete"] += len(element.findall("polygon")) - len(polygons)
    boxes = element.findall("bndbox")
    lost["boxes of objects that have another"] += max(0, len(boxes) - 1)
    difficult = is_true(element.findtext("difficult"))
    lost["marks <difficult> that say neither 0 nor 1"] += difficult is None
    for tag, what in MARKS.items():
        lost[what] += is_true(element.findtext(tag)) is not False
    lost["poses"] += (element.findtext("pose") or "").strip().lower() not in ("", "unspecified")
    origin = origin_of(_finite(element.findtext("score")), _plain(element.findtext("source") or ""))
    read = {"name", "bndbox", "polygon", "difficult", "pose", *MARKS, *origin}
    for tag, count in Counter(child.tag for child in element if child.tag not in read).items():
        lost["parts of objects" if tag == "part" else f"elements <{tag:.40}> of objects"] += count
    if not boxes and not polygons:
        lost["objects without a box"] += 1
        return None
    if boxes:
        x1, y1, x2, y2 = (_number(boxes[0].findtext(key), f"bndbox/{key}", where) for key in ("xmin", "ymin", "xmax", "ymax"))
        # Drawn from the right or from below; with the last pixel included, xmin - 1 is the xmax of a box without width.
        (x1, x2), (y1, y2) = ((high, low) if high < low - 1 else (low, high) for low, high in ((x1, x2), (y1, y2)))
        box = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
    else:
        xs, ys = ([number for points in polygons for number in points[axis::2]] for axis in (0, 1))
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    instance = {"bbox": box, "area": box[2] * box[3], "iscrowd": 0, "ignore": int(bool(difficult)), **origin}
    return {**instance, "segmentation": polygons, "area": sum(map(_area, polygons))} if polygons else instance


def _points(polygon: ElementTree.Element) -> list[float] | None:
    """x, y, x, y, ... of ``<x1>``, ``<y1>``, ``<x2>``, ... or of ``<pt><x/><y/></pt>``: the centres of pixels that count from 1, in
    continuous coordinates. None where numbers are missing."""
    texts = {child.tag: child.text for child in polygon}
    if pairs := polygon.findall("pt"):
        values = [pair.findtext(axis) for pair in pairs for axis in ("x", "y")]
    else:
        count = sum(re.fullmatch(r"[xy]\d+", tag) is not None for tag in texts)
        values = [texts.get(f"{axis}{number}") for number in range(1, (count + 1) // 2 + 1) for axis in ("x", "y")]
    numbers = [_finite(value) for value in values]
    if len(numbers) < 6 or any(number is None or abs(number) >= MAX_COORDINATE for number in numbers):
        return None
    return [number - 0.5 for number in numbers if number is not None]


def _area(points: Sequence[float]) -> float:
    xs, ys = points[::2], points[1::2]
    return abs(sum(x * ys[i - 1] - xs[i - 1] * y for i, (x, y) in enumerate(zip(xs, ys, strict=True)))) / 2


def _classes(parsed: Sequence[_Image], layout: _Layout) -> Sequence[str]:
    labels = {label for image in parsed for label, _ in image.objects}
    if labels <= set(CLASSES) and all(image.of_voc for image in parsed):
        return CLASSES
    texts = (element.findtext("name") for path in layout.others for element in read_xml(path).findall("object"))
    return sorted(labels | {text.strip() for text in texts if text and text.strip()})


def _finite(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    if not abs(number) < 1e9:  # nan, inf
        return None
    return int(number) if number == int(number) else number


def _number(text: str | None, name: str, where: str) -> float:
    if (number := _finite(text)) is None:
        raise UserError(f"{where}: '{name}' must be a number, got {text!r:.40}; correct the file")
    return number


# -------------------------------------------------------------------------------------------------------------- writing


def _plain(text: str) -> str:
    """A text as it is read back from XML: without what XML cannot hold, and without spaces at the ends."""
    return re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text).strip()


def _stem(file_name: str, folder: Path) -> str:
    """The path of an image's XML without the ending. Raises `UserError` where it is not below the folder, or XML cannot hold it."""
    path = PurePosixPath(file_name)
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:[\\/]", file_name):
        raise UserError(f"{folder}: the image {file_name!r:.80} lies outside its folder; give file names relative to it")
    stem = str(path.with_suffix("")) if path.name else ""
    if (
        not stem
        or path.name.startswith("._")
        or re.search(r"[\\\t\n]", file_name)
        or (file_name, stem) != (_plain(file_name), stem.strip())
    ):
        raise UserError(f"{folder}: VOC's files cannot hold the name {file_name!r:.80} of an image; rename it")
    return stem


def _element(image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    path = PurePosixPath(image["file_name"])
    if path.parent.name:
        _add(root, "folder", path.parent)
    _add(root, "filename", path.name)
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", image["width"]), ("height", image["height"]), ("depth", 3)):
        _add(size, key, value)
    _add(root, "segmented", 0)
    for annotation in annotations:
        element = ElementTree.SubElement(root, "object")
        x, y, width, height = annotation["bbox"]
        difficult = int(bool(annotation.get("ignore") or annotation.get("iscrowd")))
        facts = (("name", names[annotation["category_id"]]), ("pose", "Unspecified"), ("truncated", 0), ("difficult", difficult))
        for key, value in (*facts, *_origin(annotation).items()):
            _add(element, key, value)
        box = ElementTree.SubElement(element, "bndbox")
        for key, value in (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + width), ("ymax", y + height)):
            _add(box, key, int(value) if value == int(value) else value)
    ElementTree.indent(root)
    return root


def _origin(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """The score and the source of an annotation, where a reader gets the same from XML."""
    origin = origin_of(annotation.get("score"), annotation.get("source"))
    return {key: value for key, value in origin.items() if value == (_finite(str(value)) if key == "score" else _plain(value))}


def _loses(annotation: Mapping[str, Any], key: str) -> bool:
    return key not in _origin(annotation) and annotation.get(key) not in (None, "", "manual", [], {})


def _add(parent: ElementTree.Element, key: str, value: Any) -> None:
    ElementTree.SubElement(parent, key).text = str(value)
