"""The configurations of data sets. ``open`` imports the reader, so that a configuration is read without torch.

A user-defined data set has its configuration beside it, in one file (``examples/own_dataset.py``).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from boxwood.config import Component, Config
from boxwood.data.transforms import DrawingTransform, Transform

if TYPE_CHECKING:
    from boxwood.data.coco import CocoDataset
    from boxwood.data.coco_file import CocoFile
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
    """The JSON file, or the file, folder or tar files of another format."""
    images: str
    """The folder to which the file names in the annotations are relative; or tar files that have the pictures: one, a folder of
    them, or ``shards-{000..099}.tar`` (`boxwood.data.shards`)."""
    split: str | None = None
    """The part of the annotations: for VOC a file of ImageSets/Main, for YOLO train, val or test."""
    holdout: tuple[Literal["train", "val"], Annotated[float, Field(gt=0, lt=1)]] | None = None
    """One part of the images: ``[val, 0.2]`` is a fifth of them, drawn by class (`boxwood.data.splitting`), and ``[train, 0.2]``
    the others. The same data are always divided in the same way. None: all images."""
    keep_empty: bool = True
    """Keep images without annotations, which are negative examples."""
    exif: bool = True
    """Rotate images by their EXIF orientation."""
    value_range: tuple[float, float] | None = None
    """The pixel values that become black and white in images of more than 8 bits, such as 0 and 4095 of a camera of 12 bits. None:
    from each image's extreme values (`boxwood.pixels.automatic_range`). That of the val set is also the predictor's."""
    proposals: str | tuple[str, ...] | None = None
    """A file of proposals for these images (`boxwood.data.proposals`), or several that together cover them: the RoIs of a detector
    without an RPN."""
    proposal_limit: int | None = Field(2000, ge=1)
    """The number of proposals of each image that are used, best first; None: all."""
    mask_classes: str | tuple[int | str, ...] | None = None
    """The classes whose masks teach, by name or category id: a list, ``voc`` or ``nonvoc`` for the classes of COCO that PASCAL VOC
    has or lacks, or a text file with one class a line. Instances of other classes have boxes alone. None: every mask teaches."""
    symmetry: str | None = None
    """The file ``UV_symmetry_transforms.mat``, by which dense pose is mirrored: it derives from SMPL, whose licence is not
    commercial, and lies at https://dl.fbaipublicfiles.com/densepose/data/. None: mirroring is refused."""
    repeat_threshold: float | None = Field(None, gt=0, le=1)
    """Images with a class that occurs in less than this fraction of all images are repeated in training; LVIS: 0.001
    (`boxwood.data.sampler.repeat_factors`)."""

    @model_validator(mode="after")
    def _check_value_range(self) -> Self:
        if self.value_range is not None and not -math.inf < self.value_range[0] < self.value_range[1] < math.inf:
            raise ValueError(f"has value_range {list(self.value_range)}; give black's value, then white's, which is higher")
        return self

    def read(self) -> CocoFile:
        """The annotations as arrays. Raises `boxwood.errors.UserError` where they cannot be read."""
        from boxwood.data.annotations import read_annotations

        return read_annotations(self.annotations, self.images, self.split, self.holdout)

    def open(self) -> CocoDataset:
        from boxwood.data.coco import CocoDataset
        from boxwood.data.mask_classes import listed_classes

        return CocoDataset(
            self.annotations,
            self.images,
            split=self.split,
            keep_empty=self.keep_empty,
            exif=self.exif,
            value_range=self.value_range,
            holdout=self.holdout,
            proposals=self.proposals,
            proposal_limit=self.proposal_limit,
            mask_classes=None if self.mask_classes is None else listed_classes(self.mask_classes),
            repeat_threshold=self.repeat_threshold,
            symmetry=self.symmetry,
        )


class MixtureConfig(DatasetConfig):
    """Several data sets of the same classes. Each part has its own transforms; those of the mixture are applied after them."""

    short_kind: ClassVar[str] = "mixture"
    for_evaluation: ClassVar[bool] = False

    parts: tuple[DatasetConfig, ...] = Field(min_length=1)
    """The data sets; a part may be a mixture without a ratio."""
    ratio: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """How many images of each part are in every batch, as a ratio: with 3, 1 a batch of 8 has 6 images of the first part and 2 of
    the second; each part starts over when all its images were used. A part of 0 is not used: with 1, 0 training is that on the
    first part alone. None: each image of each part occurs once an epoch."""

    @model_validator(mode="after")
    def _check_ratio(self) -> Self:
        if self.ratio is not None and not any(self.ratio):
            raise ValueError("has a ratio of zeros only; give one part at least 1")
        return self

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
        if (
            isinstance(self.train, CocoConfig)
            and isinstance(self.val, CocoConfig)
            and self.train.value_range != self.val.value_range
        ):
            raise ValueError(
                f"has train.value_range {_listed(self.train.value_range)} and val.value_range {_listed(self.val.value_range)}; "
                "set both to one range, so that images look the same in training, validation and prediction"
            )
        for number, transform in enumerate(self.val.transforms):
            if isinstance(transform, DrawingTransform):
                raise ValueError(
                    f"has {transform.kind()} as val.transforms.{number}: only training can draw other samples; remove it"
                )
        return self


def _listed(value_range: tuple[float, float] | None) -> str:
    return "null" if value_range is None else str(list(value_range))
