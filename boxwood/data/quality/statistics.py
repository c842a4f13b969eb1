"""Classes, boxes and sizes of a data set in the input of a network, and what they suggest.

Lengths are in pixels of the network's input: an image is scaled as `boxwood.data.ResizeShortestEdge` does. The suggestions are
rules of thumb, each with the figure that it comes from and the keys of the configuration, as a command takes them.

Letters: A boxes to train on (no crowd regions, none without area), I images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwood.data.coco_file import CocoFile
from boxwood.data.quality.checks import check_boxes
from boxwood.data.sampler import repeat_factors
from boxwood.data.transforms import resized_size

__all__ = ["DETECTRONS_RESIZES", "Anchors", "Resize", "Statistics", "advice", "count", "describe", "reached"]

Array = NDArray[np.float64]

LEAST_SIDE = 16.0
"""Pixels, root of a box's area: four cells of the finest feature map that detectors read, of stride 4."""
RARE = 0.1
"""A class in fewer images than this fraction of those of the most frequent class is rare."""


@dataclass(frozen=True)
class Anchors:
    """The shapes of a network's anchors."""

    levels: tuple[tuple[float, ...], ...]
    """Roots of their areas at each level."""
    ratios: tuple[float, ...]
    """Height / width."""

    @property
    def sizes(self) -> tuple[float, ...]:
        """Those of all levels, the smallest first."""
        return tuple(sorted({size for level in self.levels for size in level}))


@dataclass(frozen=True)
class Resize:
    """A transform that scales images, and where the configuration has it."""

    key: str
    """Such as ``data.train.transforms.0``."""
    short: tuple[int, ...]
    long: int

    def override(self, factor: float) -> str:
        """The keys that make images larger by ``factor``, in whole pixels."""
        short = ",".join(str(round(side * factor)) for side in self.short)
        return f"{self.key}.short=[{short}] {self.key}.long={round(self.long * factor)}"


@dataclass(frozen=True)
class Statistics:
    """Of one annotation file, for images with a shorter side ``short`` and none over ``long``."""

    short: int
    long: int
    names: list[str]
    instances: NDArray[np.int64]
    """(K,) boxes of each class, in the order of the file."""
    images: NDArray[np.int64]
    """(K,) images that show it."""
    per_image: NDArray[np.int64]
    """(I,) boxes."""
    sizes: Array
    """(A, 2) width and height."""
    scales: Array
    """(I,) the factor by which an image is resized."""
    has: NDArray[np.bool_]
    """(I, K) whether an image shows a class."""

    @property
    def sides(self) -> Array:
        """(A,) roots of the boxes' areas."""
        roots: Array = np.sqrt(self.sizes.prod(axis=1))
        return roots

    @property
    def ratios(self) -> Array:
        """(A,) height / width."""
        ratios: Array = self.sizes[:, 1] / self.sizes[:, 0]
        return ratios


DETECTRONS_RESIZES = tuple(Resize(f"data.{part}.transforms.0", (800,), 1333) for part in ("train", "val"))
"""Where Detectron's recipes scale images."""


def count(file: CocoFile, short: int, long: int) -> Statistics:
    """The statistics of a file whose annotations all have their images (`boxwood.data.quality.checks.check_identities`)."""
    scales = np.array([resized_size((h, w), short, long)[0] / h if min(h, w) > 0 else 1.0 for h, w in file.image_sizes.tolist()])
    placed, _ = check_boxes(file)
    trained_on = placed.usable & ~file.crowd & ~file.ignore & (file.image_rows >= 0)
    corners = placed.boxes[trained_on].astype(np.float64)
    ids = np.array([category["id"] for category in file.categories], dtype=np.int64)
    order = np.argsort(ids)
    labels = order[np.searchsorted(ids[order], file.category_ids[trained_on]).clip(max=len(ids) - 1)]
    rows = file.image_rows[trained_on]
    has = np.zeros((len(file.image_ids), len(ids)), dtype=np.bool_)
    has[rows, labels] = True
    return Statistics(
        short=short,
        long=long,
        names=[str(category["name"]) for category in file.categories],
        instances=np.bincount(labels, minlength=len(ids)),
        images=has.sum(axis=0),
        per_image=np.bincount(rows, minlength=len(file.image_ids)),
        sizes=(corners[:, 2:] - corners[:, :2]) * scales[rows, None],
        scales=scales,
        has=has,
    )


def reached(sizes: Array, anchors: Anchors, overlap: float = 0.5) -> float:
    """The fraction of boxes (A, 2) that an anchor at the same centre overlaps with an IoU of at least ``overlap``; 1 without boxes.

    >>> square = Anchors(((32.0,),), (1.0,))
    >>> reached(np.array([[32.0, 32.0], [32.0, 17.0], [32.0, 15.0], [8.0, 8.0]]), square)
    0.5
    """
    return float((_best_overlaps(sizes, anchors) >= overlap).mean()) if len(sizes) else 1.0


def advice(
    statistics: Statistics, anchors: Anchors | None, detections_per_image: int, resizes: Sequence[Resize] = DETECTRONS_RESIZES
) -> list[str]:
    """What the statistics of a train set suggest, a sentence each, which ends in the keys to change where there are any.

    ``resizes`` are the transforms that scale images, of train and val set. The anchors are compared with the boxes at the size that
    is suggested.
    """
    factor, sentences = _about_size(statistics, resizes)
    sentences += _about_anchors(statistics, anchors, factor)
    sentences += _about_classes(statistics)
    if (crowded := int((statistics.per_image > detections_per_image).sum())) > 0:
        most = int(statistics.per_image.max())
        sentences.append(
            f"{crowded:,} images have more than {detections_per_image} boxes, {most:,} at most, and no more are detected: "
            f"test.detections_per_image={-(-most // 100) * 100}"
        )
    return sentences


def describe(file: CocoFile) -> list[str]:
    """Images, boxes and a row per class as lines of text; lengths in pixels of the images."""
    empty = len(file.image_ids) - len(np.unique(file.image_rows[file.image_rows >= 0]))
    heights, widths = file.image_sizes.T
    corners = check_boxes(file)[0].boxes.astype(np.float64)
    sides = np.sqrt((corners[:, 2:] - corners[:, :2]).prod(axis=1))
    bounds = ("small (< 32 px)", sides < 32), ("medium", (sides >= 32) & (sides < 96)), ("large (>= 96 px)", sides >= 96)
    lines = [
        f"  images without annotations: {empty:,}",
        f"  image sizes: {widths.min()}-{widths.max()} x {heights.min()}-{heights.max()}, median {np.median(widths):.0f} x "
        f"{np.median(heights):.0f}",
        "  boxes by the root of their area: " + ", ".join(f"{name} {int(within.sum()):,}" for name, within in bounds),
        f"  crowd regions: {int(file.crowd.sum()):,}, masks: {int((file.mask_kinds > 0).sum()):,}, "
        f"with keypoints: {int((file.keypoint_rows >= 0).sum()):,}",
        f"  {'id':>8}  {'boxes':>9}  {'images':>8}  {'smallest':>8}  {'median':>8}  {'largest':>8}  class",
    ]
    for category in sorted(file.categories, key=lambda row: int(row["id"])):
        of_class = file.category_ids == category["id"]
        images = len(np.unique(file.annotation_image_ids[of_class]))
        quantiles = [f"{'-':>8}"] * 3
        if of_class.any():
            quantiles = [f"{q:8.1f}" for q in np.quantile(sides[of_class], (0, 0.5, 1))]
        cells = "  ".join(quantiles)
        lines.append(f"  {category['id']:>8}  {int(of_class.sum()):>9,}  {images:>8,}  {cells}  {category['name']}")
    return lines


# ------------------------------------------------------------------------------------------------------------ internals


def _best_overlaps(sizes: Array, anchors: Anchors) -> Array:
    """(A,) the IoU of each box with its best anchor, both at the same centre."""
    best = np.zeros(len(sizes))
    for size in anchors.sizes:
        for ratio in anchors.ratios:
            width, height = size / ratio**0.5, size * ratio**0.5
            shared = np.minimum(sizes[:, 0], width) * np.minimum(sizes[:, 1], height)
            best = np.maximum(best, shared / (sizes.prod(axis=1) + width * height - shared))
    return best


def _about_size(statistics: Statistics, resizes: Sequence[Resize]) -> tuple[float, list[str]]:
    """A larger input where many boxes are small, up to twice the images' size: by which factor, and the sentence."""
    sides = statistics.sides
    if not len(sides) or (small := float((sides < LEAST_SIDE).mean())) <= 0.1:
        return 1.0, []
    wanted_scale = LEAST_SIDE / max(float(np.quantile(sides, 0.1)), 1e-6)
    # Enlarging an image further adds no detail.
    max_scale = 2 / float(np.median(statistics.scales))
    finding = f"{small:.0%} of the boxes are under {LEAST_SIDE:g} pixels (root of the area) at a shorter side of {statistics.short}"
    if max_scale <= 1.1:
        return 1.0, [f"{finding}, which is already twice the images' size: cut the originals into tiles instead"]
    short = int(statistics.short * min(wanted_scale, max_scale) / 32 + 0.5) * 32
    if short <= statistics.short:
        return 1.0, []
    factor = short / statistics.short
    return factor, [f"{finding}; larger images help: " + " ".join(resize.override(factor) for resize in resizes)]


def _about_anchors(statistics: Statistics, anchors: Anchors | None, factor: float) -> list[str]:
    """How many boxes the anchors reach in images that are larger by ``factor``.

    Other anchors are not suggested: those that reach more boxes lowered AP in every training in which they were tried
    (docs/benchmarks.md).
    """
    sizes = statistics.sizes * factor
    if anchors is None or not len(sizes):
        return []
    where = "" if factor == 1 else f"at a shorter side of {statistics.short * factor:.0f}, "
    return [f"{where}{reached(sizes, anchors):.1%} of the boxes can be overlapped by an anchor with an IoU of 0.5 or more"]


def _about_classes(statistics: Statistics) -> list[str]:
    """Rare classes, by the rule of repeat-factor sampling."""
    shares = statistics.images / max(len(statistics.per_image), 1)
    shown = statistics.images > 0
    if not shown.any() or len(shares) < 2:
        return []
    threshold = round(RARE * float(shares.max()), 4)
    rare = np.flatnonzero(shown & (shares < threshold))
    if not len(rare) or not threshold:
        return []
    factors = repeat_factors(statistics.has, threshold)
    names = ", ".join(f"'{statistics.names[k]}' ({statistics.images[k]:,})" for k in rare[np.argsort(shares[rare])][:3].tolist())
    more = f" and {len(rare) - 3} more" if len(rare) > 3 else ""
    return [
        f"{names}{more}: under a tenth of the images of the most frequent class ({statistics.images.max():,}); "
        f"data.train.repeat_threshold={threshold:g} shows theirs up to {factors.max():.1f} times an epoch, which grows by "
        f"{factors.mean() - 1:.0%}"
    ]
