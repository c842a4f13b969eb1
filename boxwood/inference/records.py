"""Pictures of what COCO files say: annotations, and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hotcoco import mask
from PIL import Image
from torch import Tensor

from boxwood.drawing import draw_instances
from boxwood.structures import Categories

__all__ = ["draw_records"]


def draw_records(
    image: Tensor, records: Sequence[Mapping[str, Any]], categories: Categories, *, with_keypoints: bool = True
) -> Image.Image:
    """A copy of a picture with COCO annotations or results of it drawn on it: their boxes, masks and keypoints, and scores.

    ``image`` (3, H, W) uint8 RGB; ``records`` have ``category_id`` and ``bbox`` (x, y, width, height), and ``segmentation``,
    ``keypoints`` and ``score`` where any has them; without ``with_keypoints`` keypoints are left out. An annotation without a mask
    beside others that have one has an empty one.
    """
    size = (image.shape[-2], image.shape[-1])
    labels = [categories.index[record["category_id"]] for record in records]
    boxes = np.array([record["bbox"] for record in records], dtype=np.float64).reshape(-1, 4)
    has = {key: any(record.get(key) is not None for record in records) for key in ("segmentation", "keypoints", "score")}
    keypoints = None
    if with_keypoints and has["keypoints"] and categories.keypoints is not None:
        nothing = [0.0] * 3 * len(categories.keypoints.names)
        keypoints = np.array([record.get("keypoints") or nothing for record in records]).reshape(len(records), -1, 3)
    return draw_instances(
        image,
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        labels=labels,
        names=[categories.names[label] for label in labels],
        scores=[record["score"] for record in records] if has["score"] else None,
        masks=np.array([_pixels(record.get("segmentation"), size) for record in records]) if has["segmentation"] else None,
        keypoints=keypoints,
        skeleton=() if categories.keypoints is None else categories.keypoints.skeleton,
    )


def _pixels(segmentation: Any, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A mask as COCO writes it, polygons or run lengths, as pixels (H, W)."""
    if not segmentation:
        return np.zeros(size, dtype=np.bool_)
    code = segmentation
    if isinstance(segmentation, list):
        code = mask.merge(mask.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        code = mask.frPyObjects(segmentation, *size)
    pixels: np.ndarray[Any, np.dtype[np.bool_]] = mask.decode(code).astype(np.bool_)
    return pixels
