"""The report of `boxwood eval`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boxwood.data import Dataset
from boxwood.drawing import class_color
from boxwood.evaluation import Metrics
from boxwood.evaluation.analysis import Analysis
from boxwood.evaluation.table import HEADS, table_of, tables_of, tasks_of_classes
from boxwood.evaluation.truth import Results, Truth
from boxwood.report.charts import calibration, curves, path
from boxwood.report.gallery import gallery, worst_and_best
from boxwood.report.page import write_page
from boxwood.structures import Categories

__all__ = ["write_report"]

IMAGES = 12
"""How many of the worst and of the best images are shown."""
MATRIX = 25
"""Up to this number of classes the whole confusion matrix is shown, above it the largest confusions alone."""
CURVES = 200
"""Number of classes with a separate curve: those with the most instances."""
BODY_PARTS = "dense_pose_parts"
"""The table of dense pose by part of the body."""
OUTCOMES = {
    "right": ("#56b4e9", "right"),
    "wrong": ("#ff5a1f", "false positive"),
    "missed": ("#f0e442", "missed"),
    "ignored": ("#bbbbbb", "ignored: crowd regions, and detections in them"),
}
"""The colour of each outcome of an instance or detection, in other hues for all kinds of colour vision, and its name."""
ERRORS = {
    "classification": "well placed, but of another class",
    "localisation": "of the right class, badly placed (IoU 0.1 to 0.5)",
    "both": "badly placed and of another class",
    "duplicate": "of an instance that another detection matches",
    "background": "where there is no instance",
    "missed": "instances without a detection",
}


def write_report(
    path: Path,
    *,
    title: str,
    about: str,
    metrics: Metrics,
    dataset: Dataset,
    coco: Mapping[str, Any],
    categories: Categories,
    truth: Truth,
    results: Results,
    analysis: Analysis | None,
) -> None:
    """Write the page ``path``: the tables of ``metrics``, and with an ``analysis`` its charts and its worst and best images.

    ``coco`` is ``dataset.to_coco()``, ``categories`` are the model's classes, ``truth`` and ``results`` the input of ``analysis``.
    All numbers are those of ``metrics``. The page loads nothing from the network.
    """
    rows = {HEADS.get(name, name): table_of(name, metrics) for name in tables_of(metrics) if name != BODY_PARTS}
    tables = [
        (columns, {head: row for head, row in rows.items() if tuple(row) == columns})
        for columns in dict.fromkeys(tuple(row) for row in rows.values())
    ]
    positions = [truth.category_position.get(category, 0) for category in categories.ids]
    worst, best = worst_and_best(analysis, IMAGES) if analysis is not None else ([], [])
    order = [image["id"] for image in coco["images"]]
    entries = [] if analysis is None else gallery([*worst, *best], dataset, order, truth, results, positions, analysis)
    skeleton = categories.keypoints.skeleton if categories.keypoints is not None else ()
    write_page(
        "evaluation.html",
        path,
        title=title,
        about=about,
        metrics=metrics,
        rows=rows,
        tables=tables,
        heads={task: HEADS.get(task, task) for task in tasks_of_classes(metrics)},
        instances=sum(truth.counts()),
        outcomes={outcome: name for outcome, (_, name) in OUTCOMES.items()},
        colors=[_hex(class_color(label)) for label in range(len(truth.categories))],
        names=truth.names(),
        errors=_errors(metrics),
        body_parts=_body_parts(metrics),
        curves=None if analysis is None else _curves(analysis),
        calibration=None if analysis is None else _calibration(metrics),
        confusion=None if analysis is None else _confusion(metrics),
        gallery={
            "score": 0.5 if analysis is None else analysis.overall.score,
            "names": truth.names(),
            "colors": [_hex(class_color(label)) for label in range(len(truth.categories))],
            "outcomes": {outcome: color for outcome, (color, _) in OUTCOMES.items()},
            "skeleton": skeleton,
            "images": entries,
            "worst": len(worst),
            "surfaces": any(row[-1] is not None for entry in entries for row in (*entry["truth"], *entry["found"])),
        },
    )


# ------------------------------------------------------------------------------------------------------------ internals


def _errors(metrics: Metrics) -> list[dict[str, Any]]:
    """The errors that cost most AP first, with the width of their bars."""
    if "errors" not in metrics:
        return []
    cost, count = metrics["errors"]["cost"], metrics["errors"]["count"]
    highest = max([*cost.values(), 1e-9])
    return [
        {
            "name": sort,
            "what": ERRORS[sort],
            "cost": cost[sort],
            "count": count[sort],
            "width": 100 * max(0.0, cost[sort]) / highest,
        }
        for sort in sorted(cost, key=lambda sort: -cost[sort])
    ]


def _body_parts(metrics: Metrics) -> list[dict[str, Any]]:
    """The mean similarity of dense pose's points in each part of the body, with the width of its bar."""
    return [
        {"name": name.replace("_", " "), "value": value, "width": 100 * max(0.0, value)}
        for name, value in metrics.get(BODY_PARTS, {}).items()
    ]


def _curves(analysis: Analysis) -> dict[str, Any]:
    """The chart of the mean over the classes, and the curves of single classes for the script."""
    recalls = np.linspace(0, 1, 101)
    known = np.array(analysis.counts) > 0
    means = analysis.precision[:, :, known].mean(axis=2)
    series = [(name, _points(recalls, line)) for name, line in zip(("IoU 0.5", "IoU 0.75", "IoU 0.5 to 0.95"), means, strict=True)]
    largest = sorted(np.flatnonzero(known).tolist(), key=lambda k: -analysis.counts[k])[:CURVES]
    lines = {str(k): [path(_points(recalls, line)) for line in analysis.precision[:, :, k]] for k in sorted(largest)}
    return {"chart": curves(series, "recall", "precision"), "lines": lines, "mean": [path(points) for _, points in series]}


def _points(recalls: Any, precision: Any) -> Sequence[tuple[float, float]]:
    """The points of a curve up to the first recall that is not reached, where precision is 0."""
    reached = int((precision > 0).sum())
    return list(zip(recalls[: reached + 1].tolist(), precision[: reached + 1].tolist(), strict=True))


def _calibration(metrics: Metrics) -> dict[str, Any]:
    bins = metrics["calibration"]["bins"]
    return {
        "chart": calibration([(b["from"], b["to"], b["right"], b["count"]) for b in bins]),
        "ECE": metrics["calibration"]["ECE"],
    }


def _confusion(metrics: Metrics) -> dict[str, Any]:
    """The matrix with each entry's fraction of its row, or, for many classes, its largest entries."""
    matrix = np.array(metrics["confusion"]["matrix"])
    names = metrics["confusion"]["classes"]
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    wrong = matrix[:-1, :-1] * (1 - np.eye(len(names), dtype=np.int64))
    largest = [divmod(int(index), len(names)) for index in np.argsort(-wrong, axis=None, kind="stable")[:20]]
    return {
        "score": metrics["confusion"]["score"],
        "whole": len(names) <= MATRIX,
        "names": [*names, "nothing"],
        "rows": [
            list(zip(counts.tolist(), fractions.tolist(), strict=True)) for counts, fractions in zip(matrix, shares, strict=True)
        ],
        "largest": [(names[row], names[column], int(wrong[row, column])) for row, column in largest if wrong[row, column]],
    }


def _hex(color: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in color)
