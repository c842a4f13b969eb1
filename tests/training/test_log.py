"""The log: its lines, resumed runs, the progress bar on a terminal, and additional loggers."""

from __future__ import annotations

import io
import json
import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from boxwood.errors import UserError
from boxwood.loggers import TensorBoardConfig
from boxwood.training import train
from boxwood.training.log import Meter, RunLog
from tests.conftest import Boxwood, tiny
from tests.training.test_checkpoint import file_size_limit
from tests.training.tiny import tiny_run

VALUES = {"loss": 1.5, "loss_box": 1.5, "lr": 0.1, "images_per_second": 3.0, "data_wait": 0.25, "memory_mb": 10.0}


def entries(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_lines_of_the_file_and_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), RunLog(tmp_path, 100, 0, 0) as log:
        log.train(20, VALUES)
        log.val(20, {"loss": 2.0, "bbox_AP": 0.5, "bbox_APs": float("nan")})
    assert entries(tmp_path) == [
        {"step": 20, "split": "train", **VALUES},
        {"step": 20, "split": "val", "loss": 2.0, "bbox_AP": 0.5, "bbox_APs": None},
    ]
    assert caplog.messages[0].startswith("step 20/100  loss 1.5  loss_box 1.5  lr 0.1  3 images/s  waiting 25%  eta 0:00:0")
    assert caplog.messages[1] == "step 20/100  val  loss 2  bbox_AP 0.5"


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    with RunLog(tmp_path, 100, 0, 0) as log:
        for step in (10, 20, 30):
            log.train(step, VALUES)
            log.val(step, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "split": "tr')
    with RunLog(tmp_path, 100, start=20, evaluated=10) as log:
        log.val(20, {"loss": 1.0})
        log.train(30, VALUES)
    lines = [(entry["step"], entry["split"]) for entry in entries(tmp_path)]
    assert lines == [(10, "train"), (10, "val"), (20, "train"), (20, "val"), (30, "train")]


def test_training_continues_if_the_log_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RunLog(tmp_path / "gone", 100, 0, 0) as log:
        log.train(10, VALUES)
        log.train(20, VALUES)
    assert [message for message in caplog.messages if "cannot be written" in message] == caplog.messages
    assert len(caplog.messages) == 1


def test_a_line_that_does_not_fit_on_the_disk_leaves_no_part(tmp_path: Path) -> None:
    with RunLog(tmp_path, 100, 0, 0) as log:
        log.train(10, VALUES)
        size = (tmp_path / "metrics.jsonl").stat().st_size
        with file_size_limit(size + 20):
            log.train(20, VALUES)
        log.train(30, VALUES)
    assert [entry["step"] for entry in entries(tmp_path)] == [10, 30]


def test_a_terminal_shows_a_progress_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    try:
        with RunLog(tmp_path, 100, 0, 0) as log:
            log.tick(10)
            log.train(20, VALUES)
            logging.getLogger().warning("a line above the bar")
            assert handler.stream is not terminal
        assert handler.stream is terminal
    finally:
        logging.getLogger().removeHandler(handler)
    assert "a line above the bar" in terminal.getvalue()
    assert "20/100" in terminal.getvalue() and "loss 1.5" in terminal.getvalue()


class Memory:
    """A logger that stores its calls, or raises ``error``."""

    def __init__(self, error: Exception | None = None) -> None:
        self.lines: list[tuple[int, str, dict[str, float]]] = []
        self.closed, self.error = 0, error

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        if self.error is not None:
            raise self.error
        self.lines.append((step, split, dict(values)))

    def close(self) -> None:
        self.closed += 1


def test_loggers_get_every_line_and_are_closed_after_an_error(tmp_path: Path) -> None:
    memory = Memory()

    def interrupted() -> None:
        with RunLog(tmp_path, 100, 0, 0, [memory]) as log:
            log.train(10, VALUES)
            log.val(10, {"loss": float("nan"), "bbox_AP": 0.5})
            raise MemoryError

    with pytest.raises(MemoryError):
        interrupted()
    assert memory.lines[0] == (10, "train", VALUES)
    assert memory.lines[1][:2] == (10, "val") and math.isnan(memory.lines[1][2]["loss"]), "loggers get nan, not None"
    assert memory.closed == 1


def test_training_continues_after_an_os_error_of_a_logger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory()
    with RunLog(tmp_path, 100, 0, 0, [Memory(ConnectionError("refused")), memory]) as log:
        log.train(10, VALUES)
        log.train(20, VALUES)
    assert [message for message in caplog.messages if "Memory: cannot be written (refused)" in message] == caplog.messages
    assert len(caplog.messages) == 1 and len(memory.lines) == len(entries(tmp_path)) == 2
    with pytest.raises(KeyError), RunLog(tmp_path, 100, 0, 0, [Memory(KeyError("a bug"))]) as log:
        log.train(30, VALUES)


def test_metrics_without_ap_are_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), RunLog(tmp_path, 100, 0, 0) as log:
        log.val(20, {"loss": 2.0, "loss_box": 2.0, "count_F1": 0.5, "count_recall": 0.25})
    assert caplog.messages == ["step 20/100  val  loss 2  count_F1 0.5  count_recall 0.25"]


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with RunLog(tmp_path, 100, 0, 0, [TensorBoardConfig().build(tmp_path, 0)]) as log:
        log.train(10, VALUES)
        log.val(10, {"loss": 2.0})
    assert scalars(tmp_path) == {("train/loss", 10): 1.5, ("val/loss", 10): 2.0}


def scalars(out: Path) -> dict[tuple[str, int], float]:
    """Every ``.../loss`` of the event files, by tag and step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard")).Reload()
    return {(tag, e.step): e.value for tag in events.Tags()["scalars"] if tag.endswith("/loss") for e in events.Scalars(tag)}


@pytest.mark.parametrize("by_switch", [False, True])
def test_a_run_with_tensorboard(tmp_path: Path, by_switch: bool) -> None:
    """By the switch, by a logger, or by both, which write only once."""
    pytest.importorskip("tensorboard")
    train(tiny_run(log_every=6, tensorboard=by_switch, loggers=(TensorBoardConfig(),)), tmp_path / "a")
    train(tiny_run(log_every=6, tensorboard=True), tmp_path / "b")
    assert scalars(tmp_path / "a") == scalars(tmp_path / "b")
    assert {step for _, step in scalars(tmp_path / "a")} == {6, 12}
    assert len(list((tmp_path / "a" / "tensorboard").iterdir())) == 1


def test_tensorboard_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"TensorBoard is not installed; run: pip install 'boxwood\[tensorboard\]'"):
        train(tiny_run(tensorboard=True), tmp_path / "run")


CSV_LOGGER = """
import csv
from pathlib import Path

from boxwood.loggers import LoggerConfig


class CsvLoggerConfig(LoggerConfig):
    name: str = "loss.csv"

    def build(self, out: Path, start_step: int) -> "CsvLogger":
        return CsvLogger(out / self.name, start_step)


class CsvLogger:
    def __init__(self, path: Path, start_step: int) -> None:
        self.file = path.open("a")
        self.writer = csv.writer(self.file)
        self.writer.writerow(["start", start_step])

    def write(self, step, split, values):
        self.writer.writerow([split, step, values["loss"]])

    def close(self):
        self.file.close()
"""


def test_a_user_defined_logger(boxwood: Boxwood, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "my_csv_logger.py").write_text(CSV_LOGGER)
    logger = "train.loggers=[{kind: my_csv_logger:CsvLoggerConfig, name: curve.csv}]"
    command = ["train", "demo_shapes", *tiny(shapes), "train.log_every=1", logger, "--import", "my_csv_logger", "--out", "run"]
    outcome = boxwood(*command)
    assert outcome.status == 0, outcome.err
    rows = [line.split(",") for line in Path("run/curve.csv").read_text().splitlines()]
    assert [row[:2] for row in rows] == [["start", "0"], ["train", "1"], ["train", "2"], ["val", "2"]]
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [float(row[2]) for row in rows[1:]] == [line["loss"] for line in lines]

    # A run may resume with another logger, which gets the step.
    changed = ["train", "run", "train.loggers=[{kind: my_csv_logger:CsvLoggerConfig}]", "--import", "my_csv_logger", "--resume"]
    assert boxwood(*changed).status == 0
    assert Path("run/loss.csv").read_text() == "start,2\n"


def test_the_meter_averages_updates_and_measures_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a simulated clock: two updates that wait 0.3 s and compute 0.1 s each, and a pause, which does not count."""
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
