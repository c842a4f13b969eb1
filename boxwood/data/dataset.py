"""The interface of data sets: a sequence of samples with its categories and its ground truth.

A new kind of data set is one class with these five members and one small `DatasetConfig` that opens it: see
``examples/own_dataset.py``.
"""

from __future__ import annotations

from typing import Any, Protocol

from boxwood.structures import Categories, Sample

__all__ = ["Dataset"]


class Dataset(Protocol):
    """A sequence of untransformed samples. It is sent to worker processes, so keep its attributes small and flat.

    The optional attribute ``repeats``, an array (I,) float64 or None, is how often each image occurs in an epoch of training
    (`boxwood.data.sampler.repeat_factors`). The optional attribute ``mask_counts``, an array (K, 2) int64 or None, is of each class
    the number of instances with a mask, and of all instances; a training logs it.
    """

    categories: Categories

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """The image and its truth, in the pixels of the file after EXIF orientation. Raises IndexError past the end."""

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of image ``index`` without reading its pixels."""

    def to_coco(self) -> dict[str, Any]:
        """The ground truth as a COCO dictionary (``images``, ``annotations``, ``categories``), with the ids of the file."""
