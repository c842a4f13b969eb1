"""The second stage of R-CNN: the regions it learns from, their features, its losses and its results.

    proposals + truth -> sample_rois -> RoISample -> (the network) -> box_losses, mask_loss, keypoint_loss
    proposals -> (the network) -> boxwood.models.postprocess.select_instances -> Instances

Functions of tensors that `boxwood.models.rcnn` and `boxwood.models.rfcn` share. Letters: B images, K proposals or sampled RoIs an
image, C classes, R RoIs of the batch in one row, M the side of a mask, J keypoints of an instance, S the side of a heatmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwood.errors import UserError
from boxwood.models.config import RoIConfig
from boxwood.models.ground_truth import GroundTruth, padded
from boxwood.models.inference_config import TestConfig
from boxwood.models.postprocess import Candidates
from boxwood.models.rpn import Proposals
from boxwood.ops.boxes import decode, encode, ioa, iou
from boxwood.ops.geometry import CONTINUOUS, Geometry
from boxwood.ops.losses import global_mean, smooth_l1
from boxwood.ops.matching import match_boxes
from boxwood.ops.roi_align import assign_levels, pool_levels
from boxwood.ops.sampling import sample_balanced, uniform
from boxwood.structures import Batch

__all__ = [
    "RoISample",
    "box_losses",
    "candidates_of",
    "class_boxes",
    "given_proposals",
    "instance_rows",
    "pool_regions",
    "sample_rois",
    "scatter_rows",
    "valid_rows",
]


MAX_CANDIDATES = 4096
"""The best (RoI, class) pairs of an image that go into the last suppression. It is greedy, so leaving out the rest changes a
result only where fewer than ``detections_per_image`` of so many survive."""

CROWD_SHARE = 0.7
"""Detectron did not use given proposals of which a larger share lay in a crowd region."""


@dataclass(slots=True)
class RoISample:
    """The sampled regions of a training batch and their targets; positives before negatives."""

    boxes: Tensor
    """(B, K, 4) xyxy, pixels of the network's input."""
    valid: Tensor
    """(B, K) bool."""
    labels: Tensor
    """(B, K) int64: 0..C-1, C for background, -1 where not valid."""
    instances: Tensor
    """(B, K) int64, the instance of each positive, the best one for a positive of a crowd region's class; 0 elsewhere."""
    deltas: Tensor
    """(B, K, 4) to be regressed, else 0."""
    scales: Tensor
    """(B, 2) for x and y, of the boxes over those that the deltas were taken from."""
    has_box: Tensor | None = None
    """(B, K) bool: those of the positives that regress a box; None: all."""


# ------------------------------------------------------------------------------------------------------ before the network


def given_proposals(batch: Batch, scales: Tensor, geometry: Geometry = CONTINUOUS) -> Proposals:
    """The proposals that came with the batch, for a detector without an RPN. Raises `UserError` where none came."""
    if batch.proposals is None:
        raise UserError(
            "a detector without an RPN needs proposals, and this data has none: set data.train.proposals and data.val.proposals to "
            "files of them, or use a recipe with an RPN"
        )
    given = padded(batch.proposals)
    valid = (given[..., 2:] > given[..., :2]).all(dim=-1)  # rows of zeros are no proposals
    boxes = geometry.from_data(given, scales[:, None])
    rows = torch.arange(valid.shape[1], device=boxes.device).expand_as(valid)
    return Proposals(boxes, torch.zeros_like(boxes[..., 0]), valid, rows, valid.shape[1], given=True)


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def sample_rois(
    proposals: Proposals,
    truth: GroundTruth,
    batch: Batch,
    scales: Tensor,
    config: RoIConfig,
    num_classes: int,
    geometry: Geometry = CONTINUOUS,
) -> RoISample:
    """Sample the regions of a training step among proposals and ground-truth boxes (Fast R-CNN, section 2.3).

    A proposal's random number depends on its source, not on its rank, so rounding that swaps two ranks changes nothing, and neither
    does padding; of proposals of anchors in the padding, which share a number, the first in rank is drawn. ``config.crowd`` says
    what becomes of crowd regions. ``scales`` (B, 2) as of `Geometry.scales`.
    """
    regions = torch.cat([proposals.boxes, geometry.from_data(truth.boxes, scales[:, None])], dim=1)
    boxes = geometry.rescale(regions, (1 / scales)[:, None].expand(-1, regions.shape[1], 2))
    instance_boxes = boxes[:, proposals.boxes.shape[1] :] * truth.exists[..., None]
    exists = torch.cat([proposals.valid, truth.exists], dim=1)
    matched, best = match_boxes(instance_boxes, boxes, 0.0, 0.0)
    labels_of = truth.labels.gather(1, matched)
    positive, negative = (best >= config.foreground_iou) & exists, (best < config.foreground_iou) & exists
    if truth.ignore.shape[1] and config.crowd == "class":
        labels_of, positive, negative = _with_crowd(labels_of, best, exists, boxes, proposals, truth, scales, config, geometry)
    elif truth.ignore.shape[1] and config.crowd != "background":
        negative &= ioa(boxes, truth.ignore).amax(dim=2) < 0.5
    # An image's first random numbers are its instances', the next its proposals'.
    counts, most = truth.exists.sum(dim=1, keepdim=True), truth.exists.shape[1]
    numbers = uniform(torch.as_tensor(batch.seeds) + 1, most + proposals.num_sources, boxes.device)
    chance = torch.cat([numbers.gather(1, counts + proposals.source_index), numbers[:, :most]], dim=1)
    # The numbers have 24 bits; ranks decide below them.
    chance = chance.double() + torch.arange(chance.shape[1], 0, -1, device=chance.device) * 2.0**-40
    indices, valid = sample_balanced(positive, negative, config.samples_per_image, config.positive_fraction, chance)
    missing = config.samples_per_image - indices.shape[1]
    indices, valid = F.pad(indices, (0, missing)), F.pad(valid, (0, missing))
    is_positive = positive.gather(1, indices) & valid
    has_box = is_positive & (best.gather(1, indices) >= config.foreground_iou)
    instances = matched.gather(1, indices) * is_positive
    labels = torch.where(is_positive, labels_of.gather(1, indices), num_classes).masked_fill(~valid, -1)
    corners = indices[..., None].expand(-1, -1, 4)
    deltas = encode(instance_boxes.gather(1, instances[..., None].expand(-1, -1, 4)), boxes.gather(1, corners), config.box_weights)
    deltas = torch.where(has_box[..., None], deltas, 0.0)
    return RoISample(regions.gather(1, corners), valid, labels, instances, deltas, scales, has_box)


def _with_crowd(
    labels: Tensor,
    best: Tensor,
    exists: Tensor,
    boxes: Tensor,
    proposals: Proposals,
    truth: GroundTruth,
    scales: Tensor,
    config: RoIConfig,
    geometry: Geometry,
) -> tuple[Tensor, Tensor, Tensor]:
    """Detectron's rule for crowd regions: a region is of the class of what it overlaps most, be it an instance or a crowd region.

    Given proposals of which more than `CROWD_SHARE` lies in one crowd region are not used. ``labels`` and ``best`` (B, A) are the
    class of the instance that each of ``boxes`` (B, A, 4), pixels of the second stage, overlaps most, and their IoU -> labels,
    positive and negative (B, A).
    """
    learnt = truth.ignore_labels >= 0
    crowd = geometry.from_data(truth.ignore, scales[:, None])
    crowd = geometry.rescale(crowd, (1 / scales)[:, None].expand(-1, crowd.shape[1], 2)) * learnt[..., None]
    highest, nearest = iou(crowd, boxes).max(dim=1)
    labels = torch.where(highest > best, truth.ignore_labels.gather(1, nearest), labels)
    if proposals.given:
        count = proposals.boxes.shape[1]
        covered = ioa(boxes[:, :count], crowd).amax(dim=2) > CROWD_SHARE
        exists = torch.cat([exists[:, :count] & ~covered, exists[:, count:]], dim=1)
    overlap = torch.maximum(highest, best)
    return labels, (overlap >= config.foreground_iou) & exists, (overlap < config.foreground_iou) & exists


def box_losses(class_logits: Tensor, box_deltas: Tensor, sample: RoISample, config: RoIConfig) -> dict[str, Tensor]:
    """Log loss over classes and smooth L1 of the positives' deltas, both over the number of sampled RoIs (Fast R-CNN, equation 1).

    ``class_logits`` (B, K, C + 1), ``box_deltas`` (B, K, C or 1, 4). With ``config.hardest`` only those RoIs of each image count
    whose two losses together are largest (Shrivastava et al., OHEM, 2016; R-FCN, section 2).
    """
    num_classes = class_logits.shape[2] - 1
    positive = (sample.labels >= 0) & (sample.labels < num_classes) if sample.has_box is None else sample.has_box
    columns = sample.labels.clamp(0, box_deltas.shape[2] - 1)[..., None, None].expand(-1, -1, 1, 4)
    classes = F.cross_entropy(class_logits.flatten(0, 1), sample.labels.flatten(), ignore_index=-1, reduction="none")
    classes = classes.view_as(sample.labels)
    box = smooth_l1(box_deltas.gather(2, columns)[:, :, 0], sample.deltas, config.smooth_l1_beta).sum(dim=-1) * positive
    learns = sample.valid
    if config.hardest is not None:
        difficulty = (classes + box).detach().masked_fill(~sample.valid, -1.0)
        hardest = difficulty.topk(min(config.hardest, difficulty.shape[1]), dim=1).indices
        learns = torch.zeros_like(sample.valid).scatter(1, hardest, True) & sample.valid
    count = learns.sum()
    return {"loss_class": global_mean((classes * learns).sum(), count), "loss_box": global_mean((box * learns).sum(), count)}


# ------------------------------------------------------------------------------------------------------- after the network


@torch.no_grad()
def candidates_of(
    proposals: Proposals,
    class_logits: Tensor,
    box_deltas: Tensor,
    batch: Batch,
    scales: Tensor,
    box_weights: Sequence[float],
    test: TestConfig,
    geometry: Geometry = CONTINUOUS,
) -> Candidates:
    """Every class's box of every proposal, the best `MAX_CANDIDATES` of each image.

    ``class_logits`` (B, K, C + 1), ``box_deltas`` (B, K, C or 1, 4).
    """
    scales = scales[:, None]
    sizes = (batch.scaled_sizes[:, None] / scales.flip(-1)).round()
    num_classes, boxes_each = class_logits.shape[2] - 1, box_deltas.shape[2]
    scores = (_class_scores(class_logits) * proposals.valid[..., None]).flatten(1)
    scores, pairs = scores.topk(min(MAX_CANDIDATES, scores.shape[1]), dim=1)
    labels, rows = pairs % num_classes, pairs // num_classes
    rois = proposals.boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    delta_rows = rows * boxes_each + labels.clamp(max=boxes_each - 1)
    deltas = box_deltas.flatten(1, 2).gather(1, delta_rows[..., None].expand(-1, -1, 4))
    rois = geometry.rescale(rois, (1 / scales).expand(*rois.shape[:2], 2))
    boxes = geometry.clip(decode(deltas, rois, box_weights), sizes)
    large = (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) >= geometry.smallest_detection
    return Candidates(boxes, scores, labels, (scores > test.score_threshold) & large)


@torch.no_grad()
def class_boxes(
    proposals: Proposals,
    class_logits: Tensor,
    box_deltas: Tensor,
    batch: Batch,
    scales: Tensor,
    box_weights: Sequence[float],
    geometry: Geometry = CONTINUOUS,
) -> tuple[Tensor, Tensor]:
    """The input of `candidates_of`'s top-k: the scores (B, K, C) of all proposals, and their boxes of all classes (B, K, C, 4)."""
    scales = scales[:, None]
    sizes = (batch.scaled_sizes[:, None] / scales.flip(-1)).round()
    num_classes = class_logits.shape[2] - 1
    scores = _class_scores(class_logits) * proposals.valid[..., None]
    rois = geometry.rescale(proposals.boxes, (1 / scales).expand(*proposals.boxes.shape[:2], 2))
    boxes = geometry.clip(decode(box_deltas, rois[:, :, None], box_weights), sizes[:, None])
    return scores, boxes.expand(-1, -1, num_classes, -1)


def _class_scores(class_logits: Tensor) -> Tensor:
    """(B, K, C + 1) logits, background last -> (B, K, C) probabilities, 0 in rows with a NaN or an infinite logit."""
    return class_logits.softmax(dim=-1)[..., :-1].nan_to_num(0.0)


# -------------------------------------------------------------------------------------------------- regions as rows


def pool_regions(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    rows: Tensor,
    size: int,
    config: RoIConfig,
    geometry: Geometry = CONTINUOUS,
    *,
    fixed_shapes: bool = False,
) -> Tensor:
    """The features of ``rows`` of the flattened (B, K, 4) boxes, each from the map of its size -> (R, channels, P, P)."""
    rois = boxes.flatten(0, 1)[rows]
    return pool_levels(
        *(maps, strides, assign_levels(rois, len(maps)), geometry.region(rois), rows // boxes.shape[1], size),
        pooling=config.pooling,
        sampling_ratio=config.sampling_ratio,
        aligned=config.aligned,
        fixed_shapes=fixed_shapes,
    )


def box_rows(valid: Tensor, *, fixed_shapes: bool = False) -> Tensor:
    """`valid_rows` of proposals and samples. On a GPU all of them: few are not valid, and to count those the host would wait."""
    return valid_rows(valid, valid.shape[1], fixed_shapes=fixed_shapes or valid.is_cuda)


def valid_rows(
    valid: Tensor, columns: int, multiple: int = 1, *, fixed_shapes: bool = False, count: int | None = None, at_least: int = 0
) -> Tensor:
    """The entries of a flattened (B, K) to compute -> (R,) int64.

    With ``fixed_shapes`` the first ``columns`` of each image, valid or not, so that no value is read on the host; else the valid
    ones, of which there are ``count`` (read on the host where it is None), and so many others that their number is a multiple and
    not below ``at_least``.
    """
    if fixed_shapes:
        return torch.arange(valid.numel(), device=valid.device).view(valid.shape)[:, :columns].flatten()
    flat = valid.flatten()
    number = -(-max(int(flat.sum()) if count is None else count, at_least) // multiple) * multiple
    return (~flat).to(torch.uint8).argsort(stable=True)[:number]


def scatter_rows(values: Tensor, rows: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of taking ``rows``: (R, ...) -> (B, K, ...), zeros elsewhere."""
    num_images, num_columns = shape
    flat = values.new_zeros(num_images * num_columns, *values.shape[1:]).index_copy(0, rows, values)
    return flat.view(num_images, num_columns, *values.shape[1:])


def instance_rows(rows: Tensor, sample: RoISample, most: int) -> Tensor:
    """The instance of each of ``rows`` in (B, ``most``) flattened -> (R,) int64; any instance where it has none."""
    first = torch.arange(sample.instances.shape[0], device=rows.device)[:, None] * most
    return (sample.instances + first).flatten()[rows]
