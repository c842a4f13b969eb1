"""boxwood demo: everything once, in minutes, without a network."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from boxwood.cli.arguments import overrides_argument
from boxwood.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from boxwood.data import Dataset
    from boxwood.inference.predictor import Predictor

__all__ = ["demo"]

logger = logging.getLogger(__name__)

TRAIN_PICTURES, VAL_PICTURES = 800, 100
DRAWN = 12


@click.command(short_help="Everything once, on generated pictures: train, score, draw.")
@overrides_argument
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, metavar="DIR")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the pictures and of the training.")
def demo(overrides: tuple[str, ...], out: Path, seed: int) -> None:
    """Generate pictures, train a small Mask R-CNN on them, score it on unseen ones, and draw what it sees.

    Run again on the same DIR, it goes on where it was stopped. KEY=VALUE changes the recipe demo_shapes.
    """
    from boxwood.cli.eval import write_results
    from boxwood.data.synthetic.shapes import write_shapes
    from boxwood.evaluation import CocoEvaluator
    from boxwood.evaluation.results import read_results
    from boxwood.files import write_whole
    from boxwood.inference.predictor import load
    from boxwood.recipes import resolve
    from boxwood.training.loop import train

    data, run, pictures = out / "data", out / "run", out / "pictures"
    paths = [
        f"data.{split}.{key}={data / split}{end}"
        for split in ("train", "val")
        for key, end in (("annotations", ".json"), ("images", ""))
    ]
    config = resolve("demo_shapes", [*paths, f"train.seed={seed}", *overrides])

    _check_folder(out)
    resume = any((run / "checkpoints").glob("*.pt"))
    if not resume:
        logger.info("writing %d pictures to learn from and %d unseen ones to %s", TRAIN_PICTURES, VAL_PICTURES, data)
        write_shapes(data, train=TRAIN_PICTURES, val=VAL_PICTURES, seed=seed)
    metrics = train(config, run, resume)

    val_set, predictor = config.data.val.open(), load(run)
    drawn = [_beside_truth(val_set, index, predictor) for index in range(min(DRAWN, len(val_set)))]
    for number, picture in enumerate(drawn):
        write_whole(pictures / f"{number:02d}.png", partial(picture.save, format="PNG"))

    coco, folder = val_set.to_coco(), run / "eval"
    evaluator = CocoEvaluator(coco, val_set.categories)
    sizes = {image["id"]: (image["height"], image["width"]) for image in coco["images"]}
    evaluator.results, _ = read_results(folder / "detections.json", val_set.categories, sizes)
    click.echo()
    about = f"{len(val_set)} unseen pictures"
    write_results(evaluator, metrics, config, val_set.categories, val_set, coco, about, folder, keep=False)
    click.echo(
        f"Look at {pictures} (the truth on the left, the detector on the right), then try your own pictures: "
        "boxwood train mask_rcnn_mobilenetv2_fpn --help"
    )


def _check_folder(out: Path) -> None:
    """Raise `UserError` where ``out`` holds anything that no demo wrote: it might be overwritten."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder with --out")
    others = [path.name for path in out.glob("*") if path.name not in {"data", "run", "pictures"}]
    if others:
        raise UserError(f"{out}: holds other things than a demo ({sorted(others)[0]}); name a new folder with --out")


def _beside_truth(dataset: Dataset, index: int, predictor: Predictor) -> Image.Image:
    """A picture with its true instances, beside the same picture with the detected ones."""
    from boxwood.drawing import side_by_side
    from boxwood.inference.records import draw_records

    sample = dataset[index]
    truth = [annotation for annotation in dataset.to_coco()["annotations"] if annotation["image_id"] == sample.image_id]
    drawn = draw_records(sample.image, truth, dataset.categories, with_keypoints=False)  # which the demo's detector does not learn
    return side_by_side([drawn, predictor(sample.image).draw(sample.image)], ["truth", "detected"])
