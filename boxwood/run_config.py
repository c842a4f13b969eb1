"""The configuration of a run: the whole tree on one page.

    RunConfig
      model   which network            boxwood.models        (RCNNConfig, ...)
      data    train and val            boxwood.data          (CocoConfig, ...)
      optim   how weights are updated  boxwood.optimizer_config (SGDConfig, ...)
      train   how long, how often
      test    outputs -> detections    boxwood.models.inference_config
      evaluator  detections -> numbers  boxwood.evaluation.measures (CocoEvaluatorConfig, ...)

A recipe is a function that returns one. It is saved beside every run and inside every weights file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from boxwood.config import Config
from boxwood.data import DataConfig
from boxwood.evaluation.measures import CocoEvaluatorConfig, EvaluatorConfig, Measure, choose_measure
from boxwood.loggers import LoggerConfig
from boxwood.models import ModelConfig, TestConfig
from boxwood.optimizer_config import (
    AdamWConfig,
    CosineScheduleConfig,
    OptimizerConfig,
    ParameterRule,
    ScheduleConfig,
    SGDConfig,
    StepScheduleConfig,
)

if TYPE_CHECKING:
    from boxwood.structures import Categories

__all__ = [
    "AdamWConfig",
    "CosineScheduleConfig",
    "OptimizerConfig",
    "ParameterRule",
    "RunConfig",
    "SGDConfig",
    "ScheduleConfig",
    "StepScheduleConfig",
    "TrainConfig",
]


class TrainConfig(Config):
    """The loop."""

    steps: int = Field(90_000, gt=0)
    """Updates of the weights."""
    batch_size: int = Field(16, gt=0)
    """Images an update, over all processes and accumulation passes."""
    accumulate: int = Field(1, gt=0)
    """Forward and backward passes an update; each sees ``batch_size / accumulate`` images."""
    seed: int = Field(0, ge=0)
    """Determines the initial weights, the order of images, every augmentation and every sampling."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: str = "auto"
    """``auto`` takes the GPU where there is one; else ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    eval_every: int = Field(5000, ge=0)
    """Steps between evaluations on the val set; 0 evaluates only at the end."""
    checkpoint_every: int = Field(5000, gt=0)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(2, gt=0)
    """How many checkpoints are kept: the newest ones."""
    log_every: int = Field(20, gt=0)
    """Steps between lines of the log; each holds means over the steps since the line before."""
    weights: str | None = None
    """A ``.safetensors`` file to start from, or a name of the model zoo, also of a backbone alone (``detectron/imagenet/R-50``).
    The outputs of a class are those of the class of the same name; other classes are randomly initialised."""
    loggers: tuple[LoggerConfig, ...] = ()
    """Where the numbers of ``metrics.jsonl`` go besides that file."""
    tensorboard: bool = False
    """Short for ``{kind: tensorboard}`` among the loggers."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What each of several processes holds: ``ddp`` the whole model, ``fsdp`` a part of every weight, gradient and state of the
    optimizer (less memory, more messages). One process trains alike with both."""
    sync_bn: bool = False
    """On several GPUs, batch norm takes its statistics from the images of all of them (`torch.nn.SyncBatchNorm`)."""
    compile: bool = False
    """Compile the network with `torch.compile`; faster on a GPU."""


class RunConfig(Config):
    """Everything that determines the outcome of a run."""

    model: ModelConfig
    data: DataConfig
    optim: OptimizerConfig = Field(default_factory=SGDConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    test: TestConfig = Field(default_factory=TestConfig)
    evaluator: EvaluatorConfig | None = None
    """By which rules detections are scored, and which weights are the best. None: COCO's AP, of an RPN alone its average recall."""

    def measure(self, other: Measure | None = None, categories: Categories | None = None) -> EvaluatorConfig:
        """The rules of ``evaluator``, or of ``other``; for COCO's, whose masks teach is as ``data.train.mask_classes`` says.

        ``categories`` are the detector's classes: other data sets may have other ids for them. Raises `UserError` as
        `choose_measure`, and where a file of classes cannot be read or a class is unknown.
        """
        measure = choose_measure(other or self.evaluator, self.model.class_agnostic)
        if not isinstance(measure, CocoEvaluatorConfig):
            return measure
        classes = measure.mask_classes or getattr(self.data.train, "mask_classes", None)
        if classes is None or categories is None:
            return measure
        from boxwood.data.mask_classes import listed_classes  # which needs torch

        labels = categories.labels_of(listed_classes(classes), "data.train.mask_classes")
        return measure.model_copy(update={"mask_classes": tuple(categories.names[label] for label in labels)})
