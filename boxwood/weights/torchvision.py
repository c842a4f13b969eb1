"""torchvision's R-CNNs as ours: their weights under our names, and the settings they were trained with.

torchvision counts background as class 0; here it is the last class logit, and has no boxes and no masks.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from boxwood.models.backbones import ResNetConfig
from boxwood.models.backbones.resnet import from_torchvision as resnet_from_torchvision
from boxwood.models.heads import ConvMaskHeadConfig
from boxwood.models.rcnn import RCNNConfig, RoIConfig
from boxwood.models.rpn import RPNConfig

__all__ = ["rcnn_config", "rcnn_state"]

NAMES = (
    (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"fpn.inner.\1."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"fpn.outer.\1."),
    (r"rpn\.head\.conv\.0\.0\.", "rpn.conv."),
    (r"rpn\.head\.cls_logits\.", "rpn.objectness."),
    (r"rpn\.head\.bbox_pred\.", "rpn.deltas."),
    (r"roi_heads\.box_head\.", "box_head."),
    (r"roi_heads\.box_predictor\.cls_score\.", "class_logits."),
    (r"roi_heads\.box_predictor\.bbox_pred\.", "box_deltas."),
    (r"roi_heads\.mask_head\.(\d)\.0\.", r"mask_head.convs.\1."),
    (r"roi_heads\.mask_predictor\.conv5_mask\.", "mask_head.deconv."),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask_logits."),
)


def rcnn_config(*, masks: bool) -> RCNNConfig:
    """The settings of ``fasterrcnn_resnet50_fpn`` and, with ``masks``, of ``maskrcnn_resnet50_fpn``; no weights.

    One thing is not a setting: torchvision takes the stride of its coarsest anchors as the height of the input over the rows of the
    map, rounded down, so 61 instead of 64 at 800 rows. Here it is 64; at multiples of 64 both agree.
    """
    return RCNNConfig(
        backbone=ResNetConfig(depth=50, weights=None),
        rpn=RPNConfig(rounded_anchors=True, train_proposals=2000),
        rois=RoIConfig(aligned=False, smooth_l1_beta=1 / 9),
        mask_head=ConvMaskHeadConfig() if masks else None,
    )


def rcnn_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of torchvision's Faster or Mask R-CNN on a ResNet with FPN -> ours.

    Raises ValueError for a name that belongs to neither.
    """
    body = {name.removeprefix("backbone.body."): value for name, value in state.items() if name.startswith("backbone.body.")}
    ours = {f"backbone.{name}": value for name, value in resnet_from_torchvision(body).items()}
    for name, value in state.items():
        if name.startswith("backbone.body."):
            continue
        renamed = next((re.sub(old, new, name) for old, new in NAMES if re.match(old, name)), None)
        if renamed is None:
            raise ValueError(f"'{name}' is not a tensor of torchvision's Faster or Mask R-CNN with FPN")
        ours[renamed] = _without_background(renamed, value)
    return ours


def _without_background(name: str, value: Tensor) -> Tensor:
    if name.startswith("class_logits."):
        return torch.cat([value[1:], value[:1]])
    if name.startswith("box_deltas."):
        return value[4:]
    return value[1:] if name.startswith("mask_logits.") else value
