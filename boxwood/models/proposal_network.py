"""RPN alone (Ren et al., Faster R-CNN, 2015, section 3.1): a detector of regions that may hold an object of any class.

    images -> backbone -> maps: a feature pyramid, or the backbone's last map -> RPN
        training:   sampled anchors -> losses
        inference:  the best boxes of each map, suppressed -> detections of one class, "object"

Its detections are the proposals that a detector without an RPN learns from (`boxwood.data.proposals`). Letters: B images, K
proposals an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwood.models.backbones.backbone import freeze_tail
from boxwood.models.config import ProposerConfig, with_training_rules
from boxwood.models.detector import Network
from boxwood.models.fpn import build_fpn
from boxwood.models.ground_truth import ground_truth_of
from boxwood.models.inference_config import TestConfig
from boxwood.models.postprocess import Instances, to_detections
from boxwood.models.rpn import RPN, AnchorSample, RPNOutput, propose, rpn_losses, sample_anchors
from boxwood.structures import Batch, Categories, Detections, Target

__all__ = ["Proposer", "ProposerOutput"]

OBJECT = Categories((1,), ("object",))


@dataclass(slots=True)
class ProposerOutput:
    """The outputs for every anchor. Training fills the sample, inference the instances."""

    rpn: RPNOutput
    anchor_sample: AnchorSample | None = None
    instances: Instances | None = None
    """All of label 0; scored by objectness."""


class Proposer(Network):
    """The network; a `boxwood.models.detector.Detector`. It learns from the boxes of the ground truth alone."""

    def __init__(self, config: ProposerConfig, categories: Categories, test: TestConfig) -> None:
        super().__init__(config, categories, test)
        self.config = config = with_training_rules(config)
        self.backbone = config.backbone.build()
        freeze_tail(self.backbone)
        self.fpn = build_fpn(config.fpn, self.backbone.channels, self.backbone.strides)
        self.rpn = RPN(config.rpn, self.fpn.channels, self.fpn.strides, self.geometry)

    def forward(self, batch: Batch) -> ProposerOutput:
        """The whole network. A batch with targets samples anchors to learn from; one without runs through to the instances."""
        images = self.normalized(batch)
        maps = self.fpn(self.backbone(images))
        rpn = self.rpn(maps)
        if batch.targets is not None:
            scales = self.geometry.scales(batch.scaled_sizes, batch.originals)
            truth = ground_truth_of(batch.targets)
            sample = sample_anchors(rpn, truth, batch, scales, self.config.rpn, self.geometry)
            return ProposerOutput(self.rpn.with_graph(maps, rpn, sample.indices), sample)
        best = propose(rpn, batch, images.shape[-2:], self.config.rpn, self.geometry)
        return ProposerOutput(
            rpn, instances=Instances(best.boxes, best.logits.sigmoid(), torch.zeros_like(best.source_index), best.valid)
        )

    def losses(self, output: ProposerOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Objectness and boxes of the sampled anchors (Faster R-CNN, equation 1)."""
        assert output.anchor_sample is not None, "losses need a batch with targets"
        return rpn_losses(output.rpn, output.anchor_sample, self.config.rpn)

    def detections(self, output: ProposerOutput, batch: Batch) -> list[Detections]:
        """The proposals of each image, best first, scaled to the pixels of the original."""
        assert output.instances is not None, "detections need a batch without targets"
        return to_detections(output.instances, batch, OBJECT, self.geometry)
