"""Error analysis: precision-recall curves, best threshold, confusion matrix, calibration, cost of each kind of error, outcome per
image.

Boxes are compared, or masks where there are no boxes, at an IoU of 0.5 unless stated otherwise. The kinds of errors are those of
TIDE (Bolya et al., arXiv 2008.08115, section 2); hotcoco computes them as the paper's reference implementation does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from boxwood.evaluation.backend import hotcoco_evaluation, rows_of
from boxwood.evaluation.truth import Results, Truth

__all__ = ["SORTS", "Analysis", "ImageOutcome", "WorkingPoint", "analyse"]

Sort: TypeAlias = Literal["classification", "localisation", "both", "duplicate", "background", "missed"]
SORTS: dict[Sort, str] = {
    "classification": "Cls",
    "localisation": "Loc",
    "both": "Both",
    "duplicate": "Dupe",
    "background": "Bkg",
    "missed": "Miss",
}
"""The kinds of errors of detections and instances, with hotcoco's name of each."""
IOU, BACKGROUND = 0.5, 0.1
"""TIDE's t_f and t_b (section 2.2)."""
BINS = 10
"""Number of score bins of the calibration."""
PART = 1000
"""Number of images that are matched at a time."""


@dataclass(frozen=True)
class WorkingPoint:
    """The score threshold with the highest F1 (the harmonic mean of precision and recall), and precision and recall there."""

    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ImageOutcome:
    """The matching of one image: its instances and its N detections."""

    instances: list[dict[str, Any]]
    """The ground truth, in the form of `Truth.annotations`."""
    found_at: list[float | None]
    """For each instance the score of the detection matched to it; None where it is missed or a crowd region."""
    scores: NDArray[np.float64]
    """(N,), best first."""
    right: NDArray[np.int8]
    """(N,) 1 where the detection is matched, 0 where it is wrong, -1 where it does not count: in a crowd region, or past the
    limit."""

    def tally(self, score: float) -> tuple[int, int, int]:
        """The numbers of right and of wrong detections with at least ``score``, and of instances that they miss."""
        verdicts = self.right[self.scores >= score]
        right = int((verdicts == 1).sum())
        return right, int((verdicts == 0).sum()), sum(not one["iscrowd"] for one in self.instances) - right

    def f1(self, score: float) -> float | None:
        """F1 of the detections with at least ``score``; None where there are neither instances nor such detections."""
        right, wrong, missed = self.tally(score)
        return 2 * right / (2 * right + wrong + missed) if right + wrong + missed else None


@dataclass(frozen=True)
class Analysis:
    """The result of `analyse`; K classes in the order of the truth's category ids."""

    task: str
    """``bbox`` or ``segm``."""
    names: list[str]
    counts: list[int]
    precision: NDArray[np.float64]
    """(3, 101, K) at IoU 0.5, at IoU 0.75 and the mean over COCO's ten thresholds, at 101 recalls; -1 where a class has no
    instance."""
    overall: WorkingPoint
    """Of all classes together."""
    of_class: list[WorkingPoint | None]
    """For each class; None where it has no instance or no detection."""
    confusion: NDArray[np.int64]
    """(K + 1, K + 1) of detections with at least ``overall.score``: row true class, column predicted class; the last of both is
    background."""
    calibration: dict[str, Any]
    """``ECE``, the mean distance between score and share of right detections (Naeini et al., AAAI 2015), and its ten ``bins``:
    ``from``, ``to``, mean ``score``, share ``right``, ``count``."""
    errors: dict[str, Any]
    """``{"AP50", "cost": {kind of error: gain of AP50}, "count": {kind of error: number}}``."""
    outcomes: dict[int, ImageOutcome]
    """By image id, for all images of the truth."""

    def metrics(self) -> dict[str, Any]:
        """The part of the analysis that is written to ``metrics.json``."""
        points = zip(self.names, self.of_class, strict=True)
        return {
            "errors": self.errors,
            "working_point": {
                **asdict(self.overall),
                "per_class": {name: asdict(point) for name, point in points if point is not None},
            },
            "calibration": self.calibration,
            "confusion": {"score": self.overall.score, "classes": self.names, "matrix": self.confusion.tolist()},
        }


def analyse(
    truth: Truth,
    results: Results,
    category_ids: Sequence[int],
    task: Literal["bbox", "segm"] = "bbox",
    max_detections: int = 100,
) -> Analysis | None:
    """Analyse the errors of detections; None where the truth has no instance or no detection of a known class counts.

    ``category_ids[label]`` is the category of a label; the best ``max_detections`` of an image and class count. Detections are
    matched in order of score, as in the COCO API: one is right where its IoU with the best unmatched instance of its class is at
    least 0.5. A wrong one is one of

    * classification: IoU of 0.5 or more with an instance of another class;
    * localisation: IoU of 0.1 to 0.5 with an instance of its class;
    * both: IoU of 0.1 to 0.5 with an instance of another class;
    * duplicate: IoU of 0.5 or more with an instance of its class that is matched to a detection with a higher score;
    * background: IoU below 0.1 with every instance.

    An instance is missed where no detection is matched to it, and none would be after a correction of its class or box. The cost of
    a kind of error is the gain of AP50 if it alone were corrected: the class or box is replaced by the instance's, or the detection
    removed where that instance is already matched; duplicates, background detections and missed instances are removed.
    """
    positions = [truth.category_position.get(category, 0) for category in category_ids]
    rows = rows_of(truth, results, positions)
    if not any(truth.counts()) or not any(len(ranks) for _, ranks in rows):
        return None
    evaluation, columns = hotcoco_evaluation(truth, results, positions, task)
    scores, labels = columns[:, 5].copy(), columns[:, 6].astype(np.int64) - 1
    del columns
    evaluation.params.maxDets = [max_detections]
    right, finder = _verdicts(evaluation, len(truth.images), len(scores))
    counts, counted = truth.counts(), right >= 0
    overall = _working_point(scores[counted], right[counted] == 1, sum(counts))
    if overall is None:  # all are in crowd regions
        return None
    evaluation.evaluate()
    evaluation.accumulate()
    precision = _precision(evaluation.eval["precision"])
    errors = _errors(evaluation.tide_errors(pos_thr=IOU, bg_thr=BACKGROUND))
    del evaluation  # frees 300 MB for a large data set; the confusion matrix makes its own
    return Analysis(
        task=task,
        names=truth.names(),
        counts=counts,
        precision=precision,
        overall=overall,
        of_class=[
            _working_point(scores[rows_of_class], right[rows_of_class] == 1, count) if count else None
            for count, rows_of_class in ((count, counted & (labels == k)) for k, count in enumerate(counts))
        ],
        # Detections in crowd regions are left out of the confusion matrix.
        confusion=_confusion(truth, results, positions, task, counted & (scores >= overall.score)),
        calibration=_calibration(scores[counted], right[counted] == 1),
        errors=errors,
        outcomes=_outcomes(truth, results, rows, right, scores, finder),
    )


# ------------------------------------------------------------------------------------------------------------ internals


def _precision(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """(10, 101, K, 4, M) of the COCO API -> (3, 101, K), for all sizes at the highest limit of detections."""
    every = precision[:, :, :, 0, -1]
    return np.stack([every[0], every[5], every.mean(axis=0)])


def _working_point(scores: NDArray[np.float64], right: NDArray[np.bool_], instances: int) -> WorkingPoint | None:
    """The threshold with the highest F1; of equal ones the highest threshold. None without detections."""
    if not len(scores):
        return None
    order = np.argsort(-scores, kind="stable")
    hits = right[order].cumsum()
    last = np.append(np.diff(scores[order]) != 0, True)  # a threshold includes all detections of equal score
    f1 = np.where(last, 2 * hits / (np.arange(1, len(hits) + 1) + instances), -1.0)
    best = int(f1.argmax())
    matched = int(hits[best])
    return WorkingPoint(float(scores[order][best]), matched / (best + 1), matched / instances, float(f1[best]))


def _confusion(
    truth: Truth, results: Results, positions: list[int], task: Literal["bbox", "segm"], selected: NDArray[np.bool_]
) -> NDArray[np.int64]:
    evaluation, _ = hotcoco_evaluation(truth, results, positions, task, selected)
    matrix: NDArray[np.int64] = evaluation.confusion_matrix(iou_thr=IOU)["matrix"].astype(np.int64)
    return matrix


def _verdicts(evaluation: Any, num_images: int, num_detections: int) -> tuple[NDArray[np.int8], dict[int, int]]:
    """For each detection 1 where it is right, 0 where wrong, -1 where it does not count; and a dictionary from the number of each
    matched instance to that of its detection, both counted from 1. In parts, since a detection takes 400 bytes meanwhile."""
    right = np.full(num_detections, -1, dtype=np.int8)
    finder: dict[int, int] = {}
    for first in range(1, num_images + 1, PART):
        evaluation.params.imgIds = list(range(first, min(first + PART, num_images + 1)))
        evaluation.evaluate()
        diagnostics = evaluation.image_diagnostics(iou_thr=IOU)
        for number, verdict in diagnostics["dt_status"].items():
            right[number - 1] = verdict == "tp"
        finder |= diagnostics["gt_match"]
    evaluation.params.imgIds = list(range(1, num_images + 1))
    return right, finder


def _calibration(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Bins of equal width; a score on a border belongs to the lower bin."""
    places = np.ceil(scores * BINS).clip(1, BINS).astype(np.int64) - 1
    counts = np.bincount(places, minlength=BINS)
    means = np.bincount(places, scores, BINS) / np.maximum(counts, 1)
    shares = np.bincount(places, right, BINS) / np.maximum(counts, 1)
    rows = zip(range(BINS), means.tolist(), shares.tolist(), counts.tolist(), strict=True)
    return {
        "ECE": float(np.abs(means - shares) @ counts / max(len(scores), 1)),
        "bins": [
            {"from": n / BINS, "to": (n + 1) / BINS, "score": mean, "right": share, "count": count}
            for n, mean, share, count in rows
        ],
    }


def _errors(tide: dict[str, Any]) -> dict[str, Any]:
    return {
        "AP50": tide["ap_base"],
        "cost": {sort: tide["delta_ap"][word] for sort, word in SORTS.items()},
        "count": {sort: tide["counts"][word] for sort, word in SORTS.items()},
    }


def _outcomes(
    truth: Truth,
    results: Results,
    rows: list[tuple[int, NDArray[np.int64]]],
    right: NDArray[np.int8],
    scores: NDArray[np.float64],
    finder: Mapping[int, int],
) -> dict[int, ImageOutcome]:
    """``finder``: from the number of an instance to that of the detection matched to it."""
    instances: list[list[dict[str, Any]]] = [[] for _ in truth.images]
    for annotation in truth.annotations:
        instances[annotation["image_id"] - 1].append(annotation)
    outcomes = {}
    verdicts = {}
    first = 0
    for image_id, ranks in rows:
        verdicts[image_id] = np.full(len(results[image_id]), -1, dtype=np.int8)
        verdicts[image_id][ranks] = right[first : first + len(ranks)]
        first += len(ranks)
    no_scores = np.zeros(0)
    for image_id, position in truth.image_position.items():
        of_image = instances[position - 1]
        found_by = [finder.get(annotation["id"]) for annotation in of_image]
        outcomes[image_id] = ImageOutcome(
            of_image,
            [None if number is None else float(scores[number - 1]) for number in found_by],
            results[image_id].scores if image_id in results else no_scores,
            verdicts.get(image_id, np.zeros(0, dtype=np.int8)),
        )
    return outcomes
