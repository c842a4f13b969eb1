"""Formats that are only read: CVAT, LabelMe, LVIS, Open Images and TensorFlow's CSV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import mask as coco_mask
from PIL import Image

from boxwood.data.annotations import format_of, read_annotations
from boxwood.data.coco_file import read_coco_file
from boxwood.data.formats.cvat import read_cvat
from boxwood.data.formats.label_studio import read_label_studio
from boxwood.data.formats.labelme import read_labelme
from boxwood.data.formats.lvis import read_lvis
from boxwood.data.formats.open_images import read_open_images
from boxwood.data.formats.tensorflow_csv import read_tensorflow_csv
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
        ('occluded="0" z', 'rotation="1;2;3" z', "<box> 'rotation' must be a number, got '1;2;3'"),
        ('occluded="0" z', 'rotation="nan" z', "<box> 'rotation' must be a number, got 'nan'"),
        ('height="2"', 'height="2.5"', "'height' must be a whole number"),
        ('width="20"', 'width="99999999999999999999"', "'width' must be a number"),
    ],
)
def test_a_wrong_file_of_cvat(old: str, new: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    assert old in CVAT
    path.write_text(CVAT.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_cvat(path)
    assert str(path) in str(error.value) and words in str(error.value) and "\n" not in str(error.value)


def cvat(folder: Path, images: str) -> Path:
    meta = "<meta><project><labels><label><name>bolt</name></label></labels></project></meta>"
    path = folder / "annotations.xml"
    path.write_text(f"<annotations><version>1.1</version>{meta}{images}</annotations>", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("rotation", "box", "counted"),
    [
        ("90.00", [30, 10, 10, 50], 1),
        ("270", [30, 10, 10, 50], 1),
        ("180", [10, 30, 50, 10], 0),  # the same box
        ("-45", [35 - 60 / 8**0.5, 35 - 60 / 8**0.5, 60 / 2**0.5, 60 / 2**0.5], 1),
        ("0.0", [10, 30, 50, 10], 0),
    ],
)
def test_rotated_boxes_of_cvat(rotation: str, box: list[float], counted: int, tmp_path: Path) -> None:
    """A box of 50 x 10 around (35, 35)."""
    shape = f'<box label="bolt" rotation="{rotation}" xtl="10" ytl="30" xbr="60" ybr="40"/>'
    coco, _, lost = read_cvat(cvat(tmp_path, f'<image name="a.jpg" width="96" height="72">{shape}</image>'))
    assert coco["annotations"][0]["bbox"] == pytest.approx(box)
    assert lost == ["1 rotations of boxes (their extents are read)"] * counted


def test_subsets_of_cvat(tmp_path: Path, boxwood: Boxwood) -> None:
    """Names that are in several subsets begin with the subset, as they do where the images lie in folders of subsets."""
    shape = '<box label="bolt" xtl="10" ytl="12" xbr="40" ybr="40"/>'
    rows = [f'<image name="a.jpg" subset="{subset}" width="96" height="72">{shape}</image>' for subset in ("Train", "Test")]
    path = cvat(tmp_path, "".join(rows))
    assert [row["file_name"] for row in read_cvat(path).coco["images"]] == ["Train/a.jpg", "Test/a.jpg"]
    assert [row["file_name"] for row in read_cvat(path, "Test").coco["images"]] == ["a.jpg"]
    with pytest.raises(UserError, match="has no subset 'Val'; its subsets are Test, Train"):
        read_cvat(path, "Val")
    done = boxwood("data", "convert", path, tmp_path / "test.json", "--split", "Test")
    assert done.status == 0 and "1 images, 1 instances" in done.out
    cvat(tmp_path, rows[0])
    assert read_cvat(path).pictures is None and read_cvat(path).coco["images"][0]["file_name"] == "a.jpg"
    (tmp_path / "images" / "Train").mkdir(parents=True)
    Image.new("RGB", (96, 72)).save(tmp_path / "images" / "Train" / "a.jpg")
    coco, pictures, _ = read_cvat(path)
    assert pictures is not None and (pictures / coco["images"][0]["file_name"]).is_file()


def test_what_cvat_has_beyond_shapes_is_counted(tmp_path: Path) -> None:
    shapes = (
        '<box label="bolt" occluded="1" group_id="3" xtl="1" ytl="2" xbr="4" ybr="4"><attribute name="colour">red</attribute></box>'
        '<ellipse label="bolt" cx="4" cy="4" rx="1" ry="2"/><anything/>'
    )
    _, _, lost = read_cvat(cvat(tmp_path, f'<image name="a.jpg" width="96" height="72">{shapes}</image><track id="0"/>'))
    assert lost == [
        "1 elements <track>",
        "1 attributes of shapes",
        "1 marks of occluded shapes",
        "1 groups of shapes",
        "1 shapes of the kind ellipse",
        "1 shapes of the kind anything",
    ]
    (tmp_path / "annotations.xml").write_text("<annotation/>")
    with pytest.raises(UserError, match="is VOC's XML of one image; name the folder"):
        read_cvat(tmp_path / "annotations.xml")


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
        ({"imageHeight": "50"}, "'imageHeight' and 'imageWidth' must be whole numbers"),
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
        (TABLE.replace("/m/0jbk", ""), "boxes.csv:2: must have an ImageID and a LabelName"),
        (TABLE.replace("0.6,0", "0.6,0,,,,,,,"), "boxes.csv:2: has more values than columns"),
        (TABLE.replace("xclick", "x" * 200_000), "cannot be read .field larger than field limit"),
    ],
)
def test_a_wrong_table(table: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        read_open_images(*open_images(tmp_path, table))


def test_what_open_images_has_beyond_boxes_is_counted(tmp_path: Path) -> None:
    table, images, _ = open_images(tmp_path, TABLE.replace("0.6,0,0,0", "0.6,1,-1,0"))
    (images / "bb.jpg").rename(images / "bb.jfif")
    Image.new("RGB", (20, 10)).save(images / "aa.png")
    (images / "._aa.jpg").write_bytes(b"\0\5\26\7")
    (images / "cc.heic").write_bytes(b"")
    coco, _, lost = read_open_images(table, images)
    assert [row["file_name"] for row in coco["images"]] == ["aa.jpg", "bb.jfif"]
    assert lost == [
        "1 pictures of a format that is not read (.heic)",
        "1 images that differ from others in their ending alone",
        "1 values of the column IsOccluded",
        f"1 boxes of images that are not in {images}",
        f"1 images of the table are not in {images}",
    ]


# ----------------------------------------------------------------------------------------------------------- TensorFlow

TENSORFLOW = """filename,width,height,class,xmin,ymin,xmax,ymax
a.jpg,200,100,nut,12,30,80.5,95
a.jpg,200,100,fig,90,10,20,40
sub\\b.png,200,100,nut,0,0,200,100
"""


def tensorflow_csv(folder: Path, table: str = TENSORFLOW) -> Path:
    path = folder / "_annotations.csv"
    path.write_text(table, encoding="utf-8")
    return path


def test_tensorflow_csv(tmp_path: Path, boxwood: Boxwood) -> None:
    """Beside pictures as Roboflow writes it, or with their folder; told apart from Open Images' by its columns."""
    path = tensorflow_csv(tmp_path)
    coco, pictures, lost = read_tensorflow_csv(path)
    assert [(row["file_name"], row["width"], row["height"]) for row in coco["images"]] == [
        ("a.jpg", 200, 100),
        ("sub/b.png", 200, 100),
    ]
    assert instances(coco) == [
        (1, "nut", [12, 30, 68.5, 65], 0),
        (1, "fig", [20, 10, 70, 30], 0),
        (2, "nut", [0, 0, 200, 100], 0),
    ]
    assert pictures is None and not lost
    assert_sound(coco, tmp_path)
    for name in ("a.jpg", "empty.jpg"):
        Image.new("RGB", (200, 100)).save(tmp_path / name)
    (tmp_path / "c.heic").write_bytes(b"")
    done = boxwood("data", "convert", path, tmp_path / "a.json")
    assert done.status == 0 and "2 images, 3 instances" in done.out and f"the pictures are in {tmp_path}" in done.out
    assert "1 pictures without a line, 1 pictures of a format that is not read (.heic)" in done.out
    assert format_of(path) == "tensorflow_csv"
    assert len(read_annotations(path, tmp_path).ids) == 3


def test_lines_of_tensorflow_csv_without_boxes_or_sizes(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "a.jpg")
    table = TENSORFLOW.replace("a.jpg,200,100", "a.jpg,0,0").replace("\n", ",0.5\n").replace("ymax,0.5", "ymax,confidence")
    coco, _, lost = read_tensorflow_csv(tensorflow_csv(tmp_path, table + "c.jpg,30,20,,,,,,\n"))
    assert [(row["file_name"], row["width"]) for row in coco["images"]] == [("a.jpg", 200), ("sub/b.png", 200), ("c.jpg", 30)]
    assert len(coco["annotations"]) == 3 and lost == ["3 values of the column confidence"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("12,30", "left,30", ":2: 'xmin' must be a number, got 'left'"),
        ("12,30", "nan,30", ":2: 'xmin' must be a number, got 'nan'"),
        ("a.jpg,200,100,fig", "a.jpg,201,100,fig", ":3: a.jpg has another size than in a line before"),
        ("a.jpg,200,100,nut", "a.jpg,0,100,nut", "a.jpg is not there to be asked"),
        ("a.jpg,200,100,nut", "a.jpg,-1,100,nut", ":2: an image cannot have -1 x 100 pixels"),
        ("a.jpg,200,100,nut", ",200,100,nut", ":2: has no filename"),
        ("nut,12", ",12", ":2: has no class"),
        (",ymin", ",top", "has no column ymin; name a table of filename"),
        ("a.jpg,200,100,nut", '"a.jpg,200,100,nut', ":4: a value goes over several lines; close its quotes"),
        ("a.jpg,200,100,nut", f"{'a' * 300}.jpg,0,0,nut", "a.jpg is not there to be asked"),
        (TENSORFLOW.partition("\n")[2], "", "has no lines of images"),
    ],
)
def test_a_wrong_line_of_tensorflow_csv(old: str, new: str, words: str, tmp_path: Path) -> None:
    assert old in TENSORFLOW
    with pytest.raises(UserError) as error:
        read_tensorflow_csv(tensorflow_csv(tmp_path, TENSORFLOW.replace(old, new)))
    assert "_annotations.csv" in str(error.value) and words in str(error.value) and "\n" not in str(error.value)


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


# ------------------------------------------------------------------------------------------------------ labels of detectors


def origins(coco: dict[str, Any]) -> list[tuple[Any, Any]]:
    return [(row.get("score"), row.get("source")) for row in coco["annotations"]]


def test_cvat_says_what_was_labelled_automatically(tmp_path: Path) -> None:
    boxes = "".join(f'<box label="a" xtl="1" ytl="2" xbr="3" ybr="4" {mark}/>' for mark in ("", 'source="manual"', 'source="auto"'))
    (tmp_path / "a.xml").write_text(f'<annotations><image name="a.jpg" width="9" height="9">{boxes}</image></annotations>')
    coco, _, lost = read_cvat(tmp_path / "a.xml")
    assert origins(coco) == [(None, None), (None, None), (None, "auto")] and not lost


def test_tables_of_boxes_have_scores_and_sources(tmp_path: Path) -> None:
    head = "filename,width,height,class,xmin,ymin,xmax,ymax,score,source\n"
    rows = "a.jpg,9,9,a,1,2,3,4,0.5,auto\na.jpg,9,9,a,1,2,3,4,,\n"
    (tmp_path / "a.csv").write_text(head + rows)
    coco, _, lost = read_tensorflow_csv(tmp_path / "a.csv")
    assert origins(coco) == [(0.5, "auto"), (None, None)] and not lost
    (tmp_path / "a.csv").write_text(head + "a.jpg,9,9,a,1,2,3,4,high,auto\n")
    with pytest.raises(UserError, match=r"a\.csv:2: 'score' must be a number, got 'high'"):
        read_tensorflow_csv(tmp_path / "a.csv")


def test_open_images_says_who_drew_a_box(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n"
    (tmp_path / "a.csv").write_text(head + "a,xclick,nut,1,0,1,0,1\na,activemil,nut,0.25,0,1,0,1\n")
    coco, _, lost = read_open_images(tmp_path / "a.csv", tmp_path)
    assert origins(coco) == [(None, "xclick"), (0.25, "activemil")] and not lost
    (tmp_path / "a.csv").write_text(head + "a,xclick,nut,sure,0,1,0,1\n")
    with pytest.raises(UserError, match=r"a\.csv:2: Confidence must be a number, got 'sure'"):
        read_open_images(tmp_path / "a.csv", tmp_path)


def test_scores_of_shapes_and_regions(tmp_path: Path) -> None:
    shape = {"label": "a", "shape_type": "rectangle", "points": [[1, 2], [3, 4]]}
    shapes = [shape, {**shape, "score": 0.5}, {**shape, "score": None}, {**shape, "score": "high", "source": "auto"}]
    (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.jpg", "imageHeight": 9, "imageWidth": 9}))
    assert origins(read_labelme(tmp_path)[0]) == [(None, None), (0.5, None), (None, None), (None, "auto")]

    value = {"x": 0, "y": 0, "width": 50, "height": 50, "rectanglelabels": ["a"]}
    region = {"type": "rectanglelabels", "original_width": 9, "original_height": 9, "value": value}
    results = [region, {**region, "score": 0.25, "origin": "prediction"}, {**region, "score": 0.5, "origin": "prediction-changed"}]
    task = {"data": {"image": "a.jpg"}, "annotations": [{"result": results}]}
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    assert origins(read_label_studio(tmp_path / "tasks.json")[0]) == [(None, None), (0.25, "auto"), (0.5, None)]
