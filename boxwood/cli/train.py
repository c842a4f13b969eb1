"""boxwood train."""

from __future__ import annotations

from pathlib import Path

import click

from boxwood.cli.arguments import config_argument, default_out, imports_option, overrides_argument

__all__ = ["train"]


@click.command()
@config_argument
@overrides_argument
@click.option("--out", type=click.Path(path_type=Path), metavar="RUN", help="The run directory; runs/NAME by default.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint of the run directory, or begin where there is none.")
@click.option("--other-data", is_flag=True, help="With --resume: go on although the data have changed.")
@imports_option
def train(config: str, overrides: tuple[str, ...], out: Path | None, resume: bool, other_data: bool) -> None:
    """Train a detector.

    CONFIG is a recipe's name (see: boxwood config list), module:function, a YAML file, or a run. data=FOLDER takes the train and
    val set of a folder of labelled images, as the tools of the field write it; without a val set a fifth of the images becomes one.

    \b
      boxwood train faster_rcnn_mobilenetv2_fpn data=photos --out runs/mine
      boxwood train faster_rcnn_mobilenetv2_fpn \\
          data.train.annotations=train.json data.train.images=photos \\
          data.val.annotations=val.json data.val.images=photos --out runs/mine
      boxwood train runs/mine --resume
      torchrun --nproc-per-node 8 -m boxwood train mask_rcnn_r50_fpn_1x
      torchrun --nproc-per-node 8 --max-restarts 3 -m boxwood train mask_rcnn_r50_fpn_1x --resume
    """
    from boxwood.recipes import resolve
    from boxwood.training.divergence import TrainingDiverged
    from boxwood.training.loop import train as run

    try:
        run(resolve(config, overrides), out or default_out(config), resume, other_data=other_data)
    except TrainingDiverged as error:
        raise click.ClickException(str(error)) from None
