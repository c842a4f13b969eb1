"""Reading images, from files or from memory, as RGB uint8 tensors: JPEG and PNG by torchvision, the others by Pillow."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from boxwood.files import IMAGE_FORMATS
from boxwood.pixels import (
    MAX_MEMORY,
    MAX_PIXELS,
    ImageHeader,
    ImageSource,
    InMemory,
    Location,
    ValueRange,
    decode_image,
    is_image_source,
    located,
    quiet_decoders,
    read_header,
    to_8_bits,
)

__all__ = [
    "IMAGE_FORMATS",
    "MAX_MEMORY",
    "MAX_PIXELS",
    "ImageHeader",
    "ImageSource",
    "is_image_source",
    "read_header",
    "read_image",
]


def read_image(source: ImageSource | InMemory, exif: bool = True, value_range: ValueRange | None = None) -> Tensor:
    """Read an image as RGB: (3, H, W) uint8, turned upright by its EXIF orientation unless ``exif`` is False.

    Grey, palette and CMYK images become RGB; transparency is dropped; of several pages or frames the first is read. Values of more
    than 8 bits are converted by `boxwood.pixels.to_8_bits`, with ``value_range`` as the values of black and white. JPEG and PNG are
    decoded by `torchvision.io`, the other `IMAGE_FORMATS` by Pillow.

    Raises `UserError` in the cases of `read_header`, and where the pixels are truncated or damaged.
    """
    path = located(source)
    if read_header(path).format in ("JPEG", "MPO", "PNG"):
        image = _read_with_torchvision(path, exif)
        if image is not None:
            return image if image.dtype == torch.uint8 else torch.from_numpy(to_8_bits(image.numpy(), value_range))
    return torch.from_numpy(decode_image(path, value_range, exif=exif)).permute(2, 0, 1)


def _read_with_torchvision(path: Location, exif: bool) -> Tensor | None:
    """(3, H, W) uint8, or uint16 of PNG of 16 bits; None where the file is of a rare kind or damaged: Pillow tells which. And where
    torchvision has no decoders, as is announced of a later release: Pillow reads everything, slower."""
    try:
        from torchvision.io import ImageReadMode, decode_image
    except ImportError:
        return None
    if isinstance(path, InMemory):
        encoded = np.frombuffer(path.content, dtype=np.uint8).copy()
    else:
        encoded = np.fromfile(path, dtype=np.uint8)
    try:
        with quiet_decoders:
            image: Tensor = decode_image(torch.from_numpy(encoded), mode=ImageReadMode.RGB, apply_exif_orientation=exif)
    except RuntimeError:
        return None
    return image
