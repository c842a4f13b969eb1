"""Heatmap targets and peaks, against torchvision's and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, keypoints_to_heatmap

from boxwood.ops.keypoints import _alike, _decode, bicubic_weights, decode_keypoints, keypoint_targets


def random_boxes(count: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=random) * 80
    return torch.cat([corners, corners + 0.3 + torch.rand(count, 2, generator=random) * 60], dim=1)


def test_targets_are_torchvisions() -> None:
    boxes = random_boxes(40, 0)
    keypoints = torch.rand(40, 5, 3, generator=torch.Generator().manual_seed(1)) * 150
    keypoints[..., 2] = torch.randint(0, 3, (40, 5), generator=torch.Generator().manual_seed(2))
    for corner in range(3):  # at the border, the corner, and inside
        keypoints[:, corner, :2] = (boxes[:, 2:], boxes[:, :2], 0.6 * boxes[:, :2] + 0.4 * boxes[:, 2:])[corner]
    cells, valid = keypoint_targets(keypoints, boxes, 56)
    expected, expected_valid = keypoints_to_heatmap(keypoints, boxes, 56)
    assert torch.equal(valid, expected_valid.bool()) and 40 < valid.sum() < 200
    assert torch.equal(cells, expected)


def test_targets_by_hand() -> None:
    """Cells of a 56 x 56 map by Detectron's rule: floor((x - x1) * 56 / (x2 - x1)), the far border belongs to the last."""
    keypoints = torch.tensor([[[10.0, 20, 2], [66, 132, 2], [38, 76, 1], [65.99, 20, 2], [9.9, 30, 2]]])
    cells, valid = keypoint_targets(keypoints, torch.tensor([[10.0, 20, 66, 132]]), 56)
    assert cells.tolist() == [[0, 55 * 56 + 55, 28 * 56 + 28, 55, 0]]
    assert valid.tolist() == [[True, True, True, True, False]]


def test_bicubic_is_torchs() -> None:
    for size, enlarged in ((7, 20), (56, 56), (56, 3), (56, 301), (5, 1)):
        row = torch.rand(1, 1, 1, size, generator=torch.Generator().manual_seed(0))
        expected = F.interpolate(row, (1, enlarged), mode="bicubic", align_corners=False)[0, 0, 0]
        torch.testing.assert_close(bicubic_weights(size, enlarged) @ row.flatten(), expected, rtol=0, atol=2e-5)


def test_peaks_are_torchvisions() -> None:
    boxes = random_boxes(30, 3)
    logits = torch.randn(30, 4, 56, 56, generator=torch.Generator().manual_seed(4))
    points = decode_keypoints(logits, boxes)
    expected, scores = heatmaps_to_keypoints(logits, boxes)
    torch.testing.assert_close(points[..., :2], expected[..., :2], rtol=0, atol=1e-3)
    torch.testing.assert_close(points[..., 2], scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("most", [1, 40_000, 2**26])
def test_boxes_of_about_the_same_size_are_decoded_together(most: int) -> None:
    """As on a GPU: each box is in one group, no group has too many pixels, and the peaks are those of each box alone."""
    boxes = random_boxes(30, 3)
    logits = torch.randn(30, 4, 56, 56, generator=torch.Generator().manual_seed(4))
    expected = decode_keypoints(logits, boxes)
    shapes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).ceil().long().tolist()
    groups = _alike(shapes, most)
    assert sorted(row for group in groups for row in group) == list(range(30))
    for group in groups:
        width, height = (max(shapes[row][axis] for row in group) for axis in (0, 1))
        assert len(group) == 1 or len(group) * width * height <= most
        assert all(2 * max(*shapes[row], 63) > max(width, height) for row in group)
        torch.testing.assert_close(_decode(logits[group], boxes[group], (height, width)), expected[group], rtol=1e-6, atol=1e-5)
    assert len(groups) == 30 if most == 1 else len(groups) < 30


def test_targets_are_decoded_within_a_cell() -> None:
    """A target cell as the peak of a heatmap is decoded to the keypoint, within a cell."""
    boxes = torch.tensor([[10.0, 20, 122, 76], [0, 0, 30, 200]])
    keypoints = torch.tensor([[[60.0, 40, 2]], [[3, 180, 2]]])
    cells, _ = keypoint_targets(keypoints, boxes, 56)
    logits = F.one_hot(cells, 56 * 56).float().view(2, 1, 56, 56) * 10
    points = decode_keypoints(logits, boxes)
    cell = (boxes[:, 2:] - boxes[:, :2]) / 56
    assert ((points[:, 0, :2] - keypoints[:, 0, :2]).abs() <= cell + 0.5).all()


def test_no_keypoints_and_boxes_without_area() -> None:
    assert decode_keypoints(torch.zeros(0, 17, 56, 56), torch.zeros(0, 4)).shape == (0, 17, 3)
    cells, valid = keypoint_targets(torch.zeros(0, 17, 3), torch.zeros(0, 4), 56)
    assert cells.shape == valid.shape == (0, 17)
    _, degenerate = keypoint_targets(torch.tensor([[[5.0, 5, 2]]]), torch.tensor([[5.0, 5, 5, 5]]), 56)
    np.testing.assert_array_equal(degenerate, [[True]])
