"""ResNet (He et al., Deep Residual Learning, 2015), the body of most R-CNNs, and ResNeXt (Xie et al., 2017), its grouped form.

stem: conv1 7x7/2, max pool /2 -> layer1 (/4) -> layer2 (/8) -> layer3 (/16) -> layer4 (/32); the papers' res2 .. res5
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
import torchvision.models
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.models.backbones.backbone import Backbone, BackboneConfig, ConvNorm, Norm, imagenet_weights, make_norm

__all__ = ["ResNet", "ResNetConfig", "from_torchvision"]

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class ResNetConfig(BackboneConfig):
    """A ResNet body that returns layer1 .. layer4."""

    short_kind: ClassVar[str] = "resnet"

    depth: Literal[18, 34, 50, 101, 152] = 50
    width: int = 64
    """Channels of the stem; the stages have 1, 2, 4 and 8 times as many inside their blocks. 64 in the paper and in all weights."""
    norm: Norm = "frozen_bn"
    stride_in: Literal["1x1", "3x3"] = "3x3"
    """Which convolution of a bottleneck strides: 3x3 in torchvision's weights, 1x1 in the paper and in MSRA's weights."""
    groups: int = 1
    """Of the 3x3 convolutions of bottlenecks: ResNeXt (Xie et al., 2017) has 32."""
    width_per_group: int = 64
    """Channels of a group in layer1, for a stem of 64: a ResNeXt 32x8d has 8."""
    last_stage: Literal["map", "dilated", "tail"] = "map"
    """What layer4 is: the last map, of stride 32; the last map with its 3x3 convolutions dilated by 2 instead of the stride (R-FCN,
    section 2.2), so of stride 16; or the tail, run on each region instead of the image (C4)."""
    frozen_stages: Literal[0, 1, 2, 3, 4, 5] = 2
    """How many stages are not trained: 0 none, 1 the stem, 2 the stem and layer1 (Detectron's FREEZE_AT 2), ... 5 all."""
    weights: str | None = "IMAGENET1K_V1"
    """A member of torchvision's weights enum for this depth; None starts from random weights."""

    @property
    def title(self) -> str:
        """ResNet-50, or ResNeXt-101-32x8d."""
        return f"ResNet-{self.depth}" if self.groups == 1 else f"ResNeXt-{self.depth}-{self.groups}x{self.width_per_group}d"

    @property
    def title_alone(self) -> str:
        return self.title + {"map": "-C5", "dilated": "-C5-dilated", "tail": "-C4"}[self.last_stage]

    def build(self) -> ResNet:
        return ResNet(self)


class ResNet(Backbone):
    """The body. ``forward`` returns four maps of strides 4, 8, 16, 32; with the last stage dilated the fourth has 16, with the last
    stage as the tail there are three."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        block: type[BasicBlock | Bottleneck] = BasicBlock if config.depth < 50 else Bottleneck
        norms = [_stage_norm(config, stage) for stage in range(5)]
        self.conv1 = _conv(3, config.width, 7, 2, norms[0])
        stages, channels = [], config.width
        for index, num_blocks in enumerate(BLOCKS[config.depth]):
            width = config.width * 2**index
            blocks = []
            for position in range(num_blocks):
                stride = 2 if index > 0 and position == 0 else 1
                dilation = 1
                if index == 3 and config.last_stage == "dilated":
                    stride, dilation = 1, 2
                blocks.append(block(channels, width, stride, norms[index + 1], config, dilation))
                channels = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = tuple(config.width * 2**index * block.expansion for index in range(4))
        self.strides = (4, 8, 16, 16 if config.last_stage == "dilated" else 32)
        if config.last_stage == "tail":
            self.tail_channels = self.channels[3]
            self.channels, self.strides = self.channels[:3], self.strides[:3]
        if config.weights is not None:
            published = imagenet_weights(torchvision.models.get_model_weights(_torchvisions_name(config)), config.weights)
            self.load_state_dict(from_torchvision(published), strict=config.norm != "gn")
        for part in [self.conv1, *stages][: config.frozen_stages]:
            part.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu(self.conv1(images), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4)[: len(self.channels)]:
            x = layer(x)
            maps.append(x)
        return maps

    @property
    def tail(self) -> nn.Module | None:
        return None if self.tail_channels is None else self.layer4


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the block of ResNet-18 and -34. It has no 1x1 to stride in."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int, norm: Norm, config: ResNetConfig, dilation: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels_in, width, 3, stride, norm, dilation=dilation)
        self.conv2 = _conv(width, width, 3, 1, norm, dilation=dilation)
        self.downsample = _shortcut(channels_in, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.conv1(x), inplace=True)
        return F.relu(self.conv2(x) + shortcut, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut; the block of ResNet-50 and deeper."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int, norm: Norm, config: ResNetConfig, dilation: int) -> None:
        super().__init__()
        inner = width * config.width_per_group // 64 * config.groups
        self.conv1 = _conv(channels_in, inner, 1, stride if config.stride_in == "1x1" else 1, norm)
        self.conv2 = _conv(
            inner, inner, 3, stride if config.stride_in == "3x3" else 1, norm, dilation=dilation, groups=config.groups
        )
        self.conv3 = _conv(inner, 4 * width, 1, 1, norm)
        self.downsample = _shortcut(channels_in, 4 * width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.conv1(x), inplace=True)
        x = F.relu(self.conv2(x), inplace=True)
        return F.relu(self.conv3(x) + shortcut, inplace=True)


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a torchvision ResNet or ResNeXt under our names; its classifier is left out.

    >>> list(from_torchvision({"bn1.bias": 0, "layer1.0.downsample.1.weight": 0, "fc.weight": 0}))
    ['conv1.norm.bias', 'layer1.0.downsample.norm.weight']
    """
    renamed = {}
    for name, value in state.items():
        *path, part, leaf = name.split(".")
        if part.startswith("bn"):
            part = f"conv{part[2:]}.norm"
        elif path and path[-1] == "downsample":
            part = "norm" if part == "1" else "conv"
        elif part.startswith("conv"):
            part = f"{part}.conv"
        if part != "fc":
            renamed[".".join([*path, part, leaf])] = value
    return renamed


def _torchvisions_name(config: ResNetConfig) -> str:
    plain = (config.groups, config.width_per_group) == (1, 64)
    name = f"resnet{config.depth}" if plain else f"resnext{config.depth}_{config.groups}x{config.width_per_group}d"
    if config.width != 64 or name not in torchvision.models.list_models():
        raise UserError(
            f"model.backbone.weights={config.weights}: torchvision has none of a {config.title} of width {config.width}; train "
            "from random weights with model.backbone.weights=null"
        )
    return name


def _stage_norm(config: ResNetConfig, stage: int) -> Norm:
    """A stage that is not trained keeps the statistics of its batch norms too."""
    return "frozen_bn" if stage < config.frozen_stages and config.norm in ("bn", "sync_bn") else config.norm


def _conv(
    channels_in: int, channels_out: int, kernel: int, stride: int, norm: Norm, *, dilation: int = 1, groups: int = 1
) -> ConvNorm:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, dilation, groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return ConvNorm(conv, make_norm(norm, channels_out))


def _shortcut(channels_in: int, channels_out: int, stride: int, norm: Norm) -> ConvNorm | None:
    """A strided 1x1 projection where the shape changes; None where the shortcut is the identity."""
    if stride == 1 and channels_in == channels_out:
        return None
    return _conv(channels_in, channels_out, 1, stride, norm)
