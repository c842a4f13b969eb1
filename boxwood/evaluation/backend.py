"""The COCO API's matching, by one of two libraries with exactly equal results: hotcoco (fast) and pycocotools (the reference).

Both give the arrays whose means are COCO's metrics: precision (T, R, K, A, M) and recall (T, K, A, M) over T = 10 IoU
thresholds, R = 101 recalls, K categories, A = 4 ranges of area (all, small, medium, large) and M limits of detections per image; -1
where there is no truth.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import hotcoco
import numpy as np
from numpy.typing import NDArray

from boxwood.errors import UserError
from boxwood.evaluation.truth import Results, Truth

__all__ = ["AREAS", "Backend", "Curves", "check_backend", "columns_of", "compare", "hotcoco_evaluation", "records_of", "rows_of"]

Backend: TypeAlias = Literal["hotcoco", "pycocotools"]
AREAS = ("", "s", "m", "l")
"""Suffixes of the metrics' names in the order of the arrays' areas."""

Curves: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Precision (T, R, K, A, M) and recall (T, K, A, M)."""


def check_backend(backend: str) -> None:
    """Raise `UserError` where ``backend`` is unknown or not installed."""
    if backend not in ("hotcoco", "pycocotools"):
        raise UserError(f"unknown evaluation backend '{backend}'; choose 'hotcoco' or 'pycocotools'")
    if backend == "pycocotools":
        try:
            import pycocotools  # noqa: F401
        except ImportError:
            raise UserError(
                "evaluation backend 'pycocotools' is not installed; run: pip install 'boxwood[pycocotools]', or use 'hotcoco'"
            ) from None


def compare(
    truth: Truth,
    results: Results,
    positions: list[int],
    task: str,
    limits: list[int],
    by_class: bool,
    backend: Backend,
    sigmas: Sequence[float] = (),
) -> Curves:
    """Match detections with the truth and return the precision and recall arrays.

    ``positions[label]`` is the category's position in ``truth``, from 1; 0 where the truth lacks it. Detections of unknown
    categories and images are left out. ``limits`` are the numbers of best detections per image and class, ascending. With
    ``by_class`` False classes are ignored (K = 1). ``sigmas`` are the OKS constants for the task ``keypoints``, which has no small
    instances (A = 3: all, medium, large).
    """
    columns, shapes = columns_of(truth, results, positions, task)
    evaluator = (_hotcoco if backend == "hotcoco" else _pycocotools)(truth, columns, shapes, task)
    parameters = evaluator.params
    if task == "keypoints":
        parameters.kpt_oks_sigmas = np.array(sigmas) if backend == "pycocotools" else list(sigmas)
    parameters.maxDets = limits
    parameters.useCats = by_class
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"], evaluator.eval["recall"]


def rows_of(truth: Truth, results: Results, positions: list[int]) -> list[tuple[int, NDArray[np.int64]]]:
    """The detections that are compared: (image id, ranks of detections of known classes), in the order of the truth's images."""
    known = np.asarray(positions) > 0
    order = sorted((image_id for image_id in results if image_id in truth.image_position), key=truth.image_position.__getitem__)
    return [(image_id, np.flatnonzero(known[results[image_id].labels])) for image_id in order]


def hotcoco_evaluation(
    truth: Truth, results: Results, positions: list[int], task: str, selected: NDArray[np.bool_] | None = None
) -> tuple[Any, NDArray[np.float64]]:
    """hotcoco's `COCOeval` of the detections of `rows_of`, or of those that the mask ``selected`` (N,) selects; and its columns
    (N, 7): image, x, y, width, height, score, category."""
    columns, shapes = columns_of(truth, results, positions, task)
    if selected is not None:
        columns, shapes = columns[selected], [shape for shape, keep in zip(shapes, selected.tolist()) if keep]
    return _hotcoco(truth, columns, shapes, task), columns


def columns_of(truth: Truth, results: Results, positions: list[int], task: str) -> tuple[NDArray[np.float64], list[Any]]:
    """All detections in the order of images and ranks: (N, 7) image, x, y, width, height, score, category; and their masks (run
    lengths) for ``segm``, or keypoints for ``keypoints``."""
    table = np.asarray(positions, dtype=np.float64)
    parts: list[NDArray[np.float64]] = [np.zeros((0, 7))]
    shapes: list[Any] = []
    for image_id, ranks in rows_of(truth, results, positions):
        detections = results[image_id]
        part = np.empty((len(ranks), 7))
        part[:, 0] = truth.image_position[image_id]
        part[:, 1:5] = detections.boxes[ranks]
        part[:, 3:5] = part[:, 3:5].clip(min=0)  # the COCO API would ignore a box of negative area, which is wrong
        part[:, 5] = detections.scores[ranks]
        part[:, 6] = table[detections.labels[ranks]]
        parts.append(part)
        if task == "segm":
            shapes += [detections.rles[rank] for rank in ranks.tolist()] if detections.rles is not None else []
        elif task == "keypoints" and detections.keypoints is not None:
            shapes += detections.keypoints[ranks].tolist()
    return np.concatenate(parts), shapes


def records_of(columns: NDArray[np.float64], shapes: list[Any], task: str) -> list[dict[str, Any]]:
    """COCO results. Records of masks and keypoints have no box: otherwise the COCO API would use the area of the box."""
    records = []
    for row, (image, x, y, width, height, score, category) in enumerate(columns.tolist()):
        record: dict[str, Any] = {"image_id": int(image), "category_id": int(category), "score": score}
        if task == "segm":
            record["segmentation"] = shapes[row]
        elif task == "keypoints":
            record["keypoints"] = shapes[row]
        else:
            record["bbox"] = [x, y, width, height]
        records.append(record)
    return records


def _hotcoco(truth: Truth, columns: NDArray[np.float64], shapes: list[Any], task: str) -> Any:
    coco = hotcoco.COCO(truth.coco(task))
    return hotcoco.COCOeval(coco, coco.load_res(columns if task == "bbox" else records_of(columns, shapes, task)), task)


def _pycocotools(truth: Truth, columns: NDArray[np.float64], shapes: list[Any], task: str) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco, detections = COCO(), COCO()
        coco.dataset = truth.coco(task)
        coco.createIndex()
        if len(columns):
            detections = coco.loadRes(records_of(columns, shapes, task))
        else:  # its loadRes reads the first record
            detections.dataset = {**coco.dataset, "annotations": []}
            detections.createIndex()
        return COCOeval(coco, detections, task)
