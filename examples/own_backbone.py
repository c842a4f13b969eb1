"""A user-defined backbone: one class that computes, one configuration that builds it, one recipe that trains it.

    boxwood data shapes --out demo/data                            # pictures to learn from, generated
    boxwood train examples.own_backbone:recipe --out runs/plain
    boxwood train examples.own_backbone:recipe model.backbone.width=64 --out runs/wide
    boxwood predict demo/data/val --model runs/plain --import examples.own_backbone

Nothing is registered: in files the backbone is named by its address, ``kind: examples.own_backbone:PlainConfig``. A command that
reads such a file imports the module first (``--import``), and so does your code before `boxwood.load`.

In a test, ``check_backbone(PlainConfig().build())`` of `boxwood.models.backbones` says whether the maps are as declared.
"""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from boxwood import RunConfig
from boxwood.models import RCNNConfig
from boxwood.models.backbones import Backbone, BackboneConfig, ConvNorm
from boxwood.models.backbones.backbone import make_norm
from boxwood.models.config import FPNConfig
from boxwood.recipes import demo_shapes


class PlainConfig(BackboneConfig):
    """What a person may set: on the command line ``model.backbone.width=64``, checked and saved like everything else."""

    width: int = 32
    """Channels of the first stage; each stage doubles them. Group norm wants a multiple of 32."""
    depth: int = 2
    """Convolutions a stage."""

    def build(self) -> Backbone:
        return Plain(self)


class Plain(Backbone):
    """3x3 convolutions, one after the other; every stage halves the resolution and doubles the width."""

    strides = (4, 8, 16, 32)

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.channels = tuple(config.width * 2**stage for stage in range(4))
        self.stem = convolution(3, config.width, stride=2)
        self.stages = nn.ModuleList()
        width = config.width
        for channels in self.channels:
            same = [convolution(channels, channels) for _ in range(config.depth - 1)]
            self.stages.append(nn.Sequential(convolution(width, channels, stride=2), *same))
            width = channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> maps (B, channels[i], H / strides[i], W / strides[i])."""
        maps = []
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(ConvNorm(conv, make_norm("gn", channels_out)), nn.ReLU(inplace=True))


def recipe() -> RunConfig:
    """The demo's recipe with this backbone: Faster R-CNN on generated shapes."""
    config = demo_shapes()
    config.model = RCNNConfig(backbone=PlainConfig(), fpn=FPNConfig(channels=64, norm="gn"))
    return config
