"""VGG: the backbones before ResNet. VGG-16 (Simonyan and Zisserman, 2014, table 1, column D), on which Fast and Faster R-CNN were
built, and VGG_CNN_M_1024 (Chatfield et al., Return of the Devil in the Details, 2014), the small one of those papers.

Both have two fully connected layers behind the last map, fc6 and fc7, that work on the features of single regions: their tail.
Neither paper's dropout is here, as in Detectron.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.models.backbones.backbone import Backbone, conv_relu, imagenet_weights
from boxwood.models.backbones.config import VGG16Config, VGGCNNM1024Config

__all__ = ["VGG16", "VGGCNNM1024"]


class VGG16(Backbone):
    """The backbone. ``forward`` returns three maps of strides 4, 8, 16; the tail maps (R, 512, 7, 7) to (R, 4096, 1, 1)."""

    channels = (256, 512, 512)
    strides = (4, 8, 16)

    def __init__(self, config: VGG16Config) -> None:
        super().__init__()
        self.conv1 = _stage(3, 64, 2)
        self.conv2 = _stage(64, 128, 2)
        self.conv3 = _stage(128, 256, 3)
        self.conv4 = _stage(256, 512, 3)
        self.conv5 = _stage(512, 512, 3)
        if config.fully_connected:
            self.tail_channels, self.tail_resolution = 4096, 7
            self.fc6 = _linear(512 * 7 * 7, 4096)
            self.fc7 = _linear(4096, 4096)
        if config.weights is not None:
            import torchvision.models

            published = from_torchvision(imagenet_weights(torchvision.models.VGG16_Weights, config.weights))
            self.load_state_dict({name: published[name] for name in self.state_dict()})
        for stage in self._stages()[: config.frozen_stages]:
            stage.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = images, []
        for index, stage in enumerate(self._stages()):
            if index > 0:
                x = F.max_pool2d(x, 2)
            for conv in stage:
                x = conv_relu(conv, x)
            if index >= 2:
                maps.append(x)
        return maps

    @property
    def tail(self) -> nn.Module | None:
        """fc6 and fc7, each followed by ReLU."""
        return None if self.tail_channels is None else _fully_connected(self.fc6, self.fc7)

    def _stages(self) -> list[nn.Sequential]:
        return [self.conv1, self.conv2, self.conv3, self.conv4, self.conv5]


class VGGCNNM1024(Backbone):
    """The backbone. ``forward`` returns one map; the tail takes (R, 512, 6, 6) and returns (R, 1024, 1, 1).

    The map's stride is 16, but its grid is not that of the other backbones: nothing is padded before conv3, so that (H, W),
    multiples of 16, become (H / 16 - 2, W / 16 - 2) cells, and cell (i, j) sees the input around pixel (16 i + 21, 16 j + 21).
    Anchors and RoIAlign take it for (16 i, 16 j), as they did in Detectron; the heads learn the shift.
    """

    channels = (512,)
    strides = (16,)
    tail_channels = 1024
    tail_resolution = 6

    def __init__(self, config: VGGCNNM1024Config) -> None:
        super().__init__()
        self.conv1 = _conv(3, 96, 7, stride=2, padding=0)
        self.conv2 = _conv(96, 256, 5, stride=2, padding=0)
        self.conv3 = _conv(256, 512, 3)
        self.conv4 = _conv(512, 512, 3)
        self.conv5 = _conv(512, 512, 3)
        self.fc6 = _linear(512 * 6 * 6, 4096)
        self.fc7 = _linear(4096, 1024)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5)[: config.frozen_stages]:
            conv.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = images
        for conv in (self.conv1, self.conv2):
            x = conv_relu(conv, x)
            x = F.local_response_norm(x, size=5, alpha=5e-4, beta=0.75, k=2.0)  # alpha is divided by size, as Caffe2 does
            x = F.max_pool2d(x, 3, stride=2)
        for conv in (self.conv3, self.conv4, self.conv5):
            x = conv_relu(conv, x)
        return [x]

    @property
    def tail(self) -> nn.Module | None:
        """fc6 and fc7, each followed by ReLU."""
        return _fully_connected(self.fc6, self.fc7)


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of torchvision's VGG-16 under our names; its last layer, the classes, is left out."""
    convolutions = [f"conv{stage}.{i}" for stage, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(count)]
    theirs = sorted({int(name.split(".")[1]) for name in state if name.startswith("features.")})
    names = {f"features.{index}": name for index, name in zip(theirs, convolutions, strict=True)}
    names |= {"classifier.0": "fc6", "classifier.3": "fc7"}
    renamed = {}
    for name, value in state.items():
        layer, _, leaf = name.rpartition(".")
        if layer in names:
            renamed[f"{names[layer]}.{leaf}"] = value
    return renamed


def _stage(channels_in: int, channels_out: int, num_convs: int) -> nn.Sequential:
    """Convolutions only: ``forward`` puts a ReLU behind each and a pooling between the stages."""
    widths = [channels_in] + [channels_out] * num_convs
    return nn.Sequential(*(_conv(first, second, 3) for first, second in pairwise(widths)))


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1, padding: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has one
    return conv


def _linear(channels_in: int, channels_out: int) -> nn.Linear:
    """Detectron's XavierFill is the uniform He initialisation with a = 1."""
    linear = nn.Linear(channels_in, channels_out)
    nn.init.kaiming_uniform_(linear.weight, a=1)
    nn.init.zeros_(linear.bias)
    return linear


def _fully_connected(*layers: nn.Linear) -> nn.Sequential:
    """(R, C, P, P) -> (R, channels of the last layer, 1, 1). The layers stay their owner's, under their names."""
    parts: list[nn.Module] = [nn.Flatten()]
    for layer in layers:
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*parts, nn.Unflatten(1, (-1, 1, 1)))
