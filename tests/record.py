"""The record of reference results: the outputs of small networks, case by case, and the configuration of every recipe.

It is for changes that must not change results. `tests/test_record.py` compares the results of the present code with
`tests/facts/record.json` and `tests/facts/recipes.json.gz`, up to rounding. On one machine two revisions can be compared exactly::

    python -m tests.record digest before.json            # a sha256 of every result, computed with one thread
    python -m tests.record digest after.json             # on the other revision
    python -m tests.record compare before.json after.json
    python -m tests.record write                         # make the present results the reference

The weights of the networks depend only on the names of the tensors, so that neither the order in which a network is built nor the
machine changes them. The weights that the initialisation gives after ``torch.manual_seed`` are recorded separately.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

# ---------------------------------------------- names of the package that may change: the record uses them only here
from boxwood import Batch, Categories, Detections, RunConfig, Target, recipes
from boxwood.config import from_tree, to_tree
from boxwood.inference.tta import augmented
from boxwood.interactions import InteractionFacts
from boxwood.models.config import without_pretrained
from boxwood.structures import InstanceMasks, KeypointFacts

GEOMETRIES: dict[str, tuple[str, ...]] = {
    "continuous": (),
    "detectron1": ("model.geometry=detectron1",),
}
"""By name of a geometry, the overrides that give it to a recipe of continuous geometry, with all rules of Detectron. A rule that
becomes a separate configuration key must be added here."""
# ------------------------------------------------------------------------------------------------------------------------------

FACTS = Path(__file__).parent / "facts"
RECORD, RECIPES = FACTS / "record.json", FACTS / "recipes.json.gz"


# ---------------------------------------------------------------------------------------------------------------- the cases


class Case(NamedTuple):
    """A recipe with the overrides that make its network small."""

    recipe: str
    overrides: tuple[str, ...]
    learns: bool = True
    """Whether a training step is recorded too; cases that differ from others only in the selection of detections need none."""


R18 = "model.backbone={depth: 18, width: 8, frozen_stages: 0, weights: null}"
R50 = "model.backbone={depth: 50, width: 8, frozen_stages: 2, weights: null}"
WIDE = "model.backbone={depth: 18, width: 32, norm: gn, frozen_stages: 1, weights: null}"  # group norm has 32 groups
MOBILE = "model.backbone.weights=null"
COUNTS = "samples_per_image: 32, train_candidates: 60, train_proposals: 40, test_candidates: 60, test_proposals: 40"
LEVELS = f"model.rpn={{anchor_sizes: [[20.0], [28.0], [40.0], [64.0], [100.0]], {COUNTS}}}"
ONE_MAP = f"model.rpn={{anchor_sizes: [[16.0, 32.0, 64.0]], {COUNTS}}}"
ROIS = "model.rois={samples_per_image: 24, positive_fraction: 0.5}"
FEW = "model.rois={samples_per_image: 8, positive_fraction: 0.5}"  # for VGG, whose tail is large
FPN = "model.fpn.channels=32"
TWO_FC = "model.box_head.width=32"
MASKS = "model.mask_head={convs: 2, width: 16}"
KEYPOINTS = "model.keypoint_head={kind: conv_keypoint, convs: 2, width: 16}"
TEST = "test={score_threshold: 0.05, nms_threshold: 0.5, detections_per_image: 8}"
GRID = "[[8.0, 11.0], [16.0, 22.0], [32.0, 45.0], [64.0, 90.0], [128.0, 181.0]]"
DENSE = f"model.head={{convs: 2, anchor_sizes: {GRID}, test_candidates: 50}}"
PYRAMID = (R18, FPN, LEVELS, ROIS, TWO_FC, TEST)
GIVEN = (R18, FPN, ROIS, TWO_FC, TEST)
C4 = (R18, ONE_MAP, ROIS, TEST)
RETINA = (R18, FPN, DENSE, TEST)
FULLY = ("model.rois={samples_per_image: 16, positive_fraction: 0.5, hardest: 16, class_agnostic: true}", "model.width=16")
RFCN = (R18, ONE_MAP, *FULLY, "model.grid=3", TEST)
VIEWS = "flip: true, scales: [48, 80], scale_flip: true, ratios: [1.25], ratio_flip: true"
ORDINARY = "data.val.transforms.0.short=[64]"
LENIENT = "test={score_threshold: 0.05, nms_threshold: 0.7, detections_per_image: 20}"
"""Keeps more overlapping detections than the default."""

# These recipes have continuous geometry; each case is recorded in both geometries.
IN_BOTH: dict[str, Case] = {
    # Two stages on a pyramid.
    "faster_fpn": Case("faster_rcnn_r50_fpn_1x", PYRAMID),
    "fast_fpn": Case("fast_rcnn_r50_fpn_1x", GIVEN),
    "mask_fpn": Case("mask_rcnn_r50_fpn_1x", (*PYRAMID, MASKS)),
    "mask_fpn_given": Case("mask_rcnn_r50_fpn_1x", (*GIVEN, MASKS, "model.rpn=null")),
    "keypoint_fpn": Case("keypoint_rcnn_r50_fpn_1x", (*PYRAMID, KEYPOINTS)),
    "keypoint_fpn_given": Case("keypoint_rcnn_r50_fpn_1x", (*GIVEN, KEYPOINTS, "model.rpn=null")),
    "mask_keypoint_fpn": Case("mask_rcnn_r50_fpn_1x", (*PYRAMID, MASKS, KEYPOINTS)),
    "faster_bottleneck": Case("faster_rcnn_r50_fpn_1x", (*PYRAMID, R50)),
    "faster_grouped": Case(
        "faster_rcnn_r50_fpn_1x", (*PYRAMID, R50, "model.backbone={groups: 4, width_per_group: 16, stride_in: 1x1}")
    ),
    "faster_bn": Case("faster_rcnn_r50_fpn_1x", (*PYRAMID, "model.backbone.norm=bn")),
    "faster_gn": Case(
        "faster_rcnn_r50_fpn_1x",
        (
            *PYRAMID[:-2],
            WIDE,
            "model.fpn.norm=gn",
            "model.box_head={kind: conv_fc, convs: 2, conv_width: 32, width: 32}",
            TEST,
        ),
    ),
    "mask_gn": Case(
        "mask_rcnn_r50_fpn_2x_gn",
        (
            *PYRAMID[:-2],
            WIDE,
            "model.box_head={convs: 1, conv_width: 32, width: 32}",
            "model.mask_head={convs: 2, width: 32}",
            TEST,
        ),
    ),
    "faster_mobilenet": Case("faster_rcnn_mobilenetv2_fpn", (MOBILE, *PYRAMID[1:])),
    "faster_agnostic": Case("faster_rcnn_r50_fpn_1x", (*PYRAMID, "model.rois.class_agnostic=true")),
    "faster_hardest": Case("faster_rcnn_r50_fpn_1x", (*PYRAMID, "model.rois={hardest: 8, smooth_l1_beta: 0.1}")),
    "faster_max_pooled": Case("faster_rcnn_r50_fpn_1x", (*PYRAMID, "model.rois.pooling=max")),
    "mask_adaptive": Case("mask_rcnn_r50_fpn_1x", (*PYRAMID, MASKS, "model.rois={sampling_ratio: 0, aligned: false}")),
    "faster_anchors": Case(
        "faster_rcnn_r50_fpn_1x",
        (
            *PYRAMID,
            "model.rpn={rounded_anchors: true, anchor_offset: 0.5, straddle: 0.0, convs: 2, anchor_ratios: [0.5, 2.0]}",
            "model.fpn.zero_init_lateral=true",
            "model.size_divisor=64",
        ),
    ),
    # Two stages on one map.
    "faster_c4": Case("faster_rcnn_r50_c4_1x", C4),
    "fast_c4": Case("fast_rcnn_r50_c4_1x", (R18, ROIS, TEST)),
    "mask_c4": Case("mask_rcnn_r50_c4_1x", (*C4, "model.mask_head.width=16")),
    "mask_c4_bottleneck": Case("mask_rcnn_r50_c4_1x", (*C4, R50, "model.mask_head.width=16", "model.size_divisor=1")),
    "mask_c4_own_tail": Case("mask_rcnn_r50_c4_1x", (*C4, "model.mask_head={width: 16, source: own_tail}")),
    "mask_keypoint_c4_maps": Case("mask_rcnn_r50_c4_1x", (*C4, "model.mask_head={convs: 1, width: 16, source: maps}", KEYPOINTS)),
    "keypoint_c4_own_tail": Case("faster_rcnn_r50_c4_1x", (*C4, KEYPOINTS, "model.keypoint_head.source=own_tail")),
    "faster_c5_dilated": Case(
        "faster_rcnn_r50_c4_1x", (*C4, "model.backbone.last_stage=dilated", "model.box_head={kind: two_fc, width: 32}")
    ),
    "fast_vgg_cnn_m_1024": Case("fast_rcnn_vgg_cnn_m_1024", (FEW, TEST)),
    "faster_vgg16": Case(
        "faster_rcnn_vgg16",
        ("model.backbone.weights=null", ONE_MAP, "model.rpn={train_proposals: 12, test_proposals: 16}", FEW, TEST),
    ),
    # An RPN alone.
    "rpn_fpn": Case("rpn_r50_fpn_1x", (R18, FPN, LEVELS, "model.rpn.test_proposals=12", TEST)),
    "rpn_fpn_straddle": Case("rpn_r50_fpn_1x", (R18, FPN, LEVELS, "model.rpn={test_proposals: 12, straddle: 0.0}", TEST)),
    "rpn_fpn_too_few": Case("rpn_r50_fpn_1x", (R18, FPN, LEVELS, "model.rpn={test_proposals: 12, samples_per_image: 2000}", TEST)),
    "rpn_c4": Case("rpn_r50_c4_1x", (R18, ONE_MAP, "model.rpn.test_proposals=12", TEST)),
    "rpn_c4_too_few": Case("rpn_r50_c4_1x", (R18, ONE_MAP, "model.rpn={test_proposals: 12, samples_per_image: 2000}", TEST)),
    # One stage.
    "retinanet": Case("retinanet_r50_fpn_1x", RETINA),
    "retinanet_giou": Case("retinanet_r50_fpn_1x", (*RETINA, "model.head.box_loss=giou")),
    "retinanet_shared_tower": Case(
        "retinanet_r50_fpn_1x",
        (*RETINA, "model.head={shared_tower: true, norm: gn}", "model.fpn.top=conv_p5", "model.size_divisor=128"),
    ),
    "retinanet_scored": Case(
        "retinanet_r50_fpn_1x", (*RETINA, "test={score_threshold: 0.8, detections_per_image: 40}"), learns=False
    ),
    "retinanet_certain": Case(
        "retinanet_r50_fpn_1x", (*RETINA, "test={score_threshold: 0.9999, detections_per_image: 30}"), learns=False
    ),
    # R-FCN; the recipe trains on the hardest regions.
    "rfcn": Case("rfcn_r50", RFCN),
    "rfcn_bottleneck": Case("rfcn_r50", (*RFCN, R50)),
    "rfcn_by_class": Case(
        "rfcn_r50", (*RFCN, "model.width=null", "model.rois={class_agnostic: false, hardest: null, positive_fraction: 0.25}")
    ),
    "rfcn_interpolated": Case("rfcn_r50", (*RFCN, "model.interpolate=true")),
    "rfcn_given": Case("rfcn_r50", (R18, *FULLY, "model.grid=3", TEST, "model.rpn=null")),
    # Selection of detections.
    **{
        f"soft_nms_{decay}": Case("faster_rcnn_r50_fpn_1x", (*PYRAMID, LENIENT, f"test.soft_nms={{decay: {decay}}}"), learns=False)
        for decay in ("linear", "gaussian", "hard")
    },
    **{
        f"vote_{scoring}": Case(
            "faster_rcnn_r50_fpn_1x", (*PYRAMID, f"test.vote={{threshold: 0.5, scoring: {scoring}, beta: 0.8}}"), learns=False
        )
        for scoring in ("id", "avg", "iou_avg", "generalized_avg", "quasi_sum", "temp_avg")
    },
    "soft_nms_and_vote": Case("rfcn_r50", (*RFCN, LENIENT, "test.soft_nms={}", "test.vote={threshold: 0.6}"), learns=False),
    "retinanet_soft_nms": Case("retinanet_r50_fpn_1x", (*RETINA, "test.soft_nms={decay: gaussian}"), learns=False),
    "keypoint_nms": Case("keypoint_rcnn_r50_fpn_1x", (*PYRAMID, KEYPOINTS, LENIENT, "test.keypoint_nms=0.05"), learns=False),
    # Test-time augmentation.
    "tta_boxes": Case("faster_rcnn_r50_fpn_1x", (*PYRAMID, ORDINARY, f"test.tta.boxes={{{VIEWS}}}"), learns=False),
    "tta_boxes_by_area": Case("rfcn_r50", (*RFCN, ORDINARY, f"test.tta.boxes={{{VIEWS}, areas: [700.0, 2000.0]}}"), learns=False),
    "tta_boxes_soft_nms_vote": Case(
        "retinanet_r50_fpn_1x",
        (*RETINA, ORDINARY, "test.tta.boxes={flip: true, scales: [80]}", "test.soft_nms={}", "test.vote={}"),
        learns=False,
    ),
    "tta_given_avg": Case(
        "fast_rcnn_r50_fpn_1x",
        (*GIVEN, ORDINARY, "test.tta.boxes={flip: true, scales: [80], scores: avg, boxes: avg}"),
        learns=False,
    ),
    "tta_given_id": Case(
        "fast_rcnn_r50_fpn_1x",
        (*GIVEN, ORDINARY, "model.rois.class_agnostic=true", "test.tta.boxes={flip: true, scores: avg, boxes: id}"),
        learns=False,
    ),
    **{
        f"tta_masks_{combine}": Case(
            "mask_rcnn_r50_fpn_1x", (*PYRAMID, MASKS, ORDINARY, f"test.tta.masks={{{VIEWS}, combine: {combine}}}"), learns=False
        )
        for combine in ("soft_avg", "soft_max", "logit_avg")
    },
    **{
        f"tta_keypoints_{combine}": Case(
            "keypoint_rcnn_r50_fpn_1x",
            (*PYRAMID, KEYPOINTS, ORDINARY, f"test.tta.keypoints={{{VIEWS}, combine: {combine}}}", "test.keypoint_nms=0.3"),
            learns=False,
        )
        for combine in ("avg", "max")
    },
    "tta_all_c4": Case(
        "mask_rcnn_r50_c4_1x",
        (
            *C4,
            "model.mask_head.width=16",
            ORDINARY,
            "test.tta={boxes: {flip: true, scales: [80]}, masks: {flip: true, areas: [700.0, 2000.0], scales: [48, 80]}}",
        ),
        learns=False,
    ),
}

# Recipes of Detectron, in its geometry.
DETECTRON: dict[str, Case] = {
    "faster_fpn": Case("detectron/e2e_faster_rcnn_R-50-FPN_1x", PYRAMID),
    "fast_fpn": Case("detectron/fast_rcnn_R-50-FPN_1x", GIVEN),
    "mask_fpn": Case("detectron/e2e_mask_rcnn_R-50-FPN_1x", (*PYRAMID, MASKS)),
    "keypoint_fpn": Case("detectron/e2e_keypoint_rcnn_R-50-FPN_1x", (*PYRAMID, KEYPOINTS)),
    "faster_c4": Case("detectron/e2e_faster_rcnn_R-50-C4_1x", (*C4, R50)),
    "mask_c4": Case("detectron/e2e_mask_rcnn_R-50-C4_1x", (*C4, R50, "model.mask_head.width=16")),
    "mask_gn": Case(
        "detectron/e2e_mask_rcnn_R-50-FPN_2x_gn",
        (
            *PYRAMID[:-2],
            WIDE,
            "model.box_head={convs: 2, conv_width: 32, width: 32}",
            "model.mask_head={convs: 2, width: 32}",
            TEST,
        ),
    ),
    "rpn_fpn": Case("detectron/rpn_R-50-FPN_1x", (R18, FPN, LEVELS, "model.rpn.test_proposals=12", TEST)),
    "rpn_c4": Case("detectron/rpn_R-50-C4_1x", (R18, ONE_MAP, "model.rpn.test_proposals=12", TEST)),
    "retinanet": Case("detectron/retinanet_R-50-FPN_1x", RETINA),
    "tta_mask": Case(
        "detectron/test_time_aug/e2e_mask_rcnn_R-50-FPN_2x",
        (*PYRAMID, MASKS, ORDINARY, "test.tta={boxes: {scales: [48, 80], long: 160}, masks: {scales: [80], long: 160}}"),
        learns=False,
    ),
    "tta_keypoint": Case(
        "detectron/test_time_aug/keypoint_rcnn_R-50-FPN_1x",
        (*GIVEN, KEYPOINTS, ORDINARY, "test.tta={boxes: {scales: [80]}, keypoints: {scales: [72], areas: [700.0, 2000.0]}}"),
        learns=False,
    ),
}

CASES: dict[str, Case] = {
    **{
        f"{geometry}/{name}": case._replace(overrides=(*case.overrides, *rules))
        for geometry, rules in GEOMETRIES.items()
        for name, case in IN_BOTH.items()
    },
    **{f"detectron/{name}": case for name, case in DETECTRON.items()},
}


# -------------------------------------------------------------------------------------------------------------- the pictures


FIVE = KeypointFacts(("top", "left", "right", "near", "far"), (0, 2, 1, 4, 3), ((0, 1), (0, 2)), (0.05, 0.08, 0.08, 0.1, 0.1))
CLASSES = Categories((1, 5, 9), ("ball", "cup", "leaf"), FIVE)
COCO = Categories(
    tuple(range(1, 81)),
    tuple(f"class{label}" for label in range(80)),
    KeypointFacts(tuple(f"point{i}" for i in range(17)), tuple(range(17)), (), (0.05,) * 17),
    InteractionFacts((1, 2), ("hold", "walk"), (("obj",), ())),
)
"""As many classes and keypoints as COCO has, so that the recipes' networks have their usual sizes."""

SIZES = ((96, 128), (80, 112), (64, 96))
ORIGINALS = ((72, 96), (160, 224), (64, 96))
"""The first picture was enlarged, the second reduced, the third not resized: (height, width) in pixels."""
BOXES = (
    ((10.0, 12.0, 60.0, 70.0), (64.0, 30.0, 122.5, 90.0), (30.0, 50.25, 46.0, 66.0), (4.0, 84.0, 100.0, 92.0)),
    ((5.0, 5.0, 50.0, 75.0), (55.5, 20.25, 104.0, 64.5)),
    (),
)
"""Ground-truth boxes x1, y1, x2, y2 in padded pixels. The last box of the first picture matches no anchor."""
LABELS = ((0, 2, 1, 0), (1, 0), ())
CROWDS = (((80.0, 0.0, 128.0, 28.0),), (), ())


def uniform(name: str, *shape: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """float64 numbers in [0, 1) that depend only on ``name``."""
    return np.random.default_rng(zlib.crc32(name.encode())).random(shape)


def pictures() -> Tensor:
    """(3, 3, 96, 128) uint8: coloured blocks of several sizes, and zeros in the padding."""
    sheet = torch.zeros(len(SIZES), 3, 96, 128, dtype=torch.uint8)
    for index, (height, width) in enumerate(SIZES):
        values = np.zeros((3, 96, 128))
        for cell in (32, 16, 8, 4, 1):
            values += np.kron(uniform(f"picture {index} {cell}", 3, 96 // cell, 128 // cell), np.ones((cell, cell))) * 51
        sheet[index, :, :height, :width] = torch.from_numpy(values.astype(np.uint8))[:, :height, :width]
    return sheet


def targets() -> tuple[Target, ...]:
    """Four instances and a crowd region; two instances; none."""
    result = []
    for index, boxes in enumerate(BOXES):
        count = len(boxes)
        corners = torch.tensor(boxes).reshape(count, 4)
        bitmaps = torch.from_numpy((uniform(f"masks {index}", count, 7, 7) < 0.7).astype(np.uint8))
        bitmaps = bitmaps.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
        positions = torch.from_numpy(uniform(f"keypoints {index}", count, 5, 2)).float() * 1.1 - 0.05
        points = corners[:, None, :2] + positions * (corners[:, None, 2:] - corners[:, None, :2])
        visibility = torch.from_numpy((uniform(f"seen {index}", count, 5, 1) * 3).astype(np.float32).clip(0, 2).round())
        result.append(
            Target(
                corners,
                torch.tensor(LABELS[index], dtype=torch.int64),
                torch.tensor(CROWDS[index]).reshape(-1, 4),
                InstanceMasks(bitmaps, corners.clone()),
                torch.cat([points, visibility], dim=2),
            )
        )
    return tuple(result)


def proposals() -> tuple[Tensor, ...]:
    """Boxes (N, 4) float32 of each picture in padded pixels: near instances, in crowd regions, and elsewhere; N differs."""
    result = []
    for index, (height, width) in enumerate(SIZES):
        limit = np.array([width, height] * 2)
        start = uniform(f"start {index}", 16 + 4 * index, 2) * limit[:2] * 0.7
        other = np.concatenate([start, start + 6 + uniform(f"side {index}", len(start), 2) * 0.5 * limit[:2]], axis=1)
        near = np.repeat(np.array(BOXES[index]).reshape(-1, 4), 4, axis=0)
        near = near + 8 * (uniform(f"near {index}", *near.shape) - 0.5)
        crowd = np.repeat(np.array(CROWDS[index]).reshape(-1, 4), 6, axis=0)
        within = crowd + np.tile([6.0, 4.0, -8.0, -5.0], (len(crowd), 1)) * uniform(f"within {index}", *crowd.shape)
        result.append(torch.from_numpy(np.clip(np.concatenate([near, other, within]), 0, limit)).float())
    return tuple(result)


def batch_of(*, with_targets: bool, with_proposals: bool, as_files: bool = False) -> Batch:
    """The three pictures; with ``as_files``, their sizes are also the original ones, for a model that resizes them itself."""
    return Batch(
        pictures(),
        torch.tensor(SIZES),
        SIZES if as_files else ORIGINALS,
        (11, 12, 13),
        ("a.png", "b.png", "c.png"),
        (3, 5, 7),
        targets() if with_targets else None,
        proposals() if with_proposals else None,
    )


# --------------------------------------------------------------------------------------------------------------- the networks


SPREADS = {
    "objectness": 1.0,
    "deltas": 0.3,
    "class_logits": 1.5,
    "box_deltas": 1.5,
    "mask_logits": 3.0,
    "keypoint_logits": 3.0,
    "class_maps": 6.0,
    "box_maps": 6.0,
}
"""Approximate standard deviations of the outputs of the predictors, large enough for distinct detections."""
BALANCED = ("objectness", "class_logits", "class_maps", "mask_logits")
Tuned = dict[str, tuple[float, list[float]]]
"""By name of a predictor, the factor of its weights and the shifts of its biases, one per channel."""
MAX_DRAWN = 65_521
"""Larger tensors repeat their numbers, since drawing more takes too long."""
LARGE = 4_000_000
"""Tensors of more numbers are not initialised and have no gradient, which would take too long."""


@torch.no_grad()
def fill(model: nn.Module, tuned: Tuned) -> None:
    """Fill every tensor with numbers that depend on its name; those of the predictors are scaled and shifted by ``tuned``."""
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        (module, _, leaf), count = name.rpartition("."), tensor.numel()
        values = uniform(name, min(count, MAX_DRAWN)).astype(np.float32)
        factor, shifts = tuned.get(module, (1.0, [0.0]))
        if leaf == "running_var" or (leaf == "weight" and tensor.dim() == 1):
            # The last norm of a bottleneck is smaller, so that many blocks do not explode.
            values = (0.75 + values / 2) / (4 if "conv3.norm" in name else 1)
        elif tensor.dim() == 1:
            values = (values - 0.5) / 5 + np.float32(shifts)
        else:  # with the variance that keeps the scale through a ReLU
            values = (values - 0.5) * np.float32(math.sqrt(24 * len(tensor) / count) * factor)
        tensor.copy_(torch.from_numpy(np.resize(values, count)).view(tensor.shape))


@contextmanager
def without_large() -> Iterator[None]:
    """Leave tensors of more than `LARGE` numbers uninitialised while a network is built."""
    names = ("kaiming_uniform_", "kaiming_normal_", "normal_", "uniform_")
    originals = {name: getattr(nn.init, name) for name in names}

    def skip_large(name: str) -> Callable[..., Tensor]:
        return lambda tensor, *args, **kwargs: tensor if tensor.numel() > LARGE else originals[name](tensor, *args, **kwargs)

    try:
        for name in names:
            setattr(nn.init, name, skip_large(name))
        yield
    finally:
        for name in names:
            setattr(nn.init, name, originals[name])


@torch.no_grad()
def tune(model: Any, detect: Callable[[], Any]) -> Tuned:
    """Find for each predictor in turn the factor that gives its outputs the deviation of `SPREADS`, and the shifts that balance the
    channels of those in `BALANCED`, of which one would always be the largest. Both are rounded, so that rounding errors of
    different machines do not change them."""
    tuned: Tuned = {}
    fill(model, tuned)
    spreads = {**SPREADS, "box_deltas": 0.3} if hasattr(model, "class_tower") else SPREADS
    for name, module in model.named_modules():
        leaf = name.rpartition(".")[2]
        if leaf not in spreads:
            continue
        collected: list[Tensor] = []
        hook = module.register_forward_hook(
            lambda _module, _input, output, collected=collected: collected.append(output.transpose(0, 1).flatten(1))
        )
        detect()
        hook.remove()
        outputs = torch.cat(collected, dim=1)
        middle = outputs.mean(dim=1, keepdim=True) * (leaf in BALANCED)
        factor = 2.0 ** round(math.log2(spreads[leaf] / float((outputs - middle).std())))
        tuned[name] = (factor, [round(-8 * factor * shift) / 8 for shift in middle.flatten().tolist()])
        fill(model, tuned)
    return tuned


class CaseResult(NamedTuple):
    """The results of a case, as tensors."""

    state: list[str]
    """Name, shape and dtype of every tensor of the state dict."""
    initial: dict[str, Tensor]
    """The state dict after initialisation with ``torch.manual_seed(0)``, or a summary of it."""
    tuned: Tuned
    losses: dict[str, Tensor]
    gradients: dict[str, Tensor]
    detections: list[Detections]


def run_case(case: Case, tuned: Tuned | None, summary: Callable[[dict[str, Tensor]], Any] = dict) -> CaseResult:
    """Build the network of a case, compute the losses and gradients of one step, and detect.

    ``tuned`` None means to compute it. ``summary`` is called with the initial state dict before it is overwritten; its result is
    `CaseResult.initial`.
    """
    config = recipes.resolve(case.recipe, case.overrides)
    torch.manual_seed(0)
    with without_large():
        model: Any = without_pretrained(config.model).build(CLASSES, config.test)
    state = state_of(model)
    initial = summary({name: tensor for name, tensor in model.state_dict().items() if tensor.numel() <= LARGE})
    needs_proposals = config.model.needs_proposals
    detector: Any
    detector, transforms = augmented(model, config.data.val.transforms, config.test)
    as_files = detector is not model
    assert len(transforms) == (0 if as_files else len(config.data.val.transforms))

    def detect() -> list[Detections]:
        batch = batch_of(with_targets=False, with_proposals=needs_proposals, as_files=as_files)
        with torch.no_grad():
            detections: list[Detections] = detector.detections(detector(batch), batch)
        return detections

    detector.eval()
    if tuned is None:
        tuned = tune(model, detect)
    fill(model, tuned)
    losses: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    if case.learns:
        for parameter in model.parameters():
            if parameter.numel() > LARGE:
                parameter.requires_grad_(False)
        model.train()
        batch = batch_of(with_targets=True, with_proposals=needs_proposals)
        assert batch.targets is not None
        losses = model.losses(model(batch), batch.targets)
        torch.stack(list(losses.values())).sum().backward()
        losses = {name: loss.detach() for name, loss in losses.items()}
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        fill(model, tuned)  # batch norms have new statistics
        detector.eval()
    return CaseResult(state, initial, tuned, losses, gradients, detect())


def state_of(model: nn.Module) -> list[str]:
    """``name (shape) dtype`` of every tensor of the state dict, sorted."""
    return sorted(
        f"{name} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for name, tensor in model.state_dict().items()
    )


def state_of_recipe(config: RunConfig) -> list[str]:
    """`state_of` of a recipe's network at full size with COCO's classes, built without memory for its tensors."""
    model = json.dumps(to_tree(config.model))
    if model not in STATES:  # recipes with other schedules have the same model
        with torch.device("meta"):
            STATES[model] = state_of(without_pretrained(config.model).build(_classes_of(config), config.test))
    return STATES[model]


def _classes_of(config: RunConfig) -> Categories:
    """`COCO`, whose first class is that of the humans where the recipe has interactions."""
    head = getattr(config.model, "interaction_head", None)
    return COCO if head is None else replace(COCO, names=(head.human, *COCO.names[1:]))


STATES: dict[str, list[str]] = {}


# ---------------------------------------------------------------------------------------------------- records and digests


def numbers(tensor: Tensor) -> Any:
    """The float32 values as nested lists of the shortest decimals that round to them."""
    values = tensor.detach().cpu().numpy()
    assert values.dtype == np.float32
    return json.loads(json.dumps(values.tolist()), parse_float=lambda text: float(str(np.float32(text))))


def total(state: Mapping[str, Tensor]) -> list[float]:
    """The sum of all values of a state dict, and the sum of their absolute values."""
    values = [tensor.double() for tensor in state.values()]
    return [sum(float(value.sum()) for value in values), sum(float(value.abs().sum()) for value in values)]


def norm_of(gradients: Mapping[str, Tensor]) -> float:
    """The norm of all gradients as one vector; 0 without gradients."""
    return math.sqrt(sum(float(one.double().square().sum()) for one in gradients.values()))


def recorded(result: CaseResult) -> dict[str, Any]:
    """The entry of a case in the record."""
    detections = []
    for one in result.detections:
        entry: dict[str, Any] = {"labels": one.labels.tolist(), "scores": numbers(one.scores), "boxes": numbers(one.boxes)}
        if one.mask_probabilities is not None:
            assert one.masks is not None
            entry["mask_means"] = numbers(one.mask_probabilities.mean(dim=(1, 2)))
            entry["mask_areas"] = one.masks.sum(dim=(1, 2)).tolist()
        if one.keypoints is not None:
            entry["keypoints"] = numbers(one.keypoints)
        detections.append(entry)
    return {
        "tuned": result.tuned,
        "state": sha(*result.state),
        "initial": result.initial,
        "losses": {name: numbers(loss) for name, loss in result.losses.items()},
        "gradient": norm_of(result.gradients),
        "detections": detections,
    }


def sha(*parts: str | bytes | Tensor) -> str:
    """One sha256 of texts and of the bytes of tensors."""
    result = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().contiguous().numpy().tobytes()
        result.update(part.encode() + b"\n" if isinstance(part, str) else part)
    return result.hexdigest()


def digest_of(result: CaseResult) -> dict[str, str]:
    """Exact digests of the results of a case; ``result.initial`` must be a digest already."""
    parts: list[str | Tensor] = []
    for one in result.detections:
        parts += [str(len(one)), one.boxes, one.scores, one.labels]
        if one.mask_probabilities is not None:
            parts += [one.mask_probabilities, json.dumps(one.rles())]
        if one.keypoints is not None:
            parts.append(one.keypoints)
    digests = {"state": sha(*result.state), "initial": str(result.initial), "detections": sha(*parts)}
    for name, values in (("losses", result.losses), ("gradients", result.gradients)):
        if values:
            digests[name] = sha(*(part for key in sorted(values) for part in (key, values[key])))
    return digests


def tree_of(config: RunConfig) -> dict[str, Any]:
    """A configuration as plain values."""
    return json.loads(json.dumps(to_tree(config)))


def flat(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values: scalars, or lists of scalars and lists."""
    parts: Any = tree.items() if isinstance(tree, dict) else None
    if isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        parts = enumerate(tree)
    if parts is None:
        yield key, tree
    else:
        for name, value in parts:
            yield from flat(value, f"{key}.{name}" if key else str(name))


def machine() -> str:
    """The version of torch and the processor, on which the rounding of sums depends."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    first = dict(line.split(":", 1) for line in cpuinfo.partition("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in first.items()}
    kind = [fields.get(key, "") for key in ("model name", "cpu family", "model", "stepping")]
    return ", ".join([f"torch {torch.__version__}", torch.backends.cpu.get_cpu_capability(), *kind])


def read_record() -> dict[str, Any]:
    """``cases``: the entries of `recorded` by name, and ``machine``: the `machine` that computed them."""
    record: dict[str, Any] = json.loads(RECORD.read_text())
    return record


def read_recipes() -> dict[str, Any]:
    """By name of a recipe, its configuration (``tree``) and a sha256 of its network's `state_of` (``state``)."""
    entries: dict[str, Any] = json.loads(gzip.decompress(RECIPES.read_bytes()))
    return entries


def from_recorded(tree: dict[str, Any]) -> RunConfig:
    """The configuration of a recorded tree."""
    return from_tree(RunConfig, tree, "the record")


# ---------------------------------------------------------------------------------------------------------------- the commands


def write() -> None:
    """Compute and write both files of the record."""
    FACTS.mkdir(exist_ok=True)
    lines = []
    for name, case in CASES.items():
        entry = recorded(run_case(case, None, total))
        counts = [len(one["labels"]) for one in entry["detections"]]
        print(name, counts, {key: round(value, 4) for key, value in entry["losses"].items()}, entry["gradient"], flush=True)
        lines.append(f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}")
    RECORD.write_text(f'{{"machine": {json.dumps(machine())}, "cases": {{\n' + ",\n".join(lines) + "\n}}\n")
    entries = {}
    for name in recipes.names():
        config = recipes.resolve(name)
        entries[name] = {"state": sha(*state_of_recipe(config)), "tree": tree_of(config)}
    RECIPES.write_bytes(gzip.compress(json.dumps(entries, separators=(",", ":")).encode(), mtime=0))


def digest(out: Path) -> None:
    """Write the digests of all cases and recipes; the networks are tuned as in the record."""
    cases, result = read_record()["cases"], {}
    for name, case in CASES.items():
        result[name] = digest_of(run_case(case, cases[name]["tuned"], lambda state: sha(*state.values())))
    for name in recipes.names():
        result[f"recipe {name}"] = {"state": sha(*state_of_recipe(recipes.resolve(name)))}
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{out}: {len(result)} entries")


def compare(first: Path, second: Path) -> int:
    """Print the entries that differ, with their differing parts; returns their number."""
    one, other = json.loads(first.read_text()), json.loads(second.read_text())
    differing = 0
    for name in [*one, *(name for name in other if name not in one)]:
        a, b = one.get(name, {}), other.get(name, {})
        parts = [part for part in {**a, **b} if a.get(part) != b.get(part)]
        if parts:
            differing += 1
            print(f"{name}: {', '.join(parts)}")
    print(f"{len(one)} and {len(other)} entries, {differing} differ")
    return differing


def main(arguments: list[str]) -> int:
    """Run a command of this module's docstring; returns the exit status."""
    torch.set_num_threads(1)
    match arguments:
        case ["write"]:
            write()
        case ["digest", out]:
            digest(Path(out))
        case ["compare", first, second]:
            return min(compare(Path(first), Path(second)), 1)
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
