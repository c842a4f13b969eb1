"""What categories say of keypoints: read, read as it is meant, or refused when the file is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from boxwood.data import CocoDataset
from boxwood.data.categories import keypoint_declaration, skeleton_edges
from boxwood.errors import UserError
from tests.conftest import Boxwood
from tests.data.cases import sound, write

NAMES = ["left", "right", "tip"]


@pytest.mark.parametrize(
    ("skeleton", "edges", "reading"),
    [
        ([[1, 2], [2, 3]], ((0, 1), (1, 2)), ""),
        ([[1.0, 3.0]], ((0, 2),), ""),
        ([[0, 1], [1, 2]], ((0, 1), (1, 2)), "counted from 0"),
        ([1, 2, 2, 3], ((0, 1), (1, 2)), "not in lists of two"),
        ([["left", "tip"]], ((0, 2),), "by the names of the keypoints"),
        (["left", "tip"], ((0, 2),), "not in lists of two and by the names of the keypoints"),
        ([0, 2], ((0, 2),), "not in lists of two and counted from 0"),
        ([], (), ""),
    ],
)
def test_skeletons(skeleton: Any, edges: Any, reading: str) -> None:
    assert skeleton_edges(skeleton, tuple(NAMES)) == (edges, reading)


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"keypoints": 3}, "'keypoints' must be the list of their names, got 3"),
        ({"keypoints": {"left": 1}}, "'keypoints' must be the list of their names, got {'left': 1}"),
        ({"keypoints": "left"}, "'keypoints' must be the list of their names, got 'left'"),
        ({"keypoints": [["left"]]}, "'keypoints' must be the list of their names, got [['left']]"),
        ({"keypoints": ["left", "left"]}, "'keypoints' has the name 'left' twice"),
        ({"skeleton": [[1, 4]]}, "'skeleton' must be pairs of numbers from 1 to 3, got [[1, 4]]"),
        ({"skeleton": [[0, 3]]}, "'skeleton' must be pairs of numbers from 1 to 3, got [[0, 3]]"),
        ({"skeleton": [[-1, 1]]}, "'skeleton' must be pairs of numbers from 1 to 3, got [[-1, 1]]"),
        ({"skeleton": [1, 2, 3]}, "'skeleton' must be pairs of numbers from 1 to 3, got [1, 2, 3]"),
        ({"skeleton": [[1, 2, 3]]}, "'skeleton' must be pairs of numbers from 1 to 3, got [[1, 2, 3]]"),
        ({"skeleton": [["left", "top"]]}, "'skeleton' must be pairs of numbers from 1 to 3, got [['left', 'top']]"),
        ({"skeleton": {"a": 1}}, "'skeleton' must be pairs of numbers from 1 to 3, got {'a': 1}"),
        ({"sigmas": [0.1, 0.1]}, "'sigmas' must be a positive number for each of 3 keypoints, got [0.1, 0.1]"),
        ({"sigmas": [0.1, 0.1, -1]}, "'sigmas' must be a positive number for each of 3 keypoints, got [0.1, 0.1, -1]"),
    ],
)
def test_wrong_facts_are_refused_at_the_door(facts: dict[str, Any], problem: str, tmp_path: Path, boxwood: Boxwood) -> None:
    assert keypoint_declaration({"keypoints": NAMES, **facts}).problem == problem
    path = with_keypoints(tmp_path, **facts)
    with pytest.raises(UserError, match="1 categories whose keypoints cannot be used: 'nut': ") as caught:
        CocoDataset(path, tmp_path)
    assert problem in str(caught.value) and "\n" not in str(caught.value)
    fixed = tmp_path / "fixed.json"
    checked = boxwood("data", "check", path, "--images", tmp_path, "--fix", fixed)
    assert checked.status == 1 and "refused: 1 categories whose keypoints" in checked.out
    again = boxwood("data", "check", fixed, "--images", tmp_path)
    assert again.status == 0 and "repaired: " not in again.out, again.out
    keypoints = CocoDataset(fixed, tmp_path).categories.keypoints
    made_up = [f"keypoint_{number}" for number in (1, 2, 3)]
    assert keypoints is not None and list(keypoints.names) == (made_up if "keypoints" in facts else NAMES)


def with_keypoints(folder: Path, **facts: Any) -> Path:
    """A data set one of whose classes names three keypoints."""
    tree = sound()
    tree["categories"][0] |= {"keypoints": NAMES, **facts}
    tree["annotations"][0]["keypoints"] = [3, 5, 2, 9, 11, 1, 0, 0, 0]
    return write(folder, tree)


def test_a_skeleton_counted_from_0_is_drawn_between_the_right_points(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    facts = CocoDataset(with_keypoints(tmp_path, skeleton=[[0, 1], [1, 2]]), tmp_path).categories.keypoints
    assert facts is not None and facts.skeleton == ((0, 1), (1, 2))
    assert "1 categories whose skeleton is not written as COCO's: 'nut': counted from 0" in caplog.text


def test_keypoints_that_no_category_names(tmp_path: Path, caplog: pytest.LogCaptureFixture, boxwood: Boxwood) -> None:
    tree = sound()
    tree["annotations"][0]["keypoints"] = [3, 5, 2, 9, 11, 1]
    path, fixed = write(tmp_path, tree), tmp_path / "fixed.json"
    assert CocoDataset(path, tmp_path)[1].keypoints is None
    assert "1 annotations with keypoints that no category names" in caplog.text and "a list of 2 names" in caplog.text
    checked = boxwood("data", "check", path, "--images", tmp_path, "--fix", fixed)
    assert checked.status == 1 and "repaired: 1 annotations with keypoints that no category names" in checked.out
    assert "2 classes whose keypoints were named keypoint_1" in checked.out
    assert json.loads(fixed.read_text())["categories"][0]["keypoints"] == ["keypoint_1", "keypoint_2"]
    assert CocoDataset(fixed, tmp_path)[1].keypoints is not None


def test_keypoints_without_a_place_are_not_labelled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = sound()
    tree["categories"][0]["keypoints"] = NAMES
    tree["annotations"][0]["keypoints"] = [float("inf"), 5, 2, 9, float("nan"), 1, 4, 6, 2]
    keypoints = CocoDataset(write(tmp_path, tree), tmp_path)[1].keypoints
    assert keypoints is not None and keypoints[0].tolist() == [[0, 0, 0], [0, 0, 0], [4.5, 6.5, 2]]
    assert "1 instances with keypoints at nan, infinity or over a million pixels" in caplog.text
