"""MobileNetV2 (Sandler et al., 2018): a light backbone for CPUs, made of torchvision's network."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.models.backbones.backbone import Backbone, ConvNorm, imagenet_weights, make_norm
from boxwood.models.backbones.config import MobileNetV2Config

__all__ = ["MobileNetV2"]


class _ReLU6(torch.autograd.Function):
    """In place, and with the output alone kept for the backward pass; PyTorch's in-place operator keeps a copy of the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        output = x.clamp_(0, 6)
        ctx.mark_dirty(output)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        input_gradient: Tensor = torch.ops.aten.hardtanh_backward(gradient, output, 0.0, 6.0)
        return input_gradient


class ReLU6(nn.Module):
    """min(max(x, 0), 6), in place."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            output: Tensor = _ReLU6.apply(x)
            return output
        return F.relu6(x, inplace=True)


class MobileNetV2(Backbone):
    """The backbone. ``forward`` returns four maps of strides 4, 8, 16, 32; dilated, the last is of 16."""

    channels = (24, 32, 96, 1280)
    taps = (3, 6, 13, 18)
    """The blocks whose outputs are returned."""

    def __init__(self, config: MobileNetV2Config) -> None:
        import torchvision.models

        super().__init__()
        network: Any = torchvision.models.mobilenet_v2(norm_layer=lambda channels: make_norm(config.norm, channels))
        if config.weights is not None:
            state = imagenet_weights(torchvision.models.MobileNet_V2_Weights, config.weights)
            network.load_state_dict(state, strict=config.norm != "gn")
        self.features: nn.Sequential = network.features
        self.strides = (4, 8, 16, 16 if config.dilated else 32)
        if config.dilated:
            for layer in self.features[self.taps[2] + 1 :].modules():
                if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                    layer.stride = (1, 1)
                elif isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                    layer.dilation = layer.padding = (2, 2)
        _replace_layers(self.features)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps, x = [], images
        for index, block in enumerate(self.features):
            x = block(x)
            if index in self.taps:
                maps.append(x)
        return maps


def _replace_layers(module: nn.Module) -> None:
    """In every sequence, make a convolution and the norm that follows it one `ConvNorm`, and of PyTorch's ReLU6 ours."""
    for child in module.children():
        _replace_layers(child)
    if isinstance(module, nn.Sequential):
        layers = list(module)
        for index, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d):
                module[index] = ConvNorm(layer, layers[index + 1])
                module[index + 1] = nn.Identity()
            elif isinstance(layer, nn.ReLU6):
                module[index] = ReLU6()
