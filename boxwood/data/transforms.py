"""Transforms of samples: each is one class, and so is a user's own.

A transform is its own configuration: its attributes are what a recipe sets, its call is what happens. It changes the image and
everything that belongs to it together (`Sample.transformed`), draws every random choice from the generator it is given, and
returns the sample.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch.nn.functional import interpolate

from boxwood.config import Component
from boxwood.fields import Affine
from boxwood.structures import Sample

__all__ = ["HorizontalFlip", "ResizeShortestEdge", "Transform", "resized", "resized_size"]


class Transform(Component):
    """Base of every transform."""

    @abstractmethod
    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The changed sample; the one that came in may be changed in place."""


class ResizeShortestEdge(Transform):
    """Scale the image so that its shorter side has one of the lengths ``short``, unless its longer side would exceed ``long``."""

    short_kind: ClassVar[str] = "resize_shortest_edge"

    short: tuple[int, ...] = Field((800,), min_length=1)
    """Pixels; one is drawn for each sample, so several make scale jitter."""
    long: int = Field(1333, ge=1)
    """Pixels."""
    antialias: bool = True
    """Average over what lies between when shrinking; False reads the four nearest pixels alone, as OpenCV and so Detectron did."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        short = self.short[int(rng.integers(len(self.short)))] if len(self.short) > 1 else self.short[0]
        return resized(sample, resized_size(sample.size, short, self.long), antialias=self.antialias)


class HorizontalFlip(Transform):
    """Mirror the sample left to right with probability ``p``; keypoints swap sides by the data set's flip map."""

    short_kind: ClassVar[str] = "horizontal_flip"

    p: float = Field(0.5, ge=0, le=1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.p:
            return sample
        return sample.transformed(Affine.flip(sample.size), sample.image.flip(-1))


def resized_size(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """(height, width) whose shorter side is ``short`` or whose longer side is ``long``, whichever is smaller; whole pixels.

    >>> resized_size((480, 640), 800, 1333)
    (800, 1067)
    >>> resized_size((300, 900), 800, 1333)
    (444, 1333)
    """
    scale = min(short / min(size), long / max(size))
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def resized(sample: Sample, size: tuple[int, int], *, antialias: bool = True) -> Sample:
    """The sample with an image of ``size`` (height, width), and everything else scaled with it."""
    if size == sample.size:
        return sample
    # uint8 in channels_last is torch's fast path here, more than twice as fast as Pillow, with its pixels.
    image = sample.image[None].contiguous(memory_format=torch.channels_last)
    image = interpolate(image, size, mode="bilinear", antialias=antialias)[0]
    # The rounded size gives the scale, so that what touches the border still does.
    return sample.transformed(Affine.resize(sample.size, size), image)
