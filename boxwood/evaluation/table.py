"""Output of metrics and detections: a table for the terminal, JSON files."""

from __future__ import annotations

import json
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from boxwood.evaluation.coco import KEYPOINT_DETECTIONS
from boxwood.evaluation.evaluator import Metrics
from boxwood.files import write_text, write_whole

__all__ = ["format_table", "save_detections", "save_metrics", "table_of", "tables_of", "tasks_of_classes"]

WIDTH = 100
HEADS = {
    "bbox": "box AP",
    "segm": "mask AP",
    "segm_with_masks": "mask AP, classes whose masks teach",
    "segm_without_masks": "mask AP, other classes",
    "keypoints": "keypoint AP",
    "voc": "VOC AP",
    "lvis_bbox": "LVIS box AP",
    "lvis_segm": "LVIS mask AP",
    "cityscapes": "Cityscapes AP",
    "vcoco": "V-COCO AP",
    "per_agent": "AP_agent",
    "hico": "HICO-DET AP",
    "dense_pose": "GPS AP",
    "dense_pose_gpsm": "GPSm AP",
    "dense_pose_iou": "dense pose IoU AP",
}
"""Column heads of the tasks in the table of classes."""
COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def save_metrics(metrics: Metrics, path: Path | str) -> None:
    """Write the metrics as JSON, complete or not at all."""
    write_text(Path(path), json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")


def save_detections(records: Iterable[dict[str, Any]], path: Path | str) -> None:
    """Write COCO results as JSON, one record per line, complete or not at all."""

    def lines() -> Iterable[str]:
        before = "[\n"
        for record in records:
            yield before + json.dumps(record, ensure_ascii=False)
            before = ",\n"
        yield "[]\n" if before == "[\n" else "\n]\n"

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(lines())

    write_whole(Path(path), write)


def format_table(metrics: Metrics) -> str:
    """The metrics as plain text of at most 100 columns: a row per task, then AP and count of each class, then the notes.

    >>> print(format_table({"bbox": {"AP": 0.5, "AP50": 0.75, "AP75": 0.5, "APs": -1.0, "APm": 0.5, "APl": 0.5, "AR100": 0.6}}))
               AP   AP50   AP75    APs    APm    APl  AR100
    bbox    0.500  0.750  0.500      -  0.500  0.500  0.600
    """
    # Tasks with the same columns share a table.
    shown = {name: table_of(name, metrics) for name in tables_of(metrics)}
    blocks = [
        _rows(list(columns), {name: row for name, row in shown.items() if tuple(row) == columns})
        for columns in dict.fromkeys(tuple(row) for row in shown.values())
    ]
    if most := metrics.get("max_detections"):
        blocks.append(f"counted: an image's best {most} detections of {'all classes' if 'lvis_bbox' in metrics else 'a class'}")
    if errors := metrics.get("errors"):
        blocks.append(_errors(errors))
    if per_class := metrics.get("per_class"):
        blocks.append(_classes(per_class, tasks_of_classes(metrics)))
    if notes := metrics.get("notes"):
        blocks.append(
            "\n".join(
                line for note in notes for line in textwrap.wrap(note, WIDTH, initial_indent="note: ", subsequent_indent="  ")
            )
        )
    return "\n\n".join(blocks)


def tables_of(metrics: Metrics) -> dict[str, dict[str, float]]:
    """The tables of numbers in ``metrics``, by task: those of `HEADS` in that order, then any others.

    >>> tables_of({"segm": {"AP": 0.25}, "mine": {"score": 1}, "bbox": {"AP": 0.5}, "per_class": {"nut": {"bbox": 0.5}}})
    {'bbox': {'AP': 0.5}, 'segm': {'AP': 0.25}, 'mine': {'score': 1}}
    """
    tables = {
        name: table
        for name, table in metrics.items()
        if isinstance(table, dict) and table and all(isinstance(number, int | float) for number in table.values())
    }
    return {name: tables[name] for name in dict.fromkeys([*HEADS, *tables]) if name in tables}


def tasks_of_classes(metrics: Metrics) -> list[str]:
    """The tasks of `tables_of` that have a number for each class too."""
    rows = metrics.get("per_class", {}).values()
    return [task for task in tables_of(metrics) if rows and all(task in row for row in rows)]


def table_of(name: str, metrics: Metrics) -> dict[str, float]:
    """The numbers of a task that the table shows, by column; metrics.json has more.

    The column of AR names the limit of detections: 100 for boxes and masks by COCO's rule, 20 for keypoints.
    """
    if name not in ("bbox", "segm", "segm_with_masks", "segm_without_masks", "keypoints"):
        return dict(metrics[name])
    columns = [column for column in COLUMNS if column in metrics[name]]  # there are no small keypoints
    return {column: metrics[name][column] for column in (*columns, _last_recall(name, metrics))}


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"


def _rows(columns: list[str], rows: dict[str, dict[str, float]]) -> str:
    margin = max(6, *(len(name) for name in rows))
    lines = [" " * margin + "".join(f"{column:>{max(7, len(column) + 1)}}" for column in columns)]
    for name, row in rows.items():
        lines.append(f"{name:<{margin}}" + "".join(f"{_number(row[column]):>{max(7, len(column) + 1)}}" for column in columns))
    return "\n".join(lines)


def _errors(errors: dict[str, Any]) -> str:
    """The cost of each kind of error, the highest first."""
    lines = [f"box AP50 is {errors['AP50']:.3f}; it would rise, if one kind of error alone were corrected, by"]
    for sort, cost in sorted(errors["cost"].items(), key=lambda item: -item[1]):
        unit = "instances" if sort == "missed" else "detections"
        lines += [f"  {sort:<15}{cost:6.3f}  ({errors['count'][sort]:,} {unit})"]
    return "\n".join(lines)


def _classes(per_class: dict[str, dict[str, Any]], tasks: Sequence[str]) -> str:
    """AP and count of each class, in up to three columns of classes where their names are short enough."""
    name_width = min(32, max(5, *(display_width(name) for name in per_class)))
    head = fit("class", name_width) + f"{'count':>8}" + "".join(f"{HEADS.get(task, task):>{_width(task)}}" for task in tasks)
    cells = [
        fit(name, name_width) + f"{row['count']:>8}" + "".join(f"{_number(row[task]):>{_width(task)}}" for task in tasks)
        for name, row in per_class.items()
    ]
    columns = 1 if len(cells) <= 8 else max(1, min(3, (WIDTH + 4) // (display_width(head) + 4)))
    height = -(-len(cells) // columns)
    lines = ["    ".join([head] * min(columns, -(-len(cells) // height)))]
    lines += ["    ".join(cells[row::height]) for row in range(height)]
    return "\n".join(line.rstrip() for line in lines)


def _last_recall(task: str, metrics: Metrics) -> str:
    """The name of the average recall at the limit of detections."""
    if task == "keypoints":
        return f"AR{KEYPOINT_DETECTIONS}"  # AR50 and AR75 of keypoints are recalls at an OKS
    names: list[str] = [name for name in metrics[task] if name.startswith("AR") and name[2:].isdigit()]
    return max(names, key=lambda name: int(name[2:]))


def _width(task: str) -> int:
    return max(9, len(HEADS.get(task, task)) + 2)


def display_width(text: str) -> int:
    """The number of columns that ``text`` takes in a terminal.

    >>> display_width("nut"), display_width("胡桃")
    (3, 4)
    """
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def fit(text: str, width: int) -> str:
    """``text`` padded or cut to exactly ``width`` columns of a terminal."""
    if display_width(text) > width:
        while display_width(text) > width - 2:
            text = text[:-1]
        text += ".."
    return text + " " * (width - display_width(text))
