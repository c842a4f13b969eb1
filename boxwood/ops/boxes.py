"""Boxes: areas, IoU, clipping, and the deltas of one box relative to another.

Boxes are (..., 4) xyxy in absolute pixels with continuous coordinates: the width is x2 - x1. The other convention, inclusive
pixels, is in `boxwood.ops.detectron1`. Letters: N, M boxes; R boxes, each with its own reference box; B images of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "MAX_LOG_SCALE",
    "area",
    "clip",
    "decode",
    "encode",
    "giou",
    "intersection",
    "ioa",
    "iou",
]

MAX_LOG_SCALE = math.log(1000 / 16)
"""A decoded box is at most so many times (e to this) larger than its reference; larger deltas would overflow exp."""


def area(boxes: Tensor) -> Tensor:
    """Areas in square pixels. ``boxes`` (..., 4) -> (...).

    >>> area(torch.tensor([[0.0, 0, 2, 3]])).tolist()
    [6.0]
    """
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Areas that every pair shares. ``a`` (..., N, 4), ``b`` (..., M, 4), leading dimensions broadcast -> (..., N, M)."""
    x1, y1, x2, y2 = a[..., :, None, :].unbind(-1)
    other_x1, other_y1, other_x2, other_y2 = b[..., None, :, :].unbind(-1)
    width = torch.minimum(x2, other_x2).sub_(torch.maximum(x1, other_x1)).clamp_(min=0)
    height = torch.minimum(y2, other_y2).sub_(torch.maximum(y1, other_y1)).clamp_(min=0)
    return width.mul_(height)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every pair; 0 where both are empty. ``a`` (..., N, 4), ``b`` (..., M, 4) -> (..., N, M).

    >>> iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
    tensor([[0.3333]])
    """
    shared = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of each box with its partner (Rezatofighi et al., 2019, algorithm 1): IoU less the share of the smallest box
    around both that neither covers; -1..1. ``a`` and ``b`` (..., 4) -> (...).

    >>> giou(torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]]), torch.tensor([[2.0, 0, 4, 2], [3, 0, 4, 1]]))
    tensor([ 0.0000, -0.5000])
    """
    tiny = torch.finfo(a.dtype).tiny
    inner = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    shared, around = inner.clamp(min=0).prod(dim=-1), outer.prod(dim=-1)
    union = area(a) + area(b) - shared
    return shared / union.clamp(min=tiny) - (around - union) / around.clamp(min=tiny)


def ioa(a: Tensor, b: Tensor) -> Tensor:
    """The share of each box of ``a`` that lies in each of ``b``: intersection over the area of ``a``; (..., N, 4), (..., M, 4) ->
    (..., N, M)."""
    return intersection(a, b) / area(a)[..., :, None].clamp(min=torch.finfo(a.dtype).tiny)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes cut at the borders of their image.

    ``boxes`` (..., 4) xyxy; ``sizes`` (..., 2) height and width, one a box or broadcast -> (..., 4).
    """
    width_height = sizes.to(boxes.dtype).flip(-1)
    return torch.minimum(boxes.clamp(min=0), torch.cat([width_height, width_height], dim=-1))


def encode(boxes: Tensor, references: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Deltas that turn each reference box into its box (Girshick et al., R-CNN, 2014, equations 6 to 9).

    dx = wx (x - xr) / wr, dw = ww log(w / wr), likewise y and h, for centres x, y and sizes w, h.

    Args:
        boxes: (R, 4) xyxy, with positive sizes.
        references: (R, 4) xyxy: anchors or proposals, with positive sizes.
        weights: what dx, dy, dw, dh are multiplied with.

    Returns:
        (R, 4): dx, dy, dw, dh.
    """
    size, reference_size = boxes[..., 2:] - boxes[..., :2], references[..., 2:] - references[..., :2]
    centre, reference_centre = boxes[..., :2] + 0.5 * size, references[..., :2] + 0.5 * reference_size
    deltas = torch.cat([(centre - reference_centre) / reference_size, torch.log(size / reference_size)], dim=-1)
    return torch.stack([column * weight for column, weight in zip(deltas.unbind(-1), weights, strict=True)], dim=-1)


def decode(deltas: Tensor, references: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Boxes from deltas, the inverse of `encode`; sizes grow at most by exp(`MAX_LOG_SCALE`).

    ``deltas`` (..., 4), ``references`` (..., 4) xyxy, broadcast -> (..., 4) xyxy.

    >>> anchor = torch.tensor([[10.0, 10, 20, 30]])
    >>> decode(encode(torch.tensor([[12.0, 8, 30, 20]]), anchor), anchor)
    tensor([[12.,  8., 30., 20.]])
    """
    shift, log_scale = _divided(deltas[..., :2], weights[:2]), _divided(deltas[..., 2:], weights[2:])
    reference_size = references[..., 2:] - references[..., :2]
    centre = references[..., :2] + 0.5 * reference_size + shift * reference_size
    half = 0.5 * reference_size * log_scale.clamp(max=MAX_LOG_SCALE).exp()
    return torch.cat([centre - half, centre + half], dim=-1)


def _divided(pairs: Tensor, weights: Sequence[float]) -> Tensor:
    """(..., 2) by a weight for each column."""
    first, second = weights
    if first == second:
        return pairs if first == 1 else pairs / first
    return torch.stack([pairs[..., 0] / first, pairs[..., 1] / second], dim=-1)
