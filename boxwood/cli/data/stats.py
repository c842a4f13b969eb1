"""boxwood data stats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from boxwood.cli.arguments import imports_option, overrides_argument

if TYPE_CHECKING:
    from boxwood.data.coco_file import CocoFile

__all__ = ["stats"]


@click.command()
@click.argument("source", metavar="CONFIG|ANNOTATIONS.json")
@overrides_argument
@imports_option
def stats(source: str, overrides: tuple[str, ...]) -> None:
    """Count classes, boxes and their sizes, and images without annotations."""
    from boxwood.cli.data.sources import coco_parts
    from boxwood.data.coco_file import read_coco_file

    files = [source] if source.endswith(".json") else [part.annotations for part in coco_parts(source, overrides)]
    for path in files:
        click.echo("\n".join(_statistics(read_coco_file(path))))


def _statistics(file: CocoFile) -> list[str]:
    import numpy as np

    from boxwood.cli.data.sources import overview

    empty = len(file.image_ids) - len(np.unique(file.image_rows[file.image_rows >= 0]))
    heights, widths = file.image_sizes.T
    sides = np.sqrt(np.clip(file.boxes[:, 2] * file.boxes[:, 3], 0, None))
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
