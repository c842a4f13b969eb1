"""A small valid COCO data set, and functions that copy and write it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SOUND: dict[str, Any] = {
    "images": [
        {"id": 70, "file_name": "wide.png", "height": 40, "width": 60},
        {"id": 3, "file_name": "tall.png", "height": 50, "width": 30},
        {"id": 5, "file_name": "empty.png", "height": 20, "width": 20},
    ],
    "annotations": [
        {"id": 11, "image_id": 3, "category_id": 900, "bbox": [2, 4, 10, 20.5], "area": 205.0, "iscrowd": 0,
         "segmentation": [[2, 4, 12, 4, 12, 24.5], [5.25, 6, 7, 6, 7, 9]]},
        {"id": 12, "image_id": 70, "category_id": -4, "bbox": [0, 0, 60, 40], "area": 2400, "iscrowd": 1,
         "segmentation": {"size": [40, 60], "counts": [0, 2400]}},
        {"id": 2**40, "image_id": 70, "category_id": 900, "bbox": [10.5, 10.25, 5, 8], "area": 33.3, "iscrowd": 0,
         "segmentation": {"size": [40, 60], "counts": "S>7Q100000mg1"}},
    ],
    "categories": [{"id": 900, "name": "nut"}, {"id": -4, "name": "fig"}],
}  # fmt: skip


def sound() -> dict[str, Any]:
    return copy.deepcopy(SOUND)


def write(folder: Path, coco: Any, *, images: bool = True) -> Path:
    """Write ``data.json``, and beside it images of random pixels of the annotated sizes; returns the annotation file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "data.json"
    path.write_text(json.dumps(coco))
    if images:
        rng = np.random.default_rng(0)
        for row in coco["images"]:
            pixels = rng.integers(0, 256, (row["height"], row["width"], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / row["file_name"])
    return path
