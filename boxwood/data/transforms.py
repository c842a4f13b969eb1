"""Transforms of samples; each is one class, and users write theirs in the same way.

A transform is at the same time its configuration: a recipe sets its attributes, and calling it applies it. It changes the image and
all boxes and fields together (`Sample.transformed`), makes every random choice with the generator it is given, and returns the
sample.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from boxwood.config import Component
from boxwood.errors import UserError

if TYPE_CHECKING:
    from boxwood.structures import Sample

__all__ = [
    "CopyPaste",
    "DrawingTransform",
    "HorizontalFlip",
    "Mosaic",
    "RandomCrop",
    "ResizeShortestEdge",
    "ScaleJitter",
    "Transform",
    "resized_size",
]


class Transform(Component):
    """Base of every transform."""

    @abstractmethod
    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The changed sample; the one that came in may be changed in place."""


class DrawingTransform(Transform):
    """Base of transforms that combine a sample with other samples of the training set."""

    @abstractmethod
    def mix(self, sample: Sample, rng: np.random.Generator, draw: Callable[[], Sample]) -> Sample:
        """The changed sample. Each ``draw()`` returns a random sample of the data set, after the transforms before this one in the
        list; it may be changed in place."""

    def refusal(self) -> UserError:
        """The error where there are no other samples."""
        return UserError(
            f"the transform {self.kind()} needs other samples, which only training has: remove it from data.val.transforms"
        )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        raise self.refusal()


class ResizeShortestEdge(Transform):
    """Scale the image so that its shorter side has one of the lengths ``short``, unless its longer side would exceed ``long``."""

    short_kind: ClassVar[str] = "resize_shortest_edge"

    short: tuple[int, ...] = Field((800,), min_length=1)
    """Pixels; one is drawn for each sample, so several make scale jitter."""
    long: int = Field(1333, ge=1)
    """Pixels."""
    antialias: bool = True
    """Average over all covered pixels when shrinking. False resizes as OpenCV and so Detectron did: only the four nearest pixels
    are read, and the factor for the image, boxes and fields is the exact one, not that of the rounded size."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        short = self.short[int(rng.integers(len(self.short)))] if len(self.short) > 1 else self.short[0]
        scale = None if self.antialias else _scale(sample.size, short, self.long)
        return sample.resized(resized_size(sample.size, short, self.long), antialias=self.antialias, scale=scale)


class HorizontalFlip(Transform):
    """Mirror the sample left to right with probability ``p``; keypoints swap sides by the data set's flip map."""

    short_kind: ClassVar[str] = "horizontal_flip"

    p: float = Field(0.5, ge=0, le=1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return sample.flipped() if rng.random() < self.p else sample


class RandomCrop(Transform):
    """Crop a random window; a side of the image that is shorter than the window stays as it is."""

    short_kind: ClassVar[str] = "random_crop"

    sides: tuple[float, float] = (0.5, 1.0)
    """The range of the window's height and width, which are drawn independently and uniformly."""
    unit: Literal["fraction", "pixels"] = "fraction"
    """The unit of ``sides``: fractions of the image's height and width, or pixels."""
    min_area: float = Field(0.1, ge=0, lt=1)
    """Instances that keep at most this fraction of the area of their box are dropped."""

    @model_validator(mode="after")
    def _check_sides(self) -> RandomCrop:
        if not 0 < self.sides[0] <= self.sides[1] or (self.unit == "fraction" and self.sides[1] > 1):
            raise ValueError("sides should be two positive numbers, the smaller first; fractions are at most 1")
        return self

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        lengths = [
            side * (length if self.unit == "fraction" else 1) for side, length in zip(rng.uniform(*self.sides, 2), sample.size)
        ]
        height, width = (min(max(1, round(side)), length) for side, length in zip(lengths, sample.size, strict=True))
        top, left = (int(rng.integers(length - side + 1)) for length, side in zip(sample.size, (height, width), strict=True))
        return sample.cropped(top, left, (height, width), self.min_area)


class ScaleJitter(Transform):
    """Scale the image by a random factor, then crop or pad it to a fixed size: large-scale jitter (Ghiasi et al., arXiv 2012.07177,
    where 0.1 to 2.0 is the large and 0.8 to 1.25 the standard range)."""

    short_kind: ClassVar[str] = "scale_jitter"

    size: tuple[int, int] = (1024, 1024)
    """Height and width of the result."""
    scale: tuple[float, float] = (0.1, 2.0)
    """The range of the factor; with 1.0 the image just fits into ``size``."""
    fill: tuple[int, int, int] = (124, 116, 104)
    """The colour of the padding, which is at the bottom and the right; the default is ImageNet's mean."""
    min_area: float = Field(0.0, ge=0, lt=1)
    """Instances that keep at most this fraction of the area of their box are dropped."""

    @model_validator(mode="after")
    def _check_scale(self) -> ScaleJitter:
        if not 0 < self.scale[0] <= self.scale[1] or min(self.size) < 1:
            raise ValueError("scale should be two positive numbers, the smaller first, and size be positive")
        return self

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        fit = min(side / length for side, length in zip(self.size, sample.size, strict=True))
        factor = fit * rng.uniform(*self.scale)
        height, width = (max(1, round(length * factor)) for length in sample.size)
        sample = sample.resized((height, width))
        spare = (max(0, height - self.size[0]), max(0, width - self.size[1]))
        top, left = (int(rng.integers(pixels + 1)) for pixels in spare)
        return sample.cropped(top, left, self.size, self.min_area, self.fill)


class CopyPaste(DrawingTransform):
    """Paste a random subset of another sample's instances onto the image (Ghiasi et al., arXiv 2012.07177).

    Both samples have gone through the transforms before this one, usually `ScaleJitter` and `HorizontalFlip`. The data set needs
    masks: covered pixels are removed from the masks of the image's instances, boxes are updated, and instances that are covered
    completely are dropped. Crowd regions and instances without a mask are not pasted.
    """

    short_kind: ClassVar[str] = "copy_paste"

    p: float = Field(1.0, ge=0, le=1)
    """The probability of applying it."""
    min_area: float = Field(0.0, ge=0, lt=1)
    """Instances that keep at most this fraction of the area of their box are dropped."""

    def mix(self, sample: Sample, rng: np.random.Generator, draw: Callable[[], Sample]) -> Sample:
        import torch

        from boxwood.fields import Segmentations

        if rng.random() >= self.p:
            return sample
        other = draw()
        if other.size != sample.size:
            other = other.cropped(0, 0, sample.size)
        masks = other.fields.get("masks")
        if not isinstance(masks, Segmentations):
            raise UserError(f"data.train.transforms: {self.kind()} needs masks, and {other.file_name} has none; remove it")
        has_mask = torch.tensor([item.extent() is not None for item in masks.items], dtype=torch.bool)
        pasted = other.select(~other.crowd & has_mask & torch.from_numpy(rng.random(len(other.boxes)) < 0.5))
        paint = pasted.fields["masks"].pixels(sample.size)  # type: ignore[attr-defined]  # of the same class
        image = torch.where(paint, other.image, sample.image)
        return sample.covered(paint, image, self.min_area).joined(pasted)


class Mosaic(DrawingTransform):
    """Four samples in one picture, around a random centre (Bochkovskiy et al., arXiv 2004.10934): the sample and three others.

    Each image is placed in its quarter with one corner at the centre, cropped or padded to the quarter, and not scaled:
    `ResizeShortestEdge` usually comes before this. Proposals are those of the first sample alone.
    """

    short_kind: ClassVar[str] = "mosaic"

    size: tuple[int, int] = (640, 640)
    """Height and width of the mosaic, 4 pixels at least."""
    p: float = Field(1.0, ge=0, le=1)
    """The probability of applying it."""
    fill: tuple[int, int, int] = (124, 116, 104)
    """The colour where there is no image."""
    min_area: float = Field(0.1, ge=0, lt=1)
    """Instances that keep at most this fraction of the area of their box are dropped."""

    @model_validator(mode="after")
    def _check_size(self) -> Mosaic:
        if min(self.size) < 4:
            raise ValueError("size should be at least 4, 4")
        return self

    def mix(self, sample: Sample, rng: np.random.Generator, draw: Callable[[], Sample]) -> Sample:
        import torch

        from boxwood.fields import Affine
        from boxwood.structures import Sample

        if rng.random() >= self.p:
            return sample
        y, x = (int(side * rng.uniform(0.25, 0.75)) for side in self.size)
        canvas = torch.empty(3, *self.size, dtype=torch.uint8)
        tiles: list[Sample] = []
        for top, bottom in ((0, y), (y, self.size[0])):
            for left, right in ((0, x), (x, self.size[1])):
                tile = draw() if tiles else sample
                size = (bottom - top, right - left)
                # The corner at the centre: the lower right one of the upper left image, and so on.
                corner = (0 if top else tile.size[0] - size[0], 0 if left else tile.size[1] - size[1])
                tile = tile.cropped(*corner, size, self.min_area, self.fill)
                canvas[:, top:bottom, left:right] = tile.image
                tiles.append(tile.transformed(Affine.crop(-top, -left, self.size), canvas))
        return reduce(Sample.joined, tiles)


def resized_size(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """(height, width) whose shorter side is ``short`` or whose longer side is ``long``, whichever is smaller; whole pixels.

    >>> resized_size((480, 640), 800, 1333)
    (800, 1067)
    >>> resized_size((300, 900), 800, 1333)
    (444, 1333)
    """
    scale = _scale(size, short, long)
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def _scale(size: tuple[int, int], short: int, long: int) -> float:
    """The factor of `resized_size`, whose result is rounded."""
    return min(short / min(size), long / max(size))
