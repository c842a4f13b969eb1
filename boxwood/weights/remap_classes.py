"""Weights for other classes: a detector trained on COCO starts on Cityscapes with its outputs for cars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from boxwood.errors import UserError
from boxwood.models.config import ModelConfig, RetinaNetConfig, without_pretrained
from boxwood.models.inference_config import TestConfig
from boxwood.structures import Categories
from boxwood.weights.file import SavedWeights

__all__ = ["remap_classes"]


def remap_classes(
    saved: SavedWeights, categories: Categories, take: Mapping[str, str] | None = None, *, seed: int = 0
) -> tuple[SavedWeights, dict[str, str | None]]:
    """The weights for other classes, and for each new class the old class whose outputs it has, or None: randomly initialised.

    A new class takes the outputs of the old class that ``take`` (new name -> old name) names, else of the old class of the same
    name. All other weights, also the background's, stay. Raises `UserError` where ``take`` names an unknown class, a name
    stands for several classes of the weights, or the model has no outputs per class.
    """
    old, take = saved.categories, dict(take or {})
    for name, known, of in [(new, categories, "the new classes") for new in take] + [
        (name, old, "the weights") for name in take.values()
    ]:
        if name not in known.names:
            raise UserError(f"'{name}' is none of the classes of {of} ({', '.join(known.names[:8])}...); name one of them")
    old_names = {name: take.get(name, name if name in old.names else None) for name in categories.names}
    if twice := [name for name in old_names.values() if name is not None and old.names.count(name) > 1]:
        raise UserError(f"the weights have more than one class '{twice[0]}', so its outputs are not known; name other classes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = replace(
            categories,
            keypoints=categories.keypoints or old.keypoints,
            interactions=categories.interactions or old.interactions,
        )
        initial = without_pretrained(saved.config.model).build(built, TestConfig()).state_dict()
    outputs_of = outputs_per_class(saved.config.model, old)
    if not outputs_of:
        raise UserError(f"{saved.config.model.title} has no outputs per class; its weights fit any classes unchanged")
    cells_first = isinstance(saved.config.model, RetinaNetConfig)
    state = dict(saved.state)
    for tensor_name, outputs in outputs_of.items():
        before, after = saved.state[tensor_name], initial[tensor_name].clone()
        old_rows = _by_class(before, len(old), outputs, cells_first)
        new_rows = _by_class(after, len(categories), outputs, cells_first)
        for label, new in enumerate(categories.names):
            if (old_name := old_names[new]) is not None:
                new_rows[label] = old_rows[old.names.index(old_name)]
        if background := before.shape[0] - outputs * len(old):
            after[-background:] = before[-background:]
        state[tensor_name] = after
    return replace(saved, state=state, categories=categories), old_names


def outputs_per_class(config: ModelConfig, categories: Categories) -> dict[str, int]:
    """The tensors whose first dimension grows with the number of classes, and how much it grows for each class."""
    one_more = replace(categories, ids=(*categories.ids, max(categories.ids) + 1), names=(*categories.names, "one more"))
    with torch.device("meta"):
        shapes, larger = (
            {name: value.shape for name, value in without_pretrained(config).build(classes, TestConfig()).state_dict().items()}
            for classes in (categories, one_more)
        )
    return {name: larger[name][0] - shape[0] for name, shape in shapes.items() if shape != larger[name]}


def _by_class(value: Tensor, classes: int, outputs: int, cells_first: bool) -> Tensor:
    """A view (classes, outputs, ...) of a tensor, without the background, which is last."""
    if cells_first:
        return value.view(outputs, classes, *value.shape[1:]).transpose(0, 1)
    return value[: classes * outputs].view(classes, outputs, *value.shape[1:])
