"""The identity of a data set: digests of what training reads from it besides pixels, so that a resumed run can compare its data.

fingerprint    a digest of each part: images, classes, boxes, masks, keypoints, proposals
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from boxwood.data.class_order import ReorderedClasses
from boxwood.data.coco import CocoDataset
from boxwood.data.dataset import Dataset
from boxwood.data.mixture import MixtureDataset

__all__ = ["fingerprint"]


def fingerprint(dataset: Dataset) -> dict[str, str]:
    """A digest of each part of a data set, by its name: ``images`` (ids and sizes, in their order), ``classes``, ``boxes`` (with
    their images and classes), ``masks``, ``keypoints``, ``dense_pose``, ``proposals`` and ``interactions``. Pixels and the names of
    files are not read.

    A user-defined data set has ``images``, ``classes`` and ``annotations``, from its `to_coco`.
    """
    if isinstance(dataset, MixtureDataset):
        parts = [fingerprint(part) for part in dataset.parts]
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: _digest(part.get(name, "").encode() for part in parts) for name in names}
    if isinstance(dataset, ReorderedClasses):
        return fingerprint(dataset.dataset)
    if isinstance(dataset, CocoDataset):
        return _of_coco(dataset)
    tree = dataset.to_coco()
    images = [[image["id"], image["height"], image["width"]] for image in tree["images"]]
    content = {"images": images, "classes": tree["categories"], "annotations": tree["annotations"]}
    return {name: _digest([json.dumps(part, default=_plain).encode()]) for name, part in content.items()}


def _of_coco(dataset: CocoDataset) -> dict[str, str]:
    file, proposals = dataset.file, dataset.proposals
    instances: list[np.ndarray[Any, Any]] = [file.image_rows, file.category_ids, file.boxes, file.crowd, file.ignore]
    polygons: list[np.ndarray[Any, Any]] = [file.mask_kinds, file.parts, file.points, file.coordinates]
    columns: dict[str, list[np.ndarray[Any, Any]]] = {
        "images": [file.image_ids, file.image_sizes],
        "boxes": instances,
        "masks": [*polygons, file.rles.buffer, file.rles.offsets, file.rle_sizes],
        "keypoints": [file.keypoint_rows, file.keypoints],
    }
    if (table := file.interactions) is not None:
        columns["interactions"] = [table.image_ids, table.human_ids, table.verb_rows, table.targets, table.visible, table.known]
    if len(file.dense_pose.buffer):
        columns["dense_pose"] = [file.dense_pose.buffer, file.dense_pose.offsets]
    if proposals is not None:
        columns["proposals"] = [proposals.image_ids, proposals.starts, proposals.boxes, proposals.scores]
    classes = json.dumps([dataset.categories.ids, dataset.categories.names]).encode()
    return {"classes": _digest([classes]), **{name: _digest(map(_bytes, arrays)) for name, arrays in columns.items()}}


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{len(part)} ".encode())
        total.update(part)
    return total.hexdigest()[:32]


def _bytes(array: np.ndarray[Any, Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _plain(value: Any) -> Any:
    """What JSON does not know in a user's dictionary: numbers of numpy and torch as Python's, else the name of the class."""
    return value.tolist() if hasattr(value, "tolist") else type(value).__name__
