"""The conversion of pixel values to 8 bits against arithmetic by hand, and the memory that decoding may take."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from boxwood.data.images import read_image
from boxwood.errors import UserError
from boxwood.pixels import MAX_MEMORY, automatic_range, decode_image, from_array, from_pillow, read_header, to_8_bits

RAMP = np.linspace(0, 1, 48 * 64).reshape(48, 64)


def by_hand(values: Any, low: float, high: float) -> np.ndarray[Any, np.dtype[np.uint8]]:
    clipped = np.clip(np.asarray(values, dtype=np.float64), low, high)
    return np.floor((clipped - low) * 255 / (high - low) + 0.5).astype(np.uint8)


# ------------------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 255], dtype=np.int32), (0, 255)),
        (np.array([0, 256]), (0, 1023)),
        (np.array([66, 866], dtype=np.uint16), (0, 1023)),
        (np.array([0, 1024], dtype=np.uint16), (0, 4095)),
        (np.array([266, 3466], dtype=np.uint16), (0, 4095)),
        (np.array([0, 16383], dtype=np.uint16), (0, 16383)),
        (np.array([0, 65535], dtype=np.uint16), (0, 65535)),
        (np.array([0, 65536]), (0, 2**24 - 1)),
        (np.array([-1024, 3071], dtype=np.int16), (-4095, 4095)),
        (np.array([-3, 4000], dtype=np.int16), (0, 4095)),
        (np.array([0.0, 0.1]), (0, 1)),
        (np.array([0.0, 1.2]), (0, 1)),
        (np.array([-0.02, 0.9]), (0, 1)),
        (np.array([-1.0, 1.0]), (-1, 1)),
        (np.array([0.0, 254.5]), (0, 255)),
        (np.array([0.0, np.nan, np.inf, 900]), (0, 1023)),
        (np.array([np.nan]), (0, 1)),
        (np.array([0.0, 1e30]), (0, 1e30)),
    ],
)
def test_the_range_of_an_image_of_which_none_is_declared(values: Any, expected: tuple[float, float]) -> None:
    assert automatic_range(values) == expected


@given(
    arrays.arrays(
        st.sampled_from([np.int8, np.uint16, np.int16, np.int32, np.uint32, np.int64, np.float32, np.float64]),
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
    ),
    st.none() | st.tuples(st.integers(-5000, 0), st.integers(1, 70_000)),
)
def test_every_type_is_scaled_and_clipped(values: Any, value_range: tuple[float, float] | None) -> None:
    low, high = value_range or automatic_range(values)
    converted = to_8_bits(values, value_range)
    assert converted.shape == values.shape and converted.dtype == np.uint8
    numbers = values.astype(np.float64)
    expected = np.nan_to_num(np.rint((np.clip(numbers, low, high) / high - low / high) / (1 - low / high) * 255))
    assert np.abs(converted - expected).max() <= 1  # halves may be rounded either way in other arithmetic


def test_uint8_and_bool_stay_whatever_the_range() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert to_8_bits(values, (0, 4095)) is values
    assert to_8_bits(values > 99).tolist() == np.where(values > 99, 255, 0).tolist()
    assert to_8_bits(np.array([np.nan, np.inf, -np.inf, 0.5])).tolist() == [0, 255, 0, 128]


def test_arrays_become_rgb() -> None:
    grey = (RAMP * 4095).astype(np.uint16)
    rgb = np.stack([grey, grey // 2, grey // 4], axis=2)
    expected = by_hand(rgb, 0, 4095)
    np.testing.assert_array_equal(from_array(rgb), expected)
    np.testing.assert_array_equal(from_array(grey), np.stack([by_hand(grey, 0, 4095)] * 3, axis=2))
    np.testing.assert_array_equal(from_array(grey[:, :, None]), from_array(grey))
    transparent = np.concatenate([rgb, np.full_like(rgb[:, :, :1], 65535)], axis=2)
    np.testing.assert_array_equal(from_array(transparent), expected)  # the range is that of the colours


# ------------------------------------------------------------------------------------------------- files and PIL images

DEEP = {
    "10 bits.tif": (np.uint16, 1000, (0, 1023)),
    "12 bits.png": (np.uint16, 4000, (0, 4095)),
    "12 bits.tif": (np.uint16, 4000, (0, 4095)),
    "16 bits.png": (np.uint16, 60_000, (0, 65535)),
    "8 of 32 bits.tif": (np.int32, 250, (0, 255)),
    "16 of 32 bits.tif": (np.int32, 60_000, (0, 65535)),
    "shares.tif": (np.float32, 1, (0, 1)),
    "floats.tif": (np.float32, 250, (0, 255)),
    "12 bits.pgm": (np.uint16, 4000, (0, 4095)),
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("declared", [None, (20, 700)])
def test_files_of_more_than_8_bits(name: str, declared: tuple[float, float] | None, tmp_path: Path) -> None:
    """By path, as bytes, and as a PIL image before and after it is loaded."""
    kind, highest, automatic = DEEP[name]
    values = (RAMP * highest).astype(kind)
    path = tmp_path / name
    if path.suffix == ".pgm":
        path.write_bytes(b"P5\n64 48\n4095\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    expected = np.stack([by_hand(values, *(declared or automatic))] * 3)
    np.testing.assert_array_equal(read_image(path, value_range=declared).numpy(), expected)
    np.testing.assert_array_equal(read_image(path.read_bytes(), value_range=declared).numpy(), expected)
    np.testing.assert_array_equal(decode_image(path, declared).transpose(2, 0, 1), expected)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(from_pillow(opened, declared).transpose(2, 0, 1), expected)
    if path.suffix != ".pgm":
        np.testing.assert_array_equal(from_pillow(Image.fromarray(values), declared).transpose(2, 0, 1), expected)


def png_of_16_bits(values: Any, colour: int) -> bytes:
    """A PNG with (H, W, C) values, written by hand: Pillow writes no colours of 16 bits."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return _png(values.shape[1], values.shape[0], colour, zlib.compress(rows))


def _png(width: int, height: int, colour: int, compressed: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", compressed) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("highest", [4095, 65535])
def test_png_of_16_bits_with_colours_and_transparency(colour: int, channels: int, highest: int) -> None:
    values = np.stack([np.rint(RAMP * highest) // (1 + c % 3) for c in range(channels)], axis=2).astype(np.uint16)
    content = png_of_16_bits(values, colour)
    shown = values[:, :, :3] if channels > 2 else np.repeat(values[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(read_image(content).permute(1, 2, 0).numpy(), by_hand(shown, 0, highest))
    # Pillow alone reads the upper 8 bits of colours: 16 levels of 12 bits, as bright.
    coarse = decode_image(content).astype(int)
    assert np.abs(coarse - by_hand(shown, 0, highest)).max() <= (0 if colour == 0 else 17 if highest == 4095 else 1)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large images are converted in parts; a range is that of the whole image."""
    stream = io.BytesIO()
    grey = (RAMP * 4000).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grey).save(stream, format="TIFF", exif=exif)
    whole, floats = decode_image(stream), to_8_bits(RAMP * 250)
    monkeypatch.setattr("boxwood.pixels._BLOCK", 500)
    np.testing.assert_array_equal(decode_image(stream), whole)
    np.testing.assert_array_equal(to_8_bits(RAMP * 250), floats)
    np.testing.assert_array_equal(whole[:, :, 0], np.rot90(by_hand(grey, 0, 4095), -1))


def test_the_first_of_several_pages_is_read(tmp_path: Path) -> None:
    pages = [Image.new("L", (20, 10), grey) for grey in (50, 200)]
    for name in ("a.tif", "a.gif", "a.png", "a.webp"):
        pages[0].convert("RGB").save(tmp_path / name, save_all=True, append_images=[pages[1].convert("RGB")])
        assert abs(int(read_image(tmp_path / name)[0, 5, 5]) - 50) <= 3, name


# ------------------------------------------------------------------------------------------------------------ memory


def test_a_small_png_of_16_bits_with_many_pixels_takes_little_memory(tmp_path: Path) -> None:
    """13,300 x 13,300 zeros: 340 kB that would be gigabytes; measured in a process of its own."""
    compressor = zlib.compressobj(1)
    row = b"\0" * (1 + 2 * 13_300)
    packed = b"".join(compressor.compress(row) for _ in range(200)) + compressor.flush()  # what follows is never reached
    (tmp_path / "deep.png").write_bytes(_png(13_300, 13_300, 0, packed))
    program = (
        "import resource, sys, numpy\n"
        "from boxwood.pixels import decode_image\n"
        "from boxwood.errors import UserError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    decode_image(sys.argv[1])\nexcept UserError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "deep.png")], capture_output=True, text=True, check=True, timeout=60
    )
    message, kilobytes = done.stdout.splitlines()
    assert "deep.png: decoding the image of 13300 x 13300 pixels would take 1.5 GiB of memory, over the 1 GiB" in message
    assert int(kilobytes) < 50_000


def _memory_of(image: Image.Image, form: str, **options: Any) -> int:
    """Bytes a pixel that the header of an encoded image announces."""
    from boxwood import pixels

    stream = io.BytesIO()
    image.save(stream, format=form, **options)
    stream.seek(0)
    with Image.open(stream) as opened:
        return pixels._memory(opened, turned=False) // (image.width * image.height)


def test_the_memory_of_each_kind_of_image() -> None:
    """What is held at once: the file's samples, the coefficients of a JPEG in several scans, the result of 3 bytes a pixel."""
    rgb = Image.new("RGB", (64, 64))
    assert _memory_of(rgb, "JPEG") == 3
    assert _memory_of(rgb, "JPEG", progressive=True) == 9
    assert _memory_of(rgb.convert("CMYK"), "JPEG", progressive=True) == 11
    assert _memory_of(rgb, "PNG") == 3
    assert _memory_of(Image.fromarray(np.zeros((64, 64), np.uint16)), "PNG") == 9
    assert _memory_of(rgb, "BMP") == 8
    assert _memory_of(rgb, "WEBP") == 23


def test_a_jpeg_of_several_scans_is_known_without_being_progressive() -> None:
    """Its first scan has one component of three."""
    from boxwood import pixels

    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, format="JPEG")
    content = stream.getvalue()
    scan = content.index(b"\xff\xda")
    split = content[:scan] + b"\xff\xda" + bytes([0, 8, 1, 1, 0, 0, 63, 0]) + content[scan + 14 :]
    with Image.open(io.BytesIO(split)) as opened:
        assert pixels._memory(opened, turned=False) == 9 * 64 * 64


def test_tiles_larger_than_their_image_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiles.tif"
    tags = {256: 64, 257: 64, 258: 8, 259: 5, 262: 1, 277: 1, 322: 60_000, 323: 60_000, 324: 300, 325: 100}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + bytes(400))
    with pytest.raises(UserError, match=r"tiles.tif: decoding the image of 64 x 64 pixels would take .* GiB"):
        read_header(path)
    assert MAX_MEMORY == 2**30


@pytest.mark.parametrize(("name", "words"), [("a.heic", "magick a.heic a.jpg"), ("a.svg", "export it as PNG")])
def test_a_kind_that_is_not_read_has_a_way_out(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match=words) as error:
        read_image(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)
