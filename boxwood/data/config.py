"""The configurations of data sets. ``open`` imports the reader, so that a configuration is read without torch.

A user-defined data set has its configuration beside it, in one file (``examples/own_dataset.py``).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, model_validator

from boxwood.config import Component, Config
from boxwood.data.transforms import DrawingTransform, Transform

if TYPE_CHECKING:
    from boxwood.data.coco import CocoDataset
    from boxwood.data.dataset import Dataset
    from boxwood.data.mixture import MixtureDataset

__all__ = ["CocoConfig", "DataConfig", "DatasetConfig", "MixtureConfig"]


class DatasetConfig(Component):
    """Base of every data set's configuration: how to open it, and the transforms of its samples."""

    for_evaluation: ClassVar[bool] = True
    """Whether it can be ``data.val``, whose transforms the predictor applies to every picture."""

    transforms: tuple[Transform, ...] = ()
    """Applied in order to each sample before it is batched; those of the val set are also applied by the predictor."""

    @abstractmethod
    def open(self) -> Dataset:
        """The data set, checked. Raises `boxwood.errors.UserError` where the data must be corrected."""


class CocoConfig(DatasetConfig):
    """A data set in COCO's format or another that `boxwood.data.annotations` reads: annotations, and the folder of the images."""

    short_kind: ClassVar[str] = "coco"

    annotations: str
    """The JSON file, or the file or folder of another format."""
    images: str
    """The folder to which the file names in the annotations are relative."""
    split: str | None = None
    """The part of the annotations: for VOC a file of ImageSets/Main, for YOLO train, val or test."""
    keep_empty: bool = True
    """Keep images without annotations, which are negative examples."""
    exif: bool = True
    """Rotate images by their EXIF orientation."""
    proposals: str | tuple[str, ...] | None = None
    """A file of proposals for these images (`boxwood.data.proposals`), or several that together cover them: the RoIs of a detector
    without an RPN."""
    proposal_limit: int | None = Field(2000, ge=1)
    """The number of proposals of each image that are used, best first; None: all."""
    repeat_threshold: float | None = Field(None, gt=0, le=1)
    """Images with a class that occurs in less than this fraction of all images are repeated in training; LVIS: 0.001
    (`boxwood.data.sampler.repeat_factors`)."""

    def open(self) -> CocoDataset:
        from boxwood.data.coco import CocoDataset

        return CocoDataset(
            self.annotations,
            self.images,
            split=self.split,
            keep_empty=self.keep_empty,
            exif=self.exif,
            proposals=self.proposals,
            proposal_limit=self.proposal_limit,
            repeat_threshold=self.repeat_threshold,
        )


class MixtureConfig(DatasetConfig):
    """Several data sets of the same classes. Each part has its own transforms; those of the mixture are applied after them."""

    short_kind: ClassVar[str] = "mixture"
    for_evaluation: ClassVar[bool] = False

    parts: tuple[DatasetConfig, ...] = Field(min_length=1)
    """The data sets; a part may be a mixture without a ratio."""
    ratio: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """How many images of each part are in every batch, as a ratio: with 3, 1 a batch of 8 has 6 images of the first part and 2 of
    the second; each part starts over when all its images were used. None: each image of each part occurs once an epoch."""

    def open(self) -> MixtureDataset:
        from boxwood.data.mixture import MixtureDataset

        return MixtureDataset([part.open() for part in self.parts], [part.transforms for part in self.parts], self.ratio)


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
