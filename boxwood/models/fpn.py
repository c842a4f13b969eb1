"""Feature Pyramid Network (Lin et al., 2017): maps of equal width and rich meaning at every stride.

From the coarsest map down, each level is a 1x1 projection of the body's map plus the level above, doubled in size; a 3x3
convolution of the sum is the output (section 3, figure 3). One coarser level is added by taking every second cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.config import Config
from boxwood.models.backbones.backbone import ConvNorm, Norm, make_norm

__all__ = ["FPN", "FPNConfig"]


class FPNConfig(Config):
    """The pyramid over a body."""

    channels: int = 256
    norm: Norm | None = None
    """After each convolution, which then has no bias; None for convolutions with bias alone."""


class FPN(nn.Module):
    """Maps of the body (finest first) -> maps of ``channels`` channels at the same strides, and one of twice the coarsest
    stride."""

    def __init__(self, config: FPNConfig, channels_in: Sequence[int]) -> None:
        super().__init__()
        self.inner = nn.ModuleList(_convolution(channels, config.channels, 1, config.norm) for channels in channels_in)
        self.outer = nn.ModuleList(_convolution(config.channels, config.channels, 3, config.norm) for _ in channels_in)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        x = self.inner[-1](maps[-1])
        levels = [self.outer[-1](x)]
        for index in range(len(maps) - 2, -1, -1):
            lateral = self.inner[index](maps[index])
            x = lateral + F.interpolate(x, size=lateral.shape[-2:], mode="nearest")
            levels.insert(0, self.outer[index](x))
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]


def _convolution(channels_in: int, channels_out: int, kernel: int, norm: Norm | None) -> nn.Module:
    """Detectron's XavierFill is the uniform He initialisation with a = 1."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=norm is None)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution if norm is None else ConvNorm(convolution, make_norm(norm, channels_out))
