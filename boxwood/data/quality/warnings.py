"""Warnings: what is allowed in a data set but rarely intended, for a person to look at; training does not refuse it.

look_at         one annotation file
look_at_sizes   its boxes in the input of a network
look_at_both    the train and the val set together
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import mask as coco_mask
from numpy.typing import NDArray

from boxwood.data.coco_file import NO_MASK, POLYGONS, RLE_COUNTS, CocoFile
from boxwood.data.quality.checks import NUM_EXAMPLES, Finding
from boxwood.data.shards import PictureFolder, Shards, open_pictures
from boxwood.data.transforms import resized_size

__all__ = ["duplicated_boxes", "look_at", "look_at_both", "look_at_sizes", "odd_keypoints"]

TINY = 4.0
"""Pixels of the network's input; a box with a shorter side covers no cell of the finest map."""
FEW = 10
"""Instances of a class."""
LEAST_OVERLAP = 0.5
"""IoU of a box and the extent of its mask."""
MARGIN = 0.25
"""A keypoint may be outside its box by this fraction of the box's sides."""


def look_at(file: CocoFile) -> list[Finding]:
    """Duplicate boxes, classes with few instances or with names that differ by case, masks that do not meet their boxes,
    keypoints outside their image or box. Every annotation must have its image (`boxwood.data.quality.checks.check_identities`)."""
    outside, apart = odd_keypoints(file)
    findings = [
        _look(
            "duplicate boxes in an image",
            duplicated_boxes(file),
            file,
            "annotate each instance once; --fix leaves duplicates out",
        ),
        _few_instances(file),
        _same_but_for_case(file),
        _look("masks that do not meet their boxes", _apart_from_mask(file), file, "correct the box or the mask"),
        _look("instances with keypoints outside their image", outside, file, "correct them; --fix marks those as not labelled"),
        _look("instances with keypoints far outside their box", apart, file, "correct the keypoints or the box"),
    ]
    return [finding for finding in findings if finding]


def look_at_sizes(file: CocoFile, short: int, long: int) -> list[Finding]:
    """Boxes that are tiny in the input of a network: images of a shorter side ``short``, at most ``long``."""
    scales = np.array([resized_size((h, w), short, long)[0] / h if min(h, w) > 0 else 1.0 for h, w in file.image_sizes.tolist()])
    sides = np.nan_to_num(file.boxes[:, 2:].min(axis=1)) * scales[file.image_rows]
    tiny = (sides > 0) & (sides < TINY) & ~file.crowd
    advice = f"train on larger images than {short} pixels, cut them into tiles, or leave these out"
    finding = _look(f"boxes with a side under {TINY:g} pixels as the network sees them", tiny, file, advice)
    return [finding] if finding else []


def look_at_both(train: CocoFile, train_folder: str | Path, val: CocoFile, val_folder: str | Path) -> list[Finding]:
    """Images that are in both sets, by the bytes of their files: AP on training images is meaningless."""
    train_pictures, val_pictures = open_pictures(train_folder), open_pictures(val_folder)
    of_size: dict[int, list[str]] = defaultdict(list)
    for name, size in _files(train, train_pictures):
        of_size[size].append(name)
    digests: dict[int, dict[bytes, str]] = {}
    shared: list[str] = []
    for name, size in _files(val, val_pictures):
        if size not in digests:
            digests[size] = {train_pictures.digest(other): other for other in of_size.get(size, [])}
        if digests[size] and (twin := digests[size].get(val_pictures.digest(name))) is not None:
            shared.append(f"'{Path(name).name}' is '{Path(twin).name}' of train")
    if not shared:
        return []
    examples = tuple(shared[:NUM_EXAMPLES])
    return [Finding("images of val that train has too", len(shared), examples, "", "take them out of one of both", look=True)]


def duplicated_boxes(file: CocoFile) -> NDArray[np.bool_]:
    """(A,) True where an annotation before has the same image, class and box."""
    columns = np.column_stack([file.annotation_image_ids, file.category_ids, file.boxes])
    _, first = np.unique(columns, axis=0, return_index=True)
    repeated = np.ones(len(file.ids), dtype=np.bool_)
    repeated[first] = False
    return repeated


def odd_keypoints(file: CocoFile) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(A,) annotations with a labelled keypoint outside the image; and those with a visible one in it, but far outside its box."""
    outside, apart = np.zeros((2, len(file.ids)), dtype=np.bool_)
    rows = np.flatnonzero(file.keypoint_rows >= 0)
    if len(rows):
        points = file.keypoints[file.keypoint_rows[rows]].reshape(len(rows), -1, 3)
        labelled, places = points[..., 2] > 0, points[..., :2]
        limits = file.image_sizes[file.image_rows[rows]][:, None, ::-1]
        beyond = labelled & ((places < -1) | (places > limits)).any(axis=2)
        corner, sides = file.boxes[rows, None, :2], file.boxes[rows, None, 2:]
        # A hidden keypoint may well be outside the box around the visible part.
        away = (points[..., 2] == 2) & ((places < corner - MARGIN * sides) | (places > corner + (1 + MARGIN) * sides)).any(axis=2)
        outside[rows] = beyond.any(axis=1)
        apart[rows] = (away & ~beyond).any(axis=1)
    return outside, apart


# ------------------------------------------------------------------------------------------------------------ internals


def _look(problem: str, wrong: NDArray[np.bool_], file: CocoFile, advice: str) -> Finding | None:
    rows = np.flatnonzero(wrong)
    if not len(rows):
        return None
    examples = tuple(f"{file.describe(int(row))}: bbox {file.boxes[row].tolist()}" for row in rows[:NUM_EXAMPLES])
    return Finding(problem, len(rows), examples, "", advice, look=True)


def _few_instances(file: CocoFile) -> Finding | None:
    counts = {row["id"]: int((file.category_ids == row["id"]).sum()) for row in file.categories}
    mean = len(file.ids) / len(counts)
    limit = max(1, min(FEW, mean / 5))
    few = [f"'{row['name']}' has {counts[row['id']]}" for row in file.categories if counts[row["id"]] < limit]
    if not few:
        return None
    advice = "annotate more, or leave the class out"
    return Finding("classes with few instances", len(few), tuple(few[:NUM_EXAMPLES]), "", advice, look=True)


def _same_but_for_case(file: CocoFile) -> Finding | None:
    spelled: dict[str, list[str]] = defaultdict(list)
    for row in file.categories:
        name = str(row["name"])
        if name not in spelled[" ".join(name.casefold().split())]:
            spelled[" ".join(name.casefold().split())].append(name)
    twins = [" and ".join(f"'{name}'" for name in names) for names in spelled.values() if len(names) > 1]
    if not twins:
        return None
    advice = "merge them, or give them different names"
    return Finding(
        "classes whose names differ by case or spaces alone", len(twins), tuple(twins[:NUM_EXAMPLES]), "", advice, look=True
    )


def _apart_from_mask(file: CocoFile) -> NDArray[np.bool_]:
    apart = np.zeros(len(file.ids), dtype=np.bool_)
    for row in np.flatnonzero(file.mask_kinds != NO_MASK).tolist():
        extent = _extent(file, row)
        box = file.boxes[row]
        if extent is None or not np.isfinite(box).all():
            continue  # other checks report these
        start, end = np.maximum(box[:2], extent[:2]), np.minimum(box[:2] + box[2:], extent[:2] + extent[2:])
        shared = float(np.clip(end - start, 0, None).prod())
        total = float(box[2:].prod() + extent[2:].prod()) - shared
        # A mask of pixels may be a pixel off on each side, which matters to small ones.
        near = np.abs(np.concatenate([box[:2] - extent[:2], box[:2] + box[2:] - extent[:2] - extent[2:]])).max() <= 2
        apart[row] = not near and (total <= 0 or shared / total < LEAST_OVERLAP)
    return apart


def _extent(file: CocoFile, row: int) -> NDArray[Any] | None:
    """x, y, width, height around a mask; None where it has none or is damaged."""
    if file.mask_kinds[row] == POLYGONS:
        parts = [part[: len(part) // 2 * 2].reshape(-1, 2) for part in file.polygon_parts(row) if len(part) >= 6]
        points = np.concatenate(parts) if parts else np.zeros((0, 2))
        if not len(points) or not np.isfinite(points).all():
            return None
        return np.concatenate([points.min(axis=0), np.ptp(points, axis=0)])
    try:
        code = file.segmentation(row)
        if file.mask_kinds[row] == RLE_COUNTS:
            code = coco_mask.frPyObjects(code, *code["size"])
        extent = np.asarray(coco_mask.toBbox(code), dtype=np.float64).reshape(-1)
    except ValueError:
        return None
    return extent if extent[2:].min() > 0 else None


def _files(file: CocoFile, pictures: PictureFolder | Shards) -> Iterator[tuple[str, int]]:
    """Name and bytes of each picture that is there."""
    names = map(file.file_name, range(len(file.image_ids)))
    return ((name, size) for name in names if (size := pictures.size(name)) is not None)
