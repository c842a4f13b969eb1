"""Training DensePose R-CNN on generated figures: its numbers, resuming, two processes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from boxwood.config import apply_overrides
from boxwood.data import CocoConfig, HorizontalFlip
from boxwood.data.synthetic.bodies import write_bodies
from boxwood.errors import UserError
from boxwood.evaluation.measures import DensePoseEvaluatorConfig
from boxwood.inference.evaluate import evaluate
from boxwood.models.heads import ConvDensePoseHeadConfig
from boxwood.recipes import demo_bodies
from boxwood.run_config import RunConfig, SGDConfig, StepScheduleConfig, TrainConfig
from boxwood.training import train
from boxwood.weights import read_weights
from tests.models.toys import ARCHITECTURES
from tests.training.two_processes import after_first_steps, one_and_two


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bodies")
    write_bodies(folder, train=6, val=2, seed=0, size=(96, 128))
    return folder


def run_on(folder: Path, steps: int = 3) -> RunConfig:
    """A few steps of a tiny network."""
    config, model = demo_bodies(), ARCHITECTURES["dense_pose_rcnn_fpn"]()
    model.dense_pose_head = ConvDensePoseHeadConfig(convs=1, width=16, resolution=7)  # type: ignore[attr-defined]  # of RCNNConfig
    config.model, config.optim = model, SGDConfig(lr=0.01, warmup_steps=0, clip_value=0.1, schedule=StepScheduleConfig(drops=()))
    config = apply_overrides(config, ["data.workers=0"])
    for split in ("train", "val"):
        data = getattr(config.data, split)
        data.annotations, data.images = str(folder / f"{split}.json"), str(folder / split)
        data.transforms = (HorizontalFlip(p=0.5),) if split == "train" else ()
    assert isinstance(config.data.train, CocoConfig)
    config.data.train.symmetry = str(folder / "body.npz")
    config.evaluator = DensePoseEvaluatorConfig(surface=str(folder / "body.npz"))
    config.train = TrainConfig(steps=steps, batch_size=2, eval_every=0, log_every=1, checkpoint_every=2, device="cpu")
    return config


def test_numbers_of_a_training_and_of_its_detections(bodies: Path, tmp_path: Path) -> None:
    train(run_on(bodies), tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    tables = {"dense_pose", "dense_pose_gpsm", "dense_pose_iou", "dense_pose_parts", "bbox"}
    assert tables <= metrics.keys()
    logged = [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss_dense_pose_coarse", "loss_dense_pose_fine", "loss_dense_pose_u", "loss_dense_pose_v"} < logged[0].keys()
    assert "dense_pose_gpsm_AP" in logged[-1]
    result = evaluate(tmp_path / "run", out=tmp_path / "again")
    assert {name: result.metrics[name] for name in tables} == {name: metrics[name] for name in tables}
    assert "dense_pose_gpsm" in result.table() and "GPSm" in (tmp_path / "again" / "report.html").read_text()
    records = json.loads((tmp_path / "again" / "detections.json").read_text())
    assert records and all(record["uv_shape"][0] == 3 for record in records)
    detections = str(tmp_path / "again" / "detections.json")
    from_file = evaluate(tmp_path / "run", detections=detections)
    assert from_file.metrics["dense_pose_gpsm"] == metrics["dense_pose_gpsm"]


def test_resuming_is_exact(bodies: Path, tmp_path: Path) -> None:
    train(run_on(bodies, steps=4), tmp_path / "whole")
    train(run_on(bodies, steps=2), tmp_path / "parts")
    train(run_on(bodies, steps=4), tmp_path / "parts", resume=True)
    whole, parts = (read_weights(tmp_path / name / "last.safetensors").state for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_mirroring_without_the_table_is_refused(bodies: Path, tmp_path: Path) -> None:
    config = run_on(bodies)
    assert isinstance(config.data.train, CocoConfig)
    config.data.train.symmetry = None
    config.data.train.transforms = (HorizontalFlip(p=1.0),)
    with pytest.raises(UserError, match=r"set data\.train\.symmetry to UV_symmetry_transforms\.mat"):
        train(config, tmp_path / "run")
    config.data.train.transforms = ()
    train(config, tmp_path / "other")


def test_more_parts_than_the_head_has_are_refused(bodies: Path, tmp_path: Path) -> None:
    config = apply_overrides(run_on(bodies), ["model.dense_pose_head.parts=3"])
    with pytest.raises(UserError, match=r"data\.train: has part \d+, and model\.dense_pose_head\.parts is 3"):
        train(config, tmp_path / "run")


@pytest.mark.slow
def test_two_processes_train_like_one(bodies: Path, tmp_path: Path) -> None:
    """As that of Mask R-CNN: from weights of a few steps, with group norm, at a small learning rate."""
    widths = ["model.backbone.width=32", "model.fpn.channels=64"]
    config = apply_overrides(demo_bodies(), ["model.backbone.norm=gn", "model.fpn.norm=gn", *widths])
    prepared = run_on(bodies)
    config.data, config.evaluator = prepared.data, prepared.evaluator
    one, two = one_and_two(after_first_steps(config, tmp_path, steps=10), tmp_path)
    assert len(one) == 10
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3), a["step"]
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-2), a["step"]
