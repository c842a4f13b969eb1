"""Files whose boxes are shares, corners, or begin at the wrong corner are recognised, refused, and repaired to the valid boxes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood.data import CocoDataset
from boxwood.data.coco_file import coco_file_of
from boxwood.data.quality.box_layouts import recognised_layout
from boxwood.errors import UserError
from tests.conftest import Boxwood
from tests.data.cases import write

BOXES = [[10, 12, 30, 28], [60, 12, 30, 28], [18, 30, 30, 28], [38, 12, 30, 40]]
WIDTH, HEIGHT = 96, 72


def tree_of(boxes: list[Any], *, masks: bool = False, areas: bool = True) -> dict[str, Any]:
    """Two images of 96 x 72 pixels with two boxes each; masks are those of the valid boxes."""
    annotations = []
    for number, (box, (x, y, w, h)) in enumerate(zip(boxes, BOXES, strict=True)):
        row = {"id": number + 1, "image_id": 1 + number // 2, "category_id": 1 + number % 2, "bbox": box, "iscrowd": 0}
        if areas:
            row["area"] = w * h
        if masks:
            row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotations.append(row)
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (1, 2)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}],
    }


LAYOUTS: dict[str, tuple[Callable[[float, float, float, float], list[float]], str]] = {
    "shares": (lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT], "from 0 to 1, as x, y, width"),
    "corners as shares": (lambda x, y, w, h: [x / WIDTH, y / HEIGHT, (x + w) / WIDTH, (y + h) / HEIGHT], "from 0 to 1, as corners"),
    "YOLO's": (lambda x, y, w, h: [(x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT], "as centre, width, height"),
    "corners": (lambda x, y, w, h: [x, y, x + w, y + h], "corners x1, y1, x2, y2 in place of"),
    "swapped corners": (lambda x, y, w, h: [x + w, y + h, -w, -h], "annotations, of which none has a box that can be used"),
}


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, masks: bool, tmp_path: Path, boxwood: Boxwood) -> None:
    written, message = LAYOUTS[layout]
    path, fixed = write(tmp_path, tree_of([written(*box) for box in BOXES], masks=masks)), tmp_path / "fixed.json"
    with pytest.raises(UserError, match=f"4 .*{message}.* boxwood data check .*data.json --images DIR --fix OUT.json"):
        CocoDataset(path, tmp_path)
    checked = boxwood("data", "check", path, "--images", tmp_path, "--fix", fixed)
    assert checked.status == 1 and f"{fixed}: 4 boxes" in checked.out
    rows = json.loads(fixed.read_text())["annotations"]
    np.testing.assert_allclose([row["bbox"] for row in rows], BOXES)
    assert [row["area"] for row in rows] == [w * h for _, _, w, h in BOXES]
    again = boxwood("data", "check", fixed, "--images", tmp_path)
    assert again.status == 0 and again.out.endswith("nothing wrong\n"), again.out


def test_corners_without_areas_are_known_by_boxes_beyond_their_images(tmp_path: Path) -> None:
    corners = [[x, y, x + w, y + h] for x, y, w, h in BOXES]
    layout = recognised_layout(coco_file_of(tree_of(corners, areas=False), "a.json"))
    assert layout is not None and layout.boxes.tolist() == BOXES and not layout.shares


def test_polygons_and_keypoints_that_are_shares_too(tmp_path: Path, boxwood: Boxwood) -> None:
    tree = tree_of([LAYOUTS["shares"][0](*box) for box in BOXES], masks=True)
    for row in tree["annotations"]:
        row["segmentation"] = [[n / (WIDTH, HEIGHT)[i % 2] for i, n in enumerate(row["segmentation"][0])]]
        row["keypoints"] = [0.5, 0.25, 2]
    for category in tree["categories"]:
        category["keypoints"] = ["tip"]
    path, fixed = write(tmp_path, tree), tmp_path / "fixed.json"
    assert "4 masks written as shares" in boxwood("data", "check", path, "--images", tmp_path, "--fix", fixed).out
    row = json.loads(fixed.read_text())["annotations"][0]
    np.testing.assert_allclose(row["segmentation"], [[10, 12, 40, 12, 40, 40, 10, 40]])
    assert row["keypoints"] == [48, 18, 2]


def test_a_few_swapped_corners_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, tree_of([[40, 40, -30, -28], *BOXES[1:]]))
    assert len(CocoDataset(path, tmp_path)[0].boxes) == 1
    assert "1 boxes of negative width or height" in caplog.text and "their corners look swapped" in caplog.text


def test_a_set_of_which_no_annotation_is_usable_is_refused(tmp_path: Path, boxwood: Boxwood) -> None:
    path = write(tmp_path, tree_of([[10, 12, 0, 0], [500, 12, 30, 28], [float("nan")] * 4, [1, 1, 5, 0]]))
    with pytest.raises(UserError, match="4 annotations, of which none has a box that can be used"):
        CocoDataset(path, tmp_path)
    nothing = boxwood("data", "check", path, "--images", tmp_path, "--fix", tmp_path / "fixed.json")
    assert nothing.status == 2 and "no annotation of it can be used" in nothing.err and not (tmp_path / "fixed.json").exists()
    tree = tree_of(BOXES)
    tree["annotations"] = []
    assert len(CocoDataset(write(tmp_path, tree), tmp_path)) == 2  # images without annotations are negatives


@settings(max_examples=50)
@given(
    st.lists(st.tuples(*[st.integers(0, 60), st.integers(0, 40), st.integers(1, 36), st.integers(1, 32)]), min_size=4, max_size=4)
)
def test_valid_boxes_are_never_taken_for_others(boxes: list[tuple[int, int, int, int]]) -> None:
    tree = tree_of([list(box) for box in boxes])
    for row in tree["annotations"]:
        row["area"] = row["bbox"][2] * row["bbox"][3]
    assert recognised_layout(coco_file_of(tree, "a.json")) is None
