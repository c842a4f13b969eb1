"""Each element of a source is in what was read, or in the list of what was lost; and of a data set, in the files that were written.

Generated files of each format are read, and elements are counted in three places: in the description that the file was made of, in
the COCO dictionary, and in the list. Damaged files are read or refused in one line.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from boxwood.data.coco_file import coco_file_of
from boxwood.data.formats.cityscapes import CLASSES, read_cityscapes
from boxwood.data.formats.convert import convert
from boxwood.data.formats.cvat import read_cvat
from boxwood.data.formats.lvis import read_lvis
from boxwood.data.formats.open_images import read_open_images
from boxwood.data.formats.reading import Reading
from boxwood.data.formats.tensorflow_csv import read_tensorflow_csv
from boxwood.data.formats.voc import read_voc
from boxwood.errors import UserError
from tests.conftest import repeatable

SETTINGS = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
Row = dict[str, Any]

LABELS = st.sampled_from(["nut", "fig", "jaune clair", "a<b&c", "cat"])
STEMS = st.from_regex(r"[a-zé]([a-z0-9.é -]{0,4}[a-z0-9])?", fullmatch=True)
FLAGS = {"": False, "0": False, "no": False, "False": False, "1": True, "yes": True, "True": True}
WIDTH, HEIGHT = 40, 30


def counts_of(lost: Sequence[str]) -> dict[str, int]:
    """The counts of a list of what was lost, by description."""
    counts: dict[str, int] = {}
    for entry in lost:
        number, _, what = entry.partition(" ")
        assert number.replace(",", "").isdecimal() and what not in counts, entry
        counts[what] = int(number.replace(",", ""))
    return counts


def without_zeros(counts: Mapping[str, int]) -> dict[str, int]:
    return {what: count for what, count in counts.items() if count}


def assert_instances(coco: Row, expected: list[tuple[str, str, list[float], int]]) -> None:
    """The instances are these (file name, class, box, crowd), in any order."""
    names = {row["id"]: row["name"] for row in coco["categories"]}
    files = {row["id"]: row["file_name"] for row in coco["images"]}
    actual = [(files[row["image_id"]], names[row["category_id"]], row["bbox"], row["iscrowd"]) for row in coco["annotations"]]

    def order(instance: tuple[str, str, list[float], int]) -> Any:
        return instance[0], instance[1], [round(number, 3) for number in instance[2]], instance[3]

    assert len(actual) == len(expected)
    for (*facts, box, crowd), (*expected_facts, expected_box, expected_crowd) in zip(
        sorted(actual, key=order), sorted(expected, key=order), strict=True
    ):
        assert facts == expected_facts and crowd == expected_crowd
        np.testing.assert_allclose(box, expected_box, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------------- VOC


@st.composite
def voc_objects(draw: st.DrawFn) -> Row:
    corners = st.tuples(*[st.integers(1, side) for side in (WIDTH, HEIGHT, WIDTH, HEIGHT)])
    points = st.lists(st.tuples(st.integers(1, WIDTH), st.integers(1, HEIGHT)), min_size=3, max_size=5)
    return {
        "name": draw(LABELS),
        "boxes": draw(st.lists(corners, max_size=2)),
        "polygons": draw(st.lists(st.tuples(points, st.booleans()), max_size=2)),  # points, and whether the last y is missing
        **{key: draw(st.sampled_from([*FLAGS])) for key in ("difficult", "truncated", "occluded")},
        "pose": draw(st.sampled_from(["", "Unspecified", "Left"])),
        "others": draw(st.lists(st.sampled_from(["part", "robndbox", "keypoints"]), max_size=2)),
    }


def voc_element(thing: Row) -> str:
    texts = [f"<name> {escape(thing['name'])}\n</name>"]
    texts += [f"<{key}>{thing[key]}</{key}>" for key in ("difficult", "truncated", "occluded", "pose") if thing[key]]
    for x1, y1, x2, y2 in thing["boxes"]:
        texts.append(f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>")
    for points, cut in thing["polygons"]:
        numbers = [f"<{axis}{i}>{point['xy'.index(axis)]}</{axis}{i}>" for i, point in enumerate(points, start=1) for axis in "xy"]
        texts.append(f"<polygon>{''.join(numbers[:-1] if cut else numbers)}</polygon>")
    texts += [f"<{tag}><name>x</name></{tag}>" for tag in thing["others"]]
    return f"<object>{''.join(texts)}</object>"


VOC_SETS = st.dictionaries(
    st.lists(STEMS, min_size=1, max_size=2).map("/".join),
    st.tuples(st.lists(voc_objects(), max_size=3), st.sampled_from([".jpg", ".PNG", ".jfif"]), st.booleans()),
    min_size=1,
    max_size=3,
)
"""Objects, the picture's ending, and whether the XML knows its size, of each stem."""


@repeatable
@SETTINGS
@given(images=VOC_SETS, flat=st.booleans(), more=st.sets(st.sampled_from(["q1.png", "q2.heic", "q/3.wmv", "._q.jpg"])))
def test_voc(images: dict[str, Any], flat: bool, more: set[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("voc")
    xml, pictures = (folder, folder) if flat else (folder / "Annotations", folder / "JPEGImages")
    instances: list[tuple[str, str, list[float], int]] = []
    lost: Counter[str] = Counter()
    num_polygons = num_difficult = 0
    for stem, (things, ending, sized) in images.items():
        for place in (xml, pictures):
            (place / stem).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(pictures / f"{stem}{ending}", format="PNG")
        size = f"<size><width>{WIDTH * sized}</width><height>{HEIGHT * sized}</height></size>"
        content = "".join(map(voc_element, things))
        (xml / f"{stem}.xml").write_text(f"<annotation>{size}{content}</annotation>", encoding="utf-8")
        for thing in things:
            whole = [points for points, cut in thing["polygons"] if not cut]
            lost["polygons that are not complete"] += len(thing["polygons"]) - len(whole)
            lost["boxes of objects that have another"] += max(0, len(thing["boxes"]) - 1)
            lost["objects without a box"] += not thing["boxes"] and not whole
            lost["marks of truncated objects"] += FLAGS[thing["truncated"]]
            lost["marks of occluded objects"] += FLAGS[thing["occluded"]]
            lost["poses"] += thing["pose"] == "Left"
            for tag in thing["others"]:
                lost["parts of objects" if tag == "part" else f"elements <{tag}> of objects"] += 1
            num_polygons += len(whole)
            if thing["boxes"] or whole:
                num_difficult += FLAGS[thing["difficult"]]
                instances.append((f"{stem}{ending}", thing["name"], voc_box(thing, whole), 0))
    for name in more:
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        (pictures / name).write_bytes(b"")
        lost["pictures without an XML file"] += name == "q1.png"
        if name.endswith(("heic", "wmv")):
            lost[f"pictures of a format that is not read ({Path(name).suffix})"] += 1
    coco, place, actual = read_voc(folder)
    assert place == pictures and {row["file_name"] for row in coco["images"]} == {f"{s}{images[s][1]}" for s in images}
    assert all((row["width"], row["height"]) == (WIDTH, HEIGHT) for row in coco["images"])
    assert_instances(coco, instances)
    assert sum(len(row.get("segmentation", ())) for row in coco["annotations"]) == num_polygons
    assert sum(row["ignore"] for row in coco["annotations"]) == num_difficult
    assert counts_of(actual) == without_zeros(lost)


def voc_box(thing: Row, polygons: list[list[tuple[int, int]]]) -> list[float]:
    """The COCO box: pixels from 1 to the last one; a side of xmax = xmin - 1 is empty. Or the extent of the pixels' centres."""
    if not thing["boxes"]:
        xs, ys = ([point[axis] - 0.5 for points in polygons for point in points] for axis in (0, 1))
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    x1, y1, x2, y2 = thing["boxes"][0]
    sides = [
        (first - 1, 0) if last == first - 1 else (min(first, last) - 1, abs(last - first) + 1)
        for first, last in ((x1, x2), (y1, y2))
    ]
    return [sides[0][0], sides[1][0], sides[0][1], sides[1][1]]


# ---------------------------------------------------------------------------------------------------------------- CVAT

CVAT_SHAPES = {
    "box": {"xtl": "1", "ytl": "2", "xbr": "11", "ybr": "6"},
    "polygon": {"points": "0,0;4,0;4,3"},
    "mask": {"rle": "1,2,3", "left": "10", "top": "5", "width": "3", "height": "2"},
    "polyline": {"points": "0,0;4,0"},
    "ellipse": {"cx": "4", "cy": "4", "rx": "1", "ry": "2", "rotation": "30"},
    "skeleton": {},
    "tag": {},
}
BOXES_OF = {"box": [1, 2, 10, 4], "polygon": [0, 0, 4, 3], "mask": [11, 5, 2, 1]}


@st.composite
def cvat_shapes(draw: st.DrawFn) -> Row:
    return {
        "kind": draw(st.sampled_from([*CVAT_SHAPES])),
        "label": draw(LABELS),
        "turns": draw(st.integers(0, 3)),
        **{key: draw(st.sampled_from(["", "0", "1"])) for key in ("occluded", "group_id")},
        "attributes": draw(st.integers(0, 2)),
    }


CVAT_IMAGES = st.tuples(STEMS, st.sampled_from(["", "Train", "Val"]), st.lists(cvat_shapes(), max_size=4))


@repeatable
@SETTINGS
@given(images=st.lists(CVAT_IMAGES, min_size=1, max_size=3, unique_by=lambda image: image[:2]), tracks=st.integers(0, 1))
def test_cvat(images: list[Any], tracks: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cvat") / "annotations.xml"
    by_subset = len({name for name, *_ in images}) < len(images)
    instances: list[tuple[str, str, list[float], int]] = []
    lost: Counter[str] = Counter({"elements <track>": tracks})
    text = "<track/>" * tracks
    for name, subset, shapes in images:
        content = ""
        for shape in shapes:
            kind = shape["kind"]
            facts = {
                "label": shape["label"],
                **CVAT_SHAPES[kind],
                **{key: shape[key] for key in ("occluded", "group_id") if shape[key]},
            }
            if kind == "box":
                facts["rotation"] = str(90 * shape["turns"])
            attributes = '<attribute name="a">b</attribute>' * shape["attributes"]
            content += f"<{kind} {' '.join(f'{key}={quoteattr(value)}' for key, value in facts.items())}>{attributes}</{kind}>"
            if kind not in BOXES_OF:
                lost["tags of whole images" if kind == "tag" else f"shapes of the kind {kind}"] += 1
                continue
            turned = kind == "box" and shape["turns"] % 2
            lost["rotations of boxes (their extents are read)"] += turned
            lost["attributes of shapes"] += shape["attributes"]
            lost["marks of occluded shapes"] += shape["occluded"] == "1"
            lost["groups of shapes"] += shape["group_id"] == "1"
            file_name = f"{subset}/{name}" if by_subset and subset else name
            instances.append((file_name, shape["label"], [4, -1, 4, 10] if turned else BOXES_OF[kind], 0))
        mark = f" subset={quoteattr(subset)}" if subset else ""
        text += f'<image name={quoteattr(name)}{mark} width="{WIDTH}" height="{HEIGHT}">{content}</image>'
    path.write_text(f"<annotations>{text}</annotations>", encoding="utf-8")
    coco, _, actual = read_cvat(path)
    assert len(coco["images"]) == len({row["file_name"] for row in coco["images"]}) == len(images)
    assert_instances(coco, instances)
    assert sum("segmentation" in row for row in coco["annotations"]) == sum(
        shape["kind"] in ("polygon", "mask") for *_, shapes in images for shape in shapes
    )
    assert counts_of(actual) == without_zeros(lost)


# ---------------------------------------------------------------------------------------------------------- Cityscapes

CITY_OBJECTS = st.fixed_dictionaries(
    {
        "label": st.sampled_from(["car", "person", "cargroup", "road", "static", "license plate", "unknown"]),
        "polygon": st.lists(st.tuples(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1)).map(list), max_size=4),
    },
    optional={"deleted": st.integers(0, 1)},
)


@repeatable
@SETTINGS
@given(objects=st.lists(CITY_OBJECTS, max_size=6))
def test_cityscapes(objects: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("city") / "ulm"
    folder.mkdir()
    (folder / "._ulm_gtFine_polygons.json").write_bytes(b"\0")
    tree = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
    (folder / "ulm_gtFine_polygons.json").write_text(json.dumps(tree))
    coco, _, lost = read_cityscapes(folder)
    counts = counts_of(lost)
    passed = [o for o in objects if o.get("deleted") or o["label"] == "license plate" or len(o["polygon"]) < 3]
    others = [o for o in objects if o not in passed and o["label"].removesuffix("group") not in CLASSES]
    assert counts.pop("polygons that are deleted, license plates, or of under 3 points", 0) == len(passed)
    assert counts.pop("polygons of other classes (they only hide instances)", 0) == len(others)
    hidden = counts.pop("instances that others hide", 0)
    assert not counts and len(coco["annotations"]) + hidden == len(objects) - len(passed) - len(others)
    assert hidden <= max(0, len(objects) - 1)  # the last one painted is seen


# -------------------------------------------------------------------------------------------------------------- tables


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


SHARES = st.integers(0, 8).map(lambda eighth: eighth / 8)
OPEN_IMAGES_ROWS = st.fixed_dictionaries(
    {
        "ImageID": st.sampled_from(["a", "b", "missing"]),
        "LabelName": LABELS,
        **dict.fromkeys(("XMin", "XMax", "YMin", "YMax"), SHARES),
        "Source": st.just("xclick"),
        **dict.fromkeys(("IsGroupOf", "IsOccluded", "IsDepiction"), st.sampled_from(["0", "1", "-1"])),
    }
)


@repeatable
@SETTINGS
@given(rows=st.lists(OPEN_IMAGES_ROWS, max_size=6), more=st.sets(st.sampled_from(["a.png", "c.heic", "._b.jpg"])))
def test_open_images(rows: list[Row], more: set[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("open")
    (folder / "images").mkdir()
    for name in ("a.jpg", "b.jfif", *sorted(more)):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / name, format="PNG")
    columns = ["ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "Source", "IsGroupOf", "IsOccluded", "IsDepiction"]
    coco, _, actual = read_open_images(write_csv(folder / "boxes.csv", columns, rows), folder / "images")
    there = [row for row in rows if row["ImageID"] != "missing"]
    names = {"a": "a.jpg", "b": "b.jfif"}
    expected = []
    for row in there:
        (x1, x2), (y1, y2) = sorted((row["XMin"], row["XMax"])), sorted((row["YMin"], row["YMax"]))
        box = [x1 * WIDTH, y1 * HEIGHT, (x2 - x1) * WIDTH, (y2 - y1) * HEIGHT]
        expected.append((names[row["ImageID"]], row["LabelName"], box, int(row["IsGroupOf"] == "1")))
    assert_instances(coco, expected)
    lost = {
        f"boxes of images that are not in {folder / 'images'}": len(rows) - len(there),
        f"images of the table are not in {folder / 'images'}": int(len(rows) > len(there)),
        "images that differ from others in their ending alone": int("a.png" in more),
        "pictures of a format that is not read (.heic)": int("c.heic" in more),
        **{f"values of the column {key}": sum(row[key] == "1" for row in there) for key in ("IsOccluded", "IsDepiction")},
    }
    assert counts_of(actual) == without_zeros(lost)


TENSORFLOW_ROWS = st.fixed_dictionaries(
    {
        "filename": st.sampled_from(["a.jpg", "é b.png", "sub/c.jpg"]),
        "width": st.just(WIDTH),
        "height": st.just(HEIGHT),
        "class": LABELS,
        **dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), st.integers(0, 30) | st.floats(0, 30, width=32)),
        "confidence": st.sampled_from(["", "0.5"]),
    }
)


@repeatable
@SETTINGS
@given(rows=st.lists(TENSORFLOW_ROWS, min_size=1, max_size=6), more=st.sets(st.sampled_from(["x.png", "y.heic", "a.jpg"])))
def test_tensorflow_csv(rows: list[Row], more: set[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tf")
    for name in more:
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name, format="PNG")
    coco, _, actual = read_tensorflow_csv(write_csv(folder / "a.csv", list(rows[0]), rows), folder)
    expected = []
    for row in rows:
        (x1, x2), (y1, y2) = sorted((row["xmin"], row["xmax"])), sorted((row["ymin"], row["ymax"]))
        expected.append((row["filename"], row["class"], [x1, y1, x2 - x1, y2 - y1], 0))
    assert_instances(coco, expected)
    lost = {
        "values of the column confidence": sum(bool(row["confidence"]) for row in rows),
        "pictures without a line": len({name for name in more if name != "y.heic"} - {row["filename"] for row in rows}),
        "pictures of a format that is not read (.heic)": int("y.heic" in more),
    }
    assert counts_of(actual) == without_zeros(lost)


# -------------------------------------------------------------------------------------------------------- COCO and LVIS

OTHER_KEYS = ("license", "attributes", "track_id", "score", "source")
ORIGIN = {"score", "source"}
"""Of annotations, carried where they are a number and a text."""
KEYS = st.dictionaries(st.sampled_from(OTHER_KEYS), st.sampled_from([0, 3, "x", {"a": 1}]))


@st.composite
def coco_sets(draw: st.DrawFn) -> Row:
    """Data sets with masks, keypoints, crowds, objects to ignore, keys of other programs, boxes of any size, and folders."""
    names = draw(st.lists(LABELS, min_size=1, max_size=3, unique=True))
    stems = draw(st.lists(st.lists(STEMS, min_size=1, max_size=2).map("/".join), min_size=1, max_size=3, unique=True))
    images, annotations = [], []
    for image_id, stem in enumerate(stems, start=3):
        images.append({"id": image_id, "file_name": f"{stem}.jpg", "height": HEIGHT, "width": WIDTH, **draw(KEYS)})
        for _ in range(draw(st.integers(0, 3))):
            x, y, w, h = (draw(st.floats(-1, 20, width=16)) for _ in range(4))
            row: Row = {
                "id": len(annotations) + 9,
                "image_id": image_id,
                "category_id": draw(st.integers(1, len(names))),
                "bbox": [x, y, w, h],
            }
            row |= {"area": 1.5 + abs(w * h), "iscrowd": 0, **draw(KEYS)}
            kind = draw(st.sampled_from(["", "polygon", "rle", "crowd", "ignore", "keypoints"]))
            if kind in ("rle", "crowd"):
                row |= {
                    "segmentation": {"size": [HEIGHT, WIDTH], "counts": [5, 6, HEIGHT * WIDTH - 11]},
                    "iscrowd": int(kind == "crowd"),
                }
            row |= {"segmentation": [[1, 2, 9, 2, 9, 9]]} if kind == "polygon" else {}
            row |= {"keypoints": [3, 4, 2], "num_keypoints": 1} if kind == "keypoints" else {}
            annotations.append(row | ({"ignore": 1} if kind == "ignore" else {}))
    categories = [{"id": number, "name": name, **draw(KEYS)} for number, name in enumerate(names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories, **draw(KEYS)}


def other_keys(tree: Row, sections: Sequence[str], carried: Callable[[str, Any], bool]) -> Counter[str]:
    """The keys of other programs, without those of annotations that are ``carried``, by key and value."""
    return Counter(
        f"'{key}' of {section}"
        for section in sections
        for row in tree[section]
        for key, value in row.items()
        if key in OTHER_KEYS and not (section == "annotations" and carried(key, value))
    )


def is_origin(key: str, value: Any) -> bool:
    return (key == "score" and type(value) is int) or (key == "source" and type(value) is str)


@repeatable
@SETTINGS
@given(tree=coco_sets())
def test_coco(tree: Row, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a COCO file has beyond COCO's keys is counted, all else is the same."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "a.json").write_text(json.dumps(tree))
    lost = counts_of(convert(folder / "a.json", None, folder / "b.json").not_carried)
    back = json.loads((folder / "b.json").read_text())
    sections = Counter(f"section '{key}'" for key in tree.keys() - {"images", "annotations", "categories"} if tree[key])
    assert lost == {**other_keys(tree, ("images", "annotations"), is_origin), **sections}
    assert back["categories"] == tree["categories"]
    for section in ("images", "annotations"):
        assert back[section] == [
            {
                key: value
                for key, value in row.items()
                if key not in OTHER_KEYS or (section == "annotations" and is_origin(key, value))
            }
            for row in tree[section]
        ]


@repeatable
@SETTINGS
@given(tree=coco_sets())
def test_coco_written_as_voc(tree: Row, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("voc")
    (folder / "a.json").write_text(json.dumps(tree))
    lost = counts_of(
        [x for x in convert(folder / "a.json", "voc", folder / "v").not_carried if x != "the ids of images and classes"]
    )
    coco, _, lost_again = read_voc(folder / "v", "train")
    assert not lost_again
    assert [row["file_name"] for row in coco["images"]] == [row["file_name"] for row in tree["images"]]
    rows = tree["annotations"]
    written = [row for row in rows if min(row["bbox"][2:]) >= 0]
    files = {row["id"]: row["file_name"] for row in tree["images"]}
    names = {row["id"]: row["name"] for row in tree["categories"]}
    assert_instances(coco, [(files[row["image_id"]], names[row["category_id"]], row["bbox"], 0) for row in written])
    assert sum(row["ignore"] for row in coco["annotations"]) == sum(row["iscrowd"] or row.get("ignore", 0) for row in written)
    origins = [{key: row[key] for key in ORIGIN & row.keys()} for row in coco["annotations"]]
    assert origins == [{key: row[key] for key in ORIGIN & row.keys() if is_origin(key, row[key])} for row in written]
    expected = {
        "classes without instances": len(names) - len({row["category_id"] for row in written}),
        "boxes of negative width or height (left out)": len(rows) - len(written),
        "masks": sum("segmentation" in row for row in rows),
        "sets of keypoints": sum("keypoints" in row for row in rows),
        "crowd regions (they are difficult objects there)": sum(row["iscrowd"] for row in rows),
        **other_keys(tree, ("images", "annotations", "categories"), is_origin),
        **{f"section '{key}'": bool(tree[key]) for key in tree.keys() - {"images", "annotations", "categories"}},
    }
    assert lost == without_zeros(expected)


@repeatable
@SETTINGS
@given(tree=coco_sets())
def test_lvis(tree: Row, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is lost: every key is read, beside the names that are made of addresses."""
    path = tmp_path_factory.mktemp("lvis") / "a.json"
    for row in tree["images"]:
        row["coco_url"] = f"http://images.cocodataset.org/{'/'.join(['val2017', *row.pop('file_name').split('/')][-2:])}"
    path.write_text(json.dumps(tree))
    coco, _, lost = read_lvis(path)
    assert not lost and [row.pop("file_name") for row in coco["images"]] == [
        "/".join(r["coco_url"].split("/")[-2:]) for r in tree["images"]
    ]
    assert coco == tree


# ------------------------------------------------------------------------------------------------------- damaged files

SOUND: dict[str, tuple[str, str, Callable[[Path], Reading]]] = {
    "voc": (
        "a.xml",
        f"<annotation><filename>a.jpg</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height></size><object><name>nut</name>"
        "<difficult>0</difficult><polygon><x1>1</x1><y1>2</y1><x2>9</x2><y2>2</y2><x3>9</x3><y3>9</y3></polygon>"
        "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>",
        lambda path: read_voc(path.parent),
    ),
    "cvat": (
        "a.xml",
        f'<annotations><image name="a.jpg" width="{WIDTH}" height="{HEIGHT}"><box label="nut" xtl="1" ytl="2" xbr="3" ybr="4" '
        'rotation="1" occluded="0"/><polygon label="fig" points="1,2;3,4;5,9"/><mask label="nut" rle="3,3,3" left="2" top="2" '
        'width="3" height="3"/><tag label="nut"/></image></annotations>',
        read_cvat,
    ),
    "cityscapes": (
        "a_gtFine_polygons.json",
        json.dumps(
            {"imgHeight": 9, "imgWidth": 9, "objects": [{"label": "car", "polygon": [[1, 1], [5, 1], [5, 5]], "deleted": 0}]}
        ),
        lambda path: read_cityscapes(path.parent),
    ),
    "open_images": (
        "a.csv",
        "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\na,nut,0.1,0.5,0.1,0.5,0\nb,fig,0.2,0.5,0.1,0.5,1\n",
        lambda path: read_open_images(path, path.parent),
    ),
    "tensorflow_csv": (
        "a.csv",
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,40,30,nut,1,2,3,4\na.jpg,40,30,fig,1,2,3,4\n",
        read_tensorflow_csv,
    ),
}
PIECES = [
    "",
    "0",
    "-1",
    "1e400",
    "nan",
    "inf",
    "1;2;3",
    "é",
    "\0",
    "\ud800",
    "<",
    ">",
    '"',
    "&#x41;",
    "\n",
    ",",
    "[]",
    "{}",
    "null",
    "9" * 400,
    "../" * 9,
]


@repeatable
@SETTINGS
@given(
    form=st.sampled_from([*SOUND]),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.booleans(), st.sampled_from(PIECES)), min_size=1, max_size=3),
)
def test_damaged_files_are_read_or_refused_in_one_line(
    form: str, changes: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A value, or a word anywhere in the file, is replaced."""
    name, text, read = SOUND[form]
    for place, value, piece in changes:
        pattern = r'(?<=[>"=,: ])[^<>",:\s]+(?=[<",;\s])' if value else r"\w+|\W"
        words = [match.span() for match in re.finditer(pattern, text)] or [(0, 0)]
        start, stop = words[place % len(words)]
        text = text[:start] + piece + text[stop:]
    folder = tmp_path_factory.mktemp(form)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "a.jpg")
    (folder / name).write_bytes(text.encode("utf-8", errors="surrogatepass"))
    message = refusal(read, folder / name)
    assert "\n" not in message and len(message) < 600


def refusal(read: Callable[[Path], Reading], path: Path) -> str:
    """The message by which a file is refused; empty where it is read."""
    try:
        reading = read(path)
        counts_of(reading.lost)
        coco_file_of(reading.coco, path)
    except UserError as error:
        return str(error)
    return ""
