"""The Triton kernel for NMS without a GPU: in Triton's interpreter it keeps the boxes that torchvision's operator keeps on a CPU,
and Triton compiles it for NVIDIA's GPUs.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import boxwood.ops.nms
from boxwood.ops.nms import nms_mask
from tests.conftest import repeatable
from tests.ops.kernels import kernel_module

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # 0 / 0 where both boxes are empty


@pytest.fixture(scope="module")
def interpreted() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        return kernel_module("boxwood.ops.nms_kernel")


def survivors_by(module: ModuleType, boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """What `nms_mask` does on a GPU."""
    order = scores.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    ends = torch.searchsorted(groups[order], groups[order], right=True)
    return torch.zeros_like(valid).scatter(0, order, module.survivors(boxes[order], ends, valid[order], threshold))


@repeatable
@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    number=st.sampled_from((1, 2, 7, 60)),
    groups=st.sampled_from((1, 3, 20)),
    threshold=st.sampled_from((0.0, 0.3, 0.5, 0.7, 1.0)),
    whole=st.booleans(),
)
def test_survivors_are_those_of_the_cpu(
    interpreted: ModuleType, seed: int, number: int, groups: int, threshold: float, whole: bool
) -> None:
    """With equal scores, with overlaps that are exactly the threshold where corners are ``whole``, and with empty boxes."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(number, 4, generator=generator) * 40
    boxes[:, 2:] = boxes[:, :2] + (torch.rand(number, 2, generator=generator) * 30).clamp(min=1) - 1
    boxes = boxes.round() if whole else boxes
    scores = (torch.rand(number, generator=generator) * 10).round()
    group = torch.randint(groups, (number,), generator=generator)
    valid = torch.rand(number, generator=generator) > 0.1
    ours = survivors_by(interpreted, boxes, scores, group, valid, threshold)
    assert torch.equal(ours, nms_mask(boxes, scores, group, threshold, valid))


def test_a_group_of_more_boxes_than_a_program_compares_with_at_a_time(interpreted: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(1500, 4, generator=generator) * 20
    boxes[:, 2:] = boxes[:, :2] + 20
    scores, group = torch.rand(1500, generator=generator), torch.zeros(1500, dtype=torch.int64)
    kept_mask = nms_mask(boxes, scores, group, 0.4)
    assert 1 < kept_mask.sum() < 60
    assert torch.equal(survivors_by(interpreted, boxes, scores, group, group == 0, 0.4), kept_mask)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [75, 80, 90])
def test_it_compiles_for_gpus(capability: int) -> None:
    """Products and sums are rounded one by one, division is exact, and threads wait for each other's writes."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {"boxes": "*fp32", "ends": "*i64", "alive": "*i32", "threshold": "fp32", "BLOCK": "constexpr"}
    source = ASTSource(fn=kernel_module("boxwood.ops.nms_kernel")._suppress, signature=types, constexprs={"BLOCK": 1024})
    options = {"num_warps": 8, "num_stages": 1, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert compiled.asm["cubin"]
    code = compiled.asm["ptx"]
    assert "div.rn.f32" in code and "fma" not in code and "bar.sync" in code


def test_without_a_gpu_torchvisions_operator_is_used(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert boxwood.ops.nms._survivors_on_gpu.__wrapped__() is None
    assert "torchvision's operator is" in caplog.text
