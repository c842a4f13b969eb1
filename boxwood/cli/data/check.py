"""boxwood data check."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from boxwood.cli.arguments import imports_option, overrides_argument
from boxwood.errors import UserError

if TYPE_CHECKING:
    from boxwood.data import CocoConfig
    from boxwood.data.coco_file import CocoFile
    from boxwood.data.quality.checks import Finding

__all__ = ["check"]


@click.command()
@click.argument("source", metavar="CONFIG|ANNOTATIONS.json")
@overrides_argument
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR", help="The image folder, with ANNOTATIONS.json.")
@click.option("--decode", is_flag=True, help="Decode every image, not only its header.")
@click.option("--no-exif", is_flag=True, help="The annotations were made without EXIF orientation, with ANNOTATIONS.json.")
@click.option("--fix", type=click.Path(path_type=Path), metavar="OUT.json", help="Write a copy of ANNOTATIONS.json without faults.")
@imports_option
@click.pass_context
def check(
    context: click.Context,
    source: str,
    overrides: tuple[str, ...],
    images: Path | None,
    decode: bool,
    no_exif: bool,
    fix: Path | None,
) -> None:
    """Find what is wrong in a data set; exit status 1 where anything is.

    Each kind of fault is one line: how many, the first examples, and whether training repairs it ("repaired"), stops ("refused"),
    or takes it as it is, which is seldom meant ("look", which alone leaves with 0). Of a CONFIG both sets are checked, and whether
    boxes are tiny in its images, or images are in both.

    \b
      boxwood data check train.json --images photos
      boxwood data check train.json --images photos --fix repaired.json
      boxwood data check mask_rcnn_r50_fpn_1x data.train.annotations=train.json data.train.images=photos ...
    """
    from boxwood.cli.data.sources import coco_parts, overview
    from boxwood.data.annotations import read_annotations
    from boxwood.data.quality.checks import check_same_categories

    alone = source.endswith(".json")
    if fix is not None and not alone:
        raise UserError("--fix repairs one annotation file; name it, and its --images, in place of a configuration")
    if alone and overrides:
        raise UserError(f"'{overrides[0]}': key=value goes with a configuration, not with an annotation file")
    parts = [] if alone else coco_parts(source, overrides)
    faults = 0
    for part in parts:
        file = read_annotations(part.annotations, part.images, part.split)
        findings = _findings(file, part.images, part.exif, decode)
        faults += _tell(overview(file), file, [*findings, *_sizes(file, part, findings)])
    if alone:
        file = read_annotations(source)
        faults = _tell(overview(file), file, _findings(file, "" if images is None else str(images), not no_exif, decode))
    else:
        _tell_of_both(parts)
        check_same_categories(*(part.open().categories for part in parts))
    if fix is not None:
        _fix(source, images, not no_exif, fix)
    if faults:
        context.exit(1)


def _tell(what: str, file: CocoFile, findings: Sequence[Finding]) -> int:
    """Print the findings of a file; returns how many are faults."""
    click.echo(f"{file.path}: {what}")
    for finding in findings:
        click.echo(f"  {finding.verdict}: {finding}")
    if not findings:
        click.echo("  nothing wrong")
    return sum(not finding.look for finding in findings)


def _findings(file: CocoFile, folder: str, exif: bool, decode: bool) -> list[Finding]:
    from boxwood.data.quality import checks
    from boxwood.data.quality import warnings as doctor

    if not folder:
        raise UserError(f"--images: name the folder in which the images of {file.path} lie")
    missing = checks.check_images(file, folder)
    if wrong := checks.check_identities(file):
        return [*wrong, *missing]  # The other checks rely on every annotation having its image.
    _, boxes = checks.check_boxes(file)
    _, masks = checks.check_masks(file)
    if not missing:
        missing = checks.check_pixels(file, folder, exif=exif, decode=decode)
    return [*boxes, *masks, *checks.check_run_lengths(file), *missing, *doctor.look_at(file)]


def _sizes(file: CocoFile, part: CocoConfig, findings: Sequence[Finding]) -> list[Finding]:
    """Boxes that are tiny at the smallest scale of a configuration."""
    from boxwood.data import ResizeShortestEdge
    from boxwood.data.quality.checks import check_identities
    from boxwood.data.quality.warnings import look_at_sizes

    resizes = [transform for transform in part.transforms if isinstance(transform, ResizeShortestEdge)]
    if not resizes or (findings and check_identities(file)):
        return []
    return look_at_sizes(file, min(resizes[0].short), resizes[0].long)


def _tell_of_both(parts: Sequence[CocoConfig]) -> None:
    from boxwood.data.annotations import read_annotations
    from boxwood.data.quality.warnings import look_at_both

    (train, train_folder), (val, val_folder) = (
        (read_annotations(part.annotations, part.images, part.split), part.images) for part in parts
    )
    for finding in look_at_both(train, train_folder, val, val_folder):
        click.echo(f"train and val:\n  {finding.verdict}: {finding}")


def _fix(source: str, images: Path | None, exif: bool, out: Path) -> None:
    """Write the repaired copy."""
    from boxwood.data.annotations import read_tree
    from boxwood.data.coco_file import coco_file_of
    from boxwood.data.quality.repair import repaired
    from boxwood.files import write_text

    if out.suffix != ".json":
        raise UserError(f"{out}: COCO files are written as .json; name it so")
    if out.exists() and out.samefile(source):
        raise UserError(f"{out}: is the file itself, which stays as it is; name another")
    tree = read_tree(Path(source))
    content, done = repaired(tree, coco_file_of(tree, source), images or "", exif=exif)
    write_text(out, json.dumps(content, ensure_ascii=False) + "\n")
    click.echo(f"{out}: {', '.join(done) if done else 'nothing had to be repaired'}")
