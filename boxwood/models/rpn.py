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

from boxwood.models.anchors import AnchorsConfig, anchor_cells
from boxwood.ops.anchors import anchor_grid, centred_inside
from boxwood.ops.boxes import decode, encode, ioa, iou
from boxwood.ops.geometry import CONTINUOUS, Geometry
from boxwood.ops.losses import global_mean, smooth_l1
from boxwood.ops.matching import BACKGROUND, match
from boxwood.ops.sampling import sample_balanced
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


class RPNConfig(AnchorsConfig):
    """Anchors, what they learn, and how many of them become proposals."""

    anchor_sizes: tuple[tuple[float, ...], ...] = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    convs: int = 1
    """3x3 convolutions ahead of the two predictors."""
    straddle: float | None = None
    """Learn only from anchors that leave the image by at most so many pixels (Faster R-CNN, section 3.1.3; Detectron: 0); None:
    from all whose centre is in it."""
    foreground_iou: float = 0.7
    background_iou: float = 0.3
    samples_per_image: int = 256
    positive_fraction: float = 0.5
    smooth_l1_beta: float = 1 / 9
    nms_threshold: float = 0.7
    train_candidates: int = 2000
    """The best anchors of each level that go into suppression."""
    train_proposals: int = 1000
    """The best proposals of each image that are kept after it; of all images of a process's batch together, where the geometry is
    Detectron's and there is a pyramid."""
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

    def forward(self, maps: Sequence[Tensor]) -> RPNOutput:
        logits, deltas, anchors = [], [], []
        for features, cell, stride in zip(maps, self.cells, self.strides, strict=True):
            hidden = features
            for conv in self.convs:
                hidden = F.relu(conv(hidden), inplace=True)
            # Channels last, so that what belongs to one anchor lies together: (B, H, W, anchors of a cell).
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(len(features), -1, 4))
            anchors.append(anchor_grid(cell, features.shape[-2], features.shape[-1], stride, self.offset))
        lengths = tuple(part.shape[0] for part in anchors)
        return RPNOutput(torch.cat(logits, dim=1).float(), torch.cat(deltas, dim=1).float(), torch.cat(anchors), lengths)


@torch.no_grad()
def propose(rpn: RPNOutput, batch: Batch, padded: Sequence[int], config: RPNConfig, geometry: Geometry = CONTINUOUS) -> Proposals:
    """The best boxes of each image after suppression within each level: as many as are to be learnt from where the batch has
    targets, else as are to be tested.

    Boxes are cut at the image, without its padding; what is left of no area is dropped. ``padded`` is the height and width of the
    network's input.
    """
    learning = batch.targets is not None
    sizes = batch.sizes if learning else geometry.test_bounds(batch.sizes, padded)
    candidates = config.train_candidates if learning else config.test_candidates
    proposals = config.train_proposals if learning else config.test_proposals
    level_boxes, level_logits, level_indices, level_kept = [], [], [], []
    start = 0
    for length in rpn.level_lengths:
        logits, indices = rpn.logits[:, start : start + length].topk(min(candidates, length), dim=1)
        indices = indices + start
        deltas = rpn.deltas.gather(1, indices[..., None].expand(-1, -1, 4))
        boxes = geometry.clip(decode(deltas, rpn.anchors[indices]), sizes[:, None])
        large = (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) >= geometry.smallest_proposal
        kept = [geometry.nms_mask(boxes[i], logits[i], None, config.nms_threshold, large[i]) for i in range(len(boxes))]
        level_boxes.append(boxes)
        level_logits.append(logits)
        level_indices.append(indices)
        level_kept.append(torch.stack(kept))
        start += length
    all_logits = torch.cat(level_logits, dim=1).masked_fill(~torch.cat(level_kept, dim=1), -torch.inf)
    if geometry.shares_proposals and learning and len(rpn.level_lengths) > 1:
        least = all_logits.flatten().topk(min(proposals, all_logits.numel())).values[-1]
        all_logits = all_logits.masked_fill(all_logits < least, -torch.inf)
    best, chosen = all_logits.topk(min(proposals, all_logits.shape[1]), dim=1)
    best_boxes = torch.cat(level_boxes, dim=1).gather(1, chosen[..., None].expand(-1, -1, 4))
    anchors = torch.cat(level_indices, dim=1).gather(1, chosen)
    inside = torch.stack([centred_inside(rpn.anchors, size) for size in sizes])
    places = (inside.cumsum(dim=1) - 1).clamp(min=0).gather(1, anchors)
    return Proposals(best_boxes, best, best > -torch.inf, places, len(rpn.anchors))


@torch.no_grad()
def sample_anchors(rpn: RPNOutput, batch: Batch, config: RPNConfig, geometry: Geometry = CONTINUOUS) -> AnchorSample:
    """Choose the anchors to learn from and what each is to say (Faster R-CNN, section 3.1.2).

    Anchors centred in the padding are not used, nor are negatives that lie mostly in a region to be ignored.
    """
    assert batch.targets is not None
    scales, parts = geometry.scales(batch.sizes, batch.original_sizes), []
    for index, target in enumerate(batch.targets):
        truth, inside = geometry.from_data(target.boxes, scales[index]), centred_inside(rpn.anchors, batch.sizes[index])
        overlaps = iou(truth, rpn.anchors)
        if config.straddle is not None:
            cut = torch.cat([rpn.anchors[:, :2], batch.sizes[index].flip(0) - rpn.anchors[:, 2:]], dim=1)
            inside = cut.amin(dim=1) >= -config.straddle
            overlaps = overlaps * inside
        matched = match(overlaps, config.foreground_iou, config.background_iou, allow_low_quality=True)
        positive, negative = (matched >= 0) & inside, (matched == BACKGROUND) & inside
        if len(target.ignore) and geometry.judges_leniently:
            negative &= ioa(rpn.anchors, target.ignore).amax(dim=1) < 0.5
        generator = torch.Generator(rpn.anchors.device).manual_seed(batch.seeds[index])
        # One number after another for those inside, so that they are the same however much padding there is.
        chance = torch.rand(len(rpn.anchors), device=rpn.anchors.device, generator=generator)[inside.cumsum(0) - 1]
        chosen, valid = sample_balanced(positive, negative, config.samples_per_image, config.positive_fraction, chance)
        learns = positive[chosen] & valid
        deltas = rpn.anchors.new_zeros(len(chosen), 4)
        if len(target.boxes):
            deltas = encode(truth[matched[chosen].clamp(min=0)], rpn.anchors[chosen]).where(learns[:, None], deltas)
        parts.append((chosen, valid, learns, deltas))
    return AnchorSample(*(torch.stack(column) for column in zip(*parts, strict=True)))


def rpn_losses(rpn: RPNOutput, sample: AnchorSample, config: RPNConfig, geometry: Geometry = CONTINUOUS) -> dict[str, Tensor]:
    """Log loss of objectness and smooth L1 of the positives' deltas (Faster R-CNN, equation 1), both over the number of sampled
    anchors. Detectron's box loss is over the number in the anchor's image, its objectness on a pyramid over that to be sampled."""
    logits = rpn.logits.gather(1, sample.indices)
    deltas = rpn.deltas.gather(1, sample.indices[..., None].expand(-1, -1, 4))
    objectness = F.binary_cross_entropy_with_logits(logits, sample.positive.float(), reduction="none")
    box = smooth_l1(deltas, sample.deltas, config.smooth_l1_beta).sum(dim=-1)
    count = count_of_boxes = sample.valid.sum()
    if geometry.fixed_counts:
        box = box / sample.valid.sum(dim=1, keepdim=True).clamp(min=1)
        count_of_boxes = torch.tensor(len(box))
        count = count if len(rpn.level_lengths) == 1 else config.samples_per_image * count_of_boxes
    return {
        "loss_rpn_objectness": global_mean((objectness * sample.valid).sum(), count),
        "loss_rpn_box": global_mean((box * sample.positive).sum(), count_of_boxes),
    }
