"""The interface of data sets: a sequence of samples with its categories and its ground truth.

A new kind of data set is one class with these five members and one small `DatasetConfig` that opens it: see
``examples/own_dataset.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Protocol, Self

from pydantic import model_validator

from boxwood.config import Component, Config
from boxwood.data.transforms import DrawingTransform, Transform
from boxwood.structures import Categories, Sample

__all__ = ["DataConfig", "Dataset", "DatasetConfig"]


class Dataset(Protocol):
    """A sequence of untransformed samples. It is sent to worker processes, so keep its attributes small and flat.

    The optional attribute ``repeats``, an array (I,) float64 or None, is how often each image occurs in an epoch of training
    (`boxwood.data.sampler.repeat_factors`).
    """

    categories: Categories

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """The image and its truth, in the pixels of the file after EXIF orientation. Raises IndexError past the end."""

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of image ``index`` without reading its pixels."""

    def to_coco(self) -> dict[str, Any]:
        """The ground truth as a COCO dictionary (``images``, ``annotations``, ``categories``), with the ids of the file."""


class DatasetConfig(Component):
    """Base of every data set's configuration: how to open it, and the transforms of its samples."""

    for_evaluation: ClassVar[bool] = True
    """Whether it can be ``data.val``, whose transforms the predictor applies to every picture."""

    transforms: tuple[Transform, ...] = ()
    """Applied in order to each sample before it is batched; those of the val set are also applied by the predictor."""

    @abstractmethod
    def open(self) -> Dataset:
        """The data set, checked. Raises `boxwood.errors.UserError` where the data must be corrected."""


class DataConfig(Config):
    """The data of a run."""

    train: DatasetConfig
    val: DatasetConfig
    workers: int = 2
    """Processes that decode and transform images; 0: the training process does it."""
    aspect_grouping: bool = True
    """Batches have either landscape or portrait images, which saves padding."""

    @model_validator(mode="after")
    def _check_val(self) -> Self:
        if not self.val.for_evaluation:
            raise ValueError(f"has a {self.val.kind()} as val, which is for training only; set val to one data set")
        for number, transform in enumerate(self.val.transforms):
            if isinstance(transform, DrawingTransform):
                raise ValueError(
                    f"has {transform.kind()} as val.transforms.{number}: only training can draw other samples; remove it"
                )
        return self
