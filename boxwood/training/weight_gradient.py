"""Weight gradients of 3x3 convolutions on a CPU without AVX-512.

There oneDNN computes the weight gradient of a large map in channels_last memory two to four times slower than in contiguous
memory, while the output and the gradient of the input are as fast or faster. The weight gradient alone is computed from contiguous
copies: the same sum, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["copied_weight_gradients"]

FEWEST_CELLS = 900
"""Of a map: with fewer the copies gain nothing (measured with 64 to 512 channels; see docs/benchmarks.md)."""


def copied_weight_gradients(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, the convolutions of a forward pass get the faster weight gradient where there is one."""
    is_slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return _CopiedWeightGradients() if is_slow else nullcontext()


class _CopiedWeightGradients(TorchFunctionMode):
    """Replaces `torch.conv2d`, whichever module calls it."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (_conv2d if func is torch.conv2d else func)(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Tensor:
    """`torch.conv2d`, whose parameters these are."""
    gains = (
        torch.is_grad_enabled()
        and weight.requires_grad
        and not torch.is_autocast_enabled("cpu")
        and weight.shape[-2:] == (3, 3)
        and (stride, padding, dilation, groups) == ((1, 1), (1, 1), (1, 1), 1)
        and input.shape[-2] * input.shape[-1] >= FEWEST_CELLS
        and not input.is_contiguous()
    )
    if gains:
        output: Tensor = _Convolution.apply(input, weight, bias)
        return output
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


class _Convolution(torch.autograd.Function):
    """3x3, stride 1, padding 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        return torch.conv2d(x, weight, bias, 1, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors

        def backward(gradient: Tensor, x: Tensor, weight: Tensor, *needed: bool) -> Any:
            geometry = [1, 1], [1, 1], [1, 1], False, [0, 0], 1  # stride, padding, dilation, transposed, output padding, groups
            return torch.ops.aten.convolution_backward(gradient, x, weight, ctx.bias_sizes, *geometry, needed)

        of_input, of_weight, of_bias = ctx.needs_input_grad
        x_gradient = backward(gradient, x, weight, True, False, False)[0] if of_input else None
        copies = gradient.contiguous(), x.contiguous(), weight.contiguous()
        _, weight_gradient, bias_gradient = backward(*copies, False, of_weight, of_bias)
        return x_gradient, weight_gradient, bias_gradient
