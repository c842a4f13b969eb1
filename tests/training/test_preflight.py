"""Warnings before training."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from boxwood.errors import UserError
from boxwood.models.backbones.backbone import make_norm
from boxwood.models.backbones.config import Norm
from boxwood.run_config import TrainConfig
from boxwood.training import parallel, preflight
from boxwood.training.preflight import check_settings, warn_of_batch_norm
from tests.training.tiny import tiny_run


@pytest.mark.parametrize(
    ("norm", "processes", "settings", "parts"),
    [
        ("bn", 1, {}, None),
        ("bn", 2, {}, "8 images are normalised in 2 parts of 4"),
        ("bn", 2, {"accumulate": 2}, "8 images are normalised in 4 parts of 2"),
        ("bn", 1, {"accumulate": 2}, "8 images are normalised in 2 parts of 4"),
        ("bn", 2, {"sync_bn": True}, None),
        ("bn", 2, {"sync_bn": True, "accumulate": 2}, "8 images are normalised in 2 parts of 4"),
        ("sync_bn", 2, {}, None),
        ("frozen_bn", 2, {}, None),
        ("gn", 2, {}, None),
    ],
)
def test_batch_norm_of_parts_of_a_batch_is_logged(
    norm: Norm,
    processes: int,
    settings: dict[str, int],
    parts: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(preflight, "world_size", lambda: processes)
    caplog.set_level(logging.WARNING)
    warn_of_batch_norm(nn.Sequential(nn.Conv2d(3, 32, 1), make_norm(norm, 32)), TrainConfig(batch_size=8, **settings))
    assert (parts in caplog.text) if parts else not caplog.messages


def test_one_key_synchronises_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a batch give the statistics of the whole; the state dict keeps its names."""
    wrapped = []
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    monkeypatch.setattr(parallel, "DistributedDataParallel", lambda model, device_ids: wrapped.append(model))
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    names = list(model.state_dict())
    parallel.parallelize(model, torch.device("cpu"), sync_bn=True)
    assert isinstance(wrapped[0][1], nn.SyncBatchNorm) and list(wrapped[0].state_dict()) == names
    parallel.parallelize(nn.Sequential(nn.BatchNorm2d(8)), torch.device("cpu"))
    assert type(wrapped[1][0]) is nn.BatchNorm2d


def test_synchronised_batch_norm_needs_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(sync_bn=True)
    check_settings(run, torch.device("cpu"))  # one process has nothing to synchronise
    monkeypatch.setattr(preflight, "world_size", lambda: 2)
    with pytest.raises(UserError, match=r"train\.sync_bn=true: .* needs CUDA GPUs, not cpu; set it to false"):
        check_settings(run, torch.device("cpu"))


def test_a_sharded_network_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(parallel="fsdp", compile=True)
    check_settings(run, torch.device("cpu"))  # one process shards nothing
    monkeypatch.setattr(preflight, "world_size", lambda: 2)
    with pytest.raises(UserError, match=r"train\.parallel=fsdp: .* set train\.compile=false, or train\.parallel=ddp"):
        check_settings(run, torch.device("cpu"))
