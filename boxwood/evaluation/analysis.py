"""Why AP is what it is: curves, the best threshold, confusions, calibration, what each sort of error costs, image by image.

Everything here is of boxes, or of masks where there are no boxes, at an IoU of 0.5 where nothing else is said. The sorts of errors
are those of TIDE (Bolya et al., arXiv 2008.08115, section 2); hotcoco computes them as the paper's own program does.
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
"""What is wrong with a detection, or with an instance; and hotcoco's word for it."""
IOU, BACKGROUND = 0.5, 0.1
"""TIDE's t_f and t_b (section 2.2)."""
BINS = 10
"""Of the scores, for the calibration."""
PART = 1000
"""Images that are looked into at a time."""


@dataclass(frozen=True)
class WorkingPoint:
    """What is right from a score on: where F1, the harmonic mean of precision and recall, is highest."""

    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ImageOutcome:
    """One image: what became of its instances and of its N detections."""

    instances: list[dict[str, Any]]
    """Of the truth, in the form of `Truth.annotations`."""
    found_at: list[float | None]
    """Of each instance the score of the detection that found it; None where none did, or it is a crowd region."""
    scores: NDArray[np.float64]
    """(N,), best first."""
    right: NDArray[np.int8]
    """(N,) 1 where it found an instance, 0 where it is wrong, -1 where it does not count: in a crowd region, or past the limit."""

    def tally(self, score: float) -> tuple[int, int, int]:
        """How many detections from ``score`` on are right and wrong, and how many instances they miss."""
        kept = self.right[self.scores >= score]
        right = int((kept == 1).sum())
        return right, int((kept == 0).sum()), sum(not one["iscrowd"] for one in self.instances) - right

    def f1(self, score: float) -> float | None:
        """From ``score`` on; None where there is nothing to find and nothing was found."""
        right, wrong, missed = self.tally(score)
        return 2 * right / (2 * right + wrong + missed) if right + wrong + missed else None


@dataclass(frozen=True)
class Analysis:
    """What `analyse` finds; K classes in the order of the truth's ids."""

    task: str
    """``bbox`` or ``segm``: what was compared."""
    names: list[str]
    counts: list[int]
    precision: NDArray[np.float64]
    """(3, 101, K) at an IoU of 0.5, of 0.75 and on the mean of COCO's ten, at 101 recalls; -1 where a class has no instance."""
    overall: WorkingPoint
    """Of all classes together."""
    of_class: list[WorkingPoint | None]
    """None where a class has no instance or no detection."""
    confusion: NDArray[np.int64]
    """(K + 1, K + 1) from ``overall.score`` on: row the true class, column the detected one; the last of both is nothing."""
    calibration: dict[str, Any]
    """``ECE``, the mean distance between score and share of right detections (Naeini et al., AAAI 2015), and its ten ``bins``:
    ``from``, ``to``, ``score``, ``right``, ``count``."""
    errors: dict[str, Any]
    """``{"AP50", "cost": {sort: points of AP50}, "count": {sort: how many}}``."""
    outcomes: dict[int, ImageOutcome]
    """By image id, of all images of the truth."""

    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds of it."""
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
    """Compare detections with the truth once more, for more than AP; None where the truth has no instance or nothing was found.

    ``category_ids[label]`` is the category of a label; ``max_detections`` of an image and class count. A detection is
    right where, in order of score, the free instance of its class that it overlaps most is overlapped by 0.5, as in the COCO API.
    One that is wrong is one of

    * classification: it overlaps an instance of another class by 0.5 or more;
    * localisation: it overlaps an instance of its class by 0.1 to 0.5;
    * both: it overlaps an instance of another class by 0.1 to 0.5;
    * duplicate: it overlaps an instance of its class by 0.5 or more, which a better one found;
    * background: it overlaps nothing by 0.1;

    and an instance is missed where no detection found it, nor would have, put right in class or place. A sort costs as much as AP
    at 0.5 would rise were it alone put right: the class or the box changed to the instance's, a detection left out where that
    instance is found already, all of a sort left out that cannot be mended, the missed instances left out.
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
    evaluation.evaluate()
    evaluation.accumulate()
    precision = _precision(evaluation.eval["precision"])
    errors = _errors(evaluation.tide_errors(pos_thr=IOU, bg_thr=BACKGROUND))
    del evaluation  # 300 MB of a large data set; the confusions need them once more
    counts, kept = truth.counts(), right >= 0
    overall = _working_point(scores[kept], right[kept] == 1, sum(counts))
    assert overall is not None
    return Analysis(
        task=task,
        names=truth.names(),
        counts=counts,
        precision=precision,
        overall=overall,
        of_class=[
            _working_point(scores[own], right[own] == 1, count) if count else None
            for count, own in ((count, kept & (labels == k)) for k, count in enumerate(counts))
        ],
        # What lies in a crowd region is no confusion.
        confusion=_confusion(truth, results, positions, task, kept & (scores >= overall.score)),
        calibration=_calibration(scores[kept], right[kept] == 1),
        errors=errors,
        outcomes=_outcomes(truth, results, rows, right, scores, finder),
    )


# ------------------------------------------------------------------------------------------------------------ internals


def _precision(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """(10, 101, K, 4, M) of the COCO API -> (3, 101, K), of all sizes at the highest limit of detections."""
    every = precision[:, :, :, 0, -1]
    return np.stack([every[0], every[5], every.mean(axis=0)])


def _working_point(scores: NDArray[np.float64], right: NDArray[np.bool_], instances: int) -> WorkingPoint | None:
    """The best of all thresholds; of equal ones the highest. None without detections."""
    if not len(scores):
        return None
    order = np.argsort(-scores, kind="stable")
    hits = right[order].cumsum()
    last = np.append(np.diff(scores[order]) != 0, True)  # a threshold takes all of one score
    f1 = np.where(last, 2 * hits / (np.arange(1, len(hits) + 1) + instances), -1.0)
    best = int(f1.argmax())
    found = int(hits[best])
    return WorkingPoint(float(scores[order][best]), found / (best + 1), found / instances, float(f1[best]))


def _confusion(
    truth: Truth, results: Results, positions: list[int], task: Literal["bbox", "segm"], kept: NDArray[np.bool_]
) -> NDArray[np.int64]:
    evaluation, _ = hotcoco_evaluation(truth, results, positions, task, kept)
    matrix: NDArray[np.int64] = evaluation.confusion_matrix(iou_thr=IOU)["matrix"].astype(np.int64)
    return matrix


def _verdicts(evaluation: Any, num_images: int, num_detections: int) -> tuple[NDArray[np.int8], dict[int, int]]:
    """Of each detection 1 where it is right, 0 where wrong, -1 where it does not count; and by the number of each instance that was
    found that of the detection that found it. Both are numbered from 1. In parts, since a detection takes 400 bytes meanwhile."""
    right = np.full(num_detections, -1, dtype=np.int8)
    finder: dict[int, int] = {}
    for first in range(1, num_images + 1, PART):
        evaluation.params.imgIds = list(range(first, min(first + PART, num_images + 1)))
        evaluation.evaluate()
        judged = evaluation.image_diagnostics(iou_thr=IOU)
        for number, verdict in judged["dt_status"].items():
            right[number - 1] = verdict == "tp"
        finder |= judged["gt_match"]
    evaluation.params.imgIds = list(range(1, num_images + 1))
    return right, finder


def _calibration(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Bins of equal width, the upper end in the lower bin."""
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


def _errors(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "AP50": told["ap_base"],
        "cost": {sort: told["delta_ap"][word] for sort, word in SORTS.items()},
        "count": {sort: told["counts"][word] for sort, word in SORTS.items()},
    }


def _outcomes(
    truth: Truth,
    results: Results,
    rows: list[tuple[int, NDArray[np.int64]]],
    right: NDArray[np.int8],
    scores: NDArray[np.float64],
    finder: Mapping[int, int],
) -> dict[int, ImageOutcome]:
    """``finder``: of the number of an instance that of the detection that found it."""
    instances: list[list[dict[str, Any]]] = [[] for _ in truth.images]
    for annotation in truth.annotations:
        instances[annotation["image_id"] - 1].append(annotation)
    outcomes = {}
    verdicts = {}
    first = 0
    for image_id, ranks in rows:
        own = np.full(len(results[image_id]), -1, dtype=np.int8)
        own[ranks] = right[first : first + len(ranks)]
        verdicts[image_id] = own
        first += len(ranks)
    nothing = np.zeros(0)
    for image_id, position in truth.image_position.items():
        own_instances = instances[position - 1]
        found_by = [finder.get(annotation["id"]) for annotation in own_instances]
        outcomes[image_id] = ImageOutcome(
            own_instances,
            [None if number is None else float(scores[number - 1]) for number in found_by],
            results[image_id].scores if image_id in results else nothing,
            verdicts.get(image_id, np.zeros(0, dtype=np.int8)),
        )
    return outcomes
