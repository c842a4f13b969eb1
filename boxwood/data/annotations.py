"""Annotations of any format that is known, as a `CocoFile`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from boxwood.data.coco_file import CocoFile, coco_file_in_parts, coco_file_of, read_coco_tree
from boxwood.data.formats.cityscapes import read_cityscapes
from boxwood.data.formats.cvat import read_cvat
from boxwood.data.formats.hico import is_hico, read_hico
from boxwood.data.formats.label_studio import is_label_studio, read_label_studio
from boxwood.data.formats.labelme import read_labelme
from boxwood.data.formats.lvis import has_addresses_alone, named_by_address, read_lvis
from boxwood.data.formats.open_images import read_open_images
from boxwood.data.formats.reading import Reading, files_below, xml_root_tag
from boxwood.data.formats.tensorflow_csv import has_tensorflows_columns, read_tensorflow_csv
from boxwood.data.formats.vcoco import is_vcoco, read_vcoco
from boxwood.data.formats.voc import has_annotation_folder, has_xml_beside_pictures, read_voc
from boxwood.data.formats.webdataset import is_webdataset, read_webdataset
from boxwood.data.formats.yolo import read_yolo
from boxwood.data.shards import are_shards
from boxwood.data.splitting import divide, subset
from boxwood.errors import UserError

__all__ = ["Format", "Holdout", "format_of", "read_annotations", "read_any", "read_format", "read_tree"]

logger = logging.getLogger(__name__)

Format: TypeAlias = Literal[
    "coco",
    "cityscapes",
    "cvat",
    "hico",
    "label_studio",
    "labelme",
    "lvis",
    "open_images",
    "tensorflow_csv",
    "vcoco",
    "voc",
    "webdataset",
    "yolo",
]

WITH_SPLITS = ("voc", "yolo", "cvat", "hico")
PARTS = ("train", "val")
Holdout: TypeAlias = tuple[Literal["train", "val"], float]
"""A part of the images, and the fraction of the images in val."""


def read_annotations(
    source: str | Path, images: str | Path | None = None, split: str | None = None, holdout: Holdout | None = None
) -> CocoFile:
    """Read annotations of any known format: a COCO, LVIS or Label Studio .json, a ``data.yaml`` of YOLO, a folder of VOC,
    Cityscapes or LabelMe, an .xml of CVAT, a .csv of Open Images or TensorFlow, tar files in WebDataset's layout.

    ``split`` is for VOC a file of ``ImageSets/Main`` or a folder and for CVAT a subset, all by default, and for YOLO train, val or
    test, train by default; ``images`` is the folder of the images, which Open Images needs. ``holdout`` is
    ``("val", 0.2)`` for a fifth of the images, ``("train", 0.2)`` for the others (`boxwood.data.splitting`). The log names what of
    a format is not read.

    Raises `UserError` where a file cannot be read or is malformed.
    """
    if split is None and holdout is None and format_of(Path(source)) == "coco":
        file_in_parts = coco_file_in_parts(Path(source), source)
        if file_in_parts is not None:
            return file_in_parts
    tree, lost = read_any(source, images, split)
    if lost:
        logger.warning("%s: not read: %s", source, ", ".join(lost))
    file = coco_file_of(tree, source)
    return file if holdout is None else _part_of(tree, file, holdout)


def read_any(
    source: str | Path, images: str | Path | None = None, split: str | None = None
) -> tuple[dict[str, Any], Sequence[str]]:
    """The COCO dictionary of annotations of any known format, with all that a COCO file has besides; and descriptions of what of
    another format is not read. Raises `UserError` as `read_annotations`."""
    path = Path(source)
    form = format_of(path)
    if split is not None and form not in WITH_SPLITS:
        raise UserError(f"{path}: holds one part of a data set, so there is no part '{split}' to choose; set split=null")
    if form == "coco":
        return read_tree(path), ()
    reading = read_format(path, form, split=split, images=None if images is None else Path(images))
    return reading.coco, reading.lost


def _part_of(tree: Mapping[str, Any], file: CocoFile, holdout: Holdout) -> CocoFile:
    part, share = holdout
    rows = divide(file, (1 - share, share)) == PARTS.index(part)
    logger.info("%s: %s has %d of %d images (holdout)", file.path, part, rows.sum(), len(rows))
    return coco_file_of(subset(tree, file, rows), file.path)


def read_tree(path: Path) -> dict[str, Any]:
    """The dictionary of a COCO file, or of one of LVIS with names for its images. Raises `UserError` where it is none."""
    tree = read_coco_tree(path)
    return named_by_address(tree, path) if has_addresses_alone(tree) else tree


def format_of(source: Path) -> Format:
    """What a path holds, by what lies there; LVIS's is COCO's. Raises `UserError` where it is a folder of nothing that is known."""
    if source.suffix.lower() == ".tar" and are_shards(source):
        return "webdataset"
    if source.is_dir():
        return _format_of_folder(source)
    suffix = source.suffix.lower()
    if suffix == ".csv":
        return "tensorflow_csv" if has_tensorflows_columns(source) else "open_images"
    if suffix == ".json" and is_vcoco(source):
        return "vcoco"
    if suffix == ".json" and is_label_studio(source):
        return "label_studio"
    of_suffix: dict[str, Format] = {".yaml": "yolo", ".yml": "yolo", ".xml": "cvat"}
    return of_suffix.get(suffix, "coco")


def _format_of_folder(folder: Path) -> Format:
    if is_hico(folder):
        return "hico"
    if has_annotation_folder(folder):
        return "voc"
    if are_shards(folder) and is_webdataset(folder):
        return "webdataset"
    if next(folder.rglob("*_gtFine_polygons.json"), None) is not None:
        return "cityscapes"
    if files_below(folder, "*.json"):
        return "labelme"
    if has_xml_beside_pictures(folder):
        return "voc"
    patterns = ("data.yaml", "*.xml", "*.csv", "*/_annotations.coco.json", "*/*.json", "*/data.yaml")
    inside = [path for pattern in patterns for path in files_below(folder, pattern)]
    inside = [path for path in inside if path.suffix != ".xml" or xml_root_tag(path) == "annotations"]
    hint = f"; perhaps {inside[0]}" if inside else ""
    raise UserError(
        f"{folder}: this folder holds no annotations that are known (VOC's *.xml, Cityscapes' *_gtFine_polygons.json, LabelMe's "
        "*.json); of others name the file: a .json of COCO or LVIS, YOLO's data.yaml, CVAT's .xml, a .csv of Open Images or "
        f"TensorFlow{hint}"
    )


def read_format(
    source: Path,
    form: str,
    *,
    split: str | None = None,
    images: Path | None = None,
    classes: Path | None = None,
    instances: Path | None = None,
) -> Reading:
    """Read a format other than COCO's.

    ``split`` and ``images`` are those of `read_annotations`, ``classes`` is Open Images' table of the names of classes,
    ``instances`` the COCO file of V-COCO's images. Raises `UserError` where nothing is read of which a class could be made.
    """
    if form == "vcoco":
        return read_vcoco(source, instances)
    reading = _read_format(source, form, split, images, classes)
    if not reading.coco["categories"]:
        not_read = f"; not read: {', '.join(reading.lost)}" if reading.lost else ""
        raise UserError(f"{source}: has no object that is read, so it has no class{not_read}; name a part that has annotations")
    return reading


def _read_format(source: Path, form: str, split: str | None, images: Path | None, classes: Path | None) -> Reading:
    if form == "voc":
        return read_voc(source, split, images)
    if form == "hico":
        return read_hico(source, split)
    if form == "yolo":
        return Reading(*read_yolo(source, split or "train"))
    if form == "labelme":
        coco, lost = read_labelme(source, images)
        return Reading(coco, images or source, lost)
    if form == "label_studio":
        coco, lost = read_label_studio(source, images)
        return Reading(coco, images, lost)
    if form == "open_images":
        if images is None:
            raise UserError(f"{source}: its boxes are shares of the images, whose sizes it does not say; name them with --images")
        return read_open_images(source, images, classes)
    if form == "tensorflow_csv":
        return read_tensorflow_csv(source, images)
    if form == "webdataset":
        return read_webdataset(source)
    if form == "cvat":
        return read_cvat(source, split)
    return read_cityscapes(source) if form == "cityscapes" else read_lvis(source)
