"""Devices by name, and errors of several processes, which are reported once."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from boxwood.data.synthetic.shapes import write_shapes
from boxwood.distributed import choose_device, rank_zero_reports
from boxwood.errors import UserError
from tests.conftest import tiny
from tests.training.torchrun import ROOT


def test_available_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("key", ["train.device", "device"])
@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", ""])
def test_devices_that_are_not_available(name: str, key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}={name}: ") as error:
        choose_device(name, key)
    assert ("train." in str(error.value)) == (key == "train.device")


def test_without_torchrun_every_process_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setenv("RANK", "1")
    assert not rank_zero_reports("anything")


def test_a_report_of_rank_0_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the store of torchrun's launcher in this process."""
    store: Any = cast(Any, torch.distributed).TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setattr("boxwood.distributed.REPORT_TIMEOUT", timedelta(seconds=0.5))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setenv("RANK", "1")
    assert not rank_zero_reports("a.jpg: 胡桃"), "rank 0 has reported nothing"
    monkeypatch.setenv("RANK", "0")
    assert not rank_zero_reports("a.jpg: 胡桃"), "rank 0 always reports"
    monkeypatch.setenv("RANK", "1")
    assert rank_zero_reports("a.jpg: 胡桃")
    assert not rank_zero_reports("b.jpg: 胡桃")


def error_lines(*arguments: str, folder: Path) -> list[str]:
    """The error lines of two processes under torchrun."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    return [line for line in done.stderr.splitlines() if line.startswith("boxwood: ")]


@pytest.mark.slow
def test_an_error_of_all_processes_is_reported_once(tmp_path: Path) -> None:
    write_shapes(tmp_path, train=4, val=2, size=(96, 128))
    (line,) = error_lines("boxwood", "train", "demo_shapes", *tiny(tmp_path), "train.batch_size=3", folder=tmp_path)
    assert line == "boxwood: train.batch_size: 3 images cannot be shared by 2 processes; choose a multiple"


@pytest.mark.slow
def test_an_error_of_one_process_is_reported_by_it(tmp_path: Path) -> None:
    (tmp_path / "different.py").write_text(
        "import os, time\n"
        "from boxwood.cli import main\n"
        "from boxwood.errors import UserError\n"
        "import boxwood.cli.data\n"
        "def fail(*_):\n"
        "    if os.environ['RANK'] == '0': time.sleep(60)\n"
        "    raise UserError('problem of ' + os.environ['RANK'])\n"
        "boxwood.cli.data.data.callback = fail\n"
        "main(['data', 'shapes', '--out', 'never'])\n"
    )
    assert error_lines("different", folder=tmp_path) == ["boxwood: rank 1: problem of 1"]
