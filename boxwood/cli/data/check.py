"""boxwood data check."""

from __future__ import annotations

from pathlib import Path

import click

from boxwood.cli.arguments import imports_option, overrides_argument

__all__ = ["check"]


@click.command()
@click.argument("source", metavar="FOLDER|ANNOTATIONS|CONFIG")
@overrides_argument
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR", help="The folder of the pictures of ANNOTATIONS.")
@click.option("--decode", is_flag=True, help="Decode every image, not only its header.")
@click.option("--no-exif", is_flag=True, help="ANNOTATIONS were made without EXIF orientation.")
@click.option(
    "--fix",
    type=click.Path(path_type=Path),
    metavar="OUT.json",
    help="Write a copy of ANNOTATIONS without faults, in COCO's format.",
)
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
    """Find what is wrong in a data set; exit status 1 where there are faults.

    It takes a folder of labelled images, of which train, valid and test are found; annotations of any format that is read (see
    boxwood data convert --help), such as a COCO .json or YOLO's data.yaml; or a CONFIG.

    Each kind of fault is one line: how many, the first examples, and whether training repairs it ("repaired") or stops
    ("refused"). "look" is allowed but rarely intended, or written in another way than COCO's and read as it is meant; alone it
    gives exit status 0. --fix repairs also files whose rows cannot be read, and says how much it changed. Images that are in two
    sets are named; of a CONFIG also boxes that are tiny in the network's input.

    \b
      boxwood data check photos
      boxwood data check train.json --images photos
      boxwood data check train.json --images photos --fix repaired.json
      boxwood data check mask_rcnn_r50_fpn_1x data.train.annotations=train.json data.train.images=photos ...
    """
    from boxwood.library.check import check_files, check_repairable, repair

    if fix is not None:
        check_repairable(source, images)
    num_faults = 0
    for file in check_files(source, overrides, images=images, decode=decode, exif=not no_exif, repairing=fix is not None):
        click.echo(f"{file.path}: {file.overview}".rstrip())
        for finding in file.findings:
            click.echo(f"  {finding.verdict}: {finding}")
        if not file.findings:
            click.echo("  nothing wrong")
        num_faults += file.num_faults
    if fix is not None:
        done = repair(source, fix, images=images, exif=not no_exif)
        click.echo(f"{fix}: {', '.join(done) if done else 'nothing had to be repaired'}")
    if num_faults:
        context.exit(1)
