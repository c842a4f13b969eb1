"""The examples do what they say, through the commands in their docstrings, on generated pictures."""

from __future__ import annotations

import csv
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import boxwood as package
from boxwood.models.backbones import check_backbone
from examples.own_backbone import PlainConfig
from tests.conftest import Boxwood, tiny

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def run(example: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python examples/EXAMPLE ...`` in this process."""
    path = ROOT / "examples" / example
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    runpy.run_path(str(path), run_name="__main__")


def test_every_example_is_short_and_tested() -> None:
    tests = Path(__file__).read_text()
    for path in EXAMPLES:
        assert 20 <= len(path.read_text().splitlines()) <= 80, path
        assert path.stem in tests.replace(".py", ""), path
    assert {path.stem for path in EXAMPLES} >= {
        "evaluate",
        "predict",
        "own_backbone",
        "own_dataset",
        "own_head",
        "own_training_loop",
    }


def without(names: tuple[str, ...], overrides: list[str]) -> list[str]:
    return [override for override in overrides if not override.startswith(names)]


def test_own_backbone(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    check_backbone(PlainConfig().build())
    overrides = without(("model.mask_head",), tiny(shapes))
    out = tmp_path / "run"
    outcome = boxwood("train", "examples.own_backbone:recipe", *overrides, "model.backbone.depth=1", "--out", out)
    assert outcome.status == 0, outcome.err
    body = yaml.safe_load((out / "config.yaml").read_text())["model"]["backbone"]
    assert body == {"kind": "examples.own_backbone:PlainConfig", "width": 32, "depth": 1}
    arguments = ["predict", shapes / "val", "--model", out, "--import", "examples.own_backbone", "--out", tmp_path / "seen"]
    assert boxwood(*arguments).status == 0
    assert package.load(out).model.backbone.channels == (32, 64, 128, 256)  # type: ignore[union-attr]  # an nn.Module's member
    assert boxwood("train", "examples.own_backbone:recipe", "model.backbone.widht=1").err == (
        "boxwood: unknown key 'model.backbone.widht' (did you mean 'model.backbone.width'?)\n"
    )


def test_own_head(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    outcome = boxwood("train", "examples.own_head:recipe", *tiny(shapes), "--out", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    losses = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert np.isfinite(losses["loss_class"]) and np.isfinite(losses["loss_mask"])
    changed = boxwood("config", "diff", "demo_shapes", "examples.own_head:recipe").out
    assert {line.split(": ")[0].rpartition(".")[0] for line in changed.splitlines()} == {"model.box_head"}


@pytest.fixture
def boxes_csv(shapes: Path, tmp_path: Path) -> Path:
    """train.csv and val.csv of the generated pictures; the first val picture has no line."""
    for split in ("train", "val"):
        coco = json.loads((shapes / f"{split}.json").read_text())
        files = {image["id"]: image["file_name"] for image in coco["images"]}
        names = {category["id"]: category["name"] for category in coco["categories"]}
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "x1", "y1", "x2", "y2", "class"])
            for annotation in coco["annotations"]:
                x, y, w, h = annotation["bbox"]
                if (split, annotation["image_id"]) != ("val", 1):
                    writer.writerow([files[annotation["image_id"]], x, y, x + w, y + h, names[annotation["category_id"]]])
    return tmp_path


def test_own_dataset(boxwood: Boxwood, shapes: Path, boxes_csv: Path) -> None:
    coco = json.loads((shapes / "val.json").read_text())
    classes = json.dumps([category["name"] for category in coco["categories"]])
    overrides = without(("model.mask_head", "data.train.ann", "data.val.ann", "model.fpn"), tiny(shapes))
    overrides += [f"data.{split}.annotations={boxes_csv / split}.csv" for split in ("train", "val")]
    overrides += [f"data.{split}.classes={classes}" for split in ("train", "val")]
    overrides += ["model.backbone.weights=null", "model.fpn.channels=32"]
    outcome = boxwood("train", "examples.own_dataset:recipe", *overrides, "--out", boxes_csv / "run")
    assert outcome.status == 0, outcome.err
    per_class = json.loads((boxes_csv / "run" / "eval" / "metrics.json").read_text())["per_class"]
    names = {category["id"]: category["name"] for category in coco["categories"]}
    truth = [names[annotation["category_id"]] for annotation in coco["annotations"] if annotation["image_id"] != 1]
    assert {name: row["count"] for name, row in per_class.items()} == {name: truth.count(name) for name in names.values()}
    assert boxwood("data", "show", "examples.own_dataset:recipe", *overrides, "--out", boxes_csv / "look", "--count", 2).status == 0

    (boxes_csv / "train.csv").write_text("file,x1,y1,x2,y2,class\n000000.jpg,1,2,3,4,unicorn\n")
    (line,) = boxwood("train", "examples.own_dataset:recipe", *overrides, "--out", boxes_csv / "other").error_lines
    assert "train.csv:2: ValueError" in line


def test_own_dataset_is_the_coco_reader_with_other_files(shapes: Path, boxes_csv: Path) -> None:
    """The same pictures through both: the same samples and the same truth."""
    from boxwood.data import CocoConfig

    example: Any = runpy.run_path(str(ROOT / "examples" / "own_dataset.py"))
    theirs = CocoConfig(annotations=str(shapes / "train.json"), images=str(shapes / "train")).open()
    names = theirs.categories.names
    ours = example["CsvConfig"](annotations=str(boxes_csv / "train.csv"), images=str(shapes / "train"), classes=names).open()
    assert len(ours) == len(theirs) and ours.categories.names == names
    for index in range(len(ours)):
        a, b = ours[index], theirs[index]
        assert (a.image == b.image).all() and (a.labels == b.labels).all() and a.size == b.size == ours.size(index)
        assert np.allclose(a.boxes, b.boxes, atol=1e-3)


def test_own_training_loop(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "own.safetensors"
    run("own_training_loop.py", "--data", shapes, "--steps", 2, "--out", out, monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert "step 2  loss " in said and "loss_mask" in said and "AR100" in said
    assert len(package.load(out).categories) == 6


@pytest.mark.parametrize("chosen", [[], ["--class", "star"]])
def test_predict(
    trained: Path,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    chosen: list[str],
) -> None:
    picture = shapes / "val" / "000000.jpg"
    run("predict.py", picture, "--model", trained, "--score", 0, "--out", tmp_path / "seen", *chosen, monkeypatch=monkeypatch)
    found = package.load(trained)(picture)
    names = [name for name in found.names if not chosen or name == "star"]
    assert f"{picture}: {len(names)} found" in capsys.readouterr().out
    masks = {f"000000-{number:02d}-{name}.png" for number, name in enumerate(names)}
    assert {path.name for path in (tmp_path / "seen").iterdir()} == {"000000.png", *masks}
    assert found.masks is not None
    for path in (tmp_path / "seen").glob("000000-00-*.png"):
        with Image.open(path) as mask:
            first = found.names.index(path.stem.split("-")[-1])
            assert np.array_equal(np.asarray(mask) > 0, found.masks[first].numpy())


def test_predict_names_what_cannot_be_read(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.jpg").write_text("no picture")
    run("predict.py", tmp_path / "broken.jpg", "--model", trained, "--out", tmp_path / "seen", monkeypatch=monkeypatch)
    assert "broken.jpg: is not an image" in capsys.readouterr().out


@pytest.mark.parametrize("other", [False, True], ids=["val set", "other data"])
def test_evaluate(
    trained: Path,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    other: bool,
) -> None:
    data = ["--annotations", shapes / "train.json", "--images", shapes / "train"] if other else []
    run("evaluate.py", trained, *data, "--score", 0, "--report", tmp_path / "report.html", monkeypatch=monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("bbox ") for line in lines) and (tmp_path / "report.html").is_file()
    images = [line for line in lines if line.startswith("image ")]
    assert len(images) == (3 if other else 2) and all(line.endswith(": 10 detections") for line in images)


@pytest.mark.parametrize("example", ["evaluate.py", "own_training_loop.py", "predict.py"])
def test_help(example: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(example, "--help", monkeypatch=monkeypatch)
    assert left.value.code == 0
    assert "--model" in capsys.readouterr().out or example != "predict.py"
