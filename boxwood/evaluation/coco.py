"""COCO's average precision of boxes, masks and keypoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood.errors import UserError
from boxwood.evaluation.backend import AREAS, Backend, Curves, check_backend, compare
from boxwood.evaluation.diagnosis import explain
from boxwood.evaluation.evaluator import CollectingEvaluator, Metrics
from boxwood.evaluation.truth import ImageResults
from boxwood.structures import Categories

__all__ = ["CocoEvaluator"]

KEYPOINT_DETECTIONS = 20
"""Number of detections per image that count for keypoints, by the COCO API's rule."""


class CocoEvaluator(CollectingEvaluator):
    """AP and AR as the COCO API defines them (https://cocodataset.org/#detection-eval), in fractions; -1 where there is no truth.

    ``truth`` is a COCO dictionary (``images``, ``annotations``, ``categories``), ``categories`` the model's classes,
    ``max_detections`` how many of an image's best detections of each class count, ``backend`` ``hotcoco`` or ``pycocotools``
    (their results are exactly equal).

    `compute` gives for each task: AP (mean over IoU 0.50:0.95), AP50, AP75; APs, APm, APl and ARs, ARm, ARl of small (area up
    to 32 x 32 pixels), medium and large (from 96 x 96) instances; AR1, AR10, AR100 (the last is AR at ``max_detections`` and named
    after it). Keypoints are compared by OKS with the sigmas of ``categories``; for them the COCO API has no small instances and
    counts the best 20 detections of an image: AR20, and AR50 and AR75 at an OKS of 0.50 and 0.75. Then ``per_class``: AP of
    each task and ``count``, the number of true instances; ``max_detections``; and ``notes``, which explain numbers of -1 or 0.

    With ``mask_classes``, names or ids of classes, the numbers of masks are there also of these classes alone,
    ``segm_with_masks``, and of all others, ``segm_without_masks``: a model may have learnt masks from the former only.

    Raises `UserError` where the backend is not installed, an annotation has no box, or annotations differ in their number of
    keypoints, or ``mask_classes`` names an unknown class.
    """

    def __init__(
        self,
        truth: Mapping[str, Any],
        categories: Categories,
        tasks: Sequence[str] = ("bbox", "segm", "keypoints"),
        max_detections: int = 100,
        mask_classes: Sequence[int | str] | None = None,
        backend: Backend = "hotcoco",
    ) -> None:
        check_backend(backend)
        if unknown := set(tasks) - {"bbox", "segm", "keypoints"}:
            raise UserError(f"unknown evaluation task '{sorted(unknown)[0]}'; choose among 'bbox', 'segm' and 'keypoints'")
        assert max_detections > 0
        super().__init__(truth, categories, with_masks="segm" in tasks)
        self.tasks = tuple(tasks)
        self.max_detections = max_detections
        self.backend: Backend = backend
        self.mask_labels = None if mask_classes is None else categories.labels_of(mask_classes, "mask_classes")

    @property
    def records(self) -> list[dict[str, Any]]:
        """The detections as COCO results (`CollectingEvaluator.records`)."""
        records = super().records
        if "bbox" not in self.tasks:  # the boxes were made from masks or keypoints
            for record in records:
                del record["bbox"]
        return records

    def compute(self) -> Metrics:
        """The metrics of all detections; images of the truth that were not added count as images without detections."""
        limits = sorted({1, 10, self.max_detections})
        metrics: Metrics = {}
        per_class: dict[str, dict[str, Any]] = {name: {} for name in self.truth.names()}
        for task in self.tasks:
            if task == "segm" and any(detections.rles is None for detections in self._deciding_results()):
                continue  # a model without masks
            if task == "keypoints" and not self._has_keypoints():
                continue
            best = KEYPOINT_DETECTIONS if task == "keypoints" else self.max_detections
            task_limits = [best] if task == "keypoints" else limits
            sigmas = self.categories.keypoints.sigmas if self.categories.keypoints is not None else ()
            curves = compare(self.truth, self.results, self.positions, task, task_limits, True, self.backend, sigmas)
            metrics[task] = summarize(curves, task_limits, best)
            if task == "segm" and self.mask_labels is not None:
                metrics |= self._divided(curves, task_limits, best)
            for row, ap in zip(per_class.values(), class_precision(curves, task_limits.index(best)), strict=True):
                row[task] = ap
        for row, count in zip(per_class.values(), self.truth.counts(), strict=True):
            row["count"] = count
        metrics["per_class"] = per_class
        metrics["max_detections"] = self.max_detections
        metrics["notes"] = explain(self.truth, self.results, self.categories, metrics, self.max_detections)
        if "segm_with_masks" in metrics:
            names = [self.categories.names[label] for label in self.mask_labels or ()]
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            metrics["notes"].append(
                f"segm_with_masks is the mean over the {len(names)} classes whose masks teach ({', '.join(names[:10])}{more}), "
                "segm_without_masks over the others"
            )
        return metrics

    def _divided(self, curves: Curves, limits: list[int], limit: int) -> Metrics:
        """The numbers of the classes with masks in training, and of the others."""
        positions = [self.positions[label] for label in self.mask_labels or ()]
        taught = np.isin(np.arange(1, curves[0].shape[2] + 1), positions)
        parts = {"segm_with_masks": taught, "segm_without_masks": ~taught}
        return {
            name: summarize((curves[0][:, :, classes], curves[1][:, classes]), limits, limit) for name, classes in parts.items()
        }

    def _has_keypoints(self) -> bool:
        """Whether the model predicts keypoints and the truth has as many."""
        known = self.categories.keypoints is not None and self.truth.num_keypoints == len(self.categories.keypoints.names)
        return known and all(detections.keypoints is not None for detections in self._deciding_results())

    def _deciding_results(self) -> list[ImageResults]:
        """The results that show what the model predicts besides boxes: those with detections, or all where no image has any."""
        results = list(self.results.values())
        return [detections for detections in results if len(detections)] or results


def summarize(curves: Curves, limits: list[int], limit: int) -> dict[str, float]:
    """COCO's twelve metrics (ten of keypoints) from the precision and recall arrays; AP, and AR by size, count the best ``limit``
    detections."""
    precision, recall = curves
    last = limits.index(limit)
    sizes = AREAS[1:] if precision.shape[3] == len(AREAS) else AREAS[2:]
    table = {
        "AP": mean_of_known(precision[:, :, :, 0, last]),
        "AP50": mean_of_known(precision[0, :, :, 0, last]),
        "AP75": mean_of_known(precision[5, :, :, 0, last]),
    }
    for area, size in enumerate(sizes, start=1):
        table[f"AP{size}"] = mean_of_known(precision[:, :, :, area, last])
    for position, number in enumerate(limits):
        table[f"AR{number}"] = mean_of_known(recall[:, :, 0, position])
    if sizes != AREAS[1:]:  # of keypoints, the API gives these instead of AR at other numbers of detections
        table |= {"AR50": mean_of_known(recall[0, :, 0, last]), "AR75": mean_of_known(recall[5, :, 0, last])}
    for area, size in enumerate(sizes, start=1):
        table[f"AR{size}"] = mean_of_known(recall[:, :, area, last])
    return table


def class_precision(curves: Curves, last: int) -> list[float]:
    """AP of each class at position ``last`` of the limits."""
    precision, _ = curves
    return [mean_of_known(precision[:, :, k, 0, last]) for k in range(precision.shape[2])]


def mean_of_known(values: NDArray[np.float64]) -> float:
    """The mean of the values other than -1; -1 where there are none."""
    known = values[values > -1]
    return float(np.mean(known)) if known.size else -1.0
