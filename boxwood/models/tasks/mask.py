"""Masks (He et al., Mask R-CNN, 2017): a small mask of every class over each box.

Letters: B images, K sampled RoIs of an image, R RoIs of the batch in one row, C classes, M the side of a mask, V views.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.fields import MASK_SIZE, InstanceMasks, MaskProbabilities
from boxwood.models.detector import Network
from boxwood.models.ground_truth import padded
from boxwood.models.heads import ConvMaskHeadConfig, MaskHeadConfig
from boxwood.models.inference_config import MaskViewsConfig, TTAConfig
from boxwood.models.second_stage import RoISample, instance_rows
from boxwood.models.tasks.task import InstanceTask
from boxwood.ops.geometry import CONTINUOUS, Geometry
from boxwood.ops.losses import global_mean
from boxwood.ops.masks import mask_targets
from boxwood.structures import Categories, FirstSample, Target

__all__ = ["MaskTask", "mask_loss"]


class MaskTask(InstanceTask):
    """A mask of each class; inference uses that of the box's class."""

    short_kind: ClassVar[str] = "masks"
    name: ClassVar[str] = "masks"
    prefix: ClassVar[str] = "mask"
    title: ClassVar[str] = "Mask"

    head: MaskHeadConfig = ConvMaskHeadConfig()

    def check_data(self, categories: Categories, first: FirstSample, key: str) -> None:
        sample = first()
        if sample is not None and sample.segmentations is None:
            raise UserError(
                f"{key}: has no masks, and a mask head learns nothing else; take a recipe without a mask head, such as "
                "faster_rcnn_mobilenetv2_fpn or faster_rcnn_r50_fpn_1x, or set model.mask_head=null"
            )

    def predictors(self, channels: int, categories: Categories) -> dict[str, nn.Module]:
        layer = nn.Conv2d(channels, len(categories), 1)
        # Detectron's variance of 2 / C suits COCO's 80 classes; with a few, the first masks would be certain. Divided by the
        # channels coming in, the logits begin near 1 whatever C.
        nn.init.normal_(layer.weight, std=channels**-0.5)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has a bias
        return {"mask_logits": layer}

    def logits(self, network: Network, features: Tensor) -> Tensor:
        """-> (R, C, M, M)."""
        logits: Tensor = network.get_submodule("mask_logits")(network.get_submodule("mask_head")(features))
        return logits

    def loss(self, network: Network, logits: Tensor, rows: Tensor, sample: RoISample, targets: Sequence[Target]) -> Tensor:
        if any(target.masks is None and len(target.labels) for target in targets):
            raise UserError(
                "a mask head learns from masks, and this data set has none: set model.mask_head=null or use another data set"
            )
        size = next((target.masks.bitmaps.shape[-1] for target in targets if target.masks is not None), MASK_SIZE)
        masks = [target.masks or _no_masks(target, size) for target in targets]
        binary = bool(self.head.binary_mask_targets)
        return mask_loss(logits, rows, sample, masks, binary_targets=binary, geometry=network.geometry)

    def values(self, network: Network, logits: Tensor, labels: Tensor) -> Tensor:
        """The probabilities of the box's class -> (R, M, M)."""
        return logits[torch.arange(labels.shape[0], device=labels.device), labels].float().sigmoid()

    def field(self, network: Network, values: Tensor) -> MaskProbabilities:
        return MaskProbabilities(values, network.test.mask_threshold, network.geometry.mask_crops)

    def views(self, tta: TTAConfig) -> MaskViewsConfig:
        return tta.masks or MaskViewsConfig()

    def mirrored(self, network: Network, values: Tensor) -> Tensor:
        return values.flip(-1)

    def merge(self, tta: TTAConfig, values: Tensor, used: Tensor) -> Tensor:
        combine = self.views(tta).combine
        if combine == "soft_max":
            return values.masked_fill(~used, -torch.inf).amax(dim=0)
        if combine == "soft_avg":
            return super().merge(tta, values, used)
        return super().merge(tta, values.logit(1e-7), used).sigmoid()


def _no_masks(target: Target, size: int) -> InstanceMasks:
    """The masks of an image without instances."""
    return InstanceMasks(target.labels.new_zeros(0, size, size, dtype=torch.uint8), target.boxes)


def mask_loss(
    mask_logits: Tensor,
    rows: Tensor,
    sample: RoISample,
    masks: Sequence[InstanceMasks],
    *,
    binary_targets: bool = False,
    geometry: Geometry = CONTINUOUS,
) -> Tensor:
    """Binary cross-entropy of the mask of each positive's ground-truth class, averaged over cells and positives (Mask R-CNN,
    section 3).

    ``mask_logits`` (R, C, M, M) belong to ``rows`` of the flattened sample, ``masks`` to the images. ``binary_targets``: targets
    are 0 or 1, not the covered share of a cell.
    """
    num_classes, size = mask_logits.shape[1], mask_logits.shape[-1]
    labels = sample.labels.flatten()[rows]
    truth, has_mask = _targets(rows, sample, masks, size, geometry)
    truth = (truth >= 0.5).float() if binary_targets else truth
    positive = (labels >= 0) & (labels < num_classes) & has_mask
    logits = mask_logits[torch.arange(rows.shape[0], device=rows.device), labels.clamp(0, num_classes - 1)].float()
    cells = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=(1, 2))
    return global_mean((cells * positive).sum(), positive.sum())


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the number of instances is another for every batch
@torch.no_grad()
def _targets(
    rows: Tensor, sample: RoISample, masks: Sequence[InstanceMasks], size: int, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """The mask of each row's instance inside its RoI (R, M, M), 0..1, and (R,) bool: whether the instance came with a mask."""
    bitmaps, boxes = padded([part.bitmaps for part in masks]), padded([part.boxes for part in masks])
    instances = instance_rows(rows, sample, bitmaps.shape[1])
    rois = geometry.region(sample.boxes.flatten(0, 1)[rows])
    truth = mask_targets(bitmaps.flatten(0, 1), boxes.flatten(0, 1), rois, instances, size)
    return truth, (bitmaps.flatten(0, 1).flatten(1).amax(dim=1) > 0)[instances]
