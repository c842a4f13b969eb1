"""torchvision's R-CNNs and RetinaNets: their weights under our names, and the settings that they were trained with.

In torchvision background is class 0; here it is the last class logit, and has no boxes and no masks. torchvision's RetinaNets have
a class 0 that is never trained; here they have none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.interop.state_dict import Collected, Report, finish
from boxwood.models.backbones import ResNetConfig
from boxwood.models.backbones.resnet import from_torchvision as resnet_from_torchvision
from boxwood.models.config import FPNConfig, ModelConfig, RCNNConfig, RetinaNetConfig, RetinaNetHeadConfig, RoIConfig, RPNConfig
from boxwood.models.heads import ConvFCHeadConfig, ConvKeypointHeadConfig, ConvMaskHeadConfig, TwoFCHeadConfig

__all__ = ["convert", "rcnn_config", "rcnn_state", "recognized", "retinanet_config", "retinanet_state"]

Names = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Patterns of torchvision's names, and our names."""

NAMES: Names = (
    (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"fpn.inner.\1."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"fpn.outer.\1."),
    (r"rpn\.head\.conv\.(\d)\.0\.", r"rpn.convs.\1."),
    (r"rpn\.head\.cls_logits\.", "rpn.objectness."),
    (r"rpn\.head\.bbox_pred\.", "rpn.deltas."),
    (r"roi_heads\.box_head\.", "box_head."),
    (r"roi_heads\.box_predictor\.cls_score\.", "class_logits."),
    (r"roi_heads\.box_predictor\.bbox_pred\.", "box_deltas."),
    (r"roi_heads\.mask_head\.(\d)\.0\.", r"mask_head.convs.\1."),
    (r"roi_heads\.mask_predictor\.conv5_mask\.", "mask_head.deconv."),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask_logits."),
    (r"roi_heads\.keypoint_head\.(\d+)\.", lambda match: f"keypoint_head.convs.{int(match[1]) // 2}."),
    (r"roi_heads\.keypoint_predictor\.kps_score_lowres\.", "keypoint_logits."),
)
V2_NAMES: Names = (
    (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"fpn.inner.\1.conv."),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.1\.", r"fpn.inner.\1.norm."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"fpn.outer.\1.conv."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.1\.", r"fpn.outer.\1.norm."),
    (r"roi_heads\.box_head\.(\d)\.0\.", r"box_head.convs.\1.conv."),
    (r"roi_heads\.box_head\.(\d)\.1\.", r"box_head.convs.\1.norm."),
    (r"roi_heads\.box_head\.5\.", "box_head.fc."),
    (r"roi_heads\.mask_head\.(\d)\.0\.", r"mask_head.convs.\1.conv."),
    (r"roi_heads\.mask_head\.(\d)\.1\.", r"mask_head.convs.\1.norm."),
    *NAMES,
)
RETINANET_NAMES: Names = (
    *NAMES[:2],
    (r"backbone\.fpn\.extra_blocks\.(p\d)\.", r"fpn.\1."),
    (r"head\.classification_head\.conv\.(\d)\.0\.", r"class_tower.\1."),
    (r"head\.classification_head\.cls_logits\.", "class_logits."),
    (r"head\.regression_head\.conv\.(\d)\.0\.", r"box_tower.\1."),
    (r"head\.regression_head\.bbox_reg\.", "box_deltas."),
)
RETINANET_V2_NAMES: Names = (
    (r"head\.classification_head\.conv\.(\d)\.0\.", r"class_tower.\1.conv."),
    (r"head\.classification_head\.conv\.(\d)\.1\.", r"class_tower.\1.norm."),
    (r"head\.regression_head\.conv\.(\d)\.0\.", r"box_tower.\1.conv."),
    (r"head\.regression_head\.conv\.(\d)\.1\.", r"box_tower.\1.norm."),
    *RETINANET_NAMES,
)


def rcnn_config(*, masks: bool = False, keypoints: bool = False, v2: bool = False) -> RCNNConfig:
    """The settings of ``fasterrcnn_resnet50_fpn``, with ``masks`` of ``maskrcnn_resnet50_fpn``, with ``keypoints`` of
    ``keypointrcnn_resnet50_fpn``, with ``v2`` of the second version of the first two; no weights.

    One difference remains: torchvision's stride of the coarsest anchors is the height of the input over the rows of the map,
    rounded down, such as 61 instead of 64 at 800 rows. Here it is 64; at multiples of 64 both agree.
    """
    return RCNNConfig(
        backbone=ResNetConfig(depth=50, norm="bn" if v2 else "frozen_bn", frozen_stages=0 if v2 else 2, weights=None),
        fpn=FPNConfig(norm="bn" if v2 else None),
        rpn=RPNConfig(rounded_anchors=True, train_proposals=2000, convs=2 if v2 else 1),
        rois=RoIConfig(aligned=False, smooth_l1_beta=1 / 9),
        box_head=ConvFCHeadConfig(norm="bn") if v2 else TwoFCHeadConfig(),
        mask_head=ConvMaskHeadConfig(norm="bn" if v2 else None) if masks else None,
        keypoint_head=ConvKeypointHeadConfig() if keypoints else None,
    )


def rcnn_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from that of torchvision's Faster, Mask or Keypoint R-CNN on a ResNet with FPN, of either version.

    Raises ValueError for a tensor name that none of them has.
    """
    renamed = _renamed(state, "Faster, Mask or Keypoint R-CNN with FPN")
    return {name: _without_background(name, value) for name, value in renamed.items()}


def retinanet_config(*, v2: bool = False) -> RetinaNetConfig:
    """The settings of ``retinanet_resnet50_fpn`` and, with ``v2``, of ``retinanet_resnet50_fpn_v2``; no weights."""
    sizes = tuple(
        (float(size), float(int(size * 2 ** (1 / 3))), float(int(size * 2 ** (2 / 3)))) for size in (32, 64, 128, 256, 512)
    )
    head = RetinaNetHeadConfig(anchor_sizes=sizes, rounded_anchors=True, smooth_l1_beta=0.0)
    if v2:
        head.norm, head.box_loss = "gn", "giou"
    return RetinaNetConfig(
        backbone=ResNetConfig(depth=50, norm="bn" if v2 else "frozen_bn", frozen_stages=0 if v2 else 2, weights=None),
        fpn=FPNConfig(top="conv_c5" if v2 else "conv_p5"),
        head=head,
    )


def retinanet_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from that of torchvision's RetinaNet on a ResNet with FPN, of either version.

    Raises ValueError for a tensor name that neither has.
    """
    ours = _renamed(state, "RetinaNet with FPN")
    per_cell = len(ours["box_deltas.bias"]) // 4
    for name in ("class_logits.weight", "class_logits.bias"):
        value = ours[name]
        ours[name] = value.reshape(per_cell, -1, *value.shape[1:])[:, 1:].flatten(0, 1)
    return ours


def recognized(state: Mapping[str, Tensor], where: str) -> RCNNConfig | RetinaNetConfig:
    """The settings of the detector whose state dict torchvision saved. Raises `UserError` where Boxwood has no such detector."""
    if "head.classification_head.cls_logits.weight" in state and "backbone.fpn.inner_blocks.0.0.weight" in state:
        return retinanet_config(v2="head.classification_head.conv.0.1.weight" in state)
    if "roi_heads.box_predictor.cls_score.weight" not in state or "backbone.body.layer1.0.conv1.weight" not in state:
        raise UserError(
            f"{where}: is no R-CNN or RetinaNet of torchvision on a ResNet with FPN; Boxwood has no other of its detectors"
        )
    return rcnn_config(
        masks="roi_heads.mask_predictor.mask_fcn_logits.weight" in state,
        keypoints="roi_heads.keypoint_predictor.kps_score_lowres.weight" in state,
        v2="roi_heads.box_head.0.0.weight" in state,
    )


def convert(
    state: dict[str, Tensor], model: nn.Module, config: ModelConfig, where: str, *, eps: float = 1e-5
) -> tuple[dict[str, Tensor], Report]:
    """The state dict of ``model``, which was built from ``config``, from torchvision's.

    ``eps`` is the epsilon that was added to the variances of frozen norms: 0 for the weights that torchvision published first.
    Raises `UserError` where tensors are missing or of another shape; it names them.
    """
    try:
        ours = retinanet_state(state) if isinstance(config, RetinaNetConfig) else rcnn_state(state)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    theirs = {name: source for source in state for name in _our_names(source, state)}
    collected = Collected()
    for name in model.state_dict():
        if name not in ours:
            collected.missing[name] = name
            continue
        collected.matched[name] = (theirs[name], ours[name], ours[name] is not state[theirs[name]])
        if name.endswith("norm.weight") and (variance := ours.get(f"{name.removesuffix('weight')}running_var")) is not None:
            source, value, other = collected.matched[name]
            collected.matched[name] = (
                source,
                value * ((variance + 1e-5) / (variance + eps)).sqrt() if eps != 1e-5 else value,
                other,
            )
    return finish(model, collected, state, where, _harmless)


def _harmless(name: str) -> str | None:
    if name.endswith(".num_batches_tracked"):
        return "a counter of batch norm"
    return "of a classifier" if name.startswith("backbone.body.fc.") else None


def _our_names(name: str, state: Mapping[str, Tensor]) -> list[str]:
    """A list of our name of a tensor of torchvision's; empty for a tensor of its classifier."""
    if name.startswith("backbone.body."):
        return [f"backbone.{ours}" for ours in resnet_from_torchvision({name.removeprefix("backbone.body."): state[name]})]
    names = (*RETINANET_V2_NAMES,) if "head.classification_head.conv.0.1.weight" in state else RETINANET_NAMES
    if "roi_heads.box_predictor.cls_score.weight" in state or name.startswith(("roi_heads.", "rpn.")):
        names = V2_NAMES if "roi_heads.box_head.0.0.weight" in state else NAMES
    return [re.sub(old, new, name) for old, new in names if re.match(old, name)][:1]


def _renamed(state: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for name, value in state.items():
        renamed = _our_names(name, state)
        if not renamed and not name.startswith("backbone.body."):
            raise ValueError(f"'{name}' is not a tensor of torchvision's {what}")
        ours |= dict.fromkeys(renamed, value)
    return ours


def _without_background(name: str, value: Tensor) -> Tensor:
    if name.startswith("class_logits."):
        return torch.cat([value[1:], value[:1]])
    if name.startswith("box_deltas."):
        return value[4:]
    return value[1:] if name.startswith("mask_logits.") else value
