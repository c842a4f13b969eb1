"""The anchors of feature maps: the common part of the RPN's and RetinaNet's configurations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from boxwood.errors import UserError
from boxwood.models.config import AnchorsConfig
from boxwood.ops.geometry import Geometry

__all__ = ["anchor_cells"]


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
