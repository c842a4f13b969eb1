"""`torch.compile` of a training step: the losses of the step as it is, and few compilations for batches of many sizes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from boxwood.fields import InstanceMasks
from boxwood.structures import Batch, Target
from tests.models.toys import batch, build

SIZES = ((160, 192), (192, 160), (160, 256), (224, 192), (160, 160), (192, 320), (256, 224), (160, 224), (192, 192), (288, 160))
INSTANCES = ((0, 0), (5, 3), (12, 1), (1, 4), (20, 0), (2, 2), (11, 9), (0, 16), (4, 1), (3, 8))
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # where a graph breaks

MOST_COMPILATIONS = 4
"""The first batch's shapes as constants, then with free height and width, then with a free number of instances, and one to spare."""


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def batches(number: int) -> Iterator[Batch]:
    """Two images each, of many sizes and with many numbers of instances, and other random choices in every step."""
    for index in range(number):
        height, width = SIZES[index]
        yield batch([(height, width), (height - 20, width - 7)], INSTANCES[index], seed=index)


def with_fixed_targets(one: Batch) -> Batch:
    """The batch with as many instances, a multiple of 16, and regions to ignore, two, of every image: rows of zeros are none."""
    assert one.targets is not None
    number = -(-max(1, *(len(target.labels) for target in one.targets)) // 16) * 16

    def rows(values: Tensor, length: int) -> Tensor:
        return F.pad(values, (0, 0) * (values.dim() - 1) + (0, length - values.shape[0]))

    def fixed(target: Target) -> Target:
        assert target.masks is not None and target.keypoints is not None
        masks = InstanceMasks(rows(target.masks.bitmaps, number), rows(target.masks.boxes, number))
        boxes, labels = rows(target.boxes, number), rows(target.labels, number)
        return Target(boxes, labels, rows(target.ignore, 2), masks, rows(target.keypoints, number))

    return Batch(one.images, one.sizes, one.original_sizes, seeds=one.seeds, targets=tuple(map(fixed, one.targets)))


def networks(name: str) -> tuple[Any, Any]:
    """Two of the same weights; the first is to be compiled."""
    compiled, eager = build(name).train(), build(name).train()
    compiled.fixed_shapes = True
    return compiled, eager


def steps_agree(name: str, backend: str, number: int) -> CompileCounterWithBackend:
    """Compiled and eager training steps of ``number`` batches: the same losses and gradients."""
    model, eager = networks(name)
    counter = CompileCounterWithBackend(backend)

    @torch.compile(backend=counter, fullgraph=False)
    def losses_of(one: Batch) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = model.losses(model(one), one.targets)
        return losses

    for one in batches(number):
        got, expected = losses_of(with_fixed_targets(one)), eager.losses(eager(one), one.targets)
        assert got.keys() == expected.keys()
        for key, loss in expected.items():
            torch.testing.assert_close(got[key], loss, rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
        for network, losses in ((model, got), (eager, expected)):
            network.zero_grad()
            sum(losses.values()).backward()
        for (key, mine), its in zip(model.named_parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, its.grad, rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")
    return counter


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faster_rcnn_fpn", "mask_rcnn_fpn", "retinanet"])
def test_a_compiled_step_is_compiled_a_few_times(name: str) -> None:
    counter = steps_agree(name, "aot_eager", len(SIZES))
    logging.getLogger(__name__).warning("%s: %d compilations for %d batches", name, counter.frame_count, len(SIZES))
    assert counter.frame_count <= MOST_COMPILATIONS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faster_rcnn_fpn", "mask_rcnn_fpn", "retinanet"])
def test_a_step_compiled_to_machine_code_has_the_same_losses(name: str) -> None:
    steps_agree(name, "inductor", 3)
