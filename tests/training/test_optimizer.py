"""The schedule against arithmetic by hand and the published one; the groups against Detectron's rules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from boxwood.run_config import OptimConfig, RunConfig, TrainConfig
from boxwood.training.optimizer import build_optimizer, learning_rate, parameter_groups, set_learning_rate
from tests.training.tiny import tiny_run


def run_of(optim: OptimConfig, **train: int) -> RunConfig:
    run = tiny_run()
    run.optim, run.train = optim, TrainConfig(**train)
    return run


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.02 / 3),
        (250, 0.02 * (1 / 3 * 0.5 + 0.5)),
        (499, 0.02 * (1 / 3 * 0.002 + 0.998)),
        (500, 0.02),
        (59_999, 0.02),
        (60_000, 0.002),
        (79_999, 0.002),
        (80_000, 0.0002),
        (89_999, 0.0002),
    ],
)
def test_detectrons_1x_schedule(step: int, rate: float) -> None:
    """lr 0.02, 90k steps, tenths at 60k and 80k, warm-up of 500 from a third: the defaults."""
    assert learning_rate(step, run_of(OptimConfig(), steps=90_000)) == pytest.approx(rate, rel=1e-12)


def test_cosine_falls_from_the_whole_rate_to_nothing() -> None:
    run = run_of(OptimConfig(lr=1.0, schedule="cosine", warmup_steps=0), steps=100)
    assert learning_rate(0, run) == 1.0
    assert learning_rate(50, run) == pytest.approx(0.5)
    assert learning_rate(25, run) == pytest.approx(0.5 + math.sqrt(2) / 4)
    assert 0 < learning_rate(99, run) < 0.001


def test_the_linear_rule_scales_with_the_batch() -> None:
    optim = OptimConfig(lr=0.02, scale_lr=True, reference_batch_size=16, warmup_steps=0)
    assert learning_rate(0, run_of(optim, steps=10, batch_size=4)) == pytest.approx(0.005)
    optim.scale_lr = False
    assert learning_rate(0, run_of(optim, steps=10, batch_size=4)) == 0.02


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.batch_norm = nn.BatchNorm2d(4)
        self.group_norm = nn.GroupNorm(2, 4)
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.head = nn.Linear(4, 2)
        self.tied = self.head


def test_groups_by_detectrons_rules() -> None:
    run = run_of(OptimConfig(weight_decay=1e-4, norm_weight_decay=1e-5, bias_lr_factor=2.0, bias_weight_decay=0.0))
    model = Parts()
    groups = {group["name"]: group for group in parameter_groups(model, run)}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    members = {name: {names[id(p)] for p in group["params"]} for name, group in groups.items()}
    assert members == {
        "weights": {"conv.weight", "head.weight"},
        "biases": {"conv.bias", "head.bias"},
        "norm_scales": {"batch_norm.weight", "group_norm.weight"},
        "norm_shifts": {"batch_norm.bias", "group_norm.bias"},
    }
    assert sum(len(group["params"]) for group in groups.values()) == 8, "the shared layer stands once"
    rules = {name: (group["lr_factor"], group["weight_decay"]) for name, group in groups.items()}
    assert rules == {"weights": (1.0, 1e-4), "biases": (2.0, 0.0), "norm_scales": (1.0, 1e-5), "norm_shifts": (2.0, 1e-5)}


def test_sgd_moves_each_group_by_its_rule() -> None:
    """One step from gradients of one: w - lr * factor * (1 + decay * w), by hand."""
    run = run_of(OptimConfig(weight_decay=0.5, norm_weight_decay=0.25, bias_lr_factor=2.0, bias_weight_decay=0.125, momentum=0.9))
    model = Parts()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 2.0)
        parameter.grad = torch.ones_like(parameter)
    optimizer = build_optimizer(model, run, torch.device("cpu"))
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    assert model.conv.weight[0, 0, 0, 0].item() == pytest.approx(2 - 0.1 * (1 + 0.5 * 2))
    assert model.conv.bias is not None
    assert model.conv.bias[0].item() == pytest.approx(2 - 0.2 * (1 + 0.125 * 2))
    assert model.group_norm.weight[0].item() == pytest.approx(2 - 0.1 * (1 + 0.25 * 2))
    assert model.group_norm.bias[0].item() == pytest.approx(2 - 0.2 * (1 + 0.25 * 2))
    assert model.frozen.weight[0, 0, 0, 0].item() == 2.0


def test_adamw_by_name() -> None:
    optimizer = build_optimizer(Parts(), run_of(OptimConfig(kind="adamw", lr=1e-4)), torch.device("cpu"))
    assert isinstance(optimizer, torch.optim.AdamW)
