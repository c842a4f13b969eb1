"""A compiled training step gives the losses and gradients of the plain one, and is not compiled again for each batch."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from boxwood.structures import Batch
from tests.models.toys import batch, build

SIZES = ((160, 192), (192, 160), (160, 256), (224, 192), (160, 160), (192, 320), (256, 224), (160, 224), (192, 192), (288, 160))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch warns of its internals
@pytest.mark.parametrize(("name", "limit"), [("faster_rcnn_fpn", 8), ("mask_rcnn_fpn", 18), ("retinanet", 8)])
def test_a_compiled_step_equals_the_plain_one(name: str, limit: int) -> None:
    """Ten batches of two images, each of another size and number of instances. ``limit``: the most compiled graphs."""
    torch._dynamo.reset()
    model = build(name).train()
    model.fixed_shapes = True
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(losses_of, backend=counter)
    for index, (height, width) in enumerate(SIZES):
        images = batch([(height, width), (height - 10, width - 7)], [(5 * index) % 13, (3 * index) % 5], seed=index)
        expected, gradients = step(model, losses_of, images)
        losses, compiled_gradients = step(model, compiled, images)
        for key, loss in expected.items():
            torch.testing.assert_close(losses[key], loss, rtol=0, atol=1e-5)
        for key, gradient in gradients.items():
            torch.testing.assert_close(compiled_gradients[key], gradient, rtol=1e-4, atol=1e-5)
        if index == 1:
            after_two = counter.frame_count
    assert counter.frame_count <= limit
    assert counter.frame_count - after_two <= 4, "sizes are dynamic from the second batch on"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["faster_rcnn_fpn", "mask_rcnn_fpn", "retinanet"])
def test_a_step_compiled_to_machine_code_equals_the_plain_one(name: str) -> None:
    torch._dynamo.reset()
    model = build(name).train()
    model.fixed_shapes = True
    images = batch([(160, 192), (150, 185)], [3, 2])
    expected, gradients = step(model, losses_of, images)
    with torch._inductor.config.patch(compile_threads=1):  # in this process
        losses, compiled_gradients = step(model, torch.compile(losses_of), images)
    for key, loss in expected.items():
        torch.testing.assert_close(losses[key], loss, rtol=1e-6, atol=1e-5)
    for key, gradient in gradients.items():
        torch.testing.assert_close(compiled_gradients[key], gradient, rtol=1e-3, atol=1e-4)


def losses_of(model: Any, images: Batch) -> dict[str, Tensor]:
    assert images.targets is not None
    losses: dict[str, Tensor] = model.losses(model(images), images.targets)
    return losses


def step(model: Any, losses_of: Any, images: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model.zero_grad()
    losses = losses_of(model, images)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients
