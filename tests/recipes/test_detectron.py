"""Detectron's 87 configurations: each has the settings of its file and can be found by name."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from boxwood import recipes, safe_yaml
from boxwood.config import differences, from_yaml, to_yaml
from boxwood.errors import UserError
from boxwood.interop.detectron_config import from_detectron
from boxwood.models.backbones import ResNetConfig
from boxwood.recipes import detectron, resolve
from boxwood.run_config import RunConfig
from boxwood.training.optimizer import learning_rate
from tests.conftest import Boxwood
from tests.interop import detectron_files
from tests.interop.detectron_files import Row, rows

EVERY_ROW = pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)


def test_there_are_87() -> None:
    assert len(detectron.BASELINES) == 87
    assert set(detectron.BASELINES) < set(recipes.names())
    assert len({baseline.path for baseline in detectron.BASELINES.values()}) == 87
    assert sum(map(len, detectron.sorts().values())) == 87
    assert {row.name for row in rows()} == set(detectron.BASELINES)


@EVERY_ROW
def test_the_imported_file_equals_the_recipe(row: Row) -> None:
    tree, _ = safe_yaml.parse_mapping(detectron_files.text(row), "old.yaml")
    converted = from_detectron(tree)
    assert differences(converted.config, resolve(row.name)) == []
    assert not any(note.what == "left out" for note in converted.notes)
    assert (converted.config.test.tta is not None) == detectron.BASELINES[row.name].augmented_test


@EVERY_ROW
def test_settings_are_those_of_the_table(row: Row) -> None:
    config: Any = resolve(row.name)
    model, train, test = config.model, config.data.train, config.data.val
    assert config.train.batch_size == row.gpus * row.per_gpu == config.optim.reference_batch_size
    assert (config.optim.lr, config.train.steps) == (row.lr, row.steps[-1])
    assert tuple(round(drop * config.train.steps) for drop in config.optim.schedule.drops) == row.steps[:-1]
    assert config.train.weights == (None if "scratch" in row.init else f"detectron/imagenet/{row.init.rpartition('/')[2]}")
    assert (train.transforms[0].short, train.transforms[0].long) == (row.shorts, row.long)
    assert (test.transforms[0].short, test.transforms[0].long) == (row.shorts[-1:], row.long)
    kind = "person_keypoints" if row.classes == 2 else "instances"
    year = 2014 if row.tutorial else 2017
    assert train.annotations.endswith(f"/{kind}_train{year}.json") and train.images.endswith(f"/train{year}")
    assert test.annotations.endswith(f"/{kind}_val2017.json")
    assert (train.proposals is not None) == (test.proposals is not None) == row.kind.startswith("precomp.")
    assert model.geometry == "detectron1"
    assert model.size_divisor == (128 if row.kind == "RetinaNet" else 32 if row.fpn else 1)
    backbone = model.backbone
    assert isinstance(backbone, ResNetConfig)
    assert backbone.stride_in == row.stride and f"ResNet{backbone.depth}_" in row.backbone
    assert (backbone.norm == "gn") == ("GN" in row.backbone)
    assert (backbone.groups, backbone.width_per_group) == (
        (32, 8) if "32x8d" in row.backbone else (64, 4) if "64x4d" in row.backbone else (1, 64)
    )
    assert backbone.frozen_stages == (0 if "scratch" in row.init else 2)
    assert config.test.nms_threshold == (0.3 if row.kind == "RPN_ONLY" else 0.5)
    if row.kind == "RetinaNet":
        assert model.head.anchor_ratios == (1.0, 2.0, 0.5) and model.head.smooth_l1_beta == 0.11
        assert [sizes[0] for sizes in model.head.anchor_sizes] == [32, 64, 128, 256, 512]
        return
    if "e2e" in row.kind or row.kind == "RPN_ONLY":
        assert model.rpn.straddle == 0
        assert [size for level in model.rpn.anchor_sizes for size in level] == [32, 64, 128, 256, 512]
        assert len(model.rpn.anchor_sizes) == (5 if row.fpn else 1)
        counts = (model.rpn.train_candidates, model.rpn.train_proposals, model.rpn.test_candidates, model.rpn.test_proposals)
        ends = {(True, True): (2000, 2000, 1000, 1000), (False, True): (12_000, 2000, 6000, 1000)}
        alone = {(True, False): (12_000, 2000, 1000, 2000), (False, False): (12_000, 2000, 12_000, 2000)}
        assert counts == (ends | alone)[row.fpn, "e2e" in row.kind]
    if row.kind == "RPN_ONLY":
        return
    assert not model.rois.aligned and model.rois.sampling_ratio == (2 if row.fpn else 0)
    assert (model.rois.samples_per_image, model.rois.positive_fraction, model.rois.smooth_l1_beta) == (
        256 if row.tutorial else 512,
        0.25,
        1.0,
    )
    assert (model.mask_head is not None) == ("mask" in row.kind)
    assert (model.keypoint_head is not None) == ("kps" in row.kind)
    if model.keypoint_head is not None:
        assert (model.keypoint_head.convs, model.keypoint_head.width, model.keypoint_head.resolution) == (8, 512, 14)


@pytest.mark.parametrize("name", detectron.BASELINES)
def test_round_trip_and_description(name: str) -> None:
    config = resolve(name)
    text = to_yaml(config)
    assert from_yaml(RunConfig, text) == config
    assert config.model.pixel_mean == (122.7717, 115.9465, 102.9801) and config.model.pixel_std == (1, 1, 1)
    assert not config.data.train.transforms[0].antialias  # type: ignore[attr-defined]  # a resize
    config.optim.lr = 123
    assert resolve(name).optim.lr != 123
    described = recipes.describe(name)
    assert described.startswith(config.model.title) and f"{config.train.steps:,} steps of {config.train.batch_size} " in described
    assert bool(re.search(r"Detectron published (AR|box AP) \d\d\.\d", described)) == bool(detectron.BASELINES[name].published)
    assert ("augmentation" in described) == detectron.BASELINES[name].augmented_test


def test_published_numbers_are_the_zoos() -> None:
    ours = {baseline.path: baseline.published for baseline in detectron.BASELINES.values()}
    seen = set()
    for row in detectron_files.published():
        path = row["config"].removesuffix(".yaml")
        numbers = tuple(row[key] for key in ("prop_ar", "box_ap", "mask_ap", "kp_ap") if row[key] is not None)
        if row["struck_out"] or row["augmented_test"]:
            continue  # the recipes do not have these settings
        assert ours[path] == numbers, path
        seen.add(path)
    assert {path for path, published in ours.items() if published} == seen


# Computed with Detectron's code: step -> rate.
GOLDEN = {
    "detectron/e2e_mask_rcnn_R-50-FPN_1x": {
        0: 0.0066666668,
        1: 0.0066933334,
        100: 0.0093333333,
        250: 0.0133333337,
        499: 0.0199733339,
        500: 0.02,
        59_999: 0.02,
        60_000: 0.002,
        80_000: 0.0002,
    },
    "detectron/e2e_keypoint_rcnn_R-50-FPN_s1x": {99_999: 0.02, 100_000: 0.002, 119_999: 0.002, 120_000: 0.0002},
    "detectron/tutorial_1gpu_e2e_faster_rcnn_R-50-FPN": {
        0: 0.00083333,
        250: 0.00166667,
        500: 0.0025,
        29_999: 0.0025,
        30_000: 0.00025,
        40_000: 0.000025,
    },
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_learning_rate_is_detectrons(name: str) -> None:
    config = resolve(name)
    for step, rate in GOLDEN[name].items():
        assert np.float32(learning_rate(step, config)) == pytest.approx(
            rate, rel=5e-6 if name.startswith("detectron/tutorial") else 1e-7
        ), step


@EVERY_ROW
def test_the_learning_rate_falls_where_the_table_says(row: Row) -> None:
    config = resolve(row.name)
    rate = row.lr
    for drop in row.steps[:-1]:
        assert learning_rate(drop - 1, config) == pytest.approx(rate, rel=1e-9)
        rate /= 10
        assert learning_rate(drop, config) == pytest.approx(rate, rel=1e-9)


def test_names_are_found() -> None:
    assert resolve("detectron/retinanet_R-50-FPN_1x", ["optim.lr=0.5"]).optim.lr == 0.5
    with pytest.raises(UserError, match=r"did you mean 'detectron/e2e_mask_rcnn_R-50-FPN_1x'"):
        resolve("e2e_mask_rcnn_R-50-FPN_1x")


def test_a_baseline_can_be_the_base_of_a_file(tmp_path: Any) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: detectron/e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x\ntrain: {steps: 7}\n")
    assert resolve(str(path)).train.steps == 7


def test_list_summarises_the_baselines(boxwood: Boxwood) -> None:
    listed = boxwood("config", "list").out
    assert len(listed.splitlines()) < 125 and "detectron/e2e_mask_rcnn_*" in listed
    some = boxwood("config", "list", "detectron/rpn_").out.splitlines()
    assert len(some) == 9 and "Detectron published AR 51.6" in some[0]
    assert len(boxwood("config", "list", "detectron").out.splitlines()) == 87
    wrong = boxwood("config", "list", "detektron")
    assert (wrong.status, wrong.out) == (2, "") and "no recipe begins with 'detektron'" in wrong.err
    shown = boxwood("config", "diff", "detectron/rpn_R-50-FPN_1x", "detectron/rpn_R-101-FPN_1x").out
    assert "model.backbone.depth: 50 -> 101" in shown
