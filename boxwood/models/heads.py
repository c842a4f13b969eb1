"""Heads of R-CNN: small networks on the features of one RoI. They know nothing of images, anchors or losses.

A head of your own is one class and one configuration that builds it; see ``examples/own_head.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.config import Component
from boxwood.models.backbones.backbone import ConvNorm, Norm, make_norm

__all__ = [
    "AverageHeadConfig",
    "BoxHeadConfig",
    "ConvFCHeadConfig",
    "ConvKeypointHeadConfig",
    "ConvMaskHeadConfig",
    "KeypointHeadConfig",
    "MaskHeadConfig",
    "RoIHead",
    "RoIHeadConfig",
    "TwoFCHeadConfig",
]


class RoIHead(nn.Module):
    """Base of every head: features in, features out; the predictors behind it belong to the architecture."""

    channels: int
    """Width of what ``forward`` returns."""

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """(R, C, P, P) -> (R, channels) for a box head, (R, channels, M, M) for a mask head, (R, channels, P, P) for a
        keypoint head. R = 0 is ordinary."""


class RoIHeadConfig(Component):
    """Base of every head's configuration. Derive from one of the three below, which say what the head is for."""

    resolution: int
    """P, cells a side of the features that are pooled from an RoI."""
    source: Literal["maps", "tail", "own_tail"] = "maps"
    """What the head reads: the pooled features; what the body's tail (Detectron's C4: res5) makes of them, one tail for all heads
    that say so; or what a copy of the tail does that this head alone teaches."""

    @abstractmethod
    def build(self, channels: int) -> RoIHead:
        """A head for features of ``channels`` channels."""


class BoxHeadConfig(RoIHeadConfig):
    """Base of the heads whose output is classified and regressed."""

    resolution: int = 7


class MaskHeadConfig(RoIHeadConfig):
    """Base of the heads whose output becomes a mask an RoI and class; the head decides M."""

    resolution: int = 14


class KeypointHeadConfig(RoIHeadConfig):
    """Base of the heads whose output becomes a heatmap an RoI and keypoint, four times as fine as the head's output."""

    resolution: int = 14


class AverageHeadConfig(BoxHeadConfig):
    """The mean over the cells: all there is to do behind a body's tail (ResNet, 2015, figure 3; R-CNN on C4).

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


class ConvMaskHeadConfig(MaskHeadConfig):
    """A stack of 3x3 convolutions and a deconvolution that doubles the resolution (Mask R-CNN, figure 4).

    Detectron's names: v1up4convs is this, v1up has 2 convolutions; v0upshare has none and reads the ``tail``, v0up its
    ``own_tail``.
    """

    short_kind: ClassVar[str] = "conv_mask"

    convs: int = 4
    width: int = 256
    norm: Norm | None = None
    """After each 3x3 convolution, which then has no bias; None for convolutions with bias alone."""

    def build(self, channels: int) -> RoIHead:
        return ConvMaskHead(self, channels)


class ConvKeypointHeadConfig(KeypointHeadConfig):
    """A stack of 3x3 convolutions (Mask R-CNN, section 5)."""

    short_kind: ClassVar[str] = "conv_keypoint"

    convs: int = 8
    width: int = 512

    def build(self, channels: int) -> RoIHead:
        return ConvKeypointHead(self, channels)


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
        self.convs, channels = _convolutions(config.convs, channels, config.conv_width, config.norm)
        self.fc = nn.Linear(channels * config.resolution**2, config.width)
        nn.init.kaiming_uniform_(self.fc.weight, a=1)
        nn.init.zeros_(self.fc.bias)

    def forward(self, features: Tensor) -> Tensor:
        for conv in self.convs:
            features = F.relu(conv(features), inplace=True)
        return F.relu(self.fc(features.flatten(1)))


class ConvMaskHead(RoIHead):
    def __init__(self, config: ConvMaskHeadConfig, channels: int) -> None:
        super().__init__()
        self.channels = config.width
        self.convs, channels = _convolutions(config.convs, channels, config.width, config.norm)
        self.deconv = nn.ConvTranspose2d(channels, config.width, 2, stride=2)
        _msra_fill(self.deconv)

    def forward(self, features: Tensor) -> Tensor:
        for conv in self.convs:
            features = F.relu(conv(features), inplace=True)
        return F.relu(self.deconv(features), inplace=True)


class ConvKeypointHead(RoIHead):
    def __init__(self, config: ConvKeypointHeadConfig, channels: int) -> None:
        super().__init__()
        self.convs, self.channels = _convolutions(config.convs, channels, config.width, None)

    def forward(self, features: Tensor) -> Tensor:
        for conv in self.convs:
            features = F.relu(conv(features), inplace=True)
        return features


def _convolutions(count: int, channels: int, width: int, norm: Norm | None) -> tuple[nn.ModuleList, int]:
    """3x3 convolutions from ``channels`` to ``width``, and the channels behind them."""
    layers = nn.ModuleList()
    for _ in range(count):
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=norm is None)
        _msra_fill(conv)
        layers.append(conv if norm is None else ConvNorm(conv, make_norm(norm, width)))
        channels = width
    return layers, channels


def _msra_fill(layer: Any) -> None:
    """Detectron's name for He's initialisation by the outputs."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
