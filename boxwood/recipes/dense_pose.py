"""DensePose R-CNN (Güler et al., 2018) on DensePose-COCO: detectron2's configurations, with its conventions.

RoIAlign is not aligned and reads 2 x 2 points a cell, for boxes too; the backbone strides in its 1x1 convolutions and starts from
MSRA's ImageNet weights, as Detectron published them. Variants: ``legacy`` is the paper's network (regions from the level of their
size, 15 coarse channels), the others read one map of all levels; ``dl`` has DeepLab's head; ``wc1`` and ``wc2`` predict the error
of U and V, isotropic or with a direction (Neverova et al., 2019); ``m`` also weights of both segmentations. The numbers are those
of detectron2's table (COCO 2014 minival, GPS with kappa by part); Boxwood has not completed the training of any of these recipes.

Put COCO 2014 under ``data/coco``, DensePose-COCO's three annotation files under ``data/coco/annotations``, and the four files of
https://dl.fbaipublicfiles.com/densepose/data/ under ``data/densepose``. Those four and the annotations are not for commercial use.
"""

from __future__ import annotations

from typing import Literal

from boxwood.data import CocoConfig, DataConfig, HorizontalFlip, MixtureConfig, ResizeShortestEdge
from boxwood.evaluation.measures import DensePoseEvaluatorConfig
from boxwood.models import RCNNConfig
from boxwood.models.backbones import ResNetConfig
from boxwood.models.config import RoIConfig, RPNConfig
from boxwood.models.heads import ConvDensePoseHeadConfig, DeepLabDensePoseHeadConfig, DensePoseHeadConfig
from boxwood.run_config import RunConfig, SGDConfig, StepScheduleConfig, TrainConfig

__all__ = [
    "dense_pose_rcnn_r50_fpn_s1x",
    "dense_pose_rcnn_r50_fpn_s1x_dl",
    "dense_pose_rcnn_r50_fpn_s1x_dl_wc1",
    "dense_pose_rcnn_r50_fpn_s1x_dl_wc1m",
    "dense_pose_rcnn_r50_fpn_s1x_dl_wc2",
    "dense_pose_rcnn_r50_fpn_s1x_dl_wc2m",
    "dense_pose_rcnn_r50_fpn_s1x_legacy",
    "dense_pose_rcnn_r50_fpn_s1x_wc1",
    "dense_pose_rcnn_r50_fpn_s1x_wc1m",
    "dense_pose_rcnn_r50_fpn_s1x_wc2",
    "dense_pose_rcnn_r50_fpn_s1x_wc2m",
    "dense_pose_rcnn_r101_fpn_s1x",
    "dense_pose_rcnn_r101_fpn_s1x_dl",
    "dense_pose_rcnn_r101_fpn_s1x_dl_wc1",
    "dense_pose_rcnn_r101_fpn_s1x_dl_wc1m",
    "dense_pose_rcnn_r101_fpn_s1x_dl_wc2",
    "dense_pose_rcnn_r101_fpn_s1x_dl_wc2m",
    "dense_pose_rcnn_r101_fpn_s1x_legacy",
    "dense_pose_rcnn_r101_fpn_s1x_wc1",
    "dense_pose_rcnn_r101_fpn_s1x_wc1m",
    "dense_pose_rcnn_r101_fpn_s1x_wc2",
    "dense_pose_rcnn_r101_fpn_s1x_wc2m",
]

Confidence = Literal["iid_iso", "indep_aniso"] | None


def _dense_pose(depth: Literal[50, 101], head: DensePoseHeadConfig) -> RunConfig:
    resize = ResizeShortestEdge(short=(640, 672, 704, 736, 768, 800), long=1333)
    coco = "data/coco/annotations/densepose"
    parts = tuple(
        CocoConfig(
            annotations=f"{coco}_{name}2014.json",
            images=f"data/coco/{folder}2014",
            keep_empty=False,
            symmetry="data/densepose/UV_symmetry_transforms.mat",
        )
        for name, folder in (("train", "train"), ("valminusminival", "val"))
    )
    val = CocoConfig(
        annotations=f"{coco}_minival2014.json",
        images="data/coco/val2014",
        transforms=(ResizeShortestEdge(short=(800,), long=1333),),
    )
    return RunConfig(
        model=RCNNConfig(
            backbone=ResNetConfig(depth=depth, stride_in="1x1", weights=None),
            rpn=RPNConfig(smooth_l1_beta=0.0),
            rois=RoIConfig(smooth_l1_beta=0.0, aligned=False),
            dense_pose_head=head,
            pixel_std=(1.0, 1.0, 1.0),
        ),
        data=DataConfig(train=MixtureConfig(parts=parts, transforms=(resize, HorizontalFlip(p=0.5))), val=val),
        optim=SGDConfig(
            lr=0.01,
            reference_batch_size=16,
            momentum=0.9,
            weight_decay=1e-4,
            norm_weight_decay=0.0,
            bias_weight_decay=1e-4,
            schedule=StepScheduleConfig(drops=(100_000 / 130_000, 120_000 / 130_000), gamma=0.1),
            warmup_steps=1000,
            warmup_factor=0.1,
        ),
        train=TrainConfig(steps=130_000, batch_size=16, weights=f"detectron/imagenet/R-{depth}"),
        evaluator=DensePoseEvaluatorConfig(surface="data/densepose"),
    )


def _legacy(depth: Literal[50, 101]) -> RunConfig:
    head = ConvDensePoseHeadConfig(resolution=14, decoder=False, coarse=15, coarse_weight=2.0, fine_weight=0.3, uv_weight=0.1)
    config = _dense_pose(depth, head)
    config.optim.lr = 0.002
    return config


def _confident(depth: Literal[50, 101], confidence: Confidence, *, deeplab: bool = False, segmentation: bool = False) -> RunConfig:
    kind = DeepLabDensePoseHeadConfig if deeplab else ConvDensePoseHeadConfig
    head = kind(uv_weight=0.0005, confidence=confidence, segmentation_confidence=segmentation)
    config = _dense_pose(depth, head)
    config.optim.clip_value = 1.0
    config.optim.warmup_factor = 0.1 if deeplab else 0.025
    return config


def dense_pose_rcnn_r50_fpn_s1x_legacy() -> RunConfig:
    """DensePose R-CNN, ResNet-50-FPN, the paper's head, 130,000 steps of 16 images. detectron2 published box AP 58.1 and GPS AP
    52.1, GPSm AP 54.9.
    """
    return _legacy(50)


def dense_pose_rcnn_r50_fpn_s1x() -> RunConfig:
    """DensePose R-CNN, ResNet-50-FPN, a decoder and 8 convolutions, 130,000 steps of 16 images. detectron2 published box AP
    61.2 and GPS AP 63.7, GPSm AP 65.3.
    """
    return _dense_pose(50, ConvDensePoseHeadConfig())


def dense_pose_rcnn_r50_fpn_s1x_dl() -> RunConfig:
    """DensePose R-CNN, ResNet-50-FPN, a decoder and DeepLab's head, 130,000 steps of 16 images. detectron2 published box AP
    61.1 and GPS AP 65.6, GPSm AP 66.7.
    """
    return _dense_pose(50, DeepLabDensePoseHeadConfig())


def dense_pose_rcnn_r50_fpn_s1x_wc1() -> RunConfig:
    """DensePose R-CNN, ResNet-50-FPN, one predicted variance of U and V, 130,000 steps of 16 images. detectron2 published
    box AP 60.5 and GPS AP 64.2, GPSm AP 65.4.
    """
    return _confident(50, "iid_iso")


def dense_pose_rcnn_r50_fpn_s1x_wc2() -> RunConfig:
    """DensePose R-CNN, ResNet-50-FPN, predicted variance and direction of U and V, 130,000 steps of 16 images. detectron2
    published box AP 60.7 and GPS AP 64.2, GPSm AP 65.7.
    """
    return _confident(50, "indep_aniso")


def dense_pose_rcnn_r50_fpn_s1x_dl_wc1() -> RunConfig:
    """DensePose R-CNN, ResNet-50-FPN, DeepLab's head, one predicted variance, 130,000 steps of 16 images. detectron2
    published box AP 61.1 and GPS AP 65.8, GPSm AP 67.0.
    """
    return _confident(50, "iid_iso", deeplab=True)


def dense_pose_rcnn_r50_fpn_s1x_dl_wc2() -> RunConfig:
    """DensePose R-CNN, ResNet-50-FPN, DeepLab's head, predicted variance and direction, 130,000 steps of 16 images.
    detectron2 published box AP 60.8 and GPS AP 65.6, GPSm AP 66.7.
    """
    return _confident(50, "indep_aniso", deeplab=True)


def dense_pose_rcnn_r50_fpn_s1x_wc1m() -> RunConfig:
    """DensePose R-CNN, ResNet-50-FPN, one predicted variance, segmentation weights, 130,000 steps of 16 images.
    detectron2 published box AP 60.6 and GPS AP 64.0, GPSm AP 65.4.
    """
    config = _confident(50, "iid_iso", segmentation=True)
    config.optim.clip_value, config.optim.clip_norm = None, 100.0  # of each parameter in detectron2, of all together here
    return config


def dense_pose_rcnn_r50_fpn_s1x_wc2m() -> RunConfig:
    """DensePose R-CNN, ResNet-50-FPN, predicted variance and direction, segmentation weights, 130,000 steps of 16
    images. detectron2 published box AP 60.7 and GPS AP 64.2, GPSm AP 65.5.
    """
    return _confident(50, "indep_aniso", segmentation=True)


def dense_pose_rcnn_r50_fpn_s1x_dl_wc1m() -> RunConfig:
    """DensePose R-CNN, ResNet-50-FPN, DeepLab's head, one predicted variance, segmentation weights, 130,000 steps of
    16 images. detectron2 published box AP 60.7 and GPS AP 65.2, GPSm AP 66.7.
    """
    return _confident(50, "iid_iso", deeplab=True, segmentation=True)


def dense_pose_rcnn_r50_fpn_s1x_dl_wc2m() -> RunConfig:
    """DensePose R-CNN, ResNet-50-FPN, DeepLab's head, variance and direction, segmentation weights, 130,000 steps of
    16 images. detectron2 published box AP 60.8 and GPS AP 65.0, GPSm AP 66.4.
    """
    return _confident(50, "indep_aniso", deeplab=True, segmentation=True)


def dense_pose_rcnn_r101_fpn_s1x_legacy() -> RunConfig:
    """DensePose R-CNN, ResNet-101-FPN, the paper's head, 130,000 steps of 16 images. detectron2 published box AP 59.5 and GPS
    AP 53.2, GPSm AP 56.0.
    """
    return _legacy(101)


def dense_pose_rcnn_r101_fpn_s1x() -> RunConfig:
    """DensePose R-CNN, ResNet-101-FPN, a decoder and 8 convolutions, 130,000 steps of 16 images. detectron2 published box AP
    62.3 and GPS AP 64.5, GPSm AP 66.2.
    """
    return _dense_pose(101, ConvDensePoseHeadConfig())


def dense_pose_rcnn_r101_fpn_s1x_dl() -> RunConfig:
    """DensePose R-CNN, ResNet-101-FPN, a decoder and DeepLab's head, 130,000 steps of 16 images. detectron2 published box AP
    62.3 and GPS AP 66.3, GPSm AP 67.6.
    """
    return _dense_pose(101, DeepLabDensePoseHeadConfig())


def dense_pose_rcnn_r101_fpn_s1x_wc1() -> RunConfig:
    """DensePose R-CNN, ResNet-101-FPN, one predicted variance of U and V, 130,000 steps of 16 images. detectron2 published
    box AP 62.5 and GPS AP 64.9, GPSm AP 66.3.
    """
    return _confident(101, "iid_iso")


def dense_pose_rcnn_r101_fpn_s1x_wc2() -> RunConfig:
    """DensePose R-CNN, ResNet-101-FPN, predicted variance and direction of U and V, 130,000 steps of 16 images. detectron2
    published box AP 62.3 and GPS AP 64.8, GPSm AP 66.4.
    """
    return _confident(101, "indep_aniso")


def dense_pose_rcnn_r101_fpn_s1x_dl_wc1() -> RunConfig:
    """DensePose R-CNN, ResNet-101-FPN, DeepLab's head, one predicted variance, 130,000 steps of 16 images. detectron2
    published box AP 62.0 and GPS AP 66.2, GPSm AP 67.2.
    """
    return _confident(101, "iid_iso", deeplab=True)


def dense_pose_rcnn_r101_fpn_s1x_dl_wc2() -> RunConfig:
    """DensePose R-CNN, ResNet-101-FPN, DeepLab's head, predicted variance and direction, 130,000 steps of 16 images.
    detectron2 published box AP 61.7 and GPS AP 65.9, GPSm AP 67.2.
    """
    return _confident(101, "indep_aniso", deeplab=True)


def dense_pose_rcnn_r101_fpn_s1x_wc1m() -> RunConfig:
    """DensePose R-CNN, ResNet-101-FPN, one predicted variance, segmentation weights, 130,000 steps of 16 images.
    detectron2 published box AP 62.0 and GPS AP 64.8, GPSm AP 66.0.
    """
    return _confident(101, "iid_iso", segmentation=True)


def dense_pose_rcnn_r101_fpn_s1x_wc2m() -> RunConfig:
    """DensePose R-CNN, ResNet-101-FPN, predicted variance and direction, segmentation weights, 130,000 steps of 16
    images. detectron2 published box AP 62.5 and GPS AP 64.5, GPSm AP 66.0.
    """
    return _confident(101, "indep_aniso", segmentation=True)


def dense_pose_rcnn_r101_fpn_s1x_dl_wc1m() -> RunConfig:
    """DensePose R-CNN, ResNet-101-FPN, DeepLab's head, one predicted variance, segmentation weights, 130,000 steps
    of 16 images. detectron2 published box AP 62.0 and GPS AP 66.4, GPSm AP 67.1.
    """
    return _confident(101, "iid_iso", deeplab=True, segmentation=True)


def dense_pose_rcnn_r101_fpn_s1x_dl_wc2m() -> RunConfig:
    """DensePose R-CNN, ResNet-101-FPN, DeepLab's head, variance and direction, segmentation weights, 130,000 steps
    of 16 images. detectron2 published box AP 61.9 and GPS AP 66.1, GPSm AP 67.1.
    """
    return _confident(101, "indep_aniso", deeplab=True, segmentation=True)
