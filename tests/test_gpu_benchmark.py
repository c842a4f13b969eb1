"""`benchmarks/gpu.py` without a GPU: its report, failures of sections, comparison of detections and counting of waits."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from boxwood.structures import Detections

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    """The script as a module; modules imported from its folder are removed afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        spec = importlib.util.spec_from_file_location("gpu_benchmark", BENCHMARKS / "gpu.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module
        sys.modules.pop("speed")


def run(gpu: ModuleType, patch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the benchmark; returns its exit status and report."""
    out = tmp_path / "gpu.json"
    patch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--tiny", "--out", str(out), *arguments])
    return gpu.main(), json.loads(out.read_text())


def test_parity(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = run(gpu, monkeypatch, tmp_path, "--only", "parity", "--networks", "RetinaNet")
    assert status == 0
    (row,) = report["rows"]
    assert (row["section"], row["status"]) == ("parity", "done")
    assert row["matched"] == row["detections"] == row["detections_device"] > 0
    assert row["boxes_px"] == row["scores"] == 0  # both are the CPU
    assert "RetinaNet, CPU and GPU" in capsys.readouterr().out


@pytest.mark.slow
def test_the_other_sections(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sections = ("waits", "inference", "training", "nms", "program", "commands", "precision")
    monkeypatch.setattr(gpu, "LIMIT", 1000.0)  # other tests may run at the same time
    status, report = run(gpu, monkeypatch, tmp_path, "--networks", "RetinaNet", "--seconds", "3000", "--only", *sections)
    assert status == 0, report["rows"]
    assert {row["section"] for row in report["rows"]} == set(sections)
    assert all(row["ours"] > 0 for row in report["rows"] if row.get("unit") in ("ms", "s"))


def test_sections_without_time_are_left_out(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, report = run(gpu, monkeypatch, tmp_path, "--seconds", "-1")
    assert status == 0
    assert {row["section"] for row in report["rows"]} == set(gpu.SECTIONS)
    assert {row["status"] for row in report["rows"]} == {"left out"}


def test_a_failure_is_a_row_and_other_parts_run(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Iterator[dict[str, Any]]:
        yield {"what": "before", "note": ""}
        raise ValueError("broken")

    parts = [gpu.Part("first", fail), gpu.Part("second", lambda: [gpu.beside("speed", 2.0, 3.0, "ms")])]
    monkeypatch.setitem(gpu.SECTIONS, "parity", lambda setup: parts)
    status, report = run(gpu, monkeypatch, tmp_path, "--only", "parity")
    assert status == 1
    assert [(row["what"], row["status"]) for row in report["rows"]] == [("before", "done"), ("first", "failed"), ("speed", "done")]
    printed = capsys.readouterr().out
    assert "FAILED: ValueError: broken" in printed and "1.50x" in printed


def test_without_a_gpu(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("gpu.py: no CUDA GPU is available; ") and printed.err.count("\n") == 1


def test_differences(gpu: ModuleType) -> None:
    """Three detections on each side; the first box differs by a quarter of a pixel, the second detection by its class."""
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [30.0, 0.0, 50.0, 20.0], [0.0, 30.0, 20.0, 50.0]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 2])
    masks = torch.ones(3, 4, 4)
    keypoints = torch.full((3, 2, 3), 10.0)
    first = Detections(boxes, scores, labels, (64, 64), mask_probabilities=masks, keypoints=keypoints)
    other_masks, other_keypoints = masks.clone(), keypoints.clone()
    other_masks[2] = 0
    other_keypoints[0, 0, 0] += 0.5
    other_keypoints[2, 1, 1] += 3
    second = Detections(
        boxes + torch.tensor([[0.25], [0.0], [0.0]]),
        scores + torch.tensor([0.0, 0.0, 0.01]),
        torch.tensor([0, 2, 2]),
        (64, 64),
        mask_probabilities=other_masks,
        keypoints=other_keypoints,
    )
    differences = gpu.differences(first, second[torch.tensor([2, 0, 1])])
    assert (differences["detections"], differences["detections_device"], differences["matched"]) == (3, 3, 2)
    assert differences["boxes_px"] == 0.25
    assert differences["scores"] == pytest.approx(0.01)
    whole = first.masks
    assert whole is not None
    assert differences["mask_pixels_of"] == whole[0].sum() + whole[2].sum()
    assert whole[2].sum() <= differences["mask_pixels"] < whole[2].sum() + 10  # and pixels at the edge of the moved box
    assert (differences["keypoints_beyond_1px"], differences["keypoints"], differences["keypoints_px"]) == (1, 4, 0.5)
    assert "2 matched" in gpu.describe_differences(differences)
    assert gpu.differences(first, second[:0])["matched"] == 0


def test_waits_are_counted_by_line_of_boxwood(gpu: ModuleType) -> None:
    place = gpu.ROOT / "boxwood" / "models" / "rpn.py"
    names: dict[str, Any] = {"warn": warnings.warn}
    exec(compile("\n\ndef wait():\n    warn('called a synchronizing CUDA operation')\n", str(place), "exec"), names)  # noqa: S102

    def work() -> None:
        names["wait"]()
        names["wait"]()
        warnings.warn("another warning", stacklevel=1)

    assert gpu.waiting_places(work) == {"boxwood/models/rpn.py:4": 2}
