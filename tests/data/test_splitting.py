"""Dividing data sets: nothing is lost, groups stay whole, shares and classes are as asked, a seed gives the same parts again."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood.cli.data import data
from boxwood.data.coco_file import coco_file_of
from boxwood.data.splitting import divide
from boxwood.errors import UserError
from boxwood.library.split import split
from tests.conftest import repeatable


def tree_of(classes_of_images: list[set[int]], names: list[str] | None = None) -> dict[str, Any]:
    """A COCO file whose image i shows each of its classes once."""
    names = names or [f"{row}.jpg" for row in range(len(classes_of_images))]
    pairs = [(row, label) for row, labels in enumerate(classes_of_images) for label in sorted(labels)]
    return {
        "info": {"year": 2017},
        "images": [{"id": 7 * row + 1, "file_name": name, "height": 10, "width": 10} for row, name in enumerate(names)],
        "annotations": [
            {
                "id": number,
                "image_id": 7 * row + 1,
                "category_id": label,
                "bbox": [1, 1, 5, 5],
                "area": 25,
                "iscrowd": 0,
                "by": "me",
            }
            for number, (row, label) in enumerate(pairs, start=1)
        ],
        "categories": [{"id": label, "name": f"class {label}", "colour": "red"} for label in range(1, 5)],
    }


def written(tree: dict[str, Any], folder: Path, **options: Any) -> dict[str, dict[str, Any]]:
    (folder / "all.json").write_text(json.dumps(tree))
    result = split(folder / "all.json", folder / "parts", **options)
    return {name: json.loads(part.path.read_text()) for name, part in result.parts.items()}


IMAGES = st.lists(st.sets(st.integers(1, 4), max_size=3), min_size=6, max_size=30)


@repeatable
@settings(max_examples=40)
@given(
    classes=IMAGES,
    val=st.sampled_from([0.1, 0.2, 0.5]),
    test=st.sampled_from([0.0, 0.15]),
    seed=st.integers(0, 5),
    per_group=st.integers(1, 4),
)
def test_nothing_is_lost_and_groups_are_whole(
    classes: list[set[int]], val: float, test: float, seed: int, per_group: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "split"
    folder.mkdir(exist_ok=True)
    if len(classes) <= 2 * per_group:
        per_group = 1
    tree = tree_of(classes)
    for row, image in enumerate(tree["images"]):
        image["video_id"] = row // per_group
    options: dict[str, Any] = {"val": val, "test": test, "seed": seed, "by_group": "video_id"}
    parts = written(tree, folder, **options)
    for section in ("images", "annotations"):
        rows = [json.dumps(row, sort_keys=True) for part in parts.values() for row in part[section]]
        assert sorted(rows) == sorted(json.dumps(row, sort_keys=True) for row in tree[section])
    for part in parts.values():
        assert {key: part[key] for key in ("info", "categories")} == {key: tree[key] for key in ("info", "categories")}
        assert part["images"] and {row["image_id"] for row in part["annotations"]} <= {row["id"] for row in part["images"]}
    parts_of_group: dict[int, set[str]] = {}
    for name, part in parts.items():
        for image in part["images"]:
            parts_of_group.setdefault(image["video_id"], set()).add(name)
    assert all(len(names) == 1 for names in parts_of_group.values())
    assert written(tree, folder, **options) == parts


@settings(max_examples=60)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=30), st.integers(0, 5))
def test_each_class_is_in_train_and_val(labels: list[int], seed: int) -> None:
    """Of images with one class each: every class with two images or more."""
    file = coco_file_of(tree_of([{label} for label in labels]), "all.json")
    parts = divide(file, [0.8, 0.2], seed=seed)
    for label, count in Counter(labels).items():
        if count > 1:
            assert {part for part, other in zip(parts.tolist(), labels, strict=True) if other == label} == {0, 1}


@settings(max_examples=60)
@given(st.lists(st.sets(st.integers(1, 3), min_size=1, max_size=2), min_size=4, max_size=8))
def test_classes_of_shared_images_are_in_both_parts_where_that_is_possible(classes: list[set[int]]) -> None:
    """Against all divisions: as many classes are in both parts as in the best of them, or one fewer."""
    several = [label for label, count in Counter(label for labels in classes for label in labels).items() if count > 1]

    def covered(parts: Any) -> int:
        return sum(len({part for part, labels in zip(parts, classes, strict=True) if label in labels}) == 2 for label in several)

    parts = divide(coco_file_of(tree_of(classes), "all.json"), [0.7, 0.3]).tolist()
    assert covered(parts) >= max(map(covered, product((0, 1), repeat=len(classes)))) - 1


def test_shares_of_images_and_classes() -> None:
    """1,000 images: 600 with class 1, of which 100 with class 2 too; 50 with class 3; 350 with none."""
    classes = [{1, 2}] * 100 + [{1}] * 500 + [{3}] * 50 + [set()] * 350
    parts = divide(coco_file_of(tree_of(classes), "all.json"), [0.7, 0.2, 0.1])
    counts = {number: np.bincount(parts[[number in labels for labels in classes]], minlength=3).tolist() for number in (1, 2, 3)}
    assert np.bincount(parts).tolist() == pytest.approx([700, 200, 100], abs=2)
    assert counts[1] == pytest.approx([420, 120, 60], abs=2)
    assert counts[2] == pytest.approx([70, 20, 10], abs=1) and counts[3] == pytest.approx([35, 10, 5], abs=1)
    assert parts.tolist() != divide(coco_file_of(tree_of(classes), "all.json"), [0.7, 0.2, 0.1], seed=1).tolist()


def test_a_class_of_one_image_is_learnt() -> None:
    """The one image of a class is in train, and images of which each has a class of its own are divided all the same."""
    one = divide(coco_file_of(tree_of([{1}, {1}, {1}, {1}, {2}]), "all.json"), [0.8, 0.2])
    assert one[-1] == 0 and one.tolist().count(1) == 1
    assert sorted(divide(coco_file_of(tree_of([{1}, {2}, {3}, {4}]), "all.json"), [0.5, 0.5]).tolist()) == [0, 0, 1, 1]


def test_groups_of_folders_names_and_roboflows_copies(tmp_path: Path) -> None:
    names = [f"{letter}/{number}_{letter}.jpg" for letter in "abcdef" for number in range(3)]
    tree = tree_of([{1}] * 18, names)
    for options in ({"by_group": "folder"}, {"by_name": r"_([a-f])\.jpg$"}, {"by_name": "^[a-f]"}):
        parts = written(tree, tmp_path, val=0.5, **options)
        letters = {name: {row["file_name"][0] for row in part["images"]} for name, part in parts.items()}
        assert letters["train"] | letters["val"] == set("abcdef") and not letters["train"] & letters["val"]
    copies = tree_of([{1}] * 18, [f"{number % 3}_jpg.rf.{number:032x}.jpg" for number in range(18)])
    pictures = [{row["file_name"][0] for row in part["images"]} for part in written(copies, tmp_path).values()]
    assert sorted(map(len, pictures)) == [1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val": 0.5, "test": 0.5}, "must be fractions of the images, val above 0 and both together under 1"),
        ({"val": 0.0}, "val above 0"),
        ({"by_group": "patient"}, "image '0.jpg' has no 'patient' to group by; its keys are file_name, height, id, width"),
        ({"by_name": "("}, "is no regular expression"),
        ({"by_name": "slide"}, "does not match the image '0.jpg'"),
        ({"by_group": "folder"}, r"has 1 group\(s\) of images that must stay together, which do not make 2 parts"),
        ({"by_group": "folder", "by_name": "a"}, "choose one"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        written(tree_of([{1}] * 4), tmp_path, **options)
    assert not (tmp_path / "parts").exists()


def test_the_source_is_not_written_over(tmp_path: Path) -> None:
    before = json.dumps(tree_of([{1}] * 4))
    (tmp_path / "train.json").write_text(before)
    with pytest.raises(UserError, match="is the source, which stays as it is; name another folder"):
        split(tmp_path / "train.json", tmp_path)
    assert (tmp_path / "train.json").read_text() == before and not (tmp_path / "val.json").exists()


def test_the_command_prints_counts_and_the_keys_to_train(tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text(json.dumps(tree_of([{1}] * 10 + [{2}] * 5)))
    arguments = ["split", tmp_path / "all.json", "--images", "photos", "--out", tmp_path / "parts", "--test", 0.2]
    result = CliRunner().invoke(data, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    assert rows[0] == ["train", "val", "test"] and rows[1] == ["images", "9", "3", "3"]
    assert rows[2] == ["class", "1", "6", "2", "2"] and rows[3] == ["class", "2", "3", "1", "1"]
    assert (
        f"data.train.annotations={tmp_path / 'parts' / 'train.json'} data.train.images=photos data.val.annotations="
        in result.output
    )
