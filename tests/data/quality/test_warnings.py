"""``boxwood data check`` finds each fault and none in a valid data set; repaired files can be opened."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from boxwood.data import CocoConfig
from boxwood.data.coco_file import read_coco_file
from boxwood.data.quality.warnings import look_at_sizes
from boxwood.data.synthetic.shapes import write_shapes
from tests.conftest import Boxwood

Tree = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training and four val images of generated shapes."""
    folder = tmp_path_factory.mktemp("sound")
    write_shapes(folder, train=12, val=4, size=(96, 128), seed=5)
    return folder


def first(tree: Tree) -> dict[str, Any]:
    return tree["annotations"][0]


def rename_image(tree: Tree, folder: Path) -> None:
    tree["images"][0]["file_name"] = "none.jpg"


def break_image(tree: Tree, folder: Path) -> None:
    (folder / tree["images"][0]["file_name"]).write_text("no picture")


def cut_image(tree: Tree, folder: Path) -> None:
    path = folder / tree["images"][0]["file_name"]
    path.write_bytes(path.read_bytes()[:-400])


def one_pixel(tree: Tree, folder: Path) -> None:
    Image.new("RGB", (1, 1)).save(folder / tree["images"][0]["file_name"], format="PNG")


def swap_sides(tree: Tree, folder: Path) -> None:
    image = tree["images"][0]
    image["height"], image["width"] = image["width"], image["height"]


def turn_by_exif(tree: Tree, folder: Path) -> None:
    path = folder / tree["images"][0]["file_name"]
    with Image.open(path) as opened:
        pixels, tags = opened.copy(), Image.Exif()
    tags[0x0112] = 6
    pixels.save(path, format="JPEG", exif=tags)


def repeat(key: str, part: str) -> Callable[[Tree, Path], None]:
    def change(tree: Tree, folder: Path) -> None:
        tree[part][1][key] = tree[part][0][key]

    return change


def edit(**values: Any) -> Callable[[Tree, Path], None]:
    return lambda tree, folder: first(tree).update(values)


def duplicate_annotation(tree: Tree, folder: Path) -> None:
    tree["annotations"].append({**first(tree), "id": 10**6})


def rare_class(tree: Tree, folder: Path) -> None:
    tree["categories"].append({"id": 999, "name": "hexagon"})


def names_differ_by_case(tree: Tree, folder: Path) -> None:
    tree["categories"][0]["name"] = tree["categories"][1]["name"].upper()


def move_keypoint(tree: Tree, folder: Path) -> None:
    first(tree)["keypoints"][:3] = [5000, 5000, 2]


def move_keypoint_within_image(tree: Tree, folder: Path) -> None:
    annotation = next(a for a in tree["annotations"] if a["bbox"][0] > 60 and a["bbox"][1] < 60)
    annotation["keypoints"][:3] = [1, 95, 2]


def move_mask(tree: Tree, folder: Path) -> None:
    first(tree)["segmentation"] = [[0, 0, 3, 0, 3, 3]] if first(tree)["bbox"][2] > 10 else [[90, 90, 96, 90, 96, 95]]


FAULTS: dict[str, tuple[Callable[[Tree, Path], None], str]] = {
    "missing image": (rename_image, "images of .* are not in"),
    "corrupt image": (break_image, "images that cannot be read"),
    "truncated image": (cut_image, "images that cannot be read"),
    "image of one pixel": (one_pixel, "images that cannot be read"),
    "sides swapped": (swap_sides, "images of another size than the annotation file says"),
    "turned by EXIF": (turn_by_exif, "without their EXIF orientation"),
    "image id twice": (repeat("id", "images"), "duplicate image ids"),
    "image name twice": (repeat("file_name", "images"), "duplicate image names"),
    "annotation id twice": (repeat("id", "annotations"), "duplicate annotation ids"),
    "category id twice": (repeat("id", "categories"), "duplicate category ids"),
    "category name twice": (repeat("name", "categories"), "duplicate category names"),
    "no such image": (edit(image_id=10**6), "annotations of images that the file does not have"),
    "no such category": (edit(category_id=10**6), "annotations of categories that the file does not have"),
    "box outside": (edit(bbox=[5000, 5000, 10, 10]), "boxes outside their image"),
    "box partly outside": (edit(bbox=[-30, 10, 60, 20]), "boxes partly outside their image"),
    "box without area": (edit(bbox=[10, 10, 0, 5]), "boxes without width or height"),
    "box with nan": (edit(bbox=[10, 10, float("nan"), 5]), "boxes with nan"),
    "area negative": (edit(area=-12.5), "1 annotations whose 'area' is missing or not a positive number"),
    "area missing": (edit(area=None), "1 annotations whose 'area' is missing or not a positive number"),
    "area of text": (edit(area="12"), "1 annotations whose 'area' is missing or not a positive number"),
    "box twice": (duplicate_annotation, "look: 1 duplicate boxes"),
    "rare class": (rare_class, "look: 1 classes with few instances: 'hexagon' has 0"),
    "names differ by case": (names_differ_by_case, "look: 1 classes whose names differ by case"),
    "polygon of two points": (edit(segmentation=[[1, 2, 3, 4]]), "polygon parts with under 3 points"),
    "damaged mask": (edit(segmentation={"size": [96, 128], "counts": [0, 99999]}), "run-length masks that cannot be decoded"),
    "mask of another size": (edit(segmentation={"size": [9, 12], "counts": [0, 108]}), "run-length masks of another size"),
    "mask beside its box": (move_mask, "look: 1 masks that do not meet their boxes"),
    "keypoint outside": (move_keypoint, "look: 1 instances with keypoints outside their image"),
    "keypoint far from its box": (move_keypoint_within_image, "look: 1 instances with keypoints far outside their box"),
}


def planted(sound: Path, folder: Path, change: Callable[[Tree, Path], None]) -> Path:
    """A copy of the valid training set with one fault; returns its annotation file."""
    shutil.copytree(sound / "train", folder / "photos")
    tree: Tree = json.loads((sound / "train.json").read_text())
    change(tree, folder / "photos")
    (folder / "set.json").write_text(json.dumps(tree))
    return folder / "set.json"


def test_a_sound_set(sound: Path, boxwood: Boxwood, tmp_path: Path) -> None:
    done = boxwood("data", "check", sound / "train.json", "--images", sound / "train", "--decode", "--fix", tmp_path / "fixed.json")
    assert done.status == 0 and done.out.splitlines()[1:] == [
        "  nothing wrong",
        f"{tmp_path / 'fixed.json'}: nothing had to be repaired",
    ]
    assert json.loads((tmp_path / "fixed.json").read_text()) == json.loads((sound / "train.json").read_text())


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_repaired(fault: str, sound: Path, boxwood: Boxwood, tmp_path: Path) -> None:
    change, message = FAULTS[fault]
    path, images = planted(sound, tmp_path, change), tmp_path / "photos"
    fixed = tmp_path / "fixed.json"
    before = path.read_text()
    done = boxwood("data", "check", path, "--images", images, "--decode", "--fix", fixed)
    assert done.status == (0 if message.startswith("look") else 1), done.err
    assert re.search(message, done.out), done.out
    assert path.read_text() == before
    again = boxwood("data", "check", fixed, "--images", images, "--decode").out
    assert "refused" not in again, again
    # The remaining findings say only how the image is read, or that an annotation has no mask after its damaged one was removed.
    remaining = [line for line in again.splitlines() if "repaired: " in line]
    assert all("EXIF" in line or "without a mask beside others" in line for line in remaining), again
    dataset = CocoConfig(annotations=str(fixed), images=str(images)).open()
    assert all(len(dataset[index].labels) == len(dataset[index].boxes) for index in range(len(dataset)))
    # At most the annotations of one image or of one class are removed.
    rows = [json.loads(text)["annotations"] for text in (before, fixed.read_text())]
    assert len(rows[0]) - len(rows[1]) <= max(Counter(row["category_id"] for row in rows[0]).values())


def test_images_in_both_sets_and_tiny_boxes(sound: Path, boxwood: Boxwood, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "set")
    shutil.copy(tmp_path / "set" / "train" / "000000.jpg", tmp_path / "set" / "val" / "000001.jpg")
    data = [
        f"data.{part}.{key}={tmp_path / 'set' / part}{end}"
        for part in ("train", "val") for key, end in (("annotations", ".json"), ("images", ""))
    ]  # fmt: skip
    small = ["data.train.transforms.0.short=[8]", "data.val.transforms.0.short=[8]"]
    done = boxwood("data", "check", "demo_shapes", *data)
    assert "train and val:\n  look: 1 images of val that train has too: '000001.jpg' is '000000.jpg' of train" in done.out
    assert "under 4 pixels" not in done.out
    assert "with a side under 4 pixels as the network sees them" in boxwood("data", "check", "demo_shapes", *data, *small).out


def test_box_sizes_are_measured_after_resizing(tmp_path: Path, sound: Path) -> None:
    tree = json.loads((sound / "train.json").read_text())
    for annotation in tree["annotations"]:
        annotation["bbox"] = [10, 10, 8, 30]
    (tmp_path / "set.json").write_text(json.dumps(tree))
    file = read_coco_file(tmp_path / "set.json")
    assert look_at_sizes(file, 48, 1000) == []  # half as large: 4 pixels
    (finding,) = look_at_sizes(file, 47, 1000)
    assert finding.count == len(tree["annotations"])
    (finding,) = look_at_sizes(file, 96, 60)  # the longer side is limited to 60
    assert finding.count == len(tree["annotations"])


def test_wrong_options_are_refused(sound: Path, boxwood: Boxwood, tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    shutil.copy(sound / "train.json", path)
    itself = boxwood("data", "check", path, "--images", sound / "train", "--fix", path)
    assert itself.status == 2 and "is the file itself" in itself.err
    assert "written as .json" in boxwood("data", "check", path, "--images", sound / "train", "--fix", tmp_path / "x.txt").err
    assert "one annotation file" in boxwood("data", "check", "demo_shapes", "--fix", tmp_path / "x.json").err
    (tmp_path / "empty").mkdir()
    nothing = boxwood("data", "check", path, "--images", tmp_path / "empty", "--fix", tmp_path / "x.json")
    assert nothing.status == 2 and "nothing is left to repair" in nothing.err and not (tmp_path / "x.json").exists()
