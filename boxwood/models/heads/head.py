"""Heads of R-CNN: small networks on the features of one RoI. They know nothing of images, anchors or losses.

A user-defined head is one class and one configuration that builds it; see ``examples/own_head.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from boxwood.models.backbones.backbone import ConvNorm, make_norm
from boxwood.models.backbones.config import Norm

__all__ = ["RoIHead"]


class RoIHead(nn.Module):
    """Base of every head: features in, features out; the predictors behind it belong to the architecture."""

    channels: int
    """Channels that ``forward`` returns."""

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """(R, C, P, P) -> (R, channels) for a box head, (R, channels, M, M) for a mask head, (R, channels, P, P) for a
        keypoint head. R = 0 is ordinary."""


def convolutions(count: int, channels: int, width: int, norm: Norm | None) -> tuple[nn.ModuleList, int]:
    """3x3 convolutions from ``channels`` to ``width``, and the channels behind them."""
    layers = nn.ModuleList()
    for _ in range(count):
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=norm is None)
        msra_fill(conv)
        layers.append(conv if norm is None else ConvNorm(conv, make_norm(norm, width)))
        channels = width
    return layers, channels


def msra_fill(layer: Any) -> None:
    """Detectron's name for He's initialisation by the outputs."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
