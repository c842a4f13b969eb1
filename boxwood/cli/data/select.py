"""boxwood data select."""

from __future__ import annotations

from pathlib import Path

import click

from boxwood.errors import UserError

__all__ = ["select"]


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), required=True, metavar="INFO.json", help="A COCO file; its images stay.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE.json")
def select(results: Path, images: Path, out: Path) -> None:
    """Keep the detections of some images: of COCO's test set those of test-dev, whose server takes no others.

    \b
      boxwood data select test_results.json --images image_info_test-dev2017.json --out test-dev_results.json
    """
    from boxwood.data.coco_file import read_image_ids
    from boxwood.evaluation import save_detections
    from boxwood.evaluation.results import read_records

    if out.suffix != ".json":
        raise UserError(f"{out}: COCO results are written as .json; name it so")
    wanted = read_image_ids(images)
    records = read_records(results)
    chosen = [record for record in records if record["image_id"] in wanted]
    if not chosen and records:
        raise UserError(f"{results}: has no detection in an image of {images}; name the results of these images")
    save_detections(chosen, out)
    seen = len({record["image_id"] for record in chosen})
    click.echo(f"{out}: {len(chosen):,} of {len(records):,} detections, in {seen:,} of {len(wanted):,} images")
