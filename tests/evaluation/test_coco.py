"""AP and AR against pycocotools, exactly equal, and against arithmetic by hand."""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxwood.errors import UserError
from boxwood.evaluation import Backend, CocoEvaluator
from boxwood.evaluation.table import format_table
from boxwood.structures import Detections
from tests.evaluation.cases import NAMES, categories, detections, encode, random_case, reference

BACKENDS: tuple[Backend, ...] = ("hotcoco", "pycocotools")


def ours(
    truth: dict[str, Any], predictions: dict[int, Detections], backend: Backend, tasks: tuple[str, ...] = ("bbox", "segm")
) -> Any:
    evaluator = CocoEvaluator(truth, categories(truth), tasks, backend=backend)
    for image_id, one in reversed(predictions.items()):  # the order of adding must not matter
        evaluator.add(image_id, one)
    return evaluator.compute()


def assert_equal(truth: dict[str, Any], predictions: dict[int, Detections], tasks: tuple[str, ...]) -> None:
    untouched = copy.deepcopy(truth)
    computed = [ours(truth, predictions, backend, tasks) for backend in BACKENDS]
    assert truth == untouched
    assert computed[0] == computed[1]
    for task in tasks:
        expected = reference(copy.deepcopy(truth), predictions, task)
        assert {name: computed[0][task][name] for name in NAMES} == expected


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), levels=st.sampled_from([1, 3, 1000]), classes=st.integers(1, 4))
def test_random_cases_equal_the_reference(seed: int, levels: int, classes: int) -> None:
    truth, predictions = random_case(seed, score_levels=levels, classes=classes)
    assert_equal(truth, predictions, ("bbox", "segm"))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_more_than_a_hundred_detections_of_an_image(seed: int) -> None:
    truth, predictions = random_case(seed, images=2, classes=1, instances=60, extra=200, masks=False, score_levels=9)
    assert_equal(truth, predictions, ("bbox",))


def test_the_cases_are_not_trivial() -> None:
    """The generated cases cover every size, crowds, ties, empty images and more than 100 detections."""
    seen = dict.fromkeys(NAMES, 0)
    crowds = ties = without_truth = without_detections = 0
    for seed in range(20):
        truth, predictions = random_case(seed)
        metrics = ours(truth, predictions, "hotcoco")
        for name in NAMES:
            seen[name] += 0 < metrics["segm"][name] < 1
        crowds += sum(a["iscrowd"] for a in truth["annotations"])
        with_truth = {a["image_id"] for a in truth["annotations"]}
        without_truth += len(truth["images"]) - len(with_truth)
        without_detections += len(truth["images"]) - len(predictions)
        ties += sum(len(one) - len(one.scores.unique()) for one in predictions.values())
    assert min(seen.values()) >= 5, seen
    assert min(crowds, ties, without_truth, without_detections) > 0
    truth, predictions = random_case(3, images=2, classes=1, instances=60, extra=200, masks=False)
    assert max(len(one) for one in predictions.values()) > 100


@pytest.mark.parametrize("backend", BACKENDS)
def test_mask_ap_of_classes_with_and_without_masks_in_training(backend: Backend) -> None:
    """Equal to the reference on truth that has the annotations of these classes alone, as the paper's files of a split."""
    truth, predictions = random_case(5, classes=4)
    names = categories(truth).names
    evaluator = CocoEvaluator(truth, categories(truth), backend=backend, mask_classes=[names[0], names[2]])
    for image_id, one in predictions.items():
        evaluator.add(image_id, one)
    metrics = evaluator.compute()
    for table, rows in (("segm_with_masks", (0, 2)), ("segm_without_masks", (1, 3))):
        ids = [truth["categories"][row]["id"] for row in rows]
        part = {**truth, "annotations": [row for row in truth["annotations"] if row["category_id"] in ids]}
        assert {name: metrics[table][name] for name in NAMES} == reference(part, predictions, "segm")
    assert metrics["segm"] == ours(truth, predictions, backend)["segm"]
    assert metrics["segm_with_masks"]["AP"] != metrics["segm_without_masks"]["AP"]
    text = format_table(metrics)
    assert [line.split()[0] for line in text.splitlines()[1:5]] == ["bbox", "segm", "segm_with_masks", "segm_without_masks"]
    assert f"the mean over the 2 classes whose masks teach ({names[0]}, {names[2]})" in metrics["notes"][-1]
    with pytest.raises(UserError, match="mask_classes: names unknown classes: zebra"):
        CocoEvaluator(truth, categories(truth), mask_classes=["zebra"])


def square(x: float, y: float, side: float, **more: Any) -> dict[str, Any]:
    return {"bbox": [x, y, side, side], "area": side * side, "iscrowd": 0, **more}


def one_image(*annotations: dict[str, Any], size: int = 160) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "height": size, "width": size}],
        "categories": [{"id": 3, "name": "nut"}],
        "annotations": [{"id": n, "image_id": 7, "category_id": 3, **a} for n, a in enumerate(annotations, start=1)],
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend: Backend) -> None:
    """Two squares of 40. Detections in this order: the first exactly, a wrong one, the second with IoU 40 * 30 / 1600 = 0.75.

    IoU up to 0.75 (6 of 10 thresholds): right, wrong, right: precision 1 for the recalls 0..0.50 (51 of 101), 2/3 for the other
    50: AP = (51 + 50 * 2/3) / 101. Above: precision 1 for 51 recalls, then 0: AP = 51/101.
    """
    truth = one_image(square(0, 0, 40), square(80, 80, 40))
    predictions = {7: detections([[0, 0, 40, 40], [0, 90, 20, 110], [80, 80, 110, 120]], [0.9, 0.8, 0.7], [0, 0, 0])}
    bbox = ours(truth, predictions, backend, ("bbox",))["bbox"]
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert bbox["AP"] == pytest.approx((6 * low + 4 * high) / 10, abs=1e-12)
    assert bbox["AP50"] == pytest.approx(low, abs=1e-12)
    assert bbox["AP75"] == pytest.approx(low, abs=1e-12)
    assert bbox["APm"] == pytest.approx(bbox["AP"] + (6 * (101 - 51 - 50 * 2 / 3) / 101) / 10, abs=1e-12)  # the wrong one is small
    assert bbox["APs"] == bbox["APl"] == -1
    assert bbox["AR1"] == 0.5
    assert bbox["AR10"] == bbox["AR100"] == pytest.approx((6 * 1 + 4 * 0.5) / 10, abs=1e-12)


HAND_MADE = {
    "no detections": (one_image(square(0, 0, 40)), {7: detections([], [], [])}),
    "no truth": (one_image(), {7: detections([[0, 0, 9, 9]], [0.5], [0])}),
    "neither": (one_image(), {7: detections([], [], [])}),
    "only a crowd": (one_image(square(0, 0, 80, iscrowd=1)), {7: detections([[0, 0, 80, 80]], [0.5], [0])}),
    "crowd swallows several": (
        one_image(square(0, 0, 80, iscrowd=1), square(90, 90, 30)),
        {7: detections([[0, 0, 20, 20], [30, 30, 60, 60], [90, 90, 120, 120]], [0.9, 0.8, 0.7], [0, 0, 0])},
    ),
    "equal scores, right and wrong": (
        one_image(square(0, 0, 40), square(60, 60, 40)),
        {7: detections([[100, 0, 120, 20], [0, 0, 40, 40], [60, 60, 100, 100], [60, 60, 100, 100]], [0.5] * 4, [0] * 4)},
    ),
    "on the borders of the area ranges": (
        one_image(square(0, 0, 32), square(40, 40, 96)),
        {7: detections([[0, 0, 32, 32], [40, 40, 136, 136]], [0.9, 0.8], [0, 0])},
    ),
    "same place twice in the truth": (
        one_image(square(0, 0, 40), square(0, 0, 40)),
        {7: detections([[0, 0, 40, 40], [0, 0, 40, 40]], [0.9, 0.9], [0, 0])},
    ),
    "boxes without area": (one_image(square(5, 5, 0), square(9, 9, 40)), {7: detections([[5, 5, 5, 5]], [0.9], [0])}),
}


@pytest.mark.parametrize("case", HAND_MADE)
def test_hand_made_cases_equal_the_reference(case: str) -> None:
    truth, predictions = HAND_MADE[case]
    assert_equal(truth, predictions, ("bbox",))


def test_an_annotation_with_id_zero_counts() -> None:
    """pycocotools takes the id 0 for "not matched"; here annotations are renumbered, and the instance is matched."""
    truth = one_image(square(0, 0, 40))
    predictions = {7: detections([[0, 0, 40, 40]], [0.9], [0])}
    zero = copy.deepcopy(truth)
    zero["annotations"][0]["id"] = 0
    assert reference(zero, predictions, "bbox")["AP"] == 0
    for backend in BACKENDS:
        assert ours(zero, predictions, backend, ("bbox",))["bbox"]["AP"] == pytest.approx(1)


def test_ids_beyond_the_integers_of_a_float() -> None:
    truth = one_image(square(0, 0, 40))
    first, second = 2**60, 2**60 + 1
    truth["images"] = [{"id": first, "height": 160, "width": 160}, {"id": second, "height": 160, "width": 160}]
    truth["annotations"][0]["image_id"] = first
    predictions = {first: detections([[0, 0, 40, 40]], [0.5], [0]), second: detections([[0, 0, 40, 40]], [0.9], [0])}
    assert_equal(truth, predictions, ("bbox",))
    assert ours(truth, predictions, "hotcoco", ("bbox",))["bbox"]["AP"] == pytest.approx(0.5)


def test_per_class() -> None:
    truth, predictions = random_case(5, images=12, classes=3)
    metrics = ours(truth, predictions, "hotcoco")
    assert list(metrics["per_class"]) == [c["name"] for c in truth["categories"]]
    for category in truth["categories"]:
        label = categories(truth).index[category["id"]]
        alone = {i: one[one.labels == label] for i, one in predictions.items()}
        only = {**truth, "annotations": [a for a in truth["annotations"] if a["category_id"] == category["id"]]}
        row = metrics["per_class"][category["name"]]
        assert row["bbox"] == pytest.approx(reference(copy.deepcopy(only), alone, "bbox")["AP"], abs=1e-12)
        assert row["count"] == sum(not a["iscrowd"] for a in only["annotations"])
    for task in ("bbox", "segm"):
        mean = sum(row[task] for row in metrics["per_class"].values()) / 3
        assert metrics[task]["AP"] == pytest.approx(mean, abs=1e-12)


def test_ar_is_named_after_max_detections() -> None:
    truth = one_image(square(0, 0, 40), square(80, 80, 40))
    predictions = {7: detections([[0, 0, 40, 40], [80, 80, 120, 120]], [0.9, 0.8], [0, 0])}
    for backend in BACKENDS:
        evaluator = CocoEvaluator(truth, categories(truth), ("bbox",), max_detections=1, backend=backend)
        evaluator.add(7, predictions[7])
        metrics = evaluator.compute()
        assert metrics["bbox"]["AP"] == pytest.approx(51 / 101)
        assert metrics["bbox"]["AR1"] == 0.5
        assert "AR100" not in metrics["bbox"]
        assert any("best 1 detections" in note for note in metrics["notes"])


def test_an_image_added_twice_counts_once() -> None:
    truth = one_image(square(0, 0, 40))
    once = detections([[50, 50, 60, 60], [0, 0, 40, 40]], [0.9, 0.8], [0, 0])
    evaluator = CocoEvaluator(truth, categories(truth), ("bbox",))
    evaluator.add(7, once)
    evaluator.add(7, once)
    assert len(evaluator.records) == 2
    assert {name: evaluator.compute()["bbox"][name] for name in NAMES} == reference(truth, {7: once}, "bbox")


def test_records_are_coco_results() -> None:
    truth, _ = random_case(1)
    image_id = min(image["id"] for image in truth["images"])
    code = encode(np.eye(160))
    predictions = detections([[1.5, 2.25, 4, 8]], [0.1], [1], [code])
    evaluator = CocoEvaluator(truth, categories(truth))
    evaluator.add(image_id, predictions)
    assert evaluator.records == [
        {
            "image_id": image_id,
            "category_id": truth["categories"][1]["id"],
            "bbox": [1.5, 2.25, 2.5, 5.75],
            "score": predictions.scores.item(),
            "segmentation": code,
        }
    ]


def test_a_model_without_masks_has_no_segm() -> None:
    truth = one_image(square(0, 0, 40, segmentation=[[0, 0, 40, 0, 40, 40]]))
    metrics = ours(truth, {7: detections([[0, 0, 40, 40]], [0.9], [0])}, "hotcoco")
    assert "segm" not in metrics
    assert metrics["per_class"] == {"nut": {"bbox": pytest.approx(1.0), "count": 1}}


@pytest.mark.parametrize("masks", [None, []], ids=["without masks", "with masks"])
def test_without_detections_the_model_decides_what_is_evaluated(masks: list[dict[str, Any]] | None) -> None:
    truth = one_image(square(0, 0, 40, segmentation=[[0, 0, 40, 0, 40, 40]]))
    metrics = ours(truth, {7: detections([], [], [], masks)}, "hotcoco")
    assert metrics["bbox"]["AP"] == 0 and ("segm" in metrics) == (masks is not None)


def test_a_missing_backend_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(UserError, match=r"pip install 'boxwood\[pycocotools\]'"):
        CocoEvaluator(one_image(), categories(one_image()), backend="pycocotools")


def test_wrong_arguments_are_refused() -> None:
    truth = one_image()
    with pytest.raises(UserError, match="'boxes'"):
        CocoEvaluator(truth, categories(truth), ("boxes",))
    with pytest.raises(UserError, match="'fast'"):
        CocoEvaluator(truth, categories(truth), backend="fast")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(UserError, match="annotation 1 of image 7"):
        CocoEvaluator(one_image({"area": 4.0}), categories(truth))


@pytest.mark.parametrize("area", [None, -1600.0, 0, float("nan"), float("inf"), "1600", True, [1600]])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_area_that_is_no_positive_number_is_computed(area: Any, backend: Backend) -> None:
    """A small and a medium square, of which only the medium one is found: the small one counts as missed whatever its area says."""
    found = {7: detections([[60, 60, 100, 100]], [0.9], [0])}
    right = ours(one_image(square(0, 0, 20), square(60, 60, 40)), found, backend)
    wrong = ours(one_image(square(0, 0, 20) | {"area": area}, square(60, 60, 40)), found, backend)
    assert wrong["bbox"] == right["bbox"] and (wrong["bbox"]["AP"], wrong["bbox"]["APs"]) == (pytest.approx(51 / 101), 0)
    notes = [note for note in wrong["notes"] if note not in right["notes"]]
    assert notes == ["1 annotations have no positive 'area' (ids 1): that of the mask is taken, or else width x height of the box"]


def test_the_computed_area_is_that_of_the_mask() -> None:
    """A box of 40 x 40 is medium, a triangle that is half of it small: 800 pixels."""
    triangle = {"segmentation": [[0, 0, 40, 0, 0, 40]], "area": -800}
    metrics = ours(one_image(square(0, 0, 40) | triangle), {7: detections([[0, 0, 40, 40]], [0.9], [0])}, "hotcoco")
    assert (metrics["bbox"]["APs"], metrics["bbox"]["APm"]) == (pytest.approx(1), -1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_detection_of_negative_or_no_width_counts_as_wrong(backend: Backend) -> None:
    """Before the right one: precision 1 / 2."""
    for x2 in (-30, 100):
        found = {7: detections([[100, 0, x2, 40], [0, 0, 40, 40]], [0.9, 0.8], [0, 0])}
        metrics = ours(one_image(square(0, 0, 40)), found, backend)
        assert metrics["bbox"]["AP"] == pytest.approx(0.5)
        assert "1 detections have a box without width or height: they fit no instance and count as wrong" in metrics["notes"]


def test_a_box_of_the_truth_that_is_not_finite_is_refused() -> None:
    for box in ([0, 0, float("nan"), 4], [0, 0, "4", 4], [0, 0, 4]):
        with pytest.raises(
            UserError, match=r"annotation 1 of image 7: 'bbox' must be x, y, width, height, got .*; correct the truth"
        ):
            CocoEvaluator(one_image({"bbox": box, "area": 4.0}), categories(one_image()))


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    truth, predictions = random_case(2)
    for backend in BACKENDS:
        ours(truth, predictions, backend)
    assert capfd.readouterr() == ("", "")
