"""Faults of annotation files are found, named by image and row, counted, and repaired or refused when the file is opened."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxwood.data import CocoDataset
from boxwood.data.coco_file import coco_file_of, read_coco_file
from boxwood.data.quality.checks import check_areas, check_boxes, check_pixels, check_run_lengths
from boxwood.errors import UserError
from tests.data.cases import sound, write

Tree = dict[str, Any]
Plant = Callable[[Tree], Any]


def first(tree: Tree) -> Tree:
    row: Tree = tree["annotations"][0]
    return row


REFUSED: dict[str, tuple[Plant, str]] = {
    "no images key": (lambda t: t.pop("images"), r"is not COCO: 'images' missing; its keys are \['annotations', 'categories'\]"),
    "images no list": (lambda t: t.update(images={}), "'images' must be a list, got a dict"),
    "row no mapping": (lambda t: t["annotations"].append(7), "annotations row 3: must be a mapping, got 7"),
    "no images": (lambda t: t.update(images=[], annotations=[]), "'images' is empty"),
    "no categories": (lambda t: t.update(categories=[], annotations=[]), "'categories' is empty"),
    "no box": (
        lambda t: (first(t).pop("bbox"), first(t).pop("segmentation")),
        "annotations row 0 .id 11.: 'bbox' must be four numbers x, y, w, h, got nothing",
    ),
    "short box": (lambda t: first(t).update(bbox=[1, 2, 3]), r"'bbox' must be four numbers x, y, w, h, got \[1, 2, 3\]"),
    "box of text": (lambda t: first(t).update(bbox=["1", 2, 3, 4]), "'bbox' must be four numbers"),
    "id of text": (lambda t: t["images"][1].update(id="a"), "images row 1: 'id' must be a whole number, got 'a'"),
    "id beyond 64 bits": (lambda t: t["images"][1].update(id=2**64), "images row 1: 'id' must be a whole number"),
    "no file name": (lambda t: t["images"][1].pop("file_name"), "images row 1 .id 3.: 'file_name' must be text, got nothing"),
    "no height": (lambda t: t["images"][2].pop("height"), "images row 2 .id 5.: 'height' must be a whole number, got nothing"),
    "mask of text": (lambda t: first(t).update(segmentation="x"), "annotations row 0 .id 11.: 'segmentation' must be polygons"),
    "flat line": (lambda t: first(t).update(segmentation=[1, 2, 3, 4]), "'segmentation' must be polygons"),
    "polygon of text": (lambda t: first(t).update(segmentation=[["a"] * 6]), "row 0 .id 11.: .* must be polygons of numbers"),
    "negative counts": (lambda t: t["annotations"][1]["segmentation"].update(counts=[-1]), "row 1 .id 12.: 'segmentation'"),
    "ragged keypoints": (
        lambda t: (first(t).update(keypoints=[1, 2, 2]), t["annotations"][1].update(keypoints=[1, 2])),
        "annotations row 1 .id 12.: 'keypoints' must be 3 numbers, .* as in 1 annotations, got .1, 2.; correct the file",
    ),
    "ragged keypoints in the first row": (
        lambda t: [a.update(keypoints=[1, 2, 2] * (1 if i == 0 else 2)) for i, a in enumerate(t["annotations"])],
        "annotations row 0 .id 11.: 'keypoints' must be 6 numbers, .* each of 2 keypoints, as in .* got .1, 2, 2.;",
    ),
    "keypoints without visibility": (
        lambda t: [a.update(keypoints=[1, 2] * 5) for a in t["annotations"]],
        "annotations row 0 .id 11.: 'keypoints' must be 3 numbers x, y, visibility for each keypoint, got .1, 2, 1, 2",
    ),
    "15 keypoints instead of 17": (
        lambda t: [a.update(keypoints=[1, 2, 2] * (15 if i == 1 else 17)) for i, a in enumerate(t["annotations"])],
        r"row 1 .id 12.: 'keypoints' must be 51 numbers, .* each of 17 keypoints, .* got \[1, 2, 2, 1.*\.\.\. \(45 values\);",
    ),
    "keypoints of text": (lambda t: first(t).update(keypoints="abc"), "row 0 .id 11.: 'keypoints' must be 3 numbers .* got 'abc'"),
    "image ids twice": (lambda t: t["images"][2].update(id=70), "1 duplicate image ids: 70 'empty.png' .row 2."),
    "image names twice": (lambda t: t["images"][2].update(file_name="wide.png"), "1 duplicate image names: 'wide.png' .row 2."),
    "annotation ids twice": (
        lambda t: t["annotations"][1].update(id=11),
        r"1 duplicate annotation ids: annotation 11 \(row 1\) of image 70 'wide.png'",
    ),
    "category ids twice": (lambda t: t["categories"].append({"id": 900, "name": "oak"}), "category ids: 900 'oak' .row 2."),
    "category names twice": (lambda t: t["categories"].append({"id": 1, "name": "fig"}), "duplicate category names: 'fig' .row 2."),
    "unknown image": (
        lambda t: first(t).update(image_id=4),
        r"1 annotations of images that the file does not have: annotation 11 \(row 0\) of image 4",
    ),
    "unknown category": (
        lambda t: first(t).update(category_id=5),
        r"1 annotations of categories that the file does not have: category 5, annotation 11 \(row 0\) of image 3 'tall.png'",
    ),
    "no size": (lambda t: t["images"][2].update(height=0), "1 images without a positive size: 'empty.png' .row 2.: 20 x 0"),
    "mask of another size": (
        lambda t: t["annotations"][1]["segmentation"].update(size=[60, 40]),
        r"1 run-length masks of another size than their image: annotation 12 .* 'wide.png': mask 40 x 60, image 60 x 40",
    ),
    "number of 400 digits in a polygon": (
        lambda t: first(t)["segmentation"][0].__setitem__(3, 10**400),
        "row 0 .id 11.: 'segmentation' must be polygons of numbers",
    ),
    "number of 400 digits in keypoints": (
        lambda t: first(t).update(keypoints=[10**400, 2, 2]),
        "row 0 .id 11.: 'keypoints' must be 3 numbers, .* got .a number of 1329 bits, 2, 2.;",
    ),
    "mapping in keypoints": (lambda t: first(t).update(keypoints=[{}, 2, 2]), r"'keypoints' must be 3 numbers, .* got .{}, 2, 2.;"),
    "sides of run lengths swapped": (
        lambda t: t["annotations"][1]["segmentation"].update(size=[60, 40]),
        "'size' is height, width, and these look like width, height: .*--fix OUT.json",
    ),
    "run lengths of text": (
        lambda t: t["annotations"][1]["segmentation"].update(counts=["a"]),
        "must be run lengths with a 'size' of two whole numbers, height and width, and 'counts', COCO's text or whole numbers",
    ),
    "missing image": (
        lambda t: t["images"][1].update(file_name="gone.png"),
        r"1 of 3 images of .*data.json are not in .*: 'gone.png' -- correct the image folder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_refused(fault: str, tmp_path: Path) -> None:
    plant, message = REFUSED[fault]
    write(tmp_path, sound())
    tree = sound()
    plant(tree)
    path = write(tmp_path, tree, images=False)
    with pytest.raises(UserError, match=message) as caught:
        CocoDataset(path, tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


REPAIRED: dict[str, tuple[Plant, str, list[list[float]]]] = {
    "no width": (lambda t: first(t).update(bbox=[2, 4, 0, 9]), r"1 boxes without width or height: annotation 11 \(row 0\)", []),
    "negative height": (lambda t: first(t).update(bbox=[2, 4, 3, -9]), "1 boxes of negative width or height", []),
    "nan": (lambda t: first(t).update(bbox=[2, float("nan"), 3, 9]), "1 boxes with nan or infinity", []),
    "infinity": (lambda t: first(t).update(bbox=[2, 4, float("inf"), 9]), "1 boxes with nan or infinity", []),
    "outside": (
        lambda t: first(t).update(bbox=[30, 4, 10, 9]),
        r"1 boxes outside their image: annotation 11 .* 'tall.png': bbox \[30.0, 4.0, 10.0, 9.0\] in 30 x 50 pixels",
        [],
    ),
    "partly outside": (
        lambda t: first(t).update(bbox=[-5, 4, 10, 90]),
        "1 boxes partly outside their image: annotation 11 .* -- clipped",
        [[0, 4, 5, 50]],
    ),
    "two points": (
        lambda t: first(t)["segmentation"].append([1, 2, 3, 4]),
        r"1 polygon parts with under 3 points or with nan: annotation 11 \(row 0\) of image 3 'tall.png': 4 numbers",
        [[2, 4, 12, 24.5]],
    ),
    "half a point": (lambda t: first(t)["segmentation"].append([1] * 7), "1 polygon parts with under 3 points", [[2, 4, 12, 24.5]]),
    "nan point": (lambda t: first(t)["segmentation"].append([float("nan")] * 8), "polygon parts .* with nan", [[2, 4, 12, 24.5]]),
}  # fmt: skip


@pytest.mark.parametrize("fault", REPAIRED)
def test_repaired(fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plant, message, boxes = REPAIRED[fault]
    tree = sound()
    plant(tree)
    data = CocoDataset(write(tmp_path, tree), tmp_path)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert re.search(message, record.getMessage()), record.getMessage()
    sample = data[1]
    assert sample.boxes.tolist() == boxes
    if boxes:
        assert sample.segmentations is not None and len(sample.segmentations[0].parts) == 2  # type: ignore[union-attr]
    # The ground truth of evaluation keeps the boxes of the file, except those with nan or infinity.
    truth_boxes = [row["bbox"] for row in data.to_coco()["annotations"]]
    assert truth_boxes == [row["bbox"] for row in tree["annotations"] if np.isfinite(row["bbox"]).all()]


def test_boxes_up_to_a_pixel_outside_are_clipped_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = sound()
    first(tree)["bbox"] = [20, 40, 10.6, 10.9]
    assert CocoDataset(write(tmp_path, tree), tmp_path)[1].boxes.tolist() == [[20, 40, 30, 50]]
    assert not caplog.records


def test_long_names_are_cut_in_messages(tmp_path: Path) -> None:
    tree = sound()
    for category in tree["categories"]:
        category["name"] = "x" * 5000
    with pytest.raises(UserError, match="duplicate category names: 'xxx") as caught:
        CocoDataset(write(tmp_path, tree), tmp_path)
    assert len(str(caught.value)) < 1000


def test_faults_are_counted_and_three_are_named(tmp_path: Path) -> None:
    tree = sound()
    tree["annotations"] = [{**first(tree), "id": i, "bbox": [2, 4, 0, 0] if i < 5 else [2, 4, 9, 9]} for i in range(6)]
    _, (finding,) = check_boxes(read_coco_file(write(tmp_path, tree)))
    assert (finding.count, len(finding.examples), finding.refused) == (5, 3, False)
    assert "annotation 2 (row 2)" in str(finding) and "annotation 3" not in str(finding) and ", ..." in str(finding)


AREA = "annotations whose 'area' is missing or not a positive number: annotation 11 (row 0) of image 3 'tall.png': "


@pytest.mark.parametrize(
    ("area", "said"), [(-205.0, "-205.0"), (0, "0.0"), (float("inf"), "inf"), ("205", "no number"), (None, "no")]
)
def test_areas_are_computed(area: Any, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From polygons (two triangles, 10 * 20.5 / 2 and 1.75 * 3 / 2), run lengths, or the box."""
    tree = sound()
    tree["annotations"].append({**first(tree), "id": 13, "segmentation": None, "bbox": [1, 2, 3, 5]})
    for row in tree["annotations"]:
        row["area"] = area
    data = CocoDataset(write(tmp_path, tree), tmp_path)
    (message,) = [record.getMessage() for record in caplog.records if "'area'" in record.getMessage()]
    assert f": 4 {AREA}{said}" in message and message.endswith("-- for evaluation computed from the mask, or else from the box")
    decoded = data.file.decoded(2).sum()
    assert [row["area"] for row in data.to_coco()["annotations"]] == pytest.approx([105.125, 2400, decoded, 15])


def test_the_area_of_nothing_is_no_fault() -> None:
    """A box without width has a finding of its own."""
    tree = sound()
    first(tree).update(bbox=[2, 4, -10, 20.5], area=-205, segmentation=None)
    file = coco_file_of(tree, "data.json")
    assert check_areas(file) == [] and file.to_coco()["annotations"][0]["area"] == 0


def test_missing_files_and_invalid_json_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('{"images": [\n{"id": 1,')
    (tmp_path / "bytes.json").write_bytes(b"\xff\xd8\xff\xe0" * 9)
    (tmp_path / "deep.json").write_text("[" * 200_000)
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "folder").mkdir()
    for name, message in {
        "missing.json": "cannot be read .no such file",
        "folder": "holds no annotations that are known",
        "cut.json": r"cut.json:2: is not JSON .*column",
        "bytes.json": "is not JSON",
        "deep.json": "is not JSON",
        "list.json": "is not COCO: expected a mapping .* got a list",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            CocoDataset(tmp_path / name, tmp_path)
        assert "\n" not in str(caught.value)


def test_image_folders(tmp_path: Path) -> None:
    path = write(tmp_path / "a", sound())
    with pytest.raises(UserError, match=r"nowhere: is no folder; name the one in which 'wide.png'"):
        CocoDataset(path, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"3 of 3 images .* 'wide.png'; 'tall.png'; 'empty.png' --"):
        CocoDataset(path, tmp_path / "empty")
    tree = sound()
    for row in tree["images"]:
        row["file_name"] = f"a/{row['file_name']}"
    (tmp_path / "data.json").write_text(json.dumps(tree))
    assert CocoDataset(tmp_path / "data.json", tmp_path)[0].file_name == "a/wide.png"
    with pytest.raises(UserError, match="3 of 3 images"):
        CocoDataset(tmp_path / "data.json", tmp_path / "a")


def test_pixels(tmp_path: Path) -> None:
    file = read_coco_file(write(tmp_path, sound()))
    assert check_pixels(file, tmp_path, decode=True) == []
    Image.new("RGB", (21, 20)).save(tmp_path / "empty.png")
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (30, 50)).save(tmp_path / "tall.png", exif=exif)
    whole = (tmp_path / "wide.png").read_bytes()
    (tmp_path / "wide.png").write_bytes(whole[:-500])
    turned, resized = check_pixels(file, tmp_path)
    assert not turned.refused and turned.examples == (f"'tall.png' is 50 x 30, {file.path} says 30 x 50",)
    assert resized.refused and resized.examples == (f"'empty.png' is 21 x 20, {file.path} says 20 x 20",)
    unreadable, *others = check_pixels(file, tmp_path, decode=True)
    assert unreadable.refused and "wide.png: the image is truncated" in unreadable.examples[0] and others == [turned, resized]
    assert check_pixels(file, tmp_path, exif=False) == [resized]


def test_run_lengths(tmp_path: Path) -> None:
    tree = sound()
    assert check_run_lengths(read_coco_file(write(tmp_path, tree))) == []
    tree["annotations"][1]["segmentation"]["counts"] = [0, 9999]
    (finding,) = check_run_lengths(read_coco_file(write(tmp_path, tree)))
    assert finding.refused and finding.examples[0].startswith("annotation 12 (row 1) of image 70 'wide.png': ")


def test_work_is_linear_in_the_number_of_annotations(tmp_path: Path) -> None:
    """Measured in function calls, which do not depend on the load of the machine: a constant number per annotation."""
    tree = sound()
    polygon = np.linspace(3, 25, 40).round(2).tolist()

    def calls(annotations: int) -> int:
        tree["annotations"] = [{**first(tree), "id": i, "segmentation": [polygon]} for i in range(annotations)]
        path = write(tmp_path, tree)
        count = itertools.count()
        sys.setprofile(lambda *_: next(count))
        try:
            CocoDataset(path, tmp_path)
        finally:
            sys.setprofile(None)
        return next(count)

    few, more, many = calls(100), calls(1100), calls(2100)
    assert many - more == pytest.approx(more - few, rel=0.05)
    assert many - more < 1000 * 200
