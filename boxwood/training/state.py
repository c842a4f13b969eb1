"""The state of a run: what it holds in memory, how it starts or resumes, and what is saved.

start                model, optimizer and counters, new or from a checkpoint
save                 checkpoint and last.safetensors
complete_files       after a kill between the two
record_divergence    what a training that diverged leaves in its directory
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from boxwood.config import to_yaml
from boxwood.distributed import gather_objects, on_rank_zero, rank, world_size
from boxwood.errors import UserError
from boxwood.evaluation import Metrics
from boxwood.files import write_text
from boxwood.models.convolution import replace_convolutions
from boxwood.models.detector import set_fixed_shapes
from boxwood.run_config import RunConfig
from boxwood.structures import Categories
from boxwood.training.checkpoint import (
    Checkpoint,
    delete_old_checkpoints,
    random_state,
    save_checkpoint,
    seed_process,
    set_random_state,
)
from boxwood.training.divergence import DivergenceWatch, TrainingDiverged
from boxwood.training.initial_weights import load_initial_weights
from boxwood.training.log import Meter
from boxwood.training.optimizer import build_optimizer, freeze
from boxwood.training.parallel import parallelize, restore_optimizer, whole_state
from boxwood.training.preflight import warn_of_batch_norm
from boxwood.weights.file import save_weights

__all__ = ["TrainingState", "complete_files", "record_divergence", "save", "set_generators", "start", "write_files"]

logger = logging.getLogger(__name__)

PAUSES = (10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 180.0)
"""Seconds before each further try to write files that are required: ten minutes, in which somebody can make room."""


@dataclass
class TrainingState:
    """Everything that training changes, and the objects that change it."""

    config: RunConfig
    out: Path
    device: torch.device
    model: nn.Module
    """The detector itself."""
    network: nn.Module
    """The module whose ``forward`` training calls: the model, or what `parallelize` wraps around it."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    meter: Meter
    watch: DivergenceWatch
    step: int = 0
    """Updates done."""
    saved: int | None = None
    """Step of the newest checkpoint."""
    evaluated: int = 0
    """Step of the last evaluation."""
    best: float | None = None
    """The primary metric of the weights in ``best.safetensors``; of rank 0, which writes them."""
    metrics: Metrics = field(default_factory=dict)
    """Of the last evaluation."""
    data: dict[str, dict[str, str]] = field(default_factory=dict)
    """The `fingerprint` of the data sets ``train`` and ``val``."""

    @property
    def categories(self) -> Categories:
        return cast(Categories, self.model.categories)


def start(
    config: RunConfig,
    out: Path,
    device: torch.device,
    categories: Categories,
    checkpoint: Checkpoint | None,
    data: dict[str, dict[str, str]],
) -> TrainingState:
    """The state at the start of a run, or that of ``checkpoint``; ``data`` has the `fingerprint` of the data sets.

    Raises `UserError` where the weights to start from do not fit the model, or the classes are not those of the checkpoint.
    """
    torch.manual_seed(config.train.seed)
    model = config.model.build(categories, config.test)
    logger.info("classes:\n%s", categories.table())
    if checkpoint is not None:
        if checkpoint.classes != _classes(categories):
            raise UserError(f"{out}: the run's categories {checkpoint.classes} are not those of data.train; name another --out")
        model.load_state_dict(checkpoint.model)
    elif config.train.weights is not None:
        load_initial_weights(model, config, categories)
    model.train()
    freeze(model, config.optim.lr_factors)
    on_rank_zero(lambda: warn_of_batch_norm(model, config.train))
    model.to(device)
    replace_convolutions(model)
    model.to(memory_format=torch.channels_last)
    if config.train.compile:
        set_fixed_shapes(model)
        model.compile()
    network = parallelize(model, device, config.train.parallel, sync_bn=config.train.sync_bn)  # before it has an optimizer
    state = TrainingState(
        config=config,
        out=out,
        device=device,
        model=model,
        network=network,
        optimizer=build_optimizer(model, config),
        scaler=torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16"),
        meter=Meter(device),
        watch=DivergenceWatch(device, deferred=device.type != "cpu"),
        data=data,
    )
    _log_learning_rate(config)
    if checkpoint is not None:
        _restore(state, checkpoint)
    return state


def _log_learning_rate(config: RunConfig) -> None:
    """One line where the batch is not the one that the learning rate is meant for."""
    optim, size, reference = config.optim, config.train.batch_size, config.optim.reference_batch_size
    scaled = optim.lr * size / reference
    if optim.scale_lr:
        logger.info(
            "optim.scale_lr: learning rate %g for batches of %d, so %g for batches of %d", optim.lr, reference, scaled, size
        )
    elif size != reference:
        logger.warning(
            "train.batch_size=%d, but optim.lr=%g is meant for batches of %d; with optim.scale_lr=true it is %g",
            *(size, optim.lr, reference, scaled),
        )


def _restore(state: TrainingState, checkpoint: Checkpoint) -> None:
    """Optimizer and counters; the model's weights are loaded already."""
    restore_optimizer(state.optimizer, checkpoint.optimizer)
    state.scaler.load_state_dict(checkpoint.scaler)
    state.step = state.saved = checkpoint.step
    state.evaluated, state.best = checkpoint.evaluated, checkpoint.best
    state.metrics = json.loads(checkpoint.metrics)
    if checkpoint.data and checkpoint.data["val"] != state.data["val"] and state.best is not None:
        logger.warning("data.val has changed, so the next evaluation replaces the best weights, whatever its numbers")
        state.best = None
    if len(checkpoint.processes) == world_size():
        state.meter.load_state_dict(checkpoint.processes[rank()]["meter"])
    else:
        logger.warning(
            "the run had %d processes and has %d now: the data are the same, but dropout and the like draw other numbers",
            len(checkpoint.processes),
            world_size(),
        )
    logger.info("resumed after step %d of %d", state.step, state.config.train.steps)


def set_generators(seed: int, checkpoint: Checkpoint | None) -> None:
    """Set this process's random number generators: to their state in the checkpoint, or to one that ``seed`` determines."""
    if checkpoint is not None and rank() < len(checkpoint.processes):
        set_random_state(checkpoint.processes[rank()]["random"])
    else:
        seed_process(seed, rank())


def save(state: TrainingState, *, required: bool) -> bool:
    """Write the checkpoint and last.safetensors; all processes must call it. Returns whether they were written (`write_files`)."""
    state.watch.check()
    processes = gather_objects({"random": random_state(), "meter": state.meter.state_dict()})
    weights, optimizer = whole_state(state.model.state_dict()), whole_state(state.optimizer.state_dict())

    def write() -> None:
        checkpoint = Checkpoint(
            step=state.step,
            model=weights,
            optimizer=optimizer,
            scaler=state.scaler.state_dict(),
            evaluated=state.evaluated,
            best=state.best,
            metrics=json.dumps(state.metrics),
            config=to_yaml(state.config),
            classes=_classes(state.categories),
            processes=processes,
            data=state.data,
        )
        save_checkpoint(state.out / "checkpoints", checkpoint, state.config.train.keep_checkpoints)
        save_weights(state.out / "last.safetensors", weights, state.config, state.categories)

    written = write_files(write, required=required)
    if written:
        state.saved = state.step
    return written


def record_divergence(state: TrainingState, error: TrainingDiverged) -> TrainingDiverged:
    """Write divergence.txt and, where the run has no weights yet, last.safetensors; the error with the names of these files.

    All processes must call it. The weights are finite: an update that is not changes nothing.
    """
    details, last = state.out / "divergence.txt", state.out / "last.safetensors"
    message = f"{error}; more in {details}"
    weights = whole_state(state.model.state_dict())

    def write() -> None:
        write_text(details, error.details + "\n")
        if not last.exists():
            save_weights(last, weights, state.config, state.categories)

    if write_files(write, required=False):
        message += f"; the last weights that were saved are in {last}"
    return TrainingDiverged(message, error.details)


def complete_files(state: TrainingState, weights: dict[str, Tensor]) -> None:
    """Bring the files of a resumed run to its checkpoint, whose ``weights`` these are, on rank 0: it may have been killed between
    two of them.

    last.safetensors gets the checkpoint's weights, and so does best.safetensors where they are the best. Without a best.safetensors
    the next evaluation writes it.
    """
    delete_old_checkpoints(state.out / "checkpoints", state.config.train.keep_checkpoints)
    best = state.out / "best.safetensors"
    save_weights(state.out / "last.safetensors", weights, state.config, state.categories)
    if state.best is None:
        return
    measure = state.config.measure()
    if state.evaluated == state.step and measure.primary(state.metrics) == state.best:
        save_weights(best, weights, state.config, state.categories)
    elif not best.exists():
        logger.warning("%s: does not exist any more; the next evaluation writes it", best)
        state.best = None


def write_files(write: Callable[[], None], *, required: bool) -> bool:
    """Run ``write`` on rank 0 and return whether it succeeded.

    Where it does not, such as on a full disk, training continues and the error is logged. Files that are ``required`` are tried
    again after each of `PAUSES`, then the error is raised.
    """
    pauses = iter(PAUSES if required else ())
    while True:
        try:
            on_rank_zero(write)
        except UserError as error:
            pause = next(pauses, None)
            if pause is not None:
                logger.error("%s; tried again in %g s", error, pause)
                time.sleep(pause)
                continue
            if required:
                raise
            logger.error("%s; training continues without it", error)
            return False
        return True


def _classes(categories: Categories) -> tuple[tuple[int, str], ...]:
    """Id and name of each class, by label."""
    return tuple(zip(categories.ids, categories.names, strict=True))
