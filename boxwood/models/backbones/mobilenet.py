"""MobileNetV2 (Sandler et al., 2018): a light backbone for CPUs, made of torchvision's network."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn

from boxwood.models.backbones.backbone import Backbone, BackboneConfig, ConvNorm, Norm, imagenet_weights, make_norm

__all__ = ["MobileNetV2", "MobileNetV2Config"]


class MobileNetV2Config(BackboneConfig):
    """A MobileNetV2 backbone that returns the last map of each stride from 4 to 32."""

    short_kind: ClassVar[str] = "mobilenet_v2"

    norm: Norm = "frozen_bn"
    dilated: bool = False
    """The last map has stride 16 instead of 32: the last strided convolution takes every pixel, and the 3x3 convolutions behind it
    are dilated by 2 (for R-FCN). Every second of its pixels is a pixel of the strided map."""
    weights: str | None = "IMAGENET1K_V1"
    """A member of torchvision's `MobileNet_V2_Weights`; None starts from random weights."""

    @property
    def title(self) -> str:
        return "MobileNetV2"

    def build(self) -> MobileNetV2:
        return MobileNetV2(self)


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
        _pair_convs_with_norms(self.features)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps, x = [], images
        for index, block in enumerate(self.features):
            x = block(x)
            if index in self.taps:
                maps.append(x)
        return maps


def _pair_convs_with_norms(module: nn.Module) -> None:
    """In every sequence, make a convolution and the norm that follows it one `ConvNorm`."""
    for child in module.children():
        _pair_convs_with_norms(child)
    if isinstance(module, nn.Sequential):
        layers = list(module)
        for index, (conv, norm) in enumerate(pairwise(layers)):
            if isinstance(conv, nn.Conv2d):
                module[index] = ConvNorm(conv, norm)
                module[index + 1] = nn.Identity()
