"""The interface of a backbone: a network that returns feature maps and declares their channels and strides.

A user-defined backbone is one class with these members and one `BackboneConfig` that builds it; see ``examples/own_backbone.py``.
"""

from __future__ import annotations

import logging
import pickle
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.config import did_you_mean
from boxwood.errors import UserError
from boxwood.models.backbones.config import Norm
from boxwood.models.convolution import Conv3x3
from boxwood.ops.convolution import conv3x3, fused_conv_relu, fuses_relu

__all__ = ["Backbone", "ConvNorm", "conv_relu", "freeze_tail", "imagenet_weights", "make_norm"]

logger = logging.getLogger(__name__)


GROUPS = 32
"""Of group norm (Wu and He, 2018, section 4)."""


FEWEST_CHANNELS = 16
"""With fewer input channels in channels_last memory, the backward pass of a strided 1x1 convolution on a CPU writes beyond its
memory (torch 2.14). Its stride is then taken ahead of it, which is the same."""


class Backbone(nn.Module):
    """Base of every backbone."""

    channels: tuple[int, ...]
    """Channels of each map that ``forward`` returns, finest first."""
    strides: tuple[int, ...]
    """Pixels of the input a cell of each map, finest first; each is twice the one before, or the same where a stage is dilated."""
    tail_channels: int | None = None
    """Channels that ``tail`` returns; None without a tail."""
    tail_resolution: int | None = None
    """Cells a side of a region's features as ``tail`` was made for them; None without a tail."""

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W), H and W multiples of the last stride -> maps (B, channels[i], H / strides[i], W /
        strides[i]). The tail is not run."""

    @property
    def tail(self) -> nn.Module | None:
        """The layers of the backbone's classifier behind its last map, run on the features of single regions: (R,
        channels[-1], P, P), P = ``tail_resolution`` -> (R, ``tail_channels``, P', P'). None where it has none.

        A backbone with a tail sets ``self.tail`` to a module, or overrides this to return a module of another name.
        """
        return self._modules.get("tail")


def freeze_tail(backbone: Backbone) -> None:
    """For a detector that does not run the backbone's tail: parameters without gradients would stop training on several GPUs."""
    if backbone.tail is not None:
        backbone.tail.requires_grad_(False)


class ConvNorm(nn.Module):
    """A convolution and its normalisation. A frozen batch norm costs nothing: its scale and shift go into the convolution.

    Scaling the weights instead of the map is the same sum (up to rounding) with two passes over memory less, in training too.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module) -> None:
        import torchvision.ops

        super().__init__()
        self.conv, self.norm, self.frozen = conv, norm, isinstance(norm, torchvision.ops.FrozenBatchNorm2d)
        self._constants: tuple[Any, ...] = ((),)
        self.step = 1
        if conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.in_channels < FEWEST_CHANNELS:
            self.step, conv.stride = conv.stride[0], (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.step == 1 else x[..., :: self.step, :: self.step]
        if not self.frozen:
            return self.norm(self.conv(x))  # type: ignore[no-any-return]  # calls of modules are untyped
        conv, (weight, bias) = self.conv, self.folded()
        if isinstance(conv, Conv3x3):
            return conv3x3(x, weight, bias)
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold a frozen norm into the convolution for good, for inference."""
        if self.frozen:
            weight, bias = self.folded()
            self.conv.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
            self.conv.bias = nn.Parameter(bias, requires_grad=False)
            self.norm, self.frozen = nn.Identity(), False

    def weights(self) -> tuple[Tensor, Tensor | None]:
        """The weight and bias of a convolution that does the same; the bias is None where none does."""
        if self.frozen:
            return self.folded()
        return self.conv.weight, self.conv.bias if isinstance(self.norm, nn.Identity) else None

    def folded(self) -> tuple[Tensor, Tensor]:
        """The weight and bias of the convolution that has the frozen norm in it."""
        norm: Any = self.norm
        buffers = norm.weight, norm.bias, norm.running_mean, norm.running_var
        if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or norm.weight.is_inference():
            scale, bias = _constants(*buffers, norm.eps)
        else:
            # Computed once, and again where a buffer has changed; tensors of inference mode have no version.
            key = [(id(buffer), buffer._version) for buffer in buffers]
            if self._constants[0] != key:
                self._constants = key, buffers, *_constants(*buffers, norm.eps)  # ids of buffers that are kept stay theirs
            scale, bias = self._constants[2:]
        if self.conv.bias is not None:
            bias = bias + self.conv.bias * scale
        return self.conv.weight * scale[:, None, None, None], bias


def conv_relu(layer: nn.Module, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """ReLU of ``layer(x)`` (B, C, H, W), plus ``shortcut`` of the same shape where it is given; on a GPU as one operator."""
    if fuses_relu(x) and (fused := _conv_relu_on_gpu(layer, x, shortcut)) is not None:
        return fused
    output: Tensor = layer(x)
    return F.relu(output if shortcut is None else output.add_(shortcut), inplace=True)


def _conv_relu_on_gpu(layer: nn.Module, x: Tensor, shortcut: Tensor | None) -> Tensor | None:
    """`conv_relu` of a convolution with a bias, or with a frozen norm; None of any other layer."""
    conv = layer.conv if isinstance(layer, ConvNorm) and layer.step == 1 else layer
    if type(conv) not in (nn.Conv2d, Conv3x3) or layer._forward_hooks or layer._forward_pre_hooks:  # they see more than the ReLU
        return None
    assert isinstance(conv, nn.Conv2d)
    weight, bias = layer.weights() if isinstance(layer, ConvNorm) else (conv.weight, conv.bias)
    if bias is None or conv.groups != 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return None
    return fused_conv_relu(x, weight, bias, shortcut, conv.stride, conv.padding, conv.dilation)


def _constants(weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """What a frozen batch norm multiplies by, and adds."""
    scale = weight * (variance + eps).rsqrt()
    return scale, bias - mean * scale


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """A normalisation layer for (B, ``channels``, H, W). Raises `UserError` where ``gn`` cannot divide the channels by 32."""
    import torchvision.ops

    layers = {"frozen_bn": torchvision.ops.FrozenBatchNorm2d, "bn": nn.BatchNorm2d, "sync_bn": nn.SyncBatchNorm}
    if kind != "gn":
        return layers[kind](channels)  # type: ignore[no-any-return]  # torchvision's operators are untyped
    if channels % GROUPS:
        raise UserError(
            f"norm=gn: a layer of {channels} channels cannot be divided into {GROUPS} groups; choose widths that are multiples of "
            f"{GROUPS}, or another norm"
        )
    return nn.GroupNorm(GROUPS, channels)


def imagenet_weights(members: Any, name: str) -> dict[str, Tensor]:
    """The state dict that torchvision publishes as the member ``name`` of one of its weights enums; downloaded where it is not in
    torch's cache.

    Raises `UserError` where there is no such member, or the file is neither in the cache nor can be downloaded.
    """
    if name not in members.__members__:
        raise UserError(
            f"model.backbone.weights={name}: not among torchvision's {members.__name__}{did_you_mean(name, members.__members__)}"
        )
    url = members[name].url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not path.exists():
        logger.info("%s is downloaded into %s", url, path.parent)
    try:
        return members[name].get_state_dict(progress=False, check_hash=True)  # type: ignore[no-any-return]
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:  # no connection, a damaged file
        raise UserError(
            f"{path.name}: the ImageNet weights are not in {path.parent} and cannot be downloaded from {url} ({_line(error)}); "
            "put the file there, or train from random weights with model.backbone.weights=null"
        ) from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
