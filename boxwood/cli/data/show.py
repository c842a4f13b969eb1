"""boxwood data show."""

from __future__ import annotations

from pathlib import Path

import click

from boxwood.cli.arguments import config_argument, imports_option, overrides_argument

__all__ = ["show"]


@click.command()
@config_argument
@overrides_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where the pictures go.")
@click.option("--count", type=click.IntRange(min=1), default=16, show_default=True, help="How many pictures.")
@click.option(
    "--detections", type=click.Path(path_type=Path), metavar="FILE", help="Draw these beside the ground truth of the val set."
)
@click.option(
    "--score", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="The lowest score of a detection that is drawn."
)
@imports_option
def show(config: str, overrides: tuple[str, ...], out: Path, count: int, detections: Path | None, score: float) -> None:
    """Draw the first training samples as the network sees them: scaled, flipped, with their targets.

    With --detections (COCO results, or Detectron's detections.pkl): the first pictures of the val set, the ground truth on the
    left, the detections on the right.

    \b
      boxwood data show runs/nuts --out seen
      boxwood data show runs/nuts --detections runs/nuts/eval/detections.json --out seen
    """
    from boxwood.library.samples import draw_samples

    written = draw_samples(config, out, overrides, count=count, detections=detections, score=score)
    click.echo(f"{len(written)} pictures in {out}")
