"""How inference ends: the boxes that survive suppression, their keypoints, and all of it in the pixels of the original image.

    scores and boxes -> Candidates -> select_instances -> Instances -> to_detections -> Detections

Letters: B images, D instances an image, K proposals an image, C classes, R instances of the batch in one row, J keypoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from boxwood.models.inference_config import TestConfig
from boxwood.ops.geometry import CONTINUOUS, Geometry
from boxwood.ops.keypoints import decode_keypoints
from boxwood.ops.nms import nms_keypoints, soft_nms, vote
from boxwood.structures import Batch, Categories, Detections

if TYPE_CHECKING:
    pass

__all__ = [
    "Candidates",
    "Instances",
    "distinct_poses",
    "find_keypoints",
    "select_instances",
    "suppress",
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
    masks: Tensor | None = None
    """(B, D, M, M) probabilities inside the box."""
    keypoints: Tensor | None = None
    """(B, D, K, 3) x, y in pixels of the network's input, and the logit of the heatmap's peak."""


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
    """(B, N) bool: those that may be kept and may suppress."""


def suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor, possible: Tensor, test: TestConfig, geometry: Geometry = CONTINUOUS
) -> tuple[Tensor, Tensor, Tensor]:
    """What becomes of one image's boxes (N, 4) with scores and labels (N,): boxes and scores, which Soft-NMS and voting change, and
    (N,) bool: which are kept."""
    changed = scores
    if test.soft_nms is None:
        kept = geometry.nms_mask(boxes, scores, labels, test.nms_threshold, possible)
    else:
        soft = test.soft_nms
        options = {"decay": soft.decay, "threshold": test.nms_threshold, "sigma": soft.sigma, "floor": soft.floor}
        changed = soft_nms(boxes, scores, labels, possible, **options)  # type: ignore[arg-type]
        kept = changed > 0
    if test.vote is not None:
        rows, voters = kept.nonzero()[:, 0], possible.nonzero()[:, 0]
        moved, said = vote(
            *(boxes[rows], changed[rows], labels[rows], boxes[voters], scores[voters], labels[voters]),
            threshold=test.vote.threshold,
            scoring=test.vote.scoring,
            beta=test.vote.beta,
        )
        boxes, changed = boxes.index_copy(0, rows, moved), changed.index_copy(0, rows, said)
    return boxes, changed, kept


def top_instances(found: Candidates, test: TestConfig, geometry: Geometry = CONTINUOUS) -> Instances:
    """Suppress the boxes of each image, a class at a time, and keep the best of all."""
    columns = zip(found.boxes, found.scores, found.labels, found.possible, strict=True)
    parts = [suppress(*own, test, geometry) for own in columns]
    boxes, scores, kept = (torch.stack(part) for part in zip(*parts, strict=True))
    best, order = scores.masked_fill(~kept, -1.0).topk(min(test.detections_per_image, scores.shape[1]), dim=1)
    return Instances(boxes.gather(1, order[..., None].expand(-1, -1, 4)), best, found.labels.gather(1, order), best >= 0)


def select_instances(found: Candidates, batch: Batch, test: TestConfig, geometry: Geometry = CONTINUOUS) -> Instances:
    """The final boxes of candidates, in pixels of the network's input."""
    instances = top_instances(found, test, geometry)
    scales = geometry.scales(batch.sizes, batch.original_sizes)[:, None]
    instances.boxes = geometry.rescale(instances.boxes, scales.expand(*instances.boxes.shape[:2], 2))
    return instances


def distinct_poses(found: Instances, categories: Categories, test: TestConfig) -> Tensor:
    """``valid`` of the instances without those whose keypoints are more similar than ``test.keypoint_nms`` to others with higher
    peaks."""
    if test.keypoint_nms is None:
        return found.valid
    assert found.keypoints is not None and categories.keypoints is not None
    valid, sigmas = found.valid.clone(), categories.keypoints.sigmas
    for index, keypoints in enumerate(found.keypoints):
        rows = valid[index].nonzero()[:, 0]
        points, boxes = keypoints[rows], found.boxes[index, rows]
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        kept = nms_keypoints(points[..., :2], points[..., 2].mean(dim=1), areas, points.new_tensor(sigmas), test.keypoint_nms)
        valid[index, rows] = kept
    return valid


def find_keypoints(heatmaps: Tensor, rows: Tensor, instances: Instances, batch: Batch, geometry: Geometry = CONTINUOUS) -> Tensor:
    """Where the heatmaps (R, J, S, S) of ``rows`` of the flattened instances point -> (R, J, 3): x, y in pixels of the network's
    input, and the logit of the peak."""
    scales = geometry.scales(batch.sizes, batch.original_sizes)[rows // instances.valid.shape[1]]
    boxes = geometry.rescale(instances.boxes.flatten(0, 1)[rows], 1 / scales)
    points = decode_keypoints(heatmaps, boxes - boxes.new_tensor(geometry.last_pixel))
    return torch.cat([(points[..., :2] + geometry.keypoint_shift) * scales[:, None], points[..., 2:]], dim=-1)


def to_original(boxes: Tensor, size: Tensor, original: tuple[int, int], geometry: Geometry = CONTINUOUS) -> Tensor:
    """Boxes (N, 4) of an image that the network saw with the ``size`` (2,), height and width, in pixels of the original."""
    whole = size.new_tensor(original)
    return geometry.clip(geometry.rescale(boxes, (whole / size).flip(0).expand(len(boxes), 2)), whole)


def to_detections(
    found: Instances, batch: Batch, categories: Categories, test: TestConfig, geometry: Geometry = CONTINUOUS
) -> list[Detections]:
    """The instances of each image, scaled to the pixels of the original."""
    results = []
    for index, (height, width) in enumerate(batch.original_sizes):
        rows = found.valid[index].nonzero()[:, 0]
        scale = (batch.sizes.new_tensor([height, width]) / batch.sizes[index]).flip(0)
        keypoints = None if found.keypoints is None else found.keypoints[index, rows]
        results.append(
            Detections(
                to_original(found.boxes[index, rows], batch.sizes[index], (height, width), geometry),
                found.scores[index, rows],
                found.labels[index, rows],
                (height, width),
                categories.names,
                None if found.masks is None else found.masks[index, rows],
                None if keypoints is None else torch.cat([keypoints[..., :2] * scale, keypoints[..., 2:]], dim=-1),
                mask_threshold=test.mask_threshold,
                mask_crops=geometry.mask_crops,
                skeleton=() if keypoints is None or categories.keypoints is None else categories.keypoints.skeleton,
            )
        )
    return results
