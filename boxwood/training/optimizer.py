"""Parameter groups and the learning rate, by Detectron's rules; the optimizer itself is `OptimizerConfig.build`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from boxwood.errors import UserError
from boxwood.run_config import ParameterRule, RunConfig

__all__ = ["build_optimizer", "freeze", "learning_rate", "parameter_groups", "set_learning_rate"]

logger = logging.getLogger(__name__)

NORMALIZATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
SORTS = ("weights", "biases", "norm_scales", "norm_shifts")
NO_RULE = -1


def learning_rate(step: int, config: RunConfig) -> float:
    """The rate of update ``step``, counted from 0: ``optim.lr``, times the factor of ``optim.schedule``, times that of the warm-up.

    During the first ``optim.warmup_steps`` updates the warm-up's factor rises linearly from ``optim.warmup_factor`` to 1
    (https://arxiv.org/abs/1706.02677, section 2.2).
    """
    optim = config.optim
    rate = optim.lr * (config.train.batch_size / optim.reference_batch_size if optim.scale_lr else 1.0)
    rate *= optim.schedule.factor(step, config.train.steps)
    if step < optim.warmup_steps:
        progress = step / optim.warmup_steps
        rate *= optim.warmup_factor * (1.0 - progress) + progress
    return rate


def parameter_groups(model: nn.Module, config: RunConfig) -> list[dict[str, Any]]:
    """The trained parameters in at most four groups (weights, biases, and scales and shifts of normalisation layers), and as many
    for each rule of ``optim.lr_factors``.

    Biases and shifts have ``bias_lr_factor`` times the learning rate, as Detectron's (which treats a shift as a bias). Frozen
    parameters (`freeze`) are left out, shared ones occur once. Each group has ``name``, ``params``, ``lr_factor``,
    ``weight_decay``. Raises `UserError` where a rule applies to no trained parameter.
    """
    optim = config.optim
    names: list[str] = []
    members: dict[tuple[str, int], list[nn.Parameter]] = {}
    """By sort of parameter, and by the index of the rule that applies, or NO_RULE."""
    for name, sort, parameter in _trained_parameters(model):
        matching = (index for index, rule in enumerate(optim.lr_factors) if fnmatchcase(name, rule.pattern))
        members.setdefault((sort, next(matching, NO_RULE)), []).append(parameter)
        names.append(name)
    _check_rules(optim.lr_factors, names, {index for _, index in members}, model)

    lr_factors = {"biases": optim.bias_lr_factor, "norm_shifts": optim.bias_lr_factor}
    decays = {"weights": optim.weight_decay, "biases": optim.bias_weight_decay}
    groups = []
    for sort, index in sorted(members, key=lambda key: (SORTS.index(key[0]), key[1])):
        group: dict[str, Any] = {
            "name": sort,
            "params": members[sort, index],
            "lr_factor": lr_factors.get(sort, 1.0),
            "weight_decay": decays.get(sort, optim.norm_weight_decay),
        }
        if index != NO_RULE:
            rule = optim.lr_factors[index]
            group["name"] = f"{sort} of {rule.pattern}"
            group["lr_factor"] *= rule.lr
            group["weight_decay"] = group["weight_decay"] if rule.weight_decay is None else rule.weight_decay
        groups.append(group)
    return groups


def freeze(model: nn.Module, rules: Sequence[ParameterRule]) -> None:
    """Freeze the parameters whose first matching rule has a learning rate of 0; the log says how many.

    Batch norms without trained parameters are put in eval mode, so that their statistics stay.
    """
    parameters = dict(model.named_parameters())
    first = {name: next((rule for rule in rules if fnmatchcase(name, rule.pattern)), None) for name in parameters}
    frozen = [name for name, rule in first.items() if rule is not None and rule.lr == 0]
    if not frozen:
        return
    for name in frozen:
        parameters[name].requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(p.requires_grad for p in module.parameters()):
            module.eval()
    logger.info("optim.lr_factors: %d of %d tensors of weights are frozen", len(frozen), len(parameters))


def build_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """The optimizer of ``config.optim`` over `parameter_groups`."""
    groups = parameter_groups(model, config)
    if not groups:
        raise UserError("optim.lr_factors: freezes every parameter, so there is nothing to train; leave out a rule with lr: 0")
    return config.optim.build(groups)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its multiple of ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]


def _trained_parameters(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Name, sort (one of `SORTS`) and value of every parameter that is not frozen, each once."""
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            is_bias = name.endswith("bias")
            if isinstance(module, NORMALIZATION):
                yield name, "norm_shifts" if is_bias else "norm_scales", parameter
            else:
                yield name, "biases" if is_bias else "weights", parameter


def _check_rules(rules: tuple[ParameterRule, ...], names: list[str], applied: set[int], model: nn.Module) -> None:
    """Raise `UserError` for the first rule whose index is not in ``applied``; ``names`` are those of all trained parameters."""
    for index, rule in enumerate(rules):
        if index in applied or (rule.lr == 0 and any(fnmatchcase(name, rule.pattern) for name, _ in model.named_parameters())):
            continue
        where = f"optim.lr_factors.{index}.pattern={rule.pattern}"
        if any(fnmatchcase(name, rule.pattern) for name in names):
            raise UserError(f"{where}: the rules before it match all of its parameters; put it before them")
        if frozen := [name for name, _ in model.named_parameters() if fnmatchcase(name, rule.pattern)]:
            raise UserError(f"{where}: matches only frozen parameters ({frozen[0]}); train them, or remove the rule")
        raise UserError(f"{where}: matches no trained parameter; {_names_near(rule.pattern, names)}")


def _names_near(pattern: str, names: list[str]) -> str:
    """The names, and the patterns of whole modules, that resemble ``pattern``; else how the names begin."""
    parts = [name.split(".") for name in names]
    modules = dict.fromkeys(".".join([*part[:depth], "*"]) for part in parts for depth in range(1, len(part)))
    if near := get_close_matches(pattern, [*modules, *names], n=3, cutoff=0.5):
        return f"did you mean {' or '.join(near)}?"
    return f"the names begin with {', '.join(dict.fromkeys(part[0] for part in parts))}"
