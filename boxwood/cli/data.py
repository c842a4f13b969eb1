"""boxwood data: look at a data set before it is trained on, or generate one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boxwood.cli.arguments import config_argument, imports_option, overrides_argument
from boxwood.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from boxwood.data.checks import Finding
    from boxwood.data.coco_file import CocoFile
    from boxwood.run import RunConfig
    from boxwood.structures import Batch, Categories

__all__ = ["data"]


@click.group()
def data() -> None:
    """Check a data set, count what is in it, look at its training samples, or generate one."""


@data.command()
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
    from boxwood.data.coco_file import read_coco_file

    faults = 0
    for path, folder, exif in _sources(source, overrides, images, exif=not no_exif):
        file = read_coco_file(path)
        click.echo(f"{path}: {_overview(file)}")
        findings = _findings(file, folder, exif, decode)
        faults += len(findings)
        for finding in findings:
            click.echo(f"  {'refused' if finding.refused else 'repaired'}: {finding}")
        if not findings:
            click.echo("  nothing wrong")
    if not source.endswith(".json"):
        _check_categories(source, overrides)
    if faults:
        context.exit(1)


@data.command()
@click.argument("source", metavar="CONFIG|ANNOTATIONS.json")
@overrides_argument
@imports_option
def stats(source: str, overrides: tuple[str, ...]) -> None:
    """Count classes, boxes and their sizes, and images without annotations."""
    from boxwood.data.coco_file import read_coco_file

    files = [Path(source)] if source.endswith(".json") else [path for path, _, _ in _sources(source, overrides, None, True)]
    for path in files:
        click.echo("\n".join(_statistics(read_coco_file(path))))


@data.command()
@config_argument
@overrides_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where the pictures go.")
@click.option("--count", type=click.IntRange(min=1), default=16, show_default=True, help="How many pictures.")
@imports_option
def show(config: str, overrides: tuple[str, ...], out: Path, count: int) -> None:
    """Draw the first training samples as the network will see them: scaled, flipped, with the boxes and masks it learns from."""
    from boxwood.data.loader import train_batches
    from boxwood.files import write_whole
    from boxwood.recipes import resolve

    run = resolve(config, overrides)
    train_set = run.data.train.open()
    batches = train_batches(
        train_set,
        run.data.train.transforms,
        batch_size=run.train.batch_size // run.train.accumulate,
        seed=run.train.seed,
        workers=0,
        aspect_grouping=run.data.aspect_grouping,
    )
    written = 0
    for batch in batches:
        for position in range(min(len(batch), count - written)):
            name = Path(batch.file_names[position]).stem
            picture = _drawn(batch, position, train_set.categories)
            write_whole(out / f"{written:03d}-{name}.png", partial(picture.save, format="PNG"))
            written += 1
        if written == count:
            break
    click.echo(f"{written} pictures in {out}")


@data.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where the data set goes.")
@click.option("--train", type=click.IntRange(min=1), default=600, show_default=True, help="Pictures to train on.")
@click.option("--val", type=click.IntRange(min=1), default=100, show_default=True, help="Pictures to evaluate on.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed gives other pictures.")
def shapes(out: Path, train: int, val: int, seed: int) -> None:
    """Generate pictures of textured shapes in COCO's format, with boxes, masks and keypoints: a data set without a download."""
    from boxwood.data.shapes import write_shapes

    write_shapes(out, train=train, val=val, seed=seed)
    click.echo(f"{train} pictures in {out / 'train'} with {out / 'train.json'}, {val} in {out / 'val'} with {out / 'val.json'}")


# ----------------------------------------------------------------------------------------------------------- checking


def _sources(source: str, overrides: tuple[str, ...], images: Path | None, exif: bool) -> list[tuple[str, str, bool]]:
    """Annotation file, image folder and EXIF switch of each data set that is named."""
    if source.endswith(".json"):
        if overrides:
            raise UserError(f"'{overrides[0]}': key=value goes with a configuration, not with an annotation file")
        return [(source, "" if images is None else str(images), exif)]
    return [(part.annotations, part.images, part.exif) for part in _coco_parts(source, overrides)]


def _coco_parts(source: str, overrides: tuple[str, ...]) -> list[Any]:
    from boxwood.data import CocoConfig

    run = _resolved(source, overrides)
    for name, part in (("train", run.data.train), ("val", run.data.val)):
        if not isinstance(part, CocoConfig):
            raise UserError(f"data.{name} is of kind '{part.kind()}'; only data sets in COCO's format are checked and counted")
    return [run.data.train, run.data.val]


def _resolved(source: str, overrides: tuple[str, ...]) -> RunConfig:
    from boxwood.recipes import resolve

    return resolve(source, overrides)


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


def _check_categories(source: str, overrides: tuple[str, ...]) -> None:
    from boxwood.data.checks import check_same_categories

    train, val = (part.open().categories for part in _coco_parts(source, overrides))
    check_same_categories(train, val)


# ----------------------------------------------------------------------------------------------------------- counting


def _overview(file: CocoFile) -> str:
    images, annotations, classes = len(file.image_ids), len(file.ids), len(file.categories)
    return f"{images:,} images, {annotations:,} annotations, {classes:,} classes"


def _statistics(file: CocoFile) -> list[str]:
    import numpy as np

    empty = len(file.image_ids) - len(np.unique(file.image_rows[file.image_rows >= 0]))
    heights, widths = file.image_sizes.T
    sides = np.sqrt(np.clip(file.boxes[:, 2] * file.boxes[:, 3], 0, None))
    bounds = ("small (< 32 px)", sides < 32), ("medium", (sides >= 32) & (sides < 96)), ("large (>= 96 px)", sides >= 96)
    lines = [
        f"{file.path}: {_overview(file)}",
        f"  images without annotations: {empty:,}",
        f"  image sizes: {widths.min()}-{widths.max()} x {heights.min()}-{heights.max()}, median {np.median(widths):.0f} x "
        f"{np.median(heights):.0f}",
        "  boxes by the root of their area: " + ", ".join(f"{name} {int(chosen.sum()):,}" for name, chosen in bounds),
        f"  crowd regions: {int(file.crowd.sum()):,}, masks: {int((file.mask_kinds > 0).sum()):,}, "
        f"with keypoints: {int((file.keypoint_rows >= 0).sum()):,}",
        f"  {'id':>8}  {'boxes':>9}  {'images':>8}  {'smallest':>8}  {'median':>8}  {'largest':>8}  class",
    ]
    for category in sorted(file.categories, key=lambda row: int(row["id"])):
        chosen = file.category_ids == category["id"]
        images = len(np.unique(file.annotation_image_ids[chosen]))
        cells = (
            "  ".join(f"{q:8.1f}" for q in np.quantile(sides[chosen], (0, 0.5, 1)))
            if chosen.any()
            else "  ".join([f"{'-':>8}"] * 3)
        )
        lines.append(f"  {category['id']:>8}  {int(chosen.sum()):>9,}  {images:>8,}  {cells}  {category['name']}")
    return lines


# ------------------------------------------------------------------------------------------------------------ drawing


def _drawn(batch: Batch, position: int, categories: Categories) -> Image.Image:
    """One image of a batch without its padding, with its target; regions to ignore have a colour after the classes'."""
    import numpy as np

    from boxwood.drawing import draw_instances
    from boxwood.ops.masks import paste_masks

    assert batch.targets is not None
    target = batch.targets[position]
    height, width = batch.sizes[position].tolist()
    labels = target.labels.tolist()
    masks = None
    if target.masks is not None:
        pasted = paste_masks(target.masks.bitmaps.float(), target.masks.boxes, (height, width))
        masks = np.concatenate([pasted.numpy(), np.zeros((len(target.ignore), height, width), dtype=np.bool_)])
    keypoints = None
    if target.keypoints is not None:
        num_keypoints = target.keypoints.shape[1]
        keypoints = np.concatenate([target.keypoints.numpy(), np.zeros((len(target.ignore), num_keypoints, 3), dtype=np.float32)])
    return draw_instances(
        batch.images[position, :, :height, :width],
        boxes=np.concatenate([target.boxes.numpy(), target.ignore.numpy()]),
        labels=[*labels, *[len(categories)] * len(target.ignore)],
        names=[*(categories.names[label] for label in labels), *["ignored"] * len(target.ignore)],
        masks=masks,
        keypoints=keypoints,
        skeleton=() if categories.keypoints is None else categories.keypoints.skeleton,
    )
