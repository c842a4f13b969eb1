"""boxwood distill label."""

from __future__ import annotations

from pathlib import Path

import click

from boxwood.cli.arguments import imports_option
from boxwood.errors import UserError

__all__ = ["label"]


@click.command(short_help="Label pictures with a detector.")
@click.argument("model", metavar="RUN|FILE|NAME")
@click.argument("images", type=click.Path(path_type=Path), metavar="IMAGES")
@click.argument("overrides", nargs=-1, metavar="[test.KEY=VALUE]...")
@click.option("--like", required=True, metavar="TRAIN", help="The labelled set, in any format that is read.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="LABELS.json", help="The COCO file of the labels.")
@click.option(
    "--thresholds",
    type=click.Choice(("class", "all")),
    default="class",
    show_default=True,
    help="One threshold for each class, or one for all.",
)
@click.option("--floor", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="The lowest score of a label.")
@click.option("--one-view", is_flag=True, help="See each picture once, as boxwood predict does.")
@imports_option
def label(
    model: str,
    images: Path,
    overrides: tuple[str, ...],
    like: str,
    out: Path,
    thresholds: str,
    floor: float,
    one_view: bool,
) -> None:
    """Label the pictures of the folder IMAGES with a detector, for the training of another one (Data Distillation).

    Each picture is seen in 18 views, at nine scales, plain and mirrored, and their detections are joined. As many become labels,
    an image and class, as the labelled set TRAIN has instances. LABELS.json has their scores, and source: auto; LABELS.html shows
    them. Results are written as they come: an interrupted command resumes when it is run again.

    \b
      boxwood distill label runs/teacher unlabelled --like train.json --out labels.json
      boxwood distill label runs/teacher unlabelled --like train.json --out labels.json --floor 0.5 test.vote.threshold=0.9
    """
    from boxwood.library.distillation.label import label as run

    labels = run(model, images, like, out, per_class=thresholds == "class", floor=floor, one_view=one_view, overrides=overrides)
    click.echo(labels.text())
    click.echo(
        f"\n{labels.out}: {labels.num_instances:,} labels on {labels.num_labelled:,} of {labels.num_pictures:,} pictures; "
        f"{labels.page} shows them"
    )
    if labels.unreadable:
        names, total = ", ".join(list(labels.unreadable)[:5]), labels.num_pictures + len(labels.unreadable)
        names += f" and {len(labels.unreadable) - 5} more" if len(labels.unreadable) > 5 else ""
        raise UserError(f"{len(labels.unreadable)} of {total:,} pictures could not be read: {names}; the others are labelled")
