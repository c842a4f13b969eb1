"""Mask^X R-CNN beside the class-agnostic baseline: mask AP of classes whose masks teach (A) and of the others (B).

    python benchmarks/maskx.py                                            # 24 trainings of 1 to 2 minutes of one core
    python benchmarks/maskx.py --data halves --seeds 0 --directions first
    python benchmarks/maskx.py --heads mask_x agnostic oracle             # and masks of all classes

Two generated data sets, each divided into two halves of classes, and trained in both directions:

* ``shapes``, those of ``boxwood data shapes``: textured discs, triangles, squares, stars, rings and crosses. Here the object in a
  box is what stands out, whatever its class: disc, square and ring teach, triangle, star and cross do not, or the other way round.
* ``halves``: squares that are cut along a diagonal, each half an object of another class, so that both objects have the same box
  and the class alone decides which half is meant. Its 12 classes are four colours by three patterns, and every second one teaches.

All networks are the demo's with masks of 14 x 14 cells, trained end to end for as many steps on the same pictures in the same
order. Each training appends one line of JSON to the file of results, and what is already there is not trained again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import boxwood
from boxwood.data import CocoConfig, DataConfig, HorizontalFlip
from boxwood.data.synthetic.shapes import CLASSES as SHAPES
from boxwood.data.synthetic.shapes import write_shapes
from boxwood.evaluation.measures import CocoEvaluatorConfig
from boxwood.models import RCNNConfig
from boxwood.models.heads import ConvMaskHeadConfig, MaskHeadConfig, MaskXHeadConfig
from boxwood.recipes import demo_shapes
from boxwood.run_config import RunConfig

SIZE = (96, 128)
"""Height and width of the pictures."""
TRAIN, VAL = 400, 100
"""Numbers of pictures."""
COLORS = {"red": (205, 60, 50), "green": (60, 165, 70), "blue": (60, 90, 205), "yellow": (215, 190, 60)}
PATTERNS = ("plain", "striped", "dotted")
HALVES = tuple(f"{pattern} {color}" for color in COLORS for pattern in PATTERNS)
SPLITS = {
    "shapes": (("disc", "square", "ring"), ("triangle", "star", "cross")),
    "halves": tuple(
        tuple(name for index, name in enumerate(HALVES) if (index // len(PATTERNS) + index % len(PATTERNS)) % 2 == parity)
        for parity in (0, 1)
    ),
}
"""The two halves of the classes of each data set; every colour and every pattern is in both halves."""
HEADS = ("mask_x", "transfer", "agnostic", "oracle")
DIRECTIONS = ("first", "second")
"""Which half of the classes teaches masks."""


# ---------------------------------------------------------------------------------------------------------------- the data


def pattern_of(name: str, size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """A picture (H, W, 3) 0..255 filled with a colour and its pattern, of random brightness, phase, angle and scale."""
    pattern, color = name.split()
    rows, columns = np.mgrid[: size[0], : size[1]]
    angle, period, shift = rng.uniform(0, np.pi), rng.uniform(6, 9), rng.uniform(0, 9, 2)
    along = (rows * np.cos(angle) + columns * np.sin(angle) + shift[0]) / period
    across = (columns * np.cos(angle) - rows * np.sin(angle) + shift[1]) / period
    light = np.zeros(size)
    if pattern == "striped":
        light = (along % 1 < 0.45) * 1.0
    elif pattern == "dotted":
        light = (((along % 1) - 0.5) ** 2 + ((across % 1) - 0.5) ** 2 < 0.11) * 1.0
    base = np.array(COLORS[color]) * rng.uniform(0.8, 1.1) + rng.normal(0, 6, 3)
    return base * (1 - 0.75 * light[..., None])  # type: ignore[no-any-return]


def squares(rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Two to four squares that do not overlap: x, y, side."""
    placed: list[tuple[int, int, int]] = []
    for _ in range(60):
        side = int(rng.integers(26, 45))
        x, y = int(rng.integers(2, SIZE[1] - side - 1)), int(rng.integers(2, SIZE[0] - side - 1))
        if all(x + side + 3 < u or u + s + 3 < x or y + side + 3 < v or v + s + 3 < y for u, v, s in placed):
            placed.append((x, y, side))
    return placed[: int(rng.integers(2, 5))]


def halves_picture(rng: np.random.Generator) -> tuple[Image.Image, list[dict[str, Any]]]:
    """A picture of cut squares on a grey ground, and its annotations; of the two halves of a square either may come first."""
    pixels = np.repeat(rng.normal(rng.uniform(90, 170), 12, (*SIZE, 1)), 3, axis=2)
    annotations: list[dict[str, Any]] = []
    for x, y, side in squares(rng):
        corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
        turn = int(rng.integers(2))
        parts = [[corners[(turn + step) % 4] for step in steps] for steps in ((0, 1, 2), (2, 3, 0))]
        rng.shuffle(parts)
        for part, label in zip(parts, rng.choice(len(HALVES), 2, replace=False).tolist(), strict=True):
            cover = Image.new("L", (SIZE[1], SIZE[0]))
            ImageDraw.Draw(cover).polygon([(u - 0.5, v - 0.5) for u, v in part], fill=255)
            inside = np.asarray(cover) > 0
            pixels[inside] = pattern_of(HALVES[label], SIZE, rng)[inside]
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
        categories = [{"id": index, "name": name} for index, name in enumerate(HALVES, start=1)]
        tree = {"images": images, "annotations": annotations, "categories": categories}
        (out / f"{name}.json").write_text(json.dumps(tree))


# ------------------------------------------------------------------------------------------------------------- the trainings


def mask_head(head: str) -> MaskHeadConfig:
    settings: dict[str, Any] = {"convs": 2, "width": 48, "resolution": 7}
    if head == "oracle":
        return ConvMaskHeadConfig(**settings)
    return MaskXHeadConfig(**settings, mlp_branch=head == "mask_x", inputs=None if head == "agnostic" else "cls+box")


def run_of(folder: Path, data: str, direction: str, head: str, seed: int, steps: int) -> RunConfig:
    config = demo_shapes()
    assert isinstance(config.model, RCNNConfig)
    config.model.mask_head = mask_head(head)
    config.data = DataConfig(
        train=CocoConfig(
            annotations=str(folder / "train.json"),
            images=str(folder / "train"),
            mask_classes=None if head == "oracle" else SPLITS[data][DIRECTIONS.index(direction)],
            transforms=(HorizontalFlip(p=0.5),),
        ),
        val=CocoConfig(annotations=str(folder / "val.json"), images=str(folder / "val")),
        workers=0,
    )
    config.evaluator = CocoEvaluatorConfig(mask_classes=SPLITS[data][DIRECTIONS.index(direction)])
    config.train.steps, config.train.seed, config.train.device = steps, seed, "cpu"
    config.train.checkpoint_every = config.train.log_every = steps
    return config


def measure(folder: Path, **settings: Any) -> dict[str, Any]:
    """Train once; AP in percent, and the seconds that it took."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        metrics = boxwood.train(run_of(folder, **settings), Path(out, "run"))
    tables = {"box": "bbox", "A": "segm_with_masks", "B": "segm_without_masks"}
    numbers = {name: {ap: round(100 * metrics[table][ap], 1) for ap in ("AP", "AP50")} for name, table in tables.items()}
    return {**settings, **numbers, "seconds": round(time.perf_counter() - start)}


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
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=["mask_x", "agnostic"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("maskx"), help="a folder for the pictures and results.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("boxwood").setLevel(logging.WARNING)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for data, seed, direction, head in itertools.product(args.data, args.seeds, args.directions, args.heads):
        settings = {"data": data, "direction": direction, "head": head, "seed": seed, "steps": args.steps}
        if any(settings.items() <= row.items() for row in results):
            continue
        folder = args.out / data
        if not (folder / "val.json").exists():
            write_halves(folder) if data == "halves" else write_shapes(folder, TRAIN, VAL, 0, SIZE)
        results.append(measure(folder, **settings))
        print(json.dumps(results[-1]), flush=True)
        with file.open("a") as lines:
            lines.write(json.dumps(results[-1]) + "\n")
    print(table([row for row in results if row["steps"] == args.steps]))


if __name__ == "__main__":
    assert {name for part in SPLITS["shapes"] for name in part} == set(SHAPES)
    main()
