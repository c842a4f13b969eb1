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
    """What hangs on how boxes are counted: continuous coordinates, in which nothing is rounded and every scale is like any other.

    A model has one (`CONTINUOUS`, or `boxwood.ops.detectron1.DETECTRON1`) and asks it; it does not ask which it is.
    """

    cell_anchors = staticmethod(cell_anchors)
    clip = staticmethod(clip)
    nms_mask = staticmethod(nms_mask)
    mask_crops = staticmethod(mask_crops)
    last_pixel = (0.0, 0.0, 0.0, 0.0)
    """What is taken from a box for the region whose features are read and in which masks and keypoints lie."""
    smallest_proposal = 1e-3
    """Pixels a side; what is smaller is no proposal."""
    smallest_detection = 1e-2
    map_rounding: Literal["none", "cells", "pixels"] = "none"
    """Of `boxwood.ops.ps_roi_pool.ps_roi_pool`."""
    keypoint_shift = 0.0
    """Where in its pixel a keypoint lies, less than its middle, in pixels of the original image."""
    binary_masks = False
    """Mask targets are 0 or 1, not the covered share of a cell."""
    shares_proposals = False
    """On a pyramid the best proposals of all images of a batch together are learnt from, not the best of each."""
    fixed_counts = False
    """Losses are divided by how many anchors should have been sampled, or by positives and one more an image, not by what there
    is."""
    keeps_coarsest = False
    """RetinaNet's coarsest level may give detections of any score."""
    judges_leniently = True
    """RetinaNet's anchors that are the best of an instance learn it however little they overlap it; regions to be ignored are, and
    so is the padding."""

    def scales(self, sizes: Tensor, original_sizes: Sequence[tuple[int, int]]) -> Tensor:
        """What boxes as the second stage works on them are multiplied with to be the network's: (B, 2), for x and y.

        ``sizes`` (B, 2) height and width of the images as the network sees them, ``original_sizes`` of those in the files. It works
        in the network's pixels.
        """
        return torch.ones_like(sizes, dtype=torch.float32)

    def test_bounds(self, sizes: Tensor, padded: Sequence[int]) -> Tensor:
        """The (height, width) at which proposals for testing are cut, (B, 2): of ``sizes`` of the images (B, 2), and the ``padded``
        one of the batch, those of the images."""
        return sizes

    def rescale(self, boxes: Tensor, factor: Tensor) -> Tensor:
        """Boxes of the same image at another scale: (..., 4), ``factor`` (..., 2) for x and y."""
        return boxes * torch.cat([factor, factor], dim=-1)

    def enlarge(self, heatmaps: Tensor) -> Tensor:
        """Keypoint heatmaps (R, J, S, S) of twice the size, read bilinearly."""
        return F.interpolate(heatmaps, scale_factor=2.0, mode="bilinear", align_corners=False)

    def from_data(self, boxes: Tensor, scales: Tensor) -> Tensor:
        """True boxes and given proposals, which were scaled in continuous coordinates, as this geometry has them."""
        return boxes


CONTINUOUS = Geometry()
