"""R-FCN (Dai et al., 2016): a two-stage detector whose second stage is one convolution and a vote.

    images -> backbone -> its last map -> position-sensitive score maps, k x k for each class
                       -> the map before it -> RPN -> proposals; without an RPN they come with the batch
        training:   proposals + truth -> sampled RoIs, pooled from the score maps and averaged -> losses, of the hardest RoIs
        inference:  proposals, pooled and averaged -> instances (suppressed, the best 100) -> detections

For a region only the mean over its cells of the maps is computed. Letters: B images, K proposals or sampled RoIs an
image, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from boxwood.models.backbones.backbone import conv_relu, freeze_tail
from boxwood.models.config import RFCNConfig, with_training_rules
from boxwood.models.detector import Network
from boxwood.models.ground_truth import ground_truth_of
from boxwood.models.inference_config import TestConfig
from boxwood.models.postprocess import Candidates, Instances, select_instances
from boxwood.models.rpn import RPN, AnchorSample, Proposals, RPNOutput, propose, rpn_losses, sample_anchors
from boxwood.models.second_stage import RoISample, box_losses, box_rows, candidates_of, given_proposals, sample_rois, scatter_rows
from boxwood.ops.ps_roi_pool import ps_roi_align, ps_roi_pool
from boxwood.structures import Batch, Categories, Target

__all__ = ["RFCN", "RFCNOutput"]


@dataclass(slots=True)
class RFCNOutput:
    """Everything that the network computes. Training fills the samples, inference fills the instances."""

    proposals: Proposals
    class_logits: Tensor
    """(B, K, C + 1), background last."""
    box_deltas: Tensor
    """(B, K, C, 4); (B, K, 1, 4) where boxes are class-agnostic."""
    rpn: RPNOutput | None = None
    anchor_sample: AnchorSample | None = None
    roi_sample: RoISample | None = None
    candidates: Candidates | None = None
    instances: Instances | None = None


class RFCN(Network):
    """The network; a `boxwood.models.detector.Detector`."""

    def __init__(self, config: RFCNConfig, categories: Categories, test: TestConfig) -> None:
        super().__init__(config, categories, test)
        self.config = config = with_training_rules(config)
        self.backbone = config.backbone.build()
        freeze_tail(self.backbone)
        channels, self.stride = self.backbone.channels[-1], self.backbone.strides[-1]
        self.rpn = (
            None if config.rpn is None else RPN(config.rpn, self.backbone.channels[-2], self.backbone.strides[-2:-1], self.geometry)
        )
        self.reduce = None if config.width is None else nn.Conv2d(channels, config.width, 1)
        cells, boxes = config.grid**2, 1 if config.rois.class_agnostic else len(categories)
        self.class_maps = nn.Conv2d(config.width or channels, (len(categories) + 1) * cells, 1)
        self.box_maps = nn.Conv2d(config.width or channels, 4 * boxes * cells, 1)
        if self.reduce is not None:
            # With Detectron's deviation of 0.01 here too, hardly any gradient passes two such layers: learning begins late.
            nn.init.kaiming_normal_(self.reduce.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(self.reduce.bias)  # type: ignore[arg-type]  # it has a bias
        for layer in (self.class_maps, self.box_maps):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, batch: Batch) -> RFCNOutput:
        """The whole network. A batch with targets samples anchors and RoIs; one without runs through to the instances."""
        images = self.normalized(batch)
        scales = self.geometry.scales(batch.scaled_sizes, batch.originals)
        maps = self.backbone(images)
        rpn = None
        if self.rpn is not None and self.config.rpn is not None:
            rpn = self.rpn(maps[-2:-1])
            proposals = propose(rpn, batch, images.shape[-2:], self.config.rpn, self.geometry)
        else:
            proposals = given_proposals(batch, scales, self.geometry)
        last = maps[-1] if self.reduce is None else conv_relu(self.reduce, maps[-1])
        if batch.targets is None:
            class_logits, box_deltas = self._vote(last, proposals.boxes, proposals.valid)
            weights = self.config.rois.box_weights
            candidates = candidates_of(proposals, class_logits, box_deltas, batch, scales, weights, self.test, self.geometry)
            instances = select_instances(candidates, scales, self.test, self.geometry)
            return RFCNOutput(proposals, class_logits, box_deltas, rpn, candidates=candidates, instances=instances)
        truth = ground_truth_of(batch.targets)
        sample = sample_rois(proposals, truth, batch, scales, self.config.rois, len(self.categories), self.geometry)
        output = RFCNOutput(proposals, *self._vote(last, sample.boxes, sample.valid), rpn, roi_sample=sample)
        if self.rpn is not None and rpn is not None and self.config.rpn is not None:
            output.anchor_sample = sample_anchors(rpn, truth, batch, scales, self.config.rpn, self.geometry)
            output.rpn = self.rpn.with_graph(maps[-2:-1], rpn, output.anchor_sample.indices)
        return output

    def _vote(self, last: Tensor, boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, 4) regions -> class logits (B, K, C + 1) and deltas (B, K, C or 1, 4), each the mean over the k x k cells (section
        2, below equation 1); zeros where not valid."""
        rows = box_rows(valid, fixed_shapes=self.fixed_shapes)
        rois = self.geometry.region(boxes.flatten(0, 1)[rows])
        images = rows // boxes.shape[1]
        pool = ps_roi_align if self.config.interpolate else partial(ps_roi_pool, rounding=self.geometry.map_rounding)
        class_logits, box_deltas = (
            scatter_rows(
                pool(maps.float(), rois, images, self.config.grid, scale=1 / self.stride).mean(dim=(2, 3)), rows, valid.shape
            )
            for maps in (self.class_maps(last), self.box_maps(last))
        )
        return class_logits, box_deltas.view(*valid.shape, -1, 4)

    def losses(self, output: RFCNOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Those of the RPN, and of the RoIs: log loss and smooth L1 (section 2)."""
        assert output.roi_sample is not None, "losses need a batch with targets"
        losses: dict[str, Tensor] = {}
        if output.rpn is not None and output.anchor_sample is not None and self.config.rpn is not None:
            losses |= rpn_losses(output.rpn, output.anchor_sample, self.config.rpn)
        return losses | box_losses(output.class_logits, output.box_deltas, output.roi_sample, self.config.rois)
