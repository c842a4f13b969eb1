"""ResNet (He et al., Deep Residual Learning, 2015): the body of most R-CNNs.

    conv1 7x7/2, max pool /2 -> layer1 (/4) -> layer2 (/8) -> layer3 (/16) -> layer4 (/32); the papers' res2 .. res5

Modules have torchvision's names, so that its ImageNet weights load as they are.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
import torchvision.models
from torch import Tensor, nn

from boxwood.models.backbones.backbone import Backbone, BackboneConfig, Norm, freeze, make_norm

__all__ = ["ResNet", "ResNetConfig"]

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class ResNetConfig(BackboneConfig):
    """A ResNet body that returns layer1 .. layer4."""

    short_kind: ClassVar[str] = "resnet"

    depth: Literal[18, 34, 50, 101, 152] = 50
    norm: Norm = "frozen_bn"
    stride_in: Literal["1x1", "3x3"] = "3x3"
    """Which convolution of a bottleneck strides: 3x3 in torchvision's weights, 1x1 in the paper and in MSRA's weights."""
    frozen_stages: int = 2
    """How many stages are not trained: 0 none, 1 the stem, 2 the stem and layer1 (Detectron's FREEZE_AT 2), ... 5 all."""
    weights: str | None = "IMAGENET1K_V1"
    """A member of torchvision's weights enum for this depth; None starts from random weights."""

    def build(self) -> ResNet:
        return ResNet(self)


class ResNet(Backbone):
    """The body. ``forward`` returns four maps of strides 4, 8, 16, 32."""

    strides = (4, 8, 16, 32)

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        block: type[BasicBlock | Bottleneck] = BasicBlock if config.depth < 50 else Bottleneck
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(config.norm, 64)
        stages, channels = [], 64
        for index, num_blocks in enumerate(BLOCKS[config.depth]):
            width = 64 * 2**index
            blocks = []
            for position in range(num_blocks):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(block(channels, width, stride, config))
                channels = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = tuple(64 * 2**index * block.expansion for index in range(4))
        self._initialize(config)
        freeze([self.conv1, self.bn1, self.layer1, self.layer2, self.layer3, self.layer4][: config.frozen_stages + 1 if config.frozen_stages else 0])

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps

    def _initialize(self, config: ResNetConfig) -> None:
        if config.weights is not None:
            enum = torchvision.models.get_model_weights(f"resnet{config.depth}")
            state = enum[config.weights].get_state_dict(progress=False, check_hash=True)
            self.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")}, strict=config.norm != "gn")
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the block of ResNet-18 and -34."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = make_norm(config.norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = make_norm(config.norm, width)
        self.downsample = _shortcut(channels_in, width, stride, config.norm)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut; the block of ResNet-50 and deeper."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        stride_1x1, stride_3x3 = (stride, 1) if config.stride_in == "1x1" else (1, stride)
        self.conv1 = nn.Conv2d(channels_in, width, 1, stride=stride_1x1, bias=False)
        self.bn1 = make_norm(config.norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride_3x3, padding=1, bias=False)
        self.bn2 = make_norm(config.norm, width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = make_norm(config.norm, 4 * width)
        self.downsample = _shortcut(channels_in, 4 * width, stride, config.norm)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)) + shortcut, inplace=True)


def _shortcut(channels_in: int, channels_out: int, stride: int, norm: Norm) -> nn.Module | None:
    """A strided 1x1 projection where the shape changes; None where the shortcut is the identity."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), make_norm(norm, channels_out))
