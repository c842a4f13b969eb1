"""Reading images, from files or from memory, as RGB uint8 tensors: JPEG and PNG of 16 bits by torchvision, the others by Pillow."""

from __future__ import annotations

import struct
import zlib

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


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""By the type of colour; a palette has no 16 bits."""
PNG_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced PNG: the first column and row, and the steps."""


def read_image(source: ImageSource | InMemory, exif: bool = True, value_range: ValueRange | None = None) -> Tensor:
    """Read an image as RGB: (3, H, W) uint8, turned upright by its EXIF orientation unless ``exif`` is False.

    Grey, palette and CMYK images become RGB; transparency is dropped; of several pages or frames the first is read. Values of more
    than 8 bits are converted by `boxwood.pixels.to_8_bits`, with ``value_range`` as the values of black and white. JPEG, and PNG of
    16 bits, of which Pillow reads 8, are decoded by `torchvision.io`, the other `IMAGE_FORMATS` by Pillow.

    Raises `UserError` in the cases of `read_header`, and where the pixels are truncated or damaged.
    """
    path = located(source)
    if read_header(path).format in ("JPEG", "MPO", "PNG"):
        image = _read_with_torchvision(path, exif)
        if image is not None:
            return image if image.dtype == torch.uint8 else torch.from_numpy(to_8_bits(image.numpy(), value_range))
    return torch.from_numpy(decode_image(path, value_range, exif=exif)).permute(2, 0, 1)


def _read_with_torchvision(path: Location, exif: bool) -> Tensor | None:
    """(3, H, W) uint8, or uint16 of PNG of 16 bits; None for other PNG, and where the file is of a rare kind or damaged: Pillow
    tells which. And where torchvision has no decoders, as is announced of a later release: Pillow reads everything, slower."""
    try:
        from torchvision.io import ImageReadMode, decode_image
    except ImportError:
        return None
    if isinstance(path, InMemory):
        encoded = np.frombuffer(path.content, dtype=np.uint8).copy()
    else:
        encoded = np.fromfile(path, dtype=np.uint8)
    if encoded[:8].tobytes() == PNG_SIGNATURE:
        png = _sound_png(encoded.tobytes()) if encoded[24] == 16 else None
        if png is None:
            return None
        encoded = np.frombuffer(png, dtype=np.uint8).copy()
    try:
        with quiet_decoders:
            image: Tensor = decode_image(torch.from_numpy(encoded), mode=ImageReadMode.RGB, apply_exif_orientation=exif)
    except RuntimeError:
        return None
    return image


def _sound_png(content: bytes) -> bytes | None:
    """A PNG of 16 bits with the same pixels and EXIF data, checked so that libpng meets no error; None where it would meet one.

    An error of libpng in torchvision 0.29 ends the process.
    """
    position, data = 8, bytearray()
    chunks: list[bytes] = []
    while not chunks or chunks[-1][4:8] != b"IEND":
        length = int.from_bytes(content[position : position + 4])
        chunk = content[position : position + length + 12]
        if len(chunk) != length + 12 or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
            return None
        if chunk[4:8] == b"IDAT":
            data += chunk[8:-4]
        chunks.append(chunk)
        position += len(chunk)
    if chunks[0][4:8] != b"IHDR" or len(chunks[0]) != 25:
        return None
    width, height, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", chunks[0][8:-4])
    if depth != 16 or colour not in PNG_CHANNELS or interlaced not in (0, 1):
        return None
    passes = PNG_PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(height - y) // down), -(-(width - x) // across)) for x, y, across, down in passes if x < width and y < height]
    shapes = [(rows, 1 + 2 * PNG_CHANNELS[colour] * columns) for rows, columns in sizes]
    expected = sum(rows * length for rows, length in shapes)
    inflater = zlib.decompressobj()
    try:
        pixels = np.frombuffer(inflater.decompress(bytes(data), expected + 1), dtype=np.uint8)
    except zlib.error:
        return None
    if len(pixels) != expected or not inflater.eof or inflater.unused_data:
        return None
    for rows, length in shapes:
        if pixels[: rows * length].reshape(rows, length)[:, 0].max() > 4:  # there are five filters
            return None
        pixels = pixels[rows * length :]
    image = len(data).to_bytes(4) + b"IDAT" + data
    copied = [chunk for chunk in chunks if chunk[4:8] in (b"IHDR", b"eXIf")]
    return PNG_SIGNATURE + b"".join(copied[:2]) + image + zlib.crc32(image[4:]).to_bytes(4) + chunks[-1]
