"""Detections in your own program: load a detector, call it, choose, draw, and save each mask as a picture.

    python examples/predict.py photo.jpg other.jpg --model runs/mine --out seen
    python examples/predict.py photo.jpg --model runs/mine --class star --score 0.8

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
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--model", required=True, help="a run, or a .safetensors file")
    parser.add_argument("--score", type=float, default=0.5, help="the least score that counts (0.5)")
    parser.add_argument("--class", dest="name", help="only this class")
    parser.add_argument("--out", type=Path, default=Path("seen"))
    arguments = parser.parse_args()

    model = boxwood.load(arguments.model)
    if arguments.name is not None and arguments.name not in model.categories.names:
        parser.error(f"--class {arguments.name}: the model knows {', '.join(model.categories.names)}")
    arguments.out.mkdir(parents=True, exist_ok=True)

    for picture in arguments.pictures:
        found = model(picture)  # a list of pictures runs as one batch; arrays and tensors are pictures too
        chosen = found.scores >= arguments.score
        if arguments.name is not None:
            chosen &= found.labels == model.categories.names.index(arguments.name)
        found = found[chosen]  # tensors index detections as they index tensors

        found.draw(picture, score=0.0).save(arguments.out / f"{picture.stem}.png")
        print(f"{picture}: {len(found)} found")
        for number, (name, score, box) in enumerate(zip(found.names, found.scores.tolist(), found.boxes.tolist())):
            x1, y1, x2, y2 = box  # pixels of the original picture
            print(f"  {name} {score:.2f} at ({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f})")
            if found.masks is not None:  # (N, height, width) bool; None where the model makes no masks
                mask = Image.fromarray(found.masks[number].to(torch.uint8).mul(255).numpy())
                mask.save(arguments.out / f"{picture.stem}-{number:02d}-{name}.png")


if __name__ == "__main__":
    main()
