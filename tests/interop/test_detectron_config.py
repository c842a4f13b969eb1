"""Import of Detectron's configuration files: keys are carried over, refused or noted, and none is dropped silently."""

from __future__ import annotations

import base64
import copy
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from boxwood import safe_yaml
from boxwood.config import ConfigError, differences, from_yaml
from boxwood.errors import UserError
from boxwood.interop.detectron_config import Converted, from_detectron, from_embedded, import_yaml, parse_embedded
from boxwood.interop.detectron_config.keys import DEPRECATED, KEYS, RENAMED
from boxwood.interop.detectron_config.values import read_pairs, read_values
from boxwood.models.inference_config import BoxViewsConfig, MaskViewsConfig, SoftNMSConfig, VoteConfig
from boxwood.recipes import resolve
from boxwood.run_config import RunConfig
from tests.interop import detectron_files

HOST = detectron_files.HOST
PERSONS = f"{HOST}/35998996/12_2017_baselines/rpn_person_only_R-50-FPN_1x.yaml.a.b/output/test"

MASK = f"""
MODEL:
  TYPE: generalized_rcnn
  CONV_BODY: FPN.add_fpn_ResNet50_conv5_body
  NUM_CLASSES: 81
  FASTER_RCNN: True
  MASK_ON: True
NUM_GPUS: 8
SOLVER:
  WEIGHT_DECAY: 0.0001
  LR_POLICY: steps_with_decay
  BASE_LR: 0.02
  GAMMA: 0.1
  MAX_ITER: 90000
  STEPS: [0, 60000, 80000]
FPN:
  FPN_ON: True
  MULTILEVEL_ROIS: True
  MULTILEVEL_RPN: True
FAST_RCNN:
  ROI_BOX_HEAD: fast_rcnn_heads.add_roi_2mlp_head
  ROI_XFORM_METHOD: RoIAlign
  ROI_XFORM_RESOLUTION: 7
  ROI_XFORM_SAMPLING_RATIO: 2
MRCNN:
  ROI_MASK_HEAD: mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs
  RESOLUTION: 28
  ROI_XFORM_METHOD: RoIAlign
  ROI_XFORM_RESOLUTION: 14
  ROI_XFORM_SAMPLING_RATIO: 2
  DILATION: 1
  CONV_INIT: MSRAFill
TRAIN:
  WEIGHTS: {HOST}/ImageNetPretrained/MSRA/R-50.pkl
  DATASETS: ('coco_2014_train', 'coco_2014_valminusminival')
  SCALES: (800,)
  MAX_SIZE: 1333
  BATCH_SIZE_PER_IM: 512
  RPN_PRE_NMS_TOP_N: 2000
TEST:
  DATASETS: ('coco_2014_minival',)
  SCALE: 800
  MAX_SIZE: 1333
  NMS: 0.5
  RPN_PRE_NMS_TOP_N: 1000
  RPN_POST_NMS_TOP_N: 1000
OUTPUT_DIR: .
"""

KEYPOINTS = f"""
MODEL: {{TYPE: keypoint_rcnn, CONV_BODY: FPN.add_fpn_ResNet50_conv5_body, NUM_CLASSES: 2, KEYPOINTS_ON: True}}
NUM_GPUS: 8
SOLVER: {{WEIGHT_DECAY: 1e-4, LR_POLICY: steps_with_decay, BASE_LR: 0.02, MAX_ITER: 130000, STEPS: [0, 100000, 120000]}}
FPN: {{FPN_ON: True, MULTILEVEL_ROIS: True, MULTILEVEL_RPN: True}}
FAST_RCNN:
  ROI_BOX_HEAD: head_builder.add_roi_2mlp_head
  ROI_XFORM_METHOD: RoIAlign
  ROI_XFORM_RESOLUTION: 7
  ROI_XFORM_SAMPLING_RATIO: 2
KRCNN:
  ROI_KEYPOINTS_HEAD: keypoint_rcnn_heads.add_roi_pose_head_v1convX
  NUM_STACKED_CONVS: 8
  NUM_KEYPOINTS: 17
  USE_DECONV_OUTPUT: True
  CONV_INIT: MSRAFill
  CONV_HEAD_DIM: 512
  UP_SCALE: 2
  HEATMAP_SIZE: 56
  ROI_XFORM_RESOLUTION: 14
  ROI_XFORM_SAMPLING_RATIO: 2
TRAIN:
  WEIGHTS: {HOST}/ImageNetPretrained/MSRA/R-50.pkl
  DATASETS: ('keypoints_coco_2014_train', 'keypoints_coco_2014_valminusminival')
  PROPOSAL_FILES:
    - {PERSONS}/keypoints_coco_2014_train/generalized_rcnn/rpn_proposals.pkl
    - {PERSONS}/keypoints_coco_2014_valminusminival/generalized_rcnn/rpn_proposals.pkl
  SCALES: (640, 672, 704, 736, 768, 800)
  MAX_SIZE: 1333
  BATCH_SIZE_PER_IM: 512
TEST:
  DATASETS: ('keypoints_coco_2014_minival',)
  PROPOSAL_FILES: ('{PERSONS}/keypoints_coco_2014_minival/generalized_rcnn/rpn_proposals.pkl',)
  PROPOSAL_LIMIT: 1000
  SCALE: 800
  MAX_SIZE: 1333
  NMS: 0.5
"""

RETINANET = f"""
MODEL: {{TYPE: retinanet, CONV_BODY: FPN.add_fpn_ResNet101_conv5_body, NUM_CLASSES: 81}}
NUM_GPUS: 8
SOLVER: {{WEIGHT_DECAY: 0.0001, LR_POLICY: steps_with_decay, BASE_LR: 0.01, MAX_ITER: 90000, STEPS: [0, 60000, 80000]}}
FPN:
  FPN_ON: True
  MULTILEVEL_RPN: True
  RPN_MAX_LEVEL: 7
  RPN_MIN_LEVEL: 3
  COARSEST_STRIDE: 128
  EXTRA_CONV_LEVELS: True
RETINANET: {{RETINANET_ON: True, ASPECT_RATIOS: "(1.0, 2.0, 0.5)"}}
RESNETS: {{STRIDE_1X1: False, NUM_GROUPS: 32, WIDTH_PER_GROUP: 8}}
TRAIN:
  WEIGHTS: {HOST}/ImageNetPretrained/20171220/X-101-32x8d.pkl
  DATASETS: ('coco_2014_train', 'coco_2014_valminusminival')
  SCALES: (800,)
  MAX_SIZE: 1333
TEST: {{DATASETS: "('coco_2014_minival',)", SCALE: 800, MAX_SIZE: 1333, NMS: 0.5}}
"""

C4 = f"""
MODEL: {{TYPE: faster_rcnn, CONV_BODY: ResNet.add_ResNet50_conv4_body, NUM_CLASSES: 81, FASTER_RCNN: True}}
NUM_GPUS: 8
SOLVER: {{WEIGHT_DECAY: 0.0001, LR_POLICY: steps_with_decay, BASE_LR: 0.01, MAX_ITER: 180000, STEPS: [0, 120000, 160000]}}
RPN: {{SIZES: "(32, 64, 128, 256, 512)"}}
FAST_RCNN: {{ROI_BOX_HEAD: ResNet.add_ResNet_roi_conv5_head, ROI_XFORM_METHOD: RoIAlign}}
TRAIN:
  WEIGHTS: {HOST}/ImageNetPretrained/MSRA/R-50.pkl
  DATASETS: ('coco_2014_train', 'coco_2014_valminusminival')
  SCALES: (800,)
  MAX_SIZE: 1333
  IMS_PER_BATCH: 1
  BATCH_SIZE_PER_IM: 512
TEST:
  DATASETS: ('coco_2014_minival',)
  SCALE: 800
  MAX_SIZE: 1333
  NMS: 0.5
  RPN_PRE_NMS_TOP_N: 6000
  RPN_POST_NMS_TOP_N: 1000
"""

BY_HAND = {
    "detectron/e2e_mask_rcnn_R-50-FPN_1x": MASK,
    "detectron/keypoint_rcnn_R-50-FPN_s1x": KEYPOINTS,
    "detectron/retinanet_X-101-32x8d-FPN_1x": RETINANET,
    "detectron/e2e_faster_rcnn_R-50-C4_1x": C4,
}


@cache
def parsed(text: str) -> dict[str, Any]:
    return safe_yaml.parse_mapping(text, "old.yaml")[0]


def convert(text: str, *pairs: str, **options: Any) -> Converted:
    """Convert the text of a file, with KEY VALUE pairs merged into it."""
    tree = copy.deepcopy(parsed(text))
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        *groups, last = key.split(".")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return from_detectron(tree, **options)


def problems(text: str, *pairs: str, **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        convert(text, *pairs, **options)
    return list(caught.value.problems)


@pytest.mark.parametrize("name", BY_HAND)
def test_files_written_by_hand_become_the_recipes(name: str) -> None:
    assert differences(convert(BY_HAND[name]).config, resolve(name)) == []


def test_all_keys_are_listed() -> None:
    assert len(KEYS) == 229
    assert not set(KEYS) & {*DEPRECATED, *RENAMED} and set(RENAMED.values()) <= set(KEYS)
    assert all(entry.default in entry.honoured or len(entry.honoured) for entry in KEYS.values() if entry.fate == "same")


def other(key: str) -> str:
    """A value of the right type other than the default."""
    default, items = KEYS[key].default, KEYS[key].items
    if key == "PIXEL_MEANS":
        return "[[[1.0, 2.0, 3.0]]]"
    if isinstance(default, bool):
        return str(not default)
    if isinstance(default, int | float):
        return str(default * 2 + 3 if isinstance(default, int) else default * 0.5 + 0.0625)
    if isinstance(default, str):
        return "else"
    return str(type(default)([*default, "else" if items is str else 7]))


def given(text: str, key: str) -> Any:
    group, _, last = key.rpartition(".")
    inner = parsed(text)
    for name in group.split(".") if group else ():
        inner = inner.get(name, {})
    return inner.get(last)


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("group", sorted({key.partition(".")[0] for key in KEYS}))
def test_no_key_is_dropped_silently(name: str, group: str) -> None:
    """Changing any key changes the configuration, or is an error, or adds a note that names the key."""
    text = BY_HAND[name]
    before = convert(text)
    for key in KEYS:
        if key.partition(".")[0] == group and str(given(text, key)) != other(key):
            try:
                after = convert(text, key, other(key))
            except ConfigError:
                continue
            noted = any(note.key == key for note in after.notes)
            assert noted or differences(before.config, after.config), f"{key} = {other(key)}"


@pytest.mark.parametrize(
    ("text", "key", "value", "wanted"),
    [
        (MASK, "TRAIN.RPN_STRADDLE_THRESH", "-1", ("model.rpn.straddle", 0.0, None)),
        (MASK, "TRAIN.USE_FLIPPED", "False", ("data.train.transforms.1", {"kind": "horizontal_flip", "p": 0.5}, None)),
        (MASK, "TRAIN.BATCH_SIZE_PER_IM", "128", ("model.rois.samples_per_image", 512, 128)),
        (MASK, "TRAIN.FREEZE_AT", "3", ("model.backbone.frozen_stages", 2, 3)),
        (MASK, "MODEL.CLS_AGNOSTIC_BBOX_REG", "yes", ("model.rois.class_agnostic", False, True)),
        (MASK, "MRCNN.DIM_REDUCED", "128", ("model.mask_head.width", 256, 128)),
        (MASK, "RNG_SEED", "7", ("train.seed", 3, 7)),
        (MASK, "SOLVER.BASE_LR", "1", ("optim.lr", 0.02, 1.0)),  # a whole number, which Detectron refused
        (MASK, "SOLVER.MAX_ITER", "90000.0", None),
        (MASK, "SOLVER.LR_POLICY", "cosine_decay", ("optim.schedule.kind", "step", "cosine")),
        (MASK, "TEST.DATASETS", "('coco_2014_val',)", ("data.val.images", "data/coco/val2017", "data/coco/val2014")),
        (MASK, "PIXEL_MEANS", "(1.0, 2.0, 3.0)", ("model.pixel_mean", [122.7717, 115.9465, 102.9801], [3.0, 2.0, 1.0])),
        (MASK, "TRAIN.WEIGHTS", "mine.pkl", ("train.weights", "detectron/imagenet/R-50", "mine.pkl")),
        (RETINANET, "RETINANET.SHARE_CLS_BBOX_TOWER", "True", ("model.head.shared_tower", False, True)),
        (RETINANET, "RETINANET.INFERENCE_TH", "0.1", ("test.score_threshold", 0.05, 0.1)),
        (C4, "TRAIN.FREEZE_CONV_BODY", "True", ("model.backbone.frozen_stages", 2, 4)),
        (C4, "MODEL.TYPE", "ResNet50_faster_rcnn", None),
        (C4, "TRAIN.DATASETS", "('voc_2007_train',)", "MODEL.NUM_CLASSES = 81 cannot be honoured: the data set has 21"),
    ],
)
def test_single_keys(text: str, key: str, value: str, wanted: tuple[str, Any, Any] | str | None) -> None:
    if isinstance(wanted, str):
        assert wanted in problems(text, key, value)[0]
        return
    changed = differences(convert(text).config, convert(text, key, value).config)
    assert (wanted in changed) if wanted else (changed == [])


def test_other_networks() -> None:
    """Networks that Detectron could build, but that none of the 87 files describes."""
    vgg = convert(C4, "MODEL.TYPE", "VGG16_faster_rcnn", "FAST_RCNN.ROI_BOX_HEAD", "", "MODEL.CONV_BODY", "").config.model
    assert vgg.title == "Faster R-CNN, VGG16"
    small = convert(
        C4,
        *("MODEL.TYPE", "generalized_rcnn", "MODEL.CONV_BODY", "VGG_CNN_M_1024.add_VGG_CNN_M_1024_conv5_body"),
        *("FAST_RCNN.ROI_BOX_HEAD", "VGG_CNN_M_1024.add_VGG_CNN_M_1024_roi_fc_head", "FAST_RCNN.ROI_XFORM_METHOD", "RoIPoolF"),
    ).config.model
    assert small.title == "Faster R-CNN, VGG-CNN-M-1024" and small.rois.pooling == "max"  # type: ignore[attr-defined]
    rfcn = convert(
        C4,
        *("MODEL.TYPE", "rfcn", "MODEL.CONV_BODY", "ResNet.add_ResNet101_conv5_body", "RESNETS.RES5_DILATION", "2"),
        *("MODEL.FASTER_RCNN", "False", "RFCN.PS_GRID_SIZE", "7", "TRAIN.PROPOSAL_FILES", "('a.pkl', 'b.pkl')"),
        *("TEST.PROPOSAL_FILES", "('c.pkl',)"),
    ).config
    model: Any = rfcn.model
    assert (model.title, model.grid, model.width, model.backbone.last_stage) == ("R-FCN, ResNet-101", 7, None, "dilated")
    assert rfcn.data.train.proposals == ("a.pkl", "b.pkl")  # type: ignore[attr-defined]
    both = convert(KEYPOINTS, "MODEL.TYPE", "mask_and_keypoint_rcnn", *mask_keys()).config.model
    assert both.title == "Mask and Keypoint R-CNN on given proposals, ResNet-50-FPN"


def mask_keys() -> list[str]:
    tree, _ = safe_yaml.parse_mapping(MASK, "")
    pairs = [("MODEL.MASK_ON", "True"), *((f"MRCNN.{key}", str(value)) for key, value in tree["MRCNN"].items())]
    return [word for pair in pairs for word in pair]


def test_res5_is_dilated_where_it_strides_in_1x1() -> None:
    pairs = ("MODEL.TYPE", "ResNet50_rfcn", "MODEL.FASTER_RCNN", "False", "RESNETS.RES5_DILATION", "2")
    files = ("TRAIN.PROPOSAL_FILES", "('a.pkl', 'b.pkl')", "TEST.PROPOSAL_FILES", "('c.pkl',)")
    model: Any = convert(C4, *pairs, *files).config.model
    assert (model.backbone.last_stage, model.width) == ("dilated", 1024)
    assert "Detectron dilated all of res5" in problems(C4, *pairs, *files, "RESNETS.STRIDE_1X1", "False")[0]
    assert "it must name a data set" not in problems(C4, *pairs)[0] and len(problems(C4, *pairs)) == 2


def test_schedules() -> None:
    def optim(*pairs: str) -> Any:
        return convert(MASK, *pairs).config.optim

    stepped = optim("SOLVER.LR_POLICY", "step", "SOLVER.STEP_SIZE", "30000", "SOLVER.STEPS", "[]")
    assert [round(drop * 90_000) for drop in stepped.schedule.drops] == [30_000, 60_000]
    rates = optim("SOLVER.LR_POLICY", "steps_with_lrs", "SOLVER.LRS", "[0.04, 0.02, 0.01]")
    assert (rates.lr, rates.schedule.gamma, len(rates.schedule.drops)) == (0.04, 0.5, 2)
    assert optim("SOLVER.WARM_UP_ITERS", "0", "SOLVER.WARM_UP_METHOD", "constant").warmup_steps == 0
    for pairs, key in (
        (("SOLVER.LR_POLICY", "exp_decay"), "SOLVER.LR_POLICY"),
        (("SOLVER.LR_POLICY", "steps_with_lrs", "SOLVER.LRS", "[0.04, 0.02, 0.001]"), "SOLVER.LRS"),
        (("SOLVER.STEPS", "[10, 20]"), "SOLVER.STEPS"),
        (("SOLVER.WARM_UP_METHOD", "constant"), "SOLVER.WARM_UP_METHOD"),
        (("SOLVER.LR_POLICY", "step", "SOLVER.STEP_SIZE", "0"), "SOLVER.STEP_SIZE"),
    ):
        assert [problem.split(" = ")[0] for problem in problems(MASK, *pairs)] == [key]


def test_old_names_are_read_and_noted() -> None:
    text = MASK.replace("mask_rcnn_heads.mask_rcnn_fcn_head_v1up4", "mask_rcnn_heads.ResNet_mask_rcnn_fcn_head_v1up4")
    text = text.replace("fast_rcnn_heads.add_roi_2mlp_head", "head_builder.add_roi_2mlp_head")
    text = text.replace("ROI_MASK_HEAD", "MASK_HEAD_NAME").replace("generalized_rcnn", "mask_rcnn")
    text = text.replace("DATASETS: ('coco_2014_minival',)", "DATASET: coco_2014_minival").replace("SCALE: 800", "SCALES: (800,)")
    text = text.replace(
        "DATASETS: ('coco_2014_train', 'coco_2014_valminusminival')", "DATASET: coco_2014_train:coco_2014_valminusminival"
    )
    converted = convert(text + "USE_GPU_NMS: True\nFINAL_MSG: done\n")
    assert differences(converted.config, resolve("detectron/e2e_mask_rcnn_R-50-FPN_1x")) == []
    noted = {note.key: note.what for note in converted.notes}
    assert noted["USE_GPU_NMS"] == noted["FINAL_MSG"] == "ignored"
    for key in ("TRAIN.DATASET", "TEST.DATASET", "TEST.SCALES", "MRCNN.MASK_HEAD_NAME", "MODEL.TYPE", "FAST_RCNN.ROI_BOX_HEAD"):
        assert noted[key] == "read as"
    assert "stands" not in str(converted.notes) and "keep one" in problems(MASK, "TEST.DATASET", "coco_2014_val")[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.BASE_LR", "0.005 # low"),
        ("NUM_GPUS", "2 #"),
        ("MODEL.MASK_ON", "True # masks"),
        ("TRAIN.SCALES", "(800, # large\n 600)"),
        ("TRAIN.WEIGHTS", "2017 #2"),
        ("TRAIN.WEIGHTS", "'a.pkl' # mine"),
        ("TRAIN.DATASET", "'coco_2014_train' # all"),
    ],
)
def test_a_value_is_not_cut_at_a_comment(key: str, value: str) -> None:
    (problem,) = read_values(read_pairs([key, value])).problems.values()
    assert problem.startswith(f"{key} should stand without a comment; remove it, or put text that holds '#' in quotes, got ")
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("photos #2", "photos #2"),
        ("'photos #2'", "photos #2"),
        ("a#2", "a#2"),
        ("#2", "#2"),
        ("1e3", "1e3"),
        ("1_000", "1_000"),
        ("True", "True"),
        ("2017", "2017"),
    ],
)
def test_text_is_read_as_it_is_written(written: str, read: str) -> None:
    assert read_values(read_pairs(["OUTPUT_DIR", written])).values == {"OUTPUT_DIR": read}


def test_all_problems_are_listed_at_once() -> None:
    all_problems = problems(
        MASK,
        *("TEST.BBOX_REG", "False", "MRCNN.UPSAMPLE_RATIO", "2", "MODEL.TIPE", "x", "SOLVER.MAX_ITER", "many"),
        *("SOLVER.GAMMA", "-1", "TRAIN.SCALES", "(800, 'x')", "TEST.NMS", "[1]", "FPN", "on"),
    )
    assert len(all_problems) >= 7
    message = "\n".join(all_problems)
    for part in (
        "TEST.BBOX_REG = False cannot be honoured: boxes are always regressed",
        "MRCNN.UPSAMPLE_RATIO = 2 cannot be honoured",
        "unknown key 'MODEL.TIPE' (did you mean 'MODEL.TYPE'?)",
        "SOLVER.MAX_ITER should be a whole number, got 'many'",
        "TRAIN.SCALES should be a list of whole numbers",
        "TEST.NMS should be a number, got '[1]'",
        "FPN should be a mapping of keys to values, got 'on'",
        "'gamma' should be greater than 0, got -1.0",
    ):
        assert part in message, all_problems


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.TYPE", "dense_rcnn"),
        ("MODEL.CONV_BODY", "FPN.add_fpn_ResNet50_conv5_P2only_body"),
        ("FAST_RCNN.ROI_BOX_HEAD", "VGG16.add_VGG16_roi_fc_head"),
        ("MRCNN.ROI_MASK_HEAD", "mine.head"),
        ("FPN.FPN_ON", "False"),
        ("RETINANET.RETINANET_ON", "True"),
    ],
)
def test_keys_that_define_the_network_cannot_be_left_out(key: str, value: str) -> None:
    for options in ({}, {"strict": False}):
        assert (
            f"{key} = {value if key.endswith('ON') else repr(value)} cannot be honoured, nor left out"
            in problems(MASK, key, value, **options)[0]
        )


def test_weights_of_the_zoo_have_its_names() -> None:
    def first(address: str) -> str | None:
        return convert(MASK, "TRAIN.WEIGHTS", address).config.train.weights

    trained = f"{HOST}/1/12_2017_baselines/fast_rcnn_R-50-C4_1x.yaml.a.b/output/train/x%3Ay/generalized_rcnn/model_final.pkl"
    assert first(trained) == "detectron/fast_rcnn_R-50-C4_1x"
    assert first("") is None
    assert "it is not of Detectron's zoo" in problems(MASK, "TRAIN.WEIGHTS", "https://example.org/model.pkl")[0]
    addresses = {row["config"]: row["urls"]["model"] for row in detectron_files.published() if "model" in row["urls"]}
    assert len(addresses) > 70
    for config, address in addresses.items():
        assert first(address) == f"detectron/{Path(config).name.removesuffix('.yaml')}"


def test_leaving_out() -> None:
    pairs = ("TEST.BBOX_AUG.ENABLED", "True", "TEST.BBOX_AUG.H_FLIP", "True", "TEST.BBOX_REG", "False", "MODEL.NEW", "1")
    assert len(problems(MASK, *pairs)) == 2
    assert len(problems(MASK, *pairs, leave_out=["TEST.BBOX_AUG", "MODEL.NEW"])) == 1
    converted = convert(MASK, *pairs, leave_out=["TEST.BBOX_AUG", "TEST.BBOX_REG", "MODEL.NEW"])
    assert converted.config == resolve("detectron/e2e_mask_rcnn_R-50-FPN_1x")
    assert sorted(note.key for note in converted.notes if note.what == "left out") == sorted(pairs[::2])
    assert convert(MASK, *pairs, strict=False).config.test.tta is not None
    # The name of a group ends at a dot, and the group must exist.
    assert "TEST.BBOX" in problems(MASK, *pairs, leave_out=["TEST.BBOX"])[0]
    without = convert(MASK, "TRAIN.DATASETS", "('mine',)", leave_out=["TRAIN.DATASETS"])
    assert without.config == resolve("detectron/e2e_mask_rcnn_R-50-FPN_1x")


def test_test_time_options() -> None:
    pairs = ("TEST.SOFT_NMS.ENABLED", "True", "TEST.SOFT_NMS.METHOD", "gaussian", "TEST.SOFT_NMS.SIGMA", "0.7")
    pairs += (
        "TEST.BBOX_VOTE.ENABLED",
        "True",
        "TEST.BBOX_VOTE.SCORING_METHOD",
        "TEMP_AVG",
        "TEST.BBOX_VOTE.SCORING_METHOD_BETA",
        "2.0",
    )
    pairs += ("TEST.BBOX_AUG.ENABLED", "True", "TEST.BBOX_AUG.SCALES", "(400, 1200)", "TEST.BBOX_AUG.SCALE_SIZE_DEP", "True")
    pairs += ("TEST.MASK_AUG.ENABLED", "True", "TEST.MASK_AUG.HEUR", "LOGIT_AVG", "TEST.MASK_AUG.ASPECT_RATIOS", "(0.8, 1.25)")
    converted = convert(MASK, *pairs)
    test = converted.config.test
    assert test.soft_nms == SoftNMSConfig(decay="gaussian", sigma=0.7)
    assert test.vote == VoteConfig(threshold=0.8, scoring="temp_avg", beta=2.0)
    assert [note.what for note in converted.notes if note.key == "TEST.BBOX_VOTE.SCORING_METHOD_BETA"] == ["read as"]
    assert test.tta is not None and test.tta.keypoints is None
    assert test.tta.boxes == BoxViewsConfig(scales=(400, 1200), areas=(2500.0, 32400.0))
    assert test.tta.masks == MaskViewsConfig(ratios=(0.8, 1.25), combine="logit_avg")
    averaged = problems(MASK, "TEST.BBOX_AUG.ENABLED", "True", "TEST.BBOX_AUG.COORD_HEUR", "AVG")
    assert "takes the union of its boxes" in averaged[0]
    assert "it must be one of SOFT_AVG" in problems(MASK, "TEST.MASK_AUG.ENABLED", "True", "TEST.MASK_AUG.HEUR", "MEAN")[0]


@pytest.mark.parametrize(
    "text",
    [
        "A: !!python/object/apply:os.system [echo]",
        "A: !!python/object/new:os.system {args: [echo]}",
        "A: !!python/name:os.system",
        "A: &x [1]\nB: *x",
        "[1, 2]",
        "A: [" * 50,
        "A: 1\nA: 2",
        "x" * 200_000,
    ],
)
def test_files_other_than_plain_yaml_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"old\.yaml"):
        import_yaml(path)


@pytest.mark.parametrize(
    "value", ["(" * 5000, "[" * 300, "-" * 5000 + "1", "9" * 5000, "__import__('os').system('x')", "1e999", "\\d"]
)
def test_values_are_never_run(value: str) -> None:
    """Where a number is expected they are refused; where a text is, they are kept as text."""
    assert "should be a whole number" in problems(MASK, "SOLVER.MAX_ITER", value)[0]
    assert convert(MASK, "OUTPUT_DIR", value).config == convert(MASK).config


def test_values_cannot_end_a_comment(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    address = f"{HOST}/1/a/x\\nmodel: 3\\u2028y.yaml.z/output/test/coco_2014_minival/a/rpn_proposals.pkl"
    path.write_text(MASK + f'OUTPUT_EXTRA: "{address}"\nVIS: true\n')
    written = import_yaml(path, leave_out=["OUTPUT_EXTRA"])
    assert from_yaml(RunConfig, written) == resolve("detectron/e2e_mask_rcnn_R-50-FPN_1x")
    path.write_text(KEYPOINTS.replace("keypoints_coco_2014_minival/generalized_rcnn/rpn", "a\\nmodel:\\x203/g/rpn"))
    read = from_yaml(RunConfig, import_yaml(path))
    assert read.data.val.proposals == "proposals/rpn_person_only_R-50-FPN_1x/a\nmodel: 3.pkl"  # type: ignore[attr-defined]


# ----------------------------------------------------------------------------------------------------- the cfg inside a .pkl

NUMPY = "!!python/object/apply:numpy.core.multiarray"
F8 = "!!python/object/apply:numpy.dtype {args: [f8, 0, 1], state: !!python/tuple [3, <, null, null, null, -1, -1, 0]}"


def coded(*numbers: float) -> str:
    return f"!!binary {base64.b64encode(np.array(numbers, '<f8').tobytes()).decode()}"


def dumped(text: str, module: str = "detectron.utils.collections") -> str:
    """The text of a file, in the form that Detectron dumps."""
    tree, _ = safe_yaml.parse_mapping(text, "")

    def write(value: Any, indent: str) -> str:
        if not isinstance(value, dict):
            return f" {value}" if str(value).startswith("http") else f" {value!r}"
        lines = [f" !!python/object/new:{module}.AttrDict", f"{indent}dictitems:"]
        lines += [f"{indent}  {key}:{write(below, indent + '    ')}" for key, below in value.items()]
        return "\n".join([*lines, f"{indent}state:", f"{indent}  __immutable__: true"])

    return write(tree, "").lstrip()


@pytest.mark.parametrize("module", ["detectron.utils.collections", "utils.collections"])
def test_an_embedded_configuration(module: str) -> None:
    text = dumped(MASK, module).replace(
        "MODEL:",
        f"PIXEL_MEANS: {NUMPY}._reconstruct\n    args: ['!!python/name:numpy.ndarray', !!python/tuple [0], b]\n"
        "    state: !!python/tuple\n    - 1\n    - !!python/tuple [1, 1, 3]\n"
        f"    - &id001 {F8}\n    - false\n    - {coded(102.9801, 115.9465, 122.7717)}\n"
        f"  BBOX_XFORM_CLIP: {NUMPY}.scalar\n  - *id001\n  - {coded(np.log(1000 / 16))}\n  MODEL:",
        1,
    )
    text = text.replace("'!!python/name:numpy.ndarray'", "!!python/name:numpy.ndarray ''")
    tree = parse_embedded(text)
    assert tree["PIXEL_MEANS"] == [[[102.9801, 115.9465, 122.7717]]] and tree["BBOX_XFORM_CLIP"] == np.log(1000 / 16)
    assert type(tree) is dict and type(tree["MODEL"]) is dict and type(tree["BBOX_XFORM_CLIP"]) is float
    assert from_detectron(tree).config == resolve("detectron/e2e_mask_rcnn_R-50-FPN_1x")
    old = from_embedded(text).config.model
    assert old.rois.box_weights == (1, 1, 1, 1)  # type: ignore[attr-defined]  # an RCNNConfig
    assert from_embedded(text.replace("MASK_ON: True", "MASK_ON: True\n      UNHEARD_OF: 3")).config.model == old


@pytest.mark.parametrize("module", ["detectron.utils.collections", "utils.collections"])
def test_a_configuration_dumped_by_pyyaml(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 229 keys in objects of a class like Detectron's, with numpy numbers and a numpy array."""
    AttrDict = type("AttrDict", (dict,), {"__module__": module})
    for name in ("detectron", "detectron.utils", "utils", module):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[module], "AttrDict", AttrDict, raising=False)
    root: Any = AttrDict()
    for key, entry in KEYS.items():
        *groups, last = key.split(".")
        inner = root
        for group in groups:
            inner = inner.setdefault(group, AttrDict())
            inner.__dict__["__immutable__"] = True
        value = given(MASK, key)
        inner[last] = entry.default if value is None else value
    root["PIXEL_MEANS"], root["EPS"] = np.array(root["PIXEL_MEANS"]), np.float32(1e-14)
    root["BBOX_XFORM_CLIP"] = np.log(1000 / 16)
    text = yaml.dump(root)
    assert f"!!python/object/new:{module}.AttrDict" in text and "&id001" in text
    converted = from_embedded(text)
    assert converted.config == resolve("detectron/e2e_mask_rcnn_R-50-FPN_1x")
    assert {note.what for note in converted.notes} == {"ignored"}
    del root["MODEL"]["BBOX_REG_WEIGHTS"]
    assert any(note.key == "MODEL.BBOX_REG_WEIGHTS" for note in from_embedded(yaml.dump(root)).notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system [echo]", "names '!!python/object/apply:os.system'"),
        ("!!python/object/new:builtins.dict {dictitems: {}}", "builtins.dict"),
        ("a: !!python/name:os.system ''", "os.system"),
        ("a: !!python/module:os ''", "module:os"),
        ("!!python/object/new:utils.collections.AttrDict {dictitems: {}, args: [1]}", "has a mapping with ['args']"),
        (f"a: {NUMPY}.scalar [{F8.replace('f8', 'O8')}, {coded(1)}]", "an array of 'O8', which is no number"),
        (f"a: {NUMPY}.scalar [{F8}, !!binary '###']", "damaged"),
        (f"a: {NUMPY}.scalar [{F8}, {coded(1, 2)}]", "damaged"),
        (f"a: {NUMPY}._reconstruct {{args: [!!python/name:numpy.ndarray '', 1, b]}}", "damaged"),
        ("a: !!python/name:numpy.ndarray ''", "has a numpy type where a value should be"),
        (
            "a: &a [&b [x, x, x, x], *b, *b, *b]\n"
            + "".join(f"b{i}: &c{i} [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n" for i in range(900)),
            "larger",
        ),
        ("a: &a [*a]", "larger"),
        ("[" * 60, "nested"),
        ("a: [1", "damaged"),
        ("[1]", "should be a mapping"),
        ("", "should be a mapping"),
        ("a: " + "9" * 5000, "damaged"),
        ("x" * 300_000, "characters"),
    ],
)
def test_an_embedded_configuration_runs_nothing(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_embedded(text, "model.pkl: cfg")
    assert str(caught.value).startswith("model.pkl: cfg: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)
