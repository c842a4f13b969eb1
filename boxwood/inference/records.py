"""Detections as records like those of COCO files, and drawings of such records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hotcoco import mask
from PIL import Image
from torch import Tensor

from boxwood.drawing import class_color, draw_instances
from boxwood.structures import Categories, Detections

__all__ = ["draw_records", "records_of"]


def draw_records(
    image: Tensor,
    records: Sequence[Mapping[str, Any]],
    categories: Categories,
    *,
    with_keypoints: bool = True,
    colors_of_classes: bool = False,
) -> Image.Image:
    """A copy of a picture with COCO annotations or results drawn on it: boxes, masks, keypoints and scores.

    ``image`` (3, H, W) uint8 RGB; ``records`` have ``category_id`` and ``bbox`` (x, y, width, height), and may have
    ``segmentation``, ``keypoints`` and ``score``; without ``with_keypoints`` keypoints are left out. A record without a mask, where
    others have one, gets an empty one. With ``colors_of_classes`` every instance has the colour of its class, so that colours stay
    the same from frame to frame.
    """
    size = (image.shape[-2], image.shape[-1])
    labels = [categories.index[record["category_id"]] for record in records]
    boxes = np.array([record["bbox"] for record in records], dtype=np.float64).reshape(-1, 4)
    has = {key: any(record.get(key) is not None for record in records) for key in ("segmentation", "keypoints")}
    keypoints = None
    if with_keypoints and has["keypoints"] and categories.keypoints is not None:
        unlabelled = [0.0] * 3 * len(categories.keypoints.names)
        keypoints = np.array([record.get("keypoints") or unlabelled for record in records]).reshape(len(records), -1, 3)
    return draw_instances(
        image,
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        labels=labels,
        names=[categories.names[label] for label in labels],
        scores=[score if isinstance(score := record.get("score"), int | float) else None for record in records],
        masks=(lambda index: (0, 0, _pixels(records[index].get("segmentation"), size))) if has["segmentation"] else None,
        keypoints=keypoints,
        skeleton=() if categories.keypoints is None else categories.keypoints.skeleton,
        colors=[class_color(label) for label in labels] if colors_of_classes else None,
    )


def records_of(detections: Detections, **about: Any) -> list[dict[str, Any]]:
    """The detections of one picture as COCO-like records with the names of the categories; each has the keys of ``about`` too, such
    as the file's name. Keypoints are x and y as pixel indices, as in COCO, and a score."""
    records = zip(detections.names, detections.records(), strict=True)
    return [{**about, "category": name, **record} for name, (_, record) in records]


def _pixels(segmentation: Any, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A COCO mask, polygons or run lengths, as pixels (H, W)."""
    if not segmentation:
        return np.zeros(size, dtype=np.bool_)
    code = segmentation
    if isinstance(segmentation, list):
        code = mask.merge(mask.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        code = mask.frPyObjects(segmentation, *size)
    pixels: np.ndarray[Any, np.dtype[np.bool_]] = mask.decode(code).astype(np.bool_)
    return pixels
