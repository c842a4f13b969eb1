"""Which evaluator measures a detector, by whose rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from boxwood.errors import UserError
from boxwood.evaluation.cityscapes import CityscapesEvaluator
from boxwood.evaluation.coco import CocoEvaluator
from boxwood.evaluation.evaluator import CollectingEvaluator
from boxwood.evaluation.lvis import LvisEvaluator
from boxwood.evaluation.proposals import ProposalEvaluator
from boxwood.evaluation.voc import VocEvaluator
from boxwood.structures import Categories

__all__ = ["Measure", "make_evaluator"]

Measure: TypeAlias = Literal["coco", "voc2007", "voc2010", "lvis", "cityscapes"]


def make_evaluator(
    truth: Mapping[str, Any],
    categories: Categories,
    *,
    measure: Measure = "coco",
    class_agnostic: bool = False,
    detections_per_image: int = 100,
    maxdets: int | None = None,
) -> CollectingEvaluator | ProposalEvaluator:
    """The evaluator of a measure; of COCO's, average recall where boxes have no classes (`ModelConfig.class_agnostic`).

    ``maxdets`` of an image's best detections count by COCO's and LVIS's rules; None: all ``detections_per_image``, and at least
    COCO's 100 or LVIS's 300. Raises `UserError` where the truth lacks what the rule needs, or the boxes have no classes.
    """
    if class_agnostic:
        if measure != "coco":
            raise UserError(f"--measure {measure} is of classes, and this detector finds none; leave it out")
        return ProposalEvaluator(truth)
    if measure == "coco":
        return CocoEvaluator(truth, categories, max_detections=maxdets or max(100, detections_per_image))
    if measure == "lvis":
        return LvisEvaluator(truth, categories, maxdets or max(300, detections_per_image))
    if measure == "cityscapes":
        return CityscapesEvaluator(truth, categories)
    return VocEvaluator(truth, categories, measure)
