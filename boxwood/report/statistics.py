"""The page of `boxwood data stats`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from boxwood.data.quality.statistics import Anchors, Statistics, reached
from boxwood.report.charts import histogram
from boxwood.report.page import write_page

__all__ = ["write_statistics"]

CLASSES = 40
"""The most frequent classes, which the chart shows."""
OCTAVES = np.arange(2, 11.01, 0.5)
"""Bins of the boxes' sides: from 4 to 2048 pixels in steps of half an octave."""
RATIOS = np.arange(-3, 3.01, 0.25)
"""Bins of the aspect ratios, in octaves."""
MOST_BOXES = 20
"""Columns of the chart of boxes per image, at most."""


def write_statistics(
    path: Path, counted: Sequence[tuple[str, Statistics, Sequence[str]]], anchors: Anchors | None, network: str
) -> None:
    """Write the charts and the advice for each file (name, statistics, advice), in the input of ``network``, completely or not at
    all. The page loads nothing from the network."""
    sets = [{"name": name, "advice": advice, **_charts(statistics, anchors)} for name, statistics, advice in counted]
    write_page("statistics.html", path, title="Data statistics", network=network, sets=sets)


def _charts(statistics: Statistics, anchors: Anchors | None) -> dict[str, Any]:
    return {
        "images": len(statistics.per_image),
        "boxes": len(statistics.sizes),
        "empty": int((statistics.per_image == 0).sum()),
        "reached": None if anchors is None else reached(statistics.sizes, anchors),
        "classes": _classes(statistics),
        "sides": _sides(statistics, anchors),
        "ratios": _ratios(statistics, anchors),
        "per_image": _per_image(statistics),
    }


def _classes(statistics: Statistics) -> list[dict[str, Any]]:
    order = np.argsort(-statistics.instances, kind="stable")
    highest = max(int(statistics.instances.max(initial=0)), 1)
    return [
        {
            "name": statistics.names[k],
            "instances": int(statistics.instances[k]),
            "images": int(statistics.images[k]),
            "width": 100 * int(statistics.instances[k]) / highest,
        }
        for k in order[:CLASSES].tolist()
    ]


def _sides(statistics: Statistics, anchors: Anchors | None) -> Markup:
    """Columns of half an octave; smaller and larger sides are counted in the outermost."""
    octaves = np.log2(np.maximum(statistics.sides, 1e-6)).clip(OCTAVES[0], OCTAVES[-1])
    counts = np.histogram(octaves, bins=OCTAVES)[0].tolist()
    labels = [f"{2**octave:.0f}" for octave in OCTAVES[:-1]]
    marks = [] if anchors is None else [((np.log2(size) - OCTAVES[0]) / 0.5, f"anchors of {size:g}") for size in anchors.sizes]
    return histogram(counts, labels, "root of the area, pixels of the network's input", marks)


def _ratios(statistics: Statistics, anchors: Anchors | None) -> Markup:
    octaves = np.log2(statistics.ratios).clip(RATIOS[0], RATIOS[-1])
    counts = np.histogram(octaves, bins=RATIOS)[0].tolist()
    labels = [f"{2**octave:.2g}" for octave in RATIOS[:-1]]
    marks = [] if anchors is None else [((np.log2(ratio) - RATIOS[0]) / 0.25, f"anchors of {ratio:g}") for ratio in anchors.ratios]
    return histogram(counts, labels, "height / width", marks)


def _per_image(statistics: Statistics) -> Markup:
    """A column for each number of boxes, or for several numbers where there are many."""
    most = int(statistics.per_image.max(initial=0))
    step = most // MOST_BOXES + 1
    counts = np.bincount(statistics.per_image // step, minlength=1).tolist()
    labels = [str(n * step) if step == 1 else f"{n * step}-{(n + 1) * step - 1}" for n in range(len(counts))]
    return histogram(counts, labels, "boxes per image")
