"""Heads of R-CNN: small networks on the features of one RoI. They know nothing of images, anchors or losses.

A user-defined head is one class and one configuration that builds it; see ``examples/own_head.py``.
"""

from boxwood.models.heads.box import AverageHeadConfig, BoxHeadConfig, ConvFCHeadConfig, TwoFCHeadConfig
from boxwood.models.heads.head import RoIHead, RoIHeadConfig
from boxwood.models.heads.keypoint import ConvKeypointHeadConfig, KeypointHeadConfig
from boxwood.models.heads.mask import ConvMaskHeadConfig, MaskHeadConfig

__all__ = [
    "AverageHeadConfig",
    "BoxHeadConfig",
    "ConvFCHeadConfig",
    "ConvKeypointHeadConfig",
    "ConvMaskHeadConfig",
    "KeypointHeadConfig",
    "MaskHeadConfig",
    "RoIHead",
    "RoIHeadConfig",
    "TwoFCHeadConfig",
]
