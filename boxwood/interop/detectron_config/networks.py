"""Converts Detectron's keys of the network to Boxwood's configuration."""

from __future__ import annotations

from typing import Literal

from boxwood.config import did_you_mean
from boxwood.interop.detectron_config.architecture import Plan, mask_head_name
from boxwood.interop.detectron_config.values import Values
from boxwood.models import ModelConfig, ProposerConfig, RCNNConfig, RetinaNetConfig, RFCNConfig
from boxwood.models.backbones import BackboneConfig, ResNetConfig, VGG16Config, VGGCNNM1024Config
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

_POOLING: dict[str, Literal["align", "max"]] = {"RoIAlign": "align", "RoIPoolF": "max"}
_BOX_HEADS = (
    "fast_rcnn_heads.add_roi_2mlp_head",
    "fast_rcnn_heads.add_roi_Xconv1fc_head",
    "fast_rcnn_heads.add_roi_Xconv1fc_gn_head",
    "ResNet.add_ResNet_roi_conv5_head",
    "VGG16.add_VGG16_roi_fc_head",
    "VGG_CNN_M_1024.add_VGG_CNN_M_1024_roi_fc_head",
)
_MASK_HEADS: dict[str, tuple[int, Literal["maps", "tail", "own_tail"], Literal["gn"] | None]] = {
    "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs": (4, "maps", None),
    "mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs_gn": (4, "maps", "gn"),
    "mask_rcnn_heads.mask_rcnn_fcn_head_v1up": (2, "maps", None),
    "mask_rcnn_heads.mask_rcnn_fcn_head_v0upshare": (0, "tail", None),
    "mask_rcnn_heads.mask_rcnn_fcn_head_v0up": (0, "own_tail", None),
}
"""Detectron's function -> number of convolutions, source of the features, norm."""
_KEYPOINT_HEAD = "keypoint_rcnn_heads.add_roi_pose_head_v1convX"


def make_model(values: Values, plan: Plan) -> ModelConfig:
    """The configuration of the network, in Detectron's geometry."""
    backbone, fpn = _backbone(values, plan), _fpn(values, plan)
    if plan.kind == "retinanet":
        model: ModelConfig = RetinaNetConfig(backbone=backbone, fpn=fpn or FPNConfig(top="conv_c5"), head=_retinanet(values))
        if fpn is None:
            values.forbid("FPN.FPN_ON", "RetinaNet has a pyramid")
    elif plan.kind == "rpn":
        model = ProposerConfig(backbone=backbone, fpn=fpn, rpn=_rpn(values, plan))
    elif plan.kind == "rfcn":
        if plan.conv_body.family != "resnet" or plan.conv_body.c4 or plan.conv_body.pyramid:
            values.forbid("MODEL.CONV_BODY", "R-FCN needs the conv5 backbone of a ResNet")
        rois, width = _rois(values, plan), 1024 if plan.reduced else None
        model = RFCNConfig(backbone=backbone, rpn=None, rois=rois, width=width, grid=values.get("RFCN.PS_GRID_SIZE"))
    else:
        model = RCNNConfig(
            backbone=backbone,
            fpn=fpn,
            rpn=_rpn(values, plan) if plan.has_rpn else None,
            rois=_rois(values, plan),
            box_head=_box_head(values, plan),
            mask_head=_mask_head(values, plan) if plan.masks else None,
            keypoint_head=_keypoint_head(values) if plan.keypoints else None,
        )
    model.geometry = "detectron1"
    model.size_divisor = values.get("FPN.COARSEST_STRIDE") if fpn is not None else 1
    blue, green, red = values.get("PIXEL_MEANS")[0][0]
    model.pixel_mean, model.pixel_std = (red, green, blue), (1.0, 1.0, 1.0)
    return model


# -------------------------------------------------------------------------------------------------------- backbone, pyramid


def _backbone(values: Values, plan: Plan) -> BackboneConfig:
    conv_body = plan.conv_body
    if plan.frozen_backbone and conv_body.pyramid:
        frozen_by = "TRAIN.FREEZE_CONV_BODY" if values.changed("TRAIN.FREEZE_CONV_BODY") else "MODEL.TYPE"
        values.refuse(frozen_by, "the pyramid is part of Detectron's backbone, and Boxwood's pyramid cannot be frozen")
    if conv_body.family == "vgg16":
        return VGG16Config(frozen_stages=5 if plan.frozen_backbone else 2, weights=None)
    if conv_body.family == "vgg_cnn_m_1024":
        return VGGCNNM1024Config(frozen_stages=5 if plan.frozen_backbone else 1)
    norm = "gn" if plan.group_norm else "bn"
    functions = {"TRANS_FUNC": f"bottleneck_{norm}_transformation", "STEM_FUNC": f"basic_{norm}_stem"}
    functions["SHORTCUT_FUNC"] = f"basic_{norm}_shortcut"
    for name, function in functions.items():
        function = function.replace("bottleneck_bn_", "bottleneck_")
        if values.get(f"RESNETS.{name}") != function:
            values.refuse(f"RESNETS.{name}", f"the backbone, its stem and its shortcuts have the same norm, here {function}")
    frozen = values.get("TRAIN.FREEZE_AT")
    if frozen not in (0, 2, 3, 4, 5):
        values.refuse("TRAIN.FREEZE_AT", "Detectron allowed 0, 2, 3, 4 and 5")
        frozen = 2
    if plan.frozen_backbone:
        frozen = 4 if conv_body.c4 else 5
    dilation = values.get("RESNETS.RES5_DILATION")
    if dilation not in (1, 2) or (dilation == 2 and conv_body.pyramid):
        values.refuse("RESNETS.RES5_DILATION", "res5 is dilated by 2 or not at all, and not below a pyramid")
    elif dilation == 2 and not conv_body.c4 and not values.get("RESNETS.STRIDE_1X1"):
        values.refuse("RESNETS.RES5_DILATION", "a 3x3 convolution that would stride is not dilated; Detectron dilated all of res5")
    dilated = dilation == 2 and not conv_body.c4 and not conv_body.pyramid
    return ResNetConfig(
        depth=conv_body.depth,
        groups=values.get("RESNETS.NUM_GROUPS"),
        width_per_group=values.get("RESNETS.WIDTH_PER_GROUP"),
        norm="gn" if plan.group_norm else "frozen_bn",
        stride_in="1x1" if values.get("RESNETS.STRIDE_1X1") else "3x3",
        last_stage="tail" if conv_body.c4 else "dilated" if dilated else "map",
        frozen_stages=frozen,
        weights=None,
    )


def _fpn(values: Values, plan: Plan) -> FPNConfig | None:
    if values.get("FPN.FPN_ON") != plan.conv_body.pyramid:
        values.forbid("FPN.FPN_ON", "it contradicts the backbone")
    if not plan.conv_body.pyramid:
        return None
    retinanet = plan.kind == "retinanet"
    levels = {"FPN.RPN_MIN_LEVEL": 3 if retinanet else 2, "FPN.RPN_MAX_LEVEL": 7 if retinanet else 6}
    for key, level in levels.items():
        if key not in values.taken and values.get(key) != level:
            values.refuse(key, f"the pyramid's anchors are on the levels {' to '.join(map(str, levels.values()))}")
    if values.get("FPN.EXTRA_CONV_LEVELS") != retinanet:
        values.refuse("FPN.EXTRA_CONV_LEVELS", "only RetinaNet has levels made by convolutions above the backbone")
    return FPNConfig(
        channels=values.get("FPN.DIM"),
        norm="gn" if values.get("FPN.USE_GN") else None,
        zero_init_lateral=values.get("FPN.ZERO_INIT_LATERAL"),
        top="conv_c5" if retinanet else "subsampled",
    )


# ------------------------------------------------------------------------------------------------------------------ anchors


def _rpn(values: Values, plan: Plan) -> RPNConfig:
    if plan.conv_body.pyramid:
        smallest = values.get("FPN.RPN_ANCHOR_START_SIZE")
        sizes: tuple[tuple[float, ...], ...] = tuple((float(smallest * 2**level),) for level in range(5))
        ratios = values.get("FPN.RPN_ASPECT_RATIOS")
    else:
        sizes, ratios = (tuple(map(float, values.get("RPN.SIZES"))),), values.get("RPN.ASPECT_RATIOS")
        whole = plan.conv_body.family == "resnet" and not plan.conv_body.c4 and values.get("RESNETS.RES5_DILATION") == 1
        if values.get("RPN.STRIDE") != (32 if whole else 16):
            values.refuse("RPN.STRIDE", f"the backbone's map has the stride {32 if whole else 16}")
    overlap = values.get("TEST.RPN_NMS_THRESH")
    if overlap <= 0:
        values.refuse("TEST.RPN_NMS_THRESH", "NMS of proposals is always on")
    if values.get("TRAIN.RPN_NMS_THRESH") != overlap and plan.kind != "rpn":  # an RPN alone makes no proposals in training
        values.refuse("TRAIN.RPN_NMS_THRESH", "training and testing have the same threshold, and TEST.RPN_NMS_THRESH differs")
    straddle = values.get("TRAIN.RPN_STRADDLE_THRESH")
    return RPNConfig(
        anchor_sizes=sizes,
        anchor_ratios=tuple(map(float, ratios)),
        straddle=float(straddle) if straddle >= 0 else None,
        foreground_iou=values.get("TRAIN.RPN_POSITIVE_OVERLAP"),
        background_iou=values.get("TRAIN.RPN_NEGATIVE_OVERLAP"),
        samples_per_image=values.get("TRAIN.RPN_BATCH_SIZE_PER_IM"),
        positive_fraction=values.get("TRAIN.RPN_FG_FRACTION"),
        nms_threshold=overlap,
        train_candidates=values.get("TRAIN.RPN_PRE_NMS_TOP_N"),
        train_proposals=values.get("TRAIN.RPN_POST_NMS_TOP_N"),
        test_candidates=values.get("TEST.RPN_PRE_NMS_TOP_N"),
        test_proposals=values.get("TEST.RPN_POST_NMS_TOP_N"),
    )


def _retinanet(values: Values) -> RetinaNetHeadConfig:
    scale, count = values.get("RETINANET.ANCHOR_SCALE"), values.get("RETINANET.SCALES_PER_OCTAVE")
    if not 1 <= count <= 100:
        values.refuse("RETINANET.SCALES_PER_OCTAVE", "it must be 1 to 100")
        count = 3
    return RetinaNetHeadConfig(
        anchor_sizes=tuple(tuple(scale * stride * 2 ** (part / count) for part in range(count)) for stride in (8, 16, 32, 64, 128)),
        anchor_ratios=tuple(map(float, values.get("RETINANET.ASPECT_RATIOS"))),
        convs=values.get("RETINANET.NUM_CONVS"),
        shared_tower=values.get("RETINANET.SHARE_CLS_BBOX_TOWER"),
        prior=values.get("RETINANET.PRIOR_PROB"),
        foreground_iou=values.get("RETINANET.POSITIVE_OVERLAP"),
        background_iou=values.get("RETINANET.NEGATIVE_OVERLAP"),
        focal_alpha=values.get("RETINANET.LOSS_ALPHA"),
        focal_gamma=values.get("RETINANET.LOSS_GAMMA"),
        smooth_l1_beta=values.get("RETINANET.BBOX_REG_BETA"),
        test_candidates=values.get("RETINANET.PRE_NMS_TOP_N"),
    )


# ------------------------------------------------------------------------------------------------------------- second stage


def _rois(values: Values, plan: Plan) -> RoIConfig:
    threshold = values.get("TRAIN.FG_THRESH")
    if values.get("TRAIN.BG_THRESH_HI") != threshold:
        values.refuse("TRAIN.BG_THRESH_HI", "every region below TRAIN.FG_THRESH is background")
    if values.get("TRAIN.BBOX_THRESH") > threshold:
        values.refuse("TRAIN.BBOX_THRESH", "every region from TRAIN.FG_THRESH on trains its box")
    values.ignore("TRAIN.BBOX_THRESH", "regions below TRAIN.FG_THRESH train no box")
    method, ratio = values.get("FAST_RCNN.ROI_XFORM_METHOD"), values.get("FAST_RCNN.ROI_XFORM_SAMPLING_RATIO")
    if method not in _POOLING:
        values.refuse("FAST_RCNN.ROI_XFORM_METHOD", f"it must be {' or '.join(_POOLING)}")
    for group, there in (("MRCNN", plan.masks), ("KRCNN", plan.keypoints)):
        if not there:
            continue
        if values.get(f"{group}.ROI_XFORM_METHOD") != method:
            values.refuse(f"{group}.ROI_XFORM_METHOD", f"all heads have the same pooling, and the box head has {method}")
        if values.get(f"{group}.ROI_XFORM_SAMPLING_RATIO") != ratio and method != "RoIPoolF":
            values.refuse(f"{group}.ROI_XFORM_SAMPLING_RATIO", f"all heads have the same pooling, and the box head has {ratio}")
    weights = values.get("MODEL.BBOX_REG_WEIGHTS")
    if len(weights) != 4:
        values.refuse("MODEL.BBOX_REG_WEIGHTS", "it must be four numbers")
        weights = (10.0, 10.0, 5.0, 5.0)
    pooled = plan.kind != "rfcn"  # R-FCN uses neither key
    return RoIConfig(
        samples_per_image=values.get("TRAIN.BATCH_SIZE_PER_IM"),
        positive_fraction=values.get("TRAIN.FG_FRACTION"),
        foreground_iou=threshold,
        class_agnostic=values.get("MODEL.CLS_AGNOSTIC_BBOX_REG"),
        box_weights=weights,
        pooling=_POOLING.get(method, "align") if pooled else "align",
        sampling_ratio=ratio if pooled else 2,
        aligned=False,
    )


def _box_head(values: Values, plan: Plan) -> BoxHeadConfig:
    values.get("FAST_RCNN.ROI_BOX_HEAD")
    name, width = plan.box_head, values.get("FAST_RCNN.MLP_HEAD_DIM")
    resolution = values.get("FAST_RCNN.ROI_XFORM_RESOLUTION")
    if name not in _BOX_HEADS:
        values.forbid("FAST_RCNN.ROI_BOX_HEAD", f"unknown head{did_you_mean(name, _BOX_HEADS)}")
    if name.startswith(("ResNet.", "VGG")):
        family = plan.conv_body.family
        wanted = {"resnet": "ResNet.add_ResNet_", "vgg16": "VGG16.", "vgg_cnn_m_1024": "VGG_CNN_M_1024."}[family]
        if not name.startswith(wanted) or (family == "resnet" and not plan.conv_body.c4):
            values.forbid("FAST_RCNN.ROI_BOX_HEAD", "the backbone has no such tail")
        fixed = {"resnet": 14, "vgg16": 7, "vgg_cnn_m_1024": 6}[family]
        if family != "resnet":
            values.ignore("FAST_RCNN.ROI_XFORM_RESOLUTION", f"this head always pools {fixed} x {fixed} cells")
        elif resolution != fixed:
            values.refuse("FAST_RCNN.ROI_XFORM_RESOLUTION", "res5 works on 14 x 14 cells")
        for key in ("MLP_HEAD_DIM", "CONV_HEAD_DIM", "NUM_STACKED_CONVS"):
            values.ignore(f"FAST_RCNN.{key}", "the head is the backbone's tail")
        return AverageHeadConfig(resolution=fixed)
    convs, conv_width = values.get("FAST_RCNN.NUM_STACKED_CONVS"), values.get("FAST_RCNN.CONV_HEAD_DIM")
    if "Xconv1fc" in name:
        norm: Literal["gn"] | None = "gn" if name.endswith("_gn_head") else None
        return ConvFCHeadConfig(convs=convs, conv_width=conv_width, width=width, norm=norm, resolution=resolution)
    for key in ("CONV_HEAD_DIM", "NUM_STACKED_CONVS"):
        values.ignore(f"FAST_RCNN.{key}", "the box head has no convolutions")
    return TwoFCHeadConfig(width=width, resolution=resolution)


def _mask_head(values: Values, plan: Plan) -> ConvMaskHeadConfig:
    name = mask_head_name(values)
    if name not in _MASK_HEADS:
        values.forbid("MRCNN.ROI_MASK_HEAD", f"unknown head{did_you_mean(name, _MASK_HEADS)}")
    convs, source, norm = _MASK_HEADS.get(name, (4, "maps", None))
    resolution = values.get("MRCNN.ROI_XFORM_RESOLUTION")
    if source != "maps":
        if not plan.conv_body.c4:
            values.forbid("MRCNN.ROI_MASK_HEAD", "the backbone has no tail")
        if resolution != 14:
            values.refuse("MRCNN.ROI_XFORM_RESOLUTION", "res5 works on 14 x 14 cells")
            resolution = 14
    side = resolution if source != "maps" else 2 * resolution
    if values.get("MRCNN.RESOLUTION") != side:
        values.refuse("MRCNN.RESOLUTION", f"this head makes masks of {side} x {side}")
    return ConvMaskHeadConfig(convs=convs, width=values.get("MRCNN.DIM_REDUCED"), norm=norm, source=source, resolution=resolution)


def _keypoint_head(values: Values) -> ConvKeypointHeadConfig:
    name = values.get("KRCNN.ROI_KEYPOINTS_HEAD")
    if name != _KEYPOINT_HEAD:
        values.forbid("KRCNN.ROI_KEYPOINTS_HEAD", f"only {_KEYPOINT_HEAD} exists")
    resolution = values.get("KRCNN.ROI_XFORM_RESOLUTION")
    if values.get("KRCNN.HEATMAP_SIZE") != 4 * resolution:
        values.refuse("KRCNN.HEATMAP_SIZE", f"this head makes heatmaps of {4 * resolution} x {4 * resolution}")
    convs, width = values.get("KRCNN.NUM_STACKED_CONVS"), values.get("KRCNN.CONV_HEAD_DIM")
    return ConvKeypointHeadConfig(convs=convs, width=width, resolution=resolution)
