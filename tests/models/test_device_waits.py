"""Where the host waits for a GPU: at most once in a training step and twice in an inference (three times where NMS of keypoints is
on), whatever the number of images. Without Triton it waits two times more.

No GPU is needed (`tests.models.simulated_gpu`). The places are those of docs/architecture.md, between its marks "waits".
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwood.structures import Batch
from tests.models.simulated_gpu import SimulatedGPU
from tests.models.toys import ARCHITECTURES, TEST, batch, build

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
SIZES = ((96, 128), (64, 96), (90, 120), (96, 100)) * 2
INSTANCES = (3, 0, 2, 1) * 2
SLOW = (
    "interactnet_fpn",
    "mask_rcnn_fpn",
    "faster_rcnn_fpn",
    "keypoint_rcnn_fpn",
    "dense_pose_rcnn_fpn",
    "faster_rcnn_c4",
    "mask_rcnn_c4",
    "mask_x_rcnn_fpn",
    "rfcn",
)
"""Architectures that `make check` leaves out."""


def documented(kind: str) -> dict[str, int]:
    """The files of one kind of row of the page's table, and how often the host waits there at most."""
    section = re.search(r"<!-- waits -->(.*)<!-- /waits -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert section
    rows = re.findall(rf"^\| {kind} \| `boxwood/(\S+)` \| .* \| (?:at most )?(\d).* \|$", section[1], re.MULTILINE)
    assert rows
    return {file: int(number) for file, number in rows}


def waits(model: Any, images: Batch, *, triton: bool) -> Counter[str]:
    """The files in which the host waits, with numbers, in a step of training or in the detections of a batch."""
    with SimulatedGPU(triton=triton) as gpu:
        gpu.move(model)
        on_gpu = images.to("cuda")
        gpu.waits.clear()  # the loader copies the batch
        if on_gpu.targets is None:
            with torch.no_grad():
                model.detections(model(on_gpu), on_gpu)
        else:
            losses = model.losses(model(on_gpu), on_gpu.targets)
            torch.stack(list(losses.values())).sum().backward()
        return Counter(wait.file for wait in gpu.waits)


@pytest.mark.parametrize("triton", [True, False])
@pytest.mark.parametrize("kind", ["a training step", "inference of a batch"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in ARCHITECTURES])
def test_the_host_waits_only_at_documented_places(name: str, kind: str, triton: bool) -> None:
    training = kind == "a training step"
    waits_of_batches = []
    for number in (1, 3, 8):
        model = build(name).train(training)
        images = batch(SIZES[:number], INSTANCES[:number] if training else None, proposals=name == "fast_rcnn_fpn")
        waits_of_batches.append(waits(model, images, triton=triton))
    assert training or waits_of_batches[0] == waits_of_batches[1] == waits_of_batches[2], "the same for any number of images"
    allowed = documented(kind)
    most = (1 + (name == "dense_pose_rcnn_fpn") if training else 2) + (0 if triton else 2)
    for places in waits_of_batches:
        assert places.total() <= most
        assert all(number <= allowed.get(file, 0) for file, number in places.items()), (places, allowed)


@pytest.mark.parametrize("keypoint_nms", [None, 0.0])
def test_a_gpu_returns_the_instances_that_a_cpu_returns(keypoint_nms: float | None) -> None:
    """The host reads the numbers of instances ahead of the head. NMS of keypoints changes them later: with 0 a pose suppresses
    every other that it is similar to at all."""
    images = batch([(96, 128), (64, 96)])
    model = build("keypoint_rcnn_fpn", TEST.model_copy(update={"keypoint_nms": keypoint_nms})).eval()
    with torch.no_grad():
        expected = model.detections(model(images), images)
        with SimulatedGPU() as gpu:
            gpu.move(model)
            on_gpu = images.to("cuda")
            detections = model.detections(model(on_gpu), on_gpu)
    assert [len(found) for found in detections] == [len(found) for found in expected] == [10, 10 if keypoint_nms is None else 9]
    for found, truth in zip(detections, expected, strict=True):
        torch.testing.assert_close(found.boxes.values, truth.boxes, rtol=1e-5, atol=1e-3)
