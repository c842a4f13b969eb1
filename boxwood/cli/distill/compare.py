"""boxwood distill compare."""

from __future__ import annotations

import re
from pathlib import Path

import click

from boxwood.cli.arguments import config_argument, imports_option, overrides_argument
from boxwood.errors import UserError

__all__ = ["compare"]


@click.command(short_help="Compare a student with its teacher.")
@config_argument
@click.argument("unlabelled", type=click.Path(path_type=Path), metavar="IMAGES")
@overrides_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where the runs and results.json go.")
@click.option("--truth", type=click.Path(path_type=Path), metavar="FILE", help="True annotations of IMAGES, for the oracle.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="How often all is trained.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of all but the teacher; three times its steps by default.")
@click.option("--ratio", default="3:2", show_default=True, help="Labelled to automatic pictures in every batch of the student.")
@click.option("--floor", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="The lowest score of a label.")
@click.option("--one-view", is_flag=True, help="Label from one view of each picture.")
@imports_option
def compare(
    config: str,
    unlabelled: Path,
    overrides: tuple[str, ...],
    out: Path,
    truth: Path | None,
    seeds: int,
    steps: int | None,
    ratio: str,
    floor: float,
    one_view: bool,
) -> None:
    """Train a teacher on data.train of CONFIG, label the pictures of the folder IMAGES with it, and train a student on both; beside
    it a teacher that is trained as long, and with --truth an oracle. All are measured on data.val.

    An interrupted command resumes when it is run again.

    \b
      boxwood distill compare faster_rcnn_mobilenetv2_fpn unlabelled --out compared train.batch_size=5 \\
          data.train.annotations=train.json data.train.images=photos \\
          data.val.annotations=test.json data.val.images=photos
    """
    from boxwood.library.distillation.compare import compare as run
    from boxwood.recipes import resolve
    from boxwood.training.divergence import TrainingDiverged

    if not (parts := re.fullmatch(r"(\d{1,6}):(\d{1,6})", ratio)):
        raise UserError(f"--ratio {ratio}: must be labelled to automatic pictures, such as 3:2")
    try:
        comparison = run(
            resolve(config, overrides),
            unlabelled,
            out,
            truth=truth,
            seeds=seeds,
            steps=steps,
            ratio=(int(parts[1]), int(parts[2])),
            floor=floor,
            one_view=one_view,
        )
    except TrainingDiverged as error:
        raise click.ClickException(str(error)) from None
    click.echo(comparison.text())
    click.echo(f"\nwritten to {out / 'results.json'}")
