"""Dense pose: read from COCO's annotations, transformed with the image, mirrored as detectron2 mirrors it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import boxwood.data.dense_pose as reader
import boxwood.ops.dense_pose as ops
from boxwood.data import CocoConfig, HorizontalFlip, ResizeShortestEdge
from boxwood.data.coco import CocoDataset
from boxwood.data.loader import collate
from boxwood.dense_pose import DensePose, Symmetry, body_mask, coarse_parts, read_symmetry
from boxwood.errors import UserError
from boxwood.fields import Affine
from boxwood.ops.dense_pose import COARSE_OF_PART, MIRRORED_COARSE, MIRRORED_PARTS
from tests.data.cases import sound, write

FACTS = Path(__file__).parents[1] / "facts" / "dense_pose"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return dict(np.load(FACTS / "flip.npz").items())


def tables(golden: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    """The tables that the golden numbers were mirrored with: 24 of 256 x 256."""
    v, u = np.meshgrid(np.arange(256) / 255, np.arange(256) / 255, indexing="ij")
    return [
        np.clip(c[:, 0, None, None] + c[:, 1, None, None] * u + c[:, 2, None, None] * v, 0, 1).astype(np.float32)
        for c in (golden["coef_u"], golden["coef_v"])
    ]


@pytest.fixture(scope="module")
def symmetry(golden: dict[str, Any]) -> Symmetry:
    return Symmetry(*map(torch.from_numpy, tables(golden)))


def rle(size: int = 256) -> dict[str, Any]:
    return {"size": [size, size], "counts": [100, 50, size * size - 150]}


def people() -> dict[str, Any]:
    """Two instances with dense pose, of which one has no coarse parts, and a third without."""
    coco = sound()
    first, crowd, second = coco["annotations"]
    first |= {"dp_x": [0.0, 128.0], "dp_y": [10.5, 256.0], "dp_I": [3.0, 24.0], "dp_U": [0.25, 1.0], "dp_V": [0.0, 0.75],
              "dp_masks": [[], rle(), *[[]] * 12]}  # fmt: skip
    second |= {"dp_x": [64.0], "dp_y": [64.0], "dp_I": [1.0], "dp_U": [0.5], "dp_V": [0.5]}
    del crowd["segmentation"]
    return coco


def test_the_reader_has_the_units_and_the_parts_of_the_targets() -> None:
    """Its numbers stand in the reader once more, which imports no torch."""
    assert (ops.BOX_SIDE, max(ops.COARSE_OF_PART)) == (reader.BOX_SIDE, reader.COARSE_PARTS)


def test_the_lists_of_parts_are_permutations_of_the_sides() -> None:
    for order in (MIRRORED_PARTS, MIRRORED_COARSE):
        assert [order[other] for other in order] == list(range(len(order)))
    # The coarse part of a mirrored part is the mirrored coarse part.
    assert [COARSE_OF_PART[MIRRORED_PARTS[k]] for k in range(25)] == [MIRRORED_COARSE[COARSE_OF_PART[k]] for k in range(25)]


def test_dense_pose_is_read_and_written_back(tmp_path: Path) -> None:
    path = write(tmp_path, people())
    dataset = CocoDataset(path, tmp_path)
    assert dataset.to_coco()["annotations"][0].items() >= people()["annotations"][0].items()
    by_id = {sample.image_id: sample for sample in dataset}  # type: ignore[attr-defined]  # it has __getitem__ and __len__
    field = by_id[3].fields["dense_pose"]
    assert isinstance(field, DensePose)
    assert field.points.tolist() == [[[0, 10.5, 3, 0.25, 0], [128, 256, 24, 1, 0.75]]]
    assert field.boxes.tolist() == [[2, 4, 12, 24.5]]
    assert field.segmentation.sum().item() == 50 * 2 and field.segmentation[0].mT.flatten()[100] == 2  # runs go down the columns
    wide = by_id[70].fields["dense_pose"]
    assert isinstance(wide, DensePose)
    assert wide.annotated.tolist() == [False, True] and wide.segmented.tolist() == [False, False]
    assert len(by_id[5].fields["dense_pose"]) == 0
    batch = collate([by_id[3], by_id[70]], [0, 1], with_targets=True)
    assert batch.targets is not None
    assert [target.fields["dense_pose"].annotated.tolist() for target in batch.targets] == [[True], [True]]  # type: ignore[attr-defined]


def test_a_set_without_dense_pose_has_no_field(tmp_path: Path) -> None:
    assert "dense_pose" not in CocoDataset(write(tmp_path, sound()), tmp_path)[0].fields


def _changed(**keys: Any) -> dict[str, Any]:
    coco = people()
    annotation = coco["annotations"][0]
    for key, value in keys.items():
        if value is None:
            del annotation[key]
        else:
            annotation[key] = value
    return coco


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"dp_V": None}, "'dp_V' must be a list as 'dp_x' beside it, got nothing"),
        ({"dp_I": [3.0]}, "'dp_I' must have 2 numbers, as 'dp_x' has, got 1"),
        ({"dp_I": [3.5, 1.0]}, "'dp_I' must be numbers whole, from 1 to 24, got 3.5"),
        ({"dp_I": [0, 1]}, "'dp_I' must be numbers whole, from 1 to 24, got 0"),
        ({"dp_I": [25, 1]}, "from 1 to 24, got 25"),
        ({"dp_U": [0.5, 1.5]}, "'dp_U' must be numbers from 0 to 1, got 1.5"),
        ({"dp_V": [float("nan"), 0.5]}, "'dp_V' must be numbers from 0 to 1, got nan"),
        ({"dp_x": "12"}, "'dp_x' must be a list of at most 10000 numbers, got '12'"),
        ({"dp_y": [1.0, None]}, "'dp_y' must be a list of at most 10000 numbers"),
        ({"dp_x": [9e9, 1.0]}, "'dp_x' must be numbers from 0 to 256, got 9e+09"),
        ({"dp_masks": [rle(128)]}, "'dp_masks' must be a list of 14 run lengths {'size': [256, 256]"),
        ({"dp_masks": [[]] * 15}, "'dp_masks' must be a list of 14 run lengths"),
        ({"dp_masks": [1]}, "'dp_masks' must be a list of 14 run lengths"),
    ],
)
def test_faulty_dense_pose_is_refused_in_one_line(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    path = write(tmp_path, _changed(**keys), images=False)
    with pytest.raises(UserError) as refused:
        CocoConfig(annotations=str(path), images=str(tmp_path)).open()
    text = str(refused.value)
    assert message in text and f"{path}: " in text and "11" in text and "\n" not in text


def test_a_damaged_mask_is_named_where_the_sample_is_read(tmp_path: Path) -> None:
    coco = _changed(dp_masks=[{"size": [256, 256], "counts": [5, 7]}])
    dataset = CocoDataset(write(tmp_path, coco), tmp_path)
    with pytest.raises(UserError, match=r"'dp_masks' beside annotation 11 .*cannot be decoded"):
        dataset[1]


def test_coarse_parts_and_one_mask_of_a_body(golden: dict[str, Any]) -> None:
    masks = json.loads((FACTS / "dp_masks.json").read_text())
    assert np.array_equal(coarse_parts(masks), golden["segm"])
    assert np.array_equal(body_mask(masks), golden["segm"] > 0)
    assert coarse_parts(rle()).max() == 1


# ----------------------------------------------------------------------------------------------------------- transforms


def field_of(golden: dict[str, Any], symmetry: Symmetry | None) -> DensePose:
    points = torch.from_numpy(np.stack([golden[key] for key in "xyiuv"], axis=1))[None]
    known = torch.ones(1, dtype=torch.bool)
    return DensePose(points, torch.tensor([[10.0, 20, 40, 80]]), torch.from_numpy(golden["segm"])[None], known, known, symmetry)


def test_a_mirror_image_is_detectron2s(golden: dict[str, Any], symmetry: Symmetry) -> None:
    for ours, part in ((symmetry.u, "u"), (symmetry.v, "v")):
        assert torch.allclose(ours[:, ::51, ::51].double(), torch.from_numpy(golden[f"table_check_{part}"]), atol=1e-6)
    flipped = field_of(golden, symmetry).transformed(Affine.flip((100, 90)))
    expected = np.stack([golden[f"flipped.{key}"] for key in "xyiuv"], axis=1)
    np.testing.assert_allclose(flipped.points[0].numpy(), expected, rtol=1e-6, atol=1e-6)
    assert np.array_equal(flipped.segmentation[0].numpy(), golden["flipped.segm"])
    assert flipped.boxes.tolist() == [[50, 20, 80, 80]]


def test_a_mirror_image_without_the_table_is_refused(golden: dict[str, Any]) -> None:
    field = field_of(golden, None)
    with pytest.raises(UserError, match=r"set data\.train\.symmetry to UV_symmetry_transforms\.mat .*take horizontal_flip out"):
        field.transformed(Affine.flip((100, 90)))
    rotated = field.transformed(Affine(-1.0, 90.0, -1.0, 100.0, (100, 90)))  # by 180 degrees: no mirror image
    assert torch.equal(rotated.points[..., 2:], field.points[..., 2:])
    assert torch.equal(rotated.points[..., :2], 256 - field.points[..., :2])
    nobody = field[torch.zeros(0, dtype=torch.int64)]
    assert len(nobody.transformed(Affine.flip((100, 90)))) == 0


def test_two_mirror_images_of_positions_and_parts_are_none(golden: dict[str, Any], symmetry: Symmetry) -> None:
    field = field_of(golden, symmetry)
    twice = field.transformed(Affine.flip((100, 90))).transformed(Affine.flip((100, 90)))
    torch.testing.assert_close(twice.points[..., :3], field.points[..., :3])
    assert torch.equal(twice.segmentation, field.segmentation)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 3), st.floats(0.3, 3), st.integers(-30, 30), st.integers(-30, 30))
def test_points_stay_where_they_are_in_the_picture(sx: float, sy: float, dx: int, dy: int) -> None:
    field = DensePose(
        torch.tensor([[[64.0, 192, 5, 0.5, 0.5]]]), torch.tensor([[10.0, 20, 40, 80]]), torch.zeros(1, 256, 256, dtype=torch.uint8),
        torch.ones(1, dtype=torch.bool), torch.ones(1, dtype=torch.bool),
    )  # fmt: skip
    affine = Affine(sx, float(dx), sy, float(dy), (200, 200))
    place = torch.tensor([10 + 30 * 64 / 256, 20 + 60 * 192 / 256])
    moved = field.transformed(affine)
    torch.testing.assert_close(_places(moved)[0, 0], affine.points(place), rtol=1e-5, atol=1e-4)


def _places(field: DensePose) -> Tensor:
    start, extent = field.boxes[:, None, :2], (field.boxes[:, 2:] - field.boxes[:, :2])[:, None]
    return start + field.points[..., :2] * extent / 256


def test_paint_covers_points_and_parts() -> None:
    points = torch.tensor([[[0.0, 0, 1, 0, 0], [255.0, 255, 2, 1, 1]]])
    known = torch.ones(1, dtype=torch.bool)
    segmentation = torch.ones(1, 256, 256, dtype=torch.uint8)
    field = DensePose(points, torch.tensor([[10.0, 10, 20, 20]]), segmentation, known, known)
    paint = torch.zeros(30, 30, dtype=torch.bool)
    paint[:, :15] = True
    covered = field.covered(paint)
    assert covered.points[0, :, 2].tolist() == [-1, 2] and field.points[0, :, 2].tolist() == [1, 2]
    assert covered.segmentation[0, 0].tolist() == [0] * 128 + [1] * 128


def test_fields_of_different_numbers_of_points_are_joined() -> None:
    def one(count: int) -> DensePose:
        known = torch.ones(1, dtype=torch.bool)
        return DensePose(torch.ones(1, count, 5), torch.zeros(1, 4), torch.zeros(1, 256, 256, dtype=torch.uint8), known, known)

    joined = DensePose.cat([one(1), one(3)])
    assert joined.points[:, :, 2].tolist() == [[1, -1, -1], [1, 1, 1]] and len(joined) == 2


def test_transforms_of_a_sample(tmp_path: Path, symmetry: Symmetry) -> None:
    sample = CocoDataset(write(tmp_path, people()), tmp_path)[1]
    rng = np.random.default_rng(0)
    larger = ResizeShortestEdge(short=(60,), long=100)(copy.copy(sample), rng)
    torch.testing.assert_close(larger.fields["dense_pose"].boxes, torch.tensor([[4.0, 8, 24, 49]]))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="symmetry"):
        HorizontalFlip(p=1.0)(copy.copy(sample), rng)


# ------------------------------------------------------------------------------------------------------------ the table


def test_the_published_table_is_read(tmp_path: Path, golden: dict[str, Any]) -> None:
    cells = [np.empty((1, 24), dtype=object) for _ in range(2)]
    for cell, table in zip(cells, tables(golden), strict=True):
        cell[0, :] = list(table.astype(np.float64))
    path = tmp_path / "UV_symmetry_transforms.mat"
    scipy.io.savemat(path, {"U_transforms": cells[0], "V_transforms": cells[1]})
    symmetry = read_symmetry(str(path))
    assert np.array_equal(symmetry.u.numpy(), tables(golden)[0]) and np.array_equal(symmetry.v.numpy(), tables(golden)[1])


def test_a_table_that_is_missing_or_damaged_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no such file; .*SMPL.*https://dl\.fbaipublicfiles\.com/densepose/data/"):
        read_symmetry(str(tmp_path / "none.mat"))
    text = tmp_path / "damaged.mat"
    text.write_bytes(b"MATLAB 5.0" * 30)
    with pytest.raises(UserError, match="is no MATLAB file, or a damaged one"):
        read_symmetry(str(text))
    other = tmp_path / "other.mat"
    scipy.io.savemat(other, {"U_transforms": np.zeros((2, 2)), "V_transforms": np.zeros((2, 2))})
    with pytest.raises(UserError, match="expected U_transforms and V_transforms of 24 cells"):
        read_symmetry(str(other))
    lacking = tmp_path / "lacking.mat"
    scipy.io.savemat(lacking, {"U_transforms": np.zeros((2, 2))})
    with pytest.raises(UserError, match="lacks the variable V_transforms"):
        read_symmetry(str(lacking))
    arrays = tmp_path / "body.npz"
    np.savez(arrays, symmetry_u=np.zeros(3))
    with pytest.raises(UserError, match="lacks the array symmetry_v"):
        read_symmetry(str(arrays))
    np.savez(arrays, symmetry_u=np.zeros(300), symmetry_v=np.zeros(300))
    with monkeypatch.context() as patch:
        patch.setattr("boxwood.dense_pose.MOST_BYTES", 2000)
        with pytest.raises(UserError, match="its arrays take more than 2,000 bytes"):
            read_symmetry(str(arrays))
    whole = arrays.read_bytes()
    for damaged in (whole[:-30], whole.replace(b"\0" * 2000, b"\1" * 2000), b"no archive", b""):
        arrays.write_bytes(damaged)
        with pytest.raises(UserError, match=r"body\.npz: cannot be read as \.npz \(.*; boxwood data shapes"):
            read_symmetry(str(arrays))
