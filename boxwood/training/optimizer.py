"""The optimizer and its schedule, by Detectron's rules."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from boxwood.run_config import RunConfig

__all__ = ["build_optimizer", "learning_rate", "parameter_groups", "set_learning_rate"]

NORMALIZATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def learning_rate(step: int, config: RunConfig) -> float:
    """The rate of update ``step``, counted from 0.

    The step schedule is Detectron's ``steps_with_decay``: from update ``round(fraction * train.steps)`` on, each of
    ``optim.drops`` has multiplied the rate by ``optim.gamma``. Cosine falls to 0 over ``train.steps``
    (https://arxiv.org/abs/1608.03983, equation 5, one period). During the first ``optim.warmup_steps`` updates the rate is
    multiplied by a factor that rises linearly from ``optim.warmup_factor`` to 1 (https://arxiv.org/abs/1706.02677, section
    2.2).
    """
    optim = config.optim
    rate = optim.lr * (config.train.batch_size / optim.reference_batch_size if optim.scale_lr else 1.0)
    if optim.schedule == "cosine":
        rate *= 0.5 * (1.0 + math.cos(math.pi * step / config.train.steps))
    else:
        rate *= optim.gamma ** sum(step >= round(fraction * config.train.steps) for fraction in optim.drops)
    if step < optim.warmup_steps:
        progress = step / optim.warmup_steps
        rate *= optim.warmup_factor * (1.0 - progress) + progress
    return rate


def parameter_groups(model: nn.Module, config: RunConfig) -> list[dict[str, Any]]:
    """The trained parameters in four groups: weights, biases, and the scales and shifts of normalisation layers.

    Biases and shifts learn ``bias_lr_factor`` times as fast, as Detectron's (which treats a shift as a bias). Frozen parameters
    are left out, shared ones stand once. Each group has ``name``, ``params``, ``lr_factor``, ``weight_decay``.
    """
    optim = config.optim
    rules = {
        "weights": (1.0, optim.weight_decay),
        "biases": (optim.bias_lr_factor, optim.bias_weight_decay),
        "norm_scales": (1.0, optim.norm_weight_decay),
        "norm_shifts": (optim.bias_lr_factor, optim.norm_weight_decay),
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in rules}
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            is_bias = name.endswith("bias")
            if isinstance(module, NORMALIZATION):
                members["norm_shifts" if is_bias else "norm_scales"].append(parameter)
            else:
                members["biases" if is_bias else "weights"].append(parameter)
    return [
        {"name": name, "params": members[name], "lr_factor": factor, "weight_decay": decay}
        for name, (factor, decay) in rules.items()
        if members[name]
    ]


def build_optimizer(model: nn.Module, config: RunConfig, device: torch.device) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW over `parameter_groups`; fused, which is one pass over memory, and on a GPU needs no
    word from the host."""
    groups = parameter_groups(model, config)
    assert groups, "the model has nothing to train: every parameter is frozen"
    fused = True if device.type in ("cpu", "cuda") else None
    if config.optim.kind == "adamw":
        return torch.optim.AdamW(groups, lr=config.optim.lr, fused=fused)
    return torch.optim.SGD(groups, lr=config.optim.lr, momentum=config.optim.momentum, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its multiple of ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
