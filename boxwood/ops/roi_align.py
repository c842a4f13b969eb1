"""RoIAlign (He et al., Mask R-CNN, 2017, section 3): features of a fixed size from boxes of any size.

Every output cell averages a grid of points, each read bilinearly from the map: it is a weighted sum of a few of the map's pixels.
On a CPU that sum is one `embedding_bag` whose table is the map itself, channels last, and whose per-sample weights are the
bilinear ones: several times faster than an operator that walks the channels. On a GPU a Triton kernel pools from all levels of a
pyramid at once (`boxwood.ops.roi_align_kernel`); elsewhere torchvision's operator does the work.

Letters: B images, C channels, H x W the map, R RoIs, P cells a side, G sampling points a cell and side.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)

# PyTorch says so once of matrices in compressed rows, which `_WeightedSums` needs.
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state", UserWarning)

OUTSIDE = -1e6
"""Pixels: a RoI there touches no map."""

MOST_LEVELS = 4
"""Of a pyramid, that the kernel for a GPU takes."""

READS = 8
"""Of each pixel of a map, from which on `_WeightedSums` is faster (measured; docs/benchmarks.md)."""

__all__ = ["assign_levels", "pool_levels", "roi_align", "roi_align_planes", "roi_pool"]


def roi_align(
    features: Tensor,
    rois: Tensor,
    images: Tensor,
    size: int,
    *,
    scale: float,
    sampling_ratio: int = 2,
    aligned: bool = True,
    fixed_shapes: bool = False,
) -> Tensor:
    """Features of each RoI on a ``size`` x ``size`` grid.

    Args:
        features: (B, C, H, W) floating; a map in channels_last memory is read in place.
        rois: (R, 4) xyxy in pixels of the network's input. No gradient flows to them.
        images: (R,) int64, the image of each RoI.
        size: P.
        scale: cells of the map per pixel of the input, 1 / stride.
        sampling_ratio: G, or 0 for as many points as the cell has map pixels, rounded up (R-CNN on C4); a RoI without extent then
            has none, and features of 0.
        aligned: pixel i of the map has its centre at i + 0.5 (correct). False is Detectron's and torchvision's first
            version, shifted by half a map pixel and with RoIs at least one map pixel wide.
        fixed_shapes: read no value on the host, so that the function can be exported.

    Returns:
        (R, C, P, P) in the type of ``features``.
    """
    if rois.shape[0] == 0 and not fixed_shapes:  # the gradient of zeros lies in memory as that of RoIs
        return _rows_of_pixels(features)[:0].view(0, size, size, features.shape[1]).permute(0, 3, 1, 2)
    if features.device.type != "cpu" or (fixed_shapes and sampling_ratio == 0):
        return _in_float32("roi_align", features, rois, images, size, scale, sampling_ratio, aligned)
    if features.dtype in (torch.float16, torch.bfloat16):  # their sums of many gradients would be off by percents
        again = partial(roi_align, scale=scale, sampling_ratio=sampling_ratio, aligned=aligned, fixed_shapes=fixed_shapes)
        return again(features.float(), rois, images, size).to(features.dtype)
    rois = rois.detach().float() * scale - (0.5 if aligned else 0.0)
    extent = (rois[:, 2:] - rois[:, :2]).clamp(min=0.0 if aligned else 1.0)
    if sampling_ratio > 0:
        return _pool(features, rois, extent, images, size, torch.full((rois.shape[0],), sampling_ratio), sampling_ratio)
    # RoIs are done in groups whose grids have the same longer side, so that few weights are zero.
    points = torch.ceil(extent / size).long()
    longest = points.amax(dim=1).clamp(min=1)
    pooled = features.new_empty(len(rois), features.shape[1], size, size)
    for most in sorted(set(longest.tolist())):
        rows = (longest == most).nonzero()[:, 0]
        pooled = pooled.index_copy(0, rows, _pool(features, rois[rows], extent[rows], images[rows], size, points[rows], most))
    return pooled


def roi_pool(features: Tensor, rois: Tensor, images: Tensor, size: int, *, scale: float) -> Tensor:
    """RoIPool (Girshick, Fast R-CNN, 2015, section 2.1): the largest value of each cell, whose borders are rounded to map pixels.

    What came before RoIAlign, with its arguments: (B, C, H, W), (R, 4), (R,) -> (R, C, P, P). torchvision's operator does the work.
    """
    return _in_float32("roi_pool", features, rois, images, size, scale)


def pool_levels(
    features: Sequence[Tensor],
    strides: Sequence[int],
    levels: Tensor,
    rois: Tensor,
    images: Tensor,
    size: int,
    *,
    pooling: Literal["align", "max"] = "align",
    sampling_ratio: int = 2,
    aligned: bool = True,
    fixed_shapes: bool = False,
) -> Tensor:
    """Each RoI pooled from the pyramid level that it is assigned to, by `roi_align` or `roi_pool`.

    ``features`` are the levels' (B, C, H_l, W_l), ``strides`` theirs in pixels, ``levels`` (R,) the index of each RoI's -> (R, C,
    P, P). With ``fixed_shapes``, and on a GPU, no value is read on the host.
    """
    on_gpu = features[0].is_cuda
    is_plain = not torch.compiler.is_compiling() and not torch.are_deterministic_algorithms_enabled()
    if on_gpu and pooling == "align" and len(features) <= MOST_LEVELS and is_plain and (kernel := _kernel_on_gpu()) is not None:
        return kernel(features, strides, levels, rois, images, size, sampling_ratio, aligned)
    pool: Callable[..., Tensor] = roi_pool
    if pooling == "align":
        pool = partial(roi_align, sampling_ratio=sampling_ratio, aligned=aligned, fixed_shapes=fixed_shapes)
    maps = list(zip(features, [1 / stride for stride in strides], strict=True))
    if len(maps) == 1:
        return pool(maps[0][0], rois, images, size, scale=maps[0][1])
    if fixed_shapes or on_gpu:
        # Every RoI is pooled from every level; from levels other than its own it is read far outside the map, where all values are
        # zero and the operators stop at once.
        elsewhere = levels != torch.arange(len(maps), device=levels.device)[:, None]
        of_level = rois.expand(len(maps), -1, -1).masked_fill(elsewhere[..., None], OUTSIDE)
        parts = [pool(level, part, images, size, scale=scale) for (level, scale), part in zip(maps, of_level, strict=True)]
        return sum(parts[1:], parts[0])
    order = levels.argsort(stable=True)
    counts = levels.bincount(minlength=len(maps)).tolist()
    parts = [
        pool(level, rois[rows], images[rows], size, scale=scale)
        for (level, scale), rows in zip(maps, torch.split(order, counts), strict=True)
    ]
    pooled = torch.cat([part.permute(0, 2, 3, 1) for part in parts])  # as `roi_align` lays them in memory
    return torch.empty_like(pooled).index_copy(0, order, pooled).permute(0, 3, 1, 2)


@cache
def _kernel_on_gpu() -> Callable[..., Tensor] | None:
    """`boxwood.ops.roi_align_kernel.pool_levels`, compiled and compared with torchvision's operator once; None where one of that
    fails, as without Triton or a C compiler."""
    try:
        from boxwood.ops.roi_align_kernel import pool_levels as kernel

        generator = torch.Generator().manual_seed(0)
        maps = [torch.randn(2, 32, side, side, generator=generator).cuda().requires_grad_() for side in (24, 12)]
        corners = torch.rand(40, 2, generator=generator) * 90 - 10
        rois = torch.cat([corners, corners + torch.rand(40, 2, generator=generator) * 60], dim=1).cuda()
        levels, images = torch.arange(40, device="cuda") % 2, torch.arange(40, device="cuda") // 2 % 2
        with torch.inference_mode(False), torch.enable_grad():
            ours = kernel(maps, (4, 8), levels, rois, images, 7, 2, True)
            parts = [roi_align(maps[level], rois[level::2], images[level::2], 7, scale=0.25 / (1 + level)) for level in (0, 1)]
            theirs = torch.stack(parts, dim=1).flatten(0, 1)
            results = [[result, *torch.autograd.grad(result.square().sum(), maps)] for result in (ours, theirs)]
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    except Exception as error:  # Triton has no common class of errors
        reason = " ".join(str(error).split())[:200]
        logger.warning("the Triton kernel for RoIAlign cannot be used, torchvision's operator is (%s)", reason)
        return None
    return kernel


def roi_align_planes(planes: Tensor, rois: Tensor, indices: Tensor, size: int) -> Tensor:
    """`roi_align` of each RoI on one plane each, such as the mask of its instance: aligned, as many points as a cell has pixels.

    A point's bilinear weight is a product of one of x and one of y, so on a CPU it is two small matrix products a RoI.
    ``planes`` (N, H, W) of any type, ``rois`` (R, 4) xyxy in pixels of the plane, ``indices`` (R,) int64 -> (R, P, P) float32.
    """
    if planes.device.type != "cpu" or rois.shape[0] == 0:
        return roi_align(planes[:, None].to(rois.dtype), rois, indices, size, scale=1.0, sampling_ratio=0)[:, 0]
    rois = rois.detach().float() - 0.5
    extent = (rois[:, 2:] - rois[:, :2]).clamp(min=0.0)
    points = torch.ceil(extent / size)
    matrices = []
    for axis, limit in ((1, planes.shape[1]), (0, planes.shape[2])):
        pixels, weights = _axis(rois[:, axis], extent[:, axis], limit, size, points[:, axis], max(1, int(points[:, axis].max())))
        matrices.append(torch.zeros(len(rois), size, limit).scatter_add_(2, pixels.long(), weights))
    rows, columns = matrices
    with torch.autocast("cpu", enabled=False):  # products in bfloat16 would round the values
        return rows @ planes[indices].float() @ columns.mT


def assign_levels(boxes: Tensor, num_levels: int, *, canonical_size: float = 224.0, canonical_level: int = 2) -> Tensor:
    """The pyramid level of each box by its size (Lin et al., Feature Pyramid Networks, 2017, equation 1).

    A box of ``canonical_size`` pixels a side goes to ``canonical_level``, counted from the finest level (P4 among P2..P5 is 2).
    ``boxes`` (R, 4) -> (R,) int64 in 0..num_levels-1.

    >>> assign_levels(torch.tensor([[0.0, 0, 111, 111], [0, 0, 112, 112], [0, 0, 224, 224], [0, 0, 900, 900]]), 4).tolist()
    [0, 1, 2, 3]
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
    level = torch.floor(canonical_level + torch.log2(side / canonical_size) + 1e-6)
    return level.clamp(0, num_levels - 1).to(torch.int64)


def _in_float32(operator: str, features: Tensor, rois: Tensor, images: Tensor, *settings: Any) -> Tensor:
    """An operator of torchvision on ``features`` and ``rois``. Maps of 16 bits are widened for it: their type would round the RoIs,
    by up to 4 pixels where they are near 1000, and float16 ends at 65504."""
    import torchvision.ops

    table = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
    indexed = torch.cat([images[:, None].to(rois.dtype), rois], dim=1)
    pooled: Tensor = getattr(torchvision.ops, operator)(table, indexed.to(table.dtype), *settings)
    return pooled.to(features.dtype)


def _pool(features: Tensor, rois: Tensor, extent: Tensor, images: Tensor, size: int, points: Tensor, most: int) -> Tensor:
    """RoIs in map pixels -> (R, C, P, P). ``points`` (R,) or (R, 2: x, y) counts a cell's sampling points, at most ``most``."""
    channels, height, width = features.shape[1:]
    points = points if points.dim() == 2 else points[:, None].expand(-1, 2)
    x, x_weight = _axis(rois[:, 0], extent[:, 0], width, size, points[:, 0], most)
    y, y_weight = _axis(rois[:, 1], extent[:, 1], height, size, points[:, 1], most)
    row = y * width + (images * (height * width)).to(torch.int32)[:, None, None]
    pixel = row[:, :, None, :, None] + x[:, None, :, None, :]
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    table = _rows_of_pixels(features)
    entries = (rois.shape[0] * size * size, 4 * most * most)
    pixel, weight = pixel.reshape(entries), weight.reshape(entries).to(table.dtype)
    if torch.compiler.is_compiling() or table.dtype != torch.float32 or pixel.numel() < READS * len(table):
        pooled = F.embedding_bag(pixel, table, per_sample_weights=weight, mode="sum")
    else:
        pooled = _WeightedSums.apply(table, pixel, weight)
    return pooled.view(rois.shape[0], size, size, channels).permute(0, 3, 1, 2)


class _WeightedSums(torch.autograd.Function):
    """Rows ``pixel`` (N, K) of a table (M, C), weighted and added -> (N, C), with a gradient that is faster than `embedding_bag`'s
    where each row of the table is read many times: a product with a sparse matrix, whose rows are the pixels."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, pixel: Tensor, weight: Tensor) -> Tensor:
        ctx.arguments = pixel, weight, len(table)
        return F.embedding_bag(pixel, table, per_sample_weights=weight, mode="sum")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        pixel, weight, rows = ctx.arguments
        sorted_pixels, order = pixel.flatten().sort()
        starts = torch.searchsorted(sorted_pixels, torch.arange(rows + 1, dtype=torch.int32), out_int32=True)
        columns, values = (order // pixel.shape[1]).int(), weight.flatten()[order]
        matrix = torch.sparse_csr_tensor(starts, columns, values, (rows, len(pixel)), check_invariants=False)
        return matrix @ gradient, None, None


def _rows_of_pixels(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * H * W, C); a map in channels_last memory is not copied."""
    return features.permute(0, 2, 3, 1).contiguous().flatten(0, 2)


def _axis(start: Tensor, extent: Tensor, limit: int, size: int, points: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Map pixels and their weights along one axis: two (R, P, 2 * most), int32 and float32.

    A point outside [-1, limit] weighs nothing; between the border and the outermost pixel's centre it reads that pixel. A RoI of 0
    points, one without extent, weighs nothing at all.
    """
    number = points[:, None, None]
    count = number.clamp(min=1).float()
    cell, point = (torch.arange(length, dtype=torch.float32) for length in (size, most))
    position = start[:, None, None] + (cell[:, None] + (point + 0.5) / count) * (extent[:, None, None] / size)
    weight = ((position >= -1) & (position <= limit) & (point < number)) / count
    position = position.clamp(0, limit - 1)
    low = position.floor().clamp(max=max(limit - 2, 0))
    fraction = position - low
    pixels = torch.stack([low, (low + 1).clamp(max=limit - 1)], dim=-1).to(torch.int32)
    weights = torch.stack([1 - fraction, fraction], dim=-1) * weight[..., None]
    return pixels.flatten(2), weights.flatten(2)
