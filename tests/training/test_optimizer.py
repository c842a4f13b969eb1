"""Schedules compared with values by hand and Detectron's schedule, parameter groups with Detectron's rules, and optimizers with
torch's; and older configuration keys, from before the schedule was a component."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import nn

from boxwood.config import ConfigError, apply_overrides, from_tree, from_yaml, overlay, to_tree, to_yaml
from boxwood.errors import UserError
from boxwood.models.backbones import ResNetConfig
from boxwood.run_config import (
    AdamWConfig,
    CosineScheduleConfig,
    OptimizerConfig,
    ParameterRule,
    RunConfig,
    ScheduleConfig,
    SGDConfig,
    StepScheduleConfig,
    TrainConfig,
)
from boxwood.training.optimizer import build_optimizer, freeze, learning_rate, parameter_groups, set_learning_rate
from tests.training.tiny import tiny_run


def run_of(optim: OptimizerConfig, **train: int) -> RunConfig:
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
    """The defaults: lr 0.02, divided by 10 at 60k and 80k of 90k steps, warm-up of 500 steps from a third."""
    assert learning_rate(step, run_of(SGDConfig(), steps=90_000)) == pytest.approx(rate, rel=1e-12)


def test_cosine_falls_from_the_full_rate_to_zero() -> None:
    run = run_of(SGDConfig(lr=1.0, schedule=CosineScheduleConfig(), warmup_steps=0), steps=100)
    assert learning_rate(0, run) == 1.0
    assert learning_rate(50, run) == pytest.approx(0.5)
    assert learning_rate(25, run) == pytest.approx(0.5 + math.sqrt(2) / 4)
    assert 0 < learning_rate(99, run) < 0.001


def test_scale_lr_is_linear_in_the_batch_size() -> None:
    optim = SGDConfig(lr=0.02, scale_lr=True, reference_batch_size=16, warmup_steps=0)
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
    run = run_of(SGDConfig(weight_decay=1e-4, norm_weight_decay=1e-5, bias_lr_factor=2.0, bias_weight_decay=0.0))
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
    assert sum(len(group["params"]) for group in groups.values()) == 8, "a shared layer occurs once"
    rules = {name: (group["lr_factor"], group["weight_decay"]) for name, group in groups.items()}
    assert rules == {"weights": (1.0, 1e-4), "biases": (2.0, 0.0), "norm_scales": (1.0, 1e-5), "norm_shifts": (2.0, 1e-5)}


def test_sgd_moves_each_group_by_its_rule() -> None:
    """One step with gradients of 1, by hand: w - lr * factor * (1 + decay * w)."""
    run = run_of(SGDConfig(weight_decay=0.5, norm_weight_decay=0.25, bias_lr_factor=2.0, bias_weight_decay=0.125, momentum=0.9))
    model = Parts()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 2.0)
        parameter.grad = torch.ones_like(parameter)
    optimizer = build_optimizer(model, run)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    assert model.conv.weight[0, 0, 0, 0].item() == pytest.approx(2 - 0.1 * (1 + 0.5 * 2))
    assert model.conv.bias is not None
    assert model.conv.bias[0].item() == pytest.approx(2 - 0.2 * (1 + 0.125 * 2))
    assert model.group_norm.weight[0].item() == pytest.approx(2 - 0.1 * (1 + 0.25 * 2))
    assert model.group_norm.bias[0].item() == pytest.approx(2 - 0.2 * (1 + 0.25 * 2))
    assert model.frozen.weight[0, 0, 0, 0].item() == 2.0


@pytest.mark.parametrize("config", [SGDConfig(lr=0.1, momentum=0.9), AdamWConfig(lr=0.1)])
def test_an_update_that_overflows_leaves_no_trace(config: OptimizerConfig) -> None:
    """The first updates of fp16 overflow, as the scale of the loss begins high: torch's fused SGD then keeps momentum of arbitrary
    memory, unless it has some before."""

    def weight_after(overflows: int, monkeypatch: pytest.MonkeyPatch) -> float:
        monkeypatch.setattr(torch, "empty_like", lambda tensor: torch.full_like(tensor, 1e19))
        layer = nn.Linear(1, 1, bias=False)
        nn.init.ones_(layer.weight)
        optimizer = build_optimizer(layer, run_of(config))
        set_learning_rate(optimizer, 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
        for index in range(overflows + 2):
            layer.weight.grad = scaler.scale(torch.full((1, 1), math.inf if index < overflows else 0.5))
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        return layer.weight.item()

    with pytest.MonkeyPatch.context() as monkeypatch:
        assert weight_after(2, monkeypatch) == weight_after(0, monkeypatch) < 1.0


def test_adamw_equals_that_of_torch() -> None:
    """Three steps of the component and of `torch.optim.AdamW` with the same settings."""
    models = [Parts(), Parts()]
    models[1].load_state_dict(models[0].state_dict())
    config = AdamWConfig(lr=0.01, weight_decay=0.05, betas=(0.8, 0.99), eps=1e-6, bias_weight_decay=0.05, norm_weight_decay=0.05)
    optimizer = build_optimizer(models[0], run_of(config))
    trained = [parameter for parameter in models[1].parameters() if parameter.requires_grad]
    reference = torch.optim.AdamW(trained, lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.05)
    for step in range(3):
        set_learning_rate(optimizer, 0.01)
        for model in models:
            for index, parameter in enumerate(model.parameters()):
                parameter.grad = torch.full_like(parameter, math.sin(step + index))
        optimizer.step()
        reference.step()
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------------------------------------- rules for parameters


def factors_of(model: nn.Module, *rules: ParameterRule, **settings: float) -> dict[str, tuple[float, float]]:
    """Learning-rate factor and weight decay of each trained parameter, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, run_of(SGDConfig(lr_factors=rules, **settings)))
    return {names[id(p)]: (group["lr_factor"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_a_factor_for_each_stage_of_a_backbone() -> None:
    """Layer-wise decay of the learning rate: earlier stages have lower rates. All parameters of a stage have its factor."""
    model = nn.ModuleDict({"backbone": ResNetConfig(depth=18, width=32, norm="gn", frozen_stages=0, weights=None).build()})
    model["head"] = nn.Linear(4, 2)
    rules = [ParameterRule(pattern=f"backbone.layer{stage}.*", lr=0.5 ** (5 - stage)) for stage in (1, 2, 3, 4)]
    factors = factors_of(model, *rules, bias_lr_factor=2.0)
    assert set(factors) == {name for name, _ in model.named_parameters()}
    for name, (factor, decay) in factors.items():
        part = name.split(".")[1]
        expected = {"layer1": 0.0625, "layer2": 0.125, "layer3": 0.25, "layer4": 0.5}.get(part, 1.0)
        assert factor == expected * (2.0 if name.endswith("bias") else 1.0), name
        assert decay in (0.0, 1e-4)
    assert {name.split(".")[1] for name in factors} >= {"layer1", "layer2", "layer3", "layer4"}


def test_only_the_first_matching_rule_applies() -> None:
    rules = [ParameterRule(pattern="head.bias", lr=4.0), ParameterRule(pattern="head.*", lr=0.5, weight_decay=0.25)]
    factors = factors_of(Parts(), *rules, bias_weight_decay=0.125, bias_lr_factor=2.0)
    assert factors["head.bias"] == (8.0, 0.125), "the factor of the rule times that of biases; the decay of biases stays"
    assert factors["head.weight"] == (0.5, 0.25)
    assert factors["conv.bias"] == (2.0, 0.125) and factors["conv.weight"] == (1.0, 1e-4)
    everything = factors_of(Parts(), ParameterRule(pattern="*", weight_decay=0.3), norm_weight_decay=0.1)
    assert {decay for _, decay in everything.values()} == {0.3}, "of normalisation layers and biases too"


def test_rules_change_the_rate_of_their_parameters() -> None:
    model = Parts()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    run = run_of(SGDConfig(weight_decay=0.0, lr_factors=(ParameterRule(pattern="conv.*", lr=0.25),)))
    optimizer = build_optimizer(model, run)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    for name, parameter in model.named_parameters():
        expected = 0.0 if name.startswith("frozen") else 0.025 if name.startswith("conv") else 0.1
        torch.testing.assert_close(before[name] - parameter, torch.full_like(parameter, expected), rtol=1e-5, atol=1e-7)


def test_a_rate_of_0_freezes_parameters_and_statistics(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = Parts()
    rules = (ParameterRule(pattern="head.*"), ParameterRule(pattern="*", lr=0.0))
    freeze(model, rules)
    assert set(factors_of(model, *rules)) == {"head.weight", "head.bias"}
    assert not model.batch_norm.training and model.head.training
    assert [record.message for record in caplog.records] == ["optim.lr_factors: 8 of 10 tensors of weights are frozen"]
    everything = (ParameterRule(pattern="*", lr=0.0),)
    freeze(model, everything)
    with pytest.raises(UserError, match=r"optim\.lr_factors: freezes every parameter, so there is nothing to train"):
        build_optimizer(model, run_of(SGDConfig(lr_factors=everything)))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["haed.*"], "optim.lr_factors.0.pattern=haed.*: matches no trained parameter; did you mean head.*"),
        (
            ["head.*", "hed.weight"],
            "optim.lr_factors.1.pattern=hed.weight: matches no trained parameter; did you mean head.weight",
        ),
        (["xyz"], "matches no trained parameter; the names begin with conv, batch_norm, group_norm, head"),
        (["frozen.*"], "optim.lr_factors.0.pattern=frozen.*: matches only frozen parameters (frozen.weight)"),
        (["*", "head.*"], "optim.lr_factors.1.pattern=head.*: the rules before it match all of its parameters"),
    ],
)
def test_a_rule_that_applies_to_nothing(patterns: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        factors_of(Parts(), *(ParameterRule(pattern=pattern) for pattern in patterns))
    assert message in str(error.value) and "\n" not in str(error.value)


# --------------------------------------------------------------------------------------------------------- kinds


def test_another_kind_keeps_the_common_keys() -> None:
    run = run_of(SGDConfig(lr=0.3, warmup_steps=7, schedule=StepScheduleConfig(drops=(0.5,)), momentum=0.8))
    for overrides in (
        ["optim.kind=adamw", "optim.eps=0.1"],
        ["optim.eps=0.1", "optim.kind=adamw"],
        ["optim={kind: adamw, eps: 0.1}"],
    ):
        changed = apply_overrides(run, overrides).optim
        assert changed == AdamWConfig(lr=0.3, warmup_steps=7, schedule=StepScheduleConfig(drops=(0.5,)), eps=0.1)
    assert overlay(run, {"optim": {"kind": "adamw", "lr": 1}}).optim.schedule == run.optim.schedule
    back = apply_overrides(apply_overrides(run, ["optim.kind=adamw"]), ["optim.kind=sgd"]).optim
    assert back == SGDConfig(lr=0.3, warmup_steps=7, schedule=StepScheduleConfig(drops=(0.5,)))


def test_the_kind_cannot_be_assigned() -> None:
    with pytest.raises(ConfigError, match=r"SGDConfig: the kind is the class; assign another one: config\.optim = AdamWConfig"):
        SGDConfig().kind = "adamw"  # type: ignore[method-assign, assignment]


def test_a_configuration_with_rules_round_trips_through_yaml() -> None:
    optim = AdamWConfig(lr_factors=(ParameterRule(pattern="backbone.*", lr=0.1), ParameterRule(pattern="*", weight_decay=0.0)))
    run = run_of(optim)
    assert from_yaml(RunConfig, to_yaml(run)) == run
    changed = apply_overrides(run, ["optim.lr_factors.1.lr=3"])
    assert changed.optim.lr_factors[1] == ParameterRule(pattern="*", lr=3.0, weight_decay=0.0)


# ------------------------------------------------------------------------------------------------------ older keys

FLAT = {
    "kind": "adamw",
    "lr": 0.004,
    "scale_lr": False,
    "reference_batch_size": 16,
    "momentum": 0.9,
    "weight_decay": 0.0001,
    "norm_weight_decay": 0.0,
    "bias_lr_factor": 1.0,
    "bias_weight_decay": 0.0,
    "schedule": "cosine",
    "drops": [0.5, 0.75],
    "gamma": 0.2,
    "warmup_steps": 2,
    "warmup_factor": 0.1,
    "clip_norm": 5.0,
}
"""The section ``optim`` as every run saved it before the schedule was a component."""


def read(optim: dict[str, object]) -> OptimizerConfig:
    return from_tree(RunConfig, {**to_tree(tiny_run()), "optim": optim}).optim


def test_the_optimizer_of_an_older_run_is_read(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    common = {"lr": 0.004, "warmup_steps": 2, "warmup_factor": 0.1, "clip_norm": 5.0}
    assert read(FLAT) == AdamWConfig(schedule=CosineScheduleConfig(), **common)
    assert caplog.messages == [
        "optim.schedule=cosine is now optim.schedule.kind=cosine; optim.drops is ignored, cosine has no such key; "
        "optim.gamma is ignored, cosine has no such key; optim.momentum is ignored, adamw has no such key"
    ]
    caplog.clear()
    schedule = StepScheduleConfig(drops=(0.5, 0.75), gamma=0.2)
    assert read({**FLAT, "kind": "sgd", "schedule": "step"}) == SGDConfig(schedule=schedule, momentum=0.9, **common)
    assert caplog.messages == [
        "optim.schedule=step is now optim.schedule.kind=step; optim.drops is now optim.schedule.drops; "
        "optim.gamma is now optim.schedule.gamma"
    ]
    caplog.clear()
    assert read(to_tree(read(FLAT))) == read(FLAT)
    assert len(caplog.messages) == 2, "the present form gives no message"
    assert read({"lr": 0.5, "drops": [0.1]}) == SGDConfig(lr=0.5, schedule=StepScheduleConfig(drops=(0.1,))), "SGD was the default"


@pytest.mark.parametrize(
    ("overrides", "schedule"),
    [
        (["optim.schedule=cosine"], CosineScheduleConfig()),
        (["optim.schedule=step"], StepScheduleConfig(drops=(0.25, 0.5), gamma=0.5)),
        (["optim.drops=[0.125]"], StepScheduleConfig(drops=(0.125,), gamma=0.5)),
        (["optim.drops.1=0.75", "optim.gamma=0.25"], StepScheduleConfig(drops=(0.25, 0.75), gamma=0.25)),
        (["optim.drops=[0.125]", "optim.schedule=step"], StepScheduleConfig(drops=(0.125,), gamma=0.5)),
        (["optim.drops=[0.125]", "optim.schedule=cosine"], CosineScheduleConfig()),
        (["optim.kind=adamw", "optim.drops=[0.125]"], StepScheduleConfig(drops=(0.125,), gamma=0.5)),
        (["optim={schedule: step, drops: [0.125]}"], StepScheduleConfig(drops=(0.125,), gamma=0.5)),
    ],
)
def test_older_keys_as_overrides(overrides: list[str], schedule: ScheduleConfig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run = run_of(SGDConfig(schedule=StepScheduleConfig(drops=(0.25, 0.5), gamma=0.5)))
    assert apply_overrides(run, overrides).optim.schedule == schedule
    assert apply_overrides(run, overrides[::-1]).optim.schedule == schedule
    assert any("is now" in message for message in caplog.messages)


def test_older_keys_in_python(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    optim = SGDConfig(schedule="step", drops=(0.5,))  # type: ignore[arg-type, call-arg]
    assert optim == SGDConfig(schedule=StepScheduleConfig(drops=(0.5,)))
    optim.drops = (0.25,)  # type: ignore[attr-defined]
    assert optim.schedule == StepScheduleConfig(drops=(0.25,))
    optim.schedule = "cosine"  # type: ignore[assignment]
    assert optim.schedule == CosineScheduleConfig()
    with pytest.raises(ConfigError, match="SGDConfig has no key 'drops'"):
        optim.drops = (0.5,)  # type: ignore[attr-defined]
    assert len(caplog.messages) == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.schedule=cosin", "'optim.schedule' has an unknown kind 'cosin' (did you mean 'cosine'?)"),
        ("optim.schedule=3", "'optim.schedule' should be a mapping of keys to values, got 3"),
        ("optim.kind=sdg", "'optim' has an unknown kind 'sdg' (did you mean 'sgd'?)"),
        ("optim.drops=[a]", "'optim.schedule.drops.0' should be a valid number, got 'a'"),
        ("optim.drops.7=1", "'optim.schedule.drops' should be a list, got a mapping"),
        ("optim.momentun=1", "unknown key 'optim.momentun' (did you mean 'optim.momentum'?)"),
        ("optim.schedule.drop=[1]", "unknown key 'optim.schedule.drop' (did you mean 'optim.schedule.drops'?)"),
        ("optim.lr_factors=[{patern: a}]", "'optim.lr_factors.0.pattern' is missing; unknown key 'optim.lr_factors.0.patern' "
         "(did you mean 'optim.lr_factors.0.pattern'?)"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        apply_overrides(run_of(SGDConfig()), [override])
    assert str(error.value) == message
