"""The second stage of R-CNN: which regions it learns from, what it reads from the maps, its losses and its results.

    proposals + truth -> sample_rois -> RoISample -> (the network) -> box_losses, mask_loss, keypoint_loss
    proposals -> (the network) -> boxwood.models.postprocess.select_instances -> Instances

Functions of tensors that `boxwood.models.rcnn` and `boxwood.models.rfcn` share. Letters: B images, K proposals or sampled RoIs an
image, C classes, R RoIs of the batch in one row, M the side of a mask, J keypoints of an instance, S the side of a heatmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwood.config import Config
from boxwood.errors import UserError
from boxwood.models.inference_config import TestConfig
from boxwood.models.postprocess import Candidates
from boxwood.models.rpn import Proposals
from boxwood.ops.boxes import decode, encode, ioa, iou
from boxwood.ops.geometry import CONTINUOUS, Geometry
from boxwood.ops.keypoints import keypoint_targets
from boxwood.ops.losses import global_mean, smooth_l1
from boxwood.ops.masks import mask_targets
from boxwood.ops.matching import BACKGROUND, match
from boxwood.ops.roi_align import assign_levels, pool_levels, roi_align, roi_pool
from boxwood.ops.sampling import sample_balanced
from boxwood.structures import Batch, InstanceMasks, Target

__all__ = [
    "RoIConfig",
    "RoISample",
    "box_losses",
    "candidates_of",
    "class_boxes",
    "given_proposals",
    "keypoint_loss",
    "mask_loss",
    "pool_regions",
    "sample_rois",
    "scatter_rows",
    "valid_rows",
]


MAX_CANDIDATES = 4096
"""The best (RoI, class) pairs of an image that go into the last suppression. It is greedy, so leaving out the rest changes a
result only where fewer than ``detections_per_image`` of so many survive."""


class RoIConfig(Config):
    """Which regions the second stage learns from, and how features are taken from them."""

    samples_per_image: int = 512
    positive_fraction: float = 0.25
    foreground_iou: float = 0.5
    hardest: int | None = None
    """Of the sampled regions of an image, learn from so many whose loss is largest (online hard example mining); None: from all."""
    class_agnostic: bool = False
    """Regress one box an RoI instead of one for each class."""
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """What dx, dy, dw, dh are multiplied with, so that they vary by about 1."""
    smooth_l1_beta: float = 1.0
    pooling: Literal["align", "max"] = "align"
    """RoIAlign, or the older RoIPool, which knows neither of the following."""
    sampling_ratio: int = 2
    """Points a cell and side that RoIAlign averages; 0 takes as many as the cell has map pixels."""
    aligned: bool = True
    """RoIAlign with pixel centres at i + 0.5; torchvision's weights were trained without."""


@dataclass(slots=True)
class RoISample:
    """The regions of a training batch and what each is to learn; positives stand before negatives."""

    boxes: Tensor
    """(B, K, 4) xyxy, pixels of the network's input."""
    valid: Tensor
    """(B, K) bool."""
    labels: Tensor
    """(B, K) int64: 0..C-1, C for background, -1 where not valid."""
    instances: Tensor
    """(B, K) int64, the instance of each positive; 0 elsewhere."""
    deltas: Tensor
    """(B, K, 4) to be regressed by positives, else 0."""
    scales: Tensor
    """(B, 2) for x and y, of the boxes over those that the deltas were taken from."""


# ------------------------------------------------------------------------------------------------------ before the network


def given_proposals(batch: Batch, geometry: Geometry = CONTINUOUS) -> Proposals:
    """The proposals that came with the batch, for a detector without an RPN. Raises `UserError` where none came."""
    if batch.proposals is None:
        raise UserError(
            "a detector without an RPN needs proposals, and this data has none: set data.train.proposals and data.val.proposals to "
            "files of them, or use a recipe with an RPN"
        )
    longest = max(1, *(len(boxes) for boxes in batch.proposals))
    device = batch.images.device
    counts = torch.tensor([len(boxes) for boxes in batch.proposals], device=device)
    places = torch.arange(longest, device=device).expand(len(counts), -1)
    boxes = torch.stack([F.pad(boxes, (0, 0, 0, longest - len(boxes))) for boxes in batch.proposals])
    boxes = geometry.from_data(boxes, geometry.scales(batch.sizes, batch.original_sizes)[:, None])
    return Proposals(boxes, torch.zeros_like(boxes[..., 0]), places < counts[:, None], places, longest)


@torch.no_grad()
def sample_rois(
    proposals: Proposals, batch: Batch, config: RoIConfig, num_classes: int, geometry: Geometry = CONTINUOUS
) -> RoISample:
    """Choose the regions to learn from among proposals and true boxes (Fast R-CNN, section 2.3).

    A proposal's chance hangs on where it came from, not on its rank: rounding that swaps two ranks changes nothing, and neither
    does padding. Negatives that lie mostly in a region to be ignored are not used.
    """
    assert batch.targets is not None
    scales, parts = geometry.scales(batch.sizes, batch.original_sizes), []
    for index, target in enumerate(batch.targets):
        regions = torch.cat([proposals.boxes[index], geometry.from_data(target.boxes, scales[index])])
        boxes = geometry.rescale(regions, 1 / scales[index].expand(len(regions), 2))
        truth = boxes[len(proposals.boxes[index]) :]
        exists = torch.cat([proposals.valid[index], torch.ones(len(target.boxes), dtype=torch.bool, device=boxes.device)])
        matched = match(iou(truth, boxes), config.foreground_iou, config.foreground_iou)
        positive, negative = (matched >= 0) & exists, (matched == BACKGROUND) & exists
        if len(target.ignore) and geometry.judges_leniently:
            negative &= ioa(boxes, target.ignore).amax(dim=1) < 0.5
        generator = torch.Generator(boxes.device).manual_seed(batch.seeds[index] + 1)
        of_truth = torch.rand(len(target.boxes), device=boxes.device, generator=generator)
        of_places = torch.rand(proposals.num_places, device=boxes.device, generator=generator)
        chance = torch.cat([of_places[proposals.places[index]], of_truth])
        chosen, valid = sample_balanced(positive, negative, config.samples_per_image, config.positive_fraction, chance)
        learns = positive[chosen] & valid
        instances = matched[chosen].clamp(min=0)
        labels = torch.full_like(chosen, num_classes)
        deltas = boxes.new_zeros(len(chosen), 4)
        if len(target.boxes):
            labels = target.labels[instances].where(learns, labels)
            deltas = encode(truth[instances], boxes[chosen], config.box_weights).where(learns[:, None], deltas)
        labels = labels.masked_fill(~valid, -1)
        missing = config.samples_per_image - len(chosen)
        parts.append(
            (
                F.pad(regions[chosen], (0, 0, 0, missing)),
                F.pad(valid, (0, missing)),
                F.pad(labels, (0, missing), value=-1),
                F.pad(instances, (0, missing)),
                F.pad(deltas, (0, 0, 0, missing)),
            )
        )
    chosen_boxes, valid, labels, instances, deltas = (torch.stack(column) for column in zip(*parts, strict=True))
    return RoISample(chosen_boxes, valid, labels, instances, deltas, scales)


def box_losses(class_logits: Tensor, box_deltas: Tensor, sample: RoISample, config: RoIConfig) -> dict[str, Tensor]:
    """Log loss over classes and smooth L1 of the positives' deltas, both over the number of sampled RoIs (Fast R-CNN, equation 1).

    ``class_logits`` (B, K, C + 1), ``box_deltas`` (B, K, C or 1, 4). With ``config.hardest`` only those RoIs of each image count
    whose two losses together are largest (Shrivastava et al., OHEM, 2016; R-FCN, section 2).
    """
    num_classes = class_logits.shape[2] - 1
    positive = (sample.labels >= 0) & (sample.labels < num_classes)
    own = sample.labels.clamp(0, box_deltas.shape[2] - 1)[..., None, None].expand(-1, -1, 1, 4)
    classes = F.cross_entropy(class_logits.flatten(0, 1), sample.labels.flatten(), ignore_index=-1, reduction="none")
    classes = classes.view_as(sample.labels)
    box = smooth_l1(box_deltas.gather(2, own)[:, :, 0], sample.deltas, config.smooth_l1_beta).sum(dim=-1) * positive
    learns = sample.valid
    if config.hardest is not None:
        difficulty = (classes + box).detach().masked_fill(~sample.valid, -1.0)
        hardest = difficulty.topk(min(config.hardest, difficulty.shape[1]), dim=1).indices
        learns = torch.zeros_like(sample.valid).scatter(1, hardest, True) & sample.valid
    count = learns.sum()
    return {"loss_class": global_mean((classes * learns).sum(), count), "loss_box": global_mean((box * learns).sum(), count)}


def mask_loss(
    mask_logits: Tensor, rows: Tensor, sample: RoISample, targets: Sequence[Target], geometry: Geometry = CONTINUOUS
) -> Tensor:
    """Binary cross-entropy of the mask of each positive's own class, averaged over cells and positives (Mask R-CNN, section 3).

    ``mask_logits`` (R, C, M, M) belong to ``rows`` of the flattened sample.
    """
    num_classes, size = mask_logits.shape[1], mask_logits.shape[-1]
    labels = sample.labels.flatten()[rows]
    positive = (labels >= 0) & (labels < num_classes)
    truth = mask_logits.new_zeros(len(rows), size, size, dtype=torch.float32)
    if any(len(target.labels) for target in targets):
        masks, instances = _all_masks(targets), _instances_of(rows, sample, targets)
        rois = sample.boxes.flatten(0, 1)[rows] - sample.boxes.new_tensor(geometry.last_pixel)
        truth = mask_targets(masks.bitmaps, masks.boxes, rois, instances, size)
        truth = (truth >= 0.5).float() if geometry.binary_masks else truth
        positive &= (masks.bitmaps.flatten(1).amax(dim=1) > 0)[instances]  # an instance that came without a mask teaches none
    own_class = labels.clamp(0, num_classes - 1)
    logits = mask_logits[torch.arange(len(rows), device=rows.device), own_class].float()
    cells = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=(1, 2))
    return global_mean((cells * positive).sum(), positive.sum())


def keypoint_loss(
    keypoint_logits: Tensor,
    rows: Tensor,
    sample: RoISample,
    targets: Sequence[Target],
    num_classes: int,
    geometry: Geometry = CONTINUOUS,
) -> Tensor:
    """Cross-entropy over the cells of each heatmap, averaged over the labelled keypoints inside their RoI (Mask R-CNN, section 5).

    ``keypoint_logits`` (R, J, S, S) belong to ``rows`` of the flattened sample.
    """
    size = keypoint_logits.shape[-1]
    labels = sample.labels.flatten()[rows]
    positive = (labels >= 0) & (labels < num_classes)
    cells = torch.zeros(keypoint_logits.shape[:2], dtype=torch.int64, device=rows.device)
    learns = torch.zeros_like(cells, dtype=torch.bool)
    if any(len(target.labels) for target in targets):
        keypoints = torch.cat([target.keypoints for target in targets if target.keypoints is not None])
        points = keypoints[_instances_of(rows, sample, targets)]
        shift = geometry.keypoint_shift * sample.scales[rows // sample.boxes.shape[1]]
        points = torch.cat([points[..., :2] - shift[:, None], points[..., 2:]], dim=-1)
        rois = sample.boxes.flatten(0, 1)[rows] - sample.boxes.new_tensor(geometry.last_pixel)
        cells, learns = keypoint_targets(points, rois, size)
        learns &= positive[:, None]
    losses = F.cross_entropy(keypoint_logits.float().flatten(0, 1).flatten(1), cells.flatten(), reduction="none")
    return global_mean((losses * learns.flatten()).sum(), learns.sum())


# ------------------------------------------------------------------------------------------------------- after the network


@torch.no_grad()
def candidates_of(
    proposals: Proposals,
    class_logits: Tensor,
    box_deltas: Tensor,
    batch: Batch,
    box_weights: Sequence[float],
    test: TestConfig,
    geometry: Geometry = CONTINUOUS,
) -> Candidates:
    """Every class's box of every proposal, the best `MAX_CANDIDATES` of each image.

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
    return Candidates(boxes, scores, labels, (scores > test.score_threshold) & large)


@torch.no_grad()
def class_boxes(
    proposals: Proposals,
    class_logits: Tensor,
    box_deltas: Tensor,
    batch: Batch,
    box_weights: Sequence[float],
    geometry: Geometry = CONTINUOUS,
) -> tuple[Tensor, Tensor]:
    """What `candidates_of` chooses from: the scores (B, K, C) of all proposals, and their boxes of all classes (B, K, C, 4)."""
    scales = geometry.scales(batch.sizes, batch.original_sizes)[:, None]
    sizes = (batch.sizes[:, None] / scales.flip(-1)).round()
    num_classes = class_logits.shape[2] - 1
    scores = class_logits.softmax(dim=-1)[..., :num_classes] * proposals.valid[..., None]
    rois = geometry.rescale(proposals.boxes, (1 / scales).expand(*proposals.boxes.shape[:2], 2))
    boxes = geometry.clip(decode(box_deltas, rois[:, :, None], box_weights), sizes[:, None])
    return scores, boxes.expand(-1, -1, num_classes, -1)


# -------------------------------------------------------------------------------------------------- regions as rows


def pool_regions(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    rows: Tensor,
    size: int,
    config: RoIConfig,
    geometry: Geometry = CONTINUOUS,
) -> Tensor:
    """What a head reads of ``rows`` of the flattened (B, K, 4) boxes, each from the map of its size -> (R, channels, P, P)."""
    chosen = boxes.flatten(0, 1)[rows]
    pool = roi_pool if config.pooling == "max" else partial(roi_align, sampling_ratio=config.sampling_ratio, aligned=config.aligned)
    return pool_levels(
        pool,
        maps,
        strides,
        assign_levels(chosen, len(maps)),
        chosen - chosen.new_tensor(geometry.last_pixel),
        rows // boxes.shape[1],
        size,
    )


def valid_rows(valid: Tensor, columns: int, multiple: int = 1) -> Tensor:
    """Which entries of a flattened (B, K) to compute: on a CPU, where looking costs nothing, the valid ones, and so many others
    that their number is a multiple; elsewhere the first ``columns`` of each image, so that the host need not wait for it."""
    if valid.device.type == "cpu":
        flat = valid.flatten()
        number = -(-int(flat.sum()) // multiple) * multiple
        return (~flat).to(torch.uint8).argsort(stable=True)[:number]
    return torch.arange(valid.numel(), device=valid.device).view(valid.shape)[:, :columns].flatten()


def scatter_rows(values: Tensor, rows: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of taking ``rows``: (R, ...) -> (B, K, ...), zeros elsewhere."""
    num_images, num_columns = shape
    flat = values.new_zeros(num_images * num_columns, *values.shape[1:]).index_copy(0, rows, values)
    return flat.view(num_images, num_columns, *values.shape[1:])


def _instances_of(rows: Tensor, sample: RoISample, targets: Sequence[Target]) -> Tensor:
    """The instance of each of ``rows``, counted over the images of the batch -> (R,) int64; any instance where it has none."""
    counts = [len(target.labels) for target in targets]
    first = torch.tensor([sum(counts[:index]) for index in range(len(counts))], device=rows.device)
    return (sample.instances + first[:, None]).clamp(max=sum(counts) - 1).flatten()[rows]


def _all_masks(targets: Sequence[Target]) -> InstanceMasks:
    """The masks of all images in one row."""
    masks = [target.masks for target in targets if target.masks is not None]
    if any(target.masks is None and len(target.labels) for target in targets):
        raise UserError(
            "a mask head learns from masks, and this data set has none: set model.mask_head=null or use another data set"
        )
    return InstanceMasks(torch.cat([mask.bitmaps for mask in masks]), torch.cat([mask.boxes for mask in masks]))
