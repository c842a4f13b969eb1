"""`boxwood demo`: generated pictures, a small Mask R-CNN trained on them, its AP and its detections drawn; no network is needed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from boxwood.data import Dataset
from boxwood.data.synthetic.shapes import write_shapes
from boxwood.distributed import choose_device
from boxwood.drawing import side_by_side
from boxwood.errors import UserError
from boxwood.evaluation import CocoEvaluator
from boxwood.evaluation.results import read_results
from boxwood.files import write_whole
from boxwood.inference.evaluate import Evaluation
from boxwood.inference.predictor import Predictor, load
from boxwood.inference.records import draw_records
from boxwood.recipes import resolve
from boxwood.training.loop import train
from boxwood.training.preflight import cpu_has_bf16

__all__ = ["demo"]

logger = logging.getLogger(__name__)

TRAIN_PICTURES, VAL_PICTURES = 1600, 100
DRAWN = 12
"""Pictures of the val set that are drawn."""


def demo(out: str | Path = "demo", overrides: Sequence[str] = (), *, seed: int = 0) -> Evaluation:
    """Generate pictures, train a small Mask R-CNN on them, evaluate it on unseen ones, and draw its detections.

    Everything is written to the folder ``out``: ``data/``, the run in ``run/``, its report in ``run/eval/``, and ``pictures/``. A
    second call with the same ``out`` resumes the first. ``overrides`` (``key=value``) change the recipe ``demo_shapes``, ``seed``
    changes the pictures and the training. A CPU with instructions for bf16 trains in bf16. Raises `UserError` where ``out`` holds
    anything else than a demo.
    """
    out = Path(out)
    data, run, pictures = out / "data", out / "run", out / "pictures"
    paths = [
        f"data.{split}.{key}={data / split}{end}"
        for split in ("train", "val")
        for key, end in (("annotations", ".json"), ("images", ""))
    ]
    settings = [*paths, f"train.seed={seed}", *overrides]
    config = resolve("demo_shapes", settings)
    if cpu_has_bf16() and choose_device(config.train.device).type == "cpu":
        config = resolve("demo_shapes", ["train.precision=bf16", *settings])

    _check_folder(out)
    resume = any((run / "checkpoints").glob("*.pt"))
    if not resume:
        logger.info("writing %d pictures to train on and %d to evaluate on to %s", TRAIN_PICTURES, VAL_PICTURES, data)
        write_shapes(data, train=TRAIN_PICTURES, val=VAL_PICTURES, seed=seed, workers=config.data.workers)
    metrics = train(config, run, resume)

    val_set, predictor = config.data.val.open(), load(run)
    drawn = [_beside_truth(val_set, index, predictor) for index in range(min(DRAWN, len(val_set)))]
    for number, picture in enumerate(drawn):
        write_whole(pictures / f"{number:02d}.png", partial(picture.save, format="PNG"))

    # The last evaluation of training has the detections; with them the report is made.
    coco, folder = val_set.to_coco(), run / "eval"
    evaluator = CocoEvaluator(coco, val_set.categories)
    sizes = {image["id"]: (image["height"], image["width"]) for image in coco["images"]}
    evaluator.results, _ = read_results(folder / "detections.json", val_set.categories, sizes)
    about = f"{len(val_set)} unseen pictures"
    result = Evaluation(metrics, about, config.model.title, val_set.categories, val_set, coco, evaluator, detections_are_new=False)
    result.add_analysis()
    result.save(folder)
    return result


# ------------------------------------------------------------------------------------------------------------ internals


def _check_folder(out: Path) -> None:
    """Raise `UserError` where ``out`` holds anything that no demo wrote: it might be overwritten."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder with --out")
    others = [path.name for path in out.glob("*") if path.name not in {"data", "run", "pictures"}]
    if others:
        raise UserError(f"{out}: holds other things than a demo ({sorted(others)[0]}); name a new folder with --out")


def _beside_truth(dataset: Dataset, index: int, predictor: Predictor) -> Image.Image:
    """A picture with its ground truth, beside the same picture with the detections."""
    sample = dataset[index]
    truth = [annotation for annotation in dataset.to_coco()["annotations"] if annotation["image_id"] == sample.image_id]
    # The demo's detector has no keypoints.
    drawn = draw_records(sample.image, truth, dataset.categories, with_keypoints=False)
    return side_by_side([drawn, predictor(sample.image).draw(sample.image)], ["truth", "detected"])
