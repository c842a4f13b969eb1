"""What a backbone is to the parts above it: a body that returns feature maps and says their channels and strides.

A backbone of your own is one class with these members and one `BackboneConfig` that builds it; see ``examples/own_backbone.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from boxwood.config import Component

__all__ = ["Backbone", "BackboneConfig", "Norm", "freeze", "make_norm"]

Norm = Literal["frozen_bn", "bn", "sync_bn", "gn"]
"""Frozen batch norm (its statistics and scales fixed, as in Detectron), batch norm over one or all processes, group norm of 32 groups."""


class Backbone(nn.Module):
    """Base of every body."""

    channels: tuple[int, ...]
    """Channels of each map that ``forward`` returns, finest first."""
    strides: tuple[int, ...]
    """Pixels of the input a cell of each map, finest first."""

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W), H and W multiples of the last stride -> maps (B, channels[i], H / strides[i], W / strides[i])."""


class BackboneConfig(Component):
    """Base of every body's configuration."""

    @abstractmethod
    def build(self) -> Backbone:
        """The body, with pretrained weights where the configuration names them."""


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """A normalisation layer for (B, ``channels``, H, W)."""
    match kind:
        case "frozen_bn":
            layer: Any = FrozenBatchNorm2d(channels)
            return layer  # type: ignore[no-any-return]  # torchvision is untyped
        case "bn":
            return nn.BatchNorm2d(channels)
        case "sync_bn":
            return nn.SyncBatchNorm(channels)
        case "gn":
            return nn.GroupNorm(32, channels)


def freeze(modules: Iterable[nn.Module]) -> None:
    """Stop the training of these parts for good: no gradients, and batch norms that keep their statistics."""
    for module in modules:
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d | nn.SyncBatchNorm):
                part.momentum = 0.0
                part.register_forward_pre_hook(_use_statistics)


def _use_statistics(module: nn.Module, _: tuple[torch.Tensor, ...]) -> None:
    module.training = False
