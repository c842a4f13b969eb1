"""Detected dense pose beside numbers of detectron2's program: maps in the pixels of the image, stored, mirrored, drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from boxwood.dense_pose import DetectedDensePose, Symmetry, decode_png, encode_png, iso_lines, part_colors, surface_layer
from boxwood.errors import UserError
from boxwood.evaluation.dense_pose import _placed
from boxwood.fields import Affine

FACTS = Path(__file__).parent / "facts" / "dense_pose"


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    arrays = np.load(FACTS / "decode.npz")
    return {name: torch.from_numpy(arrays[name].astype(np.float32) if "pred." in name else arrays[name]) for name in arrays.files}


def detected(golden: dict[str, torch.Tensor], coarse: int, symmetry: Symmetry | None = None) -> DetectedDensePose:
    kinds = [golden[f"pred.{name}"] for name in (f"coarse{coarse}", "fine_segm", "u", "v")]
    return DetectedDensePose(torch.cat(kinds, dim=1), coarse, symmetry=symmetry)


@pytest.mark.parametrize("coarse", [2, 15])
def test_maps_in_the_pixels_of_the_image_are_detectron2s(golden: dict[str, torch.Tensor], coarse: int) -> None:
    field, size = detected(golden, coarse), tuple(golden["image_hw"].tolist())
    masks = np.unpackbits(golden[f"coarse{coarse}.mask"].numpy(), axis=-1)[..., : size[1]]
    for row, box in enumerate(golden["boxes"].tolist()):
        parts, uv = field.surface(row, box)
        assert torch.equal(parts, golden[f"coarse{coarse}.labels.{row}"].long())
        if f"coarse{coarse}.uv.{row}" in golden:
            torch.testing.assert_close(uv, golden[f"coarse{coarse}.uv.{row}"], rtol=1e-5, atol=1e-5)
        x1, y1, x2, y2 = box
        placed = _placed(parts.numpy() > 0, np.array([x1, y1, x2 - x1, y2 - y1]), size)  # type: ignore[arg-type]
        assert np.array_equal(placed, masks[row] > 0)
    for row, record in enumerate(field.records(golden["boxes"], size)):  # type: ignore[arg-type]
        planes = decode_png(record["uv_data"], record["uv_shape"])
        assert np.array_equal(planes, golden[f"coarse{coarse}.iuv_uint8.{row}"].numpy())


def test_what_detectron2_stores_is_read(golden: dict[str, torch.Tensor]) -> None:
    stored = json.loads((FACTS / "compressed_result.json").read_text())
    planes = decode_png(stored["labels_uv_str"], stored["shape_chw"])
    assert np.array_equal(planes, golden["coarse2.iuv_uint8.0"].numpy())
    assert np.array_equal(decode_png(encode_png(planes), planes.shape), planes)


def test_mirrored_maps_are_detectron2s(golden: dict[str, torch.Tensor]) -> None:
    flips = np.load(FACTS / "flip.npz")
    v, u = np.meshgrid(np.arange(256) / 255, np.arange(256) / 255, indexing="ij")
    tables = [
        np.clip(c[:, 0, None, None] + c[:, 1, None, None] * u + c[:, 2, None, None] * v, 0, 1).astype(np.float32)
        for c in (flips["coef_u"], flips["coef_v"])
    ]
    symmetry = Symmetry(*map(torch.from_numpy, tables))
    for coarse in (2, 15):
        field = detected(golden, coarse, symmetry)
        mirrored = field[torch.tensor([0])].transformed(Affine.flip((70, 64)))
        names = (f"coarse{coarse}", "fine_segm", "u", "v")
        expected = torch.cat([torch.from_numpy(flips[f"pred_flipped.{name}"]).float() for name in names], dim=1)
        torch.testing.assert_close(mirrored.maps, expected, rtol=1e-6, atol=1e-6)
        upside_down = field.transformed(Affine(1.0, 0.0, -1.0, 70.0, (70, 64)))
        both = upside_down.transformed(Affine(-1.0, 64.0, -1.0, 70.0, (70, 64)))  # and by 180 degrees
        torch.testing.assert_close(both.maps[:1], expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(UserError, match="symmetry"):
        detected(golden, 2).transformed(Affine.flip((70, 64)))


def test_parts_are_drawn_in_colours_with_lines_of_equal_u_and_v() -> None:
    maps = torch.zeros(1, 77, 8, 8)
    maps[:, 1] = 1.0
    maps[:, 2 + 3] = 1.0
    maps[:, 27 + 3] = torch.linspace(0.04, 0.96, 8)  # U grows to the right
    maps[:, 52 + 3] = torch.linspace(0.04, 0.96, 8)[:, None]
    picture = Image.new("RGB", (100, 90), (100, 100, 100))
    DetectedDensePose(maps, 2).draw(picture, 0, (10.0, 5.0, 90.0, 85.0), (255, 0, 0), 1)
    pixels: Any = np.asarray(picture).astype(int)
    assert (pixels[:5] == 100).all() and (pixels[:, :10] == 100).all() and (pixels[:, 90:] == 100).all()
    hue = (0.35 * 100 + 0.65 * part_colors()[3]).astype(int)
    inside = pixels[5:85, 10:90]
    assert (np.abs(inside - hue).max(axis=2) <= 1).mean() > 0.7
    dark, light = (inside == 30).all(axis=2), (inside == 245).all(axis=2)
    assert dark.any(axis=0).sum() == 9 and light.any(axis=1).sum() == 9  # between ten steps


def test_small_parts_have_fewer_lines() -> None:
    """Of 10, 5 or 2 steps the most whose lines cover no more than 0.35 of the part: 9 / n + 9 / n and so on of n x n pixels."""
    counted = {}
    for side in (60, 30, 12, 4):
        v, u = np.meshgrid((np.arange(side) + 0.5) / side, (np.arange(side) + 0.5) / side, indexing="ij")
        layer = surface_layer(np.full((side, side), 2), u.astype(np.float32), v.astype(np.float32))
        pixels = np.asarray(layer.convert("RGBA")).astype(int)
        dark, light = (pixels == [30, 30, 30, 255]).all(axis=2), (pixels == [245, 245, 245, 255]).all(axis=2)
        counted[side] = (int(dark.any(axis=0).sum()), int(light.any(axis=1).sum()))
    assert counted == {60: (9, 9), 30: (4, 4), 12: (1, 1), 4: (0, 0)}


def test_a_layer_is_clear_beside_the_body_and_at_parts_without_a_colour() -> None:
    layer = surface_layer(np.array([[0, 1, 30, 200, 201, 255]]), *np.zeros((2, 1, 6), dtype=np.float32))
    pixels = np.asarray(layer.convert("RGBA"))
    assert pixels[0, :, 3].tolist() == [0, 166, 166, 166, 0, 0]
    assert pixels[0, 1, :3].tolist() == part_colors()[1].astype(np.uint8).tolist()


def test_lines_do_not_run_along_the_borders_of_parts() -> None:
    parts = np.array([[1, 1, 2, 2, 0]])
    assert iso_lines(np.array([[0.05, 0.35, 0.95, 0.96, 0.0]], dtype=np.float32), parts).tolist() == [
        [True, False, False, False, False]
    ]


def test_a_detection_at_the_border_and_one_without_extent_are_drawn() -> None:
    field = DetectedDensePose(torch.randn(1, 77, 4, 4, generator=torch.Generator().manual_seed(0)), 2)
    picture = Image.new("RGB", (20, 20))
    for box in ((0.0, 0.0, 20.0, 20.0), (5.0, 5.0, 5.2, 5.1), (15.5, 15.5, 20.0, 20.0)):
        field.draw(picture, 0, box, (1, 2, 3), 3)
