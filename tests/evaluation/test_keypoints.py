"""OKS evaluation against pycocotools, number by number with ==, and against arithmetic by hand."""

from __future__ import annotations

import contextlib
import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.cocoeval import COCOeval

from boxwood.evaluation import Backend, CocoEvaluator, format_table
from boxwood.structures import Categories, Detections, KeypointFacts
from tests.evaluation.cases import SIZE, quiet_coco

BACKENDS: tuple[Backend, ...] = ("hotcoco", "pycocotools")
NAMES = ["AP", "AP50", "AP75", "APm", "APl", "AR20", "AR50", "AR75", "ARm", "ARl"]
"""As pycocotools prints them; of AR at single thresholds we give none."""
OURS = [name for name in NAMES if name not in ("AR50", "AR75")]


def facts(sigmas: tuple[float, ...]) -> KeypointFacts:
    names = tuple(f"point {i}" for i in range(len(sigmas)))
    return KeypointFacts(names, tuple(range(len(sigmas))), (), sigmas)


def categories(truth: dict[str, Any], sigmas: tuple[float, ...]) -> Categories:
    rows = truth["categories"]
    return Categories(tuple(row["id"] for row in rows), tuple(row["name"] for row in rows), facts(sigmas))


def random_case(
    seed: int, sigmas: tuple[float, ...], *, images: int = 5, instances: int = 5, extra: int = 3, levels: int = 5
) -> tuple[dict[str, Any], dict[int, Detections]]:
    """Instances with some keypoints not labelled or none at all, crowds, empty images; detections near them and elsewhere."""
    rng, count = np.random.default_rng(seed), len(sigmas)
    names = [f"point {i}" for i in range(count)]
    truth: dict[str, Any] = {
        "images": [{"id": 3 * i + 1, "height": SIZE, "width": SIZE} for i in range(images)],
        "categories": [{"id": i, "name": f"class {i}", "keypoints": names, "skeleton": []} for i in (4, 9)],
        "annotations": [],
    }
    found = {}
    for image in truth["images"]:
        boxes, points, labels = [], [], []
        for _ in range(int(rng.integers(0, instances + 1))):
            side = rng.choice([20.0, 50.0, 110.0]) * rng.uniform(0.8, 1.2)
            x, y = rng.uniform(0, SIZE - side, 2).round(1)
            true = np.column_stack([np.floor(rng.uniform([x, y], [x + side, y + side], (count, 2))), rng.integers(0, 3, count)])
            if rng.random() < 0.15:
                true[:, 2] = 0
            true[true[:, 2] == 0] = 0
            label = int(rng.integers(2))
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": (4, 9)[label],
                    "bbox": [x, y, side, side],
                    "area": float(np.round(side * side * rng.uniform(0.4, 0.9), 2)),
                    "iscrowd": int(rng.random() < 0.1),
                    "keypoints": [float(v) for v in true.flatten()],
                    "num_keypoints": int((true[:, 2] > 0).sum()),
                }
            )
            for _ in range(int(rng.integers(0, 3))):
                noise = rng.choice([0.0, 0.01, 0.05, 0.3]) * side
                boxes.append([x, y, x + side, y + side])
                points.append(true[:, :2] + rng.normal(0, 1, (count, 2)) * noise)
                labels.append(label if rng.random() < 0.85 else 1 - label)
        for _ in range(int(rng.integers(0, extra + 1))):
            boxes.append([5, 5, 40, 40])
            points.append(rng.uniform(0, SIZE, (count, 2)))
            labels.append(int(rng.integers(2)))
        scores = np.sort(rng.integers(1, levels + 1, len(boxes)) / (levels + 1))[::-1].astype(np.float32)
        if boxes or rng.random() < 0.5:
            found[image["id"]] = detections(boxes, points, labels, scores, count)
    return truth, found


def detections(boxes: Any, points: Any, labels: Any, scores: Any, count: int) -> Detections:
    """``points`` as indices of pixels; a detection's are continuous, half a pixel more."""
    seen = torch.tensor(np.array(points).reshape(-1, count, 2) + 0.5, dtype=torch.float32)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(np.array(scores), dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
        (SIZE, SIZE),
        keypoints=torch.cat([seen, torch.ones_like(seen[..., :1])], dim=2),
    )


def reference(truth: dict[str, Any], found: dict[int, Detections], sigmas: tuple[float, ...]) -> dict[str, float]:
    """The ten numbers as pycocotools' own ``summarize`` gives them; nothing of Boxwood is between."""
    coco = quiet_coco(copy.deepcopy(truth))
    records = []
    for image_id, one in found.items():
        assert one.keypoints is not None
        for rank in range(len(one)):
            points = one.keypoints[rank].double().numpy() - np.array([0.5, 0.5, 0])
            records.append(
                {
                    "image_id": image_id,
                    "category_id": (4, 9)[one.labels[rank]],
                    "score": one.scores[rank].item(),
                    "keypoints": points.flatten().tolist(),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        result = coco.loadRes(records) if records else quiet_coco({**truth, "annotations": []})
        evaluation = COCOeval(coco, result, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, evaluation.stats.tolist(), strict=True))


def ours(truth: dict[str, Any], found: dict[int, Detections], sigmas: tuple[float, ...], backend: Backend) -> Any:
    evaluator = CocoEvaluator(truth, categories(truth, sigmas), ("keypoints",), backend=backend)
    for image_id, one in reversed(found.items()):
        evaluator.add(image_id, one)
    return evaluator.compute()


def assert_equal(truth: dict[str, Any], found: dict[int, Detections], sigmas: tuple[float, ...]) -> dict[str, float]:
    untouched = copy.deepcopy(truth)
    expected = reference(truth, found, sigmas)
    for backend in BACKENDS:
        computed = ours(truth, found, sigmas, backend)["keypoints"]
        assert computed == {name: expected[name] for name in OURS}, backend
    assert truth == untouched
    return expected


SIGMAS = {"persons": (0.026, 0.025, 0.025, 0.035, 0.035, *(0.08,) * 12), "four": (0.05, 0.1, 0.02, 0.07), "one": (0.05,)}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(sorted(SIGMAS)), levels=st.sampled_from([1, 4, 1000]))
def test_random_cases_equal_the_reference(seed: int, kind: str, levels: int) -> None:
    truth, found = random_case(seed, SIGMAS[kind], levels=levels)
    assert_equal(truth, found, SIGMAS[kind])


def test_more_than_twenty_detections_of_an_image() -> None:
    truth, found = random_case(1, SIGMAS["four"], images=3, instances=40, extra=30, levels=50)
    assert max(len(one) for one in found.values()) > 40
    expected = assert_equal(truth, found, SIGMAS["four"])
    assert 0 < expected["AP"] < 1


def test_the_cases_are_not_trivial() -> None:
    seen = dict.fromkeys(NAMES, 0)
    crowds = without = empty = 0
    for seed in range(20):
        truth, found = random_case(seed, SIGMAS["four"])
        expected = reference(truth, found, SIGMAS["four"])
        for name in NAMES:
            seen[name] += 0 < expected[name] < 1
        crowds += sum(a["iscrowd"] for a in truth["annotations"])
        without += sum(a["num_keypoints"] == 0 for a in truth["annotations"])
        empty += len(truth["images"]) - len({a["image_id"] for a in truth["annotations"]})
    assert min(seen.values()) >= 5, seen
    assert min(crowds, without, empty) > 0


def test_by_hand() -> None:
    """One instance of two labelled keypoints, one found exactly, one d = 4 pixels beside it: OKS is the mean of 1 and
    exp(-d^2 / (2 area (2 sigma)^2)) = exp(-16 / (2 * 900 * 0.01)) = 0.411, so 0.706: right at 5 of 10 thresholds."""
    truth = {
        "images": [{"id": 1, "height": SIZE, "width": SIZE}],
        "categories": [{"id": 4, "name": "a", "keypoints": ["p", "q", "r"], "skeleton": []}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 4,
                "bbox": [10, 10, 40, 40],
                "area": 900.0,
                "iscrowd": 0,
                "keypoints": [20, 20, 2, 40, 30, 1, 0, 0, 0],
                "num_keypoints": 2,
            }
        ],
    }
    assert 0.70 < (1 + math.exp(-16 / 18)) / 2 < 0.75
    found = {1: detections([[10, 10, 50, 50]], [[[20, 20], [44, 30], [90, 90]]], [0], [0.9], 3)}
    metrics = ours(truth, found, (0.05, 0.05, 0.05), "hotcoco")
    assert metrics["keypoints"]["AP"] == pytest.approx(0.5)
    assert metrics["keypoints"]["AP50"] == pytest.approx(1) and metrics["keypoints"]["AP75"] == 0
    assert metrics["per_class"]["a"]["keypoints"] == pytest.approx(0.5)
    table = format_table(metrics)
    assert "keypoints" in table and "AR20" in table and "keypoint AP" in table


def test_records_are_indices_of_pixels() -> None:
    truth, _ = random_case(0, SIGMAS["one"])
    found = detections([[0, 0, 9, 9]], [[[3, 4]]], [1], [0.5], 1)
    evaluator = CocoEvaluator(truth, categories(truth, SIGMAS["one"]))
    evaluator.add(1, found)
    (record,) = evaluator.records
    assert record["keypoints"] == [3.0, 4.0, 1.0]
    assert record["category_id"] == 9


def test_a_model_without_keypoints_has_no_row() -> None:
    truth, found = random_case(0, SIGMAS["four"])
    evaluator = CocoEvaluator(truth, categories(truth, SIGMAS["four"]))
    for image_id, one in found.items():
        one.keypoints = None
        evaluator.add(image_id, one)
    assert "keypoints" not in evaluator.compute()


def test_other_keypoints_are_said_not_to_be_compared() -> None:
    truth, found = random_case(0, SIGMAS["four"])
    for annotation in truth["annotations"]:
        del annotation["keypoints"]
    evaluator = CocoEvaluator(truth, categories(truth, SIGMAS["four"]))
    for image_id, one in found.items():
        evaluator.add(image_id, one)
    metrics = evaluator.compute()
    assert "keypoints" not in metrics
    assert any("the model finds 4 an instance, the truth has none" in note for note in metrics["notes"])
