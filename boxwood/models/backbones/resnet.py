"""ResNet (He et al., Deep Residual Learning, 2015) and ResNeXt (Xie et al., Aggregated Residual Transformations, 2017): the
backbone of most R-CNNs.

stem: conv1 7x7/2, max pool /2 -> layer1 (/4) -> layer2 (/8) -> layer3 (/16) -> layer4 (/32); the papers' res2 .. res5
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.models.backbones.backbone import Backbone, ConvNorm, conv_relu, imagenet_weights, make_norm
from boxwood.models.backbones.config import Norm, ResNetConfig
from boxwood.models.backbones.non_local import insert_blocks

__all__ = ["ResNet", "from_torchvision"]

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
EXPANSION = {18: 1, 34: 1, 50: 4, 101: 4, 152: 4}
"""Channels of a stage's map over those inside its blocks."""
PUBLISHED = {
    **{(depth, 1, 64): f"resnet{depth}" for depth in BLOCKS},
    (50, 32, 4): "resnext50_32x4d",
    (101, 32, 8): "resnext101_32x8d",
    (101, 64, 4): "resnext101_64x4d",
    (50, 1, 128): "wide_resnet50_2",
    (101, 1, 128): "wide_resnet101_2",
}
"""torchvision's networks with weights, by depth, groups and width per group."""


class ResNet(Backbone):
    """The backbone. ``forward`` returns four maps of strides 4, 8, 16, 32 (dilated, the last is of 16), or three before a tail."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        _check(config)
        self.last_stage = config.last_stage
        # A stage that is not trained keeps the statistics of its batch norms too.
        statistics: Norm = "frozen_bn" if config.norm in ("bn", "sync_bn") else config.norm
        norms = [statistics if stage < config.frozen_stages else config.norm for stage in range(5)]
        self.conv1 = _conv(3, config.width, 7, norms[0], stride=2)
        self.layer1 = _stage(config, 0, norms[1])
        self.layer2 = _stage(config, 1, norms[2])
        self.layer3 = _stage(config, 2, norms[3])
        self.layer4 = _stage(config, 3, norms[4])
        self.channels = tuple((config.width << index) * EXPANSION[config.depth] for index in range(4))
        self.strides = (4, 8, 16, 16 if config.last_stage == "dilated" else 32)
        if config.last_stage == "tail":
            self.tail_channels, self.tail_resolution = self.channels[3], 14
            self.channels, self.strides = self.channels[:3], self.strides[:3]
        if config.weights is not None:
            import torchvision.models

            published = imagenet_weights(torchvision.models.get_model_weights(_published(config)), config.weights)
            self.load_state_dict(from_torchvision(published), strict=config.norm != "gn")
        for part in [self.conv1, self.layer1, self.layer2, self.layer3, self.layer4][: config.frozen_stages]:
            part.requires_grad_(False)
        if config.non_local is not None:
            insert_blocks(self, config.non_local)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = conv_relu(self.conv1, images)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4)[: len(self.channels)]:
            x = layer(x)
            maps.append(x)
        return maps

    @property
    def tail(self) -> nn.Module | None:
        """layer4, which halves the resolution of a region's features, where it is not among the maps."""
        return self.layer4 if self.last_stage == "tail" else None


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the block of ResNet-18 and -34. It has no 1x1 to stride in."""

    def __init__(self, channels_in: int, width: int, norm: Norm, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = _conv(channels_in, width, 3, norm, stride, dilations[0])
        self.conv2 = _conv(width, width, 3, norm, dilation=dilations[1])
        self.downsample = _shortcut(channels_in, width, norm, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = conv_relu(self.conv1, x)
        return conv_relu(self.conv2, x, shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut; the block of ResNet-50 and deeper. In ResNeXt the 3x3 is in groups."""

    def __init__(
        self, channels_in: int, width: int, channels_out: int, groups: int, norm: Norm, stride: int, stride_in: str, dilation: int
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.conv1 = _conv(channels_in, width, 1, norm, first)
        self.conv2 = _conv(width, width, 3, norm, second, dilation, groups)
        self.conv3 = _conv(width, channels_out, 1, norm)
        self.downsample = _shortcut(channels_in, channels_out, norm, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = conv_relu(self.conv1, x)
        x = conv_relu(self.conv2, x)
        return conv_relu(self.conv3, x, shortcut)


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a torchvision ResNet under our names; its classifier is left out.

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


def _stage(config: ResNetConfig, index: int, norm: Norm) -> nn.Sequential:
    """layer1 .. layer4 for an ``index`` of 0 .. 3. Only a stage's first block strides; dilated, none does."""
    dilation = 2 if index == 3 and config.last_stage == "dilated" else 1
    # A 3x3 convolution that had the stride itself read the finer map already; one behind a strided 1x1 must now be dilated by 2,
    # as all later ones must.
    early = config.depth >= 50 and config.stride_in == "1x1"
    channels_out = (config.width << index) * EXPANSION[config.depth]
    channels = config.width if index == 0 else channels_out // 2
    blocks: list[nn.Module] = []
    for position in range(BLOCKS[config.depth][index]):
        stride = 2 if index > 0 and position == 0 and dilation == 1 else 1
        first = 1 if position == 0 and not early else dilation
        if config.depth < 50:
            blocks.append(BasicBlock(channels, channels_out, norm, stride, (first, dilation)))
        else:
            width = (config.width << index) * config.width_per_group // 64 * config.groups
            blocks.append(Bottleneck(channels, width, channels_out, config.groups, norm, stride, config.stride_in, first))
        channels = channels_out
    return nn.Sequential(*blocks)


def _check(config: ResNetConfig) -> None:
    if config.depth < 50 and (config.groups, config.width_per_group) != (1, 64):
        raise UserError(
            f"groups={config.groups}, width_per_group={config.width_per_group}: the blocks of a ResNet-{config.depth} have no "
            "groups; use depth=50 or more, or groups=1, width_per_group=64"
        )
    if min(config.groups, config.width * config.width_per_group // 64) < 1:
        raise UserError(
            f"width={config.width}, groups={config.groups}, width_per_group={config.width_per_group}: no channels are left in "
            "layer1; groups must be at least 1, and width * width_per_group at least 64"
        )


def _published(config: ResNetConfig) -> str:
    """The name of torchvision's network that has this configuration's tensors."""
    name = PUBLISHED.get((config.depth, config.groups, config.width_per_group))
    if name is None or config.width != 64:
        raise UserError(
            f"model.backbone.weights={config.weights}: torchvision publishes none for a ResNet of depth={config.depth}, "
            f"width={config.width}, groups={config.groups}, width_per_group={config.width_per_group}, only for "
            f"{', '.join(PUBLISHED.values())}; set model.backbone.weights=null"
        )
    return name


def _conv(
    channels_in: int, channels_out: int, kernel: int, norm: Norm, stride: int = 1, dilation: int = 1, groups: int = 1
) -> ConvNorm:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, dilation, groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return ConvNorm(conv, make_norm(norm, channels_out))


def _shortcut(channels_in: int, channels_out: int, norm: Norm, stride: int) -> ConvNorm | None:
    """A strided 1x1 projection where the shape changes; None where the shortcut is the identity."""
    if stride == 1 and channels_in == channels_out:
        return None
    return _conv(channels_in, channels_out, 1, norm, stride)
