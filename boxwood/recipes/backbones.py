"""Detectron's baselines with a feature pyramid on deeper and wider backbones than ResNet-50.

All other settings are those of the recipe on ResNet-50 (`boxwood.recipes.coco`). The numbers are those that Detectron published
(FAIR, 2017, COCO 2014 minival); Boxwood has not completed the training of any of these recipes yet.
"""

from __future__ import annotations

from boxwood.data import CocoConfig, HorizontalFlip, ResizeShortestEdge
from boxwood.models import ProposerConfig, RCNNConfig, RetinaNetConfig
from boxwood.models.backbones import ResNetConfig
from boxwood.recipes.coco import (
    fast_rcnn_r50_fpn_1x,
    faster_rcnn_r50_fpn_1x,
    keypoint_rcnn_r50_fpn_1x,
    mask_rcnn_r50_fpn_1x,
    retinanet_r50_fpn_1x,
    rpn_r50_fpn_1x,
)
from boxwood.run_config import RunConfig, StepScheduleConfig

__all__ = [
    "fast_rcnn_r101_fpn_1x",
    "fast_rcnn_x101_32x8d_fpn_1x",
    "fast_rcnn_x101_64x4d_fpn_1x",
    "faster_rcnn_r101_fpn_1x",
    "faster_rcnn_r152_fpn_1x",
    "faster_rcnn_x50_32x4d_fpn_1x",
    "faster_rcnn_x101_32x8d_fpn_1x",
    "faster_rcnn_x101_64x4d_fpn_1x",
    "keypoint_rcnn_r101_fpn_1x",
    "keypoint_rcnn_x101_32x8d_fpn_1x",
    "keypoint_rcnn_x101_64x4d_fpn_1x",
    "mask_rcnn_r101_fpn_1x",
    "mask_rcnn_x101_32x8d_fpn_1x",
    "mask_rcnn_x101_64x4d_fpn_1x",
    "mask_rcnn_x152_32x8d_fpn_1_44x",
    "retinanet_r101_fpn_1x",
    "retinanet_x101_32x8d_fpn_1x",
    "retinanet_x101_64x4d_fpn_1x",
    "rpn_r101_fpn_1x",
    "rpn_x101_32x8d_fpn_1x",
    "rpn_x101_64x4d_fpn_1x",
]


def _on(config: RunConfig, backbone: ResNetConfig) -> RunConfig:
    assert isinstance(config.model, RCNNConfig | RetinaNetConfig | ProposerConfig)
    config.model.backbone = backbone
    return config


def _of_8_images(config: RunConfig) -> RunConfig:
    """One image per GPU where two do not fit: half the learning rate, twice the steps."""
    config.optim.lr, config.optim.reference_batch_size = config.optim.lr / 2, 8
    config.train.batch_size, config.train.steps = 8, 2 * config.train.steps
    return config


def rpn_r101_fpn_1x() -> RunConfig:
    """RPN alone, ResNet-101-FPN, 90,000 steps of 16 images. Detectron's ``rpn_R-101-FPN_1x`` published AR 58.2."""
    return _on(rpn_r50_fpn_1x(), ResNetConfig(depth=101))


def rpn_x101_32x8d_fpn_1x() -> RunConfig:
    """RPN alone, ResNeXt-101-32x8d-FPN, 90,000 steps of 16 images. Detectron's ``rpn_X-101-32x8d-FPN_1x`` published AR 59.5."""
    return _on(rpn_r50_fpn_1x(), ResNetConfig(depth=101, groups=32, width_per_group=8))


def rpn_x101_64x4d_fpn_1x() -> RunConfig:
    """RPN alone, ResNeXt-101-64x4d-FPN, 90,000 steps of 16 images. Detectron's ``rpn_X-101-64x4d-FPN_1x`` published AR 59.4."""
    return _on(rpn_r50_fpn_1x(), ResNetConfig(depth=101, groups=64, width_per_group=4))


def fast_rcnn_r101_fpn_1x() -> RunConfig:
    """Fast R-CNN, ResNet-101-FPN, 90,000 steps of 16 images. Detectron's ``fast_rcnn_R-101-FPN_1x`` published box AP 38.5."""
    return _on(fast_rcnn_r50_fpn_1x(), ResNetConfig(depth=101))


def fast_rcnn_x101_32x8d_fpn_1x() -> RunConfig:
    """Fast R-CNN, ResNeXt-101-32x8d-FPN, 180,000 steps of 8 images.

    Detectron's ``fast_rcnn_X-101-32x8d-FPN_1x`` published box AP 40.6.
    """
    return _of_8_images(_on(fast_rcnn_r50_fpn_1x(), ResNetConfig(depth=101, groups=32, width_per_group=8)))


def fast_rcnn_x101_64x4d_fpn_1x() -> RunConfig:
    """Fast R-CNN, ResNeXt-101-64x4d-FPN, 180,000 steps of 8 images.

    Detectron's ``fast_rcnn_X-101-64x4d-FPN_1x`` published box AP 40.4.
    """
    return _of_8_images(_on(fast_rcnn_r50_fpn_1x(), ResNetConfig(depth=101, groups=64, width_per_group=4)))


def faster_rcnn_r101_fpn_1x() -> RunConfig:
    """Faster R-CNN, ResNet-101-FPN, 90,000 steps of 16 images.

    Detectron's ``e2e_faster_rcnn_R-101-FPN_1x`` published box AP 39.4.
    """
    return _on(faster_rcnn_r50_fpn_1x(), ResNetConfig(depth=101))


def faster_rcnn_x101_32x8d_fpn_1x() -> RunConfig:
    """Faster R-CNN, ResNeXt-101-32x8d-FPN, 180,000 steps of 8 images.

    Detectron's ``e2e_faster_rcnn_X-101-32x8d-FPN_1x`` published box AP 41.3.
    """
    return _of_8_images(_on(faster_rcnn_r50_fpn_1x(), ResNetConfig(depth=101, groups=32, width_per_group=8)))


def faster_rcnn_x101_64x4d_fpn_1x() -> RunConfig:
    """Faster R-CNN, ResNeXt-101-64x4d-FPN, 180,000 steps of 8 images.

    Detectron's ``e2e_faster_rcnn_X-101-64x4d-FPN_1x`` published box AP 41.5.
    """
    return _of_8_images(_on(faster_rcnn_r50_fpn_1x(), ResNetConfig(depth=101, groups=64, width_per_group=4)))


def mask_rcnn_r101_fpn_1x() -> RunConfig:
    """Mask R-CNN, ResNet-101-FPN, 90,000 steps of 16 images.

    Detectron's ``e2e_mask_rcnn_R-101-FPN_1x`` published box AP 40.0 and mask AP 35.9.
    """
    return _on(mask_rcnn_r50_fpn_1x(), ResNetConfig(depth=101))


def mask_rcnn_x101_32x8d_fpn_1x() -> RunConfig:
    """Mask R-CNN, ResNeXt-101-32x8d-FPN, 180,000 steps of 8 images.

    Detectron's ``e2e_mask_rcnn_X-101-32x8d-FPN_1x`` published box AP 42.1 and mask AP 37.3.
    """
    return _of_8_images(_on(mask_rcnn_r50_fpn_1x(), ResNetConfig(depth=101, groups=32, width_per_group=8)))


def mask_rcnn_x101_64x4d_fpn_1x() -> RunConfig:
    """Mask R-CNN, ResNeXt-101-64x4d-FPN, 180,000 steps of 8 images.

    Detectron's ``e2e_mask_rcnn_X-101-64x4d-FPN_1x`` published box AP 42.4 and mask AP 37.5.
    """
    return _of_8_images(_on(mask_rcnn_r50_fpn_1x(), ResNetConfig(depth=101, groups=64, width_per_group=4)))


def keypoint_rcnn_r101_fpn_1x() -> RunConfig:
    """Keypoint R-CNN, ResNet-101-FPN, 90,000 steps of 16 images.

    Detectron's ``e2e_keypoint_rcnn_R-101-FPN_1x`` published box AP 54.5 and keypoint AP 64.8.
    """
    return _on(keypoint_rcnn_r50_fpn_1x(), ResNetConfig(depth=101))


def keypoint_rcnn_x101_32x8d_fpn_1x() -> RunConfig:
    """Keypoint R-CNN, ResNeXt-101-32x8d-FPN, 90,000 steps of 16 images.

    Detectron's ``e2e_keypoint_rcnn_X-101-32x8d-FPN_1x`` published box AP 56.0 and keypoint AP 66.0.
    """
    return _on(keypoint_rcnn_r50_fpn_1x(), ResNetConfig(depth=101, groups=32, width_per_group=8))


def keypoint_rcnn_x101_64x4d_fpn_1x() -> RunConfig:
    """Keypoint R-CNN, ResNeXt-101-64x4d-FPN, 90,000 steps of 16 images.

    Detectron's ``e2e_keypoint_rcnn_X-101-64x4d-FPN_1x`` published box AP 56.3 and keypoint AP 66.0.
    """
    return _on(keypoint_rcnn_r50_fpn_1x(), ResNetConfig(depth=101, groups=64, width_per_group=4))


def retinanet_r101_fpn_1x() -> RunConfig:
    """RetinaNet, ResNet-101-FPN, 90,000 steps of 16 images. Detectron's ``retinanet_R-101-FPN_1x`` published box AP 37.7."""
    return _on(retinanet_r50_fpn_1x(), ResNetConfig(depth=101))


def retinanet_x101_32x8d_fpn_1x() -> RunConfig:
    """RetinaNet, ResNeXt-101-32x8d-FPN, 90,000 steps of 16 images.

    Detectron's ``retinanet_X-101-32x8d-FPN_1x`` published box AP 39.5.
    """
    return _on(retinanet_r50_fpn_1x(), ResNetConfig(depth=101, groups=32, width_per_group=8))


def retinanet_x101_64x4d_fpn_1x() -> RunConfig:
    """RetinaNet, ResNeXt-101-64x4d-FPN, 90,000 steps of 16 images.

    Detectron's ``retinanet_X-101-64x4d-FPN_1x`` published box AP 39.8.
    """
    return _on(retinanet_r50_fpn_1x(), ResNetConfig(depth=101, groups=64, width_per_group=4))


def faster_rcnn_x50_32x4d_fpn_1x() -> RunConfig:
    """Faster R-CNN, ResNeXt-50-32x4d-FPN, 90,000 steps of 16 images. Detectron names this backbone, but published no AP."""
    return _on(faster_rcnn_r50_fpn_1x(), ResNetConfig(depth=50, groups=32, width_per_group=4))


def faster_rcnn_r152_fpn_1x() -> RunConfig:
    """Faster R-CNN, ResNet-152-FPN, 180,000 steps of 8 images. Detectron names this backbone, but published no AP."""
    return _of_8_images(_on(faster_rcnn_r50_fpn_1x(), ResNetConfig(depth=152)))


def mask_rcnn_x152_32x8d_fpn_1_44x() -> RunConfig:
    """Mask R-CNN, ResNeXt-152-32x8d-FPN, 260,000 steps of 8 images of 640 to 800 pixels.

    Detectron's ``e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x`` published box AP 45.2 and mask AP 39.7, without augmentation at
    test time. Its backbone was pretrained on ImageNet-5k (5,000 classes), for which torchvision has no weights: name a file with
    ``train.weights``; the frozen batch norms need it.
    """
    config = _on(mask_rcnn_r50_fpn_1x(), ResNetConfig(depth=152, groups=32, width_per_group=8, weights=None))
    config.optim.lr, config.optim.reference_batch_size = 0.01, 8
    config.train.batch_size, config.train.steps = 8, 260_000
    config.optim.schedule = StepScheduleConfig(drops=(200_000 / 260_000, 240_000 / 260_000))
    assert isinstance(config.data.train, CocoConfig)
    jitter = ResizeShortestEdge(short=(640, 672, 704, 736, 768, 800), long=1333)
    config.data.train.transforms = (jitter, HorizontalFlip(p=0.5))
    return config
