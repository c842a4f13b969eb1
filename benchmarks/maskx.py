"""Mask^X R-CNN beside the class-agnostic baseline: mask AP of classes whose masks teach (A) and of the others (B).

    python benchmarks/maskx.py                              # 6 detectors and 24 mask heads, each 1 to 2 minutes of one core
    python benchmarks/maskx.py --data halves --seeds 0 --directions first
    python benchmarks/maskx.py --heads mask_x oracle        # with the branch for all classes; and masks of all classes

Two generated data sets, whose classes are divided into two halves; masks of one half teach, then those of the other:

* ``shapes``, those of ``boxwood data shapes``: textured discs, triangles, squares, stars, rings and crosses. The object in a box is
  what stands out, whatever its class.
* ``halves``: squares that are cut along a diagonal, each half an object of another class, so that both objects have the same box
  and the class alone decides which half is meant. The 12 classes are hues, 30 degrees apart, and every second one teaches; the two
  objects of a square are of the same half of the classes, at least 120 degrees apart.

As in the paper's ablations a Faster R-CNN is trained first, one for each data set and seed, then each mask head on its frozen
weights, so that all have the same boxes. Each training appends one line of JSON to the file of results, and what is already there
is not trained again.
"""

from __future__ import annotations

import argparse
import colorsys
import itertools
import json
import logging
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw

import boxwood
from boxwood.data import CocoConfig, DataConfig, HorizontalFlip
from boxwood.data.synthetic.shapes import CLASSES as SHAPES
from boxwood.data.synthetic.shapes import write_shapes
from boxwood.evaluation.measures import CocoEvaluatorConfig
from boxwood.models import RCNNConfig
from boxwood.models.heads import ConvMaskHeadConfig, MaskHeadConfig, MaskXHeadConfig, TwoFCHeadConfig
from boxwood.recipes import demo_shapes
from boxwood.run_config import ParameterRule, RunConfig

SIZE = (80, 112)
"""Height and width of the pictures."""
TRAIN, VAL = 400, 100
"""Numbers of pictures."""
HUES = {f"hue {hue}": hue / 360 for hue in range(0, 360, 30)}
"""The colours of ``halves``."""
SPLITS = {
    "shapes": (("disc", "square", "ring"), ("triangle", "star", "cross")),
    "halves": (tuple(HUES)[0::2], tuple(HUES)[1::2]),
}
"""The two halves of the classes of each data set."""
HEADS = ("mask_x", "transfer", "agnostic", "oracle")
DETECTOR_STEPS = 800
INPUTS: Literal["cls"] = "cls"
"""Of the transfer function. Weights of box deltas are left out: such short trainings leave them near their random first values."""
DIRECTIONS = ("first", "second")
"""Which half of the classes teaches masks."""


# ---------------------------------------------------------------------------------------------------------------- the data


def squares(rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """One to three squares that do not overlap: x, y, side."""
    placed: list[tuple[int, int, int]] = []
    for _ in range(60):
        side = int(rng.integers(26, 45))
        x, y = int(rng.integers(2, SIZE[1] - side - 1)), int(rng.integers(2, SIZE[0] - side - 1))
        if all(x + side + 3 < u or u + s + 3 < x or y + side + 3 < v or v + s + 3 < y for u, v, s in placed):
            placed.append((x, y, side))
    return placed[: int(rng.integers(1, 4))]


def halves_picture(rng: np.random.Generator) -> tuple[Image.Image, list[dict[str, Any]]]:
    """A picture of cut squares on a grey ground, and its annotations; of the two halves of a square either may come first."""
    pixels = np.repeat(rng.normal(rng.uniform(90, 170), 12, (*SIZE, 1)), 3, axis=2)
    annotations: list[dict[str, Any]] = []
    for x, y, side in squares(rng):
        corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
        turn = int(rng.integers(2))
        parts = [[corners[(turn + step) % 4] for step in steps] for steps in ((0, 1, 2), (2, 3, 0))]
        rng.shuffle(parts)
        first = int(rng.integers(len(HUES)))
        second = (first + 2 * int(rng.integers(2, 5))) % len(HUES)
        for part, label in zip(parts, (first, second), strict=True):
            cover = Image.new("L", (SIZE[1], SIZE[0]))
            ImageDraw.Draw(cover).polygon([(u - 0.5, v - 0.5) for u, v in part], fill=255)
            inside = np.asarray(cover) > 0
            hue = list(HUES.values())[label] + rng.uniform(-0.02, 0.02)
            pixels[inside] = 255 * np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.75, 1), rng.uniform(0.7, 0.95)))
            annotations.append(
                {"category_id": label + 1, "bbox": [x, y, side, side], "area": side * side / 2, "iscrowd": 0}
                | {"segmentation": [[float(number) for point in part for number in point]]}
            )
    noisy = np.clip(pixels + rng.normal(0, 5, pixels.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(noisy), annotations


def write_halves(out: Path) -> None:
    """The data set ``halves`` below ``out``, as `write_shapes` lays out the other."""
    for split, (name, count) in enumerate((("train", TRAIN), ("val", VAL))):
        (out / name).mkdir(parents=True, exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(count):
            picture, rows = halves_picture(np.random.default_rng([split, number]))
            picture.save(out / name / f"{number:06d}.png")
            images.append({"id": number + 1, "file_name": f"{number:06d}.png", "height": SIZE[0], "width": SIZE[1]})
            annotations += [{"id": len(annotations) + i, "image_id": number + 1, **row} for i, row in enumerate(rows, start=1)]
        categories = [{"id": index, "name": name} for index, name in enumerate(HUES, start=1)]
        tree = {"images": images, "annotations": annotations, "categories": categories}
        (out / f"{name}.json").write_text(json.dumps(tree))


# ------------------------------------------------------------------------------------------------------------- the trainings


def mask_head(head: str) -> MaskHeadConfig | None:
    settings: dict[str, Any] = {"convs": 2, "width": 32, "resolution": 7}
    if head == "oracle":
        return ConvMaskHeadConfig(**settings)
    if head == "detector":
        return None
    return MaskXHeadConfig(**settings, mlp_branch=head == "mask_x", inputs=None if head == "agnostic" else INPUTS)


def run_of(folder: Path, data: str, direction: str, head: str, seed: int, steps: int) -> RunConfig:
    """The training of a mask head on the detector of ``seed``, or of that detector."""
    config, taught = demo_shapes(), SPLITS[data][DIRECTIONS.index(direction)]
    assert isinstance(config.model, RCNNConfig)
    config.model.mask_head, config.model.box_head = mask_head(head), TwoFCHeadConfig(width=64)
    config.model.rois.samples_per_image = 16 if head == "detector" else 32
    sets = {
        part: CocoConfig(annotations=str(folder / f"{part}.json"), images=str(folder / part), transforms=transforms)
        for part, transforms in (("train", (HorizontalFlip(p=0.5),)), ("val", ()))
    }
    sets["train"].mask_classes = None if head in ("oracle", "detector") else taught
    config.data = DataConfig(train=sets["train"], val=sets["val"], workers=0)
    config.evaluator = CocoEvaluatorConfig(mask_classes=taught)
    config.train.steps, config.train.seed, config.train.device = steps, seed, "cpu"
    config.train.checkpoint_every = config.train.log_every = steps
    config.optim.reference_batch_size = config.train.batch_size
    if head == "detector":
        config.optim.lr = 0.001
        # The weights of a class, which the transfer function reads, would else stay near their random first values.
        config.optim.lr_factors = (ParameterRule(pattern="class_logits.weight", lr=4.0, weight_decay=0.0),)
    else:
        config.optim.lr = 0.005
        config.optim.lr_factors = (ParameterRule(pattern="mask_*"), ParameterRule(pattern="*", lr=0.0))
        config.train.weights = str(detector_of(folder, seed))
    return config


def detector_of(folder: Path, seed: int) -> Path:
    return folder / f"detector{seed}.safetensors"


def measure(folder: Path, **settings: Any) -> dict[str, Any]:
    """Train once; AP in percent, and the seconds that it took."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        metrics = boxwood.train(run_of(folder, **settings), Path(out, "run"))
        if settings["head"] == "detector":
            shutil.copy(Path(out, "run", "last.safetensors"), detector_of(folder, settings["seed"]))
    tables = {"box": "bbox", "A": "segm_with_masks", "B": "segm_without_masks"}
    aps = {
        name: {ap: round(100 * metrics[table][ap], 1) for ap in ("AP", "AP50")}
        for name, table in tables.items()
        if table in metrics
    }
    return {**settings, **aps, "seconds": round(time.perf_counter() - start)}


def table(results: list[dict[str, Any]]) -> str:
    """Means over the seeds."""
    lines = [
        "| data | masks of | head | seeds | box AP | mask AP of A | mask AP of B | AP50 of B | B by seed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for data, direction, head in itertools.product(SPLITS, DIRECTIONS, HEADS):
        rows = [row for row in results if (row["data"], row["direction"], row["head"]) == (data, direction, head)]
        if rows:
            means = [
                statistics.mean(row[name][ap] for row in rows)
                for name, ap in (("box", "AP"), ("A", "AP"), ("B", "AP"), ("B", "AP50"))
            ]
            taught = "all classes" if head == "oracle" else f"{len(SPLITS[data][0])} classes, the {direction} half"
            cells = [data, taught, head, str(len(rows)), *(f"{mean:.1f}" for mean in means)]
            lines.append(f"| {' | '.join([*cells, ' '.join(str(row['B']['AP']) for row in rows)])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=list(DIRECTIONS))
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=["transfer", "agnostic"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800, help="of a mask head; a detector takes as many as by default")
    parser.add_argument("--out", type=Path, default=Path("maskx"), help="a folder for the pictures, detectors and results.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("boxwood").setLevel(logging.ERROR)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def once(folder: Path, **settings: Any) -> None:
        if not any(settings.items() <= row.items() for row in results):
            results.append(measure(folder, **settings))
            print(json.dumps(results[-1]), flush=True)
            with file.open("a") as lines:
                lines.write(json.dumps(results[-1]) + "\n")

    for data, seed in itertools.product(args.data, args.seeds):
        folder = args.out / data
        if not (folder / "val.json").exists():
            write_halves(folder) if data == "halves" else write_shapes(folder, TRAIN, VAL, 0, SIZE)
        once(folder, data=data, direction="first", head="detector", seed=seed, steps=DETECTOR_STEPS)
        for direction, head in itertools.product(args.directions, args.heads):
            once(folder, data=data, direction=direction, head=head, seed=seed, steps=args.steps)
    print(table([row for row in results if row["steps"] == args.steps]))


if __name__ == "__main__":
    assert {name for part in SPLITS["shapes"] for name in part} == set(SHAPES)
    main()
