"""The training loop with a detector of a few layers: exact resuming, interruptions, divergence, errors."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxwood import safe_yaml
from boxwood.config import ConfigError, differences, from_yaml
from boxwood.errors import UserError
from boxwood.evaluation import Metrics
from boxwood.evaluation.measures import CocoEvaluatorConfig, Voc2010EvaluatorConfig
from boxwood.run_config import AdamWConfig, OptimizerConfig, ParameterRule, RunConfig, ScheduleConfig, SGDConfig, StepScheduleConfig
from boxwood.structures import Batch, Detections, Sample
from boxwood.training import TrainingDiverged, loop, train
from boxwood.training.checkpoint import newest_checkpoint
from boxwood.training.state import TrainingState
from boxwood.weights import read_weights, save_weights
from tests.training import tiny
from tests.training.tiny import TinyConfig, TinyData, TinyDataset, TinyDetector, tiny_run


def weights(out: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return read_weights(out / f"{name}.safetensors").state


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def lines(out: Path, split: str = "train") -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["split"] == split]


def losses(out: Path, split: str = "train") -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in lines(out, split)]


def hard_run(**train_settings: Any) -> RunConfig:
    """A run with all kinds of state: dropout, batch norm, momentum, accumulation, evaluation, means over several updates."""
    run = tiny_run(**{"accumulate": 2, "eval_every": 3, "log_every": 4, **train_settings})
    run.model = TinyConfig(dropout=0.3, batch_norm=True)
    return run


# ------------------------------------------------------------------------------------------------- a run and its files


def test_the_files_of_a_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = tiny_run(eval_every=6, checkpoint_every=5, keep_checkpoints=1)
    metrics = train(run, out)
    assert {path.name for path in out.iterdir()} == {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "best.safetensors",
        "last.safetensors",
        "eval",
    }
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000012.pt"]
    assert {path.name for path in (out / "eval").iterdir()} == {"metrics.json", "detections.json"}
    assert json.loads((out / "eval" / "metrics.json").read_text()) == metrics
    assert len(json.loads((out / "eval" / "detections.json").read_text())) == 4
    assert differences(from_yaml(RunConfig, (out / "config.yaml").read_text()), run) == []
    environment = json.loads((out / "environment.json").read_text())
    assert (
        environment["packages"]["torch"] == torch.__version__.split("+")[0] or environment["packages"]["torch"] == torch.__version__
    )
    assert environment["processes"] == 1 and environment["device"] == "cpu"
    assert [entry["step"] for entry in lines(out)] == [4, 8, 12]
    keys = {"step", "split", "loss", "loss_class", "loss_box", "lr", "images_per_second", "data_wait", "memory_mb", "gradient_norm"}
    for entry in lines(out):
        assert set(entry) == keys
        assert entry["loss"] == pytest.approx(entry["loss_class"] + entry["loss_box"])
        assert 0 <= entry["data_wait"] <= 1 and entry["images_per_second"] > 0 and entry["memory_mb"] > 0
    assert [entry["step"] for entry in lines(out, "val")] == [6, 12]
    assert lines(out, "val")[-1]["bbox_AP"] == metrics["bbox"]["AP"]
    assert lines(out)[-1]["lr"] == pytest.approx(0.02 * 0.01)


def test_the_same_configuration_gives_the_same_weights_and_the_seed_matters(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = hard_run(seed=seed)
        train(run, tmp_path / name)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_the_loss_falls(tmp_path: Path) -> None:
    train(tiny_run(steps=60, log_every=10), tmp_path / "run")
    curve = [loss for _, loss in losses(tmp_path / "run")]
    assert curve[-1] < curve[0] / 4


def test_evaluation_does_not_affect_training(tmp_path: Path) -> None:
    train(hard_run(eval_every=1), tmp_path / "often")
    train(hard_run(eval_every=0), tmp_path / "once")
    assert same(weights(tmp_path / "often"), weights(tmp_path / "once"))


def test_best_weights_are_those_of_the_best_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.1, 0.5, 0.3, 0.4])

    def fake(*_: object) -> dict[str, Any]:
        return {"bbox": {"AP": next(scores)}}

    monkeypatch.setattr("boxwood.training.validation.evaluate", fake)
    train(tiny_run(eval_every=3), tmp_path / "whole")
    stopped = tiny_run(eval_every=0, steps=6)
    stopped.optim.schedule = StepScheduleConfig(drops=(8 / 6, 11 / 6))  # the learning rates of the first six of twelve steps
    scores = iter([0.5])
    train(stopped, tmp_path / "six")
    assert same(weights(tmp_path / "whole", "best"), weights(tmp_path / "six"))
    assert not same(weights(tmp_path / "whole", "best"), weights(tmp_path / "whole"))


def with_scores(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """The AP of each evaluation."""
    remaining = iter(scores)
    monkeypatch.setattr("boxwood.training.validation.evaluate", lambda *_: {"bbox": {"AP": next(remaining)}})


def test_of_equal_evaluations_the_newest_is_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_scores(monkeypatch, 0.1, 0.5, 0.3, 0.5)
    train(tiny_run(eval_every=3), tmp_path / "run")
    assert same(weights(tmp_path / "run", "best"), weights(tmp_path / "run"))


@pytest.mark.parametrize("unknown", [-1.0, float("nan")])
def test_an_unknown_metric_selects_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unknown: float) -> None:
    with_scores(monkeypatch, unknown, unknown, 0.0, unknown)
    train(tiny_run(eval_every=3), tmp_path / "run")
    assert weights(tmp_path / "run", "best").keys() and not same(weights(tmp_path / "run", "best"), weights(tmp_path / "run"))
    with_scores(monkeypatch, unknown)
    train(tiny_run(eval_every=0), tmp_path / "without")
    assert not (tmp_path / "without" / "best.safetensors").exists() and (tmp_path / "without" / "last.safetensors").exists()


def test_a_val_set_without_instances_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train(tiny_run(steps=1), tmp_path / "with")
    assert "has no instances" not in caplog.text
    crowd = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 1}
    to_coco = TinyDataset.to_coco
    monkeypatch.setattr(TinyDataset, "to_coco", lambda self: {**to_coco(self), "annotations": [crowd]})
    train(tiny_run(steps=1), tmp_path / "without")
    assert caplog.text.count("data.val: has no instances, so no metric selects the best weights") == 1
    assert not (tmp_path / "without" / "best.safetensors").exists()


def test_a_failed_write_of_the_best_weights_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.4 is less than the lost 0.5, but better than the best weights that are on disk."""
    with_scores(monkeypatch, 0.1, 0.5, 0.4, 0.3)
    calls = 0

    def save(path: Path, *arguments: Any) -> None:
        nonlocal calls
        calls += path.name == "best.safetensors"
        if path.name == "best.safetensors" and calls == 2:
            raise UserError("the disk is full")
        save_weights(path, *arguments)

    monkeypatch.setattr("boxwood.training.validation.save_weights", save)
    train(tiny_run(eval_every=3, checkpoint_every=9, keep_checkpoints=5), tmp_path / "run")
    assert calls == 3
    (tmp_path / "run" / "checkpoints" / "step-00000012.pt").unlink()
    third = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert third is not None and third.best == 0.4 and same(weights(tmp_path / "run", "best"), third.model)


class WorstConfig(CocoEvaluatorConfig):
    """COCO's metrics, with the lowest AP as the best."""

    def primary(self, metrics: Metrics) -> float:
        return -float(metrics["bbox"]["AP"])


def test_the_evaluator_decides_which_weights_are_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.1, 0.5, 0.05, 0.3])
    monkeypatch.setattr("boxwood.training.validation.evaluate", lambda *_: {"bbox": {"AP": next(scores)}})
    run = tiny_run(eval_every=3, checkpoint_every=9, keep_checkpoints=5)
    run.evaluator = WorstConfig()
    train(run, tmp_path / "run")
    third = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert third is not None and third.best == -0.05
    (tmp_path / "run" / "checkpoints" / "step-00000012.pt").unlink()
    third = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert third is not None and same(weights(tmp_path / "run", "best"), third.model)


def test_training_uses_the_evaluator_of_the_configuration(tmp_path: Path) -> None:
    """And by no other evaluator; the evaluator does not affect the weights."""
    run = hard_run()
    train(run, tmp_path / "coco")
    run.evaluator = Voc2010EvaluatorConfig(min_overlap=0.1)
    metrics = train(run, tmp_path / "voc")
    assert set(metrics["voc"]) == {"AP"} and metrics["voc"]["AP"] > 0 and "bbox" not in metrics
    assert [entry["voc_AP"] for entry in lines(tmp_path / "voc", "val")][-1] == metrics["voc"]["AP"]
    assert same(weights(tmp_path / "coco"), weights(tmp_path / "voc"))
    detections = [json.loads((tmp_path / name / "eval" / "detections.json").read_text()) for name in ("coco", "voc")]
    assert detections[0] == detections[1]


def test_validation_losses_are_computed_in_eval_mode(tmp_path: Path) -> None:
    run = hard_run(steps=4, eval_every=2)
    run.optim.lr = 1e-30  # constant weights, so that only dropout could change the loss; no batch norm for the same reason
    run.model = TinyConfig(dropout=0.5)
    train(run, tmp_path / "run")
    (_, first), (_, second) = losses(tmp_path / "run", "val")
    assert first == second


def test_accumulation_equals_the_whole_batch(tmp_path: Path) -> None:
    train(tiny_run(accumulate=1, log_every=1), tmp_path / "one")
    train(tiny_run(accumulate=2, log_every=1), tmp_path / "two")
    for (_, a), (_, b) in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(tensor, weights(tmp_path / "two")[name], rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    run = tiny_run(steps=1, log_every=1)
    run.optim = SGDConfig(lr=1.0, warmup_steps=0, weight_decay=0.0, clip_norm=1e-3, schedule=StepScheduleConfig(drops=()))
    train(run, tmp_path / "clipped")
    start = tiny_run(steps=1)
    start.optim = SGDConfig(lr=1e-30, warmup_steps=0)
    train(start, tmp_path / "start")
    moved = [weights(tmp_path / "clipped")[name] - tensor for name, tensor in weights(tmp_path / "start").items()]
    assert torch.cat([m.flatten() for m in moved]).norm().item() == pytest.approx(1e-3, rel=1e-2)
    assert lines(tmp_path / "clipped")[0]["gradient_norm"] > 1e-2, "the log has the norm before clipping"


def test_bf16_and_pictures_without_boxes(tmp_path: Path) -> None:
    run = tiny_run(precision="bf16", log_every=1)
    run.data.train = TinyData(without_boxes=tuple(range(100, 108)))
    metrics = train(run, tmp_path / "run")
    assert all(entry["loss_box"] == 0 and np.isfinite(entry["loss"]) for entry in lines(tmp_path / "run"))
    assert metrics["bbox"]["AP"] >= 0
    assert weights(tmp_path / "run")["locate.weight"].dtype == torch.float32


# ----------------------------------------------------------------------------------------------------- stop and resume


SLOW_BACKBONE = (ParameterRule(pattern="backbone.*", lr=0.25, weight_decay=0.01),)


@pytest.mark.parametrize(
    ("optimizer", "call"),
    [(SGDConfig(), 1), (AdamWConfig(), 11), (SGDConfig(lr_factors=SLOW_BACKBONE), 13)],
    ids=["sgd", "adamw", "rules"],
)
def test_resumed_training_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: OptimizerConfig, call: int) -> None:
    """Interrupted in forward pass ``call`` (there are 2 per update), between log lines and evaluations."""
    run = hard_run()
    run.optim = optimizer
    run.optim.warmup_steps = 4
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = train(run, whole)
    monkeypatch.setenv("TINY_SIGNAL", f"SIGINT:{call}:0")
    with pytest.raises(KeyboardInterrupt):
        train(run, parts)
    done = (call + 1) // 2
    assert (parts / "checkpoints" / f"step-{done:08d}.pt").exists()
    monkeypatch.delenv("TINY_SIGNAL")
    # Random numbers drawn before the run resumes must have no effect.
    torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    metrics = train(run, parts, resume=True)
    assert same(weights(whole), weights(parts)) and same(weights(whole, "best"), weights(parts, "best"))
    assert losses(whole) == losses(parts) and losses(whole, "val") == losses(parts, "val")
    assert metrics["bbox"] == expected["bbox"]


def test_a_killed_run_resumes_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends without saving; steps that it logged after the checkpoint are logged only once in the end."""
    run = hard_run(checkpoint_every=5, log_every=2)
    train(run, tmp_path / "whole")
    forward = TinyDetector.forward

    def dying(self: TinyDetector, batch: Batch) -> tiny.TinyOutput:
        if self.training and self.calls == 18:
            raise MemoryError
        return forward(self, batch)

    monkeypatch.setattr(TinyDetector, "forward", dying)
    with pytest.raises(MemoryError):
        train(run, tmp_path / "parts")
    assert [step for step, _ in losses(tmp_path / "parts")] == [2, 4, 6, 8]
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "spl')
    monkeypatch.setattr(TinyDetector, "forward", forward)
    train(run, tmp_path / "parts", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_interrupted_during_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = hard_run()
    train(run, tmp_path / "whole")
    detections = TinyDetector.detections
    calls = 0

    def interrupting(self: TinyDetector, output: tiny.TinyOutput, batch: Batch) -> list[Detections]:
        nonlocal calls
        calls += 1
        if calls == 6:  # the second batch of the second evaluation
            os.kill(os.getpid(), signal.SIGTERM)
        return detections(self, output, batch)

    monkeypatch.setattr(TinyDetector, "detections", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "parts")
    assert calls == 6, "evaluation stops after the batch"
    assert (tmp_path / "parts" / "checkpoints" / "step-00000006.pt").exists()
    train(run, tmp_path / "parts", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert losses(tmp_path / "whole", "val") == losses(tmp_path / "parts", "val")


def test_a_closed_terminal_saves_but_not_under_nohup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_SIGNAL", "SIGHUP:3:0")
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tiny_run(), tmp_path / "run")
        assert (tmp_path / "run" / "checkpoints" / "step-00000003.pt").exists()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert train(tiny_run(steps=4), tmp_path / "nohup")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_stops_immediately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(self: TinyDetector, batch: Batch) -> tiny.TinyOutput:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    monkeypatch.setattr(TinyDetector, "forward", impatient)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_run(), tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_a_finished_run_can_be_extended(tmp_path: Path) -> None:
    short = tiny_run(steps=6)
    short.optim.schedule = StepScheduleConfig(drops=(4 / 6,))
    train(short, tmp_path / "run")
    assert train(short, tmp_path / "run", resume=True)["bbox"], "without further steps, the metrics are returned"
    longer = tiny_run(steps=12)
    longer.optim.schedule = StepScheduleConfig(drops=(4 / 12,))
    train(longer, tmp_path / "run", resume=True)
    train(longer, tmp_path / "whole")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert safe_yaml.read(tmp_path / "run" / "config.yaml")[0]["train"]["steps"] == 12
    changed = tiny_run(steps=24)
    with pytest.raises(UserError, match=r"other learning rates"):
        train(changed, tmp_path / "run", resume=True)


class HeldConfig(ScheduleConfig):
    """Factor 1 before update ``until``, then 0.1."""

    until: int = 4

    def factor(self, step: int, steps: int) -> float:
        return 1.0 if step < self.until else 0.1


def test_a_schedule_may_change_for_later_updates_only(tmp_path: Path) -> None:
    run = tiny_run(steps=6)
    run.optim.schedule = HeldConfig(until=8)
    train(run, tmp_path / "run")
    run.optim.schedule, run.train.steps = HeldConfig(until=10), 12
    train(run, tmp_path / "run", resume=True)
    train(run, tmp_path / "whole")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    run.optim.schedule = HeldConfig(until=5)
    with pytest.raises(
        UserError, match=r"with another optim\.schedule\.until the 12 updates made would have had other learning rates"
    ):
        train(run, tmp_path / "run", resume=True)
    run.optim = AdamWConfig(schedule=HeldConfig(until=10))
    with pytest.raises(UserError, match=r"optim\.kind was 'sgd' in the 12 updates made, is 'adamw'"):
        train(run, tmp_path / "run", resume=True)


# ------------------------------------------------------------------------------------------------------------ errors


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(tiny_run(steps=1), out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"holds a run already.*--resume"):
        train(tiny_run(steps=2), out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_run_that_ended_before_its_first_update_does_not_block_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(self: TinyDetector, batch: Batch) -> tiny.TinyOutput:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(TinyDetector, "forward", dying)
        with pytest.raises(MemoryError):
            train(tiny_run(steps=1), tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").exists()
    train(tiny_run(steps=1, seed=1), tmp_path / "run")
    assert safe_yaml.read(tmp_path / "run" / "config.yaml")[0]["train"]["seed"] == 1


def test_an_image_that_cannot_be_read_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(self: TinyDataset, index: int) -> Sample:
        raise UserError(f"{index}.png: is not an image")

    with monkeypatch.context() as patched:
        patched.setattr(TinyDataset, "__getitem__", unreadable)
        with pytest.raises(UserError, match="is not an image"):
            train(tiny_run(steps=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("split", "step"), [("train", 7), ("val", 12)])
def test_an_unreadable_image_late_in_a_run_loses_no_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, split: str, step: int
) -> None:
    run = hard_run(eval_every=0)
    expected = train(run, tmp_path / "whole")
    sample, count = TinyDataset.__getitem__, 0

    def unreadable_later(self: TinyDataset, index: int) -> Sample:
        nonlocal count
        count += self.config.seed == 0  # images of the train set
        if (split == "train" and count > 30) or (split == "val" and self.config.seed == 1 and index == 2):
            raise UserError(f"{index}.png: is not an image")
        return sample(self, index)

    truths = {data.seed: data.open().to_coco() for data in (run.data.train, run.data.val) if isinstance(data, TinyData)}
    count = 0
    with monkeypatch.context() as patched:
        patched.setattr(TinyDataset, "__getitem__", unreadable_later)
        patched.setattr(TinyDataset, "to_coco", lambda self: truths[self.config.seed])  # it would read the images too
        with pytest.raises(UserError, match="is not an image"):
            train(run, tmp_path / "parts")
    assert f"stopped after step {step}, which is saved" in caplog.text
    assert train(run, tmp_path / "parts", resume=True)["bbox"] == expected["bbox"]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "best.safetensors", "checkpoints/step-00000001.pt"])
def test_results_of_a_run_are_not_overwritten(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("something")
    with pytest.raises(UserError, match=rf"holds a run already \({path.name}\)"):
        train(tiny_run(), tmp_path / "run")
    assert path.read_text() == "something"


def test_a_configuration_file_of_a_user_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("# mine\nbase: demo_shapes\n")
    with pytest.raises(UserError, match=r"holds a config\.yaml that no run wrote"):
        train(tiny_run(), tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "# mine\nbase: demo_shapes\n"


def test_resume_with_another_configuration_names_the_keys(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(tiny_run(steps=2), out)
    other = tiny_run(steps=2, seed=5)
    other.optim.lr = 0.5
    other.data.workers = 1
    with pytest.raises(ConfigError) as error:
        train(other, out, resume=True)
    assert error.value.problems == (
        f"{out}: optim.lr was 0.02 in the 2 updates made, is 0.5",
        f"{out}: train.seed was 0 in the 2 updates made, is 5",
        f"{out}: cannot resume with another configuration; set these keys as they were, or name another --out",
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_data_set_without_images(tmp_path: Path, split: str) -> None:
    run = tiny_run()
    setattr(run.data, split, TinyData(count=0))
    with pytest.raises(UserError, match=rf"data\.{split}: has no images; choose annotations that have some") as error:
        train(run, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_an_evaluator_that_the_detector_does_not_support(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyConfig, "class_agnostic", True)
    run = tiny_run()
    run.evaluator = Voc2010EvaluatorConfig()
    with pytest.raises(UserError, match="the measure voc2010 compares classes"):
        train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_categories_in_val(tmp_path: Path) -> None:
    run = tiny_run()
    run.data.val = TinyData(ids=(3, 7, 9))
    with pytest.raises(UserError, match=r"data\.train and data\.val have different categories: only data\.val has 9 'class9'"):
        train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda"}, r"train\.device=cuda: no GPU was found"),
        ({"device": "gpu"}, r"train\.device=gpu: no such device"),
        ({"device": "mps"}, r"train\.device=mps"),
        ({"precision": "fp16"}, r"train\.precision=fp16: needs a CUDA GPU"),
        ({"accumulate": 3}, r"train\.batch_size=4 is no multiple of train\.accumulate=3"),
        ({"weights": "no.safetensors"}, r"no\.safetensors: there is no such"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    if (settings.get("device") == "cuda" and torch.cuda.is_available()) or (
        settings.get("device") == "mps" and torch.backends.mps.is_available()
    ):
        pytest.skip("this machine has that device")
    with pytest.raises(UserError, match=message) as error:
        train(tiny_run(**settings), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------------- initial weights


def test_initial_weights_and_layers_of_other_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tiny_run(steps=2), tmp_path / "first")
    run = tiny_run(steps=1, weights=str(tmp_path / "first" / "last.safetensors"))
    run.optim = SGDConfig(lr=1e-30, warmup_steps=0)
    run.data.train, run.data.val = TinyData(ids=(1, 2, 4, 5)), TinyData(ids=(1, 2, 4, 5), count=4)
    with caplog.at_level(logging.WARNING):
        train(run, tmp_path / "second")
    assert (
        "has 2 classes, data.train has 4, and no name is the same; these tensors are randomly initialised: classify." in caplog.text
    )
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert torch.equal(first["locate.weight"], second["locate.weight"])
    assert first["classify.bias"].shape == (3,) and second["classify.bias"].shape == (5,)


def test_initial_weights_go_by_class_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tiny_run(steps=2), tmp_path / "first")  # classes class3 and class7
    run = tiny_run(steps=1, weights=str(tmp_path / "first" / "last.safetensors"))
    run.optim = SGDConfig(lr=1e-30, warmup_steps=0)
    run.data.train, run.data.val = TinyData(ids=(7, 1, 3)), TinyData(ids=(7, 1, 3), count=4)
    with caplog.at_level(logging.INFO):
        train(run, tmp_path / "second")
    lines = "  class7: class 1 of the file\n  class1: randomly initialised\n  class3: class 0 of the file"
    assert f"outputs go by class name:\n{lines}" in caplog.text
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    for name in ("classify.weight", "classify.bias"):
        assert torch.equal(second[name][[2, 0, 3]], first[name]), "class 3, class 7 and the background"
        assert not torch.isin(second[name][1], first[name]).any()


def test_initial_weights_of_as_many_classes_of_other_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tiny_run(steps=1), tmp_path / "first")
    run = tiny_run(steps=1, weights=str(tmp_path / "first" / "last.safetensors"))
    run.data.train, run.data.val = TinyData(ids=(1, 2)), TinyData(ids=(1, 2), count=4)
    train(run, tmp_path / "second")
    assert "as many classes as data.train, but of other names; their weights are loaded in the file's order" in caplog.text


def test_initial_weights_of_another_architecture(tmp_path: Path) -> None:
    train(tiny_run(steps=1), tmp_path / "first")
    run = tiny_run(weights=str(tmp_path / "first" / "last.safetensors"))
    run.model = TinyConfig(width=16, batch_norm=True)
    with pytest.raises(
        UserError, match=r"another architecture.*missing \(backbone\.1\.weight.*another shape \(backbone\.0\.weight"
    ) as error:
        train(run, tmp_path / "second")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "second").exists()


# -------------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("deferred", [False, True])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deferred: bool) -> None:
    """Image 102 occurs once per epoch of two updates. ``deferred`` checks losses only when logging, as on a GPU."""
    states: list[dict[str, torch.Tensor]] = []
    created = TrainingState.__init__

    def as_on_a_gpu(self: TrainingState, *arguments: Any, **named: Any) -> None:
        created(self, *arguments, **named)
        self.watch.deferred = deferred
        states.append(self.model.state_dict())

    monkeypatch.setattr(TrainingState, "__init__", as_on_a_gpu)
    run = tiny_run(log_every=6, checkpoint_every=3)
    run.data.train = TinyData(nan_box_in=102)
    with pytest.raises(TrainingDiverged) as error:
        train(run, tmp_path / "run")
    message, details = str(error.value), (tmp_path / "run" / "divergence.txt").read_text()
    assert "\n" not in message and len(message) < 600
    for words in (
        "training diverged at step ",
        ": loss_box not finite, with the images ",
        "102 (2.png)",
        "divergence.txt",
        "last.saf",
    ):
        assert words in message
    for words in ("loss_box nan", "loss_class ", "image 102 (2.png): 1 boxes xyxy [[nan, nan, nan, nan]]"):
        assert words in details
    assert int(message.split("at step ")[1].split(":")[0]) in (1, 2)
    assert all(torch.isfinite(tensor).all() for tensor in states[0].values()), "the weights are not affected"
    assert same(weights(tmp_path / "run"), states[0]), "and they are saved, as there were none"
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == [], "no checkpoint is written"


def test_weights_from_before_a_divergence_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = TinyDetector.losses

    def diverging(self: TinyDetector, *arguments: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        factor = float("inf") if len(calls) > 4 else 1.0
        return {name: loss * factor for name, loss in original(self, *arguments).items()}

    calls: list[int] = []
    monkeypatch.setattr(TinyDetector, "losses", diverging)
    with pytest.raises(TrainingDiverged, match=r"at step 5: no loss is finite"):
        train(tiny_run(steps=6, checkpoint_every=3), tmp_path / "run")
    checkpoint = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None and checkpoint.step == 3
    assert same(weights(tmp_path / "run"), checkpoint.model), "those of the update before may be spoilt, though they are finite"


def test_another_batch_size_is_logged_where_the_rate_is_not_scaled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tiny_run(steps=1)
    run.optim = SGDConfig(lr=0.02, reference_batch_size=16)
    train(run, tmp_path / "run")
    line = "train.batch_size=4, but optim.lr=0.02 is meant for batches of 16; with optim.scale_lr=true it is 0.005"
    assert line in caplog.messages
    caplog.clear()
    run.optim.reference_batch_size = 4
    train(run, tmp_path / "same")
    run.optim = SGDConfig(lr=0.02, reference_batch_size=16, scale_lr=True)
    train(run, tmp_path / "scaled")
    assert not any("is meant for" in message for message in caplog.messages)


@pytest.mark.parametrize("deferred", [False, True])
def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deferred: bool) -> None:
    original, created = TinyDetector.losses, TrainingState.__init__

    def as_on_a_gpu(self: TrainingState, *arguments: Any, **named: Any) -> None:
        created(self, *arguments, **named)
        self.watch.deferred = deferred

    def steep(self: TinyDetector, output: tiny.TinyOutput, targets: Any) -> dict[str, torch.Tensor]:
        losses = original(self, output, targets)
        if self.calls == 3:
            losses["loss_root"] = (output.logits.sum() * 0).abs().sqrt()  # 0, with an infinite slope
        return losses

    monkeypatch.setattr(TrainingState, "__init__", as_on_a_gpu)
    monkeypatch.setattr(TinyDetector, "losses", steep)
    with pytest.raises(TrainingDiverged, match=r"at step 3: the losses are finite but the gradient is not \(norm nan\)") as error:
        train(tiny_run(), tmp_path / "run")
    assert "loss_root 0" in error.value.details and ".png): 1 boxes" in error.value.details


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch looks at it where a graph begins in the middle
def test_validation_compiles_no_further_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[torch.fx.GraphModule] = []
    at_validation: list[int] = []
    whole, validate = torch.nn.Module.compile, loop.validate

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    def watched(*arguments: Any) -> None:
        at_validation.append(len(graphs))
        validate(*arguments)
        at_validation.append(len(graphs))

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: whole(self, backend=backend))
    monkeypatch.setattr(loop, "validate", watched)
    train(tiny_run(steps=2, compile=True), tmp_path / "run")
    assert at_validation[0] == at_validation[1] > 0
