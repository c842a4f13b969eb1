"""Resuming: the configuration and the data of the checkpoint, runs without one, files that a killed run has left."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from boxwood.config import ConfigError, from_yaml, to_yaml
from boxwood.errors import UserError
from boxwood.files import write_text
from boxwood.run_config import RunConfig
from boxwood.training import train
from boxwood.weights import read_weights
from tests.conftest import Boxwood, tiny
from tests.training.tiny import TinyData, tiny_run


def weights(out: Path, name: str = "last") -> dict[str, torch.Tensor]:
    state = read_weights(out / f"{name}.safetensors").state
    return {key: tensor.clone() for key, tensor in state.items()}  # they are mapped from the file, which tests overwrite


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_an_edited_configuration_file_is_compared_with_the_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = tiny_run(steps=2)
    train(run, out)
    run.optim.lr = 0.2
    write_text(out / "config.yaml", to_yaml(run))
    with pytest.raises(ConfigError) as error:
        train(from_yaml(RunConfig, (out / "config.yaml").read_text()), out, resume=True)
    assert error.value.problems[0] == f"{out}: optim.lr was 0.02 in the 2 updates made, is 0.2"


def test_resume_begins_where_there_is_no_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In no directory, an empty one, and one of a run that was killed before its first checkpoint."""
    run = tiny_run(steps=3, eval_every=2, log_every=1)
    train(run, tmp_path / "whole")
    (tmp_path / "empty").mkdir()
    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "environment.json").write_text("{}")
    (killed / "config.yaml").write_text(to_yaml(run))
    (killed / "metrics.jsonl").write_text('{"step": 1, "split": "train", "loss": 5.0}\n{"step": 2, "spl')
    (killed / ".last.safetensors.7.tmp").mkdir()
    for name in ("none", "empty", "killed"):
        with caplog.at_level(logging.INFO):
            train(run, tmp_path / name, resume=True)
        assert f"{name}: holds no checkpoint, so the run begins" in caplog.text
        assert same(weights(tmp_path / name), weights(tmp_path / "whole"))
        assert {path.name for path in (tmp_path / name).iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert [(line["step"], line["split"]) for line in lines] == [
            (1, "train"),
            (2, "train"),
            (2, "val"),
            (3, "train"),
            (3, "val"),
        ]


def test_a_run_whose_checkpoints_were_deleted_does_not_begin_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(tiny_run(steps=1), out)
    (out / "checkpoints" / "step-00000001.pt").unlink()
    before = (out / "last.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"holds the weights of a run, but no checkpoint.*train\.weights=last\.safetensors"):
        train(tiny_run(steps=1), out, resume=True)
    assert (out / "last.safetensors").read_bytes() == before


def test_other_data_are_refused_or_taken_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same keys, but a data set of other boxes: as if the annotation file was edited."""
    out = tmp_path / "run"
    run = tiny_run(steps=2, eval_every=1)
    train(run, out)
    run.data.val = TinyData(count=4, seed=2)
    with pytest.raises(ConfigError, match=r"data\.val\.seed was 1 in the 2 updates made, is 2"):
        train(run, out, resume=True)
    run.data.val = TinyData(count=4, seed=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tests.training.tiny.SIDE", 64)
        with pytest.raises(ConfigError) as error:
            train(run, out, resume=True)
    assert error.value.problems[0] == (
        f"{out}: data.train: other images and annotations than in the 2 updates made; restore the data, name another --out, "
        "or go on with them by --other-data"
    )
    run.data.val = TinyData(count=4, seed=2)
    train(run, out, resume=True, other_data=True)
    assert "data.val: other annotations than in the 2 updates made, taken because of --other-data" in caplog.text
    assert "data.val has changed, so the next evaluation replaces the best weights" in caplog.text


def test_files_older_than_the_checkpoint_are_written_again(tmp_path: Path) -> None:
    """As after a kill between the checkpoint and the files that follow it."""
    out = tmp_path / "run"
    run = tiny_run(steps=4, checkpoint_every=2, keep_checkpoints=1)
    train(run, out)
    last, best = weights(out), weights(out, "best")
    old = out / "checkpoints" / "step-00000002.pt"
    old.write_bytes((out / "checkpoints" / "step-00000004.pt").read_bytes())
    for name in ("last", "best"):
        (out / f"{name}.safetensors").write_bytes(b"of an earlier step")
    train(run, out, resume=True)
    assert same(weights(out), last) and same(weights(out, "best"), best) and not old.exists()


def test_the_command_takes_data_that_have_moved(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    """Another folder with the same content is the same data; an edited box is not."""
    import shutil

    command = ["train", "demo_shapes", "--out", tmp_path / "run", "--resume"]
    assert boxwood(*command, *tiny(shapes)).status == 0
    shutil.copytree(shapes, tmp_path / "moved")
    assert boxwood(*command, *tiny(tmp_path / "moved")).status == 0
    tree = json.loads((tmp_path / "moved" / "train.json").read_text())
    tree["annotations"][0]["bbox"][2] -= 1
    (tmp_path / "moved" / "train.json").write_text(json.dumps(tree))
    outcome = boxwood(*command, *tiny(tmp_path / "moved"))
    assert outcome.status == 2
    (line,) = outcome.error_lines
    assert "data.train: other boxes than in the 2 updates made" in line and "--other-data" in line
    assert boxwood(*command, "--other-data", *tiny(tmp_path / "moved")).status == 0


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory:\nyou tried to allocate 9")]
)
def test_memory_that_runs_out_is_one_line(
    boxwood: Boxwood, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("boxwood.training.loop._train", fail)
    outcome = boxwood("train", "demo_shapes", *tiny(shapes), "--out", tmp_path / "run")
    assert outcome.status == 1 and outcome.err.count("\n") == 1
    assert outcome.err.startswith("boxwood: memory ran out") and "lower train.batch_size" in outcome.err
