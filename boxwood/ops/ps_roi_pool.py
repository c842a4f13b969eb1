"""Position-sensitive RoI pooling (Dai et al., R-FCN, 2016, equation 1): each cell of an RoI reads other channels.

A cell's value is the mean of a rectangle of the map. With the map's sums over all rectangles that begin in its corner, that
is four reads a cell, whatever its size.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ps_roi_align", "ps_roi_pool"]


def ps_roi_pool(
    features: Tensor,
    rois: Tensor,
    images: Tensor,
    size: int,
    *,
    scale: float,
    rounding: Literal["none", "cells", "pixels"] = "none",
) -> Tensor:
    """The mean over the map pixels that each cell of each RoI touches, in that cell's channels.

    Args:
        features: (B, C * P * P, H, W) floating; channel (c * P + row) * P + column is read by that cell for output c.
        rois: (R, 4) xyxy in pixels of the network's input. No gradient flows to them.
        images: (R,) int64, the image of each RoI.
        size: P, called k in the paper.
        scale: cells of the map per pixel of the input, 1 / stride.
        rounding: what is made of an RoI's borders: ``none`` leaves them where they are; ``cells`` rounds them to whole map pixels
            (torchvision's operator); ``pixels`` rounds them to whole pixels of the input and counts the last one in (the original
            Caffe operator, which Detectron used). A side is at least 0.1 map pixels, with ``cells`` 1.

    Returns:
        (R, C, P, P) in the type of ``features``; 0 for a cell outside the map.

    >>> features = torch.arange(4.0)[None, :, None, None].expand(1, 4, 8, 8)  # channel i holds i
    >>> ps_roi_pool(features, torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([0]), 2, scale=1.0).tolist()
    [[[[0.0, 1.0], [2.0, 3.0]]]]
    """
    height, width = features.shape[-2:]
    rois = rois.detach().double()
    if rounding == "cells":
        # Half away from zero, as C rounds.
        rois = (rois * scale).sign() * ((rois * scale).abs() + 0.5).floor()
    elif rounding == "pixels":
        rois = rois.sign() * (rois.abs() + 0.5).floor()
        rois = torch.cat([rois[:, :2], rois[:, 2:] + 1], dim=1) * scale
    else:
        rois = rois * scale
    extent = (rois[:, 2:] - rois[:, :2]).clamp(min=1.0 if rounding == "cells" else 0.1)
    left, right = _borders(rois[:, 0], extent[:, 0], size, width)
    top, bottom = _borders(rois[:, 1], extent[:, 1], size, height)

    # float64, since a small rectangle is a difference of large sums; channels last, so that a read is one piece of memory.
    planes = (
        features.double().view(features.shape[0], -1, size, size, height, width).permute(0, 2, 3, 4, 5, 1)
    )  # (B, P, P, H, W, C)
    sums = F.pad(planes.cumsum(dim=3).cumsum(dim=4), (0, 0, 1, 0, 1, 0))
    image = images[:, None, None]
    row = torch.arange(size, device=rois.device)[None, :, None]
    column = torch.arange(size, device=rois.device)[None, None, :]

    def corner(y: Tensor, x: Tensor) -> Tensor:
        return sums[image, row, column, y[:, :, None], x[:, None, :]]  # (R, P, P, C)

    total = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
    count = (bottom - top).clamp(min=0)[:, :, None] * (right - left).clamp(min=0)[:, None, :]
    mean = torch.where(count[..., None] > 0, total / count.clamp(min=1)[..., None], 0.0)
    return mean.permute(0, 3, 1, 2).to(features.dtype)


def ps_roi_align(features: Tensor, rois: Tensor, images: Tensor, size: int, *, scale: float, sampling_ratio: int = 2) -> Tensor:
    """Interpolated points of each cell averaged, as in RoIAlign, in that cell's channels (Li et al., Light-Head R-CNN, 2017).

    With `ps_roi_pool`'s arguments and result. Where that one reads whole map pixels, so that an RoI moved by less than one gives
    the same, this follows the RoI exactly. ``sampling_ratio`` points are taken a cell and side. torchvision's operator does the
    work."""
    indexed = torch.cat([images[:, None].to(features.dtype), rois.detach().to(features.dtype)], dim=1)
    import torchvision.ops

    pooled: Tensor = torchvision.ops.ps_roi_align(features, indexed, size, scale, sampling_ratio)
    return pooled


def _borders(start: Tensor, extent: Tensor, size: int, limit: int) -> tuple[Tensor, Tensor]:
    """First map pixel of each cell along one axis, and the one behind its last: two (R, P) int64 in 0..``limit``."""
    cell = torch.arange(size, device=start.device)
    width = (extent / size)[:, None]
    first = (start[:, None] + cell * width).floor()
    behind = (start[:, None] + (cell + 1) * width).ceil()
    return first.clamp(0, limit).long(), behind.clamp(0, limit).long()
