"""Names of classes and files that hold terminal sequences, marks of direction, slashes or 300 letters, or that lead elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from boxwood.inference.predict import predict
from boxwood.inference.predictor import load
from tests.conftest import Boxwood

UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
CLASS = "\x1b]0;title\x07\x1b[2Jnut \x9b31m\u202egpj\u2066"
FILE = "\x1b[31m\u202egpj.jpg"


@pytest.fixture
def hostile(shapes: Path, tmp_path: Path) -> Path:
    """``val.json`` and ``val`` with a class `CLASS`, a picture `FILE`, and detections that are the truth."""
    coco: dict[str, Any] = json.loads((shapes / "val.json").read_text())
    shutil.copytree(shapes / "val", tmp_path / "val")
    coco["categories"][0]["name"] = CLASS
    (tmp_path / "val" / coco["images"][0]["file_name"]).rename(tmp_path / "val" / FILE)
    coco["images"][0]["file_name"] = FILE
    (tmp_path / "val.json").write_text(json.dumps(coco))
    keys = ("image_id", "category_id", "bbox")
    results = [{**{key: row[key] for key in keys}, "score": 0.5} for row in coco["annotations"] if not row["iscrowd"]]
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names of files")
def test_no_control_character_reaches_the_terminal_or_a_page(boxwood: Boxwood, trained: Path, hostile: Path) -> None:
    data = (f"data.val.annotations={hostile / 'val.json'}", f"data.val.images={hostile / 'val'}")
    results, statistics = hostile / "results.json", hostile / "stats.html"
    outcomes = [
        boxwood("data", "check", hostile / "val.json", "--images", hostile / "val"),
        boxwood("data", "stats", hostile / "val.json", "--out", statistics),
        boxwood("eval", trained, *data, "--detections", results, "--out", hostile / "out"),
        boxwood("predict", hostile / "val", "--model", trained, "--json", "--score", "0"),
    ]
    assert [outcome.status for outcome in outcomes] == [0, 0, 0, 0], outcomes
    pages = [(hostile / "out" / "report.html").read_text(), statistics.read_text()]
    for text in [text for outcome in outcomes for text in (outcome.out, outcome.err)] + pages:
        assert not UNSAFE.search(text)
    assert r"nut \x9b31m\u202egpj" in outcomes[1].out  # shown as codes; click takes \x1b[2J away where the output is no terminal
    assert r"\x1b[2Jnut \x9b31m\u202egpj" in pages[0] and r"\x1b[2Jnut" in pages[1]
    names = {Path(json.loads(line)["file_name"]).name for line in outcomes[3].out.splitlines()}
    assert FILE in names  # the lines of JSON are read as they are


def test_pictures_outside_of_the_folder_are_not_in_the_report(
    boxwood: Boxwood, trained: Path, hostile: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coco = json.loads((hostile / "val.json").read_text())
    private = hostile / "private.jpg"
    shutil.copy(hostile / "val" / coco["images"][1]["file_name"], private)
    data = (f"data.val.annotations={hostile / 'val.json'}", f"data.val.images={hostile / 'val'}")
    arguments = ("eval", trained, *data, "--detections", hostile / "results.json", "--out", hostile / "out")
    for name in ("../private.jpg", str(private)):
        coco["images"][1]["file_name"] = name
        (hostile / "val.json").write_text(json.dumps(coco))
        done = boxwood(*arguments)
        assert done.status == 0 and (hostile / "out" / "report.html").read_text().count("data:image/jpeg") == 1
        assert f"the report leaves out 1 pictures outside of the image folder, such as '{name}'" in caplog.text


def test_crops_of_classes_with_long_names_and_slashes(trained: Path, shapes: Path, tmp_path: Path) -> None:
    predictor = load(trained, score=0.0)
    categories: Any = predictor.categories
    names = tuple(f"../{'ü' * 300}/\x1b{rank}" for rank in range(len(categories)))
    predictor.model.categories = replace(categories, names=names)
    (prediction,) = predict(predictor, shapes / "val" / "000000.jpg", tmp_path / "out", score=0.0, crops=True)
    assert prediction.detections is not None and {record["category"] for record in prediction.records} <= set(names)
    boxes = prediction.detections.boxes.round()
    crops = {path.name for path in (tmp_path / "out" / "crops" / "000000").iterdir()}
    assert len(crops) == int(((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1).sum())
    assert all(re.fullmatch(r"\d{3}-\.\.-ü+\.png", name) and len(name.encode()) < 120 for name in crops)
    assert {path.name for path in tmp_path.rglob("*") if path.is_dir()} == {"out", "crops", "000000"}
