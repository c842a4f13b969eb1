"""Notes that explain numbers of -1 or 0: the usual reasons why an AP is not as expected."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from boxwood.evaluation.truth import Results, Truth
from boxwood.structures import Categories

__all__ = ["about_areas", "explain", "some"]

Boxes: TypeAlias = NDArray[np.float64]
"""(N, 4) x, y, width, height."""

SIZES = {"APs": ("small", "up to 32 x 32"), "APm": ("medium", "32 x 32 to 96 x 96"), "APl": ("large", "from 96 x 96")}


def explain(truth: Truth, results: Results, categories: Categories, metrics: dict[str, Any], max_detections: int) -> list[str]:
    """Notes on ``metrics``, one sentence or two each; empty where there is nothing to explain."""
    notes = [*_about_truth(truth, metrics), *_about_results(truth, results, categories)]
    boxes, masks = metrics.get("bbox", {}).get("AP50"), metrics.get("segm", {}).get("AP50")
    if boxes == 0 and _comparable(truth, results, categories):
        notes.append(_about_places(truth, results, categories))
    flat = sum(int((detections.boxes[:, 2:] <= 0).any(axis=1).sum()) for detections in results.values())
    if flat and boxes is not None and boxes > 0:
        notes.append(f"{flat} detections have a box without width or height: they fit no instance and count as wrong")
    if masks == 0 and boxes is not None and boxes > 0:
        notes.append("segm AP is 0 although boxes fit: no mask overlaps its instance by an IoU of 0.5; is the mask head trained?")
    count = next((detections.keypoints.shape[1] // 3 for detections in results.values() if detections.keypoints is not None), 0)
    if count and count != truth.num_keypoints:
        notes.append(
            f"keypoints are not compared: the model predicts {count} per instance, the truth has {truth.num_keypoints or 'none'}; "
            "is it a file of keypoints of the same kind?"
        )
    if metrics.get("keypoints", {}).get("AP50") == 0 and boxes is not None and boxes > 0:
        notes.append(
            "keypoints AP is 0 although boxes fit: no OKS reaches 0.5; is the keypoint head trained, are the sigmas right?"
        )
    if max_detections != 100:
        notes.append(f"AP, and AR by size, count the best {max_detections} detections of an image and class; COCO's rule is 100")
    return notes


def about_areas(truth: Truth) -> list[str]:
    """A note on the areas that `Truth` computed; none where the truth has them all."""
    ids = truth.without_area
    if not ids:
        return []
    return [
        f"{len(ids)} annotations have no positive 'area' (ids {some(ids)}): that of the mask is taken, or else width x height of "
        "the box"
    ]


def some(values: Collection[Any], limit: int = 5) -> str:
    """The first ``limit`` values as text, with an ellipsis where there are more."""
    shown = ", ".join(str(value) for value in list(values)[:limit])
    return shown if len(values) <= limit else f"{shown}, ..."


def _about_truth(truth: Truth, metrics: dict[str, Any]) -> Iterator[str]:
    crowds = sum(annotation["iscrowd"] for annotation in truth.annotations)
    if len(truth.annotations) == crowds:
        yield f"the truth has no instances ({len(truth.images)} images, {crowds} crowd regions), so every AP and AR is -1"
        return
    table = metrics.get("bbox") or metrics.get("segm") or {}
    for key, (word, area) in SIZES.items():
        if table.get(key) == -1:
            yield f"{key} is -1: the truth has no {word} instances (area {area} pixels)"
    keypoints = metrics.get("keypoints", {})
    if keypoints.get("AP") == -1:
        yield "keypoints AP is -1: no instance of the truth has a labelled keypoint (visibility 1 or 2)"
    else:
        for key, (word, area) in SIZES.items():
            if keypoints.get(key) == -1 != table.get(key):
                yield f"keypoints {key} is -1: no {word} instance (area {area} pixels) has a labelled keypoint"
    absent = [name for name, count in zip(truth.names(), truth.counts(), strict=True) if not count]
    if absent:
        yield (
            "AP is the mean over the classes that occur: the truth has no instances of "
            f"{len(absent)} of its {len(truth.categories)} classes ({some(absent)})"
        )
    yield from about_areas(truth)
    if "segm" in metrics and len(truth.without_mask) == len(truth.annotations):
        yield "segm AP is -1: no annotation of the truth has a 'segmentation'"
    elif "segm" in metrics and truth.without_mask:
        yield (
            f"{len(truth.without_mask)} of {len(truth.annotations)} annotations have no 'segmentation' (ids "
            f"{some(truth.without_mask)}): for segm their boxes are regions where detections are neither right nor wrong"
        )


def _about_results(truth: Truth, results: Results, categories: Categories) -> Iterator[str]:
    strangers = [image_id for image_id in results if image_id not in truth.image_position]
    if results and len(strangers) == len(results):
        yield (
            f"no evaluated image is in the truth, so nothing can match: the detections' image ids are {some(strangers)}, "
            f"the truth's are {some(truth.image_position)}; are both of the same data set and split?"
        )
        return
    if strangers:
        yield f"{len(strangers)} evaluated images are not in the truth (ids {some(strangers)}); their detections are left out"
    if missing := [image_id for image_id in truth.image_position if image_id not in results]:
        yield (
            f"{len(missing)} of the truth's {len(truth.images)} images were not evaluated (ids {some(missing)}); "
            "their instances count as missed"
        )
    if not any(len(detections) for detections in results.values()):
        yield (
            f"no detections in any of {len(results)} images: every score is at or below the threshold (test.score_threshold), "
            "or the model is not trained"
        )
        return
    seen = sorted({label for detections in results.values() for label in detections.labels.tolist()})
    unknown = [categories.ids[label] for label in seen if categories.ids[label] not in truth.category_position]
    if len(unknown) == len(seen):
        yield (
            f"no detection has a category of the truth, so nothing can match: the detections' category ids are {some(unknown)}, "
            f"the truth's are {some(truth.category_position)}; was the model trained with other ids?"
        )
    elif unknown:
        yield f"detections of categories that the truth does not have are left out (category ids {some(unknown)})"


def _comparable(truth: Truth, results: Results, categories: Categories) -> bool:
    """Whether any detection is of an image and a category of the truth."""
    known = [category in truth.category_position for category in categories.ids]
    return any(
        known[label] for image_id, detections in results.items() if image_id in truth.image_position for label in detections.labels
    )


def _about_places(truth: Truth, results: Results, categories: Categories) -> str:
    """The likely reason why box AP is 0 although there are detections and truth, from how their boxes lie."""
    pairs = list(_pairs(truth, results))
    if not pairs:
        return "bbox AP is 0: no image has both detections and instances"
    best = max(float(iou(predicted, true).max()) for predicted, true in pairs)
    if best >= 0.5:
        classes = some([f"{label} = {name}" for label, name in enumerate(categories.names)])
        return (
            f"bbox AP is 0 although boxes fit (best IoU {best:.2f}): their classes never agree; do the model's labels ({classes}) "
            "mean the same classes as the truth's category ids?"
        )
    likely = "the model has not learnt to place boxes, or images and truth do not belong together"
    for reason, change in MISTAKES:
        if np.quantile([float(iou(*change(predicted, true)).max()) for predicted, true in pairs], 0.25) >= 0.5:
            likely = reason
            break
    return f"bbox AP is 0: no detection overlaps an instance by an IoU of 0.5 (best {best:.2f}); {likely}"


def _pairs(truth: Truth, results: Results) -> Iterator[tuple[Boxes, Boxes]]:
    """Detections (N, 4) and instances (M, 4), xywh, of each image that has both."""
    boxes: dict[int, list[list[float]]] = {}
    for annotation in truth.annotations:
        if not annotation["iscrowd"]:
            boxes.setdefault(annotation["image_id"], []).append(annotation["bbox"])
    for image_id, detections in results.items():
        position = truth.image_position.get(image_id)
        if position in boxes and len(detections):
            yield detections.boxes, np.asarray(boxes[position], dtype=np.float64)


def iou(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """(N, 4) and (M, 4) boxes, x, y, width, height -> (N, M) intersection over union; 0 for boxes without area.

    >>> iou(np.array([[0.0, 0, 4, 4]]), np.array([[2.0, 0, 4, 4]])).round(3).tolist()
    [[0.333]]
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, :2] + first[:, None, 2:], second[None, :, :2] + second[None, :, 2:])
    common = (high - low).clip(0).prod(axis=2)
    union = first[:, 2:].prod(axis=1)[:, None] + second[:, 2:].prod(axis=1)[None] - common
    overlap: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlap


def _as_size(boxes: Boxes) -> Boxes:
    """xyxy numbers that were read as xywh -> xywh."""
    return np.concatenate([boxes[:, :2], (boxes[:, 2:] - boxes[:, :2]).clip(0)], axis=1)


def _as_corners(boxes: Boxes) -> Boxes:
    """xywh numbers that were read as xyxy, and so converted -> xywh."""
    return np.concatenate([boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]).clip(0)], axis=1)


def _same_extent(predicted: Boxes, true: Boxes) -> tuple[Boxes, Boxes]:
    """Detections scaled so that they reach as far right and down as the truth."""
    reach = [(boxes[:, :2] + boxes[:, 2:]).max(axis=0) for boxes in (predicted, true)]
    scale = reach[1] / np.maximum(reach[0], 1e-9)
    return predicted * np.concatenate([scale, scale]), true


MISTAKES: tuple[tuple[str, Callable[[Boxes, Boxes], tuple[Boxes, Boxes]]], ...] = (
    (
        "the truth's 'bbox' looks like x1, y1, x2, y2 where COCO has x, y, width, height",
        lambda predicted, true: (predicted, _as_size(true)),
    ),
    (
        "the detections look like x, y, width, height where x1, y1, x2, y2 belong",
        lambda predicted, true: (_as_corners(predicted), true),
    ),
    ("x and y look exchanged", lambda predicted, true: (predicted[:, [1, 0, 3, 2]], true)),
    ("boxes look scaled: are they in the pixels of the original image, is the image's size in the truth right?", _same_extent),
)
"""Common mistakes in boxes, and the function that undoes each in (predicted, true) boxes."""
