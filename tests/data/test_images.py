"""Reading images: the pixels equal Pillow's in every mode, and unusable files give an error of one line."""

from __future__ import annotations

import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from boxwood.data import images
from boxwood.data.images import read_header, read_image
from boxwood.errors import UserError


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
    Image.fromarray(high.astype(np.uint16) * 256 + 99).save(tmp_path / "deep.png")
    read = read_image(tmp_path / "deep.png")
    np.testing.assert_array_equal(read.numpy(), np.stack([high] * 3))
    np.testing.assert_array_equal(images._read_with_pillow(tmp_path / "deep.png", True).numpy(), np.stack([high] * 3))


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
