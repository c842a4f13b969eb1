"""The demo's recipe: a small Mask R-CNN that learns generated shapes from nothing, in minutes on two cores."""

from __future__ import annotations

from boxwood.data import CocoConfig, DataConfig, HorizontalFlip, ResizeShortestEdge
from boxwood.models import RCNNConfig
from boxwood.models.backbones import ResNetConfig
from boxwood.models.fpn import FPNConfig
from boxwood.models.heads import ConvMaskHeadConfig, TwoFCHeadConfig
from boxwood.models.rcnn import RoIConfig
from boxwood.run import OptimConfig, RunConfig, TrainConfig

__all__ = ["demo_shapes"]


def demo_shapes() -> RunConfig:
    """Mask R-CNN, ResNet-18-FPN with group norm, from random weights, on generated shapes; `boxwood demo` runs it.

    Group norm, because frozen statistics need a body that was trained before, and batches are small. By hand::

        boxwood data shapes --out demo/data
        boxwood train demo_shapes --out demo/run
    """
    resize = ResizeShortestEdge(short=(192,), long=320)
    return RunConfig(
        model=RCNNConfig(
            backbone=ResNetConfig(depth=18, norm="gn", frozen_stages=0, weights=None),
            fpn=FPNConfig(channels=64, norm="gn"),
            rois=RoIConfig(samples_per_image=64),
            box_head=TwoFCHeadConfig(width=256),
            mask_head=ConvMaskHeadConfig(convs=2, width=64),
        ),
        data=DataConfig(
            train=CocoConfig(
                annotations="demo/data/train.json", images="demo/data/train", transforms=(resize, HorizontalFlip(p=0.5))
            ),
            val=CocoConfig(annotations="demo/data/val.json", images="demo/data/val", transforms=(resize,)),
        ),
        optim=OptimConfig(kind="adamw", lr=1e-3, schedule="cosine", warmup_steps=50, warmup_factor=0.1, clip_norm=5.0),
        train=TrainConfig(steps=500, batch_size=4, eval_every=0, checkpoint_every=100, log_every=10),
    )
