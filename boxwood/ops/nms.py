"""Non-maximum suppression (NMS) of boxes, Soft-NMS, box voting, and NMS of keypoints (OKS-NMS).

Letters: N boxes, G groups of them (labels), M boxes of the largest group, V voters, K keypoints.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from boxwood.ops.boxes import iou
from boxwood.ops.keypoints import keypoint_similarity

__all__ = ["Decay", "VoteScoring", "nms_keypoints", "nms_mask", "soft_nms", "vote"]

logger = logging.getLogger(__name__)

Decay = Literal["linear", "gaussian", "hard"]
VoteScoring = Literal["id", "avg", "iou_avg", "generalized_avg", "quasi_sum", "temp_avg"]


def nms_mask(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor | None,
    threshold: float,
    valid: Tensor | None = None,
    lengths: Sequence[int] = (),
) -> Tensor:
    """Which boxes survive greedy suppression among the boxes of their group.

    In order of score, a box is kept unless it overlaps a kept box of its group by an IoU of more than ``threshold``.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,).
        groups: (N,) int64: labels or levels, each suppressed separately; None is one group.
        threshold: IoU.
        valid: (N,) bool: the others are neither kept nor do they suppress.
        lengths: of consecutive parts of the boxes that share no group, which a GPU then works on one after another: its time grows
            with the square of a part, and the host waits once for each. Empty: all at once.

    Returns:
        (N,) bool.

    >>> boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    >>> nms_mask(boxes, torch.tensor([0.8, 0.9, 0.1]), None, 0.5).tolist()
    [False, True, True]
    """
    groups = torch.zeros_like(scores, dtype=torch.int64) if groups is None else groups
    valid = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid
    kept_mask: Tensor = _grouped_nms(boxes.float(), scores.float(), groups, valid, threshold, list(lengths))
    return kept_mask


@torch.library.custom_op("boxwood::grouped_nms", mutates_args=())
def _grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, lengths: list[int]) -> Tensor:
    """`nms_mask` as one operator, whose result has a fixed shape: graphs that contain it can be exported and compiled.

    On a GPU a Triton kernel does the work. Where there is no Triton the host waits once a part, since torchvision's operator
    returns as many indices as there are survivors.
    """
    import torchvision.ops  # imported when first used: the import takes most of a second and 160 MB

    kept_mask = torch.zeros_like(valid)
    if boxes.numel() == 0:
        return kept_mask
    if boxes.device.type != "cpu":
        return _nms_on_gpu(boxes, scores, groups, valid, threshold, lengths)
    # One group after another: the work grows with the square of the number of boxes that are compared.
    rows = valid.nonzero()[:, 0]
    rows = rows[groups[rows].argsort(stable=True)]
    lengths = torch.unique_consecutive(groups[rows], return_counts=True)[1].tolist()
    for members in torch.split(rows, lengths):
        kept_mask[members[torchvision.ops.nms(boxes[members], scores[members], threshold)]] = True
    return kept_mask


@_grouped_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, lengths: list[int]) -> Tensor:
    return torch.empty_like(valid)


def _nms_on_gpu(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, lengths: list[int]) -> Tensor:
    if (survivors := _survivors_on_gpu()) is not None:
        # Group after group, each from its best box to its worst.
        order = scores.argsort(descending=True, stable=True)
        order = order[groups[order].argsort(stable=True)]
        sorted_groups = groups[order]
        ends = torch.searchsorted(sorted_groups, sorted_groups, right=True)
        return torch.zeros_like(valid).scatter(0, order, survivors(boxes[order], ends, valid[order], threshold))
    import torchvision.ops

    # All groups of a part at once, each shifted to a separate place; in float64, so that the shift costs no precision. Invalid
    # boxes become one box far away: all but one of them are suppressed, since the operator's time grows with the survivors.
    extent = boxes.max() - boxes.min().clamp(max=0) + 1
    shifted = boxes.double() + (groups * extent.double())[:, None]
    far = torch.arange(4, device=boxes.device) // 2 - 2 * extent.double()
    shifted = torch.where(valid[:, None], shifted, far)
    masked_scores = scores.double().masked_fill(~valid, -torch.inf)
    parts = [torch.split(column, lengths or len(boxes)) for column in (shifted, masked_scores, torch.zeros_like(valid))]
    kept_parts = [
        part.index_fill(0, torchvision.ops.nms(part_boxes, part_scores, threshold), True)
        for part_boxes, part_scores, part in zip(*parts, strict=True)
    ]
    return torch.cat(kept_parts) & valid


@cache
def _survivors_on_gpu() -> Callable[[Tensor, Tensor, Tensor, float], Tensor] | None:
    """`boxwood.ops.nms_kernel.survivors`, compiled and compared with torchvision's operator once; None where one of that fails, as
    without Triton or a C compiler."""
    import torchvision.ops

    try:
        from boxwood.ops.nms_kernel import survivors

        corners = torch.rand(3, 700, 2, generator=torch.Generator().manual_seed(0)) * 300
        boxes = torch.cat([corners, corners + 40], dim=2).cuda()
        scores = torch.arange(700, 0, -1.0, device="cuda")
        ends = torch.arange(700, 2101, 700, device="cuda").repeat_interleave(700)
        kept_mask = survivors(boxes.flatten(0, 1), ends, ends > 0, 0.5).view(3, 700)
        for group, group_mask in zip(boxes, kept_mask, strict=True):
            expected = torch.zeros_like(group_mask).index_fill(0, torchvision.ops.nms(group, scores, 0.5), True)
            assert torch.equal(group_mask, expected), "it does not keep the boxes that torchvision's operator keeps"
    except Exception as error:  # Triton has no common class of errors
        logger.warning(
            "the Triton kernel for NMS cannot be used, torchvision's operator is (%s)", " ".join(str(error).split())[:200]
        )
        return None
    return survivors


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    valid: Tensor,
    *,
    decay: Decay = "linear",
    threshold: float = 0.3,
    sigma: float = 0.5,
    floor: float = 1e-4,
) -> Tensor:
    """The scores after Soft-NMS among the boxes of each group (Bodla et al., arXiv 1704.04503, figure 2).

    The best box is taken, again and again; each time the scores of those that are left fall by their IoU with it: ``linear``, times
    1 - IoU where it is above ``threshold`` (equation 1); ``gaussian``, times exp(-IoU^2 / sigma) (equation 3); ``hard``, to 0 where
    it is above ``threshold``, which is ordinary suppression. What falls below ``floor`` is dropped.

    ``boxes`` (N, 4) xyxy, ``scores`` (N,), ``groups`` (N,) int64, ``valid`` (N,) bool: the others take no part -> (N,): 0 for what
    is dropped. All groups are gone through at once.

    >>> boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30]])
    >>> scores, one = torch.tensor([0.9, 0.5, 0.4]), torch.zeros(3, dtype=torch.int64)
    >>> soft_nms(boxes, scores, one, one == 0)  # the second overlaps the first by 0.8
    tensor([0.9000, 0.1000, 0.4000])
    """
    result = torch.zeros_like(scores)
    members = valid.nonzero()[:, 0]
    if not len(members):
        return result
    # A row for each group, filled up with boxes that score 0.
    present, row = torch.unique(groups[members], return_inverse=True)
    order = row.argsort(stable=True)
    members, row = members[order], row[order]
    lengths = row.bincount(minlength=len(present))
    column = torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row]
    shape = (len(present), int(lengths.max()))
    left = scores.new_zeros(shape).index_put((row, column), scores[members])
    placed = boxes.new_zeros(*shape, 4).index_put((row, column), boxes[members])
    taken, each = torch.zeros_like(left), torch.arange(len(present), device=row.device)
    for _ in range(shape[1]):
        best, place = left.max(dim=1)
        if not bool((best > 0).any()):
            break
        taken[each, place] = torch.maximum(taken[each, place], best)
        left[each, place] = 0
        overlaps = iou(placed[each, place][:, None], placed)[:, 0]
        if decay == "gaussian":
            factor = torch.exp(-(overlaps**2) / sigma)
        else:
            factor = torch.where(overlaps > threshold, 1 - overlaps if decay == "linear" else torch.zeros_like(overlaps), 1.0)
        lowered = left * factor
        # Dropping is for what was just lowered: a box that overlaps nothing keeps a score of any size.
        left = torch.where((lowered < floor) & (overlaps > 0), 0.0, lowered)
    return result.index_put((members,), taken[row, column])


def vote(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    voters: Tensor,
    voter_scores: Tensor,
    voter_labels: Tensor,
    *,
    threshold: float = 0.8,
    scoring: VoteScoring = "id",
    beta: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Boxes as the mean of all that overlap them, weighted by score (Gidaris and Komodakis, arXiv 1505.01749, section 5).

    The voters of a box are those of its label with an IoU of at least ``threshold``. Its score stays (``id``), or is computed from
    their scores s: ``avg`` the mean, ``iou_avg`` the mean weighted by IoU, ``generalized_avg`` (mean s^beta)^(1 / beta),
    ``quasi_sum`` sum s / n^beta, ``temp_avg`` the mean of s after a softmax of (s, 1 - s) at the temperature ``beta``. ``boxes``
    (N, 4), ``scores`` and ``labels`` (N,), of the voters (V, 4), (V,), (V,) -> boxes (N, 4), scores (N,). A box without voters
    stays.

    >>> first, second = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 10, 9]])
    >>> zero, voters = torch.zeros(2, dtype=torch.int64), torch.cat([first, second])
    >>> vote(first, torch.tensor([0.6]), zero[:1], voters, torch.tensor([0.6, 0.2]), zero)[0]
    tensor([[ 0.0000,  0.0000, 10.0000,  9.7500]])
    """
    overlaps = iou(boxes, voters)
    is_voter = (overlaps >= threshold) & (labels[:, None] == voter_labels)
    weights = is_voter * voter_scores
    total, count = weights.sum(dim=1), is_voter.sum(dim=1).to(scores)
    has_voters = total > 0
    moved = torch.where(has_voters[:, None], weights @ voters / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None], boxes)

    def mean(values: Tensor) -> Tensor:
        return (is_voter * values).sum(dim=1) / count.clamp(min=1)

    if scoring == "avg":
        voted = mean(voter_scores)
    elif scoring == "iou_avg":
        by_overlap = is_voter * overlaps
        voted = (by_overlap * voter_scores).sum(dim=1) / by_overlap.sum(dim=1).clamp(min=torch.finfo(total.dtype).tiny)
    elif scoring == "generalized_avg":
        voted = mean(voter_scores**beta) ** (1 / beta)
    elif scoring == "quasi_sum":
        voted = total / count.clamp(min=1) ** beta
    elif scoring == "temp_avg":
        # softmax(log(s, 1 - s) / beta), its first part
        voted = mean(torch.sigmoid(torch.logit(voter_scores) / beta))
    else:
        voted = scores
    return moved, torch.where(has_voters, voted, scores)


def nms_keypoints(
    points: Tensor, scores: Tensor, areas: Tensor, sigmas: Tensor, threshold: float, valid: Tensor | None = None
) -> Tensor:
    """Which poses survive greedy suppression by object keypoint similarity: in order of score, a pose is kept unless a kept one is
    similar to it by more than ``threshold``.

    ``points`` (..., N, K, 2) x, y, ``scores`` (..., N), ``areas`` (..., N) square pixels of their boxes: that of the better pose is
    the scale, ``sigmas`` (K,), ``valid`` (..., N) bool: the others are neither kept nor do they suppress -> (..., N) bool.
    """
    valid = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    sorted_points = points.gather(-3, order[..., None, None].expand_as(points))
    similar = keypoint_similarity(sorted_points, sorted_points, areas.gather(-1, order), sigmas) > threshold
    kept_mask = valid.gather(-1, order)
    for rank in range(kept_mask.shape[-1] - 1):  # the rank's pose is decided when it is reached; no value is read on the host
        suppressed = similar[..., rank, rank + 1 :] & kept_mask[..., rank, None]
        kept_mask = torch.cat([kept_mask[..., : rank + 1], kept_mask[..., rank + 1 :] & ~suppressed], dim=-1)
    return torch.zeros_like(valid).scatter(-1, order, kept_mask)
