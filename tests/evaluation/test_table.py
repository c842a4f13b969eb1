"""The table for a terminal and the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from boxwood.evaluation import format_table, save_detections, save_metrics
from boxwood.evaluation.table import display_width

ROW = {"AP": 0.5, "AP50": 1.0, "AP75": 0.123456, "APs": -1.0, "APm": 0.0, "APl": 0.9, "AR1": 0.1, "AR10": 0.2, "AR100": 0.61}


def metrics(classes: int, name: str = "class") -> dict[str, Any]:
    per_class = {f"{name} {n}": {"bbox": n / classes, "segm": -1.0, "count": 1000 * n} for n in range(classes)}
    return {"bbox": ROW, "segm": ROW, "per_class": per_class, "notes": ["why " * 60]}


@pytest.mark.parametrize("classes", [0, 1, 8, 9, 80, 1203])
@pytest.mark.parametrize("name", ["c", "a class with a rather long name, longer than any column", "胡桃"])
def test_the_table_is_aligned_and_narrow(classes: int, name: str) -> None:
    text = format_table(metrics(classes, name))
    assert max(display_width(line) for line in text.splitlines()) <= 100
    head, *rows = text.split("\n\n")[0].splitlines()
    assert head.split() == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"]
    assert [row.split() for row in rows] == [
        [t, "0.500", "1.000", "0.123", "-", "0.000", "0.900", "0.610"] for t in ("bbox", "segm")
    ]
    assert len({len(line) for line in (head, *rows)}) == 1
    if classes:
        block = text.split("\n\n")[1].splitlines()
        assert display_width(block[1]) == display_width(block[0])
        assert sum(line.count("0.") + line.count("1.") for line in block[1:]) >= classes


def test_the_last_recall_is_named_by_its_limit() -> None:
    row = {key: value for key, value in ROW.items() if key != "AR100"} | {"AR300": 0.7}
    assert format_table({"bbox": row}).splitlines()[0].split()[-1] == "AR300"


def test_proposals() -> None:
    table = format_table({"proposals": {"AR100": 0.25, "ARs100": -1.0}, "notes": []})
    assert [line.split() for line in table.splitlines()] == [["AR100", "ARs100"], ["proposals", "0.250", "-"]]


def test_files(tmp_path: Path) -> None:
    save_metrics(metrics(2), tmp_path / "eval" / "metrics.json")
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text()) == metrics(2)
    for records in ([], [{"image_id": 1, "score": 0.1}], [{"a": 1}, {"b": "ü"}]):
        save_detections(records, tmp_path / "detections.json")
        assert json.loads((tmp_path / "detections.json").read_text(encoding="utf-8")) == records


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "detections.json"
    save_detections([{"a": 1}], path)
    with pytest.raises(TypeError):
        save_detections([{"a": 1}, {"a": object()}], path)
    assert json.loads(path.read_text()) == [{"a": 1}]
    assert list(tmp_path.iterdir()) == [path]
