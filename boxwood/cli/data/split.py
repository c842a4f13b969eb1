"""boxwood data split."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["split"]


@click.command()
@click.argument("source", metavar="FOLDER|ANNOTATIONS")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where train.json and val.json go.")
@click.option("--val", type=float, default=0.2, show_default=True, help="The fraction of the images for validation.")
@click.option("--test", type=float, default=0.0, help="The fraction of the images for a test.json; none by default.")
@click.option("--by-group", metavar="KEY", help="Keep images together that have the same folder, or KEY such as video_id.")
@click.option("--by-name", metavar="REGEX", help="Keep images together in whose names REGEX matches the same text.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed gives another division.")
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR", help="The folder of the pictures.")
def split(
    source: str, out: Path, val: float, test: float, by_group: str | None, by_name: str | None, seed: int, images: Path | None
) -> None:
    """Divide a data set into train, val and test, stratified by class. Pictures stay where they are.

    Annotations of any format that is read become COCO files; the rows of a COCO file stay as they are. Frames of one video, tiles
    of one slide or pictures of one patient belong into one part: say so with --by-group or --by-name, else the AP on val is too
    high. Without either, copies that Roboflow made of one picture (a.rf.*.jpg) stay together.

    \b
      boxwood data split photos --out parts
      boxwood data split all.json --images photos --out parts --val 0.15 --test 0.15 --by-group video_id
      boxwood data split voc --out parts --by-name '^(slide[0-9]+)_'
    """
    from boxwood.library.split import split as run

    click.echo(run(source, out, val=val, test=test, by_group=by_group, by_name=by_name, seed=seed, images=images).text())
