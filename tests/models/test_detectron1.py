"""Each stage of a model in Detectron's geometry against the same in numpy, written in Detectron's coordinates.

There a box names its last pixel (width = x2 - x1 + 1); our boxes end later by `LAST`. The docstrings name the sections of a
description of Detectron, from which the formulas are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwood.config import ConfigError, from_tree, to_tree
from boxwood.data.loader import collate
from boxwood.data.transforms import ResizeShortestEdge
from boxwood.fields import DetectedKeypoints
from boxwood.models import RCNNConfig, RetinaNetConfig
from boxwood.models.backbones import ResNetConfig
from boxwood.models.config import FPNConfig, RetinaNetHeadConfig, RoIConfig, RPNConfig
from boxwood.models.ground_truth import ground_truth_of
from boxwood.models.heads import ConvKeypointHeadConfig, ConvMaskHeadConfig, TwoFCHeadConfig
from boxwood.models.inference_config import TestConfig
from boxwood.models.postprocess import Instances, find_keypoints, select_instances, to_detections
from boxwood.models.retinanet import RetinaNetOutput, assign
from boxwood.models.retinanet import candidates_of as candidates_of_levels
from boxwood.models.rpn import AnchorSample, Proposals, RPNOutput, propose, rpn_losses, sample_anchors
from boxwood.models.second_stage import box_losses, candidates_of, given_proposals, pool_regions, sample_rois
from boxwood.models.tasks.keypoint import keypoint_loss
from boxwood.ops.detectron1 import DETECTRON1
from boxwood.structures import Batch, Categories, KeypointFacts, Sample, Target

Array = np.ndarray[Any, Any]
LAST = np.array([0.0, 0, 1, 1])
CLIP = np.log(1000 / 16)
CATEGORIES = Categories((1, 2, 3), ("a", "b", "c"), KeypointFacts(("top", "end"), (0, 1), (), (0.1, 0.1)))


# --------------------------------------------------------------------------------------------- Detectron's formulas in numpy


def iou(a: Array, b: Array) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if w <= 0 or h <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return float(w * h / (areas[0] + areas[1] - w * h))


def nms(boxes: Array, scores: Array, threshold: float) -> list[int]:
    """Greedy, an overlap of the threshold suppresses too; in order of score."""
    kept_rows: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        if all(iou(boxes[index], boxes[other]) < threshold for other in kept_rows):
            kept_rows.append(index)
    return kept_rows


def decode(deltas: Array, boxes: Array, weights: tuple[float, ...] = (1, 1, 1, 1)) -> Array:
    width, height = boxes[:, 2] - boxes[:, 0] + 1, boxes[:, 3] - boxes[:, 1] + 1
    dx, dy, dw, dh = (deltas[:, i] / weights[i] for i in range(4))
    x, y = boxes[:, 0] + 0.5 * width + dx * width, boxes[:, 1] + 0.5 * height + dy * height
    w, h = np.exp(np.minimum(dw, CLIP)) * width, np.exp(np.minimum(dh, CLIP)) * height
    return np.stack([x - 0.5 * w, y - 0.5 * h, x + 0.5 * w - 1, y + 0.5 * h - 1], axis=1)


def encode(truth: Array, boxes: Array, weights: tuple[float, ...]) -> Array:
    size, other = truth[:, 2:] - truth[:, :2] + 1, boxes[:, 2:] - boxes[:, :2] + 1
    centre, reference = truth[:, :2] + 0.5 * size, boxes[:, :2] + 0.5 * other
    return np.concatenate([(centre - reference) / other, np.log(size / other)], axis=1) * weights


def clip(boxes: Array, height: float, width: float) -> Array:
    return np.minimum(np.maximum(boxes, 0), [width - 1, height - 1, width - 1, height - 1])


def batch_of(sizes: list[tuple[int, int]], originals: list[tuple[int, int]], targets: Any = None, proposals: Any = None) -> Batch:
    height, width = (max(side) for side in zip(*sizes, strict=True))
    images = torch.zeros(len(sizes), 3, -(-height // 32) * 32, -(-width // 32) * 32, dtype=torch.uint8)
    return Batch(
        images, torch.tensor(sizes), tuple(originals), seeds=tuple(range(len(sizes))), targets=targets, proposals=proposals
    )


def some_boxes(rng: np.random.Generator, count: int, height: int, width: int, least: float = 4, most: float = 60) -> Array:
    start = rng.uniform(0, 1, (count, 2)) * (width - least - 2, height - least - 2)
    return clip(np.concatenate([start, start + rng.uniform(least, most, (count, 2))], axis=1), height, width)


def tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array)).float()


def theirs(boxes: torch.Tensor) -> Array:
    """Our boxes as Detectron writes them."""
    return np.asarray(boxes.numpy() - LAST)


def proposals_of(rois: Array) -> Proposals:
    places = torch.zeros(1, len(rois), dtype=torch.int64)
    return Proposals(tensor(rois + LAST)[None], torch.zeros(1, len(rois)), torch.ones(1, len(rois), dtype=torch.bool), places, 1)


# -------------------------------------------------------------------------------------------------- anchors to proposals


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_proposals_by_numpy(seed: int, learning: bool) -> None:
    """Section b.6: the best of each level, decoded, cut (for testing at the padding), suppressed; the best over levels, and in
    training over the images too."""
    rng = np.random.default_rng(seed)
    lengths, candidates, most = (200, 60, 12), 80, 40
    anchors = np.round(rng.uniform(-10, 110, (272, 2)))
    anchors = np.concatenate([anchors, anchors + np.round(rng.uniform(3, 50, (272, 2)))], axis=1)
    logits, deltas = rng.normal(size=(2, 272)), rng.normal(size=(2, 272, 4)) / 2
    sizes = [(90, 110), (60, 70)]
    batch = batch_of(sizes, [(45, 55), (60, 70)], targets=() if learning else None)
    counts = {f"{part}_candidates": candidates for part in ("train", "test")} | {f"{p}_proposals": most for p in ("train", "test")}
    output = RPNOutput(tensor(logits), tensor(deltas), tensor(anchors + LAST), lengths)
    ours = propose(output, batch, (96, 128), RPNConfig(**counts, **RPNConfig.detectron1_rules), DETECTRON1)

    expected: list[list[tuple[float, Array]]] = []
    for image, (height, width) in enumerate(sizes):
        proposals: list[tuple[float, Array]] = []
        for start, length in zip(np.cumsum((0, *lengths[:-1])).tolist(), lengths, strict=True):
            best = start + np.argsort(-logits[image, start : start + length])[:candidates]
            boxes = clip(decode(deltas[image, best], anchors[best]), *((height, width) if learning else (96, 128)))
            large = (boxes[:, 2:] - boxes[:, :2] >= 0).all(axis=1)  # in the original's pixels at least 1: x2 - x1 at least 0
            boxes, scores = boxes[large], logits[image, best][large]
            proposals += [(scores[index], boxes[index]) for index in nms(boxes, scores, 0.7)]
        expected.append(sorted(proposals, key=lambda pair: -pair[0])[: 10**6 if learning else most])
    if learning:
        least = sorted((score for proposals in expected for score, _ in proposals), reverse=True)[most - 1]
        expected = [[pair for pair in proposals if pair[0] >= least] for proposals in expected]
        assert sum(map(len, expected)) == most and len(expected[0]) != len(expected[1])
    for image, proposals in enumerate(expected):
        valid = ours.valid[image]
        np.testing.assert_allclose(ours.logits[image][valid], [score for score, _ in proposals], atol=1e-5)
        np.testing.assert_allclose(theirs(ours.boxes[image][valid]), np.stack([box for _, box in proposals]), atol=1e-3)


def scales_of(batch: Batch) -> Tensor:
    return DETECTRON1.scales(batch.scaled_sizes, batch.originals)


def sampled(output: RPNOutput, batch: Batch) -> AnchorSample:
    assert batch.targets is not None
    config = RPNConfig(straddle=0.0, ignore_crowd=False)
    return sample_anchors(output, ground_truth_of(batch.targets), batch, scales_of(batch), config, DETECTRON1)


def test_sampled_anchors() -> None:
    """Section b.3: only anchors inside the image; the best of each instance among those."""
    anchors = np.array([[0, 0, 39, 39], [-1, 0, 38, 39], [60, 60, 99, 99], [61, 60, 100, 99], [0, 50, 19, 69], [8, 8, 31, 31]])
    truth = np.array([[0, 0, 39, 39], [70, 70, 99, 99]])  # instance 1 overlaps anchor 2 by 900 / 1600
    target = Target(tensor(truth + LAST), torch.tensor([0, 1]), torch.tensor([[0.0, 45, 30, 75]]))
    output = RPNOutput(torch.zeros(1, 6), torch.zeros(1, 6, 4), tensor(anchors + LAST), (6,))
    sample = sampled(output, batch_of([(100, 100)], [(100, 100)], (target,)))
    is_positive = {int(i): bool(p) for i, p, v in zip(sample.indices[0], sample.positive[0], sample.valid[0], strict=True) if v}
    assert is_positive == {0: True, 2: True, 4: False}  # 1 and 3 leave the image, 5 lies between; a crowd region changes nothing
    row = sample.indices[0].tolist().index(2)
    np.testing.assert_allclose(sample.deltas[0, row], encode(truth[1:], anchors[2:3], (1, 1, 1, 1))[0], atol=1e-6)


def test_ground_truth_boxes_are_scaled_by_their_last_pixel() -> None:
    """Section b.3: GT x im_scale. Pixels 10..29 at twice the size are 20..58, and a box of these pixels has deltas of 0."""
    target = Target(torch.tensor([[20.0, 20, 60, 60]]), torch.tensor([0]), torch.zeros(0, 4))  # 10..30, doubled by the reader
    output = RPNOutput(torch.zeros(1, 1), torch.zeros(1, 1, 4), tensor(np.array([[20, 20, 58, 58]]) + LAST), (1,))
    sample = sampled(output, batch_of([(200, 200)], [(100, 100)], (target,)))
    assert sample.positive.all() and sample.deltas.abs().max() < 1e-6


@pytest.mark.parametrize("levels", [1, 2])
def test_losses_of_the_rpn(levels: int) -> None:
    """Section b.10: objectness over 256 an image on a pyramid, over the labelled anchors on one map; boxes over their image's."""
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    positive = torch.tensor([[True, False, False, False], [True, False, False, False]])
    sample = AnchorSample(torch.arange(4).expand(2, 4), valid, positive, torch.zeros(2, 4, 4))
    lengths = (4,) if levels == 1 else (3, 1)
    output = RPNOutput(torch.zeros(2, 4), torch.full((2, 4, 4), 2.0), torch.zeros(4, 4), lengths)
    losses = rpn_losses(output, sample, RPNConfig(**RPNConfig.detectron1_rules))
    assert losses["loss_rpn_objectness"].item() == pytest.approx(6 * np.log(2) / (6 if levels == 1 else 512), rel=1e-6)
    each = 4 * (2 - 0.5 / 9)
    assert losses["loss_rpn_box"].item() == pytest.approx((each / 4 + each / 2) / 2, rel=1e-6)


# ------------------------------------------------------------------------------------------------- RoI features to boxes


@pytest.mark.parametrize("seed", range(3))
def test_boxes_of_the_second_stage(seed: int) -> None:
    """Sections d.2 and d.3: RoIs back to the original image, decoded and cut there, suppressed class by class, the best of all."""
    rng = np.random.default_rng(seed)
    size, original, count, weights = (96, 144), (64, 96), 50, (10.0, 10.0, 5.0, 5.0)
    rois = some_boxes(rng, count, *size)
    rois[:10] = rois[10:20] + rng.normal(size=(10, 4))  # much to suppress
    logits, deltas = rng.normal(size=(count, 4)) * 2, rng.normal(size=(count, 3, 4))
    proposals = proposals_of(rois)
    batch, test = batch_of([size], [original]), TestConfig(detections_per_image=30)
    candidates = candidates_of(
        proposals, tensor(logits)[None], tensor(deltas)[None], batch, scales_of(batch), weights, test, DETECTRON1
    )
    instances = select_instances(candidates, scales_of(batch), test, DETECTRON1)
    (ours,) = to_detections(instances, batch, CATEGORIES, DETECTRON1)

    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected: list[tuple[float, int, Array]] = []
    for label in range(3):
        passing = scores[:, label] > 0.05
        boxes = clip(decode(deltas[passing, label], rois[passing] / 1.5, weights), *original)
        expected += [(scores[passing, label][i], label, boxes[i]) for i in nms(boxes, scores[passing, label], 0.5)]
    expected = sorted(expected, key=lambda row: -row[0])[:30]
    assert len(expected) == 30
    np.testing.assert_allclose(ours.scores, [score for score, _, _ in expected], atol=1e-5)
    assert ours.labels.tolist() == [label for _, label, _ in expected]
    np.testing.assert_allclose(theirs(ours.boxes), np.stack([box for _, _, box in expected]), atol=1e-3)


def unaligned_roi_align(features: Array, roi: Array, stride: int, cells: int, ratio: int) -> Array:
    """Section a.10: RoIAlign of one RoI up to its last pixel, without the shift by half a map pixel."""
    height, width = features.shape[1:]
    start = roi[:2] / stride
    side = np.maximum(roi[2:] / stride - start, 1) / cells
    grid = [ratio or int(np.ceil(one)) for one in side]
    result = np.zeros((len(features), cells, cells))
    for row in range(cells):
        for column in range(cells):
            for i in range(grid[1]):
                for j in range(grid[0]):
                    y = start[1] + (row + (i + 0.5) / grid[1]) * side[1]
                    x = start[0] + (column + (j + 0.5) / grid[0]) * side[0]
                    if not (-1 <= y <= height and -1 <= x <= width):
                        continue
                    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                    y0, x0 = min(int(y), height - 2), min(int(x), width - 2)
                    v, u = y - y0, x - x0
                    part = features[:, y0 : y0 + 2, x0 : x0 + 2]
                    result[:, row, column] += np.einsum("cij,i,j->c", part, [1 - v, v], [1 - u, u]) / (grid[0] * grid[1])
    return result


@pytest.mark.parametrize("ratio", [0, 2])
def test_features_of_rois(ratio: int) -> None:
    """Sections a.10 and b.7: the level by the area with +1, features up to the last pixel, from a map pixel at least."""
    rng = np.random.default_rng(1)
    maps = [rng.normal(size=(3, 64 // 2**level, 96 // 2**level)) for level in range(3)]
    rois = np.array(
        [[3.0, 4, 60, 90], [10, 10, 10, 10], [0, 0, 110.9, 110.9], [0, 0, 111, 111], [30, 20, 300.5, 255], [370, 1, 383, 8]]
    )
    boxes = tensor(rois + LAST)[None]
    inputs, config = [tensor(features)[None] for features in maps], RoIConfig(aligned=False, sampling_ratio=ratio)
    ours = pool_regions(inputs, (4, 8, 16), boxes, torch.arange(len(rois)), 7, config, DETECTRON1)
    for roi, pooled in zip(rois, ours, strict=True):
        side = np.sqrt((roi[2] - roi[0] + 1) * (roi[3] - roi[1] + 1))
        level = int(np.clip(np.floor(4 + np.log2(side / 224 + 1e-6)), 2, 4)) - 2
        np.testing.assert_allclose(pooled, unaligned_roi_align(maps[level], roi, 4 * 2**level, 7, ratio), atol=1e-4)


def test_sampled_rois() -> None:
    """Section b.5: overlaps and deltas in the pixels of the original image; given proposals are scaled by their last pixel."""
    rng = np.random.default_rng(2)
    truth = np.array([[10.0, 12, 50, 60], [40, 5, 90, 45]])
    rois = np.concatenate([truth + rng.normal(size=(2, 4)) * 3, truth + 2, some_boxes(rng, 20, 70, 100)])
    factor = 1.6
    target = Target(tensor((truth + LAST) * factor), torch.tensor([2, 0]), torch.zeros(0, 4))
    batch = batch_of([(112, 160)], [(70, 100)], (target,), (tensor((rois + LAST) * factor),))
    proposals = given_proposals(batch, scales_of(batch), DETECTRON1)
    np.testing.assert_allclose(theirs(proposals.boxes[0]), rois * factor, atol=1e-4)
    config = RoIConfig(samples_per_image=64, positive_fraction=1.0, **RoIConfig.detectron1_rules)
    sample = sample_rois(proposals, ground_truth_of((target,)), batch, scales_of(batch), config, 3, DETECTRON1)
    candidates = np.concatenate([rois, truth])
    overlaps = np.array([[iou(box, instance) for instance in truth] for box in candidates])
    positive = overlaps.max(axis=1) >= 0.5
    expected = {tuple(np.round(box * factor, 2)): index for index, box in enumerate(candidates)}
    assert sample.valid.sum() == len(candidates) and 4 <= positive.sum() < len(candidates)
    for box, label, deltas, valid in zip(sample.boxes[0], sample.labels[0], sample.deltas[0], sample.valid[0], strict=True):
        if not valid:
            continue
        index = min(expected.values(), key=lambda i: np.abs(candidates[i] * factor - theirs(box)).sum())
        instance = overlaps[index].argmax()
        assert label == ((2, 0)[instance] if positive[index] else 3)
        if positive[index]:
            goal = encode(truth[instance : instance + 1], candidates[index : index + 1], (10, 10, 5, 5))[0]
            np.testing.assert_allclose(deltas, goal, atol=1e-4)


@pytest.mark.parametrize("given", [False, True])
def test_crowd_regions_teach_their_class(given: bool) -> None:
    """Section b.5: a region is of the class of what it overlaps most, crowd regions included, and regresses the box of the best
    instance where that overlap is 0.5 too. Given proposals of which more than 0.7 lies in a crowd region are not used."""
    truth, factor = np.array([[0, 0, 39, 39]]), 2.0  # of class 2
    regions = np.array([[50, 50, 99, 99], [0, 0, 39, 45], [0, 60, 29, 89]])  # crowds of classes 0 and 1, a difficult object
    rois = np.array(
        [
            [50, 50, 95, 95],  # 46^2 / 50^2 of the first crowd, nothing of the instance
            [0, 0, 39, 38],  # 39 / 40 of the instance, 39 / 46 of the second crowd
            [0, 0, 39, 44],  # 40 / 45 of the instance, 45 / 46 of the second crowd
            [0, 60, 29, 89],  # the difficult object
            [60, 0, 89, 29],  # nothing
        ]
    )
    ignore_labels = torch.tensor([0, 1, -1])
    ends = tensor((regions + LAST) * factor)
    target = Target(tensor((truth + LAST) * factor), torch.tensor([2]), ends, ignore_labels=ignore_labels)
    other = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    boxes = tensor((rois + LAST) * factor)
    batch = batch_of([(200, 200)] * 2, [(100, 100)] * 2, (target, other), (boxes, boxes))
    proposals = given_proposals(batch, scales_of(batch), DETECTRON1)
    proposals.given = given
    config = RoIConfig(samples_per_image=20, positive_fraction=0.5, **RoIConfig.detectron1_rules)
    sample = sample_rois(proposals, ground_truth_of((target, other)), batch, scales_of(batch), config, 3, DETECTRON1)
    rows = {
        tuple(np.round(theirs(box) / factor).astype(int).tolist()): (int(label), deltas.numpy(), bool(has_box))
        for box, label, deltas, has_box, valid in zip(
            *(part[0] for part in (sample.boxes, sample.labels, sample.deltas, sample.has_box, sample.valid) if part is not None),
            strict=True,
        )
        if valid
    }
    expected = {tuple(roi): label for roi, label in zip(rois.tolist(), (0, 2, 1, 3, 3), strict=True)} | {(0, 0, 39, 39): 2}
    if given:
        expected = {roi: expected[roi] for roi in [(0, 60, 29, 89), (60, 0, 89, 29), (0, 0, 39, 39)]}
    assert {roi: label for roi, (label, _, _) in rows.items()} == expected
    for roi, (label, deltas, has_box) in rows.items():
        assert has_box == (label in (1, 2))
        goal = encode(truth, np.array([roi]), (10, 10, 5, 5))[0] if has_box else np.zeros(4)
        np.testing.assert_allclose(deltas, goal, atol=1e-4)
    assert sample.labels[1, sample.valid[1]].tolist() == [3] * 5, "the padding of the other image's regions is none"

    predicted = torch.zeros(2, 20, 3, 4)
    losses = box_losses(torch.zeros(2, 20, 4), predicted, sample, config)
    distance = sum(np.where(np.abs(d) < 1, d * d / 2, np.abs(d) - 0.5).sum() for _, d, _ in rows.values())
    assert losses["loss_box"].item() == pytest.approx(distance / (len(rows) + 5), abs=1e-5)


@pytest.mark.parametrize("crowd", ["ignored", "background"])
def test_other_rules_for_crowd_regions(crowd: str) -> None:
    target = Target(torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([2]), torch.tensor([[50.0, 50, 100, 100]]))
    boxes = torch.tensor([[50.0, 50, 96, 96], [60, 0, 90, 30]])
    batch = batch_of([(100, 100)], [(100, 100)], (target,), (boxes,))
    config, scales = RoIConfig(samples_per_image=20, crowd=crowd), torch.ones(1, 2)
    sample = sample_rois(given_proposals(batch, scales), ground_truth_of((target,)), batch, scales, config, 3)
    assert sample.labels[0, sample.valid[0]].tolist() == ([2, 3] if crowd == "ignored" else [2, 3, 3])


# --------------------------------------------------------------------------------------------------------------- keypoints


def cubic(x: float) -> float:
    x, a = abs(x), -0.75
    return (a + 2) * x**3 - (a + 3) * x**2 + 1 if x <= 1 else a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def enlarged(heatmap: Array, width: int, height: int) -> Array:
    """Bicubic scaling, border values repeated, as a matrix of weights for each axis."""

    def weights(size: int, pixels: int) -> Array:
        matrix = np.zeros((pixels, size))
        for pixel in range(pixels):
            position = (pixel + 0.5) * size / pixels - 0.5
            for tap in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
                matrix[pixel, min(max(tap, 0), size - 1)] += cubic(position - tap)
        return matrix

    return np.asarray(weights(heatmap.shape[0], height) @ heatmap @ weights(heatmap.shape[1], width).T)


def test_decoded_keypoints() -> None:
    """Section d.6: the peak in the pixels of the original image. The coordinates of a COCO file are half a pixel less than ours."""
    rng = np.random.default_rng(3)
    boxes = np.array([[3.2, 4.1, 40.7, 31.3], [20, 20, 20.4, 21], [50.5, 10, 61.5, 60]])
    heatmaps, factor = rng.normal(size=(3, 2, 14, 14)), 1.25
    batch = batch_of([(100, 125)], [(80, 100)])
    instances = Instances(
        tensor(boxes * factor + LAST)[None],
        torch.ones(1, 3),
        torch.zeros(1, 3, dtype=torch.int64),
        torch.ones(1, 3, dtype=torch.bool),
    )
    points = find_keypoints(tensor(heatmaps), torch.arange(3), instances, scales_of(batch), DETECTRON1)
    fixed = find_keypoints(tensor(heatmaps), torch.arange(3), instances, scales_of(batch), DETECTRON1, largest=(80, 100))
    torch.testing.assert_close(fixed, points, rtol=0, atol=1e-4)
    in_original = torch.cat([points[..., :2] / factor, points[..., 2:]], dim=-1)[None]
    (ours,) = to_detections(instances, batch, CATEGORIES, DETECTRON1, {"keypoints": (in_original, DetectedKeypoints)})
    assert ours.keypoints is not None
    for box, maps, points in zip(boxes, heatmaps, ours.keypoints.numpy(), strict=True):
        width, height = np.maximum(box[2:] - box[:2], 1)
        for heatmap, (x, y, score) in zip(maps, points, strict=True):
            big = enlarged(heatmap, int(np.ceil(width)), int(np.ceil(height)))
            row, column = np.unravel_index(big.argmax(), big.shape)
            assert x - 0.5 == pytest.approx(box[0] + (column + 0.5) * width / np.ceil(width), abs=1e-3)
            assert y - 0.5 == pytest.approx(box[1] + (row + 0.5) * height / np.ceil(height), abs=1e-3)
            assert score == pytest.approx(big.max(), abs=1e-4)


def test_keypoint_loss_in_pixels_of_a_coco_file() -> None:
    """A vector of `tests/ops/test_detectron1.py` through the loss: pixels of a COCO file, shifted by half a pixel and doubled."""
    roi, pixels = np.array([10.0, 20, 109, 169]), np.array([[60.0, 169], [5, 30]])
    points = tensor(np.concatenate([(pixels + 0.5) * 2, [[2], [2]]], axis=1))[None]
    target = Target(tensor((roi + LAST) * 2)[None], torch.tensor([0]), torch.zeros(0, 4), None, points)
    batch = batch_of([(400, 400)], [(200, 200)], (target,), (torch.zeros(0, 4),))
    config, scales = RoIConfig(samples_per_image=1, positive_fraction=1.0, **RoIConfig.detectron1_rules), scales_of(batch)
    proposals = given_proposals(batch, scales, DETECTRON1)
    sample = sample_rois(proposals, ground_truth_of((target,)), batch, scales, config, 3, DETECTRON1)
    np.testing.assert_allclose(theirs(sample.boxes[0, 0]), roi * 2, atol=1e-4)
    logits = torch.zeros(1, 2, 56, 56)
    logits[0, 0].view(-1)[3108] = 100.0  # certain of the right cell; the second keypoint is outside and does not count
    assert keypoint_loss(logits, torch.tensor([0]), sample, [points], 3, DETECTRON1) < 1e-6


# ------------------------------------------------------------------------------------------------------- the scale


@pytest.mark.parametrize(
    ("original", "short", "scale"), [((480, 640), 800, 5 / 3), ((3000, 4001), 300, 0.1), ((300, 900), 800, 13 / 9)]
)
def test_the_scale_is_that_before_rounding(original: tuple[int, int], short: int, scale: float) -> None:
    """Section d.2: boxes are divided by the factor S / short (or that of the longer side), not by the ratio of the rounded sizes.

    A box that ends at the image's last pixel in the network's input is cut at that of the original.
    """
    nothing = torch.zeros(0, dtype=torch.int64)
    whole = Sample(torch.zeros(3, *original, dtype=torch.uint8), 1, "a", original, torch.zeros(0, 4), nothing, nothing.bool())
    resize = ResizeShortestEdge(short=(short,), long=1300, antialias=False)
    batch = collate([resize(whole, np.random.default_rng(0))], [0], with_targets=False)
    np.testing.assert_allclose(scales_of(batch)[0], [scale, scale], rtol=1e-6)
    height, width = original
    inside = np.array([[0.05, 0.1, 0.5, 0.6], [0.2, 0.2, 0.99, 0.95]]) * [width, height, width, height]
    beyond = np.array([[0.5 * width, 0.5 * height, width + 9.0, height + 9.0]])
    anchors = np.concatenate([inside, beyond]) * scale
    logits = torch.full((1, 3, 3), -9.0)
    logits[0, [0, 1, 2], [0, 1, 2]] = torch.tensor([3.0, 2.0, 1.0])
    deltas, placed = torch.zeros(1, 3, 4), tensor(anchors + LAST)
    output = RetinaNetOutput((logits,), (deltas,), (placed,), batch.scaled_sizes, scales_of(batch))
    test = TestConfig(detections_per_image=3)
    candidates = candidates_of_levels(output, RetinaNetHeadConfig(**RetinaNetHeadConfig.detectron1_rules), test, DETECTRON1)
    (ours,) = to_detections(select_instances(candidates, scales_of(batch), test, DETECTRON1), batch, CATEGORIES, DETECTRON1)
    np.testing.assert_allclose(theirs(ours.boxes), np.concatenate([inside, clip(beyond, *original)]), atol=2e-3)


# --------------------------------------------------------------------------------------------------------------- RetinaNet


def test_boxes_of_retinanet() -> None:
    """Section d.4: the best of each level, of any score on the coarsest; scaled and cut in the original image."""
    rng = np.random.default_rng(4)
    lengths, size, original, factor = (120, 30, 6), (96, 144), (64, 96), 1.5
    anchors = [some_boxes(rng, length, *size, least=10) for length in lengths]
    logits = [rng.normal(size=(length, 3)) - 2 for length in lengths]
    logits[2] -= 4
    deltas = [rng.normal(size=(length, 4)) / 3 for length in lengths]
    batch, test = batch_of([size], [original]), TestConfig(detections_per_image=500)
    output = RetinaNetOutput(
        tuple(tensor(part)[None] for part in logits),
        tuple(tensor(part)[None] for part in deltas),
        tuple(tensor(part + LAST) for part in anchors),
        batch.sizes,
        scales_of(batch),
    )
    candidates = candidates_of_levels(
        output, RetinaNetHeadConfig(test_candidates=100, **RetinaNetHeadConfig.detectron1_rules), test, DETECTRON1
    )
    instances = select_instances(candidates, scales_of(batch), test, DETECTRON1)
    (ours,) = to_detections(instances, batch, CATEGORIES, DETECTRON1)

    rows: list[tuple[float, int, Array]] = []
    for level in range(3):
        scores = 1 / (1 + np.exp(-logits[level]))
        best = np.argsort(-scores.ravel())[:100]
        best = best[scores.ravel()[best] > (0.0 if level == 2 else 0.05)]
        boxes = clip(decode(deltas[level][best // 3], anchors[level][best // 3]) / factor, *original)
        rows += [(scores.ravel()[i], i % 3, box) for i, box in zip(best.tolist(), boxes, strict=True)]
    expected: list[tuple[float, int, Array]] = []
    for label in range(3):
        of_class = [row for row in rows if row[1] == label]
        expected += [
            of_class[i] for i in nms(np.stack([box for _, _, box in of_class]), np.array([score for score, _, _ in of_class]), 0.5)
        ]
    expected.sort(key=lambda row: -row[0])
    assert expected[-1][0] < 0.05
    np.testing.assert_allclose(ours.scores, [score for score, _, _ in expected], atol=1e-5)
    np.testing.assert_allclose(theirs(ours.boxes), np.stack([box for _, _, box in expected]), atol=1e-3)


def test_assigned_anchors_of_retinanet() -> None:
    """Section b.4: an instance's best anchor is counted, but positive only from an overlap of 0.4 on; padding is background."""
    anchors = np.array([[0, 0, 39, 39], [60, 60, 79, 79], [120, 0, 150, 30], [0, 60, 39, 99]])
    truth = np.array([[0, 0, 39, 39], [70, 70, 99, 99], [0, 60, 39, 77]])  # overlaps 1, 100 / 1200, 0.45
    target = Target(tensor(truth + LAST), torch.tensor([2, 0, 1]), torch.tensor([[110.0, 0, 160, 40]]))
    config, truths = RetinaNetHeadConfig(**RetinaNetHeadConfig.detectron1_rules), ground_truth_of((target,))
    labels, boxes, count = assign(
        tensor(anchors + LAST), truths, torch.tensor([[100, 100]]), torch.ones(1, 2), config, 3, DETECTRON1
    )
    assert labels[0].tolist() == [2, 3, 3, 1] and count == 3 + 1
    np.testing.assert_allclose(theirs(boxes[0, 3]), truth[2])


# ------------------------------------------------------------------------------------------------------------ whole models


def test_a_model_applies_its_geometry() -> None:
    """Mask and Keypoint R-CNN on one image: detections lie in the original image, masks are pasted by Detectron's rule."""
    torch.manual_seed(0)
    config = RCNNConfig(
        geometry="detectron1",
        backbone=ResNetConfig(depth=18, width=16, weights=None, frozen_stages=0, norm="bn"),
        fpn=FPNConfig(channels=32),
        rpn=RPNConfig(anchor_sizes=((16.0,), (32.0,), (48.0,), (64.0,), (96.0,)), test_proposals=20, straddle=0.0),
        rois=RoIConfig(samples_per_image=16, aligned=False),
        box_head=TwoFCHeadConfig(width=32),
        mask_head=ConvMaskHeadConfig(convs=1, width=32),
        keypoint_head=ConvKeypointHeadConfig(convs=1, width=32),
    )
    model: Any = config.build(CATEGORIES, TestConfig(score_threshold=0.0, detections_per_image=5))
    points = torch.tensor([[[20.0, 20, 2], [30, 30, 2]]])
    target = Target(torch.tensor([[10.0, 10, 60, 70]]), torch.tensor([1]), torch.zeros(0, 4), keypoints=points)
    tasks, model.tasks = model.tasks, model.tasks[1:]
    learning = batch_of([(96, 128)], [(60, 80)], (target,))
    losses = model.losses(model(learning), (target,))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values()) and "loss_keypoint" in losses
    model.tasks = tasks
    model.eval()
    batch = batch_of([(96, 128)], [(60, 80)])
    batch.images.random_(generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (detections,) = model.detections(model(batch), batch)
    assert len(detections) == 5 and detections.fields["masks"].crops is DETECTRON1.mask_crops
    assert (detections.boxes[:, 2:] - detections.boxes[:, :2] >= 1 - 1e-4).all()
    assert (detections.boxes >= 0).all() and (detections.boxes[:, 2] <= 80).all() and (detections.boxes[:, 3] <= 60).all()
    assert detections.masks is not None and detections.masks.shape == (5, 60, 80) and detections.keypoints is not None


@pytest.mark.parametrize(("divisor", "expected"), [(1, (70, 100)), (32, (96, 128)), (128, (128, 128))])
def test_padding(divisor: int, expected: tuple[int, int]) -> None:
    config = RetinaNetConfig(size_divisor=divisor, backbone=ResNetConfig(depth=18, width=16, weights=None, norm="bn"))
    model: Any = config.build(CATEGORIES, TestConfig())
    batch = batch_of([(70, 100), (60, 90)], [(70, 100), (60, 90)])
    batch.images.fill_(255)
    images = model.normalized(batch)
    assert images.shape[-2:] == expected
    assert (images[1, :, 60:] == 0).all() and (images[1, :, :, 90:] == 0).all() and (images[1, :, :60, :90] > 0).all()


def test_the_earlier_key_for_crowd_regions_is_read() -> None:
    for old, new in ((True, "ignored"), (False, "background"), (None, None)):
        assert from_tree(RoIConfig, {"ignore_crowd": old}).crowd == new
        assert "ignore_crowd" not in to_tree(from_tree(RoIConfig, {"ignore_crowd": old}))
    with pytest.raises(ConfigError, match=r"unknown key 'ignore_crowd'.*'crowd'"):
        from_tree(RoIConfig, {"ignore_crowd": "often"})
