"""Heads of R-CNN: small networks on the features of one RoI. They know nothing of images, anchors or losses.

A user-defined head is one class and one configuration that builds it; see ``examples/own_head.py``. Names are imported when they
are first used.
"""

from typing import TYPE_CHECKING

from boxwood.lazy import lazy_names

if TYPE_CHECKING:
    from boxwood.models.heads.config import (
        AverageHeadConfig,
        BoxHeadConfig,
        ConvFCHeadConfig,
        ConvKeypointHeadConfig,
        ConvMaskHeadConfig,
        KeypointHeadConfig,
        MaskHeadConfig,
        MaskXHeadConfig,
        RoIHeadConfig,
        TwoFCHeadConfig,
    )
    from boxwood.models.heads.dense_pose_config import (
        ConvDensePoseHeadConfig,
        DeepLabDensePoseHeadConfig,
        DensePoseHeadConfig,
    )
    from boxwood.models.heads.head import RoIHead
    from boxwood.models.heads.interaction_config import InteractionHeadConfig

__all__ = [
    "AverageHeadConfig",
    "BoxHeadConfig",
    "ConvDensePoseHeadConfig",
    "ConvFCHeadConfig",
    "ConvKeypointHeadConfig",
    "ConvMaskHeadConfig",
    "DeepLabDensePoseHeadConfig",
    "DensePoseHeadConfig",
    "InteractionHeadConfig",
    "KeypointHeadConfig",
    "MaskHeadConfig",
    "MaskXHeadConfig",
    "RoIHead",
    "RoIHeadConfig",
    "TwoFCHeadConfig",
]

__getattr__ = lazy_names(
    __name__,
    {
        "config": (
            "AverageHeadConfig",
            "BoxHeadConfig",
            "ConvFCHeadConfig",
            "ConvKeypointHeadConfig",
            "ConvMaskHeadConfig",
            "KeypointHeadConfig",
            "MaskHeadConfig",
            "RoIHeadConfig",
            "MaskXHeadConfig",
            "TwoFCHeadConfig",
        ),
        "dense_pose_config": ("ConvDensePoseHeadConfig", "DeepLabDensePoseHeadConfig", "DensePoseHeadConfig"),
        "head": ("RoIHead",),
        "interaction_config": ("InteractionHeadConfig",),
    },
)
