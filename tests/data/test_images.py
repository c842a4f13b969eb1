"""Reading images: the pixels equal Pillow's in every mode, and unusable files give an error of one line."""

from __future__ import annotations

import io
import os
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageOps

from boxwood.data.images import IMAGE_FORMATS, read_header, read_image
from boxwood.drawing import draw_instances
from boxwood.errors import UserError
from boxwood.pixels import decode_image


@pytest.fixture
def photo() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "jpg"), ("L", "jpg"), ("CMYK", "jpg"), ("RGB", "png"), ("L", "png"), ("P", "png"),
     ("RGBA", "png"), ("LA", "png"), ("1", "png"),
     ("RGB", "bmp"), ("P", "gif"), ("RGBA", "webp")],
)  # fmt: skip
def test_every_mode_gives_pillows_rgb(mode: str, suffix: str, photo: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    photo.convert(mode).save(path)
    read = read_image(path)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB"))
    assert read.shape == (3, 60, 80)
    np.testing.assert_array_equal(read.permute(1, 2, 0).numpy(), expected)


def test_16_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    high = np.arange(60, dtype=np.uint8).reshape(6, 10) * 4
    Image.fromarray(high.astype(np.uint16) * 257 + 99).save(tmp_path / "deep.png")
    read = read_image(tmp_path / "deep.png")
    np.testing.assert_array_equal(read.numpy(), np.stack([high] * 3))
    np.testing.assert_array_equal(decode_image(tmp_path / "deep.png"), np.stack([high] * 3, axis=2))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, suffix: str, photo: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.save(path, exif=exif, lossless=True) if suffix == "webp" else photo.save(path, exif=exif)
    with Image.open(path) as opened:
        stored, upright = np.asarray(opened), np.asarray(ImageOps.exif_transpose(opened))
    np.testing.assert_array_equal(read_image(path).permute(1, 2, 0).numpy(), upright)
    np.testing.assert_array_equal(read_image(path, exif=False).permute(1, 2, 0).numpy(), stored)
    header = read_header(path)
    assert (header.stored, header.oriented) == ((60, 80), upright.shape[:2])


def test_pillow_reads_images_without_a_decoder_of_torchvision(
    photo: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo.save(tmp_path / "a.jpg")
    fast = read_image(tmp_path / "a.jpg")
    monkeypatch.delattr("torchvision.io.decode_image")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg").numpy(), fast.numpy())


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (13_400, 13_400)])
def test_a_huge_image_is_refused_before_it_is_decoded(width: int, height: int, tmp_path: Path) -> None:
    # 30,000 x 30,000 pixels are over twice Pillow's limit, 13,400 x 13,400 only over Boxwood's.
    path = tmp_path / "huge.png"
    path.write_bytes(_png_header(width, height))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=rf"huge.png: the image has {width * height:,} pixels, over the 178,956,970"):
        read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_unusable_image_files_are_errors_of_one_line(photo: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "nothing.png").write_bytes(b"")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    Image.new("RGB", (40, 1)).save(tmp_path / "line.png")
    for suffix in ("jpg", "png", "webp"):
        photo.save(tmp_path / f"whole.{suffix}")
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    for name, message in {
        "missing.jpg": "cannot be read .no such file",
        ".": "cannot be read .is a directory",
        "text.jpg": "is not an image",
        "nothing.png": "is not an image",
        "dot.png": "1 x 1 pixels",
        "line.png": "40 x 1 pixels",
        "cut.jpg": "truncated or damaged",
        "cut.png": "truncated or damaged",
        "cut.webp": "truncated or damaged",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


HEADERS = {  # of formats that Pillow opens but does not write
    "BUFR": b"BUFR" + bytes(60),
    "CUR": b"\0\0\2\0\1\0"
    + bytes([8, 8, 0, 0, 0, 0, 0, 0, 56, 0, 0, 0, 22, 0, 0, 0])
    + struct.pack("<IiiHHIIiiII", 40, 8, 16, 1, 1, 0, 0, 0, 0, 0, 0),
    "DCX": struct.pack("<III", 0x3ADE68B1, 12, 0),
    "FITS": b"".join(
        card.ljust(80) for card in (b"SIMPLE  = T", b"BITPIX  = 8", b"NAXIS   = 2", b"NAXIS1  = 8", b"NAXIS2  = 8", b"END")
    ).ljust(2880),
    "FLI": struct.pack("<IHHHHHHI", 128, 0xAF11, 1, 8, 8, 8, 3, 70) + bytes(108),
    "FTEX": b"FTEX" + struct.pack("<IiiIIiiI", 0, 8, 8, 1, 1, 1, 40, 192) + bytes(300),
    "GBR": struct.pack(">IIIII", 21, 1, 8, 8, 1) + b"\0" * 65,
    "GRIB": b"GRIB\0\0\0\1" + bytes(60),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "MCIDAS": b"\0\0\0\0\0\0\0\4" + bytes(248),
    "MPEG": b"\0\0\1\xb3" + bytes([0, 128, 8]) + bytes(60),
    "PCD": bytes(2048) + b"PCD_" + bytes(100_000),
    "PIXAR": b"\200\350\000\000" + bytes(600),
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(60),
    "SUN": struct.pack(">IIIIIIII", 0x59A66A95, 8, 8, 8, 64, 1, 0, 0) + bytes(64),
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<hhhhH", 0, 0, 80, 80, 72) + bytes(6) + b"\1\0\t\0" + bytes(60),
    "XPM": b'/* XPM */\nstatic char *a[] = {\n"2 2 1 1",\n". c #000000",\n"..",\n"..",\n};\n',
    "XVTHUMB": b"P7 332\n#END_OF_COMMENTS\n8 8 255\n" + bytes(64),
}


def _files_of_all_formats(photo: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Pillow's name and a file of every format that Pillow writes or that is in `HEADERS`."""
    Image.init()
    for name in sorted(Image.SAVE):
        for mode in ("RGB", "P", "L", "1", "F"):
            stream = io.BytesIO()
            try:
                picture = photo.convert(mode)
                more = {"save_all": True, "append_images": [picture]} if name == "MPO" else {}
                picture.save(stream, format=name, **more)
            except (OSError, ValueError):  # this format has no such mode, or no writer of its own
                continue
            yield name, stream.getvalue()
            break
    yield from HEADERS.items()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The commands that Pillow tried to start. Ghostscript seems to be installed."""
    commands: list[object] = []

    def start(command: object, *_: object, **__: object) -> None:
        commands.append(command)
        raise OSError("no program may be started")

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    for name in ("Popen", "call", "check_call", "check_output", "run"):
        monkeypatch.setattr(subprocess, name, start)
    monkeypatch.setattr(os, "system", start)
    return commands


def _draw(source: str | Path | bytes) -> Image.Image:
    return draw_instances(source, boxes=np.zeros((0, 4)), labels=[], names=[])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Pillow will drop some formats
def test_every_format_is_read_or_refused_in_one_line_and_starts_no_program(
    photo: Image.Image, tmp_path: Path, started: list[object]
) -> None:
    path = tmp_path / "photo.jpg"
    read, refused = set(), set()
    for name, content in _files_of_all_formats(photo):
        path.write_bytes(content)
        if name in (*IMAGE_FORMATS, "MPO"):
            read.add(name)
            assert read_header(path).oriented == (60, 80), name
            assert read_image(path).shape == read_image(content).shape == (3, 60, 80), name
            assert _draw(path).size == _draw(content).size == (80, 60), name
            continue
        refused.add(name)
        calls: tuple[tuple[Callable[..., object], str], ...] = (
            (read_header, "photo.jpg: is not an image of a format that is read"),
            (read_image, "photo.jpg: is not an image of a format that is read"),
            (_draw, "photo.jpg: is not an image of a format that is read"),
        )
        for call, message in calls:
            with pytest.raises(UserError, match=message) as caught:
                call(path)
            assert "JPEG, PNG, WEBP" in str(caught.value) and "\n" not in str(caught.value), name
    assert read == {*IMAGE_FORMATS, "MPO"}
    assert {"EPS", "PDF", "PSD", "TGA", "ICO", "WMF"} <= refused
    assert not started


@pytest.mark.parametrize("name", sorted(HEADERS))
def test_pillow_would_try_the_headers_without_a_list_of_formats(name: str) -> None:
    Image.init()
    accept = Image.OPEN[name][1]
    assert accept is None or accept(HEADERS[name][:16])


def png_of_16_bits(height: int, width: int, channels: int) -> bytes:
    """Random values, written without a library."""
    values = np.random.default_rng(0).integers(0, 65536, (height, width * channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, content) for name, content in chunks)


def png_chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)


READER = """
import sys
from boxwood.data.images import read_image
from boxwood.errors import UserError
for path in sys.argv[1:]:
    try:
        read_image(path)
    except UserError as error:
        assert path in str(error)
print("done")
"""


def test_a_damaged_png_or_jpeg_ends_no_process(tmp_path: Path) -> None:
    """An error of libpng in torchvision's decoder is a segmentation fault. Also with checksums that are right."""
    random = np.random.default_rng(0)
    colours = Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    sound = {"deep": png_of_16_bits(30, 20, 3), "grey": png_of_16_bits(30, 20, 1)}
    for name in ("png", "jpeg"):
        colours.save(tmp_path / name, format=name)
        sound[name] = (tmp_path / name).read_bytes()
    paths = []
    for name, content in sound.items():
        for number in range(40):
            changed = bytearray(content)
            start, length = int(random.integers(33, len(content))), int(random.choice([1, 4, 400]))
            changed[start : start + length] = random.integers(
                0, 256, len(changed[start : start + length]), dtype=np.uint8
            ).tobytes()
            paths.append(tmp_path / f"{name}{number}.x")
            paths[-1].write_bytes(changed if number % 2 else content[:start])
        if name != "jpeg":
            pixels = content[41:-16]
            for number, inside in enumerate(
                (pixels[:-4] + b"0000", pixels[:40], zlib.compress(b"\7" * 9999), zlib.compress(b""), b"")
            ):
                paths.append(tmp_path / f"{name}-sums-{number}.x")
                paths[-1].write_bytes(content[:33] + png_chunk(b"IDAT", inside) + content[-12:])
    done = subprocess.run([sys.executable, "-c", READER, *map(str, paths)], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_keeps_its_upper_bits(channels: int, tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(png_of_16_bits(5, 7, channels))
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, channels))
    colours = values[..., :3] if channels > 2 else values[..., :1].repeat(3, axis=2)
    expected = np.round(colours / 65535 * 255)
    assert np.abs(read_image(path).permute(1, 2, 0).numpy() - expected).max() <= 1
