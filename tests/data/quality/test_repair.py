"""``data check --fix`` makes rows readable that the reader refuses, and counts every change."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from boxwood.data import CocoDataset
from boxwood.data.quality.repair_rows import unused_ids
from boxwood.errors import UserError
from boxwood.library.check import repair
from tests.conftest import Boxwood
from tests.data.cases import sound, write

Tree = dict[str, Any]

REPAIRS: dict[str, tuple[Callable[[Tree], Any], str, int]] = {
    "row that is no mapping": (lambda t: t["annotations"].append(7), "1 rows of 'annotations' that are no mappings left out", 3),
    "box of text": (
        lambda t: t["annotations"][0].update(bbox=["2", "4", "10", "20.5"]),
        "1 boxes written as text read as numbers",
        3,
    ),
    "short box": (
        lambda t: t["annotations"][0].update(bbox=[2, 4, 10]),
        "1 boxes that were not four numbers taken from the masks",
        3,
    ),
    "no box and no mask": (
        lambda t: t["annotations"][0].update(bbox=[2], segmentation=None),
        "1 annotations without a box of four numbers left out",
        2,
    ),
    "mask of text": (
        lambda t: t["annotations"][0].update(segmentation="x"),
        "1 masks that are neither polygons nor run lengths removed",
        3,
    ),
    "polygon of text": (
        lambda t: t["annotations"][0]["segmentation"].append(["a"] * 6),
        "1 masks from which parts that are no numbers were removed",
        3,
    ),
    "crowd of text": (
        lambda t: t["annotations"][0].update(iscrowd="no"),
        "1 values of 'iscrowd' that were no whole number replaced by 0 or 1",
        3,
    ),
    "no height": (lambda t: t["images"][1].pop("height"), "1 'height' of images that was no whole number removed", 3),
    "no file name": (lambda t: t["images"][1].pop("file_name"), "1 images without a file name left out", 2),
    "class without a name": (lambda t: t["categories"][0].pop("name"), "1 names of classes that were no text replaced", 3),
    "class with an id of text": (
        lambda t: (t["categories"][0].update(id="nut"), t["annotations"][0].update(category_id="nut")),
        "1 class ids that were no whole numbers replaced by numbers, 1 annotations of unknown classes left out",
        2,
    ),
    "keypoints of another length": (
        lambda t: [a.update(keypoints=[1, 2, 2] * (2 if i else 3)) for i, a in enumerate(t["annotations"])],
        "1 keypoints that were not 6 numbers as in most annotations removed",
        3,
    ),
}


@pytest.mark.parametrize("fault", REPAIRS)
def test_rows_that_are_refused_are_repaired(fault: str, tmp_path: Path, boxwood: Boxwood) -> None:
    change, message, rows = REPAIRS[fault]
    write(tmp_path, sound())
    tree = sound()
    change(tree)
    path, fixed = write(tmp_path, tree, images=False), tmp_path / "fixed.json"
    with pytest.raises(UserError, match=r"correct the file, or repair a copy with: boxwood data check .* --fix OUT.json"):
        CocoDataset(path, tmp_path)
    done = boxwood("data", "check", path, "--images", tmp_path, "--fix", fixed)
    assert done.status == 1 and "refused: 1 rows that cannot be read, at least: " in done.out
    assert message in done.out.splitlines()[-1], done.out
    dataset = CocoDataset(fixed, tmp_path)
    assert len(json.loads(fixed.read_text())["annotations"]) == rows and all(len(dataset[i].boxes) < 3 for i in range(len(dataset)))
    again = boxwood("data", "check", fixed, "--images", tmp_path).out
    assert "refused: " not in again


def test_what_cannot_be_repaired_says_why(tmp_path: Path) -> None:
    tree = sound()
    path, fixed = write(tmp_path, tree), tmp_path / "fixed.json"
    for change, message in (
        ({"images": {}}, "'images' must be a list, got a dict"),
        ({"images": [{"id": 1}]}, "none of its 'images' can be read"),
        ({"categories": []}, "none of its 'categories' can be read"),
        ({"annotations": [{"image_id": 70, "category_id": 900, "bbox": None}]}, "no annotation of it can be used"),
    ):
        write(tmp_path, {**tree, **change}, images=False)
        with pytest.raises(UserError, match=message):
            repair(path, fixed, images=tmp_path)
    alone = write(tmp_path / "alone", tree, images=False)
    with pytest.raises(UserError, match="--images: name the folder"):
        repair(alone, fixed)
    assert not fixed.exists()


@pytest.mark.parametrize(
    "box", [[2, 4, float("-inf"), 9], [float("inf"), 4, float("-inf"), 9], [float("-inf"), 4, float("-inf"), 9]]
)
def test_boxes_with_infinity_are_left_out(box: list[float], tmp_path: Path) -> None:
    tree = sound()
    tree["annotations"][0]["bbox"] = box
    done = repair(write(tmp_path, tree), tmp_path / "fixed.json", images=tmp_path)
    assert done == ["1 boxes without area in their image left out"]
    assert len(CocoDataset(tmp_path / "fixed.json", tmp_path)) == 3


def test_new_ids_fit_into_64_bits() -> None:
    assert list(islice(unused_ids({1, 7}), 2)) == [8, 9]
    assert list(islice(unused_ids({1, 2**63 - 1}), 2)) == [2, 3]
    assert list(islice(unused_ids(set()), 2)) == [1, 2] and next(unused_ids({-5})) == 1
