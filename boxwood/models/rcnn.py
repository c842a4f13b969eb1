"""Faster R-CNN (Ren et al., 2015), Mask and Keypoint R-CNN (He et al., 2017) on a feature pyramid (Lin et al., 2017).

    images -> backbone -> FPN -> RPN -> proposals
        training:   proposals + truth -> sampled RoIs -> box head; mask and keypoint heads on the positives -> losses
        inference:  proposals -> box head -> instances (suppressed, the best 100) -> mask and keypoint heads -> detections

Without ``mask_head`` and ``keypoint_head`` it is Faster R-CNN. Letters: B images, K proposals or sampled RoIs an image, D
instances an image, C classes, R RoIs of the batch in one row, M the side of a mask, J keypoints of an instance, S the side of a
heatmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from boxwood.config import Config
from boxwood.errors import UserError
from boxwood.models.backbones import BackboneConfig, ResNetConfig
from boxwood.models.detector import Instances, ModelConfig, TestConfig, normalize_images, to_detections, top_instances
from boxwood.models.fpn import FPN, FPNConfig
from boxwood.models.heads import BoxHeadConfig, KeypointHeadConfig, MaskHeadConfig, TwoFCHeadConfig
from boxwood.models.rpn import (
    RPN,
    AnchorSample,
    Proposals,
    RPNConfig,
    RPNOutput,
    propose,
    rpn_losses,
    sample_anchors,
)
from boxwood.ops.boxes import centred_inside, clip, decode, encode, ioa, iou
from boxwood.ops.keypoints import decode_keypoints, keypoint_targets
from boxwood.ops.losses import global_mean, smooth_l1
from boxwood.ops.masks import mask_targets
from boxwood.ops.matching import BACKGROUND, match, sample_balanced
from boxwood.ops.roi_align import assign_levels, roi_align_levels
from boxwood.structures import Batch, Categories, Detections, InstanceMasks, Target

__all__ = ["RCNN", "RCNNConfig", "RCNNOutput", "RoIConfig", "RoISample"]

MAX_CANDIDATES = 4096
"""The best (RoI, class) pairs of an image that go into the last suppression. It is greedy, so leaving out the rest changes a
result only where fewer than ``detections_per_image`` of so many survive."""


class RoIConfig(Config):
    """Which regions the second stage learns from, and how features are taken from them."""

    samples_per_image: int = 512
    positive_fraction: float = 0.25
    foreground_iou: float = 0.5
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """What dx, dy, dw, dh are multiplied with, so that they vary by about 1."""
    smooth_l1_beta: float = 1.0
    sampling_ratio: int = 2
    """Points a cell and side that RoIAlign averages; 0 takes as many as the cell has map pixels."""
    aligned: bool = True
    """RoIAlign with pixel centres at i + 0.5; torchvision's weights were trained without."""


class RCNNConfig(ModelConfig):
    """A two-stage detector on a pyramid; with a mask head it is Mask R-CNN, with a keypoint head Keypoint R-CNN, or both."""

    short_kind: ClassVar[str] = "rcnn"

    backbone: BackboneConfig = Field(default_factory=ResNetConfig)
    fpn: FPNConfig = Field(default_factory=FPNConfig)
    rpn: RPNConfig = Field(default_factory=RPNConfig)
    rois: RoIConfig = Field(default_factory=RoIConfig)
    box_head: BoxHeadConfig = Field(default_factory=TwoFCHeadConfig)
    mask_head: MaskHeadConfig | None = None
    keypoint_head: KeypointHeadConfig | None = None

    def build(self, categories: Categories, test: TestConfig) -> RCNN:
        return RCNN(self, categories, test)


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


@dataclass(slots=True)
class RCNNOutput:
    """Everything that the network computes. Training fills the samples, inference fills the instances."""

    rpn: RPNOutput
    proposals: Proposals
    class_logits: Tensor
    """(B, K, C + 1), background last."""
    box_deltas: Tensor
    """(B, K, C, 4)."""
    anchor_sample: AnchorSample | None = None
    roi_sample: RoISample | None = None
    positive_rows: Tensor | None = None
    """(R,) int64 into the flattened (B, K) sample: whose masks and keypoints are learnt."""
    mask_logits: Tensor | None = None
    """(R, C, M, M) in training."""
    keypoint_logits: Tensor | None = None
    """(R, J, S, S) in training."""
    instances: Instances | None = None


class RCNN(nn.Module):
    """The network; a `boxwood.models.detector.Detector`."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: RCNNConfig, categories: Categories, test: TestConfig) -> None:
        super().__init__()
        self.config = config
        self.test = test
        self.categories = categories
        num_classes = len(categories)
        self.register_buffer("mean", torch.tensor(config.pixel_mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.pixel_std), persistent=False)
        self.backbone = config.backbone.build()
        self.strides = self.backbone.strides
        channels = config.fpn.channels
        self.fpn = FPN(config.fpn, self.backbone.channels, self.strides)
        self.rpn = RPN(config.rpn, channels, self.fpn.strides)
        self.box_head = config.box_head.build(channels)
        self.class_logits = nn.Linear(self.box_head.channels, num_classes + 1)
        self.box_deltas = nn.Linear(self.box_head.channels, 4 * num_classes)
        _initialize(self.class_logits, 0.01)
        _initialize(self.box_deltas, 0.001)
        self.mask_head = None if config.mask_head is None else config.mask_head.build(channels)
        if self.mask_head is not None:
            self.mask_logits = nn.Conv2d(self.mask_head.channels, num_classes, 1)
            # Detectron's variance of 2 / C suits COCO's 80 classes; with a few, the first masks would be certain. Divided by the
            # channels coming in, the logits begin near 1 whatever C.
            _initialize(self.mask_logits, self.mask_head.channels**-0.5)
        self.keypoint_head = None if config.keypoint_head is None else config.keypoint_head.build(channels)
        if self.keypoint_head is not None:
            if categories.keypoints is None:
                raise UserError(
                    "a keypoint head learns keypoints, and this data set has none: "
                    "set model.keypoint_head=null or use another data set"
                )
            self.keypoint_logits = nn.ConvTranspose2d(self.keypoint_head.channels, len(categories.keypoints.names), 4, 2, padding=1)
            nn.init.kaiming_normal_(self.keypoint_logits.weight, mode="fan_out", nonlinearity="relu")
            _zero_bias(self.keypoint_logits)

    # -------------------------------------------------------------------------------------------------- the network

    def forward(self, batch: Batch) -> RCNNOutput:
        """The whole network. A batch with targets samples what to learn from; one without runs through to the instances."""
        images = normalize_images(batch.images, batch.sizes, self.mean, self.std)
        maps = self.fpn(self.backbone(images))
        rpn = self.rpn(maps)
        proposals = propose(rpn, batch.sizes, self.config.rpn, learning=batch.targets is not None)
        return (self._infer if batch.targets is None else self._learn)(maps, rpn, proposals, batch)

    def _learn(self, maps: list[Tensor], rpn: RPNOutput, proposals: Proposals, batch: Batch) -> RCNNOutput:
        sample = sample_rois(proposals, rpn.anchors, batch, self.config.rois, len(self.categories))
        class_logits, box_deltas = self._boxes(maps, sample.boxes, sample.valid)
        output = RCNNOutput(rpn, proposals, class_logits, box_deltas, sample_anchors(rpn, batch, self.config.rpn), sample)
        if self.mask_head is not None or self.keypoint_head is not None:
            # Positives stand first, and no image has more than its share of them.
            most = int(self.config.rois.samples_per_image * self.config.rois.positive_fraction)
            positive = sample.valid & (sample.labels < len(self.categories))
            positive[:, most:] = False
            # Convolutions are prepared anew for every number of rows; so there are few.
            output.positive_rows = _rows(positive, most, multiple=16)
            output.mask_logits = self._mask_logits(maps, sample.boxes, output.positive_rows)
            output.keypoint_logits = self._keypoint_logits(maps, sample.boxes, output.positive_rows)
        return output

    def _infer(self, maps: list[Tensor], rpn: RPNOutput, proposals: Proposals, batch: Batch) -> RCNNOutput:
        class_logits, box_deltas = self._boxes(maps, proposals.boxes, proposals.valid)
        instances = select_instances(proposals, class_logits, box_deltas, batch.sizes, self.config.rois.box_weights, self.test)
        rows = _rows(instances.valid, instances.valid.shape[1])
        masks = self._mask_logits(maps, instances.boxes, rows)
        if masks is not None:
            own_class = instances.labels.flatten()[rows]
            probabilities = masks[torch.arange(len(rows), device=rows.device), own_class].float().sigmoid()
            instances.masks = _spread(probabilities, rows, instances.valid.shape)
        heatmaps = self._keypoint_logits(maps, instances.boxes, rows)
        if heatmaps is not None:
            keypoints = decode_keypoints(heatmaps.float(), instances.boxes.flatten(0, 1)[rows])
            instances.keypoints = _spread(keypoints, rows, instances.valid.shape)
        return RCNNOutput(rpn, proposals, class_logits, box_deltas, instances=instances)

    def _boxes(self, maps: list[Tensor], boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, 4) regions -> class logits (B, K, C + 1) and deltas (B, K, C, 4); zeros where not valid."""
        rows = _rows(valid, valid.shape[1])
        hidden = self.box_head(self._pool(maps, boxes, rows, self.config.box_head.resolution))
        class_logits = _spread(self.class_logits(hidden).float(), rows, valid.shape)
        box_deltas = _spread(self.box_deltas(hidden).float(), rows, valid.shape)
        return class_logits, box_deltas.view(*valid.shape, -1, 4)

    def _mask_logits(self, maps: list[Tensor], boxes: Tensor, rows: Tensor) -> Tensor | None:
        """The masks of all classes for ``rows`` of the flattened (B, K, 4) boxes -> (R, C, M, M); None without a mask head."""
        if self.mask_head is None or self.config.mask_head is None:
            return None
        logits: Tensor = self.mask_logits(self.mask_head(self._pool(maps, boxes, rows, self.config.mask_head.resolution)))
        return logits

    def _keypoint_logits(self, maps: list[Tensor], boxes: Tensor, rows: Tensor) -> Tensor | None:
        """The heatmaps of all keypoints -> (R, J, S, S); None without a keypoint head. The deconvolution's output is enlarged
        twice more (Mask R-CNN, section 5)."""
        if self.keypoint_head is None or self.config.keypoint_head is None:
            return None
        coarse = self.keypoint_logits(self.keypoint_head(self._pool(maps, boxes, rows, self.config.keypoint_head.resolution)))
        return F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)

    def _pool(self, maps: list[Tensor], boxes: Tensor, rows: Tensor, size: int) -> Tensor:
        """RoIAlign of ``rows`` of the flattened (B, K, 4) boxes, each from the level of its size; the coarsest map serves the RPN
        alone."""
        chosen = boxes.flatten(0, 1)[rows]
        levels = assign_levels(chosen, len(self.strides))
        images = rows // boxes.shape[1]
        rois = self.config.rois
        return roi_align_levels(
            maps[:-1], self.strides, levels, chosen, images, size, sampling_ratio=rois.sampling_ratio, aligned=rois.aligned
        )

    # ------------------------------------------------------------------------------------------------- the objective

    def losses(self, output: RCNNOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The multi-task loss: L_rpn + L_cls + L_box + L_mask + L_keypoint (Mask R-CNN, sections 3 and 5)."""
        assert output.anchor_sample is not None and output.roi_sample is not None, "losses need a batch with targets"
        losses = rpn_losses(output.rpn, output.anchor_sample, self.config.rpn)
        losses |= box_losses(output.class_logits, output.box_deltas, output.roi_sample, self.config.rois.smooth_l1_beta)
        if output.positive_rows is not None and output.mask_logits is not None:
            losses["loss_mask"] = mask_loss(output.mask_logits, output.positive_rows, output.roi_sample, targets)
        if output.positive_rows is not None and output.keypoint_logits is not None:
            losses["loss_keypoint"] = keypoint_loss(
                output.keypoint_logits, output.positive_rows, output.roi_sample, targets, len(self.categories)
            )
        return losses

    # --------------------------------------------------------------------------------------------------- the results

    def detections(self, output: RCNNOutput, batch: Batch) -> list[Detections]:
        """The instances of each image, scaled to the pixels of the original."""
        assert output.instances is not None, "detections need a batch without targets"
        return to_detections(output.instances, batch, self.categories, self.test)


# -------------------------------------------------------------------------------------------------- stages as functions


@torch.no_grad()
def sample_rois(proposals: Proposals, anchors: Tensor, batch: Batch, config: RoIConfig, num_classes: int) -> RoISample:
    """Choose the regions to learn from among proposals and true boxes (Fast R-CNN, section 2.3).

    A proposal's chance hangs on the anchor (of ``anchors``) that it came from, not on its rank: rounding that swaps two ranks
    changes nothing, and neither does padding.
    Negatives that lie mostly in a region to be ignored are not used.
    """
    assert batch.targets is not None
    parts = []
    for index, target in enumerate(batch.targets):
        boxes = torch.cat([proposals.boxes[index], target.boxes])
        exists = torch.cat([proposals.valid[index], torch.ones(len(target.boxes), dtype=torch.bool, device=boxes.device)])
        matched = match(iou(target.boxes, boxes), config.foreground_iou, config.foreground_iou)
        positive, negative = (matched >= 0) & exists, (matched == BACKGROUND) & exists
        if len(target.ignore):
            negative &= ioa(boxes, target.ignore).amax(dim=1) < 0.5
        generator = torch.Generator(boxes.device).manual_seed(batch.seeds[index] + 1)
        of_truth = torch.rand(len(target.boxes), device=boxes.device, generator=generator)
        of_anchors = torch.rand(len(anchors), device=boxes.device, generator=generator)
        places = centred_inside(anchors, batch.sizes[index]).cumsum(0) - 1
        chance = torch.cat([of_anchors[places[proposals.anchors[index]]], of_truth])
        chosen, valid = sample_balanced(positive, negative, config.samples_per_image, config.positive_fraction, chance)
        learns = positive[chosen] & valid
        instances = matched[chosen].clamp(min=0)
        labels = torch.full_like(chosen, num_classes)
        deltas = boxes.new_zeros(len(chosen), 4)
        if len(target.boxes):
            labels = target.labels[instances].where(learns, labels)
            deltas = encode(target.boxes[instances], boxes[chosen], config.box_weights).where(learns[:, None], deltas)
        labels = labels.masked_fill(~valid, -1)
        missing = config.samples_per_image - len(chosen)
        parts.append(
            (
                F.pad(boxes[chosen], (0, 0, 0, missing)),
                F.pad(valid, (0, missing)),
                F.pad(labels, (0, missing), value=-1),
                F.pad(instances, (0, missing)),
                F.pad(deltas, (0, 0, 0, missing)),
            )
        )
    return RoISample(*(torch.stack(column) for column in zip(*parts, strict=True)))


def box_losses(class_logits: Tensor, box_deltas: Tensor, sample: RoISample, beta: float) -> dict[str, Tensor]:
    """Log loss over classes and smooth L1 of the positives' deltas, both over the number of sampled RoIs (Fast R-CNN, equation 1).

    ``class_logits`` (B, K, C + 1), ``box_deltas`` (B, K, C, 4).
    """
    num_classes = box_deltas.shape[2]
    positive = (sample.labels >= 0) & (sample.labels < num_classes)
    own_class = sample.labels.clamp(0, num_classes - 1)[..., None, None].expand(-1, -1, 1, 4)
    deltas = box_deltas.gather(2, own_class)[:, :, 0]
    count = sample.valid.sum()
    classes = F.cross_entropy(class_logits.flatten(0, 1), sample.labels.flatten(), ignore_index=-1, reduction="sum")
    box = smooth_l1(deltas, sample.deltas, beta).sum(dim=-1) * positive
    return {"loss_class": global_mean(classes, count), "loss_box": global_mean(box.sum(), count)}


def mask_loss(mask_logits: Tensor, rows: Tensor, sample: RoISample, targets: Sequence[Target]) -> Tensor:
    """Binary cross-entropy of the mask of each positive's own class, averaged over cells and positives (Mask R-CNN, section 3).

    ``mask_logits`` (R, C, M, M) belong to ``rows`` of the flattened sample.
    """
    num_classes, size = mask_logits.shape[1], mask_logits.shape[-1]
    labels = sample.labels.flatten()[rows]
    positive = (labels >= 0) & (labels < num_classes)
    truth = mask_logits.new_zeros(len(rows), size, size, dtype=torch.float32)
    if any(len(target.labels) for target in targets):
        masks, instances = _all_masks(targets), _instances_of(rows, sample, targets)
        truth = mask_targets(masks.bitmaps, masks.boxes, sample.boxes.flatten(0, 1)[rows], instances, size)
        positive &= (masks.bitmaps.flatten(1).amax(dim=1) > 0)[instances]  # an instance that came without a mask teaches none
    own_class = labels.clamp(0, num_classes - 1)
    logits = mask_logits[torch.arange(len(rows), device=rows.device), own_class].float()
    cells = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=(1, 2))
    return global_mean((cells * positive).sum(), positive.sum())


def keypoint_loss(keypoint_logits: Tensor, rows: Tensor, sample: RoISample, targets: Sequence[Target], num_classes: int) -> Tensor:
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
        instances = _instances_of(rows, sample, targets)
        cells, learns = keypoint_targets(keypoints[instances], sample.boxes.flatten(0, 1)[rows], size)
        learns &= positive[:, None]
    losses = F.cross_entropy(keypoint_logits.float().flatten(0, 1).flatten(1), cells.flatten(), reduction="none")
    return global_mean((losses * learns.flatten()).sum(), learns.sum())


@torch.no_grad()
def select_instances(
    proposals: Proposals, class_logits: Tensor, box_deltas: Tensor, sizes: Tensor, box_weights: Sequence[float], test: TestConfig
) -> Instances:
    """The final boxes: every class's box of every proposal, suppressed a class at a time, the best of all kept.

    ``class_logits`` (B, K, C + 1), ``box_deltas`` (B, K, C, 4), ``sizes`` (B, 2) height and width without padding.
    """
    num_classes = box_deltas.shape[2]
    scores = (class_logits.softmax(dim=-1)[..., :num_classes] * proposals.valid[..., None]).flatten(1)
    scores, pairs = scores.topk(min(MAX_CANDIDATES, scores.shape[1]), dim=1)
    rois = proposals.boxes.gather(1, (pairs // num_classes)[..., None].expand(-1, -1, 4))
    deltas = box_deltas.flatten(1, 2).gather(1, pairs[..., None].expand(-1, -1, 4))
    boxes = clip(decode(deltas, rois, box_weights), sizes[:, None])
    labels = pairs % num_classes
    possible = (scores > test.score_threshold) & ((boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) >= 1e-2)
    return top_instances(boxes, scores, labels, possible, test)


# ------------------------------------------------------------------------------------------------------------ internals


def _rows(valid: Tensor, columns: int, multiple: int = 1) -> Tensor:
    """Which entries of a flattened (B, K) to compute: on a CPU, where looking costs nothing, the valid ones, and so many others
    that their number is a multiple; elsewhere the first ``columns`` of each image, so that the host need not wait for it."""
    if valid.device.type == "cpu":
        flat = valid.flatten()
        number = -(-int(flat.sum()) // multiple) * multiple
        return (~flat).to(torch.uint8).argsort(stable=True)[:number]
    return torch.arange(valid.numel(), device=valid.device).view(valid.shape)[:, :columns].flatten()


def _spread(values: Tensor, rows: Tensor, shape: Sequence[int]) -> Tensor:
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


def _initialize(layer: nn.Linear | nn.Conv2d, std: float) -> None:
    nn.init.normal_(layer.weight, std=std)
    _zero_bias(layer)


def _zero_bias(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
