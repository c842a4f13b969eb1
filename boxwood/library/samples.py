"""`boxwood data show`: training samples as the network sees them, or detections beside the ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from boxwood.data.loader import train_batches
from boxwood.drawing import draw_instances, side_by_side
from boxwood.errors import UserError
from boxwood.evaluation.results import read_results
from boxwood.files import write_whole
from boxwood.inference.records import draw_records
from boxwood.library.annotations import run_config
from boxwood.ops.masks import paste_masks
from boxwood.run_config import RunConfig
from boxwood.structures import Batch, Categories

__all__ = ["draw_samples"]


def draw_samples(
    config: str | Path | RunConfig,
    out: str | Path,
    overrides: Sequence[str] = (),
    *,
    count: int = 16,
    detections: str | Path | None = None,
    score: float = 0.5,
) -> list[Path]:
    """Draw the first ``count`` training samples as the network sees them, scaled, flipped and with their targets, to the folder
    ``out``; returns the pictures.

    With ``detections`` (a file of COCO results, or Detectron's ``detections.pkl``) the first images of the val set are drawn
    instead, the ground truth on the left and the detections of at least ``score`` on the right. Raises `UserError` where the
    configuration, the data or the detections cannot be read.
    """
    run = run_config(config, overrides)
    pictures = _training_samples(run) if detections is None else _beside_truth(run, Path(detections), score)
    written: list[Path] = []
    for name, picture in islice(pictures, count):
        path = Path(out) / f"{len(written):03d}-{name}.png"
        write_whole(path, partial(picture.save, format="PNG"))
        written.append(path)
    return written


# ------------------------------------------------------------------------------------------------------------ internals


def _training_samples(run: RunConfig) -> Iterator[tuple[str, Image.Image]]:
    """The name and the picture of each sample, in the order of training."""
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
    """The images of the val set in its order, twice: with the ground truth, and with the detections of a file."""
    if run.model.class_agnostic:
        raise UserError(f"{path}: {run.model.title} finds boxes without classes, of which a picture has a thousand; none are drawn")
    val_set = run.data.val.open()
    truth = val_set.to_coco()
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    results, tasks = read_results(path, val_set.categories, sizes)
    for index in range(len(val_set)):
        sample = val_set[index]
        image_id = sample.image_id
        detected = results[image_id].records(image_id, val_set.categories.ids) if image_id in results else []
        true = [annotation for annotation in truth["annotations"] if annotation["image_id"] == image_id]
        drawn = [
            draw_records(sample.image, records, val_set.categories, with_keypoints="keypoints" in tasks)
            for records in (true, [record for record in detected if record["score"] >= score])
        ]
        yield Path(sample.file_name).stem, side_by_side(drawn, ["truth", "detected"])


def _drawn(batch: Batch, position: int, categories: Categories) -> Image.Image:
    """One image of a batch without its padding, with its target; ignored regions have the colour after the last class."""
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
