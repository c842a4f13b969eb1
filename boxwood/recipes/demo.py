"""Recipes for generated pictures: small networks that learn them from random weights, in minutes on two cores."""

from __future__ import annotations

from boxwood.data import CocoConfig, DataConfig, HorizontalFlip, ResizeShortestEdge
from boxwood.evaluation.measures import DensePoseEvaluatorConfig
from boxwood.models import RCNNConfig
from boxwood.models.backbones import ResNetConfig
from boxwood.models.config import FPNConfig, RoIConfig, RPNConfig
from boxwood.models.heads import ConvFCHeadConfig, ConvMaskHeadConfig, DeepLabDensePoseHeadConfig
from boxwood.run_config import AdamWConfig, CosineScheduleConfig, RunConfig, TrainConfig

__all__ = ["demo_bodies", "demo_shapes"]


def demo_shapes() -> RunConfig:
    """Mask R-CNN, a ResNet-18-FPN of a quarter of its width, from random weights, on generated shapes; `boxwood demo` runs it.

    The backbone has trainable batch norm, since frozen batch norm needs pretrained statistics. Anchors begin at 12 pixels, because
    the smallest shapes have about 10 at this size, and are square, as most shapes nearly are. The commands::

        boxwood data shapes --out demo/data
        boxwood train demo_shapes --out demo/run
    """
    resize = ResizeShortestEdge(short=(192,), long=320)  # the shapes' 240 x 320 become 192 x 256, which needs no padding
    return RunConfig(
        model=RCNNConfig(
            backbone=ResNetConfig(depth=18, width=16, norm="bn", frozen_stages=0, weights=None),
            fpn=FPNConfig(channels=48, norm="bn"),
            rpn=RPNConfig(
                anchor_sizes=((12.0,), (24.0,), (48.0,), (96.0,), (192.0,)),
                anchor_ratios=(1.0,),
                train_candidates=200,
                train_proposals=128,
                test_candidates=200,
                test_proposals=100,
            ),
            rois=RoIConfig(samples_per_image=48, positive_fraction=0.5, smooth_l1_beta=0.3),
            box_head=ConvFCHeadConfig(convs=3, conv_width=64, width=256, norm="bn"),
            mask_head=ConvMaskHeadConfig(convs=2, width=48),
        ),
        data=DataConfig(
            train=CocoConfig(
                annotations="demo/data/train.json", images="demo/data/train", transforms=(resize, HorizontalFlip(p=0.5))
            ),
            val=CocoConfig(annotations="demo/data/val.json", images="demo/data/val", transforms=(resize,)),
        ),
        optim=AdamWConfig(lr=4e-3, schedule=CosineScheduleConfig(), warmup_steps=20, warmup_factor=0.1, clip_norm=5.0),
        train=TrainConfig(steps=1000, batch_size=4, eval_every=0, checkpoint_every=100, log_every=10),
    )


def demo_bodies() -> RunConfig:
    """DensePose R-CNN, a ResNet-18-FPN of a quarter of its width, from random weights, on generated figures.

    The dense head is DeepLab's, made small: group norm and the mean over the region help where few steps are made from nothing; for
    the same reason its losses have other weights than the published ones. The commands::

        boxwood data shapes --surface --out demo/bodies
        boxwood train demo_bodies --out demo/bodies-run
    """
    config = demo_shapes()
    assert isinstance(config.model, RCNNConfig) and config.model.rpn is not None and config.model.fpn is not None
    config.model.fpn.channels = 64  # the dense head's group norm wants a multiple of 32
    config.model.rpn.anchor_ratios = (0.7, 1.4)
    assert isinstance(config.model.box_head, ConvFCHeadConfig)
    config.model.box_head.norm = "gn"
    config.model.mask_head = None
    config.model.rois.positive_fraction = 0.25
    config.model.dense_pose_head = DeepLabDensePoseHeadConfig(
        convs=2, width=64, dilations=(2, 4), resolution=14, coarse_weight=1.0, fine_weight=1.0, uv_weight=0.02
    )
    resize = ResizeShortestEdge(short=(176,), long=320)
    config.data = DataConfig(
        train=CocoConfig(
            annotations="demo/bodies/train.json",
            images="demo/bodies/train",
            transforms=(resize,),  # a mirror image would have the suit's colours on the wrong sides
        ),
        val=CocoConfig(annotations="demo/bodies/val.json", images="demo/bodies/val", transforms=(resize,)),
    )
    config.optim = AdamWConfig(lr=3e-3, schedule=CosineScheduleConfig(), warmup_steps=20, warmup_factor=0.1, clip_norm=5.0)
    config.train.steps, config.train.batch_size = 2400, 2
    config.evaluator = DensePoseEvaluatorConfig(surface="demo/bodies/body.npz")
    return config
