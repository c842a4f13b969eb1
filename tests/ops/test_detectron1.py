"""Detectron's arithmetic against vectors that its code gave, and against plain loops in its coordinates.

The vectors are from a survey of Detectron's numpy code. Its boxes name their last pixel; ours end a pixel later, so `LAST` is added
to a box of the tables first.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hotcoco import mask as coco_mask
from hypothesis import given
from hypothesis import strategies as st

from boxwood.ops.anchors import anchor_grid
from boxwood.ops.boxes import decode, encode
from boxwood.ops.detectron1 import DETECTRON1, cell_anchors, clip, mask_crops, nms_mask
from boxwood.ops.keypoints import keypoint_similarity, keypoint_targets
from boxwood.ops.masks import mask_targets, masks_to_rle, paste_masks, rasterize_polygons
from boxwood.ops.roi_align import assign_levels

LAST = torch.tensor([0.0, 0, 1, 1])
B, G = torch.tensor([10.0, 20, 109, 169]), torch.tensor([15.0, 18, 120, 180])

FPN_ANCHORS = {
    (4, 32): [(-22, -10, 25, 13), (-14, -14, 17, 17), (-10, -22, 13, 25)],
    (8, 64): [(-40, -20, 47, 27), (-28, -28, 35, 35), (-20, -44, 27, 51)],
    (16, 128): [(-84, -40, 99, 55), (-56, -56, 71, 71), (-36, -80, 51, 95)],
    (32, 256): [(-164, -72, 195, 103), (-112, -112, 143, 143), (-76, -168, 107, 199)],
    (64, 512): [(-332, -152, 395, 215), (-224, -224, 287, 287), (-148, -328, 211, 391)],
}
C4_ANCHORS = [
    (-15, -4, 30, 19), (-38, -16, 53, 31), (-84, -40, 99, 55), (-176, -88, 191, 103), (-360, -184, 375, 199),
    (-8, -8, 23, 23), (-24, -24, 39, 39), (-56, -56, 71, 71), (-120, -120, 135, 135), (-248, -248, 263, 263),
    (-3, -14, 18, 29), (-14, -36, 29, 51), (-36, -80, 51, 95), (-80, -168, 95, 183), (-168, -344, 183, 359),
]  # fmt: skip
DEFAULT_ANCHORS = [box for index, box in enumerate(C4_ANCHORS) if index % 5]
# Octave by octave, each with the ratios 1, 2 and 0.5.
RETINANET_ANCHORS = {
    8: [
        (-12, -12, 19, 19), (-8, -20, 15, 27), (-18, -8, 25, 15),
        (-16.1587, -16.1587, 23.1587, 23.1587), (-11.1191, -26.2381, 18.1191, 33.2381), (-23.7183, -11.1191, 30.7183, 18.1191),
        (-21.3984, -21.3984, 28.3984, 28.3984), (-15.0488, -34.0976, 22.0488, 41.0976), (-30.9228, -15.0488, 37.9228, 22.0488),
    ],
    16: [
        (-24, -24, 39, 39), (-14, -36, 29, 51), (-38, -16, 53, 31),
        (-32.3175, -32.3175, 47.3175, 47.3175), (-19.7183, -47.4365, 34.7183, 62.4365), (-49.9564, -22.2381, 64.9564, 37.2381),
        (-42.7968, -42.7968, 57.7968, 57.7968), (-26.9228, -61.8456, 41.9228, 76.8456), (-65.0204, -30.0976, 80.0204, 45.0976),
    ],
    32: [
        (-48, -48, 79, 79), (-30, -76, 61, 107), (-74, -28, 105, 59),
        (-64.6349, -64.6349, 95.6349, 95.6349), (-41.9564, -99.9127, 72.9564, 130.9127), (-97.3929, -39.4365, 128.3929, 70.4365),
        (-85.5937, -85.5937, 116.5937, 116.5937), (-57.0204, -130.0409, 88.0204, 161.0409),
        (-126.8661, -53.8456, 157.8661, 84.8456),
    ],
    64: [
        (-96, -96, 159, 159), (-58, -148, 121, 211), (-150, -60, 213, 123),
        (-129.2699, -129.2699, 192.2699, 192.2699), (-81.3929, -194.7858, 144.3929, 257.7858),
        (-197.3056, -83.9127, 260.3056, 146.9127),
        (-171.1873, -171.1873, 234.1873, 234.1873), (-110.8661, -253.7322, 173.8661, 316.7322),
        (-256.907, -114.0409, 319.907, 177.0409),
    ],
    128: [
        (-192, -192, 319, 319), (-118, -300, 245, 427), (-298, -116, 425, 243),
        (-258.5398, -258.5398, 385.5398, 385.5398), (-165.3056, -394.6113, 292.3056, 521.6113),
        (-392.0914, -162.7858, 519.0914, 289.7858),
        (-342.3747, -342.3747, 469.3747, 469.3747), (-224.907, -513.814, 351.907, 640.814),
        (-510.6392, -221.7322, 637.6392, 348.7322),
    ],
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------ the golden vectors


@pytest.mark.parametrize(("stride", "size"), FPN_ANCHORS)
def test_anchors_of_a_pyramid(stride: int, size: int) -> None:
    anchors = cell_anchors([size], [0.5, 1, 2], stride)
    assert torch.equal(anchors - LAST, torch.tensor(FPN_ANCHORS[stride, size]).float())
    grid = anchor_grid(anchors, 3, 2, stride, 0.0)
    assert torch.equal(grid[-3:] - anchors, torch.tensor([1.0, 2, 1, 2]).expand(3, 4) * stride)


@pytest.mark.parametrize(("sizes", "expected"), [((32, 64, 128, 256, 512), C4_ANCHORS), ((64, 128, 256, 512), DEFAULT_ANCHORS)])
def test_anchors_of_one_map(sizes: tuple[int, ...], expected: Any) -> None:
    assert torch.equal(cell_anchors(sizes, [0.5, 1, 2], 16) - LAST, torch.tensor(expected).float())


@pytest.mark.parametrize("stride", RETINANET_ANCHORS)
def test_anchors_of_retinanet(stride: int) -> None:
    """Ours are ordered by ratio, Detectron's by octave."""
    octaves = [4 * stride * 2 ** (octave / 3) for octave in range(3)]
    anchors = cell_anchors(octaves, [1, 2, 0.5], stride).view(3, 3, 4).transpose(0, 1).reshape(9, 4)
    torch.testing.assert_close(anchors - LAST, torch.tensor(RETINANET_ANCHORS[stride]).float(), rtol=1e-6, atol=6e-5)


def test_coding() -> None:
    box, truth = (B + LAST)[None], (G + LAST)[None]
    torch.testing.assert_close(
        encode(truth, box, (10, 10, 5, 5))[0], torch.tensor([0.8, 0.3, 0.29134429, 0.41557467]), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(encode(truth, box)[0], torch.tensor([0.08, 0.03, 0.05826886, 0.08311494]), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(decode(encode(truth, box), box), truth, rtol=0, atol=1e-4)
    far = decode(torch.tensor([[0.5, -0.25, 30, 30]]), box, (10, 10, 5, 5)) - LAST
    torch.testing.assert_close(far[0], torch.tensor([-3060, -4596.25, 3189, 4777.75]), rtol=1e-6, atol=1e-2)


def test_boxes_of_coco() -> None:
    """COCO's x, y, width, height are ours without a pixel more or less; a side of less than a pixel becomes a pixel."""
    one = torch.ones(2)
    assert torch.equal(DETECTRON1.from_data(torch.tensor([[10.0, 20, 110, 170]]), one)[0] - LAST, B)
    assert (DETECTRON1.from_data(torch.tensor([[1.0, 2, 1.5, 2.5]]), one)[0] - LAST).tolist() == [1, 2, 1, 2]


def test_flip() -> None:
    from boxwood.fields import Affine

    assert (Affine.flip((480, 640)).boxes((B + LAST)[None])[0] - LAST).tolist() == [530, 20, 629, 169]


def test_enlarged_box_of_a_mask() -> None:
    """30/28 of the box is (6.46, 14.68, 112.54, 174.32); a mask of ones fills its whole pixels except the rim."""
    ((top, left, crop),) = mask_crops(torch.ones(1, 28, 28), (B + LAST)[None], (300, 300), 0.0)
    assert (top, left, crop.shape) == (14, 6, (174 - 14 + 1, 112 - 6 + 1))


def test_levels() -> None:
    levels = {2: (10, 55, 56, 111), 3: (112, 113, 223), 4: (224, 225, 447), 5: (448, 449, 896, 2000)}
    for level, sides in levels.items():
        boxes = torch.tensor([[0.0, 0, side - 1, side - 1] for side in sides]) + LAST
        assert (assign_levels(boxes, 4) + 2 == level).all()


def test_keypoint_targets() -> None:
    points = torch.tensor([[[10.0, 20, 2], [60, 169, 1], [109, 100, 1], [5, 30, 2]]])
    cells, valid = keypoint_targets(points, DETECTRON1.region(B + LAST)[None], 56)
    assert cells.tolist() == [[0, 3108, 1735, 0]] and valid.tolist() == [[True, True, True, False]]


def test_similarity_of_keypoints() -> None:
    sigmas = torch.tensor([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
    points = torch.arange(17.0)[None, :, None] * torch.tensor([5.0, 3.0])
    similarity = keypoint_similarity(points, points + torch.tensor([4.0, -3.0]), torch.tensor([100.0 * 100.0]), sigmas)
    assert similarity.item() == pytest.approx(0.87115495, abs=1e-6)


# ------------------------------------------------------------------------------------------------------------ plain loops


@given(st.lists(st.tuples(*[st.floats(-40, 90, width=32)] * 4), min_size=1, max_size=8), st.integers(20, 50), st.integers(20, 50))
def test_clip(rows: list[tuple[float, ...]], height: int, width: int) -> None:
    boxes = torch.tensor(rows)
    expected = np.array([[min(max(v, 0), (width, height)[i % 2] - 1) for i, v in enumerate((b - LAST).tolist())] for b in boxes])
    torch.testing.assert_close(
        clip(boxes, torch.tensor([height, width])) - LAST, torch.from_numpy(expected).float(), rtol=0, atol=1e-4
    )


def test_an_overlap_of_the_threshold_suppresses() -> None:
    """Pixels 0..9 and 0..4 of a row: 5 of 10 are shared, exactly 0.5."""
    boxes = torch.tensor([[0.0, 0, 9, 0], [0, 0, 4, 0]]) + LAST
    assert nms_mask(boxes, torch.tensor([0.9, 0.8]), None, 0.5).tolist() == [True, False]
    assert nms_mask(boxes, torch.tensor([0.9, 0.8]), None, 0.51).tolist() == [True, True]


def resized(mask: np.ndarray[Any, Any], width: int, height: int) -> np.ndarray[Any, Any]:
    """Bilinear scaling with the outermost values repeated, pixel by pixel."""
    rows, columns = mask.shape
    result = np.zeros((height, width))
    for y in range(height):
        v = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
        for x in range(width):
            u = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            i, j = min(int(v), rows - 2), min(int(u), columns - 2)
            a, b = v - i, u - j
            part = mask[i : i + 2, j : j + 2]
            result[y, x] = np.array([1 - a, a]) @ part @ np.array([1 - b, b])
    return result


@pytest.mark.parametrize("seed", range(4))
def test_paste(seed: int) -> None:
    """Reference section d.5 in loops, at boxes inside, across each border, tiny and outside."""
    rng = np.random.default_rng(seed)
    height, width, cells = 40, 50, 14
    boxes = np.array(
        [[3, 4, 33.4, 21], [-12.5, -9, 20, 18], [30.2, 25, 61, 55], [5, 5, 5, 5], [60, 60, 70, 70], [-30, 8, -18, 20.5]]
    ) + rng.uniform(0, 1, (6, 4))
    masks = rng.uniform(size=(len(boxes), cells, cells)).astype(np.float32)
    expected = np.zeros((len(boxes), height, width), dtype=bool)
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        half_w, half_h, cx, cy = (x2 - x1) / 2, (y2 - y1) / 2, (x1 + x2) / 2, (y1 + y2) / 2
        factor = (cells + 2) / cells
        sides = (cx - half_w * factor, cy - half_h * factor, cx + half_w * factor, cy + half_h * factor)
        left, top, right, bottom = map(math.trunc, sides)
        w, h = max(right - left + 1, 1), max(bottom - top + 1, 1)
        scaled = resized(np.pad(masks[index], 1), w, h) > 0.5
        for y in range(max(top, 0), min(bottom + 1, height)):
            for x in range(max(left, 0), min(right + 1, width)):
                expected[index, y, x] = scaled[y - top, x - left]
    ours = torch.from_numpy(boxes).float() + LAST
    pasted = paste_masks(torch.from_numpy(masks), ours, (height, width), crops=mask_crops).numpy()
    assert expected.any(axis=(1, 2))[:3].all() and (pasted != expected).sum() == 0
    codes = masks_to_rle(torch.from_numpy(masks), ours, (height, width), crops=mask_crops)
    for code, mask in zip(codes, pasted, strict=True):
        assert (coco_mask.decode(code) == mask).all()


def test_mask_targets_are_nearly_the_polygons() -> None:
    """Detectron rasterises the polygon in each RoI. Ours are read from a bitmap of it: the cells on its outline may differ."""
    outline = np.array([[12.0, 8], [88, 20], [70, 95], [30, 80]])
    bitmap = torch.from_numpy(rasterize_polygons([outline.astype(np.float32)], (12, 8, 88, 95), 112))[None]
    rois = torch.tensor([[5.0, 2, 95, 99], [30, 30, 80, 90], [12, 8, 50, 60]]) + LAST
    corners = DETECTRON1.region(rois)
    ours = mask_targets(bitmap, torch.tensor([[12.0, 8, 88, 95]]), corners, torch.zeros(3, dtype=torch.int64), 28) >= 0.5
    for (x1, y1, x2, y2), target in zip(corners.tolist(), ours.numpy(), strict=True):
        scaled = ((outline - (x1, y1)) * 28 / np.maximum((x2 - x1, y2 - y1), 1)).ravel().tolist()
        truth = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([scaled], 28, 28)))
        assert (truth != target).mean() < 0.03 and truth.any()
