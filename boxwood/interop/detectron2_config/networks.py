"""Converts detectron2's keys of the architecture to Boxwood's configuration of the network."""

from __future__ import annotations

from typing import Any

from boxwood.interop.detectron2_config.values import Values
from boxwood.models import ModelConfig, ProposerConfig, RCNNConfig, RetinaNetConfig
from boxwood.models.backbones import ResNetConfig
from boxwood.models.config import FPNConfig, RetinaNetHeadConfig, RoIConfig, RPNConfig
from boxwood.models.heads import (
    AverageHeadConfig,
    BoxHeadConfig,
    ConvFCHeadConfig,
    ConvKeypointHeadConfig,
    ConvMaskHeadConfig,
    TwoFCHeadConfig,
)

__all__ = ["make_model"]

MAX_LAYERS = 100
"""Of a tower or a head: each is built before its weights are looked for."""
MAX_CHANNELS = 100_000
NORMS: dict[str, Any] = {"FrozenBN": "frozen_bn", "BN": "bn", "SyncBN": "sync_bn", "nnSyncBN": "sync_bn", "GN": "gn"}
BACKBONES = {
    "build_resnet_backbone": False,
    "build_resnet_fpn_backbone": True,
    "build_retinanet_resnet_fpn_backbone": True,
}
"""detectron2's functions, and whether they build a pyramid."""
POOLERS = {"ROIAlignV2": True, "ROIAlign": False, "ROIPool": False}
"""detectron2's poolers, and whether they are aligned."""
STAGES = ("res2", "res3", "res4", "res5")
LEVELS = ("p2", "p3", "p4", "p5", "p6")


def make_model(values: Values) -> ModelConfig:
    """The configuration of the network."""
    model = _architecture(values)
    model.pixel_mean, model.pixel_std = _rgb(values, "MODEL.PIXEL_MEAN"), _rgb(values, "MODEL.PIXEL_STD")
    return model


# ------------------------------------------------------------------------------------------------------------- architecture


def _architecture(values: Values) -> ModelConfig:
    architecture = values.check(
        "MODEL.META_ARCHITECTURE",
        ("GeneralizedRCNN", "ProposalNetwork", "RetinaNet"),
        "Boxwood has R-CNN, RPN alone and RetinaNet (GeneralizedRCNN, ProposalNetwork, RetinaNet)",
    )
    name = values.check("MODEL.BACKBONE.NAME", tuple(BACKBONES), f"Boxwood reads {', '.join(BACKBONES)}")
    pyramid = BACKBONES[name]
    if (architecture == "RetinaNet") != (name == "build_retinanet_resnet_fpn_backbone"):
        values.refuse("MODEL.BACKBONE.NAME", f"a {architecture} of Boxwood has another pyramid")
    if not pyramid:
        values.switch_off("no pyramid")
    if architecture == "RetinaNet":
        values.switch_off("no second stage", "RetinaNet", "no proposals")
        backbone = _resnet(values, STAGES[1:], "map")
        fpn = _fpn(values, STAGES[1:], "conv_c5")
        return RetinaNetConfig(backbone=backbone, fpn=fpn, head=_retinanet(values))
    values.switch_off("no RetinaNet")
    one_map = () if pyramid else _one_map(values)
    c4 = one_map == ("res4",)
    backbone = _backbone(values, pyramid, one_map)
    pyramid_or_none = _fpn(values, STAGES, "subsampled") if pyramid else None
    divisor = 32 if pyramid else 1
    if architecture == "ProposalNetwork":
        values.check("MODEL.PROPOSAL_GENERATOR.NAME", ("RPN",))
        values.switch_off("no second stage", "no proposals")
        rpn = _rpn(values, LEVELS if pyramid else one_map)
        return ProposerConfig(backbone=backbone, fpn=pyramid_or_none, rpn=rpn, size_divisor=divisor)
    return RCNNConfig(
        backbone=backbone,
        fpn=pyramid_or_none,
        rpn=_rpn(values, LEVELS if pyramid else one_map) if _has_rpn(values) else None,
        rois=_rois(values, LEVELS[:4] if pyramid else one_map, c4),
        box_head=_box_head(values, c4),
        mask_head=_mask_head(values, c4),
        keypoint_head=_keypoint_head(values, c4),
        size_divisor=divisor,
    )


def _rgb(values: Values, key: str) -> tuple[float, float, float]:
    """Means or deviations of red, green and blue."""
    numbers = values.get(key)
    if len(numbers) != 3 or (key.endswith("STD") and 0 in numbers):
        values.refuse(key, "it must be three numbers, of deviations other than 0")
        numbers = (1.0, 1.0, 1.0)
    first, second, third = numbers
    return (third, second, first) if values.get("INPUT.FORMAT") == "BGR" else (first, second, third)


# -------------------------------------------------------------------------------------------------------- backbone, pyramid


def _one_map(values: Values) -> tuple[str, ...]:
    """The map that everything reads where there is no pyramid: res4 (C4) or res5."""
    return values.check("MODEL.RESNETS.OUT_FEATURES", (("res4",), ("res5",)), "without a pyramid the map is res4 or res5")  # type: ignore[no-any-return]  # of the two


def _backbone(values: Values, pyramid: bool, one_map: tuple[str, ...]) -> ResNetConfig:
    if pyramid:
        return _resnet(values, STAGES, "map")
    if one_map == ("res4",):
        return _resnet(values, one_map, "tail")
    dilated = values.get("MODEL.RESNETS.RES5_DILATION") == 2
    if dilated and not values.get("MODEL.RESNETS.STRIDE_IN_1X1"):
        values.refuse("MODEL.RESNETS.RES5_DILATION", "a 3x3 convolution that would stride is not dilated; detectron2 dilates all")
    return _resnet(values, one_map, "dilated" if dilated else "map")


def _resnet(values: Values, out_features: tuple[str, ...], last_stage: Any) -> ResNetConfig:
    values.check("MODEL.RESNETS.OUT_FEATURES", (out_features,))
    depth = values.check("MODEL.RESNETS.DEPTH", (50, 18, 34, 101, 152))
    values.check("MODEL.RESNETS.RES2_OUT_CHANNELS", (64 if depth < 50 else 256,))
    dilation = values.get("MODEL.RESNETS.RES5_DILATION")
    if dilation != (2 if last_stage == "dilated" else 1):
        values.refuse("MODEL.RESNETS.RES5_DILATION", "res5 is dilated by 2 or not at all, and only where it is the one map")
    return ResNetConfig(
        depth=depth,
        groups=_count(values, "MODEL.RESNETS.NUM_GROUPS", MAX_CHANNELS),
        width_per_group=_count(values, "MODEL.RESNETS.WIDTH_PER_GROUP", MAX_CHANNELS),
        norm=NORMS[values.check("MODEL.RESNETS.NORM", tuple(NORMS))],
        stride_in="1x1" if values.get("MODEL.RESNETS.STRIDE_IN_1X1") else "3x3",
        last_stage=last_stage,
        frozen_stages=values.check("MODEL.BACKBONE.FREEZE_AT", (0, 1, 2, 3, 4, 5)),
        weights=None,
    )


def _fpn(values: Values, in_features: tuple[str, ...], top: Any) -> FPNConfig:
    values.check("MODEL.FPN.IN_FEATURES", (in_features,))
    channels = _count(values, "MODEL.FPN.OUT_CHANNELS", MAX_CHANNELS)
    return FPNConfig(channels=channels, norm=_head_norm(values, "MODEL.FPN.NORM"), top=top)


def _head_norm(values: Values, key: str) -> Any:
    return NORMS.get(values.check(key, ("", *NORMS)))


def _count(values: Values, key: str, most: int, least: int = 1) -> int:
    count: int = values.get(key)
    if not least <= count <= most:
        values.refuse(key, f"it must be {least} to {most}")
        return least
    return count


# ------------------------------------------------------------------------------------------------------------------ anchors


def _has_rpn(values: Values) -> bool:
    name = values.check("MODEL.PROPOSAL_GENERATOR.NAME", ("RPN", "PrecomputedProposals"))
    if values.get("MODEL.LOAD_PROPOSALS") != (name == "PrecomputedProposals"):
        values.refuse("MODEL.LOAD_PROPOSALS", "it contradicts MODEL.PROPOSAL_GENERATOR.NAME")
    values.switch_off("no RPN" if name == "PrecomputedProposals" else "no proposals")
    return bool(name == "RPN")


def _anchors(values: Values, num_levels: int) -> dict[str, Any]:
    """Sizes of each level, and ratios; one list of either serves all levels."""
    sizes, ratios = values.get("MODEL.ANCHOR_GENERATOR.SIZES"), values.get("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")
    if len(sizes) == 1:
        sizes = sizes * num_levels
    if len(sizes) != num_levels or len({len(level) for level in sizes}) != 1 or not sizes[0]:
        values.refuse("MODEL.ANCHOR_GENERATOR.SIZES", f"it must be {num_levels} lists of equally many sizes, one for each level")
        sizes = ((32.0,),) * num_levels
    if len(set(ratios)) != 1 or not ratios[0]:
        values.refuse("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "all levels have the same ratios")
        ratios = ((1.0,),)
    if len(sizes[0]) * len(ratios[0]) > MAX_LAYERS or min(min(map(min, sizes)), min(ratios[0])) <= 0:
        values.refuse("MODEL.ANCHOR_GENERATOR.SIZES", f"a cell has at most {MAX_LAYERS} anchors, of sizes and ratios more than 0")
        sizes, ratios = ((32.0,),) * num_levels, ((1.0,),)
    return {
        "anchor_sizes": sizes,
        "anchor_ratios": ratios[0],
        "anchor_offset": values.get("MODEL.ANCHOR_GENERATOR.OFFSET"),
        "rounded_anchors": False,
    }


def _thresholds(values: Values, key: str) -> tuple[float, float]:
    """The IoU below which an anchor is background, and from which it is foreground."""
    thresholds = values.get(key)
    if len(thresholds) != 2:
        values.refuse(key, "it must be two numbers")
        return 0.3, 0.7
    return thresholds[0], thresholds[1]


def _rpn(values: Values, in_features: tuple[str, ...]) -> RPNConfig:
    values.check("MODEL.RPN.IN_FEATURES", (in_features,))
    background, foreground = _thresholds(values, "MODEL.RPN.IOU_THRESHOLDS")
    channels = values.get("MODEL.FPN.OUT_CHANNELS") if in_features == LEVELS else 1024 if in_features == ("res4",) else 2048
    widths = values.get("MODEL.RPN.CONV_DIMS")
    if not 1 <= len(widths) <= MAX_LAYERS or set(widths) - {-1, channels}:
        values.refuse("MODEL.RPN.CONV_DIMS", f"each convolution of the RPN is as wide as its input, -1 or {channels}")
        widths = (-1,)
    straddle = values.get("MODEL.RPN.BOUNDARY_THRESH")
    return RPNConfig(
        **_anchors(values, len(in_features)),
        convs=len(widths),
        straddle=float(straddle) if straddle >= 0 else None,
        foreground_iou=foreground,
        background_iou=background,
        samples_per_image=values.get("MODEL.RPN.BATCH_SIZE_PER_IMAGE"),
        positive_fraction=values.get("MODEL.RPN.POSITIVE_FRACTION"),
        smooth_l1_beta=values.get("MODEL.RPN.SMOOTH_L1_BETA"),
        nms_threshold=values.get("MODEL.RPN.NMS_THRESH"),
        train_candidates=values.get("MODEL.RPN.PRE_NMS_TOPK_TRAIN"),
        train_proposals=values.get("MODEL.RPN.POST_NMS_TOPK_TRAIN"),
        test_candidates=values.get("MODEL.RPN.PRE_NMS_TOPK_TEST"),
        test_proposals=values.get("MODEL.RPN.POST_NMS_TOPK_TEST"),
    )


def _retinanet(values: Values) -> RetinaNetHeadConfig:
    background, foreground = _thresholds(values, "MODEL.RETINANET.IOU_THRESHOLDS")
    return RetinaNetHeadConfig(
        **_anchors(values, 5),
        convs=_count(values, "MODEL.RETINANET.NUM_CONVS", MAX_LAYERS, 0),
        prior=values.get("MODEL.RETINANET.PRIOR_PROB"),
        foreground_iou=foreground,
        background_iou=background,
        focal_alpha=values.get("MODEL.RETINANET.FOCAL_LOSS_ALPHA"),
        focal_gamma=values.get("MODEL.RETINANET.FOCAL_LOSS_GAMMA"),
        box_loss=values.check("MODEL.RETINANET.BBOX_REG_LOSS_TYPE", ("smooth_l1", "giou")),
        smooth_l1_beta=values.get("MODEL.RETINANET.SMOOTH_L1_LOSS_BETA"),
        test_candidates=values.get("MODEL.RETINANET.TOPK_CANDIDATES_TEST"),
    )


# ------------------------------------------------------------------------------------------------------------- second stage


def _rois(values: Values, in_features: tuple[str, ...], c4: bool) -> RoIConfig:
    wanted = "Res5ROIHeads" if c4 else "StandardROIHeads"
    values.check("MODEL.ROI_HEADS.NAME", (wanted,), f"on these maps Boxwood has the heads of {wanted}")
    values.check("MODEL.ROI_HEADS.IN_FEATURES", (in_features,))
    if c4:
        values.switch_off("C4")
    pooler, ratio = values.check("MODEL.ROI_BOX_HEAD.POOLER_TYPE", tuple(POOLERS)), _ratio(values, "BOX")
    for head, there in (("MASK", values.get("MODEL.MASK_ON") and not c4), ("KEYPOINT", values.get("MODEL.KEYPOINT_ON"))):
        if there:
            values.check(f"MODEL.ROI_{head}_HEAD.POOLER_TYPE", (pooler,), f"all heads have the box head's, {pooler}")
            if _ratio(values, head) != ratio and pooler != "ROIPool":
                values.refuse(f"MODEL.ROI_{head}_HEAD.POOLER_SAMPLING_RATIO", f"all heads have the box head's, {ratio}")
    weights = values.get("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS")
    if len(weights) != 4 or min(weights) <= 0:
        values.refuse("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", "it must be four numbers more than 0")
        weights = (10.0, 10.0, 5.0, 5.0)
    thresholds = values.get("MODEL.ROI_HEADS.IOU_THRESHOLDS")
    if len(thresholds) != 1:
        values.refuse("MODEL.ROI_HEADS.IOU_THRESHOLDS", "it must be one number")
        thresholds = (0.5,)
    return RoIConfig(
        samples_per_image=values.get("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"),
        positive_fraction=values.get("MODEL.ROI_HEADS.POSITIVE_FRACTION"),
        foreground_iou=thresholds[0],
        class_agnostic=values.get("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"),
        box_weights=weights,
        smooth_l1_beta=values.get("MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA"),
        pooling="max" if pooler == "ROIPool" else "align",
        sampling_ratio=ratio,
        aligned=POOLERS[pooler],
    )


def _ratio(values: Values, head: str) -> int:
    """Points a cell and side; detectron2 reads every number below 1 as as many as the cell has map pixels."""
    key = f"MODEL.ROI_{head}_HEAD.POOLER_SAMPLING_RATIO"
    return 0 if values.get(key) <= 0 else _count(values, key, MAX_LAYERS)


def _box_head(values: Values, c4: bool) -> BoxHeadConfig:
    if c4:
        if values.get("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION") != 14:
            values.refuse("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "res5 works on 14 x 14 cells")
        return AverageHeadConfig(resolution=14)
    values.check("MODEL.ROI_BOX_HEAD.NAME", ("FastRCNNConvFCHead",))
    resolution = _count(values, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", MAX_LAYERS)
    width = _count(values, "MODEL.ROI_BOX_HEAD.FC_DIM", MAX_CHANNELS)
    convs, layers = _count(values, "MODEL.ROI_BOX_HEAD.NUM_CONV", MAX_LAYERS, 0), values.get("MODEL.ROI_BOX_HEAD.NUM_FC")
    norm, conv_width = _head_norm(values, "MODEL.ROI_BOX_HEAD.NORM"), _count(values, "MODEL.ROI_BOX_HEAD.CONV_DIM", MAX_CHANNELS)
    if (convs, layers) == (0, 2):
        return TwoFCHeadConfig(width=width, resolution=resolution)
    if layers != 1:
        values.refuse("MODEL.ROI_BOX_HEAD.NUM_FC", "a box head is two fully connected layers, or convolutions and one")
    return ConvFCHeadConfig(convs=convs, conv_width=conv_width, width=width, norm=norm, resolution=resolution)


def _mask_head(values: Values, c4: bool) -> ConvMaskHeadConfig | None:
    if not values.get("MODEL.MASK_ON"):
        values.switch_off("no masks")
        return None
    return ConvMaskHeadConfig(
        convs=_count(values, "MODEL.ROI_MASK_HEAD.NUM_CONV", MAX_LAYERS, 0),
        width=_count(values, "MODEL.ROI_MASK_HEAD.CONV_DIM", MAX_CHANNELS),
        norm=_head_norm(values, "MODEL.ROI_MASK_HEAD.NORM"),
        source="tail" if c4 else "maps",
        resolution=14 if c4 else _count(values, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", MAX_LAYERS),
    )


def _keypoint_head(values: Values, c4: bool) -> ConvKeypointHeadConfig | None:
    if not values.get("MODEL.KEYPOINT_ON"):
        values.switch_off("no keypoints")
        return None
    if c4:
        values.refuse("MODEL.KEYPOINT_ON", "detectron2's Res5ROIHeads have no keypoints")
    widths = values.get("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS")
    if not 1 <= len(widths) <= MAX_LAYERS or len(set(widths)) != 1 or not 1 <= widths[0] <= MAX_CHANNELS:
        values.refuse("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "all convolutions of the keypoint head have the same width")
        widths = (512,)
    resolution = _count(values, "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION", MAX_LAYERS)
    return ConvKeypointHeadConfig(convs=len(widths), width=widths[0], resolution=resolution)
