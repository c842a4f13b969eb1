"""On a GPU the host waits for the device at few places, which are known, whatever the number of images and of pyramid levels; and
nothing is left on the wrong device. A GPU is simulated (`tests.models.simulated_gpu`), so that this needs none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

from boxwood.structures import Batch
from tests.models.simulated_gpu import GPUTensor, SimulatedGPU, Wait
from tests.models.toys import ARCHITECTURES, batch, build

MOST = 3
SIZES, INSTANCES = ((96, 128), (90, 100), (64, 64), (96, 110)), (2, 0, 1, 3)
DOCUMENTED = Path(__file__).parents[2] / "docs" / "architecture.md"
SECTION = re.compile(r"<!-- waits: .*?-->\n(.*?)<!-- end of waits -->", re.DOTALL)


# ----------------------------------------------------------------------------------------------------- the simulation itself

READS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "int": lambda x: int(x[0, 1]),
    "float": lambda x: float(x[0, 1]),
    "if": lambda x: 1 if x.sum() > 0 else 2,
    "any": lambda x: bool((x > 0).any()),
    "in": lambda x: 3 in x,
    "tolist": lambda x: x.tolist(),
    "equal": lambda x: torch.equal(x, x),
    "to the host": lambda x: x.cpu(),
    "to the host, not blocking": lambda x: x.to("cpu", non_blocking=True),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 3),
    "index of bools": lambda x: x[x > 3],
    "index of bools assigned": lambda x: x.index_put((x > 3,), x[0].repeat(2)),
    "masked_select": lambda x: x.masked_select(x > 3),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.long().flatten().bincount(),
    "repeat_interleave": lambda x: x.repeat_interleave(x[:, 1].long(), dim=0),
    "nms": lambda x: torch.ops.torchvision.nms(x, x[:, 0], 0.5),
    "tensor of a list": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "new_tensor of a list": lambda x: x.new_tensor([1.0, 2.0]),
    "copied from the host": lambda x: torch.ones(3, 4).to(x.device),
    "filled from the host": lambda x: x.copy_(torch.ones(3, 4)),
    "index on the host": lambda x: x[torch.tensor([0, 1])],
    "index of a list": lambda x: x[[0, 1]],
}
DOES_NOT_READ: dict[str, Callable[[Tensor], Any]] = {
    "arithmetic with a number": lambda x: x * 2 + x[0] ** 0.5,
    "a scalar on the host": lambda x: x * torch.tensor(2.0),
    "where with a number": lambda x: torch.where(x > 1, x, 0.0),
    "zeros": lambda x: torch.zeros(3, device=x.device) + x.new_full((3,), 2.0),
    "arange": lambda x: torch.arange(x.shape[0], device=x.device),
    "random": lambda x: torch.rand(3, device=x.device, generator=torch.Generator(x.device).manual_seed(3)),
    "sort and topk": lambda x: x.sort().values.topk(2),
    "index": lambda x: x[x[:, 0].argsort()],
    "a number where bools are true": lambda x: x.__setitem__(x > 2, 0.0),
    "gather and scatter": lambda x: x.scatter(0, x.long().clamp(max=2), x).gather(0, x.long().clamp(max=2)),
    "repeat_interleave of known length": lambda x: x.repeat_interleave(x[:, 1].long(), dim=0, output_size=15),
    "one row after another": lambda x: [row + 1 for row in x],
    "not blocking": lambda x: torch.ones(3, 4).to(x.device, non_blocking=True) + x,
    "values on the host": lambda x: torch.ones(3).sum().item(),
}


@pytest.mark.parametrize(("program", "waits"), [*((p, 1) for p in READS.values()), *((p, 0) for p in DOES_NOT_READ.values())],
                         ids=[*READS, *DOES_NOT_READ])  # fmt: skip
def test_what_makes_the_host_wait_is_seen(program: Callable[[Tensor], Any], waits: int) -> None:
    import torchvision  # noqa: F401  # its operators

    with SimulatedGPU() as gpu:
        program(torch.arange(12.0).view(3, 4).to("cuda", non_blocking=True))
    assert len(gpu.waits) == waits, gpu.waits


def test_a_mixture_of_devices_is_refused() -> None:
    with SimulatedGPU(), pytest.raises(FakeTensorDeviceMismatchError):
        torch.arange(3.0).to("cuda") + torch.arange(3.0)


# ---------------------------------------------------------------------------------------------------------- the architectures


@cache
def waits_of(name: str, number: int, training: bool) -> tuple[Wait, ...]:
    """Where the host waits in a training step (forward, losses, backward) or an inference, copying the batch included."""
    images = _batch(name, number, training)
    with SimulatedGPU() as gpu:
        model = _model(name, training)
        gpu.move(model)
        there = images.to("cuda")
        if not training:
            with torch.no_grad():
                found = model.detections(model(there), there)
            assert all(isinstance(one.boxes, GPUTensor) for one in found)
            return tuple(gpu.waits)
        losses = model.losses(model(there), there.targets)
        sum(losses.values()).backward()
        assert all(isinstance(loss, GPUTensor) for loss in losses.values())
        assert all(isinstance(parameter.grad, GPUTensor) for parameter in model.parameters() if parameter.grad is not None)
    model = _model(name, training)
    for key, loss in model.losses(model(images), images.targets).items():  # the simulation computed something
        torch.testing.assert_close(losses[key].values, loss, rtol=1e-4, atol=1e-5)
    return tuple(gpu.waits)


def _model(name: str, training: bool) -> Any:
    model = build(name).train(training)
    model.fixed_shapes = True
    return model


def _batch(name: str, number: int, training: bool) -> Batch:
    return batch(SIZES[:number], INSTANCES[:number] if training else None, proposals=name == "fast_rcnn_fpn")


def documented() -> dict[str, tuple[int, int]]:
    """The table in docs/architecture.md: place -> how often at most in a training step, in an inference."""
    section = SECTION.search(DOCUMENTED.read_text())
    assert section, "docs/architecture.md has no table of the places where the host waits"
    rows = re.findall(r"^\| `([^`]+)` \|.*\| (\d+) \| (\d+) \|$", section[1], re.MULTILINE)
    return {place: (int(step), int(inference)) for place, step, inference in rows}


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_host_waits_at_most_three_times(name: str, training: bool) -> None:
    waits = waits_of(name, 2, training)
    assert len(waits) <= MOST, "\n".join(map(str, waits))
    for number in (1, 4):
        assert Counter(waits_of(name, number, training)) == Counter(waits), f"with {number} images"


def test_where_the_host_waits_is_documented() -> None:
    most: dict[str, list[int]] = {}
    for name in ARCHITECTURES:
        for column, training in enumerate((True, False)):
            for place, count in Counter(wait.place for wait in waits_of(name, 2, training)).items():
                row = most.setdefault(place, [0, 0])
                row[column] = max(row[column], count)
    assert {place: tuple(row) for place, row in most.items()} == documented()
