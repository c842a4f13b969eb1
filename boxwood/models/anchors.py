"""The anchors of feature maps: the common part of the RPN's and RetinaNet's configurations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from boxwood.config import Config
from boxwood.errors import UserError
from boxwood.ops.geometry import Geometry

__all__ = ["AnchorsConfig", "anchor_cells"]


class AnchorsConfig(Config):
    """Base of the configurations that have anchors."""

    anchor_sizes: tuple[tuple[float, ...], ...]
    """Square roots of the anchors' areas in pixels, for each level, finest first."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height / width."""
    anchor_offset: float = 0.0
    """Where a cell's anchors are centred, in cells from its corner."""
    rounded_anchors: bool = False
    """Round the anchors' corners to whole pixels; torchvision's weights were trained so."""


def anchor_cells(key: str, config: AnchorsConfig, strides: Sequence[int], geometry: Geometry) -> Tensor:
    """The anchors of one cell of each map, (levels, A, 4) xyxy in pixels from the cell's corner.

    Raises `UserError` where ``key`` does not give sizes for each of the maps.
    """
    if len(config.anchor_sizes) != len(strides):
        raise UserError(
            f"{key} has {len(config.anchor_sizes)} levels, but the maps are {len(strides)}, of strides "
            f"{', '.join(map(str, strides))}: give one tuple of sizes for each"
        )
    levels = zip(config.anchor_sizes, strides, strict=True)
    return torch.stack(
        [geometry.cell_anchors(sizes, config.anchor_ratios, stride, rounded=config.rounded_anchors) for sizes, stride in levels]
    )
