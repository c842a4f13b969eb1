"""Training InteractNet: a run from start to results, a run that is resumed, and weights of a detector without its branches."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from boxwood.config import apply_overrides
from boxwood.data.synthetic.figures import VERBS, write_figures
from boxwood.errors import UserError
from boxwood.evaluation.measures import VcocoEvaluatorConfig
from boxwood.inference.evaluate import evaluate
from boxwood.inference.predict import predict
from boxwood.models import RCNNConfig
from boxwood.models.heads import InteractionHeadConfig
from boxwood.recipes import demo_shapes
from boxwood.run_config import RunConfig, SGDConfig, StepScheduleConfig, TrainConfig
from boxwood.training import train
from boxwood.weights import read_weights
from tests.models.toys import _rcnn
from tests.training.two_processes import after_first_steps, one_and_two


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    write_figures(folder, train=6, val=3)
    return folder


def run_on(folder: Path, steps: int = 3) -> RunConfig:
    config = apply_overrides(demo_shapes(), ["data.workers=0"])
    config.model, config.optim = (
        _rcnn(interaction_head=InteractionHeadConfig(width=16)),
        SGDConfig(lr=0.01, warmup_steps=0, schedule=StepScheduleConfig(drops=())),
    )
    for split in ("train", "val"):
        data: Any = getattr(config.data, split)
        data.annotations, data.images, data.transforms = str(folder / f"{split}.json"), str(folder / split), ()
    config.train = TrainConfig(steps=steps, batch_size=2, eval_every=0, log_every=1, checkpoint_every=2)
    config.test.score_threshold, config.test.detections_per_image = 0.01, 20
    config.evaluator = VcocoEvaluatorConfig()
    return config


def weights_of(out: Path) -> dict[str, Tensor]:
    return read_weights(out / "last.safetensors").state


def test_a_run_from_training_to_the_files_of_results(figures: Path, tmp_path: Path) -> None:
    train(run_on(figures), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {"loss_interaction_action", "loss_interaction_target", "loss_interaction_pair"} <= rows[0].keys()
    saved = read_weights(tmp_path / "run/last.safetensors")
    assert saved.categories.interactions is not None and saved.categories.interactions.verbs == VERBS
    result = evaluate(tmp_path / "run", out=tmp_path / "out")
    assert set(result.metrics["vcoco"]) == {"AP_role", "AP_role_2", "AP_agent"}
    assert set(result.metrics["per_class"]) == {"hold-obj", "lift-obj", "kick-obj", "sit_on-obj", "look-obj", "walk"}
    assert "hold-obj" in result.table() and "V-COCO AP" in result.table()
    page = (tmp_path / "out/report.html").read_text()
    assert "sit_on-obj" in page and "Hardest pairs" in page
    written = pickle.loads((tmp_path / "out/vcoco/results.pkl").read_bytes())  # noqa: S301
    assert written and {"image_id", "person_box", "walk_agent", "hold_obj"} <= written[0].keys()
    again = evaluate(tmp_path / "run", detections=tmp_path / "out/detections.json")
    assert again.metrics["vcoco"] == pytest.approx(result.metrics["vcoco"], abs=1e-9)
    assert again.metrics["hardest_pairs"] == result.metrics["hardest_pairs"]


def test_predictions_have_interactions(figures: Path, tmp_path: Path) -> None:
    train(run_on(figures, 1), tmp_path / "run")
    (first, *_) = predict(tmp_path / "run", [str(figures / "val")], out=tmp_path / "out", score=0.01)
    records = json.loads((tmp_path / "out/predictions.json").read_text())
    claims = [claim for record in records for claim in record.get("interactions", ())]
    assert {claim["verb"] for claim in claims} == set(VERBS)
    assert any(claim["object"] is not None and claim["object"]["bbox"] for claim in claims if claim["role"] == "obj")
    assert first.detections is not None and "interactions" in first.detections.fields


def test_a_resumed_run_is_equal_to_the_bit(figures: Path, tmp_path: Path) -> None:
    train(run_on(figures, 4), tmp_path / "whole")
    train(run_on(figures, 2), tmp_path / "part")
    config = run_on(figures, 4)
    train(config, tmp_path / "part", resume=True)
    whole, part = weights_of(tmp_path / "whole"), weights_of(tmp_path / "part")
    assert all(torch.equal(whole[name], part[name]) for name in whole)


def test_the_branches_are_added_to_a_detector(figures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    detector = run_on(figures, 1)
    assert isinstance(detector.model, RCNNConfig)
    detector.model.interaction_head, detector.evaluator = None, None
    train(detector, tmp_path / "detector")
    config = apply_overrides(run_on(figures, 1), ["optim.lr_factors=[{pattern: interaction_*}, {pattern: '*', lr: 0}]"])
    config.train.weights = str(tmp_path / "detector/last.safetensors")
    train(config, tmp_path / "run")
    assert any("has no interactions; these modules are randomly initialised" in record.message for record in caplog.records)
    before, after = weights_of(tmp_path / "detector"), weights_of(tmp_path / "run")
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_data_without_interactions_is_one_line(figures: Path, tmp_path: Path) -> None:
    tree = json.loads((figures / "train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps({key: tree[key] for key in ("images", "annotations", "categories")}))
    config: Any = run_on(figures)
    config.data.train.annotations = str(tmp_path / "train.json")
    with pytest.raises(UserError, match=r"data\.train.*has no human-object interactions") as error:
        train(config, tmp_path / "run")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_two_processes_train_like_one(figures: Path, tmp_path: Path) -> None:
    """As that of Mask R-CNN: from weights of a few steps, with group norm, at a small learning rate. Two of the six pictures have
    no object of a verb, so that a process often has no pair to learn from."""
    widths = ["model.backbone.width=32", "model.fpn.channels=64", "model.mask_head=null", "model.interaction_head.kind=interaction"]
    config: Any = apply_overrides(demo_shapes(), ["model.backbone.norm=gn", "model.fpn.norm=gn", "model.box_head.norm=gn", *widths])
    config.model.interaction_head = InteractionHeadConfig(width=64)
    prepared = run_on(figures)
    config.data, config.evaluator = prepared.data, prepared.evaluator
    one, two = one_and_two(after_first_steps(config, tmp_path, steps=10), tmp_path)
    assert len(one) == 10 and all(row["loss_interaction_pair"] > 0 for row in one[:3])
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "loss_interaction_action", "loss_interaction_target", "loss_interaction_pair"):
            assert a[name] == pytest.approx(b[name], rel=1e-3), (a["step"], name)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-2), a["step"]
    sizes = []
    for name in ("one", "two"):
        records = json.loads((tmp_path / name / "eval" / "detections.json").read_text())
        sizes.append((len(records), sum("interactions" in row for row in records)))
    assert sizes[0] == sizes[1] and sizes[0][1] > 0
