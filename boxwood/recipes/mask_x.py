"""Mask^X R-CNN (Hu et al., Learning to Segment Every Thing, 2018): boxes of all classes of COCO, masks of some of them in training.

Settings are those of the paper's program, trained end to end, with the departures of `boxwood.recipes.coco`. ``voc`` and
``nonvoc`` say whose masks teach: the 20 classes that PASCAL VOC has too, or the other 60; mask AP of both parts is in every
evaluation. Boxwood has not completed the training of any of these recipes yet. Variants:

* the paper's class-agnostic baseline: ``model.mask_head.inputs=null model.mask_head.mlp_branch=false``;
* masks of all classes, the paper's oracle: `mask_rcnn_r50_fpn_1x` and `mask_rcnn_r101_fpn_1x`;
* two stages, the detector first: ``train.weights=runs/faster`` (a Faster R-CNN on the same classes) and
  ``optim.lr_factors=[{pattern: mask_*}, {pattern: '*', lr: 0}]``.
"""

from __future__ import annotations

from typing import Literal

from boxwood.data import CocoConfig
from boxwood.models import RCNNConfig
from boxwood.models.backbones import ResNetConfig
from boxwood.models.heads import MaskXHeadConfig
from boxwood.recipes.coco import faster_rcnn_r50_fpn_1x
from boxwood.run_config import RunConfig

__all__ = [
    "mask_x_rcnn_r50_fpn_1x_nonvoc",
    "mask_x_rcnn_r50_fpn_1x_voc",
    "mask_x_rcnn_r101_fpn_1x_nonvoc",
    "mask_x_rcnn_r101_fpn_1x_voc",
]


def _mask_x(depth: Literal[50, 101], mask_classes: str) -> RunConfig:
    config = faster_rcnn_r50_fpn_1x()
    config.model = RCNNConfig(backbone=ResNetConfig(depth=depth), mask_head=MaskXHeadConfig())
    assert isinstance(config.data.train, CocoConfig)
    config.data.train.mask_classes = mask_classes
    return config


def mask_x_rcnn_r50_fpn_1x_voc() -> RunConfig:
    """Mask^X R-CNN, ResNet-50-FPN, COCO, masks of VOC's 20 classes, 90,000 steps of 16 images.

    The numbers that are published for this backbone are in the paper's tables. Put COCO 2017 under ``data/coco``, then::

        torchrun --nproc-per-node 8 -m boxwood train mask_x_rcnn_r50_fpn_1x_voc
    """
    return _mask_x(50, "voc")


def mask_x_rcnn_r50_fpn_1x_nonvoc() -> RunConfig:
    """Mask^X R-CNN, ResNet-50-FPN, COCO, masks of the 60 classes that VOC lacks, 90,000 steps of 16 images.

    The numbers that are published for this backbone are in the paper's tables. Put COCO 2017 under ``data/coco``, then::

        torchrun --nproc-per-node 8 -m boxwood train mask_x_rcnn_r50_fpn_1x_nonvoc
    """
    return _mask_x(50, "nonvoc")


def mask_x_rcnn_r101_fpn_1x_voc() -> RunConfig:
    """Mask^X R-CNN, ResNet-101-FPN, COCO, masks of VOC's 20 classes, 90,000 steps of 16 images.

    The paper published mask AP 23.8 for the 60 classes without masks.
    """
    return _mask_x(101, "voc")


def mask_x_rcnn_r101_fpn_1x_nonvoc() -> RunConfig:
    """Mask^X R-CNN, ResNet-101-FPN, COCO, masks of the 60 classes that VOC lacks, 90,000 steps of 16 images.

    The paper published mask AP 29.5 for the 20 classes without masks.
    """
    return _mask_x(101, "nonvoc")
