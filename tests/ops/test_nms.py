"""Soft-NMS, box voting and OKS-NMS against plain loops, written after their papers and after Detectron."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from boxwood.ops.nms import nms_keypoints, soft_nms, vote

Array = np.ndarray[Any, np.dtype[np.float64]]


def overlap(a: Array, b: Array) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return float(both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both))


def random_boxes(seed: int, count: int = 40, classes: int = 3) -> tuple[Array, Array, Any]:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 40, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 50, (count, 2))], axis=1)
    return boxes, rng.uniform(0.0, 1, count), rng.integers(0, classes, count)


def plain_soft_nms(boxes: Array, scores: Array, decay: str, threshold: float, sigma: float, floor: float) -> Array:
    """One class, one box after another."""
    left, result = dict(enumerate(scores.tolist())), np.zeros(len(scores))
    while left:
        best = max(left, key=lambda i: left[i])
        result[best] = left.pop(best)
        for other in list(left):
            shared = overlap(boxes[best], boxes[other])
            if shared > 0:
                weight = 1.0
                if decay == "gaussian":
                    weight = math.exp(-(shared**2) / sigma)
                elif shared > threshold:
                    weight = 1 - shared if decay == "linear" else 0.0
                left[other] *= weight
                if left[other] < floor:
                    del left[other]
    return result


@pytest.mark.parametrize("decay", ["linear", "gaussian", "hard"])
@pytest.mark.parametrize("seed", range(5))
def test_soft_nms(decay: Any, seed: int) -> None:
    boxes, scores, labels = random_boxes(seed)
    valid = np.random.default_rng(seed + 100).random(len(scores)) < 0.9
    expected = np.zeros(len(scores))
    for label in range(3):
        rows = np.flatnonzero(valid & (labels == label))
        expected[rows] = plain_soft_nms(boxes[rows], scores[rows], decay, 0.3, 0.4, 0.05)
    tensors = (torch.from_numpy(array) for array in (boxes, scores, labels, valid))
    new_scores = soft_nms(*tensors, decay=decay, threshold=0.3, sigma=0.4, floor=0.05)
    np.testing.assert_allclose(new_scores.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert 0 < (expected == 0).sum() < len(expected) - 5


def test_soft_nms_of_no_boxes() -> None:
    nothing = torch.zeros(0)
    assert soft_nms(torch.zeros(0, 4), nothing, nothing.long(), nothing.bool()).shape == (0,)
    none_valid = soft_nms(torch.rand(3, 4), torch.rand(3), torch.zeros(3).long(), torch.zeros(3).bool())
    assert none_valid.tolist() == [0, 0, 0]


def plain_vote(box: Array, score: float, voters: Array, scores: Array, threshold: float, scoring: str, beta: float) -> Any:
    ious = np.array([overlap(box, voter) for voter in voters])
    votes = ious >= threshold
    ws, ious = scores[votes], ious[votes]
    moved = np.average(voters[votes], axis=0, weights=ws)
    if scoring == "avg":
        score = ws.mean()
    elif scoring == "iou_avg":
        score = np.average(ws, weights=ious)
    elif scoring == "generalized_avg":
        score = np.mean(ws**beta) ** (1 / beta)
    elif scoring == "quasi_sum":
        score = ws.sum() / len(ws) ** beta
    elif scoring == "temp_avg":
        both = np.stack([ws, 1 - ws])
        raised = np.exp(np.log(both) / beta)
        score = (raised / raised.sum(axis=0))[0].mean()
    return moved, score


@pytest.mark.parametrize("scoring", ["id", "avg", "iou_avg", "generalized_avg", "quasi_sum", "temp_avg"])
@pytest.mark.parametrize("beta", [1.0, 0.5, 2.0])
def test_voting(scoring: Any, beta: float) -> None:
    boxes, scores, labels = random_boxes(3, 60, 2)
    top = np.argsort(-scores)[:12]
    new_boxes, new_scores = vote(
        *(torch.from_numpy(array) for array in (boxes[top], scores[top], labels[top], boxes, scores, labels)),
        threshold=0.4,
        scoring=scoring,
        beta=beta,
    )
    voters = []
    for place, row in enumerate(top):
        same_class = labels == labels[row]
        moved, score = plain_vote(boxes[row], scores[row], boxes[same_class], scores[same_class], 0.4, scoring, beta)
        np.testing.assert_allclose(new_boxes[place].numpy(), moved, rtol=1e-9)
        assert new_scores[place].item() == pytest.approx(score, rel=1e-9)
        voters.append(sum(overlap(boxes[row], other) >= 0.4 for other in boxes[same_class]))
    assert max(voters) > 2


def test_a_box_without_votes_is_unchanged() -> None:
    box, score, label = torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([0.7]), torch.tensor([1])
    for scoring in ("id", "avg", "temp_avg"):
        moved, new_score = vote(box, score, label, box + 20, score, label, scoring=scoring)  # type: ignore[arg-type]
        assert torch.equal(moved, box) and torch.equal(new_score, score)


@pytest.mark.parametrize("seed", range(4))
def test_suppression_of_poses(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 60, (5, 1, 4, 2)) + rng.normal(0, 3, (5, 4, 4, 2))
    points = points.reshape(20, 4, 2)
    scores, areas, sigmas = rng.normal(size=20), rng.uniform(500, 4000, 20), np.array([0.1, 0.05, 0.2, 0.08])
    order, kept_rows = sorted(range(20), key=lambda i: -scores[i]), []
    for i in order:

        def similarity(better: int, i: int = i) -> float:
            squared = ((points[better] - points[i]) ** 2).sum(axis=1)
            return float(np.exp(-squared / (2 * sigmas) ** 2 / areas[better] / 2).mean())

        if all(similarity(j) <= 0.3 for j in kept_rows):
            kept_rows.append(i)
    survives = nms_keypoints(*(torch.from_numpy(array) for array in (points, scores, areas, sigmas)), 0.3)
    assert survives.nonzero()[:, 0].tolist() == sorted(kept_rows) and 3 < len(kept_rows) < 20
