"""A student that learns from its teacher's labels (Data Distillation), in your program.

    python examples/distill.py runs/teacher unlabelled --out runs/student train.steps=1200 train.batch_size=5

The teacher is any run; the student is the same network from the same initial weights, on the teacher's labelled set and on what the
teacher labels in the folder, three images to two. ``labels.json`` and a page that shows it are written to the student's folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import boxwood
from boxwood.data import CocoConfig, MixtureConfig


def main() -> None:
    parser = argparse.ArgumentParser(description="Label a folder with a run, and train a student on both.")
    parser.add_argument("teacher", help="a run")
    parser.add_argument("unlabelled", help="a folder of pictures")
    parser.add_argument("--out", type=Path, required=True, help="the student's folder")
    parser.add_argument("--ratio", type=int, nargs=2, default=(3, 2), help="labelled to automatic images in every batch")
    parser.add_argument("--floor", type=float, default=0.3, help="the lowest score of a label")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the student's configuration")
    options = parser.parse_intermixed_args()

    config = boxwood.recipe(options.teacher, *options.overrides)
    labelled = config.data.train
    assert isinstance(labelled, CocoConfig), "the teacher's train set is one COCO file"
    labels = boxwood.distill_label(options.teacher, options.unlabelled, labelled, options.out / "labels.json", floor=options.floor)
    print(labels.text())

    automatic = CocoConfig(
        annotations=str(labels.out),
        images=options.unlabelled,
        keep_empty=False,  # a picture without a label may well show something
        transforms=labelled.transforms,
    )
    config.data.train = MixtureConfig(parts=(labelled, automatic), ratio=tuple(options.ratio))
    student = boxwood.train(config, options.out / "run")
    teacher = boxwood.evaluate(options.teacher).metrics
    print(f"box AP: teacher {teacher['bbox']['AP']:.3f}, student {student['bbox']['AP']:.3f}")


if __name__ == "__main__":
    main()
