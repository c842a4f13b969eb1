"""LVIS's JSON: COCO's, except that images have a URL and no file name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boxwood.columns import read_json
from boxwood.data.formats.reading import Reading
from boxwood.errors import UserError

__all__ = ["has_addresses_alone", "named_by_address", "read_lvis"]


def read_lvis(path: Path) -> Reading:
    """An LVIS file, with everything in it. Raises `UserError` as `named_by_address` does."""
    return Reading(named_by_address(read_json(path, "copy it again"), path), None)


def has_addresses_alone(tree: Any) -> bool:
    """Whether a COCO dictionary is LVIS's: its first image has a ``coco_url`` and no ``file_name``."""
    images = tree.get("images") if isinstance(tree, dict) else None
    first = images[0] if isinstance(images, list) and images else None
    return isinstance(first, dict) and "coco_url" in first and "file_name" not in first


def named_by_address(tree: Any, path: Path) -> dict[str, Any]:
    """``tree``, changed in place: the file name of an image is the end of its ``coco_url``, such as ``train2017/000000391895.jpg``,
    since LVIS has images of several parts of COCO, and ``iscrowd`` is 0 where it is missing.

    All other keys stay, such as the classes that were annotated exhaustively in an image. Messages name the file by ``path``.
    Raises `UserError` where the tree is not LVIS's, or an image has neither a name nor a URL.
    """
    if not isinstance(tree, dict) or not all(isinstance(tree.get(key), list) for key in ("images", "annotations", "categories")):
        raise UserError(f"{path}: is not LVIS's: it has no 'images', 'annotations' and 'categories'")
    for row, image in enumerate(tree["images"]):
        address = image.get("coco_url") if isinstance(image, dict) else None
        if isinstance(address, str) and address.count("/") >= 2:
            image["file_name"] = "/".join(address.split("/")[-2:])
        elif not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
            raise UserError(f"{path}: images row {row}: has neither 'coco_url' nor 'file_name'; correct the file")
    for annotation in tree["annotations"]:
        if isinstance(annotation, dict):
            annotation.setdefault("iscrowd", 0)
    named: dict[str, Any] = tree
    return named
