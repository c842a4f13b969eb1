"""Detectron's baselines on COCO: a ResNet-50 with a feature pyramid, the 1x schedule.

The settings are those of Detectron's ``configs/12_2017_baselines`` (FAIR, 2017; `Mask R-CNN`, He et al., 2017, and its appendix),
with these departures: the geometry is continuous (boxes without +1, aligned RoIAlign), the body is torchvision's
(ImageNet weights with the stride in the 3x3 convolution and RGB means, where Detectron took MSRA's), and COCO 2017's train
set stands for 2014's train and "valminusminival", which are the same images.

The learning rate is for 16 images an update, however many GPUs share them. For fewer images an update, let
``optim.scale_lr=true`` scale it, and give as many times the steps.
"""

from __future__ import annotations

from boxwood.data import CocoConfig, DataConfig, HorizontalFlip, ResizeShortestEdge
from boxwood.models import RCNNConfig, RetinaNetConfig
from boxwood.models.heads import ConvMaskHeadConfig
from boxwood.run import OptimConfig, RunConfig, TrainConfig

__all__ = ["faster_rcnn_r50_fpn_1x", "mask_rcnn_r50_fpn_1x", "retinanet_r50_fpn_1x"]


def faster_rcnn_r50_fpn_1x() -> RunConfig:
    """Faster R-CNN, ResNet-50-FPN, COCO, 90,000 steps of 16 images.

    Detectron's own ``e2e_faster_rcnn_R-50-FPN_1x`` published box AP 36.7 on COCO 2014 minival; Boxwood has not been trained to
    the end of it yet. Put COCO 2017 under ``data/coco`` (``annotations/``, ``train2017/``, ``val2017/``), then::

        torchrun --nproc-per-node 8 -m boxwood train faster_rcnn_r50_fpn_1x
    """
    resize = ResizeShortestEdge(short=(800,), long=1333)
    return RunConfig(
        model=RCNNConfig(),
        data=DataConfig(
            train=CocoConfig(
                annotations="data/coco/annotations/instances_train2017.json",
                images="data/coco/train2017",
                keep_empty=False,  # Detectron drops the images without annotations
                transforms=(resize, HorizontalFlip(p=0.5)),
            ),
            val=CocoConfig(
                annotations="data/coco/annotations/instances_val2017.json", images="data/coco/val2017", transforms=(resize,)
            ),
        ),
        optim=OptimConfig(
            kind="sgd",
            lr=0.02,
            reference_batch_size=16,
            momentum=0.9,
            weight_decay=1e-4,
            norm_weight_decay=0.0,
            bias_lr_factor=2.0,
            bias_weight_decay=0.0,
            schedule="step",
            drops=(60_000 / 90_000, 80_000 / 90_000),
            gamma=0.1,
            warmup_steps=500,
            warmup_factor=1 / 3,
        ),
        train=TrainConfig(steps=90_000, batch_size=16),
    )


def mask_rcnn_r50_fpn_1x() -> RunConfig:
    """Mask R-CNN, ResNet-50-FPN, COCO, 90,000 steps of 16 images.

    Detectron's own ``e2e_mask_rcnn_R-50-FPN_1x`` published box AP 37.7 and mask AP 33.9 on COCO 2014 minival; Boxwood has not
    been trained to the end of it yet. Put COCO 2017 under ``data/coco``, then::

        torchrun --nproc-per-node 8 -m boxwood train mask_rcnn_r50_fpn_1x
    """
    config = faster_rcnn_r50_fpn_1x()
    config.model = RCNNConfig(mask_head=ConvMaskHeadConfig())
    return config


def retinanet_r50_fpn_1x() -> RunConfig:
    """RetinaNet, ResNet-50-FPN, COCO, 90,000 steps of 16 images.

    Detectron's own ``retinanet_R-50-FPN_1x`` published box AP 35.7 on COCO 2014 minival; Boxwood has not been trained to the end of
    it yet. Put COCO 2017 under ``data/coco``, then::

        torchrun --nproc-per-node 8 -m boxwood train retinanet_r50_fpn_1x
    """
    config = faster_rcnn_r50_fpn_1x()
    config.model = RetinaNetConfig()
    config.optim.lr = 0.01
    return config
