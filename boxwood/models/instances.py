"""How inference ends: the boxes that survive suppression, their keypoints, and all of it in the pixels of the original image.

    scores and boxes -> top_instances -> Instances -> to_detections -> Detections

Letters: B images, D instances an image, K proposals an image, C classes, R instances of the batch in one row, J keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from boxwood.config import Config
from boxwood.ops.boxes import CONTINUOUS, Geometry, decode
from boxwood.ops.keypoints import decode_keypoints
from boxwood.structures import Batch, Categories, Detections

if TYPE_CHECKING:
    from boxwood.models.rpn import Proposals

__all__ = ["Instances", "TestConfig", "find_keypoints", "select_instances", "to_detections", "top_instances"]

MAX_CANDIDATES = 4096
"""The best (RoI, class) pairs of an image that go into the last suppression. It is greedy, so leaving out the rest changes a
result only where fewer than ``detections_per_image`` of so many survive."""


class TestConfig(Config):
    """How a network's outputs become detections."""

    __test__: ClassVar[bool] = False  # for pytest, which collects names that begin with Test

    score_threshold: float = 0.05
    """Detections must score above this."""
    nms_threshold: float = 0.5
    """Of two boxes of one class that overlap by more than this IoU, the lower-scored one is dropped."""
    detections_per_image: int = 100
    """At most so many detections an image, over all classes. COCO's AP looks at 100."""
    mask_threshold: float = 0.5
    """A pixel belongs to a mask where its probability is at least this."""


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


def top_instances(
    boxes: Tensor, scores: Tensor, labels: Tensor, possible: Tensor, test: TestConfig, geometry: Geometry = CONTINUOUS
) -> Instances:
    """Suppress the boxes of each image, a class at a time, and keep the best of all.

    ``boxes`` (B, N, 4), ``scores`` (B, N) 0..1, ``labels`` (B, N), ``possible`` (B, N) bool: those that may be kept and may
    suppress.
    """
    kept = torch.stack(
        [geometry.nms_mask(boxes[i], scores[i], labels[i], test.nms_threshold, possible[i]) for i in range(len(boxes))]
    )
    best, order = scores.masked_fill(~kept, -1.0).topk(min(test.detections_per_image, scores.shape[1]), dim=1)
    return Instances(boxes.gather(1, order[..., None].expand(-1, -1, 4)), best, labels.gather(1, order), best >= 0)


@torch.no_grad()
def select_instances(
    proposals: Proposals,
    class_logits: Tensor,
    box_deltas: Tensor,
    batch: Batch,
    box_weights: Sequence[float],
    test: TestConfig,
    geometry: Geometry = CONTINUOUS,
) -> Instances:
    """The final boxes: every class's box of every proposal, suppressed a class at a time, the best of all kept.

    ``class_logits`` (B, K, C + 1), ``box_deltas`` (B, K, C or 1, 4).
    """
    scales = geometry.scales(batch.sizes, batch.original_sizes)[:, None]
    sizes = (batch.sizes[:, None] / scales.flip(-1)).round()
    num_classes, boxes_each = class_logits.shape[2] - 1, box_deltas.shape[2]
    scores = (class_logits.softmax(dim=-1)[..., :num_classes] * proposals.valid[..., None]).flatten(1)
    scores, pairs = scores.topk(min(MAX_CANDIDATES, scores.shape[1]), dim=1)
    labels, rows = pairs % num_classes, pairs // num_classes
    rois = proposals.boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    own = rows * boxes_each + labels.clamp(max=boxes_each - 1)
    deltas = box_deltas.flatten(1, 2).gather(1, own[..., None].expand(-1, -1, 4))
    rois = geometry.rescale(rois, (1 / scales).expand(*rois.shape[:2], 2))
    boxes = geometry.clip(decode(deltas, rois, box_weights), sizes)
    large = (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) >= geometry.smallest_detection
    found = top_instances(boxes, scores, labels, (scores > test.score_threshold) & large, test, geometry)
    found.boxes = geometry.rescale(found.boxes, scales.expand(*found.boxes.shape[:2], 2))
    return found


def find_keypoints(heatmaps: Tensor, rows: Tensor, instances: Instances, batch: Batch, geometry: Geometry = CONTINUOUS) -> Tensor:
    """Where the heatmaps (R, J, S, S) of ``rows`` of the flattened instances point -> (R, J, 3): x, y in pixels of the network's
    input, and the logit of the peak."""
    scales = geometry.scales(batch.sizes, batch.original_sizes)[rows // instances.valid.shape[1]]
    boxes = geometry.rescale(instances.boxes.flatten(0, 1)[rows], 1 / scales)
    points = decode_keypoints(heatmaps, boxes - boxes.new_tensor(geometry.last_pixel))
    return torch.cat([(points[..., :2] + geometry.keypoint_shift) * scales[:, None], points[..., 2:]], dim=-1)


def to_detections(
    found: Instances, batch: Batch, categories: Categories, test: TestConfig, geometry: Geometry = CONTINUOUS
) -> list[Detections]:
    """The instances of each image, scaled to the pixels of the original."""
    results = []
    for index, (height, width) in enumerate(batch.original_sizes):
        rows = found.valid[index].nonzero()[:, 0]
        original = torch.tensor([height, width], device=rows.device)
        scale = (original / batch.sizes[index]).flip(0)
        keypoints = None if found.keypoints is None else found.keypoints[index, rows]
        results.append(
            Detections(
                geometry.clip(geometry.rescale(found.boxes[index, rows], scale.expand(len(rows), 2)), original),
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
