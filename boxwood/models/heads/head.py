"""Heads of R-CNN: small networks on the features of one RoI. They know nothing of images, anchors or losses.

A user-defined head is one class and one configuration that builds it; see ``examples/own_head.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

from torch import Tensor, nn

from boxwood.config import Component
from boxwood.models.backbones.backbone import ConvNorm, Norm, make_norm

__all__ = [
    "RoIHead",
    "RoIHeadConfig",
]


class RoIHead(nn.Module):
    """Base of every head: features in, features out; the predictors behind it belong to the architecture."""

    channels: int
    """Channels that ``forward`` returns."""

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """(R, C, P, P) -> (R, channels) for a box head, (R, channels, M, M) for a mask head, (R, channels, P, P) for a
        keypoint head. R = 0 is ordinary."""


class RoIHeadConfig(Component):
    """Base of every head's configuration. Derive from `BoxHeadConfig`, `MaskHeadConfig` or `KeypointHeadConfig`."""

    resolution: int
    """P, cells a side of the features that are pooled from an RoI."""
    source: Literal["maps", "tail", "own_tail"] = "maps"
    """The head's input: the pooled features; the output of the backbone's tail (Detectron's C4: res5) on them, shared by all heads
    with this source; or that of a copy of the tail, which this head alone trains."""

    @abstractmethod
    def build(self, channels: int) -> RoIHead:
        """A head for features of ``channels`` channels."""


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
