"""The simulated GPU records each wait of the host and nothing else, computes the CPU's values, and refuses mixed devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision  # noqa: F401  # its operators
from torch import Tensor

from tests.models.simulated_gpu import GPUTensor, SimulatedGPU
from tests.models.toys import batch, build

WAITS: dict[str, Callable[[Tensor], Any]] = {
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
    "values put where bools are true": lambda x: x.index_put((x > 3,), x[0].repeat(2)),
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
DOES_NOT_WAIT: dict[str, Callable[[Tensor], Any]] = {
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
    "row by row": lambda x: [row + 1 for row in x],
    "copied from the host, not blocking": lambda x: torch.ones(3, 4).to(x.device, non_blocking=True) + x,
    "values on the host": lambda x: torch.ones(3).sum().item(),
}


def waits(program: Callable[[Tensor], Any]) -> list[Any]:
    with SimulatedGPU() as gpu:
        program(torch.arange(12.0).view(3, 4).to("cuda", non_blocking=True))
    return gpu.waits


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_is_recorded(name: str) -> None:
    assert len(waits(WAITS[name])) == 1


@pytest.mark.parametrize("name", DOES_NOT_WAIT)
def test_no_wait_is_recorded_where_there_is_none(name: str) -> None:
    assert not waits(DOES_NOT_WAIT[name])


def test_tensors_of_two_devices_are_refused() -> None:
    with SimulatedGPU(), pytest.raises(RuntimeError, match=r"two (different )?devices"):
        torch.arange(3.0).to("cuda") + torch.arange(3.0)


def test_a_wait_in_a_backward_pass_names_the_line_of_the_forward_pass() -> None:
    from boxwood.ops.boxes import area

    with SimulatedGPU() as gpu:
        boxes = torch.arange(8.0).view(2, 4).to("cuda", non_blocking=True).requires_grad_()
        total = area(boxes)
        total.grad_fn.register_prehook(lambda gradients: gradients[0].sum().item() and None)  # type: ignore[union-attr]
        total.sum().backward()
    assert [(wait.file, wait.function) for wait in gpu.waits] == [("ops/boxes.py", "area")]


def test_a_step_on_the_simulated_gpu_equals_that_on_the_cpu() -> None:
    images = batch([(96, 128), (64, 96)], [3, 2])
    model = build("mask_rcnn_fpn").train()
    model.fixed_shapes = True
    expected = model.losses(model(images), images.targets)
    torch.stack(list(expected.values())).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    with SimulatedGPU() as gpu:
        gpu.move(model)
        on_gpu = images.to("cuda")
        losses = model.losses(model(on_gpu), on_gpu.targets)
        torch.stack(list(losses.values())).sum().backward()
    for name, loss in losses.items():
        torch.testing.assert_close(loss.values, expected[name], rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        assert isinstance(parameter.grad, GPUTensor) == (gradients[name] is not None)
        if gradients[name] is not None:
            torch.testing.assert_close(parameter.grad.values, gradients[name], rtol=1e-3, atol=1e-4)
