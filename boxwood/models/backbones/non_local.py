"""Non-local blocks (Wang, Girshick, Gupta, He: Non-local Neural Networks, 2018): each position of a map reads all positions.

    z_i = x_i + norm(out(y_i)),   y_i = sum_j w_ij g(x_j)

    embedded_gaussian   w_i = softmax over j of theta(x_i) . phi(x_j)
    gaussian            w_i = softmax over j of x_i . x_j
    dot_product         w_ij = theta(x_i) . phi(x_j) / M

theta, phi, g and out are 1x1 convolutions. The scale of ``norm`` starts at 0, so a new block is the identity.
Letters: B images or regions, C channels of the map, E = C / 2 channels inside the block, N positions of the map, M positions that
are read: N, or about N / 4 with pooling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.models.backbones.backbone import ConvNorm, make_norm
from boxwood.models.backbones.config import NonLocalConfig, NonLocalStagesConfig

__all__ = ["NonLocalBlock", "insert_blocks", "missing_blocks"]

PROJECTION_STD = 0.01
"""Of the initial theta and phi in the authors' released code: attention starts almost uniform, with or without ``scale``."""


class NonLocalBlock(nn.Module):
    """The block for maps of ``channels`` channels: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, config: NonLocalConfig) -> None:
        super().__init__()
        self.config = config
        inner = max(channels // 2, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        if config.pairwise != "gaussian":
            self.theta, self.phi = nn.Conv2d(channels, inner, 1), nn.Conv2d(channels, inner, 1)
            for projection in (self.theta, self.phi):
                nn.init.normal_(projection.weight, std=PROJECTION_STD)
                nn.init.zeros_(projection.bias)  # type: ignore[arg-type]  # it has a bias
        norm = ChannelScale(channels) if config.norm == "scale" else make_norm(config.norm, channels)
        self.out = ConvNorm(nn.Conv2d(inner, channels, 1, bias=config.norm == "scale"), norm)
        for conv in (self.g, self.out.conv):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        nn.init.zeros_(norm.weight)  # type: ignore[arg-type]  # a parameter

    def forward(self, x: Tensor) -> Tensor:
        is_gaussian, pool = self.config.pairwise == "gaussian", self.config.pool
        read = halved(x) if pool == "ahead" else x
        queries = x if is_gaussian else self.theta(x)
        keys, values = read if is_gaussian else self.phi(read), self.g(read)
        if pool == "behind":
            keys, values = halved(keys), halved(values)
        y = self._attended(*(features.flatten(2).mT for features in (queries, keys, values)))
        mixed: Tensor = self.out(y.mT.reshape(y.shape[0], y.shape[2], *x.shape[-2:]))
        return x + mixed

    def _attended(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(B, N, E or C), (B, M, E or C), (B, M, E) -> (B, N, E), without a matrix of N x M."""
        if self.config.pairwise == "dot_product":
            return queries @ (keys.mT @ (values / keys.shape[1]))
        width, scale = values.shape[-1], None if self.config.scale else 1.0  # None: 1 / sqrt(channels)
        if width < keys.shape[-1]:  # gaussian; the kernels that do not store N x M weights need equal widths
            values = F.pad(values, (0, keys.shape[-1] - width))
        return F.scaled_dot_product_attention(queries[:, None], keys[:, None], values[:, None], scale=scale)[:, 0, :, :width]


class ChannelScale(nn.Module):
    """A learnt factor for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.to(x.dtype)[:, None, None]


def halved(x: Tensor) -> Tensor:
    """2x2 max pooling (B, C, H, W) -> (B, C, H // 2, W // 2); a side of 1 stays 1."""
    height, width = x.shape[-2:]
    return F.max_pool2d(x, (min(2, height), min(2, width)))


def insert_blocks(backbone: nn.Module, config: NonLocalStagesConfig) -> None:
    """Insert new blocks into ``layer2`` .. ``layer4`` of a ResNet, in place; the names of its other tensors stay.

    The block before residual block 5 of layer3 is ``layer3.non_local5``. Raises `UserError` for a position that there is not, or
    that occurs twice.
    """
    for layer, key in (("layer2", "res3"), ("layer3", "res4"), ("layer4", "res5")):
        setattr(backbone, layer, _with_blocks(getattr(backbone, layer), key, config))


def _with_blocks(stage: nn.Sequential, key: str, config: NonLocalStagesConfig) -> nn.Sequential:
    """The residual blocks of a stage under their names, and the non-local blocks between them."""
    residual: list[Any] = list(stage)
    count = len(residual)
    positions = getattr(config, key)
    resolved = [position + count if position < 0 else position for position in positions]
    if len(set(resolved)) < len(resolved) or any(not 0 <= position <= count for position in resolved):
        raise UserError(
            f"model.backbone.non_local.{key}={list(positions)}: {key} has {count} residual blocks; expected positions of 0 (before "
            f"the first) to {count} (behind the last), or -1 (before the last) to -{count}, each once"
        )
    modules = nn.Sequential()
    for position in range(count + 1):
        if position in resolved:  # the first residual block of a stage reads fewer channels, the others read the stage's
            channels = residual[min(position, count - 1)].conv1.conv.in_channels
            modules.add_module(f"non_local{position}", NonLocalBlock(channels, config))
        if position < count:
            modules.add_module(str(position), residual[position])
    return modules


def missing_blocks(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of the model's non-local blocks of which ``state`` has no tensor, by the name of the block."""
    blocks = {}
    for name, module in model.named_modules():
        if isinstance(module, NonLocalBlock):
            tensors = {f"{name}.{part}": value for part, value in module.state_dict().items()}
            if not tensors.keys() & state.keys():
                blocks[name] = tensors
    return blocks
