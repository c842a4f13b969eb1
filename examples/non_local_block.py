"""Non-local blocks: put one into a trained network, and use one in a backbone of your own.

    boxwood demo --out demo                                          # a trained network without blocks
    boxwood train examples.non_local_block:continued --out runs/block
    boxwood train examples.non_local_block:recipe --out runs/plain

The first training starts from the demo's weights. The new block is the identity at first, so it starts with the demo's detections;
the log names the block, whose weights the file lacks. The second trains a user-defined backbone that has a block.
"""

from __future__ import annotations

from torch import Tensor

from boxwood import RunConfig
from boxwood.models import RCNNConfig
from boxwood.models.backbones import Backbone, NonLocalBlock, NonLocalConfig, NonLocalStagesConfig, ResNetConfig
from boxwood.models.config import FPNConfig
from boxwood.recipes import demo_shapes
from examples.own_backbone import Plain, PlainConfig


def continued() -> RunConfig:
    """The demo's network with a block before the last residual block of res4, from the demo's weights."""
    config = demo_shapes()
    assert isinstance(config.model, RCNNConfig) and isinstance(config.model.backbone, ResNetConfig)
    config.model.backbone.non_local = NonLocalStagesConfig()
    config.train.weights = "demo/run"
    config.train.steps = 200
    config.optim.lr /= 4
    return config


class PlainWithBlockConfig(PlainConfig):
    """The backbone of own_backbone.py, and the settings of its block: ``model.backbone.block.pairwise=dot_product``."""

    block: NonLocalConfig = NonLocalConfig(norm="scale")

    def build(self) -> Backbone:
        return PlainWithBlock(self)


class PlainWithBlock(Plain):
    """A block behind the stage of stride 16."""

    def __init__(self, config: PlainWithBlockConfig) -> None:
        super().__init__(config)
        self.non_local = NonLocalBlock(self.channels[2], config.block)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        x = self.stem(images)
        for level, stage in enumerate(self.stages):
            x = stage(x)
            x = self.non_local(x) if level == 2 else x
            maps.append(x)
        return maps


def recipe() -> RunConfig:
    """The demo's recipe with this backbone: Faster R-CNN on generated shapes."""
    config = demo_shapes()
    config.model = RCNNConfig(backbone=PlainWithBlockConfig(), fpn=FPNConfig(channels=64, norm="gn"))
    return config
