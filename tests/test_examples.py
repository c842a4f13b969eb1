"""The examples, run by the commands in their docstrings on generated pictures."""

from __future__ import annotations

import csv
import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import boxwood as package
from boxwood.data import MixtureConfig
from boxwood.data.annotations import read_annotations
from boxwood.data.synthetic.figures import write_figures
from boxwood.models.backbones import check_backbone
from boxwood.weights import read_weights
from examples.non_local_block import PlainWithBlockConfig
from examples.own_backbone import PlainConfig
from tests.conftest import Boxwood, tiny
from tests.training.test_interactnet import run_on as interactnet_on

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
        "dense_pose_texture",
        "distill",
        "evaluate",
        "non_local_block",
        "predict",
        "own_backbone",
        "own_dataset",
        "own_head",
        "own_measure",
        "own_optimizer",
        "own_task",
        "own_training_loop",
        "some_masks",
    }


def without(names: tuple[str, ...], overrides: list[str]) -> list[str]:
    return [override for override in overrides if not override.startswith(names)]


def test_own_backbone(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    check_backbone(PlainConfig().build())
    overrides = without(("model.mask_head",), tiny(shapes))
    out = tmp_path / "run"
    outcome = boxwood("train", "examples.own_backbone:recipe", *overrides, "model.backbone.depth=1", "--out", out)
    assert outcome.status == 0, outcome.err
    backbone = yaml.safe_load((out / "config.yaml").read_text())["model"]["backbone"]
    assert backbone == {"kind": "examples.own_backbone:PlainConfig", "width": 32, "depth": 1}
    arguments = ["predict", shapes / "val", "--model", out, "--import", "examples.own_backbone", "--out", tmp_path / "seen"]
    assert boxwood(*arguments).status == 0
    assert package.load(out).model.backbone.channels == (32, 64, 128, 256)  # type: ignore[union-attr]  # an nn.Module's member
    assert boxwood("train", "examples.own_backbone:recipe", "model.backbone.widht=1").err == (
        "boxwood: unknown key 'model.backbone.widht' (did you mean 'model.backbone.width'?)\n"
    )


def test_non_local_block(boxwood: Boxwood, shapes: Path, trained: Path, tmp_path: Path) -> None:
    """A block in a trained network, whose log names it, and a block in a user-defined backbone."""
    arguments = [*tiny(shapes), f"train.weights={trained}", "--out", tmp_path / "continued"]
    outcome = boxwood("train", "examples.non_local_block:continued", *arguments)
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("they start as the identity: backbone.layer3.non_local1\n") == 1

    config = PlainWithBlockConfig()
    config.block.norm = "gn"
    check_backbone(config.build())
    overrides = [*without(("model.mask_head",), tiny(shapes)), "model.backbone.depth=1", "model.backbone.block.pool=null"]
    outcome = boxwood("train", "examples.non_local_block:recipe", *overrides, "--out", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    block: Any = package.load(tmp_path / "run").model.backbone.non_local  # type: ignore[union-attr]  # an nn.Module's member
    assert block.config.pool is None and block.g.in_channels == 128 and block.out.norm.weight.any()


def test_own_head(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    outcome = boxwood("train", "examples.own_head:recipe", *tiny(shapes), "--out", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    losses = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert np.isfinite(losses["loss_class"]) and np.isfinite(losses["loss_mask"])
    changed = boxwood("config", "diff", "demo_shapes", "examples.own_head:recipe").out
    assert {line.split(": ")[0].rpartition(".")[0] for line in changed.splitlines()} == {"model.box_head"}


@pytest.fixture
def boxes_csv(shapes: Path, tmp_path: Path) -> Path:
    """A folder with train.csv and val.csv of the generated pictures; the first val picture has no row."""
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


def test_own_dataset_gives_the_samples_of_the_coco_reader(shapes: Path, boxes_csv: Path) -> None:
    """The same images, boxes and labels from the CSV file as from the COCO file."""
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


def test_own_optimizer(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    """The learning rate follows the schedule; a resumed run ends with the same weights."""
    out, arguments = tmp_path / "run", ["optim.warmup_steps=0", "train.steps=4", "train.log_every=1", "train.checkpoint_every=2"]
    command = ["train", "examples.own_optimizer:recipe", *without(("train.steps",), tiny(shapes)), *arguments]
    outcome = boxwood(*command, "train.keep_checkpoints=2", "--out", out)
    assert outcome.status == 0, outcome.err
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines if line["split"] == "train"] == pytest.approx([4e-4, 4e-4, 4e-4, 2e-4])
    optim = yaml.safe_load((out / "config.yaml").read_text())["optim"]
    assert (optim["kind"], optim["betas"]) == ("examples.own_optimizer:LionConfig", [0.9, 0.99])
    assert optim["schedule"] == {"kind": "examples.own_optimizer:HoldConfig", "hold": 0.5}

    whole = read_weights(out / "last.safetensors").state
    (out / "checkpoints" / "step-00000004.pt").unlink()
    assert boxwood("train", out, "--resume", "--import", "examples.own_optimizer").status == 0
    resumed = read_weights(out / "last.safetensors").state
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    exchanged = ["demo_shapes", "optim.kind=examples.own_optimizer:LionConfig", "--import", "examples.own_optimizer"]
    assert yaml.safe_load(boxwood("config", "show", *exchanged).out)["optim"]["clip_norm"] == 5.0, "common keys keep their values"


def test_lion_by_hand() -> None:
    """Two updates of one weight: after the decay, -0.1 times the sign of 0.9 * momentum + 0.1 * gradient."""
    example: Any = runpy.run_path(str(ROOT / "examples" / "own_optimizer.py"))
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = example["LionConfig"](lr=0.1).build([{"params": [weight], "weight_decay": 0.5}])
    weight.grad = torch.tensor([3.0])
    optimizer.step()
    assert weight.item() == pytest.approx(2.0 * 0.95 - 0.1)  # momentum: 0.01 * 3 = 0.03
    weight.grad = torch.tensor([-0.2])
    optimizer.step()
    assert weight.item() == pytest.approx(1.8 * 0.95 - 0.1), "0.9 * 0.03 - 0.1 * 0.2 is positive"


def test_own_measure(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = boxwood("train", "examples.own_measure:recipe", *tiny(shapes), "evaluator.score=0.01", "--out", out)
    assert outcome.status == 0, outcome.err
    metrics = json.loads((out / "eval" / "metrics.json").read_text())
    (line,) = [line for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if line["split"] == "val"]
    assert (line["counting_exact"], line["counting_error"]) == (metrics["counting"]["exact"], metrics["counting"]["error"])
    assert "counting_exact" in outcome.err and (out / "best.safetensors").exists()

    arguments = ["--measure", "examples.own_measure:CountingConfig", "--out", tmp_path / "scores"]
    outcome = boxwood("eval", trained, *arguments)
    assert outcome.status == 0, outcome.err
    assert "exact" in outcome.out and "counting" in outcome.out

    # The same numbers computed from the files.
    coco, detections = (json.loads(path.read_text()) for path in (shapes / "val.json", out / "eval" / "detections.json"))
    errors = []
    for image in coco["images"]:
        ids = [[a["category_id"] for a in coco["annotations"] if a["image_id"] == image["id"]]]
        ids += [[d["category_id"] for d in detections if d["image_id"] == image["id"] and d["score"] >= 0.01]]
        errors.append(sum(abs(ids[0].count(c["id"]) - ids[1].count(c["id"])) for c in coco["categories"]))
    assert metrics["counting"] == {
        "exact": pytest.approx(np.mean([e == 0 for e in errors])),
        "error": pytest.approx(np.mean(errors)),
    }


def test_some_masks(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    overrides = without(("model.mask_head",), tiny(shapes))
    outcome = boxwood("train", "examples.some_masks:recipe", *overrides, "--out", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    assert "masks of 3 of 6 classes teach: disc (" in outcome.err
    outcome = boxwood("eval", tmp_path / "run")
    assert outcome.status == 0 and "segm_without_masks" in outcome.out, outcome.err
    diff = boxwood("config", "diff", "examples.some_masks:recipe", "examples.some_masks:baseline").out
    assert [line for line in diff.splitlines() if line.startswith("model.")] == ['model.mask_head.inputs: "cls+box" -> null']


def test_dense_pose_texture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    package.bodies(tmp_path, train=2, val=1, size=(96, 128))
    config = package.recipe("demo_bodies", "train.steps=1", "train.batch_size=2", "data.workers=0")
    for part in (config.data.train, config.data.val):
        part.annotations, part.images = (str(tmp_path / Path(str(name)).name) for name in (part.annotations, part.images))  # type: ignore[attr-defined]
    config.data.train.symmetry = config.evaluator.surface = str(tmp_path / "body.npz")  # type: ignore[attr-defined,union-attr]
    package.train(config, tmp_path / "run")
    picture, out = tmp_path / "val" / "000000.jpg", tmp_path / "painted.png"
    run("dense_pose_texture.py", picture, "--model", tmp_path / "run", "--score", 0, "--out", out, monkeypatch=monkeypatch)
    count = len(package.load(tmp_path / "run", score=0)(picture))
    assert f"{out}: {count} painted" in capsys.readouterr().out and count > 0
    with Image.open(out) as painted, Image.open(picture) as before:
        assert painted.size == before.size


def test_own_training_loop(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "trained.safetensors"
    run("own_training_loop.py", "--data", shapes, "--steps", 2, "--out", out, monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert "step 2  loss " in printed and "loss_mask" in printed and "AR100" in printed
    assert len(package.load(out).categories) == 6


@pytest.mark.parametrize("options", [[], ["--class", "star"]])
def test_predict(
    trained: Path,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    picture = shapes / "val" / "000000.jpg"
    run("predict.py", picture, "--model", trained, "--score", 0, "--out", tmp_path / "seen", *options, monkeypatch=monkeypatch)
    detections = package.load(trained)(picture)
    names = [name for name in detections.names if not options or name == "star"]
    assert f"{picture}: {len(names)} detections" in capsys.readouterr().out
    masks = {f"000000-{number:02d}-{name}.png" for number, name in enumerate(names)}
    assert {path.name for path in (tmp_path / "seen").iterdir()} == {"000000.png", *masks}
    assert detections.masks is not None
    for path in (tmp_path / "seen").glob("000000-00-*.png"):
        with Image.open(path) as mask:
            first = detections.names.index(path.stem.split("-")[-1])
            assert np.array_equal(np.asarray(mask) > 0, detections.masks[first].numpy())


def test_predict_reports_unreadable_images(
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
    with pytest.raises(SystemExit) as exited:
        run(example, "--help", monkeypatch=monkeypatch)
    assert exited.value.code == 0
    assert "--model" in capsys.readouterr().out or example != "predict.py"


def test_own_task(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    """Points with two values: training with loader workers, saving, loading, scores and drawings."""
    out = tmp_path / "run"
    overrides = [
        *without(("model.mask_head",), tiny(shapes)),
        "data.workers=2",
        "train.steps=30",
        "train.eval_every=0",
        "optim.lr=0.01",
    ]
    outcome = boxwood("train", "examples.own_task:points", *overrides, "--out", out)
    assert outcome.status == 0, outcome.err
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss_point"]) for line in lines)
    assert 0 < lines[-1]["points_accuracy"] < 1
    model = package.load(out)
    assert "point_maps.weight" in model.model.state_dict()
    picture = next((shapes / "val").glob("*.*"))
    detections = model(picture)
    field = detections.fields["points"]
    assert len(field) == len(detections) > 0 and field.values.shape[1:] == (2, 28, 28)  # type: ignore[attr-defined]
    without_points = replace(detections, fields={})
    (values,) = field.at(torch.tensor([[[0.2, 0.3], [0.7, 0.4], [0.4, 0.8]]]))[:1].tolist()  # type: ignore[attr-defined]
    arguments = ["predict", picture, "--model", out, "--import", "examples.own_task", "--score", 0, "--out", tmp_path / "seen"]
    assert boxwood(*arguments).status == 0
    (first, *_) = json.loads((tmp_path / "seen" / "predictions.json").read_text())
    assert np.allclose(first["values"], values, atol=1e-4)
    assert np.array(detections.draw(picture, score=0.0)).tolist() != np.array(without_points.draw(picture, score=0.0)).tolist()


def test_points_of_own_task_are_flipped_and_resized() -> None:
    from boxwood.fields import Affine
    from examples.own_task import Points

    points = Points(torch.tensor([[[10.0, 20.0, 0.25, 0.75]]]))
    assert points.transformed(Affine.flip((50, 40))).values.tolist() == [[[30.0, 20.0, 0.75, 0.75]]]
    assert points.transformed(Affine.resize((50, 40), (100, 80))).values.tolist() == [[[20.0, 40.0, 0.25, 0.75]]]


def test_distill(
    trained: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (trained, shapes / "val", "--out", tmp_path, "--ratio", 1, 1, "--floor", 0, "train.steps=1")
    run("distill.py", *arguments, monkeypatch=monkeypatch)
    assert "box AP: teacher 0.0" in capsys.readouterr().out
    train_set = package.recipe(tmp_path / "run").data.train
    assert isinstance(train_set, MixtureConfig) and train_set.ratio == (1, 1)
    assert read_annotations(tmp_path / "labels.json").num_automatic() > 0


def test_interactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_figures(tmp_path / "figures", train=2, val=1)
    package.train(interactnet_on(tmp_path / "figures", steps=1), tmp_path / "run")
    picture, drawn = tmp_path / "figures/val/000000.png", tmp_path / "drawn.png"
    run("interactions.py", tmp_path / "run", picture, "--score", 0, "--out", drawn, monkeypatch=monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert any(": walk, score " in line for line in lines) and any(": kick (obj) " in line and " at [" in line for line in lines)
    with Image.open(drawn) as image:
        assert image.size == (128, 128)
