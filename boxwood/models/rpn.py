"""Region Proposal Network (Ren et al., Faster R-CNN, 2015, section 3.1; on a pyramid: Lin et al., FPN, 2017, section 4.1).

    maps -> RPN.forward -> RPNOutput -> propose -> Proposals
                               |-> sample_anchors -> AnchorSample -> RPN.with_graph -> rpn_losses

Letters: B images, A anchors over all levels and cells, K proposals an image, S sampled anchors an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.models.anchors import anchor_cells
from boxwood.models.backbones.backbone import conv_relu
from boxwood.models.config import RPNConfig
from boxwood.models.ground_truth import GroundTruth
from boxwood.ops.anchors import anchor_grid, centred_inside
from boxwood.ops.boxes import decode, encode, ioa
from boxwood.ops.geometry import CONTINUOUS, Geometry
from boxwood.ops.losses import global_mean, smooth_l1
from boxwood.ops.matching import BACKGROUND, match_boxes
from boxwood.ops.patches import patches_around, relu_stack_on_patches
from boxwood.ops.sampling import sample_balanced, uniform
from boxwood.structures import Batch

__all__ = ["RPN", "AnchorSample", "Proposals", "RPNOutput", "propose", "rpn_losses", "sample_anchors"]


@dataclass(slots=True)
class RPNOutput:
    """The outputs for every anchor; in training those of the sampled anchors have a graph."""

    logits: Tensor
    """(B, A) objectness before the sigmoid."""
    deltas: Tensor
    """(B, A, 4)."""
    anchors: Tensor
    """(A, 4) xyxy, pixels of the network's input, finest level first."""
    level_lengths: tuple[int, ...]
    """How many of the A belong to each level."""


@dataclass(slots=True)
class Proposals:
    """Class-agnostic boxes, best first; of fixed length, with the rows that are not used marked."""

    boxes: Tensor
    """(B, K, 4) xyxy, pixels of the network's input, inside the image."""
    logits: Tensor
    """(B, K) objectness."""
    valid: Tensor
    """(B, K) bool."""
    source_index: Tensor
    """(B, K) int64, where each came from: its anchor, counted among those in the image, or its row in a file."""
    num_sources: int
    given: bool = False
    """Whether they came with the batch."""


@dataclass(slots=True)
class AnchorSample:
    """The sampled anchors of a training step."""

    indices: Tensor
    """(B, S) int64 into the anchors."""
    valid: Tensor
    """(B, S) bool."""
    positive: Tensor
    """(B, S) bool."""
    deltas: Tensor
    """(B, S, 4) to be regressed where positive, else 0."""


class RPN(nn.Module):
    """3x3 convolutions and two 1x1 siblings behind them, shared by all levels."""

    cells: Tensor

    def __init__(self, config: RPNConfig, channels: int, strides: Sequence[int], geometry: Geometry = CONTINUOUS) -> None:
        super().__init__()
        self.register_buffer("cells", anchor_cells("model.rpn.anchor_sizes", config, strides, geometry), persistent=False)
        per_cell = len(config.anchor_ratios) * len(config.anchor_sizes[0])
        self.strides = tuple(strides)
        self.offset = config.anchor_offset
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(config.convs))
        self.objectness = nn.Conv2d(channels, per_cell, 1)
        self.deltas = nn.Conv2d(channels, 4 * per_cell, 1)
        for layer in (*self.convs, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def forward(self, maps: Sequence[Tensor]) -> RPNOutput:
        """The outputs for every anchor, without a graph: a training step learns from few of them (`with_graph`)."""
        logits, deltas, anchors = [], [], []
        for features, cell, stride in zip(maps, self.cells, self.strides, strict=True):
            hidden = features
            for conv in self.convs:
                hidden = conv_relu(conv, hidden)
            # Channels last, so that what belongs to one anchor lies together: (B, H, W, anchors of a cell).
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(features.shape[0], -1, 4))
            anchors.append(anchor_grid(cell, features.shape[-2], features.shape[-1], stride, self.offset))
        lengths = tuple(part.shape[0] for part in anchors)
        return RPNOutput(torch.cat(logits, dim=1).float(), torch.cat(deltas, dim=1).float(), torch.cat(anchors), lengths)

    def with_graph(self, maps: Sequence[Tensor], output: RPNOutput, indices: Tensor) -> RPNOutput:
        """``output`` with the logits and deltas of the anchors ``indices`` (B, S), none twice in a row, with a graph.

        Where a loss reads no other anchors, the gradients are those of a backward pass through all cells, up to rounding, in a
        small part of its time and memory.
        """
        images = torch.arange(len(indices), device=indices.device)[:, None].expand_as(indices)
        cells = (indices // self.cells.shape[1]).flatten()
        patches, inside = patches_around(maps, images.flatten(), cells, reach=len(self.convs))
        hidden = relu_stack_on_patches(self.convs, patches, inside)
        anchors = (indices % self.cells.shape[1]).view(-1, 1)
        logits = self.objectness(hidden).flatten(1).gather(1, anchors).view_as(indices).float()
        deltas = self.deltas(hidden).view(len(anchors), -1, 4).gather(1, anchors[..., None].expand(-1, -1, 4))
        return RPNOutput(
            output.logits.scatter(1, indices, logits),
            output.deltas.scatter(1, indices[..., None].expand(-1, -1, 4), deltas.view(*indices.shape, 4).float()),
            output.anchors,
            output.level_lengths,
        )


@torch.no_grad()
def propose(rpn: RPNOutput, batch: Batch, padded: Sequence[int], config: RPNConfig, geometry: Geometry = CONTINUOUS) -> Proposals:
    """The best boxes of each image after NMS within each level: ``train_proposals`` where the batch has targets, else
    ``test_proposals``.

    Boxes are clipped to the image, without its padding; a box without area or without a finite logit is dropped. ``padded`` is the
    height and width of the network's input.
    """
    training = batch.targets is not None
    sizes = batch.sizes if training else geometry.test_bounds(batch.sizes, padded)
    candidates = config.train_candidates if training else config.test_candidates
    proposals = config.train_proposals if training else config.test_proposals
    level_logits, level_anchors = [], []
    finite_logits = rpn.logits.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    start = 0
    for length in rpn.level_lengths:
        logits, indices = finite_logits[:, start : start + length].topk(min(candidates, length), dim=1)
        level_logits.append(logits)
        level_anchors.append(indices + start)
        start = start + length
    logits, anchors = torch.cat(level_logits, dim=1), torch.cat(level_anchors, dim=1)
    deltas = rpn.deltas.gather(1, anchors[..., None].expand(-1, -1, 4))
    boxes = geometry.clip(decode(deltas, rpn.anchors[anchors]), sizes[:, None])
    large = (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) >= geometry.smallest_proposal
    # One NMS for all images and levels, of which each pair is a group.
    levels = torch.cat([torch.full_like(part, level) for level, part in enumerate(level_anchors)], dim=1)
    groups = levels * boxes.shape[0] + torch.arange(boxes.shape[0], device=boxes.device)[:, None]
    flat = (boxes.flatten(0, 1), logits.flatten(), groups.flatten())
    # In training there are so many boxes that a GPU without the Triton kernel works on half of the images at a time.
    half = -(-boxes.shape[0] // 2)
    lengths = [min(half, boxes.shape[0] - first) * boxes.shape[1] for first in range(0, boxes.shape[0], half)] if training else ()
    survives = geometry.nms_mask(*flat, config.nms_threshold, large.flatten(), lengths).view_as(large)
    logits = logits.masked_fill(~survives, -torch.inf)
    if config.topk_per_batch and training and len(rpn.level_lengths) > 1:
        least = logits.flatten().topk(min(proposals, logits.numel())).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    best, rows = logits.topk(min(proposals, logits.shape[1]), dim=1)
    inside = centred_inside(rpn.anchors, sizes)
    source_index = (inside.cumsum(dim=1) - 1).clamp(min=0).gather(1, anchors.gather(1, rows))
    best_boxes = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    return Proposals(best_boxes, best, best > -torch.inf, source_index, rpn.anchors.shape[0])


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def sample_anchors(
    rpn: RPNOutput, truth: GroundTruth, batch: Batch, scales: Tensor, config: RPNConfig, geometry: Geometry = CONTINUOUS
) -> AnchorSample:
    """Sample the anchors of a training step and their targets (Faster R-CNN, section 3.1.2).

    Anchors centred in the padding are not used, nor are negatives that lie mostly in a crowd region. ``scales`` (B, 2) as of
    `Geometry.scales`.
    """
    inside = centred_inside(rpn.anchors, batch.sizes)
    # One random number after another for the anchors inside, so that the padding changes none of them.
    chance = uniform(torch.as_tensor(batch.seeds), rpn.anchors.shape[0], rpn.anchors.device)
    usable = inside if config.straddle is None else _within(rpn.anchors, batch.sizes, config.straddle)
    chance = chance.gather(1, (usable.cumsum(dim=1) - 1).clamp(min=0))
    boxes = geometry.from_data(truth.boxes, scales[:, None]) * truth.exists[..., None]
    thresholds = config.foreground_iou, config.background_iou
    matched, _ = match_boxes(
        boxes, rpn.anchors, *thresholds, allow_low_quality=True, usable=None if config.straddle is None else usable
    )
    positive, negative = (matched >= 0) & usable, (matched == BACKGROUND) & usable
    if truth.ignore.shape[1] and config.ignore_crowd is not False:
        negative &= ioa(rpn.anchors, truth.ignore).amax(dim=2) < 0.5
    indices, valid = sample_balanced(positive, negative, config.samples_per_image, config.positive_fraction, chance)
    is_positive = positive.gather(1, indices) & valid
    instances = matched.gather(1, indices).clamp(min=0)
    deltas = encode(boxes.gather(1, instances[..., None].expand(-1, -1, 4)), rpn.anchors[indices])
    return AnchorSample(indices, valid, is_positive, torch.where(is_positive[..., None], deltas, 0.0))


def _within(anchors: Tensor, sizes: Tensor, straddle: float) -> Tensor:
    """Which anchors leave the image by at most ``straddle`` pixels: (A, 4), (B, 2) -> (B, A) bool."""
    after = sizes.flip(1)[:, None] - anchors[:, 2:]
    return torch.minimum(anchors[:, :2], after).amin(dim=2) >= -straddle


def rpn_losses(rpn: RPNOutput, sample: AnchorSample, config: RPNConfig) -> dict[str, Tensor]:
    """Log loss of objectness and smooth L1 of the positives' deltas (Faster R-CNN, equation 1), both over the number of sampled
    anchors; ``config.loss_normalizer`` has Detectron's rule."""
    logits = rpn.logits.gather(1, sample.indices)
    deltas = rpn.deltas.gather(1, sample.indices[..., None].expand(-1, -1, 4))
    objectness = F.binary_cross_entropy_with_logits(logits, sample.positive.float(), reduction="none")
    box = smooth_l1(deltas, sample.deltas, config.smooth_l1_beta).sum(dim=-1)
    count: Tensor | float = sample.valid.sum()
    box_count = count
    if config.loss_normalizer == "configured":
        box = box / sample.valid.sum(dim=1, keepdim=True).clamp(min=1)
        box_count = float(len(box))
        count = count if len(rpn.level_lengths) == 1 else config.samples_per_image * box_count
    return {  # those of anchors that were not sampled add 0, or NaN where one is not finite
        "loss_rpn_objectness": global_mean((objectness * sample.valid).sum(), count) + 0 * rpn.logits.detach().sum(),
        "loss_rpn_box": global_mean((box * sample.positive).sum(), box_count) + 0 * rpn.deltas.detach().sum(),
    }
