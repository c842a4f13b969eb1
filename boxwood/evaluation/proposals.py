"""Average recall of class-agnostic proposals, the measure of a region proposal network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood.evaluation.backend import AREAS, Backend, check_backend, compare
from boxwood.evaluation.coco import mean_of_known
from boxwood.evaluation.diagnosis import about_areas, some
from boxwood.evaluation.evaluator import Metrics
from boxwood.evaluation.truth import ImageResults, Results, Truth, gather_results
from boxwood.structures import Detections

__all__ = ["ProposalEvaluator"]


class ProposalEvaluator:
    """AR of an image's best 100 and 1000 proposals over IoU 0.50:0.95, all classes as one (Hosang et al., arXiv 1502.05082).

    ``truth`` is a COCO dictionary. Proposals are added as `Detections`; their labels do not count. `compute` gives
    ``{"proposals": {"AR100", "ARs100", "ARm100", "ARl100", "AR1000", ...}, "notes"}``, fractions, -1 where there is no truth of
    that size.
    """

    def __init__(self, truth: Mapping[str, Any], limits: tuple[int, ...] = (100, 1000), backend: Backend = "hotcoco") -> None:
        check_backend(backend)
        self.truth = Truth(truth)
        self.limits = sorted(limits)
        self.backend: Backend = backend
        self.results: Results = {}

    def add(self, image_id: int, detections: Detections) -> None:
        """Add the proposals of an image; a second call for the same image changes nothing."""
        if image_id not in self.results:
            proposals = ImageResults.of(detections, with_masks=False)
            proposals.labels = proposals.labels * 0
            self.results[image_id] = proposals

    def gather(self) -> None:
        """Merge the proposals of all processes of `torch.distributed`."""
        self.results = gather_results(self.results)

    def columns(self) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
        """Image id, boxes (N, 4) xyxy in pixels of the original image and scores (N,), best first, of every image that was
        added."""
        for image_id, proposals in self.results.items():
            boxes = proposals.boxes
            yield image_id, np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1), proposals.scores

    def compute(self) -> Metrics:
        """The average recalls of all proposals; images of the truth that were not added count as images without proposals."""
        # Even without classes the COCO API needs each proposal to have a category of the truth.
        first = [1] if self.truth.categories else [0]
        _, recall = compare(self.truth, self.results, first, "bbox", self.limits, False, self.backend)
        table = {
            f"AR{size}{limit}": mean_of_known(recall[:, :, area, position])
            for position, limit in enumerate(self.limits)
            for area, size in enumerate(AREAS)
        }
        notes = about_areas(self.truth)
        if not any(not annotation["iscrowd"] for annotation in self.truth.annotations):
            notes.append("the truth has no instances, so every AR is -1")
        if missing := [image_id for image_id in self.truth.image_position if image_id not in self.results]:
            notes.append(f"{len(missing)} of the truth's {len(self.truth.images)} images were not evaluated (ids {some(missing)})")
        if strangers := [image_id for image_id in self.results if image_id not in self.truth.image_position]:
            notes.append(
                f"{len(strangers)} evaluated images are not in the truth (ids {some(strangers)}); their proposals are left out"
            )
        return {"proposals": table, "notes": notes}
