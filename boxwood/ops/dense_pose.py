"""Dense pose (Güler et al., DensePose, 2018): points of the surface read on a region's maps, their losses, and maps as an image.

The surface of a body is cut into charts ("parts") 1..24, each with coordinates U and V from 0 to 1; part 0 is the background.
Fourteen coarse parts join some of them. Letters: R RoIs, P points of each, C channels, S cells a side of a map, N instances.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "BOX_SIDE",
    "COARSE_OF_PART",
    "MIRRORED_COARSE",
    "MIRRORED_PARTS",
    "Cells",
    "cells_of",
    "coarse_targets",
    "isotropic_loss",
    "oriented_loss",
    "read_corners",
    "surface_of",
    "weighted_corners",
]

COARSE_OF_PART = (0, 1, 1, 2, 3, 4, 5, 6, 7, 6, 7, 8, 9, 8, 9, 10, 11, 10, 11, 12, 13, 12, 13, 14, 14)
"""The coarse part of each part."""
MIRRORED_PARTS = (0, 1, 2, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15, 18, 17, 20, 19, 22, 21, 24, 23)
"""The part on the other side of the body."""
MIRRORED_COARSE = (0, 1, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 14)
BOX_SIDE = 256
"""An annotated box counts as so many units a side, whatever its size in the image."""

LEAST_VARIANCE = 0.01


@dataclass(slots=True)
class Cells:
    """Where points lie on the maps of their regions: between a low and a high cell of each axis."""

    low: Tensor
    """(R, P, 2) int64, x and y."""
    high: Tensor
    weight: Tensor
    """(R, P, 2): of the high cell; the low one has the rest."""
    inside: Tensor
    """(R, P) bool: whether the point lies in the region."""


def cells_of(places: Tensor, rois: Tensor, size: int) -> Cells:
    """The cells of points ``places`` (R, P, 2: x, y) in maps of ``size`` cells a side over ``rois`` (R, 4) xyxy.

    Cell k is read at k / size of the region, without half a cell, as DensePose's published weights have learnt it.
    """
    offset = places - rois[:, None, :2]
    extent = (rois[:, 2:] - rois[:, :2])[:, None]
    inside = ((offset >= 0) & (offset < extent)).all(dim=-1)
    position = offset * size / extent.clamp(min=1e-6)
    low = position.floor().clamp(0, size - 1)
    high = (low + 1).clamp(max=size - 1)
    weight = torch.minimum(position, high) - low
    return Cells(low.long(), high.long(), torch.where(inside[..., None], weight, 0.0), inside)


def read_corners(maps: Tensor, cells: Cells, size: int, beyond: Literal["border", "zeros"] = "border") -> Tensor:
    """The values in the four cells around each point of maps (R, C, s, s) that are enlarged bilinearly to ``size`` cells a side
    -> (R, C, 4, P).

    The enlarged maps are not made: in training they would take most of the time. ``beyond`` says what is read beyond the border of
    the maps, see `Geometry.beyond`.
    """
    (left, top), (right, bottom) = cells.low.unbind(-1), cells.high.unbind(-1)
    columns, rows = torch.stack([left, right, left, right], dim=1), torch.stack([top, top, bottom, bottom], dim=1)
    middles = (2 * torch.stack([columns, rows], dim=-1) + 1) / size - 1
    return F.grid_sample(maps, middles.to(maps.dtype), padding_mode=beyond, align_corners=False)


def weighted_corners(values: Tensor, cells: Cells) -> Tensor:
    """Values in the four cells around each point (R, C, 4, P) -> the values at the points (R, C, P)."""
    x, y = cells.weight.unbind(-1)
    weights = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], dim=1)
    return (values * weights[:, None]).sum(dim=2)


def coarse_targets(segmentation: Tensor, boxes: Tensor, rois: Tensor, instances: Tensor, size: int) -> Tensor:
    """The coarse parts that a region's cells have to predict: the nearest pixel of its instance's map, 0 outside.

    ``segmentation`` (N, 256, 256) covers ``boxes`` (N, 4) xyxy; ``rois`` (R, 4) in the same frame, ``instances`` (R,) int64 ->
    (R, size, size) int64.
    """
    limit = segmentation.shape[-1] - 1
    boxes = boxes[instances]
    steps = torch.arange(size, device=rois.device) / size
    places = rois[:, :2, None] + (rois[:, 2:] - rois[:, :2])[..., None] * steps  # (R, 2, S)
    pixels = limit * (places - boxes[:, :2, None]) / (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)[..., None]
    pixels = pixels.round()
    inside = (pixels >= 0) & (pixels <= limit)
    columns, rows = pixels.clamp(0, limit).long().unbind(1)
    flat = segmentation.flatten()
    index = instances[:, None, None] * (limit + 1) ** 2 + rows[:, :, None] * (limit + 1) + columns[:, None]
    labels = flat[index].long()
    return labels * (inside[:, 1, :, None] & inside[:, 0, None])


def isotropic_loss(du: Tensor, dv: Tensor, sigma: Tensor) -> Tensor:
    """The negative logarithm of the likelihood of errors of U and V with one predicted variance, elementwise (Neverova et al.,
    Correlated Uncertainty for Learning Dense Correspondences, 2019); ``sigma`` is the variance before its softplus."""
    variance = F.softplus(sigma) + LEAST_VARIANCE
    # Of two independent errors it has once the logarithm of 2 pi, as the reference has.
    return 0.5 * (math.log(2 * math.pi) + 2 * variance.log() + (du**2 + dv**2) / variance)


def oriented_loss(du: Tensor, dv: Tensor, sigma: Tensor, kappa_u: Tensor, kappa_v: Tensor) -> Tensor:
    """`isotropic_loss` with a variance that is larger in the direction (``kappa_u``, ``kappa_v``), by its squared length."""
    variance = F.softplus(sigma) + LEAST_VARIANCE
    determinant = variance * (variance + kappa_u**2 + kappa_v**2)
    along = du * kappa_u + dv * kappa_v
    return 0.5 * (math.log(2 * math.pi) + determinant.log() + (du**2 + dv**2) / variance - along**2 / determinant)


def surface_of(coarse: Tensor, fine: Tensor, u: Tensor, v: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The maps of one region in ``size`` (height, width) pixels: (h, w) int64 parts, 0 where there is no body, and (2, h, w) U and
    V of these parts, 0 on the background; ``coarse`` (C, S, S), the others (parts + 1, S, S)."""

    def enlarged(maps: Tensor) -> Tensor:
        return F.interpolate(maps[None].float(), size, mode="bilinear", align_corners=False)[0]

    parts = enlarged(fine).argmax(dim=0) * (enlarged(coarse).argmax(dim=0) > 0)
    values = torch.stack([enlarged(maps).gather(0, parts[None])[0] for maps in (u, v)])
    return parts, values * (parts > 0)
