"""Detectron's 87 files, generated from the table of their settings (tests/facts), independently of Boxwood's code."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.facts import FACTS

HOST = "https://dl.fbaipublicfiles.com/detectron"


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    config: str
    backbone: str
    stride: str
    kind: str
    classes: int
    gpus: int
    per_gpu: int
    lr: float
    steps: tuple[int, ...]
    scale: str
    proposals: str
    init: str

    @property
    def name(self) -> str:
        folder, _, stem = self.config.rpartition("/")
        return f"detectron/{folder}/{stem}" if folder == "test_time_aug" else f"detectron/{stem}"

    @property
    def tutorial(self) -> bool:
        """Its file has 256 RoIs per image, and COCO 2014's train set alone."""
        return self.config.startswith("getting_started/")

    @property
    def fpn(self) -> bool:
        return "conv5" in self.backbone

    @property
    def shorts(self) -> tuple[int, ...]:
        return {"800": (800,), "500": (500,), "jitter": (640, 672, 704, 736, 768, 800)}[self.scale]

    @property
    def long(self) -> int:
        return 833 if self.scale == "500" else 1333


def thousands(text: str) -> int:
    return round(float(text.removesuffix("k")) * 1000)


@cache
def rows() -> tuple[Row, ...]:
    """All 87 rows."""
    _, *lines = (FACTS / "detectron" / "configs.tsv").read_text(encoding="utf-8").splitlines()
    table = []
    for line in lines:
        config, backbone, stride, kind, classes, gpus, per_gpu, lr, steps, *rest = line.split("\t")
        numbers = (int(classes), int(gpus), int(per_gpu), float(lr))
        table.append(Row(config, backbone, stride, kind, *numbers, tuple(map(thousands, steps.split("/"))), *rest))
    return tuple(table)


@cache
def published() -> tuple[dict[str, Any], ...]:
    """The rows of Detectron's tables of models."""
    return tuple(json.loads((FACTS / "detectron" / "zoo.json").read_text(encoding="utf-8"))["baselines"])


@cache
def proposal_addresses() -> dict[tuple[str, str], str]:
    """(id of the model, data set) -> address of its proposals."""
    return {
        (str(row["model_id"]), name): address for row in published() for name, address in row["urls"].get("proposals", {}).items()
    }


def tree(row: Row) -> dict[str, dict[str, Any]]:
    """The contents of a row's file, by Detectron's keys, with values as in the file."""
    persons = row.classes == 2
    prefix = "keypoints_coco_2014" if persons else "coco_2014"
    sets = (f"{prefix}_train",) if row.tutorial else (f"{prefix}_train", f"{prefix}_valminusminival")
    match = re.fullmatch(r"ResNet(\d+)_conv(\d)(?: (\d+)x(\d+)d)?( GN)?", row.backbone)
    assert match is not None
    depth, conv, groups, width, gn = match.groups()
    keys: dict[str, dict[str, Any]] = {
        "MODEL": {
            "TYPE": "generalized_rcnn",
            "CONV_BODY": f"FPN.add_fpn_ResNet{depth}_conv5_body" if conv == "5" else f"ResNet.add_ResNet{depth}_conv4_body",
            "NUM_CLASSES": row.classes,
        },
        "SOLVER": {
            "WEIGHT_DECAY": 0.0001,
            "LR_POLICY": "steps_with_decay",
            "BASE_LR": row.lr,
            "GAMMA": 0.1,
            "MAX_ITER": row.steps[-1],
            "STEPS": [0, *row.steps[:-1]],
        },
        "FPN": {"FPN_ON": True, "MULTILEVEL_RPN": True} if row.fpn else {},
        "RESNETS": {} if row.stride == "1x1" else {"STRIDE_1X1": False},
        "TRAIN": {
            "DATASETS": str(sets),
            "SCALES": str(row.shorts),
            "MAX_SIZE": row.long,
            "IMS_PER_BATCH": row.per_gpu,
        },
        "TEST": {"DATASETS": f"('{prefix}_minival',)", "SCALE": row.shorts[-1], "MAX_SIZE": row.long},
    }
    if groups:
        keys["RESNETS"] |= {"NUM_GROUPS": int(groups), "WIDTH_PER_GROUP": int(width)}
    if gn:
        keys["RESNETS"] |= {
            "TRANS_FUNC": "bottleneck_gn_transformation",
            "STEM_FUNC": "basic_gn_stem",
            "SHORTCUT_FUNC": "basic_gn_shortcut",
        }
        keys["FPN"]["USE_GN"] = True
    if "scratch" in row.init:
        keys["TRAIN"]["FREEZE_AT"] = 0
    else:
        keys["TRAIN"]["WEIGHTS"] = f"{HOST}/ImageNetPretrained/{row.init}.pkl"
    if row.kind == "RetinaNet":
        add_retinanet(keys)
    elif row.kind == "RPN_ONLY":
        add_rpn_alone(keys, row, sets, prefix)
    else:
        add_second_stage(keys, row, bool(gn))
    if row.config.startswith("test_time_aug/") or "X-152" in row.config:
        add_augmentation(keys, row)
    return {group: values for group, values in keys.items() if values}


def add_retinanet(keys: dict[str, dict[str, Any]]) -> None:
    keys["MODEL"]["TYPE"] = "retinanet"
    keys["FPN"] |= {"RPN_MIN_LEVEL": 3, "RPN_MAX_LEVEL": 7, "COARSEST_STRIDE": 128, "EXTRA_CONV_LEVELS": True}
    keys["RETINANET"] = {
        "RETINANET_ON": True,
        "NUM_CONVS": 4,
        "ASPECT_RATIOS": "(1.0, 2.0, 0.5)",
        "SCALES_PER_OCTAVE": 3,
        "ANCHOR_SCALE": 4,
        "LOSS_GAMMA": 2.0,
        "LOSS_ALPHA": 0.25,
    }
    keys["TEST"] |= {"NMS": 0.5, "RPN_PRE_NMS_TOP_N": 10000, "RPN_POST_NMS_TOP_N": 2000}


def add_rpn_alone(keys: dict[str, dict[str, Any]], row: Row, sets: tuple[str, ...], prefix: str) -> None:
    keys["MODEL"]["RPN_ONLY"] = True
    others = ("keypoints_coco_2015_test",) if row.classes == 2 else ()
    keys["TEST"]["DATASETS"] = str((f"{prefix}_minival", *sets, *others))
    if row.fpn:
        keys["FPN"] |= {"RPN_MAX_LEVEL": 6, "RPN_MIN_LEVEL": 2, "RPN_ANCHOR_START_SIZE": 32, "RPN_ASPECT_RATIOS": "(0.5, 1, 2)"}
        keys["TEST"] |= {"RPN_PRE_NMS_TOP_N": 1000, "RPN_POST_NMS_TOP_N": 2000}
    else:
        keys["MODEL"]["TYPE"] = "rpn"
        keys["RPN"] = {"SIZES": "(32, 64, 128, 256, 512)"}


def add_second_stage(keys: dict[str, dict[str, Any]], row: Row, gn: bool) -> None:
    e2e = row.kind.startswith("e2e")
    keys["TEST"]["NMS"] = 0.5
    keys["TRAIN"]["BATCH_SIZE_PER_IM"] = 256 if row.tutorial else 512
    keys["FAST_RCNN"] = {"ROI_XFORM_METHOD": "RoIAlign"}
    if row.fpn:
        # Some of the files have the old name.
        head = "fast_rcnn_heads.add_roi_Xconv1fc_gn_head" if gn else "fast_rcnn_heads.add_roi_2mlp_head"
        head = "head_builder.add_roi_2mlp_head" if "mask_rcnn_X" in row.config and not gn else head
        keys["FAST_RCNN"] |= {"ROI_BOX_HEAD": head, "ROI_XFORM_RESOLUTION": 7, "ROI_XFORM_SAMPLING_RATIO": 2}
        keys["FPN"]["MULTILEVEL_ROIS"] = True
    else:
        keys["FAST_RCNN"]["ROI_BOX_HEAD"] = "ResNet.add_ResNet_roi_conv5_head"
        keys["RPN"] = {"SIZES": "(32, 64, 128, 256, 512)"}
    if e2e:
        keys["MODEL"]["FASTER_RCNN"] = True
        keys["TEST"] |= {"RPN_PRE_NMS_TOP_N": 1000 if row.fpn else 6000, "RPN_POST_NMS_TOP_N": 1000}
        keys["TRAIN"] |= {"RPN_PRE_NMS_TOP_N": 2000} if row.fpn else {}
    else:
        train, test = (keys[group]["DATASETS"] for group in ("TRAIN", "TEST"))
        for group, names in (("TRAIN", train), ("TEST", test)):
            files = tuple(proposal_addresses()[row.proposals, name] for name in re.findall(r"'(\w+)'", names))
            keys[group]["PROPOSAL_FILES"] = str(files)
        keys["TEST"]["PROPOSAL_LIMIT"] = 1000
    if "mask" in row.kind:
        keys["MODEL"]["MASK_ON"] = True
        kind = "v1up4convs" if row.fpn else "v0upshare"
        keys["MRCNN"] = {
            "ROI_MASK_HEAD": f"mask_rcnn_heads.mask_rcnn_fcn_head_{kind}" + ("_gn" if gn else ""),
            "RESOLUTION": 28 if row.fpn else 14,
            "ROI_XFORM_METHOD": "RoIAlign",
            "ROI_XFORM_RESOLUTION": 14,
            "DILATION": 1,
            "CONV_INIT": "MSRAFill",
        } | ({"ROI_XFORM_SAMPLING_RATIO": 2} if row.fpn else {})
    if "kps" in row.kind:
        keys["MODEL"] |= {"KEYPOINTS_ON": True} | ({"TYPE": "keypoint_rcnn"} if row.config.startswith("test_time_aug") else {})
        keys["KRCNN"] = {
            "ROI_KEYPOINTS_HEAD": "keypoint_rcnn_heads.add_roi_pose_head_v1convX",
            "NUM_STACKED_CONVS": 8,
            "NUM_KEYPOINTS": 17,
            "USE_DECONV_OUTPUT": True,
            "CONV_INIT": "MSRAFill",
            "CONV_HEAD_DIM": 512,
            "UP_SCALE": 2,
            "HEATMAP_SIZE": 56,
            "ROI_XFORM_METHOD": "RoIAlign",
            "ROI_XFORM_RESOLUTION": 14,
            "ROI_XFORM_SAMPLING_RATIO": 2,
            "KEYPOINT_CONFIDENCE": "bbox",
        }


def add_augmentation(keys: dict[str, dict[str, Any]], row: Row) -> None:
    scales = {"SCALES": "(400, 500, 600, 700, 900, 1000, 1100, 1200)", "MAX_SIZE": 2000, "H_FLIP": True, "SCALE_H_FLIP": True}
    kps = "kps" in row.kind
    heur = {"SCORE_HEUR": "AVG", "COORD_HEUR": "AVG"} if kps else {"SCORE_HEUR": "UNION", "COORD_HEUR": "UNION"}
    keys["TEST"] |= {"BBOX_AUG": {"ENABLED": True, **heur, **scales}}
    if kps:
        keys["TEST"]["KPS_AUG"] = {"ENABLED": True, "HEUR": "HM_AVG", "SCALE_SIZE_DEP": True, "AREA_TH": 22500, **scales}
    else:
        keys["TEST"] |= {
            "BBOX_VOTE": {"ENABLED": True, "VOTE_TH": 0.9},
            "MASK_AUG": {"ENABLED": True, "HEUR": "SOFT_AVG", **scales},
        }


def text(row: Row) -> str:
    """The text of the file of a row."""
    lines = []

    def write(keys: dict[str, Any], indent: str) -> None:
        for key, value in keys.items():
            if isinstance(value, dict):
                lines.append(f"{indent}{key}:")
                write(value, f"{indent}  ")
            else:
                lines.append(f"{indent}{key}: {value}")

    write({**tree(row), "NUM_GPUS": row.gpus, "OUTPUT_DIR": "."}, "")
    return "\n".join(lines) + "\n"
