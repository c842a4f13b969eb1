"""Formats that are only read: CVAT, LabelMe, LVIS and Open Images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import mask as coco_mask
from PIL import Image

from boxwood.data.coco_file import read_coco_file
from boxwood.data.formats.cvat import read_cvat
from boxwood.data.formats.labelme import read_labelme
from boxwood.data.formats.lvis import read_lvis
from boxwood.data.formats.open_images import read_open_images
from boxwood.data.quality.checks import check_boxes, check_identities, check_masks, check_run_lengths
from boxwood.errors import UserError
from tests.conftest import Boxwood


def assert_sound(coco: dict[str, Any], folder: Path) -> None:
    """The quality checks refuse nothing."""
    (folder / "sound.json").write_text(json.dumps(coco))
    file = read_coco_file(folder / "sound.json")
    findings = [*check_identities(file), *check_boxes(file)[1], *check_masks(file)[1], *check_run_lengths(file)]
    assert not [finding for finding in findings if finding.refused]


def instances(coco: dict[str, Any]) -> list[tuple[Any, ...]]:
    names = {row["id"]: row["name"] for row in coco["categories"]}
    return [(row["image_id"], names[row["category_id"]], row["bbox"], row["iscrowd"]) for row in coco["annotations"]]


# ---------------------------------------------------------------------------------------------------------------- CVAT

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
  <meta><task><labels><label><name>nut</name></label><label><name>jaune clair</name></label></labels></task></meta>
  <image id="0" name="été/a b.jpg" width="20" height="10">
    <box label="jaune clair" xtl="1.5" ytl="2" xbr="5" ybr="8" occluded="0" z_order="0"></box>
    <polygon label="nut" points="0,0;4,0;4,3" occluded="0"></polygon>
    <mask label="nut" rle="1, 2, 3" left="10" top="5" width="3" height="2"></mask>
    <polyline label="nut" points="0,0;4,0"></polyline>
    <tag label="nut"></tag>
  </image>
  <image id="1" name="empty.jpg" width="30" height="40"/>
</annotations>
"""


def test_cvat(tmp_path: Path) -> None:
    (tmp_path / "annotations.xml").write_text(CVAT, encoding="utf-8")
    coco, _, lost = read_cvat(tmp_path / "annotations.xml")
    assert [(row["file_name"], row["height"], row["width"]) for row in coco["images"]] == [
        ("été/a b.jpg", 10, 20),
        ("empty.jpg", 40, 30),
    ]
    assert [row["name"] for row in coco["categories"]] == ["nut", "jaune clair"]
    assert instances(coco) == [
        (1, "jaune clair", [1.5, 2, 3.5, 6], 0),
        (1, "nut", [0, 0, 4, 3], 0),
        (1, "nut", [11, 5, 2, 1], 0),
    ]
    assert coco["annotations"][1]["segmentation"] == [[0, 0, 4, 0, 4, 3]] and coco["annotations"][1]["area"] == 6
    pixels = coco_mask.decode(coco["annotations"][2]["segmentation"])
    assert np.argwhere(pixels).tolist() == [[5, 11], [5, 12]]
    assert lost == ["1 shapes of the kind polyline", "1 tags of whole images"]
    assert_sound(coco, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('rle="1, 2, 3"', 'rle="1, 2, 4"', "run lengths of its 3 x 2 pixels"),
        ('left="10"', 'left="19"', "must lie in the image"),
        ('points="0,0;4,0;4,3"', 'points="0,0;4"', "a polygon must have points"),
        ('xtl="1.5"', 'xtl="left"', "<box> 'xtl' must be a number"),
        ('label="jaune clair" xtl', "xtl", "<box> has no 'label'"),
        ('width="20"', 'width="99999999"', "cannot be 99999999 x 10 pixels"),
        ("<annotations>", '<!DOCTYPE a [<!ENTITY b "c">]><annotations>', "defines entities"),
        ("</annotations>", "", "is not XML"),
        ("<image ", "<picture ", "is not XML"),
    ],
)
def test_a_wrong_file_of_cvat(old: str, new: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    assert old in CVAT
    path.write_text(CVAT.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_cvat(path)
    assert str(path) in str(error.value) and words in str(error.value) and "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------- LabelMe

LABELME: dict[str, Any] = {
    "version": "5", "imagePath": "sub\\photo 1.jpg", "imageHeight": 50, "imageWidth": 60, "imageData": None,
    "shapes": [
        {"label": "nut", "points": [[30, 20], [10, 5]], "shape_type": "rectangle", "group_id": None},
        {"label": "fig", "points": [[0, 0], [6, 0], [6, 6]], "shape_type": "polygon", "group_id": 4},
        {"label": "fig", "points": [[20, 20], [26, 20], [26, 26]], "shape_type": "polygon", "group_id": 4},
        {"label": "nut", "points": [[30, 30], [30, 40]], "shape_type": "circle"},
        {"label": "nut", "points": [[3, 3]], "shape_type": "point"},
    ],
}  # fmt: skip


def test_labelme(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(LABELME))
    (tmp_path / "b.json").write_text(json.dumps({**LABELME, "imagePath": "b.jpg", "shapes": []}))
    coco, lost = read_labelme(tmp_path)
    assert [row["file_name"] for row in coco["images"]] == ["sub/photo 1.jpg", "b.jpg"]
    assert [row["name"] for row in coco["categories"]] == ["fig", "nut"]
    first, second, third = instances(coco)
    assert first == (1, "nut", [10, 5, 20, 15], 0)
    assert second == (1, "fig", [0, 0, 26, 26], 0) and len(coco["annotations"][1]["segmentation"]) == 2
    assert coco["annotations"][1]["area"] == 36
    assert third[2] == pytest.approx([20, 20, 20, 20]) and coco["annotations"][2]["area"] == pytest.approx(np.pi * 100, rel=0.01)
    assert lost == ["1 shapes of the kind point"]
    assert_sound(coco, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"imageHeight": "50"}, "'imageHeight' must be a int"),
        ({"shapes": [{"label": "", "points": []}]}, "shapes row 0: must have a label"),
        ({"shapes": [{"label": "nut", "points": [[1, "2"]]}]}, "shapes row 0: must have a label"),
        ({"shapes": [3]}, "shapes row 0"),
    ],
)
def test_a_wrong_file_of_labelme(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**LABELME, **change}))
    with pytest.raises(UserError, match=words) as error:
        read_labelme(tmp_path)
    assert "a.json" in str(error.value)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        read_labelme(tmp_path)


# ---------------------------------------------------------------------------------------------------------- Open Images

TABLE = """ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside
aa,xclick,/m/0jbk,1,0.25,0.5,0.1,0.6,0,0,0,0,0
aa,xclick,/m/01g3,1,0,1,0,1,0,0,1,0,0
zz,xclick,/m/01g3,1,0,1,0,1,0,0,0,0,0
"""


def open_images(folder: Path, table: str = TABLE) -> tuple[Path, Path, Path]:
    (folder / "images").mkdir()
    for name in ("aa", "bb"):
        Image.new("RGB", (200, 100)).save(folder / "images" / f"{name}.jpg")
    (folder / "boxes.csv").write_text(table)
    (folder / "classes.csv").write_text('/m/0jbk,Animal\n/m/01g3,"Person, standing"\n')
    return folder / "boxes.csv", folder / "images", folder / "classes.csv"


def test_open_images(tmp_path: Path) -> None:
    coco, _, lost = read_open_images(*open_images(tmp_path))
    assert [row["file_name"] for row in coco["images"]] == ["aa.jpg", "bb.jpg"]
    assert [row["name"] for row in coco["categories"]] == ["Animal", "Person, standing"]
    assert instances(coco) == [(1, "Animal", pytest.approx([50, 10, 50, 50]), 0), (1, "Person, standing", [0, 0, 200, 100], 1)]
    folder = tmp_path / "images"
    assert lost == [f"1 boxes of images that are not in {folder}", f"1 images of the table are not in {folder}"]
    unnamed, *_ = read_open_images(tmp_path / "boxes.csv", tmp_path / "images")
    assert [row["name"] for row in unnamed["categories"]] == ["/m/01g3", "/m/0jbk"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (TABLE.replace("0.25", "left"), "boxes.csv:2: XMin, XMax, YMin and YMax must be numbers"),
        (TABLE.replace("0.25", "25"), "boxes.csv:2: .* shares of the image"),
        (TABLE.replace("LabelName", "Label"), "has no column LabelName"),
    ],
)
def test_a_wrong_table(table: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        read_open_images(*open_images(tmp_path, table))


# ----------------------------------------------------------------------------------------------------------------- LVIS


def test_lvis(tmp_path: Path, boxwood: Boxwood) -> None:
    tree = {
        "images": [{"id": 7, "height": 9, "width": 8, "coco_url": "http://images.cocodataset.org/val2017/000000000007.jpg",
                    "neg_category_ids": [2], "not_exhaustive_category_ids": []}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 1, 3, 3], "area": 9,
                         "segmentation": [[1, 1, 4, 1, 4, 4]]}],
        "categories": [{"id": 1, "name": "aerosol_can", "frequency": "c"}, {"id": 2, "name": "yak", "frequency": "r"}],
    }  # fmt: skip
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps(tree))
    coco = read_lvis(path).coco
    assert coco["images"][0]["file_name"] == "val2017/000000000007.jpg" and coco["images"][0]["neg_category_ids"] == [2]
    assert_sound(coco, tmp_path)
    done = boxwood("data", "convert", path, tmp_path / "out.json", "--from", "lvis")
    assert done.status == 0 and json.loads((tmp_path / "out.json").read_text()) == coco
    del tree["images"][0]["coco_url"]
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match="images row 0: has neither"):
        read_lvis(path)


def test_formats_are_recognised(tmp_path: Path, boxwood: Boxwood) -> None:
    (tmp_path / "annotations.xml").write_text(CVAT, encoding="utf-8")
    done = boxwood("data", "convert", tmp_path / "annotations.xml", tmp_path / "cvat.json")
    assert done.status == 0 and "2 images, 3 instances" in done.out and "polyline" in done.out
    (tmp_path / "labelme").mkdir()
    (tmp_path / "labelme" / "a.json").write_text(json.dumps(LABELME))
    assert boxwood("data", "convert", tmp_path / "labelme", tmp_path / "labelme.json").status == 0
    table, images, classes = open_images(tmp_path)
    assert "--images" in boxwood("data", "convert", table, tmp_path / "x.json").err
    arguments = ("data", "convert", table, tmp_path / "open.json", "--images", images, "--classes", classes)
    assert boxwood(*arguments).status == 0
