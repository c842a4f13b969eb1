"""RetinaNet (Lin et al., Focal Loss for Dense Object Detection, 2017): one stage that classifies every anchor.

    images -> backbone -> FPN (P3 .. P7) -> class tower and box tower, shared by all levels -> logits and deltas of all anchors
        training:   anchors matched to the truth -> focal loss over all of them, box loss over the positives
        inference:  the best (anchor, class) pairs of each level -> instances (suppressed, the best 100) -> detections

Letters: B images, A anchors over all levels and cells, C classes, D instances an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwood.models.anchors import anchor_cells
from boxwood.models.backbones.backbone import ConvNorm, conv_relu, freeze_tail, make_norm
from boxwood.models.config import RetinaNetConfig, RetinaNetHeadConfig, with_training_rules
from boxwood.models.detector import Network
from boxwood.models.fpn import FPN
from boxwood.models.ground_truth import GroundTruth, ground_truth_of
from boxwood.models.inference_config import TestConfig
from boxwood.models.postprocess import Candidates, Instances, select_instances
from boxwood.models.second_stage import scatter_rows, valid_rows
from boxwood.ops.anchors import anchor_grid, centred_inside
from boxwood.ops.boxes import decode, encode, giou, ioa
from boxwood.ops.geometry import CONTINUOUS, Geometry
from boxwood.ops.losses import focal, global_mean, smooth_l1
from boxwood.ops.matching import BACKGROUND, IGNORED, match_boxes
from boxwood.ops.patches import convolve_patches, patches_around, relu_stack_on_patches
from boxwood.structures import Batch, Categories, Target

__all__ = ["RetinaNet", "RetinaNetOutput"]

MOST_PATCHES = 0.5
"""Of the cells that the box branch has, in training: so many in patches cost what all cost at once."""


@dataclass(slots=True)
class RetinaNetOutput:
    """The outputs for every anchor; inference fills the instances."""

    class_logits: tuple[Tensor, ...]
    """(B, A_l, C) a level, before the sigmoid: each class is independent of the others. They are not joined, being the largest
    tensors that are computed."""
    box_deltas: tuple[Tensor, ...]
    """(B, A_l, 4) a level; in training 0 for anchors in whose cell none is positive, which have no loss."""
    anchors: tuple[Tensor, ...]
    """(A_l, 4) xyxy a level, pixels of the network's input, finest level first."""
    sizes: Tensor
    """(B, 2) height and width of the images without padding, `Batch.scaled_sizes`."""
    scales: Tensor
    """(B, 2) for x and y, as `boxwood.ops.geometry.Geometry.scales` gives them."""
    candidates: Candidates | None = None
    instances: Instances | None = None
    assigned: tuple[Tensor, Tensor, Tensor] | None = None
    """In training the targets of the anchors, as `assign` returns them."""


class RetinaNet(Network):
    """The network; a `boxwood.models.detector.Detector`."""

    cells: Tensor

    def __init__(self, config: RetinaNetConfig, categories: Categories, test: TestConfig) -> None:
        super().__init__(config, categories, test)
        self.config = config = with_training_rules(config)
        head, width = config.head, config.fpn.channels
        self.backbone = config.backbone.build()
        freeze_tail(self.backbone)
        self.skipped = sum(stride < 8 for stride in self.backbone.strides)
        self.fpn = FPN(config.fpn, self.backbone.channels[self.skipped :], self.backbone.strides[self.skipped :])
        cells = anchor_cells("model.head.anchor_sizes", head, self.fpn.strides, self.geometry)
        self.register_buffer("cells", cells, persistent=False)
        per_cell = self.cells.shape[1]
        self.class_tower = _tower(head, width)
        self.box_tower = self.class_tower if head.shared_tower else _tower(head, width)
        self.class_logits = _convolution(width, per_cell * len(categories), bias=-math.log((1 - head.prior) / head.prior))
        self.box_deltas = _convolution(width, per_cell * 4)

    def forward(self, batch: Batch) -> RetinaNetOutput:
        """The whole network. A batch without targets runs through to the instances."""
        images = self.normalized(batch)
        maps = self.fpn(self.backbone(images)[self.skipped :])
        num_images, num_classes, head = images.shape[0], len(self.categories), self.config.head
        anchors = tuple(
            anchor_grid(cell, features.shape[-2], features.shape[-1], stride, head.anchor_offset)
            for features, cell, stride in zip(maps, self.cells, self.fpn.strides, strict=True)
        )
        scales = self.geometry.scales(batch.scaled_sizes, batch.originals)
        output = RetinaNetOutput((), (), anchors, batch.scaled_sizes, scales)
        box_cells = None
        if batch.targets is not None:
            output.assigned = self._assign(output, batch.targets)
            box_cells = self._cells_with_boxes(output.assigned[0])
        logits, deltas = [], []
        for features in maps:
            hidden = self.class_tower(features)
            # Channels last, so that what belongs to one anchor lies together: (B, H, W, anchors of a cell, C).
            logits.append(self.class_logits(hidden).permute(0, 2, 3, 1).reshape(num_images, -1, num_classes).float())
            if box_cells is None:
                hidden = hidden if head.shared_tower else self.box_tower(features)
                deltas.append(self.box_deltas(hidden).permute(0, 2, 3, 1).reshape(num_images, -1, 4).float())
        output.class_logits = tuple(logits)
        output.box_deltas = tuple(deltas) if box_cells is None else self._box_deltas_at(box_cells, maps)
        if batch.targets is None:
            output.candidates = candidates_of(output, self.config.head, self.test, self.geometry)
            output.instances = select_instances(output.candidates, scales, self.test, self.geometry)
        return output

    def losses(self, output: RetinaNetOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Focal loss of all anchors and classes, and the box loss of the positives, both over the number of positives (section
        4.1)."""
        head, num_classes, anchors = self.config.head, len(self.categories), torch.cat(output.anchors)
        class_logits, box_deltas = torch.cat(output.class_logits, dim=1), torch.cat(output.box_deltas, dim=1)
        labels, boxes, count = self._assign(output, targets) if output.assigned is None else output.assigned
        positive = (labels >= 0) & (labels < num_classes)
        is_class = labels[..., None] == torch.arange(num_classes, device=labels.device)
        classes = focal(class_logits, is_class, head.focal_alpha, head.focal_gamma) * (labels >= 0)[..., None]
        if head.box_loss == "giou":
            box = 1 - giou(decode(box_deltas, anchors), boxes)
        else:
            box = smooth_l1(box_deltas, encode(boxes, anchors), head.smooth_l1_beta).sum(dim=-1)
        unused = 0 * class_logits.detach().sum()  # NaN where a logit is infinite, which the loss itself may take for certainty
        return {"loss_class": global_mean(classes.sum(), count) + unused, "loss_box": global_mean((box * positive).sum(), count)}

    def _assign(self, output: RetinaNetOutput, targets: Sequence[Target]) -> tuple[Tensor, Tensor, Tensor]:
        anchors, truth = torch.cat(output.anchors), ground_truth_of(targets)
        assigned: tuple[Tensor, Tensor, Tensor] = assign(
            anchors, truth, output.sizes, output.scales, self.config.head, len(self.categories), self.geometry
        )
        return assigned

    def _cells_with_boxes(self, labels: Tensor) -> Tensor | None:
        """The cells that have a positive anchor, of the flattened (B, cells of all levels) -> (R,) int64; the box loss reads no
        others. None where boxes are computed everywhere: where that costs less, for layers that are more than a convolution, and
        with fixed shapes."""
        head = self.config.head
        if self.fixed_shapes or head.shared_tower or head.norm is not None:
            return None
        positive = ((labels >= 0) & (labels < len(self.categories))).view(len(labels), -1, self.cells.shape[1]).any(dim=2)
        rows = valid_rows(positive, positive.shape[1], multiple=16, at_least=1)
        reach = head.convs + 1
        patch = sum((2 * step + 1) ** 2 for step in range(reach))  # cells that are computed for one
        return rows if len(rows) * patch < MOST_PATCHES * positive.numel() * reach else None

    def _box_deltas_at(self, rows: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """`RetinaNetOutput.box_deltas`, computed for the anchors of the cells ``rows``, elsewhere 0."""
        lengths = [features.shape[-2] * features.shape[-1] for features in maps]
        num_cells = sum(lengths)
        patches, inside = patches_around(maps, rows // num_cells, rows % num_cells, reach=self.config.head.convs + 1)
        hidden = relu_stack_on_patches(self.box_tower, patches, inside)
        layer = self.box_deltas
        deltas = convolve_patches(hidden, layer.get_parameter("weight"), layer.get_parameter("bias")).flatten(1).float()
        per_cell = self.cells.shape[1]
        all_deltas = scatter_rows(deltas, rows, (len(maps[0]), num_cells)).view(len(maps[0]), -1, 4)
        return torch.split(all_deltas, [length * per_cell for length in lengths], dim=1)


# -------------------------------------------------------------------------------------------------- stages as functions


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def assign(
    anchors: Tensor,
    truth: GroundTruth,
    sizes: Tensor,
    scales: Tensor,
    config: RetinaNetHeadConfig,
    num_classes: int,
    geometry: Geometry = CONTINUOUS,
) -> tuple[Tensor, Tensor, Tensor]:
    """The target of each anchor (section 4, anchors).

    ``anchors`` (A, 4), ``sizes`` (B, 2) height and width of the images, ``scales`` (B, 2) of ``RetinaNetOutput.scales`` -> labels
    (B, A) int64: the class, ``num_classes`` for background, -1 where the anchor is not used (IoU between the thresholds, the
    padding, crowd regions); the box that it regresses (B, A, 4), the anchor itself where there is none; and the number by which the
    losses are divided."""
    instance_boxes = geometry.from_data(truth.boxes, scales[:, None]) * truth.exists[..., None]
    matched, best = match_boxes(instance_boxes, anchors, config.foreground_iou, config.background_iou, allow_low_quality=True)
    if config.ignore_crowd_and_padding is not False:
        matched = torch.where(centred_inside(anchors, sizes), matched, IGNORED)
        if truth.ignore.shape[1]:
            in_crowd = ioa(anchors, truth.ignore).amax(dim=2) >= 0.5
            matched = torch.where(in_crowd & (matched == BACKGROUND), IGNORED, matched)
    count = (matched >= 0).sum()
    if config.loss_normalizer == "positives_plus_one":
        count = count + len(matched)
    if config.low_quality_matches is False:
        matched = torch.where(best < config.background_iou, BACKGROUND, matched)
    positive, instances = matched >= 0, matched.clamp(min=0)
    others = torch.full_like(matched, -1).masked_fill(matched == BACKGROUND, num_classes)
    labels = torch.where(positive, truth.labels.gather(1, instances), others)
    boxes = torch.where(positive[..., None], instance_boxes.gather(1, instances[..., None].expand(-1, -1, 4)), anchors)
    return labels, boxes, count


@torch.no_grad()
def candidates_of(
    output: RetinaNetOutput, config: RetinaNetHeadConfig, test: TestConfig, geometry: Geometry = CONTINUOUS
) -> Candidates:
    """Of each level the best (anchor, class) pairs; those without a finite logit are dropped."""
    num_classes = output.class_logits[0].shape[2]
    scales = output.scales[:, None]
    sizes = (output.sizes[:, None] / scales.flip(-1)).round()
    levels: list[tuple[Tensor, ...]] = []
    for logits, deltas, anchors in zip(output.class_logits, output.box_deltas, output.anchors, strict=True):
        logits = logits.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        # The best k pairs belong to the k anchors whose best class is best, so the others need not be sorted.
        best = logits.amax(dim=2).topk(min(config.test_candidates, anchors.shape[0]), dim=1).indices
        pairs = logits.gather(1, best[..., None].expand(-1, -1, num_classes)).flatten(1)
        logits, pair = pairs.topk(min(config.test_candidates, pairs.shape[1]), dim=1)
        rows = best.gather(1, pair // num_classes)
        levels.append((logits, pair, deltas.gather(1, rows[..., None].expand(-1, -1, 4)), anchors[rows]))
    logits, pair, deltas, anchors = (torch.cat(column, dim=1) for column in zip(*levels, strict=True))
    boxes, scores = decode(deltas, anchors), logits.sigmoid()
    boxes = geometry.clip(geometry.rescale(boxes, (1 / scales).expand(*boxes.shape[:2], 2)), sizes)
    possible = scores > test.score_threshold
    if config.threshold_coarsest_level is False:
        coarsest = levels[-1][0].shape[1]
        possible = torch.cat([possible[:, :-coarsest], scores[:, -coarsest:] > 0], dim=1)
    possible &= (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) > 0
    return Candidates(boxes, scores, pair % num_classes, possible)


# ------------------------------------------------------------------------------------------------------------ internals


class _Tower(nn.Sequential):
    """Convolutions of one width, each with its norm and a ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = conv_relu(layer, x)
        return x


def _tower(config: RetinaNetHeadConfig, width: int) -> _Tower:
    layers: list[nn.Module] = []
    for _ in range(config.convs):
        conv = _convolution(width, width, bias=0.0 if config.norm is None else None)
        layers.append(conv if config.norm is None else ConvNorm(conv, make_norm(config.norm, width)))
    return _Tower(*layers)


def _convolution(channels_in: int, channels_out: int, bias: float | None = 0.0) -> nn.Conv2d:
    conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=bias is not None)
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None and bias is not None:
        nn.init.constant_(conv.bias, bias)
    return conv
