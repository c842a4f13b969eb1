"""The Triton kernel for RoIAlign without a GPU: in Triton's interpreter it gives the features and gradients of torchvision's
operator, and Triton compiles it for NVIDIA's GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
import torchvision.ops
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import boxwood.ops.roi_align
from tests.conftest import repeatable
from tests.ops.kernels import kernel_module

triton = pytest.importorskip("triton")

STRIDES = (4, 8, 16, 32)


@pytest.fixture(scope="module")
def interpreted() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")  # functions of a kernel look for it when they are called
        patch.setattr("torch.cuda.device_of", mock.Mock(return_value=nullcontext()))
        yield kernel_module("boxwood.ops.roi_align_kernel")


def pooled_by_torchvision(
    maps: list[Tensor], levels: Tensor, rois: Tensor, images: Tensor, size: int, ratio: int, aligned: bool
) -> Tensor:
    indexed = torch.cat([images[:, None].float(), rois], dim=1)
    parts = [
        torchvision.ops.roi_align(maps[level], row[None], size, 1 / STRIDES[level], ratio, aligned)
        for level, row in zip(levels.tolist(), indexed, strict=True)
    ]
    return torch.cat(parts)


def test_a_pyramid_of_two_levels(interpreted: ModuleType) -> None:
    check(interpreted, seed=0, channels=3, number_of_levels=2, size=2, ratio=2, aligned=True)


@pytest.mark.slow
@repeatable
@settings(max_examples=8)
@given(
    seed=st.integers(0, 10**6),
    channels=st.sampled_from((1, 3, 300)),  # fewer than a program computes, no power of two, and more
    number_of_levels=st.integers(1, 4),
    size=st.sampled_from((1, 2, 3)),
    ratio=st.sampled_from((0, 1, 2)),
    aligned=st.booleans(),
)
def test_features_and_gradients_are_those_of_torchvision(interpreted: ModuleType, **case: Any) -> None:
    check(interpreted, **case)


def check(
    interpreted: ModuleType, *, seed: int, channels: int, number_of_levels: int, size: int, ratio: int, aligned: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(2, channels, 24 >> level, 32 >> level, generator=generator) for level in range(number_of_levels)]
    maps = [level.to(memory_format=torch.channels_last).requires_grad_() for level in maps]
    corners = torch.rand(4, 2, generator=generator) * 120 - 10
    rois = torch.cat([corners, corners + torch.rand(4, 2, generator=generator) * 24], dim=1)
    rois[0] = torch.tensor([-300.0, -300.0, -200.0, -200.0])  # beyond the map
    rois[1, 2:] = rois[1, :2]  # without extent
    levels = torch.randint(number_of_levels, (4,), generator=generator)
    images = torch.randint(2, (4,), generator=generator)
    places = levels, rois, images, size, ratio, aligned
    theirs = pooled_by_torchvision(maps, *places)
    ours = interpreted.pool_levels(maps, STRIDES[:number_of_levels], *places)
    weights = torch.randn(ours.shape, generator=generator)
    gradients = torch.autograd.grad((ours * weights).sum(), maps)
    expected_gradients = torch.autograd.grad((theirs * weights).sum(), maps, materialize_grads=True)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-5)


def test_no_rois_have_no_features_and_gradients_of_zero(interpreted: ModuleType) -> None:
    level = torch.ones(1, 4, 8, 8, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    pooled = interpreted.pool_levels([level], [4], none, torch.zeros(0, 4), none, 7, 2, True)
    assert pooled.shape == (0, 4, 7, 7)
    (gradient,) = torch.autograd.grad(pooled.sum(), level)
    assert torch.equal(gradient, torch.zeros_like(level))


@pytest.mark.slow
@pytest.mark.parametrize("capability", [75, 80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("backward", [False, True])
def test_it_compiles_for_gpus(capability: int, dtype: str, backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels are read several at a time."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    of_map = "fp32" if backward else dtype
    types = {}
    for level in range(4):
        types |= {f"map{level}": f"*{of_map}", f"height{level}": "i32", f"width{level}": "i32", f"scale{level}": "fp32"}
    types |= {"cells": f"*{dtype}", "levels": "*i64", "rois": "*fp32", "images": "*i64", "channels": "i32"}
    constants = {"SIZE": 7, "POINTS": 2, "ALIGNED": True, "LEVELS": 4, "BACKWARD": backward, "BLOCK": 256}
    aligned = {(index,): [["tt.divisibility", 16]] for index, name in enumerate(types) if not name.startswith(("h", "w", "s"))}
    source = ASTSource(
        kernel_module("boxwood.ops.roi_align_kernel")._pool, types | dict.fromkeys(constants, "constexpr"), constants, aligned
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 2})
    assert compiled.asm["cubin"]
    assert "ld.global.v" in compiled.asm["ptx"]


def test_without_a_gpu_torchvisions_operator_is_used(caplog: pytest.LogCaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert boxwood.ops.roi_align._kernel_on_gpu.__wrapped__() is None
    assert "torchvision's operator is" in caplog.text
