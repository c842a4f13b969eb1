"""Backbones, one family a file."""

from boxwood.models.backbones.backbone import Backbone, BackboneConfig, ConvNorm
from boxwood.models.backbones.check import check_backbone
from boxwood.models.backbones.mobilenet import MobileNetV2, MobileNetV2Config
from boxwood.models.backbones.resnet import ResNet, ResNetConfig
from boxwood.models.backbones.timm_backbone import TimmBackbone, TimmConfig
from boxwood.models.backbones.vgg import VGG16, VGGCNNM1024, VGG16Config, VGGCNNM1024Config

__all__ = [
    "VGG16",
    "VGGCNNM1024",
    "Backbone",
    "BackboneConfig",
    "ConvNorm",
    "MobileNetV2",
    "MobileNetV2Config",
    "ResNet",
    "ResNetConfig",
    "TimmBackbone",
    "TimmConfig",
    "VGG16Config",
    "VGGCNNM1024Config",
    "check_backbone",
]
