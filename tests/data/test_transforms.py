"""Transforms move boxes, polygons, bitmaps and keypoints with the pixels."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as reference
from torchvision.tv_tensors import BoundingBoxFormat

from boxwood.config import ConfigError, from_tree
from boxwood.data import DataConfig
from boxwood.data.transforms import (
    CopyPaste,
    HorizontalFlip,
    Mosaic,
    RandomCrop,
    ResizeShortestEdge,
    ScaleJitter,
    Transform,
    resized_size,
)
from boxwood.errors import UserError
from boxwood.structures import Bitmap, Polygons, Sample

FLIP = HorizontalFlip(p=1.0)
RNG = np.random.default_rng(0)


def make_sample(seed: int = 0, height: int = 30, width: int = 50, instances: int = 3) -> Sample:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (instances, 2, 2)), axis=1) * (width, height)
    boxes = torch.from_numpy(corners.reshape(-1, 4).astype(np.float32))
    keypoints = torch.from_numpy(rng.uniform(0, min(height, width), (instances, 3, 3)).astype(np.float32))
    keypoints[..., 2] = torch.tensor([2.0, 1.0, 0.0])
    keypoints[:, 2, :2] = 0
    segmentations: list[Polygons | Bitmap] = []
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        triangle = np.array([[x1, y1], [x2, y1], [x2, y2]], dtype=np.float32)
        segmentations.append(
            Polygons([triangle]) if index % 2 else Bitmap(rng.integers(0, 2, (4, 6)).astype(np.uint8), (x1, y1, x2, y2))
        )
    return Sample(
        image=torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8)),
        image_id=1, file_name="a.jpg", original_size=(height, width),
        boxes=boxes, labels=torch.zeros(instances, dtype=torch.int64), crowd=torch.zeros(instances, dtype=torch.bool),
        segmentations=segmentations, keypoints=keypoints, keypoint_flip=(1, 0, 2), proposals=boxes.clone(),
    )  # fmt: skip


def assert_same(one: Sample, other: Sample, tolerance: float) -> None:
    torch.testing.assert_close(one.boxes, other.boxes, atol=tolerance, rtol=0)
    torch.testing.assert_close(one.keypoints, other.keypoints, atol=tolerance, rtol=0)
    assert one.segmentations is not None and other.segmentations is not None
    for a, b in zip(one.segmentations, other.segmentations, strict=True):
        if isinstance(a, Polygons) and isinstance(b, Polygons):
            for part, other_part in zip(a.parts, b.parts, strict=True):
                np.testing.assert_allclose(part, other_part, atol=tolerance)
        else:
            assert isinstance(a, Bitmap) and isinstance(b, Bitmap)
            np.testing.assert_array_equal(a.values, b.values)
            np.testing.assert_allclose(a.box, b.box, atol=tolerance)


sizes = st.integers(2, 90)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), sizes, sizes, st.integers(0, 4))
def test_flipping_twice_changes_nothing(seed: int, height: int, width: int, instances: int) -> None:
    before = make_sample(seed, height, width, instances)
    after = FLIP(FLIP(copy.deepcopy(before), RNG), RNG)
    assert torch.equal(after.image, before.image)
    assert_same(after, before, tolerance=2e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), sizes, sizes, st.integers(2, 200), st.integers(0, 4))
def test_resizing_there_and_back_restores_the_annotations(seed: int, height: int, width: int, short: int, instances: int) -> None:
    before = make_sample(seed, height, width, instances)
    there = ResizeShortestEdge(short=(short,), long=100_000)(copy.deepcopy(before), RNG)
    assert min(there.size) == short
    back = ResizeShortestEdge(short=(min(height, width),), long=100_000)(there, RNG)
    if back.size == before.size:  # Rounding may change the longer side by a pixel.
        assert_same(back, before, tolerance=1e-3)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, st.integers(2, 200), st.integers(2, 300))
def test_resized_size_keeps_limits_and_proportions(height: int, width: int, short: int, long: int) -> None:
    new_height, new_width = resized_size((height, width), short, long)
    assert min(new_height, new_width) == short or max(new_height, new_width) == long or 1 in (new_height, new_width)
    assert max(new_height, new_width) <= max(long, 1) and min(new_height, new_width) <= max(short, 1)
    scale = min(short / min(height, width), long / max(height, width))
    assert abs(new_height - height * scale) <= 0.5 + 1e-9 or new_height == 1
    assert abs(new_width - width * scale) <= 0.5 + 1e-9 or new_width == 1


@pytest.mark.parametrize("short", [(15,), (77,)])
def test_resized_pixels_are_pillows(short: tuple[int, ...]) -> None:
    sample = make_sample(height=30, width=50)
    expected = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
    resized = ResizeShortestEdge(short=short)(sample, RNG)
    expected = expected.resize((resized.size[1], resized.size[0]), Image.Resampling.BILINEAR)
    difference = resized.image.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)
    assert resized.image.dtype == torch.uint8 and np.abs(difference).max() <= 1


def test_without_antialias_the_scale_is_that_before_rounding() -> None:
    """As OpenCV resizes: 169 pixels times 50 / 35 are 241.43, of which 241 are computed, each read at (x + 0.5) * 35 / 50."""
    ramp = torch.arange(169, dtype=torch.uint8).repeat(3, 35, 1)
    nothing = torch.zeros(1, dtype=torch.int64)
    sample = Sample(ramp, 1, "a", (35, 169), torch.tensor([[0.0, 0, 169, 35]]), nothing, nothing.bool())
    resize = ResizeShortestEdge(short=(50,), long=1000, antialias=False)
    small = resize(sample, np.random.default_rng(0))
    assert small.size == (50, 241) and small.scaled_size == pytest.approx((50, 169 * 50 / 35))
    torch.testing.assert_close(small.boxes, torch.tensor([[0.0, 0, 169 * 50 / 35, 50]]))
    error = small.image[0, 0].double() - (torch.arange(241) + 0.5) * 35 / 50 + 0.5
    assert error[-50:-1].mean().abs() < 0.05 and error.abs()[1:].max() < 0.6, "the ratio of the sizes would read 0.3 further right"
    assert small.flipped().scaled_size == small.scaled_size and small.cropped(0, 0, (40, 40)).scaled_size is None
    other = ResizeShortestEdge(short=(50,), long=1000)(sample, np.random.default_rng(0))
    assert other.size == (50, 241) and other.scaled_size is None and other.boxes[0, 2] == 241


def test_boxes_and_pixels_agree_with_torchvision() -> None:
    sample = make_sample()
    boxes = reference.horizontal_flip_bounding_boxes(sample.boxes.clone(), format=BoundingBoxFormat.XYXY, canvas_size=(30, 50))
    image = reference.horizontal_flip(sample.image)
    flipped = FLIP(sample, RNG)
    torch.testing.assert_close(flipped.boxes, boxes)
    assert torch.equal(flipped.image, image)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), sizes, sizes, st.integers(2, 200), st.integers(0, 4))
def test_proposals_are_transformed_like_boxes(seed: int, height: int, width: int, short: int, instances: int) -> None:
    sample = FLIP(ResizeShortestEdge(short=(short,))(make_sample(seed, height, width, instances), RNG), RNG)
    assert sample.proposals is not None and torch.equal(sample.proposals, sample.boxes)
    without = make_sample(seed, height, width, instances)
    without.proposals = None
    assert FLIP(ResizeShortestEdge(short=(short,))(without, RNG), RNG).proposals is None


def test_a_painted_rectangle_stays_under_its_box_and_bitmap() -> None:
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 10:20, 30:50] = 255
    values = np.tril(np.ones((10, 20), dtype=np.uint8))
    box, label, crowd = torch.tensor([[30.0, 10, 50, 20]]), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool)
    sample = Sample(image, 1, "a", (40, 60), box, label, crowd,
                    [Bitmap(values, (30.0, 10.0, 50.0, 20.0))])  # fmt: skip
    changed = FLIP(ResizeShortestEdge(short=(80,))(sample, RNG), RNG)
    assert changed.boxes.tolist() == [[20.0, 20.0, 60.0, 40.0]]
    assert changed.image[0, 21:39, 21:59].min() > 250 and changed.image[0, :18].max() == 0
    assert changed.segmentations is not None
    (bitmap,) = changed.segmentations
    assert isinstance(bitmap, Bitmap) and bitmap.box == (20.0, 20.0, 60.0, 40.0)
    np.testing.assert_array_equal(bitmap.values, values[:, ::-1])


def test_keypoints_swap_sides_and_unlabelled_ones_stay() -> None:
    sample = make_sample(instances=1)
    assert sample.keypoints is not None
    sample.keypoints = torch.tensor([[[10.0, 5.0, 2.0], [20.0, 6.0, 1.0], [0.0, 0.0, 0.0]]])
    flipped = FLIP(sample, RNG).keypoints
    assert flipped is not None and flipped.tolist() == [[[30.0, 6.0, 1.0], [40.0, 5.0, 2.0], [0.0, 0.0, 0.0]]]


def test_randomness_comes_only_from_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np.random, "random", lambda *a: pytest.fail("global randomness"))
    flip, jitter = HorizontalFlip(p=0.5), ResizeShortestEdge(short=(20, 40, 60))
    results: list[Any] = []
    for _ in range(2):
        rng = np.random.default_rng(7)
        results.append([(jitter(flip(make_sample(), rng), rng)).image.shape for _ in range(30)])
    assert results[0] == results[1] and {shape[1] for shape in results[0]} == {20, 40, 60}
    rng = np.random.default_rng(0)
    flips = [not torch.equal(flip(make_sample(), rng).image, make_sample().image) for _ in range(200)]
    assert 70 < sum(flips) < 130


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), sizes, sizes, st.integers(0, 4), st.booleans())
def test_a_crop_is_a_window_of_the_image(seed: int, height: int, width: int, instances: int, pixels: bool) -> None:
    sample = make_sample(seed, height, width, instances)
    before = sample.image.clone()
    crop = RandomCrop(sides=(20, 40) if pixels else (0.3, 0.6), unit="pixels" if pixels else "fraction", min_area=0.0)
    after = crop(sample, np.random.default_rng(seed))
    for side, length in zip(after.size, (height, width), strict=True):
        least, most = (min(20, length), min(40, length)) if pixels else (0.3 * length - 0.5, 0.6 * length + 0.5)
        assert least <= side <= max(most, 1)
    windows = before.unfold(1, after.size[0], 1).unfold(2, after.size[1], 1)
    assert (windows == after.image[:, None, None]).all(dim=-1).all(dim=-1).all(dim=0).any()
    assert len(after.boxes) <= instances and (after.boxes[:, 2:] > after.boxes[:, :2]).all()
    assert all(len(field) == len(after.boxes) for field in after.fields.values())


def test_a_crop_may_reach_beyond_the_image() -> None:
    sample = make_sample(height=4, width=6, instances=0)
    before = sample.image.clone()
    after = sample.cropped(-1, 2, (9, 5), fill=(1, 2, 3))
    assert torch.equal(after.image[:, 1:5, :4], before[:, :, 2:])
    assert after.image[:, 0].tolist() == [[value] * 5 for value in (1, 2, 3)] and (after.image[0, :, 4] == 1).all()
    assert (sample.cropped(50, 50, (3, 3)).image == 0).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), sizes, sizes, st.integers(0, 4))
def test_scale_jitter_gives_a_fixed_size(seed: int, height: int, width: int, instances: int) -> None:
    jitter = ScaleJitter(size=(48, 64), scale=(0.1, 2.0))
    after = jitter(make_sample(seed, height, width, instances), np.random.default_rng(seed))
    assert after.size == (48, 64) and after.image.dtype == torch.uint8
    assert all(len(field) == len(after.boxes) for field in after.fields.values())


def test_scale_jitter_covers_its_range_of_scales() -> None:
    white = make_sample(height=30, width=60, instances=1)
    white.image.fill_(255)
    white.boxes, white.fields = torch.tensor([[0.0, 0, 60, 30]]), {}
    seen = []
    for seed in range(60):
        after = ScaleJitter(size=(40, 40), scale=(0.5, 2.0))(copy.deepcopy(white), np.random.default_rng(seed))
        (x1, y1, x2, y2) = after.boxes[0].tolist()
        assert (after.image[:, int(y1) : int(y2), int(x1) : int(x2)] == 255).all() and (x1, y1) == (0, 0)
        assert (after.image[0, int(y2) :] == 124).all()  # the fill value below the image
        seen.append(y2 / 20)  # with a factor of 1 the image is 40 x 20
    assert 0.5 <= min(seen) < 0.6 and 1.9 < max(seen) <= 2


@pytest.mark.parametrize(
    ("transform", "settings", "message"),
    [
        (RandomCrop, {"sides": (0.5, 1.5)}, "fractions are at most 1"),
        (RandomCrop, {"sides": (9, 4), "unit": "pixels"}, "the smaller first"),
        (ScaleJitter, {"scale": (0, 1)}, "positive"),
        (ScaleJitter, {"size": (0, 10)}, "positive"),
        (Mosaic, {"size": (3, 10)}, "at least 4"),
    ],
)
def test_settings_that_make_no_sense_are_refused(transform: type[Transform], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        transform(**settings)


# ------------------------------------------------------------------------------- transforms that draw other samples


def rectangle(image_id: int, box: tuple[int, int, int, int], value: int, crowd: bool = False, mask: bool = True) -> Sample:
    """A black image with one rectangle of ``value``; ``box`` is x1, y1, x2, y2 in pixels."""
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    x1, y1, x2, y2 = box
    image[:, y1:y2, x1:x2] = value
    masks: list[Polygons | Bitmap] = [Bitmap(np.ones((y2 - y1, x2 - x1), dtype=np.uint8), (x1, y1, x2, y2))]
    return Sample(
        image, image_id, f"{image_id}.jpg", (20, 30), torch.tensor([[x1, y1, x2, y2]], dtype=torch.float32), torch.tensor([value]),
        torch.tensor([crowd]), masks if mask else None, torch.tensor([[[(x1 + x2) / 2, (y1 + y2) / 2, 2]]], dtype=torch.float32),
    )  # fmt: skip


def test_copy_paste() -> None:
    """Pixels, masks, boxes and keypoints agree for random positions."""
    pasted, hidden = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        corners = rng.integers(0, 12, (2, 2))
        (x, y), (u, v) = corners.tolist()
        below, above = (x, y, x + 8, y + 6), (u, v, u + 8, v + 6)
        after = CopyPaste().mix(rectangle(1, below, 100), rng, lambda above=above: rectangle(2, above, 200))
        assert after.image_id == 1 and after.segmentations is not None and after.keypoints is not None
        pasted += 200 in after.labels.tolist()
        hidden += 100 not in after.labels.tolist()
        for label, box, mask in zip(after.labels.tolist(), after.boxes.tolist(), after.segmentations, strict=True):
            pixels = mask.pixels((0, 0, 30, 20))
            np.testing.assert_array_equal(pixels, after.image[0].numpy() == label)
            rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
            assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        if after.labels.tolist() == [100, 200]:
            x, y = after.keypoints[0, 0, :2].long().tolist()
            assert after.keypoints[0, 0, 2] == (1 if after.image[0, y, x] == 200 else 2)
    assert 10 < pasted < 30 and hidden <= 2


def test_copy_paste_skips_crowd_regions_and_clips_to_the_image() -> None:
    base = rectangle(1, (0, 0, 5, 5), 100)
    for seed in range(10):
        after = CopyPaste().mix(base, np.random.default_rng(seed), lambda: rectangle(2, (5, 5, 9, 9), 200, crowd=True))
        assert after.labels.tolist() == [100]
        small = rectangle(1, (0, 0, 5, 5), 100).cropped(0, 0, (8, 7))
        after = CopyPaste().mix(small, np.random.default_rng(seed), lambda: rectangle(2, (5, 5, 9, 9), 200))
        assert after.size == (8, 7) and all(box in ([0, 0, 5, 5], [5, 5, 7, 8]) for box in after.boxes.tolist())
        covered = CopyPaste().mix(
            rectangle(1, (5, 5, 9, 9), 100), np.random.default_rng(seed), lambda: rectangle(2, (5, 5, 9, 9), 200)
        )
        assert covered.labels.tolist() in ([100], [200])
    with pytest.raises(UserError, match=r"copy_paste needs masks, and 2.jpg has none"):
        CopyPaste().mix(base, np.random.default_rng(0), lambda: rectangle(2, (5, 5, 9, 9), 200, mask=False))
    assert CopyPaste(p=0.0).mix(base, np.random.default_rng(0), lambda: pytest.fail("drawn")) is base


def test_mosaic() -> None:
    counts = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        boxes = rng.integers(0, 14, (4, 2)).tolist()
        samples = iter([rectangle(value, (x, y, x + 8, y + 6), value) for (x, y), value in zip(boxes, (100, 150, 200, 250))])
        after = Mosaic(size=(32, 44), min_area=0.0).mix(next(samples), rng, lambda samples=samples: next(samples))
        assert after.size == (32, 44) and after.image_id == 100 and after.segmentations is not None
        counts.add(len(after.labels))
        for label, box, mask in zip(after.labels.tolist(), after.boxes.tolist(), after.segmentations, strict=True):
            pixels = mask.pixels((0, 0, 44, 32))
            np.testing.assert_array_equal(pixels, after.image[0].numpy() == label)
            rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
            assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert {value for value in (100, 150, 200, 250) if (after.image[0] == value).any()} == set(after.labels.tolist())
    assert {3, 4} <= counts
    sample = rectangle(1, (0, 0, 5, 5), 100)
    assert Mosaic(p=0.0).mix(sample, np.random.default_rng(0), lambda: pytest.fail("drawn")) is sample


def test_drawing_transforms_are_for_training_only() -> None:
    with pytest.raises(UserError, match=r"the transform copy_paste needs other samples, which only training has"):
        CopyPaste()(rectangle(1, (0, 0, 5, 5), 100), RNG)
    coco = {"kind": "coco", "annotations": "a.json", "images": "a"}
    tree = {"train": {**coco, "transforms": [{"kind": "copy_paste"}]}, "val": coco}
    assert isinstance(from_tree(DataConfig, tree).train.transforms[0], CopyPaste)
    with pytest.raises(ConfigError, match=r"has a mixture as val, which is for training only"):
        from_tree(DataConfig, {"train": coco, "val": {"kind": "mixture", "parts": [coco]}})
    with pytest.raises(ConfigError, match=r"has copy_paste as val.transforms.0: only training can draw other samples"):
        from_tree(DataConfig, {**tree, "val": tree["train"]})
