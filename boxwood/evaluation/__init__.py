"""Evaluators: metrics of detections against the ground truth.

The names below are imported on first use, so that a configuration can name a measure without importing torch and hotcoco.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxwood.evaluation.backend import Backend
    from boxwood.evaluation.cityscapes import CityscapesEvaluator
    from boxwood.evaluation.coco import CocoEvaluator
    from boxwood.evaluation.evaluator import CollectingEvaluator, Evaluator, Metrics, evaluate
    from boxwood.evaluation.lvis import LvisEvaluator
    from boxwood.evaluation.measures import EvaluatorConfig, Measure, choose_measure, make_evaluator
    from boxwood.evaluation.proposals import ProposalEvaluator
    from boxwood.evaluation.table import format_table, save_detections, save_metrics
    from boxwood.evaluation.voc import VocEvaluator

__all__ = [
    "Backend",
    "CityscapesEvaluator",
    "CocoEvaluator",
    "CollectingEvaluator",
    "Evaluator",
    "EvaluatorConfig",
    "LvisEvaluator",
    "Measure",
    "Metrics",
    "ProposalEvaluator",
    "VocEvaluator",
    "choose_measure",
    "evaluate",
    "format_table",
    "make_evaluator",
    "save_detections",
    "save_metrics",
]

_HOME = {
    "Backend": "backend",
    "CityscapesEvaluator": "cityscapes",
    "CocoEvaluator": "coco",
    **dict.fromkeys(("CollectingEvaluator", "Evaluator", "Metrics", "evaluate"), "evaluator"),
    "LvisEvaluator": "lvis",
    **dict.fromkeys(("EvaluatorConfig", "Measure", "choose_measure", "make_evaluator"), "measures"),
    "ProposalEvaluator": "proposals",
    **dict.fromkeys(("format_table", "save_detections", "save_metrics"), "table"),
    "VocEvaluator": "voc",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
