"""Region Proposal Network (Ren et al., Faster R-CNN, 2015, section 3.1; on a pyramid: Lin et al., FPN, 2017, section 4.1).

    maps -> RPN.forward -> RPNOutput -> propose -> Proposals
                               |-> sample_anchors -> AnchorSample -> rpn_losses

Letters: B images, A anchors over all levels and cells, K proposals an image, S sampled anchors an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.config import Config
from boxwood.models.detector import check_anchor_levels
from boxwood.ops.boxes import centred_inside, clip, decode, encode, ioa, iou, level_anchors, level_cells, nms_mask
from boxwood.ops.learning import BACKGROUND, global_mean, match, sample_balanced, smooth_l1
from boxwood.structures import Batch

__all__ = [
    "RPN",
    "AnchorSample",
    "Proposals",
    "RPNConfig",
    "RPNOutput",
    "propose",
    "rpn_losses",
    "sample_anchors",
]


class RPNConfig(Config):
    """Anchors, what they learn, and how many of them become proposals."""

    anchor_sizes: tuple[tuple[float, ...], ...] = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    """Square roots of the anchors' areas in pixels, for each level, finest first."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height / width."""
    anchor_offset: float = 0.0
    """Where a cell's anchors are centred, in cells from its corner."""
    rounded_anchors: bool = False
    """Round the anchors' corners to whole pixels; torchvision's weights were trained so."""
    convs: int = 1
    """3x3 convolutions ahead of the two predictors."""
    straddle: float | None = None
    """Learn only from anchors that leave the image by at most so many pixels (Faster R-CNN, section 3.1.3; Detectron: 0); None: from
    all whose centre is in it."""
    foreground_iou: float = 0.7
    background_iou: float = 0.3
    samples_per_image: int = 256
    positive_fraction: float = 0.5
    smooth_l1_beta: float = 1 / 9
    nms_threshold: float = 0.7
    train_candidates: int = 2000
    """The best anchors of each level that go into suppression."""
    train_proposals: int = 1000
    """The best proposals of each image that are kept after it."""
    test_candidates: int = 1000
    test_proposals: int = 1000


@dataclass(slots=True)
class RPNOutput:
    """What the network says about every anchor."""

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
    """Class-agnostic boxes, best first; of fixed length, with the places that are not used marked."""

    boxes: Tensor
    """(B, K, 4) xyxy, pixels of the network's input, inside the image."""
    logits: Tensor
    """(B, K) objectness."""
    valid: Tensor
    """(B, K) bool."""
    places: Tensor
    """(B, K) int64, where each came from: its anchor, counted among those in the image, or its row in a file."""
    num_places: int


@dataclass(slots=True)
class AnchorSample:
    """The anchors that a step learns from."""

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

    def __init__(self, config: RPNConfig, channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        check_anchor_levels("model.rpn.anchor_sizes", config.anchor_sizes, strides)
        per_cell = len(config.anchor_ratios) * len(config.anchor_sizes[0])
        self.strides = tuple(strides)
        self.offset = config.anchor_offset
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(config.convs))
        self.objectness = nn.Conv2d(channels, per_cell, 1)
        self.deltas = nn.Conv2d(channels, 4 * per_cell, 1)
        for layer in (*self.convs, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        cells = level_cells(config.anchor_sizes, config.anchor_ratios, rounded=config.rounded_anchors)
        self.register_buffer("cells", cells, persistent=False)

    def forward(self, maps: Sequence[Tensor]) -> RPNOutput:
        logits, deltas = [], []
        for features in maps:
            hidden = features
            for conv in self.convs:
                hidden = F.relu(conv(hidden), inplace=True)
            # Channels last, so that what belongs to one anchor lies together: (B, H, W, anchors of a cell).
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(len(features), -1, 4))
        shapes = [(features.shape[-2], features.shape[-1]) for features in maps]
        anchors = level_anchors(self.cells, shapes, self.strides, self.offset)
        lengths = tuple(part.shape[0] for part in anchors)
        return RPNOutput(torch.cat(logits, dim=1).float(), torch.cat(deltas, dim=1).float(), torch.cat(anchors), lengths)


@torch.no_grad()
def propose(rpn: RPNOutput, sizes: Tensor, config: RPNConfig, *, learning: bool) -> Proposals:
    """The best boxes of each image after suppression within each level: as many as are to be learnt from, or as are to be tested.

    ``sizes`` (B, 2) are the images' heights and widths without padding. Boxes are cut at the image; what is left of no area is
    dropped.
    """
    candidates = config.train_candidates if learning else config.test_candidates
    proposals = config.train_proposals if learning else config.test_proposals
    level_boxes, level_logits, level_indices, level_kept = [], [], [], []
    start = 0
    for length in rpn.level_lengths:
        logits, indices = rpn.logits[:, start : start + length].topk(min(candidates, length), dim=1)
        indices = indices + start
        deltas = rpn.deltas.gather(1, indices[..., None].expand(-1, -1, 4))
        boxes = clip(decode(deltas, rpn.anchors[indices]), sizes[:, None])
        large = (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) >= 1e-3
        kept = [nms_mask(boxes[i], logits[i], None, config.nms_threshold, large[i]) for i in range(len(boxes))]
        level_boxes.append(boxes)
        level_logits.append(logits)
        level_indices.append(indices)
        level_kept.append(torch.stack(kept))
        start += length
    all_logits = torch.cat(level_logits, dim=1).masked_fill(~torch.cat(level_kept, dim=1), -torch.inf)
    best, chosen = all_logits.topk(min(proposals, all_logits.shape[1]), dim=1)
    best_boxes = torch.cat(level_boxes, dim=1).gather(1, chosen[..., None].expand(-1, -1, 4))
    anchors = torch.cat(level_indices, dim=1).gather(1, chosen)
    inside = torch.stack([centred_inside(rpn.anchors, size) for size in sizes])
    places = (inside.cumsum(dim=1) - 1).clamp(min=0).gather(1, anchors)
    return Proposals(best_boxes, best, best > -torch.inf, places, len(rpn.anchors))


@torch.no_grad()
def sample_anchors(rpn: RPNOutput, batch: Batch, config: RPNConfig) -> AnchorSample:
    """Choose the anchors to learn from and what each is to say (Faster R-CNN, section 3.1.2).

    Anchors centred in the padding are not used, nor are negatives that lie mostly in a region to be ignored.
    """
    assert batch.targets is not None
    parts = []
    for index, target in enumerate(batch.targets):
        matched = match(iou(target.boxes, rpn.anchors), config.foreground_iou, config.background_iou, allow_low_quality=True)
        inside = centred_inside(rpn.anchors, batch.sizes[index])
        positive, negative = (matched >= 0) & inside, (matched == BACKGROUND) & inside
        if len(target.ignore):
            negative &= ioa(rpn.anchors, target.ignore).amax(dim=1) < 0.5
        generator = torch.Generator(rpn.anchors.device).manual_seed(batch.seeds[index])
        # One number after another for those inside, so that they are the same however much padding there is.
        chance = torch.rand(len(rpn.anchors), device=rpn.anchors.device, generator=generator)[inside.cumsum(0) - 1]
        chosen, valid = sample_balanced(positive, negative, config.samples_per_image, config.positive_fraction, chance)
        learns = positive[chosen] & valid
        deltas = rpn.anchors.new_zeros(len(chosen), 4)
        if len(target.boxes):
            deltas = encode(target.boxes[matched[chosen].clamp(min=0)], rpn.anchors[chosen]).where(learns[:, None], deltas)
        parts.append((chosen, valid, learns, deltas))
    return AnchorSample(*(torch.stack(column) for column in zip(*parts, strict=True)))


def rpn_losses(rpn: RPNOutput, sample: AnchorSample, config: RPNConfig) -> dict[str, Tensor]:
    """Log loss of objectness and smooth L1 of the positives' deltas (Faster R-CNN, equation 1), both over the number of sampled
    anchors."""
    logits = rpn.logits.gather(1, sample.indices)
    deltas = rpn.deltas.gather(1, sample.indices[..., None].expand(-1, -1, 4))
    objectness = F.binary_cross_entropy_with_logits(logits, sample.positive.float(), reduction="none")
    box = smooth_l1(deltas, sample.deltas, config.smooth_l1_beta).sum(dim=-1)
    count = sample.valid.sum()
    return {
        "loss_rpn_objectness": global_mean((objectness * sample.valid).sum(), count),
        "loss_rpn_box": global_mean((box * sample.positive).sum(), count),
    }
