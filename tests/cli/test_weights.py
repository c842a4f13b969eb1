"""The commands ``boxwood weights import`` and ``boxwood weights inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from boxwood.weights.file import read_weights
from tests.conftest import Boxwood
from tests.interop.detectron2_files import shapes_of, write_config
from tests.interop.detectron_blobs import network, random_blobs, write


@pytest.fixture(scope="module")
def pickle_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("detectron") / "model_final.pkl"
    write(file, random_blobs(network(kind="rpn")), None)
    return file


def test_import(boxwood: Boxwood, pickle_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "rpn.safetensors"
    done = boxwood("weights", "import", pickle_file, "--from", "detectron", "--model", "detectron/rpn_R-50-FPN_1x", "--out", out)
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert len([line for line in lines if line.startswith(("loaded", "reordered"))]) == 181
    assert any(line.split() == ["reordered", "backbone.conv1.conv.weight", "conv1_w"] for line in lines)
    assert lines[-1].startswith(f"{out}: RPN")
    assert lines[-1].endswith("; 180 loaded, 1 reordered, 106 constant; 0 tensors of the file not used")
    assert read_weights(out).config.model.geometry == "detectron1"
    shown = boxwood("weights", "inspect", out).out
    assert "rpn.objectness.weight" in shown and "geometry: detectron1" in shown


def test_inspect_a_pickle(boxwood: Boxwood, pickle_file: Path) -> None:
    shown = boxwood("weights", "inspect", pickle_file).out
    assert "conv_rpn_fpn2_w" in shown and "256 x 256 x 3 x 3" in shown and "181 tensors, 27,446,351 numbers" in shown


@pytest.mark.slow
def test_import_from_detectron2(boxwood: Boxwood, tmp_path: Path) -> None:
    """The configuration lies beside the weights; KEY=VALUE changes what it says."""
    name = "COCO-Detection/rpn_R_50_C4_1x"
    torch.save({"model": {key: torch.ones(shape) for key, shape in shapes_of(name).items()}}, tmp_path / "model_final.pth")
    config = write_config(tmp_path, name)
    out = tmp_path / "rpn.safetensors"
    arguments = ("--from", "detectron2", "model.rpn.test_proposals=7", "--out", out)
    done = boxwood("weights", "import", tmp_path / "model_final.pth", *arguments)
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert f"note: settings: read from {config}" in lines
    assert lines[-1].startswith(f"{out}: RPN, ResNet-50-C4") and lines[-1].endswith("; 0 tensors of the file not used")
    model: Any = read_weights(out).config.model
    assert (model.backbone.stride_in, model.pixel_std, model.rpn.test_proposals) == ("1x1", (1, 1, 1), 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "detectron"), "--model"),
        (("--from", "detectron", "--model", "detectron/e2e_faster_rcnn_R-50-FPN_1x"), "lacks 8 tensors"),
        (("--from", "detectron", "model.geometry=continuous"), "--model"),
        (("--from", "detectron", "--config", "config.yaml"), "leave --config out"),
        (("--from", "detectron2"), "--config"),
        (("--from", "torchvision"), "no R-CNN or RetinaNet of torchvision"),
        (("--from", "detectron2", "--model", "faster_rcnn_r50_fpn_1x"), "no class logits"),
        (("--from", "onnx"), "detectron"),
        (("--from", "caffe", "--model", "detectron/rpn_R-50-FPN_1x"), "no network of Caffe"),
    ],
)
def test_files_that_cannot_be_imported(
    boxwood: Boxwood, pickle_file: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    out = tmp_path / "out.safetensors"
    done = boxwood("weights", "import", pickle_file, *arguments, "--out", out)
    assert done.status == 2 and len(done.error_lines) == 1 and message in done.err and not out.exists()


def test_the_output_must_be_named_safetensors(boxwood: Boxwood, pickle_file: Path, tmp_path: Path) -> None:
    arguments = ("--from", "detectron", "--model", "detectron/rpn_R-50-FPN_1x")
    done = boxwood("weights", "import", pickle_file, *arguments, "--out", tmp_path / "x.pth")
    assert done.status == 2 and "named" not in done.out and ".safetensors" in done.err


def test_inspect_a_pth(boxwood: Boxwood, tmp_path: Path) -> None:
    torch.save({"model": {"weight": torch.zeros(2, 3)}, "epoch": 1}, tmp_path / "model.pth")
    assert boxwood("weights", "inspect", tmp_path / "model.pth").out.splitlines() == [
        "weight  float32  2 x 3",
        "",
        "1 tensors, 6 numbers",
    ]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("model.pth", "model.pth: weights of another program; write them as Boxwood's first, by boxwood weights import"),
        ("https://example.org/a.safetensors", "/example.org/a.safetensors: is an address; download the weights"),
        ("nothing.safetensors", "nothing.safetensors: there is no such run or weights file"),
    ],
)
def test_a_model_that_is_no_weights_file(
    model: str, message: str, boxwood: Boxwood, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pth").touch()
    (tmp_path / "a.jpg").touch()
    refused = boxwood("predict", "a.jpg", "--model", model)
    assert refused.status == 2 and len(refused.error_lines) == 1 and message in refused.err
