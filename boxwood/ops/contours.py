"""From the pixels of a mask to its outline, as COCO stores it: polygons, or run lengths where the mask has holes; and its area."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from hotcoco import mask as coco_mask
from numpy.typing import NDArray

__all__ = ["instance_area", "run_lengths", "signed_area", "simplified", "traced"]

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]


def traced(mask: Mask) -> tuple[list[Points], list[Points]]:
    """The outlines of a mask's parts, and those of its holes, along the edges of the pixels.

    ``mask`` (H, W) -> lists of (n, 2) points x, y, one a pixel's edge; pixels that touch only at a corner are separate parts.

    >>> outer, holes = traced(np.array([[False, False], [False, True]]))
    >>> outer[0].tolist(), holes
    ([[1.0, 1.0], [2.0, 1.0], [2.0, 2.0], [1.0, 2.0]], [])
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    stride = mask.shape[1] + 1

    def leaving(edges: Mask, dx: int, dy: int) -> list[int]:
        rows, columns = np.nonzero(edges)
        numbers: list[int] = ((rows + dy) * stride + columns + dx).tolist()
        return numbers

    # Corners are numbered row by row. Edges run clockwise, with the mask on the right; each is known by the corner it leaves.
    right, down, left, up = 1, stride, -1, -stride
    forward = dict.fromkeys(leaving(inside & ~padded[:-2, 1:-1], 0, 0), right)
    forward.update(dict.fromkeys(leaving(inside & ~padded[1:-1, 2:], 1, 0), down))
    backward = dict.fromkeys(leaving(inside & ~padded[2:, 1:-1], 1, 1), left)
    backward.update(dict.fromkeys(leaving(inside & ~padded[1:-1, :-2], 0, 1), up))
    turn = {right: down, down: left, left: up, up: right}
    outer: list[Points] = []
    holes: list[Points] = []
    while forward:
        numbers = np.array(_walk(forward, backward, turn))
        outline = np.stack([numbers % stride, numbers // stride], axis=1).astype(np.float64)
        (outer if signed_area(outline) > 0 else holes).append(outline)
    return outer, holes


def _walk(forward: dict[int, int], backward: dict[int, int], turn: dict[int, int]) -> list[int]:
    """Follow one closed outline, taking its edges out of the two maps from a corner to the step that leaves it.

    Two edges leave a corner where two pixels touch in it, in opposite directions, so each map has at most one of them.
    """
    start = corner = next(iter(forward))
    first = forward[start]
    crossing = start in backward
    step = 0
    corners: list[int] = []
    while True:
        there, back = forward.get(corner), backward.get(corner)
        # Where two pixels touch, turning right stays on the same one.
        step = first if not corners else turn[step] if there is not None and back is not None else there or back or 0
        del (forward if step == there else backward)[corner]
        corners.append(corner)
        corner += step
        if corner == start and (not crossing or turn[step] == first):
            return corners


def simplified(outline: Points, tolerance: float) -> Points:
    """A closed outline with fewer points, none of the dropped ones farther than ``tolerance`` from it.

    Ramer (1972), Douglas and Peucker (1973).

    >>> simplified(np.array([[0, 0], [2, 0.1], [4, 0], [4, 4.0]]), 0.5).tolist()
    [[0.0, 0.0], [4.0, 0.0], [4.0, 4.0]]
    """
    # A closed line has no ends: the two halves between the first point and the one farthest from it are simplified.
    far = int(np.argmax(((outline - outline[0]) ** 2).sum(axis=1)))
    x, y = np.vstack([outline, outline[:1]]).T
    is_kept = np.zeros(len(x), dtype=np.bool_)
    is_kept[[0, far, -1]] = True
    while True:
        # Of each chord between two kept points: twice the areas of the triangles over it, its length times their heights.
        kept = np.flatnonzero(is_kept)
        starts, ends = kept[:-1], kept[1:]
        dx, dy = x[ends] - x[starts], y[ends] - y[starts]
        chord = np.repeat(np.arange(len(dx)), ends - starts)
        areas = np.abs(x[:-1] * dy[chord] - y[:-1] * dx[chord] - (x[starts] * dy - y[starts] * dx)[chord])
        largest = np.maximum.reduceat(areas, starts)
        farthest = np.flatnonzero((areas == largest[chord]) & (largest > tolerance * np.hypot(dx, dy))[chord])
        if not len(farthest):
            kept_points: Points = outline[starts]
            return kept_points
        # Of points equally far from a chord the first.
        is_first = np.diff(chord[farthest], prepend=-1) > 0
        is_kept[farthest[is_first]] = True


def run_lengths(mask: Mask) -> dict[str, Any]:
    """A mask as COCO's uncompressed run lengths: down the columns, zeros first.

    >>> run_lengths(np.array([[False, True], [True, True]]))
    {'size': [2, 2], 'counts': [1, 3]}
    """
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()}


def signed_area(outline: Points) -> float:
    """The area inside an outline of (n, 2) points x, y; positive where it runs clockwise, y being downwards.

    >>> signed_area(np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0]]))
    2.0
    """
    x, y = outline.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def instance_area(segmentation: Any, box: Sequence[float]) -> float:
    """The area of an instance in square pixels: of its mask as COCO writes it (the sum of its polygons, or run lengths), or of its
    box (x, y, width, height) where it has no mask, or one that is empty or damaged; 0 where neither has an area.

    >>> instance_area([[0, 0, 4, 0, 4, 3]], [0, 0, 4, 3]), instance_area(None, [0, 0, 4, 3]), instance_area(None, [0, 0, -4, 3])
    (6.0, 12.0, 0.0)
    """
    try:
        area = _mask_area(segmentation) if segmentation else 0.0
    except Exception:  # the decoder of run lengths raises errors of several types; that a mask is damaged is said elsewhere
        area = 0.0
    if not 0 < area < math.inf:
        area = max(float(box[2]), 0.0) * max(float(box[3]), 0.0)
    return area


def _mask_area(segmentation: Any) -> float:
    if isinstance(segmentation, list):
        usable = [part for part in segmentation if len(part) >= 6 and len(part) % 2 == 0]
        return sum(abs(signed_area(np.array(part, dtype=np.float64).reshape(-1, 2))) for part in usable)
    if isinstance(segmentation["counts"], list):
        return float(sum(segmentation["counts"][1::2]))
    return float(np.asarray(coco_mask.area([segmentation])).item())
