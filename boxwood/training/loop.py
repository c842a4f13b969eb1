"""Training, from a configuration to its metrics: one loop, read from top to bottom.

train        checks, data, the state of the run; then the loop, and what happens when it is interrupted
_loop        update, log, validate, save, until the last step
update       one update of the weights
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from boxwood.data.class_order import in_order_of
from boxwood.data.dataset import Dataset
from boxwood.data.identity import fingerprint
from boxwood.data.loader import train_batches
from boxwood.distributed import barrier, choose_device, on_rank_zero, on_rank_zero_within, process_group, rank, world_size
from boxwood.errors import UserError
from boxwood.evaluation import Metrics
from boxwood.run_config import RunConfig
from boxwood.structures import Batch, Target
from boxwood.training import run_directory
from boxwood.training.divergence import TrainingDiverged
from boxwood.training.interruption import Interrupted, Interruption
from boxwood.training.lock import only_training_in
from boxwood.training.log import RunLog, open_log
from boxwood.training.optimizer import learning_rate, set_learning_rate
from boxwood.training.parallel import local_parts, whole, without_exchange
from boxwood.training.preflight import check_data, check_measure, check_settings, log_mask_classes, warn_without_instances
from boxwood.training.state import TrainingState, complete_files, record_divergence, save, set_generators, start, write_files
from boxwood.training.validation import validate

__all__ = ["train", "update"]

logger = logging.getLogger(__name__)


def train(config: RunConfig, out: Path | str, resume: bool = False, *, other_data: bool = False) -> Metrics:
    """Train a detector and return the metrics of its last weights on the val set; all files are written to the directory ``out``.

    Under torchrun all its processes train together. With ``resume`` the run in ``out`` goes on from its newest checkpoint, or
    begins where there is none: on a CPU, with as many threads, the weights are those of an uninterrupted run to the last bit. With
    ``other_data`` it may go on with data that have changed since.

    SIGINT, SIGTERM and SIGHUP finish the step, save, and raise `KeyboardInterrupt`. Raises `UserError` for what a user can correct,
    also where another process trains in ``out``; `TrainingDiverged` when a loss or a gradient is not finite; `ProcessLost` when
    another process of torchrun has ended.
    """
    out, settings = Path(out), config.train
    device = choose_device(settings.device)
    check_settings(config, device)
    with process_group(device), on_rank_zero_within(lambda: only_training_in(out)):
        return _train(config, out, device, resume=resume, other_data=other_data)


def _train(config: RunConfig, out: Path, device: torch.device, *, resume: bool, other_data: bool) -> Metrics:
    """Train in a directory in which no other process trains."""
    settings = config.train
    # All processes check the directory before rank 0 changes it.
    checkpoint = run_directory.check_resumed(out, config, other_data=other_data) if resume else None
    if not resume:
        run_directory.check_new(out)
    train_set, val_set = config.data.train.open(), config.data.val.open()
    val_set = in_order_of(train_set.categories, val_set, "data.train", "data.val")
    check_data(config.model, train_set, "data.train")
    check_data(config.model, val_set, "data.val")
    data = {"train": fingerprint(train_set), "val": fingerprint(val_set)}
    if checkpoint is not None:
        run_directory.check_same_data(out, checkpoint, data, other_data=other_data)
    on_rank_zero(lambda: check_measure(config, train_set.categories, val_set))
    on_rank_zero(lambda: warn_without_instances(val_set))
    on_rank_zero(lambda: log_mask_classes(config.model, train_set))
    barrier()

    state = start(config, out, device, train_set.categories, checkpoint, data)
    batches = train_batches(
        train_set,
        config.data.train.transforms,
        batch_size=settings.batch_size // settings.accumulate,
        seed=settings.seed,
        workers=config.data.workers,
        aspect_grouping=config.data.aspect_grouping,
        start=state.step * settings.accumulate,
        rank=rank(),
        world_size=world_size(),
        device=device,
    )
    # The first batch comes before the directory is made, so that a broken image leaves no directory; and before the generators
    # are set, since starting the workers may draw from them.
    first = next(batches)
    on_rank_zero(lambda: run_directory.begin(out, config, device, world_size()))
    if checkpoint is not None:
        write_files(lambda: complete_files(state, checkpoint.model), required=state.step == settings.steps)
    set_generators(settings.seed, checkpoint)
    log = open_log(config, out, state.step, state.evaluated)
    with closing(batches), Interruption() as interruption, log or nullcontext():
        try:
            _loop(state, itertools.chain([first], batches), val_set, interruption, log)
        except Interrupted:
            save(state, required=True)
            logger.warning("interrupted after step %d, which is saved: continue with --resume", state.step)
            raise KeyboardInterrupt from None
        except TrainingDiverged as error:
            raise record_divergence(state, error) from None
        except UserError:
            # An image that cannot be read. One process alone can save the updates made so far; several may be at other steps.
            if world_size() == 1 and state.step > 0 and state.saved != state.step and save(state, required=False):
                logger.warning("stopped after step %d, which is saved: correct this and continue with --resume", state.step)
            raise
    return state.metrics


def _loop(state: TrainingState, batches: Iterator[Batch], val_set: Dataset, interruption: Interruption, log: RunLog | None) -> None:
    """Update, log, validate, save, until the last step. A resumed run first does what was due at its step and is missing."""
    settings = state.config.train
    while True:
        is_last = state.step == settings.steps
        is_evaluated = settings.eval_every > 0 and state.step > 0 and state.step % settings.eval_every == 0
        if (is_last or is_evaluated) and state.evaluated != state.step:
            with state.meter.paused():
                state.watch.check()
                validate(state, val_set, interruption, log)
        is_saved = state.step > 0 and state.step % settings.checkpoint_every == 0
        if (is_last or is_saved) and state.saved != state.step:
            with state.meter.paused():
                save(state, required=is_last)
        if is_last:
            return
        interruption.check()
        rate = learning_rate(state.step, state.config)
        set_learning_rate(state.optimizer, rate)
        update(state, batches)
        state.step += 1
        if log is not None:
            log.tick(state.step)
        if state.step % settings.log_every == 0 or state.step == settings.steps:
            state.watch.check()
            values = state.meter.read(images=settings.batch_size, lr=rate)
            if log is not None:
                log.train(state.step, values)


def update(state: TrainingState, batches: Iterator[Batch]) -> None:
    """One update of the weights: forward and backward for each micro-batch, then a step of the optimizer.

    On a GPU nothing here waits for the device: losses stay there, and so does the check whether they are finite.
    """
    settings, device = state.config.train, state.device
    losses_of = cast(Callable[[Any, Sequence[Target]], dict[str, Tensor]], state.model.losses)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.precision)
    autocast = torch.autocast(device.type, dtype, enabled=dtype is not None)
    state.optimizer.zero_grad(set_to_none=True)
    with state.meter.waiting():
        # All micro-batches first, so that an image that cannot be read changes nothing.
        micro_batches = list(itertools.islice(batches, settings.accumulate))
    for index, batch in enumerate(micro_batches):
        batch = batch.to(device)
        assert batch.targets is not None
        is_last = index == settings.accumulate - 1  # processes exchange gradients once an update
        with nullcontext() if is_last else without_exchange(state.network):
            with autocast:
                losses = losses_of(state.network(batch), batch.targets)
                total = torch.stack(list(losses.values())).sum()
            state.scaler.scale(total / settings.accumulate).backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        state.watch.see(state.step + 1, batch, losses)
        state.meter.add({"loss": total, **losses}, 1 / settings.accumulate)

    state.scaler.unscale_(state.optimizer)
    parameters = [p for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradients = [p.grad for p in parameters]
    norm = get_total_norm(gradients)
    if state.config.optim.clip_norm is not None:
        clip_grads_with_norm_(parameters, state.config.optim.clip_norm, norm)
    if state.config.optim.clip_value is not None:
        clip_grad_value_(parameters, state.config.optim.clip_value)
    norm = whole(norm)
    state.watch.guard(state.step + 1, norm, local_parts(gradients), overflow_is_ordinary=state.scaler.is_enabled())
    if not state.watch.deferred:
        state.watch.check()
    state.meter.add({"gradient_norm": norm}, 1.0)
    state.meter.count()
    state.scaler.step(state.optimizer)
    state.scaler.update()
