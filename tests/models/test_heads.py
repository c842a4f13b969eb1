"""The heads of R-CNN beside torchvision's, layer by layer with the same weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads

from boxwood.errors import UserError
from boxwood.models.heads import ConvFCHeadConfig, ConvMaskHeadConfig, RoIHead, TwoFCHeadConfig

CHANNELS = 32
GROUP_NORM = partial(nn.GroupNorm, 32)


def same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Random weights for ``theirs``, and the same, in the same order, for ``ours``."""
    for value in theirs.parameters():
        nn.init.normal_(value, 0, 0.05)
    state = zip(ours.state_dict(), theirs.state_dict().values(), strict=True)
    ours.load_state_dict(dict(state))


def test_two_fc_head_is_torchvisions() -> None:
    head, peer = TwoFCHeadConfig(width=64).build(CHANNELS), TwoMLPHead(CHANNELS * 49, 64)
    same_weights(head, peer)
    features = torch.randn(5, CHANNELS, 7, 7)
    torch.testing.assert_close(head(features), peer(features))


@pytest.mark.parametrize(("norm", "layer"), [("gn", GROUP_NORM), ("bn", nn.BatchNorm2d), (None, None)])
def test_conv_fc_head_is_torchvisions(norm: str | None, layer: type[nn.Module] | None) -> None:
    head = ConvFCHeadConfig.model_validate({"convs": 4, "conv_width": 64, "width": 96, "norm": norm}).build(CHANNELS)
    peer = FastRCNNConvFCHead((CHANNELS, 7, 7), [64] * 4, [96], norm_layer=layer)
    same_weights(head, peer)
    features = torch.randn(5, CHANNELS, 7, 7)
    torch.testing.assert_close(head(features), peer(features))
    assert head.channels == 96


@pytest.mark.parametrize(("norm", "layer"), [("gn", GROUP_NORM), (None, None)])
def test_convolutions_of_the_mask_head_are_torchvisions(norm: str | None, layer: type[nn.Module] | None) -> None:
    head = ConvMaskHeadConfig.model_validate({"convs": 3, "width": 64, "norm": norm}).build(CHANNELS)
    peer = MaskRCNNHeads(CHANNELS, [64] * 3, 1, norm_layer=layer)
    same_weights(head.convs, peer)  # type: ignore[arg-type]
    features = torch.randn(5, CHANNELS, 14, 14)
    expected: Tensor = head.deconv(peer(features)).relu()  # type: ignore[operator]
    torch.testing.assert_close(head(features), expected)


@pytest.mark.parametrize(
    "head", [config.build(CHANNELS) for config in (TwoFCHeadConfig(), ConvFCHeadConfig(), ConvMaskHeadConfig())]
)
def test_heads_accept_no_regions(head: RoIHead) -> None:
    resolution = 14 if "deconv" in head._modules else 7
    assert len(head(torch.zeros(0, CHANNELS, resolution, resolution))) == 0


def test_a_width_that_group_norm_cannot_divide_is_refused() -> None:
    with pytest.raises(UserError, match="40 channels"):
        ConvFCHeadConfig(conv_width=40).build(CHANNELS)
