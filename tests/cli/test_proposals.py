"""Commands that train an RPN, write its proposals, and train and evaluate Fast R-CNN on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from boxwood.cli import main
from boxwood.data.proposals import read_proposals
from tests.conftest import Boxwood

SMALL = (
    "data.workers=0", "data.train.transforms.0.short=[64]", "data.val.transforms.0.short=[64]", "model.backbone.weights=null",
    "model.fpn.channels=16", "train.steps=2", "train.batch_size=2", "train.device=cpu",
)  # fmt: skip


def data(shapes: Path, train: str = "train", val: str = "val") -> list[str]:
    return [
        f"data.{part}.{key}={value}"
        for part, of in (("train", train), ("val", val))
        for key, value in (("annotations", shapes / f"{of}.json"), ("images", shapes / of))
    ]


def run(*arguments: object) -> None:
    with pytest.raises(SystemExit) as exited:
        main([str(argument) for argument in arguments])
    assert exited.value.code == 0


@pytest.fixture(scope="module")
def rpn(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rpn") / "run"
    run("train", "rpn_mobilenetv2_fpn", *data(shapes), *SMALL, "model.rpn.test_proposals=30", "--out", out)
    return out


@pytest.fixture(scope="module")
def files(shapes: Path, rpn: Path) -> dict[str, Path]:
    """The proposal files of train and val."""
    for part in ("train", "val"):
        run("eval", rpn, *data(shapes, val=part), "--out", rpn.parent / part)
    return {part: rpn.parent / part / "proposals.safetensors" for part in ("train", "val")}


@pytest.fixture(scope="module")
def fast(shapes: Path, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fast") / "run"
    heads = ("model.box_head.width=16", "model.rois.samples_per_image=16")
    proposals = [f"data.{part}.proposals={path}" for part, path in files.items()]
    run("train", "fast_rcnn_mobilenetv2_fpn", *data(shapes), *SMALL, *heads, *proposals, "--out", out)
    return out


def test_training_an_rpn_reports_its_recall(rpn: Path) -> None:
    metrics = json.loads((rpn / "eval" / "metrics.json").read_text())
    assert {"AR100", "AR1000", "ARs100", "ARl1000"} <= set(metrics["proposals"]) and "bbox" not in metrics
    rows = [json.loads(line) for line in (rpn / "metrics.jsonl").read_text().splitlines()]
    (val,) = [row for row in rows if row["split"] == "val"]
    assert val["proposals_AR1000"] == metrics["proposals"]["AR1000"]
    assert {key for key in rows[0] if key.startswith("loss_")} == {"loss_rpn_objectness", "loss_rpn_box"}


def test_eval_writes_the_proposals_of_either_set(
    boxwood: Boxwood, shapes: Path, rpn: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    for part, path in files.items():
        images = json.loads((shapes / f"{part}.json").read_text())["images"]
        read = read_proposals(path)
        assert read.image_ids.tolist() == sorted(image["id"] for image in images)
        assert not (path.parent / "detections.json").exists()
        counts = np.diff(read.starts)
        assert (counts > 10).all() and (counts <= 30).all()  # all that the RPN keeps, whatever their scores
        assert (read.boxes >= 0).all() and (read.boxes <= [128, 96, 128, 96]).all()
    done = boxwood("eval", rpn, "--out", tmp_path / "again")
    assert "AR100" in done.out and "AR1000" in done.out and "data.train.proposals=" in done.out
    assert str(tmp_path / "again" / "proposals.safetensors") in done.out
    assert (tmp_path / "again" / "proposals.safetensors").read_bytes() == files["val"].read_bytes()


def test_fast_rcnn_is_trained_and_evaluated_on_proposals(boxwood: Boxwood, fast: Path, tmp_path: Path) -> None:
    done = boxwood("eval", fast, "--out", tmp_path / "out")
    assert done.status == 0 and "bbox" in done.out
    assert (tmp_path / "out" / "detections.json").is_file() and not (tmp_path / "out" / "proposals.safetensors").exists()
    rows = [json.loads(line) for line in (fast / "metrics.jsonl").read_text().splitlines()]
    assert not any(key.startswith("loss_rpn") for key in rows[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.val.proposals=null", "needs proposals"),
        ("data.val.annotations={shapes}/train.json data.val.images={shapes}/train", "has no proposals for 2 of the 4 images"),
        ("data.val.proposals=absent.pkl", "there is no such file of proposals"),
    ],
)
def test_eval_of_fast_rcnn_without_its_proposals(
    boxwood: Boxwood, shapes: Path, fast: Path, tmp_path: Path, change: str, message: str
) -> None:
    done = boxwood("eval", fast, *change.format(shapes=shapes).split(), "--out", tmp_path / "out")
    assert done.status == 2 and len(done.error_lines) == 1 and message in done.error_lines[0] and "Traceback" not in done.err
    assert not list((tmp_path / "out").rglob("*.*"))


def test_predict_with_fast_rcnn_is_refused(boxwood: Boxwood, shapes: Path, fast: Path, tmp_path: Path) -> None:
    done = boxwood("predict", shapes / "val", "--model", fast, "--out", tmp_path / "out")
    assert done.status == 2 and len(done.error_lines) == 1 and "has no RPN" in done.error_lines[0] and "Traceback" not in done.err
    assert not (tmp_path / "out").exists()
