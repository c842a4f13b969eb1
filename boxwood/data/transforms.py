"""Transforms of samples: each is one class, and so is a user's own.

A transform is its own configuration: its fields are what a recipe sets, its call is what happens. It changes image, boxes,
masks, keypoints and proposals together, draws every random choice from the generator it is handed, and returns the sample.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch.nn.functional import interpolate

from boxwood.config import Component
from boxwood.structures import Bitmap, Polygons, Sample

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
        width = sample.size[1]
        sample.image = sample.image.flip(-1)
        sample.boxes = _mirror_boxes(sample.boxes, width)
        if sample.proposals is not None:
            sample.proposals = _mirror_boxes(sample.proposals, width)
        if sample.keypoints is not None:
            flipped = sample.keypoints[:, list(sample.keypoint_flip)] if sample.keypoint_flip else sample.keypoints.clone()
            labelled = flipped[..., 2] > 0  # Those that are not labelled stay at (0, 0).
            flipped[..., 0] = torch.where(labelled, width - flipped[..., 0], flipped[..., 0])
            sample.keypoints = flipped
        if sample.segmentations is not None:
            sample.segmentations = [_mirror(segmentation, width) for segmentation in sample.segmentations]
        return sample


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
    """The sample with an image of ``size`` (height, width), and all else as large; the sample itself is changed."""
    height, width = sample.size
    if size == (height, width):
        return sample
    # uint8 in channels_last is torch's fast path here, more than twice as fast as Pillow, with its pixels.
    image = sample.image[None].contiguous(memory_format=torch.channels_last)
    sample.image = interpolate(image, size, mode="bilinear", antialias=antialias)[0]
    # The rounded size decides, so that what touches the border still does.
    y, x = size[0] / height, size[1] / width
    sample.boxes = sample.boxes * torch.tensor([x, y, x, y])
    if sample.proposals is not None:
        sample.proposals = sample.proposals * torch.tensor([x, y, x, y])
    if sample.keypoints is not None:
        sample.keypoints = sample.keypoints * torch.tensor([x, y, 1.0])
    if sample.segmentations is not None:
        sample.segmentations = [_scale(segmentation, x, y) for segmentation in sample.segmentations]
    return sample


def _scale(segmentation: Polygons | Bitmap, x: float, y: float) -> Polygons | Bitmap:
    if isinstance(segmentation, Polygons):
        factors = np.array([x, y], dtype=np.float32)
        return Polygons([part * factors for part in segmentation.parts])
    x1, y1, x2, y2 = segmentation.box
    return Bitmap(segmentation.values, (x1 * x, y1 * y, x2 * x, y2 * y))


def _mirror_boxes(boxes: torch.Tensor, width: int) -> torch.Tensor:
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=1)


def _mirror(segmentation: Polygons | Bitmap, width: int) -> Polygons | Bitmap:
    if isinstance(segmentation, Polygons):
        parts = [part.copy() for part in segmentation.parts]
        for part in parts:
            part[:, 0] = width - part[:, 0]
        return Polygons(parts)
    x1, y1, x2, y2 = segmentation.box
    return Bitmap(np.ascontiguousarray(segmentation.values[:, ::-1]), (width - x2, y1, width - x1, y2))
