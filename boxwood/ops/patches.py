"""Convolutions at a few cells of large maps.

Where a loss reads few outputs of a stack of 3x3 convolutions, they are computed from patches around their cells, and the backward
pass goes through these alone. Outputs and gradients are those of the whole maps, up to rounding.

Letters: N cells, C channels, K = 2 * ``reach`` + 1 cells a side of a patch for a stack of ``reach`` convolutions. Each patch has a
mask (N, 1, K, K) bool of what lies on the map, beyond which every convolution finds zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["convolve_patches", "patches_around", "relu_stack_on_patches"]


def patches_around(maps: Sequence[Tensor], images: Tensor, cells: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """The patches (N, C, K, K) around ``cells`` (N,), counted over the levels row by row, of ``images`` (N,), and their mask."""
    table = torch.cat([features.permute(0, 2, 3, 1).flatten(1, 2) for features in maps], dim=1)  # (B, cells of all levels, C)
    start = height = width = torch.zeros_like(cells)  # of each cell's level: its first cell, and its size
    num_cells = 0
    for features in maps:
        here = cells >= num_cells
        start = torch.where(here, num_cells, start)
        height, width = torch.where(here, features.shape[-2], height), torch.where(here, features.shape[-1], width)
        num_cells = num_cells + features.shape[-2] * features.shape[-1]
    start, height, width, cells = (values[:, None, None] for values in (start, height, width, cells - start))
    window = torch.arange(-reach, reach + 1, device=cells.device)
    y, x = cells // width + window[:, None], cells % width + window
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    rows = images[:, None, None] * num_cells + start + (y * width + x) * inside
    values = table.flatten(0, 1).gather(0, rows.reshape(-1, 1).expand(-1, table.shape[2])).view(*rows.shape, -1)
    return (values * inside[..., None]).permute(0, 3, 1, 2), inside[:, None]


def relu_stack_on_patches(convolutions: Iterable[nn.Module], patches: Tensor, inside: Tensor) -> Tensor:
    """3x3 convolutions with a bias, each with a ReLU behind it and one cell fewer to each side -> (N, C, K', K')."""
    for convolution in convolutions:
        inside = inside[..., 1:-1, 1:-1]
        weight, bias = convolution.get_parameter("weight"), convolution.get_parameter("bias")
        patches = F.relu(convolve_patches(patches, weight, bias)) * inside
    return patches


def convolve_patches(patches: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution without padding: (N, C, K, K), (O, C, k, k), (O,) -> (N, O, K - k + 1, K - k + 1)."""
    if patches.shape[2:] != weight.shape[2:]:
        return F.conv2d(patches, weight, bias)
    # One product of matrices, which is several times faster than the convolution.
    rows, kernels = patches.permute(0, 2, 3, 1).flatten(1), weight.permute(0, 2, 3, 1).flatten(1)
    return F.linear(rows, kernels, bias)[..., None, None]
