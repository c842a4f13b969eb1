"""Two processes under torchrun give the losses and metrics of one, resume exactly, and never wait without end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwood.config import to_yaml
from boxwood.distributed import any_process, gather_objects, on_rank_zero, rank, world_size
from boxwood.run_config import RunConfig
from boxwood.training import train
from boxwood.weights import read_weights
from tests.training import torchrun
from tests.training.tiny import TinyConfig, TinyData, tiny_run


def write_config(run: RunConfig, directory: Path) -> Path:
    path = directory / "config.yaml"
    path.write_text(to_yaml(run))
    return path


def lines(out: Path, split: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["split"] == split]


def same_weights(a: Path, b: Path) -> bool:
    left, right = (read_weights(out / "last.safetensors").state for out in (a, b))
    return all(torch.equal(left[name], right[name]) for name in left)


def test_functions_for_processes_work_with_one_process() -> None:
    done: list[int] = []
    on_rank_zero(lambda: done.append(1))
    assert (rank(), world_size(), any_process(True, False), gather_objects("a"), done) == (0, 1, (True, False), ["a"], [1])


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """Each process has one image per pass, which may have no box for a head. The val set has an odd number of images."""
    run = tiny_run(steps=20, log_every=1, eval_every=10, accumulate=2)
    run.data.train = TinyData(without_boxes=(100, 103, 106))
    run.data.val = TinyData(count=7, seed=1)
    train(run, tmp_path / "one")
    status, output = torchrun.run(write_config(run, tmp_path), tmp_path / "two")
    assert status == 0, output
    for a, b in zip(lines(tmp_path / "one", "train"), lines(tmp_path / "two", "train"), strict=True):
        for name in ("loss", "loss_class", "loss_box", "gradient_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-4), (a["step"], name)
    one, two = (lines(tmp_path / name, "val") for name in ("one", "two"))
    assert [entry["step"] for entry in two] == [10, 20]
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["bbox_AP"] == pytest.approx(b["bbox_AP"], abs=1e-6)
    assert len(json.loads((tmp_path / "two" / "eval" / "detections.json").read_text())) == 7
    assert output.count("step 20/20  loss") == 1, "only rank 0 logs"
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_one_process_ddp_and_fsdp_train_alike_and_resume_each_other(tmp_path: Path) -> None:
    """20 steps with each; and 20 that begin with one process, go on sharded over two, and end with two whole models."""
    run = tiny_run(steps=20, log_every=1, eval_every=10)
    train(run, tmp_path / "one")
    for kind in ("ddp", "fsdp"):
        run.train.parallel = kind
        status, output = torchrun.run(write_config(run, tmp_path), tmp_path / kind, TINY_LARGE="1")
        assert status == 0, output
    parts = tmp_path / "parts"
    for kind, processes, steps in (("ddp", 1, 7), ("fsdp", 2, 7)):
        run.train.parallel = kind
        config, signalled = write_config(run, tmp_path), f"SIGINT:{steps}:0"
        status, output = torchrun.run(config, parts, "--resume", processes=processes, TINY_LARGE="1", TINY_SIGNAL=signalled)
        assert status != 0 and "which is saved" in output
    run.train.parallel = "ddp"
    status, output = torchrun.run(write_config(run, tmp_path), parts, "--resume")
    assert status == 0 and "resumed after step 14" in output, output
    one, *others = (read_weights(tmp_path / name / "last.safetensors").state for name in ("one", "ddp", "fsdp", "parts"))
    for other in others:
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=0, atol=1e-5)
    for name in ("ddp", "fsdp", "parts"):
        for split in ("train", "val"):
            pairs = zip(lines(tmp_path / "one", split), lines(tmp_path / name, split), strict=True)
            assert all(a["loss"] == pytest.approx(b["loss"], rel=1e-4) for a, b in pairs)


@pytest.mark.slow
def test_two_processes_resume_exactly(tmp_path: Path) -> None:
    """After a signal to one of them, both finish the step and save."""
    run = tiny_run(accumulate=2, eval_every=5, log_every=3)
    run.model = TinyConfig(dropout=0.3, batch_norm=True)
    config = write_config(run, tmp_path)
    status, output = torchrun.run(config, tmp_path / "whole")
    assert status == 0, output
    status, output = torchrun.run(config, tmp_path / "parts", TINY_SIGNAL="SIGINT:13:1")
    assert status != 0 and "interrupted after step 7, which is saved" in output
    status, output = torchrun.run(config, tmp_path / "parts", "--resume")
    assert status == 0, output
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    losses = [[(e["step"], e["loss"]) for e in lines(tmp_path / name, "train")] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_sigterm_to_torchrun_saves(tmp_path: Path) -> None:
    """SIGTERM as sent by batch systems; loader workers get it too."""
    run = tiny_run(steps=100_000, log_every=5)
    run.data.workers = 1
    process = torchrun.start(write_config(run, tmp_path), tmp_path / "run")
    torchrun.wait_for(tmp_path / "run" / "metrics.jsonl", '"step": 10,')
    process.send_signal(signal.SIGTERM)
    status, output = torchrun.finish(process, 60)
    assert status != 0 and "which is saved" in output
    assert "Traceback" not in output.split("which is saved")[0]
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*.pt"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_whole_process_group_saves(tmp_path: Path, number: signal.Signals) -> None:
    """One training process and its loader workers get the signal, as from Ctrl-C on a terminal."""
    run = tiny_run(steps=100_000, log_every=5)
    run.data.workers = 2
    process = torchrun.start(write_config(run, tmp_path), tmp_path / "run", processes=1)
    torchrun.wait_for(tmp_path / "run" / "metrics.jsonl", '"step": 10,')
    os.killpg(process.pid, number)
    status, output = torchrun.finish(process, 60)
    assert status == 130, output
    assert "which is saved" in output and "Traceback" not in output


@pytest.mark.slow
def test_an_interrupted_script_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script does not catch `KeyboardInterrupt`; it must not wait without end for its worker, which ignores SIGTERM."""
    run = tiny_run(steps=100_000, log_every=5)
    run.data.workers = 1
    monkeypatch.setattr(torchrun, "SCRIPT", torchrun.SCRIPT.partition("try:")[0] + "train(config, sys.argv[2])")
    process = torchrun.start(write_config(run, tmp_path), tmp_path / "run", processes=1)
    torchrun.wait_for(tmp_path / "run" / "metrics.jsonl", '"step": 10,')
    process.send_signal(signal.SIGTERM)
    status, output = torchrun.finish(process, 60)
    assert status != 0 and "which is saved" in output and "KeyboardInterrupt" in output


@pytest.mark.slow
def test_an_error_on_one_process_ends_all(tmp_path: Path) -> None:
    """Long before 100,000 steps: a run that continues exceeds the time limit, which fails the test."""
    status, _ = torchrun.run(write_config(tiny_run(steps=100_000), tmp_path), tmp_path / "run", TINY_SIGNAL="SIGKILL:5:1")
    assert status != 0


RESTARTED = """
import os, signal, sys
from pathlib import Path
from boxwood.cli import main
from tests.training import tiny

kills = Path(sys.argv.pop(1))
forward = tiny.TinyDetector.forward

def dying(self, batch):
    restart = os.environ["TORCHELASTIC_RESTART_COUNT"]
    rank, call = {"0": ("1", 2), "1": ("0", 4), "2": ("1", 3)}.get(restart, ("", 0))
    if self.training and self.calls + 1 == call and os.environ["RANK"] == rank:
        (kills / restart).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(self, batch)

tiny.TinyDetector.forward = dying
main()
"""


@pytest.mark.slow
def test_torchrun_restarts_a_run_until_it_ends(tmp_path: Path) -> None:
    """One command from an empty folder; a rank is killed three times, first before any checkpoint, and rank 0 once."""
    run = tiny_run(checkpoint_every=3, log_every=1, eval_every=4)
    run.model = TinyConfig(dropout=0.3, batch_norm=True)
    config = write_config(run, tmp_path)
    status, output = torchrun.run(config, tmp_path / "whole")
    assert status == 0, output
    (tmp_path / "kills").mkdir()
    (tmp_path / "restarted.py").write_text(RESTARTED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3"]
    command = [*launch, str(tmp_path / "restarted.py"), str(tmp_path / "kills"), "train", str(config)]
    process = subprocess.Popen(
        [*command, "--resume", "--out", str(tmp_path / "run")],
        cwd=torchrun.ROOT,
        env={**os.environ, "PYTHONPATH": str(torchrun.ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    status, output = torchrun.finish(process, 240)
    assert status == 0, output
    assert {path.name for path in (tmp_path / "kills").iterdir()} == {"0", "1", "2"}
    assert same_weights(tmp_path / "whole", tmp_path / "run")
    for split in ("train", "val"):
        losses = [[(entry["step"], entry["loss"]) for entry in lines(tmp_path / name, split)] for name in ("whole", "run")]
        assert losses[0] == losses[1]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    assert "Traceback" not in output
    reports = [line for line in output.splitlines() if line.startswith("boxwood: ")]
    assert reports and all(": another process has ended or cannot be reached" in line for line in reports), reports


@pytest.mark.slow
def test_a_nan_on_one_process_ends_all_with_its_image(tmp_path: Path) -> None:
    run = tiny_run(steps=100)
    run.data.train = TinyData(nan_box_in=105)
    status, output = torchrun.run(write_config(run, tmp_path), tmp_path / "run")
    assert status == 1
    assert "training diverged at step" in output and "105 (5.png)" in output
    assert "image 105 (5.png): 1 boxes" in (tmp_path / "run" / "divergence.txt").read_text()


@pytest.mark.slow
def test_an_error_is_reported_and_nothing_is_written(tmp_path: Path) -> None:
    status, output = torchrun.run(write_config(tiny_run(batch_size=3), tmp_path), tmp_path / "run")
    assert status != 0
    assert "train.batch_size: 3 images cannot be shared by 2 processes" in output
    assert not (tmp_path / "run").exists()
