"""boxwood data convert."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["convert"]

READ = (
    "coco",
    "cityscapes",
    "cvat",
    "hico",
    "label_studio",
    "labelme",
    "lvis",
    "open_images",
    "tensorflow_csv",
    "vcoco",
    "voc",
    "webdataset",
    "yolo",
)
WRITTEN = ("coco", "hico", "vcoco", "voc", "webdataset", "yolo")


@click.command()
@click.argument("origin", metavar="A", type=click.Path(path_type=Path))
@click.argument("target", metavar="B", type=click.Path(path_type=Path))
@click.option("--from", "form", type=click.Choice(READ), help="The format of A; recognised by default.")
@click.option("--to", "into", type=click.Choice(WRITTEN), help="The format of B; coco by default where B is a .json.")
@click.option("--split", metavar="NAME", help="Which part: a file of VOC's ImageSets/Main, YOLO's train, val or test, a subset.")
@click.option(
    "--images", type=click.Path(path_type=Path), metavar="DIR", help="Their images, which Open Images and WebDataset need."
)
@click.option("--classes", type=click.Path(path_type=Path), metavar="FILE.csv", help="The names of classes, of Open Images.")
@click.option("--instances", type=click.Path(path_type=Path), metavar="FILE.json", help="The COCO file of V-COCO's images.")
def convert(
    origin: Path,
    target: Path,
    form: str | None,
    into: str | None,
    split: str | None,
    images: Path | None,
    classes: Path | None,
    instances: Path | None,
) -> None:
    """Write the annotations A in another format, as B. Pictures stay where they are; WebDataset's layout has copies.

    \b
      COCO        a .json file
      VOC         a folder with Annotations/*.xml, or with *.xml beside pictures (LabelImg, Roboflow); --split trainval takes
                  those of ImageSets/Main/trainval.txt, or of the folder trainval
      YOLO        a data.yaml, with text files in labels/ beside images/ (B: a folder); --split train by default
      V-COCO      a vcoco_test.json, and with --instances the COCO file of its images (B: a folder, --to vcoco --split test);
                  MIT licence, COCO's annotations CC BY 4.0
      HICO-DET    the folder of anno.mat and anno_bbox.mat; --split train or test, both by default (B: a folder, --to hico);
                  its images and annotations come without a clear licence: for research
      WebDataset  tar files, or a folder of them, with KEY.jpg and KEY.json of each image (B: a folder)
      only read:
      Cityscapes  a part of gtFine, such as gtFine/train
      CVAT        an annotations.xml ("CVAT for images 1.1")
      LabelMe     a folder of its .json files, or of X-AnyLabeling's
      Label Studio  an export in its format JSON (a list of tasks)
      LVIS        a .json file, with --from lvis: the names of images are taken from their URLs
      Open Images a table of boxes (.csv), with --images and --classes class-descriptions-boxable.csv
      TensorFlow  a table of boxes (.csv) with the columns filename,width,height,class,xmin,ymin,xmax,ymax

    \b
      boxwood data convert VOCdevkit/VOC2007 trainval.json --split trainval
      boxwood data convert yolo/data.yaml val.json --split val
      boxwood data convert train.json yolo --to yolo --split train
      boxwood data convert train.json shards --to webdataset --images photos
    """
    from boxwood.data.formats.convert import convert as run

    done = run(origin, into, target, source_format=form, split=split, images=images, classes=classes, instances=instances)
    click.echo(
        f"{target}: {done.num_images:,} images, {done.num_instances:,} instances and {done.num_crowds:,} crowd regions "
        f"of {done.num_classes} classes"
    )
    if done.pictures is not None:
        click.echo(f"the pictures are in {done.pictures}")
    if done.not_carried:
        click.echo(f"not carried: {', '.join(done.not_carried)}")
