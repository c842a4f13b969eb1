"""Who does what with what: the place of an object as seen from a human, how well it fits an action, and scores of triples.

Letters: H humans, O objects, A actions; leading dimensions are broadcast.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwood.ops.boxes import encode

__all__ = ["Triples", "best_triples", "log_density", "relative_boxes"]


class Triples(NamedTuple):
    """The best object of each human and action. Letters: H humans, A actions."""

    agent: Tensor
    """(..., H, A) the score of the human doing it, whatever the object: s_h * s_a."""
    score: Tensor
    """(..., H, A) of the triple with the best object."""
    empty: Tensor
    """(..., H, A) of the human doing it with nothing that is detected."""
    objects: Tensor
    """(..., H, A) int64: the best object."""
    exists: Tensor
    """(..., H, A) bool: whether there is one."""


def relative_boxes(humans: Tensor, objects: Tensor) -> Tensor:
    """Each object as seen from each human (Gkioxari et al., InteractNet, 2018, section 3.2): offset of the centres in sizes of the
    human, and logarithms of the sizes' ratios; ``humans`` (..., H, 4), ``objects`` (..., O, 4) xyxy -> (..., H, O, 4).

    >>> relative_boxes(torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[10.0, 0, 20, 20]])).tolist()
    [[[1.0, 0.0, 0.0, 0.0]]]
    """
    shape = (*humans.shape[:-1], objects.shape[-2], 4)
    return encode(objects[..., None, :, :].expand(shape), humans[..., :, None, :].expand(shape))


def log_density(relative: Tensor, means: Tensor, sigma: float) -> Tensor:
    """Logarithm of how well each object lies where the action has its objects: -||b - mu||^2 / (2 sigma^2), the norm a sum over the
    four numbers. (The paper's formula lacks the minus sign.) In logarithms, since far objects' densities are 0 in float32.

    ``relative`` (..., H, O, 4) of `relative_boxes`, ``means`` (..., H, A, 4) -> (..., H, O, A).
    """
    columns = zip(relative.unbind(-1), means.unbind(-1), strict=True)
    squares = [(place[..., None] - mean[..., None, :]) ** 2 for place, mean in columns]
    return -sum(squares[1:], squares[0]) / (2 * sigma**2)


def best_triples(
    human_scores: Tensor,
    object_scores: Tensor,
    action_logits: Tensor,
    allowed: Tensor,
    *,
    density: Tensor | None = None,
    pair_logits: Tensor | None = None,
) -> Triples:
    """The object of each human and action with the highest s_h * s_o * s_a * g (InteractNet, equation 1).

    ``human_scores`` (..., H), ``object_scores`` (..., O), ``action_logits`` (..., H, A), ``allowed`` (..., H, O, A) bool: the
    objects that there are. ``density`` (..., H, O, A) is log g; None stands for g = 1. With ``pair_logits`` (..., H, O, A), of
    the interaction branch, s_a of a triple is theirs; ``agent`` and ``empty`` stay those of the human alone. ``empty`` is
    s_h * s_a * (1 - max s_o * g).
    """
    agent = human_scores[..., None] * action_logits.sigmoid()
    fits = object_scores.clamp(min=torch.finfo(object_scores.dtype).tiny).log()[..., None, :, None]
    fits = fits if density is None else fits + density
    fits = fits.expand(allowed.shape).masked_fill(~allowed, -torch.inf)
    triples = fits + F.logsigmoid(action_logits[..., None, :] if pair_logits is None else pair_logits)
    best, objects = triples.max(dim=-2)
    exists = best > -torch.inf
    empty = agent * (1 - fits.amax(dim=-2).exp())
    return Triples(agent, human_scores[..., None] * best.exp(), empty, objects, exists)
