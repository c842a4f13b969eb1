"""Detectors for CPUs and small data sets: a MobileNetV2 with a narrow feature pyramid.

The sizes are measured, not published: on two cores a step of 4 images takes about 2.5 s with 128 channels and 128 RoIs an
image, and over 6 s with the 256 channels and 512 RoIs of the COCO recipes. 400 steps are about a quarter of an hour,
which is enough for a few hundred images of a few classes; for more, raise ``train.steps``.
"""

from __future__ import annotations

from boxwood.data import CocoConfig, DataConfig, HorizontalFlip, ResizeShortestEdge
from boxwood.models import RCNNConfig, RetinaNetConfig
from boxwood.models.backbones import MobileNetV2Config
from boxwood.models.fpn import FPNConfig
from boxwood.models.heads import ConvMaskHeadConfig
from boxwood.models.retinanet import RetinaNetHeadConfig
from boxwood.models.rois import RoIConfig
from boxwood.run import OptimConfig, RunConfig, TrainConfig

__all__ = ["faster_rcnn_mobilenetv2_fpn", "mask_rcnn_mobilenetv2_fpn", "retinanet_mobilenetv2_fpn"]


def faster_rcnn_mobilenetv2_fpn() -> RunConfig:
    """Faster R-CNN, MobileNetV2-FPN, 320 pixels, 400 steps of 4 images: for CPUs and small data.

    The body starts from torchvision's ImageNet weights. Run it on your own boxes in COCO's format::

        boxwood train faster_rcnn_mobilenetv2_fpn \\
            data.train.annotations=train.json data.train.images=photos \\
            data.val.annotations=val.json data.val.images=photos
    """
    resize = ResizeShortestEdge(short=(320,), long=533)
    return RunConfig(
        model=RCNNConfig(
            backbone=MobileNetV2Config(),
            fpn=FPNConfig(channels=128),
            rois=RoIConfig(samples_per_image=128, smooth_l1_beta=1 / 9),
        ),
        data=DataConfig(
            train=CocoConfig(annotations="data/train.json", images="data/images", transforms=(resize, HorizontalFlip(p=0.5))),
            val=CocoConfig(annotations="data/val.json", images="data/images", transforms=(resize,)),
        ),
        optim=OptimConfig(lr=0.01, reference_batch_size=4, drops=(0.66, 0.9), warmup_steps=50, warmup_factor=0.1),
        train=TrainConfig(steps=400, batch_size=4, eval_every=0, checkpoint_every=100, log_every=10),
    )


def mask_rcnn_mobilenetv2_fpn() -> RunConfig:
    """Mask R-CNN, MobileNetV2-FPN, 320 pixels, 400 steps of 4 images: for CPUs and small data.

    As `faster_rcnn_mobilenetv2_fpn`, with a mask head as narrow as the pyramid. It needs polygons or RLE in the annotations::

        boxwood train mask_rcnn_mobilenetv2_fpn \\
            data.train.annotations=train.json data.train.images=photos \\
            data.val.annotations=val.json data.val.images=photos
    """
    config = faster_rcnn_mobilenetv2_fpn()
    config.model = RCNNConfig(
        backbone=MobileNetV2Config(),
        fpn=FPNConfig(channels=128),
        rois=RoIConfig(samples_per_image=128, smooth_l1_beta=1 / 9),
        mask_head=ConvMaskHeadConfig(width=128),
    )
    return config


def retinanet_mobilenetv2_fpn() -> RunConfig:
    """RetinaNet, MobileNetV2-FPN, 320 pixels, 400 steps of 4 images: for CPUs and small data.

    As `faster_rcnn_mobilenetv2_fpn`, with towers as wide as the pyramid and group norm in them, so that they learn in a few hundred
    steps; anchors begin at half the published size, as the pictures are smaller::

        boxwood train retinanet_mobilenetv2_fpn \\
            data.train.annotations=train.json data.train.images=photos \\
            data.val.annotations=val.json data.val.images=photos
    """
    config = faster_rcnn_mobilenetv2_fpn()
    sizes = tuple(tuple(2 * stride * 2 ** (third / 3) for third in range(3)) for stride in (8, 16, 32, 64, 128))
    config.model = RetinaNetConfig(
        backbone=MobileNetV2Config(),
        fpn=FPNConfig(channels=128, top="conv_c5"),
        head=RetinaNetHeadConfig(anchor_sizes=sizes, norm="gn"),
    )
    return config
