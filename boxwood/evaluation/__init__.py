"""Detections and truth in, numbers out."""

from boxwood.evaluation.backend import Backend
from boxwood.evaluation.cityscapes import CityscapesEvaluator
from boxwood.evaluation.coco import CocoEvaluator
from boxwood.evaluation.evaluator import CollectingEvaluator, Evaluator, Metrics, evaluate
from boxwood.evaluation.lvis import LvisEvaluator
from boxwood.evaluation.measures import Measure, make_evaluator
from boxwood.evaluation.proposals import ProposalEvaluator
from boxwood.evaluation.table import format_table, save_detections, save_metrics
from boxwood.evaluation.voc import VocEvaluator

__all__ = [
    "Backend",
    "CityscapesEvaluator",
    "CocoEvaluator",
    "CollectingEvaluator",
    "Evaluator",
    "LvisEvaluator",
    "Measure",
    "Metrics",
    "ProposalEvaluator",
    "VocEvaluator",
    "evaluate",
    "format_table",
    "make_evaluator",
    "save_detections",
    "save_metrics",
]
