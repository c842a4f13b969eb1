"""Mask R-CNN with group normalisation in backbone, pyramid, box head and mask head (Wu and He, 2018), and from scratch.

Settings and numbers are those of Detectron's ``configs/04_2018_gn_baselines`` (FAIR, 2018, COCO 2014 minival), with the departures
of `boxwood.recipes.coco`; Boxwood has not completed the training of any of these recipes yet. torchvision has no ImageNet weights
of a ResNet with group norm, so the recipes that start from them name none: give a file with ``train.weights``. Without it use the
recipes from scratch, or set ``model.backbone.frozen_stages=0``: two stages frozen at random weights cost Detectron 3.3 points
of box AP (36.2 instead of 39.5 from scratch).
"""

from __future__ import annotations

from boxwood.models import RCNNConfig
from boxwood.models.backbones import ResNetConfig
from boxwood.models.config import FPNConfig
from boxwood.models.heads import ConvFCHeadConfig, ConvMaskHeadConfig
from boxwood.recipes.coco import faster_rcnn_r50_fpn_1x
from boxwood.run_config import RunConfig, StepScheduleConfig

__all__ = [
    "mask_rcnn_r50_fpn_2x_gn",
    "mask_rcnn_r50_fpn_3x_gn_scratch",
    "mask_rcnn_r101_fpn_2x_gn",
    "mask_rcnn_r101_fpn_3x_gn_scratch",
]


def _group_norm(depth: int, steps: int, drops: tuple[int, int], *, frozen_stages: int) -> RunConfig:
    config = faster_rcnn_r50_fpn_1x()
    config.model = RCNNConfig(
        backbone=ResNetConfig.model_validate({"depth": depth, "norm": "gn", "frozen_stages": frozen_stages, "weights": None}),
        fpn=FPNConfig(norm="gn"),
        box_head=ConvFCHeadConfig(norm="gn"),
        mask_head=ConvMaskHeadConfig(norm="gn"),
    )
    config.train.steps = steps
    config.optim.schedule = StepScheduleConfig(drops=(drops[0] / steps, drops[1] / steps))
    return config


def mask_rcnn_r50_fpn_2x_gn() -> RunConfig:
    """Mask R-CNN, ResNet-50-FPN with group norm, 180,000 steps of 16 images.

    Detectron's ``e2e_mask_rcnn_R-50-FPN_2x_gn`` published box AP 40.3 and mask AP 35.7, from ImageNet weights with group norm.
    """
    return _group_norm(50, 180_000, (120_000, 160_000), frozen_stages=2)


def mask_rcnn_r101_fpn_2x_gn() -> RunConfig:
    """Mask R-CNN, ResNet-101-FPN with group norm, 180,000 steps of 16 images.

    Detectron's ``e2e_mask_rcnn_R-101-FPN_2x_gn`` published box AP 41.8 and mask AP 36.8, from ImageNet weights with group norm.
    """
    return _group_norm(101, 180_000, (120_000, 160_000), frozen_stages=2)


def mask_rcnn_r50_fpn_3x_gn_scratch() -> RunConfig:
    """Mask R-CNN, ResNet-50-FPN with group norm, from random weights, no stage frozen, 270,000 steps of 16 images.

    Detectron's ``scratch_e2e_mask_rcnn_R-50-FPN_3x_gn`` published box AP 39.5 and mask AP 35.2.
    """
    return _group_norm(50, 270_000, (210_000, 250_000), frozen_stages=0)


def mask_rcnn_r101_fpn_3x_gn_scratch() -> RunConfig:
    """Mask R-CNN, ResNet-101-FPN with group norm, from random weights, no stage frozen, 270,000 steps of 16 images.

    Detectron's ``scratch_e2e_mask_rcnn_R-101-FPN_3x_gn`` published box AP 41.0 and mask AP 36.4.
    """
    return _group_norm(101, 270_000, (210_000, 250_000), frozen_stages=0)
