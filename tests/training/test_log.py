"""The log: what a line holds, what a resumed run cuts off, what a terminal sees."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from boxwood.training.log import Meter, RunLog

VALUES = {"loss": 1.5, "loss_box": 1.5, "lr": 0.1, "images_per_second": 3.0, "data_wait": 0.25, "memory_mb": 10.0}


def entries(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_lines_for_programs_and_for_people(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), RunLog(tmp_path, 100, 0, 0, tensorboard=False) as log:
        log.train(20, VALUES)
        log.val(20, {"loss": 2.0, "bbox_AP": 0.5, "bbox_APs": float("nan")})
    assert entries(tmp_path) == [
        {"step": 20, "split": "train", **VALUES},
        {"step": 20, "split": "val", "loss": 2.0, "bbox_AP": 0.5, "bbox_APs": None},
    ]
    assert caplog.messages[0].startswith("step 20/100  loss 1.5  loss_box 1.5  lr 0.1  3 images/s  waiting 25%  eta 0:00:0")
    assert caplog.messages[1] == "step 20/100  val  loss 2  bbox_AP 0.5"


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    with RunLog(tmp_path, 100, 0, 0, tensorboard=False) as log:
        for step in (10, 20, 30):
            log.train(step, VALUES)
            log.val(step, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "split": "tr')
    with RunLog(tmp_path, 100, start=20, evaluated=10, tensorboard=False) as log:
        log.val(20, {"loss": 1.0})
        log.train(30, VALUES)
    found = [(entry["step"], entry["split"]) for entry in entries(tmp_path)]
    assert found == [(10, "train"), (10, "val"), (20, "train"), (20, "val"), (30, "train")]


def test_a_log_that_cannot_be_written_does_not_end_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RunLog(tmp_path / "gone", 100, 0, 0, tensorboard=False) as log:
        log.train(10, VALUES)
        log.train(20, VALUES)
    assert [message for message in caplog.messages if "cannot be written" in message] == caplog.messages
    assert len(caplog.messages) == 1


def test_a_terminal_has_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    try:
        with RunLog(tmp_path, 100, 0, 0, tensorboard=False) as log:
            log.tick(10)
            log.train(20, VALUES)
            logging.getLogger().warning("a line above the bar")
            assert handler.stream is not terminal
        assert handler.stream is terminal
    finally:
        logging.getLogger().removeHandler(handler)
    assert "a line above the bar" in terminal.getvalue()
    assert "20/100" in terminal.getvalue() and "loss 1.5" in terminal.getvalue()


def test_tensorboard_where_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with RunLog(tmp_path, 100, 0, 0, tensorboard=True) as log:
        log.train(10, VALUES)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_the_meter_means_over_updates_and_measures_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of the test's: two updates that wait for 0.3 s and compute for 0.1 s, and a pause, which does not count."""
    now = 100.0
    monkeypatch.setattr("boxwood.training.log.time", SimpleNamespace(perf_counter=lambda: now))
    meter = Meter(torch.device("cpu"))
    for value in (1.0, 3.0):
        with meter.waiting():
            now += 0.3
        meter.add({"loss": torch.tensor(value)}, 0.5)
        meter.add({"loss": torch.tensor(value + 1)}, 0.5)
        now += 0.1
        meter.count()
    with meter.paused():
        now += 5
    restored = Meter(torch.device("cpu"))
    restored.load_state_dict(meter.state_dict())
    values = meter.read(images=4, lr=0.1)
    assert values["loss"] == 2.5 == restored.read(images=4, lr=0.1)["loss"]
    assert values["data_wait"] == pytest.approx(0.6 / 0.8)
    assert values["images_per_second"] == pytest.approx(8 / 0.8)
    assert values["lr"] == 0.1 and values["memory_mb"] > 10
