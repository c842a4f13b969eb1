"""The cost of each kind of error in cases computed by hand from TIDE's definitions, and AP50 against the COCO API."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from boxwood.evaluation import CocoEvaluator
from boxwood.evaluation.analysis import SORTS, Analysis, analyse
from boxwood.evaluation.truth import ImageResults, Truth
from tests.evaluation.cases import categories, random_case

CAT, DOG = 3, 7
HALF = 51 / 101
"""AP at 101 recalls where half of the instances are detected and no detection is wrong."""


def analysed(truth: list[tuple[int, list[float]]], predictions: list[tuple[int, list[float], float]], crowd: Any = ()) -> Analysis:
    """The analysis of one image; instances are (category, box x, y, width, height), predictions (category, box, score)."""
    annotations = [
        {"id": i, "image_id": 1, "category_id": c, "bbox": box, "area": 1, "iscrowd": 0} for i, (c, box) in enumerate(truth)
    ]
    annotations += [{"id": 99, "image_id": 1, "category_id": c, "bbox": box, "area": 1, "iscrowd": 1} for c, box in crowd]
    coco = {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "annotations": annotations,
        "categories": [{"id": CAT}, {"id": DOG}],
    }
    records: Any = sorted(predictions, key=lambda row: -row[2])

    result = ImageResults(
        np.array([row[1] for row in records], dtype=float).reshape(-1, 4),
        np.array([row[2] for row in records], dtype=float),
        np.array([(CAT, DOG).index(row[0]) for row in records], dtype=int),
    )
    analysis = analyse(Truth(coco), {1: result}, (CAT, DOG))
    assert analysis is not None
    return analysis


def costs(*arguments: Any, **more: Any) -> dict[str, Any]:
    return analysed(*arguments, **more).errors


A, B = [0, 0, 10, 10], [50, 50, 10, 10]
TWO = [(CAT, A), (CAT, B)]


def test_without_errors() -> None:
    errors = costs(TWO, [(CAT, A, 0.9), (CAT, B, 0.8)])
    assert errors["AP50"] == 1 and set(errors["cost"].values()) == {0} and set(errors["count"].values()) == {0}


@pytest.mark.parametrize(
    ("sort", "wrong", "base"),
    [
        # A box with IoU 0.4: with the right box, both cats are detected.
        ("localisation", [(CAT, [50, 50, 4, 10], 0.8)], HALF),
        # Detected as a dog; the truth has none.
        ("classification", [(DOG, B, 0.8)], HALF),
        # Not detected: removed from the truth, only the other cat is left.
        ("missed", [], HALF),
    ],
)
def test_the_cost_of_one_kind_of_error(sort: str, wrong: Any, base: float) -> None:
    errors = costs(TWO, [(CAT, A, 0.9), *wrong])
    assert errors["AP50"] == pytest.approx(base)
    assert errors["cost"] == pytest.approx({name: 1 - base if name == sort else 0 for name in SORTS})
    assert errors["count"] == {name: int(name == sort) for name in SORTS}


@pytest.mark.parametrize(
    ("sort", "wrong"),
    [
        ("duplicate", (CAT, [0, 0, 10, 9], 0.85)),
        ("background", (CAT, [80, 0, 10, 10], 0.85)),
        ("both", (DOG, [50, 50, 4, 10], 0.85)),
    ],
)
def test_a_wrong_detection_among_right_ones(sort: str, wrong: Any) -> None:
    """Right, wrong, right: precision 1 up to a recall of 0.5, then 2/3. A wrong dog costs nothing where the truth has no dog, so
    there is one, detected last."""
    truth = [*TWO, (DOG, [80, 80, 10, 10])]
    predictions = [(CAT, A, 0.9), wrong, (CAT, B, 0.8), (DOG, [80, 80, 10, 10], 0.7)]
    lower = 1 / 2 if sort == "both" else HALF + (1 - HALF) * 2 / 3
    errors = costs(truth, predictions)
    assert errors["AP50"] == pytest.approx((1 + lower) / 2)
    assert errors["cost"] == pytest.approx({name: (1 - lower) / 2 if name == sort else 0 for name in SORTS})
    assert errors["count"] == {name: int(name == sort) for name in SORTS}


def test_only_the_better_of_two_corrected_detections_counts() -> None:
    """Two badly placed boxes of one cat, and a right one between them in score."""
    errors = costs([(CAT, A)], [(CAT, [0, 0, 4, 10], 0.9), (CAT, A, 0.8), (CAT, [0, 0, 3, 10], 0.7)])
    assert errors["AP50"] == pytest.approx(1 / 2) and errors["count"]["localisation"] == 2
    assert errors["cost"]["localisation"] == pytest.approx(1 / 2)


def test_an_instance_with_a_classification_error_is_not_missed() -> None:
    errors = costs([(CAT, A)], [(DOG, A, 0.9)])
    assert errors["count"] == {"classification": 1, **{name: 0 for name in SORTS if name != "classification"}}
    assert errors["AP50"] == 0 and errors["cost"]["classification"] == pytest.approx(1)


def test_localisation_precedes_classification() -> None:
    """A small overlap with its class and a large one with another is a localisation error (the paper's order)."""
    errors = costs([(CAT, A), (DOG, [0, 0, 10, 6])], [(CAT, [0, 0, 10, 4], 0.9)])
    assert errors["count"]["localisation"] == 1 and errors["count"]["classification"] == 0


def test_detections_in_crowd_regions_do_not_count() -> None:
    errors = costs([(CAT, A)], [(CAT, A, 0.5), (CAT, [62, 62, 5, 5], 0.9)], crowd=[(CAT, [60, 60, 30, 30])])
    assert errors["AP50"] == pytest.approx(1) and set(errors["count"].values()) == {0}


def test_nothing_to_analyse() -> None:
    """Where no detection counts, since all are in a crowd region."""
    rows = [{"id": 1, "bbox": A, "iscrowd": 0}, {"id": 2, "bbox": [60, 60, 30, 30], "iscrowd": 1}]
    coco = {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "annotations": [{"image_id": 1, "category_id": CAT, "area": 100, **row} for row in rows],
        "categories": [{"id": CAT}],
    }
    result = ImageResults(np.array([[62.0, 62, 5, 5]]), np.array([0.9]), np.array([0]))
    assert analyse(Truth(coco), {1: result}, (CAT,)) is None


def test_boxes_of_negative_width_are_wrong() -> None:
    analysis = analysed([(CAT, A), (CAT, B)], [(CAT, [10, 0, -10, 10], 0.9), (CAT, [60, 50, -10, -10], 0.8)])
    assert (analysis.overall.f1, analysis.errors["AP50"]) == (0, 0)
    assert analysis.errors["count"]["background"] == 2 and analysis.outcomes[1].tally(0.5) == (0, 2, 2)


@pytest.mark.parametrize("seed", range(6))
def test_ap50_equals_the_coco_evaluator(seed: int) -> None:
    truth, predictions = random_case(seed, score_levels=1000, masks=False, classes=3)
    classes = categories(truth)
    evaluator = CocoEvaluator(truth, classes, tasks=("bbox",))
    for image_id, one in predictions.items():
        evaluator.add(image_id, one)
    analysis = analyse(evaluator.truth, evaluator.results, classes.ids)
    assert analysis is not None
    errors = analysis.errors
    assert errors["AP50"] == pytest.approx(evaluator.compute()["bbox"]["AP50"], abs=1e-9)
    assert all(cost >= -1e-9 for cost in errors["cost"].values()) and sum(errors["count"].values()) > 5


def evaluated(seed: int, **more: Any) -> CocoEvaluator:
    truth, predictions = random_case(seed, score_levels=20, masks=False, **more)
    evaluator = CocoEvaluator(truth, categories(truth), tasks=("bbox",))
    for image_id, one in predictions.items():
        evaluator.add(image_id, one)
    return evaluator


def test_matching_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = evaluated(3, images=9, instances=20)
    ids = evaluator.categories.ids
    whole = analyse(evaluator.truth, evaluator.results, ids)
    monkeypatch.setattr("boxwood.evaluation.analysis.PART", 2)
    parts = analyse(evaluator.truth, evaluator.results, ids)
    assert whole is not None and parts is not None
    assert whole.metrics() == parts.metrics() and np.array_equal(whole.precision, parts.precision)
    for image_id, outcome in whole.outcomes.items():
        other = parts.outcomes[image_id]
        assert np.array_equal(outcome.right, other.right) and outcome.found_at == other.found_at


@pytest.mark.parametrize("most", [2, 5, 100])
def test_the_curves_average_to_coco_ap(most: int) -> None:
    evaluator = evaluated(5, instances=30)
    evaluator.max_detections = most
    table = evaluator.compute()["bbox"]
    analysis = analyse(evaluator.truth, evaluator.results, evaluator.categories.ids, "bbox", most)
    assert analysis is not None
    means = [line[line > -1].mean() for line in analysis.precision]
    assert means == pytest.approx([table["AP50"], table["AP75"], table["AP"]], abs=1e-12) and 0 < table["AP"] < 1


def test_the_working_point_by_hand() -> None:
    """Three instances. Right at 0.9, wrong at 0.8, right at 0.7, wrong twice at 0.2: F1 is 2 / (1 + 3), 2 / 5, 4 / 6, 4 / 8."""
    truth = [(CAT, A), (CAT, B), (DOG, [80, 80, 10, 10])]
    wrong = [80.0, 0, 10, 10]
    predictions = [(CAT, A, 0.9), (CAT, wrong, 0.8), (DOG, [80, 80, 10, 10], 0.7), (CAT, wrong, 0.2), (DOG, wrong, 0.2)]
    analysis = analysed(truth, predictions)
    point = analysis.overall
    assert (point.score, point.precision, point.recall, point.f1) == pytest.approx((0.7, 2 / 3, 2 / 3, 2 / 3))
    cat, dog = analysis.of_class
    assert cat is not None and dog is not None
    assert (cat.score, cat.precision, cat.recall) == pytest.approx((0.9, 1, 1 / 2))
    assert (dog.score, dog.precision, dog.recall) == pytest.approx((0.7, 1, 1))
    # Rows are true classes, columns predicted ones from score 0.7 on: cat, dog, background.
    assert analysis.confusion.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_calibration_by_hand() -> None:
    """Scores 0.9 and 0.85 in one bin, of which one is right; 0.35 is right: ECE (2 |0.875 - 0.5| + |0.35 - 1|) / 3."""
    calibration = analysed(TWO, [(CAT, A, 0.9), (CAT, [80, 0, 10, 10], 0.85), (CAT, B, 0.35)]).calibration
    assert calibration["ECE"] == pytest.approx((2 * 0.375 + 0.65) / 3)
    assert [row["count"] for row in calibration["bins"]] == [0, 0, 0, 1, 0, 0, 0, 0, 2, 0]
    assert calibration["bins"][8] == pytest.approx({"from": 0.8, "to": 0.9, "score": 0.875, "right": 0.5, "count": 2})


def test_the_outcome_of_an_image() -> None:
    analysis = analysed(TWO, [(CAT, A, 0.9), (CAT, [80, 0, 10, 10], 0.8), (DOG, B, 0.1)])
    outcome = analysis.outcomes[1]
    assert outcome.tally(0.5) == (1, 1, 1) and outcome.f1(0.5) == pytest.approx(1 / 2)
    assert outcome.tally(0.95) == (0, 0, 2) and outcome.tally(0.0) == (1, 2, 1) and outcome.found_at == [0.9, None]
