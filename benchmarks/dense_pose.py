"""DensePose R-CNN on generated figures: AP by GPS beside what can be had without looking.

    python benchmarks/dense_pose.py                         # three seeds, each about 12 minutes of two cores
    python benchmarks/dense_pose.py --seeds 0 --picture figures.png --json dense_pose.json

For each seed pictures of the figures of ``boxwood data shapes --surface`` are written, 160 pixels a side. In place of a detector
proposals are the true boxes, moved by about a pixel, and a Fast R-CNN on a backbone of four convolutions learns dense pose. The
bounds have the same boxes and the same masks as its detections of unseen pictures, but other surfaces in them:

* chance: a random part, U and V for each pixel of a mask;
* mean surface: for each place in the box the part that training figures show there most often, and the mean of its U and V.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from interactnet import FourConvsConfig
from PIL import Image

import boxwood
from boxwood.data import CocoConfig, DataConfig
from boxwood.data.proposals import write_proposals
from boxwood.data.synthetic.bodies import write_bodies
from boxwood.dense_pose import decode_png, encode_png, stored_planes, surface_layer
from boxwood.evaluation.dense_pose import DensePoseEvaluator
from boxwood.evaluation.measures import DensePoseEvaluatorConfig
from boxwood.evaluation.results import read_results
from boxwood.evaluation.surface import read_surface
from boxwood.files import IMAGE_FORMATS
from boxwood.models import RCNNConfig
from boxwood.models.config import RoIConfig
from boxwood.models.heads import DeepLabDensePoseHeadConfig, TwoFCHeadConfig
from boxwood.models.inference_config import TestConfig
from boxwood.run_config import AdamWConfig, CosineScheduleConfig, RunConfig, TrainConfig

TRAIN, VAL, SIZE = 1500, 100, 160
"""Numbers of pictures, and the side of one."""
STEPS = 2600
COPIES, NEGATIVES = 2, 2
"""Proposals of each true box, and others, of a picture to train on."""
GRID = 16
"""Cells a side of the box, of the mean surface."""

Planes = Any
"""(3, h, w) uint8: part, 255 U, 255 V."""


def chance(planes: Planes, rng: np.random.Generator) -> Planes:
    on_body = planes[0] > 0
    values = np.stack([rng.integers(1, 25, on_body.shape), *rng.integers(0, 256, (2, *on_body.shape))])
    return (values * on_body).astype(np.uint8)


def mean_surface(annotations: list[dict[str, Any]]) -> Callable[[Planes], Planes]:
    """The rule of that name, from the points of annotations."""
    points = np.concatenate(
        [np.stack([a[f"dp_{key}"] for key in ("x", "y", "I", "U", "V")]) for a in annotations if "dp_x" in a], 1
    )
    cells = np.clip(points[:2] * GRID / 256, 0, GRID - 1).astype(int)
    parts, counts = points[2].astype(int), np.zeros((GRID, GRID, 25))
    np.add.at(counts, (cells[1], cells[0], parts), 1)
    # A cell without points has the part that is most frequent around it.
    spread = counts + 1e-3 * np.sum([np.roll(counts, (dy, dx), (0, 1)) for dy in range(-3, 4) for dx in range(-3, 4)], axis=0)
    best = spread[..., 1:].argmax(axis=2) + 1
    sums = np.zeros((2, GRID, GRID, 25))
    for axis in (0, 1):
        np.add.at(sums[axis], (cells[1], cells[0], parts), points[3 + axis])
    means = np.where(counts > 0, sums / np.maximum(counts, 1), 0.5)
    uv = np.take_along_axis(means, best[None, ..., None], axis=3)[..., 0]
    table = np.concatenate([best[None], np.floor(255 * uv)])

    def rule(planes: Planes) -> Planes:
        rows, columns = (np.arange(side) * GRID // side for side in planes.shape[1:])
        return (table[:, rows[:, None], columns] * (planes[0] > 0)).astype(np.uint8)

    return rule


def write_data(folder: Path, seed: int) -> None:
    """Pictures, and proposals beside them: the true boxes, moved by about a pixel."""
    write_bodies(folder, train=TRAIN, val=VAL, seed=seed, size=(SIZE, SIZE))
    for split, name in enumerate(("train", "val")):
        tree, rng = json.loads((folder / f"{name}.json").read_text()), np.random.default_rng([seed, split])
        rows: dict[int, list[Any]] = {image["id"]: [np.zeros((0, 4))] for image in tree["images"]}
        for annotation in tree["annotations"]:
            x, y, w, h = annotation["bbox"]
            copies = COPIES if name == "train" else 1
            rows[annotation["image_id"]].append(np.array([x, y, x + w, y + h]) + rng.normal(0, 1, (copies, 4)))
        for image in rows if name == "train" else ():
            corners, sides = rng.uniform(0, SIZE - 24, (NEGATIVES, 2)), rng.uniform(16, 60, (NEGATIVES, 2))
            rows[image].append(np.concatenate([corners, corners + sides], axis=1))
        boxes = ((image, np.concatenate(of_image).clip(0, SIZE).astype(np.float32)) for image, of_image in rows.items())
        write_proposals(folder / f"{name}.safetensors", [(image, table, np.ones(len(table))) for image, table in boxes])


def configuration(folder: Path, seed: int, steps: int) -> RunConfig:
    """A training."""
    sets = {
        name: CocoConfig(
            annotations=str(folder / f"{name}.json"),
            images=str(folder / name),
            proposals=str(folder / f"{name}.safetensors"),
            transforms=(),
        )
        for name in ("train", "val")
    }
    return RunConfig(
        model=RCNNConfig(
            backbone=FourConvsConfig(width=64),
            fpn=None,
            rpn=None,
            rois=RoIConfig(samples_per_image=3, positive_fraction=0.67),
            box_head=TwoFCHeadConfig(width=128),
            dense_pose_head=DeepLabDensePoseHeadConfig(
                decoder=False, convs=2, width=64, dilations=(2, 4), resolution=24, coarse_weight=2.0, uv_weight=0.02
            ),
        ),
        data=DataConfig(train=sets["train"], val=sets["val"], workers=0),
        optim=AdamWConfig(lr=4e-3, reference_batch_size=8, schedule=CosineScheduleConfig(), warmup_steps=20, clip_norm=5.0),
        train=TrainConfig(
            steps=steps, batch_size=8, seed=seed, device="cpu", eval_every=0, checkpoint_every=steps, log_every=max(1, steps // 20)
        ),
        test=TestConfig(score_threshold=0.05, detections_per_image=20),
        evaluator=DensePoseEvaluatorConfig(surface=str(folder / "body.npz")),
    )


def measured(folder: Path, run: Path, config: RunConfig, change: Callable[[Planes], Planes] | None) -> dict[str, float]:
    """GPS and GPSm of the run's detections, whose surfaces ``change`` replaces."""
    val_set = config.data.val.open()
    truth = val_set.to_coco()
    evaluator = DensePoseEvaluator(truth, val_set.categories, read_surface(folder / "body.npz"))
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    evaluator.results, _ = read_results(run / "eval" / "detections.json", val_set.categories, sizes)
    for detections in evaluator.results.values():
        for record in (detections.others or []) if change is not None else []:
            assert change is not None
            record["uv_data"] = encode_png(change(decode_png(record["uv_data"], record["uv_shape"])))
    metrics = evaluator.compute()
    return {name: round(100 * metrics[name]["AP"], 1) for name in ("dense_pose", "dense_pose_gpsm", "dense_pose_iou", "bbox")}


def drawn(folder: Path, run: Path, number: int = 4, scale: int = 2) -> Image.Image:
    """The first pictures of the val set, enlarged, and below each the detections that score 0.5 and more."""
    records = [record for record in json.loads((run / "eval" / "detections.json").read_text()) if record["score"] >= 0.5]
    side = scale * SIZE
    sheet = Image.new("RGB", (number * side, 2 * side))
    for column in range(number):
        with Image.open(folder / "val" / f"{column:06d}.jpg", formats=IMAGE_FORMATS) as small:
            picture = small.resize((side, side), Image.Resampling.BICUBIC)
        sheet.paste(picture, (column * side, 0))
        for record in (record for record in records if record["image_id"] == column + 1):
            planes = [Image.fromarray(plane) for plane in stored_planes(record, record["bbox"])]
            size = (scale * planes[0].width, scale * planes[0].height)
            parts = np.asarray(planes[0].resize(size, Image.Resampling.NEAREST))
            u, v = (np.asarray(plane.resize(size, Image.Resampling.BILINEAR)) / np.float32(255) for plane in planes[1:])
            layer = surface_layer(parts, u, v).convert("RGBA")
            picture.paste(layer, tuple(scale * int(corner) for corner in record["bbox"][:2]), layer)
        sheet.paste(picture, (column * side, side))
    return sheet


def trained(folder: Path, seed: int, steps: int, picture: Path | None) -> dict[str, Any]:
    write_data(folder, seed)
    config, run = configuration(folder, seed, steps), folder / "run"
    start = time.perf_counter()
    boxwood.train(config, run)
    seconds = time.perf_counter() - start
    if picture is not None:
        drawn(folder, run).save(picture)
    rng, mean = np.random.default_rng(seed), mean_surface(json.loads((folder / "train.json").read_text())["annotations"])
    return {
        "seed": seed,
        "minutes": round(seconds / 60, 1),
        "DensePose R-CNN": measured(folder, run, config, None),
        "mean surface": measured(folder, run, config, mean),
        "chance": measured(folder, run, config, lambda planes: chance(planes, rng)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw some detections of the last seed")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    rows = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(trained(Path(folder), seed, arguments.steps, arguments.picture))
        print(json.dumps(rows[-1]), flush=True)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"\n{'AP, mean of ' + str(len(rows)) + ' seeds':24}{'GPS':>8}{'GPSm':>8}{'IoU':>8}{'box':>8}")
    for name in ("DensePose R-CNN", "mean surface", "chance"):
        means = [
            float(np.mean([row[name][key] for row in rows])) for key in ("dense_pose", "dense_pose_gpsm", "dense_pose_iou", "bbox")
        ]
        print(f"{name:24}" + "".join(f"{mean:8.1f}" for mean in means))


if __name__ == "__main__":
    main()
