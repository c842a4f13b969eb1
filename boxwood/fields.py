"""Fields: the data of an image or its instances besides boxes and labels (masks, keypoints, proposals, and fields of users).

A field has one name through the whole pipeline: reader -> `Sample.fields` -> transforms -> `Target.fields` -> model. Its class
defines how its values change when the image is scaled, shifted or mirrored, how instances are selected, and what a network is
trained on; the transforms and the loader know no field by name. A new field is a small class, which may be in a user's file::

    @dataclass
    class Directions(TensorField):  # values (N, 2) float32: the unit vector (x, y) in which each instance faces
        def transformed(self, affine: Affine) -> Self:
            return self.with_tensors((self.values * torch.tensor([-1.0 if affine.scale_x < 0 else 1.0, 1.0]),))

Letters in shapes: N instances of an image, P boxes that belong to no instance, K keypoints of an instance, S x S' pixels of a mask.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from boxwood.ops.boxes import clip
from boxwood.ops.masks import Crops, mask_crops, masks_to_rle, rasterize_polygons, resize_bitmap

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "MASK_SIZE",
    "Affine",
    "Bitmap",
    "Boxes",
    "DetectedKeypoints",
    "Field",
    "ImageField",
    "InstanceField",
    "InstanceMasks",
    "Keypoints",
    "MaskProbabilities",
    "Polygons",
    "Segmentations",
    "TensorField",
    "field_of",
]

MASK_SIZE = 112
"""Side of the grid on which an instance's mask is stored for training: four times the resolution of the finest mask head."""

F = TypeVar("F", bound="Field")

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Points = np.ndarray[Any, np.dtype[np.float32]]
"""(n, 2) x, y."""
Box = tuple[float, float, float, float]
"""xyxy."""
Window = tuple[int, int, int, int]
"""A rectangle of whole pixels: left, top, right, bottom."""


# --------------------------------------------------------------------------------------------------------- affine maps


@dataclass(frozen=True)
class Affine:
    """A map of image coordinates, axis by axis: x' = scale_x * x + shift_x, y' = scale_y * y + shift_y.

    >>> flip = Affine.flip((30, 50))
    >>> flip.boxes(torch.tensor([[10.0, 5, 20, 15]])).tolist()
    [[30.0, 5.0, 40.0, 15.0]]
    """

    scale_x: float
    shift_x: float
    scale_y: float
    shift_y: float
    size: tuple[int, int]
    """(height, width) of the image after the map."""

    @classmethod
    def resize(cls, old: tuple[int, int], new: tuple[int, int]) -> Affine:
        """An image of (height, width) ``old`` scaled to ``new``."""
        return cls(new[1] / old[1], 0.0, new[0] / old[0], 0.0, new)

    @classmethod
    def flip(cls, size: tuple[int, int]) -> Affine:
        """An image of (height, width) ``size`` mirrored left to right."""
        return cls(-1.0, float(size[1]), 1.0, 0.0, size)

    @classmethod
    def crop(cls, top: float, left: float, size: tuple[int, int]) -> Affine:
        """The window of (height, width) ``size`` whose corner is at (``left``, ``top``); it may reach beyond the image."""
        return cls(1.0, -float(left), 1.0, -float(top), size)

    @property
    def mirrors(self) -> bool:
        """Whether the result is a mirror image; a rotation by 180 degrees is none."""
        return self.scale_x * self.scale_y < 0

    def points(self, points: Tensor) -> Tensor:
        """(..., 2) x, y after the map."""
        scale = torch.tensor([self.scale_x, self.scale_y], device=points.device)
        return points * scale + torch.tensor([self.shift_x, self.shift_y], device=points.device)

    def boxes(self, boxes: Tensor) -> Tensor:
        """(N, 4) xyxy after the map, with x1 <= x2 and y1 <= y2 also where it mirrors."""
        moved = self.points(boxes.reshape(-1, 2, 2)).flatten(1)
        x1, x2 = (2, 0) if self.scale_x < 0 else (0, 2)
        y1, y2 = (3, 1) if self.scale_y < 0 else (1, 3)
        return moved if (x1, y1) == (0, 1) else moved[:, [x1, y1, x2, y2]]

    def box(self, box: Box) -> Box:
        """One box of numbers (xyxy), computed in double precision."""
        x1, x2 = sorted((box[0] * self.scale_x + self.shift_x, box[2] * self.scale_x + self.shift_x))
        y1, y2 = sorted((box[1] * self.scale_y + self.shift_y, box[3] * self.scale_y + self.shift_y))
        return x1, y1, x2, y2


# ------------------------------------------------------------------------------------------------------- kinds of fields


class Field(ABC):
    """Base of `InstanceField` and `ImageField`.

    For a dataclass, the methods here handle every attribute that is a tensor; the other attributes are copied unchanged.
    """

    @abstractmethod
    def transformed(self, affine: Affine) -> Self:
        """The values after the image was scaled, shifted or mirrored by ``affine``."""

    def clipped(self, size: tuple[int, int]) -> Self:
        """The values after the image was clipped to (height, width) ``size``; unchanged by default."""
        return self

    def tensors(self) -> tuple[Tensor, ...]:
        """Every attribute that is a tensor, in order."""
        return tuple(value for value in self._attributes().values() if isinstance(value, Tensor))

    def with_tensors(self, tensors: Sequence[Tensor]) -> Self:
        """A copy with other tensors in place of those of `tensors`."""
        names = [name for name, value in self._attributes().items() if isinstance(value, Tensor)]
        return dataclasses.replace(self, **dict(zip(names, tensors, strict=True)))  # type: ignore[type-var]

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Self:
        """A copy whose tensors are on ``device``."""
        return self.with_tensors([tensor.to(device, non_blocking=non_blocking) for tensor in self.tensors()])

    def _attributes(self) -> dict[str, Any]:
        names: dict[str, Any] | None = getattr(self, "__dataclass_fields__", None)
        if names is None:
            raise TypeError(f"{type(self).__name__} is no dataclass: make it one, or define its tensors() and with_tensors()")
        return {name: getattr(self, name) for name in names}


class InstanceField(Field):
    """Values of the N instances of an image, one row each: by default, row i of every tensor belongs to instance i."""

    def __len__(self) -> int:
        return len(self.tensors()[0])

    def __getitem__(self, index: Tensor) -> Self:
        """The selected instances; ``index`` is int64 or bool."""
        return self.with_tensors([tensor[index] for tensor in self.tensors()])

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """The concatenation of one or more fields of this class."""
        return parts[0].with_tensors([torch.cat(columns) for columns in zip(*(part.tensors() for part in parts), strict=True)])

    def records(self, boxes: Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
        """The entries of this field in the COCO records of detections, one dictionary per instance; none by default. ``boxes``
        (N, 4) are those of the detections, in an image of (height, width) ``size``."""
        return [{} for _ in range(len(self))]

    def draw(self, picture: Image.Image, row: int, box: Sequence[float], color: tuple[int, int, int], line: int) -> None:
        """Draw instance ``row`` onto a picture of the original image, above its box (xyxy) and below the names; nothing by default.
        ``line`` is the width of a line in pixels."""

    def covered(self, pixels: Tensor) -> Self:
        """The values after something was painted over ``pixels`` (H, W) bool of the image; unchanged by default."""
        return self

    def extents(self, boxes: Tensor) -> Tensor:
        """(N, 4) xyxy: the bounding box of each instance by these values, if they have one; else ``boxes``, the current ones."""
        return boxes

    def for_training(self, boxes: Tensor) -> InstanceField:
        """The field as a network is trained on it. The loader calls this once for each image, with the instances' boxes (N, 4)."""
        return self


class ImageField(Field):
    """Data of an image as a whole."""


@dataclass
class TensorField(InstanceField):
    """A tensor with one row for each instance, unchanged by transforms (a score, a weight); subclasses override `transformed`."""

    values: Tensor
    """(N, ...)."""

    def transformed(self, affine: Affine) -> Self:
        return self


def field_of(fields: Mapping[str, Field], name: str, kind: type[F]) -> F | None:
    """The field of that name, or None where there is none. Raises TypeError where it is not of the class ``kind``."""
    field = fields.get(name)
    if field is not None and not isinstance(field, kind):
        raise TypeError(f"the field {name!r} is of {type(field).__name__}, not {kind.__name__}")
    return field


# -------------------------------------------------------------------------------------------------------- built-in fields


@dataclass
class Keypoints(TensorField):
    """``values`` (N, K, 3) float32: x, y in pixels of the image, visibility 0 (not labelled), 1 (hidden), 2 (visible)."""

    flip: tuple[int, ...] = ()
    """`boxwood.structures.KeypointFacts.flip` of the data set: which keypoints swap in a mirror image; empty: none."""

    def transformed(self, affine: Affine) -> Self:
        values = self.values[:, list(self.flip)] if affine.mirrors and self.flip else self.values
        labelled = values[..., 2:] > 0  # Those that are not labelled stay at (0, 0).
        points = torch.where(labelled, affine.points(values[..., :2]), values[..., :2])
        return self.with_tensors([torch.cat([points, values[..., 2:]], dim=-1)])

    def clipped(self, size: tuple[int, int]) -> Self:
        """Keypoints outside the image become (0, 0, 0): not labelled."""
        points = self.values[..., :2]
        inside = ((points >= 0) & (points <= torch.tensor([size[1], size[0]]))).all(dim=-1, keepdim=True)
        return self.with_tensors([torch.where(inside, self.values, torch.zeros_like(self.values))])

    def covered(self, pixels: Tensor) -> Self:
        """Visible keypoints under the paint become hidden."""
        height, width = pixels.shape
        columns, rows, visibility = self.values.unbind(-1)
        painted = pixels[rows.long().clamp(0, height - 1), columns.long().clamp(0, width - 1)]
        return self.with_tensors([torch.stack([columns, rows, torch.where(painted, visibility.clamp(max=1), visibility)], dim=-1)])


@dataclass(slots=True)
class Polygons:
    """An instance's outline: parts of (n, 2) float32 points x, y, n >= 3, in the frame of the image.

    No parts: the instance has no mask.
    """

    parts: list[Points]

    def extent(self) -> Box | None:
        """xyxy around all parts; None where that has no area."""
        if not self.parts:
            return None
        points = np.concatenate(self.parts)
        (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None

    def grid(self, size: int) -> Pixels:
        """(size, size) uint8 of 0 and 1 over the `extent`, which is not None."""
        extent = self.extent()
        assert extent is not None
        return rasterize_polygons(self.parts, extent, size)

    def pixels(self, window: Window) -> Pixels:
        """uint8 of 0 and 1: the pixels of the image in a window that the instance covers."""
        left, top, right, bottom = window
        return rasterize_polygons(self.parts, (left, top, right, bottom), (bottom - top, right - left))

    def transformed(self, affine: Affine) -> Polygons:
        """Every point mapped."""
        scale = np.array([affine.scale_x, affine.scale_y], dtype=np.float32)
        shift = np.array([affine.shift_x, affine.shift_y], dtype=np.float32)
        return Polygons([part * scale + shift for part in self.parts])

    def clipped(self, size: tuple[int, int]) -> Polygons | Bitmap:
        """The part inside an image of (height, width) ``size``."""
        if not self.parts:
            return self
        parts = self.parts
        for axis, limit in ((0, size[1]), (1, size[0])):
            parts = [_cut(_cut(part, axis, 0.0, 1), axis, limit, -1) for part in parts]
        parts = [part for part in parts if len(part) >= 3]
        return Polygons(parts) if parts else NOTHING


@dataclass(slots=True)
class Bitmap:
    """An instance's mask as pixels: ``values`` (h, w) uint8 of 0 and 1 covers the rectangle ``box`` (xyxy) of the image.

    Scaling the image scales only ``box``: the pixels stay as they were annotated.
    """

    values: Pixels
    box: Box

    def extent(self) -> Box | None:
        """The rectangle ``box``; None where that has no area."""
        x1, y1, x2, y2 = self.box
        return self.box if x2 > x1 and y2 > y1 else None

    def grid(self, size: int) -> Pixels:
        """(size, size) uint8 of 0 and 1 over the `extent`."""
        return resize_bitmap(self.values, size)

    def pixels(self, window: Window) -> Pixels:
        """uint8 of 0 and 1: the pixels of the image in a window whose centres lie on a pixel of value 1."""
        left, top, right, bottom = window
        x1, y1, x2, y2 = self.box
        height, width = self.values.shape
        rows = np.floor((np.arange(top, bottom) + 0.5 - y1) * height / max(y2 - y1, 1e-6)).astype(np.int64)
        columns = np.floor((np.arange(left, right) + 0.5 - x1) * width / max(x2 - x1, 1e-6)).astype(np.int64)
        padded = np.pad(self.values, 1)
        inside: Pixels = padded[np.clip(rows + 1, 0, height + 1)[:, None], np.clip(columns + 1, 0, width + 1)[None, :]]
        return inside

    def transformed(self, affine: Affine) -> Bitmap:
        """The rectangle mapped, the pixels mirrored with it."""
        values = self.values[:: -1 if affine.scale_y < 0 else 1, :: -1 if affine.scale_x < 0 else 1]
        return Bitmap(np.ascontiguousarray(values), affine.box(self.box))

    def clipped(self, size: tuple[int, int]) -> Bitmap:
        """The part inside an image of (height, width) ``size``; a pixel of ``values`` that is partly inside stays."""
        x1, y1, x2, y2 = self.box
        if x1 >= 0 and y1 >= 0 and x2 <= size[1] and y2 <= size[0]:
            return self
        (height, width), (y_step, x_step) = self.values.shape, self._steps()
        first = max(0, math.floor(-y1 / y_step)), max(0, math.floor(-x1 / x_step))
        last = min(height, math.ceil((size[0] - y1) / y_step)), min(width, math.ceil((size[1] - x1) / x_step))
        return self.part(first, last)

    def trimmed(self) -> Bitmap:
        """The smallest part that has all pixels of value 1."""
        rows, columns = np.flatnonzero(self.values.any(axis=1)), np.flatnonzero(self.values.any(axis=0))
        if not len(rows):
            return NOTHING
        return self.part((int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1))

    def part(self, first: tuple[int, int], last: tuple[int, int]) -> Bitmap:
        """The rows and columns of ``values`` from ``first`` up to, not including, ``last``."""
        if first[0] >= last[0] or first[1] >= last[1]:
            return NOTHING
        (y1, x1), (y_step, x_step) = (self.box[1], self.box[0]), self._steps()
        box = (x1 + first[1] * x_step, y1 + first[0] * y_step, x1 + last[1] * x_step, y1 + last[0] * y_step)
        return Bitmap(np.ascontiguousarray(self.values[first[0] : last[0], first[1] : last[1]]), box)

    def _steps(self) -> tuple[float, float]:
        """Height and width of one pixel of ``values`` in the image."""
        height, width = self.values.shape
        return max(self.box[3] - self.box[1], 1e-6) / height, max(self.box[2] - self.box[0], 1e-6) / width


NOTHING = Bitmap(np.zeros((1, 1), dtype=np.uint8), (0.0, 0.0, 0.0, 0.0))
"""The mask of an instance that has no pixel left in the image."""


def _cut(points: Points, axis: int, limit: float, sign: int) -> Points:
    """The part of a polygon where ``sign * (x - limit) >= 0``, with x the coordinate ``axis`` (Sutherland and Hodgman, 1974)."""
    distance = sign * (points[:, axis] - np.float32(limit))
    inside = distance >= 0
    if inside.all():
        return points
    following, beyond = np.roll(points, -1, axis=0), np.roll(distance, -1)
    crosses = inside != (beyond >= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = points + (distance / (distance - beyond))[:, None] * (following - points)
    crossings[:, axis] = limit
    outline: Points = np.stack([points, crossings], axis=1).reshape(-1, 2)[np.stack([inside, crosses], axis=1).ravel()]
    return outline


@dataclass
class Segmentations(InstanceField):
    """The annotated mask of each instance."""

    items: list[Polygons | Bitmap]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Tensor) -> Self:
        rows = torch.arange(len(self))[index].tolist()
        return dataclasses.replace(self, items=[self.items[row] for row in rows])

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        return dataclasses.replace(parts[0], items=[item for part in parts for item in part.items])

    def transformed(self, affine: Affine) -> Self:
        return dataclasses.replace(self, items=[item.transformed(affine) for item in self.items])

    def clipped(self, size: tuple[int, int]) -> Self:
        return dataclasses.replace(self, items=[item.clipped(size) for item in self.items])

    def pixels(self, size: tuple[int, int]) -> Tensor:
        """(H, W) bool: the pixels of an image of ``size`` that any of the instances covers."""
        covered = np.zeros(size, dtype=np.uint8)
        for item in self.items:
            left, top, right, bottom = window = _window(item.extent(), size)
            if left < right and top < bottom:
                covered[top:bottom, left:right] |= item.pixels(window)
        return torch.from_numpy(covered > 0)

    def covered(self, pixels: Tensor) -> Self:
        """Masks without the pixels under the paint; a mask that meets no paint is returned as it is."""
        paint, items = pixels.numpy(), list(self.items)
        for index, item in enumerate(self.items):
            left, top, right, bottom = window = _window(item.extent(), paint.shape)
            if paint[top:bottom, left:right].any():
                values = item.pixels(window) * ~paint[top:bottom, left:right]
                items[index] = Bitmap(values, (float(left), float(top), float(right), float(bottom))).trimmed()
        return dataclasses.replace(self, items=items)

    def extents(self, boxes: Tensor) -> Tensor:
        extents = boxes.clone()
        for index, item in enumerate(self.items):
            extent = item.trimmed().box if isinstance(item, Bitmap) else item.extent()
            if extent is not None:  # an instance without a mask keeps its box
                extents[index] = torch.tensor(extent)
        return extents

    def for_training(self, boxes: Tensor) -> InstanceMasks:
        """Each mask on a grid of `MASK_SIZE` over its bounding box. An instance without a mask, or whose mask has no area, gets
        zeros over its box: the mask loss leaves it out."""
        bitmaps = np.zeros((len(self), MASK_SIZE, MASK_SIZE), dtype=np.uint8)
        extents = boxes.clone()
        for index, item in enumerate(self.items):
            extent = item.extent()
            if extent is not None:
                bitmaps[index] = item.grid(MASK_SIZE)
                extents[index] = torch.tensor(extent)
        return InstanceMasks(torch.from_numpy(bitmaps), extents)


def _window(extent: Box | None, size: tuple[int, ...]) -> Window:
    """The pixels of an image of (height, width) ``size`` that a rectangle touches, none for None."""
    x1, y1, x2, y2 = (0, 0, 0, 0) if extent is None else extent
    left, top = (min(max(math.floor(start), 0), side) for start, side in ((x1, size[1]), (y1, size[0])))
    return left, top, max(left, min(math.ceil(x2), size[1])), max(top, min(math.ceil(y2), size[0]))


@dataclass
class InstanceMasks(InstanceField):
    """Masks of N instances, each stored over a rectangle of the image, so that resizing and shifting change only the rectangles."""

    bitmaps: Tensor
    """(N, S, S') uint8 of 0 and 1; bitmap i covers the rectangle ``boxes[i]``."""
    boxes: Tensor
    """(N, 4) float32 xyxy, pixels of the image."""

    def transformed(self, affine: Affine) -> Self:
        mirrored = [axis for axis, scale in ((1, affine.scale_y), (2, affine.scale_x)) if scale < 0]
        return self.with_tensors([self.bitmaps.flip(mirrored), affine.boxes(self.boxes)])


@dataclass
class Boxes(ImageField):
    """Boxes that belong to no instance, such as proposals: ``values`` (P, 4) float32 xyxy, pixels of the image."""

    values: Tensor

    def transformed(self, affine: Affine) -> Self:
        return self.with_tensors([affine.boxes(self.values)])

    def clipped(self, size: tuple[int, int]) -> Self:
        """Boxes clipped to the image; those without area in it are left out."""
        boxes = clip(self.values, torch.tensor(size))
        return self.with_tensors([boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]])


# -------------------------------------------------------------------------------------------------- fields of detections


@dataclass
class MaskProbabilities(InstanceField):
    """Predicted masks of N detections."""

    probabilities: Tensor
    """(N, M, M) float32, 0..1: the mask over the detection's box."""
    threshold: float = 0.5
    """A pixel belongs to the mask where its probability is at least this."""
    crops: Crops = mask_crops
    """How masks are scaled to their boxes."""

    def transformed(self, affine: Affine) -> Self:
        mirrored = [axis for axis, scale in ((1, affine.scale_y), (2, affine.scale_x)) if scale < 0]
        return self.with_tensors([self.probabilities.flip(mirrored)])

    def records(self, boxes: Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
        """``segmentation``, run lengths."""
        codes = masks_to_rle(self.probabilities, boxes, size, self.threshold, self.crops)
        return [{"segmentation": code} for code in codes]


@dataclass
class DetectedKeypoints(TensorField):
    """``values`` (N, K, 3) float32: x, y in pixels of the image, score."""

    skeleton: tuple[tuple[int, int], ...] = ()
    """Pairs of keypoints that are linked where they are drawn."""

    def transformed(self, affine: Affine) -> Self:
        return self.with_tensors([torch.cat([affine.points(self.values[..., :2]), self.values[..., 2:]], dim=-1)])

    def records(self, boxes: Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
        """``keypoints``: x, y as indices of pixels, as COCO has them, and the score."""
        return [{"keypoints": [v for x, y, score in row for v in (x - 0.5, y - 0.5, score)]} for row in self.values.tolist()]
