"""Average precision of dense pose, by detectron2's rules: the COCO API's matching with other similarities.

    GPS    geodesic point similarity: mean over a person's points of exp(-d^2 / (2 kappa^2)), d metres along the surface
    IoU    of the masks of person and detection
    GPSm   the square root of their product

Letters: D detections and N instances of one image and class, T thresholds, P points of an instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hotcoco import mask as coco_mask
from numpy.typing import NDArray

from boxwood.dense_pose import body_mask, stored_planes
from boxwood.errors import UserError
from boxwood.evaluation.coco import CocoEvaluator, mean_of_known
from boxwood.evaluation.evaluator import Metrics
from boxwood.evaluation.surface import GROUP_NAMES, PART_GROUPS, Surface, similarity
from boxwood.evaluation.truth import ImageResults
from boxwood.structures import Categories

__all__ = ["DensePoseEvaluator"]

MOST_DETECTIONS = 20
"""Of an image and a class that count."""
RECALLS = np.linspace(0, 1, 101)
AREAS = {"": (0.0, 1e10), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
"""The suffix of a number, and the square pixels of its instances; there are no small ones."""
SAME_BOX = 0.8
"""A detection whose box overlaps an instance without dense pose by so much (IoU) is no false alarm."""
LAST_PIXEL = 255
"""The largest number of dp_x and dp_y: where evaluation looks for points, a box is so many units wide."""

Array = NDArray[np.float64]
Planes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Pairs:
    """The detections (best first, D) and instances (N) of one image and class."""

    scores: Array
    detected_areas: Array
    areas: Array
    ignored: NDArray[np.bool_]
    """(N,) the instances without dense pose."""
    boxes: Array
    """(D, N) IoU of boxes."""
    similarities: dict[str, Array]
    """(D, N) by the name of the table."""
    points: list[list[Array]]
    """[D][N] the similarity of each point; empty where GPS is not computed."""
    groups: list[NDArray[np.int64]]
    """[N] the group of each point's true part."""


class DensePoseEvaluator(CocoEvaluator):
    """AP and AR of dense pose, in fractions; -1 where there is no truth. COCO's numbers of boxes, masks and keypoints are beside
    them.

    ``dense_pose`` compares by GPS, ``dense_pose_gpsm`` by GPSm, ``dense_pose_iou`` by the IoU of the masks alone, at thresholds
    from ``lowest`` to 0.95; an image's best 20 detections count. ``dense_pose_parts`` is the mean similarity of the points of each
    part of the body in pairs of GPS 0.5 or more. Instances without points are ignored, and so are detections of them. ``surface``
    None: the IoU alone, with a note. ``kappa`` None: metres by part, as all released evaluators have; the paper has 0.255.

    ``truth`` is a COCO dictionary with the keys of DensePose-COCO. Raises `UserError` where it has no dense pose.
    """

    def __init__(
        self,
        truth: Mapping[str, Any],
        categories: Categories,
        surface: Surface | None,
        kappa: float | None = None,
        lowest: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__(truth, categories, max_detections=max_detections)
        if not any(annotation.get("dp_x") for annotation in truth["annotations"]):
            raise UserError(
                "the measure dense_pose needs annotations with dp_x, dp_y, dp_I, dp_U and dp_V, and the truth has none; set "
                "data.val.annotations to a file that has them, or evaluator.kind to another measure"
            )
        self.surface, self.kappa = surface, kappa
        self.thresholds = np.linspace(lowest, 0.95, round((0.95 - lowest) / 0.05) + 1)
        self.persons: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
        """By image id and category id."""
        for annotation in truth["annotations"]:
            self.persons.setdefault((annotation["image_id"], annotation["category_id"]), []).append(annotation)
        self.sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}

    def compute(self) -> Metrics:
        """The metrics of all detections; images of the truth that were not added count as images without detections."""
        metrics = super().compute()
        if self.results and all(detections.others is None for detections in self._deciding_results()):
            metrics["notes"].append("these detections have no dense pose, so it is not measured")
            return metrics
        pairs = [self._pairs_of(category, label) for label, category in enumerate(self.categories.ids)]
        names = ["dense_pose", "dense_pose_gpsm", "dense_pose_iou"] if self.surface is not None else ["dense_pose_iou"]
        tables = {name: self._table([self._curves(of_class, name) for of_class in pairs]) for name in names}
        metrics = {
            **{k: v for k, v in metrics.items() if k not in ("per_class", "notes", "max_detections")},
            **tables,
            **{k: metrics[k] for k in ("per_class", "max_detections", "notes")},
        }
        if self.surface is None:
            metrics["notes"].append(
                "GPS needs the surface of the body: set evaluator.surface to a folder with SMPL_subdiv.mat, "
                "SMPL_SUBDIV_TRANSFORM.mat and Pdist_matrix.pkl of https://dl.fbaipublicfiles.com/densepose/data/, which are not "
                "for commercial use, or to the body.npz of generated bodies"
            )
            return metrics
        metrics["dense_pose_parts"] = self._parts([pair for of_class in pairs for pair in of_class])
        how = "by part, as in all released evaluators" if self.kappa is None else f"{self.kappa:g} m for all parts"
        metrics["notes"].append(f"GPS with kappa {how}; the best {MOST_DETECTIONS} detections of an image count")
        return metrics

    # -------------------------------------------------------------------------------------------------------- similarities

    def _pairs_of(self, category: int, label: int) -> list[_Pairs]:
        """Of each image of the truth with instances or detections of the class."""
        pairs = []
        for image in self.truth.images:
            persons, detections = self.persons.get((image["id"], category), []), self.results.get(image["id"])
            ranks = [] if detections is None else np.flatnonzero(detections.labels == label)[:MOST_DETECTIONS].tolist()
            if persons or ranks:
                pairs.append(self._compared(image["id"], persons, detections, ranks))
        return pairs

    def _compared(
        self, image_id: int, persons: list[Mapping[str, Any]], detections: ImageResults | None, ranks: list[int]
    ) -> _Pairs:
        boxes = np.array([person["bbox"] for person in persons], dtype=np.float64).reshape(-1, 4)
        detected = np.zeros((0, 4)) if detections is None else detections.boxes[ranks]
        planes = [] if detections is None else [_planes(detections, rank, image_id) for rank in ranks]
        size = self.sizes[image_id]
        masks = [_true_mask(person, size) for person in persons]
        found = [_placed(plane[0] > 0, box, size) for plane, box in zip(planes, detected, strict=True)]
        overlaps = np.array([[_iou(mask, true) for true in masks] for mask in found]).reshape(len(ranks), len(persons))
        similarities, points = {"dense_pose_iou": overlaps}, []
        if self.surface is not None:
            points = [[self._points(p, plane, box) for p in persons] for plane, box in zip(planes, detected, strict=True)]
            gps = np.array([[row.mean() if len(row) else 0.0 for row in rows] for rows in points]).reshape(overlaps.shape)
            similarities |= {"dense_pose": gps, "dense_pose_gpsm": np.sqrt(gps * overlaps)}
        return _Pairs(
            np.zeros(0) if detections is None else detections.scores[ranks],
            detected[:, 2] * detected[:, 3],
            np.array([person["area"] for person in persons], dtype=np.float64),
            np.array([not person.get("dp_x") for person in persons], dtype=np.bool_),
            np.array(coco_mask.iou(detected, boxes, [0] * len(boxes)), dtype=np.float64).reshape(overlaps.shape),
            similarities,
            points,
            [np.array(PART_GROUPS)[np.array(person.get("dp_I", ()), dtype=np.int64)] for person in persons],
        )

    def _points(self, person: Mapping[str, Any], planes: Planes, box: Array) -> Array:
        """The similarity of each of a person's points; zeros where all of them lie beside the detection."""
        if not person.get("dp_x"):
            return np.zeros(0)
        assert self.surface is not None
        x, y, width, height = person["bbox"]
        places = np.stack([np.array(person["dp_x"]) * width / LAST_PIXEL + x, np.array(person["dp_y"]) * height / LAST_PIXEL + y])
        columns, rows = np.trunc(places - box[:2, None]).astype(np.int64)
        inside = (columns >= 0) & (columns < int(box[2])) & (rows >= 0) & (rows < int(box[3]))
        values = planes[:, rows.clip(0, planes.shape[1] - 1), columns.clip(0, planes.shape[2] - 1)] * inside
        detected = self.surface.nearest(values[0].astype(np.int64), values[1:].T / 255)
        parts = np.array(person["dp_I"]).astype(np.int64)
        true = self.surface.nearest(parts, np.stack([person["dp_U"], person["dp_V"]], axis=1))
        return similarity(self.surface.distance(detected, true), parts, self.kappa)

    # ------------------------------------------------------------------------------------------------------------ matching

    def _curves(self, pairs: list[_Pairs], name: str) -> tuple[Array, Array]:
        """Precision (T, 101, areas) and recall (T, areas) of one class; -1 where it has no instance."""
        curves = [self._curve(pairs, name, area) for area in AREAS.values()]
        return np.stack([precision for precision, _ in curves], axis=2), np.stack([recall for _, recall in curves], axis=1)

    def _curve(self, pairs: list[_Pairs], name: str, area: tuple[float, float]) -> tuple[Array, Array]:
        matches = [match(pair, name, self.thresholds, area) for pair in pairs]
        empty = np.zeros((len(self.thresholds), 0), dtype=np.bool_)
        order = np.argsort(-np.concatenate([np.zeros(0), *(pair.scores for pair in pairs)]), kind="stable")
        right, ignored = (np.concatenate([empty, *(m[k] for m in matches)], axis=1)[:, order] for k in (0, 1))
        count = sum(int((~m[2]).sum()) for m in matches)
        precision, recall = np.full((len(right), len(RECALLS)), -1.0), np.full(len(right), -1.0)
        if not count:
            return precision, recall
        for row, (hits, misses) in enumerate(zip(right & ~ignored, ~right & ~ignored, strict=True)):
            true, false = np.cumsum(hits, dtype=np.float64), np.cumsum(misses, dtype=np.float64)
            recalls, precisions = true / count, true / np.maximum(true + false, np.spacing(1))
            recall[row] = recalls[-1] if len(recalls) else 0.0
            envelope = np.append(np.maximum.accumulate(precisions[::-1])[::-1], 0.0)
            precision[row] = envelope[np.searchsorted(recalls, RECALLS, side="left")]
        return precision, recall

    def _table(self, curves: list[tuple[Array, Array]]) -> dict[str, float]:
        """The numbers of one similarity, the mean over classes."""
        precision, recall = (np.stack([curve[k] for curve in curves], axis=-1) for k in (0, 1))
        at = {round(100 * threshold): row for row, threshold in enumerate(self.thresholds)}
        known = [number for number in (20, 30, 40, 50, 75) if number in at]
        table = {"AP": mean_of_known(precision[:, :, 0])}
        table |= {f"AP{number}": mean_of_known(precision[at[number], :, 0]) for number in known}
        table |= {f"AP{size}": mean_of_known(precision[:, :, area]) for area, size in enumerate(AREAS) if size}
        table["AR"] = mean_of_known(recall[:, 0])
        table |= {f"AR{number}": mean_of_known(recall[at[number], 0]) for number in (50, 75) if number in at}
        return table | {f"AR{size}": mean_of_known(recall[:, area]) for area, size in enumerate(AREAS) if size}

    def _parts(self, pairs: list[_Pairs]) -> dict[str, float]:
        """The mean similarity of points by group of parts, of each instance with its best detection where GPS is at least 0.5."""
        values: dict[int, list[float]] = {}
        for pair in pairs:
            for column, groups in enumerate(pair.groups):
                scores = pair.similarities["dense_pose"][:, column]
                if not pair.ignored[column] and len(scores) and scores.max() >= 0.5:
                    for group, value in zip(groups.tolist(), pair.points[int(scores.argmax())][column].tolist(), strict=True):
                        values.setdefault(group, []).append(value)
        return {name: float(np.mean(values[group])) if group in values else -1.0 for group, name in enumerate(GROUP_NAMES, start=1)}


def match(
    pair: _Pairs, name: str, thresholds: Array, area: tuple[float, float]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Which detections are matched (T, D), which are ignored (T, D), and which instances are (N,)."""
    beyond = pair.ignored | (pair.areas < area[0]) | (pair.areas > area[1])
    order = np.argsort(beyond, kind="stable")
    ignored, similarities, boxes = beyond[order], pair.similarities[name][:, order], pair.boxes[:, order]
    shape = (len(thresholds), len(pair.scores))
    matched, passed = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
    free = np.ones(0, dtype=np.bool_)
    for row, threshold in enumerate(thresholds):
        free = np.ones(len(ignored), dtype=np.bool_)
        for detection in range(shape[1]):
            best = _best(similarities[detection], free, ignored, min(threshold, 1 - 1e-10))
            if best >= 0:
                free[best] = False
                matched[row, detection], passed[row, detection] = True, ignored[best]
    # A box on an instance without dense pose has no similarity with it; it is recognised by the box.
    for detection in np.flatnonzero(~matched[-1]).tolist() if len(ignored) else ():
        candidates = np.flatnonzero(free & (boxes[detection] >= SAME_BOX))
        if len(candidates):
            best = int(candidates[boxes[detection, candidates].argmax()])
            passed[:, detection] = ignored[best]
            if ignored[best]:
                matched[-1, detection], free[best] = True, False
    if len(ignored) and ignored.all():
        passed[:] = True
    too_small_or_large = (pair.detected_areas < area[0]) | (pair.detected_areas > area[1])
    return matched, passed | (~matched & too_small_or_large), ignored


def _best(similarities: Array, free: NDArray[np.bool_], ignored: NDArray[np.bool_], threshold: float) -> int:
    """The free instance of the highest similarity of at least ``threshold``, the last of equal ones; an ignored one only where
    there is no other; -1 for none."""
    for among in (~ignored, ignored):
        rows = np.flatnonzero(free & among & (similarities >= threshold) & (similarities > 0))
        if len(rows):
            return int(rows[::-1][similarities[rows[::-1]].argmax()])
    return -1


def _planes(detections: ImageResults, rank: int, image_id: int) -> Planes:
    """(3, h, w) uint8 part, 255 U and 255 V of a detection. Raises `UserError` where it has none."""
    record = {} if detections.others is None else detections.others[rank]
    try:
        return stored_planes(record, detections.boxes[rank].tolist())
    except ValueError as error:
        raise UserError(f"image id {image_id}, detection {rank}: {error}; write the detections again") from None


def _true_mask(person: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W): the coarse parts in the pixels of the box, or else the segmentation."""
    box = np.array(person["bbox"], dtype=np.float64)
    masks = person.get("dp_masks")
    if masks:
        try:
            body = body_mask(masks)
        except ValueError as error:
            raise UserError(
                f"annotation {person['id']} of the truth: 'dp_masks' cannot be decoded ({error}); correct the file"
            ) from None
        rows, columns = (_stretching(max(1, round(side)), len(body)) for side in box[:1:-1])
        return _placed(rows @ body @ columns.T > 0.5, box, size)  # which cuts what rounding added
    code = person.get("segmentation")
    if not code:
        return np.zeros(size, dtype=np.bool_)
    if isinstance(code, list):
        code = coco_mask.merge(coco_mask.frPyObjects(code, *size))
    elif isinstance(code["counts"], list):
        code = coco_mask.frPyObjects(code, *size)
    pixels: NDArray[np.bool_] = coco_mask.decode(code).astype(np.bool_)
    return pixels


def _stretching(pixels: int, cells: int) -> Array:
    """The (pixels, cells) weights by which a row of cells is stretched so that the first and the last stay the first and the last.

    As in SciPy's zoom, which the reference calls, the last is lost where rounding puts it behind the row.
    """
    places = np.arange(pixels) * ((cells - 1) / max(pixels - 1, 1))
    weights: Array = (1 - np.abs(places[:, None] - np.arange(cells))).clip(min=0) * (places <= cells - 1)[:, None]
    return weights


def _placed(mask: NDArray[np.bool_], box: Array, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W): a mask of a box's pixels in the image, from the box's first whole pixel on."""
    placed = np.zeros(size, dtype=np.bool_)
    left, top, width, height = (int(number) for number in box)
    rows, columns = slice(max(top, 0), min(top + height, size[0])), slice(max(left, 0), min(left + width, size[1]))
    part = mask[rows.start - top : max(rows.stop, rows.start) - top, columns.start - left : max(columns.stop, columns.start) - left]
    placed[rows.start : rows.start + part.shape[0], columns.start : columns.start + part.shape[1]] = part
    return placed


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0
