"""boxwood data stats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from boxwood.cli.arguments import imports_option, overrides_argument
from boxwood.errors import UserError

if TYPE_CHECKING:
    from boxwood.data.coco_file import CocoFile
    from boxwood.data.quality.statistics import Anchors, Statistics
    from boxwood.run_config import RunConfig

__all__ = ["stats"]


class _Network(NamedTuple):
    """What statistics are compared with."""

    short: int
    long: int
    anchors: Anchors | None
    detections_per_image: int
    told: str


@click.command()
@click.argument("source", metavar="CONFIG|ANNOTATIONS.json")
@overrides_argument
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.html", help="Draw them too: a page that needs no network.")
@imports_option
def stats(source: str, overrides: tuple[str, ...], out: Path | None) -> None:
    """Count classes, boxes and their sizes, and say what that suggests.

    Of a CONFIG both sets are counted, as its network would see them: scaled to its input and beside its anchors. An
    ANNOTATIONS.json is looked at as a network of Detectron's size would.

    \b
      boxwood data stats train.json --out stats.html
      boxwood data stats mask_rcnn_r50_fpn_1x data.train.annotations=train.json data.train.images=photos ...
    """
    from boxwood.cli.data.sources import coco_parts
    from boxwood.data.annotations import read_annotations
    from boxwood.data.quality.checks import check_identities, refuse
    from boxwood.data.quality.statistics import advice, count
    from boxwood.recipes import resolve

    if out is not None and out.suffix != ".html":
        raise UserError(f"{out}: the page is written as .html; name it so")
    alone = source.endswith(".json")
    network = _usual() if alone else _of(resolve(source, overrides))
    files = (
        [read_annotations(source)]
        if alone
        else [read_annotations(part.annotations, part.images, part.split) for part in coco_parts(source, overrides)]
    )
    counted: list[tuple[str, Statistics, list[str]]] = []
    for file in files:
        refuse(check_identities(file), file.path)
        statistics = count(file, network.short, network.long)
        told = advice(statistics, network.anchors, network.detections_per_image)
        click.echo("\n".join(_statistics(file)))
        click.echo("\n".join([f"as {network.told} sees them:", *(f"  {line}" for line in told)] if told else []))
        counted.append((file.path, statistics, told))
    if out is not None:
        from boxwood.report.statistics import write_statistics

        write_statistics(out, counted, network.anchors, network.told)
        click.echo(f"\nwritten to {out}")


def _usual() -> _Network:
    """Detectron's networks on a pyramid."""
    from boxwood.data.quality.statistics import Anchors

    anchors = Anchors((32.0, 64.0, 128.0, 256.0, 512.0), (0.5, 1.0, 2.0))
    return _Network(800, 1333, anchors, 100, "a network of Detectron's size (images of 800 to 1333 pixels, anchors of 32 to 512)")


def _of(run: RunConfig) -> _Network:
    """The smallest scale of training, and the anchors of whichever part has some."""
    from boxwood.data import ResizeShortestEdge
    from boxwood.data.quality.statistics import Anchors
    from boxwood.models.anchors import AnchorsConfig

    resize = next((t for t in run.data.train.transforms if isinstance(t, ResizeShortestEdge)), ResizeShortestEdge())
    part = next((value for _, value in run.model if isinstance(value, AnchorsConfig)), None)
    anchors = None
    if part is not None:
        anchors = Anchors(tuple(sorted({size for level in part.anchor_sizes for size in level})), part.anchor_ratios)
    short = min(resize.short)
    told = f"{run.model.title} (images of {short} to {resize.long} pixels)"
    return _Network(short, resize.long, anchors, run.test.detections_per_image, told)


def _statistics(file: CocoFile) -> list[str]:
    import numpy as np

    from boxwood.cli.data.sources import overview
    from boxwood.data.quality.checks import check_boxes

    empty = len(file.image_ids) - len(np.unique(file.image_rows[file.image_rows >= 0]))
    heights, widths = file.image_sizes.T
    corners = check_boxes(file)[0].boxes.astype(np.float64)
    sides = np.sqrt((corners[:, 2:] - corners[:, :2]).prod(axis=1))
    bounds = ("small (< 32 px)", sides < 32), ("medium", (sides >= 32) & (sides < 96)), ("large (>= 96 px)", sides >= 96)
    lines = [
        f"{file.path}: {overview(file)}",
        f"  images without annotations: {empty:,}",
        f"  image sizes: {widths.min()}-{widths.max()} x {heights.min()}-{heights.max()}, median {np.median(widths):.0f} x "
        f"{np.median(heights):.0f}",
        "  boxes by the root of their area: " + ", ".join(f"{name} {int(chosen.sum()):,}" for name, chosen in bounds),
        f"  crowd regions: {int(file.crowd.sum()):,}, masks: {int((file.mask_kinds > 0).sum()):,}, "
        f"with keypoints: {int((file.keypoint_rows >= 0).sum()):,}",
        f"  {'id':>8}  {'boxes':>9}  {'images':>8}  {'smallest':>8}  {'median':>8}  {'largest':>8}  class",
    ]
    for category in sorted(file.categories, key=lambda row: int(row["id"])):
        chosen = file.category_ids == category["id"]
        images = len(np.unique(file.annotation_image_ids[chosen]))
        cells = (
            "  ".join(f"{q:8.1f}" for q in np.quantile(sides[chosen], (0, 0.5, 1)))
            if chosen.any()
            else "  ".join([f"{'-':>8}"] * 3)
        )
        lines.append(f"  {category['id']:>8}  {int(chosen.sum()):>9,}  {images:>8,}  {cells}  {category['name']}")
    return lines
