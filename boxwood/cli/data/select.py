"""boxwood data select."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["select"]


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "--images", type=click.Path(path_type=Path), required=True, metavar="INFO.json", help="A COCO file of the images to keep."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE.json")
def select(results: Path, images: Path, out: Path) -> None:
    """Keep the detections of some images, such as the test-dev images of COCO's test set, for its server.

    \b
      boxwood data select test_results.json --images image_info_test-dev2017.json --out test-dev_results.json
    """
    from boxwood.library.selection import select_detections

    selection = select_detections(results, images, out)
    click.echo(
        f"{out}: {selection.num_detections:,} of {selection.of_detections:,} detections, in {selection.num_images:,} of "
        f"{selection.of_images:,} images"
    )
