"""Annotations of COCO as rows of YOLO's text files: boxes, outlines, or boxes with keypoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hotcoco import mask as coco_mask
from numpy.typing import NDArray

from boxwood.columns import are_counts
from boxwood.data.formats.yolo_yaml import YoloPose
from boxwood.ops.contours import traced
from boxwood.pixels import MAX_PIXELS

__all__ = ["YoloRows"]

Points = NDArray[np.float64]

CHANGED = 1e-6
"""Pixels by which a coordinate must change to be counted as changed."""
BOX_OFF = 0.01
"""Pixels by which a box may differ from the extent of its mask; COCO's files are rounded to these."""


@dataclass
class YoloRows:
    """Writes rows of one kind, and counts what they cannot hold."""

    numbers: dict[int, int]
    """The class number of each category id."""
    outlines: bool
    """Rows are outlines rather than boxes."""
    pose: YoloPose | None
    lost: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(
        cls, categories: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], pose: YoloPose | None = None
    ) -> YoloRows:
        """The kind of rows that suits the annotations: with keypoints, else outlines, else boxes. ``pose`` are the keypoints of the
        data set's other splits."""
        written = [annotation for annotation in annotations if not annotation.get("iscrowd")]
        pose = _pose_of(categories, written) or pose
        outlines = pose is None and any(annotation.get("segmentation") for annotation in written)
        rows = cls({category["id"]: number for number, category in enumerate(categories)}, outlines, pose)
        rows.lost["classes' names of keypoints"] = sum(pose is None or part != pose.names for part in _declared(categories))
        return rows

    def line(self, annotation: Mapping[str, Any], size: tuple[int, int]) -> str | None:
        """The row of an annotation of an image of ``size`` (height, width), or None where YOLO has no place for it."""
        if annotation.get("iscrowd"):
            self.lost["crowd regions (left out)"] += 1
            return None
        box = self._clipped_box(annotation["bbox"], size)
        if box is None:
            return None
        self.lost["marks of objects to ignore"] += bool(annotation.get("ignore"))
        height, width = size
        if self.outlines:
            shares = (self._outline(annotation, box, size) / (width, height)).clip(0, 1).ravel().tolist()
        else:
            self.lost["masks"] += bool(annotation.get("segmentation"))
            x1, y1, x2, y2 = box
            shares = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
            shares += self._keypoints(annotation, size)
        return " ".join(map(repr, (self.numbers[annotation["category_id"]], *shares)))

    def _clipped_box(self, bbox: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float] | None:
        """The corners of a box inside the image, or None where nothing of it is."""
        x, y, box_width, box_height = map(float, bbox)
        height, width = size
        corners = np.array([x, y, x + box_width, y + box_height])
        if not np.isfinite(corners).all():
            self.lost["boxes with nan or infinity (left out)"] += 1
            return None
        x1, y1, x2, y2 = (clipped := np.clip(corners, 0, [width, height, width, height])).tolist()
        if not (x2 > x1 and y2 > y1):
            self.lost["boxes without area in their image (left out)"] += 1
            return None
        self.lost["boxes partly outside their image (clipped)"] += bool((np.abs(clipped - corners) > CHANGED).any())
        return x1, y1, x2, y2

    def _outline(self, annotation: Mapping[str, Any], box: tuple[float, float, float, float], size: tuple[int, int]) -> Points:
        """The mask as one outline in pixels, (N, 2); of an instance without mask its box."""
        x1, y1, x2, y2 = box
        corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
        segmentation = annotation.get("segmentation")
        if not segmentation:
            self.lost["boxes without mask (written as outlines of four corners)"] += 1
            return corners
        parts = self._polygons(segmentation) if isinstance(segmentation, list) else self._traced(segmentation, size)
        if not parts:
            self.lost["masks without a usable outline (written as boxes)"] += 1
            return corners
        self.lost["masks of several parts or with holes (written as one outline with connecting lines)"] += len(parts) > 1
        outline = joined(parts)
        clipped = outline.clip(0, (size[1], size[0]))
        self.lost["outlines partly outside their image (clipped)"] += bool((np.abs(clipped - outline) > CHANGED).any())
        extent = np.concatenate([clipped.min(axis=0), clipped.max(axis=0)])
        self.lost["boxes that are not the extent of their mask (the mask is written)"] += bool(
            (np.abs(extent - box) > BOX_OFF).any()
        )
        return clipped

    def _polygons(self, parts: Iterable[Any]) -> list[Points]:
        """The usable polygons of a mask, (N, 2) each."""
        usable = []
        for part in parts:
            points = np.array(part, dtype=np.float64)
            if len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
                self.lost["polygon parts with under 3 points or with nan (left out)"] += 1
            else:
                usable.append(points.reshape(-1, 2))
        return usable

    def _traced(self, code: Mapping[str, Any], size: tuple[int, int]) -> list[Points]:
        """The outlines of the parts and holes of a mask of run lengths, (N, 2) each; the largest part first."""
        if list(code.get("size", ())) != list(size) or size[0] * size[1] > MAX_PIXELS:
            return []
        try:
            counts = code["counts"]
            packed = coco_mask.frPyObjects(dict(code), *size) if are_counts(counts) else dict(code)
            pixels = np.asarray(coco_mask.decode(packed))
        except Exception:  # the decoder of damaged run lengths raises errors of several types
            return []
        rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
        if not len(rows):
            return []
        self.lost["masks of run lengths (written as outlines)"] += 1
        (top, bottom), (left, right) = rows[[0, -1]], columns[[0, -1]]
        corner = np.array([left, top])
        outer, holes = traced(pixels[top : bottom + 1, left : right + 1] != 0)
        return [_without_steps(outline) + corner for outline in (*sorted(outer, key=len, reverse=True), *holes)]

    def _keypoints(self, annotation: Mapping[str, Any], size: tuple[int, int]) -> list[float]:
        """The numbers of the keypoints, three each; zeros where they are not labelled."""
        if self.pose is None:
            return []
        count = len(self.pose.names)
        given = annotation.get("keypoints") or [0.0] * (3 * count)
        points = np.array(given, dtype=np.float64)
        if len(points) != 3 * count or not np.isfinite(points).all() or not np.isin(points[2::3], (0, 1, 2)).all():
            self.lost["sets of keypoints of another number, or with nan (left out)"] += 1
            points = np.zeros(3 * count)
        rows = points.reshape(-1, 3)
        shares = rows[:, :2] / (size[1], size[0])
        inside = ((shares >= 0) & (shares <= 1)).all(axis=1)
        self.lost["keypoints outside their image (left out)"] += int((~inside & (rows[:, 2] > 0)).sum())
        labelled = inside & (rows[:, 2] > 0)
        numbers: list[float] = (np.column_stack([shares, rows[:, 2]]) * labelled[:, None]).ravel().tolist()
        return numbers


def joined(parts: Sequence[Points]) -> Points:
    """One closed outline that encloses what several enclose: from a point of one a line leads to the nearest of the next, and back.

    >>> first, second = np.array([[0.0, 0], [2, 0], [2, 2]]), np.array([[5.0, 2], [7, 2], [7, 4]])
    >>> joined([first, second]).tolist()
    [[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [5.0, 2.0], [7.0, 2.0], [7.0, 4.0], [5.0, 2.0], [2.0, 2.0]]
    """
    outline, *others = parts
    for part in others:
        # The nearest pair by a sample of both, since all pairs of long outlines would take long.
        a = np.unique(np.linspace(0, len(outline) - 1, 500).round().astype(int))
        b = np.unique(np.linspace(0, len(part) - 1, 500).round().astype(int))
        distances = ((outline[a, None] - part[None, b]) ** 2).sum(axis=2)
        first, second = np.unravel_index(distances.argmin(), distances.shape)
        here, there = int(a[first]), int(b[second])
        loop = np.concatenate([np.roll(part, -there, axis=0), part[there : there + 1]])
        outline = np.concatenate([outline[: here + 1], loop, outline[here:]])
    return outline


def _without_steps(outline: Points) -> Points:
    """An outline along the edges of pixels without the points in the middle of its straight lines."""
    before, after = np.roll(outline, 1, axis=0), np.roll(outline, -1, axis=0)
    corners: Points = outline[((outline - before) != (after - outline)).any(axis=1)]
    return corners


def _declared(categories: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The names of keypoints that categories declare."""
    lists = [names for category in categories if isinstance(names := category.get("keypoints"), list) and names]
    return [tuple(map(str, names)) for names in lists]


def _pose_of(categories: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]]) -> YoloPose | None:
    """The keypoints of a set: as many as most of its instances have, with the names that its categories declare."""
    lengths = Counter(len(annotation["keypoints"]) // 3 for annotation in annotations if annotation.get("keypoints"))
    if not lengths:
        return None
    count = lengths.most_common(1)[0][0]
    names = next((names for names in _declared(categories) if len(set(names)) == len(names) == count), None)
    return YoloPose(names or tuple(f"keypoint_{index}" for index in range(count)), 3)
