"""A user-defined measure: the share of images on which the objects are counted right.

    boxwood data shapes --out demo/data
    boxwood train examples.own_measure:recipe --out runs/counting                  # the best weights are those that count best
    boxwood eval runs/counting evaluator.score=0.7 --import examples.own_measure
    boxwood eval runs/nuts --measure examples.own_measure:CountingConfig           # any run

An evaluator collects the detections of all images, over all processes; you write `compute`. ``boxwood eval`` then prints
your table, and writes the report and the detections as for every other measure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from boxwood import Categories, RunConfig
from boxwood.evaluation import CollectingEvaluator, EvaluatorConfig, Metrics
from boxwood.recipes import demo_shapes


class CountingConfig(EvaluatorConfig):
    score: float = Field(0.5, ge=0, le=1)
    """Detections from this score on are counted."""

    def build(self, truth: Mapping[str, Any], categories: Categories, **limits: Any) -> CollectingEvaluator:
        """``limits`` are those of ``test.*``, for measures that count the best detections of an image alone."""
        return CountingEvaluator(truth, categories, self.score)

    def primary(self, metrics: Metrics) -> float:
        """Decides which weights are the best; the higher the better."""
        return float(metrics["counting"]["exact"])


class CountingEvaluator(CollectingEvaluator):
    def __init__(self, truth: Mapping[str, Any], categories: Categories, score: float) -> None:
        super().__init__(truth, categories, with_masks=False)
        self.score = score

    def compute(self) -> Metrics:
        """Images and classes of the truth are numbered from 1; ``self.positions`` has the number of each of the model's labels."""
        truth = np.zeros((len(self.truth.images), len(self.truth.categories)), dtype=int)
        counted = np.zeros_like(truth)
        for annotation in self.truth.annotations:
            truth[annotation["image_id"] - 1, annotation["category_id"] - 1] += not annotation["iscrowd"]
        for image_id, detections in self.results.items():
            for label in detections.labels[detections.scores >= self.score]:
                counted[self.truth.image_position[image_id] - 1, self.positions[label] - 1] += 1
        exact, error = counted == truth, np.abs(counted - truth)
        rows = zip(self.truth.names(), self.truth.counts(), exact.mean(axis=0))
        return {
            "counting": {"exact": float(exact.all(axis=1).mean()), "error": float(error.sum(axis=1).mean())},
            "per_class": {name: {"count": count, "counting": float(share)} for name, count, share in rows},
            "notes": [
                f"exact: images on which all classes are counted right, from score {self.score:g} on; error: objects an image"
            ],
        }


def recipe() -> RunConfig:
    """The demo's recipe, scored by this measure while it trains."""
    config = demo_shapes()
    config.evaluator = CountingConfig()
    return config
