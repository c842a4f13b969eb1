"""Keypoint heads: features of an RoI -> features of a heatmap."""

from __future__ import annotations

from torch import Tensor, nn

from boxwood.models.backbones.backbone import conv_relu
from boxwood.models.backbones.non_local import NonLocalBlock
from boxwood.models.heads.config import ConvKeypointHeadConfig
from boxwood.models.heads.head import RoIHead, convolutions

__all__ = []


class ConvKeypointHead(RoIHead):
    def __init__(self, config: ConvKeypointHeadConfig, channels: int) -> None:
        super().__init__()
        self.convs, self.channels = convolutions(config.convs, channels, config.width, None)
        self.non_local = nn.ModuleList()
        if config.non_local is not None:
            self.non_local.extend(NonLocalBlock(config.width, config.non_local) for _ in range(config.convs // 2))

    def forward(self, features: Tensor) -> Tensor:
        for index, conv in enumerate(self.convs):
            features = conv_relu(conv, features)
            if index % 2 and self.non_local:
                features = self.non_local[index // 2](features)
        return features
