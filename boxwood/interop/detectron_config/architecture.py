"""The architecture that Detectron's keys describe, and the keys that have no effect in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from boxwood.config import did_you_mean
from boxwood.interop.detectron_config.keys import KEYS
from boxwood.interop.detectron_config.values import Values

__all__ = ["BODIES", "Body", "Plan", "make_plan", "switch_off"]


@dataclass(frozen=True)
class Body:
    """A function of Detectron's that builds a backbone (``MODEL.CONV_BODY``)."""

    family: Literal["resnet", "vgg16", "vgg_cnn_m_1024"]
    depth: Literal[50, 101, 152] = 50
    c4: bool = False
    pyramid: bool = False


BODIES: dict[str, Body] = {
    "ResNet.add_ResNet50_conv4_body": Body("resnet", 50, c4=True),
    "ResNet.add_ResNet101_conv4_body": Body("resnet", 101, c4=True),
    "ResNet.add_ResNet50_conv5_body": Body("resnet", 50),
    "ResNet.add_ResNet101_conv5_body": Body("resnet", 101),
    "ResNet.add_ResNet152_conv5_body": Body("resnet", 152),
    "FPN.add_fpn_ResNet50_conv5_body": Body("resnet", 50, pyramid=True),
    "FPN.add_fpn_ResNet101_conv5_body": Body("resnet", 101, pyramid=True),
    "FPN.add_fpn_ResNet152_conv5_body": Body("resnet", 152, pyramid=True),
    "VGG16.add_VGG16_conv5_body": Body("vgg16"),
    "VGG_CNN_M_1024.add_VGG_CNN_M_1024_conv5_body": Body("vgg_cnn_m_1024"),
}

_SYNONYMS = ("fast_rcnn", "mask_rcnn", "keypoint_rcnn", "mask_and_keypoint_rcnn", "rpn", "fpn_rpn", "faster_rcnn")
"""Other names of generalized_rcnn; other keys define the architecture."""
_TYPES = ("generalized_rcnn", "retinanet", "rfcn")
_WIRED = re.compile(r"(VGG_CNN_M_1024|VGG16|ResNet50|ResNet101)_(fast_rcnn|rpn|rpn_conv4|faster_rcnn|rfcn)")
_FROZEN = "_frozen_features"

OLD_NAMES = {
    **{
        f"mask_rcnn_heads.ResNet_mask_rcnn_fcn_head_{end}": f"mask_rcnn_heads.mask_rcnn_fcn_head_{end}"
        for end in ("v1up4convs", "v1up", "v0upshare", "v0up")
    },
    "head_builder.add_roi_2mlp_head": "fast_rcnn_heads.add_roi_2mlp_head",
}
"""Names of functions in early versions of Detectron, and their later names."""


@dataclass(frozen=True)
class Plan:
    """The architecture to build."""

    kind: Literal["rcnn", "rpn", "retinanet", "rfcn"]
    conv_body: Body
    box_head: str
    has_rpn: bool
    masks: bool
    keypoints: bool
    group_norm: bool
    frozen_backbone: bool
    reduced: bool
    """R-FCN with a 1x1 convolution to 1024 channels before the score maps."""

    @property
    def second_stage(self) -> bool:
        return self.kind in ("rcnn", "rfcn")


def make_plan(values: Values) -> Plan:
    """Determine the architecture from the keys; contradictions become problems of ``values``."""
    name, body_name, box_head = values.get("MODEL.TYPE"), values.get("MODEL.CONV_BODY"), values.peek("FAST_RCNN.ROI_BOX_HEAD")
    type_ = name.removesuffix(_FROZEN)
    frozen = name != type_ or values.get("TRAIN.FREEZE_CONV_BODY")
    wired = _WIRED.fullmatch(type_)
    if wired:
        body_name, box_head = _wired(wired[1], wired[2], box_head)
        type_ = "rfcn" if wired[2] == "rfcn" else "generalized_rcnn"
        values.note("MODEL.TYPE", name, "read as", f"{type_} on {body_name}")
    elif type_ in _SYNONYMS:
        type_ = "generalized_rcnn"
        values.note("MODEL.TYPE", name, "read as", type_)
    elif name != type_:
        values.note("MODEL.TYPE", name, "read as", f"{type_} with TRAIN.FREEZE_CONV_BODY")
    if type_ not in _TYPES:
        values.forbid("MODEL.TYPE", f"Detectron had no such model{did_you_mean(type_, _TYPES)}")
        type_ = "generalized_rcnn"
    rpn_only, faster = values.get("MODEL.RPN_ONLY"), values.get("MODEL.FASTER_RCNN")
    masks, keypoints = values.get("MODEL.MASK_ON"), values.get("MODEL.KEYPOINTS_ON")
    kind: Literal["rcnn", "rpn", "retinanet", "rfcn"] = (
        "retinanet" if type_ == "retinanet" else "rfcn" if type_ == "rfcn" else "rpn" if rpn_only else "rcnn"
    )
    _contradictions(values, kind, wired is not None)
    conv_body = BODIES.get(body_name)
    if conv_body is None:
        unknown = f"unknown backbone{did_you_mean(body_name, BODIES)}"
        values.forbid("MODEL.CONV_BODY", "no detector can be built on it alone" if "P2only" in body_name else unknown)
        conv_body = Body("resnet", pyramid=values.get("FPN.FPN_ON"))
    group_norm = conv_body.family == "resnet" and "_gn_" in values.peek("RESNETS.TRANS_FUNC")
    return Plan(
        kind,
        conv_body,
        _renamed(values, "FAST_RCNN.ROI_BOX_HEAD", box_head),
        has_rpn=kind == "rpn" or (kind == "rcnn" and faster),
        masks=kind == "rcnn" and masks,
        keypoints=kind == "rcnn" and keypoints,
        group_norm=group_norm,
        frozen_backbone=frozen,
        reduced=wired is not None,
    )


def mask_head_name(values: Values) -> str:
    """Detectron's function that builds the mask head, by its later name."""
    return _renamed(values, "MRCNN.ROI_MASK_HEAD", values.get("MRCNN.ROI_MASK_HEAD"))


def _renamed(values: Values, key: str, name: str) -> str:
    if name in OLD_NAMES:
        values.note(key, name, "read as", f"{OLD_NAMES[name]}, its later name")
    return OLD_NAMES.get(name, name)


def _wired(backbone: str, task: str, head: str) -> tuple[str, str]:
    """The functions of the backbone and the box head that a model type of early versions implies."""
    if backbone.startswith("VGG"):
        return f"{backbone}.add_{backbone}_conv5_body", f"{backbone}.add_{backbone}_roi_fc_head"
    if task == "rfcn":
        return f"ResNet.add_{backbone}_conv5_body", head
    return f"ResNet.add_{backbone}_conv4_body", "ResNet.add_ResNet_roi_conv5_head"


def _contradictions(values: Values, kind: str, wired: bool) -> None:
    if values.get("RETINANET.RETINANET_ON") != (kind == "retinanet"):
        values.forbid("RETINANET.RETINANET_ON", "it contradicts MODEL.TYPE")
    for key in ("MODEL.MASK_ON", "MODEL.KEYPOINTS_ON"):
        if values.get(key) and kind != "rcnn":
            values.refuse(key, f"{kind} has no such head")
    if values.get("MODEL.RPN_ONLY") and (kind in ("retinanet", "rfcn") or values.get("MODEL.FASTER_RCNN")):
        values.refuse("MODEL.RPN_ONLY", "it contradicts MODEL.TYPE or MODEL.FASTER_RCNN")
    if values.get("MODEL.FASTER_RCNN") and kind in ("retinanet", "rfcn"):
        values.refuse("MODEL.FASTER_RCNN", f"Detectron's {kind} had no RPN")
    if wired:
        values.ignore("MODEL.CONV_BODY", "MODEL.TYPE defines the backbone")


def switch_off(values: Values, plan: Plan) -> None:
    """Ignore the keys that have no effect in this architecture; those with another value than the default get a note."""

    def off(why: str, *beginnings: str) -> None:
        for key in KEYS:
            if key not in values.taken and key.startswith(beginnings):
                values.ignore(key, why)

    for key, entry in KEYS.items():
        if entry.fate == "ignored":
            values.ignore(key, entry.text)
    for group in ("TEST.BBOX_AUG", "TEST.MASK_AUG", "TEST.KPS_AUG", "TEST.SOFT_NMS", "TEST.BBOX_VOTE"):
        if not values.values.get(f"{group}.ENABLED", False):
            off(f"{group}.ENABLED is false", f"{group}.")
    if not values.values.get("EXPECTED_RESULTS"):
        off("EXPECTED_RESULTS is empty", "EXPECTED_RESULTS_")
    if plan.kind == "rpn":
        off("an RPN alone has no detections", "TEST.DETECTIONS", "TEST.SOFT", "TEST.BBOX_VOTE", "TEST.BBOX_AUG", "TEST.SCORE")
    if plan.kind == "retinanet":
        off("RetinaNet did not read it", "TEST.BBOX_VOTE", "TEST.BBOX_AUG", "TEST.SCORE", "TRAIN.CROWD", "TRAIN.GT_MIN_AREA")
    if plan.kind != "retinanet":
        off("there is no RetinaNet", "RETINANET.")
    if not plan.second_stage:
        off(
            "there is no second stage",
            *("FAST_RCNN.", "TRAIN.BATCH_SIZE_PER_IM", "TRAIN.FG_", "TRAIN.BG_", "TRAIN.BBOX_THRESH", "TRAIN.CROWD"),
            *("MODEL.CLS_AGNOSTIC", "MODEL.BBOX_REG", "TEST.BBOX_REG", "FPN.MULTILEVEL_ROIS", "FPN.ROI_"),
        )
    if not plan.has_rpn:
        off("there is no RPN", "RPN.", "FPN.RPN_ASPECT", "FPN.RPN_ANCHOR", "TRAIN.RPN_", "TEST.RPN_")
    if plan.has_rpn or plan.kind == "retinanet":
        off("it applies to given proposals", "TEST.PROPOSAL", "DEDUP_BOXES", "TRAIN.CROWD", "KRCNN.MIN_KEYPOINT")
    if not plan.conv_body.pyramid:
        off("FPN.FPN_ON is false", *(key for key in KEYS if key.startswith("FPN.") and key != "FPN.FPN_ON"))
    elif plan.has_rpn:
        off("FPN.RPN_* define the anchors of a pyramid", "RPN.")
    elif plan.kind != "retinanet":
        off("there is no RPN", "FPN.MULTILEVEL_RPN", "FPN.RPN_")
    if not plan.masks:
        off("there are no masks", "MRCNN.", "TEST.MASK_AUG")
    if not plan.keypoints:
        off("there are no keypoints", "KRCNN.", "TEST.KPS_AUG")
    if plan.kind != "rfcn":
        off("there is no R-FCN", "RFCN.")
    else:
        off("R-FCN has position-sensitive pooling", "FAST_RCNN.")
    if plan.conv_body.family != "resnet":
        off("the backbone is no ResNet", "RESNETS.", "TRAIN.FREEZE_AT")
    if not (plan.group_norm or values.values.get("FPN.USE_GN") or "_gn" in plan.box_head + values.peek("MRCNN.ROI_MASK_HEAD")):
        off("there is no group norm", "GROUP_NORM.", "SOLVER.WEIGHT_DECAY_GN")
    if not values.values.get("SOLVER.WARM_UP_ITERS", 500):
        off("SOLVER.WARM_UP_ITERS is 0", "SOLVER.WARM_UP_FACTOR", "SOLVER.WARM_UP_METHOD")
