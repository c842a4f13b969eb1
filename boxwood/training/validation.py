"""Evaluation during training: losses on the val set, metrics, and the best weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from boxwood.data.dataset import Dataset
from boxwood.data.loader import eval_batches
from boxwood.distributed import gather_objects, rank, world_size
from boxwood.evaluation import CollectingEvaluator, evaluate, save_detections, save_metrics
from boxwood.evaluation.table import tables_of
from boxwood.structures import Batch, Target
from boxwood.training.checkpoint import preserved_random_state
from boxwood.training.interruption import Interruption
from boxwood.training.log import RunLog
from boxwood.training.parallel import whole_state, whole_weights
from boxwood.training.state import TrainingState, write_files
from boxwood.weights.file import save_weights

__all__ = ["validate"]

LOSS_BATCH = 4
"""Images of a batch for validation losses. It does not depend on the number of processes, so neither do the losses."""


def validate(state: TrainingState, val_set: Dataset, interruption: Interruption, log: RunLog | None) -> None:
    """Compute losses and metrics of the weights, write them, and save the weights if they are the best so far.

    All processes must call it. The weights, the modes of the modules and the random number generators stay as they are.
    """
    config = state.config
    measure = config.measure(categories=state.categories)
    # A graph that was compiled for training steps would be compiled twice more: without gradients, and in eval mode.
    uncompiled = torch.compiler.set_stance("force_eager") if config.train.compile else nullcontext()
    with preserved_random_state(), whole_weights(state.model), uncompiled:
        losses = _validation_losses(state, _batches(state, val_set, interruption, LOSS_BATCH, with_targets=True))
        evaluator = measure.build(
            val_set.to_coco(),
            val_set.categories,  # the ids of its file
            detections_per_image=config.test.detections_per_image,
            maxdets=config.test.maxdets,
        )
        # One image at a time, so that the padding of an image, and so its detections, do not depend on other images.
        batches = _batches(state, val_set, interruption, 1, with_targets=False)
        state.metrics = evaluate(state.model, batches, evaluator, state.device)
    state.evaluated = state.step
    primary = measure.primary(state.metrics)
    # -1 says that the val set has nothing to compare with. Of equal ones the newest weights are the best.
    weights = whole_state(state.model.state_dict())
    is_best = primary != -1 and not math.isnan(primary) and (state.best is None or primary >= state.best)

    def write() -> None:
        save_metrics(state.metrics, state.out / "eval" / "metrics.json")
        if isinstance(evaluator, CollectingEvaluator):
            save_detections(evaluator.records, state.out / "eval" / "detections.json")
        if is_best:
            save_weights(state.out / "best.safetensors", weights, config, state.categories)
            state.best = primary

    write_files(write, required=state.step == config.train.steps)
    if log is not None:
        tables = reversed(tables_of(state.metrics).items())
        log.val(state.step, {**losses, **{f"{task}_{name}": number for task, table in tables for name, number in table.items()}})


def _batches(
    state: TrainingState, val_set: Dataset, interruption: Interruption, size: int, *, with_targets: bool
) -> Iterator[Batch]:
    """This process's batches of the val set, until the run is interrupted."""
    batches = eval_batches(
        val_set,
        state.config.data.val.transforms,
        batch_size=size,
        workers=state.config.data.workers,
        rank=rank(),
        world_size=world_size(),
        with_targets=with_targets,
        seed=state.config.train.seed,
    )
    return interruption.until(batches)


@torch.no_grad()
def _validation_losses(state: TrainingState, batches: Iterator[Batch]) -> dict[str, float]:
    """Means over the images of the val set, with the network in eval mode and the same sampling every time."""
    losses_of = cast(Callable[[Any, Sequence[Target]], dict[str, Tensor]], state.model.losses)
    modes = [(module, module.training) for module in state.model.modules()]
    state.model.eval()
    sums: dict[str, float] = {}
    num_images = 0
    try:
        for batch in batches:
            batch = batch.to(state.device)
            assert batch.targets is not None
            for name, loss in losses_of(state.model(batch), batch.targets).items():
                sums[name] = sums.get(name, 0.0) + loss.item() * len(batch)
            num_images += len(batch)
    finally:
        for module, mode in modes:
            module.training = mode
    parts = gather_objects((num_images, sums))
    total_images = max(sum(count for count, _ in parts), 1)
    names = list(dict.fromkeys(name for _, part in parts for name in part))
    means = {name: sum(part.get(name, 0.0) for _, part in parts) / total_images for name in names}
    return {"loss": sum(means.values()), **means}
