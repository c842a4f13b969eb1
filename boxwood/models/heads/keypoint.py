"""Keypoint heads: features of an RoI -> features of a heatmap."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from boxwood.models.heads.head import RoIHead, RoIHeadConfig, convolutions

__all__ = ["ConvKeypointHeadConfig", "KeypointHeadConfig"]


class KeypointHeadConfig(RoIHeadConfig):
    """Base of the heads whose output becomes a heatmap per RoI and keypoint, four times as fine as the head's output."""

    resolution: int = 14


class ConvKeypointHeadConfig(KeypointHeadConfig):
    """A stack of 3x3 convolutions (Mask R-CNN, section 5)."""

    short_kind: ClassVar[str] = "conv_keypoint"

    convs: int = 8
    width: int = 512

    def build(self, channels: int) -> RoIHead:
        return ConvKeypointHead(self, channels)


class ConvKeypointHead(RoIHead):
    def __init__(self, config: ConvKeypointHeadConfig, channels: int) -> None:
        super().__init__()
        self.convs, self.channels = convolutions(config.convs, channels, config.width, None)

    def forward(self, features: Tensor) -> Tensor:
        for conv in self.convs:
            features = F.relu(conv(features), inplace=True)
        return features
