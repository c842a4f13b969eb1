"""`boxwood data convert`: read annotations in any known format and write them in COCO's, VOC's, YOLO's, V-COCO's or HICO-DET's, or
in WebDataset's with the pictures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from boxwood.data.annotations import format_of, read_format, read_tree
from boxwood.data.coco_file import ANNOTATION_EXTRAS, IMAGE_EXTRAS, coco_file_of, origin_keys
from boxwood.data.formats.hico import write_hico
from boxwood.data.formats.reading import Reading, descriptions
from boxwood.data.formats.vcoco import write_vcoco
from boxwood.data.formats.voc import write_voc
from boxwood.data.formats.webdataset import write_webdataset
from boxwood.data.formats.yolo import write_yolo
from boxwood.data.interactions import SECTIONS
from boxwood.data.layouts import DataSource, data_sources
from boxwood.data.quality.checks import check_identities, locate_images, refuse
from boxwood.data.shards import open_pictures
from boxwood.errors import UserError
from boxwood.files import write_text

__all__ = ["READ", "WRITTEN", "Conversion", "convert"]

READ = (
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
)
WRITTEN = ("coco", "hico", "vcoco", "voc", "webdataset", "yolo")
WITH_INTERACTIONS = ("hico", "vcoco")
DEFAULTS = frozenset(("iscrowd", "ignore", "num_keypoints", "segmentation", "keypoints"))
"""Keys that a row of COCO's lacks where they would say nothing."""
NOTHING: tuple[Any, ...] = (None, "", [], {})
WRITTEN_KEYS = {
    "images": frozenset(("id", "file_name", "height", "width")),
    "annotations": frozenset(("id", "image_id", "category_id", "bbox", "area")) | DEFAULTS,
    "categories": frozenset(("id", "name")),
}
"""The keys that VOC's and YOLO's writers carry or count."""


@dataclass(frozen=True)
class Conversion:
    """The output of `convert`, and counts of its contents."""

    out: Path
    num_images: int
    num_instances: int
    num_crowds: int
    """Crowd regions, which are not counted as instances."""
    num_classes: int
    pictures: Path | None
    """The folder of the pictures, if the source names it; pictures are not copied."""
    not_carried: list[str]
    """Descriptions of what the output lacks."""


def convert(
    source: str | Path,
    to: str | None,
    out: str | Path,
    *,
    source_format: str | None = None,
    split: str | None = None,
    images: str | Path | None = None,
    classes: str | Path | None = None,
    instances: str | Path | None = None,
) -> Conversion:
    """Write annotations in another format; pictures stay where they are, except that ``webdataset`` has copies of them.

    ``to`` is ``coco`` (``out`` is a ``.json`` file), ``voc``, ``yolo``, ``vcoco``, ``hico`` or ``webdataset`` (a folder); None
    means coco where ``out`` is a ``.json``. ``source_format`` is one of `READ`; None detects it. ``split`` is the part of the data
    set: for VOC a file of ``ImageSets/Main`` or a folder, for YOLO ``train``, ``val`` or ``test``, for HICO-DET ``train`` or
    ``test``, for CVAT a subset. Open Images needs ``images``, the folder or tar files of the pictures, and ``classes``, its table
    of class names. ``instances`` is the COCO file of V-COCO's images.

    Raises `UserError` where the source cannot be read, an annotation refers to a missing image or class, or ``out`` does not suit
    the format.
    """
    source, out = Path(source), Path(out)
    source_format = source_format or format_of(source)
    to = to or ("coco" if out.suffix == ".json" else None)
    if to is None:
        raise UserError(f"{out}: the format is not clear; name a format such as voc or yolo with --to, or a .json file for COCO")
    if to not in WRITTEN:
        raise UserError(f"'{to}': is no output format; choose one of {', '.join(WRITTEN)}")
    if to == "coco" and out.suffix != ".json":
        raise UserError(f"{out}: COCO files are written as .json; change the ending")
    if to != "coco" and out.suffix in (".json", ".yaml", ".tar"):
        raise UserError(f"{out}: {to} is written to a folder; name one")
    coco, pictures, lost = _read_sound(source, source_format, split, *map(_path, (images, classes, instances)))
    if to in WITH_INTERACTIONS and not coco.get("verbs"):
        raise UserError(f"{source}: has no human-object interactions ('verbs'), which {to} consists of; take another output format")
    if source_format == "coco" and to in WITH_INTERACTIONS:  # all keys of its rows, which their writers carry
        coco, lost = _with_all_keys(source), ()
    if to == "webdataset":
        not_carried = [*lost, *_write_with_pictures(coco, source, images or pictures, out)]
    else:
        not_carried = [*lost, *_write(coco, out, to, split or "train")]
    crowds = sum(bool(annotation["iscrowd"]) for annotation in coco["annotations"])
    num_instances = len(coco["annotations"]) - crowds
    return Conversion(out, len(coco["images"]), num_instances, crowds, len(coco["categories"]), pictures, not_carried)


# ------------------------------------------------------------------------------------------------------------ internals


def _with_all_keys(source: Path) -> dict[str, Any]:
    """A COCO file as it is read, with further keys and values of its rows."""
    tree = read_tree(source)
    file = coco_file_of(tree, source)
    coco = file.to_coco() | {"annotations": [file.annotation(row) for row in range(len(file.ids))]}  # those with nan too
    whole = {**tree, **{key: coco[key] for key in SECTIONS if key in coco}}
    for key in ("images", "annotations", "categories"):
        rows = zip(tree[key], coco[key], strict=True)
        whole[key] = [{**row, **{k: v for k, v in sound.items() if k not in row or v not in NOTHING}} for row, sound in rows]
    return whole


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _read_sound(
    source: Path, source_format: str, split: str | None, images: Path | None, classes: Path | None, instances: Path | None
) -> Reading:
    """As `read_format`, without boxes of nan. Raises `UserError` where ids are repeated or refer to a missing image or class."""
    if source_format == "coco":
        tree = read_tree(source)
        file = coco_file_of(tree, source)
        coco = file.to_coco()
        as_meant = [f"{variant.count:,} {variant.problem} ({variant.reading})" for variant in file.readings]
        reading = Reading(coco, None, [*as_meant, *_not_in(coco, tree)])
    else:
        reading = read_format(source, source_format, split=split, images=images, classes=classes, instances=instances)
        file = coco_file_of(reading.coco, source)
    refuse(check_identities(file), str(source))
    finite = np.isfinite(file.boxes).all(axis=1)
    if finite.all():
        return reading
    sound_ids = set(file.ids[finite].tolist())
    sound = {**reading.coco, "annotations": [row for row in reading.coco["annotations"] if row["id"] in sound_ids]}
    return Reading(sound, reading.pictures, [*reading.lost, f"{int((~finite).sum()):,} boxes with nan or infinity (left out)"])


def _not_in(coco: Mapping[str, Any], tree: Mapping[str, Any]) -> list[str]:
    """The sections of a COCO file that are not in what was read of it, and the keys of its rows, counted."""
    lost = Counter({f"section '{section:.40}'": int(bool(rows)) for section, rows in tree.items() if section not in coco})
    _count_others(lost, tree, "images", WRITTEN_KEYS["images"].union(IMAGE_EXTRAS))
    for row in tree["annotations"]:
        _count_others_of(lost, row, "annotations", WRITTEN_KEYS["annotations"].union(origin_keys(row)))
    return descriptions(lost)


def _not_written(coco: Mapping[str, Any], to: str) -> list[str]:
    """The keys of rows that neither VOC nor YOLO has, counted; their writers count the others."""
    lost: Counter[str] = Counter({"interactions": len(coco.get("interactions", ()))})
    # VOC's writer carries or counts the extras of annotations; YOLO's kpt_names has the keypoints of a category.
    more = {"yolo": {"categories": {"keypoints"}}, "voc": {"annotations": set(ANNOTATION_EXTRAS)}}[to]
    for section, keys in WRITTEN_KEYS.items():
        _count_others(lost, coco, section, keys | more.get(section, set()))
    return descriptions(lost)


def _count_others(lost: Counter[str], tree: Mapping[str, Any], section: str, keys: frozenset[str]) -> None:
    """Count the keys of a section's rows that are not ``keys`` and say something."""
    for row in tree[section]:
        _count_others_of(lost, row, section, keys)


def _count_others_of(lost: Counter[str], row: Mapping[str, Any], section: str, keys: frozenset[str]) -> None:
    for key, value in row.items():
        if key not in keys and value not in NOTHING:
            lost[f"'{key:.40}' of {section}"] += 1


def _write_with_pictures(coco: dict[str, Any], source: Path, images: str | Path | None, out: Path) -> list[str]:
    """Write tar files. Raises `UserError` where a picture is missing."""
    if images is None and (images := data_sources(source).get("all", DataSource(source, None)).images) is None:
        raise UserError(f"{source}: no folder beside it has its pictures, which WebDataset's layout holds; name them with --images")
    file, findings = locate_images(coco_file_of(coco, source), images)
    refuse(findings, str(source))
    names = [file.file_name(row) for row in range(len(file.image_ids))]
    interactions = descriptions({"interactions": len(coco.get("interactions", ()))})
    located = [{**image, "file_name": name} for image, name in zip(coco["images"], names, strict=True)]
    return [*interactions, *write_webdataset({**coco, "images": located}, open_pictures(images), out)]


def _write(coco: dict[str, Any], out: Path, to: str, split: str) -> list[str]:
    """Write the file or folder; returns descriptions of what its format cannot hold."""
    if to == "coco":
        write_text(out, json.dumps(coco, ensure_ascii=False) + "\n")
        return []
    if to in WITH_INTERACTIONS:
        return write_vcoco(coco, out, split) if to == "vcoco" else write_hico(coco, out)
    lost = write_voc(coco, out, split) if to == "voc" else write_yolo(coco, out, split)
    return [*_not_written(coco, to), *lost]
