"""Mask heads: features of an RoI -> features of a mask."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.models.backbones.backbone import conv_relu
from boxwood.models.heads.config import ConvMaskHeadConfig
from boxwood.models.heads.head import RoIHead, convolutions, msra_fill

__all__ = []


class ConvMaskHead(RoIHead):
    def __init__(self, config: ConvMaskHeadConfig, channels: int) -> None:
        super().__init__()
        self.channels = config.width
        self.convs, channels = convolutions(config.convs, channels, config.width, config.norm)
        self.deconv = nn.ConvTranspose2d(channels, config.width, 2, stride=2)
        msra_fill(self.deconv)

    def forward(self, features: Tensor) -> Tensor:
        for conv in self.convs:
            features = conv_relu(conv, features)
        return F.relu(self.deconv(features), inplace=True)
