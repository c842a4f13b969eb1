"""VGG16 (Simonyan and Zisserman, 2014) and VGG-CNN-M-1024 (Chatfield et al., 2014): the bodies of Fast R-CNN.

Their fully connected layers are the tail: run on the features of each region. As in Detectron there is no dropout.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
import torchvision.models
from torch import Tensor, nn

from boxwood.models.backbones.backbone import Backbone, BackboneConfig, imagenet_weights

__all__ = ["VGG16", "VGGCNNM1024", "VGG16Config", "VGGCNNM1024Config", "from_torchvision"]

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16Config(BackboneConfig):
    """A VGG16 body that returns the maps of conv3_3, conv4_3 and conv5_3; its tail is fc6 and fc7, for regions of 7 x 7 cells."""

    short_kind: ClassVar[str] = "vgg16"

    frozen_stages: Literal[0, 1, 2, 3, 4, 5] = 2
    """How many of the five stages of convolutions are not trained; Detectron freezes conv1_* and conv2_*."""
    weights: str | None = "IMAGENET1K_V1"
    """A member of torchvision's `VGG16_Weights`; None starts from random weights."""

    @property
    def title(self) -> str:
        return "VGG16"

    def build(self) -> VGG16:
        return VGG16(self)


class VGGCNNM1024Config(BackboneConfig):
    """A VGG-CNN-M-1024 body that returns the map of conv5; its tail is fc6 and fc7, for regions of 6 x 6 cells.

    torchvision has no weights of it. Its convolutions have no padding at first, so a cell is 16 pixels from the next, but the map
    is a little smaller than the image over 16, and shifted; Fast R-CNN takes no notice of that.
    """

    short_kind: ClassVar[str] = "vgg_cnn_m_1024"

    frozen_stages: Literal[0, 1, 2, 3, 4, 5] = 1
    """How many of the five convolutions are not trained; Detectron freezes conv1."""

    @property
    def title(self) -> str:
        return "VGG-CNN-M-1024"

    def build(self) -> VGGCNNM1024:
        return VGGCNNM1024(self)


class VGG16(Backbone):
    """The body. ``forward`` returns three maps of strides 4, 8, 16."""

    channels = (256, 512, 512)
    strides = (4, 8, 16)
    tail_channels = 4096

    def __init__(self, config: VGG16Config) -> None:
        super().__init__()
        stages, width = [], 3
        for channels in STAGES:
            convs = []
            for channel in channels:
                convs.append(_conv(width, channel, 3, padding=1))
                width = channel
            stages.append(nn.ModuleList(convs))
        self.stages = nn.ModuleList(stages)
        self.fc = _Connected(512 * 7 * 7, 4096, 4096)
        if config.weights is not None:
            self.load_state_dict(from_torchvision(imagenet_weights(torchvision.models.VGG16_Weights, config.weights)))
        for stage in stages[: config.frozen_stages]:
            stage.requires_grad_(False)

    @property
    def tail(self) -> nn.Module:
        return self.fc

    def forward(self, images: Tensor) -> list[Tensor]:
        maps, x = [], images
        for index, stage in enumerate(self.stages):
            if index > 0:
                x = F.max_pool2d(x, 2)
            assert isinstance(stage, nn.ModuleList)
            for conv in stage:
                x = F.relu(conv(x), inplace=True)
            maps.append(x)
        return maps[2:]


class VGGCNNM1024(Backbone):
    """The body. ``forward`` returns one map of stride 16."""

    channels = (512,)
    strides = (16,)
    tail_channels = 1024

    def __init__(self, config: VGGCNNM1024Config) -> None:
        super().__init__()
        self.conv1 = _conv(3, 96, 7, stride=2)
        self.conv2 = _conv(96, 256, 5, stride=2)
        self.conv3 = _conv(256, 512, 3, padding=1)
        self.conv4 = _conv(512, 512, 3, padding=1)
        self.conv5 = _conv(512, 512, 3, padding=1)
        # Krizhevsky et al. (2012), section 3.3, with k = 2 and n = 5.
        self.norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        self.fc = _Connected(512 * 6 * 6, 4096, 1024)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5)[: config.frozen_stages]:
            conv.requires_grad_(False)

    @property
    def tail(self) -> nn.Module:
        return self.fc

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.max_pool2d(self.norm(F.relu(self.conv1(images))), 3, stride=2)
        x = F.max_pool2d(self.norm(F.relu(self.conv2(x))), 3, stride=2)
        for conv in (self.conv3, self.conv4, self.conv5):
            x = F.relu(conv(x))
        return [x]


class _Connected(nn.Module):
    """fc6 and fc7 on the features of a region: (R, C, P, P) -> (R, channels, 1, 1)."""

    def __init__(self, num_inputs: int, width: int, channels: int) -> None:
        super().__init__()
        self.fc6 = nn.Linear(num_inputs, width)
        self.fc7 = nn.Linear(width, channels)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.fc7(F.relu(self.fc6(features.flatten(1)))))[:, :, None, None]


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of torchvision's VGG16 under our names; its last layer is left out.

    >>> list(from_torchvision({"features.2.bias": 0, "classifier.3.weight": 0, "classifier.6.bias": 0}))
    ['stages.0.1.bias', 'fc.fc7.weight']
    """
    names = {"classifier.0": "fc.fc6", "classifier.3": "fc.fc7"}
    position = 0
    for stage, channels in enumerate(STAGES):
        for conv in range(len(channels)):
            names[f"features.{position}"] = f"stages.{stage}.{conv}"
            position += 2  # a convolution and its ReLU
        position += 1  # the pooling
    renamed = {}
    for name, value in state.items():
        part, _, leaf = name.rpartition(".")
        if part in names:
            renamed[f"{names[part]}.{leaf}"] = value
    return renamed


def _conv(channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
