"""How the weights are updated: the optimizer, the schedule of its learning rate, and rules for some of the parameters.

    OptimizerConfig    SGDConfig, AdamWConfig
    ScheduleConfig     StepScheduleConfig, CosineScheduleConfig

Both are components: an optimizer or a schedule of a user's is one class in any module (``examples/own_optimizer.py``). torch is
imported when an optimizer is built, so a configuration can be read, changed and printed without it.
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler

from boxwood.config import Component, Config, ConfigError, to_tree

if TYPE_CHECKING:
    import torch

__all__ = [
    "AdamWConfig",
    "CosineScheduleConfig",
    "OptimizerConfig",
    "ParameterRule",
    "SGDConfig",
    "ScheduleConfig",
    "StepScheduleConfig",
]

logger = logging.getLogger(__name__)


class ScheduleConfig(Component):
    """Base of every schedule: how the learning rate changes over a run. Warm-up comes on top of it (``optim.warmup_steps``)."""

    kind_alone: ClassVar[bool] = True

    @abstractmethod
    def factor(self, step: int, steps: int) -> float:
        """What ``optim.lr`` is multiplied by in update ``step``, counted from 0, of a run of ``steps`` updates."""


class StepScheduleConfig(ScheduleConfig):
    """The rate is multiplied by ``gamma`` at each drop: Detectron's ``steps_with_decay``."""

    short_kind: ClassVar[str] = "step"

    drops: tuple[float, ...] = (2 / 3, 8 / 9)
    """Fractions of ``train.steps``; a drop takes effect from update ``round(fraction * train.steps)`` on."""
    gamma: float = Field(0.1, gt=0, le=1)

    def factor(self, step: int, steps: int) -> float:
        """
        >>> [StepScheduleConfig(drops=(0.5, 0.8)).factor(step, 10) for step in (0, 4, 5, 7)]
        [1.0, 1.0, 0.1, 0.1]
        """
        return self.gamma ** sum(step >= round(fraction * steps) for fraction in self.drops)


class CosineScheduleConfig(ScheduleConfig):
    """The rate falls to 0 along half a cosine (https://arxiv.org/abs/1608.03983, equation 5, one period)."""

    short_kind: ClassVar[str] = "cosine"

    def factor(self, step: int, steps: int) -> float:
        """
        >>> [round(CosineScheduleConfig().factor(step, 4), 3) for step in range(4)]
        [1.0, 0.854, 0.5, 0.146]
        """
        return 0.5 * (1.0 + math.cos(math.pi * step / steps))


class ParameterRule(Config):
    """A learning rate and a weight decay for the parameters whose names match a pattern."""

    pattern: str
    """A glob on the names in the state dict: ``backbone.layer1.*``. ``*`` matches dots too, ``?`` one character."""
    lr: float = Field(1.0, ge=0)
    """Multiplies the learning rate that the parameters would have without the rule; 0 freezes them: they have no
    gradient, and batch norms keep their statistics."""
    weight_decay: float | None = Field(None, ge=0)
    """Replaces their weight decay, that of biases and normalisation layers too; None leaves it."""


class OptimizerConfig(Component):
    """Base of every optimizer: what all of them have in common. ``optim.kind`` chooses one and leaves these keys as they are."""

    lr: float = Field(0.02, gt=0)
    """Learning rate at the top of the schedule, for a batch of ``reference_batch_size`` images where ``scale_lr`` is set."""
    scale_lr: bool = False
    """Multiply ``lr`` by ``train.batch_size / reference_batch_size`` (the linear rule); the log says so."""
    reference_batch_size: int = Field(16, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    norm_weight_decay: float = Field(0.0, ge=0)
    """Of the scales and shifts of normalisation layers."""
    bias_lr_factor: float = Field(1.0, gt=0)
    """Learning rate of biases relative to ``lr``; Detectron trained with 2."""
    bias_weight_decay: float = Field(0.0, ge=0)
    schedule: ScheduleConfig = Field(default_factory=StepScheduleConfig)
    warmup_steps: int = Field(500, ge=0)
    warmup_factor: float = Field(1 / 3, gt=0, le=1)
    """The rate rises linearly from this fraction over ``warmup_steps``."""
    clip_norm: float | None = None
    """Gradients are scaled down to this total norm; None leaves them."""
    clip_value: float | None = Field(None, gt=0)
    """Each number of the gradients is cut to at most this, up and down; None leaves them."""
    lr_factors: tuple[ParameterRule, ...] = ()
    """Other learning rates and weight decays by name of the parameter. The first rule whose pattern matches applies, alone."""

    @abstractmethod
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of parameter groups: each has ``params``, ``weight_decay``, and keys that the optimizer must keep.

        The loop sets ``lr`` of every group before each update.
        """

    @classmethod
    def keys_of_all_kinds(cls) -> Iterable[str]:
        return OptimizerConfig.model_fields

    @model_validator(mode="wrap")
    @classmethod
    def _read_old_keys(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(value, dict) and (cls is OptimizerConfig or not value.keys() <= cls.model_fields.keys()):
            value = _with_todays_keys(cls, value)
        return handler(value)

    def _set_unknown(self, name: str, value: Any) -> None:
        if name in _FLAT and name in type(self.schedule).model_fields:
            logger.info("optim.%s is now optim.schedule.%s", name, name)
            setattr(self.schedule, name, value)
        elif name == "kind":
            raise ConfigError(
                [f"{type(self).__name__}: the kind is the class; assign another one: config.optim = AdamWConfig(...)"]
            )
        else:
            super()._set_unknown(name, value)


class SGDConfig(OptimizerConfig):
    """`torch.optim.SGD`."""

    short_kind: ClassVar[str] = "sgd"

    momentum: float = Field(0.9, ge=0, lt=1)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        import torch

        optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=_fused(groups))
        if self.momentum > 0:
            # Torch's fused kernel takes memory as it is for these, and fills it in the first update, which fp16 may skip.
            for parameter in (parameter for group in groups for parameter in group["params"]):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


class AdamWConfig(OptimizerConfig):
    """`torch.optim.AdamW` (Loshchilov and Hutter, https://arxiv.org/abs/1711.05101)."""

    short_kind: ClassVar[str] = "adamw"

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        from torch.optim import AdamW

        return AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=_fused(groups))


# ------------------------------------------------------------------------------------------------------ internals

_FLAT = ("drops", "gamma")
"""Keys of the step schedule that stood beside ``schedule``, which was text."""


def _fused(groups: list[dict[str, Any]]) -> bool | None:
    """Whether torch has a kernel that updates all parameters in one pass over memory, and on a GPU without a device sync.

    It has none that is complete for parameters that are sharded over processes.
    """
    from torch.distributed.tensor import DTensor

    parameters = [parameter for group in groups for parameter in group["params"]]
    is_sharded = any(isinstance(parameter, DTensor) for parameter in parameters)
    return True if not is_sharded and {parameter.device.type for parameter in parameters} <= {"cpu", "cuda"} else None


def _with_todays_keys(cls: type[OptimizerConfig], tree: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``tree`` without the keys that files had before schedules were components; one line in the log names them.

    ``schedule: step`` beside ``drops`` and ``gamma`` was what ``schedule: {kind: step, drops: ..., gamma: ...}`` is. Every file had
    ``momentum``, and SGD was the default.
    """
    tree, notes = dict(tree), []
    if cls is OptimizerConfig:
        tree.setdefault("kind", SGDConfig.kind())
    fields = cls.kinds().get(str(tree.get("kind")), cls).model_fields

    schedule = tree.get("schedule", StepScheduleConfig())
    schedule = to_tree(schedule) if isinstance(schedule, ScheduleConfig) else schedule
    flat = {key: tree[key] for key in _FLAT if key in tree and key not in fields}
    if isinstance(schedule, str):
        schedule = tree["schedule"] = {"kind": schedule}
        notes.append(f"optim.schedule={schedule['kind']} is now optim.schedule.kind={schedule['kind']}")
    if flat and isinstance(schedule, dict):
        target = ScheduleConfig.kinds().get(str(schedule.get("kind")), ScheduleConfig)
        tree = {key: item for key, item in tree.items() if key not in flat}
        moved = {key: _replaced(schedule.get(key), item) for key, item in flat.items() if key in target.model_fields}
        if moved:
            tree["schedule"] = {**schedule, **moved}
            notes += [f"optim.{key} is now optim.schedule.{key}" for key in moved]
        notes += [f"optim.{key} is ignored, {schedule.get('kind')} has no such key" for key in flat if key not in moved]
    if tree.get("kind") == AdamWConfig.kind() and "momentum" in tree:
        del tree["momentum"]
        notes.append("optim.momentum is ignored, adamw has no such key")
    if notes:
        logger.info("%s", "; ".join(notes))
    return tree


def _replaced(old: Any, new: Any) -> Any:
    """``new``, or ``old`` with the items that ``new`` names by their index (``optim.drops.0=0.5``)."""
    if isinstance(old, list) and isinstance(new, dict) and all(str(key).isdigit() and int(key) < len(old) for key in new):
        return [new.get(str(index), item) for index, item in enumerate(old)]
    return new
