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
    form = form or _seen(origin)
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


def _seen(source: Path) -> str:
    """What a path holds, by what lies there."""
    of_suffix = {".json": "coco", ".yaml": "yolo", ".yml": "yolo", ".xml": "cvat", ".csv": "open_images"}
    if source.suffix in of_suffix:
        return of_suffix[source.suffix]
    if (source / "Annotations").is_dir():
        return "voc"
    if next(source.rglob("*_gtFine_polygons.json"), None) is not None:
        return "cityscapes"
    if next(source.glob("*.json"), None) is not None:
        return "labelme"
    known = "a .json, a data.yaml, Annotations/*.xml, gtFine, an .xml of CVAT, LabelMe's *.json, a .csv of Open Images"
    raise UserError(f"{source}: holds no format that is known ({known}); name it with --from")


def _read_sound(
    source: Path, form: str, split: str | None, images: Path | None, classes: Path | None
) -> tuple[dict[str, Any], Path | None, list[str]]:
    """What `_read` gives, without boxes that are no numbers. Raises `UserError` where rows refer to nothing or stand twice."""
    import numpy as np

    from boxwood.data.checks import check_identities, refuse
    from boxwood.data.coco_file import coco_file_of, read_coco_file

    pictures: Path | None = None
    lost: list[str] = []
    if form == "coco":
        file = read_coco_file(source)
        coco = file.to_coco()
    else:
        coco, pictures, lost = _read(source, form, split, images, classes)
        file = coco_file_of(coco, source)
    refuse(check_identities(file), str(source))
    placed = np.isfinite(file.boxes).all(axis=1)
    if not placed.all():
        lost = [*lost, f"{int((~placed).sum()):,} boxes with nan or infinity (left out)"]
        known = set(file.ids[placed].tolist())
        coco = {**coco, "annotations": [row for row in coco["annotations"] if row["id"] in known]}
    return coco, pictures, lost


def _read(
    source: Path, form: str, split: str | None, images: Path | None, classes: Path | None
) -> tuple[dict[str, Any], Path | None, list[str]]:
    """A COCO dictionary, the folder of its pictures where the format says it, and what it does not carry."""
    from boxwood.data.formats.cityscapes import read_cityscapes
    from boxwood.data.formats.cvat import read_cvat
    from boxwood.data.formats.labelme import read_labelme
    from boxwood.data.formats.lvis import read_lvis
    from boxwood.data.formats.open_images import read_open_images
    from boxwood.data.formats.voc import read_voc
    from boxwood.data.formats.yolo import read_yolo

    if form == "voc":
        return read_voc(source, split), source / "JPEGImages", []
    if form == "yolo":
        return *read_yolo(source, split or "train"), []
    if form == "labelme":
        coco, lost = read_labelme(source)
        return coco, source, lost
    if form == "open_images":
        if images is None:
            raise UserError(f"{source}: its boxes are shares of the images, whose sizes it does not say; name them with --images")
        coco, lost = read_open_images(source, images, classes)
        return coco, images, lost
    if form == "cvat":
        coco, lost = read_cvat(source)
        return coco, None, lost
    return read_cityscapes(source) if form == "cityscapes" else read_lvis(source), None, []


def _write(coco: dict[str, Any], target: Path, into: str, split: str) -> list[str]:
    """What the format did not carry."""
    from boxwood.data.formats.voc import write_voc
    from boxwood.data.formats.yolo import write_yolo
    from boxwood.files import write_text

    if into == "coco":
        write_text(target, json.dumps(coco, ensure_ascii=False) + "\n")
        return []
    return write_voc(coco, target, split) if into == "voc" else write_yolo(coco, target, split)
