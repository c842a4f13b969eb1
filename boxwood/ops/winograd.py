"""3x3 convolutions with fewer multiplications, on a CPU (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016).

F(4x4, 3x3): a tile of 4 x 4 outputs is computed from 6 x 6 inputs by 36 products a pair of channels where the definition has 144.
Input, weights and products are transformed by small constant matrices, so that the sum over channels is 36 matrix products
(section 4.3). Tiles are computed in parts that stay in the processor's cache.

Letters: B images, C and O channels in and out, H x W the map, T tiles of a part.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["winograd_conv2d"]

INPUT = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
).float()
WEIGHT = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]).double() / 24
OUTPUT = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]).float()
"""The paper's B^T, G and A^T (section 4.3)."""

PART = 1_500_000
"""Numbers of a part of transformed inputs or outputs: 6 MB."""


def winograd_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution of stride 1 and padding 1, without a graph.

    ``x`` (B, C, H, W) float32, fastest in channels_last memory; ``weight`` (O, C, 3, 3), ``bias`` (O,) -> (B, O, H, W) in
    channels_last memory. The rounding errors are about ten times those of the definition.
    """
    num_images, channels, height, width = x.shape
    channels_out = weight.shape[0]
    down, across = -(-height // 4), -(-width // 4)
    weights = (torch.kron(WEIGHT, WEIGHT).float() @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, channels, channels_out)
    input_matrix, output_matrix = torch.kron(INPUT, INPUT), torch.kron(OUTPUT, OUTPUT)
    pixels = x.permute(0, 2, 3, 1)
    output = torch.empty(num_images, channels_out, 4 * down, 4 * across, memory_format=torch.channels_last)
    rows = min(max(PART // (36 * max(channels, channels_out) * across), 1), down)
    images = min(max(PART // (36 * max(channels, channels_out) * across * down), 1), num_images)
    for first in range(0, num_images, images):
        for row in range(0, down, rows):
            part = pixels[first : first + images, max(4 * row - 1, 0) : 4 * (row + rows) + 1]
            count, tiles_down, top = part.shape[0], min(rows, down - row), int(row == 0)
            padded = x.new_zeros(count, 4 * tiles_down + 2, 4 * across + 2, channels)
            padded[:, top : top + part.shape[1], 1 : width + 1] = part
            of_image, of_row, of_column, _ = padded.stride()
            shape = (6, 6, count, tiles_down, across, channels)
            tiles = padded.as_strided(shape, (of_row, of_column, of_image, 4 * of_row, 4 * of_column, 1)).reshape(36, -1)
            products = torch.bmm((input_matrix @ tiles).view(36, -1, channels), weights)
            values = (output_matrix @ products.view(36, -1)).view(4, 4, count, tiles_down, across, channels_out)
            target = output.permute(0, 2, 3, 1)[first : first + images, 4 * row : 4 * (row + rows)]
            target = target.view(count, tiles_down, 4, across, 4, channels_out).permute(2, 4, 0, 1, 3, 5)
            target.copy_(values if bias is None else values.add_(bias))
    if output.shape[2:] == x.shape[2:]:
        return output
    return output[:, :, :height, :width].clone(memory_format=torch.channels_last)
