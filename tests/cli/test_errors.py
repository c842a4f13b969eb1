"""User errors of every command: one line on stderr, exit status 2, and no partly written output."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import Boxwood, tiny

Edit = Callable[[Callable[[Any], None]], Path]


def refused(boxwood: Boxwood, out: Path, *arguments: object) -> str:
    """Run a command that must fail; return its one error line after checking that nothing was written."""
    before = sorted(out.parent.rglob("*")) if out.parent.exists() else []
    outcome = boxwood(*arguments)
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    assert len(outcome.error_lines) == 1, outcome.err
    assert not out.exists()
    assert sorted(out.parent.rglob("*")) == before
    return outcome.error_lines[0]


@pytest.fixture
def train_refused(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> Callable[..., str]:
    """``train_refused("key=value", ...)``: the error line of training the tiny recipe with these overrides."""

    def call(*overrides: object) -> str:
        out = tmp_path / "out" / "run"
        out.parent.mkdir(exist_ok=True)
        parts = [part for part in tiny(shapes) if not ("model.rpn=null" in overrides and part.startswith("model.rpn."))]
        return refused(boxwood, out, "train", "demo_shapes", *parts, *overrides, "--out", out)

    return call


Refused = Callable[..., str]


def test_a_misspelt_key_on_the_command_line(train_refused: Refused) -> None:
    assert train_refused("optim.rl=0.1") == "boxwood: unknown key 'optim.rl' (did you mean 'optim.lr'?)"


def test_a_part_that_is_removed_and_configured(train_refused: Refused) -> None:
    assert train_refused("model.fpn=null") == "boxwood: model.fpn=null contradicts model.fpn.channels; leave out one of them"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["data.train.mask_classes=[disc, zebra]"],
            "mask_classes: names unknown classes: zebra; name some of disc, triangle, square",
        ),
        (["data.train.mask_classes=voc"], "mask_classes: names unknown classes: person, bicycle, car, motorcycle, airplane, bus, "),
        (
            ["data.train.mask_classes=nowhere.txt"],
            "mask_classes=nowhere.txt: is neither voc nor nonvoc, and no file; name classes in ",
        ),
        (["data.train.mask_classes=[]"], "mask_classes leaves no class that teaches masks (it names none)"),
        (
            ["model.mask_head={kind: mask_x, convs: 1, width: 32, resolution: 7}", "model.rois.class_agnostic=true"],
            "model.mask_head.inputs=cls+box: reads the box deltas' weights of each class, and model.rois.class_agnostic=true ",
        ),
    ],
)
def test_masks_of_some_classes(train_refused: Refused, overrides: list[str], message: str) -> None:
    assert message in train_refused(*overrides)


def test_several_mistakes_are_reported_at_once(boxwood: Boxwood) -> None:
    outcome = boxwood("train", "demo_shapes", "optim.rl=0.1", "train.stpes=3", "optim.lr=fast")
    assert outcome.status == 2
    assert sorted(outcome.err.splitlines()) == [
        "boxwood: 'optim.lr' should be a valid number, got 'fast'",
        "boxwood: unknown key 'optim.rl' (did you mean 'optim.lr'?)",
        "boxwood: unknown key 'train.stpes' (did you mean 'train.steps'?)",
    ]


def test_a_misspelt_key_in_yaml(boxwood: Boxwood, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: demo_shapes\n\noptim:\n  rl: 0.1\n")
    line = refused(boxwood, tmp_path / "run", "train", path, "--out", tmp_path / "run")
    assert line == f"boxwood: {path}:4: unknown key 'optim.rl' (did you mean 'optim.lr'?)"


def test_a_misspelt_attribute_in_a_user_defined_recipe(boxwood: Boxwood, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_misspelt.py").write_text(
        "from boxwood.recipes import demo_shapes\ndef mine():\n    c = demo_shapes()\n    c.optim.rl = 1\n    return c\n"
    )
    outcome = boxwood("train", "my_misspelt:mine")
    assert outcome.status == 2
    assert outcome.err == f"boxwood: {tmp_path / 'my_misspelt.py'}:4: AdamWConfig has no key 'rl' (did you mean 'lr'?)\n"


def test_a_wrong_type(train_refused: Refused) -> None:
    assert train_refused("train.steps=many") == "boxwood: 'train.steps' should be a valid integer, got 'many'"


def test_an_unknown_recipe(boxwood: Boxwood, tmp_path: Path) -> None:
    line = refused(boxwood, tmp_path / "run", "train", "demo_shape", "--out", tmp_path / "run")
    assert "unknown recipe 'demo_shape' (did you mean 'demo_shapes'?)" in line


def test_a_missing_annotation_file(train_refused: Refused, tmp_path: Path) -> None:
    absent = tmp_path / "absent.json"
    assert str(absent) in train_refused(f"data.val.annotations={absent}")


def test_an_image_folder_without_the_images(train_refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    line = train_refused(f"data.train.images={tmp_path / 'empty'}")
    assert str(tmp_path / "empty") in line
    assert "000000.jpg" in line


@pytest.mark.parametrize("text", ["[1, 2]", '{"a": 1}', "{", "", '{"images": 3, "annotations": [], "categories": []}', "\x00\x01"])
def test_json_that_is_not_coco(train_refused: Refused, tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text)
    assert str(path) in train_refused(f"data.train.annotations={path}")


def test_a_category_in_val_that_train_does_not_have(train_refused: Refused, edited: Edit) -> None:
    path = edited(lambda coco: coco["categories"].append({"id": 99, "name": "unicorn"}))
    assert "99 'unicorn'" in train_refused(f"data.val.annotations={path}")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        pytest.param(b"this is text", "image", id="text"),
        pytest.param((1, 1), "1", id="one-pixel"),
        pytest.param((30_000, 30_000), "900,000,000", id="huge"),
    ],
)
def test_an_unusable_image_file(
    boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path, content: bytes | tuple[int, int], word: str
) -> None:
    """As one of the training images, and as the only image of ``predict``."""
    images = tmp_path / "images"
    shutil.copytree(shapes / "train", images)
    path = images / "000001.jpg"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        # One bit per pixel, so that the huge image is a small file.
        Image.new("1", content).save(path, format="PNG")
    run = tmp_path / "run"
    outcome = boxwood("train", "demo_shapes", *tiny(shapes), f"data.train.images={images}", "--out", run)
    assert outcome.status == 2
    (line,) = outcome.error_lines
    assert "000001.jpg" in line
    assert word in line
    # Pixels are read during training. If the image is in the first batch, no checkpoint is written and training can start again;
    # if it is in a later one, the last step is saved and --resume continues from it once the image is replaced.
    files = {path.name for path in run.rglob("*") if path.is_file()}
    saved = {name for name in files if name.startswith("step-")}
    assert files <= {"config.yaml", "environment.json"} or saved
    assert all(name.endswith((".yaml", ".json", ".jsonl", ".pt", ".safetensors")) for name in files)
    broken = path.rename(tmp_path / "broken.jpg")
    shutil.copy(shapes / "train" / "000001.jpg", path)
    resume = ["--resume"] if saved else []
    again = boxwood("train", "demo_shapes", *tiny(shapes), f"data.train.images={images}", "--out", run, *resume)
    assert again.status == 0

    outcome = boxwood("predict", broken, "--model", trained, "--out", tmp_path / "seen")
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    assert str(broken) in outcome.error_lines[-1]


def test_weights_of_another_architecture(boxwood: Boxwood, train_refused: Refused, trained: Path, tmp_path: Path) -> None:
    line = train_refused(f"train.weights={trained / 'last.safetensors'}", "model.mask_head=null", "model.fpn.channels=64")
    assert "another architecture" in line
    assert "mask_head" in line
    line = refused(boxwood, tmp_path / "scores", "eval", trained, "model.fpn.channels=64", "--out", tmp_path / "scores")
    assert "fpn.inner" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_when_one_is_asked_for(train_refused: Refused) -> None:
    line = train_refused("train.device=cuda")
    assert "train.device=cuda" in line
    assert "no GPU" in line


@pytest.mark.parametrize(
    "command",
    [["train", "demo_shapes"], ["eval"], ["predict"], ["data", "show", "demo_shapes"], ["data", "shapes", "--train", "1"]],
)
def test_an_output_folder_that_cannot_be_made(
    boxwood: Boxwood, shapes: Path, trained: Path, tmp_path: Path, command: list[str]
) -> None:
    """Below a file, which is not changed."""
    (tmp_path / "file").write_text("mine")
    arguments: list[object] = list(command)
    if "demo_shapes" in command:
        arguments += tiny(shapes)
    elif command == ["eval"]:
        arguments += [trained]
    elif command == ["predict"]:
        arguments += [shapes / "val" / "000000.jpg", "--model", trained]
    out = tmp_path / "file" / "out"
    outcome = boxwood(*arguments, "--out", out)
    assert (outcome.status, "Traceback" in outcome.err) == (2, False)
    (line,) = outcome.error_lines
    assert f"{out}" in line and "Not a directory" in line and "--out" in line
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("backbone", [{"kind": "mobilenet_v2"}, {"kind": "resnet", "weights": "IMAGENET1K_V1", "width": 64}])
def test_imagenet_weights_without_internet(
    train_refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: dict[str, object]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.OpenerDirector.open", no_network)
    line = train_refused(f"model.backbone={json.dumps(backbone)}")
    assert f"are not in {tmp_path / 'hub' / 'checkpoints'}" in line
    assert "https://download.pytorch.org/models/" in line
    assert line.startswith(("boxwood: mobilenet_v2-", "boxwood: resnet18-"))


def no_network(*_: object, **__: object) -> None:
    raise urllib.error.URLError("Temporary failure in name resolution")


def test_a_run_is_not_overwritten(boxwood: Boxwood, shapes: Path, trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    outcome = boxwood("train", "demo_shapes", *tiny(shapes), "--out", trained)
    assert outcome.status == 2
    assert "--resume" in outcome.error_lines[0]
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_classes_of_the_data_that_the_weights_lack(boxwood: Boxwood, trained: Path, edited: Edit, tmp_path: Path) -> None:
    path = edited(lambda coco: coco["categories"].append({"id": 99, "name": "unicorn"}))
    line = refused(boxwood, tmp_path / "scores", "eval", trained, f"data.val.annotations={path}", "--out", tmp_path / "scores")
    assert "99 'unicorn'" in line


@pytest.mark.parametrize("command", [["eval", "demo_shapes"], ["eval", "."], ["predict", "absent.jpg", "--model", "absent"]])
def test_a_missing_model(boxwood: Boxwood, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    refused(boxwood, tmp_path / "predictions", *command)


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", b"\xff" * 64])
def test_a_damaged_weights_file(boxwood: Boxwood, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    assert str(path) in refused(boxwood, tmp_path / "x", "weights", "inspect", path)


def test_the_command_in_a_new_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "boxwood", "train", "demo_shapes", "optim.rl=1"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "boxwood: unknown key 'optim.rl' (did you mean 'optim.lr'?)\n"


def test_annotations_without_positives_train_without_nan(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    """Images without annotations and boxes of one pixel are valid."""
    coco = json.loads((shapes / "train.json").read_text())
    first = coco["images"][0]["id"]
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] == first][:1]
    coco["annotations"][0].update(bbox=[3, 3, 1, 1], area=1, segmentation=[[3, 3, 4, 3, 4, 4, 3, 4]])
    path = tmp_path / "train.json"
    path.write_text(json.dumps(coco))
    outcome = boxwood("train", "demo_shapes", *tiny(shapes), f"data.train.annotations={path}", "--out", tmp_path / "run")
    assert outcome.status == 0
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(isinstance(step["loss"], float) for step in steps)


# ------------------------------------------------------------------------------------------------------ missing training data


@pytest.fixture
def proposals_refused(train_refused: Refused, tmp_path: Path) -> Callable[[bytes], str]:
    """The error line of training Fast R-CNN with a ``.pkl`` of these bytes as data.train.proposals."""

    def call(content: bytes) -> str:
        path = tmp_path / "proposals.pkl"
        path.write_bytes(content)
        line = train_refused("model.rpn=null", f"data.train.proposals={path}", "model.mask_head=null")
        assert str(path) in line
        return line

    return call


def proposals(**changes: Any) -> bytes:
    content = {"boxes": [[[1.0, 1, 30, 30]]], "scores": [[0.5]], "ids": [1], **changes}
    content["boxes"] = [np.float32(boxes) for boxes in content["boxes"]]
    content["scores"] = [np.float32(scores) for scores in content["scores"]]
    return pickle.dumps(content, 2)


class Touch:
    def __reduce__(self) -> Any:
        return os.mkdir, ("owned",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(proposals(ids=[987]), "has no proposals for 4 of the 4 images", id="other images"),
        pytest.param(proposals(boxes=[[[1, 1, float("nan"), 3]]]), "not finite, such as row 0 of image id 1", id="nan"),
        pytest.param(proposals(boxes=[[[30, 1, 2, 3]]]), "inverted", id="inverted"),
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(proposals()[:40], "cut short or damaged", id="truncated"),
        pytest.param(pickle.dumps(Touch(), 2), "refused: it wants posix.mkdir", id="code"),
    ],
)
def test_unusable_proposal_files(
    proposals_refused: Callable[[bytes], str], content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in proposals_refused(content)
    assert not (tmp_path / "owned").exists()


def test_a_detector_without_rpn_needs_proposals(train_refused: Refused) -> None:
    line = train_refused("model.rpn=null", "model.mask_head=null")
    assert "data.train: has no proposals" in line and "data.train.proposals" in line and "faster_rcnn_mobilenetv2_fpn" in line


def without(edited: Edit, key: str) -> Path:
    def strip(coco: Any) -> None:
        for row in (*coco["annotations"], *coco["categories"]):
            row.pop(key, None)

    return edited(strip)


def test_a_mask_recipe_on_data_without_masks(train_refused: Refused, shapes: Path, edited: Edit) -> None:
    path = without(edited, "segmentation")
    line = train_refused(f"data.val.annotations={path}")
    assert "data.val: has no masks" in line and "faster_rcnn_mobilenetv2_fpn" in line


def test_a_keypoint_recipe_on_data_without_keypoints(train_refused: Refused, shapes: Path, edited: Edit) -> None:
    path = without(edited, "keypoints")
    line = train_refused(
        f"data.train.annotations={path}",
        f"data.train.images={shapes / 'val'}",
        "model.keypoint_head={kind: conv_keypoint, convs: 1, width: 32}",
    )
    assert "data.train: has no keypoints" in line and "faster_rcnn_mobilenetv2_fpn" in line


def test_keypoints_of_a_wrong_length(train_refused: Refused, edited: Edit) -> None:
    path = edited(lambda coco: coco["annotations"][1]["keypoints"].pop())
    line = train_refused(f"data.val.annotations={path}")
    assert str(path) in line and "keypoints" in line and "12 numbers" in line
