"""`boxwood data stats`: classes, boxes and their sizes, as a network would see them, and what they suggest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from boxwood.data import ResizeShortestEdge
from boxwood.data.quality.checks import check_identities, refuse
from boxwood.data.quality.statistics import DETECTRONS_RESIZES, Anchors, Resize, Statistics, advice, count, describe
from boxwood.errors import UserError
from boxwood.library.annotations import is_annotations, overview, parts_of, run_config
from boxwood.models.config import AnchorsConfig
from boxwood.report.statistics import write_statistics
from boxwood.run_config import RunConfig

__all__ = ["DataStatistics", "FileStatistics", "NetworkInput", "statistics"]


@dataclass(frozen=True)
class NetworkInput:
    """The network that boxes are compared with."""

    short: int
    long: int
    """Images have a shorter side of ``short`` pixels and none over ``long``."""
    anchors: Anchors | None
    detections_per_image: int
    name: str
    resizes: tuple[Resize, ...] = DETECTRONS_RESIZES
    """The transforms of the train and val set that scale images."""


@dataclass(frozen=True)
class FileStatistics:
    """What is in one annotation file."""

    path: str
    numbers: Statistics
    advice: list[str]
    """What the numbers suggest, a sentence each; of a configuration only those of the train set do."""
    table: list[str]
    """Images, boxes, and a row per class, as lines of text in the pixels of the images."""


@dataclass(frozen=True)
class DataStatistics:
    """What is in annotations, or in both sets of a configuration."""

    files: list[FileStatistics]
    network: NetworkInput

    def text(self) -> str:
        """The tables and the advice of all files."""
        lines: list[str] = []
        for file in self.files:
            lines += file.table
            lines += [f"in the input of {self.network.name}:", *(f"  {line}" for line in file.advice)] if file.advice else [""]
        return "\n".join(lines)

    def report(self, path: str | Path) -> None:
        """Write the charts as one HTML page, which needs no network."""
        path = Path(path)
        _check_page(path)
        files = [(file.path, file.numbers, file.advice) for file in self.files]
        write_statistics(path, files, self.network.anchors, self.network.name)


def statistics(
    source: str | Path | RunConfig, overrides: Sequence[str] = (), *, report: str | Path | None = None
) -> DataStatistics:
    """Count classes, boxes and their sizes in a file or folder of annotations, or in the train and val set of a configuration.

    Boxes are measured in the input of the configuration's network and compared with its anchors; the train set alone gives advice,
    as keys that a command takes (``model.rpn.anchor_sizes=...``). Of annotations alone the input
    and the anchors are those of Detectron's networks on a pyramid. ``report`` is where to write the charts as a page. Raises
    `UserError` where a file cannot be read or its rows refer to nothing.
    """
    if report is not None:
        _check_page(Path(report))
    network = _detectrons_input() if is_annotations(source) else _input_of(run_config(source, overrides))
    files = [part.data.read() for part in parts_of(source, overrides)]
    counted = []
    for place, file in enumerate(files):
        refuse(check_identities(file), file.path)
        numbers = count(file, network.short, network.long)
        # The val set is there to measure: a choice by it would make the measure too high.
        suggested = [] if place else advice(numbers, network.anchors, network.detections_per_image, network.resizes)
        counted.append(FileStatistics(file.path, numbers, suggested, [f"{file.path}: {overview(file)}", *describe(file)]))
    result = DataStatistics(counted, network)
    if report is not None:
        result.report(report)
    return result


# ------------------------------------------------------------------------------------------------------------ internals


def _check_page(path: Path) -> None:
    if path.suffix != ".html":
        raise UserError(f"{path}: the page is written as .html; change the ending")


def _detectrons_input() -> NetworkInput:
    """Detectron's networks on a pyramid."""
    anchors = Anchors(((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)), (0.5, 1.0, 2.0))
    name = "a network of Detectron's size (images of 800 to 1333 pixels, anchors of 32 to 512)"
    return NetworkInput(800, 1333, anchors, 100, name)


def _input_of(run: RunConfig) -> NetworkInput:
    """The smallest scale of training, and the anchors of the part of the model that has some."""
    resize = next((t for t in run.data.train.transforms if isinstance(t, ResizeShortestEdge)), ResizeShortestEdge())
    parts = (value for _, value in run.model if isinstance(value, AnchorsConfig))
    anchors = next((Anchors(part.anchor_sizes, part.anchor_ratios) for part in parts), None)
    resizes = tuple(
        Resize(f"data.{name}.transforms.{place}", transform.short, transform.long)
        for name, part in (("train", run.data.train), ("val", run.data.val))
        for place, transform in enumerate(part.transforms)
        if isinstance(transform, ResizeShortestEdge)
    )
    short = min(resize.short)
    name = f"{run.model.title} (images of {short} to {resize.long} pixels)"
    return NetworkInput(short, resize.long, anchors, run.test.detections_per_image, name, resizes)
