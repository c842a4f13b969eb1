"""YOLO's files as common tools write them; that nothing is lost uncounted; and sets written as boxes, outlines and keypoints."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import mask as coco_mask
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from boxwood.data.coco_file import coco_file_of
from boxwood.data.formats.yolo import read_yolo, write_yolo
from boxwood.data.known_classes import PERSON
from boxwood.errors import UserError
from boxwood.files import IMAGE_ENDINGS
from tests.conftest import Boxwood, repeatable

EXAMPLES = 20


def picture(width: int = 20, height: int = 10) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Write files by their paths; returns the path of ``data.yaml``."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / "data.yaml"


def counted(lost: list[str], what: str) -> int:
    """How many of something a list of what was lost says."""
    return sum(int(entry.split()[0].replace(",", "")) for entry in lost if what in entry)


ROW = "0 0.3 0.4 0.3 0.3\n"
BOX = [(0.3 - 0.15) * 20, (0.4 - 0.15) * 10, 6, 3]


@pytest.mark.parametrize(
    ("yaml", "images", "labels"),
    [
        ("train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['bolt']", "train/images", "train/labels"),  # Roboflow
        ("train: train\\images\nnames: [bolt]", "train/images", "train/labels"),  # written on Windows
        ("train: images\nnames: [bolt]", "images", "images"),  # labels beside the images
        ("train: photos\nnames: [bolt]", "photos", "photos"),
        ("train: images/train\nnames: {'0': bolt}", "images/train", "labels/train"),
        ("train: images/train\nnames:\n  '0': bolt", "images/train", "labels/train"),
        ("path: /content/gone/set\ntrain: images/train\nnames: [bolt]", "images/train", "labels/train"),  # of another machine
        ("path: C:\\gone\\set\ntrain: images\\train\nnames: [bolt]", "images/train", "labels/train"),
        ("train: /content/gone/set/images/train\nnames: [bolt]", "images/train", "labels/train"),
        ("train: D:\\gone\\set\\images\\train\nnames: [bolt]", "images/train", "labels/train"),
        ("path: ../datasets/gone\ntrain: images/train\nnames: [bolt]", "images/train", "labels/train"),
    ],
)
@pytest.mark.parametrize("row", [ROW, ROW.replace("0 ", "0.000000 ", 1), ROW.replace("\n", "\r\n")])
def test_layouts_of_common_tools(
    row: str, yaml: str, images: str, labels: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "set", {"data.yaml": yaml, f"{images}/a.png": picture(), f"{labels}/a.txt": row})
    coco, folder, lost = read_yolo(path)
    assert (folder, lost) == (tmp_path / "set" / images, [])
    assert [row["name"] for row in coco["categories"]] == ["bolt"]
    assert [row["bbox"] for row in coco["annotations"]] == [pytest.approx(BOX)]
    assert ("is not there" in caplog.text) == ("gone" in yaml)


def test_a_val_split_may_be_called_valid(tmp_path: Path) -> None:
    path = write(tmp_path, {"data.yaml": "train: t\nvalid: v\nnames: [bolt]", "v/a.png": picture(), "v/a.txt": ROW})
    assert len(read_yolo(path, "val")[0]["annotations"]) == 1


def test_a_number_of_classes_without_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, {"data.yaml": "train: t\nnc: 2", "t/a.png": picture(), "t/a.txt": ROW})
    assert [row["name"] for row in read_yolo(path)[0]["categories"]] == ["class_0", "class_1"]
    path.write_text("train: t\nnc: 3\nnames: [a, b]")
    assert len(read_yolo(path)[0]["categories"]) == 2 and "'nc' is 3" in caplog.text


@pytest.mark.parametrize("line", ["./images/a.png", "images\\a.png", "/content/gone/set/images/a.png", "data/set/images/a.png"])
def test_a_list_of_images(line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {"data.yaml": "train: train.txt\nnames: [bolt]", "images/a.png": picture(), "labels/a.txt": ROW}
    path = write(tmp_path, {**files, "train.txt": f"{line}\n\n{line}\n"})
    coco, folder, lost = read_yolo(path)
    assert (folder / coco["images"][0]["file_name"]).is_file() and len(coco["annotations"]) == 1
    assert lost == ["1 repeated lines of a list of images"]
    assert ("were not where it says" in caplog.text) == ("set" in line)
    (tmp_path / "train.txt").write_text("images/b.png")
    with pytest.raises(UserError, match=r"train\.txt:1: the image 'images/b\.png' is not there"):
        read_yolo(path)


def test_pictures_that_are_not_read_are_counted(tmp_path: Path, boxwood: Boxwood) -> None:
    """By the command: .jfif is JPEG, .heic is not read; hidden files and labels without a picture are named."""
    names = ["a.png", "b.jfif", "c.heic", "._a.png", "d.HEIC", "e.mp4", *(["f.avif"] if ".avif" in IMAGE_ENDINGS else [])]
    files: dict[str, str | bytes] = {f"images/{name}": picture() for name in names}
    files |= {f"labels/{name[0]}.txt": ROW for name in names if name[0] != "."} | {"labels/classes.txt": "bolt\n"}
    path = write(tmp_path, {"data.yaml": "train: images\nnames: [bolt]", "images/data.cache": "", **files})
    done = boxwood("data", "convert", path, tmp_path / "o.json")
    read = 3 if ".avif" in IMAGE_ENDINGS else 2
    assert done.status == 0 and f"{read} images, {read} instances" in done.out
    for words in ("2 pictures of a format that is not read (.heic)", "1 pictures of a format that is not read (.mp4)",
                  "1 hidden pictures", "3 files of labels without a picture"):  # fmt: skip
        assert words in done.out, done.out
    write(tmp_path / "other", {"data.yaml": "train: images\nnames: [bolt]", "images/a.heic": b""})
    with pytest.raises(UserError, match=r"has no images that are read \(1 pictures of a format that is not read \(\.heic\)\)"):
        read_yolo(tmp_path / "other" / "data.yaml")


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("kpt_shape:\n- 0\nnames:\n  0: a\n  1: b\n  \"\\0\": 1" + "0" * 380 + "\ntrain: t", "'names' must be a list"),
        ("train: t\nnames: {0: a, b: 1}", "'names' must be a list"),
        ("train: t\nnames: [a, null]", "'names' must be a list"),
        ("train: t\nnames: &x [*x]", "aliases such as"),
        ("train: t\nnames: !!python/name:os.system a", "is not accepted"),
        ("train: t\nnames: [" + "a, " * 40_000 + "b]", "is larger than 100000 bytes"),
        ("train: [t, 3]\nnames: [a]", "'train' must name a folder"),
        ("train: " + "a" * 5000 + "\nnames: [a]", "is no folder"),
        ("train: \"t\\0\"\nnames: [a]", "is no folder"),
        ("train: t/a.png\nnames: [a]", "no list of images"),
        ("train: t\nnames: [a]\nkpt_shape: [2, 4]", "'kpt_shape' must be"),
        ("train: t\nnames: [a]\nkpt_shape: [2, 3]\nflip_idx: [1, 1]", "'flip_idx' must have"),
        ("train: t\nnames: [a]\nkpt_shape: [3, 3]\nflip_idx: [1, 2, 0]", "'flip_idx' must have"),
    ],
)  # fmt: skip
def test_a_hostile_data_yaml_is_refused(yaml: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, {"data.yaml": yaml, "t/a.png": picture(), "t/a.txt": ROW})
    with pytest.raises(UserError) as error:
        read_yolo(path)
    assert message in str(error.value) and "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize(
    "row", ["1e308 0.5 0.5 0.1 0.1", "inf 0.5 0.5 0.1 0.1", "0.5 0.5 0.5 0.1 0.1", "0 1e400 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1"]
)
def test_a_hostile_row_is_refused(row: str, tmp_path: Path) -> None:
    path = write(tmp_path, {"data.yaml": "train: t\nnames: [a]", "t/a.png": picture(), "t/a.txt": row})
    with pytest.raises(UserError, match=r"a\.txt:1: .{1,200}$"):
        read_yolo(path)


# ------------------------------------------------------------------------------------------------------------ keypoints


def pose_set(folder: Path, rows: str, yaml: str) -> dict[str, Any]:
    path = write(folder, {"data.yaml": f"train: t\nnames: [cow]\n{yaml}", "t/a.png": picture(), "t/a.txt": rows})
    return read_yolo(path)[0]


def facts_of(coco: dict[str, Any], folder: Path) -> Any:
    """The keypoint facts that a training sees."""
    from boxwood.data.coco import categories_of

    return categories_of(coco_file_of(coco, folder)).keypoints


def test_keypoints_with_visibility(tmp_path: Path) -> None:
    coco = pose_set(
        tmp_path, "0 0.5 0.5 1 1 0.25 0.5 2 0.5 0.1 1 0.7 0.7 0\n0 .5 .5 1 1\n", "kpt_shape: [3, 3]\nflip_idx: [0, 2, 1]"
    )
    first, second = coco["annotations"]
    assert first["keypoints"] == pytest.approx([5, 5, 2, 10, 1, 1, 0, 0, 0]) and first["num_keypoints"] == 2
    assert "keypoints" not in second
    facts = facts_of(coco, tmp_path)
    assert facts.flip == (0, 2, 1) and facts.names == ("keypoint_0", "left_keypoint_1", "right_keypoint_1")


def test_keypoints_without_visibility(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A point at 0, 0 or outside is not labelled; without flip_idx a line says that none swaps sides."""
    coco = pose_set(tmp_path, "0 0.5 0.5 1 1 0.25 0.5 0 0 -1 0.5 0 0.5\n", "kpt_shape: [4, 2]")
    assert coco["annotations"][0]["keypoints"] == [5, 5, 2, 0, 0, 0, 0, 0, 0, 0, 5, 2]
    assert "no 'flip_idx'" in caplog.text


def test_names_of_keypoints(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = "0 0.5 0.5 1 1 0.25 0.5 2 0.5 0.1 1\n"
    shape = "kpt_shape: [2, 3]\nkpt_names: {0: [left_eye, right_eye]}\n"
    assert facts_of(pose_set(tmp_path, row, shape), tmp_path).names == ("left_eye", "right_eye")
    assert facts_of(pose_set(tmp_path, row, shape + "flip_idx: [1, 0]"), tmp_path).flip == (1, 0)
    assert not caplog.text
    other = facts_of(pose_set(tmp_path, row, shape + "flip_idx: [0, 1]"), tmp_path)
    assert other.flip == (0, 1) and "get other names" in caplog.text
    person = "kpt_shape: [17, 3]\nnames: [person]\nflip_idx: [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]"
    path = write(tmp_path, {"data.yaml": f"train: t\n{person}", "t/a.txt": "0 .5 .5 1 1" + " .5 .5 2" * 17})
    facts = facts_of(read_yolo(path)[0], tmp_path)
    assert PERSON.keypoints and (facts.names, facts.sigmas) == (PERSON.keypoints.names, PERSON.keypoints.sigmas)


# -------------------------------------------------------------------------------------------------------- nothing lost

SHARES = st.floats(0, 1).map(lambda number: round(number, 6))
BOXES = st.lists(SHARES, min_size=4, max_size=4)
OUTLINES = st.integers(3, 6).flatmap(lambda count: st.lists(SHARES, min_size=2 * count, max_size=2 * count))
ENDINGS = st.sampled_from([".png", ".jpg", ".jfif", ".heic", ".jxl", ".mp4", ".txt~", ".cache"])


@st.composite
def yolo_files(draw: st.DrawFn) -> dict[str, Any]:
    """The files of a set: pictures of several endings, rows of labels in ``labels`` or beside, or none; labels of no picture."""
    names = draw(st.lists(st.from_regex(r"\A\.?[a-z][a-z0-9é ]{0,4}\Z"), min_size=1, max_size=4, unique=True))
    rows = st.lists(st.tuples(st.integers(0, 1), BOXES | OUTLINES), max_size=3)
    return {
        name: (draw(ENDINGS | st.none()), draw(st.sampled_from(["labels", "images", ""])), draw(rows)) for name in names
    }  # fmt: skip


@repeatable
@settings(max_examples=EXAMPLES)
@given(files=yolo_files())
@example(files={"a": (".png", "labels", [(0, [0.5] * 4)]), "b": (None, "labels", [(1, [0.5] * 4)])})
def test_each_picture_and_row_is_read_or_counted(files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("set")
    content: dict[str, str | bytes] = {"data.yaml": "train: images\nnames: [a, b]", "images/first.png": picture()}
    for name, (ending, place, rows) in files.items():
        if ending:
            content[f"images/{name}{ending}"] = picture()
        if place:
            content[f"{place}/{name}.txt"] = "".join(" ".join(map(str, (label, *row))) + "\n" for label, row in rows)
    coco, _, lost = read_yolo(write(folder, content))
    read = {name for name, (ending, _, _) in files.items() if ending in (".png", ".jpg", ".jfif") and name[0] != "."}
    assert {Path(row["file_name"]).stem for row in coco["images"]} == read | {"first"}
    names = {row["id"]: Path(row["file_name"]).stem for row in coco["images"]}
    rows_of = {name: [] if name == "first" or not files[name][1] else files[name][2] for name in names.values()}
    rows = [
        (name, label, row) for name in sorted(rows_of, key=lambda n: list(names.values()).index(n)) for label, row in rows_of[name]
    ]
    assert [(names[row["image_id"]], row["category_id"] - 1) for row in coco["annotations"]] == [row[:2] for row in rows]
    for annotation, (_, _, numbers) in zip(coco["annotations"], rows, strict=True):
        xs, ys = np.array(numbers[::2]) * 20, np.array(numbers[1::2]) * 10
        box = [xs[0] - xs[1] / 2, ys[0] - ys[1] / 2, xs[1], ys[1]]
        outline = [xs.min(), ys.min(), np.ptp(xs), np.ptp(ys)]
        assert annotation["bbox"] == pytest.approx(box if len(numbers) == 4 else outline, abs=1e-9)
    unread = sum(ending in (".heic", ".jxl", ".mp4") for ending, _, _ in files.values())
    hidden = sum(ending in (".png", ".jpg", ".jfif") and name[0] == "." for name, (ending, _, _) in files.items())
    orphans = sum(bool(place and rows) for name, (_, place, rows) in files.items() if name not in read and name[0] != ".")
    assert counted(lost, "of a format that is not read") == unread
    assert (counted(lost, "hidden"), counted(lost, "files of labels")) == (hidden, orphans)


# -------------------------------------------------------------------------------------------------------------- writing


def coco_set(annotations: list[dict[str, Any]], **facts: Any) -> dict[str, Any]:
    rows = [{"id": i, "image_id": 1, "category_id": 3, "iscrowd": 0, **row} for i, row in enumerate(annotations, start=1)]
    images = [{"id": 1, "file_name": "a.png", "height": 10, "width": 20}]
    return {"images": images, "annotations": rows, "categories": [{"id": 3, "name": "nœud: #1", **facts}]}


def round_trip(coco: dict[str, Any], folder: Path) -> tuple[dict[str, Any], list[str]]:
    lost = write_yolo(coco, folder, "train")
    for image in coco["images"]:
        target = folder / "images" / "train" / image["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(picture(image["width"], image["height"]))
    back, _, not_read = read_yolo(folder / "data.yaml")
    assert not not_read
    return back, lost


def test_outlines_are_written(tmp_path: Path) -> None:
    """Of a set with masks; a box without one becomes an outline too, since YOLO has one kind of rows."""
    pixels = np.zeros((10, 20), dtype=np.uint8, order="F")
    pixels[2:8, 3:12] = 1
    pixels[4:6, 5:9] = 0
    code = coco_mask.encode(pixels)
    counts = code["counts"].decode() if isinstance(code["counts"], bytes) else code["counts"]
    two = [[1, 1, 5, 1, 5, 5], [10, 2, 14, 2, 14, 8, 10, 8]]
    coco = coco_set(
        [
            {"bbox": [1, 1, 4, 4], "segmentation": [[1, 1, 5, 1, 5, 5]]},
            {"bbox": [1, 1, 13, 7], "segmentation": two},
            {"bbox": [3, 2, 9, 6], "segmentation": {"size": [10, 20], "counts": counts}},
            {"bbox": [2, 2, 5, 5]},
            {"bbox": [0, 0, 3, 3], "segmentation": [[1, 1, 2, 2]]},
            {"bbox": [1, 1, 8, 8], "segmentation": [[1, 1, 5, 1, 5, 5]]},
        ]
    )
    back, lost = round_trip(coco, tmp_path)
    assert back["annotations"][0]["segmentation"] == [pytest.approx([1, 1, 5, 1, 5, 5])]
    assert [row["area"] for row in back["annotations"]] == pytest.approx([8, 8 + 24, 54 - 8, 25, 9, 8])
    assert [row["bbox"] for row in back["annotations"][:5]] == [pytest.approx(row["bbox"]) for row in coco["annotations"][:5]]
    for index, expected in ((1, two), (2, coco["annotations"][2]["segmentation"])):
        masks = []
        for mask in (back["annotations"][index]["segmentation"], expected):
            parts = coco_mask.frPyObjects(mask, 10, 20) if isinstance(mask, list) else [mask]
            masks.append(np.asarray(coco_mask.decode(coco_mask.merge(parts))))
        assert np.array_equal(*masks), index
    assert sorted(lost) == [
        "1 boxes that are not the extent of their mask (the mask is written)",
        "1 boxes without mask (written as outlines of four corners)",
        "1 masks of run lengths (written as outlines)",
        "1 masks without a usable outline (written as boxes)",
        "1 polygon parts with under 3 points or with nan (left out)",
        "2 masks of several parts or with holes (written as one outline with connecting lines)",
        "the ids of images and classes",
    ]


def test_keypoints_are_written(tmp_path: Path) -> None:
    points = [5, 5, 2, 0, 0, 0, 7, 3, 1]
    coco = coco_set(
        [{"bbox": [1, 1, 8, 8], "keypoints": points, "segmentation": [[1, 1, 5, 1, 5, 5]]}, {"bbox": [1, 1, 5, 5]},
         {"bbox": [1, 1, 8, 8], "keypoints": [30, 5, 2, 1, 1, 1, 7, 3, 1]}],
        keypoints=["nose", "left_eye", "right_eye"],
    )  # fmt: skip
    back, lost = round_trip(coco, tmp_path)
    assert back["annotations"][0]["keypoints"] == pytest.approx(points)
    assert back["annotations"][1]["num_keypoints"] == 0
    assert back["annotations"][2]["keypoints"] == pytest.approx([0, 0, 0, 1, 1, 1, 7, 3, 1])
    assert back["categories"][0]["keypoints"] == ["nose", "left_eye", "right_eye"]
    assert facts_of(back, tmp_path).flip == (0, 2, 1)
    assert lost == ["1 masks", "1 keypoints outside their image (left out)", "the ids of images and classes"]
    # A split without keypoints gets rows of the same kind; one with others is refused.
    write_yolo(coco_set([{"bbox": [1, 1, 5, 5]}]), tmp_path, "val")
    (tmp_path / "images" / "val").mkdir()
    (tmp_path / "images" / "val" / "a.png").write_bytes(picture())
    assert read_yolo(tmp_path / "data.yaml", "val")[0]["annotations"][0]["num_keypoints"] == 0
    with pytest.raises(UserError, match="has other keypoints"):
        write_yolo(coco_set([{"bbox": [1, 1, 5, 5], "keypoints": [1, 1, 2]}]), tmp_path, "test")


def test_values_outside_the_image_are_clipped(tmp_path: Path) -> None:
    """YOLO's programs ignore an image with a value outside 0 to 1."""
    boxes = [[-2, -2, 5, 5], [15, 5, 10, 10], [30, 30, 5, 5], [3, 3, 0, 2], [1, 1, float("nan"), 3], [0, 0, 20, 10]]
    back, lost = round_trip(coco_set([{"bbox": box} for box in boxes]), tmp_path)
    assert [row["bbox"] for row in back["annotations"]] == [
        pytest.approx([0, 0, 3, 3]), pytest.approx([15, 5, 5, 5]), pytest.approx([0, 0, 20, 10])
    ]  # fmt: skip
    assert counted(lost, "partly outside") == 2 and counted(lost, "without area") == 2 and counted(lost, "nan") == 1


def test_names_that_yaml_could_misread(tmp_path: Path) -> None:
    """Also by readers of YAML 1.1, to which a plain no is False."""
    import yaml

    names = ["no", "1e3", "a: b #c", "é\x85\u2028\x7f", "0x1F", "null", "~", "😀", "[x]", "'", '"', "\\n"]
    coco = {**coco_set([]), "categories": [{"id": number, "name": name} for number, name in enumerate(names)]}
    back, _ = round_trip(coco, tmp_path)
    assert [row["name"] for row in back["categories"]] == names
    assert list(yaml.safe_load((tmp_path / "data.yaml").read_text(encoding="utf-8"))["names"].values()) == names


@pytest.mark.parametrize("name", ["", ".", "..", "/", "../a.jpg", "/a.jpg"])
def test_names_of_images_that_are_no_names(name: str, tmp_path: Path) -> None:
    coco = coco_set([])
    coco["images"][0]["file_name"] = name
    with pytest.raises(UserError, match="outside its folder"):
        write_yolo(coco, tmp_path / "out", "train")
    assert not (tmp_path / "out").exists()


COORDINATES = st.floats(-30, 50).map(lambda number: round(number, 3))
POLYGONS = st.lists(st.lists(COORDINATES, min_size=4, max_size=9), max_size=3)
POINTS = st.lists(st.tuples(COORDINATES, COORDINATES, st.integers(0, 2)), min_size=2, max_size=2)


@st.composite
def coco_sets(draw: st.DrawFn) -> dict[str, Any]:
    """Annotations with and without masks (polygons, good and bad, and run lengths) and keypoints, in and out of their image."""
    with_points, with_masks = draw(st.booleans()), draw(st.booleans())
    rows = []
    for _ in range(draw(st.integers(0, 5))):
        row: dict[str, Any] = {
            "bbox": draw(st.lists(COORDINATES, min_size=4, max_size=4)),
            "iscrowd": int(draw(st.integers(0, 5)) == 0),
        }
        if with_masks and draw(st.booleans()):
            row["segmentation"] = draw(POLYGONS)
        elif with_masks and draw(st.booleans()):
            runs = draw(st.lists(st.integers(1, 60), min_size=1, max_size=8))
            row["segmentation"] = {"size": [10, 20], "counts": [*runs, max(200 - sum(runs), 0)]}
        if with_points and draw(st.booleans()):
            row["keypoints"] = [number for point in draw(POINTS) for number in point]
        rows.append(row)
    return coco_set(rows, **({"keypoints": ["left_a", "right_a"]} if with_points else {}))


@repeatable
@settings(max_examples=EXAMPLES)
@given(coco=coco_sets())
def test_each_annotation_is_written_or_counted(coco: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    back, lost = round_trip(coco, tmp_path_factory.mktemp("set"))
    rows, written = coco["annotations"], back["annotations"]
    clipped = [np.clip([x, y, x + w, y + h], 0, [20, 10, 20, 10]) for x, y, w, h in (row["bbox"] for row in rows)]
    usable = [bool(not row["iscrowd"] and b[2] > b[0] and b[3] > b[1]) for row, b in zip(rows, clipped, strict=True)]
    assert len(written) == sum(usable)
    assert counted(lost, "crowd regions") == sum(row["iscrowd"] for row in rows)
    assert counted(lost, "without area") == len(rows) - sum(usable) - counted(lost, "crowd regions")
    kept = [(row, b) for row, b, use in zip(rows, clipped, usable, strict=True) if use]
    has_points = any(row.get("keypoints") for row in rows if not row["iscrowd"])
    for (row, (x1, y1, x2, y2)), other in zip(kept, written, strict=True):
        if "segmentation" not in other:
            assert other["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-6)
        if has_points:
            for (x, y, seen), point in zip(np.reshape(row.get("keypoints") or [0] * 6, (-1, 3)),
                                           np.reshape(other["keypoints"], (-1, 3)), strict=True):  # fmt: skip
                labelled = seen > 0 and 0 <= x <= 20 and 0 <= y <= 10
                assert point.tolist() == pytest.approx([x, y, seen] if labelled else [0, 0, 0], abs=1e-6)
    masks = sum(bool(row.get("segmentation")) for row, _ in kept)
    if has_points:
        assert counted(lost, " masks") == masks and not any("segmentation" in row for row in written)
        return
    without = counted(lost, "boxes without mask") + counted(lost, "masks without a usable outline")
    has_masks = any(row.get("segmentation") for row in rows if not row["iscrowd"])
    assert sum("segmentation" in row for row in written) == (len(written) if has_masks else 0)
    assert without >= (len(kept) - masks if has_masks else 0)
