"""A property of ``data check``: a file without a refused fault opens and every sample loads; a repaired one has no such fault, and
each row that it lacks is counted.

The files are a valid one with random changes: keys and rows removed, values of other types, swapped, nested, huge, nan.
"""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood.data import CocoDataset, HorizontalFlip, ResizeShortestEdge
from boxwood.data.loader import Place, collate, transformed_sample
from boxwood.errors import UserError
from boxwood.library.check import check, repair
from boxwood.library.statistics import statistics
from tests.conftest import repeatable
from tests.data.cases import sound, write


def valid() -> dict[str, Any]:
    """Polygons, both kinds of run lengths, a crowd region, an ignored instance, keypoints with a skeleton."""
    tree = sound()
    for category in tree["categories"]:
        category.update(keypoints=["left_end", "right_end"], skeleton=[[1, 2]], supercategory="fruit")
    for annotation in tree["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation.update(keypoints=[x, y, 2, x + width - 1, y + height - 1, 1], num_keypoints=2)
    tree["annotations"].append({**copy.deepcopy(tree["annotations"][0]), "id": 14, "bbox": [3, 5, 9, 19], "ignore": 1})
    return tree


VALUES = st.sampled_from(
    [
        *(
            None,
            True,
            False,
            0,
            1,
            -1,
            2,
            0.5,
            1.5,
            -0.0,
            70,
            900,
            12.0,
            2**31,
            2**53 + 1,
            2**63 - 1,
            2**63,
            -(2**63),
            2**64,
            10**400,
        ),
        *(float("nan"), float("inf"), -float("inf"), 1e300, -1e300, 1e-300, 5e18, 1e7),
        *(
            "",
            "a",
            "1",
            "007",
            "12",
            "nan",
            "1e5",
            "b'X1d0'",
            "none",
            "fruit",
            "\ud800",
            "\0",
            "../a",
            "a\\b.png",
            "http://[",
            "%ff",
        ),
        *("x" * 5000, "wide.png", "x?d=wide.png", "C:\\wide.png", "left_end", "0123", "~" * 40, "S>7Q100000mg1", "\x1b[31m"),
        *([], {}, [[]], [[[]]], [None], [1, 2], [0, 1], [[0, 1]], [[1, 3]], ["left_end", "right_end"], [0.1, 0.2, 0.3, 0.4]),
        *(
            [1, 2, 3, 4],
            [-5, -5, 3, 3],
            [20, 20, -4, -9],
            [0] * 6,
            [1.0] * 6,
            ["1", "2", "3", "4"],
            [1e300] * 4,
            [float("nan")] * 4,
        ),
        *({"size": [40, 60], "counts": []}, {"size": [2**31 - 1] * 2, "counts": [5]}, {"size": [50.0, 30.0], "counts": [9.0]}),
        *({"counts": "a"}, [10**400] * 4, list(range(200)), {"id": 3}),
    ]
)
KINDS = ("delete", "replace", "swap", "nest", "duplicate", "scale", "all")
CHANGES = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 10**6), st.integers(0, 10**6), VALUES), min_size=1, max_size=4)


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every container in a tree with each of its keys or indices."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found = []
    for key, child in list(children):
        found.append((node, key))
        found += places(child)
    return found


def change(tree: Any, kind: str, first: int, second: int, value: Any) -> None:
    """Change a place of the tree: the one that a random number selects."""
    # Long lists of numbers have most of the places; every key is as likely.
    spots = places(tree)
    keys = [spot for spot in spots if isinstance(spot[0], dict)] if first % 3 else spots
    if not keys:
        return
    node, key = keys[first // 3 % len(keys)]
    if kind == "delete":
        del node[key]
    elif kind == "replace":
        node[key] = copy.deepcopy(value)
    elif kind == "swap":
        other, place = spots[second % len(spots)]
        node[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(node[key])
    elif kind == "nest":
        node[key] = [node[key]] if second % 2 else {str(key): node[key]}
    elif kind == "duplicate" and isinstance(node, list):
        node.insert(key, copy.deepcopy(node[key]))
    elif kind == "scale" and isinstance(node[key], int | float) and abs(node[key]) < 1e100:  # no float is larger than 1e308
        node[key] = node[key] * (1e6, -1, 0.01, 1e18)[second % 4]
    elif kind == "all":
        for other, place in spots:
            if place == key and isinstance(other, dict):
                other[place] = copy.deepcopy(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutations")
    write(folder, valid())
    return folder


def load_everything(path: Path, folder: Path) -> None:
    """What training and evaluation read: all samples through transforms, with their targets, and the ground truth."""
    dataset = CocoDataset(path, folder)
    transforms = (ResizeShortestEdge(short=(16,)), HorizontalFlip(p=1))
    for image in range(len(dataset)):
        sample = transformed_sample(dataset, transforms, 0, Place(0, image))
        batch = collate([sample], [0], with_targets=True)
        assert batch.targets is not None and batch.targets[0].boxes.isfinite().all()
        keypoints = batch.targets[0].keypoints
        assert keypoints is None or (keypoints.isfinite().all() and dataset.categories.keypoints is not None)
        assert (sample.labels < len(dataset.categories)).all()
    truth = dataset.to_coco()
    assert all(0 <= annotation["area"] < 2**63 for annotation in truth["annotations"])


@repeatable
@settings(max_examples=40)
@given(changes=CHANGES)
def test_what_the_check_accepts_can_be_loaded_and_what_it_repairs_is_accepted(folder: Path, changes: list[Any]) -> None:
    logging.disable(logging.CRITICAL)
    try:
        tree = valid()
        for kind, first, second, value in changes:
            change(tree, kind, first, second, value)
        path, fixed = folder / "changed.json", folder / "fixed.json"
        path.write_text(json.dumps(tree))
        try:
            findings = check(path, images=folder)
            accepted, message = not any(finding.refused for finding in findings), ""
            statistics(path)
        except UserError as error:
            message, accepted = str(error), False
        assert "\n" not in message and len(message) < 3000
        if accepted:
            load_everything(path, folder)
        else:
            with pytest.raises(UserError):
                load_everything(path, folder)
        try:
            done = repair(path, fixed, images=folder)
        except UserError:
            return
        repaired = json.loads(fixed.read_text())
        lost = sum(len(tree[section]) - len(repaired[section]) for section in ("images", "annotations", "categories"))
        assert lost == sum(int(line.split()[0].replace(",", "")) for line in done if line.endswith(("left out", "merged"))), done
        assert not [finding for finding in check(fixed, images=folder) if finding.refused]
        load_everything(fixed, folder)
    finally:
        logging.disable(logging.NOTSET)


def test_the_valid_file(folder: Path) -> None:
    path = folder / "valid.json"
    path.write_text(json.dumps(valid()))
    assert [str(finding) for finding in check(path, images=folder) if not finding.look] == []
    load_everything(path, folder)
    assert repair(path, folder / "fixed.json", images=folder) == []
    assert json.loads((folder / "fixed.json").read_text()) == valid()
