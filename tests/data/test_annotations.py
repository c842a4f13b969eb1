"""Data sets in other formats than COCO's are opened without conversion, and have the same samples as the COCO file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from boxwood.data import CocoConfig, CocoDataset
from boxwood.data.annotations import format_of, read_annotations
from boxwood.errors import UserError
from tests.conftest import Boxwood
from tests.data.formats.test_readers import CVAT, LABELME, open_images


@pytest.fixture
def converted(shapes: Path, tmp_path: Path, boxwood: Boxwood) -> Path:
    """A folder with the train set of shapes in YOLO's format (``yolo/``) and in VOC's (``voc/``)."""
    for form, folder in (("yolo", "images/train"), ("voc", "JPEGImages")):
        assert boxwood("data", "convert", shapes / "train.json", tmp_path / form, "--to", form, "--split", "train").status == 0
        (tmp_path / form / folder).parent.mkdir(exist_ok=True)
        (tmp_path / form / folder).symlink_to(shapes / "train")
    return tmp_path


@pytest.mark.parametrize(("form", "annotations", "images"), [("yolo", "data.yaml", "images/train"), ("voc", ".", "JPEGImages")])
def test_samples_of_other_formats(form: str, annotations: str, images: str, shapes: Path, converted: Path) -> None:
    """The same images, boxes and classes as from the COCO file, except for crowd regions."""
    expected = CocoDataset(shapes / "train.json", shapes / "train")
    config = CocoConfig(annotations=str(converted / form / annotations), images=str(converted / form / images), split="train")
    dataset = config.open()
    indices = {dataset.file_name(index): index for index in range(len(dataset))}
    assert len(dataset) == len(expected) > 0
    for index in range(len(expected)):
        expected_sample, sample = expected[index], dataset[indices[expected.file_name(index)]]
        expected_rows, rows = ~expected_sample.crowd, ~sample.crowd
        assert torch.equal(sample.image, expected_sample.image)
        torch.testing.assert_close(sample.boxes[rows], expected_sample.boxes[expected_rows], atol=1e-3, rtol=0)
        assert [dataset.categories.names[label] for label in sample.labels[rows]] == [
            expected.categories.names[label] for label in expected_sample.labels[expected_rows]
        ]


def test_commands_of_other_formats(converted: Path, boxwood: Boxwood, tmp_path: Path) -> None:
    """``data check``, ``data stats`` and ``train`` without a conversion."""
    folder = converted / "yolo"
    keys = [f"data.{part}.{key}" for part in ("train", "val") for key in (f"annotations={folder / 'data.yaml'}",
            f"images={folder / 'images' / 'train'}", "split=train")]  # fmt: skip
    checked = boxwood("data", "check", "faster_rcnn_mobilenetv2_fpn", *keys)
    assert checked.status == 0 and str(folder / "data.yaml") in checked.out, checked.out + checked.err
    assert boxwood("data", "stats", "faster_rcnn_mobilenetv2_fpn", *keys).status == 0
    small = ["model.backbone.weights=null", "data.workers=0", "train.steps=1", "train.batch_size=1"]
    small += [f"data.{part}.transforms.0.short=[64]" for part in ("train", "val")]
    trained = boxwood("train", "faster_rcnn_mobilenetv2_fpn", *keys, *small, "--out", tmp_path / "run")
    assert trained.status == 0, trained.err
    assert "bbox" in json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    wrong = boxwood("data", "stats", "faster_rcnn_mobilenetv2_fpn", *keys, "data.val.split=test")
    assert (wrong.status, wrong.err.count("\n")) == (2, 1) and "its splits are train" in wrong.err


def test_the_format_of_a_path_is_recognised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "annotations.xml").write_text(CVAT, encoding="utf-8")
    assert len(read_annotations(tmp_path / "annotations.xml").ids) == 3 and "polyline" in caplog.text
    (tmp_path / "labelme").mkdir()
    (tmp_path / "labelme" / "a.json").write_text(json.dumps(LABELME))
    assert len(read_annotations(tmp_path / "labelme").ids) > 0
    table, images, _ = open_images(tmp_path)
    assert len(read_annotations(table, images).ids) > 0
    assert format_of(tmp_path / "missing") == "coco"
    with pytest.raises(UserError, match="there is no part 'val' to choose"):
        read_annotations(tmp_path / "labelme", split="val")


def test_a_source_of_which_nothing_is_read_says_what_is_not(tmp_path: Path) -> None:
    shapes = {**LABELME, "shapes": []}
    (tmp_path / "a.json").write_text(json.dumps(shapes))
    with pytest.raises(UserError, match="has no object that is read, so it has no class; name a part that has annotations"):
        read_annotations(tmp_path)


def test_lvis_image_names_come_from_their_addresses(tmp_path: Path) -> None:
    """Images of LVIS have an address and no name; a COCO file has both, and its names are used."""
    image: dict[str, Any] = {"id": 7, "height": 9, "width": 8, "coco_url": "http://images.cocodataset.org/val2017/000000000007.jpg"}
    tree = {
        "images": [{**image, "neg_category_ids": [2], "not_exhaustive_category_ids": []}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 1, 3, 3], "area": 9}],
        "categories": [{"id": 1, "name": "aerosol_can", "frequency": "c"}],
    }
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(tree))
    (tmp_path / "val2017").mkdir()
    Image.fromarray(np.zeros((9, 8, 3), dtype=np.uint8)).save(tmp_path / "val2017" / "000000000007.jpg")
    dataset = CocoDataset(path, tmp_path)
    assert dataset.file_name(0) == "val2017/000000000007.jpg" and dataset.to_coco()["images"][0]["neg_category_ids"] == [2]
    tree["images"][0]["file_name"] = "named.jpg"
    path.write_text(json.dumps(tree))
    assert read_annotations(path).file_name(0) == "named.jpg"
