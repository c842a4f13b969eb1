"""Masks: rasterising truth, learning targets inside RoIs, pasting predictions into the image, run-length codes.

Continuous coordinates throughout: pixel (or cell) i covers [i, i + 1], its centre is i + 0.5.
Letters: N instances, R RoIs, S the resolution of stored masks, M of predicted masks, H x W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from hotcoco import mask as coco_mask
from torch import Tensor

from boxwood.ops.roi_align import roi_align_planes

__all__ = [
    "Crops",
    "mask_crops",
    "mask_targets",
    "masks_to_rle",
    "paste_masks",
    "paste_masks_at_once",
    "rasterize_polygons",
    "resize_bitmap",
]

PASTED_AT_ONCE = 2**25
"""Pixels of pasted masks that are computed at once on a GPU, of 4 bytes each."""

MAX_POINTS = 64
"""Each way in a cell of a RoI at which its mask is read, at most: bitmaps whose pixels are finer are taken as if they were not."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def rasterize_polygons(
    parts: Sequence[np.ndarray[Any, Any]], box: tuple[float, float, float, float], size: int | tuple[int, int]
) -> Pixels:
    """The union of polygons over a rectangle, on a grid, by COCO's rasteriser.

    ``parts`` are (n, 2) points x, y; ``box`` xyxy is the rectangle in the same coordinates; ``size`` is (height, width), or one
    number for both -> (height, width) uint8 of 0 and 1.

    >>> triangle = np.array([[0, 0], [4, 0], [0, 4]], dtype=np.float32)
    >>> rasterize_polygons([triangle], (0, 0, 4, 4), 4).tolist()
    [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    """
    x1, y1, x2, y2 = box
    height, width = (size, size) if isinstance(size, int) else size
    scale = np.array([width, height]) / np.maximum(np.array([x2 - x1, y2 - y1], dtype=np.float64), 1e-6)
    outlines = [((part - (x1, y1)) * scale).ravel().tolist() for part in parts if len(part) >= 3]
    if not outlines:
        return np.zeros((height, width), dtype=np.uint8)
    pixels: Pixels = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outlines, height, width)))
    return pixels


def resize_bitmap(values: Pixels, size: int) -> Pixels:
    """A bitmap at another resolution: each new cell takes the pixel under its centre. ``values`` (h, w) -> (size, size), uint8."""
    height, width = values.shape
    rows = ((np.arange(size) + 0.5) * height / size).astype(np.int64)
    columns = ((np.arange(size) + 0.5) * width / size).astype(np.int64)
    return np.ascontiguousarray(values[rows[:, None], columns[None, :]])


def mask_targets(bitmaps: Tensor, mask_boxes: Tensor, rois: Tensor, instances: Tensor, size: int) -> Tensor:
    """The share of each cell of each RoI that its instance's mask covers (Mask R-CNN, section 3).

    Detectron rasterised polygons inside every RoI on the host; here the stored bitmaps are sampled, which needs no transfer.

    Args:
        bitmaps: (N, S, S') of 0 and 1; bitmap i covers ``mask_boxes[i]``.
        mask_boxes: (N, 4) xyxy.
        rois: (R, 4) xyxy in the same frame.
        instances: (R,) int64, which instance each RoI learns.
        size: M.

    Returns:
        (R, M, M) float32, 0..1.
    """
    if len(rois) == 0:
        return rois.new_zeros(0, size, size)
    height, width = bitmaps.shape[-2:]
    covered = mask_boxes[instances]
    origin = covered[:, :2].repeat(1, 2)
    extent = covered[:, 2:] - covered[:, :2]
    cell = torch.stack([extent[:, 0] / width, extent[:, 1] / height], dim=1)
    # Each cell of a RoI reads as many points as it has pixels of the bitmap: in a RoI far larger than its mask, without end.
    cell = cell.maximum((rois[:, 2:] - rois[:, :2]) / (size * MAX_POINTS)).clamp(min=1e-6).repeat(1, 2)
    in_bitmap = (rois - origin) / cell
    return roi_align_planes(bitmaps, in_bitmap, instances, size)


class Crops(Protocol):
    """`mask_crops`, or another rule of scaling masks to their boxes."""

    def __call__(
        self, probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float
    ) -> Iterator[tuple[int, int, Tensor]]: ...


def mask_crops(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> Iterator[tuple[int, int, Tensor]]:
    """For each mask (top, left, (h, w) bool): its part inside the image, scaled to its box and cut at ``threshold``.

    A pixel's probability is read bilinearly at its centre, with zeros around the mask; only pixels to which the mask reaches are
    computed. ``probabilities`` (N, M, M) in 0..1, ``boxes`` (N, 4) xyxy in pixels of an image of ``size`` (H, W).
    """
    cells = probabilities.shape[-1]
    # Bilinear interpolation on a grid along the axes is a product of two small matrices: rows x mask x columns.
    for mask, (x1, y1, x2, y2) in zip(probabilities.float(), boxes.tolist(), strict=True):
        top, rows = _weights(y1, y2, size[0], cells)
        left, columns = _weights(x1, x2, size[1], cells)
        yield top, left, rows.to(mask.device) @ mask @ columns.to(mask.device).T >= threshold


def paste_masks(
    probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5, crops: Crops = mask_crops
) -> Tensor:
    """Each predicted mask, scaled to its box and cut at ``threshold``, in a mask of the whole image.

    Args:
        probabilities: (N, M, M) in 0..1.
        boxes: (N, 4) xyxy in pixels of an image of ``size`` (H, W).
        crops: how a mask is scaled.

    Returns:
        (N, H, W) bool on the device of ``probabilities``.
    """
    if probabilities.device.type != "cpu" and crops is mask_crops:
        return paste_masks_at_once(probabilities, boxes, size, threshold)
    pasted = torch.zeros(len(boxes), *size, dtype=torch.bool, device=probabilities.device)
    for index, (top, left, crop) in enumerate(crops(probabilities, boxes, size, threshold)):
        pasted[index, top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return pasted


def paste_masks_at_once(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """`paste_masks` for a GPU: every pixel of the image for a few masks at a time, without a loop over boxes and without a value
    that is read on the host."""
    cells = probabilities.shape[-1]

    def weights(start: Tensor, end: Tensor, limit: int) -> Tensor:
        cell = (end - start).clamp(min=1e-6) / cells
        pixels = torch.arange(limit, dtype=torch.float32, device=boxes.device)
        position = (pixels + (0.5 - start[:, None])) / cell[:, None] - 0.5
        return (1 - (position[..., None] - torch.arange(cells, device=boxes.device)).abs()).clamp(min=0)

    x1, y1, x2, y2 = boxes.float().unbind(1)
    rows, columns = weights(y1, y2, size[0]), weights(x1, x2, size[1])
    count = max(1, PASTED_AT_ONCE // (size[0] * size[1]))
    parts = []
    for start in range(0, len(boxes), count):
        part = slice(start, start + count)
        inside = (rows[part].amax(dim=2) > 0)[:, :, None] & (columns[part].amax(dim=2) > 0)[:, None]
        parts.append((rows[part] @ probabilities[part].float() @ columns[part].mT >= threshold) & inside)
    return torch.cat(parts) if parts else torch.zeros(0, *size, dtype=torch.bool, device=boxes.device)


def masks_to_rle(
    probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5, crops: Crops = mask_crops
) -> list[dict[str, Any]]:
    """The masks of `paste_masks` as COCO run-length codes, without making whole-image masks.

    Returns one ``{"size": [H, W], "counts": str}`` a mask.
    """
    height, width = size
    codes = []
    for top, left, crop in crops(probabilities.cpu(), boxes.cpu(), size, threshold):
        # COCO counts down the columns: only the columns that the crop touches are laid out.
        columns = np.zeros((crop.shape[1], height), dtype=np.bool_)
        columns[:, top : top + crop.shape[0]] = crop.numpy().T
        changes = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False)) + left * height
        edges = np.concatenate([[0], changes[changes < height * width], [height * width]])
        code = coco_mask.frPyObjects({"size": [height, width], "counts": np.diff(edges).tolist()}, height, width)
        codes.append({"size": [height, width], "counts": code["counts"].decode("ascii")})
    return codes


def _weights(start: float, end: float, limit: int, cells: int) -> tuple[int, Tensor]:
    """The first pixel that a mask over [start, end] reaches on one axis, and (pixels, cells) interpolation weights from there."""
    cell = max(end - start, 1e-6) / cells
    first = min(max(int(np.floor(start - cell / 2)), 0), limit)
    last = min(max(int(np.ceil(end + cell / 2)), first), limit)
    position = (torch.arange(first, last, dtype=torch.float32) + (0.5 - start)) / cell - 0.5
    return first, (1 - (position[:, None] - torch.arange(cells)).abs()).clamp(min=0)
