"""boxwood data show."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from boxwood.cli.arguments import config_argument, imports_option, overrides_argument
from boxwood.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from boxwood.run_config import RunConfig
    from boxwood.structures import Batch, Categories

__all__ = ["show"]


@click.command()
@config_argument
@overrides_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where the pictures go.")
@click.option("--count", type=click.IntRange(min=1), default=16, show_default=True, help="How many pictures.")
@click.option("--detections", type=click.Path(path_type=Path), metavar="FILE", help="Draw these, beside the truth of the val set.")
@click.option(
    "--score", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Of detections: draw those from here on."
)
@imports_option
def show(config: str, overrides: tuple[str, ...], out: Path, count: int, detections: Path | None, score: float) -> None:
    """Draw the first training samples as the network will see them: scaled, flipped, with the boxes and masks it learns from.

    With --detections (COCO results, or Detectron's detections.pkl): the first pictures of the val set, its truth on the left, the
    detections on the right.

    \b
      boxwood data show runs/nuts --out seen
      boxwood data show runs/nuts --detections runs/nuts/eval/detections.json --out seen
    """
    from boxwood.files import write_whole
    from boxwood.recipes import resolve

    run = resolve(config, overrides)
    pictures = _training_samples(run) if detections is None else _beside_truth(run, detections, score)
    written = 0
    for name, picture in islice(pictures, count):
        write_whole(out / f"{written:03d}-{name}.png", partial(picture.save, format="PNG"))
        written += 1
    click.echo(f"{written} pictures in {out}")


def _training_samples(run: RunConfig) -> Iterator[tuple[str, Image.Image]]:
    """The name and the picture of each sample, in the order of training."""
    from boxwood.data.loader import train_batches

    train_set = run.data.train.open()
    batches = train_batches(
        train_set,
        run.data.train.transforms,
        batch_size=run.train.batch_size // run.train.accumulate,
        seed=run.train.seed,
        workers=0,
        aspect_grouping=run.data.aspect_grouping,
    )
    for batch in batches:
        for position in range(len(batch)):
            yield Path(batch.file_names[position]).stem, _drawn(batch, position, train_set.categories)


def _beside_truth(run: RunConfig, path: Path, score: float) -> Iterator[tuple[str, Image.Image]]:
    """The pictures of the val set in its order, twice: with the truth, and with the detections of a file."""
    from boxwood.drawing import side_by_side
    from boxwood.evaluation.results import read_results
    from boxwood.inference.records import draw_records

    if run.model.class_agnostic:
        raise UserError(f"{path}: {run.model.title} finds boxes without classes, of which a picture has a thousand; none are drawn")
    val_set = run.data.val.open()
    truth = val_set.to_coco()
    results, tasks = read_results(
        path, val_set.categories, {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    )
    for index in range(len(val_set)):
        sample = val_set[index]
        found = results[sample.image_id].records(sample.image_id, val_set.categories.ids) if sample.image_id in results else []
        true = [annotation for annotation in truth["annotations"] if annotation["image_id"] == sample.image_id]
        drawn = [
            draw_records(sample.image, records, val_set.categories, with_keypoints="keypoints" in tasks)
            for records in (true, [record for record in found if record["score"] >= score])
        ]
        yield Path(sample.file_name).stem, side_by_side(drawn, ["truth", "detected"])


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
