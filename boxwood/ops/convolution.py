"""Convolutions as each device computes them fastest. The results are PyTorch's up to rounding.

A CPU, 3x3 convolutions of stride 1 (`conv3x3`): the output of a large map, and the gradient of its input, by Winograd's algorithm.
The weight gradient by PyTorch's convolution; without AVX-512 oneDNN takes two to four times as long for it in channels_last memory
as in contiguous memory, so that there it is computed from contiguous copies.

A GPU, convolutions with a ReLU behind them (`fused_conv_relu`): cuDNN adds the bias and the shortcut and takes the ReLU while it
writes the output; otherwise they are two or three passes over the map.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwood.ops.winograd import winograd_conv2d

__all__ = ["conv3x3", "fused_conv_relu", "fuses_relu"]

Pair = tuple[int, ...]
"""Of numbers for rows and columns."""

FEWEST_CHANNELS = 128
"""With fewer Winograd's algorithm is not faster."""

FEWEST_CELLS = 900
"""Of a map: with fewer a weight gradient from copies is not faster."""


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution of stride 1 and padding 1: (B, C, H, W), (O, C, 3, 3), (O,) -> (B, O, H, W)."""
    is_plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not is_plain or torch.compiler.is_compiling() or not (_winograd_gains(x, weight) or _copies_gain(x)):
        return F.conv2d(x, weight, bias, 1, 1)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        output: Tensor = _Convolution.apply(x, weight, bias)
        return output
    return _convolution(x, weight, bias)


def _winograd_gains(x: Tensor, weight: Tensor) -> bool:
    """Whether its transforms, of which that of the weights is one, cost less than is gained."""
    tiles = x.shape[0] * -(-x.shape[2] // 4) * -(-x.shape[3] // 4)
    return min(weight.shape[:2]) >= FEWEST_CHANNELS and tiles >= max(weight.shape[:2])


def _copies_gain(x: Tensor) -> bool:
    is_slow = torch.backends.cpu.get_cpu_capability() == "AVX2" and not x.is_contiguous()
    return is_slow and x.shape[2] * x.shape[3] >= FEWEST_CELLS


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return winograd_conv2d(x, weight, bias) if _winograd_gains(x, weight) else F.conv2d(x, weight, bias, 1, 1)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        return _convolution(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_input, *of_weights = ctx.needs_input_grad
        # The convolution of the gradient with the weights turned by 180 degrees, channels in and out exchanged.
        input_gradient = _convolution(gradient, weight.flip(2, 3).transpose(0, 1), None) if of_input else None
        if not any(of_weights):
            return input_gradient, None, None
        if _copies_gain(x):
            gradient, x, weight = gradient.contiguous(), x.contiguous(), weight.contiguous()
        geometry = [1, 1], [1, 1], [1, 1], False, [0, 0], 1  # stride, padding, dilation, transposed, output padding, groups
        gradients = torch.ops.aten.convolution_backward(gradient, x, weight, ctx.bias_sizes, *geometry, [False, *of_weights])
        return input_gradient, gradients[1], gradients[2]


def fuses_relu(x: Tensor) -> bool:
    """Whether `fused_conv_relu` takes this map: a GPU has cuDNN, and no graph is being compiled, whose compiler fuses by itself."""
    return x.is_cuda and torch.version.hip is None and torch.backends.cudnn.enabled and not torch.compiler.is_compiling()


def fused_conv_relu(
    x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """ReLU of a convolution plus ``shortcut`` (B, O, H', W') on a GPU: (B, C, H, W), (O, C, h, w), (O,) -> (B, O, H', W')."""
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
        shortcut = None if shortcut is None else shortcut.to(dtype)
    tensors = (x, weight, bias) if shortcut is None else (x, weight, bias, shortcut)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        output: Tensor = _ConvReLU.apply(x, weight, bias, shortcut, stride, padding, dilation)
        return output
    return _cudnn_conv_relu(x, weight, bias, shortcut, stride, padding, dilation)


def _cudnn_conv_relu(
    x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    if shortcut is None:
        return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, 1)
    return torch.cudnn_convolution_add_relu(x, weight, shortcut, 1.0, bias, stride, padding, dilation, 1)


class _ConvReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
    ) -> Tensor:
        output = _cudnn_conv_relu(x, weight, bias, shortcut, stride, padding, dilation)
        ctx.save_for_backward(x, weight, output)
        ctx.geometry = stride, padding, dilation, False, (0, 0), 1  # transposed, output padding, groups
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, output = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, output, 0)
        *of_tensors, of_shortcut = ctx.needs_input_grad[:4]
        gradients = (None, None, None)
        if any(of_tensors):
            sizes = [weight.shape[0]]
            gradients = torch.ops.aten.convolution_backward(gradient, x, weight, sizes, *ctx.geometry, of_tensors)
        return (*gradients, gradient if of_shortcut else None, None, None, None)
