"""boxwood data stats."""

from __future__ import annotations

from pathlib import Path

import click

from boxwood.cli.arguments import imports_option, overrides_argument

__all__ = ["stats"]


@click.command()
@click.argument("source", metavar="FOLDER|ANNOTATIONS|CONFIG")
@overrides_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Write charts too: an HTML page that loads nothing from the network.",
)
@imports_option
def stats(source: str, overrides: tuple[str, ...], out: Path | None) -> None:
    """Count classes, boxes and their sizes, and print what they suggest.

    Of a CONFIG both sets are counted in the input of its network, and compared with its anchors. Of a FOLDER or
    ANNOTATIONS alone the input and the anchors are those of Detectron's networks.

    \b
      boxwood data stats photos
      boxwood data stats train.json --out stats.html
      boxwood data stats mask_rcnn_r50_fpn_1x data.train.annotations=train.json data.train.images=photos ...
    """
    from boxwood.library.statistics import statistics

    click.echo(statistics(source, overrides, report=out).text())
    if out is not None:
        click.echo(f"\nwritten to {out}")
