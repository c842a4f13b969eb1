"""Transforms of samples: each is one class, and so is a user's own.

A transform is its own configuration: its fields are what a recipe sets, its call is what happens. It changes image, boxes,
masks and keypoints together, draws every random choice from the generator it is handed, and returns the sample.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from boxwood.config import Component
from boxwood.structures import Sample

__all__ = ["HorizontalFlip", "ResizeShortestEdge", "Transform"]


class Transform(Component):
    """Base of every transform."""

    @abstractmethod
    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The changed sample; the one that came in may be changed in place."""


class ResizeShortestEdge(Transform):
    """Scale the image so that its shorter side has one of the lengths ``short``, unless its longer side would exceed ``long``."""

    short_kind: ClassVar[str] = "resize_shortest_edge"

    short: tuple[int, ...] = (800,)
    """Pixels; one is drawn for each sample, so several make scale jitter."""
    long: int = 1333
    """Pixels."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        raise NotImplementedError


class HorizontalFlip(Transform):
    """Mirror the sample left to right with probability ``p``; keypoints swap sides by the data set's flip map."""

    short_kind: ClassVar[str] = "horizontal_flip"

    p: float = 0.5

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        raise NotImplementedError
