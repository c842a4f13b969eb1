"""Train and val sets of different tools: the same names of classes, other ids and another order."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from boxwood.data import CocoConfig, CocoDataset, MixtureConfig
from boxwood.data.class_order import ReorderedClasses, in_order_of
from boxwood.errors import UserError
from boxwood.evaluation import CocoEvaluator
from boxwood.structures import Categories, Detections

NAMES = ("bolt", "nut", "gear")


def write(folder: Path, name: str, ids: dict[str, int]) -> Path:
    """Three images of one box each: image k + 1 shows the class ``NAMES[k]``."""
    tree: dict[str, Any] = {
        "images": [{"id": k + 1, "file_name": f"{k}.png", "height": 20, "width": 20} for k in range(3)],
        "annotations": [
            {
                "id": k + 1,
                "image_id": k + 1,
                "category_id": ids[NAMES[k]],
                "bbox": [2, 2, 8, 8 - k],
                "area": 8 * (8 - k),
                "iscrowd": 0,
            }
            for k in range(3)
        ],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
    for k in range(3):
        Image.new("RGB", (20, 20)).save(folder / f"{k}.png")
    path = folder / name
    path.write_text(json.dumps(tree))
    return path


@pytest.fixture
def sets(tmp_path: Path) -> tuple[CocoDataset, CocoDataset]:
    train = write(tmp_path, "train.json", {"bolt": 1, "nut": 2, "gear": 3})
    val = write(tmp_path, "val.json", {"gear": 10, "bolt": 20, "nut": 30})
    return CocoDataset(train, tmp_path), CocoDataset(val, tmp_path)


def test_labels_go_by_name_and_ids_stay(sets: tuple[CocoDataset, CocoDataset], caplog: pytest.LogCaptureFixture) -> None:
    train, val = sets
    caplog.set_level(logging.INFO)
    ordered = in_order_of(train.categories, val, "data.train", "data.val")
    assert [sample.labels.tolist() for sample in map(val.__getitem__, range(3))] == [[1], [2], [0]]
    assert [sample.labels.tolist() for sample in map(ordered.__getitem__, range(3))] == [[0], [1], [2]]
    assert ordered.categories.names == NAMES and ordered.categories.ids == (20, 30, 10)
    assert len(ordered) == 3 and ordered.size(0) == (20, 20) and ordered.to_coco() == val.to_coco()
    assert caplog.messages == ["data.train and data.val have other category ids for the same classes: they are matched by name"]
    assert in_order_of(train.categories, train, "data.train", "data.val") is train


def test_perfect_detections_of_the_detectors_classes_score_1(sets: tuple[CocoDataset, CocoDataset]) -> None:
    train, val = sets
    ordered = in_order_of(train.categories, val, "data.train", "data.val")
    evaluator = CocoEvaluator(ordered.to_coco(), ordered.categories)
    for k in range(3):
        box = torch.tensor([[2.0, 2.0, 10.0, 10.0 - k]])
        evaluator.add(k + 1, Detections(box, torch.ones(1), torch.tensor([k]), (20, 20), train.categories.names))
    assert evaluator.compute()["bbox"]["AP"] == pytest.approx(1.0)
    assert [row["category_id"] for row in evaluator.records] == [20, 30, 10]


def test_parts_of_a_mixture_go_by_name(tmp_path: Path, sets: tuple[CocoDataset, CocoDataset]) -> None:
    parts = [CocoConfig(annotations=str(tmp_path / name), images=str(tmp_path)) for name in ("train.json", "val.json")]
    mixture = MixtureConfig(parts=tuple(parts)).open()
    assert [mixture[index].labels.item() for index in range(6)] == [0, 1, 2, 0, 1, 2]
    assert isinstance(mixture.parts[1], ReorderedClasses)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("bolt", "nut"), r"^data\.train and data\.val have different categories: only data\.train has 3 'gear'; give both"),
        (("bolt", "nut", "owl"), r"only data\.train has 3 'gear'; only data\.val has 3 'owl'"),
        (("bolt", "nut", "gear", "gear"), "a name stands twice"),
    ],
)
def test_other_names_are_refused(
    sets: tuple[CocoDataset, CocoDataset], monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], message: str
) -> None:
    train, val = sets
    monkeypatch.setattr(val, "categories", Categories(tuple(range(1, len(names) + 1)), names))
    with pytest.raises(UserError, match=message):
        in_order_of(train.categories, val, "data.train", "data.val")
