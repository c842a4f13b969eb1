"""boxwood data check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from boxwood.cli.arguments import imports_option, overrides_argument
from boxwood.errors import UserError

if TYPE_CHECKING:
    from boxwood.data.checks import Finding
    from boxwood.data.coco_file import CocoFile

__all__ = ["check"]


@click.command()
@click.argument("source", metavar="CONFIG|ANNOTATIONS.json")
@overrides_argument
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR", help="The image folder, with ANNOTATIONS.json.")
@click.option("--decode", is_flag=True, help="Decode every image, not only its header.")
@click.option("--no-exif", is_flag=True, help="The annotations were made without EXIF orientation, with ANNOTATIONS.json.")
@imports_option
@click.pass_context
def check(
    context: click.Context, source: str, overrides: tuple[str, ...], images: Path | None, decode: bool, no_exif: bool
) -> None:
    """Find what is wrong in a data set; exit status 1 where anything is.

    Each kind of fault is one line: how many, the first examples, and whether training repairs it ("repaired") or stops ("refused").

    \b
      boxwood data check train.json --images photos
      boxwood data check mask_rcnn_r50_fpn_1x data.train.annotations=train.json data.train.images=photos ...
    """
    from boxwood.cli.data.sources import coco_parts, overview
    from boxwood.data.checks import check_same_categories
    from boxwood.data.coco_file import read_coco_file

    faults = 0
    for path, folder, exif in _sources(source, overrides, images, exif=not no_exif):
        file = read_coco_file(path)
        click.echo(f"{path}: {overview(file)}")
        findings = _findings(file, folder, exif, decode)
        faults += len(findings)
        for finding in findings:
            click.echo(f"  {'refused' if finding.refused else 'repaired'}: {finding}")
        if not findings:
            click.echo("  nothing wrong")
    if not source.endswith(".json"):
        check_same_categories(*(part.open().categories for part in coco_parts(source, overrides)))
    if faults:
        context.exit(1)


def _sources(source: str, overrides: tuple[str, ...], images: Path | None, exif: bool) -> list[tuple[str, str, bool]]:
    """Annotation file, image folder and EXIF switch of each data set that is named."""
    if source.endswith(".json"):
        if overrides:
            raise UserError(f"'{overrides[0]}': key=value goes with a configuration, not with an annotation file")
        return [(source, "" if images is None else str(images), exif)]
    from boxwood.cli.data.sources import coco_parts

    return [(part.annotations, part.images, part.exif) for part in coco_parts(source, overrides)]


def _findings(file: CocoFile, folder: str, exif: bool, decode: bool) -> list[Finding]:
    from boxwood.data import checks

    if not folder:
        raise UserError(f"--images: name the folder in which the images of {file.path} lie")
    missing = checks.check_images(file, folder)
    if wrong := checks.check_identities(file):
        return [*wrong, *missing]  # The other checks rely on every annotation having its image.
    _, boxes = checks.check_boxes(file)
    _, masks = checks.check_masks(file)
    if not missing:
        missing = checks.check_pixels(file, folder, exif=exif, decode=decode)
    return [*boxes, *masks, *checks.check_run_lengths(file), *missing]
