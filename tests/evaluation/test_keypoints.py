"""OKS evaluation against pycocotools, exactly equal, and against arithmetic by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxwood.errors import UserError
from boxwood.evaluation import Backend, CocoEvaluator, format_table
from boxwood.structures import Detections
from tests.evaluation.cases import SIZE
from tests.evaluation.keypoint_cases import NAMES, SIGMAS, categories, detections, random_case, reference

BACKENDS: tuple[Backend, ...] = ("hotcoco", "pycocotools")


def ours(truth: dict[str, Any], predictions: dict[int, Detections], sigmas: tuple[float, ...], backend: Backend) -> Any:
    evaluator = CocoEvaluator(truth, categories(truth, sigmas), ("keypoints",), backend=backend)
    for image_id, one in reversed(predictions.items()):
        evaluator.add(image_id, one)
    return evaluator.compute()


def assert_equal(truth: dict[str, Any], predictions: dict[int, Detections], sigmas: tuple[float, ...]) -> dict[str, float]:
    untouched = copy.deepcopy(truth)
    expected = reference(truth, predictions, sigmas)
    for backend in BACKENDS:
        computed = ours(truth, predictions, sigmas, backend)["keypoints"]
        assert computed == expected, backend
    assert truth == untouched
    return expected


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(sorted(SIGMAS)), levels=st.sampled_from([1, 4, 1000]))
def test_random_cases_equal_the_reference(seed: int, kind: str, levels: int) -> None:
    truth, predictions = random_case(seed, SIGMAS[kind], levels=levels)
    assert_equal(truth, predictions, SIGMAS[kind])


def test_more_than_twenty_detections_of_an_image() -> None:
    truth, predictions = random_case(1, SIGMAS["four"], images=3, instances=40, extra=30, levels=50)
    assert max(len(one) for one in predictions.values()) > 40
    expected = assert_equal(truth, predictions, SIGMAS["four"])
    assert 0 < expected["AP"] < 1


def test_the_cases_are_not_trivial() -> None:
    seen = dict.fromkeys(NAMES, 0)
    crowds = without = empty = 0
    for seed in range(20):
        truth, predictions = random_case(seed, SIGMAS["four"])
        expected = reference(truth, predictions, SIGMAS["four"])
        for name in NAMES:
            seen[name] += 0 < expected[name] < 1
        crowds += sum(a["iscrowd"] for a in truth["annotations"])
        without += sum(a["num_keypoints"] == 0 for a in truth["annotations"])
        empty += len(truth["images"]) - len({a["image_id"] for a in truth["annotations"]})
    assert min(seen.values()) >= 5, seen
    assert min(crowds, without, empty) > 0


def test_by_hand() -> None:
    """One instance of two labelled keypoints, one detected exactly, one d = 4 pixels beside it: OKS is the mean of 1 and
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
    predictions = {1: detections([[10, 10, 50, 50]], [[[20, 20], [44, 30], [90, 90]]], [0], [0.9], 3)}
    metrics = ours(truth, predictions, (0.05, 0.05, 0.05), "hotcoco")
    assert metrics["keypoints"]["AP"] == pytest.approx(0.5)
    assert metrics["keypoints"]["AP50"] == pytest.approx(1) and metrics["keypoints"]["AP75"] == 0
    assert metrics["per_class"]["a"]["keypoints"] == pytest.approx(0.5)
    table = format_table(metrics)
    assert [line.split() for line in table.splitlines()[:2]] == [
        ["AP", "AP50", "AP75", "APm", "APl", "AR20"],
        ["keypoints", "0.500", "1.000", "0.000", "-", "-", "0.500"],
    ]
    assert "keypoint AP" in table


def test_records_are_indices_of_pixels() -> None:
    truth, _ = random_case(0, SIGMAS["one"])
    predictions = detections([[0, 0, 9, 9]], [[[3, 4]]], [1], [0.5], 1)
    evaluator = CocoEvaluator(truth, categories(truth, SIGMAS["one"]))
    evaluator.add(1, predictions)
    (record,) = evaluator.records
    assert record["keypoints"] == [3.0, 4.0, 1.0]
    assert record["category_id"] == 9


def test_a_model_without_keypoints_has_no_row() -> None:
    truth, predictions = random_case(0, SIGMAS["four"])
    evaluator = CocoEvaluator(truth, categories(truth, SIGMAS["four"]))
    for image_id, one in predictions.items():
        one.fields = {}
        evaluator.add(image_id, one)
    assert "keypoints" not in evaluator.compute()


@pytest.mark.parametrize("predicted", [False, True])
def test_without_detections_the_model_decides_whether_keypoints_are_evaluated(predicted: bool) -> None:
    truth, predictions = random_case(0, SIGMAS["four"])
    evaluator = CocoEvaluator(truth, categories(truth, SIGMAS["four"]))
    for image_id, one in predictions.items():
        none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), one.size)
        none.fields = {name: field[torch.zeros(0, dtype=torch.int64)] for name, field in one.fields.items() if predicted}
        evaluator.add(image_id, none)
    assert ("keypoints" in evaluator.compute()) == predicted


def notes(truth: dict[str, Any], predictions: dict[int, Detections], tasks: tuple[str, ...] = ("bbox", "keypoints")) -> str:
    evaluator = CocoEvaluator(truth, categories(truth, SIGMAS["four"]), tasks)
    for image_id, one in predictions.items():
        evaluator.add(image_id, one)
    return "\n".join(evaluator.compute()["notes"])


def four() -> tuple[dict[str, Any], dict[int, Detections]]:
    return random_case(0, SIGMAS["four"], images=8)


def test_good_detections_have_no_notes() -> None:
    assert notes(*four()) == ""
    assert notes(*four(), tasks=("bbox",)) == ""


def test_another_number_of_keypoints_is_noted() -> None:
    truth, predictions = four()
    for annotation in truth["annotations"]:
        del annotation["keypoints"]
    assert "keypoints are not compared: the model predicts 4 per instance, the truth has none" in notes(truth, predictions)
    for annotation in truth["annotations"]:
        annotation["keypoints"] = [5, 5, 2] * 3
    assert "the model predicts 4 per instance, the truth has 3" in notes(truth, predictions)


def test_no_labelled_keypoints() -> None:
    truth, predictions = four()
    for annotation in truth["annotations"]:
        annotation["keypoints"] = [0] * 12
    assert notes(truth, predictions) == "keypoints AP is -1: no instance of the truth has a labelled keypoint (visibility 1 or 2)"
    truth, predictions = four()
    for annotation in truth["annotations"]:
        if annotation["area"] > 96**2:
            annotation["keypoints"] = [0] * 12
    assert notes(truth, predictions) == "keypoints APl is -1: no large instance (area from 96 x 96 pixels) has a labelled keypoint"


def test_boxes_that_fit_and_keypoints_that_do_not() -> None:
    truth, predictions = four()
    for one in predictions.values():
        assert one.keypoints is not None
        one.keypoints[..., :2] += 2000
    assert notes(truth, predictions).startswith("keypoints AP is 0 although boxes fit")


def test_annotations_with_different_numbers_of_keypoints_are_refused() -> None:
    truth, _ = four()
    truth["annotations"][1]["keypoints"] = [3, 4, 2]
    image = truth["annotations"][1]["image_id"]
    with pytest.raises(UserError, match=rf"annotation 2 of image {image}: 'keypoints' must be 12 numbers .* got 3; correct"):
        CocoEvaluator(truth, categories(truth, SIGMAS["four"]))
