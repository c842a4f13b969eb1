"""A trained detector, ready to be called with pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from boxwood.config import apply_overrides
from boxwood.data.images import is_image_source, read_image
from boxwood.data.loader import collate
from boxwood.data.transforms import Transform
from boxwood.distributed import choose_device
from boxwood.errors import UserError
from boxwood.inference.tta import augmented
from boxwood.interop.open_weights import OpenedWeights, open_weights
from boxwood.models.backbones import ConvNorm
from boxwood.models.convolution import replace_convolutions
from boxwood.models.detector import Network
from boxwood.pixels import ValueRange, from_array, from_pillow
from boxwood.run_config import RunConfig
from boxwood.structures import Categories, Detections, Sample
from boxwood.weights.file import restore_model

__all__ = ["Picture", "Predictor", "load", "predictor_of", "prepare"]

Picture = str | Path | bytes | BinaryIO | Image.Image | np.ndarray[Any, np.dtype[Any]] | Tensor
"""A path, the bytes of an image file or a binary file object (read from its beginning), a PIL image, all of them turned upright by
their EXIF orientation; an (H, W, 3) RGB or (H, W) grey array; a (3, H, W) RGB or (1, H, W) grey tensor. Values that are not uint8
are converted by `boxwood.pixels.to_8_bits`."""


def load(source: str | Path, device: str = "auto", overrides: Sequence[str] = (), *, score: float | None = None) -> Predictor:
    """A trained detector to be called with pictures.

    ``source`` is a run's directory (its best weights, else its last), a ``.safetensors`` file, a checkpoint, or a name of the model
    zoo (``detectron/e2e_mask_rcnn_R-50-FPN_2x``), which is downloaded where it is not in the cache. ``device`` is ``auto`` (the GPU
    where there is one), ``cpu``, ``cuda``, ... ``overrides`` (``test.KEY=VALUE``) change how outputs become detections; a
    ``test.score_threshold`` above ``score`` is lowered to it. Raises `UserError` where there are no such weights, they cannot be
    read, another key is overridden, or the device does not exist.
    """
    if others := [override for override in overrides if not override.startswith("test.")]:
        raise UserError(f"{others[0]}: the model is built as it was trained; only keys of test can be changed")
    opened = open_weights(source)
    config = apply_overrides(opened.saved.config, overrides)
    if score is not None and score <= config.test.score_threshold:
        # A detection has more than the threshold; one of exactly ``score`` is included.
        config = config.model_copy(deep=True)
        config.test.score_threshold = max(score - 1e-6, 0.0)
    return predictor_of(opened, config, device, source=str(source))


def predictor_of(opened: OpenedWeights, config: RunConfig, device: str = "auto", *, source: str = "") -> Predictor:
    """A predictor with weights that are read, by a configuration of the same network. Raises `UserError` as `load` does."""
    if config.model.needs_proposals:
        raise UserError(
            f"{opened.source}: has no RPN and needs proposals as input, so it cannot be called with pictures alone; "
            "boxwood eval runs it on data with proposals"
        )
    network = restore_model(replace(opened.saved, config=config), where=opened.source)
    model, transforms = augmented(network, config.data.val.transforms, config.test)
    value_range = getattr(config.data.val, "value_range", None)  # a user's kind of data set may have none
    return Predictor(model, transforms, choose_device(device, key="device"), value_range=value_range, config=config, source=source)


class Predictor:
    """Calls a detector with pictures of any size.

    The model is prepared for inference (`prepare`) and can no longer be trained. ``transforms`` are applied to each picture, after
    values of more than 8 bits are converted with ``value_range`` as black and white, as in training (`boxwood.pixels.to_8_bits`).
    """

    def __init__(
        self,
        model: nn.Module,
        transforms: Sequence[Transform],
        device: torch.device | str = "cpu",
        *,
        value_range: ValueRange | None = None,
        config: RunConfig | None = None,
        source: str = "",
    ) -> None:
        self.device = torch.device(device)
        self.model = prepare(model).to(self.device)
        self.transforms = tuple(transforms)
        self.value_range = value_range
        self.config = config
        """The configuration that the model was trained with, where it is known."""
        self.source = source
        """What `load` was called with; empty for a model from elsewhere."""

    @property
    def categories(self) -> Categories:
        """The classes of the model."""
        categories: Any = self.model.categories
        assert isinstance(categories, Categories)
        return categories

    @overload
    def __call__(self, pictures: Picture) -> Detections: ...  # type: ignore[overload-overlap]  # a str is a sequence of str too
    @overload
    def __call__(self, pictures: Sequence[Picture]) -> list[Detections]: ...

    def __call__(self, pictures: Picture | Sequence[Picture]) -> Detections | list[Detections]:
        """The detections in one picture, or in each of a list, which run as one batch; on the CPU, in the pixels of each picture.

        Raises `UserError` for a file that is not an image, for an array or tensor of another shape or type, and for anything else.
        """
        if is_image_source(pictures) or isinstance(pictures, Image.Image | np.ndarray | Tensor):
            return self([cast(Picture, pictures)])[0]
        if not isinstance(pictures, Sequence):
            raise _no_picture(pictures)
        batch_of_pictures = cast(Sequence[Picture], pictures)
        if not batch_of_pictures:
            return []
        return self.detect([self.sample(picture) for picture in batch_of_pictures])

    def detect(self, samples: Sequence[Sample]) -> list[Detections]:
        """The detections in pictures that `sample` has prepared, which run as one batch; what a call does, in two steps."""
        if not samples:
            return []
        batch = collate(samples, [0] * len(samples), with_targets=False).to(self.device)
        batch.image_ids = tuple(range(len(samples)))
        with torch.no_grad():
            detect: Any = self.model.detections
            results: list[Detections] = detect(self.model(batch), batch)
        return [detections.to("cpu") for detections in results]

    def sample(self, picture: Picture) -> Sample:
        """A picture after the transforms. Threads may call it beside the network. Raises `UserError` as a call does."""
        image = _image(picture, self.value_range)
        size = (image.shape[-2], image.shape[-1])
        no_labels = torch.zeros(0, dtype=torch.int64)
        name = str(picture) if isinstance(picture, str | Path) else ""
        sample = Sample(image, 0, name, size, torch.zeros(0, 4), no_labels, no_labels.bool())
        for transform in self.transforms:
            sample = transform(sample, np.random.default_rng(0))
        return sample


def prepare(model: nn.Module) -> nn.Module:
    """Make a model faster to call, with the same outputs up to rounding: frozen norms are folded into the convolutions, tasks fuse
    their modules, memory is laid out channels last, and 3x3 convolutions take `boxwood.ops.convolution`.

    The model is changed in place, put in eval mode, and its parameters no longer take gradients.
    """
    for module in list(model.modules()):
        if isinstance(module, ConvNorm | Network):
            module.fuse()
    replace_convolutions(model)
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _no_picture(value: object) -> UserError:
    missing = "; cv2.imread returns None for a file that is missing or no image" if value is None else ""
    expected = "a path, bytes, a file object, a PIL image, an array, a tensor, or a list of these"
    return UserError(f"expected a picture ({expected}), got {value!r:.40} of type {type(value).__name__}{missing}")


def _image(picture: Picture, value_range: ValueRange | None) -> Tensor:
    """(3, H, W) uint8 RGB."""
    if is_image_source(picture):
        return read_image(picture, value_range=value_range)
    if isinstance(picture, Image.Image):
        return _channels_first(_from_pillow(picture, value_range))
    if isinstance(picture, np.ndarray):
        return _channels_first(from_array(picture, value_range))
    if not isinstance(picture, Tensor):
        raise _no_picture(picture)
    if picture.dim() != 3 or picture.shape[0] not in (1, 3, 4) or picture.is_complex() or not picture.numel():
        got = f"{tuple(picture.shape)} {picture.dtype}"
        raise UserError(f"an image tensor must be (3, height, width) RGB or (1, height, width) grey numbers, got {got}")
    if picture.dtype == torch.uint8 and picture.shape[0] == 3:
        return picture
    values = picture.detach().cpu()
    numbers = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
    return _channels_first(from_array(numbers.permute(1, 2, 0).numpy(), value_range))


def _from_pillow(picture: Image.Image, value_range: ValueRange | None) -> NDArray[np.uint8]:
    try:
        return from_pillow(picture, value_range)
    except Exception as error:  # PIL images are read when their pixels are needed, and damaged files raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the PIL image cannot be read ({reason}); open it again, or replace its file") from None


def _channels_first(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
