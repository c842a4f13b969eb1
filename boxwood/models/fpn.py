"""Feature Pyramid Network (Lin et al., 2017): maps of equal width, of high-level features at every stride.

From the coarsest map down, each level is a 1x1 projection of the backbone's map plus the level above, doubled in size; a 3x3
convolution of the sum is the output (section 3, figure 3). Coarser levels are added on top: one by taking every second cell, or
two by convolutions of stride 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.config import Config
from boxwood.models.backbones.backbone import BackboneConfig, ConvNorm, Norm, make_norm

__all__ = ["FPN", "FPNConfig", "LastMap", "backbone_title", "build_fpn"]


class FPNConfig(Config):
    """The pyramid over a backbone."""

    channels: int = 256
    norm: Norm | None = None
    """After each convolution, which then has no bias; None for convolutions with bias alone."""
    zero_init_lateral: bool = False
    """Begin with laterals of zeros, so that each level is at first the one above alone; the coarsest is as usual
    (Detectron's ZERO_INIT_LATERAL)."""
    top: Literal["subsampled", "conv_c5", "conv_p5"] = "subsampled"
    """The levels above the backbone's coarsest: one that is every second cell of it (FPN, section 4.1), or two by strided 3x3
    convolutions, of the backbone's map (RetinaNet, section 4) or of the pyramid's."""


class FPN(nn.Module):
    """Maps of the backbone (finest first) -> maps of ``channels`` channels at the same strides, and at coarser ones."""

    channels: int
    strides: tuple[int, ...]
    """Pixels of the input a cell of each map that ``forward`` returns."""
    backbone_strides: tuple[int, ...]
    """Of these, the strides of the backbone's maps; the levels above are coarser."""

    def __init__(self, config: FPNConfig, channels_in: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        width = config.channels
        self.inner = nn.ModuleList(_convolution(channels, width, 1, config.norm) for channels in channels_in)
        if config.zero_init_lateral:
            for lateral in list(self.inner)[:-1]:
                nn.init.zeros_((lateral.conv if isinstance(lateral, ConvNorm) else lateral).get_parameter("weight"))
        self.outer = nn.ModuleList(_convolution(width, width, 3, config.norm) for _ in channels_in)
        self.channels = width
        self.top = config.top
        self.backbone_strides = tuple(strides)
        if config.top == "subsampled":
            self.strides = (*strides, 2 * strides[-1])
        else:
            self.strides = (*strides, 2 * strides[-1], 4 * strides[-1])
            self.p6 = _convolution(channels_in[-1] if config.top == "conv_c5" else width, width, 3, None, stride=2)
            self.p7 = _convolution(width, width, 3, None, stride=2)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        x = self.inner[-1](maps[-1])
        levels = [self.outer[-1](x)]
        for index in range(len(maps) - 2, -1, -1):
            lateral = self.inner[index](maps[index])
            x = lateral.add_(F.interpolate(x, size=lateral.shape[-2:], mode="nearest"))
            levels.insert(0, self.outer[index](x))
        if self.top == "subsampled":
            return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]
        p6 = self.p6(maps[-1] if self.top == "conv_c5" else levels[-1])
        return [*levels, p6, self.p7(F.relu(p6))]


class LastMap(nn.Module):
    """Replaces the pyramid where there is none: the backbone's last map as it is."""

    def __init__(self, channels_in: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.channels = channels_in[-1]
        self.strides = self.backbone_strides = tuple(strides[-1:])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [maps[-1]]


def build_fpn(config: FPNConfig | None, channels_in: Sequence[int], strides: Sequence[int]) -> FPN | LastMap:
    """The pyramid over maps of these channels and strides; without a configuration the last of them."""
    return LastMap(channels_in, strides) if config is None else FPN(config, channels_in, strides)


def backbone_title(backbone: BackboneConfig, fpn: FPNConfig | None) -> str:
    """The title of a backbone and the maps that are read of it: ResNet-50-FPN, ResNet-50-C4, VGG16."""
    return backbone.title_alone if fpn is None else f"{backbone.title}-FPN"


def _convolution(channels_in: int, channels_out: int, kernel: int, norm: Norm | None, stride: int = 1) -> nn.Module:
    """Detectron's XavierFill is the uniform He initialisation with a = 1."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=norm is None)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution if norm is None else ConvNorm(convolution, make_norm(norm, channels_out))
