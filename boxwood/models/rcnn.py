"""Fast R-CNN (Girshick, 2015), Faster R-CNN (Ren et al., 2015), Mask and Keypoint R-CNN (He et al., 2017).

    images -> backbone -> maps: a feature pyramid (Lin et al., 2017), or the backbone's last map alone
           -> RPN -> proposals; without an RPN they come with the batch
        training:   proposals + truth -> sampled RoIs -> box head; mask and keypoint heads on the positives -> losses
        inference:  proposals -> box head -> instances (suppressed, the best 100) -> mask and keypoint heads -> detections

Which parts there are makes the algorithm: without ``rpn`` it is Fast R-CNN, with it Faster R-CNN; ``mask_head`` and
``keypoint_head`` make Mask and Keypoint R-CNN of either. Letters: B images, K proposals or sampled RoIs an image, D instances an
image, C classes, R RoIs of the batch in one row, M the side of a mask, J keypoints of an instance, S the side of a heatmap.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.models.backbones import BackboneConfig, ResNetConfig
from boxwood.models.backbones.backbone import freeze_tail
from boxwood.models.detector import ModelConfig, Need, Network
from boxwood.models.fpn import FPNConfig, body_title, build_fpn
from boxwood.models.heads import BoxHeadConfig, KeypointHeadConfig, MaskHeadConfig, RoIHead, RoIHeadConfig, TwoFCHeadConfig
from boxwood.models.inference_config import TestConfig
from boxwood.models.postprocess import Candidates, Instances, distinct_poses, find_keypoints, select_instances
from boxwood.models.rpn import RPN, AnchorSample, Proposals, RPNConfig, RPNOutput, propose, rpn_losses, sample_anchors
from boxwood.models.second_stage import (
    RoIConfig,
    RoISample,
    box_losses,
    candidates_of,
    given_proposals,
    keypoint_loss,
    mask_loss,
    pool_regions,
    sample_rois,
    scatter_rows,
    valid_rows,
)
from boxwood.structures import Batch, Categories, Target

__all__ = ["RCNN", "RCNNConfig", "RCNNOutput"]


class RCNNConfig(ModelConfig):
    """A two-stage detector; with a mask head it is Mask R-CNN, with a keypoint head Keypoint R-CNN, or both."""

    short_kind: ClassVar[str] = "rcnn"

    backbone: BackboneConfig = Field(default_factory=ResNetConfig)
    fpn: FPNConfig | None = Field(default_factory=FPNConfig)
    """None: everything reads the backbone's last map (C4, dilated C5, VGG); ``rpn.anchor_sizes`` then has one level."""
    rpn: RPNConfig | None = Field(default_factory=RPNConfig)
    """None: proposals come with the data (Fast R-CNN)."""
    rois: RoIConfig = Field(default_factory=RoIConfig)
    box_head: BoxHeadConfig = Field(default_factory=TwoFCHeadConfig)
    mask_head: MaskHeadConfig | None = None
    keypoint_head: KeypointHeadConfig | None = None

    @property
    def title(self) -> str:
        heads = [name for name, head in (("Mask", self.mask_head), ("Keypoint", self.keypoint_head)) if head is not None]
        algorithm = " and ".join(heads) if heads else "Fast" if self.rpn is None else "Faster"
        given = " on given proposals" if heads and self.rpn is None else ""
        return f"{algorithm} R-CNN{given}, {body_title(self.backbone, self.fpn)}"

    def needs(self) -> frozenset[Need]:
        parts: dict[Need, bool] = {
            "masks": self.mask_head is not None,
            "keypoints": self.keypoint_head is not None,
            "proposals": self.rpn is None,
        }
        return frozenset(part for part, needed in parts.items() if needed)

    def build(self, categories: Categories, test: TestConfig) -> RCNN:
        return RCNN(self, categories, test)


@dataclass(slots=True)
class RCNNOutput:
    """Everything that the network computes. Training fills the samples, inference fills the instances."""

    proposals: Proposals
    class_logits: Tensor
    """(B, K, C + 1), background last."""
    box_deltas: Tensor
    """(B, K, C, 4); (B, K, 1, 4) where boxes are class-agnostic."""
    rpn: RPNOutput | None = None
    anchor_sample: AnchorSample | None = None
    roi_sample: RoISample | None = None
    positive_rows: Tensor | None = None
    """(R,) int64 into the flattened (B, K) sample: whose masks and keypoints are learnt."""
    mask_logits: Tensor | None = None
    """(R, C, M, M) in training."""
    keypoint_logits: Tensor | None = None
    """(R, J, S, S) in training."""
    candidates: Candidates | None = None
    instances: Instances | None = None


class RCNN(Network):
    """The network; a `boxwood.models.detector.Detector`."""

    def __init__(self, config: RCNNConfig, categories: Categories, test: TestConfig) -> None:
        super().__init__(config, categories, test)
        self.config = config
        num_classes = len(categories)
        self.backbone = config.backbone.build()
        self.fpn = build_fpn(config.fpn, self.backbone.channels, self.backbone.strides)
        self.rpn = None if config.rpn is None else RPN(config.rpn, self.fpn.channels, self.fpn.strides, self.geometry)
        self.box_head, self.box_tail = self._build_head("box_head", config.box_head)
        self.class_logits = nn.Linear(self.box_head.channels, num_classes + 1)
        self.box_deltas = nn.Linear(self.box_head.channels, 4 * (1 if config.rois.class_agnostic else num_classes))
        _initialize(self.class_logits, 0.01)
        _initialize(self.box_deltas, 0.001)
        self.mask_head = self.mask_tail = None
        if config.mask_head is not None:
            self.mask_head, self.mask_tail = self._build_head("mask_head", config.mask_head)
            self.mask_logits = nn.Conv2d(self.mask_head.channels, num_classes, 1)
            # Detectron's variance of 2 / C suits COCO's 80 classes; with a few, the first masks would be certain. Divided by the
            # channels coming in, the logits begin near 1 whatever C.
            _initialize(self.mask_logits, self.mask_head.channels**-0.5)
        self.keypoint_head = self.keypoint_tail = None
        if config.keypoint_head is not None:
            if categories.keypoints is None:
                raise UserError(
                    "a keypoint head learns keypoints, and this data set has none: "
                    "set model.keypoint_head=null or use another data set"
                )
            self.keypoint_head, self.keypoint_tail = self._build_head("keypoint_head", config.keypoint_head)
            self.keypoint_logits = nn.ConvTranspose2d(self.keypoint_head.channels, len(categories.keypoints.names), 4, 2, padding=1)
            nn.init.kaiming_normal_(self.keypoint_logits.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(self.keypoint_logits.bias)  # type: ignore[arg-type]
        if self.backbone.tail_channels is not None:
            heads = (config.box_head, config.mask_head, config.keypoint_head)
            if all(head is None or head.source != "tail" for head in heads):
                freeze_tail(self.backbone)

    def _build_head(self, name: str, config: RoIHeadConfig) -> tuple[RoIHead, nn.Module | None]:
        """A head for what it reads, and the tail that it has for itself."""
        if config.source == "maps":
            return config.build(self.fpn.channels), None
        if self.backbone.tail is None or self.backbone.tail_channels is None or self.config.fpn is not None:
            raise UserError(
                f"model.{name}.source={config.source}: the body has no tail behind the last map; take one that has, such as a "
                "ResNet with last_stage=tail, and model.fpn=null"
            )
        if config.source == self.config.box_head.source == "tail" and config.resolution != self.config.box_head.resolution:
            raise UserError(
                f"model.{name}.resolution={config.resolution}: it shares the tail with the box head, so it must be "
                f"model.box_head.resolution={self.config.box_head.resolution}"
            )
        tail = copy.deepcopy(self.backbone.tail) if config.source == "own_tail" else None
        return config.build(self.backbone.tail_channels), tail

    # -------------------------------------------------------------------------------------------------- the network

    def forward(self, batch: Batch, *, boxes_only: bool = False) -> RCNNOutput:
        """The whole network. A batch with targets samples what to learn from; one without runs through to the instances, with
        ``boxes_only`` without their masks and keypoints."""
        images = self.normalized(batch)
        maps = self.fpn(self.backbone(images))
        rpn = None
        if self.rpn is not None and self.config.rpn is not None:
            rpn = self.rpn(maps)
            proposals = propose(rpn, batch, images.shape[-2:], self.config.rpn, self.geometry)
        else:
            proposals = given_proposals(batch, self.geometry)
        maps = maps[: len(self.fpn.body_strides)]  # the coarsest of a pyramid serves the RPN alone
        if batch.targets is not None:
            return self._learn(maps, rpn, proposals, batch)
        return self._infer(maps, rpn, proposals, batch, boxes_only)

    def _learn(self, maps: list[Tensor], rpn: RPNOutput | None, proposals: Proposals, batch: Batch) -> RCNNOutput:
        sample = sample_rois(proposals, batch, self.config.rois, len(self.categories), self.geometry)
        rows = valid_rows(sample.valid, sample.valid.shape[1])
        features = self._features(maps, sample.boxes, rows, self.config.box_head, self.box_tail)
        output = RCNNOutput(proposals, *self._boxes(features, rows, sample.valid), rpn, roi_sample=sample)
        if rpn is not None and self.config.rpn is not None:
            output.anchor_sample = sample_anchors(rpn, batch, self.config.rpn, self.geometry)
        if self.mask_head is not None or self.keypoint_head is not None:
            # Positives stand first, and no image has more than its share of them.
            most = int(self.config.rois.samples_per_image * self.config.rois.positive_fraction)
            positive = sample.valid & (sample.labels < len(self.categories))
            positive[:, most:] = False
            # Convolutions are prepared anew for every number of rows; so there are few.
            output.positive_rows = valid_rows(positive, most, multiple=16)
            shared = None
            if self.config.box_head.source == "tail":  # what it made of a region for the box head is not computed again
                places = torch.zeros_like(positive.flatten(), dtype=torch.int64)
                places[rows] = torch.arange(len(rows), device=rows.device)
                shared = features[places[output.positive_rows]]
            output.mask_logits = self._mask_logits(maps, sample.boxes, output.positive_rows, shared)
            output.keypoint_logits = self._keypoint_logits(maps, sample.boxes, output.positive_rows, shared)
        return output

    def _infer(self, maps: list[Tensor], rpn: RPNOutput | None, proposals: Proposals, batch: Batch, boxes_only: bool) -> RCNNOutput:
        rows = valid_rows(proposals.valid, proposals.valid.shape[1])
        features = self._features(maps, proposals.boxes, rows, self.config.box_head, self.box_tail)
        class_logits, box_deltas = self._boxes(features, rows, proposals.valid)
        weights = self.config.rois.box_weights
        candidates = candidates_of(proposals, class_logits, box_deltas, batch, weights, self.test, self.geometry)
        instances = select_instances(candidates, batch, self.test, self.geometry)
        output = RCNNOutput(proposals, class_logits, box_deltas, rpn, candidates=candidates, instances=instances)
        if boxes_only:
            return output
        rows = valid_rows(instances.valid, instances.valid.shape[1])
        masks = self._mask_logits(maps, instances.boxes, rows)
        if masks is not None:
            own_class = instances.labels.flatten()[rows]
            probabilities = masks[torch.arange(len(rows), device=rows.device), own_class].float().sigmoid()
            instances.masks = scatter_rows(probabilities, rows, instances.valid.shape)
        heatmaps = self._keypoint_logits(maps, instances.boxes, rows)
        if heatmaps is not None:
            keypoints = find_keypoints(heatmaps.float(), rows, instances, batch, self.geometry)
            instances.keypoints = scatter_rows(keypoints, rows, instances.valid.shape)
            instances.valid = distinct_poses(instances, self.categories, self.test)
        return output

    def _features(
        self,
        maps: list[Tensor],
        boxes: Tensor,
        rows: Tensor,
        head: RoIHeadConfig,
        own_tail: nn.Module | None,
        shared: Tensor | None = None,
    ) -> Tensor:
        """What a head reads of ``rows`` of the flattened (B, K, 4) boxes -> (R, channels, P, P).

        ``shared`` is what the body's tail has already made of these rows.
        """
        if head.source == "tail" and shared is not None:
            return shared
        pooled = pool_regions(maps, self.fpn.body_strides, boxes, rows, head.resolution, self.config.rois, self.geometry)
        if head.source == "maps":
            return pooled
        tail = self.backbone.tail if own_tail is None else own_tail
        assert tail is not None
        features: Tensor = tail(pooled)
        return features

    def _boxes(self, features: Tensor, rows: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Features of ``rows`` -> class logits (B, K, C + 1) and deltas (B, K, C or 1, 4); zeros for other rows."""
        hidden = self.box_head(features)
        class_logits = scatter_rows(self.class_logits(hidden).float(), rows, valid.shape)
        box_deltas = scatter_rows(self.box_deltas(hidden).float(), rows, valid.shape)
        return class_logits, box_deltas.view(*valid.shape, -1, 4)

    def _mask_logits(self, maps: list[Tensor], boxes: Tensor, rows: Tensor, shared: Tensor | None = None) -> Tensor | None:
        """The masks of all classes for ``rows`` of the flattened (B, K, 4) boxes -> (R, C, M, M); None without a mask head."""
        head = self.config.mask_head
        if self.mask_head is None or head is None:
            return None
        features = self._features(maps, boxes, rows, head, self.mask_tail, shared)
        logits: Tensor = self.mask_logits(self.mask_head(features))
        return logits

    def _keypoint_logits(self, maps: list[Tensor], boxes: Tensor, rows: Tensor, shared: Tensor | None = None) -> Tensor | None:
        """The heatmaps of all keypoints -> (R, J, S, S); None without a keypoint head. The deconvolution's output is enlarged
        twice more (Mask R-CNN, section 5)."""
        head = self.config.keypoint_head
        if self.keypoint_head is None or head is None:
            return None
        features = self._features(maps, boxes, rows, head, self.keypoint_tail, shared)
        coarse = self.keypoint_logits(self.keypoint_head(features))
        return self.geometry.enlarge(coarse)

    def heads_in(self, batch: Batch, boxes: Tensor, *, masks: bool, keypoints: bool) -> tuple[Tensor | None, Tensor | None]:
        """Mask (D, C, M, M) and keypoint logits (D, J, S, S), where asked for, in ``boxes`` (D, 4) of ``batch``'s one image."""
        maps = self.fpn(self.backbone(self.normalized(batch)))[: len(self.fpn.body_strides)]
        rows = torch.arange(len(boxes), device=boxes.device)
        mask_logits = self._mask_logits(maps, boxes[None], rows) if masks else None
        return mask_logits, self._keypoint_logits(maps, boxes[None], rows) if keypoints else None

    # ------------------------------------------------------------------------------------------------- the objective

    def losses(self, output: RCNNOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The multi-task loss: L_rpn + L_cls + L_box + L_mask + L_keypoint (Mask R-CNN, sections 3 and 5)."""
        sample, rows = output.roi_sample, output.positive_rows
        assert sample is not None, "losses need a batch with targets"
        losses: dict[str, Tensor] = {}
        if output.rpn is not None and output.anchor_sample is not None and self.config.rpn is not None:
            losses |= rpn_losses(output.rpn, output.anchor_sample, self.config.rpn, self.geometry)
        losses |= box_losses(output.class_logits, output.box_deltas, sample, self.config.rois)
        if rows is not None and output.mask_logits is not None:
            losses["loss_mask"] = mask_loss(output.mask_logits, rows, sample, targets, self.geometry)
        if rows is not None and output.keypoint_logits is not None:
            losses["loss_keypoint"] = keypoint_loss(
                output.keypoint_logits, rows, sample, targets, len(self.categories), self.geometry
            )
        return losses


# ------------------------------------------------------------------------------------------------------------ internals


def _initialize(layer: nn.Linear | nn.Conv2d, std: float) -> None:
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has a bias
