"""Evaluators: metrics of detections against the ground truth.

The names below are imported on first use, so that a configuration can name a measure without importing torch and hotcoco.
"""

from typing import TYPE_CHECKING

from boxwood.lazy import lazy_names

if TYPE_CHECKING:
    from boxwood.evaluation.backend import Backend
    from boxwood.evaluation.cityscapes import CityscapesEvaluator
    from boxwood.evaluation.coco import CocoEvaluator
    from boxwood.evaluation.evaluator import CollectingEvaluator, Evaluator, Metrics, evaluate
    from boxwood.evaluation.hico import HicoEvaluator
    from boxwood.evaluation.lvis import LvisEvaluator
    from boxwood.evaluation.measures import EvaluatorConfig, Measure, choose_measure, make_evaluator
    from boxwood.evaluation.proposals import ProposalEvaluator
    from boxwood.evaluation.table import format_table, save_detections, save_metrics
    from boxwood.evaluation.vcoco import VcocoEvaluator
    from boxwood.evaluation.voc import VocEvaluator

__all__ = [
    "Backend",
    "CityscapesEvaluator",
    "CocoEvaluator",
    "CollectingEvaluator",
    "Evaluator",
    "EvaluatorConfig",
    "HicoEvaluator",
    "LvisEvaluator",
    "Measure",
    "Metrics",
    "ProposalEvaluator",
    "VcocoEvaluator",
    "VocEvaluator",
    "choose_measure",
    "evaluate",
    "format_table",
    "make_evaluator",
    "save_detections",
    "save_metrics",
]

__getattr__ = lazy_names(
    __name__,
    {
        "backend": ("Backend",),
        "cityscapes": ("CityscapesEvaluator",),
        "coco": ("CocoEvaluator",),
        "dense_pose": ("DensePoseEvaluator",),
        "evaluator": (
            "CollectingEvaluator",
            "Evaluator",
            "Metrics",
            "evaluate",
        ),
        "hico": ("HicoEvaluator",),
        "lvis": ("LvisEvaluator",),
        "measures": (
            "EvaluatorConfig",
            "Measure",
            "choose_measure",
            "make_evaluator",
        ),
        "proposals": ("ProposalEvaluator",),
        "table": (
            "format_table",
            "save_detections",
            "save_metrics",
        ),
        "vcoco": ("VcocoEvaluator",),
        "voc": ("VocEvaluator",),
    },
)
