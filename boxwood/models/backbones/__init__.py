"""Bodies, one family a file."""

from boxwood.models.backbones.backbone import Backbone, BackboneConfig, ConvNorm
from boxwood.models.backbones.mobilenet import MobileNetV2, MobileNetV2Config
from boxwood.models.backbones.resnet import ResNet, ResNetConfig

__all__ = ["Backbone", "BackboneConfig", "ConvNorm", "MobileNetV2", "MobileNetV2Config", "ResNet", "ResNetConfig"]
