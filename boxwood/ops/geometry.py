"""The box convention: continuous coordinates, or inclusive pixels (+1) as Detectron counts them.

A model has one `Geometry`: `CONTINUOUS`, or `boxwood.ops.detectron1.DETECTRON1`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwood.ops.anchors import cell_anchors
from boxwood.ops.boxes import clip
from boxwood.ops.masks import mask_crops
from boxwood.ops.nms import nms_mask

__all__ = ["CONTINUOUS", "Geometry"]


class Geometry:
    """The box convention: continuous coordinates, without rounding.

    A model has one (`CONTINUOUS`, or `boxwood.ops.detectron1.DETECTRON1`) and calls its methods; no code checks which one it is.
    """

    cell_anchors = staticmethod(cell_anchors)
    clip = staticmethod(clip)
    nms_mask = staticmethod(nms_mask)
    mask_crops = staticmethod(mask_crops)
    smallest_proposal = 1e-3
    """Pixels a side; smaller boxes are no proposals."""
    smallest_detection = 1e-2
    map_rounding: Literal["none", "cells", "pixels"] = "none"
    """Of `boxwood.ops.ps_roi_pool.ps_roi_pool`."""
    beyond: Literal["border", "zeros"] = "border"
    """What `enlarge` reads beyond the border of a map: the cell at the border, or zeros."""
    keypoint_shift = 0.0
    """Where in its pixel a keypoint lies, less than its middle, in pixels of the original image."""

    def scales(self, sizes: Tensor, original_sizes: Tensor) -> Tensor:
        """The factors from the pixels in which the second stage works to those of the network's input: (B, 2), for x and y; here
        it works in the network's pixels.

        ``sizes`` (B, 2) height and width of the images as the network sees them, ``original_sizes`` (B, 2) of those in the files.
        """
        return torch.ones_like(sizes, dtype=torch.float32)

    def region(self, boxes: Tensor) -> Tensor:
        """The regions whose features are read and in which masks and keypoints lie: boxes (..., 4) -> (..., 4)."""
        return boxes

    def test_bounds(self, sizes: Tensor, padded: Sequence[int]) -> Tensor:
        """The (height, width) to which proposals are clipped in inference, (B, 2): ``sizes`` (B, 2) are those of the images,
        ``padded`` is the batch's."""
        return sizes

    def largest(self, padded: Sequence[int], original_sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """A height and a width that no box of the second stage exceeds; ``padded`` is the size of the batch, ``original_sizes``
        those of the images in their files."""
        return padded[0], padded[1]

    def rescale(self, boxes: Tensor, factor: Tensor) -> Tensor:
        """Boxes of the same image at another scale: (..., 4), ``factor`` (..., 2) for x and y."""
        return boxes * torch.cat([factor, factor], dim=-1)

    def enlarge(self, heatmaps: Tensor) -> Tensor:
        """Maps of regions (R, J, S, S), as heatmaps of keypoints are, of twice the size, read bilinearly."""
        return F.interpolate(heatmaps, scale_factor=2.0, mode="bilinear", align_corners=False)

    def from_data(self, boxes: Tensor, scales: Tensor) -> Tensor:
        """Ground-truth boxes and given proposals (..., 4), which were scaled in continuous coordinates, in this convention;
        ``scales`` (..., 2) as of `scales`."""
        return boxes


CONTINUOUS = Geometry()
