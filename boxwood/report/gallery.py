"""The worst and the best images for a page: small pictures, and ground truth and detections as data for its script."""

from __future__ import annotations

import base64
import io
import logging
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any

import numpy as np
from hotcoco import mask
from PIL import Image

from boxwood.data import Dataset
from boxwood.errors import UserError
from boxwood.evaluation.analysis import Analysis, ImageOutcome
from boxwood.evaluation.truth import ImageResults, Results, Truth
from boxwood.ops.contours import simplified, traced
from boxwood.report.surface import detected_surface, true_surface

__all__ = ["gallery", "worst_and_best"]

logger = logging.getLogger(__name__)

SIDE = 560
"""The longer side of a picture in pixels, at most."""
MOST = 100
"""Detections of a picture, at most."""
MOST_SURFACES = 20
"""Detections of a picture whose dense pose is drawn, at most; the measure counts as many of a class."""


def worst_and_best(analysis: Analysis, count: int) -> tuple[list[int], list[int]]:
    """The image ids with the lowest and with the highest F1 at the overall working point, at most ``count`` each and none in both.

    Among images of the same F1, the worst are those with more errors, the best those with more true positives. Images without
    instances and without detections are neither.
    """
    score = analysis.overall.score
    rated = []
    for image_id, outcome in analysis.outcomes.items():
        if (f1 := outcome.f1(score)) is not None:
            right, wrong, missed = outcome.tally(score)
            rated.append((f1, -(wrong + missed), right, image_id))
    rated.sort()
    worst = rated[: min(count, (len(rated) + 1) // 2)]
    best = sorted(rated[len(worst) :], key=lambda row: (-row[0], -row[2], row[3]))[:count]
    return [row[-1] for row in worst], [row[-1] for row in best]


def gallery(
    image_ids: Sequence[int],
    dataset: Dataset,
    order: Sequence[int],
    truth: Truth,
    results: Results,
    positions: Sequence[int],
    analysis: Analysis,
) -> list[dict[str, Any]]:
    """What the script draws for each image, in pixels of its small picture.

    ``order`` are the ids of the data set's images, ``positions[label]`` is the number, from 1, of a detection's class in the truth.
    Shapes are lists of numbers, documented in ``templates/evaluation.js``, which reads them. An image that cannot be read has an
    empty picture, and so has one that the annotations name outside of the image folder: a page that is passed on shows no other
    pictures of this machine.
    """
    index = {image_id: position for position, image_id in enumerate(order)}
    entries = [
        _entry(image_id, index[image_id], dataset, truth, results.get(image_id), positions, analysis) for image_id in image_ids
    ]
    if outside := [entry["name"] for entry in entries if _is_outside(entry["name"])]:
        logger.warning("the report leaves out %d pictures outside of the image folder, such as '%s'", len(outside), outside[0])
    return entries


# ------------------------------------------------------------------------------------------------------------ internals


def _entry(
    image_id: int,
    index: int,
    dataset: Dataset,
    truth: Truth,
    detections: ImageResults | None,
    positions: Sequence[int],
    analysis: Analysis,
) -> dict[str, Any]:
    about = truth.images[truth.image_position[image_id] - 1]
    name = str(about.get("file_name", image_id))
    outside = _is_outside(name)
    width, height, picture = (0, 0, "") if outside else _picture(dataset, index, image_id)
    width, height = width or int(about.get("width") or SIDE), height or int(about.get("height") or SIDE)
    scale = min(1.0, SIDE / max(width, height))
    outcome = analysis.outcomes[image_id]
    return {
        "id": image_id,
        "name": name,
        "width": max(1, round(width * scale)),
        "height": max(1, round(height * scale)),
        "picture": picture,
        "note": "" if picture else "outside of the image folder" if outside else "cannot be read",
        "truth": _instances(outcome, truth, scale, (height, width)),
        "found": [] if detections is None else _detections(detections, outcome, positions, scale),
    }


def _is_outside(name: str) -> bool:
    """Whether a file's name leads out of the folder that it is relative to.

    >>> [_is_outside(name) for name in ("a/../b.jpg", "a/../../b.jpg", "/etc/b.png", r"C:\\b.png")]
    [False, True, True, True]
    """
    forward = name.replace("\\", "/")
    return bool(forward.startswith("/") or PureWindowsPath(name).drive or posixpath.normpath(forward).split("/")[0] == "..")


def _picture(dataset: Dataset, index: int, image_id: int) -> tuple[int, int, str]:
    """Width and height of the image, and a small copy as a data URL; zeros and an empty text where it cannot be read."""
    try:
        sample = dataset[index]
    except (UserError, IndexError):
        return 0, 0, ""
    if sample.image_id != image_id:  # a data set that leaves images out
        return 0, 0, ""
    image = Image.fromarray(sample.image.numpy().transpose(1, 2, 0))
    width, height = image.size
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=80, optimize=True)
    return width, height, f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _instances(outcome: ImageOutcome, truth: Truth, scale: float, size: tuple[int, int]) -> list[list[Any]]:
    """[class, x, y, width, height, score of the matching detection or null, 1 for a crowd region, outline, keypoints, surface]."""
    rows = []
    for instance, found_at in zip(outcome.instances, outcome.found_at, strict=True):
        code = instance["segmentation"]
        if isinstance(code, list):
            outline = "".join(_outline(np.asarray(part, dtype=np.float64).reshape(-1, 2), scale) for part in code if len(part) > 5)
        else:
            outline = _traced(_encoded(code, size), scale) if code else ""
        keypoints = _keypoints(np.asarray(instance["keypoints"], dtype=np.float64), scale)
        box = _scaled(instance["bbox"], scale)
        surface = true_surface(truth.given[instance["id"] - 1], scale)
        rows.append([instance["category_id"] - 1, *box, found_at, instance["iscrowd"], outline, keypoints, surface])
    return rows


def _detections(detections: ImageResults, outcome: ImageOutcome, positions: Sequence[int], scale: float) -> list[list[Any]]:
    """[class, x, y, width, height, score, 1 true positive, 0 false positive or -1 ignored, outline, keypoints, surface], best
    first."""
    rows: list[list[Any]] = []
    for rank, label in enumerate(detections.labels.tolist()[:MOST]):
        if not positions[label]:
            continue
        outline = "" if detections.rles is None else _traced(detections.rles[rank], scale)
        keypoints = [] if detections.keypoints is None else _keypoints(detections.keypoints[rank], scale)
        score, right = round(float(detections.scores[rank]), 4), int(outcome.right[rank])
        surface = None
        if detections.others is not None and rank < MOST_SURFACES:
            surface = detected_surface(detections.others[rank], detections.boxes[rank].tolist(), scale)
        rows.append([positions[label] - 1, *_scaled(detections.boxes[rank], scale), score, right, outline, keypoints, surface])
    return rows


def _scaled(values: Any, scale: float) -> list[float]:
    return [round(float(value) * scale, 1) for value in values]


def _keypoints(flat: np.ndarray[Any, np.dtype[np.float64]], scale: float) -> list[list[float]]:
    """x, y and whether it is visible, of each keypoint. COCO's coordinates are pixel indices, so 0.5 is added."""
    return [[*_scaled((x + 0.5, y + 0.5), scale), int(seen > 0)] for x, y, seen in flat.reshape(-1, 3).tolist()]


def _encoded(code: Mapping[str, Any], size: tuple[int, int]) -> Any:
    return mask.frPyObjects(dict(code), *size) if isinstance(code["counts"], list) else code


def _traced(code: Any, scale: float) -> str:
    """The outlines of a run-length mask as path data, to be filled by the even-odd rule."""
    pixels = mask.decode(code).astype(np.bool_)
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return ""
    corner = np.array([columns[0], rows[0]], dtype=np.float64)
    outer, holes = traced(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return "".join(_outline(part + corner, scale) for part in [*outer, *holes])


def _outline(points: np.ndarray[Any, np.dtype[np.float64]], scale: float) -> str:
    small = simplified(points * scale, 0.4)
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in small.tolist()) + "Z"
