"""The rule of mean instances an image, against an independent calculation and its definition."""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwood.library.distillation.thresholds import cut, thresholds
from tests.facts import FACTS

CASES = json.loads(gzip.decompress((FACTS / "distillation" / "facts.json.gz").read_bytes()))["thresholds"]


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["name"])
def test_one_threshold(case: dict[str, Any]) -> None:
    scores = np.array(case["scores"])
    threshold = cut(scores, case["target_instances_per_image"], case["images"])
    assert (threshold.score, threshold.labels) == (case["threshold"], case["kept"])
    if "images_without_labels" in case:
        labelled = set(np.array(case["image_index"])[scores >= (2 if threshold.score is None else threshold.score)].tolist())
        assert case["images"] - len(labelled) == case["images_without_labels"]


def test_thresholds_of_classes_and_of_all() -> None:
    facts = CASES["per_class"]
    ids = [int(name) for name in facts["labelled"]]
    targets = np.array([row["instances"] / row["images"] for row in facts["labelled"].values()])
    scores, labels = np.array(facts["scores"]), np.array([ids.index(number) for number in facts["classes"]])
    of_class = thresholds(scores, labels, targets, facts["images"], floor=0.0, per_class=True)
    expected = facts["expected_per_class"]
    assert [(row.score, row.labels) for row in of_class] == [(row["threshold"], row["kept"]) for row in expected.values()]
    of_all = thresholds(scores, labels, targets, facts["images"], floor=0.0, per_class=False)
    assert {row.score for row in of_all} == {facts["expected_one_threshold"]["threshold"]}
    assert sum(row.labels for row in of_all) == facts["expected_one_threshold"]["kept"]


def test_threshold_of_keypoints() -> None:
    facts = CASES["keypoints"]
    threshold = cut(np.array(facts["scores"]).ravel(), facts["target_keypoints_per_instance"], facts["instances"])
    assert (threshold.score, threshold.labels) == (facts["threshold"], facts["kept"])


def test_a_floor_keeps_what_is_likely() -> None:
    case = next(case for case in CASES["cases"] if case["name"] == "few detections")
    scores = np.array(case["scores"])
    threshold = cut(scores, case["target_instances_per_image"], case["images"], floor=0.3)
    assert threshold.score == 0.3 and threshold.labels == (scores >= 0.3).sum() < case["kept"]
    assert threshold.missing == threshold.wanted - threshold.labels > 0
    assert cut(scores, 1.5, case["images"], floor=1.0).score is None


@given(
    scores=st.lists(st.floats(0, 1), max_size=30, unique=True),
    target=st.floats(0, 5),
    images=st.integers(1, 12),
    floor=st.floats(0, 0.9),
)
def test_labels_are_the_best_and_as_many_as_wanted(scores: list[float], target: float, images: int, floor: float) -> None:
    """Within one instance of the target, unless there are too few detections of enough score."""
    threshold = cut(np.array(scores), target, images, floor)
    allowed = [score for score in scores if score >= floor]
    assert threshold.labels == min(threshold.wanted, len(allowed)) and abs(threshold.wanted - target * images) <= 0.5 + 1e-9
    if threshold.score is not None:
        assert sum(score >= threshold.score for score in scores) == threshold.labels
