"""Label Studio's export in its format JSON, and that no region is lost uncounted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import mask as coco_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from boxwood.data import CocoConfig
from boxwood.data.annotations import format_of
from boxwood.data.formats.label_studio import read_label_studio
from boxwood.errors import UserError
from tests.conftest import Boxwood, repeatable

EXAMPLES = 20

BRUSH = [0, 0, 0, 48, 57, 27, 254, 19, 0, 159, 254, 248, 4, 127, 224]
"""What Label Studio's own encoder makes of the mask below, each pixel as red, green, blue and opacity."""
BRUSHED = [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]


def region(kind: str, label: str | None = "nut", size: tuple[int, int] | None = (100, 200), **value: Any) -> dict[str, Any]:
    """A result of a picture of ``size`` (height, width); ``value`` in percent."""
    keys = ("id", "parentID", "image_rotation")
    labels = {} if label is None else {kind: [label]}
    sizes = {} if size is None else {"original_height": size[0], "original_width": size[1]}
    outer = {key: value.pop(key) for key in keys if key in value}
    return {"type": kind, "from_name": "label", "to_name": "image", "value": {**value, **labels}, **sizes, **outer}


def rectangle(**value: Any) -> dict[str, Any]:
    return region("rectanglelabels", **{"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, **value})


def task(*results: dict[str, Any], image: Any = "/data/upload/1/0a1b2c3d-a.jpg", **keys: Any) -> dict[str, Any]:
    return {"id": 7, "data": {"image": image}, "annotations": [{"id": 1, "result": list(results)}], **keys}


def export(folder: Path, *tasks: Any) -> Path:
    path = folder / "project-1.json"
    path.write_text(json.dumps(list(tasks)))
    return path


def test_shapes(tmp_path: Path) -> None:
    """Each kind of region, by hand; a rectangle turns clockwise about its first corner."""
    path = export(
        tmp_path,
        task(
            rectangle(),
            rectangle(rotation=90, label="fig"),
            region("polygonlabels", points=[[10, 10], [20, 10], [20, 30]], closed=True),
            region("ellipselabels", x=50, y=50, radiusX=10, radiusY=20, rotation=0),
            rectangle(rotation=30),
        ),
    )
    coco, lost = read_label_studio(path)
    assert coco["images"] == [{"id": 1, "file_name": "a.jpg", "height": 100, "width": 200}]
    assert [row["name"] for row in coco["categories"]] == ["fig", "nut"]
    first, turned, polygon, ellipse, tilted = coco["annotations"]
    assert first["bbox"] == [20, 20, 60, 40] and turned["bbox"] == [-20, 20, 40, 60]
    assert (polygon["bbox"], polygon["area"]) == ([20, 10, 20, 20], 200)
    assert polygon["segmentation"] == [[20, 10, 40, 10, 40, 30]]
    assert ellipse["bbox"] == pytest.approx([80, 30, 40, 40]) and ellipse["area"] == pytest.approx(math.pi * 400, rel=0.01)
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    assert tilted["bbox"] == pytest.approx([20 - 40 * sin, 20, 60 * cos + 40 * sin, 60 * sin + 40 * cos])
    assert lost == ["2 rotations of boxes (their upright extent is taken)"]


def test_brushes(tmp_path: Path) -> None:
    results = [region("brushlabels", size=(3, 4), format="rle", rle=code) for code in (BRUSH, BRUSH[:-3], [0, 0, 0, 48], [])]
    coco, lost = read_label_studio(export(tmp_path, task(*results)))
    (row,) = coco["annotations"]
    assert coco_mask.decode(row["segmentation"]).tolist() == BRUSHED
    assert (row["bbox"], row["area"]) == ([1, 1, 3, 2], 3)
    assert lost == ["3 brushes that cannot be decoded"]
    with pytest.raises(UserError, match="task 7: 'rle' must be a list of bytes"):
        read_label_studio(export(tmp_path, task(region("brushlabels", rle=[256]))))


def test_key_points(tmp_path: Path) -> None:
    """They belong to the region that is their parent; COCO counts their pixels by centres."""
    path = export(
        tmp_path,
        task(
            rectangle(id="r1"),
            rectangle(id="r2"),
            region("keypointlabels", "right_eye", x=10, y=20, width=0.5, id="k1", parentID="r1"),
            region("keypointlabels", "left_eye", x=20, y=30, width=0.5, id="k2", parentID="r1"),
            region("keypointlabels", "left_eye", x=20, y=30, width=0.5, id="k3", parentID="gone"),
            region("keypointlabels", "nose", x=20, y=30, width=0.5, id="k4"),
        ),
    )
    coco, lost = read_label_studio(path)
    assert coco["categories"] == [{"id": 1, "name": "nut", "keypoints": ["left_eye", "right_eye"]}]
    assert coco["annotations"][0]["keypoints"] == [39.5, 29.5, 2, 19.5, 19.5, 2] and "keypoints" not in coco["annotations"][1]
    assert lost == ["2 key points that are not of a region"]


def test_a_region_and_its_labels_as_two_results(tmp_path: Path) -> None:
    """As the tags Rectangle and Labels write them; several labels are several instances; answers are no regions."""
    geometry = {"x": 10, "y": 20, "width": 30, "height": 40}
    both = region("labels", None, id="r1", **geometry)
    both["value"]["labels"] = ["nut", "fig"]
    results = [region("rectangle", None, id="r1", **geometry), both, region("rectangle", None, id="r2", **geometry)]
    results += [region("rectangle", None, **geometry), {"type": "choices", "id": "r1", "value": {"choices": ["big"]}}]
    coco, lost = read_label_studio(export(tmp_path, task(*results)))
    assert [row["bbox"] for row in coco["annotations"]] == [[20, 20, 60, 40]] * 2 and len(coco["categories"]) == 2
    assert lost == ["2 regions without a label", "1 answers of the kind choices"]


@pytest.mark.parametrize(
    ("address", "files", "expected"),
    [
        ("/data/upload/1/0a1b2c3d-a%20b.jpg", [], "a b.jpg"),
        ("/data/upload/1/0a1b2c3d-a.jpg", ["0a1b2c3d-a.jpg"], "0a1b2c3d-a.jpg"),
        ("/data/upload/1/0a1b2c3d-a.jpg", ["a.jpg"], "a.jpg"),
        ("/data/local-files/?d=set\\photos\\a%2B%20b.jpg", [], "a+ b.jpg"),
        ("/data/local-files/?d=set/photos/a.jpg", ["photos/a.jpg"], "photos/a.jpg"),
        ("http://localhost:8080/data/local-files/?d=set/a.jpg", [], "a.jpg"),
        ("https://host/x/été.jpg?token=1/2", [], "été.jpg"),
        ("s3://bucket/x/a.jpg", ["x/a.jpg", "a.jpg"], "x/a.jpg"),
        ("C:\\Users\\me\\a.jpg", [], "a.jpg"),
        ("..\\..\\a.jpg", [], "a.jpg"),
        ("a#1.jpg", ["a#1.jpg"], "a#1.jpg"),
    ],
)
def test_names_of_pictures(address: str, files: list[str], expected: str, tmp_path: Path) -> None:
    path = export(tmp_path, task(rectangle(), image=address))
    for name in files:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 100)).save(tmp_path / "photos" / name)
    coco, lost = read_label_studio(path, tmp_path / "photos")
    assert ([row["file_name"] for row in coco["images"]], lost) == ([expected], [])


def test_pictures_of_one_name_in_two_folders(tmp_path: Path) -> None:
    tasks = [task(rectangle(), image=f"s3://bucket/{folder}/a.jpg") for folder in "xy"]
    coco, _ = read_label_studio(export(tmp_path, *tasks))
    assert [row["file_name"] for row in coco["images"]] == ["x/a.jpg", "y/a.jpg"]


def test_which_annotation_is_read(tmp_path: Path) -> None:
    """The ground truth, else the latest that was not cancelled; what is passed over is counted."""

    def version(x: int, **keys: Any) -> dict[str, Any]:
        return {"result": [rectangle(x=x)], **keys}

    old, new = version(10, updated_at="2024-01-01T00:00:00Z"), version(20, updated_at="2024-02-01T00:00:00Z")
    tasks = [
        {"data": {"image": "a.jpg"}, "annotations": [new, old], "predictions": [{"result": []}]},
        {"data": {"image": "b.jpg"}, "annotations": [new, {**old, "ground_truth": True}]},
        {"data": {"image": "c.jpg"}, "completions": [old, {**new, "was_cancelled": True}]},
        {"data": {"image": "d.jpg"}, "annotations": [{**new, "was_cancelled": True}]},
        {"data": {"image": "e.jpg"}, "annotations": []},
        {"data": {"text": "a story"}, "annotations": [new]},
    ]
    coco, lost = read_label_studio(export(tmp_path, *tasks))
    assert [row["file_name"] for row in coco["images"]] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [row["bbox"][0] for row in coco["annotations"]] == [40, 20, 20]
    assert sorted(lost) == [
        "1 predictions of tasks", "1 tasks that nobody has annotated", "1 tasks that were skipped",
        "1 tasks without a picture, or with more than one", "2 further annotations of the same pictures",
    ]  # fmt: skip


def test_pictures_without_regions_are_background(tmp_path: Path) -> None:
    """Their size is that of the picture; where that is not there they are left out."""
    path = export(
        tmp_path, task(image="/data/upload/1/0a1b2c3d-a.jpg"), task(image="b.jpg"), task(rectangle(size=None), image="c.jpg")
    )
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg")
    coco, lost = read_label_studio(path)
    assert coco["images"] == [{"id": 1, "file_name": "a.jpg", "height": 20, "width": 30}] and not coco["annotations"]
    assert lost == [f"2 pictures without regions whose size is not known, since they are not in {tmp_path}"]


def test_the_commands(tmp_path: Path, boxwood: Boxwood) -> None:
    """It is recognised beside COCO's files, converted, and trained on as it is."""
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (200, 100)).save(tmp_path / "photos" / "a.jpg")
    path = export(tmp_path, task(rectangle(), region("hypertextlabels", start=0)))
    assert format_of(path) == "label_studio"
    done = boxwood("data", "convert", path, tmp_path / "o.json", "--images", tmp_path / "photos")
    assert done.status == 0 and "1 images, 1 instances" in done.out and "1 regions of the kind hypertextlabels" in done.out, (
        done.err
    )
    dataset = CocoConfig(annotations=str(path), images=str(tmp_path / "photos")).open()
    assert dataset[0].boxes.tolist() == [[20, 20, 80, 60]]
    (tmp_path / "results.json").write_text('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]')
    done = boxwood("data", "convert", tmp_path / "results.json", tmp_path / "p.json")
    assert done.status == 2 and "is not COCO" in done.err


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([3], "is not a list of Label Studio's tasks"),
        ([{"image": "a.jpg", "label": []}], "export it in the format JSON"),
        ([{"data": {}, "annotations": [3]}], "task 0: 'annotations' must be a list of mappings"),
        ([{"data": {"image": "a.jpg"}, "annotations": [{"result": 3}]}], "'result' must be a list of regions"),
        ([task(rectangle(x="1"))], "task 7: x, y, width, height must be numbers of percent"),
        ([task(rectangle(x=float("nan")))], "must be numbers of percent"),
        ([task(rectangle(rotation="left"))], "rotation must be numbers of percent"),
        ([task(region("polygonlabels", points=[[1, 2], [3], [4, 5]]))], "points must be"),
        ([task(rectangle(size=(0, 9)))], "'original_height' and 'original_width' must be whole numbers above 0"),
        ([task(rectangle(size=(True, 9)))], "'original_height' and 'original_width' must be"),
    ],
)
def test_a_wrong_export_is_named(tasks: list[Any], words: str, tmp_path: Path) -> None:
    path = export(tmp_path, *tasks)
    with pytest.raises(UserError) as error:
        read_label_studio(path)
    assert words in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_brush_on_a_picture_that_is_too_large_is_counted(tmp_path: Path) -> None:
    """Its pixels would not fit into memory."""
    path = export(tmp_path, task(region("brushlabels", size=(10**6, 10**6), rle=BRUSH)))
    assert read_label_studio(path)[1] == ["1 brushes that cannot be decoded"]


# -------------------------------------------------------------------------------------------------------- nothing lost

PERCENT = st.floats(-10, 110).map(lambda number: round(number, 3))
POINTS = st.lists(st.lists(PERCENT, min_size=2, max_size=2), max_size=5)
LABELS = st.sampled_from(["nut", "fig", None, ""])


@st.composite
def regions(draw: st.DrawFn) -> dict[str, Any]:
    x, y, width, height = (draw(PERCENT) for _ in range(4))
    box = {"x": x, "y": y, "width": width, "height": height}
    kind, value = draw(
        st.sampled_from(
            [
                ("rectanglelabels", {**box, "rotation": 0}), ("rectanglelabels", {**box, "rotation": 12.5}), ("rectangle", box),
                ("polygonlabels", None), ("ellipselabels", {"x": x, "y": y, "radiusX": width, "radiusY": height}),
                ("keypointlabels", {"x": x, "y": y, "width": 1, "parentID": "r"}), ("keypointlabels", {"x": x, "y": y, "width": 1}),
                ("brushlabels", {"rle": BRUSH}), ("choices", {"choices": ["big"]}), ("relation", {}), ("videorectangle", {}),
                ("hypertextlabels", {"start": 0}), ("rectanglelabels", {**box, "image_rotation": 90}), ("vectorlabels", {}),
            ]
        )
    )  # fmt: skip
    return region(kind, draw(LABELS), **(value if value is not None else {"points": draw(POINTS)}))


@repeatable
@settings(max_examples=EXAMPLES)
@given(drawn=st.lists(st.lists(regions(), max_size=6), min_size=1, max_size=3), parent=st.booleans())
def test_each_region_is_read_or_counted(
    drawn: list[list[dict[str, Any]]], parent: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("label_studio")
    results = [[rectangle(id="r") if parent else rectangle(id="q"), *rows] for rows in drawn]
    path = export(folder, *(task(*rows, image=f"{number}.jpg") for number, rows in enumerate(results)))
    coco, lost = read_label_studio(path)
    assert len(coco["images"]) == len(drawn)
    dropped = sum(int(entry.split()[0]) for entry in lost if "rotations" not in entry)
    points: list[list[str]] = [[] for _ in results]
    for names, rows in zip(points, results, strict=True):
        labels = (row["value"].get("keypointlabels") for row in rows if parent and row.get("parentID") == "r")
        names += [label[0] for label in labels if label and label[0]]
    # Key points of one parent and one name are one keypoint.
    read = sum(row.get("num_keypoints", 0) for row in coco["annotations"])
    assert read == sum(len(set(names)) for names in points)
    assert len(coco["annotations"]) + dropped + sum(map(len, points)) == sum(map(len, results))
    assert np.isfinite([row["bbox"] for row in coco["annotations"]]).all()
