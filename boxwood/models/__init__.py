"""The architectures, one a file, and the contract they keep."""

from boxwood.models.detector import Detector, ModelConfig, TestConfig
from boxwood.models.rcnn import RCNN, RCNNConfig

__all__ = ["RCNN", "Detector", "ModelConfig", "RCNNConfig", "TestConfig"]
