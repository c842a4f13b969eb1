"""What an evaluation is to Boxwood: images' detections go in one by one, numbers come out."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import nn

from boxwood.evaluation.truth import ImageResults, Results, Truth, gather_results
from boxwood.structures import Batch, Categories, Detections

__all__ = ["CollectingEvaluator", "Evaluator", "Metrics", "evaluate"]

Metrics: TypeAlias = dict[str, Any]
"""Results as JSON holds them: a table of numbers a task (``bbox``, ``segm``, ``proposals`` ...), ``per_class``, ``notes``."""


class Evaluator(Protocol):
    """Compares detections with the truth of a data set. One of your own needs these three methods."""

    def add(self, image_id: int, detections: Detections) -> None:
        """Take an image's detections, on the CPU. An image that was added before is not counted twice."""

    def gather(self) -> None:
        """Bring together what all processes have added; every process then holds everything. Does nothing for one process."""

    def compute(self) -> Metrics:
        """The numbers of all that was added."""


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


def evaluate(model: nn.Module, batches: Iterable[Batch], evaluator: Evaluator, device: torch.device | str) -> Metrics:
    """Run a detector over ``batches`` and return the evaluator's numbers, merged over all processes.

    ``model`` is a `boxwood.models.Detector`, already on ``device``, not wrapped for distributed training. It runs in eval mode
    without gradients; afterwards each of its modules is in the mode it was in. The evaluator's numbers are joined by
    ``images_per_second``: this process's speed in the network and its post-processing, with neither the loading of images nor
    the comparison with the truth.
    """
    detections_of = cast(Callable[[Any, Batch], list[Detections]], model.detections)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    seconds, count = 0.0, 0
    try:
        with torch.no_grad():
            for batch in batches:
                start = time.perf_counter()
                batch = batch.to(device)
                # The copy to the CPU waits for the device, so the time is that of the work and not of queueing it.
                found = [detections.to("cpu") for detections in detections_of(model(batch), batch)]
                seconds += time.perf_counter() - start
                count += len(found)
                assert len(found) == len(batch.image_ids)
                for image_id, detections in zip(batch.image_ids, found, strict=True):
                    evaluator.add(image_id, detections)
    finally:
        for module, mode in modes:
            module.training = mode
    evaluator.gather()
    metrics = evaluator.compute()
    if count:
        metrics["images_per_second"] = count / seconds
    return metrics
