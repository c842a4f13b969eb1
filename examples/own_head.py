"""A user-defined box head: residual layers in the place of the two fully connected ones.

    boxwood data shapes --out demo/data
    boxwood train examples.own_head:recipe --out runs/residual
    boxwood config diff demo_shapes examples.own_head:recipe        # what it changes, key by key

A head sees the features of one region at a time and returns a vector; what it knows nothing of (proposals, sampling, losses, the
layers that say class and box) stays as it is. A mask head is made the same way, from `MaskHeadConfig`.
"""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from boxwood import RunConfig
from boxwood.models import RCNNConfig
from boxwood.models.heads import BoxHeadConfig, RoIHead
from boxwood.recipes import demo_shapes


class ResidualHeadConfig(BoxHeadConfig):
    """``resolution``, the cells a side of a region's features, is inherited: RoIAlign makes as many as a head asks for."""

    width: int = 256
    blocks: int = 2
    dropout: float = 0.1

    def build(self, channels: int) -> RoIHead:
        return ResidualHead(self, channels)


class ResidualHead(RoIHead):
    """A projection, then blocks that each add what they have learnt (pre-activation, with layer norm)."""

    def __init__(self, config: ResidualHeadConfig, channels: int) -> None:
        super().__init__()
        self.channels = config.width  # the layers behind this head ask for it
        self.projection = nn.Linear(channels * config.resolution**2, config.width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(config.width),
                nn.Linear(config.width, 2 * config.width),
                nn.GELU(),
                nn.Dropout(config.dropout),
                nn.Linear(2 * config.width, config.width),
            )
            for _ in range(config.blocks)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(R, C, P, P) -> (R, width). R = 0 is ordinary: an image may have no region at all."""
        x = self.projection(features.flatten(1))
        for block in self.blocks:
            x = x + block(x)
        return x


def recipe() -> RunConfig:
    """The demo's recipe with this head; all else, the mask head too, stays."""
    config = demo_shapes()
    assert isinstance(config.model, RCNNConfig)
    config.model.box_head = ResidualHeadConfig()
    return config
