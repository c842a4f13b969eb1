"""Reading images, from files or from memory: RGB uint8 tensors, or an error of one line that names the file and the fault."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias, TypeGuard

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from boxwood.errors import UserError
from boxwood.files import IMAGE_FORMATS

__all__ = ["IMAGE_FORMATS", "MAX_PIXELS", "ImageHeader", "ImageSource", "is_image_source", "read_header", "read_image"]

ImageSource: TypeAlias = str | Path | bytes | bytearray | memoryview | BinaryIO
"""A path, an encoded image in memory (what a JPEG or PNG file holds), or a binary file object, which is read from its beginning."""

MAX_PIXELS = 178_956_970
"""Larger images are refused before they are decoded; also Pillow's limit (half a gigabyte of RGB)."""

_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


class ImageHeader(NamedTuple):
    """The header of an image file, read without decoding pixels."""

    format: str
    """Pillow's name: JPEG, PNG, ..."""
    stored: tuple[int, int]
    """(height, width) of the pixels as they are stored."""
    oriented: tuple[int, int]
    """(height, width) after the EXIF orientation is applied."""


def is_image_source(value: Any) -> TypeGuard[ImageSource]:
    """Whether a value is an `ImageSource`."""
    return isinstance(value, str | Path | bytes | bytearray | memoryview) or hasattr(value, "read")


def read_header(source: ImageSource) -> ImageHeader:
    """Format and size of an image, without decoding its pixels.

    Raises `UserError` where the file is missing, is in none of the `IMAGE_FORMATS`, has a side under 2 pixels, or more than
    `MAX_PIXELS` pixels.
    """
    return _header(_location(source))


def read_image(source: ImageSource, exif: bool = True) -> Tensor:
    """Read an image as RGB: (3, H, W) uint8, turned upright by its EXIF orientation unless ``exif`` is False.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB; transparency is dropped. JPEG and PNG are decoded by
    `torchvision.io`, the other `IMAGE_FORMATS` by Pillow.

    Raises `UserError` in the cases of `read_header`, and where the pixels are truncated or damaged.
    """
    path = _location(source)
    image = _read_with_torchvision(path, exif) if _header(path).format in ("JPEG", "MPO", "PNG") else None
    return _read_with_pillow(path, exif) if image is None else image


class _InMemory(NamedTuple):
    """An encoded image in memory, and what messages call it."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


_Location: TypeAlias = str | Path | _InMemory


def _location(source: ImageSource) -> _Location:
    if isinstance(source, str | Path):
        return source
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
        return _InMemory(f"image of {len(content):,} bytes", content)
    name = getattr(source, "name", None)
    try:
        if hasattr(source, "seekable") and source.seekable():
            source.seek(0)
        content = source.read()
    except (OSError, ValueError) as error:  # such as a file that has been closed
        raise UserError(f"{name or 'image'}: the file object cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(content, bytes):
        raise UserError(f"{name or 'image'}: the file object gives text; open the file in binary mode, 'rb'")
    return _InMemory(name if isinstance(name, str) else f"image of {len(content):,} bytes", content)


def _stream(path: _Location) -> Any:
    """What Pillow opens."""
    return io.BytesIO(path.content) if isinstance(path, _InMemory) else path


def _header(path: _Location) -> ImageHeader:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images and of odd EXIF; the limit is checked below.
            with Image.open(_stream(path), formats=IMAGE_FORMATS) as image:
                width, height = image.size
                # The getexif of Pillow's PNG reader decodes all pixels to find tags behind them.
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
        whatever = "" if isinstance(path, _InMemory) else ", whatever its name says"
        raise UserError(
            f"{path}: is not an image of a format that is read ({', '.join(IMAGE_FORMATS)}){whatever}; "
            "convert it to JPEG or PNG, or remove it"
        ) from None
    except Exception as error:  # Damaged files make Pillow's readers raise whatever they stumble over.
        raise _damaged(path, error) from None
    if width * height > MAX_PIXELS:
        raise _too_large(path, width * height)
    if min(width, height) < 2:
        raise UserError(f"{path}: the image is {width} x {height} pixels; both sides must have at least 2, so remove or replace it")
    return ImageHeader(form, (height, width), (width, height) if turned else (height, width))


def _read_with_torchvision(path: _Location, exif: bool) -> Tensor | None:
    """The image, or None where the file is of a rare kind or damaged: Pillow tells which. And where torchvision has no decoders, as
    is announced of a later release: Pillow reads everything, slower."""
    try:
        from torchvision.io import ImageReadMode, decode_image
    except ImportError:
        return None
    if isinstance(path, _InMemory):
        encoded = np.frombuffer(path.content, dtype=np.uint8).copy()
    else:
        encoded = np.fromfile(path, dtype=np.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            image: Tensor = decode_image(torch.from_numpy(encoded), mode=ImageReadMode.RGB, apply_exif_orientation=exif)
    except RuntimeError:
        return None
    return (image.to(torch.int32) >> 8).to(torch.uint8) if image.dtype == torch.uint16 else image


def _read_with_pillow(path: _Location, exif: bool) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(_stream(path), formats=IMAGE_FORMATS) as opened:
                image = ImageOps.exif_transpose(opened) if exif else opened
                if image.mode.startswith("I;16") or image.mode == "I":
                    # Pillow's conversion clips 16 bits at 255 instead of scaling them.
                    high = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
                    pixels = np.repeat(high[:, :, None], 3, axis=2)
                else:
                    pixels = np.array(image.convert("RGB"))
    except Exception as error:  # As above: a damaged file may raise anything.
        raise _damaged(path, error) from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _too_large(path: _Location, pixels: int | None) -> UserError:
    size = f"{pixels:,} pixels" if pixels else f"more than {MAX_PIXELS:,} pixels"
    return UserError(f"{path}: the image has {size}, over the {MAX_PIXELS:,} that are accepted; cut it into tiles or scale it down")


def _damaged(path: _Location, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: the image is truncated or damaged ({reason}); replace the file or take it out of the data set")
