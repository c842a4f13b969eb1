"""A detector as an ONNX file: ONNX Runtime finds the instances that the network finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.interop.onnx import _grouped_nms, export_onnx
from boxwood.ops.nms import nms_mask
from tests.models.test_export import assert_same_instances
from tests.models.toys import CATEGORIES, build

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

SIZE = (192, 224)


def opened(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Session(nn.Module):
    """A file as a module of tensors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = opened(path)
        self.outputs = [output.name for output in self.session.get_outputs()]

    def forward(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        results = self.session.run(None, {"images": images.numpy(), "sizes": sizes.numpy()})
        return {name: torch.from_numpy(np.array(values)) for name, values in zip(self.outputs, results, strict=True)}


@pytest.mark.parametrize(
    "name",
    [
        "retinanet",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("mask_rcnn_fpn", "keypoint_rcnn_fpn", "dense_pose_rcnn_fpn", "interactnet_fpn")
        ),
    ],
)
def test_onnx_runtime_finds_the_same_instances(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.onnx"
    model = build(name)
    export_onnx(model, path, size=SIZE, images=2)
    assert not model.fixed_shapes, "the network was changed"
    session = Session(path)
    assert_same_instances(name, session, [SIZE, (150, 200)])
    assert_same_instances(name, session, [(180, 224), (192, 130)])
    assert_same_instances(name, session, [SIZE, SIZE], nothing=True)
    metadata = session.session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["boxwood.classes"]) == list(CATEGORIES.names)


@pytest.mark.parametrize("groups", [1, 5])
def test_nms_keeps_the_same_boxes(groups: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(groups)
    corners = (torch.rand(300, 2, generator=generator) * 60).round()  # whole numbers: some boxes are equal
    boxes = torch.cat([corners, corners + (torch.rand(300, 2, generator=generator) * 20).round()], dim=1)
    scores = (torch.randn(300, generator=generator) * 20).round() / 20  # negative ones, and equal ones
    of_box = torch.randint(0, groups, (300,), generator=generator)
    valid = torch.rand(300, generator=generator) < 0.8

    class Suppression(nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
            return nms_mask(boxes, scores, groups, 0.4, valid)

    arguments = (boxes, scores, of_box, valid)
    program = torch.onnx.export(
        torch.export.export(Suppression(), arguments),
        args=arguments,
        input_names=["boxes", "scores", "groups", "valid"],
        custom_translation_table={torch.ops.boxwood.grouped_nms.default: _grouped_nms},
        opset_version=20,
        verbose=False,
    )
    path = tmp_path / "nms.onnx"
    program.save(str(path))
    inputs = dict(zip(("boxes", "scores", "groups", "valid"), (values.numpy() for values in arguments), strict=True))
    kept = torch.from_numpy(opened(path).run(None, inputs)[0])
    assert torch.equal(kept, nms_mask(*arguments[:3], 0.4, valid))


@pytest.mark.parametrize(
    ("size", "images", "expected"),
    [
        ((100, 224), 1, r"size=\(100, 224\): expected a height and a width that are multiples of 32.*take \(128, 224\)"),
        ((0, 64), 1, "from 64 up"),
        ((192, 224), 0, "images=0: expected 1 or more"),
    ],
)
def test_a_size_that_cannot_be_is_refused(size: tuple[int, int], images: int, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        export_onnx(build("retinanet"), tmp_path / "x.onnx", size=size, images=images)
    assert not list(tmp_path.iterdir())


def test_a_network_without_rpn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"takes its proposals from a file \(model.rpn=null\)"):
        export_onnx(build("fast_rcnn_fpn"), tmp_path / "x.onnx", size=SIZE)
