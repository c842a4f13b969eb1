"""A second training in a run's directory is refused; the lock ends with its process, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from boxwood.errors import UserError
from boxwood.training.lock import only_training_in

HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write("process 7 on elsewhere")
file.flush()
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of ``run``."""
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_another_process_is_named_and_its_kill_frees_the_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"run: process 7 on elsewhere trains here; wait until it has ended") as error:
        only_training_in(run).__enter__()
    assert "\n" not in str(error.value) and (run / ".lock").exists()
    holder.kill()
    holder.wait()
    with only_training_in(run):
        assert (run / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    assert list(run.iterdir()) == []


def test_an_empty_directory_that_was_made_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with only_training_in(out):
        assert out.is_dir()
    assert not (tmp_path / "a").exists()
    with only_training_in(out):
        (tmp_path / "a" / "file").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]
    out.mkdir()
    with only_training_in(out):
        pass
    assert out.is_dir(), "it was there before"


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="run: is a file; name a directory with --out"), only_training_in(tmp_path / "run"):
        pass


def test_a_file_system_without_locks_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with only_training_in(tmp_path / "run"):
        pass
    (message,) = caplog.messages
    assert "cannot be locked (No locks available); a second training in this directory would go unnoticed" in message
