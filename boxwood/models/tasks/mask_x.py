"""Mask^X R-CNN (Hu, Dollar, He, Darrell and Girshick, Learning to Segment Every Thing, 2018): masks also of classes that have none
in training.

    the weights that detect a class -> transfer function -> the class's kernel       (C, D) -> (C, W)
    features of a RoI -> 1x1 convolution with the kernels -> a mask of every class   (R, W, M, M) -> (R, C, M, M)
                      -> one fully connected layer -> a mask that is added to all    (R, W, M, M) -> (R, 1, M, M)

The transfer function and both branches learn from classes with masks, and apply to the others, whose boxes are learnt as ever.
Letters: R RoIs of the batch in one row, C classes, D numbers of a class, W channels of the head's output, M the side of a mask.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.models.config import RCNNConfig
from boxwood.models.detector import Network
from boxwood.models.heads import MaskXHeadConfig
from boxwood.models.heads.head import msra_fill
from boxwood.models.tasks.mask import MaskTask
from boxwood.structures import Categories

__all__ = ["MaskXTask", "TransferFunction", "detector_weights"]

ONE_CLASS = Categories((1,), ("any",))


class MaskXTask(MaskTask):
    """A mask of each class, by a kernel that is predicted from the class's weights in the box head; without ``head.inputs`` one
    mask for all classes."""

    short_kind: ClassVar[str] = "mask_x"
    title: ClassVar[str] = "Mask^X"

    head: MaskXHeadConfig = MaskXHeadConfig()

    def modules(self, network: Network, channels: int) -> dict[str, nn.Module]:
        head, modules = self.head, dict[str, nn.Module]()
        if head.inputs is None:
            modules |= self.predictors(channels, ONE_CLASS)
        else:
            _check_box_head(network, head.inputs)
            num_inputs = detector_weights(network, head.inputs).shape[1]
            modules["mask_transfer"] = TransferFunction(num_inputs, channels, head.layers, head.negative_slope)
        if head.mlp_branch:
            side = head.resolution * (2 if head.source == "maps" else 1)  # a tail halves it, the head's deconvolution doubles it
            modules["mask_mlp"] = nn.Linear(channels * side**2, side**2)
            nn.init.normal_(modules["mask_mlp"].weight, std=0.001)  # type: ignore[arg-type]  # a linear layer's
            nn.init.zeros_(modules["mask_mlp"].bias)  # type: ignore[arg-type]
        return modules

    def kernels(self, network: Network) -> Tensor:
        """The predicted kernel of each class (C, W)."""
        assert self.head.inputs is not None
        weights = detector_weights(network, self.head.inputs)
        kernels: Tensor = network.get_submodule("mask_transfer")(weights.detach() if self.head.stop_gradient else weights)
        return kernels

    def logits(self, network: Network, features: Tensor) -> Tensor:
        """-> (R, C, M, M)."""
        features = network.get_submodule("mask_head")(features)
        if "mask_transfer" in network._modules:
            logits = F.conv2d(features, self.kernels(network)[:, :, None, None])
        else:
            logits = network.get_submodule("mask_logits")(features)
        if self.head.mlp_branch:
            logits = logits + network.get_submodule("mask_mlp")(features.flatten(1)).view(-1, 1, *logits.shape[2:])
        return logits.expand(-1, len(network.categories), -1, -1)

    @torch.no_grad()
    def fuse(self, network: Network) -> None:
        """Put an ordinary convolution with the predicted kernels, ``mask_logits``, in place of the transfer function."""
        if "mask_transfer" not in network._modules:
            return
        kernels = self.kernels(network)[:, :, None, None].contiguous()
        layer = nn.Conv2d(kernels.shape[1], kernels.shape[0], 1, bias=False, device=kernels.device)
        layer.weight = nn.Parameter(kernels, requires_grad=False)
        del network.mask_transfer
        network.add_module("mask_logits", layer)


class TransferFunction(nn.Module):
    """Fully connected layers with LeakyReLU between them, from the weights that detect a class to the kernel of its mask (section
    3.2)."""

    def __init__(self, num_inputs: int, width: int, num_layers: int, negative_slope: float) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.layers = nn.ModuleList(nn.Linear(width if index else num_inputs, width) for index in range(num_layers))
        for layer in self.layers:
            msra_fill(layer)

    def forward(self, weights: Tensor) -> Tensor:
        """(C, D) -> (C, W)."""
        *hidden, last = self.layers
        for layer in hidden:
            weights = F.leaky_relu(layer(weights), self.negative_slope)
        kernels: Tensor = last(weights)
        return kernels


def detector_weights(network: Network, inputs: str) -> Tensor:
    """The weights (C, D) of the box head's last layers, class by class: ``cls`` those of its logit, ``box`` those of its dx, dy, dw
    and dh, ``cls+box`` both. Biases and the background are left out.
    """
    num_classes = len(network.categories)
    weights = {
        "cls": network.get_parameter("class_logits.weight")[:num_classes],
        "box": network.get_parameter("box_deltas.weight").reshape(num_classes, -1),
    }
    return torch.cat([weights[name] for name in inputs.split("+")], dim=1)


def _check_box_head(network: Network, inputs: str) -> None:
    """Raise `UserError` where the box head has no weights of each class."""
    config = getattr(network, "config", None)
    if "box" in inputs and isinstance(config, RCNNConfig) and config.rois.class_agnostic:
        raise UserError(
            f"model.mask_head.inputs={inputs}: reads the box deltas' weights of each class, and model.rois.class_agnostic=true has "
            "one set for all; set it to false, or inputs to cls"
        )
    logits, num_classes = network.get_parameter("class_logits.weight").shape[0], len(network.categories)
    if logits != num_classes + 1:
        raise UserError(
            f"model.mask_head.inputs={inputs}: reads the weights of a softmax over {num_classes} classes and the background, and "
            f"class_logits has {logits} outputs, as a sigmoid for each class has; take a softmax, or set inputs to null"
        )
