"""boxwood data shapes."""

from __future__ import annotations

from pathlib import Path

import click

from boxwood.errors import UserError
from boxwood.threads import num_processors

__all__ = ["shapes"]

FEW = 50
"""So many pictures are drawn sooner than processes start."""


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where the data set goes.")
@click.option("--train", type=click.IntRange(min=1), default=600, show_default=True, help="Pictures to train on.")
@click.option("--val", type=click.IntRange(min=1), default=100, show_default=True, help="Pictures to evaluate on.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed gives other pictures.")
@click.option("--surface", is_flag=True, help="Jointed figures with dense pose in place of shapes.")
@click.option("--interactions", is_flag=True, help="Figures who do things with objects, with human-object interactions.")
def shapes(out: Path, train: int, val: int, seed: int, surface: bool, interactions: bool) -> None:
    """Generate pictures of textured shapes in COCO's format, with boxes, masks and keypoints: a data set without a download.

    With --surface they are figures whose surface is known, with dense pose as in DensePose-COCO, and DIR/body.npz measures and
    mirrors it.
    """
    from boxwood.data.synthetic.bodies import write_bodies
    from boxwood.data.synthetic.figures import write_figures
    from boxwood.data.synthetic.shapes import write_shapes

    if surface and interactions:
        raise UserError("--surface and --interactions are two data sets; give one of them")
    write = write_bodies if surface else write_figures if interactions else write_shapes
    write(out, train=train, val=val, seed=seed, workers=num_processors() if train + val > FEW else 0)
    click.echo(f"{train} pictures in {out / 'train'} with {out / 'train.json'}, {val} in {out / 'val'} with {out / 'val.json'}")
