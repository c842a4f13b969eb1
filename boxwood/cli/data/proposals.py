"""boxwood data proposals."""

from __future__ import annotations

from pathlib import Path

import click

from boxwood.errors import UserError

__all__ = ["proposals"]


@click.command()
@click.argument("boxes", metavar="FILE.mat", type=click.Path(path_type=Path))
@click.option("--annotations", type=click.Path(path_type=Path), required=True, metavar="FILE.json", help="The images' COCO file.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE.safetensors")
def proposals(boxes: Path, annotations: Path, out: Path) -> None:
    """Write selective search's boxes (MATLAB) as a file of proposals, from which Fast R-CNN learns.

    \b
      boxwood data proposals voc_2007_trainval.mat --annotations voc_2007_trainval.json --out trainval.safetensors
      boxwood train fast_rcnn_r50_c4_1x data.train.proposals=trainval.safetensors ...
    """
    from boxwood.data.coco_file import read_coco_file
    from boxwood.data.formats.selective_search import read_selective_search
    from boxwood.data.proposals import write_proposals

    if out.suffix != ".safetensors":
        raise UserError(f"{out}: proposals are written as .safetensors; name it so")
    file = read_coco_file(annotations)
    names = {image_id: file.file_name(row) for row, image_id in enumerate(file.image_ids.tolist())}
    ids = sorted(names)
    found = list(read_selective_search(boxes, ids, [names[image_id] for image_id in ids]))
    write_proposals(out, found)
    click.echo(f"{out}: {sum(len(own) for _, own, _ in found):,} boxes of {len(found):,} images")
