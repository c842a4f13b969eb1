"""A trained detector, ready to be called with pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from boxwood.data.images import read_image
from boxwood.data.loader import collate
from boxwood.data.transforms import Transform
from boxwood.distributed import choose_device
from boxwood.errors import UserError
from boxwood.inference.tta import augmented
from boxwood.interop.zoo import is_published, read_published
from boxwood.models.backbones import ConvNorm
from boxwood.models.detector import set_fixed_shapes
from boxwood.structures import Categories, Detections, Sample
from boxwood.weights.file import read_weights, restore_model

__all__ = ["Picture", "Predictor", "load", "prepare"]

Picture = str | Path | Image.Image | np.ndarray[Any, np.dtype[np.uint8]] | Tensor
"""A path, a PIL image (turned upright by its EXIF orientation), an (H, W, 3) uint8 RGB array, or a (3, H, W) uint8 RGB tensor."""


def load(source: str | Path, device: str = "auto") -> Predictor:
    """A trained detector: from a run's directory (its best weights, or its last), from a .safetensors file, or one of the model zoo
    (``detectron/e2e_mask_rcnn_R-50-FPN_2x``), fetched where it is not in the cache.

    ``device`` is ``auto`` (the GPU where there is one), ``cpu``, ``cuda``, ... Raises `UserError` where there are no such
    weights, they cannot be read, or the device is not there.
    """
    if isinstance(source, str) and is_published(source) and not Path(source).exists():
        path, saved = Path(source), read_published(source).saved
    else:
        path = _weights_file(Path(source))
        saved = read_weights(path)
    if saved.config.model.needs_proposals:
        raise UserError(
            f"{path}: has no RPN and looks at given proposals, so it cannot be called with pictures alone; "
            "boxwood eval runs it on data with proposals"
        )
    model, transforms = augmented(restore_model(saved, where=str(path)), saved.config.data.val.transforms, saved.config.test)
    return Predictor(model, transforms, choose_device(device, key="device"))


class Predictor:
    """Calls a detector with pictures of any size.

    The model is prepared for inference (`prepare`) and is no longer one to be trained.
    """

    def __init__(self, model: nn.Module, transforms: Sequence[Transform], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.model = prepare(model).to(self.device)
        set_fixed_shapes(self.model, self.device)
        self.transforms = tuple(transforms)

    @property
    def categories(self) -> Categories:
        """The classes it knows."""
        categories: Any = self.model.categories
        assert isinstance(categories, Categories)
        return categories

    @overload
    def __call__(self, pictures: Picture) -> Detections: ...  # type: ignore[overload-overlap]  # a str is a sequence of str too
    @overload
    def __call__(self, pictures: Sequence[Picture]) -> list[Detections]: ...

    def __call__(self, pictures: Picture | Sequence[Picture]) -> Detections | list[Detections]:
        """The detections in one picture, or in each of a list, which then run as one batch; on the CPU, in each picture's own
        pixels.

        Raises `UserError` for a file that is no image, and for an array or tensor of another shape or type.
        """
        if isinstance(pictures, str | Path | Image.Image | np.ndarray | Tensor):
            return self([pictures])[0]
        if not pictures:
            return []
        samples = [self._sample(index, picture) for index, picture in enumerate(pictures)]
        batch = collate(samples, [0] * len(samples), with_targets=False).to(self.device)
        with torch.no_grad():
            detect: Any = self.model.detections
            found: list[Detections] = detect(self.model(batch), batch)
        return [detections.to("cpu") for detections in found]

    def _sample(self, index: int, picture: Picture) -> Sample:
        image = _image(picture)
        size = (image.shape[-2], image.shape[-1])
        nothing = torch.zeros(0, dtype=torch.int64)
        name = str(picture) if isinstance(picture, str | Path) else ""
        sample = Sample(image, index, name, size, torch.zeros(0, 4), nothing, nothing.bool())
        for transform in self.transforms:
            sample = transform(sample, np.random.default_rng(0))
        return sample


def prepare(model: nn.Module) -> nn.Module:
    """Make a model faster to call, without changing what it says: frozen norms go into the convolutions, memory is laid out
    channels last.

    The model is changed in place, put in eval mode, and its parameters no longer take gradients.
    """
    for module in model.modules():
        if isinstance(module, ConvNorm):
            module.fuse()
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _weights_file(source: Path) -> Path:
    if source.is_dir():
        for name in ("best.safetensors", "last.safetensors"):
            if (source / name).is_file():
                return source / name
        raise UserError(f"{source}: holds neither best.safetensors nor last.safetensors; name a run that has been trained")
    if not source.exists():
        raise UserError(f"{source}: there is no such run or weights file")
    return source


def _image(picture: Picture) -> Tensor:
    """(3, H, W) uint8 RGB."""
    if isinstance(picture, str | Path):
        return read_image(picture)
    if isinstance(picture, Image.Image):
        picture = np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            raise UserError(f"an image array must be (height, width, 3) uint8 RGB, got {picture.shape} {picture.dtype}")
        return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
    if picture.dtype != torch.uint8 or picture.dim() != 3 or picture.shape[0] != 3 or picture.numel() == 0:
        raise UserError(f"an image tensor must be (3, height, width) uint8 RGB, got {tuple(picture.shape)} {picture.dtype}")
    return picture
