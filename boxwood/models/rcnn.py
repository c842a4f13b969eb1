"""Fast R-CNN (Girshick, 2015), Faster R-CNN (Ren et al., 2015), Mask and Keypoint R-CNN (He et al., 2017).

    images -> backbone -> maps: a feature pyramid (Lin et al., 2017), or the backbone's last map alone
           -> RPN -> proposals; without an RPN they come with the batch
        training:   proposals + ground truth -> sampled RoIs -> box head; the tasks' heads on the positives -> losses
        inference:  proposals -> box head -> instances (NMS, the best 100) -> the tasks' heads -> detections

Which parts there are makes the algorithm: without ``rpn`` it is Fast R-CNN, with it Faster R-CNN; ``mask_head`` and
``keypoint_head`` make Mask and Keypoint R-CNN of either, and ``tasks`` takes more instance tasks (`boxwood.models.tasks`).
Letters: B images, K proposals or sampled RoIs an image, D instances an image, C classes, R RoIs of the batch in one row.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.models.backbones.backbone import freeze_tail
from boxwood.models.config import RCNNConfig, with_training_rules
from boxwood.models.detector import Network
from boxwood.models.fpn import build_fpn
from boxwood.models.ground_truth import ground_truth_of
from boxwood.models.heads import RoIHead, RoIHeadConfig
from boxwood.models.inference_config import TestConfig
from boxwood.models.postprocess import Candidates, Instances, select_instances, to_detections
from boxwood.models.rpn import RPN, AnchorSample, Proposals, RPNOutput, propose, rpn_losses, sample_anchors
from boxwood.models.second_stage import (
    RoISample,
    box_losses,
    box_rows,
    candidates_of,
    given_proposals,
    pool_regions,
    sample_rois,
    scatter_rows,
    valid_rows,
)
from boxwood.models.tasks import InstanceTask
from boxwood.structures import Batch, Categories, Detections, Target

__all__ = ["RCNN", "RCNNOutput"]


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
    task_rows: dict[str, Tensor] = field(default_factory=dict)
    """(R,) int64 of each task, by its name, into the flattened (B, K) sample: the RoIs that it is trained on."""
    task_logits: dict[str, Tensor] = field(default_factory=dict)
    """(R, ...) of each task, by its name, in training: ``masks`` (R, C, M, M), ``keypoints`` (R, J, S, S)."""
    candidates: Candidates | None = None
    instances: Instances | None = None


class RCNN(Network):
    """The network; a `boxwood.models.detector.Detector`."""

    def __init__(self, config: RCNNConfig, categories: Categories, test: TestConfig) -> None:
        super().__init__(config, categories, test)
        self.config = config = with_training_rules(config)
        num_classes = len(categories)
        self.backbone = config.backbone.build()
        self.fpn = build_fpn(config.fpn, self.backbone.channels, self.backbone.strides)
        self.rpn = None if config.rpn is None else RPN(config.rpn, self.fpn.channels, self.fpn.strides, self.geometry)
        self.box_head, self.box_tail = self.build_head("box_head", config.box_head)
        self.class_logits = nn.Linear(self.box_head.channels, num_classes + 1)
        self.box_deltas = nn.Linear(self.box_head.channels, 4 * (1 if config.rois.class_agnostic else num_classes))
        _initialize(self.class_logits, 0.01)
        _initialize(self.box_deltas, 0.001)
        self.tasks = config.all_tasks()
        for task in self.tasks:
            head, tail = self.build_head(f"{task.prefix}_head", task.head)
            # In this order: an optimizer's state in a checkpoint is by the place of each parameter.
            modules: dict[str, nn.Module] = {f"{task.prefix}_head": head}
            modules |= {} if tail is None else {f"{task.prefix}_tail": tail}
            modules |= task.modules(self, head.channels)
            for name, module in modules.items():
                if hasattr(self, name):
                    raise UserError(f"model.tasks: the network has two modules '{name}'; give each task another prefix")
                self.add_module(name, module)
        heads = (config.box_head, *(task.head for task in self.tasks))
        if self.backbone.tail_channels is not None and all(head.source != "tail" for head in heads):
            freeze_tail(self.backbone)

    def build_head(self, name: str, config: RoIHeadConfig) -> tuple[RoIHead, nn.Module | None]:
        """A head, and the copy of the tail that it alone trains."""
        if config.source == "maps":
            return config.build(self.fpn.channels), None
        if self.backbone.tail is None or self.backbone.tail_channels is None or self.config.fpn is not None:
            raise UserError(
                f"model.{name}.source={config.source}: the backbone has no tail behind the last map; take one that has, such as a "
                "ResNet with last_stage=tail, and model.fpn=null"
            )
        if config.source == self.config.box_head.source == "tail" and config.resolution != self.config.box_head.resolution:
            raise UserError(
                f"model.{name}.resolution={config.resolution}: it shares the tail with the box head, so it must be "
                f"model.box_head.resolution={self.config.box_head.resolution}"
            )
        tail = copy.deepcopy(self.backbone.tail) if config.source == "own_tail" else None
        return config.build(self.backbone.tail_channels), tail

    def fuse(self) -> None:
        for task in self.tasks:
            task.fuse(self)

    # -------------------------------------------------------------------------------------------------- the network

    def forward(self, batch: Batch, *, boxes_only: bool = False) -> RCNNOutput:
        """The whole network. A batch with targets samples the RoIs of the step; one without runs through to the instances, with
        ``boxes_only`` without the tasks."""
        images = self.normalized(batch)
        scales = self.geometry.scales(batch.scaled_sizes, batch.originals)
        maps = self.fpn(self.backbone(images))
        rpn = None
        if self.rpn is not None and self.config.rpn is not None:
            rpn = self.rpn(maps)
            proposals = propose(rpn, batch, images.shape[-2:], self.config.rpn, self.geometry)
        else:
            proposals = given_proposals(batch, scales, self.geometry)
        if batch.targets is not None:
            return self._train(maps, rpn, proposals, batch, scales)
        return self._infer(maps, rpn, proposals, batch, scales, boxes_only)

    def _train(self, maps: list[Tensor], rpn: RPNOutput | None, proposals: Proposals, batch: Batch, scales: Tensor) -> RCNNOutput:
        assert batch.targets is not None
        truth = ground_truth_of(batch.targets)
        sample = sample_rois(proposals, truth, batch, scales, self.config.rois, len(self.categories), self.geometry)
        rows = box_rows(sample.valid, fixed_shapes=self.fixed_shapes)
        features = self._features(maps, sample.boxes, rows, self.config.box_head, self.box_tail)
        output = RCNNOutput(proposals, *self._boxes(features, rows, sample.valid), rpn, roi_sample=sample)
        if self.rpn is not None and rpn is not None and self.config.rpn is not None:
            output.anchor_sample = sample_anchors(rpn, truth, batch, scales, self.config.rpn, self.geometry)
            output.rpn = self.rpn.with_graph(maps, rpn, output.anchor_sample.indices)
        if self.tasks:
            # Positives come first, and no image has more than its share of them.
            most = int(self.config.rois.samples_per_image * self.config.rois.positive_fraction)
            first = torch.arange(sample.valid.shape[1], device=rows.device) < most
            positive = sample.valid & (sample.labels < len(self.categories)) & first
            # Convolutions are prepared again for each new number of rows, so there are few such numbers.
            positive_rows = valid_rows(positive, most, multiple=16, fixed_shapes=self.fixed_shapes)
            for task in self.tasks:
                learns = None if self.fixed_shapes else task.learns(self, sample, batch.targets)
                task_rows = positive_rows if learns is None else valid_rows(positive & learns, most, multiple=16)
                shared = None
                if self.config.box_head.source == "tail":  # the tail's features of these rows are not computed again
                    shared = features[torch.searchsorted(rows, task_rows).clamp(max=rows.shape[0] - 1)]
                output.task_rows[task.name] = task_rows
                output.task_logits[task.name] = self.task_logits(task, maps, sample.boxes, task_rows, shared)
        return output

    def _infer(
        self, maps: list[Tensor], rpn: RPNOutput | None, proposals: Proposals, batch: Batch, scales: Tensor, boxes_only: bool
    ) -> RCNNOutput:
        rows = box_rows(proposals.valid, fixed_shapes=self.fixed_shapes)
        features = self._features(maps, proposals.boxes, rows, self.config.box_head, self.box_tail)
        class_logits, box_deltas = self._boxes(features, rows, proposals.valid)
        weights = self.config.rois.box_weights
        candidates = candidates_of(proposals, class_logits, box_deltas, batch, scales, weights, self.test, self.geometry)
        instances = select_instances(candidates, scales, self.test, self.geometry)
        output = RCNNOutput(proposals, class_logits, box_deltas, rpn, candidates=candidates, instances=instances)
        if boxes_only or not self.tasks:
            return output
        if not self.fixed_shapes:
            instances.counts = instances.valid.sum(dim=1).tolist()
        count = None if instances.counts is None else sum(instances.counts)
        rows = valid_rows(instances.valid, instances.valid.shape[1], fixed_shapes=self.fixed_shapes, count=count)
        for task in self.tasks:
            logits = self.task_logits(task, maps, instances.boxes, rows)
            values = task.decode(self, task.values(self, logits, instances.labels.flatten()[rows]), rows, instances, batch)
            instances.fields[task.name] = scatter_rows(values, rows, instances.valid.shape)
        for task in self.tasks:
            instances.keep(task.survivors(self, instances))
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
        """The features that a head reads of ``rows`` of the flattened (B, K, 4) boxes -> (R, channels, P, P).

        ``shared`` are the backbone's tail's features of these rows, where they are computed already.
        """
        if head.source == "tail" and shared is not None:
            return shared
        strides, fixed = self.fpn.backbone_strides[: len(maps)], self.fixed_shapes
        maps = maps[: len(strides)]  # the coarsest of a pyramid serves the RPN alone
        pooled = pool_regions(maps, strides, boxes, rows, head.resolution, self.config.rois, self.geometry, fixed_shapes=fixed)
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

    def task_logits(
        self, task: InstanceTask, maps: list[Tensor], boxes: Tensor, rows: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        """A task's logits for ``rows`` of the flattened (B, K, 4) boxes -> (R, ...)."""
        tail = self._modules.get(f"{task.prefix}_tail")
        maps = [decoder(maps)] if (decoder := self._modules.get(f"{task.prefix}_decoder")) else maps
        return task.logits(self, self._features(maps, boxes, rows, task.head, tail, shared))

    def task_values(self, task: InstanceTask, batch: Batch, boxes: Tensor, labels: Tensor) -> Tensor:
        """A task's values (D, ...) in ``boxes`` (D, 4) with ``labels`` (D,) of ``batch``'s one image."""
        maps = self.fpn(self.backbone(self.normalized(batch)))
        rows = torch.arange(len(boxes), device=boxes.device)
        return task.values(self, self.task_logits(task, maps, boxes[None], rows), labels)

    def detections(self, output: RCNNOutput, batch: Batch) -> list[Detections]:
        """The instances of each image with the tasks' fields, scaled to the pixels of the original."""
        assert output.instances is not None, "detections need a batch without targets"
        return self.detections_of(output.instances, batch)

    def detections_of(self, instances: Instances, batch: Batch) -> list[Detections]:
        """`detections` of given instances."""
        factors = (batch.originals / batch.scaled_sizes).flip(-1)[:, None]
        fields = {
            task.name: (task.to_original(instances.fields[task.name], factors), partial(task.field, self))
            for task in self.tasks
            if task.name in instances.fields
        }
        return to_detections(instances, batch, self.categories, self.geometry, fields)

    # ------------------------------------------------------------------------------------------------- the objective

    def losses(self, output: RCNNOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The multi-task loss: L_rpn + L_cls + L_box + L_mask + L_keypoint (Mask R-CNN, sections 3 and 5)."""
        sample = output.roi_sample
        assert sample is not None, "losses need a batch with targets"
        losses: dict[str, Tensor] = {}
        if output.rpn is not None and output.anchor_sample is not None and self.config.rpn is not None:
            losses |= rpn_losses(output.rpn, output.anchor_sample, self.config.rpn)
        losses |= box_losses(output.class_logits, output.box_deltas, sample, self.config.rois)
        for task in self.tasks:
            loss = task.loss(self, output.task_logits[task.name], output.task_rows[task.name], sample, targets)
            losses |= loss if isinstance(loss, dict) else {f"loss_{task.prefix}": loss}
        return losses


# ------------------------------------------------------------------------------------------------------------ internals


def _initialize(layer: nn.Linear, std: float) -> None:
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
