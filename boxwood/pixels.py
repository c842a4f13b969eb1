"""Images of every kind as 8-bit RGB: files opened within limits of memory, and one conversion of all pixel values.

read_header     format and size of a file, or an error of one line
decode_image    a file as RGB
from_pillow     a PIL image as RGB
from_array      an array as RGB
to_8_bits       the conversion that they share
"""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from boxwood.errors import UserError
from boxwood.files import IMAGE_FORMATS, media_kind

__all__ = [
    "MAX_MEMORY",
    "MAX_PIXELS",
    "ImageHeader",
    "ImageSource",
    "InMemory",
    "Location",
    "StoredPixels",
    "ValueRange",
    "automatic_range",
    "decode_image",
    "from_array",
    "from_pillow",
    "is_image_source",
    "located",
    "quiet_decoders",
    "range_of_limits",
    "read_header",
    "stored_pixels",
    "suggested_range",
    "to_8_bits",
    "value_limits",
]

ImageSource: TypeAlias = str | Path | bytes | bytearray | memoryview | BinaryIO
"""A path, an encoded image in memory (what a JPEG or PNG file holds), or a binary file object, which is read from its beginning."""

ValueRange: TypeAlias = tuple[float, float]
"""The pixel values that become black (0) and white (255)."""

MAX_PIXELS = 178_956_970
"""Larger images are refused before they are decoded; also Pillow's limit (half a gigabyte of RGB)."""
MAX_MEMORY = 2**30
"""Bytes that decoding an image may take, estimated from its header; more are refused."""

BITS = (8, 10, 12, 14, 16, 24, 32, 64)
"""Depths of pixel values that cameras and files have."""
_BLOCK = 1 << 20
"""Values that are converted at once, so that intermediate results take little memory."""
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
"""What turns (H, W, 3) pixels of each EXIF orientation upright."""


class ImageHeader(NamedTuple):
    """The header of an image file, read without decoding pixels."""

    format: str
    """Pillow's name: JPEG, PNG, ..."""
    stored: tuple[int, int]
    """(height, width) of the pixels as they are stored."""
    oriented: tuple[int, int]
    """(height, width) after the EXIF orientation is applied."""
    deep: bool
    """Whether the values have more than 8 bits."""


class InMemory(NamedTuple):
    """An encoded image in memory, and what messages call it."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


Location: TypeAlias = str | Path | InMemory


# ----------------------------------------------------------------------------------------------------------- values


def to_8_bits(values: NDArray[Any], value_range: ValueRange | None = None) -> NDArray[np.uint8]:
    """Pixel values of any shape and number type as uint8: 255 (value - low) / (high - low), rounded, and clipped to 0..255.

    uint8 values stay as they are, and False and True become 0 and 255, whatever the range. ``value_range`` None takes
    `automatic_range`. NaN becomes 0.

    >>> to_8_bits(np.array([0, 2048, 4095], dtype=np.uint16)).tolist()
    [0, 128, 255]
    >>> to_8_bits(np.array([20_000, 26_000, 32_000]), (20_000, 32_000)).tolist()
    [0, 128, 255]
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    low, high = value_range or automatic_range(values)
    if values.dtype == np.uint16:
        return np.take(_scaled(np.arange(1 << 16), low, high), values)
    flat, converted = values.reshape(-1), np.empty(values.size, dtype=np.uint8)
    for start in range(0, len(flat), _BLOCK):
        converted[start : start + _BLOCK] = _scaled(flat[start : start + _BLOCK], low, high)
    return converted.reshape(values.shape)


def automatic_range(values: NDArray[Any]) -> ValueRange:
    """The range of an image of which none is declared, from its extreme values.

    Whole numbers: 0 to the highest value of 8, 10, 12, 14, 16, 24 or 32 bits, whichever is the first to hold them. Numbers with a
    fraction: 0 to 1 where none is over 2, else as whole numbers. Where the lowest value is under minus a tenth of the upper end,
    the lower end is minus the upper one. So images of one camera get one range unless they are very dark.

    >>> automatic_range(np.array([66, 866])), automatic_range(np.array([0.1, 0.8])), automatic_range(np.array([-1000, 3000]))
    ((0, 1023), (0, 1), (-4095, 4095))
    """
    return range_of_limits(*value_limits(values), fractions=values.dtype.kind == "f")


def suggested_range(low: float, high: float, *, fractions: bool) -> ValueRange:
    """A range for a data set with these extreme values: that of one image, or the values themselves where they fill less than half.

    >>> suggested_range(66, 3900, fractions=False), suggested_range(20_000, 32_000, fractions=False)
    ((0, 4095), (20000, 32000))
    """
    usual = range_of_limits(low, high, fractions=fractions)
    return usual if 2 * (high - low) >= usual[1] - usual[0] or low == high else (low, high)


def value_limits(values: NDArray[Any]) -> tuple[float, float]:
    """The lowest and the highest finite value; 0 and 0 where there is none."""
    flat = values.reshape(-1)
    return _limits(flat[start : start + _BLOCK] for start in range(0, len(flat), _BLOCK))


def _limits(blocks: Iterator[NDArray[Any]]) -> tuple[float, float]:
    low, high = math.inf, -math.inf
    for block in blocks:
        finite = block[np.isfinite(block)] if block.dtype.kind == "f" else block
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def range_of_limits(low: float, high: float, *, fractions: bool) -> ValueRange:
    """`automatic_range` of an image with these extreme values; ``fractions`` says whether they are no whole numbers."""
    largest = max(high, -low)
    if fractions and largest <= 2:
        upper: float = 1
    else:
        upper = next((2**bits - 1 for bits in BITS if largest < 2**bits), largest)
    return (-upper if -low > upper / 10 else 0, upper)


def _scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    clipped = np.clip(np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low), low, high)
    if high - low > 1e300:  # 255 times as much would overflow
        clipped, low, high = clipped / 1e10, low / 1e10, high / 1e10
    return np.floor(255 * (clipped - low) / (high - low) + 0.5).astype(np.uint8)


# --------------------------------------------------------------------------------------------- arrays and PIL images


def from_array(values: NDArray[Any], value_range: ValueRange | None = None) -> NDArray[np.uint8]:
    """(H, W), (H, W, 1), (H, W, 3) or (H, W, 4) values of any number type as (H, W, 3) uint8 RGB, by `to_8_bits`.

    Grey is repeated, a fourth channel (transparency) is dropped. Raises `UserError` for another shape or type.
    """
    shape = values.shape
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))) or not values.size or values.dtype.kind not in "buif":
        raise UserError(
            f"an image array must be (height, width, 3) RGB, (height, width, 4) RGBA or (height, width) numbers, "
            f"got {shape} {values.dtype}"
        )
    if len(shape) == 3 and shape[2] == 4:
        values = values[:, :, :3]
    pixels = to_8_bits(values, value_range).reshape(*shape[:2], -1)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def from_pillow(image: Image.Image, value_range: ValueRange | None = None, *, exif: bool = True) -> NDArray[np.uint8]:
    """A PIL image as (H, W, 3) uint8 RGB, turned upright by its EXIF orientation unless ``exif`` is False.

    Values of more than 8 bits are converted by `to_8_bits`; transparency is dropped. Of colours of 16 bits Pillow reads the upper
    8. Raises what Pillow raises for damaged files.
    """
    values = _StoredValues(image)
    if value_range is None and values.deep:
        value_range = range_of_limits(*_limits(block for _, block in values.blocks()), fractions=image.mode == "F")
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for rows, block in values.blocks():
        converted = to_8_bits(block, value_range)
        pixels[rows] = converted if converted.ndim == 3 else converted[:, :, None]
    turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1)) if exif else None
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


class _StoredValues:
    """The values of a PIL image: (h, W) of more than 8 bits, or (h, W, 3) RGB, some rows after the others."""

    def __init__(self, image: Image.Image) -> None:
        self.deep = _is_deep(image)
        self._upper_bits = _has_upper_bits_alone(image)
        self._scale = _inverse_scale(image)
        image.load()
        self._image = image
        self._grey = image.getbands() in (("I",), ("F",))

    def blocks(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Rows, and their values."""
        width, height = self._image.size
        step = max(1, _BLOCK // width)
        for top in range(0, height, step):
            bottom = min(top + step, height)
            yield slice(top, bottom), self._values_of(self._image.crop((0, top, width, bottom)))

    def _values_of(self, part: Image.Image) -> NDArray[Any]:
        if self._grey:
            values = np.asarray(part)
            return values if self._scale is None else np.rint(values * self._scale).astype(np.int64)
        pixels = np.asarray(part.convert("RGB"))
        return pixels * np.uint16(257) if self._upper_bits else pixels


def _has_upper_bits_alone(image: Image.Image) -> bool:
    """Whether Pillow will read the upper 8 of 16 bits: it knows no deeper colours. Not known of an image that is loaded."""
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _is_deep(image: Image.Image) -> bool:
    """Whether the values have more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16") or _has_upper_bits_alone(image)


def _inverse_scale(image: Image.Image) -> float | None:
    """What gives a PGM file's values back, which Pillow scales so that the highest that is possible becomes 65535."""
    if image.format != "PPM" or image.mode != "I" or not getattr(image, "tile", ()):
        return None
    arguments = image.tile[0][3]  # type: ignore[attr-defined]
    return arguments[1] / 65535 if isinstance(arguments, tuple) else None


# ------------------------------------------------------------------------------------------------------------ files


class _QuietDecoders:
    """Inside the block, also of several threads at once, warnings of decoders are ignored.

    ``warnings.catch_warnings`` in two threads would leave the filters of one behind for the whole program.
    """

    _MODULES = r"(PIL|torchvision|boxwood\.pixels)\b"
    _FILTER = ("ignore", None, Warning, re.compile(_MODULES), 0)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._lists: list[Any] = []
        """The lists of filters to which the filter was added: code that catches warnings replaces the list for a while."""

    def __enter__(self) -> None:
        with self._lock:
            self._blocks += 1
            if self._FILTER not in warnings.filters:
                warnings.filterwarnings("ignore", module=self._MODULES)
                self._lists.append(warnings.filters)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._blocks -= 1
            if self._blocks == 0:
                for filters in (*self._lists, warnings.filters) if self._lists else ():
                    if self._FILTER in filters:
                        filters.remove(self._FILTER)
                self._lists.clear()


quiet_decoders = _QuietDecoders()
"""``with quiet_decoders:`` around what decodes images."""


def is_image_source(value: Any) -> TypeGuard[ImageSource]:
    """Whether a value is an `ImageSource`."""
    return isinstance(value, str | Path | bytes | bytearray | memoryview) or hasattr(value, "read")


def located(source: ImageSource | InMemory) -> Location:
    """The path, or the content of what is in memory. Raises `UserError` where a file object cannot be read."""
    if isinstance(source, str | Path | InMemory):
        return source
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
        return InMemory(f"image of {len(content):,} bytes", content)
    name = getattr(source, "name", None)
    try:
        if hasattr(source, "seekable") and source.seekable():
            source.seek(0)
        content = source.read()
    except (OSError, ValueError) as error:  # such as a file that has been closed
        raise UserError(f"{name or 'image'}: the file object cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(content, bytes):
        raise UserError(f"{name or 'image'}: the file object gives text; open the file in binary mode, 'rb'")
    return InMemory(name if isinstance(name, str) else f"image of {len(content):,} bytes", content)


def read_header(source: ImageSource | InMemory) -> ImageHeader:
    """Format and size of an image, without decoding its pixels.

    Raises `UserError` where the file is missing, is in none of the `boxwood.files.IMAGE_FORMATS`, has a side under 2 pixels, more
    than `MAX_PIXELS` pixels, or would take more than `MAX_MEMORY` bytes of memory.
    """
    path = located(source)
    try:
        # Pillow warns of large images and of odd EXIF; the limit is checked below.
        with quiet_decoders, Image.open(_stream(path), formats=IMAGE_FORMATS) as image:
            width, height = image.size
            # The getexif of Pillow's PNG reader decodes all pixels to find tags behind them.
            tags = Image.Image.getexif(image) if image.format == "PNG" else image.getexif()
            orientation = tags.get(_ORIENTATION, 1)
            form = image.format or ""
            deep = _is_deep(image)
            memory = _memory(image, turned=orientation in _UPRIGHT)
    except Image.DecompressionBombError as error:
        digits = re.search(r"\d+", str(error))
        raise _too_large(path, int(digits.group()) if digits else None) from None
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        reason = (error.strerror or "").lower()
        raise UserError(f"{path}: the image cannot be read ({reason}); correct its name or the image folder") from None
    except UnidentifiedImageError:
        raise _unidentified(path) from None
    except Exception as error:  # Damaged files make Pillow's readers raise whatever they stumble over.
        raise _damaged(path, error) from None
    if width * height > MAX_PIXELS:
        raise _too_large(path, width * height)
    if memory > MAX_MEMORY:
        raise UserError(
            f"{path}: decoding the image of {width} x {height} pixels would take {memory / 2**30:.1f} GiB of memory, over the "
            f"{MAX_MEMORY / 2**30:g} GiB that are accepted; cut it into tiles or scale it down"
        )
    if min(width, height) < 2:
        raise UserError(f"{path}: the image is {width} x {height} pixels; both sides must have at least 2, so remove or replace it")
    return ImageHeader(form, (height, width), (width, height) if orientation in _TURNED else (height, width), deep)


def decode_image(source: ImageSource | InMemory, value_range: ValueRange | None = None, *, exif: bool = True) -> NDArray[np.uint8]:
    """Read an image file with Pillow, as (H, W, 3) uint8 RGB (`from_pillow`). Of several pages or frames the first is read.

    Raises `UserError` in the cases of `read_header`, and where the pixels are truncated or damaged.
    """
    path = located(source)
    read_header(path)
    try:
        with quiet_decoders, Image.open(_stream(path), formats=IMAGE_FORMATS) as opened:
            return from_pillow(opened, value_range, exif=exif)
    except Exception as error:  # As above: a damaged file may raise anything.
        raise _damaged(path, error) from None


class StoredPixels(NamedTuple):
    """What is in an image file besides what is read of it."""

    limits: tuple[float, float] | None
    """The lowest and the highest finite value where values have more than 8 bits."""
    fractions: bool
    """Whether the values are no whole numbers."""
    all_finite: bool
    """Whether no value is NaN or infinite."""
    several_pages: bool
    """Whether the file has other pages or frames than the first, which is read."""


def stored_pixels(source: ImageSource | InMemory) -> StoredPixels:
    """What is in an image file besides what is read of it. Raises `UserError` as `decode_image` does."""
    path = located(source)
    read_header(path)
    try:
        with quiet_decoders, Image.open(_stream(path), formats=IMAGE_FORMATS) as opened:
            several = opened.format != "MPO" and bool(getattr(opened, "is_animated", False))
            if not _is_deep(opened):
                return StoredPixels(None, False, True, several)
            values = _StoredValues(opened)
            limits = _limits(block for _, block in values.blocks())
            all_finite = all(bool(np.isfinite(block).all()) for _, block in values.blocks())
            return StoredPixels(limits, opened.mode == "F", all_finite, several)
    except Exception as error:  # As above: a damaged file may raise anything.
        raise _damaged(path, error) from None


def _stream(path: Location) -> Any:
    """What Pillow opens."""
    return io.BytesIO(path.content) if isinstance(path, InMemory) else path


_DECODER_BYTES = {"WEBP": 16, "AVIF": 6, "JPEG2000": 16, "GIF": 2, "TIFF": 4}
"""What Pillow's decoders take for each pixel besides the image, as measured."""


def _memory(image: Any, *, turned: bool) -> int:
    """Bytes that decoding an image takes at its peak, from its header."""
    deep = image.mode.startswith("I;16") or _has_upper_bits_alone(image)
    if image.format in ("JPEG", "MPO"):
        # Where the file has several scans, all coefficients are held: 2 bytes for each sample.
        decoder = 3 + (2 * len(image.getbands()) if _several_scans(image) else 0)
    elif image.format == "PNG":
        decoder = 9 if deep else 3  # 16 bits are decoded as RGB, then converted
    else:
        stored = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
        decoder = 3 + stored + _DECODER_BYTES.get(image.format, 1)
    return int(image.width * image.height * (decoder + 3 * turned)) + _tile_bytes(image)


def _several_scans(image: Any) -> bool:
    """Whether a JPEG is progressive, or its first scan, behind whose header Pillow stops, does not have all components."""
    if image.info.get("progressive"):
        return True
    length = 6 + 2 * len(image.getbands())
    end = image.fp.tell()
    image.fp.seek(max(0, end - length))
    header: bytes = image.fp.read(3)
    image.fp.seek(end)
    return header != bytes([0, length, len(image.getbands())])


def _tile_bytes(image: Any) -> int:
    """Of a TIFF in tiles, which may be larger than the image, the bytes of one."""
    if image.format != "TIFF" or 322 not in image.tag_v2:
        return 0
    return int(image.tag_v2[322]) * int(image.tag_v2.get(323, 1)) * 8


def _too_large(path: Location, pixels: int | None) -> UserError:
    size = f"{pixels:,} pixels" if pixels else f"more than {MAX_PIXELS:,} pixels"
    return UserError(f"{path}: the image has {size}, over the {MAX_PIXELS:,} that are accepted; cut it into tiles or scale it down")


def _unidentified(path: Location) -> UserError:
    if not isinstance(path, InMemory) and (way_out := media_kind(path).way_out):
        return UserError(f"{path}: {way_out}")
    whatever = "" if isinstance(path, InMemory) else ", whatever its name says"
    return UserError(
        f"{path}: is not an image of a format that is read ({', '.join(IMAGE_FORMATS)}){whatever}; "
        "convert it to JPEG or PNG, or remove it"
    )


def _damaged(path: Location, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: the image is truncated or damaged ({reason}); replace the file or take it out of the data set")
