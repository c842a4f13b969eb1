"""boxwood data proposals."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["proposals"]


@click.command()
@click.argument("boxes", metavar="FILE.mat", type=click.Path(path_type=Path))
@click.option("--annotations", type=click.Path(path_type=Path), required=True, metavar="FILE.json", help="The images' COCO file.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE.safetensors")
def proposals(boxes: Path, annotations: Path, out: Path) -> None:
    """Write selective search's boxes (MATLAB) as a file of proposals, which Fast R-CNN trains on.

    \b
      boxwood data proposals voc_2007_trainval.mat --annotations voc_2007_trainval.json --out trainval.safetensors
      boxwood train fast_rcnn_r50_c4_1x data.train.proposals=trainval.safetensors ...
    """
    from boxwood.library.imports import import_proposals

    num_boxes, num_images = import_proposals(boxes, annotations, out)
    click.echo(f"{out}: {num_boxes:,} boxes of {num_images:,} images")
