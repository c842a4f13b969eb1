"""Outlines traced around masks fill to the same masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as pycoco_mask

from boxwood.ops.contours import instance_area, run_lengths, signed_area, simplified, traced

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools under numpy 2
masks = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def filled(outline: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies inside, by counting the crossings to the left of it."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, dtype=bool)
    for (x1, y1), (_, y2) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if y1 != y2:
            inside ^= (x1 < x) & (min(y1, y2) < y) & (y < max(y1, y2))
    return inside


@settings(max_examples=200, deadline=None)
@given(masks)
def test_outlines_minus_holes_are_the_mask(mask: np.ndarray) -> None:
    outer, holes = traced(mask)
    rebuilt = np.zeros(mask.shape, dtype=bool)
    for outline in [*outer, *holes]:
        rebuilt ^= filled(outline, mask.shape)
    np.testing.assert_array_equal(rebuilt, mask)
    assert sum(signed_area(outline) for outline in [*outer, *holes]) == mask.sum()


@settings(max_examples=100, deadline=None)
@given(masks)
def test_run_lengths_are_cocos(mask: np.ndarray) -> None:
    ours = run_lengths(mask)
    theirs = pycoco_mask.frPyObjects(ours, *mask.shape)
    np.testing.assert_array_equal(pycoco_mask.decode(theirs), mask)


def test_a_simplified_circle_stays_a_circle() -> None:
    y, x = np.mgrid[:100, :100] + 0.5
    outline = traced((x - 50) ** 2 + (y - 50) ** 2 < 40**2)[0][0]
    middles = (outline + np.roll(outline, -1, axis=0)) / 2
    fewer = simplified(middles, 0.6)
    assert len(fewer) < len(outline) / 5
    assert np.abs(np.hypot(*(fewer - 50).T) - 40).max() < 1.0
    assert abs(signed_area(fewer) / (np.pi * 40**2) - 1) < 0.02


def by_recursion(points: np.ndarray, tolerance: float) -> list[list[float]]:
    """Ramer's algorithm for a line between its two ends, as the textbooks have it; without the last point."""
    if len(points) < 3:
        return points[:1].tolist()
    (x1, y1), (x2, y2) = points[0], points[-1]
    areas = np.abs((points[:, 0] - x1) * (y2 - y1) - (points[:, 1] - y1) * (x2 - x1))
    worst = int(areas.argmax())
    if areas[worst] <= tolerance * np.hypot(x2 - x1, y2 - y1):
        return points[:1].tolist()
    return by_recursion(points[: worst + 1], tolerance) + by_recursion(points[worst:], tolerance)


@settings(max_examples=200, deadline=None)
@given(masks, st.sampled_from([0.0, 0.6, 1.0, 2.5]))
def test_simplified_is_ramers_algorithm(mask: np.ndarray, tolerance: float) -> None:
    outer, holes = traced(mask)
    for outline in [*outer, *holes]:
        far = int(((outline - outline[0]) ** 2).sum(axis=1).argmax())
        closed = np.vstack([outline, outline[:1]])
        expected = by_recursion(closed[: far + 1], tolerance) + by_recursion(closed[far:], tolerance)
        assert simplified(outline, tolerance).tolist() == expected


def test_the_area_of_an_instance() -> None:
    """Of the mask in each of COCO's forms, whichever way round its outlines run; of the box where the mask gives none."""
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:4, 2:6] = True
    counts = run_lengths(mask)
    text = pycoco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    square, back = [2, 1, 6, 1, 6, 4, 2, 4], [2, 4, 6, 4, 6, 1, 2, 1]
    text_of_str = {"size": text["size"], "counts": text["counts"].decode()}
    for segmentation in (counts, text, text_of_str, [square], [back], [square, [0, 0, 1]]):
        assert instance_area(segmentation, [0, 0, 5, 5]) == 12
    assert instance_area([square, [7, 5, 8, 5, 8, 6]], [0, 0, 5, 5]) == 12.5
    for nothing in (
        None,
        [],
        [[]],
        [square[:4]],
        [[float("nan")] * 6],
        [2, 1, 6, 1, 6, 4],
        {"size": [6, 8]},
        {"size": [1, 1], "counts": "~"},
    ):
        assert instance_area(nothing, [0, 0, 5, 4]) == 20
    assert instance_area(None, [0, 0, -5, -4]) == 0
