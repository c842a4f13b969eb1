"""Weight gradients of convolutions from contiguous copies, beside PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwood.training import weight_gradient
from boxwood.training.weight_gradient import copied_weight_gradients

CPU = torch.device("cpu")


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """As on a CPU without AVX-512; the shapes of the inputs of replaced convolutions."""
    shapes: list[tuple[int, ...]] = []
    convolution = weight_gradient._Convolution.apply

    def apply(x: Tensor, *others: Any) -> Tensor:
        shapes.append(tuple(x.shape))
        output: Tensor = convolution(x, *others)
        return output

    monkeypatch.setattr(weight_gradient._Convolution, "apply", apply)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    return shapes


def an_input(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).to(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("bias", [True, False])
def test_the_gradients_are_pytorchs(replaced: list[tuple[int, ...]], bias: bool) -> None:
    torch.manual_seed(0)
    x, conv = an_input(2, 16, 30, 31), nn.Conv2d(16, 24, 3, padding=1, bias=bias).to(memory_format=torch.channels_last)
    plain = conv(x)
    with copied_weight_gradients(CPU):
        output = conv(x)
    assert replaced == [(2, 16, 30, 31)]
    assert torch.equal(output, plain)
    seed = torch.randn_like(plain)
    for ours, theirs in zip(
        torch.autograd.grad(output, [x, *conv.parameters()], seed),
        torch.autograd.grad(plain, [x, *conv.parameters()], seed),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def test_a_frozen_input_or_bias_gets_no_gradient(replaced: list[tuple[int, ...]]) -> None:
    conv = nn.Conv2d(16, 8, 3, padding=1).to(memory_format=torch.channels_last)
    conv.bias.requires_grad_(False)  # type: ignore[union-attr]
    x = an_input(1, 16, 40, 40).detach()
    with copied_weight_gradients(CPU):
        conv(x).sum().backward()
    assert len(replaced) == 1 and conv.weight.grad is not None and conv.bias is not None and conv.bias.grad is None


def test_only_large_channels_last_maps_of_3x3_convolutions(replaced: list[tuple[int, ...]]) -> None:
    large = an_input(1, 16, 40, 40)
    with copied_weight_gradients(CPU):
        nn.Conv2d(16, 8, 3, padding=1)(an_input(1, 16, 20, 20))
        nn.Conv2d(16, 8, 3, padding=1)(large.contiguous())
        nn.Conv2d(16, 8, 1)(large)
        nn.Conv2d(16, 8, 3, padding="same")(large)
        nn.Conv2d(16, 8, 3, padding=1, stride=2)(large)
        nn.Conv2d(16, 16, 3, padding=1, groups=16)(large)
        nn.Conv2d(16, 8, 3, padding=1).requires_grad_(False)(large)
        with torch.autocast("cpu", torch.bfloat16):
            nn.Conv2d(16, 8, 3, padding=1)(large)
        with torch.no_grad():
            nn.Conv2d(16, 8, 3, padding=1)(large)
    assert not replaced


def test_with_avx512_and_on_a_gpu_nothing_is_replaced(replaced: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = nn.Conv2d(16, 8, 3, padding=1), an_input(1, 16, 40, 40)
    with copied_weight_gradients(torch.device("cuda")):
        conv(x)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with copied_weight_gradients(CPU):
        conv(x)
    assert not replaced
