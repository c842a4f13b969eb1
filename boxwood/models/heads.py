"""Heads of R-CNN: small networks on the features of one RoI. They know nothing of images, anchors or losses.

A head of your own is one class and one configuration that builds it; see ``examples/own_head.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.config import Component

__all__ = ["BoxHeadConfig", "ConvMaskHeadConfig", "MaskHeadConfig", "RoIHead", "TwoFCHeadConfig"]


class RoIHead(nn.Module):
    """Base of every head: features in, features out; the predictors behind it belong to the architecture."""

    channels: int
    """Width of what ``forward`` returns."""

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """(R, C, P, P) -> (R, channels) for a box head, (R, channels, M, M) for a mask head. R = 0 is ordinary."""


class BoxHeadConfig(Component):
    """Base of the heads whose output is classified and regressed."""

    resolution: int = 7
    """P, cells a side of the RoI's features."""

    @abstractmethod
    def build(self, channels: int) -> RoIHead:
        """A head for features of ``channels`` channels."""


class MaskHeadConfig(Component):
    """Base of the heads whose output becomes a mask an RoI and class."""

    resolution: int = 14
    """P, cells a side of the RoI's features; the head decides M."""

    @abstractmethod
    def build(self, channels: int) -> RoIHead:
        """A head for features of ``channels`` channels."""


class TwoFCHeadConfig(BoxHeadConfig):
    """Two fully connected layers (FPN, section 4.2)."""

    short_kind: ClassVar[str] = "two_fc"

    width: int = 1024

    def build(self, channels: int) -> RoIHead:
        return TwoFCHead(channels * self.resolution**2, self.width)


class ConvMaskHeadConfig(MaskHeadConfig):
    """A stack of 3x3 convolutions and a deconvolution that doubles the resolution (Mask R-CNN, figure 4, right)."""

    short_kind: ClassVar[str] = "conv_mask"

    convs: int = 4
    width: int = 256

    def build(self, channels: int) -> RoIHead:
        return ConvMaskHead(channels, self.convs, self.width)


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


class ConvMaskHead(RoIHead):
    def __init__(self, channels: int, convs: int, width: int) -> None:
        super().__init__()
        self.channels = width
        self.convs = nn.ModuleList(nn.Conv2d(channels if i == 0 else width, width, 3, padding=1) for i in range(convs))
        self.deconv = nn.ConvTranspose2d(width if convs else channels, width, 2, stride=2)
        for layer in [*self.convs, self.deconv]:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        for conv in self.convs:
            features = F.relu(conv(features), inplace=True)
        return F.relu(self.deconv(features), inplace=True)
