"""Checkpoints that are damaged, do not fit on the disk, or whose writer is killed: the last complete one remains."""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from boxwood.errors import UserError
from boxwood.training import train
from boxwood.training.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    preserved_random_state,
    random_state,
    save_checkpoint,
    seed_process,
    set_random_state,
)
from tests.training.tiny import tiny_run


def checkpoint_of(step: int) -> Checkpoint:
    torch.manual_seed(step)
    return Checkpoint(
        step=step,
        model={"w": torch.rand(100, 100), "n": torch.tensor(step)},
        optimizer={
            "state": {0: {"momentum_buffer": torch.rand(3)}},
            "param_groups": [{"lr": 0.1, "params": [0], "name": "weights"}],
        },
        scaler={},
        evaluated=0,
        best=None,
        metrics="{}",
        config="train: {steps: 1}",
        classes=((3, "cat"),),
        processes=[{"random": random_state(), "meter": {"sums": {"loss": torch.tensor(1.0)}, "updates": 2}}],
    )


def draws() -> tuple[float, float, float]:
    return torch.rand(1).item(), float(np.random.rand()), random.random()  # noqa: NPY002


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writes beyond ``size`` bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_saved_checkpoint_is_read(tmp_path: Path) -> None:
    original = checkpoint_of(7)
    path = save_checkpoint(tmp_path, original, keep=2)
    assert path.name == "step-00000007.pt"
    read = newest_checkpoint(tmp_path)
    assert read is not None
    assert torch.equal(read.model["w"], original.model["w"])
    assert read.optimizer["param_groups"] == original.optimizer["param_groups"]
    assert read.classes == original.classes and read.step == 7
    expected = draws()
    set_random_state(read.processes[0]["random"])
    assert draws() == expected


def test_a_folder_without_checkpoints(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "checkpoints") is None


def test_older_checkpoints_are_deleted(tmp_path: Path) -> None:
    for step in (5, 10, 99_999_999, 100_000_000):
        save_checkpoint(tmp_path, checkpoint_of(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-100000000.pt", "step-99999999.pt"]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.step == 100_000_000


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text", "zip", "names", "method", "fields", "types"])
def test_a_damaged_checkpoint_is_logged_and_the_previous_one_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    save_checkpoint(tmp_path, checkpoint_of(5), keep=2)
    path = save_checkpoint(tmp_path, checkpoint_of(10), keep=2)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = bytearray()
    elif damage == "flipped":
        content[len(content) // 2] ^= 1  # one bit of the weights
    elif damage == "text":
        content = bytearray(b"no checkpoint")
    elif damage == "names":
        entry = content.index(b"PK\x01\x02")
        content[entry + 9], content[entry + 46] = 8, 0xFF  # a name that says it is UTF-8 and is not
    elif damage == "method":
        content[content.index(b"PK\x01\x02") + 10] = 77  # an unknown compression
    elif damage in ("fields", "types"):
        tree = {"version": 1, "step": 10} if damage == "fields" else {"version": 1, **vars(checkpoint_of(10)), "model": [1]}
        torch.save(tree, path)
        content = bytearray(path.read_bytes())
    else:
        content = bytearray(b"PK\x05\x06" + b"\0" * 18)  # an empty archive
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.step == 5
    [message] = caplog.messages
    assert str(path) in message and "\n" not in message
    (tmp_path / "step-00000005.pt").write_bytes(b"")
    with pytest.raises(UserError, match="all 2 checkpoints are damaged"):
        newest_checkpoint(tmp_path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"version": 1, "model": Harm()}, tmp_path / "step-00000001.pt")
    with pytest.raises(UserError, match="all 1 checkpoints are damaged"):
        newest_checkpoint(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_full_disk_leaves_the_last_complete_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint_of(5), keep=1)
    with file_size_limit(20_000), pytest.raises(UserError) as error:
        save_checkpoint(tmp_path, checkpoint_of(10), keep=1)
    assert "step-00000010.pt: cannot be written" in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005.pt"]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.step == 5


def test_training_continues_after_a_full_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full from the second of three checkpoints on. The last one is an error; the run resumes from the first."""
    train(tiny_run(), tmp_path / "whole")
    out = tmp_path / "run"
    count = 0

    def limited(directory: Path, checkpoint: Checkpoint, keep: int) -> Path:
        nonlocal count
        count += 1
        with file_size_limit(10_000 if count > 1 else 10_000_000):
            return save_checkpoint(directory, checkpoint, keep)

    with monkeypatch.context() as patch:
        patch.setattr("boxwood.training.state.save_checkpoint", limited)
        patch.setattr("boxwood.training.state.PAUSES", (0.0,))
        with caplog.at_level(logging.ERROR), pytest.raises(UserError, match=r"step-00000012\.pt: cannot be written"):
            train(tiny_run(checkpoint_every=5), out)
    assert [message for message in caplog.messages if "step-00000010.pt: cannot be written" in message and "continues" in message]
    assert caplog.text.count("tried again in 0 s") == 1
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000005.pt"]
    train(tiny_run(checkpoint_every=5), out, resume=True)
    assert (out / "last.safetensors").read_bytes()[-1000:] == (tmp_path / "whole" / "last.safetensors").read_bytes()[-1000:]


def test_a_full_disk_at_the_end_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second try writes the last checkpoint; somebody has made room."""
    count = 0

    def limited(directory: Path, checkpoint: Checkpoint, keep: int) -> Path:
        nonlocal count
        count += 1
        with file_size_limit(10_000 if count == 1 else 10_000_000):
            return save_checkpoint(directory, checkpoint, keep)

    monkeypatch.setattr("boxwood.training.state.save_checkpoint", limited)
    monkeypatch.setattr("boxwood.training.state.PAUSES", (0.0,))
    train(tiny_run(steps=1), tmp_path / "run")
    assert count == 2 and (tmp_path / "run" / "checkpoints" / "step-00000001.pt").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from boxwood.training import train
from tests.training.tiny import tiny_run

out, where = Path(sys.argv[1]), sys.argv[2]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

saves = 0
save, replace = torch.save, os.replace

def counted(tree, path):
    global saves
    saves += 1
    save(tree, path)
    if saves == 2 and where == "write":
        os.truncate(path, os.path.getsize(path) // 2)
        die()

def renamed(old, new):
    if saves == 2 and where == "rename":
        die()
    replace(old, new)
    if saves == 2 and where == "after":
        die()

torch.save, os.replace = counted, renamed
train(tiny_run(checkpoint_every=4, keep_checkpoints=1), out)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("where", "step"), [("write", 4), ("rename", 4), ("after", 8)])
def test_kill_9_while_saving(tmp_path: Path, where: str, step: int) -> None:
    out = tmp_path / "run"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(out), where], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    newest = newest_checkpoint(out / "checkpoints")
    assert newest is not None and newest.step == step
    train(tiny_run(checkpoint_every=4, keep_checkpoints=1), out, resume=True)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000012.pt"], "no partly written file is left"
    train(tiny_run(checkpoint_every=4, keep_checkpoints=1), tmp_path / "whole")
    finished, whole = newest_checkpoint(out / "checkpoints"), newest_checkpoint(tmp_path / "whole" / "checkpoints")
    assert finished is not None and whole is not None
    assert all(torch.equal(tensor, whole.model[name]) for name, tensor in finished.model.items())


def test_preserved_random_state() -> None:
    seed_process(3, 0)
    expected = draws()
    seed_process(3, 0)
    with preserved_random_state():
        draws()
    assert draws() == expected
    seed_process(3, 1)
    assert draws() != expected
