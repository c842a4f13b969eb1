"""VOC's XML as tools write it: beside the pictures, with sizes of 0, wrong names, polygons, and folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from boxwood.data.annotations import format_of
from boxwood.data.formats.voc import CLASSES, read_voc, write_voc
from boxwood.errors import UserError
from tests.conftest import Boxwood

BOX = "<bndbox><xmin>11</xmin><ymin>13</ymin><xmax>40</xmax><ymax>40</ymax></bndbox>"
"""[10, 12, 30, 28] in COCO's words."""


def thing(name: str = "bolt", box: str = BOX, more: str = "<difficult>0</difficult>") -> str:
    return f"<object><name>{name}</name>{more}{box}</object>"


def xml(*objects: str, filename: str = "a.jpg", size: tuple[int, int] = (96, 72), more: str = "") -> str:
    """An XML file of an image of ``size`` (width, height)."""
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><folder>x</folder><filename>{filename}</filename>{sides}{more}{''.join(objects)}</annotation>"


def write(folder: Path, files: dict[str, str | None]) -> Path:
    """Write files of text, and pictures of 96 x 72 pixels where there is no text."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            Image.new("RGB", (96, 72)).save(folder / name)
        else:
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def names(coco: dict[str, Any]) -> list[str]:
    return [row["file_name"] for row in coco["images"]]


def boxes(coco: dict[str, Any]) -> list[list[float]]:
    return [row["bbox"] for row in coco["annotations"]]


# -------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    ("files", "pictures"),
    [
        ({"Annotations/a.xml": xml(thing()), "JPEGImages/a.jpg": None}, "JPEGImages"),
        ({"annotations/a.xml": xml(thing()), "images/a.jpg": None}, "images"),
        ({"annotations/xmls/a.xml": xml(thing()), "images/xmls/a.jpg": None}, "images"),
        ({"a.xml": xml(thing()), "a.jpg": None}, "."),  # LabelImg
        ({"Annotations/a.xml": xml(thing()), "a.jpg": None}, "."),
        ({"Annotations/a.xml": xml(thing()), "Annotations/a.jpg": None}, "Annotations"),
        ({"sub/a.xml": xml(thing()), "sub/a.jpg": None}, "."),
    ],
)
def test_layouts(files: dict[str, str | None], pictures: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "v", files)
    assert format_of(folder) == "voc"
    coco, place, lost = read_voc(folder)
    assert place == folder / pictures and (place / names(coco)[0]).is_file()
    assert boxes(coco) == [[10, 12, 30, 28]] and not lost


def test_the_folder_of_xml_may_be_named_itself(tmp_path: Path) -> None:
    write(tmp_path, {"Annotations/a.xml": xml(thing()), "JPEGImages/a.jpg": None})
    assert read_voc(tmp_path / "Annotations").pictures == tmp_path / "JPEGImages"


def test_splits_of_roboflow(tmp_path: Path, boxwood: Boxwood) -> None:
    """XML and pictures together in train, valid and test, which have the classes of all."""
    files = {f"{part}/a.xml": xml(thing(part)) for part in ("train", "valid")}
    folder = write(tmp_path / "v", {**files, "train/a.jpg": None, "valid/a.jpg": None})
    coco, place, _ = read_voc(folder, "valid")
    assert place == folder / "valid" and names(coco) == ["a.jpg"]
    assert [row["name"] for row in coco["categories"]] == ["train", "valid"]
    assert names(read_voc(folder).coco) == ["train/a.jpg", "valid/a.jpg"]
    with pytest.raises(UserError, match="the splits here are train, valid"):
        read_voc(folder, "test")
    done = boxwood("data", "convert", folder, tmp_path / "valid.json", "--split", "valid")
    assert done.status == 0 and "1 images, 1 instances" in done.out
    write(tmp_path / "w", {f"annotations/{name}": text for name, text in files.items()})
    assert names(read_voc(tmp_path / "w", "valid").coco) == ["valid/a.jpg"]


def test_files_of_a_mac_are_passed_over(tmp_path: Path) -> None:
    files: dict[str, str | None] = {"Annotations/a.xml": xml(thing()), "JPEGImages/a.jpg": None, "__MACOSX/Annotations/b.xml": "\0"}
    folder = write(tmp_path, {**files, "Annotations/._a.xml": "\0\5\26\7", "JPEGImages/._a.jpg": "\0\5\26\7"})
    coco, _, lost = read_voc(folder)
    assert names(coco) == ["a.jpg"] and not lost


def test_a_folder_of_other_files_is_named(tmp_path: Path) -> None:
    yolo = {"yolo/data.yaml": "names: [bolt]", "yolo/train/labels/a.txt": ""}
    roboflow = {"roboflow/train/_annotations.coco.json": "{}", "roboflow/seen/predictions.json": "[]"}
    write(tmp_path, {"coco/annotations/instances_val.json": "{}", "cvat/annotations.xml": "<annotations/>", **yolo, **roboflow})
    for place in ("yolo/data.yaml", "roboflow/train/_annotations.coco.json"):
        with pytest.raises(UserError, match=f"perhaps .*{place}$"):
            format_of(tmp_path / place.partition("/")[0])
    with pytest.raises(UserError, match=r"perhaps .*instances_val\.json"):
        format_of(tmp_path / "coco")
    with pytest.raises(UserError, match=r"perhaps .*annotations\.xml"):
        format_of(tmp_path / "cvat")
    with pytest.raises(UserError, match="is CVAT's XML and not VOC's"):
        read_voc(tmp_path / "cvat")


def test_pictures_without_xml_and_of_other_formats_are_counted(tmp_path: Path) -> None:
    files = {"a.xml": xml(thing(), filename="a.jfif"), "a.jpg": None, "b.jpg": None, "c.heic": "", "d.wmv": ""}
    folder = write(tmp_path, files)
    (folder / "a.jpg").rename(folder / "a.jfif")
    coco, _, lost = read_voc(folder)
    assert names(coco) == ["a.jfif"]
    assert lost == [
        "1 pictures without an XML file",
        "1 pictures of a format that is not read (.heic)",
        "1 pictures of a format that is not read (.wmv)",
    ]


# ------------------------------------------------------------------------------------------------------ names and sizes


@pytest.mark.parametrize(
    ("filename", "picture", "counted"),
    [
        (r"C:\pics\IMG_0001.jpg", "a.jpg", 1),
        ("other.jpg", "a.png", 1),
        (r"C:\pics\a.jpg", "a.jpg", 0),
        ("a", "a.jpg", 0),  # without an ending
        ("a.jpg", "a.png", 1),  # as the picture was called before it was converted
        ("", "a.png", 0),
        ("A.JPG", "a.jpg", 1),
        ("p.jpg", "p.jpg", 0),  # the XML alone is called otherwise
    ],
)
def test_the_picture_with_the_name_of_the_xml_is_taken(filename: str, picture: str, counted: int, tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.xml": xml(thing(), filename=filename), picture: None, "z/other.jpg": None})
    coco, _, lost = read_voc(folder)
    assert names(coco) == [picture]
    what = "1 names in <filename> of other pictures than that of the XML file"
    assert lost == [what] * counted + ["1 pictures without an XML file"]


def test_names_without_pictures(tmp_path: Path) -> None:
    """Annotations may be read before their pictures are there."""
    for filename, expected in (("b.png", "b.png"), ("a.png", "a.png"), ("a", "a.jpg"), ("", "a.jpg"), (r"C:\x\b.png", "b.png")):
        write(tmp_path, {"Annotations/a.xml": xml(thing(), filename=filename)})
        assert names(read_voc(tmp_path).coco) == [expected]


def test_a_size_of_zero_is_the_pictures(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.xml": xml(thing(), size=(0, 0)), "b.xml": "<annotation/>", "a.jpg": None, "b.png": None})
    assert [(row["file_name"], row["width"], row["height"]) for row in read_voc(folder).coco["images"]] == [
        ("a.jpg", 96, 72),
        ("b.png", 96, 72),
    ]
    (folder / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"a\.xml: has no size of the image, and .*a\.jpg is not there"):
        read_voc(folder)
    (folder / "b.xml").unlink()
    with pytest.raises(UserError, match=r"cannot be 2\.5 x 2 pixels"):
        read_voc(write(folder, {"a.xml": xml(size=(2.5, 2))}))  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------------- objects


def test_corners_in_any_order(tmp_path: Path) -> None:
    """Drawn from the right; with the last pixel included, xmax = xmin - 1 has no width and is left so."""
    swapped = BOX.replace("11</xmin>", "40</xmin>").replace("40</xmax>", "11</xmax>")
    empty = BOX.replace("40</xmax>", "10</xmax>")
    coco = read_voc(write(tmp_path, {"a.xml": xml(thing(box=swapped), thing(box=empty))})).coco
    assert boxes(coco) == [[10, 12, 30, 28], [10, 12, 0, 28]]


@pytest.mark.parametrize(
    ("text", "difficult", "lost"),
    [
        ("1", 1, 0),
        ("True", 1, 0),
        ("true", 1, 0),
        ("yes", 1, 0),
        ("0", 0, 0),
        ("False", 0, 0),
        ("no", 0, 0),
        ("", 0, 0),
        ("?", 0, 1),
    ],
)
def test_difficult(text: str, difficult: int, lost: int, tmp_path: Path) -> None:
    reading = read_voc(write(tmp_path, {"a.xml": xml(thing(more=f"<difficult>{text}</difficult>"))}))
    assert [row["ignore"] for row in reading.coco["annotations"]] == [difficult]
    assert list(reading.lost) == ["1 marks <difficult> that say neither 0 nor 1"] * lost


ROBOFLOWS = "<polygon><x1>11</x1><y1>13</y1><x2>40</x2><y2>20</y2><x3>30</x3><y3>40</y3></polygon>"
POINTS = "<polygon><pt><x>11</x><y>13</y></pt><pt><x>40</x><y>20</y></pt><pt><x>30</x><y>40</y></pt></polygon>"


@pytest.mark.parametrize("polygon", [ROBOFLOWS, POINTS])
def test_polygons_are_masks(polygon: str, tmp_path: Path) -> None:
    """Pixels count from 1, and a point is the centre of one. The area is half the cross product of (29, 7) and (19, 27)."""
    alone = thing(box="", more=polygon)
    coco, _, lost = read_voc(write(tmp_path, {"a.xml": xml(thing(more=polygon), alone, thing())}))
    outline = [[10.5, 12.5, 39.5, 19.5, 29.5, 39.5]]
    assert [row.get("segmentation") for row in coco["annotations"]] == [outline, outline, None]
    assert boxes(coco) == [[10, 12, 30, 28], [10.5, 12.5, 29, 27], [10, 12, 30, 28]]
    assert [row["area"] for row in coco["annotations"]] == [(29 * 27 - 7 * 19) / 2] * 2 + [840]
    assert not lost


@pytest.mark.parametrize(
    ("old", "new"),
    [("<y3>40</y3>", ""), ("40</y3>", "nan</y3>"), ("x2>", "x9>"), ("<x3>30</x3><y3>40</y3>", ""), ("30", "3000000")],
)
def test_polygons_that_are_not_complete_are_counted(old: str, new: str, tmp_path: Path) -> None:
    coco, _, lost = read_voc(write(tmp_path, {"a.xml": xml(thing(more=ROBOFLOWS.replace(old, new)))}))
    assert boxes(coco) == [[10, 12, 30, 28]] and "segmentation" not in coco["annotations"][0]
    assert lost == ["1 polygons that are not complete"]


@pytest.mark.parametrize(
    ("objects", "more", "lost"),
    [
        (thing(box=BOX + BOX), "", "1 boxes of objects that have another"),
        (thing(box="<robndbox><cx>9</cx></robndbox>") + thing(), "", "1 elements <robndbox> of objects, 1 objects without a box"),
        (thing(more="<pose>Left</pose><truncated>1</truncated>"), "", "1 marks of truncated objects, 1 poses"),
        (thing(more="<occluded>1</occluded>"), "", "1 marks of occluded objects"),
        (thing(more="<part><name>leg</name></part><keypoints/>"), "", "1 parts of objects, 1 elements <keypoints> of objects"),
        (thing(more="<pose>Unspecified</pose><truncated>0</truncated>"), "<segmented>0</segmented>", ""),
        (thing(), "<segmented>1</segmented><source><image/></source>", "1 segmentations of images (<segmented>)"),
        (thing(), "<mask>x</mask>", "1 elements <mask> of images"),
    ],
)
def test_what_is_not_read_is_counted(objects: str, more: str, lost: str, tmp_path: Path) -> None:
    reading = read_voc(write(tmp_path, {"a.xml": xml(objects, more=more)}))
    assert boxes(reading.coco) == [[10, 12, 30, 28]]
    assert ", ".join(reading.lost) == lost


def test_classes_that_happen_to_be_vocs(tmp_path: Path) -> None:
    """The 20 classes are those of files that say that they are VOC's."""
    cat_and_dog = xml(thing("dog"), thing("cat"))
    for old, new, expected in (
        ("", "", ["cat", "dog"]),
        ("<folder>x</folder>", "<folder>VOC2012</folder>", list(CLASSES)),
        ("<folder>", "<source><database>The VOC2007 Database</database></source><folder>", list(CLASSES)),
    ):
        coco = read_voc(write(tmp_path, {"Annotations/a.xml": cat_and_dog.replace(old, new, 1)})).coco
        assert [row["name"] for row in coco["categories"]] == expected


# -------------------------------------------------------------------------------------------------------------- writing


def coco_of(file_names: list[str], classes: tuple[str, ...] = ("bolt",), box: list[float] | None = None) -> dict[str, Any]:
    rows = range(1, len(file_names) + 1)
    return {
        "images": [{"id": row, "file_name": name, "height": 72, "width": 96} for row, name in zip(rows, file_names, strict=True)],
        "annotations": [
            {"id": row, "image_id": row, "category_id": 1, "bbox": box or [row, 2, 30, 28], "area": 840, "iscrowd": 0}
            for row in rows
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, start=1)],
    }


def test_folders_of_names_are_written_and_read(tmp_path: Path, boxwood: Boxwood) -> None:
    file_names = ["a/001.jpg", "b/001.png", "b/c d/é.v2.jpg"]
    (tmp_path / "a.json").write_text(json.dumps(coco_of(file_names)))
    assert boxwood("data", "convert", tmp_path / "a.json", tmp_path / "voc", "--to", "voc", "--split", "train").status == 0
    for split in (None, "train"):
        coco = read_voc(tmp_path / "voc", split).coco
        assert names(coco) == file_names and [box[0] for box in boxes(coco)] == [1, 2, 3]
    assert (tmp_path / "voc" / "Annotations" / "b" / "001.xml").is_file()


@pytest.mark.parametrize(
    ("coco", "message"),
    [
        (coco_of(["a/1.jpg", "a/1.png"]), "two images are called a/1"),
        (coco_of(["../a.jpg"]), "outside its folder"),
        (coco_of(["/tmp/a.jpg"]), "outside its folder"),
        (coco_of([r"C:\a.jpg"]), "outside its folder"),
        (coco_of(["a\nb.jpg"]), "cannot hold the name"),
        (coco_of(["._a.jpg"]), "cannot hold the name"),
        (coco_of(["a\x01.jpg"]), "cannot hold the name"),
        (coco_of(["a.jpg"], ("nut", " nut")), "two classes are called 'nut'"),
        (coco_of(["a.jpg"], (" ",)), "a class has a name without a character"),
    ],
)
def test_what_cannot_be_written_is_refused(coco: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        write_voc(coco, tmp_path / "voc", "train")
    assert "\n" not in str(error.value) and not (tmp_path / "voc").exists()


def test_writing_counts_what_is_lost(tmp_path: Path) -> None:
    coco = coco_of(["a.jpg", "b"], ("a\x07nut ", "fig"))
    coco["annotations"][1]["bbox"] = [5, 5, -3, 4]
    lost = write_voc(coco, tmp_path, "train")
    assert lost == [
        "1 classes without instances",
        "1 names of classes as they were (XML has no spaces at their ends, and no control characters)",
        "1 boxes of negative width or height (left out)",
        "1 names of images without an ending (.jpg is read)",
        "the ids of images and classes",
    ]
    back = read_voc(tmp_path).coco
    assert names(back) == ["a.jpg", "b.jpg"] and [row["name"] for row in back["categories"]] == ["anut"]
