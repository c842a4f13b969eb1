"""Backbones, one family a file; names are imported when they are first used."""

from typing import TYPE_CHECKING

from boxwood.lazy import lazy_names

if TYPE_CHECKING:
    from boxwood.models.backbones.backbone import Backbone, ConvNorm
    from boxwood.models.backbones.check import check_backbone
    from boxwood.models.backbones.config import (
        BackboneConfig,
        MobileNetV2Config,
        NonLocalConfig,
        NonLocalStagesConfig,
        ResNetConfig,
        TimmConfig,
        VGG16Config,
        VGGCNNM1024Config,
    )
    from boxwood.models.backbones.mobilenet import MobileNetV2
    from boxwood.models.backbones.non_local import NonLocalBlock
    from boxwood.models.backbones.resnet import ResNet
    from boxwood.models.backbones.timm_backbone import TimmBackbone
    from boxwood.models.backbones.vgg import VGG16, VGGCNNM1024

__all__ = [
    "VGG16",
    "VGGCNNM1024",
    "Backbone",
    "BackboneConfig",
    "ConvNorm",
    "MobileNetV2",
    "MobileNetV2Config",
    "NonLocalBlock",
    "NonLocalConfig",
    "NonLocalStagesConfig",
    "ResNet",
    "ResNetConfig",
    "TimmBackbone",
    "TimmConfig",
    "VGG16Config",
    "VGGCNNM1024Config",
    "check_backbone",
]

__getattr__ = lazy_names(
    __name__,
    {
        "backbone": (
            "Backbone",
            "ConvNorm",
        ),
        "check": ("check_backbone",),
        "config": (
            "BackboneConfig",
            "MobileNetV2Config",
            "NonLocalConfig",
            "NonLocalStagesConfig",
            "ResNetConfig",
            "TimmConfig",
            "VGG16Config",
            "VGGCNNM1024Config",
        ),
        "mobilenet": ("MobileNetV2",),
        "non_local": ("NonLocalBlock",),
        "resnet": ("ResNet",),
        "timm_backbone": ("TimmBackbone",),
        "vgg": (
            "VGG16",
            "VGGCNNM1024",
        ),
    },
)
