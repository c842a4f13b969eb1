"""boxwood data convert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from boxwood.errors import UserError

__all__ = ["convert"]

READ = ("coco", "cityscapes", "cvat", "labelme", "lvis", "open_images", "voc", "yolo")
WRITTEN = ("coco", "voc", "yolo")


@click.command()
@click.argument("origin", metavar="A", type=click.Path(path_type=Path))
@click.argument("target", metavar="B", type=click.Path(path_type=Path))
@click.option("--from", "form", type=click.Choice(READ), help="What A is: seen by default.")
@click.option("--to", "into", type=click.Choice(WRITTEN), help="What B is to be: coco by default where B is a .json.")
@click.option("--split", metavar="NAME", help="Which part: of VOC a file of ImageSets/Main, of YOLO train, val or test.")
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR", help="The images, of Open Images.")
@click.option("--classes", type=click.Path(path_type=Path), metavar="FILE.csv", help="The names of classes, of Open Images.")
def convert(
    origin: Path,
    target: Path,
    form: str | None,
    into: str | None,
    split: str | None,
    images: Path | None,
    classes: Path | None,
) -> None:
    """Write the annotations A in another format, as B. Pictures stay where they are.

    \b
      COCO        a .json file
      VOC         a folder with Annotations/*.xml; --split trainval takes those of ImageSets/Main/trainval.txt
      YOLO        a data.yaml, with text files in labels/ beside images/ (B: a folder); --split train by default
      only read:
      Cityscapes  a part of gtFine, such as gtFine/train
      CVAT        an annotations.xml ("CVAT for images 1.1")
      LabelMe     a folder of its .json files
      LVIS        a .json file, with --from lvis: its images' names are taken from their addresses
      Open Images a table of boxes (.csv), with --images and --classes class-descriptions-boxable.csv

    \b
      boxwood data convert VOCdevkit/VOC2007 trainval.json --split trainval
      boxwood data convert yolo/data.yaml val.json --split val
      boxwood data convert train.json yolo --to yolo --split train
    """
    from boxwood.data.annotations import format_of

    form = form or format_of(origin)
    into = into or ("coco" if target.suffix == ".json" else None)
    if into is None:
        raise UserError(f"{target}: is it to be VOC or YOLO? name it with --to; a COCO file is named .json")
    if into == "coco" and target.suffix != ".json":
        raise UserError(f"{target}: COCO files are written as .json; name it so")
    if into != "coco" and target.suffix in (".json", ".yaml"):
        raise UserError(f"{target}: {into} is a folder; name one")
    coco, pictures, lost = _read_sound(origin, form, split, images, classes)
    lost = [*lost, *_write(coco, target, into, split or "train")]
    crowds = sum(bool(annotation["iscrowd"]) for annotation in coco["annotations"])
    click.echo(
        f"{target}: {len(coco['images']):,} images, {len(coco['annotations']) - crowds:,} instances and {crowds:,} crowd regions "
        f"of {len(coco['categories'])} classes"
    )
    if pictures is not None:
        click.echo(f"the pictures are in {pictures}")
    if lost:
        click.echo(f"not carried: {', '.join(lost)}")


def _read_sound(
    source: Path, form: str, split: str | None, images: Path | None, classes: Path | None
) -> tuple[dict[str, Any], Path | None, list[str]]:
    """What `read_format` gives, without boxes of nan. Raises `UserError` where rows refer to nothing or stand twice."""
    import numpy as np

    from boxwood.data.annotations import read_format, read_tree
    from boxwood.data.coco_file import coco_file_of
    from boxwood.data.quality.checks import check_identities, refuse

    pictures: Path | None = None
    lost: list[str] = []
    if form == "coco":
        file = coco_file_of(read_tree(source), source)
        coco = file.to_coco()
    else:
        coco, pictures, lost = read_format(source, form, split=split, images=images, classes=classes)
        file = coco_file_of(coco, source)
    refuse(check_identities(file), str(source))
    placed = np.isfinite(file.boxes).all(axis=1)
    if not placed.all():
        lost = [*lost, f"{int((~placed).sum()):,} boxes with nan or infinity (left out)"]
        known = set(file.ids[placed].tolist())
        coco = {**coco, "annotations": [row for row in coco["annotations"] if row["id"] in known]}
    return coco, pictures, lost


def _write(coco: dict[str, Any], target: Path, into: str, split: str) -> list[str]:
    """What the format did not carry."""
    from boxwood.data.formats.voc import write_voc
    from boxwood.data.formats.yolo import write_yolo
    from boxwood.files import write_text

    if into == "coco":
        write_text(target, json.dumps(coco, ensure_ascii=False) + "\n")
        return []
    return write_voc(coco, target, split) if into == "voc" else write_yolo(coco, target, split)
