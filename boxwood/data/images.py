"""Reading image files: RGB uint8 tensors, or one line that says which file is wrong and how."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from boxwood.errors import UserError

__all__ = ["MAX_PIXELS", "ImageHeader", "read_header", "read_image"]

MAX_PIXELS = 178_956_970
"""Larger images are refused before they are decoded; also Pillow's own limit (half a gigabyte of RGB)."""

_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


class ImageHeader(NamedTuple):
    """What an image file says of itself before it is decoded."""

    format: str
    """Pillow's name: JPEG, PNG, ..."""
    stored: tuple[int, int]
    """(height, width) of the pixels as they are stored."""
    oriented: tuple[int, int]
    """(height, width) after the EXIF orientation is applied."""


def read_header(path: str | Path) -> ImageHeader:
    """Format and size of an image file, without decoding its pixels.

    Raises `UserError` where the file is missing, is no image, has a side under 2 pixels, or more than `MAX_PIXELS` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images and of odd EXIF; the limit is checked below.
            with Image.open(path) as image:
                width, height = image.size
                # The PNG reader's own getexif decodes all pixels, in search of tags behind them.
                tags = Image.Image.getexif(image) if image.format == "PNG" else image.getexif()
                turned = tags.get(_ORIENTATION) in _TURNED
                form = image.format or ""
    except Image.DecompressionBombError as error:
        digits = re.search(r"\d+", str(error))
        raise _too_large(path, int(digits.group()) if digits else None) from None
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        reason = (error.strerror or "").lower()
        raise UserError(f"{path}: the image cannot be read ({reason}); correct its name or the image folder") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: is not an image, whatever its name says; remove it or replace it by a JPEG or PNG") from None
    except Exception as error:  # Damaged files make Pillow's readers raise whatever they stumble over.
        raise _damaged(path, error) from None
    if width * height > MAX_PIXELS:
        raise _too_large(path, width * height)
    if min(width, height) < 2:
        raise UserError(f"{path}: the image is {width} x {height} pixels; both sides must have at least 2, so remove or replace it")
    return ImageHeader(form, (height, width), (width, height) if turned else (height, width))


def read_image(path: str | Path, exif: bool = True) -> Tensor:
    """Read an image as RGB: (3, H, W) uint8, turned upright by its EXIF orientation unless ``exif`` is False.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB; transparency is dropped. JPEG and PNG are decoded by
    `torchvision.io`, everything else that Pillow reads by Pillow.

    Raises `UserError` in the cases of `read_header`, and where the pixels are truncated or damaged.
    """
    header = read_header(path)
    image = _read_with_torchvision(path, exif) if header.format in ("JPEG", "MPO", "PNG") else None
    return _read_with_pillow(path, exif) if image is None else image


def _read_with_torchvision(path: str | Path, exif: bool) -> Tensor | None:
    """The image, or None where the file is of a rare kind or damaged: Pillow tells which. And where torchvision has no decoders, as
    is announced of a later release: Pillow reads everything, slower."""
    try:
        from torchvision.io import ImageReadMode, decode_image
    except ImportError:
        return None
    encoded = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            image: Tensor = decode_image(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=exif)
    except RuntimeError:
        return None
    return (image.to(torch.int32) >> 8).to(torch.uint8) if image.dtype == torch.uint16 else image


def _read_with_pillow(path: str | Path, exif: bool) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened) if exif else opened
                if image.mode.startswith("I;16") or image.mode == "I":
                    # Pillow's own conversion clips 16 bits at 255 instead of scaling them.
                    high = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
                    pixels = np.repeat(high[:, :, None], 3, axis=2)
                else:
                    pixels = np.array(image.convert("RGB"))
    except Exception as error:  # As above: a damaged file may raise anything.
        raise _damaged(path, error) from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _too_large(path: str | Path, pixels: int | None) -> UserError:
    size = f"{pixels:,} pixels" if pixels else f"more than {MAX_PIXELS:,} pixels"
    return UserError(f"{path}: the image has {size}, over the {MAX_PIXELS:,} that are accepted; cut it into tiles or scale it down")


def _damaged(path: str | Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: the image is truncated or damaged ({reason}); replace the file or take it out of the data set")
