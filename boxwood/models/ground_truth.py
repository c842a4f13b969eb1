"""The ground truth of a batch as tensors of one shape, so that one operation serves all images.

Letters: B images, N the largest number of instances of an image, M the largest number of regions to ignore.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwood.structures import Target

__all__ = ["GroundTruth", "ground_truth_of", "padded"]


@dataclass(slots=True)
class GroundTruth:
    """Instances and regions to ignore, padded with zeros at the end of each image's."""

    boxes: Tensor
    """(B, N, 4) xyxy, pixels of the network's input; zeros, which overlap nothing, where there is no instance."""
    labels: Tensor
    """(B, N) int64."""
    exists: Tensor
    """(B, N) bool."""
    ignore: Tensor
    """(B, M, 4) xyxy, M may be 0."""
    ignore_labels: Tensor
    """(B, M) int64, -1 where there is none."""


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the number of instances is another for every batch
def ground_truth_of(targets: Sequence[Target]) -> GroundTruth:
    """The targets of a batch in one row; N is at least 1, so that no batch is a special case."""
    labels = padded([target.labels for target in targets], fill=-1)
    return GroundTruth(
        padded([target.boxes for target in targets]),
        labels.clamp(min=0),
        labels >= 0,
        padded([target.ignore for target in targets], least=0),
        padded([target.ignore_labels for target in targets], least=0, fill=-1),
    )


def padded(parts: Sequence[Tensor], least: int = 1, fill: int = 0) -> Tensor:
    """Tensors (n_i, ...) of B images -> (B, N, ...): ``fill`` behind the n_i; N is the largest n_i, and at least ``least``.

    >>> padded([torch.ones(1), torch.ones(2)]).tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    """
    longest = max(least, *(part.shape[0] for part in parts))
    rows = parts[0].new_full((len(parts), longest, *parts[0].shape[1:]), fill)
    torch._foreach_copy_([row[: len(part)] for row, part in zip(rows, parts, strict=True)], list(parts))  # one operator
    return rows
