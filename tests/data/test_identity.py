"""A data set's fingerprint changes with what training reads, and with nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwood.data.coco import CocoDataset
from boxwood.data.identity import fingerprint
from boxwood.data.mixture import MixtureDataset
from tests.training.tiny import TinyData


@pytest.fixture
def prints(shapes: Path, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """``prints(change)``: the fingerprint of the val set after its file was changed by a function."""

    def of(change: Callable[[dict[str, Any]], object]) -> dict[str, str]:
        tree = json.loads((shapes / "val.json").read_text())
        change(tree)
        (tmp_path / "edited.json").write_text(json.dumps(tree, indent=1))
        return fingerprint(CocoDataset(tmp_path / "edited.json", shapes / "val"))

    return of


def test_each_part_changes_with_its_content(prints: Callable[..., dict[str, str]]) -> None:
    original = prints(lambda tree: None)
    assert set(original) == {"images", "classes", "boxes", "masks", "keypoints"}

    def changed(change: Callable[[dict[str, Any]], object]) -> set[str]:
        return {name for name, digest in prints(change).items() if digest != original[name]}

    def move(tree: dict[str, Any]) -> None:
        tree["annotations"][0]["bbox"][0] += 0.5

    def renumber(tree: dict[str, Any]) -> None:
        first = tree["images"][0]["id"]
        tree["images"][0]["id"] = 999
        for annotation in tree["annotations"]:
            if annotation["image_id"] == first:
                annotation["image_id"] = 999

    assert changed(lambda tree: tree.update(info="of another day")) == set()
    assert changed(move) == {"boxes"}
    assert changed(lambda tree: tree["annotations"][0].update(iscrowd=1)) >= {"boxes"}
    assert changed(lambda tree: tree["categories"][0].update(name="other")) == {"classes"}
    assert changed(renumber) == {"images"}
    assert "images" in changed(lambda tree: tree["images"].reverse())


def test_the_place_of_the_files_does_not_matter(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "moved")
    here, there = (fingerprint(CocoDataset(folder / "val.json", folder / "val")) for folder in (shapes, tmp_path / "moved"))
    assert here == there


def test_user_defined_data_sets_and_mixtures() -> None:
    one, two = TinyData().open(), TinyData(seed=1).open()
    assert set(fingerprint(one)) == {"images", "classes", "annotations"}
    assert fingerprint(one) == fingerprint(TinyData().open()) != fingerprint(two)
    assert fingerprint(MixtureDataset([one, two])) != fingerprint(MixtureDataset([two, one]))


def test_numbers_of_numpy_in_a_user_defined_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = TinyData().open()
    truth = dataset.to_coco()
    before = fingerprint(dataset)
    truth["annotations"][0]["bbox"] = np.array(truth["annotations"][0]["bbox"])
    monkeypatch.setattr(type(dataset), "to_coco", lambda self: truth)
    assert fingerprint(dataset) == before
