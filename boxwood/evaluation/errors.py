"""What each sort of error costs in AP (Bolya et al., TIDE, arXiv 2008.08115, section 2).

Every detection that is wrong at an IoU of 0.5 is of one sort, by the instance that it overlaps most; each sort costs as much as AP
at 0.5 would rise if it alone were put right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from boxwood.evaluation.truth import ImageResults, Results

__all__ = ["SORTS", "error_costs"]

Sort: TypeAlias = Literal["classification", "localisation", "both", "duplicate", "background", "missed"]
SORTS: tuple[Sort, ...] = ("classification", "localisation", "both", "duplicate", "background", "missed")
FOREGROUND, BACKGROUND = 0.5, 0.1
"""The IoUs t_f and t_b of the paper's section 2.2."""
RECALLS = np.linspace(0, 1, 101)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Judged:
    """One detection, after the comparison with its image."""

    score: float
    category: int
    right: bool
    sort: Sort | None = None
    """What is wrong with it."""
    instance: tuple[int, int] | None = None
    """Image id and number of the instance that it found, or should have."""


def error_costs(truth: Mapping[str, Any], results: Results, category_ids: Iterable[int]) -> dict[str, Any]:
    """``{"AP50", "cost": {sort: points of AP50}, "count": {sort: how many}}`` of boxes, all fractions.

    ``truth`` is a COCO dictionary, ``category_ids[label]`` the category of a label. A detection that is wrong is one of

    * classification: it overlaps an instance of another class by 0.5 or more;
    * localisation: it overlaps an instance of its class by 0.1 to 0.5;
    * both: it overlaps an instance of another class by 0.1 to 0.5;
    * duplicate: it overlaps an instance of its class by 0.5 or more, which a better one found;
    * background: it overlaps nothing by 0.1;

    and an instance is missed where no detection found it, nor would have, put right in class or place. To put right is to give the
    class or the box of the instance (of two detections of one the better stays), to leave out the detection, or the missed
    instance. Crowd regions are neither found nor missed.
    """
    ids = tuple(category_ids)
    categories: dict[int, list[int]] = defaultdict(list)
    boxes: dict[int, list[list[float]]] = defaultdict(list)
    crowds: dict[int, list[tuple[int, list[float]]]] = defaultdict(list)
    for annotation in truth["annotations"]:
        if annotation.get("iscrowd"):
            crowds[annotation["image_id"]].append((annotation["category_id"], annotation["bbox"]))
        else:
            categories[annotation["image_id"]].append(annotation["category_id"])
            boxes[annotation["image_id"]].append(annotation["bbox"])
    judged: list[_Judged] = []
    image_ids = sorted(image["id"] for image in truth["images"])
    for image_id in image_ids:
        if (found := results.get(image_id)) is not None and len(found):
            own = np.array(boxes.get(image_id, []), dtype=np.float64).reshape(-1, 4)
            judged += _judge(image_id, found, ids, own, np.array(categories.get(image_id, []), dtype=np.int64), crowds[image_id])
    owner = {(image_id, number): own for image_id in image_ids for number, own in enumerate(categories.get(image_id, []))}
    return _costs(judged, owner)


# ------------------------------------------------------------------------------------------------------------ internals


def _judge(
    image_id: int,
    found: ImageResults,
    ids: tuple[int, ...],
    boxes: Array,
    categories: NDArray[np.int64],
    crowds: list[tuple[int, list[float]]],
) -> list[_Judged]:
    """The detections of one image; those that lie in a crowd region of their class are left out."""
    own = np.array([ids[label] for label in found.labels.tolist()])
    overlaps = _overlaps(found.boxes, boxes)
    same = own[:, None] == categories[None, :]
    # In order of score, each takes the free instance of its class that it overlaps most, as in the COCO API.
    taken: dict[int, int] = {}
    for row in np.argsort(-found.scores, kind="stable").tolist():
        free = np.where(same[row], overlaps[row], 0.0)
        free[list(taken.values())] = 0
        if len(free) and free.max() >= FOREGROUND:
            taken[row] = int(free.argmax())
    judged = []
    for row, score in enumerate(found.scores.tolist()):
        category = int(own[row])
        if row in taken:
            judged.append(_Judged(score, category, True, None, (image_id, taken[row])))
            continue
        if any(crowd == category and _share(found.boxes[row], np.array(box)) >= FOREGROUND for crowd, box in crowds):
            continue
        sort, instance = _sort(overlaps[row], same[row])
        judged.append(_Judged(score, category, False, sort, None if instance is None else (image_id, instance)))
    return judged


def _sort(overlaps: Array, same: NDArray[np.bool_]) -> tuple[Sort, int | None]:
    """What is wrong with a detection that found nothing, and the instance that it is about."""
    of_class, of_others = np.where(same, overlaps, 0.0), np.where(same, 0.0, overlaps)
    best, other = of_class.max(initial=0.0), of_others.max(initial=0.0)
    if BACKGROUND <= best < FOREGROUND:
        return "localisation", int(of_class.argmax())
    if other >= FOREGROUND:
        return "classification", int(of_others.argmax())
    if best >= FOREGROUND:
        return "duplicate", int(of_class.argmax())
    if other >= BACKGROUND:
        return "both", int(of_others.argmax())
    return "background", None


def _costs(judged: list[_Judged], owner: Mapping[tuple[int, int], int]) -> dict[str, Any]:
    classes = set(owner.values())
    found = {one.instance for one in judged if one.right}
    nearly = {one.instance for one in judged if one.sort in ("classification", "localisation")}
    missed = {instance for instance in owner if instance not in found | nearly}
    base = _average_precision(judged, owner.values(), classes)
    count = {sort: sum(one.sort == sort for one in judged) for sort in SORTS} | {"missed": len(missed)}
    cost = {}
    for sort in SORTS:
        if sort == "missed":
            there = [category for instance, category in owner.items() if instance not in missed]
            better = _average_precision(judged, there, classes)
        else:
            better = _average_precision(_put_right(judged, sort, owner), owner.values(), classes)
        cost[sort] = better - base
    return {"AP50": base, "cost": cost, "count": count}


def _put_right(judged: list[_Judged], sort: Sort, owner: Mapping[tuple[int, int], int]) -> list[_Judged]:
    """The detections without one sort of error."""
    others = [one for one in judged if one.sort != sort]
    if sort not in ("classification", "localisation"):
        return others
    wrong = [(one, one.instance) for one in judged if one.sort == sort and one.instance is not None]
    mended = [replace(one, right=True, sort=None, category=owner[instance]) for one, instance in wrong]
    best: dict[tuple[int, int] | None, _Judged] = {}
    for one in sorted((*(one for one in others if one.right), *mended), key=lambda one: -one.score):
        best.setdefault(one.instance, one)  # of two that find one instance, the better stays
    return [*best.values(), *(one for one in others if not one.right)]


def _average_precision(judged: list[_Judged], instances: Iterable[int], classes: set[int]) -> float:
    """AP at 0.5 as the COCO API has it, the mean over the classes that have instances; a class that lost all of them to an oracle
    has everything that is there."""
    counts: dict[int, int] = defaultdict(int)
    for category in instances:
        counts[category] += 1
    of_class: dict[int, list[_Judged]] = defaultdict(list)
    for one in judged:
        of_class[one.category].append(one)
    aps = []
    for category in sorted(classes):
        own = sorted(of_class[category], key=lambda one: -one.score)
        if not counts[category]:
            aps.append(1.0)
            continue
        right = np.array([one.right for one in own], dtype=np.float64)
        recall = right.cumsum() / counts[category]
        precision = np.maximum.accumulate((right.cumsum() / np.arange(1, len(own) + 1))[::-1])[::-1]
        places = np.searchsorted(recall, RECALLS, side="left")
        aps.append(float(np.append(precision, 0.0)[np.minimum(places, len(precision))].mean()))
    return float(np.mean(aps)) if aps else -1.0


def _overlaps(boxes: Array, others: Array) -> Array:
    """IoU (N, M) of boxes x, y, width, height."""
    shared = _shared(boxes[:, None], others[None])
    total = boxes[:, None, 2:].prod(axis=2) + others[None, :, 2:].prod(axis=2) - shared
    overlaps: Array = np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)
    return overlaps


def _share(box: Array, region: Array) -> float:
    """How much of a box lies in a region."""
    area = float(box[2:].prod())
    return float(_shared(box, region)) / area if area > 0 else 0.0


def _shared(one: Array, other: Array) -> Array:
    start = np.maximum(one[..., :2], other[..., :2])
    end = np.minimum(one[..., :2] + one[..., 2:], other[..., :2] + other[..., 2:])
    shared: Array = np.clip(end - start, 0, None).prod(axis=-1)
    return shared
