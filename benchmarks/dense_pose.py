"""DensePose R-CNN on generated figures: AP by GPS beside what can be had without looking.

    python benchmarks/dense_pose.py                         # three seeds
    python benchmarks/dense_pose.py --seeds 0 --steps 300 --json dense_pose.json

For each seed pictures of figures are written, `demo_bodies` is trained on them, and its detections of unseen pictures are measured.
The bounds have the same boxes and the same masks, but other surfaces in them:

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

import boxwood
from boxwood.data.synthetic.bodies import write_bodies
from boxwood.dense_pose import decode_png, encode_png
from boxwood.evaluation.dense_pose import DensePoseEvaluator
from boxwood.evaluation.results import read_results
from boxwood.evaluation.surface import read_surface
from boxwood.run_config import RunConfig

TRAIN, VAL = 600, 60
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


def configuration(folder: Path, seed: int, steps: int | None) -> RunConfig:
    config = boxwood.recipe("demo_bodies", f"train.seed={seed}", "data.workers=0")
    for name in ("train", "val"):
        part = getattr(config.data, name)
        part.annotations, part.images = str(folder / f"{name}.json"), str(folder / name)
    assert config.evaluator is not None
    config.evaluator.surface = str(folder / "body.npz")  # type: ignore[attr-defined]  # of dense pose
    config.train.steps = steps or config.train.steps
    return config


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


def trained(folder: Path, seed: int, steps: int | None) -> dict[str, Any]:
    write_bodies(folder, train=TRAIN, val=VAL, seed=seed)
    config, run = configuration(folder, seed, steps), folder / "run"
    start = time.perf_counter()
    boxwood.train(config, run)
    seconds = time.perf_counter() - start
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
    parser.add_argument("--steps", type=int, help="of each training; those of the recipe by default")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    rows = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(trained(Path(folder), seed, arguments.steps))
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
