"""boxwood data convert."""

from __future__ import annotations

import json
from pathlib import Path

import click

from boxwood.errors import UserError

__all__ = ["convert"]


@click.command()
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.argument("target", metavar="FILE.json", type=click.Path(path_type=Path))
@click.option("--from", "form", type=click.Choice(("cityscapes",)), required=True, help="What FOLDER holds.")
def convert(folder: Path, target: Path, form: str) -> None:
    """Write another format's annotations as a COCO file.

    Of Cityscapes FOLDER is a part of gtFine; its pictures stay where they are, in leftImg8bit.

    \b
      boxwood data convert gtFine/train train.json --from cityscapes
      boxwood data check train.json --images leftImg8bit/train
    """
    from boxwood.data.cityscapes import read_cityscapes
    from boxwood.files import write_text

    if target.suffix != ".json":
        raise UserError(f"{target}: COCO files are written as .json; name it so")
    assert form == "cityscapes"
    coco = read_cityscapes(folder)
    write_text(target, json.dumps(coco) + "\n")
    crowds = sum(annotation["iscrowd"] for annotation in coco["annotations"])
    click.echo(
        f"{target}: {len(coco['images']):,} images, {len(coco['annotations']) - crowds:,} instances and {crowds:,} crowd regions "
        f"of {len(coco['categories'])} classes"
    )
