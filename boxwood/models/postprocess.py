"""Post-processing: NMS, the best boxes, their keypoints, and all of it in the pixels of the original image.

    scores and boxes -> Candidates -> select_instances -> Instances -> to_detections -> Detections

Letters: B images, D instances an image, K proposals an image, C classes, R instances of the batch in one row, J keypoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from boxwood.fields import InstanceField
from boxwood.models.inference_config import TestConfig
from boxwood.ops.geometry import CONTINUOUS, Geometry
from boxwood.ops.keypoints import decode_keypoints
from boxwood.ops.nms import nms_keypoints, soft_nms, vote
from boxwood.structures import Batch, Categories, Detections

__all__ = [
    "Candidates",
    "Instances",
    "distinct_poses",
    "find_keypoints",
    "select_instances",
    "suppress",
    "suppress_batch",
    "to_detections",
    "to_original",
    "top_instances",
]


@dataclass(slots=True)
class Instances:
    """The final boxes of inference, best first, of fixed length. Letters: B images, D instances an image."""

    boxes: Tensor
    """(B, D, 4) xyxy, pixels of the network's input."""
    scores: Tensor
    """(B, D)."""
    labels: Tensor
    """(B, D) int64."""
    valid: Tensor
    """(B, D) bool."""
    fields: dict[str, Tensor] = field(default_factory=dict)
    """(B, D, ...) of each instance task, by its name: ``masks`` (B, D, M, M) probabilities inside the box; ``keypoints`` (B, D, K,
    3) x, y in pixels of the network's input, and the logit of the heatmap's peak."""
    counts: list[int] | None = None
    """How many are valid in each image, where the host has read it already."""

    def keep(self, valid: Tensor) -> None:
        """Leave only the instances that are ``valid`` (B, D)."""
        if valid is not self.valid:
            self.valid, self.counts = valid, None


@dataclass(slots=True)
class Candidates:
    """Boxes that may become instances. Letters: B images, N candidates of each."""

    boxes: Tensor
    """(B, N, 4) xyxy, in the pixels in which the geometry's second stage works."""
    scores: Tensor
    """(B, N) 0..1."""
    labels: Tensor
    """(B, N) int64."""
    possible: Tensor
    """(B, N) bool: those that may survive and may suppress."""


def suppress_batch(candidates: Candidates, test: TestConfig, geometry: Geometry = CONTINUOUS) -> tuple[Tensor, Tensor, Tensor]:
    """NMS of the candidates within each image and class -> boxes (B, N, 4) and scores (B, N), which Soft-NMS and voting change, and
    (B, N) bool: the survivors."""
    if test.soft_nms is None and test.vote is None:
        number = candidates.labels.shape[0]
        groups = candidates.labels * number + torch.arange(number, device=candidates.labels.device)[:, None]
        flat = (candidates.boxes.flatten(0, 1), candidates.scores.flatten(), groups.flatten())
        survives = geometry.nms_mask(*flat, test.nms_threshold, candidates.possible.flatten())
        return candidates.boxes, candidates.scores, survives.view_as(candidates.possible)
    columns = zip(candidates.boxes, candidates.scores, candidates.labels, candidates.possible, strict=True)
    parts = zip(*(suppress(*image, test, geometry) for image in columns), strict=True)
    boxes, scores, survives = (torch.stack(part) for part in parts)
    return boxes, scores, survives


def suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor, possible: Tensor, test: TestConfig, geometry: Geometry
) -> tuple[Tensor, Tensor, Tensor]:
    """NMS within each class of one image's boxes (N, 4) with scores and labels (N,); ``possible`` (N,) bool: the others are left
    out. -> boxes and scores, which Soft-NMS and voting change, and (N,) bool: the survivors."""
    new_scores = scores
    if test.soft_nms is None:
        survives = geometry.nms_mask(boxes, scores, labels, test.nms_threshold, possible)
    else:
        soft = test.soft_nms
        options = {"decay": soft.decay, "threshold": test.nms_threshold, "sigma": soft.sigma, "floor": soft.floor}
        new_scores = soft_nms(boxes, scores, labels, possible, **options)  # type: ignore[arg-type]
        survives = new_scores > 0
    if test.vote is not None:
        rows, voters = survives.nonzero()[:, 0], possible.nonzero()[:, 0]
        voted_boxes, voted_scores = vote(
            *(boxes[rows], new_scores[rows], labels[rows], boxes[voters], scores[voters], labels[voters]),
            threshold=test.vote.threshold,
            scoring=test.vote.scoring,
            beta=test.vote.beta,
        )
        boxes, new_scores = boxes.index_copy(0, rows, voted_boxes), new_scores.index_copy(0, rows, voted_scores)
    return boxes, new_scores, survives


def top_instances(candidates: Candidates, test: TestConfig, geometry: Geometry = CONTINUOUS) -> Instances:
    """NMS of the boxes of each image within each class, and the best of all classes."""
    boxes, scores, survives = suppress_batch(candidates, test, geometry)
    best, rows = scores.masked_fill(~survives, -1.0).topk(min(test.detections_per_image, scores.shape[1]), dim=1)
    return Instances(boxes.gather(1, rows[..., None].expand(-1, -1, 4)), best, candidates.labels.gather(1, rows), best >= 0)


def select_instances(candidates: Candidates, scales: Tensor, test: TestConfig, geometry: Geometry = CONTINUOUS) -> Instances:
    """The final boxes of candidates, in pixels of the network's input; ``scales`` (B, 2) as of `Geometry.scales`."""
    instances = top_instances(candidates, test, geometry)
    instances.boxes = geometry.rescale(instances.boxes, scales[:, None].expand(*instances.boxes.shape[:2], 2))
    return instances


def distinct_poses(instances: Instances, categories: Categories, test: TestConfig) -> Tensor:
    """``valid`` of the instances without those whose keypoints are more similar than ``test.keypoint_nms`` to others with higher
    peaks."""
    if test.keypoint_nms is None:
        return instances.valid
    assert categories.keypoints is not None
    keypoints = instances.fields["keypoints"]
    areas = (instances.boxes[..., 2:] - instances.boxes[..., :2]).prod(dim=-1)
    sigmas = torch.tensor(categories.keypoints.sigmas).to(instances.boxes)
    return nms_keypoints(keypoints[..., :2], keypoints[..., 2].mean(dim=-1), areas, sigmas, test.keypoint_nms, instances.valid)


def find_keypoints(
    heatmaps: Tensor,
    rows: Tensor,
    instances: Instances,
    scales: Tensor,
    geometry: Geometry = CONTINUOUS,
    largest: tuple[int, int] | None = None,
) -> Tensor:
    """The highest places of heatmaps (R, J, S, S) of ``rows`` of the flattened instances -> (R, J, 3): x, y in pixels of the
    network's input, and the logit of the peak. ``largest`` as of `boxwood.ops.keypoints.decode_keypoints`."""
    row_scales = scales[rows // instances.valid.shape[1]]
    boxes = geometry.rescale(instances.boxes.flatten(0, 1)[rows], 1 / row_scales)
    regions = geometry.region(boxes)
    points = decode_keypoints(heatmaps, regions, largest)
    return torch.cat([(points[..., :2] + geometry.keypoint_shift) * row_scales[:, None], points[..., 2:]], dim=-1)


def to_original(boxes: Tensor, sizes: Tensor, original_sizes: Tensor, geometry: Geometry = CONTINUOUS) -> Tensor:
    """Boxes (B, N, 4) in pixels of the network's input, whose images have the ``sizes`` (B, 2) there, in pixels of the originals,
    which have ``original_sizes`` (B, 2)."""
    factors = (original_sizes / sizes).flip(-1)[:, None]
    return geometry.clip(geometry.rescale(boxes, factors.expand(*boxes.shape[:2], 2)), original_sizes[:, None])


def to_detections(
    instances: Instances,
    batch: Batch,
    categories: Categories,
    geometry: Geometry = CONTINUOUS,
    fields: Mapping[str, tuple[Tensor, Callable[[Tensor], InstanceField]]] | None = None,
) -> list[Detections]:
    """The instances of each image, scaled to the pixels of the original.

    ``fields`` gives for each field of the detections its values (B, D, ...), already in these pixels, and what makes the field
    of an image. The host waits for the device once, for the number of instances of every image, unless it knows them.
    """
    boxes = to_original(instances.boxes, batch.scaled_sizes, batch.originals, geometry)
    order = (~instances.valid).to(torch.uint8).argsort(dim=1, stable=True)  # valid ones first, in their order
    results = []
    counts = instances.valid.sum(dim=1).tolist() if instances.counts is None else instances.counts
    for index, count in enumerate(counts):
        rows = order[index, :count]
        results.append(
            Detections(
                boxes[index, rows],
                instances.scores[index, rows],
                instances.labels[index, rows],
                batch.original_sizes[index],
                categories.names,
                fields={name: make(values[index, rows]) for name, (values, make) in (fields or {}).items()},
            )
        )
    return results
