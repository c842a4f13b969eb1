"""Convolution layers that take `boxwood.ops.convolution.conv3x3` where it fits."""

from __future__ import annotations

from torch import Tensor, nn

from boxwood.ops.convolution import conv3x3

__all__ = ["Conv3x3", "is_3x3", "replace_convolutions"]


class Conv3x3(nn.Conv2d):
    """A layer with the tensors and settings of ``conv``, for which `is_3x3` is true."""

    def __init__(self, conv: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(conv.__dict__)

    def forward(self, input: Tensor) -> Tensor:
        return conv3x3(input, self.weight, self.bias)


def is_3x3(conv: nn.Conv2d) -> bool:
    """Whether `conv3x3` computes it: stride, padding, dilation and groups are 1."""
    geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode
    return geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


def replace_convolutions(model: nn.Module) -> None:
    """Make every `torch.nn.Conv2d` that is 3x3 a `Conv3x3`, in place; names in the state dict stay.

    Convolutions of other classes, such as those of a user, are left as they are.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and is_3x3(child):
                setattr(module, name, Conv3x3(child))
