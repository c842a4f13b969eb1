"""What a backbone is to the parts above it: a body that returns feature maps and says their channels and strides.

A backbone of your own is one class with these members and one `BackboneConfig` that builds it; see ``examples/own_backbone.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from boxwood.config import Component

__all__ = ["Backbone", "BackboneConfig", "ConvNorm", "Norm", "make_norm"]

Norm = Literal["frozen_bn", "bn", "sync_bn", "gn"]
"""Frozen batch norm (its statistics and scales fixed, as in Detectron), batch norm over one or all processes, group norm of 32
groups."""


class Backbone(nn.Module):
    """Base of every body."""

    channels: tuple[int, ...]
    """Channels of each map that ``forward`` returns, finest first."""
    strides: tuple[int, ...]
    """Pixels of the input a cell of each map, finest first; each is twice the one before."""

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W), H and W multiples of the last stride -> maps (B, channels[i], H / strides[i], W /
        strides[i])."""


class BackboneConfig(Component):
    """Base of every body's configuration."""

    @abstractmethod
    def build(self) -> Backbone:
        """The body, with pretrained weights where the configuration names them."""


class ConvNorm(nn.Module):
    """A convolution and its normalisation. A frozen batch norm costs nothing: its scale and shift go into the convolution.

    Scaling the weights instead of the map is the same sum (up to rounding) with two passes over memory less, in training too.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.norm, FrozenBatchNorm2d):
            return self.norm(self.conv(x))  # type: ignore[no-any-return]  # calls of modules are untyped
        weight, bias = self._folded()
        conv = self.conv
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold a frozen norm into the convolution for good, for inference."""
        if isinstance(self.norm, FrozenBatchNorm2d):
            weight, bias = self._folded()
            self.conv.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
            self.conv.bias = nn.Parameter(bias, requires_grad=False)
            self.norm = nn.Identity()

    def _folded(self) -> tuple[Tensor, Tensor]:
        norm: Any = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        if self.conv.bias is not None:
            bias = bias + self.conv.bias * scale
        return self.conv.weight * scale[:, None, None, None], bias


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """A normalisation layer for (B, ``channels``, H, W)."""
    match kind:
        case "frozen_bn":
            frozen: nn.Module = FrozenBatchNorm2d(channels)
            return frozen
        case "bn":
            return nn.BatchNorm2d(channels)
        case "sync_bn":
            return nn.SyncBatchNorm(channels)
        case "gn":
            return nn.GroupNorm(32, channels)
