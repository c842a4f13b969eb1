"""Training Mask^X R-CNN: what reaches it of masks of other classes, end to end and stage by stage, and both parts' AP."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwood.config import apply_overrides
from boxwood.data import CopyPaste
from boxwood.data.synthetic.shapes import write_shapes
from boxwood.errors import UserError
from boxwood.inference.evaluate import evaluate
from boxwood.models.heads import ConvMaskHeadConfig, MaskHeadConfig, MaskXHeadConfig
from boxwood.recipes import demo_shapes
from boxwood.run_config import RunConfig, SGDConfig, TrainConfig
from boxwood.training import train
from boxwood.weights import read_weights
from tests.models.toys import ARCHITECTURES

TAUGHT = ("disc", "square", "ring")
MASK_X = MaskXHeadConfig(convs=1, width=16, resolution=7)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, train=6, val=2, seed=0, size=(96, 128))
    return folder


def run_on(folder: Path, head: MaskHeadConfig | None = MASK_X, annotations: Path | None = None) -> RunConfig:
    """Three steps of a tiny network, in which masks of three classes of six teach."""
    config, model = demo_shapes(), ARCHITECTURES["mask_x_rcnn_fpn"]()
    model.mask_head = head  # type: ignore[attr-defined]  # of RCNNConfig
    config.model, config.optim = model, SGDConfig(lr=0.01, warmup_steps=0)
    config = apply_overrides(config, ["data.workers=0", "data.train.mask_classes=[disc, square, ring]"])
    for split in ("train", "val"):
        data: Any = getattr(config.data, split)
        data.annotations, data.images, data.transforms = str(folder / f"{split}.json"), str(folder / split), ()
    if annotations is not None:
        config.data.train.annotations = str(annotations)  # type: ignore[attr-defined]  # of CocoConfig
    config.train = TrainConfig(steps=3, batch_size=2, eval_every=0, log_every=1)
    return config


def corrupted(folder: Path, out: Path, names: Callable[[str], bool]) -> Path:
    """A copy of the annotations in which every mask of some classes is another: a random polygon, all of the picture, or none."""
    tree, rng = json.loads((folder / "train.json").read_text()), np.random.default_rng(0)
    name_of = {category["id"]: category["name"] for category in tree["categories"]}
    rows = [row for row in tree["annotations"] if names(name_of[row["category_id"]])]
    assert 5 < len(rows) < len(tree["annotations"]) - 5
    for number, row in enumerate(rows):
        polygon = [(rng.random((5, 2)) * (128, 96)).round(1).flatten().tolist()]
        row["segmentation"] = (polygon, {"size": [96, 128], "counts": [0, 96 * 128]}, [])[number % 3]
    out.mkdir(exist_ok=True)
    (out / "train.json").write_text(json.dumps(tree))
    return out / "train.json"


def weights_after(config: RunConfig, out: Path) -> dict[str, Tensor]:
    train(config, out)
    return read_weights(out / "last.safetensors").state


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(MASK_X, id="mask_x"),
        pytest.param(ConvMaskHeadConfig(convs=1, width=16), id="conv_mask", marks=pytest.mark.slow),
    ],
)
def test_no_mask_of_another_class_reaches_a_loss(shapes: Path, tmp_path: Path, head: MaskHeadConfig) -> None:
    """Training is equal to the bit where all masks of classes that do not teach are corrupted, also through copy-paste."""
    others = corrupted(shapes, tmp_path / "others", lambda name: name not in TAUGHT)
    taught = corrupted(shapes, tmp_path / "taught", lambda name: name in TAUGHT)
    weights = []
    for number, file in enumerate((shapes / "train.json", others, taught)):
        config = run_on(shapes, head, file)
        config.data.train.transforms = (CopyPaste(),)
        weights.append(weights_after(config, tmp_path / f"run{number}"))
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


def test_both_parts_are_measured_and_the_log_says_which_classes_teach(
    shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    train(run_on(shapes), tmp_path / "run")
    line = next(record.message for record in caplog.records if record.message.startswith("data.train: masks"))
    assert line.startswith("data.train: masks of 3 of 6 classes teach: disc (") and "; boxes alone: triangle (" in line
    metrics = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert {"segm", "segm_with_masks", "segm_without_masks"} < metrics.keys()
    logged = [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert "segm_without_masks_AP" in logged[-1]
    result = evaluate(tmp_path / "run", out=tmp_path / "again")
    assert result.metrics["segm_without_masks"] == metrics["segm_without_masks"]
    assert "segm_with_masks" in result.table()
    assert "mask AP, other classes" in (tmp_path / "again" / "report.html").read_text()
    without = evaluate(tmp_path / "run", overrides=["data.train.mask_classes=null"])
    assert "segm_with_masks" not in without.metrics and without.metrics["segm"] == metrics["segm"]


@pytest.mark.slow
def test_masks_of_some_instances_need_no_key(shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The classes that have masks are counted; training equals that of a file with all masks and the key, to the bit."""
    caplog.set_level(logging.INFO)
    tree = json.loads((shapes / "train.json").read_text())
    ids = [category["id"] for category in tree["categories"] if category["name"] in TAUGHT]
    for row in tree["annotations"]:
        if row["category_id"] not in ids:
            del row["segmentation"]
    (tmp_path / "some.json").write_text(json.dumps(tree))
    config = run_on(shapes, annotations=tmp_path / "some.json")
    config.data.train.mask_classes = None  # type: ignore[attr-defined]  # of CocoConfig
    weights = weights_after(config, tmp_path / "some")
    assert any("data.train: masks of 3 of 6 classes teach: disc (" in record.message for record in caplog.records)
    assert same(weights, weights_after(run_on(shapes), tmp_path / "key"))


def test_stage_by_stage_only_the_mask_head_learns(shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Faster R-CNN first; then the head of masks alone, on frozen weights, where stopping the gradient changes nothing."""
    caplog.set_level(logging.INFO)
    detector = weights_after(run_on(shapes, None), tmp_path / "detector")
    stages = []
    for stop in (True, False):
        second = run_on(shapes, MASK_X.model_copy(update={"stop_gradient": stop}))
        second.train.weights = str(tmp_path / "detector" / "last.safetensors")
        second = apply_overrides(second, ["optim.lr_factors=[{pattern: mask_*}, {pattern: '*', lr: 0}]"])
        stages.append(weights_after(second, tmp_path / f"stop{stop}"))
    assert any(record.message.endswith("has no masks; these modules are randomly initialised") for record in caplog.records)
    assert same(*stages)
    assert all(torch.equal(stages[0][name], value) for name, value in detector.items())
    initial = run_on(shapes)
    initial.train.weights, initial.train.steps, initial.optim.lr = second.train.weights, 1, 1e-12
    untrained = weights_after(initial, tmp_path / "initial")
    learnt = {name for name in untrained if name.startswith("mask_") and not torch.equal(untrained[name], stages[0][name])}
    assert learnt == {name for name in untrained if name.startswith("mask_")}


def test_a_class_agnostic_box_head_is_one_line(shapes: Path, tmp_path: Path) -> None:
    config = apply_overrides(run_on(shapes), ["model.rois.class_agnostic=true"])
    with pytest.raises(UserError) as error:
        train(config, tmp_path / "run")
    assert str(error.value).startswith(
        "model.mask_head.inputs=cls+box: reads the box deltas' weights of each class, and model.rois."
    )
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
