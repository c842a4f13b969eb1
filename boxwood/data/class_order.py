"""Classes go by name: a data set whose classes have other ids, or another order, than those of the detector."""

from __future__ import annotations

import logging
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boxwood.columns import short
from boxwood.data.dataset import Dataset
from boxwood.errors import UserError
from boxwood.interactions import InteractionFacts
from boxwood.structures import Categories, Sample

__all__ = ["ReorderedClasses", "check_same_names", "in_order_of"]

logger = logging.getLogger(__name__)

NUM_NAMES = 10
"""Of classes in a message."""


class ReorderedClasses:
    """A data set with the labels of another order of its classes; category ids stay those of its file.

    ``order`` has for each new label the label in ``dataset``.
    """

    def __init__(self, dataset: Dataset, order: list[int]) -> None:
        self.dataset = dataset
        self._order = order
        old = dataset.categories
        self.categories = replace(old, ids=tuple(old.ids[i] for i in order), names=tuple(old.names[i] for i in order))
        self._new_labels = torch.from_numpy(np.append(np.argsort(order), -1))  # the last is for regions without a class, -1

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = copy(self.dataset[index])
        sample.labels = self._new_labels[sample.labels]
        return sample

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of image ``index`` without reading its pixels."""
        return self.dataset.size(index)

    @property
    def repeats(self) -> NDArray[np.float64] | None:
        """How often each image occurs in an epoch; None: once."""
        repeats: NDArray[np.float64] | None = getattr(self.dataset, "repeats", None)
        return repeats

    @property
    def mask_counts(self) -> NDArray[np.int64] | None:
        """(K, 2) of each class the instances that have a mask, and all instances; None where it is not known."""
        counts: NDArray[np.int64] | None = getattr(self.dataset, "mask_counts", None)
        return None if counts is None else counts[self._order]

    def to_coco(self) -> dict[str, Any]:
        """The ground truth, with the ids of the file."""
        return self.dataset.to_coco()


def check_same_names(categories: Categories, others: Categories, first: str, second: str) -> None:
    """Raise `UserError` where two data sets, or a detector and a data set, do not have classes of the same names.

    >>> check_same_names(Categories((1,), ("cat",)), Categories((1, 2), ("cat", "dog")), "data.train", "data.val")
    Traceback (most recent call last):
    boxwood.errors.UserError: data.train and data.val have different categories: only data.val has 2 'dog'; ...
    """
    parts = []
    for name, mine, theirs in ((first, categories, others), (second, others, categories)):
        if only := [f"{i} {short(n)}" for i, n in zip(mine.ids, mine.names, strict=True) if n not in theirs.names]:
            more = f" and {len(only) - NUM_NAMES} more" if len(only) > NUM_NAMES else ""
            parts.append(f"only {name} has " + ", ".join(only[:NUM_NAMES]) + more)
    if not parts and len(categories) != len(others):
        parts.append("a name stands twice")
    if parts:
        raise UserError(
            f"{first} and {second} have different categories: {'; '.join(parts)}; give both the same ones (a class may have no "
            "annotations)"
        )


def in_order_of(categories: Categories, dataset: Dataset, first: str, second: str) -> Dataset:
    """``dataset`` with the labels of ``categories``: itself, or `ReorderedClasses` where the order of the names is another.

    ``first`` and ``second`` name the owners of the classes in messages. Raises `UserError` where the names are not the same, or
    both have verbs and these are not.
    """
    others = dataset.categories
    _check_same_verbs(categories.interactions, others.interactions, first, second)
    if (others.ids, others.names) == (categories.ids, categories.names):
        return dataset
    check_same_names(categories, others, first, second)
    if len(set(others.names)) < len(others):
        if others.names == categories.names:
            return dataset
        raise UserError(f"{first} and {second} have a class name twice and in another order; give each class a name of its own")
    if others.ids != categories.ids:
        logger.info("%s and %s have other category ids for the same classes: they are matched by name", first, second)
    if others.names == categories.names:
        return dataset
    return ReorderedClasses(dataset, [others.names.index(name) for name in categories.names])


def _check_same_verbs(mine: InteractionFacts | None, theirs: InteractionFacts | None, first: str, second: str) -> None:
    """Raise `UserError` where the actions of one are not those of the other, since a network knows them by their numbers."""
    if mine is None or theirs is None or mine.names == theirs.names:
        return
    differing = sorted(set(mine.names) ^ set(theirs.names)) or [a for a, b in zip(mine.names, theirs.names, strict=True) if a != b]
    raise UserError(
        f"{first} and {second} have different verbs, roles, or orders of them (such as '{differing[0]:.60}'); give both the same "
        f"'verbs', or leave 'verbs' and 'interactions' out of the annotations of {second}"
    )
