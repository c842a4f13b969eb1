"""Draw a texture on persons, by the point of the body's surface that each pixel shows (DensePose R-CNN).

    python examples/dense_pose_texture.py photo.jpg --model runs/bodies --out painted.png
    python examples/dense_pose_texture.py photo.jpg --model densepose/R_50_FPN_s1x --texture atlas.png --out painted.png

A texture is a picture of 4 x 6 equal squares, those of the parts 1 to 24 row by row; in each, U runs to the right and V down.
Without one a chequered texture is made. The published weights are licensed CC BY-SA 3.0, and the annotations that they learnt from
are not for commercial use.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import boxwood
from boxwood.data.images import read_image
from boxwood.dense_pose import DetectedDensePose, part_colors, placed_box
from boxwood.files import IMAGE_FORMATS

ROWS, COLUMNS, SIDE = 4, 6, 128


def chequered() -> np.ndarray:
    """(4 * SIDE, 6 * SIDE, 3) uint8: each part in its colour, with squares whose brightness differs."""
    step = np.arange(SIDE) * 8 // SIDE
    board = np.where((step[:, None] + step) % 2, 1.0, 0.55)
    parts = part_colors()[1:].reshape(ROWS, COLUMNS, 1, 1, 3) * board[..., None]
    return parts.transpose(0, 2, 1, 3, 4).reshape(ROWS * SIDE, COLUMNS * SIDE, 3).astype(np.uint8)


def painted(image: torch.Tensor, detections: boxwood.Detections, atlas: np.ndarray) -> Image.Image:
    """A copy of an image (3, H, W) with the texture on all detections, the best one in front."""
    pixels = image.permute(1, 2, 0).numpy().copy()
    height, width = atlas.shape[0] // ROWS, atlas.shape[1] // COLUMNS
    field = detections.fields["dense_pose"]
    assert isinstance(field, DetectedDensePose)
    for row in reversed(range(len(detections))):
        box = detections.boxes[row].tolist()
        parts, uv = (values.numpy() for values in field.surface(row, box))
        left, top, _, _ = placed_box(box)
        window = pixels[top : top + parts.shape[0], left : left + parts.shape[1]]
        parts, (u, v) = parts[: window.shape[0], : window.shape[1]], uv.clip(0, 1)[:, : window.shape[0], : window.shape[1]]
        on_body, chart = parts > 0, (parts - 1).clip(0)
        lines = chart // COLUMNS * height + (v * (height - 1)).astype(int)
        across = chart % COLUMNS * width + (u * (width - 1)).astype(int)
        window[on_body] = 0.25 * window[on_body] + 0.75 * atlas[lines, across][on_body]
    return Image.fromarray(pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--model", required=True, help="a run, a weights file, or a name of the zoo")
    parser.add_argument("--texture", type=Path, help="a picture of 4 x 6 squares, one for each part")
    parser.add_argument("--score", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path("painted.png"))
    arguments = parser.parse_args()
    atlas = chequered()
    if arguments.texture is not None:
        with Image.open(arguments.texture, formats=IMAGE_FORMATS) as texture:
            atlas = np.asarray(texture.convert("RGB"))
    detections = boxwood.load(arguments.model, score=arguments.score)(arguments.picture)
    detections = detections[detections.scores >= arguments.score]
    painted(read_image(arguments.picture), detections, atlas).save(arguments.out)
    print(f"{arguments.out}: {len(detections)} painted")


if __name__ == "__main__":
    main()
