"""Fields are transformed with the pixels; all fields, user-defined ones too, pass selection, cropping, joining and the loader."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxwood.data.loader import collate, make_target, train_batches
from boxwood.data.packing import PackedBatch
from boxwood.fields import (
    NOTHING,
    Affine,
    Bitmap,
    Boxes,
    ImageField,
    InstanceField,
    InstanceMasks,
    Keypoints,
    Polygons,
    Segmentations,
    TensorField,
    field_of,
)
from boxwood.structures import Batch, Categories, Sample, Target

numbers = st.integers(0, 999)
sides = st.integers(4, 40)


# ----------------------------------------------------------------------------------------------- user-defined fields


@dataclass
class Directions(TensorField):
    """``values`` (N, 2) float32: the unit vector of each instance's direction."""

    def transformed(self, affine: Affine) -> Self:
        signs = torch.tensor([-1.0 if affine.scale_x < 0 else 1.0, -1.0 if affine.scale_y < 0 else 1.0])
        return self.with_tensors([self.values * signs])


@dataclass
class Parents(InstanceField):
    """``values`` (N,) int64: the row of each instance's parent, or -1; and ``names``, a list of one name per instance."""

    values: Tensor
    names: list[str]

    def transformed(self, affine: Affine) -> Self:
        return self

    def __getitem__(self, index: Tensor) -> Self:
        rows = torch.arange(len(self.values))[index]
        position = torch.full((len(self.values) + 1,), -1)
        position[rows] = torch.arange(len(rows))
        return type(self)(position[self.values[rows]], [self.names[row] for row in rows.tolist()])


@dataclass
class Caption(ImageField):
    """Text, and a tensor whose shape does not depend on the instances."""

    text: str
    heat: Tensor

    def transformed(self, affine: Affine) -> Self:
        return type(self)(f"{self.text} {affine.mirrors}", self.heat)


def make_sample(seed: int, height: int = 30, width: int = 40, instances: int = 3) -> Sample:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, [width - 2, height - 2], (instances, 2))
    extents = rng.integers(2, [width // 2 + 1, height // 2 + 1], (instances, 2))
    corners = np.minimum(corners, np.array([width, height]) - extents).clip(min=0)
    boxes = torch.from_numpy(np.concatenate([corners, corners + extents], axis=1).astype(np.float32))
    items: list[Polygons | Bitmap] = []
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        if index % 2:
            items.append(Polygons([np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=np.float32)]))
        else:
            values = rng.integers(0, 2, (int(y2 - y1), int(x2 - x1))).astype(np.uint8)
            values[[0, -1], [0, -1]] = 1
            items.append(Bitmap(values, (x1, y1, x2, y2)))
    keypoints = np.concatenate([rng.uniform(0, [width, height], (instances, 4, 2)), rng.integers(0, 3, (instances, 4, 1))], axis=2)
    keypoints[..., :2] *= keypoints[..., 2:] > 0
    angles = torch.from_numpy(rng.uniform(0, 6, instances).astype(np.float32))
    fields: dict[str, InstanceField] = {
        "directions": Directions(torch.stack([angles.cos(), angles.sin()], dim=1)),
        "parents": Parents(
            torch.from_numpy(rng.integers(-1, max(instances, 1), instances)), [f"{seed}.{n}" for n in range(instances)]
        ),
        "scores": TensorField(torch.from_numpy(rng.uniform(size=instances))),
    }
    return Sample(
        image=torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8)),
        image_id=seed, file_name=f"{seed}.jpg", original_size=(height, width), boxes=boxes,
        labels=torch.from_numpy(rng.integers(0, 2, instances)), crowd=torch.from_numpy(rng.random(instances) < 0.3),
        segmentations=items, keypoints=torch.from_numpy(keypoints.astype(np.float32)), keypoint_flip=(1, 0, 2, 3),
        proposals=torch.from_numpy(rng.random((seed % 4, 4), dtype=np.float32)), fields=fields,
        image_fields={"caption": Caption(f"picture {seed}", torch.from_numpy(rng.random((2, 1 + seed % 3))))},
    )  # fmt: skip


def pixels_of(item: Polygons | Bitmap, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    return item.pixels((0, 0, size[1], size[0]))


def assert_equal(one: Any, other: Any) -> None:
    """Exact equality of tensors, arrays, containers and dataclasses."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        assert_equal(tuple(one.values()), tuple(other.values()))
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for a, b in zip(one, other):
            assert_equal(a, b)
    elif hasattr(one, "__dataclass_fields__"):
        for name in one.__dataclass_fields__:
            assert_equal(getattr(one, name), getattr(other, name))
    else:
        assert one == other


# -------------------------------------------------------------------------------------------------------- affine maps


@settings(max_examples=60, deadline=None)
@given(numbers, st.floats(0.2, 5), st.floats(0.2, 5), st.floats(-30, 30), st.floats(-30, 30), st.booleans(), st.booleans())
def test_transformed_boxes_enclose_their_transformed_corners(
    seed: int, x: float, y: float, right: float, down: float, flip: bool, turn: bool
) -> None:
    affine = Affine(-x if flip else x, right, -y if turn else y, down, (10, 10))
    boxes = torch.from_numpy(np.random.default_rng(seed).uniform(0, 50, (4, 2, 2)).astype(np.float32)).sort(dim=1).values.flatten(1)
    corners = affine.points(boxes.view(-1, 2, 2))
    moved = affine.boxes(boxes)
    assert torch.equal(moved, torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1))
    torch.testing.assert_close(torch.tensor([affine.box(tuple(box)) for box in boxes.tolist()]), moved, rtol=1e-5, atol=1e-4)
    assert affine.mirrors == (flip != turn) and affine.boxes(torch.zeros(0, 4)).shape == (0, 4)


@settings(max_examples=60, deadline=None)
@given(numbers, sides, sides, st.integers(1, 3), st.integers(1, 3), st.booleans(), st.booleans())
def test_bitmaps_are_transformed_like_the_image(seed: int, height: int, width: int, x: int, y: int, flip: bool, turn: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2, (rng.integers(1, height + 1), rng.integers(1, width + 1))).astype(np.uint8)
    top, left = int(rng.integers(height - len(values) + 1)), int(rng.integers(width - values.shape[1] + 1))
    bitmap = Bitmap(values, (float(left), float(top), float(left + values.shape[1]), float(top + len(values))))
    before = pixels_of(bitmap, (height, width))
    np.testing.assert_array_equal(before[top : top + len(values), left : left + values.shape[1]], values)
    size = (height * y, width * x)
    affine = Affine(-x if flip else x, size[1] if flip else 0, -y if turn else y, size[0] if turn else 0, size)
    expected = before.repeat(y, axis=0).repeat(x, axis=1)[:: -1 if turn else 1, :: -1 if flip else 1]
    np.testing.assert_array_equal(pixels_of(bitmap.transformed(affine), size), expected)
    crop = Affine.crop(rng.integers(-5, height), rng.integers(-5, width), (int(rng.integers(1, 50)), int(rng.integers(1, 50))))
    clipped = bitmap.transformed(crop).clipped(crop.size)
    canvas = np.pad(before, 60)[60 - int(crop.shift_y) :, 60 - int(crop.shift_x) :][: crop.size[0], : crop.size[1]]
    np.testing.assert_array_equal(pixels_of(clipped, crop.size), canvas)
    assert clipped is NOTHING or (min(clipped.box) >= 0 and clipped.box[2] <= crop.size[1] and clipped.box[3] <= crop.size[0])
    trimmed = clipped.trimmed()
    np.testing.assert_array_equal(pixels_of(trimmed, crop.size), canvas)
    if canvas.any():
        rows, columns = np.flatnonzero(canvas.any(axis=1)), np.flatnonzero(canvas.any(axis=0))
        assert trimmed.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    else:
        assert trimmed is NOTHING


@settings(max_examples=60, deadline=None)
@given(numbers, st.integers(3, 9))
def test_a_clipped_polygon_covers_the_points_inside_the_frame(seed: int, corners: int) -> None:
    """Random points of the frame are in the clipped polygon exactly if they are in the star-shaped outline."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = rng.uniform(5, 40, corners)
    outline = (np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + rng.uniform(-10, 50, 2)).astype(np.float32)
    size = (30, 40)
    clipped = Polygons([outline]).clipped(size)
    points = rng.uniform(0, [40, 30], (200, 2))
    assert clipped is NOTHING or isinstance(clipped, Polygons)
    parts = clipped.parts if isinstance(clipped, Polygons) else []
    assert all(part.dtype == np.float32 and (part >= 0).all() and (part <= [40, 30]).all() for part in parts)
    inside = np.zeros(len(points), dtype=bool)
    for part in parts:
        inside ^= contains(part.astype(np.float64), points)
    assert (inside != contains(outline.astype(np.float64), points)).mean() <= 0.01  # a point on an edge, to rounding
    whole = Polygons([outline / 100 + 10])
    assert_equal(whole.clipped(size), whole)
    unmasked = Polygons([])
    assert unmasked.clipped(size) is unmasked


def contains(outline: np.ndarray[Any, Any], points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whether each point (N, 2) is inside the outline, by the even-odd rule: (N,) bool."""
    (ax, ay), (bx, by) = outline.T[:, :, None], np.roll(outline, -1, axis=0).T[:, :, None]
    x, y = points.T
    with np.errstate(divide="ignore", invalid="ignore"):
        crossed = ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    result: np.ndarray[Any, Any] = crossed.sum(axis=0) % 2 == 1
    return result


def test_transforms_before_and_after_for_training_agree() -> None:
    sample = make_sample(3)
    masks = Segmentations(sample.segmentations or []).for_training(sample.boxes)
    flip = Affine.flip(sample.size)
    later = Segmentations(sample.segmentations or []).transformed(flip).for_training(flip.boxes(sample.boxes))
    moved = masks.transformed(flip)
    torch.testing.assert_close(moved.boxes, later.boxes)
    assert (moved.bitmaps != later.bitmaps).float().mean() < 0.02  # COCO's rasteriser is not exactly symmetric
    assert moved[torch.tensor([2])].bitmaps.shape == (1, 112, 112) and len(moved) == 3


def test_keypoints_outside_the_image_or_under_paint() -> None:
    points = Keypoints(torch.tensor([[[5.0, 5, 2], [20, 5, 2], [10, 10, 1], [0, 0, 0]]]), (1, 0, 2, 3))
    clipped = points.transformed(Affine.crop(0, 8, (20, 20))).clipped((20, 20))
    assert clipped.values.tolist() == [[[0, 0, 0], [12, 5, 2], [2, 10, 1], [0, 0, 0]]]
    paint = torch.zeros(30, 30, dtype=torch.bool)
    paint[:, 15:] = True
    assert points.covered(paint).values[0, :, 2].tolist() == [2, 1, 1, 0]
    half_turn = Affine(-1, 30, -1, 30, (30, 30))
    assert points.transformed(half_turn).values[0, 0].tolist() == [25, 25, 2]  # a rotation: left and right are not swapped


# ------------------------------------------------------------------------------------------------- selecting and cropping


@settings(max_examples=40, deadline=None)
@given(numbers, st.integers(0, 5), st.integers(-10, 25), st.integers(-10, 35), st.integers(1, 40), st.integers(1, 50))
def test_select_and_crop_commute(seed: int, instances: int, top: int, left: int, height: int, width: int) -> None:
    sample = make_sample(seed, instances=instances)
    affine, image = Affine.crop(top, left, (height, width)), torch.zeros(3, height, width, dtype=torch.uint8)
    cropped = sample.transformed(affine, image).clipped()
    x1, y1, x2, y2 = cropped.boxes.unbind(1)
    assert (
        (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all() and (x1 < x2).all() and (y1 < y2).all()
    )
    selection = torch.from_numpy(np.random.default_rng(seed).random(instances) < 0.5)
    selected_first = sample.select(selection).transformed(affine, image).clipped()
    parents = field_of(cropped.fields, "parents", Parents)
    assert parents is not None
    rows_left = [int(name.split(".")[1]) for name in parents.names]
    assert_equal(selected_first, cropped.select(torch.tensor([bool(selection[row]) for row in rows_left], dtype=torch.bool)))
    assert all(len(field) == len(cropped.boxes) for field in (*cropped.fields.values(), cropped.labels, cropped.crowd))
    # Each mask is the part of the original inside the crop, and the box of a cut mask is tight.
    assert cropped.segmentations is not None and sample.segmentations is not None
    for row, item, box in zip(rows_left, cropped.segmentations, cropped.boxes.tolist(), strict=True):
        original = sample.segmentations[row]
        if isinstance(original, Bitmap):
            shown = np.pad(pixels_of(original, sample.size), 60)[60 + top :, 60 + left :][:height, :width]
            np.testing.assert_array_equal(pixels_of(item, (height, width)), shown)
            rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
            assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_a_crop_drops_instances_below_min_area() -> None:
    sample = make_sample(0, instances=0)
    sample.boxes = torch.tensor([[0.0, 0, 20, 20], [18, 0, 28, 20], [18, 0, 28, 20], [5, 5, 9, 9]])
    sample.labels, sample.crowd = torch.arange(4), torch.tensor([False, False, True, False])
    sample.fields = {}
    affine, image = Affine.crop(0, 0, (20, 20)), torch.zeros(3, 20, 20, dtype=torch.uint8)
    assert sample.transformed(affine, image).clipped().labels.tolist() == [0, 1, 2, 3]
    assert sample.transformed(affine, image).clipped(min_area=0.2).labels.tolist() == [0, 2, 3]  # a crowd region stays
    assert sample.transformed(Affine.crop(0, 18, (20, 20)), image).clipped().boxes.tolist() == [
        [0, 0, 2, 20],
        *[[0, 0, 10, 20]] * 2,
    ]
    with pytest.raises(ValueError, match=r"the image is \(20, 20\), the transform makes \(5, 5\)"):
        sample.transformed(Affine.crop(0, 0, (5, 5)), image)


def test_paint_removes_covered_pixels_and_instances() -> None:
    sample = make_sample(1, 20, 20, instances=0)
    square = np.ones((10, 10), dtype=np.uint8)
    sample.boxes = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [5, 10, 15, 20], [12, 2, 14, 4]])
    sample.labels, sample.crowd = torch.arange(4), torch.zeros(4, dtype=torch.bool)
    outline = np.array([[5, 10], [15, 10], [15, 20], [5, 20]], dtype=np.float32)
    sample.fields = {}
    sample.segmentations = [Bitmap(square, (0, 0, 10, 10)), Bitmap(square, (10, 0, 20, 10)), Polygons([outline]), Polygons([])]
    paint = torch.zeros(20, 20, dtype=torch.bool)
    paint[:15, 10:] = True
    shown = sample.covered(paint, sample.image)
    assert shown.labels.tolist() == [0, 2] and shown.boxes.tolist() == [[0, 0, 10, 10], [5, 10, 15, 20]]
    assert shown.segmentations is not None and shown.segmentations[0] is sample.segmentations[0]
    assert isinstance(shown.segmentations[1], Bitmap) and shown.segmentations[1].values.sum() == 75
    paint[10:, 10:] = True
    assert sample.covered(paint, sample.image).boxes.tolist() == [[0, 0, 10, 10], [5, 10, 10, 20]]
    assert sample.covered(paint, sample.image, min_area=0.5).labels.tolist() == [0]


def test_samples_with_the_same_fields_are_joined() -> None:
    one, other = make_sample(1, instances=2), make_sample(2, instances=3)
    joined = one.joined(other)
    assert torch.equal(joined.boxes, torch.cat([one.boxes, other.boxes])) and all(
        len(field) == 5 for field in joined.fields.values()
    )
    assert_equal(joined.select(torch.arange(2)).fields["masks"], one.fields["masks"])
    other.keypoints = None
    with pytest.raises(ValueError, match=r"1.jpg and 2.jpg cannot be joined"):
        one.joined(other)


def test_changing_a_copy_does_not_change_the_sample() -> None:
    sample = make_sample(1)
    other = copy.copy(sample)
    other.keypoints = other.segmentations = other.proposals = None
    assert sample.keypoints is not None and sample.segmentations is not None and sample.proposals is not None
    assert other.keypoints is None and other.keypoint_flip == () and set(other.fields) == {"directions", "parents", "scores"}
    sample.keypoints = sample.keypoints + 1
    assert sample.keypoint_flip == (1, 0, 2, 3)
    with pytest.raises(TypeError, match=r"the field 'scores' is of TensorField, not Keypoints"):
        field_of(sample.fields, "scores", Keypoints)


# ---------------------------------------------------------------------------------------------------------- the loader


class Pictures:
    categories = Categories((1, 2), ("a", "b"))

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Sample:
        return make_sample(index, instances=index % 4)

    def size(self, index: int) -> tuple[int, int]:
        return 30, 40

    def to_coco(self) -> dict[str, Any]:
        return {}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(numbers, st.integers(0, 4)), min_size=1, max_size=5), st.booleans())
def test_packing_is_lossless(images: list[tuple[int, int]], with_targets: bool) -> None:
    batch = collate([make_sample(seed, instances=count) for seed, count in images], [0] * len(images), with_targets=with_targets)
    packed = PackedBatch.of(batch)
    assert packed.images is batch.images and packed.values.dtype == torch.uint8
    assert_equal(packed.unpack(), batch)
    assert set(batch.image_fields) == {"proposals", "caption"}


def test_all_fields_reach_the_targets_from_worker_processes() -> None:
    batches = [list(itertools.islice(train_batches(Pictures(), (), batch_size=3, seed=0, workers=w), 4)) for w in (0, 1)]
    assert_equal(*batches)
    batch = batches[1][0]
    assert batch.targets is not None and batch.proposals is not None
    for image, target, caption in zip(batch.image_ids, batch.targets, batch.image_fields["caption"], strict=True):
        sample = Pictures()[image]
        single = ~sample.crowd
        directions, parents = field_of(target.fields, "directions", Directions), field_of(target.fields, "parents", Parents)
        assert directions is not None and torch.equal(directions.values, sample.fields["directions"].tensors()[0][single])
        assert parents is not None and parents.names == [f"{image}.{n}" for n in torch.nonzero(single).flatten().tolist()]
        assert isinstance(caption, Caption) and caption.text == f"picture {image}"
        assert isinstance(target.fields["masks"], InstanceMasks)


def test_batches_move_to_a_device_with_all_fields() -> None:
    batch = collate([make_sample(seed) for seed in range(3)], [0, 1, 2], with_targets=True)
    moved = batch.to("meta")
    assert isinstance(moved, Batch) and moved.targets is not None
    for target in moved.targets:
        assert isinstance(target, Target) and all(t.is_meta for field in target.fields.values() for t in field.tensors())
    assert all(field.tensors()[0].is_meta for fields in moved.image_fields.values() for field in fields)


def test_a_field_with_too_few_rows_is_refused() -> None:
    sample = make_sample(0)
    sample.fields = {**sample.fields, "scores": TensorField(torch.zeros(2))}
    with pytest.raises(ValueError, match=r"the field 'scores' of 0.jpg has 2 rows for 3 instances"):
        make_target(sample)


def test_a_field_that_is_not_a_dataclass_is_refused() -> None:
    class Loose(TensorField):
        pass

    assert len(Loose(torch.zeros(3))[torch.tensor([0])]) == 1  # its base class is a dataclass

    class Bare(InstanceField):
        def transformed(self, affine: Affine) -> Self:
            return self

    with pytest.raises(TypeError, match=r"Bare is no dataclass: make it one, or define its tensors\(\) and with_tensors\(\)"):
        Bare().to("cpu")


def test_boxes_per_image_are_clipped_or_dropped() -> None:
    boxes = Boxes(torch.tensor([[-5.0, 0, 5, 5], [30, 30, 40, 40], [1, 2, 3, 4]]))
    assert boxes.clipped((20, 20)).values.tolist() == [[0, 0, 5, 5], [1, 2, 3, 4]]
