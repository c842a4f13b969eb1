"""The weights that training starts from."""

from __future__ import annotations

import logging

from torch import nn

from boxwood.config import differences
from boxwood.interop.open_weights import open_weights
from boxwood.run_config import RunConfig
from boxwood.structures import Categories
from boxwood.weights.file import load_state

__all__ = ["load_initial_weights"]

logger = logging.getLogger(__name__)


def load_initial_weights(model: nn.Module, config: RunConfig, categories: Categories) -> None:
    """Load ``train.weights``. Tensors whose shape depends on the number of classes stay randomly initialised where that differs,
    and so does all but the backbone where the file holds a backbone alone (``detectron/imagenet/R-50``); the log says so."""
    assert config.train.weights is not None
    where = f"train.weights={config.train.weights}"
    opened = open_weights(config.train.weights, config)
    saved = opened.saved
    if opened.initialised:
        backbone = {name: value for name, value in saved.state.items() if name not in opened.initialised}
        state = model.state_dict()
        load_state(model, {**state, **backbone}, where=where)
        logger.info("%s: a backbone; %d other tensors are randomly initialised", where, len(state) - len(backbone))
        return
    initialised = load_state(model, saved.state, saved_classes=len(saved.categories), where=where)
    difference = saved.categories.difference(categories)
    if initialised:
        logger.warning(
            "%s: has %d classes, data.train has %d; these tensors are randomly initialised: %s",
            where,
            len(saved.categories),
            len(categories),
            ", ".join(initialised),
        )
    elif difference:
        logger.warning(
            "%s: as many classes as data.train, but others; their weights are loaded: %s (the first is the file)", where, difference
        )
    for key, theirs, ours in differences(saved.config.model, config.model):
        logger.warning("%s: trained with model.%s = %r, this run has %r", where, key, theirs, ours)
