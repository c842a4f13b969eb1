"""Several data sets as one training set: all images in one order, or a fixed ratio of the parts in every batch."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood.data.class_order import in_order_of
from boxwood.data.dataset import Dataset
from boxwood.data.transforms import Transform
from boxwood.errors import UserError
from boxwood.structures import Sample

__all__ = ["MixtureDataset"]


class MixtureDataset:
    """The images of several data sets, one after the other.

    Parts to which the ratio gives 0 are compared with the others and then left out, so that 1, 0 is the first part alone. Raises
    `UserError` where their classes differ, or where the ratio does not have a number for each.
    """

    ratio: tuple[int, ...] | None
    """Of the parts that are used; None where there is one."""

    def __init__(
        self, parts: list[Dataset], transforms: list[tuple[Transform, ...]] | None = None, ratio: tuple[int, ...] | None = None
    ) -> None:
        if ratio is not None and len(ratio) != len(parts):
            raise UserError(
                f"a mixture of {len(parts)} data sets has a ratio of {len(ratio)} numbers; give ratio one for each of parts"
            )
        if any(isinstance(part, MixtureDataset) and part.ratio is not None for part in parts):
            raise UserError("a mixture that is a part of another mixture cannot have a ratio; set it to null")
        self.categories = parts[0].categories
        ordered = [in_order_of(self.categories, part, "part 0 of a mixture", f"part {number}") for number, part in enumerate(parts)]
        for number, part in enumerate(parts):
            if part.categories.keypoints != self.categories.keypoints:
                raise UserError(f"part 0 of a mixture and part {number} have different keypoints; give both the same ones")
            if part.categories.interactions != self.categories.interactions:
                raise UserError(f"part 0 of a mixture and part {number} have different verbs; give both the same ones")
        used = [number for number in range(len(parts)) if ratio is None or ratio[number]]
        self.parts = [ordered[number] for number in used]
        self.transforms = [transforms[number] if transforms else () for number in used]
        """Of each part, applied before those of the mixture."""
        self.ratio = None if ratio is None or (len(used) == 1 < len(parts)) else tuple(ratio[number] for number in used)
        self.starts = [0, *accumulate(len(part) for part in self.parts)]
        """The index of the first image of each part, and the number of images."""

    def __len__(self) -> int:
        return self.starts[-1]

    def part_of(self, index: int) -> tuple[int, int]:
        """Which part image ``index`` is in, and its index there."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        part = bisect_right(self.starts, index) - 1
        return part, index - self.starts[part]

    def __getitem__(self, index: int) -> Sample:
        part, place = self.part_of(index)
        return self.parts[part][place]

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of image ``index`` without reading its pixels."""
        part, place = self.part_of(index)
        return self.parts[part].size(place)

    @property
    def repeats(self) -> NDArray[np.float64] | None:
        """How often each image occurs in an epoch; None: once."""
        repeats = [getattr(part, "repeats", None) for part in self.parts]
        if all(factors is None for factors in repeats):
            return None
        return np.concatenate(
            [np.ones(len(part)) if factors is None else factors for part, factors in zip(self.parts, repeats, strict=True)]
        )

    @property
    def mask_counts(self) -> NDArray[np.int64] | None:
        """(K, 2) of each class the instances that have a mask, and all instances; None where a part does not know it."""
        counts = [part_counts for part in self.parts if (part_counts := getattr(part, "mask_counts", None)) is not None]
        return np.sum(counts, axis=0) if len(counts) == len(self.parts) else None

    def to_coco(self) -> dict[str, Any]:
        """The ground truth of all parts; annotations are numbered from 1. Raises `UserError` where two images have the same id."""
        trees = [part.to_coco() for part in self.parts]
        for tree, part in zip(trees, self.parts, strict=True):
            if part.categories.ids != self.categories.ids:
                ids = dict(zip(part.categories.ids, self.categories.ids, strict=True))
                tree["annotations"] = [{**row, "category_id": ids[row["category_id"]]} for row in tree["annotations"]]
        images = [image for tree in trees for image in tree["images"]]
        if len({image["id"] for image in images}) < len(images):
            raise UserError(
                "the parts of a mixture have images with the same ids, so their ground truth cannot be combined; set data.val to "
                "one data set"
            )
        numbered: list[dict[str, Any]] = []
        interactions: list[dict[str, Any]] = []
        for tree in trees:
            new_ids = {row["id"]: number for number, row in enumerate(tree["annotations"], start=len(numbered) + 1)}
            numbered += [{**row, "id": new_ids[row["id"]]} for row in tree["annotations"]]
            for row in tree.get("interactions", ()):
                targets = {role: new_ids.get(target) for role, target in row["targets"].items()}
                human = new_ids.get(row["human_id"])
                interactions.append({**row, "id": len(interactions) + 1, "human_id": human, "targets": targets})
        combined = {**trees[0], "images": images, "annotations": numbered}
        return combined | ({"interactions": interactions} if "interactions" in combined else {})
