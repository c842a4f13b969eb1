"""Box heads: features of an RoI -> one vector, which is classified and regressed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.models.backbones.backbone import conv_relu
from boxwood.models.heads.config import ConvFCHeadConfig
from boxwood.models.heads.head import RoIHead, convolutions

__all__ = []


class AverageHead(RoIHead):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))


class TwoFCHead(RoIHead):
    def __init__(self, num_inputs: int, width: int) -> None:
        super().__init__()
        self.channels = width
        self.fc6 = nn.Linear(num_inputs, width)
        self.fc7 = nn.Linear(width, width)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.fc7(F.relu(self.fc6(features.flatten(1)))))


class ConvFCHead(RoIHead):
    def __init__(self, config: ConvFCHeadConfig, channels: int) -> None:
        super().__init__()
        self.channels = config.width
        self.convs, channels = convolutions(config.convs, channels, config.conv_width, config.norm)
        self.fc = nn.Linear(channels * config.resolution**2, config.width)
        nn.init.kaiming_uniform_(self.fc.weight, a=1)
        nn.init.zeros_(self.fc.bias)

    def forward(self, features: Tensor) -> Tensor:
        for conv in self.convs:
            features = conv_relu(conv, features)
        return F.relu(self.fc(features.flatten(1)))
