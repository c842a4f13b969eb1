"""WebDataset's layout: tar files whose members share a key, ``KEY.jpg`` with the picture and ``KEY.json`` with its annotations.

The key is the name up to the first dot after the last slash. ``KEY.json`` is a mapping with

``image``         optional: ``id`` (a whole number), ``height`` and ``width``, and further keys of COCO's images
``annotations``   a list of COCO's annotations without ``image_id``; their class is ``category_id`` where ``dataset.json`` lies
                  beside the tar files, else the text ``category``

``dataset.json`` is a mapping with COCO's ``categories``, and ``num_images``, by which a set that was copied in part is recognised.
The file name of an image is the name of its member.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from boxwood.columns import is_whole, read_json, short
from boxwood.data.formats.reading import Reading, descriptions
from boxwood.data.shards import PictureFolder, Shards, open_pictures, shard_paths
from boxwood.errors import UserError
from boxwood.files import make_folder, media_kind, write_text, write_whole
from boxwood.pixels import InMemory, read_header

__all__ = ["DATASET", "SHARD_BYTES", "is_webdataset", "read_webdataset", "write_webdataset"]

DATASET = "dataset.json"
"""The file beside the tar files that has the classes."""
SHARD_BYTES = 1 << 28
"""A tar file that is written gets no further image once it has so many bytes."""
MAX_JSON = 1 << 26
"""Bytes of the annotations of one image."""


def is_webdataset(source: Path) -> bool:
    """Whether tar files have annotations beside their pictures; raises `UserError` as `open_pictures` does."""
    shards = open_pictures(source)
    return isinstance(shards, Shards) and any(name.endswith(b".json") for name in map(shards.names.__getitem__, _some(shards)))


def read_webdataset(source: Path) -> Reading:
    """The COCO dictionary of tar files, and what of them is not read: pictures without annotations and the like, counted.

    Images come in the order of the tar files. Raises `UserError`, which names tar file and member, where one is damaged.
    """
    shards = open_pictures(source)
    assert isinstance(shards, Shards)
    lost = Counter(dict(shards.ignored))
    about = _dataset(source)
    tree: dict[str, Any] = {"images": [], "annotations": [], "categories": [] if about is None else about["categories"]}
    numbered = True
    for picture, labels in _samples(shards, lost):
        image, annotations = _sample(shards, picture, labels)
        numbered = numbered and is_whole(image.get("id"))
        tree["images"].append(image)
        tree["annotations"].append(annotations)
    if not tree["images"]:
        raise UserError(f"{source}: no member KEY.json has a picture beside it, KEY.jpg; name tar files in WebDataset's layout")
    if about is not None and about.get("num_images", len(tree["images"])) != len(tree["images"]):
        expected = short(about["num_images"])
        raise UserError(f"{source}: has {len(tree['images'])} images, {DATASET} says {expected}; copy all tar files again")
    for number, (image, annotations) in enumerate(zip(tree["images"], tree["annotations"], strict=True), start=1):
        if not numbered:
            image["id"] = number
        for annotation in annotations:
            annotation["image_id"] = image["id"]
    tree["annotations"] = [annotation for annotations in tree["annotations"] for annotation in annotations]
    if about is None:
        tree["categories"] = _classes_by_name(tree["annotations"], source)
    return Reading(tree, source, descriptions(lost))


def write_webdataset(
    coco: Mapping[str, Any], pictures: PictureFolder | Shards, out: Path, *, shard_bytes: int = SHARD_BYTES
) -> list[str]:
    """Write tar files of about ``shard_bytes`` and `DATASET` to a folder; returns descriptions of what the layout cannot hold.

    Pictures are copied byte for byte. A file name that cannot be that of a member, since it has no ending of a picture or a dot
    before it, leads out of the folder, or shares its key with another image, becomes a number.
    Raises `UserError` where the folder has
    tar files, or a picture cannot be read.
    """
    make_folder(out)
    if there := shard_paths(out):
        raise UserError(f"{out}: has tar files, such as {there[0].name}; name a new folder")
    names = _member_names([str(image["file_name"]) for image in coco["images"]])
    of_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        of_image[annotation["image_id"]].append({key: value for key, value in annotation.items() if key != "image_id"})
    rows = list(zip(coco["images"], names, strict=True))
    for number, group in enumerate(_groups(rows, pictures, shard_bytes)):
        write_whole(out / f"shard-{number:05}.tar", partial(_fill, group, of_image, pictures))
    categories = {"categories": coco["categories"], "num_images": len(rows)}
    write_text(out / DATASET, json.dumps(categories, ensure_ascii=False) + "\n")
    renamed = sum(name != image["file_name"] for image, name in rows)
    return descriptions({"names of images (replaced by numbers)": renamed})


# -------------------------------------------------------------------------------------------------------------- reading


def _some(shards: Shards) -> Iterator[int]:
    """The first members of the tar files, enough to see what there is."""
    return iter(shards.order[:1000].tolist())


def _dataset(source: Path) -> dict[str, Any] | None:
    path = (source if source.is_dir() else source.parent) / DATASET
    if not path.is_file():
        return None
    about = read_json(path, "copy it again")
    if not isinstance(about, dict) or not isinstance(about.get("categories"), list):
        raise UserError(f"{path}: must be a mapping with 'categories', got {short(about)}; copy it again")
    return about


def _samples(shards: Shards, lost: Counter[str]) -> Iterator[tuple[int, int]]:
    """Of each sample the members that are its picture and its annotations."""
    samples: dict[str, dict[str, int]] = {}
    for member in shards.order.tolist():
        name = shards.name(member)
        kind = "json" if name.endswith(".json") else media_kind(name).kind
        if name.rpartition("/")[2].startswith("."):
            lost["hidden members of tar files"] += 1
        elif kind not in ("json", "image"):
            lost["members of tar files that are neither pictures nor .json"] += 1
        elif samples.setdefault(_key(name), {}).setdefault(kind, member) != member:
            lost["further pictures of a key" if kind == "image" else "further .json of a key"] += 1
    for sample in samples.values():
        if len(sample) == 2:
            yield sample["image"], sample["json"]
        else:
            lost["pictures without .json" if "image" in sample else ".json without a picture"] += 1


def _sample(shards: Shards, picture: int, labels: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The image and the annotations of a sample, as COCO has them; annotations without ``image_id``."""
    where = shards.where(labels)
    try:
        tree = msgspec.json.decode(shards.content(labels, MAX_JSON))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not JSON ({' '.join(str(error).split())[:100]}); make the tar file again") from None
    annotations = tree.get("annotations") if isinstance(tree, dict) else None
    image = tree.get("image", {}) if isinstance(tree, dict) else None
    if not isinstance(image, dict) or not isinstance(annotations, list):
        raise UserError(f"{where}: must be a mapping with 'annotations', a list, and perhaps 'image', a mapping; got {short(tree)}")
    for row, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            raise UserError(f"{where}: annotations row {row}: must be a mapping, got {short(annotation)}; correct the member")
    image = {**image, "file_name": shards.name(picture)}
    if "height" not in image or "width" not in image:
        source = InMemory(shards.where(picture), shards.content(picture))
        image["height"], image["width"] = read_header(source).oriented
    return image, annotations


def _classes_by_name(annotations: list[dict[str, Any]], source: Path) -> list[dict[str, Any]]:
    """The classes of annotations that name them; the ids 1, 2, ... are in the order of the names."""
    for annotation in annotations:
        if not isinstance(annotation.get("category"), str) or not annotation["category"]:
            raise UserError(
                f"{source}: there is no {DATASET} beside the tar files, and an annotation has no 'category', its class as text: "
                f"{short(annotation)}; write {DATASET} with COCO's 'categories'"
            )
    ids = {name: number for number, name in enumerate(sorted({annotation["category"] for annotation in annotations}), start=1)}
    for annotation in annotations:
        annotation["category_id"] = ids[annotation.pop("category")]
    return [{"id": number, "name": name} for name, number in ids.items()]


# -------------------------------------------------------------------------------------------------------------- writing


def _key(name: str) -> str:
    """What a member shares with the others of its sample.

    >>> _key("a.b/c.d.jpg")
    'a.b/c'
    """
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".")[0]


def _member_names(file_names: list[str]) -> list[str]:
    """The member's name of each image: its file name, or a number with its ending."""
    keys = Counter(map(_key, file_names))
    names = [name if _is_member(name) and keys[_key(name)] == 1 else "" for name in file_names]
    taken = {_key(name) for name in names}
    number = 0
    for row, name in enumerate(file_names):
        if not names[row]:
            while (key := f"{number:09}") in taken:
                number += 1
            taken.add(key)
            ending = Path(name).suffix.lower()
            names[row] = key + (ending if media_kind(key + ending).kind == "image" else ".jpg")
    return names


def _is_member(name: str) -> bool:
    """Whether a file name can be a member's: ``folder/KEY.jpg``, with one dot after the last slash and no way out."""
    parts = name.split("/")
    base = parts[-1]
    sound = all(part not in ("", ".", "..") for part in parts) and "\\" not in name and name.isprintable() and ":" not in name
    return sound and base.count(".") == 1 and not base.startswith(".") and media_kind(name).kind == "image"


Row = tuple[Mapping[str, Any], str]
"""An image and the name of its member."""


def _groups(rows: Iterable[Row], pictures: PictureFolder | Shards, shard_bytes: int) -> Iterator[list[Row]]:
    """The images of each tar file."""
    group: list[Row] = []
    num_bytes = 0
    for row in rows:
        group.append(row)
        num_bytes += pictures.size(str(row[0]["file_name"])) or 0
        if num_bytes >= shard_bytes:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def _fill(group: list[Row], annotations: Mapping[int, Any], pictures: PictureFolder | Shards, path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for image, name in group:
            content = {key: value for key, value in image.items() if key != "file_name"}
            sample = {"image": content, "annotations": annotations[image["id"]]}
            _add(tar, name, _bytes_of(pictures, str(image["file_name"])))
            _add(tar, f"{_key(name)}.json", json.dumps(sample, ensure_ascii=False).encode())


def _bytes_of(pictures: PictureFolder | Shards, name: str) -> bytes:
    source = pictures.source(name)
    if isinstance(source, InMemory):
        return source.content
    try:
        return source.read_bytes()
    except OSError as error:
        raise UserError(f"{source}: the image cannot be read ({(error.strerror or '').lower()}); correct --images") from None


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # without time and owner, so that equal sets give equal files
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
