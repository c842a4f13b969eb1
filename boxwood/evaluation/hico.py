"""HICO-DET's mean average precision (Chao et al., 2018), by the rules of its MATLAB program.

Default        each class of verb and object over all images
Known Object   over the images alone of which some class of the same object is known to be shown
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood.errors import UserError
from boxwood.evaluation.evaluator import CollectingEvaluator, Metrics
from boxwood.evaluation.interaction_files import write_hico_results
from boxwood.evaluation.interactions import PredictedInteractions, Ties, Verbs, grouped, overlaps, ranked
from boxwood.structures import Categories

__all__ = ["RECALL_LEVELS", "HicoEvaluator", "HoiPrecision", "hico_precisions"]

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
HARDEST = 20
"""How many of the pairs that are missed most are in the metrics."""
RECALL_LEVELS: dict[str, Array] = {"multiplied": np.linspace(0, 10, 11) * 0.1, "exact": np.linspace(0, 10, 11) / 10}
"""Multiples of 0.1 as the official program makes them, of which .30000000000000004 is not reached by a recall of 3/10; or the
rounded tenths."""


@dataclass(slots=True)
class HoiPrecision:
    """The result of one class of verb and object; a class without predictions or truth has AP 0, as in the official means."""

    default: float
    known_object: float
    default_recall: float
    """NaN where there are predictions and no truth."""
    known_object_recall: float
    pairs: int
    rare: bool


class HicoEvaluator(CollectingEvaluator):
    """Mean AP over the classes of verb and object: all, rare and other ones, by both settings.

    ``truth`` is a COCO dictionary with verbs, interactions and ``hois`` (`boxwood.data.interactions`). In order of score, a
    prediction is right where the pair that it overlaps most, by the smaller IoU of human and object, is overlapped by at least
    ``min_overlap`` and not found yet; otherwise it is wrong. Predictions of a verb and object that are no class do not count.
    `compute` gives ``{"hico": {"AP", "AP_rare", "AP_non_rare", ...}, "per_class", "notes"}``, fractions. Raises `UserError` where
    the truth has no ``hois``.
    """

    def __init__(
        self,
        truth: Mapping[str, Any],
        categories: Categories,
        min_overlap: float = 0.5,
        recall_levels: str = "multiplied",
        ties: Ties = "first",
    ) -> None:
        super().__init__(truth, categories, with_masks=False)
        self.verbs, self.tree = Verbs.of(truth), truth
        self.min_overlap, self.recall_levels, self.ties = min_overlap, recall_levels, ties
        _shown(truth, {hoi["id"]: hoi["category_id"] for hoi in _hois_of(truth)})  # which is checked

    def compute(self) -> Metrics:
        """The metrics of all detections; an image of the truth that was not added has none."""
        predicted = PredictedInteractions.of_results(self.results, self.verbs)
        table = hico_precisions(self.tree, predicted, self.min_overlap, self.recall_levels, self.ties)
        numbers = {}
        for suffix, attribute in (("", "default"), ("_known", "known_object")):
            for part, rows in _parts(table).items():
                numbers[f"AP{part}{suffix}"] = float(np.mean([getattr(row, attribute) for row in rows])) if rows else -1.0
        names = {category["id"]: category["name"] for category in self.tree["categories"]}
        verbs = dict(zip(self.verbs.ids, self.verbs.names, strict=True))
        named = {hoi["id"]: f"{verbs[hoi['verb_id']]} {names[hoi['category_id']]}" for hoi in self.tree["hois"]}
        per_class = {named[hoi]: {"hico": row.default, "count": row.pairs} for hoi, row in table.items()}
        levels = "multiples of 0.1" if self.recall_levels == "multiplied" else "exact tenths"
        notes = [
            f"AP by HICO-DET's rules: an IoU of {self.min_overlap:g} of human and object, precision at eleven recalls ({levels}); "
            f"the means are over all {len(table)} classes, those without truth or predictions with 0"
        ]
        missed = {hoi: round(row.pairs * (1 - np.nan_to_num(row.default_recall))) for hoi, row in table.items() if row.pairs}
        hardest = sorted((hoi for hoi in missed if missed[hoi]), key=lambda hoi: -missed[hoi])[:HARDEST]
        pairs = [{"pair": named[hoi], "count": table[hoi].pairs, "found": table[hoi].pairs - missed[hoi]} for hoi in hardest]
        return {"hico": numbers, "per_class": per_class, "hardest_pairs": pairs, "notes": notes}

    def write_results(self, folder: Path) -> None:
        """Write ``detections_01.mat`` to ``detections_80.mat``, which HICO-DET's program reads; a line in the log where
        scipy, which writes them, is not installed."""
        try:
            write_hico_results(folder, PredictedInteractions.of_results(self.results, self.verbs), self.tree)
        except UserError as error:
            logger.warning("not written: %s", error)


def hico_precisions(
    truth: Mapping[str, Any],
    predicted: PredictedInteractions,
    min_overlap: float = 0.5,
    recall_levels: str = "multiplied",
    ties: Ties = "first",
) -> dict[int, HoiPrecision]:
    """AP of each class by its id, by both settings."""
    hois, verbs = _hois_of(truth), Verbs.of(truth)
    class_of = {(verbs.ids.index(hoi["verb_id"]), hoi["category_id"]): hoi["id"] for hoi in hois}
    image_ids = [image["id"] for image in truth["images"]]
    pairs = _pairs_of(truth)
    object_of = {hoi["id"]: hoi["category_id"] for hoi in hois}
    shown = _shown(truth, object_of)
    classes = [
        class_of.get((verb, category), 0) for verb, category in zip(predicted.verbs.tolist(), predicted.category_ids.tolist())
    ]
    rows_of = grouped(np.array(classes, dtype=np.int64))
    table = {}
    for hoi in hois:
        rows = rows_of.get(hoi["id"], np.zeros(0, dtype=np.int64))
        of_class = predicted[rows[np.isin(predicted.image_ids[rows], image_ids)]]
        truth_pairs = pairs.get(hoi["id"], {})
        count = sum(len(humans) for humans, _ in truth_pairs.values())
        right, order = _judged(of_class, truth_pairs, min_overlap, ties)
        inside = np.isin(of_class.image_ids[order], sorted(shown.get(hoi["category_id"], ())))
        levels = RECALL_LEVELS[recall_levels]
        default, known = _precision(right, count, levels), _precision(right[inside], count, levels)
        table[hoi["id"]] = HoiPrecision(default[0], known[0], default[1], known[1], count, bool(hoi.get("rare")))
    return table


# ------------------------------------------------------------------------------------------------------------ internals

Pairs = dict[int, tuple[Array, Array]]
"""By image id the boxes of humans (M, 4) and of their objects (M, 4), xyxy."""


def _hois_of(truth: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    hois: Sequence[Mapping[str, Any]] = truth.get("hois") or ()
    if not hois:
        raise UserError(
            "HICO-DET's measure needs the classes of verb and object, and the truth has no 'hois'; make it with "
            "boxwood data convert --from hico, or take the measure hoi_vcoco"
        )
    return hois


def _shown(truth: Mapping[str, Any], object_of: Mapping[int, int]) -> dict[int, set[int]]:
    """By the category of an object the images of which one of its classes is known to be shown."""
    shown: dict[int, set[int]] = {}
    for image in truth["images"]:
        labels = image.get("hois", {})
        positive = labels.get("positive", []) if isinstance(labels, dict) else None
        if not isinstance(positive, list) or not all(type(hoi) is int and hoi in object_of for hoi in positive):
            raise UserError(f"image id {image['id']}: 'hois' must list ids of classes under 'positive'; convert the data again")
        for hoi in positive:
            shown.setdefault(object_of[hoi], set()).add(image["id"])
    return shown


def _parts(table: Mapping[int, HoiPrecision]) -> dict[str, list[HoiPrecision]]:
    rows = list(table.values())
    return {"": rows, "_rare": [row for row in rows if row.rare], "_non_rare": [row for row in rows if not row.rare]}


def _pairs_of(truth: Mapping[str, Any]) -> dict[int, Pairs]:
    """The visible pairs of each class and image."""
    boxes = {row["id"]: row["bbox"] for row in truth["annotations"]}
    found: dict[int, dict[int, list[tuple[Any, Any]]]] = {}
    for row in truth["interactions"]:
        target = row["targets"].get("obj")
        # Boxes that a data set leaves out, as those without an area, are in no pair.
        if row.get("visible", True) and row.get("human_id") in boxes and target in boxes and "hoi_id" in row:
            of_class = found.setdefault(row["hoi_id"], {})
            of_class.setdefault(row["image_id"], []).append((boxes[row["human_id"]], boxes[target]))

    def corners(rows: Sequence[Any]) -> Array:
        x, y, width, height = np.array(rows, dtype=np.float64).T
        return np.stack([x, y, x + width, y + height], axis=1)

    return {
        hoi: {image: (corners([h for h, _ in rows]), corners([o for _, o in rows])) for image, rows in images.items()}
        for hoi, images in found.items()
    }


def _judged(
    predicted: PredictedInteractions, pairs: Pairs, min_overlap: float, ties: Ties
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether each prediction of a class is right, by descending score, and that order; equal scores in the order of the images."""
    by_image = np.argsort(predicted.image_ids, kind="stable")
    order = by_image[ranked(predicted.scores[by_image], ties)]
    right = np.zeros(len(order), dtype=np.bool_)
    best, fits = np.zeros(len(order), dtype=np.int64), np.zeros(len(order), dtype=np.bool_)
    for image, rows in grouped(predicted.image_ids).items():
        if image in pairs:
            humans, objects = pairs[image]
            ious = np.minimum(overlaps(predicted.humans[rows], humans), overlaps(predicted.objects[rows], objects))
            best[rows] = ious.argmax(axis=1)
            fits[rows] = ious.max(axis=1) >= min_overlap
    matched: set[tuple[int, int]] = set()
    for place, row in enumerate(order.tolist()):
        pair = (int(predicted.image_ids[row]), int(best[row]))
        if fits[row] and pair not in matched:
            matched.add(pair)
            right[place] = True
    return right, order


def _precision(right: NDArray[np.bool_], count: int, levels: Array) -> tuple[float, float]:
    """AP and the highest recall, of predictions in order of score."""
    if not count or not len(right):
        return 0.0, float("nan") if len(right) else 0.0
    hits = np.cumsum(right)
    recall, precision = hits / count, hits / np.arange(1, len(hits) + 1)
    return float(np.mean([precision[recall >= level].max(initial=0.0) for level in levels])), float(recall[-1])
