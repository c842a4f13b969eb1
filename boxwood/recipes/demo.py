"""The demo's recipe: a small Mask R-CNN that learns generated shapes from nothing, in minutes on two cores."""

from __future__ import annotations

from boxwood.data import CocoConfig, DataConfig, HorizontalFlip, ResizeShortestEdge
from boxwood.models import RCNNConfig
from boxwood.models.backbones import ResNetConfig
from boxwood.models.fpn import FPNConfig
from boxwood.models.heads import ConvMaskHeadConfig, TwoFCHeadConfig
from boxwood.models.rcnn import RoIConfig
from boxwood.models.rpn import RPNConfig
from boxwood.run import OptimConfig, RunConfig, TrainConfig

__all__ = ["demo_shapes"]


def demo_shapes() -> RunConfig:
    """Mask R-CNN, a ResNet-18-FPN of half the usual width, from random weights, on generated shapes; `boxwood demo` runs it.

    The body learns with batch norm, since frozen statistics need one that was trained before. Anchors begin at 12 pixels, because
    the smallest shapes have about 11 at this size. By hand::

        boxwood data shapes --out demo/data
        boxwood train demo_shapes --out demo/run
    """
    resize = ResizeShortestEdge(short=(192,), long=320)
    return RunConfig(
        model=RCNNConfig(
            backbone=ResNetConfig(depth=18, width=32, norm="bn", frozen_stages=0, weights=None),
            fpn=FPNConfig(channels=64, norm="bn"),
            rpn=RPNConfig(
                anchor_sizes=((12.0,), (24.0,), (48.0,), (96.0,), (192.0,)),
                train_candidates=400,
                train_proposals=256,
                test_candidates=400,
                test_proposals=200,
            ),
            rois=RoIConfig(samples_per_image=64, positive_fraction=0.5),
            box_head=TwoFCHeadConfig(width=256),
            mask_head=ConvMaskHeadConfig(convs=2, width=64),
        ),
        data=DataConfig(
            train=CocoConfig(
                annotations="demo/data/train.json", images="demo/data/train", transforms=(resize, HorizontalFlip(p=0.5))
            ),
            val=CocoConfig(annotations="demo/data/val.json", images="demo/data/val", transforms=(resize,)),
        ),
        optim=OptimConfig(kind="adamw", lr=2e-3, schedule="cosine", warmup_steps=50, warmup_factor=0.1, clip_norm=5.0),
        train=TrainConfig(steps=600, batch_size=4, eval_every=0, checkpoint_every=100, log_every=10),
    )
