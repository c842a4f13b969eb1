"""3x3 convolutions as a CPU computes them fastest, beside PyTorch's: outputs and all gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.models.backbones import ConvNorm
from boxwood.models.backbones.backbone import make_norm
from boxwood.models.convolution import Conv3x3, replace_convolutions
from boxwood.ops import convolution
from boxwood.ops.convolution import conv3x3

LARGE, SMALL = (2, 128, 40, 44), (1, 128, 14, 14)


@pytest.fixture(params=["AVX2", "AVX512"])
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    return str(request.param)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the inputs that Winograd's algorithm gets."""
    shapes: list[tuple[int, ...]] = []
    original = convolution.winograd_conv2d

    def counted(x: Tensor, *others: Any) -> Tensor:
        shapes.append(tuple(x.shape))
        return original(x, *others)

    monkeypatch.setattr(convolution, "winograd_conv2d", counted)
    return shapes


def tensors(shape: tuple[int, ...], channels_out: int = 136, memory_format: Any = torch.channels_last) -> list[Tensor]:
    """Input, weight and bias."""
    generator = torch.Generator().manual_seed(0)
    shapes = shape, (channels_out, shape[1], 3, 3), (channels_out,)
    x, weight, bias = (torch.randn(each, generator=generator) for each in shapes)
    return [each.requires_grad_() for each in (x.to(memory_format=memory_format), weight.to(memory_format=memory_format), bias)]


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", [LARGE, SMALL, (1, 8, 32, 40)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_outputs_and_gradients_are_pytorchs(shape: tuple[int, ...], memory_format: Any, with_bias: bool, capability: str) -> None:
    x, weight, bias = tensors(shape, memory_format=memory_format)
    inputs = [x, weight, bias] if with_bias else [x, weight]
    exact = F.conv2d(x.double(), weight.double(), bias.double() if with_bias else None, 1, 1)
    output = conv3x3(x, weight, bias if with_bias else None)
    torch.testing.assert_close(output, exact.float(), rtol=0, atol=1e-4 * float(exact.detach().std()))
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(memory_format=memory_format)
    expected = torch.autograd.grad(exact, inputs, seed.double())
    for ours, theirs in zip(torch.autograd.grad(output, inputs, seed), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.std()))


def test_winograds_algorithm_computes_large_maps_both_ways(calls: list[tuple[int, ...]], capability: str) -> None:
    x, weight, bias = tensors(LARGE)
    conv3x3(x, weight, bias).sum().backward()
    with torch.no_grad():
        conv3x3(x, weight, bias)
    assert calls == [LARGE, (2, 136, 40, 44), LARGE]


def test_what_needs_no_gradient_gets_none(calls: list[tuple[int, ...]], capability: str) -> None:
    x, weight, bias = tensors(LARGE)
    conv3x3(x.detach(), weight, bias.detach()).sum().backward()
    assert calls == [LARGE] and x.grad is None and bias.grad is None and weight.grad is not None
    conv3x3(x, weight.detach(), bias.detach()).sum().backward()
    assert x.grad is not None and len(calls) == 3


def test_others_are_pytorchs_to_the_bit(calls: list[tuple[int, ...]]) -> None:
    """Small maps, few channels, other types."""
    for shape, channels_out in ((SMALL, 128), ((1, 64, 60, 60), 128), ((1, 128, 60, 60), 64)):
        x, weight, bias = tensors(shape, channels_out)
        assert torch.equal(conv3x3(x, weight, bias), F.conv2d(x, weight, bias, 1, 1))
    x, weight, bias = tensors(LARGE)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv3x3(x, weight, bias).dtype == torch.bfloat16
    assert conv3x3(x.double(), weight.double(), bias.double()).dtype == torch.float64
    assert not calls


def test_only_plain_3x3_layers_are_replaced() -> None:
    class Special(nn.Conv2d):
        pass

    plain, norm = nn.Conv2d(4, 4, 3, padding=1), ConvNorm(nn.Conv2d(4, 4, 3, padding=1, bias=False), make_norm("frozen_bn", 4))
    others = [
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        Special(4, 4, 3, padding=1),
    ]
    model = nn.Sequential(plain, norm, *others)
    keys, weight = list(model.state_dict()), plain.weight
    replace_convolutions(model)
    assert list(model.state_dict()) == keys and model[0].weight is weight
    assert isinstance(model[0], Conv3x3) and isinstance(model[1].conv, Conv3x3)
    assert list(model[2:]) == others


def test_a_frozen_norm_is_folded_into_it(calls: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    layer = ConvNorm(nn.Conv2d(128, 128, 3, padding=1, bias=False), make_norm("frozen_bn", 128))
    layer.norm.running_mean.normal_()  # type: ignore[union-attr, operator]
    layer.norm.weight.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
    x = tensors(LARGE)[0].detach()
    expected = layer(x)
    replace_convolutions(layer)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-4 * float(expected.detach().std()))
    layer.fuse()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-4 * float(expected.detach().std()))
    assert calls == [LARGE, LARGE]
