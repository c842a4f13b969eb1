"""Training, from a configuration to its metrics: one loop, read from top to bottom.

train           data, model, optimizer; then update, evaluate, save until the last step
_update         one update of the weights
_evaluate       validation losses and AP
_save           checkpoint and last.safetensors
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from boxwood.config import to_yaml
from boxwood.data.dataset import Dataset
from boxwood.data.loader import eval_batches, train_batches
from boxwood.data.quality.checks import check_same_categories
from boxwood.distributed import barrier, choose_device, gather_objects, on_rank_zero, process_group, rank, world_size
from boxwood.errors import UserError
from boxwood.evaluation import CocoEvaluator, Metrics, evaluate, make_evaluator, save_detections, save_metrics
from boxwood.run_config import RunConfig
from boxwood.structures import Batch, Categories, Target
from boxwood.training import run_directory
from boxwood.training.checkpoint import (
    Checkpoint,
    preserved_random_state,
    random_state,
    save_checkpoint,
    seed_process,
    set_random_state,
)
from boxwood.training.divergence import DivergenceWatch
from boxwood.training.initial_weights import load_initial_weights
from boxwood.training.interruption import Interrupted, Interruption
from boxwood.training.log import Meter, RunLog, open_log
from boxwood.training.optimizer import build_optimizer, learning_rate, set_learning_rate
from boxwood.training.preflight import check_data, check_precision
from boxwood.weights.file import save_weights

__all__ = ["train"]

logger = logging.getLogger(__name__)

LOSS_BATCH = 4
"""Images of a batch of which validation losses are taken; the same for any number of processes, so that the numbers are."""


PRIMARY = {"keypoints": "AP", "segm": "AP", "bbox": "AP", "proposals": "AR1000"}
"""What a task is judged by, the most telling task first."""


@dataclass
class _Run:
    """What changes while training, and what it is changed with."""

    config: RunConfig
    out: Path
    device: torch.device
    model: nn.Module
    """The detector itself."""
    network: nn.Module
    """What computes its ``forward``: the model, or the model wrapped so that gradients are averaged over processes."""
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
    metrics: Metrics = field(default_factory=dict)

    @property
    def categories(self) -> Categories:
        return cast(Categories, self.model.categories)


def train(config: RunConfig, out: Path | str, resume: bool = False) -> Metrics:
    """Train a detector and return the metrics of its last weights on the val set; everything is written to the directory
    ``out``.

    Under torchrun all its processes train together. With ``resume`` the run in ``out`` goes on from its newest checkpoint as if
    it had never stopped: on a CPU, with as many threads, the weights are the same to the last bit.

    SIGINT and SIGTERM finish the step, save, and raise `KeyboardInterrupt`. Raises `UserError` for what a person can mend,
    `TrainingDiverged` when a loss or a gradient is not finite.
    """
    out, settings = Path(out), config.train
    device = choose_device(settings.device)
    check_precision(settings.precision, device)
    if settings.batch_size % settings.accumulate:
        raise UserError(f"train.batch_size={settings.batch_size} is no multiple of train.accumulate={settings.accumulate}")
    with process_group(device):
        # What is there is looked at by all processes before the first of them changes it.
        checkpoint = run_directory.check_resumed(out, config) if resume else None
        if checkpoint is None:
            run_directory.check_new(out)
        train_set, val_set = config.data.train.open(), config.data.val.open()
        check_same_categories(train_set.categories, val_set.categories)
        check_data(config.model, train_set, "data.train")
        check_data(config.model, val_set, "data.val")
        barrier()

        run = _start(config, out, device, train_set.categories, checkpoint)
        batches = train_batches(
            train_set,
            config.data.train.transforms,
            batch_size=settings.batch_size // settings.accumulate,
            seed=settings.seed,
            workers=config.data.workers,
            aspect_grouping=config.data.aspect_grouping,
            start=run.step * settings.accumulate,
            rank=rank(),
            world_size=world_size(),
            pin_memory=device.type == "cuda",
        )
        # Starting the workers may draw from the generators, so that is done before they are given their state; and before the
        # directory is made, since this is where broken images are found.
        first = next(batches)
        on_rank_zero(lambda: run_directory.begin(out, config, device, world_size()))
        if checkpoint is not None and rank() < len(checkpoint.processes):
            set_random_state(checkpoint.processes[rank()]["random"])
        else:
            seed_process(settings.seed, rank())

        run_log = open_log(config, out, run.step, run.evaluated)
        with closing(batches), Interruption() as interruption, run_log or nullcontext():
            try:
                _loop(run, itertools.chain([first], batches), val_set, interruption, run_log)
            except Interrupted:
                _save(run, needed=True)
                logger.warning("interrupted after step %d, which is saved: go on with --resume", run.step)
                raise KeyboardInterrupt from None
            except UserError:
                # An image that cannot be read, of either set. One process alone can save what it has learnt until then.
                if world_size() == 1 and run.step > 0 and run.saved != run.step and _save(run, needed=False):
                    logger.warning("stopped after step %d, which is saved: mend what follows and go on with --resume", run.step)
                raise
    return run.metrics


def _loop(run: _Run, batches: Iterator[Batch], val_set: Dataset, interruption: Interruption, log: RunLog | None) -> None:
    """Update, log, evaluate, save, until the last step. A resumed run first does what was due at its step and is missing."""
    settings = run.config.train
    while True:
        last = run.step == settings.steps
        evaluation_due = last or (settings.eval_every > 0 and run.step > 0 and run.step % settings.eval_every == 0)
        if evaluation_due and run.evaluated != run.step:
            with run.meter.paused():
                run.watch.check()
                _evaluate(run, val_set, interruption, log)
        if (last or (run.step > 0 and run.step % settings.checkpoint_every == 0)) and run.saved != run.step:
            with run.meter.paused():
                _save(run, needed=last)
        if last:
            return
        interruption.check()
        rate = learning_rate(run.step, run.config)
        set_learning_rate(run.optimizer, rate)
        _update(run, batches)
        run.step += 1
        if log is not None:
            log.tick(run.step)
        if run.step % settings.log_every == 0 or run.step == settings.steps:
            run.watch.check()
            values = run.meter.read(images=settings.batch_size, lr=rate)
            if log is not None:
                log.train(run.step, values)


def _update(run: _Run, batches: Iterator[Batch]) -> None:
    """One update of the weights: forward and backward for each micro-batch, then a step of the optimizer.

    On a GPU nothing here waits for the device: losses stay there, and so does the verdict whether they are finite.
    """
    settings, device = run.config.train, run.device
    losses_of = cast(Callable[[Any, Sequence[Target]], dict[str, Tensor]], run.model.losses)
    autocast = torch.autocast(
        device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.precision), enabled=settings.precision != "fp32"
    )
    run.optimizer.zero_grad(set_to_none=True)
    with run.meter.waiting():
        # All of them first: an image that cannot be read is found before anything has changed.
        parts = list(itertools.islice(batches, settings.accumulate))
    for part, batch in enumerate(parts):
        batch = batch.to(device)
        assert batch.targets is not None
        # Processes exchange gradients once an update, in the last backward pass.
        alone = part < settings.accumulate - 1 and isinstance(run.network, DistributedDataParallel)
        with cast(DistributedDataParallel, run.network).no_sync() if alone else nullcontext():
            with autocast:
                losses = losses_of(run.network(batch), batch.targets)
                total = torch.stack(list(losses.values())).sum()
            run.scaler.scale(total / settings.accumulate).backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        run.watch.see(run.step + 1, batch, losses)
        run.meter.add({"loss": total, **losses}, 1 / settings.accumulate)

    run.scaler.unscale_(run.optimizer)
    trained = [p for group in run.optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradients = [p.grad for p in trained]
    norm = get_total_norm(gradients)
    if run.config.optim.clip_norm is not None:
        clip_grads_with_norm_(trained, run.config.optim.clip_norm, norm)
    run.watch.guard(run.step + 1, norm, gradients, overflow_is_ordinary=run.scaler.is_enabled())
    if not run.watch.deferred:
        run.watch.check()
    run.meter.add({"gradient_norm": norm}, 1.0)
    run.meter.count()
    run.scaler.step(run.optimizer)
    run.scaler.update()


def _evaluate(run: _Run, val_set: Dataset, interruption: Interruption, log: RunLog | None) -> None:
    """Validation losses and AP of the weights as they are; keeps the best. Training notices nothing of it."""
    config = run.config

    def batches(size: int, with_targets: bool) -> Iterator[Batch]:
        dealt = eval_batches(
            val_set,
            config.data.val.transforms,
            batch_size=size,
            workers=config.data.workers,
            rank=rank(),
            world_size=world_size(),
            with_targets=with_targets,
            seed=config.train.seed,
        )
        return interruption.until(dealt)

    with preserved_random_state():
        losses = _validation_losses(run, batches(LOSS_BATCH, with_targets=True))
        evaluator = make_evaluator(
            val_set.to_coco(),
            run.categories,
            class_agnostic=config.model.class_agnostic,
            detections_per_image=config.test.detections_per_image,
            maxdets=config.test.maxdets,
        )
        # One image at a time, so that no image's padding, and so no detection, depends on which others it is with.
        run.metrics = evaluate(run.model, batches(1, with_targets=False), evaluator, run.device)
    run.evaluated = run.step
    primary = _primary(run.metrics)
    better = run.best is None or primary > run.best
    if better:
        run.best = primary

    def write() -> None:
        save_metrics(run.metrics, run.out / "eval" / "metrics.json")
        if isinstance(evaluator, CocoEvaluator):
            save_detections(evaluator.records, run.out / "eval" / "detections.json")
        if better:
            save_weights(run.out / "best.safetensors", run.model.state_dict(), config, run.categories)

    _write(write, needed=run.step == config.train.steps)
    if log is not None:
        numbers = {f"{task}_{name}": value for task in PRIMARY for name, value in run.metrics.get(task, {}).items()}
        log.val(run.step, {**losses, **numbers})


@torch.no_grad()
def _validation_losses(run: _Run, batches: Iterator[Batch]) -> dict[str, float]:
    """The mean over the images of the val set, with the network in eval mode and the same sampling every time."""
    losses_of = cast(Callable[[Any, Sequence[Target]], dict[str, Tensor]], run.model.losses)
    modes = [(module, module.training) for module in run.model.modules()]
    run.model.eval()
    sums: dict[str, float] = {}
    images = 0
    try:
        for batch in batches:
            batch = batch.to(run.device)
            assert batch.targets is not None
            for name, loss in losses_of(run.model(batch), batch.targets).items():
                sums[name] = sums.get(name, 0.0) + loss.item() * len(batch)
            images += len(batch)
    finally:
        for module, mode in modes:
            module.training = mode
    parts = gather_objects((images, sums))
    count = max(sum(images for images, _ in parts), 1)
    names = list(dict.fromkeys(name for _, sums in parts for name in sums))
    means = {name: sum(sums.get(name, 0.0) for _, sums in parts) / count for name in names}
    return {"loss": sum(means.values()), **means}


def _primary(metrics: Metrics) -> float:
    """The number that decides which weights are the best: that of the first task of `PRIMARY` that the model does."""
    numbers = [metrics[task][name] for task, name in PRIMARY.items() if task in metrics]
    return float(next((number for number in numbers if number >= 0), -1.0))


def _start(config: RunConfig, out: Path, device: torch.device, categories: Categories, checkpoint: Checkpoint | None) -> _Run:
    """Model, optimizer and counters, new or as the checkpoint has them."""
    torch.manual_seed(config.train.seed)
    model = config.model.build(categories, config.test)
    logger.info("classes:\n%s", categories.table())
    if checkpoint is not None:
        if checkpoint.classes != tuple(zip(categories.ids, categories.names, strict=True)):
            raise UserError(f"{out}: the run's categories {checkpoint.classes} are not those of data.train; name another --out")
        model.load_state_dict(checkpoint.model)
    elif config.train.weights is not None:
        load_initial_weights(model, config, categories)
    model.to(device)
    model.to(memory_format=torch.channels_last)
    if config.train.compile:
        model.compile()
    model.train()
    network = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None) if world_size() > 1 else model
    optimizer = build_optimizer(model, config)
    scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16")
    run = _Run(
        config,
        out,
        device,
        model,
        network,
        optimizer,
        scaler,
        Meter(device),
        DivergenceWatch(device, deferred=device.type != "cpu"),
    )
    if config.optim.scale_lr:
        logger.info(
            "optim.scale_lr: learning rate %g for batches of %d, so %g for batches of %d",
            config.optim.lr,
            config.optim.reference_batch_size,
            config.optim.lr * config.train.batch_size / config.optim.reference_batch_size,
            config.train.batch_size,
        )
    if checkpoint is not None:
        _restore(run, checkpoint)
    return run


def _restore(run: _Run, checkpoint: Checkpoint) -> None:
    run.optimizer.load_state_dict(checkpoint.optimizer)
    run.scaler.load_state_dict(checkpoint.scaler)
    run.step = run.saved = checkpoint.step
    run.evaluated, run.best = checkpoint.evaluated, checkpoint.best
    run.metrics = json.loads(checkpoint.metrics)
    if len(checkpoint.processes) == world_size():
        run.meter.load_state_dict(checkpoint.processes[rank()]["meter"])
    else:
        logger.warning(
            "the run had %d processes and has %d now: the data are the same, but dropout and the like draw other numbers",
            len(checkpoint.processes),
            world_size(),
        )
    logger.info("going on after step %d of %d", run.step, run.config.train.steps)


def _save(run: _Run, *, needed: bool) -> bool:
    """Write the checkpoint and last.safetensors, and say whether that could be done; where not, and ``needed``, it raises."""
    run.watch.check()
    processes = gather_objects({"random": random_state(), "meter": run.meter.state_dict()})

    def write() -> None:
        state = run.model.state_dict()
        checkpoint = Checkpoint(
            step=run.step,
            model=state,
            optimizer=run.optimizer.state_dict(),
            scaler=run.scaler.state_dict(),
            evaluated=run.evaluated,
            best=run.best,
            metrics=json.dumps(run.metrics),
            config=to_yaml(run.config),
            classes=tuple(zip(run.categories.ids, run.categories.names, strict=True)),
            processes=processes,
        )
        save_checkpoint(run.out / "checkpoints", checkpoint, run.config.train.keep_checkpoints)
        save_weights(run.out / "last.safetensors", state, run.config, run.categories)

    written = _write(write, needed=needed)
    if written:
        run.saved = run.step
    return written


def _write(write: Callable[[], None], *, needed: bool) -> bool:
    """Let rank 0 write files, and say whether it could. A full disk costs only these files, unless they are ``needed``."""
    try:
        on_rank_zero(write)
    except UserError as error:
        if needed:
            raise
        logger.error("%s; training goes on without it", error)
        return False
    return True
