"""Cityscapes' average precision of instances (Cordts et al., arXiv 1604.01685, section 4.2), as the official scripts compute it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hotcoco import mask
from numpy.typing import NDArray

from boxwood.errors import UserError
from boxwood.evaluation.evaluator import CollectingEvaluator, Metrics
from boxwood.evaluation.truth import ImageResults
from boxwood.structures import Categories

__all__ = ["CityscapesEvaluator"]

OVERLAPS = np.arange(0.5, 1.0, 0.05)
"""A mask must overlap its instance by more than this (IoU); AP is the mean over the ten."""
LEAST_PIXELS = 100
"""Smaller instances do not count."""
NOTHING, VOID, FIRST = 0, 1, 2
"""Numbers in the map of an image: background, pixels that do not count, and the first instance."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Pairs:
    """The N predicted masks and M instances of one class in one image."""

    scores: Array
    """(N,)."""
    overlaps: Array
    """(N, M) IoU with the instances that count."""
    ignored: Array
    """(N,) share of each mask in regions that do not count: void, groups and instances that are too small."""


class CityscapesEvaluator(CollectingEvaluator):
    """AP of masks, and AP50, each the mean over the classes that occur in the truth.

    ``truth`` is a COCO dictionary whose masks do not overlap, such as `boxwood.data.formats.cityscapes.read_cityscapes` makes.
    Crowd regions (Cityscapes' groups), the pixels of an image's ``void`` (a COCO run-length mask) and instances under 100 pixels
    are ignored: neither missed nor wrong. Of several masks that overlap an instance enough, the one with the highest score is
    right, the others are wrong. `compute` gives ``{"cityscapes": {"AP", "AP50"}, "per_class", "notes"}``, fractions; -1 where there
    is no truth. Raises `UserError` where an instance has no mask, or ``void`` is not one.
    """

    def __init__(self, truth: Mapping[str, Any], categories: Categories) -> None:
        super().__init__(truth, categories, with_masks=True)
        if self.truth.without_mask:
            raise UserError(f"annotation {self.truth.without_mask[0]}: Cityscapes' rule needs 'segmentation'; add it to the truth")
        for image in self.truth.images:
            size = [image.get("height"), image.get("width")]
            if "void" in image and not (isinstance(image["void"], dict) and image["void"].get("size") == size):
                raise UserError(f"image id {image['id']}: 'void' must be run lengths of its size {size}; convert the data again")

    def compute(self) -> Metrics:
        """The metrics of all detections; images of the truth that were not added count as images without detections."""
        instances: list[list[dict[str, Any]]] = [[] for _ in self.truth.images]
        for annotation in self.truth.annotations:
            instances[annotation["image_id"] - 1].append(annotation)
        pairs: list[list[_Pairs]] = [[] for _ in self.truth.categories]
        for image, image_instances in zip(self.truth.images, instances, strict=True):
            for position, compared in enumerate(self._compare(image, image_instances, self.results.get(image["id"]))):
                pairs[position].append(compared)
        aps = np.array([[_average_precision(of_class, threshold) for threshold in OVERLAPS] for of_class in pairs])
        rows = zip(self.truth.names(), aps, self.truth.counts(), strict=True)
        per_class = {name: {"cityscapes": _mean(class_aps), "count": count} for name, class_aps, count in rows}
        notes = [f"AP by Cityscapes' rule: of masks, for instances of at least {LEAST_PIXELS} pixels"]
        if not any("void" in image for image in self.truth.images):
            notes.append("no image says which pixels are 'void', so a mask on them counts as wrong")
        return {"cityscapes": {"AP": _mean(aps), "AP50": _mean(aps[:, 0])}, "per_class": per_class, "notes": notes}

    def _compare(self, image: Mapping[str, Any], instances: list[dict[str, Any]], detections: ImageResults | None) -> list[_Pairs]:
        """The pairs of each class of the truth."""
        size = (image["height"], image["width"])
        numbers = np.full(size, NOTHING, dtype=np.int64)
        if "void" in image:
            numbers[_pixels(image["void"], size)] = VOID
        for number, instance in enumerate(instances, start=FIRST):
            numbers[_pixels(instance["segmentation"], size)] = number
        pixels = np.bincount(numbers.ravel(), minlength=FIRST + len(instances))[FIRST:]
        classes = np.array([instance["category_id"] for instance in instances], dtype=np.int64)
        # The scripts count the pixels of a group twice where it is a small one too.
        passed = np.array([bool(instance["iscrowd"]) for instance in instances], dtype=np.int64) + (pixels < LEAST_PIXELS)

        ranks = (
            [] if detections is None else [rank for rank, label in enumerate(detections.labels.tolist()) if self.positions[label]]
        )
        table = np.zeros((len(ranks), FIRST + len(instances)))
        for row, rank in enumerate(ranks):
            assert detections is not None
            if detections.rles is None:
                raise UserError("Cityscapes' rule is of masks, and these detections have none; leave --measure cityscapes out")
            table[row] = np.bincount(numbers[_pixels(detections.rles[rank], size)], minlength=table.shape[1])
        areas = table.sum(axis=1)
        labels = np.array(
            [self.positions[detections.labels[rank]] for rank in ranks] if detections is not None else [], dtype=np.int64
        )
        scores = np.zeros(0) if detections is None else detections.scores[ranks]
        compared = []
        for position in range(1, len(self.truth.categories) + 1):
            rows = (labels == position) & (areas > 0)
            wanted = (classes == position) & (passed == 0)
            shared = table[rows][:, FIRST:]
            overlaps = shared[:, wanted] / (areas[rows, None] + pixels[wanted] - shared[:, wanted])
            ignored = (table[rows, VOID] + shared @ (passed * (classes == position))) / areas[rows]
            compared.append(_Pairs(scores[rows], overlaps, ignored))
        return compared


def _average_precision(pairs: list[_Pairs], threshold: float) -> float:
    """AP of one class at one IoU threshold; ``pairs`` has one element per image. nan where the class has no instance."""
    if not sum(pair.overlaps.shape[1] for pair in pairs):
        return float("nan")
    scores: list[float] = []
    right: list[bool] = []
    missed = 0
    for pair in pairs:
        fits = pair.overlaps > threshold
        for column in fits.T:
            matching = np.sort(pair.scores[column])[::-1].tolist()
            missed += not matching
            scores += matching
            right += [True, *[False] * (len(matching) - 1)][: len(matching)]
        wrong = ~fits.any(axis=1) & (pair.ignored <= threshold)
        scores += pair.scores[wrong].tolist()
        right += [False] * int(wrong.sum())
    return _area(np.array(scores), np.array(right, dtype=np.bool_), missed)


def _area(scores: Array, right: NDArray[np.bool_], missed: int) -> float:
    """The area under the precision-recall curve over the scores that occur, from recall 0 (precision 1) on, by the trapezoidal
    rule."""
    if not len(scores):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    hits = right[order].cumsum()[last]
    seen = np.flatnonzero(last) + 1
    recall = np.concatenate([hits[::-1] / max(int(right.sum()) + missed, 1), [0.0]])
    precision = np.concatenate([hits[::-1] / seen[::-1], [1.0]])
    around = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ ((around[:-2] - around[2:]) / 2))


def _mean(aps: Array) -> float:
    known = aps[~np.isnan(aps)]
    return float(known.mean()) if known.size else -1.0


def _pixels(code: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A COCO mask (polygons or run lengths) as (H, W) bool."""
    if isinstance(code, list):
        code = mask.merge(mask.frPyObjects(code, *size))
    elif isinstance(code["counts"], list):
        code = mask.frPyObjects(code, *size)
    pixels: NDArray[np.bool_] = mask.decode(code).astype(np.bool_)
    return pixels
