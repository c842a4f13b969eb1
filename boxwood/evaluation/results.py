"""Files of detections, read to score or draw them without the network: COCO results, and Detectron's ``detections.pkl``.

A COCO results file is a list of records, each with ``image_id``, ``category_id``, ``score`` and one or more of ``bbox`` (x, y,
width, height), ``segmentation`` (run lengths) and ``keypoints`` (x, y, score of each), in pixels of the original image. Dense pose,
``uv_shape`` and ``uv_data``, is read beside a box.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from hotcoco import mask as coco_mask
from numpy.typing import NDArray
from torch import Tensor

from boxwood import safe_pickle
from boxwood.columns import MAX_COORDINATE, Columns, are_counts, read_json, short
from boxwood.errors import UserError
from boxwood.evaluation.truth import ImageResults, Results
from boxwood.structures import Categories

__all__ = ["read_records", "read_results", "select_again"]

SHAPES = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
"""The key of a record that holds the shape of each task."""
DENSE_POSE = ("uv_shape", "uv_data")
"""The keys of dense pose, which the measure checks."""

Sizes = Mapping[int, tuple[int, int]]
Select = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def read_results(path: Path, categories: Categories, sizes: Sizes) -> tuple[Results, tuple[str, ...]]:
    """Read a file that `boxwood eval` or another program wrote: the detections by image id, and the tasks that its records have
    shapes of, among ``bbox``, ``segm`` and ``keypoints``; all three where there is no record.

    ``categories`` are the classes of its category ids, ``sizes`` height and width of the data set's images by id. Detections of
    other images are kept here and left out by the evaluators. A record without a box gets that of its mask or keypoints. Raises
    `UserError`, naming the row, where a record is malformed, has an unknown category, a box with a negative side, a number from
    a million on, or a mask of another size than its image.
    """
    rles, keypoints, others = None, None, None
    tasks: tuple[str, ...] = ("bbox",)
    if (table := _boxes_alone(path, categories)) is not None:
        image_ids, labels, scores, boxes = table
    else:
        records = _from_pickle(path, categories, sizes) if path.suffix == ".pkl" else _from_json(path)
        columns = _Columns(records, path, id_key="image_id")
        image_ids, scores = columns.integers("image_id"), columns.scores()
        labels = columns.labels(categories)
        tasks = columns.tasks()
        rles = columns.masks(sizes) if "segm" in tasks else None
        keypoints = columns.keypoints() if "keypoints" in tasks else None
        others = columns.interactions()
        if "bbox" in tasks and records and DENSE_POSE[1] in records[0]:
            poses = [{key: record[key] for key in DENSE_POSE if key in record} for record in records]
            others = poses if others is None else [deeds | pose for deeds, pose in zip(others, poses, strict=True)]
        boxes = columns.boxes() if "bbox" in tasks else _boxes_of(rles, keypoints, len(records))
    # Stable: of equal scores the first of the file stays first, as in the COCO API.
    order = np.lexsort((-scores, image_ids))
    image_ids_in_order, starts = np.unique(image_ids[order], return_index=True)
    results: Results = {}
    ends = np.append(starts, len(order))[1:]
    for image_id, start, end in zip(image_ids_in_order.tolist(), starts, ends, strict=True):
        rows = order[start:end]
        results[image_id] = ImageResults(
            boxes[rows],
            scores[rows],
            labels[rows],
            None if rles is None else [rles[row] for row in rows.tolist()],
            None if keypoints is None else keypoints[rows],
            None if others is None else [others[row] for row in rows.tolist()],
        )
    return results, tasks


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a COCO results file, unchanged; only ``image_id`` is checked.

    Raises `UserError` where the file is not a list of records, or a record has no image id.
    """
    records = _from_json(path)
    Columns(records, path, id_key="image_id").integers("image_id")
    return records


def select_again(results: Results, select: Select) -> Results:
    """Apply ``select`` to the detections of each image: boxes (N, 4) xyxy, scores (N,), labels (N,) -> boxes (M, 4), scores (M,)
    and their rows (M,) of the N. Masks, keypoints and other fields are selected by the same rows."""
    selected: Results = {}
    for image_id, detections in results.items():
        corners = np.concatenate([detections.boxes[:, :2], detections.boxes[:, :2] + detections.boxes[:, 2:]], axis=1)
        boxes, scores, selected_rows = select(*map(torch.from_numpy, (corners, detections.scores, detections.labels)))
        placed, rows = boxes.numpy(), selected_rows.numpy()
        selected[image_id] = ImageResults(
            # An unmoved box keeps its exact numbers: converting to xyxy and back rounds.
            np.where(
                (placed == corners[rows]).all(axis=1, keepdims=True),
                detections.boxes[rows],
                np.concatenate([placed[:, :2], placed[:, 2:] - placed[:, :2]], axis=1),
            ),
            scores.numpy(),
            detections.labels[rows],
            None if detections.rles is None else [detections.rles[row] for row in rows.tolist()],
            None if detections.keypoints is None else detections.keypoints[rows],
            None if detections.others is None else [detections.others[row] for row in rows.tolist()],
        )
    return selected


# ------------------------------------------------------------------------------------------------------------ internals


class _Box(msgspec.Struct, gc=False):
    """A record with a box alone; `_Columns` reads all others."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float
    segmentation: None = None
    keypoints: None = None
    interactions: None = None
    uv_data: None = None


BOX = np.dtype([("image_id", np.int64), ("category_id", np.int64), ("bbox", np.float64, (4,)), ("score", np.float64)])


def _boxes_alone(
    path: Path, categories: Categories
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]] | None:
    """Image ids, labels, scores and boxes of a file of boxes alone; None for any other and for a faulty one: `_Columns` reads it
    and names the row. This path takes half of its memory, as only one record at a time is an object."""
    if path.suffix == ".pkl":
        return None
    decode = msgspec.json.Decoder(_Box).decode
    try:
        rows = msgspec.json.decode(path.read_bytes(), type=list[msgspec.Raw])
        records = ((row.image_id, row.category_id, row.bbox, row.score) for row in map(decode, rows))
        table = np.fromiter(records, BOX, count=len(rows))
    except (OSError, OverflowError, RecursionError, ValueError, msgspec.MsgspecError):
        return None
    ids = np.array(categories.ids, dtype=np.int64)
    order = np.argsort(ids)
    labels = order[np.searchsorted(ids[order], table["category_id"]).clip(max=len(ids) - 1)]
    if (
        not len(table)
        or (ids[labels] != table["category_id"]).any()
        or not all((np.abs(table[key]) < MAX_COORDINATE).all() for key in ("bbox", "score"))  # NaN is not either
        or (table["bbox"][:, 2:] < 0).any()
    ):
        return None
    return table["image_id"].copy(), labels, table["score"].copy(), table["bbox"].copy()


class _Columns(Columns):
    """The columns that only files of detections have."""

    def labels(self, categories: Categories) -> NDArray[np.int64]:
        ids = self.integers("category_id").tolist()
        if strangers := set(ids) - categories.index.keys():
            row = next(row for row, category in enumerate(ids) if category in strangers)
            self.refuse(row, "category_id", f"one of the data set's classes ({_ids(categories)})")
        return np.array([categories.index[category] for category in ids], dtype=np.int64)

    def tasks(self) -> tuple[str, ...]:
        """The tasks of the first record; the other records must have them too."""
        if not self.records:
            return tuple(SHAPES)
        tasks = tuple(task for task, key in SHAPES.items() if self.records[0].get(key) is not None)
        if not tasks:
            self.fail(0, f"must have 'bbox', 'segmentation' or 'keypoints', got {short(sorted(self.records[0]))}")
        return tasks

    def scores(self) -> NDArray[np.float64]:
        return self.bounded("score", self.numbers("score", finite=True), "a number")

    def boxes(self) -> NDArray[np.float64]:
        boxes = self.bounded("bbox", self.vectors("bbox", 4, finite=True), "4 numbers")
        wrong = np.flatnonzero((boxes[:, 2:] < 0).any(axis=1))
        if len(wrong):
            self.refuse(int(wrong[0]), "bbox", "x, y, width and height, these two not negative")
        return boxes

    def keypoints(self) -> NDArray[np.float64]:
        first = self.records[0]["keypoints"] if self.records else []
        count = len(first) if isinstance(first, list) else 0
        if self.records and (count == 0 or count % 3):
            self.refuse(0, "keypoints", "x, y and a score of each")
        return self.bounded("keypoints", self.vectors("keypoints", count, finite=True), f"{count} numbers")

    def interactions(self) -> list[dict[str, Any]] | None:
        """What each detection does, as `boxwood.interactions.DetectedInteractions` writes it; None where no record says it."""
        found = [{"interactions": record["interactions"]} if "interactions" in record else {} for record in self.records]
        self.check("interactions", [row.get("interactions", []) for row in found], lambda v: isinstance(v, list), "a list")
        return found if any(found) else None

    def bounded(self, key: str, numbers: NDArray[np.float64], expected: str) -> NDArray[np.float64]:
        """The numbers (N, ...), none of them so large that sums and products of them would leave the range of numbers."""
        wrong = np.flatnonzero((np.abs(numbers) >= MAX_COORDINATE).any(axis=tuple(range(1, numbers.ndim))))
        if len(wrong):
            self.refuse(int(wrong[0]), key, f"{expected} between -{MAX_COORDINATE:,.0f} and {MAX_COORDINATE:,.0f}")
        return numbers

    def masks(self, sizes: Sizes) -> list[dict[str, Any]]:
        masks: list[dict[str, Any]] = []
        for row, record in enumerate(self.records):
            mask = record.get("segmentation")
            size = mask.get("size") if isinstance(mask, dict) else None
            if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
                self.refuse(row, "segmentation", "run lengths {'size': [height, width], 'counts'}")
            height, width = size
            # Checked for memory too: the size of a mask decides how much it takes.
            if (expected := sizes.get(record["image_id"])) is not None and (height, width) != expected:
                self.fail(row, f"'segmentation' must have the size of its image, {list(expected)}, got {short(size)}")
            counts = mask.get("counts")
            if are_counts(counts):
                if sum(counts) != height * width:
                    self.fail(row, f"'segmentation' must have counts whose sum is its pixels, got {short(sum(counts))}")
                mask = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
            elif not isinstance(counts, str):
                self.fail(row, f"'segmentation' must have counts, as text or a list, got {short(counts)}")
            masks.append({"size": [height, width], "counts": _text(mask["counts"])})
        try:
            coco_mask.area(masks)
        except Exception as error:  # the decoder raises errors of several types
            raise UserError(f"{self.path}: a mask's run lengths are damaged ({error}); write the file again") from None
        return masks


def _from_json(path: Path) -> list[Any]:
    records = read_json(path, "name a file of COCO results")
    if not isinstance(records, list):
        raise UserError(f"{path}: is no file of COCO results, which is a list of records, but a {type(records).__name__}")
    return records


def _from_pickle(path: Path, categories: Categories, sizes: Sizes) -> list[dict[str, Any]]:
    """Detectron's file: for each class (background first) and each image in the order of ids (N, 5) x1, y1, x2, y2, score, where x2
    and y2 are the last pixel; beside them run lengths, and keypoints (4, K) x, y, logit, probability."""
    content = safe_pickle.read(path)
    boxes = content.get("all_boxes") if isinstance(content, dict) else None
    if not isinstance(boxes, list) or not all(isinstance(of_class, list) for of_class in boxes):
        raise UserError(f"{path}: is no file of Detectron's detections (it has no 'all_boxes'); name one, or COCO results")
    image_ids = sorted(sizes)
    if len(boxes) != len(categories) + 1 or any(len(of_class) not in (0, len(image_ids)) for of_class in boxes[1:]):
        raise UserError(
            f"{path}: has detections of {len(boxes) - 1} classes in {max(map(len, boxes), default=0)} images, the data set has "
            f"{len(categories)} and {len(image_ids)}; name the data set that it was made on"
        )
    records: list[dict[str, Any]] = []
    for label, of_class in enumerate(boxes[1:]):
        for place, rows in enumerate(of_class):
            masks, points = (_beside(content, key, label + 1, place) for key in ("all_segms", "all_keyps"))
            try:
                records += _of_detectron(rows, masks, points, image_ids[place], categories.ids[label])
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                raise UserError(
                    f"{path}: image id {image_ids[place]}: expected boxes (n, 5) with masks or keypoints, or none beside them "
                    f"({' '.join(str(error).split())[:80]}); name another file"
                ) from None
    return records


def _of_detectron(boxes: Any, masks: Any, points: Any, image_id: int, category_id: int) -> list[dict[str, Any]]:
    """The records of one class in one image."""
    rows = np.asarray(boxes, dtype=np.float64)
    if rows.size == 0:
        return []
    if rows.ndim != 2 or rows.shape[1] != 5:
        raise ValueError(f"got {rows.shape}")
    records: list[dict[str, Any]] = []
    for row, (x1, y1, x2, y2, score) in enumerate(rows.tolist()):
        box = [x1, y1, x2 - x1 + 1, y2 - y1 + 1]
        record: dict[str, Any] = {"image_id": image_id, "category_id": category_id, "score": score, "bbox": box}
        if masks:
            record["segmentation"] = {"size": [int(side) for side in masks[row]["size"]], "counts": _text(masks[row]["counts"])}
        if points:
            record["keypoints"] = np.asarray(points[row], dtype=np.float64)[:3].T.flatten().tolist()
        records.append(record)
    return records


def _beside(content: Mapping[str, Any], key: str, label: int, place: int) -> list[Any]:
    """The masks or keypoints of one class and image; empty where the file has none."""
    try:
        values = content[key][label][place]
    except (KeyError, IndexError, TypeError):
        return []
    return list(values) if isinstance(values, list) else []


def _boxes_of(rles: list[dict[str, Any]] | None, keypoints: NDArray[np.float64] | None, count: int) -> NDArray[np.float64]:
    """(N, 4) x, y, width, height around masks, or around keypoints, of detections without a box."""
    if rles is not None:
        return np.array(coco_mask.toBbox(rles), dtype=np.float64).reshape(count, 4)
    assert keypoints is not None
    points = keypoints.reshape(count, -1, 3)[..., :2]
    return np.concatenate([points.min(axis=1), np.ptp(points, axis=1)], axis=1)


def _text(counts: Any) -> Any:
    return counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts


def _ids(categories: Categories) -> str:
    known = [f"{category} {name}" for category, name in zip(categories.ids, categories.names, strict=True)]
    return ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
