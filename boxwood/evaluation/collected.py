"""What every evaluator does with detections before it compares them: keep them by image, bring them together, hand them on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from boxwood.evaluation.evaluator import Metrics
from boxwood.evaluation.truth import ImageResults, Results, Truth, gather_results
from boxwood.structures import Categories, Detections

__all__ = ["CollectingEvaluator"]


class CollectingEvaluator(ABC):
    """Collects ``results``; what it makes of them is its subclass's `compute`.

    ``truth`` is a COCO dictionary, ``categories`` the model's classes; ``with_masks`` keeps masks too, as run lengths. Raises
    `UserError` where an annotation has no box, or some have other keypoints than others.
    """

    def __init__(self, truth: Mapping[str, Any], categories: Categories, with_masks: bool) -> None:
        self.truth = Truth(truth)
        self.categories = categories
        self.with_masks = with_masks
        self.results: Results = {}

    def add(self, image_id: int, detections: Detections) -> None:
        """Take an image's detections; of an image that was added before, the first stay."""
        if image_id not in self.results:
            self.results[image_id] = ImageResults.of(detections, self.with_masks and detections.mask_probabilities is not None)

    def gather(self) -> None:
        """Merge the detections of all processes of `torch.distributed`; the numbers are those of one process to the last digit."""
        self.results = gather_results(self.results)

    @abstractmethod
    def compute(self) -> Metrics:
        """The numbers of all that was added."""

    @property
    def positions(self) -> list[int]:
        """Of each label the place of its category in the truth, from 1; 0 where the truth does not know it."""
        return [self.truth.category_position.get(category, 0) for category in self.categories.ids]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The detections as COCO results, in the order of image ids and ranks; ``segmentation`` where there are masks.

        Who gives them to the COCO API for masks must take ``bbox`` out, or it measures the boxes' areas.
        """
        ids = self.categories.ids
        return [record for image_id in sorted(self.results) for record in self.results[image_id].records(image_id, ids)]
