"""The contract between a detector and everything else: three verbs, one type each.

A training loop, an evaluation and a predictor know a model only by these. ``forward`` is the same in training and in
evaluation: where the batch carries targets it samples the anchors and RoIs to learn from, else it runs through to the final
instances; in both cases it is tensors only. ``losses`` and ``detections`` have no parameters of their own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from boxwood.config import Component, Config
from boxwood.models.inference_config import TestConfig
from boxwood.models.postprocess import to_detections
from boxwood.ops.detectron1 import DETECTRON1
from boxwood.ops.geometry import CONTINUOUS, Geometry
from boxwood.structures import Batch, Categories, Detections, Target

__all__ = [
    "Detector",
    "ModelConfig",
    "Need",
    "Network",
    "normalize_images",
    "without_pretrained",
]


class Detector(Protocol):
    """What a detector does. Every built-in one is also an `nn.Module`."""

    categories: Categories

    def forward(self, batch: Batch) -> Any:
        """Everything the network computes for a batch; a dataclass of the architecture's own."""

    def losses(self, output: Any, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Scalar losses by name (``loss_*``), each already weighted; training minimises their sum.

        ``output`` comes from a batch with these targets. Counts that a loss is divided by are those of the whole batch over all
        processes, so that the sum of the processes' gradients, averaged, is the gradient of one process with the whole batch.
        """

    def detections(self, output: Any, batch: Batch) -> list[Detections]:
        """The instances of each image, in its original pixels; ``output`` comes from a batch without targets."""


GEOMETRIES: dict[str, Geometry] = {"continuous": CONTINUOUS, "detectron1": DETECTRON1}


Need = Literal["masks", "keypoints", "proposals"]


class ModelConfig(Component):
    """Base of every architecture's configuration."""

    class_agnostic: ClassVar[bool] = False
    """Its boxes have no classes (RPN alone): they are scored as proposals."""

    geometry: Literal["continuous", "detectron1"] = "continuous"
    """How boxes are counted: in continuous coordinates, or in all as Detectron did (`boxwood.ops.detectron1`), for its weights."""
    size_divisor: int = Field(32, gt=0)
    """A batch's height and width are multiples of it; Detectron padded to 32 with a pyramid, to 128 for RetinaNet, else not at
    all (1)."""
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Subtracted from each channel of an image in 0..255."""
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """Divides each channel after the mean is subtracted."""

    @property
    def title(self) -> str:
        """What a person calls it: Faster R-CNN, ResNet-50-FPN."""
        return type(self).__name__.removesuffix("Config")

    def needs(self) -> frozenset[Need]:
        """What the data must give besides images and boxes."""
        return frozenset()

    @abstractmethod
    def build(self, categories: Categories, test: TestConfig) -> nn.Module:
        """The network (a `Detector`) for these classes, with random weights where no pretrained body is asked for."""


def without_pretrained(model: ModelConfig) -> ModelConfig:
    """A copy of the configuration that starts from random weights: for a network whose weights come from a file."""
    copy = model.model_copy(deep=True)
    parts: list[Config] = [copy]
    for part in parts:
        if "weights" in type(part).model_fields:
            part.weights = None  # type: ignore[attr-defined]  # of bodies that have such a field
        parts += [value for _, value in part if isinstance(value, Config)]
    return copy


def normalize_images(images: Tensor, sizes: Tensor, mean: Tensor, std: Tensor, divisor: int = 32) -> Tensor:
    """RGB images as the network wants them, with zeros (the mean colour) in the padding.

    ``images`` (B, 3, H, W) uint8, ``sizes`` (B, 2) int64 height and width without padding, ``mean`` and ``std`` (3,) -> (B, 3, H',
    W') of ``mean``'s dtype: as large as the largest image, and multiples of ``divisor``.
    """
    if divisor != 32:  # what a batch is padded to
        height, width = (-(-int(side) // divisor) * divisor for side in sizes.amax(dim=0))
        images = F.pad(images, (0, max(width - images.shape[3], 0), 0, max(height - images.shape[2], 0)))[..., :height, :width]
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device)[None, :, None] < sizes[:, 0, None, None]
    columns = torch.arange(width, device=images.device)[None, None, :] < sizes[:, 1, None, None]
    normalized = (images.to(mean.dtype) - mean[:, None, None]) / std[:, None, None]
    return normalized * (rows & columns)[:, None]


class Network(nn.Module):
    """What the built-in architectures have in common: settings and classes, how images come in and how detections go out."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, categories: Categories, test: TestConfig) -> None:
        super().__init__()
        self.test = test
        self.categories = categories
        self.geometry = GEOMETRIES[config.geometry]
        self.size_divisor = config.size_divisor
        self.register_buffer("mean", torch.tensor(config.pixel_mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.pixel_std), persistent=False)

    def normalized(self, batch: Batch) -> Tensor:
        """The batch's images as the body wants them."""
        return normalize_images(batch.images, batch.sizes, self.mean, self.std, self.size_divisor)

    def detections(self, output: Any, batch: Batch) -> list[Detections]:
        """The instances of each image, scaled to the pixels of the original."""
        assert output.instances is not None, "detections need a batch without targets"
        return to_detections(output.instances, batch, self.categories, self.test, self.geometry)
