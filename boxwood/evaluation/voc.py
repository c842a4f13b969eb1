"""PASCAL VOC's average precision (Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from boxwood.errors import UserError
from boxwood.evaluation.evaluator import CollectingEvaluator, Metrics
from boxwood.files import file_word, write_text
from boxwood.structures import Categories

__all__ = ["VocEvaluator", "average_precision"]

Array = NDArray[np.float64]


class VocEvaluator(CollectingEvaluator):
    """AP of each class at an IoU of ``min_overlap``, and their mean, as the challenge's development kit computes them.

    In order of score, a detection is right where its highest IoU with an instance of its image and class is at least
    ``min_overlap`` and that instance is not matched yet; a second detection of it is wrong. Difficult instances (``ignore: 1``, and
    crowd regions) do not count, nor do detections matched to them. ``rule`` is ``voc2007``, the mean of the precision at eleven
    recalls, or ``voc2010``, the area under the curve, which is the rule from that year on.

    ``truth`` is a COCO dictionary, ``categories`` the model's classes. `compute` gives ``{"voc": {"AP"}, "per_class", "notes"}``,
    fractions; -1 where there is no truth. Raises `UserError` where ``rule`` is unknown.
    """

    def __init__(
        self,
        truth: Mapping[str, Any],
        categories: Categories,
        rule: Literal["voc2007", "voc2010"] = "voc2010",
        min_overlap: float = 0.5,
    ) -> None:
        if rule not in ("voc2007", "voc2010"):
            raise UserError(f"unknown rule of VOC '{rule}'; choose 'voc2007' or 'voc2010'")
        regions = [{**a, "iscrowd": int(bool(a.get("ignore") or a.get("iscrowd")))} for a in truth["annotations"]]
        super().__init__({**truth, "annotations": regions}, categories, with_masks=False)
        self.rule, self.min_overlap = rule, min_overlap
        self.stems = {image["id"]: Path(image.get("file_name", str(image["id"]))).stem for image in truth["images"]}
        self.instances: dict[tuple[int, int], list[tuple[list[float], bool]]] = {}
        """By (image id, category id): boxes x, y, width, height, and whether each is difficult."""
        for annotation in regions:
            place = (annotation["image_id"], annotation["category_id"])
            self.instances.setdefault(place, []).append((annotation["bbox"], bool(annotation["iscrowd"])))

    def compute(self) -> Metrics:
        """The metrics of all detections; images of the truth that were not added count as images without detections."""
        per_class = {}
        for label, (category, name) in enumerate(zip(self.categories.ids, self.categories.names, strict=True)):
            recall, precision, count = self._curve(label, category)
            ap = average_precision(recall, precision, self.rule) if count else -1.0
            per_class[name] = {"voc": ap, "count": count}
        known = [row["voc"] for row in per_class.values() if row["count"]]
        how = "precision at eleven recalls" if self.rule == "voc2007" else "area under the curve"
        notes = [f"AP by PASCAL VOC's rule: an IoU of {self.min_overlap:g}, {how}, difficult instances left out"]
        if not known:
            notes.append("the truth has no instances, so AP is -1")
        return {"voc": {"AP": float(np.mean(known)) if known else -1.0}, "per_class": per_class, "notes": notes}

    def write_devkit(self, folder: Path, split: str) -> None:
        """Write the challenge's result files ``comp4_det_SPLIT_CLASS.txt``, a line per detection: image, score, and the box with
        pixels counted from 1, the last one included. Class names that become equal in a file name are followed by their ids."""
        words = [file_word(name) for name in self.categories.names]
        for label, (category, word) in enumerate(zip(self.categories.ids, words, strict=True)):
            lines = []
            for image_id in sorted(self.results):
                detections = self.results[image_id]
                for rank in np.flatnonzero(detections.labels == label).tolist():
                    x, y, width, height = detections.boxes[rank]
                    corners = (x + 1, y + 1, x + width, y + height)
                    stem = self.stems.get(image_id, str(image_id))
                    lines.append(" ".join([stem, f"{detections.scores[rank]:.6f}", *(f"{number:.6f}" for number in corners)]))
            unique = word if words.count(word) == 1 else f"{word}-{category}"
            write_text(folder / f"comp4_det_{split}_{unique}.txt", "".join(f"{line}\n" for line in lines))

    def _curve(self, label: int, category: int) -> tuple[Array, Array, int]:
        """Recall (N,) and precision (N,) after each detection of a class in order of score, and its number of instances."""
        scores, right, counts = [], [], []
        for image_id in sorted(self.results):
            detections = self.results[image_id]
            of_class = detections.labels == label
            scores.append(detections.scores[of_class])
            if image_id in self.stems:
                image_right, image_counts = self._match(image_id, category, detections.boxes[of_class], detections.scores[of_class])
            else:
                image_right = image_counts = np.zeros(int(of_class.sum()), dtype=np.bool_)
            right.append(image_right)
            counts.append(image_counts)
        instances = sum(
            not difficult for (image_id, category_id), boxes in self.instances.items() for _, difficult in boxes
            if category_id == category and image_id in self.stems
        )  # fmt: skip
        order = np.argsort(-np.concatenate([np.zeros(0), *scores]), kind="stable")
        no = np.zeros(0, dtype=np.bool_)
        is_right, does_count = np.concatenate([no, *right])[order], np.concatenate([no, *counts])[order]
        hits, seen = np.cumsum(is_right[does_count]), np.arange(1, int(does_count.sum()) + 1)
        return hits / max(instances, 1), hits / seen, instances

    def _match(self, image_id: int, category: int, boxes: Array, scores: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which detections of one image and class are right (N,), and which count (N,)."""
        right, counts = np.zeros(len(boxes), dtype=np.bool_), np.ones(len(boxes), dtype=np.bool_)
        truth = self.instances.get((image_id, category), [])
        if not truth:
            return right, counts
        overlaps = _overlaps(boxes, np.array([box for box, _ in truth], dtype=np.float64))
        matched: set[int] = set()
        for row in np.argsort(-scores, kind="stable").tolist():
            best = int(overlaps[row].argmax())
            if overlaps[row, best] < self.min_overlap:
                continue
            if truth[best][1]:
                counts[row] = False
            elif best not in matched:
                matched.add(best)
                right[row] = True
        return right, counts


def average_precision(recall: Array, precision: Array, rule: Literal["voc2007", "voc2010"]) -> float:
    """AP of a curve, both arrays (N,) in order of score.

    >>> average_precision(np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3]), "voc2010")  # 0.5 * 1 + 0.5 * 2/3
    0.8333333333333333
    """
    if rule == "voc2007":
        return float(np.mean([precision[recall >= level].max(initial=0.0) for level in np.arange(11) / 10]))
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(((recall[steps + 1] - recall[steps]) * envelope[steps + 1]).sum())


def _overlaps(boxes: Array, truth: Array) -> Array:
    """IoU (N, M) of boxes (N, 4) and (M, 4), x, y, width, height."""
    start = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    end = np.minimum(boxes[:, None, :2] + boxes[:, None, 2:], truth[None, :, :2] + truth[None, :, 2:])
    shared = np.clip(end - start, 0, None).prod(axis=2)
    total = boxes[:, None, 2:].prod(axis=2) + truth[None, :, 2:].prod(axis=2) - shared
    overlaps: Array = np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)
    return overlaps
