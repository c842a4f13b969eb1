"""Fields: what an image or its instances have besides boxes and labels (masks, keypoints, proposals, your own).

A field has one name through the whole pipeline: reader -> `Sample.fields` -> transforms -> `Target.fields` -> model. Its class
defines how its values change when the image is scaled, shifted or mirrored, how instances are selected, and what a network is
trained on; the transforms and the loader know no field by name. A field of your own is a small class in a file of your own::

    @dataclass
    class Directions(TensorField):  # values (N, 2) float32: the unit vector (x, y) in which each instance faces
        def transformed(self, affine: Affine) -> Self:
            return self.with_tensors((self.values * torch.tensor([-1.0 if affine.scale_x < 0 else 1.0, 1.0]),))

Letters in shapes: N instances of an image, P boxes that belong to no instance, K keypoints of an instance, S x S' pixels of a mask.
"""

from __future__ import annotations

import dataclasses
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


# ------------------------------------------------------------------------------------------------------- where pixels go


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
        """Whether left and right change places, as in a mirror; a rotation by 180 degrees does not do that."""
        return self.scale_x * self.scale_y < 0

    def points(self, points: Tensor) -> Tensor:
        """(..., 2) x, y after the map."""
        return points * torch.tensor([self.scale_x, self.scale_y]) + torch.tensor([self.shift_x, self.shift_y])

    def boxes(self, boxes: Tensor) -> Tensor:
        """(N, 4) xyxy after the map, with x1 <= x2 and y1 <= y2 also where it mirrors."""
        scale, shift = [self.scale_x, self.scale_y] * 2, [self.shift_x, self.shift_y] * 2
        moved = boxes * torch.tensor(scale) + torch.tensor(shift)
        x1, x2 = (2, 0) if self.scale_x < 0 else (0, 2)
        y1, y2 = (3, 1) if self.scale_y < 0 else (1, 3)
        return moved if (x1, y1) == (0, 1) else moved[:, [x1, y1, x2, y2]]

    def box(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """One box of numbers (xyxy), computed in double precision."""
        x1, x2 = sorted((box[0] * self.scale_x + self.shift_x, box[2] * self.scale_x + self.shift_x))
        y1, y2 = sorted((box[1] * self.scale_y + self.shift_y, box[3] * self.scale_y + self.shift_y))
        return x1, y1, x2, y2


# ------------------------------------------------------------------------------------------------------- kinds of fields


class Field(ABC):
    """Base of `InstanceField` and `ImageField`, which a class of your own derives from.

    A field that is a dataclass has its tensors moved and pinned by the methods here; its other attributes stay.
    """

    @abstractmethod
    def transformed(self, affine: Affine) -> Self:
        """The values after the image was mapped by ``affine`` (scaled, shifted, mirrored)."""

    def clipped(self, size: tuple[int, int]) -> Self:
        """The values after the image was cut to (height, width) ``size``; unchanged by default."""
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
        """The chosen instances; ``index`` is int64 or bool."""
        return self.with_tensors([tensor[index] for tensor in self.tensors()])

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """The instances of several fields of this class, at least one, in one."""
        return parts[0].with_tensors([torch.cat(columns) for columns in zip(*(part.tensors() for part in parts), strict=True)])

    def records(self, boxes: Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
        """What a detection's record in COCO's format has of this field, one dictionary an instance; nothing by default. ``boxes``
        (N, 4) are those of the detections, in an image of (height, width) ``size``."""
        return [{} for _ in range(len(self))]

    def draw(self, picture: Image.Image, row: int, box: Sequence[float], color: tuple[int, int, int], line: int) -> None:
        """Draw instance ``row`` onto a picture of the original image, above its box (xyxy) and below the names; nothing by default.
        ``line`` is the width of a line in pixels."""

    def for_training(self, boxes: Tensor) -> InstanceField:
        """What a network is trained on, made once for each image by the loader; ``boxes`` (N, 4) are those of the instances."""
        return self


class ImageField(Field):
    """Something that belongs to an image as a whole."""


@dataclass
class TensorField(InstanceField):
    """A tensor with one row for each instance, which no transform changes (a score, a weight); the base of those that one does."""

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
        """Keypoints outside the image are not labelled any more."""
        points = self.values[..., :2]
        inside = ((points >= 0) & (points <= torch.tensor([size[1], size[0]]))).all(dim=-1, keepdim=True)
        return self.with_tensors([torch.where(inside, self.values, torch.zeros_like(self.values))])


@dataclass(slots=True)
class Polygons:
    """An instance's outline: parts of (n, 2) float32 points x, y, n >= 3, in the frame of the image."""

    parts: list[np.ndarray[Any, np.dtype[np.float32]]]

    def transformed(self, affine: Affine) -> Polygons:
        """Every point mapped."""
        scale = np.array([affine.scale_x, affine.scale_y], dtype=np.float32)
        shift = np.array([affine.shift_x, affine.shift_y], dtype=np.float32)
        return Polygons([part * scale + shift for part in self.parts])

    def extent(self) -> tuple[float, float, float, float] | None:
        """xyxy around all parts; None where that has no area."""
        if not self.parts:
            return None
        points = np.concatenate(self.parts)
        (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None

    def grid(self, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """(size, size) uint8 of 0 and 1 over the `extent`."""
        extent = self.extent()
        assert extent is not None
        return rasterize_polygons(self.parts, extent, size)


@dataclass(slots=True)
class Bitmap:
    """An instance's mask as pixels: ``values`` (h, w) uint8 of 0 and 1 covers the rectangle ``box`` (xyxy) of the image.

    Scaling the image scales only ``box``: the pixels stay as they were annotated.
    """

    values: np.ndarray[Any, np.dtype[np.uint8]]
    box: tuple[float, float, float, float]

    def transformed(self, affine: Affine) -> Bitmap:
        """The rectangle mapped, the pixels mirrored with it."""
        values = self.values[:: -1 if affine.scale_y < 0 else 1, :: -1 if affine.scale_x < 0 else 1]
        return Bitmap(np.ascontiguousarray(values), affine.box(self.box))

    def extent(self) -> tuple[float, float, float, float] | None:
        """The rectangle ``box``."""
        return self.box

    def grid(self, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """(size, size) uint8 of 0 and 1 over the `extent`."""
        return resize_bitmap(self.values, size)


@dataclass
class Segmentations(InstanceField):
    """Each instance's mask as it was annotated."""

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

    def for_training(self, boxes: Tensor) -> InstanceMasks:
        """The masks on a grid over their own extent. An instance that has no mask, or one without area, gets zeros over its box:
        it is left out of the mask loss."""
        bitmaps = np.zeros((len(self), MASK_SIZE, MASK_SIZE), dtype=np.uint8)
        extents = boxes.clone()
        for index, item in enumerate(self.items):
            extent = item.extent()
            if extent is not None:
                bitmaps[index] = item.grid(MASK_SIZE)
                extents[index] = torch.tensor(extent)
        return InstanceMasks(torch.from_numpy(bitmaps), extents)


@dataclass
class InstanceMasks(InstanceField):
    """Masks of N instances, each stored over its own rectangle, so that resizing and moving cost nothing."""

    bitmaps: Tensor
    """(N, S, S') uint8 of 0 and 1; bitmap i covers the rectangle ``boxes[i]``."""
    boxes: Tensor
    """(N, 4) float32 xyxy, pixels of the image."""

    def transformed(self, affine: Affine) -> Self:
        mirrored = [axis for axis, scale in ((1, affine.scale_y), (2, affine.scale_x)) if scale < 0]
        return self.with_tensors([self.bitmaps.flip(mirrored), affine.boxes(self.boxes)])


@dataclass
class Boxes(ImageField):
    """Boxes of an image that belong to no instance, such as proposals: ``values`` (P, 4) float32 xyxy, pixels of the image."""

    values: Tensor

    def transformed(self, affine: Affine) -> Self:
        return self.with_tensors([affine.boxes(self.values)])

    def clipped(self, size: tuple[int, int]) -> Self:
        """Boxes cut to the image; those that have no area in it are left out."""
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
