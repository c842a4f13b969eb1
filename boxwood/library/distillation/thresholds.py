"""Which detections become labels: an image is to have as many instances, on average, as the labelled images have.

Letters: N detections of all images, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Threshold", "cut", "thresholds"]


@dataclass(frozen=True)
class Threshold:
    """The lowest score with which detections become labels, of one class or of all."""

    target: float
    """Instances an image of the labelled set."""
    wanted: int
    """Instances that make this target on the images that were labelled."""
    score: float | None
    """None: there is no label."""
    labels: int
    """Detections of at least this score."""

    @property
    def missing(self) -> int:
        """How many of the wanted instances have no detection of at least the lowest score that is allowed."""
        return max(0, self.wanted - self.labels)


def cut(scores: NDArray[np.float64], target: float, images: int, floor: float = 0.0) -> Threshold:
    """The threshold of detections with ``scores`` (N,) on so many images: the k-th largest score, where k is ``target`` times the
    images, rounded; at least ``floor``. Detections that tie there are all labels; where there are fewer than k, all are.

    >>> cut(np.array([0.9, 0.8, 0.7, 0.2]), target=1.5, images=2)
    Threshold(target=1.5, wanted=3, score=0.7, labels=3)
    >>> cut(np.array([0.9, 0.8, 0.7, 0.2]), target=1.5, images=2, floor=0.75)
    Threshold(target=1.5, wanted=3, score=0.75, labels=2)
    """
    wanted = math.floor(target * images + 0.5)
    if wanted == 0 or not len(scores):
        return Threshold(target, wanted, None, 0)
    best_first = np.sort(scores)[::-1]
    score = max(float(best_first[min(wanted, len(best_first)) - 1]), floor)
    labels = int((scores >= score).sum())
    return Threshold(target, wanted, score if labels else None, labels)


def thresholds(
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    targets: NDArray[np.float64],
    images: int,
    *,
    floor: float,
    per_class: bool,
) -> list[Threshold]:
    """The threshold of each class (K); without ``per_class`` all have the same, which is for their sum.

    ``scores`` and ``labels`` (N,) are the detections', ``targets`` (K,) the instances an image of the labelled set.
    """
    of_class = [scores[labels == label] for label in range(len(targets))]
    if per_class:
        return [cut(part, target, images, floor) for part, target in zip(of_class, targets.tolist(), strict=True)]
    score = cut(scores, float(targets.sum()), images, floor).score
    results = []
    for part, target in zip(of_class, targets.tolist(), strict=True):
        count = 0 if score is None else int((part >= score).sum())
        results.append(Threshold(target, math.floor(target * images + 0.5), score if count else None, count))
    return results
