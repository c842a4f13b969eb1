"""Mask heads: features of an RoI -> features of a mask."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.models.backbones.backbone import Norm
from boxwood.models.heads.head import RoIHead, RoIHeadConfig, convolutions, msra_fill

__all__ = ["ConvMaskHeadConfig", "MaskHeadConfig"]


class MaskHeadConfig(RoIHeadConfig):
    """Base of the heads whose output becomes a mask per RoI and class; the head decides M."""

    resolution: int = 14
    binary_mask_targets: bool | None = None
    """Mask targets are 0 or 1 (Detectron), not the covered share of a cell; None: as ``geometry`` implies."""

    detectron1_rules: ClassVar[dict[str, Any]] = {"binary_mask_targets": True}
    continuous_rules: ClassVar[dict[str, Any]] = {"binary_mask_targets": False}


class ConvMaskHeadConfig(MaskHeadConfig):
    """A stack of 3x3 convolutions and a deconvolution that doubles the resolution (Mask R-CNN, figure 4).

    Detectron's names: v1up4convs is this, v1up has 2 convolutions; v0upshare has none and reads the ``tail``, v0up its
    ``own_tail``.
    """

    short_kind: ClassVar[str] = "conv_mask"

    convs: int = 4
    width: int = 256
    norm: Norm | None = None
    """After each 3x3 convolution, which then has no bias; None for convolutions with bias alone."""

    def build(self, channels: int) -> RoIHead:
        return ConvMaskHead(self, channels)


class ConvMaskHead(RoIHead):
    def __init__(self, config: ConvMaskHeadConfig, channels: int) -> None:
        super().__init__()
        self.channels = config.width
        self.convs, channels = convolutions(config.convs, channels, config.width, config.norm)
        self.deconv = nn.ConvTranspose2d(channels, config.width, 2, stride=2)
        msra_fill(self.deconv)

    def forward(self, features: Tensor) -> Tensor:
        for conv in self.convs:
            features = F.relu(conv(features), inplace=True)
        return F.relu(self.deconv(features), inplace=True)
