"""What a data set is to Boxwood: a sequence of samples that knows its classes and its truth.

A data set of your own is one class with these five members and one small `DatasetConfig` that opens it; see
``examples/own_dataset.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol, Self

from pydantic import model_validator

from boxwood.config import Component, Config
from boxwood.data.transforms import DrawingTransform, Transform
from boxwood.structures import Categories, Sample

__all__ = ["DataConfig", "Dataset", "DatasetConfig"]


class Dataset(Protocol):
    """A sequence of untransformed samples. It is sent to worker processes, so keep what it holds small and flat.

    One that also has ``repeats``, an array (I,) float64 or None, says how often each image comes in an epoch of training
    (`boxwood.data.sampler.repeat_factors`).
    """

    categories: Categories

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """The image and its truth, in the pixels of the file after EXIF orientation. Raises IndexError past the end."""

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of image ``index`` without reading its pixels."""

    def to_coco(self) -> dict[str, Any]:
        """The truth as a COCO dictionary (``images``, ``annotations``, ``categories``), with the file's own ids and numbers."""


class DatasetConfig(Component):
    """Base of every data set's configuration: how to open it, and what happens to each sample."""

    transforms: tuple[Transform, ...] = ()
    """Applied in order to each sample before it is batched; a val set's are applied by the predictor too."""

    @abstractmethod
    def open(self) -> Dataset:
        """The data set, checked. Raises `boxwood.errors.UserError` where a person must mend the data."""


class DataConfig(Config):
    """The data of a run."""

    train: DatasetConfig
    val: DatasetConfig
    workers: int = 2
    """Processes that decode and transform images; 0 does it in the training process."""
    aspect_grouping: bool = True
    """Batches hold either landscape or portrait images, so that little of a batch is padding."""

    @model_validator(mode="after")
    def _check_val(self) -> Self:
        for number, transform in enumerate(self.val.transforms):
            if isinstance(transform, DrawingTransform):
                raise ValueError(f"has {transform.kind()} as val.transforms.{number}: other samples are drawn in training only")
        return self
