"""The architectures, one a file, and the contract they keep."""

from boxwood.models.detector import Detector, ModelConfig, TestConfig
from boxwood.models.rcnn import RCNN, RCNNConfig
from boxwood.models.retinanet import RetinaNet, RetinaNetConfig

__all__ = ["RCNN", "Detector", "ModelConfig", "RCNNConfig", "RetinaNet", "RetinaNetConfig", "TestConfig"]
