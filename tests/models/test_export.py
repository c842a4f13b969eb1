"""Every architecture is exported with `torch.export` to a program of tensors that gives the network's instances: for other images,
sizes and numbers of images, and for an image without instances."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from boxwood.interop.onnx import FixedSizeProgram
from boxwood.models.ground_truth import padded
from boxwood.structures import Batch
from tests.models.toys import ARCHITECTURES, PROPOSALS, batch, build

Outputs = dict[str, Tensor]

TRACED = ((160, 224), (150, 200))
OTHERS = (((160, 224), (160, 180)), ((160, 352), (130, 340)), ((320, 192), (320, 190), (200, 170)))
"""Heights and widths of the images of a batch."""


def instances_of(model: Any, images: Batch) -> Outputs:
    """The outputs of `FixedSizeProgram`, by the network as it is."""
    instances = model(images).instances
    return {
        "boxes": instances.boxes,
        "scores": instances.scores,
        "labels": instances.labels,
        "valid": instances.valid,
        **instances.fields,
    }


def arguments(batch: Batch) -> tuple[Tensor, ...]:
    if batch.proposals is None:
        return batch.images, batch.sizes
    proposals = padded(batch.proposals)
    proposals = nn.functional.pad(proposals, (0, 0, 0, PROPOSALS - proposals.shape[1]), value=7.0)  # the padding may have any value
    return batch.images, batch.sizes, proposals, torch.tensor([len(boxes) for boxes in batch.proposals])


def dimensions(name: str) -> tuple[dict[int, Any], ...]:
    """The free dimensions of the arguments. torch treats a map of a single cell specially, so the sides of images
    begin above the stride of the coarsest map; smaller images are padded, as all are."""
    coarsest = {"retinanet": 128, "faster_rcnn_c4": 16, "mask_rcnn_c4": 16, "rfcn": 16}.get(name, 64)
    height, width = (Dim(side, min=coarsest // 32 + 1, max=64) for side in ("height", "width"))
    if name == "fast_rcnn_fpn":  # the numbers of images and of proposals are fixed
        return {2: 32 * height, 3: 32 * width}, {}, {}, {}
    if name == "keypoint_rcnn_fpn":  # the number of images is fixed: a few boxes are decoded at a time
        return {2: 32 * height, 3: 32 * width}, {}
    number = Dim("number", min=1, max=16)
    return {0: number, 2: 32 * height, 3: 32 * width}, {0: number}


def export(name: str, *, dynamic: bool, strict: bool, sizes: Sequence[tuple[int, int]]) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(
            FixedSizeProgram(build(name)),
            arguments(batch(sizes, proposals=name == "fast_rcnn_fpn")),
            dynamic_shapes=dimensions(name) if dynamic else None,
            strict=strict,
        )


def assert_same_instances(name: str, program: nn.Module, sizes: Sequence[tuple[int, int]], *, nothing: bool = False) -> None:
    """The program's instances equal those of the network without fixed shapes. ``nothing``: the last image has no pixels, so no
    instances."""
    images = batch(sizes, proposals=name == "fast_rcnn_fpn", seed=len(sizes) + sizes[0][0])
    if nothing:
        images.sizes[-1] = 0
    with torch.no_grad():
        expected, got = instances_of(build(name), images), program(*arguments(images))
    assert got.keys() == expected.keys()
    assert torch.equal(got["valid"], expected["valid"])
    assert expected["valid"].any(dim=1).tolist() == [True] * (len(sizes) - nothing) + [False] * nothing
    for key, values in expected.items():
        valid = expected["valid"]
        torch.testing.assert_close(got[key][valid], values[valid], rtol=0, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


SLOW = (
    "interactnet_fpn",
    "faster_rcnn_fpn",
    "mask_rcnn_fpn",
    "keypoint_rcnn_fpn",
    "dense_pose_rcnn_fpn",
    "faster_rcnn_c4",
    "mask_rcnn_c4",
    "mask_x_rcnn_fpn",
    "rfcn",
)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in ARCHITECTURES])
def test_a_network_exported_for_one_size_gives_the_same_instances(name: str) -> None:
    saved = io.BytesIO()
    torch.export.save(export(name, dynamic=False, strict=False, sizes=TRACED[:1]), saved)
    saved.seek(0)
    program = torch.export.load(saved).module()
    assert_same_instances(name, program, [(160, 224)])
    assert_same_instances(name, program, [(130, 210)])
    assert_same_instances(name, program, [(160, 224)], nothing=True)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_exported_for_all_sizes_gives_the_same_instances(name: str, strict: bool) -> None:
    program = export(name, dynamic=True, strict=strict, sizes=TRACED).module()
    for sizes in OTHERS:
        for number in [2] if name in ("fast_rcnn_fpn", "keypoint_rcnn_fpn") else range(1, len(sizes) + 1):
            assert_same_instances(name, program, sizes[:number], nothing=False)
    assert_same_instances(name, program, OTHERS[0], nothing=True)
