"""The architectures, one a file, and the contract they keep."""

from boxwood.models.detector import Detector, ModelConfig
from boxwood.models.inference_config import TestConfig
from boxwood.models.proposal_network import Proposer, ProposerConfig
from boxwood.models.rcnn import RCNN, RCNNConfig
from boxwood.models.retinanet import RetinaNet, RetinaNetConfig
from boxwood.models.rfcn import RFCN, RFCNConfig

__all__ = [
    "RCNN",
    "RFCN",
    "Detector",
    "ModelConfig",
    "Proposer",
    "ProposerConfig",
    "RCNNConfig",
    "RFCNConfig",
    "RetinaNet",
    "RetinaNetConfig",
    "TestConfig",
]
