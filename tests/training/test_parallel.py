"""A sharded model (FSDP2) computes what the model computes: losses, gradients and updates; its state dicts have whole tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from boxwood.run_config import AdamWConfig, OptimizerConfig, SGDConfig
from boxwood.training import parallel
from tests.models.toys import ARCHITECTURES, batch, build

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def group_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group of this process alone, in which every block is sharded by itself."""
    monkeypatch.setattr(parallel, "LARGE", 1)
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_sharded_model_has_the_losses_and_gradients_of_the_model(name: str) -> None:
    images = batch(((96, 128), (64, 96)), (3, 1), proposals=name == "fast_rcnn_fpn")
    assert images.targets is not None
    results = []
    for is_sharded in (False, True):
        model = build(name).train()
        if is_sharded:
            parallel.shard(model, CPU)
            assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        for _ in range(2):  # the second pass finds the tensors as the first one leaves them
            model.zero_grad()
            losses = model.losses(model(images), images.targets)
            torch.stack(list(losses.values())).sum().backward()
        gradients = {key: parallel.whole(p.grad) for key, p in model.named_parameters() if p.grad is not None}
        results.append(({key: loss.item() for key, loss in losses.items()}, gradients))
    (losses, gradients), (sharded_losses, sharded_gradients) = results
    assert sharded_losses == pytest.approx(losses, rel=1e-6)
    assert sharded_gradients.keys() == gradients.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(sharded_gradients[key], gradient, rtol=1e-4, atol=1e-6)


def test_detections_of_whole_weights_are_those_of_the_model() -> None:
    images = batch(((96, 128), (64, 96)))
    model, sharded = (build("mask_rcnn_fpn").eval() for _ in range(2))
    parallel.shard(sharded, CPU)
    with torch.no_grad():
        expected = model.detections(model(images), images)
        with parallel.whole_weights(sharded):
            assert not any(isinstance(parameter, DTensor) for parameter in sharded.parameters())
            found = [sharded.detections(sharded(images), images) for _ in range(2)]
    assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    for detections in found:
        for a, b in zip(detections, expected, strict=True):
            assert torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores)


@pytest.mark.parametrize("optim", [SGDConfig(lr=0.01), AdamWConfig(lr=0.01)])
def test_updates_go_on_from_a_state_of_whole_tensors(optim: OptimizerConfig) -> None:
    """Two updates; then two more, of the same optimizer and of one that is restored; sharded and not. Weights that are
    sharded are contiguous in memory, the others are in channels_last."""

    def make(is_sharded: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)).to(memory_format=torch.channels_last)
        model.losses = None  # a detector has this method
        if is_sharded:
            parallel.shard(model, CPU)
        group = {"params": list(model.parameters()), "weight_decay": 0.01, "lr_factor": 1.0}
        return model, optim.build([group])

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for step in range(2):
            optimizer.zero_grad()
            model(torch.arange(150.0).view(2, 3, 5, 5) / 100 + step).square().mean().backward()
            optimizer.step()

    states = {}
    for is_sharded in (False, True):
        model, optimizer = make(is_sharded)
        train(model, optimizer)
        states[is_sharded] = copy.deepcopy([parallel.whole_state(part.state_dict()) for part in (model, optimizer)])
        train(model, optimizer)
        states["end", is_sharded] = [parallel.whole_state(model.state_dict())]
    for is_sharded in (False, True):
        model, optimizer = make(is_sharded=False)
        model.load_state_dict(states[not is_sharded][0])
        if is_sharded:
            parallel.shard(model, CPU)
            optimizer = optim.build([{"params": list(model.parameters()), "weight_decay": 0.01, "lr_factor": 1.0}])
        parallel.restore_optimizer(optimizer, states[not is_sharded][1])
        train(model, optimizer)
        for name, value in parallel.whole_state(model.state_dict()).items():
            torch.testing.assert_close(value, states["end", False][0][name], rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(states["end", True][0][name], value, rtol=1e-6, atol=1e-7)
