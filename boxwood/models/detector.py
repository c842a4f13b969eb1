"""The contract between a detector and everything else: three methods, one type each.

A training loop, an evaluation and a predictor know a model only by these. ``forward`` is the same in training and in
evaluation: where the batch carries targets it samples the anchors and RoIs of the step, else it runs through to the final
instances; in both cases it computes tensors only. ``losses`` and ``detections`` have no weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.models.config import ModelConfig
from boxwood.models.inference_config import TestConfig
from boxwood.models.postprocess import to_detections
from boxwood.ops.detectron1 import DETECTRON1
from boxwood.ops.geometry import CONTINUOUS, Geometry
from boxwood.structures import Batch, Categories, Detections, Target

__all__ = ["Detector", "Network", "normalize_images", "set_fixed_shapes"]


class Detector(nn.Module, ABC):
    """Base of every detector."""

    categories: Categories
    """The classes that it detects."""
    fixed_shapes: bool
    """Whether all rows of padded tensors are computed, so that no value is read on the host: in export and compilation. Else the
    valid rows only, which is faster. The caller sets it once, after building the model; results are the same."""

    @abstractmethod
    def forward(self, batch: Batch) -> Any:
        """Everything the network computes for a batch, in a dataclass of the architecture."""

    @abstractmethod
    def losses(self, output: Any, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Scalar losses by name (``loss_*``), each already weighted; training minimises their sum.

        ``output`` comes from a batch with these targets. Counts that a loss is divided by are those of the whole batch over all
        processes, so that the sum of the processes' gradients, averaged, is the gradient of one process with the whole batch.
        """

    @abstractmethod
    def detections(self, output: Any, batch: Batch) -> list[Detections]:
        """The instances of each image, in its original pixels; ``output`` comes from a batch without targets."""


def set_fixed_shapes(model: nn.Module) -> None:
    """Set `Detector.fixed_shapes` of a detector, or of one that ``model`` wraps, so that it can be compiled."""
    for module in model.modules():
        if isinstance(module, Detector):
            module.fixed_shapes = True


GEOMETRIES: dict[str, Geometry] = {"continuous": CONTINUOUS, "detectron1": DETECTRON1}


def normalize_images(
    images: Tensor, sizes: Tensor, mean: Tensor, std: Tensor, divisor: int = 32, extent: tuple[int, int] | None = None
) -> Tensor:
    """RGB images, normalised, with zeros (the mean colour) in the padding.

    ``images`` (B, 3, H, W) uint8, ``sizes`` (B, 2) int64 height and width without padding, ``extent`` the largest of them, read
    from ``sizes`` where it is None; ``mean`` and ``std`` (3,) -> (B, 3, H', W') of ``mean``'s dtype: as large as the largest image,
    and multiples of ``divisor``."""
    if divisor != 32:  # to which a batch is padded
        extent = extent or tuple(sizes.amax(dim=0).tolist())
        height, width = (-(-side // divisor) * divisor for side in extent)
        images = F.pad(images, (0, max(width - images.shape[3], 0), 0, max(height - images.shape[2], 0)))[..., :height, :width]
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device)[None, :, None] < sizes[:, 0, None, None]
    columns = torch.arange(width, device=images.device)[None, None, :] < sizes[:, 1, None, None]
    normalized = (images.to(mean.dtype) - mean[:, None, None]) / std[:, None, None]
    return normalized * (rows & columns)[:, None]


class Network(Detector):
    """The common part of the built-in architectures: settings and classes, images normalised, detections made."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, categories: Categories, test: TestConfig) -> None:
        super().__init__()
        self.test = test
        self.categories = categories
        self.geometry = GEOMETRIES[config.geometry]
        self.size_divisor = config.size_divisor
        self.fixed_shapes = False
        self.register_buffer("mean", torch.tensor(config.pixel_mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.pixel_std), persistent=False)

    def normalized(self, batch: Batch) -> Tensor:
        """The batch's images as `normalize_images` returns them."""
        return normalize_images(batch.images, batch.sizes, self.mean, self.std, self.size_divisor, batch.extent)

    def fuse(self) -> None:
        """Replace modules by faster ones with the same results, for inference, where weights do not change any more; here none."""

    def detections(self, output: Any, batch: Batch) -> list[Detections]:
        """The instances of each image, scaled to the pixels of the original."""
        assert output.instances is not None, "detections need a batch without targets"
        return to_detections(output.instances, batch, self.categories, self.geometry)
