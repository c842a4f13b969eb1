"""A check that a backbone returns what it declares; call it once, in a test of a user-defined backbone."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from boxwood.errors import UserError
from boxwood.models.backbones.backbone import Backbone

__all__ = ["check_backbone"]


@torch.no_grad()
def check_backbone(backbone: Backbone, size: tuple[int, int] = (128, 192)) -> None:
    """Run the backbone on two black images of ``size`` (height, width) and its tail on two regions, and compare the outputs with
    the declaration. Runs on the backbone's device, "meta" included, in evaluation mode; changes nothing.

    Raises `UserError`, which is a ValueError, naming the first level that differs, its declared and its actual shape.

    >>> from boxwood.models.backbones import ResNetConfig
    >>> backbone = ResNetConfig(depth=18, weights=None).build()
    >>> check_backbone(backbone)
    >>> backbone.strides = (4, 8, 16, 16)
    >>> check_backbone(backbone)
    Traceback (most recent call last):
    boxwood.errors.UserError: ResNet: map 3 of 128x192 images is (2, 512, 4, 6); its declared channels, 512, and stride, 16, make it
    (2, 512, 8, 12)
    """
    name, channels, strides = type(backbone).__name__, tuple(backbone.channels), tuple(backbone.strides)
    if len(channels) != len(strides) or not channels:
        raise UserError(f"{name}: channels={channels}, strides={strides}; expected one of each for every map")
    if any(coarser not in (finer, 2 * finer) for finer, coarser in pairwise(strides)):
        raise UserError(f"{name}: strides={strides}; expected the finest first, each the same as or twice the one before")
    if any(side % strides[-1] for side in size):
        raise UserError(f"size={size}: expected multiples of the last stride, {strides[-1]}")
    parameter = next(backbone.parameters(), torch.empty(0))
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        maps = backbone(parameter.new_zeros(2, 3, *size))
        if not isinstance(maps, list | tuple) or len(maps) != len(strides):
            got = f"{len(maps)} maps" if isinstance(maps, list | tuple) else type(maps).__name__
            raise UserError(f"{name}: forward returns {got}, but channels and strides declare a list of {len(strides)} maps")
        for level, (features, width, stride) in enumerate(zip(maps, channels, strides, strict=True)):
            declared = (2, width, size[0] // stride, size[1] // stride)
            if tuple(features.shape) != declared:
                raise UserError(
                    f"{name}: map {level} of {size[0]}x{size[1]} images is {tuple(features.shape)}; "
                    f"its declared channels, {width}, and stride, {stride}, make it {declared}"
                )
        _check_tail(backbone, parameter)
    finally:
        for module, training in modes.items():
            module.training = training


def _check_tail(backbone: Backbone, parameter: Tensor) -> None:
    name, width, side = type(backbone).__name__, backbone.tail_channels, backbone.tail_resolution
    if (backbone.tail is None) != (width is None) or (width is None) != (side is None):
        raise UserError(
            f"{name}: {'no tail' if backbone.tail is None else 'a tail'}, tail_channels={width}, tail_resolution={side}; "
            "expected all three or none"
        )
    if backbone.tail is None or side is None:
        return
    regions = parameter.new_zeros(2, backbone.channels[-1], side, side)
    features = backbone.tail(regions)
    if features.ndim != 4 or tuple(features.shape[:2]) != (2, width):
        raise UserError(
            f"{name}: the tail makes {tuple(features.shape)} of {tuple(regions.shape)}, but tail_channels={width} declares "
            f"(2, {width}, P, P)"
        )
