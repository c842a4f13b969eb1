"""LabelMe's and X-AnyLabeling's files as their users have them, and that no shape is lost uncounted."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import mask as coco_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from boxwood.data.formats.labelme import read_labelme
from boxwood.errors import UserError
from tests.conftest import Boxwood, repeatable

EXAMPLES = 20


def labelme(folder: Path, shapes: Any, name: str = "a", **keys: Any) -> Path:
    """Write a picture of 96 x 72 pixels and its file; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (96, 72)).save(folder / f"{name}.jpg")
    tree = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg", "imageData": None, "imageHeight": 72,
            "imageWidth": 96}  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps({**tree, **keys}))
    return folder


def shape(label: str, kind: Any, *points: tuple[float, float], **keys: Any) -> dict[str, Any]:
    return {"label": label, "points": [list(point) for point in points], "shape_type": kind, "group_id": None, "flags": {}, **keys}


BOLT = shape("bolt", "rectangle", (11, 13), (40, 45))


def boxes(coco: dict[str, Any]) -> list[Any]:
    names = {row["id"]: row["name"] for row in coco["categories"]}
    return [(names[row["category_id"]], row["bbox"]) for row in coco["annotations"]]


def test_labels_that_are_no_classes(tmp_path: Path, boxwood: Boxwood) -> None:
    other = [shape("__ignore__", "rectangle", (60, 5), (80, 20)), shape("_background_", "polygon", (0, 0), (9, 0), (9, 9))]
    folder = labelme(tmp_path / "l", [BOLT, *other])
    coco, lost = read_labelme(folder)
    assert boxes(coco) == [("bolt", [11, 13, 29, 32])]
    assert lost == ["1 regions to ignore (__ignore__)", "1 regions of background (_background_)"]
    done = boxwood("data", "convert", folder, tmp_path / "o.json")
    assert done.status == 0 and "of 1 classes" in done.out and "1 regions to ignore" in done.out


@pytest.mark.parametrize("size", [(None, None), (72, None), (None, 96), (72.0, 96.0)])
def test_sizes_that_are_null_are_read_from_the_picture(size: tuple[Any, Any], tmp_path: Path) -> None:
    coco, _ = read_labelme(labelme(tmp_path, [BOLT], imageHeight=size[0], imageWidth=size[1]))
    assert [(row["height"], row["width"]) for row in coco["images"]] == [(72, 96)]
    (tmp_path / "a.jpg").unlink()
    if None in size:
        with pytest.raises(UserError, match=r"a\.json: has no 'imageHeight' .* name the folder of the pictures with --images"):
            read_labelme(tmp_path)


def test_rectangles_of_four_points(tmp_path: Path) -> None:
    """As X-AnyLabeling writes them; of those that are turned the extent is taken, and that is said."""
    shapes = [
        shape("bolt", "rectangle", (11, 13), (40, 13), (40, 40), (11, 40)),
        shape("nut", "rectangle", (70, 40), (50, 40), (50, 13), (70, 13), difficult=True),
        shape("nut", "rotation", (20, 10), (30, 20), (20, 30), (10, 20), direction=0.78),
        shape("nut", "rotation", (20, 10), (30, 10), (30, 20), (20, 20)),
    ]
    coco, lost = read_labelme(labelme(tmp_path, shapes))
    assert boxes(coco) == [
        ("bolt", [11, 13, 29, 27]), ("nut", [50, 13, 20, 27]), ("nut", [10, 10, 20, 20]), ("nut", [20, 10, 10, 10])
    ]  # fmt: skip
    assert [row.get("ignore", 0) for row in coco["annotations"]] == [0, 1, 0, 0]
    assert lost == ["1 rotations of boxes (their upright extent is taken)"]


def png(pixels: np.ndarray[Any, Any]) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize("value", [1, 255])
def test_embedded_masks(value: int, tmp_path: Path) -> None:
    """A PNG of the pixels from the first point to the second, both included; what lies outside of the image is cut."""
    crop = np.random.default_rng(0).random((6, 9)) > 0.5
    crop[0] = crop[:, 0] = crop[-1] = crop[:, -1] = True
    shapes = [
        shape("nut", "mask", (10, 20), (18, 25), mask=png(crop * value)),
        shape("nut", "mask", (-2, 68), (6, 73), mask=png(crop * value)),
        shape("nut", "mask", (100, 20), (108, 25), mask=png(crop * value)),
    ]
    coco, lost = read_labelme(labelme(tmp_path, shapes))
    expected = np.zeros((2, 72, 96), dtype=np.bool_)
    expected[0, 20:26, 10:19] = crop
    expected[1, 68:72, 0:7] = crop[:4, 2:]
    for row, pixels in zip(coco["annotations"], expected, strict=True):
        assert np.array_equal(coco_mask.decode(row["segmentation"]), pixels) and row["area"] == pixels.sum()
    assert coco["annotations"][0]["bbox"] == [10, 20, 9, 6]
    assert lost == ["1 masks partly outside their image (clipped)", "1 masks without a pixel in their image"]


@pytest.mark.parametrize("mask", [None, 3, "", "AAAA", "é", png(np.ones((6, 8))), png(np.ones((6, 9)))[:60]])
def test_a_damaged_mask_is_named(mask: Any, tmp_path: Path) -> None:
    folder = labelme(tmp_path, [shape("nut", "mask", (10, 20), (18, 25), mask=mask)])
    with pytest.raises(UserError, match=r"a\.json: shapes row 0: .{1,200}$"):
        read_labelme(folder)
    size = 10**6
    labelme(tmp_path, [shape("nut", "mask", (0, 0), (8, 5), mask=png(np.ones((6, 9))))], imageHeight=size, imageWidth=size)
    with pytest.raises(UserError, match="cannot be read"):
        read_labelme(folder)


@pytest.mark.parametrize(
    ("name", "images", "expected"),
    [
        ("sub\\b.jpg", None, "sub/b.jpg"),
        ("..\\pictures\\c.jpg", None, "../pictures/c.jpg"),
        ("..\\pictures\\c.jpg", "pictures", "c.jpg"),
        ("C:\\Users\\me\\a.jpg", None, "a.jpg"),
        ("/home/me/a.jpg", None, "a.jpg"),
        ("/home/me/c.jpg", "pictures", "c.jpg"),
        ("gone.jpg", None, "gone.jpg"),
        ("gone\\a.jpg", None, "a.jpg"),
    ],
)
def test_paths_of_pictures(name: str, images: str | None, expected: str, tmp_path: Path) -> None:
    for folder, picture in (("l/sub", "b"), ("pictures", "c")):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (96, 72)).save(tmp_path / folder / f"{picture}.jpg")
    folder = labelme(tmp_path / "l", [BOLT], imagePath=name)
    coco, _ = read_labelme(folder, tmp_path / images if images else None)
    assert [row["file_name"] for row in coco["images"]] == [expected]


def test_what_lies_in_the_folder(tmp_path: Path) -> None:
    """A file without shapes is an image of background; other files are counted, and so are pictures that nobody has labelled."""
    labelme(tmp_path, [BOLT])
    labelme(tmp_path / "more", [], "empty", flags={"blurred": True, "dark": False})
    Image.new("RGB", (9, 9)).save(tmp_path / "unlabelled.png")
    for name, content in (
        ("x.heic", ""),
        ("coco.json", '{"images": []}'),
        ("list.json", "[]"),
        ("._a.json", "\0"),
        ("._a.jpg", ""),
    ):
        (tmp_path / name).write_text(content)
    coco, lost = read_labelme(tmp_path)
    assert [row["file_name"] for row in coco["images"]] == ["a.jpg", "more/empty.jpg"]
    assert sorted(lost) == [
        "1 flags of images",
        "1 hidden .json files",
        "1 pictures of a format that is not read (.heic)",
        "1 pictures without a .json file (left out)",
        "2 .json files that are not LabelMe's",
    ]
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "coco.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no \*\.json of LabelMe.* or COCO's \.json itself"):
        read_labelme(tmp_path / "none")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"shapes": 3, "imageHeight": None}, "'shapes' must be a list"),
        ({"imagePath": 3}, "'imagePath' must be text"),
        ({"imagePath": " "}, "'imagePath' must be text"),
        ({"imageWidth": True}, "must be whole numbers"),
        ({"imageWidth": 9.5}, "must be whole numbers"),
        ({"shapes": [shape("nut", "polygon", (0, 0), (float("nan"), 3), (4, 4))]}, "shapes row 0"),
    ],
)
def test_a_wrong_file_is_named(keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        read_labelme(labelme(tmp_path, **{"shapes": [BOLT], **keys}))
    assert str(tmp_path / "a.json") in str(error.value) and "\n" not in str(error.value)


def test_a_file_without_the_name_of_its_picture(tmp_path: Path) -> None:
    assert read_labelme(labelme(tmp_path, [BOLT], imagePath=None))[0]["images"][0]["file_name"] == "a.jpg"


# -------------------------------------------------------------------------------------------------------- nothing lost

COORDINATES = st.floats(-20, 120).map(lambda number: round(number, 2))
KINDS = st.sampled_from(
    ["rectangle", "polygon", "circle", "rotation", "point", "line", "linestrip", "points", "cuboid", None, 3, ""]
)


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    points = draw(st.lists(st.tuples(COORDINATES, COORDINATES), max_size=5))
    group = draw(st.none() | st.integers(0, 1) | st.just([1]))
    label = draw(st.sampled_from(["nut", "fig", "__ignore__", "_background_"]))
    return shape(label, draw(KINDS), *points, group_id=group)


@repeatable
@settings(max_examples=EXAMPLES)
@given(drawn=st.lists(st.lists(shapes(), max_size=5), min_size=1, max_size=3))
def test_each_shape_is_read_or_counted(drawn: list[list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("labelme")
    for number, rows in enumerate(drawn):
        labelme(folder, rows, str(number))
    coco, lost = read_labelme(folder)
    assert len(coco["images"]) == len(drawn)
    parts = sum(len(row.get("segmentation", [0])) for row in coco["annotations"])  # joined polygons are parts of one instance
    dropped = sum(int(entry.split()[0]) for entry in lost if "rotations" not in entry)
    assert parts + dropped == sum(map(len, drawn))
    # By another way of counting: what a person would expect to see.
    usable = {("rectangle", 2), ("rectangle", 4), ("rotation", 4), ("circle", 2)}
    drawn_shapes = [row for rows in drawn for row in rows if row["label"] in ("nut", "fig")]
    expected = sum(
        (row["shape_type"], len(row["points"])) in usable or (row["shape_type"] in ("polygon", None, "") and len(row["points"]) > 2)
        for row in drawn_shapes
    )
    assert parts == expected
