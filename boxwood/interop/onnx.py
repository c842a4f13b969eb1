"""A detector as an ONNX file, for ONNX Runtime and other programs: pictures in, final instances out, all between in one graph.

model -> torch.export, with fixed shapes -> torch.onnx, with NMS as ONNX's own operator -> file
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.files import write_whole
from boxwood.models.detector import Detector, set_fixed_shapes
from boxwood.structures import Batch

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

__all__ = ["FixedSizeProgram", "export_onnx"]

OPSET = 20
"""Of ONNX; the first whose resizing and sampling operators are those of PyTorch."""


class FixedSizeProgram(nn.Module):
    """A detector from tensors to tensors, as it is exported. It does all work of fixed shape, so no value is read on the host."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model
        set_fixed_shapes(model)

    def forward(
        self, images: Tensor, sizes: Tensor, proposals: Tensor | None = None, counts: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Final instances, best first, D of each image (`boxwood.models.postprocess.Instances`).

        Args:
            images: (B, 3, H, W) uint8, RGB, each in the upper left corner.
            sizes: (B, 2) int64, height and width of each image without its padding.
            proposals: (B, K, 4) xyxy, of a network without RPN.
            counts: (B,) int64: how many of an image's proposals count, the first ones.

        Returns:
            ``boxes`` (B, D, 4) xyxy in pixels of ``images``, ``scores`` (B, D), ``labels`` (B, D) int64, the index of the class,
            ``valid`` (B, D) bool, and the fields of the tasks, such as ``masks`` (B, D, M, M).
        """
        given = None
        if proposals is not None and counts is not None:
            counted = torch.arange(proposals.shape[1], device=counts.device) < counts[:, None]
            given = tuple((proposals * counted[..., None]).unbind(0))  # a row of zeros is no proposal
        instances = self.model(Batch(images, sizes, (), proposals=given, originals=sizes)).instances
        return {
            "boxes": instances.boxes,
            "scores": instances.scores,
            "labels": instances.labels,
            "valid": instances.valid,
            **instances.fields,
        }


def export_onnx(model: Detector, path: str | Path, *, size: tuple[int, int], images: int = 1) -> None:
    """Write a detector as an ONNX file for pictures of one size; smaller ones are padded at the right and at the bottom.

    The file's inputs are ``images`` (B, 3, H, W) uint8, RGB, and ``sizes`` (B, 2) int64, height and width of each picture; it
    normalises them itself. Its outputs are ``boxes`` (B, D, 4) in pixels of ``images``, ``scores``, ``labels``, ``valid`` (B, D),
    and the tensors of the tasks (``masks``, ``keypoints``, ``dense_pose``, ``interactions``), as `FixedSizeProgram` returns them;
    its metadata ``boxwood.classes`` are the names of the labels. ``model`` is not changed. Needs ``pip install 'boxwood[onnx]'``.

        predictor = boxwood.load("runs/mine")
        export_onnx(predictor.model, "mine.onnx", size=(800, 1344))

    Args:
        model: on any device; its weights are copied.
        path: of the file; one that is there is replaced.
        size: height and width of the images, multiples of 32.
        images: B.

    Raises `UserError` where the size is no multiple of what the network needs, the network takes its proposals from a file, or a
    package is missing.
    """
    _check(model, size, images)
    program = FixedSizeProgram(copy.deepcopy(model).cpu().eval())
    arguments = (torch.zeros(images, 3, *size, dtype=torch.uint8), torch.tensor([size] * images))
    with torch.no_grad():
        exported = torch.export.export(program, arguments)
        names = list(program(*arguments))
        result = _translated(exported, arguments, names)
    result.model.metadata_props["boxwood.classes"] = json.dumps(list(model.categories.names))
    write_whole(Path(path), lambda temporary: result.save(str(temporary)))


def _check(model: Detector, size: tuple[int, int], images: int) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"export to ONNX needs {error.name}, which is not installed; run: pip install 'boxwood[onnx]'") from None
    if images < 1:
        raise UserError(f"images={images}: expected 1 or more")
    if any(side < 64 or side % 32 for side in size):
        height, width = (max(64, -(-side // 32) * 32) for side in size)
        raise UserError(
            f"size={size}: expected a height and a width that are multiples of 32, from 64 up; take ({height}, {width})"
        )
    if getattr(getattr(model, "config", None), "rpn", True) is None:
        raise UserError(
            "this network takes its proposals from a file (model.rpn=null), and ONNX files are for networks with an RPN"
        )


def _translated(exported: Any, arguments: tuple[Tensor, ...], names: list[str]) -> ONNXProgram:
    result = torch.onnx.export(
        exported,
        args=arguments,
        input_names=["images", "sizes"],
        output_names=names,
        custom_translation_table={torch.ops.boxwood.grouped_nms.default: _grouped_nms},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert result is not None
    return result


def _rounded_down(value: float) -> float:
    """The largest float32 that is not above ``value``: torchvision compares an IoU in float32 with a threshold in float64."""
    nearest = np.float32(value)
    return float(nearest if float(nearest) <= value else np.nextafter(nearest, np.float32(-1)))


def _grouped_nms(boxes: Any, scores: Any, groups: Any, valid: Any, threshold: float, lengths: list[int]) -> Any:
    """`boxwood.ops.nms.nms_mask` in ONNX's operators: each group is a class of `NonMaxSuppression`, in which boxes of other groups
    score less than every threshold."""
    import onnxscript

    op: Any = onnxscript.opset20

    def number(value: int) -> Any:
        return op.Constant(value_int=value)

    first, second = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    last = op.ReduceMax(op.Concat(groups, first, axis=0), keepdims=0)
    each = op.Unsqueeze(op.Range(number(0), op.Add(last, number(1)), number(1)), second)
    member = op.And(op.Equal(each, op.Unsqueeze(groups, first)), op.Unsqueeze(valid, first))
    of_group = op.Where(member, op.Unsqueeze(scores, first), op.Constant(value_float=float("-inf")))  # (G, N)
    count = op.Shape(scores)
    kept = op.NonMaxSuppression(
        op.Unsqueeze(boxes, first),
        op.Unsqueeze(of_group, first),
        count,
        op.Constant(value_floats=[_rounded_down(threshold)]),
        op.Constant(value_floats=[torch.finfo(torch.float32).min]),
    )
    rows = op.Gather(kept, op.Constant(value_ints=[2]), axis=1)  # image, class, box
    ones = op.Squeeze(op.Expand(number(1), op.Shape(rows)), second)
    return op.Cast(op.ScatterND(op.Expand(number(0), count), rows, ones), to=9)  # bool
