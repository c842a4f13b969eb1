"""Keypoint heads: features of an RoI -> features of a heatmap."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from boxwood.models.heads.config import ConvKeypointHeadConfig
from boxwood.models.heads.head import RoIHead, convolutions

__all__ = []


class ConvKeypointHead(RoIHead):
    def __init__(self, config: ConvKeypointHeadConfig, channels: int) -> None:
        super().__init__()
        self.convs, self.channels = convolutions(config.convs, channels, config.width, None)

    def forward(self, features: Tensor) -> Tensor:
        for conv in self.convs:
            features = F.relu(conv(features), inplace=True)
        return features
