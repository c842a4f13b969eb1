"""The networks of DensePose R-CNN (Güler, Neverova and Kokkinos, 2018), with detectron2's improvements.

    levels of the pyramid -> Decoder -> one map -> features of RoIs                  (R, C, P, P)
    features of RoIs -> ConvDensePoseHead or DeepLabDensePoseHead                    (R, W, P, P)
                     -> DensePosePredictor -> maps of parts and surface coordinates  (R, M, 2 P, 2 P)
                     -> whole_maps, in inference alone                               (R, M, 4 P, 4 P)

Letters: R RoIs of the batch in one row, C channels of the pyramid, W of the head, P cells a side, M channels of all maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.models.backbones.backbone import ConvNorm, make_norm
from boxwood.models.backbones.non_local import NonLocalBlock
from boxwood.models.heads.dense_pose_config import ConvDensePoseHeadConfig, DeepLabDensePoseHeadConfig, DensePoseHeadConfig
from boxwood.models.heads.head import RoIHead, convolutions, msra_fill
from boxwood.ops.geometry import Geometry

__all__ = ["Decoder", "DensePosePredictor", "channels_of", "confidence", "split_maps", "whole_maps"]

LEAST_CONFIDENCE = 0.01
"""Confidences are more than this."""
PARAMETERS = (("weight", 1), ("bias", 0))
"""Of the predictor's deconvolutions, and the dimension of each that counts their channels."""


def channels_of(head: DensePoseHeadConfig) -> dict[str, int]:
    """The maps that a head leads to, in their order, and the channels of each; those of parts begin with the background."""
    charts = head.parts + 1
    channels = {"coarse": head.coarse, "fine": charts, "u": charts, "v": charts}
    if head.confidence is not None:
        channels["sigma"] = charts
    if head.confidence == "indep_aniso":
        channels |= {"kappa_u": charts, "kappa_v": charts}
    if head.segmentation_confidence:
        channels |= {"fine_confidence": 1, "coarse_confidence": 1}
    return channels


def split_maps(maps: Tensor, head: DensePoseHeadConfig) -> dict[str, Tensor]:
    """The maps (R, M, S, S) by name (`channels_of`), each (R, channels, S, S)."""
    channels = channels_of(head)
    return dict(zip(channels, torch.split(maps, list(channels.values()), dim=1), strict=True))


class Decoder(nn.Module):
    """All levels of a pyramid in one map of the finest level's size (Kirillov et al., Panoptic FPN, 2019, figure 3).

    A level of stride s goes through log2(s / 4) times a 3x3 convolution and doubling (once a convolution alone for s = 4); the
    results are added.
    """

    def __init__(self, channels: int, strides: Sequence[int], width: int | None = None) -> None:
        super().__init__()
        width = width or channels
        self.levels = nn.ModuleList()
        for stride in strides:
            steps = (stride // strides[0]).bit_length() - 1
            inputs = [channels, *[width] * (max(steps, 1) - 1)]
            self.levels.append(DecoderLevel((nn.Conv2d(number, width, 3, padding=1) for number in inputs), doubles=steps > 0))
        self.predictor = nn.Conv2d(width, channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                msra_fill(module)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        parts = [level(x) for level, x in zip(self.levels, maps[: len(self.levels)], strict=True)]
        decoded: Tensor = self.predictor(sum(parts[1:], parts[0]))
        return decoded


class DecoderLevel(nn.ModuleList):
    """The convolutions of one level, after each of which the map is doubled where ``doubles``."""

    def __init__(self, convs: Iterable[nn.Module], *, doubles: bool) -> None:
        super().__init__(convs)
        self.doubles = doubles

    def forward(self, x: Tensor) -> Tensor:
        for conv in self:
            x = F.relu(conv(x))
            if self.doubles:
                x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return x


class ConvDensePoseHead(RoIHead):
    def __init__(self, config: ConvDensePoseHeadConfig, channels: int) -> None:
        super().__init__()
        self.convs, self.channels = convolutions(config.convs, channels, config.width, None)

    def forward(self, features: Tensor) -> Tensor:
        for conv in self.convs:
            features = F.relu(conv(features), inplace=True)
        return features


class DeepLabDensePoseHead(RoIHead):
    def __init__(self, config: DeepLabDensePoseHeadConfig, channels: int) -> None:
        super().__init__()
        self.aspp = ASPP(channels, config.dilations)
        self.non_local = None if config.non_local is None else NonLocalBlock(channels, config.non_local)
        self.convs, self.channels = convolutions(config.convs, channels, config.width, "gn")

    def forward(self, features: Tensor) -> Tensor:
        features = self.aspp(features)
        if self.non_local is not None:
            features = self.non_local(features)
        for conv in self.convs:
            features = F.relu(conv(features), inplace=True)
        return features


class ASPP(nn.Module):
    """A 1x1 convolution, 3x3 convolutions of several dilations and the mean over the region, side by side (Chen et al., DeepLabv3,
    2017, section 3.3); a 1x1 convolution joins them. As many channels come out as go in."""

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()

        def branch(kernel: int, dilation: int = 1) -> ConvNorm:
            conv = nn.Conv2d(channels, channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
            return ConvNorm(conv, make_norm("gn", channels))

        self.branches = nn.ModuleList([branch(1), *(branch(3, dilation) for dilation in dilations)])
        self.pooled = branch(1)
        self.project = nn.Conv2d((len(dilations) + 2) * channels, channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        parts = [F.relu(branch(features)) for branch in self.branches]
        mean = F.relu(self.pooled(features.mean(dim=(2, 3), keepdim=True)))
        return F.relu(self.project(torch.cat([*parts, mean.expand_as(features)], dim=1)))


class DensePosePredictor(nn.Module):
    """A deconvolution for each kind of map, which doubles the resolution; one operator does the work of all."""

    def __init__(self, head: DensePoseHeadConfig, channels: int) -> None:
        super().__init__()
        self.head = head
        self.layers = nn.ModuleDict()
        for name, number in channels_of(head).items():
            layer = nn.ConvTranspose2d(channels, number, 4, stride=2, padding=1)
            msra_fill(layer)
            self.layers[name] = layer

    def forward(self, features: Tensor) -> Tensor:
        """(R, W, P, P) -> (R, M, 2 P, 2 P), the maps of `channels_of` one after the other, without bounds."""
        weight, bias = (torch.cat([getattr(layer, name) for layer in self.layers.values()], dim) for name, dim in PARAMETERS)
        return F.conv_transpose2d(features, weight, bias, stride=2, padding=1)


def confidence(raw: Tensor) -> Tensor:
    """The positive factors of logits that predicted numbers mean."""
    return F.softplus(raw) + LEAST_CONFIDENCE


def whole_maps(maps: Tensor, head: DensePoseHeadConfig, geometry: Geometry) -> Tensor:
    """The predictor's maps (R, M, S, S) -> (R, M, 2 S, 2 S), enlarged; confidences are multiplied into the logits."""
    maps = geometry.enlarge(maps)
    if not head.segmentation_confidence:
        return maps
    kinds = split_maps(maps, head)
    for name in ("fine", "coarse"):
        kinds[f"{name}_confidence"] = confidence(kinds[f"{name}_confidence"])
        kinds[name] = kinds[name] * kinds[f"{name}_confidence"]
    return torch.cat(list(kinds.values()), dim=1)
