"""Detectron's 87 configurations, with its geometry, initial weights and schedules.

Each file of its ``configs/`` (FAIR, 2017 and 2018) is ``detectron/NAME``; the two of ``test_time_aug``, whose names also occur
elsewhere, are ``detectron/test_time_aug/NAME``. They train and test as Detectron did, for its weights and numbers; the recipes
without ``detectron/`` have continuous geometry. These two and ``e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x`` have test-time
augmentation.

All are generated from one table of configurations and of the results that Detectron published, in percent on COCO 2014 minival.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from boxwood.data import CocoConfig, DataConfig, HorizontalFlip, ResizeShortestEdge
from boxwood.models import ModelConfig, ProposerConfig, RCNNConfig, RetinaNetConfig, TestConfig
from boxwood.models.backbones import ResNetConfig
from boxwood.models.config import FPNConfig, RetinaNetHeadConfig, RoIConfig, RPNConfig
from boxwood.models.heads import (
    AverageHeadConfig,
    ConvFCHeadConfig,
    ConvKeypointHeadConfig,
    ConvMaskHeadConfig,
    TwoFCHeadConfig,
)
from boxwood.models.inference_config import BoxViewsConfig, KeypointViewsConfig, MaskViewsConfig, TTAConfig, VoteConfig
from boxwood.run_config import RunConfig, SGDConfig, StepScheduleConfig, TrainConfig

__all__ = ["BASELINES", "Baseline", "build", "describe", "sorts"]

Method = Literal[
    "rpn",
    "rpn_person_only",
    "fast_rcnn",
    "mask_rcnn",
    "keypoint_rcnn",
    "e2e_faster_rcnn",
    "e2e_mask_rcnn",
    "e2e_keypoint_rcnn",
    "retinanet",
]
"""R-CNN without e2e reads the proposals of an RPN trained before."""


class _Backbone(NamedTuple):
    depth: Literal[50, 101, 152]
    initial_weights: str
    groups: int = 1
    width_per_group: int = 64
    c4: bool = False


_BACKBONES = {
    "R-50-C4": _Backbone(50, "R-50", c4=True),
    "R-50-FPN": _Backbone(50, "R-50"),
    "R-101-FPN": _Backbone(101, "R-101"),
    "X-101-32x8d-FPN": _Backbone(101, "X-101-32x8d", 32, 8),
    "X-101-64x4d-FPN": _Backbone(101, "X-101-64x4d", 64, 4),
    "X-152-32x8d-FPN-IN5k": _Backbone(152, "X-152-32x8d-IN5k", 32, 8),
}

_SCHEDULES = {
    "1x": (60_000, 80_000, 90_000),
    "s1x": (100_000, 120_000, 130_000),
    "1.44x": (100_000, 120_000, 130_000),
    "2x": (120_000, 160_000, 180_000),
    "3x": (210_000, 250_000, 270_000),
}
"""Two drops of the learning rate, and the end, in steps of 16 images; of 8 images twice as many steps, at half the rate."""


class Baseline(NamedTuple):
    """One configuration, and the results that Detectron published for it."""

    path: str
    """The path below Detectron's ``configs/``, without ``.yaml``."""
    method: Method
    backbone: str
    drops: tuple[int, ...]
    steps: int
    batch_size: int
    lr: float
    published: tuple[float, ...]
    """Box AP, and mask or keypoint AP; for an RPN the AR of 1,000 proposals; empty if nothing was published."""
    norm: Literal["frozen_bn", "gn"] = "frozen_bn"
    from_scratch: bool = False
    short: tuple[int, ...] = (800,)
    """Lengths of an image's shorter side in training, in pixels."""
    augmented_test: bool = False
    """Whether Detectron's file has test-time augmentation."""

    @property
    def tutorial(self) -> bool:
        """Of Detectron's tutorial: half the RoIs of an image, and the train set of 2014 alone."""
        return self.path.startswith("getting_started/")


# Method, backbone, and for each schedule the results that Detectron published.
_TABLE: tuple[tuple[Method, str, dict[str, tuple[float, ...]]], ...] = (
    ("rpn", "R-50-C4", {"1x": (51.6,)}),
    ("rpn", "R-50-FPN", {"1x": (57.2,)}),
    ("rpn", "R-101-FPN", {"1x": (58.2,)}),
    ("rpn", "X-101-32x8d-FPN", {"1x": (59.5,)}),
    ("rpn", "X-101-64x4d-FPN", {"1x": (59.4,)}),
    ("fast_rcnn", "R-50-C4", {"1x": (34.4,), "2x": (35.6,)}),
    ("fast_rcnn", "R-50-FPN", {"1x": (36.4,), "2x": (36.8,)}),
    ("fast_rcnn", "R-101-FPN", {"1x": (38.5,), "2x": (39.0,)}),
    ("fast_rcnn", "X-101-32x8d-FPN", {"1x": (40.6,), "2x": (39.7,)}),
    ("fast_rcnn", "X-101-64x4d-FPN", {"1x": (40.4,), "2x": (39.8,)}),
    ("mask_rcnn", "R-50-C4", {"1x": (35.5, 31.3), "2x": (36.9, 32.5)}),
    ("mask_rcnn", "R-50-FPN", {"1x": (37.3, 33.7), "2x": (37.7, 34.0)}),
    ("mask_rcnn", "R-101-FPN", {"1x": (39.4, 35.6), "2x": (40.0, 35.9)}),
    ("mask_rcnn", "X-101-32x8d-FPN", {"1x": (41.3, 37.0), "2x": (40.7, 36.3)}),
    ("mask_rcnn", "X-101-64x4d-FPN", {"1x": (41.3, 37.0), "2x": (41.1, 36.6)}),
    ("e2e_faster_rcnn", "R-50-C4", {"1x": (34.8,), "2x": (36.5,)}),
    ("e2e_faster_rcnn", "R-50-FPN", {"1x": (36.7,), "2x": (37.9,)}),
    ("e2e_faster_rcnn", "R-101-FPN", {"1x": (39.4,), "2x": (39.8,)}),
    ("e2e_faster_rcnn", "X-101-32x8d-FPN", {"1x": (41.3,), "2x": (40.6,)}),
    ("e2e_faster_rcnn", "X-101-64x4d-FPN", {"1x": (41.5,), "2x": (40.8,)}),
    ("e2e_mask_rcnn", "R-50-C4", {"1x": (35.8, 31.4), "2x": (37.8, 32.8)}),
    ("e2e_mask_rcnn", "R-50-FPN", {"1x": (37.7, 33.9), "2x": (38.6, 34.5)}),
    ("e2e_mask_rcnn", "R-101-FPN", {"1x": (40.0, 35.9), "2x": (40.9, 36.4)}),
    ("e2e_mask_rcnn", "X-101-32x8d-FPN", {"1x": (42.1, 37.3), "2x": (41.7, 36.9)}),
    ("e2e_mask_rcnn", "X-101-64x4d-FPN", {"1x": (42.4, 37.5), "2x": (42.2, 37.2)}),
    ("e2e_mask_rcnn", "X-152-32x8d-FPN-IN5k", {"1.44x": (45.2, 39.7)}),
    ("retinanet", "R-50-FPN", {"1x": (35.7,), "2x": (35.7,)}),
    ("retinanet", "R-101-FPN", {"1x": (37.7,), "2x": (37.8,)}),
    ("retinanet", "X-101-32x8d-FPN", {"1x": (39.5,), "2x": (38.6,)}),
    ("retinanet", "X-101-64x4d-FPN", {"1x": (39.8,), "2x": (39.2,)}),
    ("rpn_person_only", "R-50-FPN", {"1x": (64.0,)}),
    ("rpn_person_only", "R-101-FPN", {"1x": (65.2,)}),
    ("rpn_person_only", "X-101-32x8d-FPN", {"1x": (66.2,)}),
    ("rpn_person_only", "X-101-64x4d-FPN", {"1x": (65.9,)}),
    ("keypoint_rcnn", "R-50-FPN", {"1x": (52.7, 64.1), "s1x": (53.4, 65.5)}),
    ("keypoint_rcnn", "R-101-FPN", {"1x": (53.5, 65.0), "s1x": (54.6, 66.0)}),
    ("keypoint_rcnn", "X-101-32x8d-FPN", {"1x": (55.4, 66.2), "s1x": (55.9, 67.0)}),
    ("keypoint_rcnn", "X-101-64x4d-FPN", {"1x": (55.8, 66.7), "s1x": (56.3, 67.1)}),
    ("e2e_keypoint_rcnn", "R-50-FPN", {"1x": (53.6, 64.2), "s1x": (54.3, 65.4)}),
    ("e2e_keypoint_rcnn", "R-101-FPN", {"1x": (54.5, 64.8), "s1x": (55.3, 65.8)}),
    ("e2e_keypoint_rcnn", "X-101-32x8d-FPN", {"1x": (56.0, 66.0), "s1x": (56.9, 67.0)}),
    ("e2e_keypoint_rcnn", "X-101-64x4d-FPN", {"1x": (56.3, 66.0), "s1x": (56.9, 66.8)}),
)

# Mask R-CNN with group norm: method, backbone, schedule, whether from scratch, published results.
_GROUP_NORM: tuple[tuple[Method, str, str, bool, tuple[float, ...]], ...] = (
    ("e2e_mask_rcnn", "R-50-FPN", "2x", False, (40.3, 35.7)),
    ("e2e_mask_rcnn", "R-101-FPN", "2x", False, (41.8, 36.8)),
    ("e2e_mask_rcnn", "R-50-FPN", "3x", False, (40.8, 36.1)),
    ("e2e_mask_rcnn", "R-101-FPN", "3x", False, (42.3, 37.2)),
    ("e2e_mask_rcnn", "R-50-FPN", "3x", True, (39.5, 35.2)),
    ("e2e_mask_rcnn", "R-101-FPN", "3x", True, (41.0, 36.4)),
    ("mask_rcnn", "R-50-FPN", "1x", False, ()),
)

_JITTER = (640, 672, 704, 736, 768, 800)


def _baselines() -> Iterator[tuple[str, Baseline]]:
    for method, backbone, schedules in _TABLE:
        for schedule, published in schedules.items():
            name = f"{method}_{backbone}_{schedule}"
            yield name, _scheduled(f"12_2017_baselines/{name}", method, backbone, schedule, published)
    for method, backbone, schedule, from_scratch, published in _GROUP_NORM:
        name = f"{'scratch_' if from_scratch else ''}{method}_{backbone}_{schedule}_gn"
        baseline = _scheduled(f"04_2018_gn_baselines/{name}", method, backbone, schedule, published)
        yield name, baseline._replace(norm="gn", from_scratch=from_scratch)
    for gpus in (1, 2, 4, 8):
        name, steps, lr = f"tutorial_{gpus}gpu_e2e_faster_rcnn_R-50-FPN", 60_000 // gpus, 0.0025 * gpus
        drops = (steps // 2, steps * 2 // 3)
        path = f"getting_started/{name}"
        yield name, Baseline(path, "e2e_faster_rcnn", "R-50-FPN", drops, steps, 2 * gpus, lr, (), short=(500,))
    augmented: tuple[tuple[Method, str], ...] = (("e2e_mask_rcnn", "2x"), ("keypoint_rcnn", "1x"))
    for method, schedule in augmented:
        path = f"test_time_aug/{method}_R-50-FPN_{schedule}"
        yield path, _scheduled(path, method, "R-50-FPN", schedule, ())._replace(augmented_test=True)


def _scheduled(path: str, method: Method, backbone: str, schedule: str, published: tuple[float, ...]) -> Baseline:
    """One image per GPU where two did not fit: half the learning rate, twice the steps."""
    *drops, steps = _SCHEDULES[schedule]
    big = method.removeprefix("e2e_") in ("fast_rcnn", "faster_rcnn", "mask_rcnn") and backbone not in ("R-50-FPN", "R-101-FPN")
    times = 2 if big else 1
    return Baseline(
        path,
        method,
        backbone,
        tuple(times * drop for drop in drops),
        times * steps,
        16 // times,
        0.01 if big or method == "retinanet" else 0.02,
        published,
        short=_JITTER if method.endswith("keypoint_rcnn") or backbone == "X-152-32x8d-FPN-IN5k" else (800,),
        augmented_test=backbone == "X-152-32x8d-FPN-IN5k",
    )


BASELINES: dict[str, Baseline] = {f"detectron/{name}": baseline for name, baseline in _baselines()}
"""The baselines by the name of their recipe."""


def build(name: str) -> RunConfig:
    """The complete configuration of the recipe ``name``.

    >>> config = build("detectron/e2e_mask_rcnn_R-101-FPN_2x")
    >>> config.model.title, config.model.geometry, config.train.steps, config.train.weights
    ('Mask R-CNN, ResNet-101-FPN', 'detectron1', 180000, 'detectron/imagenet/R-101')
    """
    baseline = BASELINES[name]
    gpus = max(1, baseline.batch_size // 2) if baseline.tutorial else 8
    return RunConfig(
        model=_model(baseline),
        data=_data(baseline),
        optim=SGDConfig(
            lr=baseline.lr,
            reference_batch_size=baseline.batch_size,
            bias_lr_factor=2.0,
            schedule=StepScheduleConfig(drops=tuple(drop / baseline.steps for drop in baseline.drops)),
        ),
        train=TrainConfig(
            steps=baseline.steps,
            batch_size=baseline.batch_size,
            seed=3,
            eval_every=0,
            checkpoint_every=80_000 // gpus,
            weights=None if baseline.from_scratch else f"detectron/imagenet/{_initial_weights(baseline)}",
        ),
        # An RPN alone does not use this threshold, and its files have Detectron's default.
        test=TestConfig(
            nms_threshold=0.3 if baseline.method.startswith("rpn") else 0.5,
            vote=VoteConfig(threshold=0.9) if baseline.augmented_test and baseline.method == "e2e_mask_rcnn" else None,
            tta=_augmentation(baseline) if baseline.augmented_test else None,
        ),
    )


def _augmentation(baseline: Baseline) -> TTAConfig:
    """Eight more scales, all also mirrored. On given proposals boxes are averaged, since the views have the same regions."""
    views = {"flip": True, "scales": (400, 500, 600, 700, 900, 1000, 1100, 1200), "long": 2000, "scale_flip": True}
    if baseline.method == "e2e_mask_rcnn":
        return TTAConfig(boxes=BoxViewsConfig.model_validate(views), masks=MaskViewsConfig.model_validate(views))
    averaged = {**views, "scores": "avg", "boxes": "avg"}
    by_size = {**views, "areas": (150.0**2, 150.0**2)}
    return TTAConfig(boxes=BoxViewsConfig.model_validate(averaged), keypoints=KeypointViewsConfig.model_validate(by_size))


def describe(name: str) -> str:
    """The description of the recipe ``name``, with its source and the results that Detectron published.

    >>> print(describe("detectron/retinanet_R-50-FPN_1x"))
    RetinaNet, ResNet-50-FPN, 90,000 steps of 16 images, of Detectron's 12_2017_baselines; Detectron published box AP 35.7.
    """
    baseline, title = BASELINES[name], _model(BASELINES[name]).title
    details = ", ".join(
        [title]
        + (["of persons"] if baseline.method == "rpn_person_only" else [])
        + (["group norm"] if baseline.norm == "gn" else [])
        + (["from random weights"] if baseline.from_scratch else [])
        + [f"{baseline.steps:,} steps of {baseline.batch_size} images"]
    )
    source = f"{details}, of Detectron's {baseline.path.rpartition('/')[0]}"
    if not baseline.published:
        claim = "no AP is published"
    else:
        parts = zip(_measures(baseline.method), baseline.published, strict=True)
        claim = "Detectron published " + " and ".join(f"{measure} {number:.1f}" for measure, number in parts)
    if baseline.augmented_test:
        claim += ", without this augmentation at test time" if baseline.published else "; with augmentation at test time"
    return f"{source}; {claim}."


def sorts() -> dict[str, list[str]]:
    """The names of the baselines, grouped by their beginning.

    >>> {sort: len(names) for sort, names in sorts().items()}["detectron/e2e_mask_rcnn_"]
    15
    """
    names_by_sort: dict[str, list[str]] = {}
    for name, baseline in BASELINES.items():
        sort = name.partition(baseline.backbone)[0]
        for folded in ("tutorial_", "scratch_", "test_time_aug/"):
            sort = f"detectron/{folded}" if sort.startswith(f"detectron/{folded}") else sort
        names_by_sort.setdefault(sort, []).append(name)
    return names_by_sort


def _measures(method: Method) -> tuple[str, ...]:
    if method.startswith("rpn"):
        return ("AR",)
    second = ("mask AP",) if "mask" in method else ("keypoint AP",) if "keypoint" in method else ()
    return ("box AP", *second)


def _initial_weights(baseline: Baseline) -> str:
    return _BACKBONES[baseline.backbone].initial_weights + ("-GN" if baseline.norm == "gn" else "")


# --------------------------------------------------------------------------------------------------------------- the parts


def _model(baseline: Baseline) -> ModelConfig:
    facts, method = _BACKBONES[baseline.backbone], baseline.method
    backbone = ResNetConfig(
        depth=facts.depth,
        groups=facts.groups,
        width_per_group=facts.width_per_group,
        norm=baseline.norm,
        stride_in="1x1" if facts.groups == 1 and baseline.norm == "frozen_bn" else "3x3",  # 1x1 for MSRA's weights
        last_stage="tail" if facts.c4 else "map",
        frozen_stages=0 if baseline.from_scratch else 2,
        weights=None,
    )
    fpn = None if facts.c4 else FPNConfig(norm="gn" if baseline.norm == "gn" else None)
    if method == "retinanet":
        model: ModelConfig = RetinaNetConfig(
            backbone=backbone, fpn=FPNConfig(top="conv_c5"), head=RetinaNetHeadConfig(anchor_ratios=(1.0, 2.0, 0.5))
        )
    elif method in ("rpn", "rpn_person_only"):
        model = ProposerConfig(backbone=backbone, fpn=fpn, rpn=_rpn(baseline))
    else:
        model = RCNNConfig(
            backbone=backbone,
            fpn=fpn,
            rpn=_rpn(baseline) if method.startswith("e2e_") else None,
            rois=RoIConfig(samples_per_image=256 if baseline.tutorial else 512, sampling_ratio=0 if facts.c4 else 2, aligned=False),
            box_head=AverageHeadConfig() if facts.c4 else ConvFCHeadConfig() if baseline.norm == "gn" else TwoFCHeadConfig(),
            mask_head=_mask_head(baseline) if "mask" in method else None,
            keypoint_head=ConvKeypointHeadConfig() if "keypoint" in method else None,
        )
    model.geometry = "detectron1"
    model.size_divisor = 128 if method == "retinanet" else 1 if facts.c4 else 32
    model.pixel_mean, model.pixel_std = (122.7717, 115.9465, 102.9801), (1.0, 1.0, 1.0)
    return model


def _rpn(baseline: Baseline) -> RPNConfig:
    """On a pyramid the 2,000 proposals in training are those of all images of a process together. An RPN alone writes 2,000 in
    testing; in training it makes none, and its files have Detectron's defaults."""
    c4, alone = _BACKBONES[baseline.backbone].c4, not baseline.method.startswith("e2e_")
    return RPNConfig(
        anchor_sizes=((32.0, 64.0, 128.0, 256.0, 512.0),) if c4 else ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)),
        straddle=0.0,
        train_candidates=12_000 if c4 or alone else 2000,
        train_proposals=2000,
        test_candidates=(12_000 if alone else 6000) if c4 else 1000,
        test_proposals=2000 if alone else 1000,
    )


def _mask_head(baseline: Baseline) -> ConvMaskHeadConfig:
    if _BACKBONES[baseline.backbone].c4:
        return ConvMaskHeadConfig(convs=0, source="tail")
    return ConvMaskHeadConfig(norm="gn" if baseline.norm == "gn" else None)


def _data(baseline: Baseline) -> DataConfig:
    """COCO 2017: its train set is 2014's train and "valminusminival", and its val set is "minival"."""
    persons = "keypoint" in baseline.method or baseline.method == "rpn_person_only"
    kind, prefix = ("person_keypoints", "keypoints_coco_2014") if persons else ("instances", "coco_2014")
    year = 2014 if baseline.tutorial else 2017
    train = CocoConfig(
        annotations=f"data/coco/annotations/{kind}_train{year}.json",
        images=f"data/coco/train{year}",
        keep_empty=False,
        transforms=(ResizeShortestEdge(short=baseline.short, long=_long(baseline), antialias=False), HorizontalFlip(p=0.5)),
    )
    val = CocoConfig(
        annotations=f"data/coco/annotations/{kind}_val2017.json",
        images="data/coco/val2017",
        transforms=(ResizeShortestEdge(short=baseline.short[-1:], long=_long(baseline), antialias=False),),
    )
    if baseline.method in ("fast_rcnn", "mask_rcnn", "keypoint_rcnn"):
        folder = f"proposals/{'rpn_person_only' if persons else 'rpn'}_{baseline.backbone}_1x"
        train.proposals = (f"{folder}/{prefix}_train.pkl", f"{folder}/{prefix}_valminusminival.pkl")
        train.proposal_limit = None
        val.proposals, val.proposal_limit = f"{folder}/{prefix}_minival.pkl", 1000
    return DataConfig(train=train, val=val)


def _long(baseline: Baseline) -> int:
    return 833 if baseline.short == (500,) else 1333
