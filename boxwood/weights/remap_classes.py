"""Weights of some classes as weights of others: a detector of COCO that begins to learn Cityscapes with what it knows of cars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from boxwood.errors import UserError
from boxwood.models.detector import ModelConfig, without_pretrained
from boxwood.models.inference_config import TestConfig
from boxwood.models.retinanet import RetinaNetConfig
from boxwood.structures import Categories
from boxwood.weights.file import SavedWeights

__all__ = ["reclass"]


def reclass(
    saved: SavedWeights, categories: Categories, taken: Mapping[str, str] | None = None, *, seed: int = 0
) -> tuple[SavedWeights, dict[str, str | None]]:
    """The weights for other classes, and of each the old class whose outputs it has; None: drawn anew, as the model draws them.

    A class takes the outputs of the old one of its name, or of the one that ``taken`` (new name -> old) says. All else, the
    background too, stays. Raises `UserError` where ``taken`` names a class that there is not, or no output belongs to a class.
    """
    old, taken = saved.categories, dict(taken or {})
    for name, known, whose in [(new, categories, "the new classes") for new in taken] + [
        (name, old, "the weights") for name in taken.values()
    ]:
        if name not in known.names:
            raise UserError(f"'{name}' is none of the classes of {whose} ({', '.join(known.names[:8])}...); name one of them")
    source = {name: taken.get(name, name if name in old.names else None) for name in categories.names}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = without_pretrained(saved.config.model).build(categories, TestConfig()).state_dict()
    per_class = _outputs_per_class(saved.config.model, old)
    if not per_class:
        raise UserError(f"{saved.config.model.title} has no outputs of classes; its weights serve any classes as they are")
    cells_first = isinstance(saved.config.model, RetinaNetConfig)
    state = dict(saved.state)
    for name, outputs in per_class.items():
        before, after = _by_class(saved.state[name], len(old), outputs, cells_first), fresh[name].clone()
        rows = _by_class(after, len(categories), outputs, cells_first)
        for label, new in enumerate(categories.names):
            if (whose_outputs := source[new]) is not None:
                rows[label] = before[old.names.index(whose_outputs)]
        background = saved.state[name].shape[0] - outputs * len(old)
        if background:
            after[-background:] = saved.state[name][-background:]
        state[name] = after
    return replace(saved, state=state, categories=categories), source


def _outputs_per_class(config: ModelConfig, categories: Categories) -> dict[str, int]:
    """Of every tensor whose first dimension grows with the number of classes, by how much for each."""
    more = Categories((*categories.ids, max(categories.ids) + 1), (*categories.names, "one more"), categories.keypoints)
    with torch.device("meta"):
        shapes, larger = (
            {name: value.shape for name, value in without_pretrained(config).build(classes, TestConfig()).state_dict().items()}
            for classes in (categories, more)
        )
    return {name: larger[name][0] - shape[0] for name, shape in shapes.items() if shape != larger[name]}


def _by_class(value: Tensor, classes: int, outputs: int, cells_first: bool) -> Tensor:
    """A view (classes, outputs, ...) of a tensor, without the background, which is last."""
    if cells_first:
        return value.view(outputs, classes, *value.shape[1:]).transpose(0, 1)
    return value[: classes * outputs].view(classes, outputs, *value.shape[1:])
