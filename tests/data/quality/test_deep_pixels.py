"""``boxwood data check --decode`` on images of more than 8 bits: ranges, contrast, pages, values that are not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import boxwood
from boxwood.data.coco_file import read_coco_file
from boxwood.data.quality.deep_pixels import look_at_values
from tests.data.cases import sound, write

RAMP = np.linspace(0, 1, 40 * 60).reshape(40, 60)


def found(folder: Path, values: dict[str, Any], value_range: tuple[float, float] | None = None) -> list[str]:
    """The findings where the images of these names have these values, of any number type and size."""
    tree = sound()
    path = write(folder, tree)
    for row in tree["images"]:
        if row["file_name"] in values:
            Image.fromarray(values[row["file_name"]]).save(folder / row["file_name"], format="TIFF")
    return [str(finding) for finding in look_at_values(read_coco_file(path), folder, value_range)]


def test_8_bits_have_no_findings(tmp_path: Path) -> None:
    assert found(tmp_path, {}) == []


def test_one_range_of_all_images(tmp_path: Path) -> None:
    values = {"wide.png": (RAMP * 4000 + 60).astype(np.uint16), "tall.png": (RAMP * 2000).astype(np.uint16)}
    (finding,) = found(tmp_path, values)
    assert finding == (
        "2 images of more than 8 bits without a declared range: 'tall.png' has values from 0 to 2000; 'wide.png' has values from "
        "60 to 4060 -- each is read by its own highest value, all with 0 as black and 4095 as white; set "
        "'data.train.value_range=[0, 4095]' 'data.val.value_range=[0, 4095]'"
    )
    assert found(tmp_path, values, (0, 4095)) == []


def test_ranges_that_differ(tmp_path: Path) -> None:
    values = {"wide.png": (RAMP * 4000).astype(np.uint16), "tall.png": (RAMP * 900).astype(np.uint16)}
    (finding,) = found(tmp_path, values)
    assert "equal values differ in brightness" in finding
    assert "'tall.png' has values from 0 to 900; 'wide.png' has values from 0 to 4000" in finding


def test_images_of_nearly_one_grey(tmp_path: Path) -> None:
    """A thermal camera's: the values lie in a narrow band of 16 bits."""
    values = {"wide.png": (RAMP * 2000 + 30_000).astype(np.uint16)}
    flat, undeclared = found(tmp_path, values)
    assert "1 images of more than 8 bits that are nearly of one grey" in flat and "of 255 greys" in flat
    assert "'data.train.value_range=[30000, 32000]' 'data.val.value_range=[30000, 32000]'" in flat
    assert "without a declared range" in undeclared
    (dark,) = found(tmp_path, {"wide.png": (RAMP * 900).astype(np.uint16)}, (0, 65535))
    assert "read as 3 of 255 greys" in dark
    assert found(tmp_path, values, (30_000, 32_000)) == []


def test_floats_and_values_that_are_not_finite(tmp_path: Path) -> None:
    values = RAMP.astype(np.float32)
    values[3, 4] = np.nan
    ranges, not_finite = found(tmp_path, {"wide.png": values})
    assert "with 0 as black and 1 as white" in ranges and "value_range=[0, 1]" in ranges
    assert not_finite.startswith("1 images with values that are not finite: wide.png")


def test_several_pages(tmp_path: Path) -> None:
    path = write(tmp_path, sound())
    pages = [Image.new("RGB", (60, 40), grey) for grey in ("gray", "white")]
    pages[0].save(tmp_path / "wide.png", format="TIFF", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "tall.png", format="MPO", save_all=True, append_images=pages[1:])  # a phone's photo
    (tmp_path / "empty.png").write_bytes(b"no picture")  # named by another check
    (finding,) = look_at_values(read_coco_file(path), tmp_path, None)
    assert str(finding).startswith("1 image files of several pages or frames: wide.png -- the first of each is read")


@pytest.mark.parametrize("decode", [False, True])
def test_data_check_names_them_where_it_decodes(tmp_path: Path, decode: bool) -> None:
    path = write(tmp_path, sound())
    Image.fromarray((RAMP * 900).astype(np.uint16)).save(tmp_path / "wide.png")
    findings = [finding for finding in boxwood.check(path, images=tmp_path, decode=decode) if "more than 8 bits" in finding.problem]
    assert [finding.verdict for finding in findings] == (["look"] if decode else [])
