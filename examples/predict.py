"""Detections in your program: go through pictures and videos, choose a class, draw, and save each mask as a picture.

    python examples/predict.py photo.jpg other.jpg --model runs/mine --out seen
    python examples/predict.py photos --model runs/mine --class star --score 0.8

For each picture: ``NAME.png`` with the detections drawn, and ``NAME-00-star.png``, ... with the mask of each, white on black.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

import boxwood


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", help="pictures, folders, or patterns")
    parser.add_argument("--model", required=True, help="a run, a .safetensors file, or a name of the zoo")
    parser.add_argument("--score", type=float, default=0.5, help="the lowest score that counts (0.5)")
    parser.add_argument("--class", dest="name", help="only this class")
    parser.add_argument("--out", type=Path, default=Path("seen"))
    arguments = parser.parse_args()

    model = boxwood.load(arguments.model)  # model("photo.jpg") is the call for one picture; bytes and arrays are pictures too
    if arguments.name is not None and arguments.name not in model.categories.names:
        parser.error(f"--class {arguments.name}: the model knows {', '.join(model.categories.names)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for prediction in boxwood.iter_predictions(model, arguments.sources, score=arguments.score):
        detections, stem = prediction.detections, Path(prediction.file_name).stem
        if detections is None:
            print(prediction.error)
            continue
        if arguments.name is not None:  # tensors index detections as they index tensors
            detections = detections[detections.labels == model.categories.names.index(arguments.name)]
        detections.draw(prediction.file_name, score=0.0).save(arguments.out / f"{stem}.png")
        print(f"{prediction.file_name}: {len(detections)} detections")
        for number, name in enumerate(detections.names):
            box = detections.boxes[number].round().tolist()  # x1, y1, x2, y2 in pixels
            print(f"  {name} {detections.scores[number]:.2f} in {box}")
            if detections.masks is not None:  # (N, height, width) bool; None where the model has no masks
                mask = Image.fromarray(detections.masks[number].to(torch.uint8).mul(255).numpy())
                mask.save(arguments.out / f"{stem}-{number:02d}-{name}.png")


if __name__ == "__main__":
    main()
