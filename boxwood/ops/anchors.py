"""Anchors: the boxes of one cell, and of all cells of a feature map.

Boxes are xyxy, continuous coordinates, pixels of the network's input. Letters: A anchors, H x W cells of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["anchor_grid", "cell_anchors", "centred_inside"]


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], stride: int = 1, *, rounded: bool = False) -> Tensor:
    """The anchors of one cell, centred at the origin: for each ratio (height / width) every size (square root of the area).

    Faster R-CNN, section 3.1.1; with a pyramid, one size a level (FPN, section 4.1). ``rounded`` rounds the corners to whole
    pixels, as torchvision does; ``stride`` decides nothing here -> (len(ratios) * len(sizes), 4) xyxy float32.

    >>> cell_anchors([16], [1.0, 4.0]).tolist()
    [[-8.0, -8.0, 8.0, 8.0], [-4.0, -16.0, 4.0, 16.0]]
    """
    size = torch.as_tensor(sizes, dtype=torch.float32)
    root = torch.as_tensor(ratios, dtype=torch.float32).sqrt()
    heights = (root[:, None] * size[None, :]).flatten()
    widths = ((1 / root)[:, None] * size[None, :]).flatten()
    anchors = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
    return anchors.round() if rounded else anchors


def anchor_grid(cell: Tensor, height: int, width: int, stride: int, offset: float = 0.5) -> Tensor:
    """The anchors of a whole map, cells row by row, in pixels of the network's input.

    ``cell`` (A, 4) xyxy around a cell's point, ``height`` and ``width`` of the map in cells, ``stride`` pixels a cell, ``offset``
    where a cell's point lies, in cells: 0.5 is its middle; 0 its corner, as Detectron and torchvision have it -> (height * width *
    A, 4) xyxy on the device of ``cell``.
    """
    points = _points.__wrapped__ if torch.compiler.is_compiling() else _points
    return (points(height, width, stride, offset, cell.device) + cell).reshape(-1, 4)


@lru_cache(maxsize=64)  # the levels of a dozen sizes: 17 MB where the images have 800 x 1216 pixels
def _points(height: int, width: int, stride: int, offset: float, device: torch.device) -> Tensor:
    """The points of all cells, (height * width, 1, 4): x, y, x, y."""
    x = (torch.arange(width, device=device, dtype=torch.float32) + offset) * stride
    y = (torch.arange(height, device=device, dtype=torch.float32) + offset) * stride
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([grid_x, grid_y, grid_x, grid_y], dim=-1).reshape(-1, 1, 4)


def centred_inside(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Which boxes have their centre in the image, not in the padding to the right and below it.

    ``boxes`` (A, 4), ``sizes`` (..., 2) height and width of each image -> (..., A) bool.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return (centres < sizes.flip(-1)[..., None, :]).all(dim=-1)
