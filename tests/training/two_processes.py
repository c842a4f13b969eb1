"""A short training by one process, and the same by two: the lines of both logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from boxwood.config import to_yaml
from boxwood.run_config import RunConfig, SGDConfig, TrainConfig
from boxwood.training import train
from tests.training import torchrun
from tests.training.test_distributed import lines


def after_first_steps(config: RunConfig, folder: Path, steps: int) -> RunConfig:
    """``config`` changed to train ``steps`` steps at a small learning rate, from weights of 60 steps that are made here.

    The learning rate is small, since rounding errors of the weights grow with it until a different one of two overlapping proposals
    is suppressed, which changes the loss abruptly.
    """
    config.train = TrainConfig(steps=60, batch_size=2, eval_every=0, checkpoint_every=100)
    _with_one_thread(config, folder / "before")
    config.optim = SGDConfig(lr=2e-4, warmup_steps=5)
    config.train = TrainConfig(steps=steps, batch_size=2, eval_every=0, log_every=1, checkpoint_every=100)
    config.train.weights = str(folder / "before" / "last.safetensors")
    return config


def one_and_two(config: RunConfig, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What one process and what two log of each step."""
    _with_one_thread(config, folder / "one")
    path = folder / "config.yaml"
    path.write_text(to_yaml(config))
    status, output = torchrun.run(path, folder / "two")
    assert status == 0, output
    return lines(folder / "one", "train"), lines(folder / "two", "train")


def _with_one_thread(config: RunConfig, out: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(config, out)
    torch.set_num_threads(threads)
