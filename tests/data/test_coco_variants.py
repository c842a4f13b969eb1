"""Files that are not COCO as it is written, and mean one thing only, have the samples of the valid file; one line says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hotcoco import mask as coco_mask

from boxwood.data import CocoDataset
from boxwood.data.coco_file import coco_file_of
from boxwood.data.coco_variants import as_meant, box_of_mask
from boxwood.errors import UserError
from boxwood.structures import Bitmap, Polygons, Sample
from tests.conftest import Boxwood
from tests.data.cases import sound, write

Tree = dict[str, Any]


def all_ids_as_text(tree: Tree) -> None:
    for section, keys in (("images", ("id",)), ("annotations", ("id", "image_id", "category_id")), ("categories", ("id",))):
        for row in tree[section]:
            row.update({key: str(row[key]) for key in keys})


def without_ids(tree: Tree) -> None:
    for row in tree["annotations"]:
        row.pop("id")


def boxes_from_masks(tree: Tree) -> None:
    """The crowd region is the whole image; the boxes of the others are made those of their masks in `same`."""
    for row in tree["annotations"]:
        row.pop("bbox")


def text_of_bytes(tree: Tree) -> None:
    code = tree["annotations"][2]["segmentation"]
    code["counts"] = str(code["counts"].encode())


def decimal_points(tree: Tree) -> None:
    code = tree["annotations"][1]["segmentation"]
    code.update(size=[40.0, 60.0], counts=[0.0, 2400.0])


def flat_polygon(tree: Tree) -> None:
    tree["annotations"][0]["segmentation"] = tree["annotations"][0]["segmentation"][0]


def roboflows_root(tree: Tree) -> None:
    for row in tree["categories"]:
        row["supercategory"] = "fruit-x1"
    tree["categories"].insert(0, {"id": 0, "name": "fruit-x1", "supercategory": "none"})


VARIANTS: dict[str, tuple[Callable[[Tree], Any], str]] = {
    "ids as text": (all_ids_as_text, r"14 whole numbers that are written as text: images row 0: .id. is .70.; .*"),
    "no ids of annotations": (without_ids, "3 annotations without 'id': annotations row 0; .* -- numbered"),
    "null iscrowd": (
        lambda t: t["annotations"][2].update(iscrowd=None),
        "1 annotations whose 'iscrowd' is null: annotations row 2 -- read as 0",
    ),
    "sizes as text": (
        lambda t: t["images"][1].update(height="50"),
        "1 whole numbers that are written as text: images row 1: 'height' is '50'",
    ),
    "text of bytes": (text_of_bytes, r"1 run lengths that are written as Python's text of bytes, b'...': annotations row 2"),
    "decimal points": (decimal_points, "1 run lengths whose 'size' has decimal points: annotations row 1 -- read as whole numbers"),
    "flat polygon": (flat_polygon, "1 polygons without the list around them: annotations row 0 -- read as masks of one polygon"),
    "root class": (roboflows_root, "1 classes that are only the supercategory of all others: 'fruit-x1' -- not a class"),
}


def same(one: Sample, other: Sample) -> bool:
    return torch.equal(one.boxes, other.boxes) and torch.equal(one.labels, other.labels) and torch.equal(one.crowd, other.crowd)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_read(variant: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, boxwood: Boxwood) -> None:
    change, message = VARIANTS[variant]
    expected = CocoDataset(write(tmp_path, sound()), tmp_path)
    tree = sound()
    change(tree)
    path = write(tmp_path, tree, images=False)
    dataset = CocoDataset(path, tmp_path)
    assert dataset.categories == expected.categories and len(dataset) == 3
    for image in range(3):
        sample, right = dataset[image], expected[image]
        assert same(sample, right) and sample.segmentations is not None and right.segmentations is not None
        for mask, right_mask in zip(sample.segmentations, right.segmentations, strict=True):
            if isinstance(mask, Bitmap):
                assert isinstance(right_mask, Bitmap) and np.array_equal(mask.values, right_mask.values)
            else:
                assert isinstance(right_mask, Polygons) and np.array_equal(mask.parts[0], right_mask.parts[0])
    lines = [record.getMessage() for record in caplog.records]
    assert any(re.search(message, line) for line in lines), lines
    checked = boxwood("data", "check", path, "--images", tmp_path, "--fix", tmp_path / "fixed.json")
    assert checked.status == 0 and re.search(f"look: {message}", checked.out), checked.out
    again = boxwood("data", "check", tmp_path / "fixed.json", "--images", tmp_path)
    assert again.status == 0 and again.out.endswith("nothing wrong\n"), again.out


def test_boxes_from_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of two triangles, of run lengths over the whole image, and of compressed ones (a mask of 4 x 7 pixels)."""
    tree = sound()
    boxes_from_masks(tree)
    dataset = CocoDataset(write(tmp_path, tree), tmp_path)
    assert dataset.file.boxes.tolist() == [[2, 4, 10, 20.5], [0, 0, 60, 40], [11, 11, 4, 7]]
    assert "3 annotations that have a mask and no 'bbox'" in caplog.text
    mask = np.zeros((9, 12), dtype=np.uint8, order="F")
    mask[2:5, 3:10] = 1
    assert box_of_mask({"size": [9, 12], "counts": coco_mask.encode(mask)["counts"].decode()}) == [3, 2, 7, 3]
    assert box_of_mask([[1, 2, 3, 4]]) is box_of_mask({"size": [9, 12], "counts": [108]}) is box_of_mask("a") is None


def test_backslashes_of_run_lengths_are_not_doubled() -> None:
    code = "PQh0\\ab"
    tree, _ = as_meant({"annotations": [{"id": 1, "segmentation": {"size": [9, 9], "counts": str(code.encode())}}]})
    assert tree["annotations"][0]["segmentation"]["counts"] == code


def test_a_class_that_is_used_or_does_not_name_all_others_is_no_root(tmp_path: Path) -> None:
    for used, supercategory, root in ((True, "fruit-x1", "none"), (False, "tree", "none"), (False, "fruit-x1", "fruit")):
        tree = sound()
        roboflows_root(tree)
        tree["categories"][0]["supercategory"], tree["categories"][1]["supercategory"] = root, supercategory
        tree["annotations"][0]["category_id"] = 0 if used else 900
        file = coco_file_of(tree, "a.json")
        assert len(file.categories) == 3 and not file.readings


def test_ids_that_are_no_numbers_are_refused_with_the_command_that_numbers_them(tmp_path: Path, boxwood: Boxwood) -> None:
    tree = sound()
    for row in tree["images"]:
        row["id"] = f"image-{row['id']}"
    for row in tree["annotations"]:
        row["image_id"] = f"image-{row['image_id']}"
    path, fixed = write(tmp_path, tree), tmp_path / "fixed.json"
    message = (
        "images row 0: 'id' must be a whole number, got 'image-70'; .*boxwood data check .*data.json --images DIR --fix OUT.json"
    )
    with pytest.raises(UserError, match=message):
        CocoDataset(path, tmp_path)
    done = boxwood("data", "check", path, "--images", tmp_path, "--fix", fixed)
    assert done.status == 1 and "refused: 1 rows that cannot be read" in done.out
    assert "3 image ids that were no whole numbers replaced by numbers" in done.out
    repaired, expected = CocoDataset(fixed, tmp_path), CocoDataset(write(tmp_path, sound()), tmp_path)
    assert [repaired[i].image_id for i in range(3)] == [1, 2, 3] and all(same(repaired[i], expected[i]) for i in range(3))
