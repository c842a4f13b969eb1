"""Strided 1x1 convolutions of few channels: their backward pass on a CPU wrote beyond its memory in torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from torch import nn

from boxwood.models.backbones import MobileNetV2Config, ResNetConfig

CONVOLUTIONS = """
import torch
from torch import nn
from boxwood.models.backbones.backbone import ConvNorm

torch.set_num_threads(1)
for channels in (1, 3, 4, 8, 12, 15, 16):
    for size in ((2, 80, 120), (1, 81, 121), (1, 160, 240)) * 20:
        conv = ConvNorm(nn.Conv2d(channels, 16, 1, stride=2, bias=False), nn.Identity())
        exact = nn.Conv2d(channels, 16, 1, stride=2, bias=False).double()
        exact.load_state_dict({"weight": conv.conv.weight.double()})
        conv.to(memory_format=torch.channels_last)
        image = torch.randn(size[0], channels, *size[1:]).to(memory_format=torch.channels_last)
        inputs = image.requires_grad_(), image.detach().double().requires_grad_()
        outputs = conv(inputs[0]), exact(inputs[1])
        weights = torch.randn(outputs[0].shape)
        for output in outputs:
            (output * weights).sum().backward()
        torch.testing.assert_close(outputs[0].double(), outputs[1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(conv.conv.weight.grad.double(), exact.weight.grad, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(inputs[0].grad.double(), inputs[1].grad, rtol=1e-4, atol=1e-5)
print("done")
"""


@pytest.mark.slow
def test_few_channels_neither_crash_nor_err() -> None:
    """In a process of its own, whose allocator reports damage at once."""
    environment = os.environ | {"MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}
    ended = subprocess.run(
        [sys.executable, "-c", CONVOLUTIONS], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "done"), ended.stderr[-2000:]


@pytest.mark.parametrize("width", [4, 8, 12, 64])
@pytest.mark.parametrize("stride_in", ["1x1", "3x3"])
def test_no_backbone_has_such_a_convolution(width: int, stride_in: str) -> None:
    backbones = [ResNetConfig(depth=depth, width=width, norm="bn", weights=None, stride_in=stride_in) for depth in (18, 50)]
    for backbone in (*backbones, MobileNetV2Config(weights=None)):
        convolutions = [module for module in backbone.build().modules() if isinstance(module, nn.Conv2d)]
        strided = [conv for conv in convolutions if conv.kernel_size == (1, 1) and conv.stride != (1, 1)]
        assert len(convolutions) > 10 and all(conv.in_channels >= 16 for conv in strided)
