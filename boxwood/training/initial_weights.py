"""The weights that training starts from."""

from __future__ import annotations

import logging
from dataclasses import replace

from torch import nn

from boxwood.config import differences
from boxwood.interop.open_weights import open_weights
from boxwood.models.backbones.non_local import missing_blocks
from boxwood.run_config import RunConfig
from boxwood.structures import Categories
from boxwood.weights.file import SavedWeights, load_state
from boxwood.weights.remap_classes import outputs_per_class, remap_classes

__all__ = ["load_initial_weights"]

logger = logging.getLogger(__name__)


def load_initial_weights(model: nn.Module, config: RunConfig, categories: Categories) -> None:
    """Load ``train.weights``. The outputs of a class are those of the class of the same name in the file; a class that the file
    lacks is randomly initialised. So are the modules of a task that the file's detector lacks (masks on Faster R-CNN), non-local
    blocks that the file lacks, and all but the backbone where the file holds a backbone alone (``detectron/imagenet/R-50``). The
    log says so, class by class."""
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
    saved = _with_new_tasks(_by_class_name(saved, categories, where, config.train.seed), model, where)
    blocks = missing_blocks(model, saved.state)
    if blocks:
        logger.info("%s: has no weights of the non-local blocks; they start as the identity: %s", where, ", ".join(blocks))
    new = {name: value for tensors in blocks.values() for name, value in tensors.items()}
    initialised = load_state(model, {**saved.state, **new}, saved_classes=len(saved.categories), where=where)
    if initialised:
        logger.warning(
            "%s: has %d classes, data.train has %d, and no name is the same; these tensors are randomly initialised: %s",
            where,
            len(saved.categories),
            len(categories),
            ", ".join(initialised),
        )
    for key, theirs, ours in differences(saved.config.model, config.model):
        if blocks and key.endswith(".non_local") and theirs is None:
            continue  # logged above
        logger.warning("%s: trained with model.%s = %r, this run has %r", where, key, theirs, ours)


def _with_new_tasks(saved: SavedWeights, model: nn.Module, where: str) -> SavedWeights:
    """The weights with the model's initial values for the modules of its tasks that the file's detector does not have."""
    tasks = [task for task in getattr(model, "tasks", ()) if task.name not in saved.config.model.task_names]
    prefixes = tuple(f"{task.prefix}_" for task in tasks)
    added = {name: value for name, value in model.state_dict().items() if name.startswith(prefixes) and name not in saved.state}
    if not added:
        return saved
    logger.info("%s: has no %s; these modules are randomly initialised", where, " and no ".join(task.name for task in tasks))
    return replace(saved, state={**saved.state, **added})


def _by_class_name(saved: SavedWeights, categories: Categories, where: str, seed: int) -> SavedWeights:
    """The weights with the outputs of each class of ``categories`` from the class of the same name in the file; others are randomly
    initialised. The weights as they are where the classes are the same, none has the same name, or the model has no outputs per
    class."""
    names, others = saved.categories.names, categories.names
    if names == others or not set(names) & set(others) or not outputs_per_class(saved.config.model, saved.categories):
        if names != others and len(names) == len(others):
            logger.warning(
                "%s: as many classes as data.train, but of other names; their weights are loaded in the file's order", where
            )
        return saved
    saved, sources = remap_classes(saved, categories, seed=seed)
    lines = [
        f"  {name}: " + (f"class {names.index(old)} of the file" if old else "randomly initialised")
        for name, old in sources.items()
    ]
    left_out = [name for name in names if name not in others]
    logger.info(
        "%s: outputs go by class name:\n%s%s", where, "\n".join(lines), f"\n  left out: {', '.join(left_out)}" if left_out else ""
    )
    return saved
