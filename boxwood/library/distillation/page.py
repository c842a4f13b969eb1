"""The page of `boxwood distill label`: the thresholds, the scores, and pictures with their labels."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from boxwood.data.categories import categories_of
from boxwood.data.coco_file import CocoFile, read_coco_file
from boxwood.data.images import read_image
from boxwood.errors import UserError
from boxwood.inference.records import draw_records
from boxwood.library.distillation.thresholds import Threshold
from boxwood.report.charts import histogram
from boxwood.report.page import write_page

__all__ = ["write_page_of_labels"]

PICTURES = 12
"""Of each kind, at most."""
SIDE = 480
"""The longer side of a picture in pixels, at most."""
BINS = 20
"""Of scores, from 0 to 1."""


def write_page_of_labels(
    path: Path, labels: Path, images: Path, of_class: Mapping[str, Threshold], scores: NDArray[np.float64], floor: float
) -> None:
    """Write the page of the COCO file ``labels`` of pictures in ``images``; it loads nothing from the network.

    ``of_class`` has the threshold of each class by its name, ``scores`` (N,) are those of all detections.
    """
    file = read_coco_file(labels)
    counts = np.bincount(file.image_rows, minlength=len(file.image_ids))
    kinds = (("Pictures at random", _random(counts)), ("Pictures with the least certain labels", _least_certain(file)))
    write_page(
        "labels.html",
        path,
        title="Automatic labels",
        about=f"{labels.name}, of pictures in {images}",
        tiles=[("pictures", len(counts)), ("pictures with labels", int((counts > 0).sum())), ("labels", int(counts.sum()))],
        classes=[{"name": name, "images": len(counts), "threshold": threshold} for name, threshold in of_class.items()],
        scores=histogram(
            np.histogram(scores, bins=BINS, range=(0, 1))[0].tolist(),
            [f"{start / BINS:.2f}" for start in range(BINS)],
            "score of a detection",
            [(floor * BINS, f"the floor, {floor:g}")],
        ),
        galleries=[{"title": title, "pictures": _drawn(file, rows, images)} for title, rows in kinds],
    )


def _random(counts: NDArray[np.int64]) -> list[int]:
    """Rows of images, among them images without labels."""
    picked = np.random.default_rng(0).permutation(len(counts))[:PICTURES]
    return sorted(picked.tolist())


def _least_certain(file: CocoFile) -> list[int]:
    """Rows of the images with the labels of lowest score."""
    scores = [json.loads(file.annotation_extras[row])["score"] for row in range(len(file.ids))]
    order = np.argsort(scores, kind="stable")
    return list(dict.fromkeys(file.image_rows[order].tolist()))[:PICTURES]


def _drawn(file: CocoFile, rows: Sequence[int], images: Path) -> list[dict[str, Any]]:
    """Small copies of the pictures with their labels, as data URLs."""
    categories = categories_of(file)
    entries = []
    for row in rows:
        name = file.file_name(row)
        records = [file.annotation(annotation) for annotation in file.by_image[file.starts[row] : file.starts[row + 1]].tolist()]
        try:
            picture = draw_records(read_image(images / name), records, categories)
        except UserError:  # it was there when it was labelled
            continue
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        content = io.BytesIO()
        picture.save(content, format="JPEG", quality=80)
        url = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
        entries.append({"name": name, "url": url, "labels": len(records)})
    return entries
