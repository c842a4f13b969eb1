"""Which data sets a folder or file of annotations holds: train, val and test as tools lay them out, without reading all of it.

YOLO         data.yaml (or another name) with the keys names and train
COCO         annotations/instances_train2017.json beside train2017/, or train.json beside train/, or photos/ with all images
VOC          Annotations/ with ImageSets/Main/train.txt and val.txt, JPEGImages/
Roboflow     train/, valid/ and test/, each with _annotations.coco.json, _annotations.csv, or XML beside the pictures
one set      a folder that has no such parts: a .json of COCO or Label Studio, CVAT's .xml, a .csv, LabelMe's or LabelImg's files,
             tar files in WebDataset's layout
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from boxwood.data.annotations import format_of
from boxwood.data.config import CocoConfig, DataConfig, DatasetConfig
from boxwood.data.formats.cityscapes import cityscapes_pictures
from boxwood.data.formats.label_studio import is_label_studio
from boxwood.data.formats.reading import files_below, pictures_below, xml_root_tag
from boxwood.data.formats.voc import has_annotation_folder, has_xml_beside_pictures, voc_pictures, voc_splits
from boxwood.data.formats.yolo import yolo_pictures
from boxwood.data.formats.yolo_yaml import read_yolo_yaml
from boxwood.data.shards import are_shards
from boxwood.errors import UserError
from boxwood.safe_yaml import read

__all__ = ["VAL_SHARE", "DataSource", "data_from", "data_sources", "is_data_source"]

logger = logging.getLogger(__name__)

VAL_SHARE = 0.2
"""Of the images of a folder without a val set, those that become one."""
PARTS = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The part that a word in the name of a file or folder means."""
NOT_INSTANCES = frozenset(("captions", "image_info", "panoptic", "stuff"))
"""Words of the names of COCO's files that hold no boxes."""
YOLO_KEYS, OUR_KEYS = frozenset(("names", "nc", "kpt_shape")), frozenset(("base", "data", "model", "optim"))


class DataSource(NamedTuple):
    """Where one data set lies: the values of ``annotations``, ``images`` and ``split`` of a configuration."""

    annotations: Path
    images: Path | None
    """None where no folder has the pictures."""
    split: str | None = None


def is_data_source(source: str | Path) -> bool:
    """Whether a path is a file or folder of annotations, and not a configuration or a run: a ``.json``, ``.xml`` or ``.csv``,
    ``.tar`` files, a YAML file with the keys of YOLO's, a folder without ``config.yaml``."""
    path = Path(source)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _is_yolo_yaml(path)
    if path.suffix.lower() in (".json", ".xml", ".csv") or (path.suffix.lower() == ".tar" and are_shards(path)):
        return True
    return path.is_dir() and not (path / "config.yaml").is_file()


def data_sources(source: str | Path) -> dict[str, DataSource]:
    """The data sets of a file or folder by the parts ``train``, ``val`` and ``test``, or one by ``all`` that has no parts.

    Where a folder can be read in two ways, the log names both. Raises `UserError` where it holds no annotations that are known, or
    where several files may be meant.
    """
    path = Path(source)
    if path.suffix.lower() == ".tar" and are_shards(path):
        return {"all": DataSource(path, path)}
    if path.is_file():
        return _yolo(path) if path.suffix.lower() in (".yaml", ".yml") else {"all": DataSource(path, _pictures_of(path))}
    if not path.is_dir():
        raise UserError(f"{path}: is not there; name a folder of labelled images, or a file of annotations")
    try:
        readings = [reading for reader in READERS if (reading := reader(path))] or [_one_set(path)]
    except OSError as error:
        reason = f"{error.filename} cannot be read ({(error.strerror or 'unknown').lower()})"
        raise UserError(f"{path}: {reason}; allow it to be read, or name the file of annotations") from None
    for other in readings[1:]:
        logger.warning(
            "%s: %s is read; %s is there too, and data=%s would take it",
            path,
            _any(readings[0]).annotations,
            _any(other).annotations,
            _any(other).annotations,
        )
    return readings[0]


def data_from(source: str | Path, data: DataConfig) -> DataConfig:
    """``data`` with the train and the val set of a file or folder (`data_sources`); its transforms and other settings stay.

    Without a val set, `VAL_SHARE` of the images of the train set become one, stratified by class (`boxwood.data.splitting`). The
    log has a line for each set. Raises `UserError` as `data_sources`, and where no folder has the pictures.
    """
    sources = data_sources(source)
    train = sources.get("train") or sources.get("all")
    if train is None:
        raise UserError(f"{source}: has {' and '.join(sources)} and no train set; set data.train and data.val")
    val = sources.get("val")
    train_part, val_part = (None, None) if val else (("train", VAL_SHARE), ("val", VAL_SHARE))
    content = {**data.__dict__, "train": _config(data.train, train, train_part), "val": _config(data.val, val or train, val_part)}
    _log(source, sources, train, val)
    return DataConfig(**content)


# ------------------------------------------------------------------------------------------------------------ internals


def _config(before: DatasetConfig, source: DataSource, holdout: Any) -> CocoConfig:
    """The configuration of a data set, with the settings of the one before that do not depend on its files."""
    if source.images is None:
        raise UserError(
            f"{source.annotations}: no folder beside it has its pictures; in place of data=... set data.train.annotations, "
            "data.train.images, data.val.annotations and data.val.images"
        )
    settings = (
        ("keep_empty", "exif", "value_range", "proposal_limit", "mask_classes", "repeat_threshold")
        if isinstance(before, CocoConfig)
        else ()
    )
    return CocoConfig(
        annotations=str(source.annotations),
        images=str(source.images),
        split=source.split,
        holdout=holdout,
        transforms=before.transforms,
        **{key: getattr(before, key) for key in settings},
    )


def _log(source: str | Path, sources: dict[str, DataSource], train: DataSource, val: DataSource | None) -> None:
    logger.info("data=%s: train is %s", source, _described(train))
    if val is not None:
        logger.info("data=%s: val is %s", source, _described(val))
    else:
        logger.info(
            "data=%s: there is no val set, so %.0f %% of the images become one, drawn by class (data.val.holdout; boxwood data "
            "split writes such sets to files, and keeps the frames of a video together)",
            source,
            100 * VAL_SHARE,
        )
    if test := sources.get("test"):
        where = f"data.val.annotations={test.annotations} data.val.images={test.images}"
        split = f" data.val.split={test.split}" if test.split else ""
        logger.info("data=%s: test is not used; to measure on it: boxwood eval RUN %s%s", source, where, split)


def _described(source: DataSource) -> str:
    split = f", split {source.split}" if source.split else ""
    return f"{source.annotations}{split}, with the pictures in {source.images}"


def _any(sources: dict[str, DataSource]) -> DataSource:
    return next(iter(sources.values()))


def _part_named(name: str) -> str | None:
    """The part that a name means by its words: instances_val2017 is val."""
    parts = {PARTS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in PARTS}
    return parts.pop() if len(parts) == 1 else None


def _folders_of_parts(folder: Path) -> dict[str, Path]:
    """The folders train, valid, test, ... in a folder."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.lower() in PARTS)
    return {part: path for part in ("train", "val", "test") for path in inside if PARTS[path.name.lower()] == part}


# ----------------------------------------------------------------------------------------------------------------- YOLO


def _is_yolo_yaml(path: Path) -> bool:
    try:
        keys = read(path)[0].keys()
    except UserError:
        return False
    return bool(keys & YOLO_KEYS) and not keys & OUR_KEYS


def _yolo(path: Path) -> dict[str, DataSource]:
    if not _is_yolo_yaml(path):
        raise UserError(f"{path}: has none of the keys of YOLO's data.yaml (names, train, val); name a file of annotations")
    yaml = read_yolo_yaml(path)
    sources: dict[str, DataSource] = {}
    problems: list[str] = []
    for split in yaml.splits():
        try:
            sources[split] = DataSource(path, yolo_pictures(yaml, split), split)
        except UserError as error:  # Roboflow's files name all three, whether they are there or not
            problems.append(str(error))
    if not sources:
        raise UserError(problems[0] if problems else f"{path}: names no images; add train and val")
    for problem in problems:
        logger.warning("%s (left out)", problem)
    named = yaml.splits()
    if "val" in sources and named.get("train") == named["val"]:
        logger.warning("%s: 'train' and 'val' name the same images, so AP on val says nothing of new images", path)
    return sources


def _yolo_in(folder: Path) -> dict[str, DataSource]:
    files = [path for pattern in ("*.yaml", "*.yml") for path in files_below(folder, pattern) if _is_yolo_yaml(path)]
    if not files:
        return {}
    path = next((path for path in files if path.stem == "data"), files[0])
    if len(files) > 1:
        logger.warning("%s: %s is read; data=FILE takes another of %s", folder, path.name, ", ".join(p.name for p in files))
    return _yolo(path)


# ----------------------------------------------------------------------------------------------------------------- COCO


def _is_coco(path: Path) -> bool:
    """Whether a file has the words of COCO's sections; it is searched, and not parsed."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(section) >= 0 for section in (b'"images"', b'"annotations"', b'"categories"'))
    except (OSError, ValueError):  # ValueError: an empty file
        return False


def _annotation_folders(folder: Path) -> list[Path]:
    """The folder itself, and ``annotations`` in it."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.lower() in ("annotations", "labels"))
    return [folder, *inside]


def _coco_in(folder: Path) -> dict[str, DataSource]:
    """Files of COCO whose names say train, val or test."""
    candidates: dict[str, list[Path]] = {}
    for path in (path for place in _annotation_folders(folder) for path in files_below(place, "*.json")):
        part = _part_named(path.stem)
        if part and not any(path.stem.lower().startswith(word) for word in NOT_INSTANCES) and _is_coco(path):
            candidates.setdefault(part, []).append(path)
    sources: dict[str, DataSource] = {}
    for part in (part for part in ("train", "val", "test") if part in candidates):
        # Of COCO's own files instances_*.json, of the latest year.
        first, *others = sorted(candidates[part], key=_coco_preference)
        for other in others:
            logger.warning("%s: %s is taken for %s; %s may be meant too: set data.%s.annotations", folder, first, part, other, part)
        sources[part] = DataSource(first, _pictures_of(first))
    return sources


def _coco_preference(path: Path) -> tuple[bool, int, str]:
    year = re.search(r"(?:19|20)[0-9]{2}", path.stem)
    return not path.stem.startswith("instances"), -int(year.group()) if year else 0, path.stem


def _pictures_of(path: Path) -> Path | None:
    """The folder of the pictures of a file of annotations: the first near it that has the first image which the file names, else,
    where names are not those of files, the first that has pictures."""
    name = _first_name(path)
    places = list(dict.fromkeys(_places_of_pictures(path)))
    for spelling in (name, os.path.basename(name.replace("\\", "/"))) if name else ():
        if (place := next((place for place in places if os.path.isfile(os.path.join(place, spelling))), None)) is not None:
            return place
    return next((place for place in places if pictures_below(place, "*")[0] or are_shards(place)), None)


def _first_name(path: Path) -> str:
    """The name of the first image of a .json of COCO, or of CVAT's .xml; empty where none is read."""
    pattern = rb'<image\b[^>]*?\bname="([^"]*)"' if path.suffix.lower() == ".xml" else rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")'
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            match = re.search(pattern, content)
            text = match.group(1).decode() if match else ""
        return str(json.loads(text)) if text.startswith('"') else text
    except (OSError, ValueError):
        return ""


def _places_of_pictures(path: Path) -> Iterator[Path]:
    """Folders in which the pictures of a file of annotations may lie, the likeliest first."""
    above = path.parent.parent if path.parent.name.lower() in ("annotations", "labels") else path.parent
    words = path.stem.replace("-", "_").split("_")
    part = _part_named(path.stem)
    names = [path.stem, words[-1], *(word for word, meant in PARTS.items() if meant == part)]
    for folder in (path.parent, above):
        yield from (place for name in names for place in (folder / name, folder / "images" / name) if place.is_dir())
    yield from (place for place in (path.parent / "images", path.parent, above / "images", above) if place.is_dir())
    yield from sorted(place for place in above.iterdir() if place.is_dir())


# ------------------------------------------------------------------------------------------------------------------ VOC


def _voc_in(folder: Path) -> dict[str, DataSource]:
    """VOC's folders, here or in VOCdevkit/VOC2007, with the lists of ImageSets; or XML beside pictures in train/, valid/, test/."""
    if not has_annotation_folder(folder):
        years = [path for pattern in ("VOC20*", "VOCdevkit/VOC20*") for path in sorted(folder.glob(pattern))]
        years = [path for path in years if has_annotation_folder(path)]
        if len(years) > 1:
            raise UserError(f"{folder}: has {', '.join(map(str, years))}; name one, data={years[-1]}")
        return _voc_in(years[0]) if years else _xml_in_parts(folder)
    splits = voc_splits(folder)
    words = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}
    lists = {part: name for part, names in words.items() for name in reversed(names) if name in splits}
    if "trainval" in splits and lists["train"] != "trainval" and "val" not in lists:
        lists["train"] = "trainval"
    if not lists:
        return {"all": DataSource(folder, voc_pictures(folder))}
    return {part: DataSource(folder, voc_pictures(folder, name), name) for part, name in lists.items()}


def _xml_in_parts(folder: Path) -> dict[str, DataSource]:
    parts = _folders_of_parts(folder)
    inside = {part: path for part, path in parts.items() if has_xml_beside_pictures(path) and not has_annotation_folder(path)}
    return {part: DataSource(folder, voc_pictures(folder, path.name), path.name) for part, path in inside.items()}


# --------------------------------------------------------------------------------------------------------- other folders


def _parts_in(folder: Path) -> dict[str, DataSource]:
    """Folders train, valid and test, each with annotations of its own."""
    if (folder / "gtFine").is_dir():
        folder = folder / "gtFine"
    parts = {part: path for part, path in _folders_of_parts(folder).items() if _candidates(path) or _is_folder_format(path)}
    return {part: _one_set(path)["all"] for part, path in parts.items()}


READERS: tuple[Callable[[Path], dict[str, DataSource]], ...] = (_yolo_in, _coco_in, _voc_in, _parts_in)
"""In the order of preference."""


def _candidates(folder: Path) -> list[Path]:
    """Files in a folder, or in ``annotations`` in it, that hold all annotations of its pictures."""
    return [
        path
        for place in _annotation_folders(folder)
        for pattern in ("*.json", "*.xml", "*.csv")
        for path in files_below(place, pattern)
        if _is_whole(path)
    ]


def _is_whole(path: Path) -> bool:
    """Whether a file holds the annotations of many pictures."""
    if path.suffix == ".json":
        return is_label_studio(path) or _is_coco(path)
    return xml_root_tag(path) == "annotations" if path.suffix == ".xml" else format_of(path) == "tensorflow_csv"


def _is_folder_format(folder: Path) -> bool:
    """Whether the files of a folder hold annotations that are read folder by folder; XML beside pictures is `_voc_in`'s."""
    try:
        return has_annotation_folder(folder) or format_of(folder) != "voc"
    except UserError:
        return False


def _one_set(folder: Path) -> dict[str, DataSource]:
    files = _candidates(folder)
    if len(files) > 1:
        raise UserError(f"{folder}: has {', '.join(path.name for path in files[:5])}; name one, such as {files[0]}")
    if files:
        return {"all": DataSource(files[0], _pictures_of(files[0]))}
    if (folder / "labels").is_dir() and files_below(folder / "labels", "**/*.txt"):
        raise UserError(
            f"{folder}: has YOLO's labels and no data.yaml, which names the classes; write {folder / 'data.yaml'} with "
            "'train: images' and 'names: [...]'"
        )
    form = format_of(folder)
    pictures = cityscapes_pictures(folder) if form == "cityscapes" else voc_pictures(folder) if form == "voc" else folder
    return {"all": DataSource(folder, pictures)}
