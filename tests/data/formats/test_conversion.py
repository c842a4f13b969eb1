"""VOC's and YOLO's files: reading, writing and reading again, and errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from boxwood.data import CocoConfig
from boxwood.data.formats.voc import read_voc, write_voc
from boxwood.data.formats.yolo import read_yolo, write_yolo
from boxwood.errors import UserError
from tests.conftest import Boxwood

VOC_XML = """<annotation>
  <folder>VOC2007</folder><filename>000005.jpg</filename>
  <size><width>500</width><height>375</height><depth>3</depth></size>
  <object><name>chair</name><difficult>0</difficult><bndbox><xmin>263</xmin><ymin>211</ymin><xmax>324</xmax><ymax>339</ymax></bndbox></object>
  <object><name>chair</name><difficult>1</difficult>
    <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>500</xmax><ymax>375</ymax></bndbox>
    <part><name>leg</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>
  </object>
</annotation>
"""


def voc_folder(folder: Path, xml: str = VOC_XML) -> Path:
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "Annotations" / "000005.xml").write_text(xml)
    (folder / "ImageSets" / "Main" / "val.txt").write_text("000005\r\n")
    return folder


def test_read_voc(tmp_path: Path) -> None:
    coco = read_voc(voc_folder(tmp_path), "val").coco
    assert coco["images"] == [{"id": 5, "file_name": "000005.jpg", "height": 375, "width": 500}]
    assert [(row["category_id"], row["bbox"], row["ignore"]) for row in coco["annotations"]] == [
        (9, [262, 210, 62, 129], 0),
        (9, [0, 0, 500, 375], 1),
    ]
    assert len(coco["categories"]) == 20 and coco["categories"][8] == {"id": 9, "name": "chair"}


def test_splits_of_voc_have_the_same_classes(tmp_path: Path) -> None:
    """Also with classes that are not VOC's, some of which a split lacks; lists of single classes have a second column."""
    voc_folder(tmp_path, VOC_XML.replace("chair", "pistachio"))
    (tmp_path / "Annotations" / "more 1.xml").write_text(VOC_XML.replace("chair", "date"))
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("more 1\n")
    (tmp_path / "ImageSets" / "Main" / "date_val.txt").write_text("000005 -1\nmore 1  1\n")
    train, val, of_date = (read_voc(tmp_path, split).coco for split in ("train", "val", "date_val"))
    assert [row["name"] for row in train["categories"]] == ["date", "pistachio"]
    assert train["categories"] == val["categories"] == of_date["categories"]
    assert [len(coco["images"]) for coco in (train, val, of_date)] == [1, 1, 2]


def test_difficult_objects_are_crowd_regions_in_training(tmp_path: Path) -> None:
    voc_folder(tmp_path)
    (tmp_path / "JPEGImages").mkdir()
    Image.new("RGB", (500, 375)).save(tmp_path / "JPEGImages" / "000005.jpg")
    (tmp_path / "val.json").write_text(json.dumps(read_voc(tmp_path).coco))
    dataset = CocoConfig(annotations=str(tmp_path / "val.json"), images=str(tmp_path / "JPEGImages")).open()
    assert dataset[0].crowd.tolist() == [False, True]
    assert [row.get("ignore", 0) for row in dataset.to_coco()["annotations"]] == [0, 1]


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation>", "is not XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "defines entities"),
        ("<annotation>\0</annotation>", "save it as UTF-8"),
        ("<annotation/>", "JPEGImages/000005.jpg is not there to be asked"),
        (VOC_XML.replace("500</width>", "-500</width>"), "size: cannot be -500 x 375 pixels"),
        (VOC_XML.replace("500</width>", "wide</width>"), "size: 'size/width' must be a number, got 'wide'"),
        (VOC_XML.replace("<xmin>263</xmin>", "<xmin>left</xmin>"), "object 0: 'bndbox/xmin' must be a number, got 'left'"),
        (VOC_XML.replace("<xmin>263</xmin>", "<xmin>nan</xmin>"), "must be a number, got 'nan'"),
        (VOC_XML.replace("<name>chair</name>", "<name> </name>", 1), "object 0: has no name"),
    ],
)
def test_a_wrong_file_of_voc_is_named(xml: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_voc(voc_folder(tmp_path, xml))
    assert "000005.xml" in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the splits here are val"):
        read_voc(voc_folder(tmp_path), "train")
    for line, name in (("000006", r"000006\.xml"), ("0" * 300, r"00\.xml"), ("a\0b", r"a\\0b\.xml")):
        (tmp_path / "ImageSets" / "Main" / "more.txt").write_text(f"{line}\n")
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            read_voc(tmp_path, "more")


def yolo_folder(folder: Path, lines: str = "1 0.5 0.25 0.5 0.1\n\n0 0.1 0.1 0.9 0.1 0.9 0.9\n") -> Path:
    for part in ("images", "labels"):
        (folder / part / "train").mkdir(parents=True)
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (200, 100)).save(folder / "images" / "train" / name)
    (folder / "labels" / "train" / "a.txt").write_text(lines)
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/train\nnc: 2\nnames: [nut, 'a fig']\n")
    return folder / "data.yaml"


def test_read_yolo(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    coco, folder, _ = read_yolo(yolo_folder(tmp_path))
    assert "1 of 2 images have no text file" in caplog.text
    assert folder == tmp_path / "images" / "train"
    assert [(row["id"], row["file_name"], row["height"], row["width"]) for row in coco["images"]] == [
        (1, "a.jpg", 100, 200),
        (2, "b.png", 100, 200),
    ]
    assert coco["categories"] == [{"id": 1, "name": "nut"}, {"id": 2, "name": "a fig"}]
    first, second = coco["annotations"]
    assert (first["category_id"], first["image_id"], first["bbox"]) == (2, 1, pytest.approx([50, 20, 100, 10]))
    assert second["bbox"] == pytest.approx([20, 10, 160, 80])
    assert second["segmentation"] == [pytest.approx([20, 10, 180, 10, 180, 90])]


def test_splits_of_yolo(tmp_path: Path) -> None:
    """A list of images, and several folders, whose common parent is the folder of the file names."""
    path = yolo_folder(tmp_path)
    rest = "names: [nut, 'a fig']\n"
    (tmp_path / "train.txt").write_text("./images/train/a.jpg\r\n")
    path.write_text("train: train.txt\n" + rest)
    coco, folder, _ = read_yolo(path)
    assert (folder / coco["images"][0]["file_name"]).is_file() and len(coco["images"]) == 1 and len(coco["annotations"]) == 2
    for part in ("images", "labels"):
        (tmp_path / part / "more").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "images" / "more" / "a.jpg")
    (tmp_path / "labels" / "more" / "a.txt").write_text("0 0.5 0.5 1 1\n")
    path.write_text("train: [images/more, images/train]\n" + rest)
    coco, folder, _ = read_yolo(path)
    assert folder == tmp_path / "images"
    assert [row["file_name"] for row in coco["images"]] == ["more/a.jpg", "train/a.jpg", "train/b.png"]
    assert [row["image_id"] for row in coco["annotations"]] == [1, 2, 2]
    path.write_text("train: none.txt\n" + rest)
    with pytest.raises(UserError, match=r"none\.txt, which cannot be read"):
        read_yolo(path)


def test_keypoints_of_yolo_are_no_outline(tmp_path: Path) -> None:
    """Four keypoints of three numbers are an even count of numbers, which could be read as an outline."""
    path = yolo_folder(tmp_path, "1 0.5 0.25 0.5 0.1 " + "0.5 0.5 2 " * 4 + "\n")
    path.write_text(path.read_text() + "kpt_shape: [4, 3]\n")
    (annotation,) = read_yolo(path)[0]["annotations"]
    assert annotation["bbox"] == pytest.approx([50, 20, 100, 10]) and "segmentation" not in annotation
    assert annotation["keypoints"] == [100, 50, 2] * 4
    path.write_text(path.read_text().replace("[4, 3]", "[5, 3]"))
    with pytest.raises(UserError, match=r"a\.txt:1: must have a box and 15 numbers of keypoints"):
        read_yolo(path)
    path.write_text(path.read_text().replace("[5, 3]", "many"))
    with pytest.raises(UserError, match="'kpt_shape' must be"):
        read_yolo(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("nut 1 2 3 4", "must be a class and numbers"),
        ("2 0.5 0.5 0.1 0.1", "class 2 is none of the 2 of data.yaml (0 to 1)"),
        ("1 0.5 0.5 0.1", "must have 4 shares of the image"),
        ("1 0.5 0.5 0.1 0.1 0.2", "must have 4 shares of the image"),
        ("1 50 50 10 10", "must have 4 shares of the image"),
        ("1 nan 0.5 0.1 0.1", "must have 4 shares of the image"),
    ],
)
def test_a_wrong_line_of_yolo_is_named(lines: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_yolo(yolo_folder(tmp_path, "0 0.5 0.5 0.1 0.1\n" + lines))
    assert "a.txt:2: " in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [a]", "'train' must name a folder of images; its splits are none"),
        ("train: images/none\nnames: [a]", "which is no folder"),
        ("train: images/train", "'names' must be a list"),
        ("train: images/train\nnames: {0: a, 2: b}", "'names' must be a list"),
        ("train: labels/train\nnames: [a]", "has no images"),
    ],
)
def test_a_wrong_data_yaml(yaml: str, message: str, tmp_path: Path) -> None:
    path = yolo_folder(tmp_path)
    path.write_text(yaml)
    with pytest.raises(UserError, match=message) as error:
        read_yolo(path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N"), include_characters=" -_'&<"), min_size=1, max_size=12).map(
    str.strip
)


@st.composite
def data_sets(draw: st.DrawFn) -> dict[str, Any]:
    """COCO data sets with Unicode names, spaces, gaps between ids, empty images, difficult objects, and boxes at the border."""
    classes = draw(st.lists(NAMES.filter(bool), min_size=1, max_size=4, unique=True))
    ids = draw(st.lists(st.integers(1, 90), min_size=len(classes), max_size=len(classes), unique=True))
    stems = draw(st.lists(st.from_regex(r"[a-zé][a-z0-9 é]{0,5}[a-z0-9]", fullmatch=True), min_size=1, max_size=4, unique=True))
    images, annotations = [], []
    for image_id, stem in enumerate(stems, start=draw(st.integers(1, 5))):
        height, width = draw(st.integers(8, 60)), draw(st.integers(8, 60))
        images.append({"id": image_id, "file_name": f"{stem}.png", "height": height, "width": width})
        for _ in range(draw(st.integers(0, 3))):
            x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
            w, h = draw(st.integers(1, width - x)), draw(st.integers(1, height - y))
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image_id, "category_id": draw(st.sampled_from(ids)),
                    "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "ignore": draw(st.integers(0, 1)),
                }
            )  # fmt: skip
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in zip(ids, classes, strict=True)],
    }


def facts(coco: dict[str, Any], difficult: bool) -> list[Any]:
    """The contents that both formats hold: file name, size and instances of each image."""
    names = {row["id"]: row["name"] for row in coco["categories"]}
    of_image: dict[int, list[Any]] = {row["id"]: [] for row in coco["images"]}
    for row in coco["annotations"]:
        instance = (names[row["category_id"]], *(round(number, 6) for number in row["bbox"]))
        of_image[row["image_id"]].append((*instance, row["ignore"]) if difficult else instance)
    images = sorted(coco["images"], key=lambda row: row["file_name"])
    return [(row["file_name"], row["height"], row["width"], sorted(of_image[row["id"]])) for row in images]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(coco=data_sets())
def test_round_trip_through_voc_and_yolo(coco: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("set")
    lost = write_voc(coco, folder / "voc", "train")
    assert facts(read_voc(folder / "voc", "train").coco, True) == facts(coco, True)
    unused = len({row["id"] for row in coco["categories"]} - {row["category_id"] for row in coco["annotations"]})
    assert lost == [*[f"{unused} classes without instances"] * bool(unused), "the ids of images and classes"]
    for row in coco["images"]:
        path = folder / "yolo" / "images" / "train" / row["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (row["width"], row["height"])).save(path)
    write_yolo(coco, folder / "yolo", "train")
    back, _, _ = read_yolo(folder / "yolo" / "data.yaml", "train")
    assert facts(back, False) == facts(coco, False)
    in_order = [row["name"] for row in sorted(coco["categories"], key=lambda row: row["id"])]
    assert [row["name"] for row in back["categories"]] == in_order


def test_writers_report_what_is_lost(tmp_path: Path, shapes: Path) -> None:
    coco = json.loads((shapes / "train.json").read_text())
    coco["annotations"][0]["iscrowd"] = 1
    count = len(coco["annotations"])
    assert f"{count} masks" in write_voc(coco, tmp_path / "voc", "train")
    lost = write_yolo(coco, tmp_path / "yolo", "train")
    assert f"{count - 1} masks" in lost and "1 crowd regions (left out)" in lost  # keypoints are written


def test_splits_of_one_yolo_folder_have_the_same_classes(tmp_path: Path, shapes: Path) -> None:
    train, val = (json.loads((shapes / f"{part}.json").read_text()) for part in ("train", "val"))
    write_yolo(train, tmp_path, "train")
    write_yolo(val, tmp_path, "val")
    text = (tmp_path / "data.yaml").read_text()
    assert "train: " in text and "val: " in text
    val["categories"][0]["name"] = "other"
    with pytest.raises(UserError, match="other classes"):
        write_yolo(val, tmp_path, "val")


def test_file_names_that_collide_or_leave_the_folder_are_refused(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": name, "height": 5, "width": 5} for i, name in ((1, "a.jpg"), (2, "a.png"))]
    coco: dict[str, Any] = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "nut"}]}
    for write in (write_voc, write_yolo):
        with pytest.raises(UserError, match="rename one"):
            write(coco, tmp_path, "train")
    coco["images"] = [{"id": 1, "file_name": "../a.jpg", "height": 5, "width": 5}]
    with pytest.raises(UserError, match="outside its folder"):
        write_yolo(coco, tmp_path, "train")


def test_the_command(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    done = boxwood("data", "convert", shapes / "train.json", tmp_path / "voc", "--to", "voc", "--split", "train")
    assert done.status == 0 and "not carried: " in done.out, done.err
    back = boxwood("data", "convert", tmp_path / "voc", tmp_path / "back.json", "--split", "train")
    assert back.status == 0 and f"the pictures are in {tmp_path / 'voc' / 'JPEGImages'}" in back.out
    counts = [len(json.loads(path.read_text())["annotations"]) for path in (shapes / "train.json", tmp_path / "back.json")]
    assert counts[0] == counts[1] > 0
    yaml = yolo_folder(tmp_path / "yolo")
    assert boxwood("data", "convert", yaml, tmp_path / "yolo.json").status == 0
    (tmp_path / "nothing").mkdir()
    for words, message in (
        ((shapes / "train.json", tmp_path / "x"), "with --to"),
        ((tmp_path / "nothing", tmp_path / "x.json"), "holds no annotations that are known"),
        ((shapes / "train.json", tmp_path / "x.json", "--to", "voc"), "voc is written to a folder"),
        ((shapes / "train.json", tmp_path / "x", "--to", "coco"), "written as .json"),
    ):
        wrong = boxwood("data", "convert", *words)
        assert wrong.status == 2 and message in wrong.err and not (tmp_path / "x").exists() and not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda coco: coco["annotations"][0].update(image_id=99), "annotations of images that the file does not have"),
        (lambda coco: coco["annotations"][0].update(category_id=99), "annotations of categories that the file does not have"),
        (lambda coco: coco["images"][0].update(width=0), "images without a positive size"),
        (lambda coco: coco["images"][0].update(file_name="a\0b.png"), "images row 0 (id 1): 'file_name' must be text"),
        (lambda coco: coco["categories"][0].update(name="a\ud800"), "categories row 0 (id 7): 'name' must be text"),
    ],
)
@pytest.mark.parametrize("source", ["coco", "lvis"])
@pytest.mark.parametrize("into", ["coco", "voc", "yolo"])
def test_invalid_rows_are_named(into: str, source: str, change: Any, message: str, tmp_path: Path, boxwood: Boxwood) -> None:
    box = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 10}],
        "annotations": [box],
        "categories": [{"id": 7, "name": "nut"}],
    }
    path, target = tmp_path / "a.json", tmp_path / ("out.json" if into == "coco" else "out")
    arguments = ("data", "convert", path, target, "--from", source, "--to", into)
    path.write_text(json.dumps({**coco, "annotations": [box, {**box, "id": 2, "bbox": [1, 2, float("nan"), 4]}]}))
    done = boxwood(*arguments)
    assert done.status == 0 and "1 boxes with nan or infinity (left out)" in done.out
    assert "nan" not in "".join(file.read_text() for file in [target, *target.rglob("*")] if file.is_file()).lower()
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    change(coco)
    path.write_text(json.dumps(coco))
    done = boxwood(*arguments)
    assert (done.status, done.err.count("\n")) == (2, 1) and message in done.err and not target.exists()


def test_keys_that_the_output_lacks_are_counted(tmp_path: Path, boxwood: Boxwood) -> None:
    """Of a COCO file that other programs wrote: sections, and keys of its rows."""
    coco = {
        "info": {"year": 2017},
        "licenses": [],
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 10, "license": 3, "date_captured": ""}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 7,
                "bbox": [1, 2, 3, 4],
                "area": 12,
                "iscrowd": 0,
                "attributes": {"occluded": 0},
            },
            {"id": 2, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12, "segmentation": [], "ignore": 0},
        ],
        "categories": [{"id": 7, "name": "nut", "supercategory": "fruit"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(coco))
    done = boxwood("data", "convert", tmp_path / "a.json", tmp_path / "b.json")
    assert "not carried: 1 section 'info', 1 'license' of images, 1 'attributes' of annotations\n" in done.out
    assert json.loads((tmp_path / "b.json").read_text())["categories"] == coco["categories"]
    for into in ("voc", "yolo"):
        done = boxwood("data", "convert", tmp_path / "a.json", tmp_path / into, "--to", into)
        assert "1 'attributes' of annotations, 1 'supercategory' of categories, " in done.out
