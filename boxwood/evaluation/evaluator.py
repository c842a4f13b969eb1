"""Evaluation: the detections of images are added one by one, numbers are computed from all of them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import nn

from boxwood.evaluation.truth import ImageResults, Results, Truth, gather_results
from boxwood.structures import Batch, Categories, Detections
from boxwood.threads import in_order, worker_threads

__all__ = ["CollectingEvaluator", "Evaluator", "Metrics", "evaluate"]

IMAGES_AHEAD = 16
"""Images whose detections wait for the evaluator, at most: two batches of 8."""

Metrics: TypeAlias = dict[str, Any]
"""Results as JSON values: a table of numbers for each task (``bbox``, ``segm``, ``proposals`` ...), ``per_class``, ``notes``."""


class Evaluator(Protocol):
    """Compares detections with the ground truth of a data set; what `evaluate` calls, `add` from one thread of its own."""

    def add(self, image_id: int, detections: Detections) -> None:
        """Add the detections of an image, on the CPU. A second call for the same image changes nothing."""

    def gather(self) -> None:
        """Exchange the detections between processes, so that each has those of all images. Does nothing for one process."""

    def compute(self) -> Metrics:
        """The metrics of all detections."""


class CollectingEvaluator(ABC):
    """Collects the detections of all images in ``results``, by image id; a subclass computes metrics from them in `compute`.

    ``truth`` is a COCO dictionary, ``categories`` the model's classes; ``with_masks`` collects masks too, as run lengths. Raises
    `UserError` where an annotation has no box, or annotations have different numbers of keypoints.
    """

    def __init__(self, truth: Mapping[str, Any], categories: Categories, with_masks: bool) -> None:
        self.truth = Truth(truth)
        self.categories = categories
        self.with_masks = with_masks
        self.results: Results = {}

    def add(self, image_id: int, detections: Detections) -> None:
        """Add the detections of an image; a second call for the same image changes nothing."""
        if image_id not in self.results:
            self.results[image_id] = ImageResults.of(detections, self.with_masks and detections.mask_probabilities is not None)

    def gather(self) -> None:
        """Merge the detections of all processes; the metrics are then those of one process, to the last digit."""
        self.results = gather_results(self.results)

    @abstractmethod
    def compute(self) -> Metrics:
        """The metrics of all detections; an image of the truth that was not added has none."""

    @property
    def positions(self) -> list[int]:
        """For each label the position of its category in ``truth.categories``, from 1; 0 where the truth lacks the category."""
        return [self.truth.category_position.get(category, 0) for category in self.categories.ids]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The detections as COCO results, ordered by image id and rank; ``segmentation`` where there are masks.

        Remove ``bbox`` before passing them to the COCO API for masks: it would use the areas of the boxes.
        """
        ids = self.categories.ids
        return [record for image_id in sorted(self.results) for record in self.results[image_id].records(image_id, ids)]


def evaluate(model: nn.Module, batches: Iterable[Batch], evaluator: Evaluator, device: torch.device | str) -> Metrics:
    """Run a detector over ``batches`` and return the evaluator's metrics of the images of all processes.

    ``model`` is a `boxwood.models.Detector` on ``device``, not wrapped for distributed training. It runs in eval mode without
    gradients; afterwards each of its modules has the mode that it had before. ``images_per_second`` is added to the metrics: the
    speed of this process in the network and the post-processing, without loading images and computing the metrics.
    """
    detections_of = cast(Callable[[Any, Batch], list[Detections]], model.detections)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    seconds, count = 0.0, 0

    def detected_images() -> Iterator[tuple[int, Detections]]:
        nonlocal seconds, count
        for batch in batches:
            start = time.perf_counter()
            batch = batch.to(device)
            # The copy to the CPU waits for the device, so the time includes all of its work.
            batch_detections = [detections.to("cpu") for detections in detections_of(model(batch), batch)]
            seconds += time.perf_counter() - start
            count += len(batch_detections)
            yield from zip(batch.image_ids, batch_detections, strict=True)

    try:
        # Beside the network a thread makes run lengths of masks, which takes longer than an image takes a GPU.
        with torch.no_grad(), worker_threads(1) as pool:
            for _ in in_order(pool, lambda image: evaluator.add(*image), detected_images(), ahead=IMAGES_AHEAD):
                pass
    finally:
        for module, mode in modes:
            module.training = mode
    evaluator.gather()
    metrics = evaluator.compute()
    if count:
        metrics["images_per_second"] = count / seconds
    return metrics
