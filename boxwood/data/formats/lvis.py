"""LVIS's JSON, which is COCO's but for what is said of its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boxwood.data.formats.reading import read_json
from boxwood.errors import UserError

__all__ = ["read_lvis"]


def read_lvis(path: Path) -> dict[str, Any]:
    """The COCO dictionary of an LVIS file.

    An image's name is the end of its address, ``train2017/000000391895.jpg``, since LVIS takes images from several parts of COCO.
    All other keys stay, such as which classes were looked for in an image.

    Raises `UserError` where an image has neither a name nor an address.
    """
    tree = read_json(path)
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
    found: dict[str, Any] = tree
    return found
