"""Files whose boxes are not x, y, width, height in pixels: recognised by where all boxes lie, and by masks and areas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwood.data.coco_file import NO_MASK, CocoFile
from boxwood.data.coco_variants import box_of_mask

__all__ = ["BoxLayout", "recognised_layout", "turned"]

MIN_IMAGE = 8
"""Pixels of an image's shorter side from which boxes under 1 pixel mean shares of it."""
NUM_MASKS = 100
"""Masks that are compared with their boxes."""


@dataclass(frozen=True)
class BoxLayout:
    """What the boxes of a file look like, and the boxes that are meant."""

    description: str
    boxes: NDArray[np.float64]
    """(A, 4) x, y, width, height in pixels."""
    shares: bool
    """Whether coordinates are shares of the image."""


def recognised_layout(file: CocoFile) -> BoxLayout | None:
    """How all boxes of a file are written, where that is not as COCO's; None where they are COCO's or it is not clear.

    Shares: no number is over 1. Corners: the second pair is beyond the first in each box, all boxes lie in their images if read so,
    and masks or areas agree with that, or a quarter of the boxes would else reach out of their images.
    """
    limits = file.image_sizes[file.image_rows][:, [1, 0, 1, 0]].astype(np.float64)
    rows = np.flatnonzero(np.isfinite(file.boxes).all(axis=1) & (limits > 0).all(axis=1) & (file.image_rows >= 0))
    if not len(rows):
        return None
    boxes, limits = file.boxes[rows], limits[rows]
    if boxes.min() >= 0 and boxes.max() <= 1 and limits.min() >= MIN_IMAGE and (boxes != np.round(boxes)).any():
        names, readings = zip(*_readings(boxes).items(), strict=True)
        scores = [_num_inside(read, np.ones_like(limits)) + _agreement(file, rows, read * limits) for read in readings]
        best = int(np.argmax(scores))  # the first of the best
        return BoxLayout(f"shares of their image from 0 to 1, as {names[best]}", _filled(file, rows, readings[best] * limits), True)
    corners = _readings(boxes)["corners"]
    if (corners[:, 2:] > 0).all() and _num_inside(corners, limits) == len(rows) and _are_corners(file, rows, corners, limits):
        return BoxLayout("corners x1, y1, x2, y2 in place of x, y, width, height", _filled(file, rows, corners), False)
    return None


def turned(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(A, 4) x, y, width, height, in which boxes of a negative side begin at their other corner."""
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        return np.concatenate([np.minimum(boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), np.abs(boxes[:, 2:])], axis=1)


# ------------------------------------------------------------------------------------------------------------ internals


def _readings(boxes: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The boxes as x, y, width, height, if they are written in one of three ways."""
    first, second = boxes[:, :2], boxes[:, 2:]
    return {
        "x, y, width, height": boxes,
        "corners": np.concatenate([first, second - first], axis=1),
        "centre, width, height": np.concatenate([first - second / 2, second], axis=1),
    }


def _num_inside(boxes: NDArray[np.float64], limits: NDArray[np.float64]) -> int:
    """How many boxes have an extent and lie in their image, but for a hundredth of its side."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    inside = (corners >= -0.01 * limits) & (corners <= 1.01 * limits)
    return int((inside.all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)).sum())


def _are_corners(file: CocoFile, rows: NDArray[np.int64], corners: NDArray[np.float64], limits: NDArray[np.float64]) -> bool:
    boxes = file.boxes[rows]
    num_masks = int((file.mask_kinds[rows] != NO_MASK)[:NUM_MASKS].sum())
    if num_masks and (agreement := _agreement(file, rows, corners)) != _agreement(file, rows, boxes):
        return agreement >= 0.9 * num_masks
    areas = file.areas[rows]
    if np.isclose(areas, corners[:, 2:].prod(axis=1), rtol=0.01).mean() >= 0.9:
        return not np.isclose(areas, boxes[:, 2:].prod(axis=1), rtol=0.01).any()
    beyond = (boxes[:, :2] + boxes[:, 2:] > 1.01 * limits[:, :2]).any(axis=1)
    return len(rows) >= 3 and bool(beyond.mean() >= 0.25)


def _agreement(file: CocoFile, rows: NDArray[np.int64], boxes: NDArray[np.float64]) -> int:
    """How many of the first masks meet their boxes, in pixels: an IoU over 0.7 of the box and the extent of the mask."""
    agree = 0
    for row, box in zip(rows[:NUM_MASKS].tolist(), boxes[:NUM_MASKS], strict=True):
        extent = box_of_mask(file.segmentation(row))
        if extent is not None:
            start = np.maximum(box[:2], extent[:2])
            shared = np.clip(np.minimum(box[:2] + box[2:], np.add(extent[:2], extent[2:])) - start, 0, None).prod()
            agree += bool(shared > 0.7 * (box[2:].prod() + extent[2] * extent[3] - shared))
    return agree


def _filled(file: CocoFile, rows: NDArray[np.int64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """All boxes of the file, of which those of ``rows`` are ``boxes``."""
    filled = file.boxes.copy()
    filled[rows] = boxes
    return filled
