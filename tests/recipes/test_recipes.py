"""Every recipe is complete, short, and unchanged by a save and a load. test_table.py tests that each learns."""

from __future__ import annotations

import itertools

import pytest

from boxwood import recipes
from boxwood.config import differences, from_yaml, to_yaml
from boxwood.data import MixtureConfig
from boxwood.models import ModelConfig, ProposerConfig, RCNNConfig, RetinaNetConfig, RFCNConfig
from boxwood.models.backbones import MobileNetV2Config, ResNetConfig, TimmConfig, VGG16Config
from boxwood.models.heads import ConvKeypointHeadConfig, ConvMaskHeadConfig
from boxwood.run_config import RunConfig, SGDConfig, StepScheduleConfig

NAMES = [recipe.__name__ for recipe in recipes.RECIPES]


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(name: str) -> None:
    config = getattr(recipes, name)()
    text = to_yaml(config)
    assert from_yaml(RunConfig, text) == config
    assert to_yaml(from_yaml(RunConfig, text)) == text
    assert differences(config, from_yaml(RunConfig, text)) == []
    assert len(text.splitlines()) < 170


@pytest.mark.parametrize("name", NAMES)
def test_each_call_returns_a_new_configuration(name: str) -> None:
    first = getattr(recipes, name)()
    first.optim.lr = 123
    assert getattr(recipes, name)().optim.lr != 123


@pytest.mark.parametrize("name", NAMES)
def test_docstring_names_the_model(name: str) -> None:
    """It begins with the algorithm, and contains either the command to train it or its published results."""
    text, title = getattr(recipes, name).__doc__, getattr(recipes, name)().model.title
    algorithm = title.partition(",")[0]
    assert text.startswith(("RPN alone" if algorithm == "RPN" else algorithm) + ", ")
    assert f"boxwood train {name}" in text or "publish" in text


def test_detectrons_schedule() -> None:
    """The settings of Detectron's e2e_{faster,mask}_rcnn_R-50-FPN_1x.yaml and its defaults (config.py)."""
    for config in (recipes.faster_rcnn_r50_fpn_1x(), recipes.mask_rcnn_r50_fpn_1x()):
        optim, train = config.optim, config.train
        assert isinstance(optim, SGDConfig) and isinstance(optim.schedule, StepScheduleConfig)
        assert (optim.lr, optim.momentum, optim.schedule.gamma) == (0.02, 0.9, 0.1)
        assert (train.steps, train.batch_size) == (90_000, 16)
        assert [round(drop * train.steps) for drop in optim.schedule.drops] == [60_000, 80_000]
        assert (optim.warmup_steps, round(optim.warmup_factor, 9)) == (500, 0.333333333)
        assert (optim.weight_decay, optim.norm_weight_decay, optim.bias_weight_decay, optim.bias_lr_factor) == (1e-4, 0, 0, 2)
        assert [(t.kind()) for t in config.data.train.transforms] == ["resize_shortest_edge", "horizontal_flip"]
        assert [(t.kind()) for t in config.data.val.transforms] == ["resize_shortest_edge"]
        assert (config.test.score_threshold, config.test.nms_threshold, config.test.detections_per_image) == (0.05, 0.5, 100)
    assert recipes.faster_rcnn_r50_fpn_1x().model.mask_head is None  # type: ignore[attr-defined]  # of RCNNConfig
    assert [key for key, _, _ in differences(recipes.faster_rcnn_r50_fpn_1x(), recipes.mask_rcnn_r50_fpn_1x())] == [
        "model.mask_head"
    ]


def test_mask_x_differs_from_mask_rcnn_by_its_head_and_its_classes() -> None:
    for depth, classes in itertools.product((50, 101), ("voc", "nonvoc")):
        config = getattr(recipes, f"mask_x_rcnn_r{depth}_fpn_1x_{classes}")()
        assert config.data.train.mask_classes == classes and config.data.val.mask_classes is None
        config.data.train.mask_classes, head = None, config.model.mask_head
        assert (head.inputs, head.layers, head.negative_slope, head.mlp_branch, head.stop_gradient) == (
            "cls+box",
            2,
            0.1,
            True,
            True,
        )
        config.model.mask_head = ConvMaskHeadConfig()
        assert config == getattr(recipes, f"mask_rcnn_r{depth}_fpn_1x")()


def test_detectrons_retinanet() -> None:
    """The settings of retinanet_R-50-FPN_1x.yaml: Faster R-CNN's schedule at half its learning rate."""
    config, faster = recipes.retinanet_r50_fpn_1x(), recipes.faster_rcnn_r50_fpn_1x()
    assert config.optim.lr == 0.01
    assert {key.split(".")[0] for key, _, _ in differences(faster, config)} == {"model", "optim"}
    head = config.model.head  # type: ignore[attr-defined]  # of RetinaNetConfig
    assert (head.convs, head.prior, head.focal_alpha, head.focal_gamma, head.smooth_l1_beta) == (4, 0.01, 0.25, 2.0, 0.11)
    assert (head.foreground_iou, head.background_iou, head.test_candidates) == (0.5, 0.4, 1000)


def test_titles_name_the_parts() -> None:
    mask, keypoint = ConvMaskHeadConfig(), ConvKeypointHeadConfig()
    c4, dilated = ResNetConfig(last_stage="tail"), ResNetConfig(depth=101, last_stage="dilated")
    grouped = ResNetConfig(depth=152, groups=32, width_per_group=8)
    titles: dict[str, ModelConfig] = {
        "Faster R-CNN, ResNet-50-FPN": RCNNConfig(),
        "Fast R-CNN, VGG16": RCNNConfig(backbone=VGG16Config(), fpn=None, rpn=None),
        "Mask R-CNN, ResNet-50-C4": RCNNConfig(backbone=c4, fpn=None, mask_head=mask),
        "Keypoint R-CNN on given proposals, MobileNetV2-FPN": RCNNConfig(
            backbone=MobileNetV2Config(), rpn=None, keypoint_head=keypoint
        ),
        "Mask and Keypoint R-CNN, ResNeXt-152-32x8d-FPN": RCNNConfig(backbone=grouped, mask_head=mask, keypoint_head=keypoint),
        "RPN, ResNet-50-C5": ProposerConfig(fpn=None),
        "RPN, ResNet-101-C5-dilated": ProposerConfig(backbone=dilated, fpn=None),
        "R-FCN, ResNet-101": RFCNConfig(backbone=dilated),
        "RetinaNet, convnext_tiny-FPN": RetinaNetConfig(backbone=TimmConfig(name="convnext_tiny")),
    }
    assert [model.title for model in titles.values()] == list(titles)


def test_data_distillation() -> None:
    """The paper's mixture of 6 to 4, and its rate divided by 10 at 70 and 90 % of 360,000 steps of 16 images."""
    for student, teacher in (
        (recipes.faster_rcnn_r50_fpn_distilled(), recipes.faster_rcnn_r50_fpn_1x()),
        (recipes.keypoint_rcnn_r50_fpn_distilled(), recipes.keypoint_rcnn_r50_fpn_1x()),
    ):
        train_set, schedule = student.data.train, student.optim.schedule
        assert isinstance(train_set, MixtureConfig) and train_set.ratio == (3, 2) and isinstance(schedule, StepScheduleConfig)
        assert train_set.parts[0] == teacher.data.train and train_set.parts[1].transforms == teacher.data.train.transforms
        assert student.train.steps * student.train.batch_size == 360_000 * 16 and student.train.batch_size % 5 == 0
        assert [round(drop * 90_000) for drop in schedule.drops] == [63_000, 81_000] and schedule.gamma == 0.1
        assert student.optim.lr / student.train.batch_size == pytest.approx(0.02 / 16)
        assert (student.model, student.data.val, student.train.weights) == (teacher.model, teacher.data.val, None)


def test_dense_pose_is_detectron2s() -> None:
    """The settings of its configurations: learning rate, first factor of the warm-up, clipping, weights of the losses."""
    expected = {
        "": (0.01, 0.1, None, None, (5.0, 1.0, 0.01)),
        "legacy": (0.002, 0.1, None, None, (2.0, 0.3, 0.1)),
        "dl": (0.01, 0.1, None, None, (5.0, 1.0, 0.01)),
        "wc1": (0.01, 0.025, 1.0, None, (5.0, 1.0, 0.0005)),
        "wc2": (0.01, 0.025, 1.0, None, (5.0, 1.0, 0.0005)),
        "dl_wc1": (0.01, 0.1, 1.0, None, (5.0, 1.0, 0.0005)),
        "dl_wc2": (0.01, 0.1, 1.0, None, (5.0, 1.0, 0.0005)),
        "wc1m": (0.01, 0.025, 1.0, None, (5.0, 1.0, 0.0005)),
        "wc2m": (0.01, 0.025, 1.0, None, (5.0, 1.0, 0.0005)),
        "dl_wc1m": (0.01, 0.1, 1.0, None, (5.0, 1.0, 0.0005)),
        "dl_wc2m": (0.01, 0.1, 1.0, None, (5.0, 1.0, 0.0005)),
    }
    for depth, (variant, numbers) in itertools.product((50, 101), expected.items()):
        config = getattr(recipes, f"dense_pose_rcnn_r{depth}_fpn_s1x{'_' if variant else ''}{variant}")()
        if (depth, variant) == (50, "wc1m"):
            numbers = (0.01, 0.025, None, 100.0, (5.0, 1.0, 0.0005))
        optim, head = config.optim, config.model.dense_pose_head
        weights = (head.coarse_weight, head.fine_weight, head.uv_weight)
        assert (optim.lr, optim.warmup_factor, optim.clip_value, optim.clip_norm, weights) == numbers, variant
        assert (optim.weight_decay, optim.bias_weight_decay, optim.bias_lr_factor, optim.warmup_steps) == (1e-4, 1e-4, 1, 1000)
        assert [round(drop * config.train.steps) for drop in optim.schedule.drops] == [100_000, 120_000]
        assert (config.train.steps, config.train.batch_size, config.train.weights) == (130_000, 16, f"detectron/imagenet/R-{depth}")
        assert (config.model.rois.aligned, config.model.rois.sampling_ratio, config.model.backbone.stride_in) == (False, 2, "1x1")
        assert (head.kind() == "deeplab_dense_pose") == variant.startswith("dl")
        assert head.confidence == ("iid_iso" if "wc1" in variant else "indep_aniso" if "wc2" in variant else None)
        assert head.segmentation_confidence == variant.endswith("m")
        assert (head.decoder, head.resolution, head.coarse) == ((False, 14, 15) if variant == "legacy" else (True, 28, 2))
        assert config.data.train.parts[0].symmetry and config.evaluator.kind() == "dense_pose"
