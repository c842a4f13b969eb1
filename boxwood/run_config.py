"""The configuration of a run: the whole tree on one page.

    RunConfig
      model   which network            boxwood.models        (RCNNConfig, ...)
      data    train and val            boxwood.data          (CocoConfig, ...)
      optim   how weights are changed
      train   how long, how often
      test    outputs -> detections    boxwood.models.detector

A recipe is a function that returns one. It is saved beside every run and inside every weights file.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from boxwood.config import Config
from boxwood.data import DataConfig
from boxwood.models import ModelConfig, TestConfig

__all__ = ["OptimConfig", "RunConfig", "TrainConfig"]


class OptimConfig(Config):
    """The optimizer and its schedule."""

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.02, gt=0)
    """Learning rate at the top of the schedule, for a batch of ``reference_batch_size`` images where ``scale_lr`` is set."""
    scale_lr: bool = False
    """Multiply ``lr`` by ``train.batch_size / reference_batch_size`` (the linear rule); the log says so."""
    reference_batch_size: int = Field(16, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of SGD."""
    weight_decay: float = Field(1e-4, ge=0)
    norm_weight_decay: float = Field(0.0, ge=0)
    """Of the scales and shifts of normalisation layers."""
    bias_lr_factor: float = Field(1.0, gt=0)
    """Learning rate of biases relative to ``lr``; Detectron trained with 2."""
    bias_weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["step", "cosine"] = "step"
    drops: tuple[float, ...] = (2 / 3, 8 / 9)
    """Where the step schedule multiplies the rate by ``gamma``, as fractions of ``train.steps``."""
    gamma: float = Field(0.1, gt=0, le=1)
    warmup_steps: int = Field(500, ge=0)
    warmup_factor: float = Field(1 / 3, gt=0, le=1)
    """The rate rises linearly from this fraction over ``warmup_steps``."""
    clip_norm: float | None = None
    """Gradients are scaled down to this total norm; None leaves them."""


class TrainConfig(Config):
    """The loop."""

    steps: int = Field(90_000, gt=0)
    """Updates of the weights."""
    batch_size: int = Field(16, gt=0)
    """Images an update, over all processes and accumulation passes."""
    accumulate: int = Field(1, gt=0)
    """Forward and backward passes an update; each sees ``batch_size / accumulate`` images."""
    seed: int = Field(0, ge=0)
    """Decides the initial weights, the order of images, every augmentation and every sampling."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: str = "auto"
    """``auto`` takes the GPU where there is one; else ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    eval_every: int = Field(5000, ge=0)
    """Steps between evaluations on the val set; 0 evaluates only at the end."""
    checkpoint_every: int = Field(5000, gt=0)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(2, gt=0)
    """How many of the newest checkpoints stay."""
    log_every: int = Field(20, gt=0)
    """Steps between lines of the log; each is the mean since the last."""
    weights: str | None = None
    """A ``.safetensors`` file to start from, or a name of the model zoo, of bodies too (``detectron/imagenet/R-50``); layers whose
    shape depends on the classes start anew where the classes differ."""
    tensorboard: bool = False
    """Write TensorBoard's files to ``tensorboard/`` in the run directory; needs ``pip install 'boxwood[tensorboard]'``."""
    compile: bool = False
    """Compile the network with `torch.compile`; pays on a GPU."""


class RunConfig(Config):
    """Everything that decides the outcome of a run."""

    model: ModelConfig
    data: DataConfig
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    test: TestConfig = Field(default_factory=TestConfig)
