"""Masks: rasterising, targets, pasting and run lengths against pycocotools, numpy, torch's grid_sample and torchvision."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from pycocotools import mask as pycoco_mask
from torch import Tensor
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from boxwood.ops import masks as masks_module
from boxwood.ops.masks import mask_targets, masks_to_rle, paste_masks, paste_masks_at_once, rasterize_polygons, resize_bitmap

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools under numpy 2

# ------------------------------------------------------------------------------------------------------------- rasterising

STAR = np.array([[10, 0], [13, 7], [20, 8], [14, 12], [16, 20], [10, 15], [4, 20], [6, 12], [0, 8], [7, 7]], dtype=np.float32)
DISC = np.stack([np.cos(np.linspace(0, 6.2, 40)), np.sin(np.linspace(0, 6.2, 40))], axis=1).astype(np.float32)


@pytest.mark.parametrize("size", [1, 7, 28, 112])
def test_polygons_are_pycocotools(size: int) -> None:
    parts, box = [STAR * 2 + (5, 3), DISC * 6 + (40, 30)], (5.0, 3.0, 46.0, 43.0)
    scale = size / np.array([41.0, 40.0])
    outlines = [((part - (5, 3)) * scale).ravel().tolist() for part in parts]
    expected = pycoco_mask.decode(pycoco_mask.merge(pycoco_mask.frPyObjects(outlines, size, size)))
    ours = rasterize_polygons(parts, box, size)
    assert ours.dtype == np.uint8
    assert np.array_equal(ours, expected)
    assert size == 1 or 0.2 < ours.mean() < 0.8


def test_a_rectangle_fills_its_cells() -> None:
    rectangle = np.array([[10, 20], [14, 20], [14, 22], [10, 22]], dtype=np.float32)
    assert rasterize_polygons([rectangle], (10, 20, 14, 22), 8).all()
    expected = np.zeros((8, 8), dtype=np.uint8)
    expected[2:4, 4:8] = 1
    assert np.array_equal(rasterize_polygons([rectangle], (6, 18, 14, 26), 8), expected)


def test_polygons_without_area() -> None:
    line = np.array([[0, 0], [4, 4]], dtype=np.float32)
    assert not rasterize_polygons([], (0, 0, 4, 4), 4).any()
    assert not rasterize_polygons([line], (0, 0, 4, 4), 4).any()
    triangle = np.array([[2, 2], [2, 2], [2, 2]], dtype=np.float32)
    assert rasterize_polygons([triangle], (2, 2, 2, 2), 4).shape == (4, 4)  # a box without area is no error


def test_a_bitmap_is_resized_by_centres() -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(resize_bitmap(values, 12), np.kron(values, np.ones((4, 3), dtype=np.uint8)))
    assert resize_bitmap(values, 1).tolist() == [[6]]  # the centre is at row 1.5, column 2
    assert resize_bitmap(np.kron(values, np.ones((4, 3), dtype=np.uint8)), 12).tolist() == resize_bitmap(values, 12).tolist()


# ----------------------------------------------------------------------------------------------------------------- targets


def sampled_coverage(bitmap: np.ndarray, box: list[float], roi: list[float], size: int) -> np.ndarray:
    """The mean over each cell of the RoI of the bitmap read bilinearly, on a grid of points: one for each pixel of it, each way."""
    height, width = bitmap.shape
    cell = np.array([(box[2] - box[0]) / width, (box[3] - box[1]) / height])
    x1, y1, x2, y2 = ((np.array(roi).reshape(2, 2) - box[:2]) / cell).ravel()

    def read(position: float, limit: int) -> list[tuple[int, float]]:
        position -= 0.5
        if not -1 <= position <= limit:
            return []
        position = min(max(position, 0), limit - 1)
        low = min(math.floor(position), max(limit - 2, 0))
        return [(low, 1 - (position - low)), (min(low + 1, limit - 1), position - low)]

    result = np.zeros((size, size))
    across, down = (max(math.ceil(extent / size), 1) for extent in (x2 - x1, y2 - y1))
    for row in range(size):
        for column in range(size):
            for i in range(down):
                for j in range(across):
                    y = y1 + (row + (i + 0.5) / down) * (y2 - y1) / size
                    x = x1 + (column + (j + 0.5) / across) * (x2 - x1) / size
                    for k, weight in read(y, height):
                        for m, other in read(x, width):
                            result[row, column] += weight * other * bitmap[k, m] / (down * across)
    return result


BITMAPS = (torch.rand(3, 24, 20, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
MASK_BOXES = torch.tensor([[10.0, 20, 50, 68], [0, 0, 20, 24], [3.3, 1.7, 90.2, 55.5]])
ROIS = torch.tensor([[10.0, 20, 50, 68], [12, 25, 30, 40], [-5, -7, 26, 30], [60, 40, 100, 70], [0, 0, 3, 3], [11, 2, 88, 50]])
INSTANCES = torch.tensor([0, 0, 1, 2, 1, 2])


def test_targets_are_the_bitmap_read_bilinearly() -> None:
    ours = mask_targets(BITMAPS, MASK_BOXES, ROIS, INSTANCES, 7)
    assert ours.shape == (6, 7, 7)
    assert ours.dtype == torch.float32
    for target, roi, instance in zip(ours, ROIS.tolist(), INSTANCES.tolist(), strict=True):
        expected = sampled_coverage(BITMAPS[instance].numpy(), MASK_BOXES[instance].tolist(), roi, 7)
        np.testing.assert_allclose(target.numpy(), expected, atol=2e-4)


def test_targets_are_the_share_that_the_mask_covers() -> None:
    """RoI cells whose borders are those of bitmap pixels, of one colour for two pixels around: the share is 0 or 1."""
    bitmap = torch.zeros(1, 32, 32, dtype=torch.uint8)
    bitmap[:, 8:24, 16:] = 1
    box = torch.tensor([[100.0, 200, 164, 264]])  # 2 pixels of the image a pixel of the bitmap
    (target,) = mask_targets(bitmap, box, box, torch.tensor([0]), 8)
    expected = torch.zeros(8, 8)
    expected[2:6, 4:] = 1
    assert torch.equal(target.round(), expected)
    # Around a straight edge the bilinear reading is symmetric, so the area is right too.
    assert float(target.sum()) == pytest.approx(16, abs=0.2)
    (half,) = mask_targets(bitmap, box, torch.tensor([[136.0, 208, 156, 228]]), torch.tensor([0]), 10)
    torch.testing.assert_close(half[4:].mean(), torch.tensor(1.0), atol=0.01, rtol=0)
    torch.testing.assert_close(half.mean(), torch.tensor(0.6), atol=0.01, rtol=0)  # rows 216 to 228 of 208 to 228


def test_targets_outside_of_the_bitmap_are_zero() -> None:
    """Except the half pixel around it, which RoIAlign reads as the border."""
    full = torch.ones(1, 28, 28, dtype=torch.uint8)
    (target,) = mask_targets(full, torch.tensor([[0.0, 0, 28, 28]]), torch.tensor([[-28.0, -28, 28, 28]]), torch.tensor([0]), 8)
    expected = torch.zeros(8, 8)
    expected[4:, 4:] = 1
    torch.testing.assert_close(target, expected, atol=1 / 7 + 1e-3, rtol=0)
    assert float(target.mean()) == pytest.approx(0.25, abs=0.02)


def test_targets_of_whole_image_bitmaps_are_torchvisions() -> None:
    """torchvision's pixel 0 is from -0.5 to 0.5; a mask box with these borders gives the same numbers."""
    generator = torch.Generator().manual_seed(3)
    masks = (torch.rand(4, 60, 80, generator=generator) < 0.5).to(torch.uint8)
    start = torch.rand(30, 2, generator=generator) * torch.tensor([50.0, 40])
    rois = torch.cat([start, start + 1.5 + torch.rand(30, 2, generator=generator) * 40], dim=1)
    instances = torch.arange(30) % 4
    boxes = torch.tensor([[-0.5, -0.5, 79.5, 59.5]]).expand(4, 4)
    ours = mask_targets(masks, boxes, rois, instances, 28)
    theirs = project_masks_on_boxes(masks, rois, instances, 28)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_targets_of_masks_without_area() -> None:
    """Degenerate polygons: their bitmaps, however fine, must not be read at millions of points."""
    lines = torch.tensor([[50.0, 0, 50.0001, 100], [0, 50, 100, 50.0001], [50, 50, 50, 50], [50, 50, 50.001, 50.001]])
    rois = torch.tensor([[0.0, 0, 100, 100]]).repeat(4, 1)
    targets = mask_targets(torch.ones(4, 112, 112, dtype=torch.uint8), lines, rois, torch.arange(4), 28)
    assert targets.isfinite().all()
    assert (targets.flatten(1).mean(dim=1) < 0.1).all()


def test_no_targets() -> None:
    none = torch.zeros(0, 4)
    assert mask_targets(BITMAPS, MASK_BOXES, none, torch.zeros(0, dtype=torch.int64), 7).shape == (0, 7, 7)
    nothing = mask_targets(torch.zeros(0, 5, 5, dtype=torch.uint8), none, none, torch.zeros(0, dtype=torch.int64), 7)
    assert nothing.shape == (0, 7, 7)
    degenerate = torch.tensor([[5.0, 5, 5, 5]])
    target = mask_targets(BITMAPS[:1], degenerate, torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0]), 7)
    assert target.isfinite().all()


# ----------------------------------------------------------------------------------------------------------------- pasting


def grid_sampled(mask: Tensor, box: list[float], size: tuple[int, int]) -> Tensor:
    """The probability at every pixel of the image, in float64."""
    x1, y1, x2, y2 = box
    x = (torch.arange(size[1], dtype=torch.float64) + 0.5 - x1) / max(x2 - x1, 1e-6) * 2 - 1
    y = (torch.arange(size[0], dtype=torch.float64) + 0.5 - y1) / max(y2 - y1, 1e-6) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    sampled = F.grid_sample(mask.double()[None, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled[0, 0]


coordinate = st.floats(-40, 80, width=32)
side = st.one_of(st.floats(0.0625, 90, width=32), st.just(0.0), st.just(1.0))
box = st.tuples(coordinate, coordinate, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
EDGES = [
    [0.0, 0.0, 37.0, 29.0],  # the image
    [-10.0, -20.0, 60.0, 70.0],
    [5.0, 5.0, 6.0, 6.0],  # a pixel
    [36.0, 28.0, 37.0, 29.0],
    [5.25, 7.5, 5.5, 7.75],  # within one
    [8.0, 9.0, 8.0, 9.0],  # nothing
    [-30.0, 3.0, -5.0, 20.0],  # outside
    [40.0, 3.0, 55.0, 20.0],
    [3.0, 29.0, 9.0, 50.0],
    [-5.0, 0.0, 50.0, 29.0],
]
SIZE = (29, 37)


def probabilities(count: int, cells: int = 28, seed: int = 0) -> Tensor:
    return torch.rand(count, cells, cells, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=60)
@given(st.lists(box, max_size=4), st.sampled_from([1, 2, 7, 28]), st.integers(0, 1000), st.sampled_from([0.5, 0.3, 0.9]))
def test_pasting_is_grid_sample(boxes: list[list[float]], cells: int, seed: int, threshold: float) -> None:
    boxes = [*boxes, *EDGES]
    masks = probabilities(len(boxes), cells, seed)
    pasted = paste_masks(masks, torch.tensor(boxes), SIZE, threshold)
    assert pasted.shape == (len(boxes), *SIZE)
    for mask, corners, ours in zip(masks, torch.tensor(boxes).tolist(), pasted, strict=True):
        value = grid_sampled(mask, corners, SIZE)
        # A cell of a tiny box is a fraction of a pixel, and its position a difference of floats: a tolerance for rounding.
        certain = (value - threshold).abs() > 1e-5 + 4e-6 * 80 * cells / max(
            min(corners[2] - corners[0], corners[3] - corners[1]), 1e-6
        )
        assert torch.equal(ours[certain], (value >= threshold)[certain])


def test_pasting_differs_from_grid_sample_only_within_rounding() -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(40, 2, generator=generator) * 200 - 40
    boxes = torch.cat([start, start + 8 + torch.rand(40, 2, generator=generator) * 150], dim=1)
    masks = probabilities(40)
    for mask, corners, ours in zip(masks, boxes.tolist(), paste_masks(masks, boxes, (150, 200)), strict=True):
        value = grid_sampled(mask, corners, (150, 200))
        differs = ours != (value >= 0.5)
        assert ((value[differs] - 0.5).abs() < 1e-5).all()
        assert differs.sum() <= 1


def test_a_full_mask_covers_its_box() -> None:
    pasted = paste_masks(torch.ones(2, 28, 28), torch.tensor([[3.0, 5, 11, 20], [-4, -4, 2, 3]]), (30, 20))
    expected = torch.zeros(2, 30, 20, dtype=torch.bool)
    expected[0, 5:20, 3:11] = True
    expected[1, :3, :2] = True
    assert torch.equal(pasted, expected)


def test_pasting_no_masks() -> None:
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), SIZE).shape == (0, *SIZE)
    assert masks_to_rle(torch.zeros(0, 28, 28), torch.zeros(0, 4), SIZE) == []


# -------------------------------------------------------------------------------------------------------------- run lengths


@settings(deadline=None, max_examples=60)
@example([[0.75, 0.0, 1.75, 1.0]], 7, 0, (1, 9))  # ends in the last pixel that the mask reaches
@given(
    st.lists(box, max_size=4), st.sampled_from([1, 7, 28]), st.integers(0, 1000), st.sampled_from([SIZE, (1, 1), (1, 9), (9, 1)])
)
def test_run_lengths_are_pycocotools(boxes: list[list[float]], cells: int, seed: int, size: tuple[int, int]) -> None:
    corners = torch.tensor([*boxes, *EDGES])
    masks = probabilities(len(corners), cells, seed)
    masks[-1] = 1
    pasted = paste_masks(masks, corners, size)
    for code, mask in zip(masks_to_rle(masks, corners, size), pasted, strict=True):
        expected = pycoco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
        assert code == {"size": list(size), "counts": expected["counts"].decode("ascii")}
        assert torch.equal(torch.from_numpy(pycoco_mask.decode(code)).bool(), mask)


def test_a_mask_of_the_whole_image_and_an_empty_one() -> None:
    boxes = torch.tensor([[-20.0, -20, 60, 50], [3, 4, 9, 9]])
    masks = torch.stack([torch.ones(28, 28), torch.zeros(28, 28)])
    full, empty = masks_to_rle(masks, boxes, SIZE)
    assert pycoco_mask.area(full) == SIZE[0] * SIZE[1]
    assert pycoco_mask.area(empty) == 0


def test_pasting_at_once_equals_pasting_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form for a GPU: inside the image, across each border, beyond it, thinner than a pixel, and in several parts."""
    generator = torch.Generator().manual_seed(3)
    boxes = torch.tensor(
        [[3.0, 5, 41.5, 30.2], [-9, -4, 20, 18], [30, 20, 80, 60], [70, 70, 90, 90], [10, 10, 10.4, 35], [-5, -5, 60, 50]]
    )
    masks = torch.rand(len(boxes), 28, 28, generator=generator)
    expected = paste_masks(masks, boxes, (40, 50))
    monkeypatch.setattr(masks_module, "PASTED_AT_ONCE", 2 * 40 * 50)
    assert torch.equal(paste_masks_at_once(masks, boxes, (40, 50)), expected)
    assert paste_masks_at_once(masks[:0], boxes[:0], (40, 50)).shape == (0, 40, 50)
