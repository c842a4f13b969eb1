"""Recipes named as a published model have its settings, and their docstrings its published numbers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from boxwood import recipes
from boxwood.config import differences
from boxwood.models.backbones import ResNetConfig

NAMES = [recipe.__name__ for recipe in recipes.RECIPES]
JITTER = (640, 672, 704, 736, 768, 800)

# From Detectron's configs/, MODEL_ZOO.md and projects/GN: name, images per step, learning rate, its drops, steps, whether the
# image size varies, and the published AP of boxes, then masks or keypoints (for an RPN the AR of 1,000 proposals).
DETECTRON: dict[str, tuple[str, int, float, tuple[int, ...], int, bool, tuple[float, ...]]] = {
    "rpn_r50_fpn_1x": ("rpn_R-50-FPN_1x", 16, 0.02, (60_000, 80_000), 90_000, False, (57.2,)),
    "rpn_r101_fpn_1x": ("rpn_R-101-FPN_1x", 16, 0.02, (60_000, 80_000), 90_000, False, (58.2,)),
    "rpn_x101_32x8d_fpn_1x": ("rpn_X-101-32x8d-FPN_1x", 16, 0.02, (60_000, 80_000), 90_000, False, (59.5,)),
    "rpn_x101_64x4d_fpn_1x": ("rpn_X-101-64x4d-FPN_1x", 16, 0.02, (60_000, 80_000), 90_000, False, (59.4,)),
    "rpn_r50_c4_1x": ("rpn_R-50-C4_1x", 16, 0.02, (60_000, 80_000), 90_000, False, (51.6,)),
    "fast_rcnn_r50_fpn_1x": ("fast_rcnn_R-50-FPN_1x", 16, 0.02, (60_000, 80_000), 90_000, False, (36.4,)),
    "fast_rcnn_r101_fpn_1x": ("fast_rcnn_R-101-FPN_1x", 16, 0.02, (60_000, 80_000), 90_000, False, (38.5,)),
    "fast_rcnn_x101_32x8d_fpn_1x": ("fast_rcnn_X-101-32x8d-FPN_1x", 8, 0.01, (120_000, 160_000), 180_000, False, (40.6,)),
    "fast_rcnn_x101_64x4d_fpn_1x": ("fast_rcnn_X-101-64x4d-FPN_1x", 8, 0.01, (120_000, 160_000), 180_000, False, (40.4,)),
    "fast_rcnn_r50_c4_1x": ("fast_rcnn_R-50-C4_1x", 8, 0.01, (120_000, 160_000), 180_000, False, (34.4,)),
    "faster_rcnn_r50_fpn_1x": ("e2e_faster_rcnn_R-50-FPN_1x", 16, 0.02, (60_000, 80_000), 90_000, False, (36.7,)),
    "faster_rcnn_r101_fpn_1x": ("e2e_faster_rcnn_R-101-FPN_1x", 16, 0.02, (60_000, 80_000), 90_000, False, (39.4,)),
    "faster_rcnn_x101_32x8d_fpn_1x": ("e2e_faster_rcnn_X-101-32x8d-FPN_1x", 8, 0.01, (120_000, 160_000), 180_000, False, (41.3,)),
    "faster_rcnn_x101_64x4d_fpn_1x": ("e2e_faster_rcnn_X-101-64x4d-FPN_1x", 8, 0.01, (120_000, 160_000), 180_000, False, (41.5,)),
    "faster_rcnn_r50_c4_1x": ("e2e_faster_rcnn_R-50-C4_1x", 8, 0.01, (120_000, 160_000), 180_000, False, (34.8,)),
    "mask_rcnn_r50_fpn_1x": ("e2e_mask_rcnn_R-50-FPN_1x", 16, 0.02, (60_000, 80_000), 90_000, False, (37.7, 33.9)),
    "mask_rcnn_r101_fpn_1x": ("e2e_mask_rcnn_R-101-FPN_1x", 16, 0.02, (60_000, 80_000), 90_000, False, (40.0, 35.9)),
    "mask_rcnn_x101_32x8d_fpn_1x": ("e2e_mask_rcnn_X-101-32x8d-FPN_1x", 8, 0.01, (120_000, 160_000), 180_000, False, (42.1, 37.3)),
    "mask_rcnn_x101_64x4d_fpn_1x": ("e2e_mask_rcnn_X-101-64x4d-FPN_1x", 8, 0.01, (120_000, 160_000), 180_000, False, (42.4, 37.5)),
    "mask_rcnn_r50_c4_1x": ("e2e_mask_rcnn_R-50-C4_1x", 8, 0.01, (120_000, 160_000), 180_000, False, (35.8, 31.4)),
    "keypoint_rcnn_r50_fpn_1x": ("e2e_keypoint_rcnn_R-50-FPN_1x", 16, 0.02, (60_000, 80_000), 90_000, True, (53.6, 64.2)),
    "keypoint_rcnn_r101_fpn_1x": ("e2e_keypoint_rcnn_R-101-FPN_1x", 16, 0.02, (60_000, 80_000), 90_000, True, (54.5, 64.8)),
    "keypoint_rcnn_x101_32x8d_fpn_1x": (
        "e2e_keypoint_rcnn_X-101-32x8d-FPN_1x",
        16,
        0.02,
        (60_000, 80_000),
        90_000,
        True,
        (56.0, 66.0),
    ),
    "keypoint_rcnn_x101_64x4d_fpn_1x": (
        "e2e_keypoint_rcnn_X-101-64x4d-FPN_1x",
        16,
        0.02,
        (60_000, 80_000),
        90_000,
        True,
        (56.3, 66.0),
    ),
    "retinanet_r50_fpn_1x": ("retinanet_R-50-FPN_1x", 16, 0.01, (60_000, 80_000), 90_000, False, (35.7,)),
    "retinanet_r101_fpn_1x": ("retinanet_R-101-FPN_1x", 16, 0.01, (60_000, 80_000), 90_000, False, (37.7,)),
    "retinanet_x101_32x8d_fpn_1x": ("retinanet_X-101-32x8d-FPN_1x", 16, 0.01, (60_000, 80_000), 90_000, False, (39.5,)),
    "retinanet_x101_64x4d_fpn_1x": ("retinanet_X-101-64x4d-FPN_1x", 16, 0.01, (60_000, 80_000), 90_000, False, (39.8,)),
    "mask_rcnn_x152_32x8d_fpn_1_44x": (
        "e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x",
        8,
        0.01,
        (200_000, 240_000),
        260_000,
        True,
        (45.2, 39.7),
    ),
    "mask_rcnn_r50_fpn_2x_gn": ("e2e_mask_rcnn_R-50-FPN_2x_gn", 16, 0.02, (120_000, 160_000), 180_000, False, (40.3, 35.7)),
    "mask_rcnn_r50_fpn_3x_gn_scratch": (
        "scratch_e2e_mask_rcnn_R-50-FPN_3x_gn",
        16,
        0.02,
        (210_000, 250_000),
        270_000,
        False,
        (39.5, 35.2),
    ),
    "mask_rcnn_r101_fpn_2x_gn": ("e2e_mask_rcnn_R-101-FPN_2x_gn", 16, 0.02, (120_000, 160_000), 180_000, False, (41.8, 36.8)),
    "mask_rcnn_r101_fpn_3x_gn_scratch": (
        "scratch_e2e_mask_rcnn_R-101-FPN_3x_gn",
        16,
        0.02,
        (210_000, 250_000),
        270_000,
        False,
        (41.0, 36.4),
    ),
}


def words(name: str) -> str:
    """A recipe's docstring in one line."""
    return " ".join(getattr(recipes, name).__doc__.split())


@pytest.mark.parametrize("name", DETECTRON)
def test_detectrons_schedule_and_numbers(name: str) -> None:
    published, batch, lr, drops, steps, jitter, numbers = DETECTRON[name]
    config: Any = getattr(recipes, name)()
    assert (config.train.batch_size, config.optim.reference_batch_size) == (batch, batch)
    assert (config.optim.lr, config.train.steps) == (lr, steps)
    assert tuple(round(drop * steps) for drop in config.optim.schedule.drops) == drops
    assert config.data.train.transforms[0].short == (JITTER if jitter else (800,))
    assert config.data.val.transforms[0].short == (800,)
    # All other settings are the same in all of Detectron's baselines.
    base = recipes.faster_rcnn_r50_fpn_1x()
    changed = {key for key, _, _ in differences(base, config) if key.split(".")[0] in ("optim", "train", "test")}
    assert changed <= {
        "optim.lr",
        "optim.reference_batch_size",
        "optim.schedule.drops.0",
        "optim.schedule.drops.1",
        "optim.schedule.drops",
        "train.steps",
        "train.batch_size",
    }
    kinds = {"rpn": ("AR",), "mask": ("box AP", "mask AP"), "keypoint": ("box AP", "keypoint AP")}
    claims = zip(kinds.get(name.split("_")[0], ("box AP",)), numbers, strict=True)
    claim = " and ".join(f"{kind} {number:.1f}" for kind, number in claims)
    assert re.search(rf"Detectron's ``{re.escape(published)}`` published {claim}[ .,]", words(name)), words(name)


@pytest.mark.parametrize("name", [name for name in NAMES if re.search(r"_\d(_\d+)?x(_|$)|vgg|rfcn_r", name)])
def test_the_name_gives_the_backbone(name: str) -> None:
    """r101, x101_64x4d, c4 and so on in a recipe's name match the built backbone and the docstring."""
    model: Any = getattr(recipes, name)().model
    assert model.title.partition(", ")[2].removesuffix("-dilated").removesuffix("-C5") in words(name)
    if match := re.search(r"_(r|x)(\d+)(?:_(\d+)x(\d+)d)?_?(fpn|c4)?", name):
        kind, depth, groups, width, maps = match.groups()
        assert isinstance(model.backbone, ResNetConfig)
        assert (model.backbone.depth, model.backbone.width) == (int(depth), 64)
        assert (model.backbone.groups, model.backbone.width_per_group) == ((int(groups), int(width)) if kind == "x" else (1, 64))
        assert model.backbone.last_stage == {"fpn": "map", "c4": "tail", None: "dilated"}[maps]
        assert name.startswith("rfcn") or (model.fpn is None) == (maps == "c4")
    else:
        assert "vgg" in name and model.backbone.short_kind in name


@pytest.mark.parametrize("name", NAMES)
def test_a_number_has_a_publisher(name: str) -> None:
    """Every AP in a docstring follows the name of its publisher, and recipes on COCO mention published results."""
    text = words(name)
    for sentence in re.split(r"(?<=[.;]) ", text):
        if re.search(r"A[PR] \d", sentence):
            assert re.match(r"(RPN|detectron2 published|Detectron's ``\S+`` published|The paper published)", sentence), sentence
    if "mobilenetv2" not in name and "r18" not in name and "demo" not in name:
        assert "publish" in text


def test_c4_has_as_many_regions_as_detectron() -> None:
    """Detectron's defaults for one map: 12,000 candidates and 2,000 proposals in training; 6,000 and 1,000 in testing, but as many
    as in training for an RPN alone."""
    for name in ("faster_rcnn_r50_c4_1x", "mask_rcnn_r50_c4_1x", "rpn_r50_c4_1x"):
        model: Any = getattr(recipes, name)().model
        assert model.rpn.anchor_sizes == ((32, 64, 128, 256, 512),)
        assert (model.rpn.train_candidates, model.rpn.train_proposals) == (12_000, 2000)
        tested = (12_000, 2000) if name.startswith("rpn") else (6000, 1000)
        assert (model.rpn.test_candidates, model.rpn.test_proposals) == tested
    model = recipes.mask_rcnn_r50_c4_1x().model
    assert (model.rois.sampling_ratio, model.box_head.resolution, model.box_head.source) == (0, 14, "tail")
    assert (model.mask_head.convs, model.mask_head.source, model.mask_head.resolution) == (0, "tail", 14)


def test_group_norm_is_where_detectron_has_it() -> None:
    for name in ("mask_rcnn_r50_fpn_2x_gn", "mask_rcnn_r101_fpn_3x_gn_scratch", "mask_rcnn_r18_fpn_gn_scratch"):
        model: Any = getattr(recipes, name)().model
        assert {model.backbone.norm, model.fpn.norm, model.box_head.norm, model.mask_head.norm} == {"gn"}
        assert model.backbone.weights is None
        assert model.backbone.frozen_stages == (0 if "scratch" in name else 2)
