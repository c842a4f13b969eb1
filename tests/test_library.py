"""Every command has an equivalent call in docs/library.md, and every call runs and gives the results of the command."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image

import boxwood as package
from boxwood.cli import cli
from boxwood.cli.data import convert as convert_command
from boxwood.data import CocoConfig
from boxwood.data.annotations import read_annotations
from boxwood.data.formats import convert as convert_module
from boxwood.errors import UserError
from boxwood.zoo import find
from tests.conftest import Boxwood, tiny
from tests.interop.detectron_blobs import network, random_blobs, write
from tests.zoo.server import serve

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
CALLS = dict(re.findall(r"^\| `boxwood ([a-z- ]+)` \| `(.+)` \|$", PAGE, re.MULTILINE))
"""By command, the call on the page."""
NAME = "detectron/e2e_mask_rcnn_R-50-FPN_2x"


def commands(group: click.Group = cli, words: tuple[str, ...] = ()) -> Iterator[str]:
    """The names of all commands that --help shows, such as ``data check``."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        elif not command.hidden:
            yield " ".join((*words, name))


def test_every_command_has_a_call() -> None:
    assert sorted(CALLS) == sorted(commands())


@pytest.fixture
def folder(trained: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the calls of the page name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("boxwood.library.demo.TRAIN_PICTURES", 4)
    monkeypatch.setattr("boxwood.library.demo.VAL_PICTURES", 2)
    shutil.copytree(trained, tmp_path / "runs" / "nuts")
    for name in ("train", "val"):
        shutil.copy(shapes / f"{name}.json", tmp_path)
        shutil.copytree(shapes / name, tmp_path / "photos", dirs_exist_ok=True)
    shutil.copy(trained / "eval" / "detections.json", tmp_path / "results.json")
    return tmp_path


def write_boxes(folder: Path) -> None:
    """Write boxes of Selective Search for the two val images."""
    from scipy.io import savemat

    cells = np.empty((1, 2), dtype=object)
    cells[0, 0], cells[0, 1] = np.float64([[1, 1, 30, 30], [5, 5, 50, 60]]), np.float64([[2, 2, 30, 30]])
    savemat(folder / "boxes.mat", {"boxes": cells})


def write_detectron_config(folder: Path) -> None:
    """Write a configuration of Detectron."""
    (folder / "old.yaml").write_text(
        "MODEL: {TYPE: generalized_rcnn, CONV_BODY: FPN.add_fpn_ResNet50_conv5_body, NUM_CLASSES: 81, FASTER_RCNN: True}\n"
        "FPN: {FPN_ON: True, MULTILEVEL_ROIS: True, MULTILEVEL_RPN: True}\n"
        "FAST_RCNN: {ROI_BOX_HEAD: fast_rcnn_heads.add_roi_2mlp_head, ROI_XFORM_METHOD: RoIAlign, ROI_XFORM_SAMPLING_RATIO: 2}\n"
        "TRAIN: {DATASETS: \"('coco_2014_train',)\"}\nTEST: {DATASETS: \"('coco_2014_minival',)\"}\n"
    )


def write_other_classes(folder: Path) -> None:
    """Write the val set with one class renamed."""
    tree = json.loads((folder / "val.json").read_text())
    assert tree["categories"][0]["name"] == "disc"
    tree["categories"][0]["name"] = "wheel"
    (folder / "other_classes.json").write_text(json.dumps(tree))


BEFORE: dict[str, Callable[[Path], None]] = {
    "data proposals": write_boxes,
    "config import-detectron": write_detectron_config,
    "weights import": lambda folder: write(folder / "model_final.pkl", random_blobs(network(kind="rpn_c4")), None),
    "weights remap-classes": write_other_classes,
}
"""By command, a function that adds files to the fixture's folder."""


def written(*names: str) -> Callable[[Any, Path], bool]:
    return lambda _result, folder: all((folder / name).exists() for name in names)


AFTER: dict[str, Callable[[Any, Path], bool]] = {
    "demo": lambda result, folder: "bbox" in result.metrics and (folder / "demo" / "run" / "eval" / "report.html").is_file(),
    "train": lambda metrics, folder: "bbox" in metrics and (folder / "runs" / "mine" / "last.safetensors").is_file(),
    "eval": lambda result, folder: "segm" in result.metrics and sorted(result.detections) == [1, 2],
    "predict": lambda predictions, folder: len(predictions) == 4 and (folder / "predictions" / "predictions.json").is_file(),
    "distill label": lambda labels, folder: labels.num_pictures == 4 and read_annotations("labels.json").num_automatic() > 0,
    "distill compare": lambda result, folder: [*result.scores["bbox"]] == ["teacher", "student", "longer"],
    "data check": lambda findings, _: all(finding.where == "train.json" for finding in findings),
    "data stats": lambda result, folder: "6 classes" in result.text() and (folder / "stats.html").is_file(),
    "data show": lambda pictures, _: len(pictures) == 4 and all(path.is_file() for path in pictures),
    "data split": lambda result, folder: len(json.loads((folder / "parts" / "val.json").read_text())["images"]) == 2,
    "data shapes": written("shapes/train.json", "shapes/val/000001.jpg"),
    "data convert": lambda done, folder: done.num_images == 4 and (folder / "yolo" / "data.yaml").is_file(),
    "data proposals": lambda counts, folder: counts == (3, 2) and (folder / "proposals.safetensors").is_file(),
    "data select": lambda selected, folder: selected.num_images == selected.of_images == 2 and (folder / "selected.json").is_file(),
    "config list": lambda names, _: "mask_rcnn_r50_fpn_1x" in names,
    "config show": lambda text, _: "train:" in text,
    "config diff": lambda differences, _: "train.steps" in [key for key, _, _ in differences],
    "config schema": lambda schema, _: "base" in schema["properties"],
    "config import-detectron": lambda text, folder: (folder / "new.yaml").read_text() == text,
    "weights inspect": lambda content, _: len(content.categories) == 6 and content.config.train.steps == 2,
    "weights import": lambda imported, folder: package.load_model("rpn.safetensors").training,
    "weights remap-classes": lambda old, folder: old["wheel"] == "disc" and (folder / "start.safetensors").is_file(),
    "zoo list": lambda entries, _: NAME in [entry.name for entry in entries],
    "zoo show": lambda facts, _: facts["box_ap"] == 38.6,
    "zoo download": lambda paths, _: [path.read_bytes() for path in paths] == [b"weights"],
    "bench": lambda result, _: result is None,
}
"""By command, a check of the call's result and of the folder."""


@pytest.mark.parametrize("command", CALLS)
def test_a_call_runs(command: str, folder: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    BEFORE.get(command, lambda _: None)(folder)
    overrides = tiny(shapes)
    if command == "demo":  # it generates its data
        overrides = [override for override in overrides if "annotations=" not in override and "images=" not in override]
    if command == "bench":  # a minute of work
        scripts: list[tuple[str, list[str]]] = []
        monkeypatch.setattr(runpy, "run_path", lambda path, run_name: scripts.append((path, sys.argv[1:])))
    with serve() as site:
        monkeypatch.setenv("BOXWOOD_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("BOXWOOD_ZOO_MIRROR", site.address)
        site.put("/" + find(NAME).path, b"weights")
        result = eval(CALLS[command], {"boxwood": package, "overrides": overrides})  # noqa: S307  (code of this repository)
    assert AFTER[command](result, folder)
    if command == "bench":
        assert scripts == [(str(ROOT / "benchmarks" / "speed.py"), ["--only", "nms"])]


# ------------------------------------------------------------------------------------------------------------- the package


def test_dir_has_every_public_name() -> None:
    assert set(dir(package)) == {*package.__all__, *package.PACKAGES}
    for name in dir(package):
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        package.evalute  # noqa: B018


def test_names_and_packages_are_imported_on_first_use() -> None:
    code = (
        "import sys, boxwood; dir(boxwood); assert 'torch' not in sys.modules; boxwood.zoo.find; boxwood.UserError; "
        "assert 'torch' not in sys.modules; boxwood.recipe; boxwood.Detections; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_recipe(trained: Path, tmp_path: Path) -> None:
    assert package.recipe("demo_shapes", "optim.lr=0.5", "train.steps=7").train.steps == 7
    assert package.recipe(trained) == package.recipe(str(trained / "config.yaml"))
    with pytest.raises(UserError, match="did you mean 'demo_shapes'"):
        package.recipe("demo_shape")


def test_the_command_has_the_formats_of_the_function() -> None:
    assert (convert_command.READ, convert_command.WRITTEN) == (convert_module.READ, convert_module.WRITTEN)


# ------------------------------------------------------------------------------------------------------------ open_weights


def test_open_weights_of_every_source(trained: Path, tmp_path: Path) -> None:
    """A run, its configuration, its files and its checkpoint give the same weights (best and last of this run are equal)."""
    expected = package.open_weights(trained / "last.safetensors").saved
    sources = [
        trained,
        str(trained),
        trained / "config.yaml",
        trained / "best.safetensors",
        trained / "checkpoints/step-00000002.pt",
    ]
    for source in sources:
        opened = package.open_weights(source)
        assert opened.saved.categories == expected.categories and opened.saved.config == expected.config
        assert opened.saved.state.keys() == expected.state.keys() and not opened.initialised
        assert all(torch.equal(value, expected.state[name]) for name, value in opened.saved.state.items())


def test_open_weights_refuses_other_files(trained: Path, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    (tmp_path / "empty").mkdir()
    for source, message in [
        (tmp_path / "other.pt", "not a checkpoint of Boxwood"),
        (tmp_path / "empty", "neither best.safetensors nor last.safetensors"),
        (tmp_path / "absent", "no such run or weights file"),
        (trained / "metrics.jsonl", "not a safetensors file"),
        ("detectron/e2e_mask_rcnn_R50-FPN_2x", "did you mean"),
    ]:
        with pytest.raises(UserError, match=message):
            package.open_weights(source)


def test_a_checkpoint_with_keypoints(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    """Names of keypoints are read from the run's weights file."""
    run, overrides = tmp_path / "run", [*tiny(shapes), "model.mask_head=null", "train.steps=1"]
    overrides += ["model.keypoint_head={kind: conv_keypoint, convs: 1, width: 16}"]
    assert boxwood("train", "demo_shapes", *overrides, "--out", run).status == 0
    checkpoint = run / "checkpoints" / "step-00000001.pt"
    assert package.open_weights(checkpoint).saved.categories == package.open_weights(run).saved.categories
    for path in run.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(UserError, match="names of keypoints"):
        package.open_weights(checkpoint)


def test_load_model_gives_a_trainable_model(trained: Path, shapes: Path) -> None:
    from boxwood.data.loader import train_batches

    model: Any = package.load_model(trained)
    assert model.training and len(model.categories) == 6 and any(p.requires_grad for p in model.parameters())
    config = package.recipe(trained)
    train_set = config.data.train.open()
    batch = next(train_batches(train_set, config.data.train.transforms, batch_size=2, seed=0, workers=0))
    sum(model.losses(model(batch), batch.targets).values()).backward()
    assert model.class_logits.weight.grad.abs().sum() > 0


def test_training_from_a_run(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    done = boxwood("train", "demo_shapes", *tiny(shapes), f"train.weights={trained}", "train.steps=1", "--out", tmp_path / "run")
    assert done.status == 0, done.err


def test_the_old_name_of_remap_classes(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    arguments = (trained, "--annotations", shapes / "val.json", "--out", tmp_path / "new.safetensors")
    new, old = boxwood("weights", "remap-classes", *arguments), boxwood("weights", "reclass", *arguments)
    assert new.status == old.status == 0 and new.out == old.out and new.err == ""
    assert old.err == "warning: boxwood weights reclass is now called boxwood weights remap-classes\n"
    assert "reclass " not in boxwood("weights", "--help").out


# ---------------------------------------------------------------------------------------------------------------- evaluate


@pytest.fixture(scope="module")
def val_data(shapes: Path) -> CocoConfig:
    return CocoConfig(annotations=str(shapes / "val.json"), images=str(shapes / "val"))


def test_evaluate_gives_the_files_of_the_command(boxwood: Boxwood, trained: Path, tmp_path: Path) -> None:
    result = package.evaluate(trained, out=tmp_path / "call")
    done = boxwood("eval", trained, "--out", tmp_path / "command")
    assert done.out.startswith(result.table())
    call, command = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("call", "command"))
    call.pop("images_per_second"), command.pop("images_per_second")
    assert call == command
    assert json.loads((tmp_path / "call" / "detections.json").read_text()) == result.records
    assert [record for records in result.detections.values() for record in records] == result.records
    assert {path.name for path in (tmp_path / "call").iterdir()} == {path.name for path in (tmp_path / "command").iterdir()}
    result.report(tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == (tmp_path / "call" / "report.html").read_text()


@pytest.fixture(scope="module")
def expected(trained: Path) -> package.Evaluation:
    """The evaluation of the run."""
    return package.evaluate(trained)


SOURCES: dict[str, Callable[[Path, CocoConfig], package.Evaluation]] = {
    "file": lambda run, _: package.evaluate(run / "best.safetensors"),
    "checkpoint": lambda run, _: package.evaluate(run / "checkpoints" / "step-00000002.pt"),
    "configuration": lambda run, _: package.evaluate(package.recipe(run), weights=run),
    "other data": lambda run, data: package.evaluate(run, data),
    "open data": lambda run, data: package.evaluate(run, data.open()),
    "predictor": lambda run, _: package.evaluate(package.load(run, device="cpu")),
    "predictor with data": lambda run, data: package.evaluate(package.load(run, device="cpu"), data),
}


@pytest.mark.parametrize("source", SOURCES)
def test_evaluate_takes_every_source(trained: Path, val_data: CocoConfig, expected: package.Evaluation, source: str) -> None:
    result = SOURCES[source](trained, val_data)
    assert (result.metrics["bbox"], result.records, result.title) == (expected.metrics["bbox"], expected.records, expected.title)


def test_evaluate_a_model_in_memory(trained: Path, val_data: CocoConfig, expected: package.Evaluation) -> None:
    """The model is not prepared for inference, so its numbers differ by rounding; and it is not changed."""
    model, transforms = package.load_model(trained), package.recipe(trained).data.val.transforms
    result = package.evaluate(model, val_data.model_copy(update={"transforms": transforms}))
    assert result.metrics["bbox"]["AP"] == pytest.approx(expected.metrics["bbox"]["AP"], abs=1e-3)
    assert len(result.records) == len(expected.records) and result.title == expected.title
    assert model.training and any(parameter.requires_grad for parameter in model.parameters())


def test_evaluate_with_overrides(trained: Path) -> None:
    few = package.evaluate(trained, overrides=["test.detections_per_image=3"])
    assert {len(records) for records in few.detections.values()} == {3}
    again = package.evaluate(trained, detections=trained / "eval" / "detections.json", overrides=["test.detections_per_image=3"])
    assert again.records == few.records and again.detections_are_new
    assert not package.evaluate(trained, detections=trained / "eval" / "detections.json").detections_are_new


def test_evaluate_by_other_rules(trained: Path) -> None:
    assert "voc" in package.evaluate(trained, measure="voc2007").metrics


def test_evaluate_refuses_incomplete_arguments(trained: Path, val_data: CocoConfig, tmp_path: Path) -> None:
    model = package.load_model(trained)
    with pytest.raises(UserError, match="measured on data=CONFIG"):
        package.evaluate(model)
    with pytest.raises(UserError, match="measured on data=CONFIG"):
        package.evaluate(model, val_data.open())
    with pytest.raises(UserError, match="takes none of them"):
        package.evaluate(model, val_data, overrides=["test.nms_threshold=0.3"])
    with pytest.raises(UserError, match="weights=FILE"):
        package.evaluate(package.recipe(trained))
    with pytest.raises(UserError, match="so --weights has nothing to do"):
        package.evaluate(trained, weights=trained, detections=trained / "eval" / "detections.json")


def test_metrics_are_logged_if_files_cannot_be_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise UserError("disk full")

    monkeypatch.setattr("boxwood.inference.evaluate.save_detections", full)
    with pytest.raises(UserError, match="disk full"):
        package.evaluate(trained, out=tmp_path / "out")
    assert "AP50" in caplog.text


# ----------------------------------------------------------------------------------------------------------------- predict


def test_predict_gives_the_records_of_the_command(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    assert boxwood("predict", shapes / "val", "--model", trained, "--score", 0, "--out", tmp_path / "command").status == 0
    predictions = package.predict(trained, shapes / "val", tmp_path / "call", score=0.0)
    records = json.loads((tmp_path / "command" / "predictions.json").read_text())
    assert [record for prediction in predictions for record in prediction.records] == records
    assert json.loads((tmp_path / "call" / "predictions.json").read_text()) == records
    model = package.load(trained)
    for prediction in predictions:
        expected = model(prediction.file_name)
        assert prediction.detections is not None and torch.equal(prediction.detections.boxes, expected.boxes)
        assert prediction.picture is not None and (tmp_path / "call" / prediction.picture).is_file()
        assert not prediction.resumed and prediction.frame is None and prediction.error is None


def test_predictions_without_files(trained: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.jpg").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    predictions = package.predict(package.load(trained), [tmp_path / "broken.jpg", str(shapes / "val" / "*.jpg")], score=0.9)
    assert [prediction.error is None for prediction in predictions] == [False, True, True]
    assert "broken.jpg" in str(predictions[0].error) and predictions[0].detections is None and predictions[0].records == []
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(UserError, match="name a folder with out"):
        package.predict(trained, shapes / "val", crops=True)


def test_predictions_are_made_one_by_one_and_resumed(trained: Path, shapes: Path, tmp_path: Path) -> None:
    whole = package.predict(trained, shapes / "train", tmp_path / "whole", score=0.0)
    started = package.iter_predictions(trained, shapes / "train", tmp_path / "parts", score=0.0)
    first = next(started)
    started.close()  # type: ignore[attr-defined]  # of a generator
    assert not (tmp_path / "parts" / "predictions.json").exists()
    rest = package.predict(trained, shapes / "train", tmp_path / "parts", score=0.0)
    assert [prediction.resumed for prediction in rest] == [True, False, False, False]
    assert [prediction.line() for prediction in rest] == [prediction.line() for prediction in whole]
    assert rest[0].line() == first.line() and rest[0].detections is None
    names = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert names == {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}


# -------------------------------------------------------------------------------------------------------------------- data


def test_check_and_repair(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    tree = json.loads((shapes / "val.json").read_text())
    tree["annotations"][0]["bbox"] = [0, 0, 0, 0]
    (tmp_path / "faulty.json").write_text(json.dumps(tree))
    findings = package.check(tmp_path / "faulty.json", images=shapes / "val", fix=tmp_path / "fixed.json")
    assert ("repaired", "boxes without width or height", 1) in [(f.verdict, f.problem, f.count) for f in findings]
    assert {finding.where for finding in findings} == {str(tmp_path / "faulty.json")}
    again = package.check(tmp_path / "fixed.json", images=shapes / "val")
    assert "boxes without width or height" not in [finding.problem for finding in again]
    done = boxwood("data", "check", tmp_path / "faulty.json", "--images", shapes / "val")
    assert [line.strip() for line in done.out.splitlines()[1:]] == [f"{finding.verdict}: {finding}" for finding in findings]
    with pytest.raises(UserError, match="one annotation file"):
        package.check("demo_shapes", tiny(shapes), fix=tmp_path / "x.json")


def test_check_of_both_sets(shapes: Path) -> None:
    same = [f"data.val.{key}={value}" for key, value in (("annotations", shapes / "train.json"), ("images", shapes / "train"))]
    findings = package.check("demo_shapes", [*tiny(shapes), *same])
    assert "train and val" in [finding.where for finding in findings]
    assert package.check(package.recipe("demo_shapes", *tiny(shapes), *same)) == findings


def test_statistics_of_a_configuration(shapes: Path) -> None:
    result = package.statistics("demo_shapes", tiny(shapes))
    assert [Path(file.path).name for file in result.files] == ["train.json", "val.json"]
    coco = json.loads((shapes / "train.json").read_text())
    assert result.files[0].numbers.instances.sum() == len(coco["annotations"])
    with pytest.raises(UserError, match=r"\.html"):
        package.statistics(shapes / "val.json", report="page.txt")


def test_draw_samples_with_detections(trained: Path, tmp_path: Path) -> None:
    pictures = package.draw_samples(trained, tmp_path, detections=trained / "eval" / "detections.json", count=1, score=0.0)
    with Image.open(pictures[0]) as picture:
        assert picture.width > 2 * 128


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "PASSIVE 3000"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        ({"GOMP_SPINCOUNT": "100"}, "None 100"),
    ],
)
def test_threads_soon_wait_passively_unless_the_environment_says_otherwise(variables: dict[str, str], expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    code = "import boxwood, os; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**environment, **variables}, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == expected
