"""The architectures, one a file, and the contract they keep; names are imported when they are first used."""

from typing import TYPE_CHECKING

from boxwood.lazy import lazy_names

if TYPE_CHECKING:
    from boxwood.models.config import ModelConfig, ProposerConfig, RCNNConfig, RetinaNetConfig, RFCNConfig
    from boxwood.models.detector import Detector
    from boxwood.models.inference_config import TestConfig
    from boxwood.models.proposal_network import Proposer
    from boxwood.models.rcnn import RCNN
    from boxwood.models.retinanet import RetinaNet
    from boxwood.models.rfcn import RFCN

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

__getattr__ = lazy_names(
    __name__,
    {
        "config": (
            "ModelConfig",
            "ProposerConfig",
            "RCNNConfig",
            "RFCNConfig",
            "RetinaNetConfig",
        ),
        "detector": ("Detector",),
        "inference_config": ("TestConfig",),
        "proposal_network": ("Proposer",),
        "rcnn": ("RCNN",),
        "retinanet": ("RetinaNet",),
        "rfcn": ("RFCN",),
    },
)
