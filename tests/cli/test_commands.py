"""The commands from configuration to drawn predictions, on a run of two training steps."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from boxwood.cli.arguments import default_out
from boxwood.inference.predictor import load
from boxwood.recipes import names, resolve
from boxwood.weights.file import read_weights
from tests.conftest import Boxwood, tiny


def test_config_list_names_every_recipe(boxwood: Boxwood) -> None:
    outcome = boxwood("config", "list")
    lines = outcome.out.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    single = [name for name in names() if "/" not in name]
    assert listed[: len(single)] == single
    for name in names()[len(single) :]:  # Detectron's 87 recipes, grouped by kind
        assert sum(name.startswith(sort.removesuffix("*")) for sort in listed[len(single) :]) >= 1, name
    assert max(map(len, lines)) < 165 and not any("publish" in line for line in lines)


def test_config_show_can_be_trained_from(boxwood: Boxwood, tmp_path: Path) -> None:
    outcome = boxwood("config", "show", "demo_shapes", "optim.lr=0.25")
    (tmp_path / "shown.yaml").write_text(outcome.out)
    assert resolve(str(tmp_path / "shown.yaml")) == resolve("demo_shapes", ["optim.lr=0.25"])


def test_config_diff(boxwood: Boxwood, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: faster_rcnn_r50_fpn_1x\noptim: {lr: 0.01}\nmodel: {fpn: {norm: gn}}\n")
    outcome = boxwood("config", "diff", "faster_rcnn_r50_fpn_1x", tmp_path / "mine.yaml")
    assert outcome.out == 'model.fpn.norm: null -> "gn"\noptim.lr: 0.02 -> 0.01\n'


def test_config_schema_is_json_and_knows_the_kinds(boxwood: Boxwood) -> None:
    schema = json.loads(boxwood("config", "schema").out)
    assert set(schema["properties"]) == {"base", "model", "data", "optim", "train", "test", "evaluator"}
    backbones = schema["$defs"]["BackboneConfig"]["anyOf"]
    assert {"resnet", "mobilenet_v2"} <= {backbone["properties"]["kind"]["const"] for backbone in backbones}
    assert "short" in json.dumps(schema["$defs"]["Transform"])


def test_import_registers_a_user_defined_component(boxwood: Boxwood, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_imported.py").write_text(
        "from boxwood.models.backbones import ResNetConfig\nclass Mine(ResNetConfig):\n    extra: int = 1\n"
    )
    arguments = ["config", "show", "demo_shapes", "model.backbone.kind=my_imported:Mine", "model.backbone.extra=2"]
    assert "--import my_imported" in boxwood(*arguments).err
    outcome = boxwood(*arguments, "--import", "my_imported")
    assert yaml.safe_load(outcome.out)["model"]["backbone"]["extra"] == 2


def test_train_writes_a_run(trained: Path) -> None:
    names = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    assert names >= {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints/step-00000002.pt",
        "best.safetensors",
        "last.safetensors",
        "eval/metrics.json",
        "eval/detections.json",
    }


def test_default_out(tmp_path: Path, trained: Path) -> None:
    assert default_out("demo_shapes") == Path("runs/demo_shapes")
    assert default_out("some/folder/mine.yaml") == Path("runs/mine")
    assert default_out("my_work:mine") == Path("runs/mine")
    assert default_out(str(trained)) == default_out(str(trained / "config.yaml")) == trained


def test_train_resumes_a_run_given_by_its_folder(boxwood: Boxwood, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    assert boxwood("train", run, "optim.drops=[10, 20]", "train.steps=3", "--resume").status == 2, "another schedule is refused"
    outcome = boxwood("train", run, "--resume")
    assert outcome.status == 0
    resumed, first = (read_weights(folder / "last.safetensors").state for folder in (run, trained))
    assert resumed.keys() == first.keys() and all(torch.equal(resumed[name], first[name]) for name in first)


@pytest.mark.parametrize("with_weights", [False, True])
def test_eval_reproduces_the_metrics_of_training(
    boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path, with_weights: bool
) -> None:
    source = ["demo_shapes", *tiny(shapes), "--weights", trained / "last.safetensors"] if with_weights else [trained]
    outcome = boxwood("eval", *source, "--out", tmp_path / "scores")
    assert outcome.status == 0
    assert "bbox" in outcome.out
    assert "segm" in outcome.out
    expected = json.loads((trained / "eval" / "metrics.json").read_text())
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["bbox"] == expected["bbox"]
    assert metrics["segm"] == expected["segm"]
    detections = json.loads((tmp_path / "scores" / "detections.json").read_text())
    assert len(detections) == 20  # 2 images, 10 detections each
    assert set(detections[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}


def test_eval_of_a_run_writes_into_its_folder(boxwood: Boxwood, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("eval"))
    assert boxwood("eval", run).status == 0
    assert {path.name for path in (run / "eval").iterdir()} == {"metrics.json", "detections.json", "report.html"}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with NumPy 2
def test_predict_draws_and_records(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    outcome = boxwood("predict", shapes / "val", "--model", trained, "--out", tmp_path / "seen", "--score", "0")
    assert outcome.status == 0
    assert {path.name for path in (tmp_path / "seen").iterdir()} == {"000000.jpg", "000001.jpg", "predictions.json"}
    with Image.open(tmp_path / "seen" / "000000.jpg") as picture:
        assert picture.size == (128, 96)
    records = json.loads((tmp_path / "seen" / "predictions.json").read_text())
    assert len(records) == 20
    classes = {category["name"] for category in json.loads((shapes / "val.json").read_text())["categories"]}
    for record in records:
        assert set(record) == {"file_name", "category", "bbox", "score", "segmentation"}
        assert Path(record["file_name"]).parent == shapes / "val"
        assert record["category"] in classes
        x, y, w, h = record["bbox"]
        assert 0 <= x <= x + w <= 128.001
        assert 0 <= y <= y + h <= 96.001
        assert coco_mask.decode(record["segmentation"]).shape == (96, 128)


def test_predict_with_keypoints(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    """Keypoints in records are 0.5 pixel left of and above those of the detections, as COCO defines them."""
    tree = json.loads((shapes / "train.json").read_text())
    for category in tree["categories"]:
        category["skeleton"] = [[1, 3], [2, 4]]
    (tmp_path / "train.json").write_text(json.dumps(tree))
    overrides = [*tiny(shapes), "model.mask_head=null", "model.keypoint_head={kind: conv_keypoint, convs: 1, width: 16}"]
    overrides += [f"data.train.annotations={tmp_path / 'train.json'}", "train.steps=1"]
    assert boxwood("train", "demo_shapes", *overrides, "--out", tmp_path / "run").status == 0
    last = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][-1]
    metrics = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert {key: last[f"keypoints_{key}"] for key in metrics["keypoints"]} == metrics["keypoints"]
    assert len(json.loads((tmp_path / "run" / "eval" / "detections.json").read_text())[0]["keypoints"]) == 4 * 3
    picture = shapes / "val" / "000000.jpg"
    outcome = boxwood("predict", picture, "--model", tmp_path / "run", "--out", tmp_path / "seen", "--score", "0")
    assert outcome.status == 0
    detections = load(tmp_path / "run", device="cpu")(picture)
    assert detections.keypoints is not None and detections.skeleton == ((0, 2), (1, 3))
    records = json.loads((tmp_path / "seen" / "predictions.json").read_text())
    expected = detections.keypoints - torch.tensor([0.5, 0.5, 0.0])
    assert len(records) == len(detections) == 10
    torch.testing.assert_close(torch.tensor([record["keypoints"] for record in records]), expected.flatten(1))
    detections.keypoints[..., 2] = -1.0  # no visible keypoint, so no pose is drawn
    without_pose = io.BytesIO()
    detections.draw(picture, score=0).save(without_pose, format="JPEG", quality=90, subsampling=0, comment="boxwood predict")
    assert (tmp_path / "seen" / "000000.jpg").read_bytes() != without_pose.getvalue()


def test_predict_keeps_detections_above_the_score_threshold(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    picture, weights = shapes / "val" / "000000.jpg", trained / "last.safetensors"
    assert boxwood("predict", picture, "--model", trained, "--out", tmp_path / "a", "--score", "0").status == 0
    scores = sorted(record["score"] for record in json.loads((tmp_path / "a" / "predictions.json").read_text()))
    middle = scores[len(scores) // 2]
    boxwood("predict", picture, "--model", weights, "--out", tmp_path / "b", "--score", middle)
    kept_scores = [record["score"] for record in json.loads((tmp_path / "b" / "predictions.json").read_text())]
    assert sorted(kept_scores) == [score for score in scores if score >= middle]


def test_predict_continues_after_an_unreadable_picture(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "photos", tmp_path / "other"
    shutil.copytree(shapes / "val", folder)
    shutil.copytree(shapes / "val", other)
    (folder / "000000.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("no image suffix")
    outcome = boxwood("predict", folder, f"{other}/*.jpg", "--model", trained, "--out", tmp_path / "seen")
    assert outcome.status == 2
    assert outcome.error_lines == [f"boxwood: 1 of 4 pictures could not be read: {folder / '000000.jpg'}; the others are done"]
    assert {path.name for path in (tmp_path / "seen").iterdir()} == {"000001.jpg", "000000.jpg", "000001-2.jpg", "predictions.json"}


def test_predict_without_input_images(boxwood: Boxwood, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no images in this folder" in boxwood("predict", tmp_path / "empty", "--model", trained).err
    assert "no such file" in boxwood("predict", f"{tmp_path}/*.jpg", "--model", trained).err


def test_weights_inspect(boxwood: Boxwood, trained: Path) -> None:
    outcome = boxwood("weights", "inspect", trained / "last.safetensors")
    assert outcome.status == 0
    assert "class_logits.weight" in outcome.out
    assert "kind: rcnn" in outcome.out
    assert "-> label 0" in outcome.out


@pytest.mark.slow
def test_demo_repeated_or_over_another_demo(boxwood: Boxwood, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boxwood.library.demo.TRAIN_PICTURES", 4)
    monkeypatch.setattr("boxwood.library.demo.VAL_PICTURES", 2)
    small = [override for override in tiny(tmp_path) if "annotations=" not in override and "images=" not in override]
    first = boxwood("demo", *small, "--out", tmp_path / "demo")
    assert first.status == 0, first.err
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {"data", "run", "pictures"}
    assert {path.name for path in (tmp_path / "demo" / "pictures").iterdir()} == {"00.png", "01.png"}
    assert f"Look at {tmp_path / 'demo' / 'pictures'}" in first.out.splitlines()[-1]
    weights = read_weights(tmp_path / "demo" / "run" / "last.safetensors").state

    again = boxwood("demo", *small, "--out", tmp_path / "demo")
    assert (again.status, again.out) == (0, first.out)
    after = read_weights(tmp_path / "demo" / "run" / "last.safetensors").state
    assert after.keys() == weights.keys() and all(torch.equal(after[name], weights[name]) for name in weights)

    other = boxwood("demo", *small, "--out", tmp_path / "demo", "--seed", "1")
    assert other.status == 2, "another demo does not write over this one"

    (tmp_path / "demo" / "mine.txt").write_text("mine")
    assert "mine.txt" in boxwood("demo", *small, "--out", tmp_path / "demo").error_lines[0]
