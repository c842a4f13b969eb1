"""Cityscapes' polygons as COCO: occlusion, ignored labels, and errors in a file."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import mask as coco_mask

from boxwood.data.coco_file import read_coco_file
from boxwood.data.formats.cityscapes import CLASSES, NOT_COUNTED, NOT_PAINTED, read_cityscapes
from boxwood.data.quality.checks import check_boxes, check_identities, check_masks, check_run_lengths
from boxwood.errors import UserError
from tests.conftest import Boxwood


def rectangle(label: str, x1: int, y1: int, x2: int, y2: int, **more: Any) -> dict[str, Any]:
    """A rectangular polygon; painted polygons include their last row y2 and column x2."""
    return {"label": label, "polygon": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]], **more}


OBJECTS = [
    rectangle("road", 0, 0, 63, 31),
    rectangle("car", 10, 10, 29, 19),
    rectangle("person", 40, 5, 45, 25),
    rectangle("pole", 14, 0, 15, 31),  # occludes a strip of the car
    rectangle("persongroup", 50, 5, 60, 25),
    rectangle("bicycle", 2, 2, 5, 5),
    rectangle("building", 0, 0, 8, 8),  # occludes the bicycle
    rectangle("license plate", 20, 17, 24, 18),  # occludes nothing
    rectangle("rider", 30, 28, 33, 31, deleted=1),
    rectangle("static", 62, 2, 63, 3),  # is ignored
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for city, number in (("aachen", 0), ("ulm", 1)):
        path = tmp_path / "gtFine" / "val" / city / f"{city}_00000{number}_000019_gtFine_polygons.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"imgHeight": 32, "imgWidth": 64, "objects": OBJECTS if city == "ulm" else []}))
    return tmp_path / "gtFine" / "val"


def test_masks_hold_the_visible_pixels(folder: Path, tmp_path: Path) -> None:
    coco = read_cityscapes(folder).coco
    assert [image["file_name"] for image in coco["images"]] == [
        "aachen/aachen_000000_000019_leftImg8bit.png",
        "ulm/ulm_000001_000019_leftImg8bit.png",
    ]
    assert {row["name"]: row["id"] for row in coco["categories"]} == CLASSES
    annotations = [(row["image_id"], row["category_id"], row["iscrowd"], row["bbox"], row["area"]) for row in coco["annotations"]]
    assert annotations == [
        (2, CLASSES["car"], 0, [10, 10, 20, 10], 20 * 10 - 2 * 10),
        (2, CLASSES["person"], 0, [40, 5, 6, 21], 6 * 21),
        (2, CLASSES["person"], 1, [50, 5, 11, 21], 11 * 21),
    ]
    pixels = coco_mask.decode(coco["annotations"][0]["segmentation"])
    expected = np.zeros((32, 64), np.uint8)
    expected[10:20, 10:30] = 1
    expected[:, 14:16] = 0
    assert np.array_equal(pixels, expected)
    void = np.zeros((32, 64), np.uint8)
    void[2:4, 62:64] = 1
    assert np.array_equal(coco_mask.decode(coco["images"][1]["void"]), void)
    assert coco_mask.decode(coco["images"][0]["void"]).all()  # no polygon is painted
    (tmp_path / "val.json").write_text(json.dumps(coco))
    file = read_coco_file(tmp_path / "val.json")
    assert not check_identities(file) and not check_boxes(file)[1] and not check_masks(file)[1] and not check_run_lengths(file)
    assert file.to_coco()["images"] == coco["images"]


def test_ignored_labels_are_the_benchmarks() -> None:
    """Checked against the benchmark's table of labels; license plates belong to the cars."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cityscapesscripts.helpers.labels import labels
    assert {label.name for label in labels if label.ignoreInEval} == NOT_COUNTED | NOT_PAINTED
    assert {label.name for label in labels if label.hasInstances and not label.ignoreInEval} == set(CLASSES)


def test_the_command(folder: Path, boxwood: Boxwood, tmp_path: Path) -> None:
    done = boxwood("data", "convert", folder, tmp_path / "val.json", "--from", "cityscapes")
    assert done.status == 0, done.err
    counts, lost = done.out.splitlines()
    assert counts == f"{tmp_path / 'val.json'}: 2 images, 2 instances and 1 crowd regions of 8 classes"
    assert lost == (
        "not carried: 1 instances that others hide, 4 polygons of other classes (they only hide instances), "
        "2 polygons that are deleted, license plates, or of under 3 points"
    )
    assert json.loads((tmp_path / "val.json").read_text()) == read_cityscapes(folder).coco
    assert boxwood("data", "convert", folder, tmp_path / "val.txt", "--from", "cityscapes").status == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "'imgHeight' and 'imgWidth'"),
        ('{"imgHeight": 99999, "imgWidth": 99999, "objects": []}', "'imgHeight' and 'imgWidth'"),
        ('{"imgHeight": 3, "imgWidth": 3}', "'objects' must be a list"),
        ('{"imgHeight": 3, "imgWidth": 3, "objects": [{"label": "car", "polygon": [[1, 2], [3]]}]}', "objects row 0"),
        ('{"imgHeight": 3, "imgWidth": 3, "objects": [{"label": 3, "polygon": []}]}', "objects row 0"),
    ],
)
def test_a_wrong_file_is_named(content: str, message: str, folder: Path, boxwood: Boxwood, tmp_path: Path) -> None:
    path = folder / "ulm" / "ulm_000001_000019_gtFine_polygons.json"
    path.write_text(content)
    done = boxwood("data", "convert", folder, tmp_path / "val.json", "--from", "cityscapes")
    assert done.status == 2 and len(done.error_lines) == 1 and str(path) in done.err and message in done.err
    assert not (tmp_path / "val.json").exists()


def test_a_folder_without_annotations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gtFine/val"):
        read_cityscapes(tmp_path)
