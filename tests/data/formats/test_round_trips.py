"""Round trips through the formats: on real data, on files from Windows, and against hotcoco's converters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image

from boxwood.data.coco_file import read_coco_file
from boxwood.data.formats.cityscapes import read_cityscapes
from boxwood.data.formats.cvat import read_cvat
from boxwood.data.formats.labelme import read_labelme
from boxwood.data.formats.lvis import read_lvis
from boxwood.data.formats.open_images import read_open_images
from boxwood.data.formats.voc import read_voc, write_voc
from boxwood.data.formats.yolo import read_yolo, write_yolo
from tests.conftest import Boxwood
from tests.data.formats.test_conversion import VOC_XML, data_sets, voc_folder, yolo_folder
from tests.data.formats.test_readers import CVAT, LABELME, open_images
from tests.facts import FACTS

REAL = ("bccd", "nuts", "gluetubes", "coco")

Facts = dict[str, Any]


def instances(coco: dict[str, Any], *, crowds: bool = True) -> Facts:
    """The size and the instances (class name and box) of each image, by file name."""
    names = {row["id"]: row["name"] for row in coco["categories"]}
    of_image: dict[int, list[Any]] = {row["id"]: [] for row in coco["images"]}
    for row in coco["annotations"]:
        if crowds or not row.get("iscrowd"):
            of_image[row["image_id"]].append((names[row["category_id"]], *row["bbox"]))
    for rows in of_image.values():
        rows.sort(key=lambda row: [row[0], *(round(number) for number in row[1:])])
    return {row["file_name"]: ((row["height"], row["width"]), of_image[row["id"]]) for row in coco["images"]}


def assert_same(actual: Facts, expected: Facts, pixels: float = 1e-6) -> None:
    """Sizes and classes are equal, boxes equal within ``pixels``."""
    assert actual.keys() == expected.keys()
    for name, (size, rows) in expected.items():
        assert actual[name][0] == size and [row[0] for row in actual[name][1]] == [row[0] for row in rows], name
        boxes, expected_boxes = (np.reshape([row[1:] for row in part], (-1, 4)) for part in (actual[name][1], rows))
        np.testing.assert_allclose(boxes, expected_boxes, atol=pixels, rtol=0, err_msg=name)


# ------------------------------------------------------------------------------------------------------------ real data


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest) -> tuple[dict[str, Any], Path]:
    """The content of a real annotation file, and the folder of its images."""
    folder = FACTS / request.param
    return json.loads((folder / "instances.json").read_text()), folder / "images"


def test_coco_round_trip(real: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """Reading keeps everything that training and evaluation use, exactly."""
    coco, _ = real
    (tmp_path / "a.json").write_text(json.dumps(coco))
    back = read_coco_file(tmp_path / "a.json").to_coco()
    for section in ("images", "annotations", "categories"):
        pairs = [
            (row, back_row) for row, back_row in zip(coco[section], back[section], strict=True) if back_row.keys() <= row.keys()
        ]
        assert [{key: row[key] for key in back_row} for row, back_row in pairs] == [back_row for _, back_row in pairs] != []
    used = {"segmentation", "keypoints", "iscrowd", "bbox", "category_id", "image_id", "id"}
    for row, back_row in zip(coco["annotations"], back["annotations"], strict=True):
        assert {key for key in used if row.get(key)} <= back_row.keys()


def test_real_data_through_voc(real: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """Boxes are unchanged; crowd regions become objects to ignore."""
    coco, _ = real
    write_voc(coco, tmp_path, "train")
    back = read_voc(tmp_path, "train").coco
    flat = {**coco, "images": [{**row, "file_name": Path(row["file_name"]).name} for row in coco["images"]]}
    assert_same(instances(back), instances(flat))
    assert sum(row["ignore"] for row in back["annotations"]) == sum(bool(row.get("iscrowd")) for row in coco["annotations"])


def test_real_data_through_yolo(real: tuple[dict[str, Any], Path], tmp_path: Path, boxwood: Boxwood) -> None:
    """Through the command, both ways; crowd regions are left out, and the command says so."""
    coco, images = real
    (tmp_path / "a.json").write_text(json.dumps(coco))
    done = boxwood("data", "convert", tmp_path / "a.json", tmp_path / "yolo", "--to", "yolo", "--split", "train")
    assert done.status == 0, done.err
    for row in coco["images"]:
        target = tmp_path / "yolo" / "images" / "train" / row["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(images / row["file_name"], target)
    assert boxwood("data", "convert", tmp_path / "yolo" / "data.yaml", tmp_path / "b.json", "--split", "train").status == 0
    back = json.loads((tmp_path / "b.json").read_text())
    off = "boxes that are not the extent of their mask" in done.out  # of nuts, up to 0.8 pixels
    assert_same(instances(back), instances(coco, crowds=False), 1 if off else 1e-6)
    assert [row["name"] for row in back["categories"]] == [
        row["name"] for row in sorted(coco["categories"], key=lambda row: row["id"])
    ]
    crowds = sum(bool(row.get("iscrowd")) for row in coco["annotations"])
    assert (f"{crowds} crowd regions (left out)" in done.out) == (crowds > 0)


# ---------------------------------------------------------------------------------------------------------- from Windows


def _voc(folder: Path, change: Callable[[Path], None]) -> Any:
    voc_folder(folder, VOC_XML)
    for path in (folder / "Annotations" / "000005.xml", folder / "ImageSets" / "Main" / "val.txt"):
        change(path)
    return read_voc(folder, "val").coco


def _yolo(folder: Path, change: Callable[[Path], None]) -> Any:
    path = yolo_folder(folder)
    for file in (path, folder / "labels" / "train" / "a.txt"):
        change(file)
    return read_yolo(path)[0]


def _cvat(folder: Path, change: Callable[[Path], None]) -> Any:
    path = folder / "annotations.xml"
    path.write_text(CVAT, encoding="utf-8", newline="")
    change(path)
    return read_cvat(path).coco


def _labelme(folder: Path, change: Callable[[Path], None]) -> Any:
    (folder / "a.json").write_text(json.dumps(LABELME, indent=1))
    change(folder / "a.json")
    return read_labelme(folder)


def _open_images(folder: Path, change: Callable[[Path], None]) -> Any:
    table, images, classes = open_images(folder)
    change(table)
    change(classes)
    return read_open_images(table, images, classes)[0]


def _cityscapes(folder: Path, change: Callable[[Path], None]) -> Any:
    (folder / "ulm").mkdir()
    path = folder / "ulm" / "ulm_000000_000019_gtFine_polygons.json"
    shape = {"label": "car", "polygon": [[1, 1], [9, 1], [9, 9]]}
    path.write_text(json.dumps({"imgHeight": 16, "imgWidth": 16, "objects": [shape]}, indent=1))
    change(path)
    return read_cityscapes(folder).coco


def _coco_json(folder: Path, change: Callable[[Path], None]) -> Path:
    path = folder / "a.json"
    image = {"id": 1, "file_name": "été 1.jpg", "height": 9, "width": 9, "coco_url": "http://localhost/val2017/1.jpg"}
    row = {"id": 1, "image_id": 1, "category_id": 4, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
    tree = {"images": [image], "annotations": [row], "categories": [{"id": 4, "name": "nœud"}]}
    path.write_text(json.dumps(tree, indent=1, ensure_ascii=False), encoding="utf-8")
    change(path)
    return path


def _lvis(folder: Path, change: Callable[[Path], None]) -> Any:
    return read_lvis(_coco_json(folder, change)).coco


def _coco(folder: Path, change: Callable[[Path], None]) -> Any:
    return read_coco_file(_coco_json(folder, change)).to_coco()


def windows(path: Path) -> None:
    """Change the line ends to those of Windows."""
    content = path.read_bytes().replace(b"\r\n", b"\n")
    assert b"\n" in content
    path.write_bytes(content.replace(b"\n", b"\r\n"))


def with_mark(path: Path) -> None:
    """Add a byte order mark, as Excel and Notepad do."""
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


@pytest.mark.parametrize("change", [windows, with_mark])
@pytest.mark.parametrize("read", [_voc, _yolo, _cvat, _labelme, _open_images, _cityscapes, _lvis, _coco])
def test_files_from_windows(read: Callable[..., Any], change: Callable[[Path], None], tmp_path: Path) -> None:
    contents = []
    for name, edit in (("plain", lambda path: None), ("changed", change)):
        (tmp_path / name).mkdir()
        contents.append(json.dumps(read(tmp_path / name, edit), default=str).replace(str(tmp_path / name), ""))
    assert contents[0] == contents[1] and "bbox" in contents[0]


# ------------------------------------------------------------------------------------------- another library's converters


def write_images(coco: dict[str, Any], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for row in coco["images"]:
        Image.new("RGB", (row["width"], row["height"])).save(folder / row["file_name"])
    return folder


def with_plain_names(coco: dict[str, Any]) -> dict[str, Any]:
    """With names that XML keeps: single spaces, and none at the ends."""
    return {**coco, "categories": [{**row, "name": " ".join(row["name"].split()) or "x"} for row in coco["categories"]]}


def escaped(coco: dict[str, Any]) -> bool:
    """Whether a name has a character that XML escapes: hotcoco writes escapes and does not read them."""
    return any(set("<&'") & set(row["name"]) for row in coco["categories"])


def new_folder(factory: pytest.TempPathFactory) -> Path:
    return factory.mktemp("set")


SETTINGS = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@SETTINGS
@given(coco=data_sets())
def test_yolo_agrees_with_hotcoco(coco: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each reads the other's files. hotcoco writes six digits, and does not quote names like 0E0, which YAML reads as numbers."""
    folder = new_folder(tmp_path_factory)
    coco = {**coco, "categories": [{**row, "name": f"x{row['name']}"} for row in coco["categories"]]}
    images = write_images(coco, folder / "ours" / "images" / "train")
    write_yolo(coco, folder / "ours", "train")
    labels = folder / "ours" / "labels" / "train"
    shutil.copy(folder / "ours" / "data.yaml", labels / "data.yaml")  # where hotcoco looks for the classes
    theirs = instances(hotcoco.COCO.from_yolo(str(labels), images_dir=str(images)).dataset)
    assert_same({f"{stem}.png": rows for stem, rows in theirs.items()}, instances(coco), 1e-3)  # hotcoco drops the endings
    hotcoco.COCO(coco).to_yolo(str(folder / "theirs" / "labels" / "train"))
    shutil.copytree(images, folder / "theirs" / "images" / "train")
    yaml = folder / "theirs" / "data.yaml"
    shutil.copy(folder / "theirs" / "labels" / "train" / "data.yaml", yaml)
    yaml.write_text("train: images/train\n" + yaml.read_text())
    assert_same(instances(read_yolo(yaml)[0]), instances(coco), 1e-3)


@SETTINGS
@given(coco=data_sets())
def test_voc_agrees_with_hotcoco(coco: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Both count pixels from 1, and boxes include their last pixel."""
    folder, coco = new_folder(tmp_path_factory), with_plain_names(coco)
    hotcoco.COCO(coco).to_voc(str(folder / "theirs"))
    assert_same(instances(read_voc(folder / "theirs").coco), instances(coco))
    write_voc(coco, folder / "ours", "train")
    if not escaped(coco):
        assert_same(instances(hotcoco.COCO.from_voc(str(folder / "ours")).dataset), instances(coco))


@SETTINGS
@given(coco=data_sets())
def test_cvat_agrees_with_hotcoco(coco: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path, coco = new_folder(tmp_path_factory) / "annotations.xml", with_plain_names(coco)
    hotcoco.COCO(coco).to_cvat(str(path))
    read_back, _, lost = read_cvat(path)
    assert_same(instances(read_back), instances(coco), 1e-2)
    assert not lost
    if not escaped(coco):
        assert_same(instances(hotcoco.COCO.from_cvat(str(path)).dataset), instances(read_back))


@SETTINGS
@given(coco=data_sets())
def test_open_images_agrees_with_hotcoco(coco: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """A table of boxes has only images with boxes."""
    folder = new_folder(tmp_path_factory)
    images = write_images(coco, folder / "images")
    hotcoco.COCO(coco).to_oid(str(folder / "boxes.csv"))
    read_back, _, lost = read_open_images(folder / "boxes.csv", images)
    assert not lost
    assert_same(instances(read_back), instances(coco), 1e-3)
