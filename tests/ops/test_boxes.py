"""Boxes, anchors and suppression, by hand, by plain loops and against torchvision."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torchvision.ops
from hypothesis import given, settings
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from boxwood.ops.anchors import anchor_grid, cell_anchors
from boxwood.ops.boxes import MAX_LOG_SCALE, area, clip, decode, encode, intersection, ioa, iou
from boxwood.ops.nms import nms_mask


def random_boxes(count: int, seed: int, *, side: float = 100, smallest: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(count, 2, generator=generator) * side
    return torch.cat([start, start + smallest + torch.rand(count, 2, generator=generator) * side / 2], dim=1)


# --------------------------------------------------------------------------------------------------------------- overlaps

SQUARE = torch.tensor([[0.0, 0, 10, 10]])
OTHERS = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 15], [2, 2, 4, 4], [10, 0, 20, 10], [20, 20, 30, 30]])


def test_overlaps_by_hand() -> None:
    assert area(OTHERS).tolist() == [100, 100, 4, 100, 100]
    assert intersection(SQUARE, OTHERS).tolist() == [[100, 25, 4, 0, 0]]
    torch.testing.assert_close(iou(SQUARE, OTHERS), torch.tensor([[1, 25 / 175, 0.04, 0, 0]]))
    torch.testing.assert_close(ioa(SQUARE, OTHERS), torch.tensor([[1, 0.25, 0.04, 0, 0]]))
    torch.testing.assert_close(ioa(OTHERS, SQUARE)[:, 0], torch.tensor([1, 0.25, 1, 0, 0]))


def test_iou_is_torchvisions() -> None:
    a, b = random_boxes(60, 0), random_boxes(80, 1)
    torch.testing.assert_close(iou(a, b), torchvision.ops.box_iou(a, b), rtol=1e-6, atol=1e-7)


def test_overlaps_of_no_boxes_and_of_empty_boxes() -> None:
    none, point = torch.zeros(0, 4), torch.tensor([[3.0, 3, 3, 3]])
    for function in (iou, ioa):
        assert function(none, OTHERS).shape == (0, 5)
        assert function(OTHERS, none).shape == (5, 0)
        assert function(point, point).tolist() == [[0.0]]
        assert function(point, SQUARE).tolist() == [[0.0]]


def test_clip_by_hand() -> None:
    boxes = torch.tensor([[-5.0, -1, 30, 40], [2, 3, 4, 5], [50, 50, 60, 70], [-9, -9, -1, -2]])
    size = torch.tensor([20, 10])  # height, width
    expected = torch.tensor([[0.0, 0, 10, 20], [2, 3, 4, 5], [10, 20, 10, 20], [0, 0, 0, 0]])
    assert torch.equal(clip(boxes, size), expected)
    assert torch.equal(clip(boxes, size), torchvision.ops.clip_boxes_to_image(boxes, (20, 10)))
    both = clip(boxes.expand(2, -1, -1), torch.tensor([[20, 10], [100, 100]])[:, None])
    assert torch.equal(both[0], expected)
    assert torch.equal(both[1], boxes.clamp(min=0))


# ----------------------------------------------------------------------------------------------------------------- coding


def test_encode_by_hand() -> None:
    reference = torch.tensor([[0.0, 0, 10, 20]])  # centre (5, 10)
    box = torch.tensor([[6.0, 8, 11, 28]])  # centre (8.5, 18), 5 x 20
    expected = torch.tensor([[0.35, 0.4, math.log(0.5), 0.0]])
    torch.testing.assert_close(encode(box, reference), expected)
    weights = (10.0, 20.0, 5.0, 2.5)
    torch.testing.assert_close(encode(box, reference, weights), expected * torch.tensor(weights))
    torch.testing.assert_close(decode(expected, reference), box)
    torch.testing.assert_close(decode(expected * torch.tensor(weights), reference, weights), box)


def test_decode_limits_growth() -> None:
    reference = torch.tensor([[10.0, 10, 26, 42]])
    x1, y1, x2, y2 = decode(torch.tensor([[0.0, 0, 90, 1e6]]), reference)[0].tolist()
    assert (x2 - x1, y2 - y1) == pytest.approx((16 * math.exp(MAX_LOG_SCALE), 32 * 62.5))
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((18, 26), abs=1e-3)


coordinate = st.floats(-500, 500, width=32)
side = st.floats(0.5, 400, width=32)
box = st.tuples(coordinate, coordinate, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(box, box), max_size=5), st.tuples(*[st.floats(0.5, 20)] * 4))
def test_decode_inverts_encode(pairs: list[tuple[list[float], list[float]]], weights: tuple[float, ...]) -> None:
    boxes = torch.tensor([a for a, _ in pairs], dtype=torch.float64).reshape(-1, 4)
    references = torch.tensor([b for _, b in pairs], dtype=torch.float64).reshape(-1, 4)
    growth = (boxes[:, 2:] - boxes[:, :2]) / (references[:, 2:] - references[:, :2])
    small = (growth < math.exp(MAX_LOG_SCALE)).all(dim=1)
    back = decode(encode(boxes, references, weights), references, weights)
    torch.testing.assert_close(back[small], boxes[small], rtol=1e-9, atol=1e-6)


def test_coding_of_no_boxes() -> None:
    none = torch.zeros(0, 4)
    assert encode(none, none).shape == decode(none, none).shape == (0, 4)


# ---------------------------------------------------------------------------------------------------------------- anchors


def test_anchors_by_hand() -> None:
    cell = cell_anchors([10, 20], [0.25, 1.0])
    torch.testing.assert_close(
        cell, torch.tensor([[-10, -2.5, 10, 2.5], [-20, -5, 20, 5], [-5.0, -5, 5, 5], [-10, -10, 10, 10]]), rtol=0, atol=1e-5
    )
    grid = anchor_grid(torch.tensor([[-1.0, -2, 1, 2]]), 2, 3, 4)
    assert grid[:, :2].tolist() == [[1, 0], [5, 0], [9, 0], [1, 4], [5, 4], [9, 4]]
    assert grid[:, 2:].tolist() == [[3, 4], [7, 4], [11, 4], [3, 8], [7, 8], [11, 8]]
    assert torch.equal(anchor_grid(cell, 2, 3, 4, 0.5), anchor_grid(cell, 2, 3, 4, 0.0) + 2)


def test_anchors_are_torchvisions() -> None:
    sizes, ratios, strides = ((32,), (64, 80), (128,)), (0.5, 1.0, 2.0), (4, 8, 16)
    generator = AnchorGenerator(sizes, (ratios,) * 3)
    maps = [torch.zeros(1, 1, 64 // stride, 96 // stride) for stride in strides]
    (expected,) = generator(ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)]), maps)
    ours = [
        anchor_grid(cell_anchors(size, ratios, rounded=True), *level.shape[-2:], stride, 0.0)
        for size, level, stride in zip(sizes, maps, strides, strict=True)
    ]
    assert torch.equal(torch.cat(ours), expected)


# ------------------------------------------------------------------------------------------------------------ suppression


def greedy(boxes: Tensor, scores: Tensor, groups: Tensor | None, threshold: float, valid: Tensor | None) -> list[bool]:
    """Greedy suppression in a plain loop, in float64; of equal scores the first comes first."""
    corners = boxes.double().tolist()
    kept_rows: list[int] = []
    for index in np.argsort(-scores.numpy(), kind="stable").tolist():
        if valid is not None and not valid[index]:
            continue
        x1, y1, x2, y2 = corners[index]
        for other in kept_rows:
            if groups is not None and groups[other] != groups[index]:
                continue
            a1, b1, a2, b2 = corners[other]
            shared = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
            union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - shared
            if union > 0 and shared / union > threshold:
                break
        else:
            kept_rows.append(index)
    return [index in kept_rows for index in range(len(corners))]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40), st.integers(0, 10**6), st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.booleans(), st.booleans())
def test_suppression_is_greedy(count: int, seed: int, threshold: float, grouped: bool, marked: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(count, seed, side=20)
    scores = torch.randint(0, 8, (count,), generator=generator) / 8  # many ties
    groups = torch.randint(0, 3, (count,), generator=generator) if grouped else None
    valid = torch.rand(count, generator=generator) < 0.7 if marked else None
    assert nms_mask(boxes, scores, groups, threshold, valid).tolist() == greedy(boxes, scores, groups, threshold, valid)


def test_suppression_is_torchvisions() -> None:
    boxes, scores = random_boxes(400, 3), torch.rand(400, generator=torch.Generator().manual_seed(4))
    groups = torch.arange(400) % 5
    one = torchvision.ops.nms(boxes, scores, 0.4)
    assert nms_mask(boxes, scores, None, 0.4).nonzero()[:, 0].tolist() == sorted(one.tolist())
    many = torchvision.ops.batched_nms(boxes, scores, groups, 0.4)
    assert nms_mask(boxes, scores, groups, 0.4).nonzero()[:, 0].tolist() == sorted(many.tolist())
    assert 10 < len(one) < len(many) < 390  # many are dropped, many survive


def test_an_overlap_of_the_threshold_does_not_suppress() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # an IoU of exactly a half
    scores = torch.tensor([0.9, 0.8])
    assert nms_mask(boxes, scores, None, 0.5).tolist() == [True, True]
    assert nms_mask(boxes, scores, None, 0.49).tolist() == [True, False]


def test_invalid_boxes_neither_survive_nor_suppress() -> None:
    boxes, scores = torch.tensor([[0.0, 0, 10, 10]] * 3), torch.tensor([0.9, 0.8, 0.7])
    assert nms_mask(boxes, scores, None, 0.5, torch.tensor([False, True, True])).tolist() == [False, True, False]
    assert nms_mask(boxes, scores, torch.tensor([0, 0, 7]), 0.5, torch.tensor([False, True, True])).tolist() == [False, True, True]
    assert not nms_mask(boxes, scores, torch.tensor([0, 0, 7]), 0.5, torch.zeros(3, dtype=torch.bool)).any()
