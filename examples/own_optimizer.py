"""A user-defined optimizer and schedule: Lion, and a learning rate that is held and then falls linearly to 0.

    boxwood data shapes --out demo/data                            # pictures to learn from, generated
    boxwood train examples.own_optimizer:recipe --out runs/lion
    boxwood train examples.own_optimizer:recipe optim.schedule.hold=0.8 optim.weight_decay=0.1 --out runs/hold
    boxwood train demo_shapes optim.kind=examples.own_optimizer:LionConfig optim.lr=1e-4 --import examples.own_optimizer

Nothing is registered: in files both are known by their addresses, ``kind: examples.own_optimizer:LionConfig``. What all optimizers
have in common is inherited: warm-up, clipping, learning rates by name (``optim.lr_factors``), and exact resume.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field

from boxwood import RunConfig
from boxwood.recipes import demo_shapes
from boxwood.run_config import OptimizerConfig, ScheduleConfig


class LionConfig(OptimizerConfig):
    """Lion (Chen et al., https://arxiv.org/abs/2302.06675). It wants a tenth of AdamW's learning rate and ten times its decay."""

    betas: tuple[float, float] = (0.9, 0.99)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """A group has ``params`` and ``weight_decay``; the loop sets its ``lr`` before each update."""
        return Lion(groups, {"lr": self.lr, "betas": self.betas})


class Lion(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure, so no loss
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                direction = momentum.lerp(parameter.grad, 1 - beta1).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
                momentum.lerp_(parameter.grad, 1 - beta2)


class HoldConfig(ScheduleConfig):
    """The rate stays for a fraction of the run, then falls linearly to 0."""

    hold: float = Field(0.5, ge=0, lt=1)

    def factor(self, step: int, steps: int) -> float:
        return min(1.0, (1 - step / steps) / (1 - self.hold))


def recipe() -> RunConfig:
    """The demo's recipe with this optimizer and this schedule."""
    config = demo_shapes()
    config.optim = LionConfig(lr=4e-4, weight_decay=1e-3, schedule=HoldConfig(), warmup_steps=20, clip_norm=5.0)
    return config
