"""torchvision's networks made comparable: random weights that give detections, photographs, anchors at the true strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.transforms.v2.functional import resize

from boxwood.data.images import read_image
from boxwood.structures import Batch, Categories, Target
from tests.facts import FACTS

PHOTOS = sorted((FACTS / "photos").glob("*.jpg"))
CLASSES = Categories(tuple(range(1, 91)), tuple(f"class{i}" for i in range(1, 91)))


def photos(size: tuple[int, int]) -> list[Tensor]:
    """Three photographs, (3, H, W) uint8."""
    return [resize(read_image(path), list(size), antialias=True) for path in PHOTOS]


def batch_of(image: Tensor, targets: tuple[Target, ...] | None = None) -> Batch:
    height, width = image.shape[-2:]
    return Batch(image[None], torch.tensor([[height, width]]), ((height, width),), seeds=(0,), targets=targets)


@torch.no_grad()
def randomize_norms(network: nn.Module) -> None:
    """Random norms with which the maps of a deep network neither vanish nor explode."""
    for name, norm in network.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.fill_(0.2 if name.endswith("bn3") else 1.0)
            norm.bias.normal_(0, 0.1)
            norm.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            norm.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]


@torch.no_grad()
def randomize_predictor(network: nn.Module, layer: Any, std: float, run: Callable[[], Any]) -> None:
    """Random weights for a predictor, with which its outputs have the standard deviation ``std`` when ``run`` runs the network."""
    outputs: list[Tensor] = []
    layer.weight.normal_(0, 0.01)
    handle = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output.flatten()))
    run()
    handle.remove()
    layer.weight.mul_(std / torch.cat(outputs).std())


class ExactAnchors(AnchorGenerator):
    """torchvision's anchors at the true strides. For torchvision the stride of a coarse map is the image's height over the map's
    rows, rounded down: 800 // 13 = 61 instead of 64."""

    def __init__(self, like: AnchorGenerator, finest: int) -> None:
        super().__init__(like.sizes, like.aspect_ratios)
        self.finest = finest

    def forward(self, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
        strides = [[torch.tensor(self.finest * 2**level)] * 2 for level in range(len(feature_maps))]
        self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
        anchors = self.grid_anchors([[*features.shape[-2:]] for features in feature_maps], strides)
        return [torch.cat(anchors)] * len(image_list.image_sizes)
