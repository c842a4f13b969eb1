"""What Data Distillation gains: teacher, student, teacher trained as long, oracle, three seeds (`boxwood.distill_compare`).

    python benchmarks/distill.py shapes --out compared-shapes
    python benchmarks/distill.py bccd --data bccd --out compared-bccd

``shapes``: generated pictures of 120 x 160 pixels, 40 labelled, 400 unlabelled, 200 to test on; a network from random weights.
``bccd``: a folder with ``trainval.json``, ``test.json`` and ``images`` (cells of blood, 3 classes), of which 40 images are labelled
and the others unlabelled; MobileNetV2 from ImageNet's weights, so these must be in torch's cache or be downloaded.

Each training takes two minutes of one core at most. An interrupted call resumes. ``key=value`` overrides the teacher's
configuration.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import boxwood
from boxwood.data.coco_file import coco_file_of
from boxwood.data.splitting import subset
from boxwood.recipes import override, resolve
from boxwood.run_config import RunConfig

LABELLED, UNLABELLED, TEST = 40, 400, 200
STEPS = {"shapes": (400, 800), "bccd": (60, 120)}
"""Of the teacher, and of all others."""


def parts(tree: dict[str, Any], pictures: Path, out: Path) -> None:
    """Write ``labelled.json`` of 40 images, ``truth.json`` of the others, and the pictures of the latter to ``unlabelled``."""
    file = coco_file_of(tree, "the train set")
    labelled = np.zeros(len(file.image_ids), dtype=np.bool_)
    labelled[np.random.default_rng(0).permutation(len(labelled))[:LABELLED]] = True
    (out / "unlabelled").mkdir(parents=True, exist_ok=True)
    for name, rows in (("labelled", labelled), ("truth", ~labelled)):
        (out / f"{name}.json").write_text(json.dumps(subset(tree, file, rows)))
    for row in np.flatnonzero(~labelled).tolist():
        shutil.copyfile(pictures / file.file_name(row), out / "unlabelled" / file.file_name(row))


def with_data(config: RunConfig, labelled: Path, images: Path, test: Path, test_images: Path) -> RunConfig:
    """The configuration with 40 labelled images, read by the training process itself."""
    keys = {"train.annotations": labelled, "train.images": images, "val.annotations": test, "val.images": test_images, "workers": 0}
    return override(config, [f"data.{key}={value}" for key, value in keys.items()])


def shapes(out: Path) -> RunConfig:
    """The demo's network without masks and with a lighter box head, on generated shapes, at 96 pixels."""
    data = out / "data"
    if not (data / "truth.json").exists():
        boxwood.shapes(data, train=LABELLED + UNLABELLED, val=TEST, size=(120, 160))
        parts(json.loads((data / "train.json").read_text()), data / "train", data)
    config = with_data(resolve("demo_shapes"), data / "labelled.json", data / "train", data / "val.json", data / "val")
    sizes = ["data.train.transforms.0.short=[96]", "data.val.transforms.0.short=[96]", "model.mask_head=null"]
    head = "model.box_head={convs: 1, conv_width: 32, width: 128}"
    return override(config, [*sizes, head, "train.batch_size=5", f"train.steps={STEPS['shapes'][0]}"])


def bccd(out: Path, source: Path) -> RunConfig:
    """The small Faster R-CNN on MobileNetV2, at 192 pixels."""
    data = out / "data"
    if not (data / "truth.json").exists():
        parts(json.loads((source / "trainval.json").read_text()), source / "images", data)
    recipe = resolve("faster_rcnn_mobilenetv2_fpn")
    config = with_data(recipe, data / "labelled.json", source / "images", source / "test.json", source / "images")
    sizes = ["data.train.transforms.0.short=[192]", "data.val.transforms.0.short=[192]", "optim.warmup_steps=20"]
    views = "test.tta={boxes: {flip: true, scales: [144, 240], scale_flip: true}}"  # six instead of 18, to save time
    return override(config, [*sizes, views, "train.batch_size=5", f"train.steps={STEPS['bccd'][0]}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("shapes", "bccd"))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--data", type=Path, help="of bccd: the folder of the data set")
    parser.add_argument("--out", type=Path, required=True, help="where data, runs and results.json go")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of all but the teacher")
    parser.add_argument("--one-view", action="store_true", help="label from one view of each picture")
    options = parser.parse_intermixed_args()
    if options.task == "bccd" and options.data is None:
        parser.error("bccd needs --data, the folder of the data set")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    start = time.monotonic()
    config = override(shapes(options.out) if options.task == "shapes" else bccd(options.out, options.data), options.overrides)
    data = options.out / "data"
    result = boxwood.distill_compare(
        config,
        data / "unlabelled",
        options.out,
        truth=data / "truth.json",
        seeds=options.seeds,
        steps=options.steps or STEPS[options.task][1],
        one_view=options.one_view,
    )
    print(result.text())
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
