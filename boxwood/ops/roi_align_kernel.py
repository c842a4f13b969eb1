"""RoIAlign of the levels of a pyramid on a GPU as one Triton kernel: each RoI reads its own level, maps stay channels last, and no
value is read on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["pool_levels"]

BLOCK = 256
"""Channels that a program computes; a program makes one cell of one RoI."""


def pool_levels(
    features: Sequence[Tensor],
    strides: Sequence[int],
    levels: Tensor,
    rois: Tensor,
    images: Tensor,
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """`boxwood.ops.roi_align.pool_levels` with its arguments: (R, C, P, P) in the type of the features, channels last. Sums are of
    32 bits; in the backward pass their order is the GPU's, as in torchvision's operator."""
    output: Tensor = _PoolLevels.apply(
        levels, rois.detach().float(), images, tuple(strides), size, sampling_ratio, aligned, *features
    )
    return output


class _PoolLevels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        levels: Tensor,
        rois: Tensor,
        images: Tensor,
        strides: tuple[int, ...],
        size: int,
        sampling_ratio: int,
        aligned: bool,
        *features: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(levels, rois, images)
        ctx.settings = strides, size, sampling_ratio, aligned
        ctx.maps = [(level.shape, level.dtype) for level in features]
        channels = features[0].shape[1]
        pooled = features[0].new_empty(len(rois), size, size, channels)
        maps = [level.contiguous(memory_format=torch.channels_last) for level in features]
        _run(maps, pooled, levels, rois, images, *ctx.settings, backward=False)
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        zeros = [torch.zeros(b, h, w, c, device=gradient.device) for (b, c, h, w), _ in ctx.maps]
        maps = [level.permute(0, 3, 1, 2) for level in zeros]
        cells = gradient.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        _run(maps, cells, *ctx.saved_tensors, *ctx.settings, backward=True)
        return (None,) * 7 + tuple(level.to(dtype) for level, (_, dtype) in zip(maps, ctx.maps, strict=True))


def _run(
    maps: Sequence[Tensor],
    cells: Tensor,
    levels: Tensor,
    rois: Tensor,
    images: Tensor,
    strides: tuple[int, ...],
    size: int,
    sampling_ratio: int,
    aligned: bool,
    *,
    backward: bool,
) -> None:
    """``maps`` channels last and ``cells`` (R, P, P, C): the kernel fills the cells, or adds them to the maps of 32 bits."""
    channels = cells.shape[3]
    if cells.numel() == 0:
        return
    places = [(level, *level.shape[2:], 1 / stride) for level, stride in zip(maps, strides, strict=True)]
    places += places[-1:] * (4 - len(places))
    block = min(BLOCK, triton.next_power_of_2(channels))
    grid = (len(cells) * size * size, triton.cdiv(channels, block))
    with torch.cuda.device_of(cells):  # type: ignore[no-untyped-call]  # Triton starts kernels on the current GPU
        _pool[grid](
            *(argument for place in places for argument in place),
            *(cells, levels.contiguous(), rois.contiguous(), images.contiguous(), channels),
            SIZE=size,
            POINTS=sampling_ratio,
            ALIGNED=aligned,
            LEVELS=len(maps),
            BACKWARD=backward,
            BLOCK=block,
            num_warps=2,
        )


VARYING = [f"{name}{level}" for level in range(4) for name in ("height", "width", "scale")]
"""Arguments for whose values the kernel is not compiled again."""


# fmt: off
@triton.jit(do_not_specialize=VARYING)  # type: ignore[untyped-decorator]
def _pool(  # type: ignore[no-untyped-def]
    map0, height0, width0, scale0, map1, height1, width1, scale1, map2, height2, width2, scale2, map3, height3, width3, scale3,
    cells, levels, rois, images, channels,
    SIZE: tl.constexpr, POINTS: tl.constexpr, ALIGNED: tl.constexpr, LEVELS: tl.constexpr, BACKWARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program for each cell of each RoI and ``BLOCK`` channels."""
    level = tl.load(levels + tl.program_id(0) // (SIZE * SIZE))
    if level == 0:
        _cell(map0, height0, width0, scale0, cells, rois, images, channels, SIZE, POINTS, ALIGNED, BACKWARD, BLOCK)
    elif LEVELS > 1 and level == 1:
        _cell(map1, height1, width1, scale1, cells, rois, images, channels, SIZE, POINTS, ALIGNED, BACKWARD, BLOCK)
    elif LEVELS > 2 and level == 2:
        _cell(map2, height2, width2, scale2, cells, rois, images, channels, SIZE, POINTS, ALIGNED, BACKWARD, BLOCK)
    elif LEVELS > 3 and level == 3:
        _cell(map3, height3, width3, scale3, cells, rois, images, channels, SIZE, POINTS, ALIGNED, BACKWARD, BLOCK)


@triton.jit  # type: ignore[untyped-decorator]
def _cell(  # type: ignore[no-untyped-def]
    level_map, height, width, scale, cells, rois, images, channels,
    SIZE: tl.constexpr, POINTS: tl.constexpr, ALIGNED: tl.constexpr, BACKWARD: tl.constexpr, BLOCK: tl.constexpr,
):
    """A cell is the mean of its points, each read bilinearly; backward, its gradient is added to the pixels that they read."""
    place = tl.program_id(0).to(tl.int64)
    roi = place // (SIZE * SIZE)
    row, column = place // SIZE % SIZE, place % SIZE
    x1, y1, x2, y2 = tl.load(rois + 4 * roi), tl.load(rois + 4 * roi + 1), tl.load(rois + 4 * roi + 2), tl.load(rois + 4 * roi + 3)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    pixels = level_map + tl.load(images + roi) * height * width * channels
    cell = cells + place * channels + channel
    x_begin, x_length, x_number = _axis(x1, x2, scale, column, SIZE, POINTS, ALIGNED)
    y_begin, y_length, y_number = _axis(y1, y2, scale, row, SIZE, POINTS, ALIGNED)
    share = 1.0 / tl.maximum(x_number * y_number, 1)
    value = tl.full([BLOCK], 0.0, tl.float32)
    if BACKWARD:
        value = tl.load(cell, mask=channel < channels, other=0.0).to(tl.float32) * share
    for j in range(y_number):
        top, bottom, down, y_inside = _neighbours(y_begin, y_length, j, y_number, height)
        for i in range(x_number):
            left, right, over, x_inside = _neighbours(x_begin, x_length, i, x_number, width)
            mask = channel < tl.where(x_inside & y_inside, channels, 0)
            a = pixels + (top * width + left) * channels + channel
            b = pixels + (top * width + right) * channels + channel
            c = pixels + (bottom * width + left) * channels + channel
            d = pixels + (bottom * width + right) * channels + channel
            if BACKWARD:
                tl.atomic_add(a, value * ((1 - down) * (1 - over)), mask=mask, sem="relaxed")
                tl.atomic_add(b, value * ((1 - down) * over), mask=mask, sem="relaxed")
                tl.atomic_add(c, value * (down * (1 - over)), mask=mask, sem="relaxed")
                tl.atomic_add(d, value * (down * over), mask=mask, sem="relaxed")
            else:
                value += (1 - down) * (1 - over) * tl.load(a, mask=mask, other=0.0).to(tl.float32)
                value += (1 - down) * over * tl.load(b, mask=mask, other=0.0).to(tl.float32)
                value += down * (1 - over) * tl.load(c, mask=mask, other=0.0).to(tl.float32)
                value += down * over * tl.load(d, mask=mask, other=0.0).to(tl.float32)
    if not BACKWARD:
        tl.store(cell, (value * share).to(cell.dtype.element_ty), mask=channel < channels)
# fmt: on


@triton.jit  # type: ignore[untyped-decorator]
def _axis(start, end, scale, cell, SIZE: tl.constexpr, POINTS: tl.constexpr, ALIGNED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of one axis of a RoI: where the cell begins and how long it is, in map pixels, and its number of points."""
    shift = 0.5 if ALIGNED else 0.0
    start = start * scale - shift
    extent = end * scale - shift - start
    if not ALIGNED:
        extent = tl.maximum(extent, 1.0)
    length = extent / SIZE
    number = tl.ceil(length).to(tl.int32) if POINTS == 0 else tl.full([], POINTS, tl.int32)
    return start + cell * length, length, number


@triton.jit
def _neighbours(begin, length, point, number, limit):  # type: ignore[no-untyped-def]
    """The two pixels that a point of an axis reads, the weight of the second, and whether the point lies on the map."""
    position = begin + (point + 0.5) * length / number
    inside = (position >= -1.0) & (position <= limit)
    position = tl.maximum(position, 0.0)
    low = tl.minimum(position, limit - 1.0).to(tl.int32)
    high = tl.minimum(low + 1, limit - 1)
    return low, high, tl.where(high > low, position - low, 0.0), inside
