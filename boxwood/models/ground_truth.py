"""The ground truth of a batch as tensors of one shape, so that one operation serves all images.

Letters: B images, N the largest number of instances of an image, M the largest number of regions to ignore.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
    counts: tuple[int, ...]
    """The number of instances of each image."""


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the number of instances is another for every batch
def ground_truth_of(targets: Sequence[Target]) -> GroundTruth:
    """The targets of a batch in one row; N is at least 1, so that no batch is a special case."""
    return GroundTruth(
        padded([target.boxes for target in targets]),
        padded([target.labels for target in targets]),
        padded([torch.ones_like(target.labels, dtype=torch.bool) for target in targets]),
        padded([target.ignore for target in targets], least=0),
        padded([target.ignore_labels + 1 for target in targets], least=0) - 1,
        tuple(target.labels.shape[0] for target in targets),
    )


def padded(parts: Sequence[Tensor], least: int = 1) -> Tensor:
    """Tensors (n_i, ...) of B images -> (B, N, ...): zeros behind the n_i; N is the largest n_i, and at least ``least``.

    >>> padded([torch.ones(1), torch.ones(2)]).tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    """
    longest = max(least, *(part.shape[0] for part in parts))
    return torch.stack([F.pad(part, (0, 0) * (part.dim() - 1) + (0, longest - part.shape[0])) for part in parts])
