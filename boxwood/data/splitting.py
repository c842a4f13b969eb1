"""Dividing the images of one data set into parts, such as train and val: by share, stratified by class, with groups kept whole.

divide      which part each image belongs to
subset      the rows of one part

The order in which images are assigned is that of iterative stratification (Sechidis, Tsoumakas, Vlahavas: On the Stratification of
Multi-Label Data, 2011): the rarest class first, each image to the part that lacks that class most.

Letters: I images, G groups of images, K classes, P parts.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood.data.coco_file import CocoFile
from boxwood.errors import UserError

__all__ = ["copies_of_one_picture", "divide", "subset"]

Counts = NDArray[np.float64]
Indices = NDArray[np.int64]


def divide(file: CocoFile, shares: Sequence[float], *, seed: int = 0, groups: Sequence[Hashable] | None = None) -> Indices:
    """(I,) the part of each image: an index of ``shares``, which are fractions of the images and add up to 1.

    Images of the same group are in the same part; by default those that Roboflow made of one picture. Each class has its share of
    its images in each part, as nearly as groups allow. A class with as many groups as there are parts is in every part, unless
    other classes in the same images prevent it. Another ``seed`` gives other parts. Raises `UserError` where there are fewer
    groups than parts.
    """
    assert min(shares) > 0 and abs(sum(shares) - 1) < 1e-9
    if groups is None:
        groups = [copies_of_one_picture(file.file_name(row)) for row in range(len(file.image_ids))]
    numbers: dict[Hashable, int] = {}
    group_of_image = np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)
    if len(numbers) < len(shares):
        raise UserError(
            f"{file.path}: has {len(numbers)} group(s) of images that must stay together, which do not make {len(shares)} parts; "
            "add images, or group them in another way"
        )
    sizes = np.bincount(group_of_image).astype(np.float64)
    assigned = _Assignment(_classes_of_groups(file, group_of_image), sizes, np.array(shares))
    assigned.run(np.random.default_rng(seed).permutation(len(sizes)))
    return assigned.parts[group_of_image]


def subset(tree: Mapping[str, Any], file: CocoFile, rows: NDArray[np.bool_]) -> dict[str, Any]:
    """The part of a COCO dictionary that has the images ``rows`` (I,), with all other sections; ``file`` holds its arrays.

    Annotations of unknown images are in every part, so that the checks of a part find them.
    """
    taken = rows[file.image_rows] | (file.image_rows < 0)
    images = set(file.image_ids[rows].tolist())
    of_part = [row for row in tree.get("interactions", ()) if row["image_id"] in images]
    return {
        **tree,
        **({"interactions": of_part} if "interactions" in tree else {}),
        "images": [row for row, wanted in zip(tree["images"], rows.tolist(), strict=True) if wanted],
        "annotations": [row for row, wanted in zip(tree["annotations"], taken.tolist(), strict=True) if wanted],
    }


def copies_of_one_picture(name: str) -> str:
    """What the names of all copies that Roboflow's augmentation made of one picture have in common.

    >>> copies_of_one_picture("a_jpg.rf.0123456789abcdef.jpg")
    'a_jpg.rf.'
    """
    stem, mark, _ = name.rpartition(".rf.")
    return stem + mark if mark else name


# ------------------------------------------------------------------------------------------------------------ internals


def _classes_of_groups(file: CocoFile, group_of_image: Indices) -> Counts:
    """(G, K + 1) how many images of each group show each class; the last column counts those without a class."""
    ids, classes = np.unique(file.category_ids, return_inverse=True)
    known = file.image_rows >= 0
    shown = np.zeros((len(file.image_ids), len(ids) + 1), dtype=np.bool_)
    shown[file.image_rows[known], classes[known]] = True
    shown[:, -1] = ~shown.any(axis=1)
    counts = np.zeros((int(group_of_image.max()) + 1, len(ids) + 1))
    np.add.at(counts, group_of_image, shown)
    return counts


class _Assignment:
    """The parts of groups, one after the other."""

    def __init__(self, counts: Counts, sizes: Counts, shares: Counts) -> None:
        self.counts, self.sizes, self.shares = counts, sizes, shares
        self.parts: Indices = np.full(len(sizes), -1, dtype=np.int64)
        # Of a class in one group alone there is nothing to divide.
        self.single = (counts > 0).sum(axis=0) < 2
        self.wanted = shares[:, None] * counts.sum(axis=0)
        """(P, K + 1) images of each class that a part still lacks."""
        self.room = shares * sizes.sum()
        """(P,) images that a part still lacks."""
        self.groups_with = np.zeros((len(shares), counts.shape[1]), dtype=np.int64)
        """(P, K + 1) groups of each class in a part."""

    def run(self, order: Indices) -> None:
        """Assign all groups; ``order`` decides between equals."""
        has_single: NDArray[np.bool_] = np.any(self.counts[:, self.single] > 0, axis=1)
        left = (self.counts > 0).sum(axis=0)
        while (candidates := np.flatnonzero((left > 0) & ~self.single)).size:
            column = int(candidates[np.argmin(left[candidates])])
            rows = order[(self.counts[order, column] > 0) & (self.parts[order] < 0)]
            # Large groups first, since small ones then fill the gaps; the only images of a class first, so that they are in train.
            rows = rows[np.lexsort((-self.counts[rows, column], ~has_single[rows]))]
            for place, row in enumerate(rows.tolist()):
                self._assign(row, self._part_for(column, len(rows) - place))
                left -= self.counts[row] > 0
        for row in order[self.parts[order] < 0].tolist():
            self._assign(row, int(np.argmax(self.room)))
        self._complete_classes()
        self._fill_empty_parts()

    def _part_for(self, column: int, num_left: int) -> int:
        """The part of the next of ``num_left`` groups with a class."""
        missing = np.flatnonzero(self.groups_with[:, column] == 0)
        among = missing if num_left <= len(missing) else np.arange(len(self.shares))
        return int(among[np.lexsort((-self.room[among], -self.wanted[among, column]))[0]])

    def _assign(self, row: int, part: int) -> None:
        before = self.parts[row]
        if before >= 0:
            self._count(row, int(before), -1)
        self.parts[row] = part
        self._count(row, part, 1)

    def _count(self, row: int, part: int, sign: int) -> None:
        self.wanted[part] -= sign * self.counts[row]
        self.room[part] -= sign * self.sizes[row]
        self.groups_with[part] += sign * (self.counts[row] > 0)

    def _complete_classes(self) -> None:
        """Move a group to a part that lacks one of its classes, where no other class is then missing."""
        for part, column in np.argwhere((self.groups_with == 0) & ~self.single).tolist():
            if self.groups_with[part, column]:
                continue  # by a move for another class
            for row in np.flatnonzero(self.counts[:, column] > 0).tolist():
                if self._can_leave(row):
                    self._assign(row, part)
                    break

    def _can_leave(self, row: int) -> bool:
        """Whether each class of a group is in another group of the same part too."""
        return bool((self.groups_with[self.parts[row], (self.counts[row] > 0) & ~self.single] > 1).all())

    def _fill_empty_parts(self) -> None:
        """Move a group to each part without any, from the part that is over its share most."""
        for part in range(len(self.shares)):
            if (self.parts == part).any():
                continue
            several = [other for other in range(len(self.shares)) if (self.parts == other).sum() > 1]
            origin = min(several, key=lambda other: self.room[other])
            rows = np.flatnonzero(self.parts == origin).tolist()
            self._assign(min(rows, key=lambda row: (not self._can_leave(row), self.sizes[row])), part)
