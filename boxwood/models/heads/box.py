"""Box heads: features of an RoI -> one vector, which is classified and regressed."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.models.backbones.backbone import Norm
from boxwood.models.heads.head import RoIHead, RoIHeadConfig, convolutions

__all__ = ["AverageHeadConfig", "BoxHeadConfig", "ConvFCHeadConfig", "TwoFCHeadConfig"]


class BoxHeadConfig(RoIHeadConfig):
    """Base of the heads whose output is classified and regressed."""

    resolution: int = 7


class AverageHeadConfig(BoxHeadConfig):
    """The mean over the cells, behind a backbone's tail (ResNet, 2015, figure 3; R-CNN on C4).

    The tail decides the resolution: 14 for a ResNet's res5, 7 for VGG16's fully connected layers, 6 for VGG-CNN-M-1024's.
    """

    short_kind: ClassVar[str] = "average"

    resolution: int = 14
    source: Literal["maps", "tail", "own_tail"] = "tail"

    def build(self, channels: int) -> RoIHead:
        return AverageHead(channels)


class TwoFCHeadConfig(BoxHeadConfig):
    """Two fully connected layers (FPN, section 4.2)."""

    short_kind: ClassVar[str] = "two_fc"

    width: int = 1024

    def build(self, channels: int) -> RoIHead:
        return TwoFCHead(channels * self.resolution**2, self.width)


class ConvFCHeadConfig(BoxHeadConfig):
    """3x3 convolutions and one fully connected layer, the head for training from scratch (Wu and He, 2018, section 5.2)."""

    short_kind: ClassVar[str] = "conv_fc"

    convs: int = 4
    conv_width: int = 256
    width: int = 1024
    norm: Norm | None = "gn"
    """After each convolution, which then has no bias; None for convolutions with bias alone."""

    def build(self, channels: int) -> RoIHead:
        return ConvFCHead(self, channels)


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
            features = F.relu(conv(features), inplace=True)
        return F.relu(self.fc(features.flatten(1)))
