"""Dense pose in COCO's annotations, as DensePose-COCO has it: checked where a file is read, decoded where a sample is made.

    dp_x, dp_y   where points lie in the box, which counts as 256 x 256    dp_masks   run lengths of the 14 coarse parts over the
    dp_I         their parts, 1..24                                                   box, [] where a part is not seen; or one of
    dp_U, dp_V   their coordinates in the part, 0..1                                  the whole body

Letters: N instances of an image, P points of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from boxwood.columns import Columns, are_numbers, are_run_lengths

if TYPE_CHECKING:  # it needs torch, which a folder of labelled pictures is read without
    from boxwood.dense_pose import DensePose, Symmetry

__all__ = ["dense_pose_field", "dense_pose_of", "packed_dense_pose"]

BOX_SIDE = 256
"""An annotated box counts as so many units a side, whatever its size in the image."""
POINT_KEYS = ("dp_x", "dp_y", "dp_I", "dp_U", "dp_V")
KEYS = (*POINT_KEYS, "dp_masks")
RANGES = {
    "dp_x": (-256.0, 512.0, f"from 0 to {BOX_SIDE}"),
    "dp_y": (-256.0, 512.0, f"from 0 to {BOX_SIDE}"),
    "dp_I": (1.0, 24.0, "whole, from 1 to 24"),
    "dp_U": (0.0, 1.0, "from 0 to 1"),
    "dp_V": (0.0, 1.0, "from 0 to 1"),
}
"""The lowest and the highest number of each key, and the words for it; points that lie a little beside their box are read."""
MOST_POINTS = 10_000
COARSE_PARTS = 14


def packed_dense_pose(columns: Columns) -> list[bytes]:
    """What each record of ``columns`` has of dense pose, in few bytes (`dense_pose_of`); none where it has nothing.

    Raises `UserError`, which names the row and the key, where a key is missing beside others, lists are not equally long, numbers
    are out of range, or a mask is not one over 256 x 256.
    """
    packed = []
    for row, record in enumerate(columns.records):
        present = {key: record[key] for key in KEYS if record.get(key) is not None}
        if present:
            _check(columns, row, present)
        packed.append(msgspec.msgpack.encode(present) if present else b"")
    return packed


def dense_pose_of(packed: bytes) -> dict[str, Any]:
    """The keys and values of an annotation, as in the file."""
    return msgspec.msgpack.decode(packed) if packed else {}


def dense_pose_field(annotations: Sequence[dict[str, Any]], boxes: NDArray[np.float64], symmetry: Symmetry | None) -> DensePose:
    """The field of the N instances of an image; ``boxes`` (N, 4) x, y, width, height are the annotated ones. Raises ValueError
    where a mask is damaged."""
    import torch

    from boxwood.dense_pose import DensePose, coarse_parts

    count = len(annotations)
    numbers = [len(annotation.get("dp_x", ())) for annotation in annotations]
    points = np.zeros((count, max(numbers, default=0), 5), dtype=np.float32)
    points[..., 2] = -1
    segmentation = np.zeros((count, BOX_SIDE, BOX_SIDE), dtype=np.uint8)
    for row, annotation in enumerate(annotations):
        if numbers[row]:
            points[row, : numbers[row]] = np.stack([annotation[key] for key in POINT_KEYS], axis=1)
        if "dp_masks" in annotation:
            segmentation[row] = coarse_parts(annotation["dp_masks"])
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)
    return DensePose(
        torch.from_numpy(points),
        torch.from_numpy(corners),
        torch.from_numpy(segmentation),
        torch.tensor([number > 0 for number in numbers], dtype=torch.bool),
        torch.tensor(["dp_masks" in annotation for annotation in annotations], dtype=torch.bool),
        symmetry,
    )


# ------------------------------------------------------------------------------------------------------------ internals


def _check(columns: Columns, row: int, present: dict[str, Any]) -> None:
    points = [key for key in POINT_KEYS if key in present]
    if points and len(points) < len(POINT_KEYS):
        missing = next(key for key in POINT_KEYS if key not in present)
        columns.refuse(row, missing, f"a list as '{points[0]}' beside it")
    for key in points:
        values, (low, high, words) = present[key], RANGES[key]
        if not isinstance(values, list) or len(values) > MOST_POINTS or not are_numbers(values):
            columns.refuse(row, key, f"a list of at most {MOST_POINTS} numbers")
        if not all(low <= value <= high for value in values) or (key == "dp_I" and not all(v == math.floor(v) for v in values)):
            wrong = next(value for value in values if not low <= value <= high or (key == "dp_I" and value != math.floor(value)))
            columns.fail(row, f"'{key}' must be numbers {words}, got {wrong:g}")
        if len(values) != len(present["dp_x"]):
            columns.fail(row, f"'{key}' must have {len(present['dp_x'])} numbers, as 'dp_x' has, got {len(values)}")
    masks = present.get("dp_masks", [])
    listed = [masks] if isinstance(masks, dict) else masks
    expected = f"a list of {COARSE_PARTS} run lengths {{'size': [256, 256], 'counts'}}, [] for a part that is not seen"
    if not isinstance(listed, list) or len(listed) > COARSE_PARTS:
        columns.refuse(row, "dp_masks", expected)
    for mask in listed:
        if mask != [] and not (isinstance(mask, dict) and are_run_lengths(mask) and mask["size"] == [BOX_SIDE, BOX_SIDE]):
            columns.refuse(row, "dp_masks", expected)
