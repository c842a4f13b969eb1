"""The configurations of the backbones; ``build`` imports the network, so that a configuration is read without torch."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from boxwood.config import Component, Config

if TYPE_CHECKING:
    from boxwood.models.backbones.backbone import Backbone
    from boxwood.models.backbones.mobilenet import MobileNetV2
    from boxwood.models.backbones.resnet import ResNet
    from boxwood.models.backbones.timm_backbone import TimmBackbone
    from boxwood.models.backbones.vgg import VGG16, VGGCNNM1024

__all__ = [
    "BackboneConfig",
    "Cells",
    "Layers",
    "MobileNetV2Config",
    "NonLocalConfig",
    "NonLocalStagesConfig",
    "Norm",
    "ResNetConfig",
    "TimmConfig",
    "VGG16Config",
    "VGGCNNM1024Config",
    "Width",
]


Norm = Literal["frozen_bn", "bn", "sync_bn", "gn"]
"""Frozen batch norm (its statistics and scales fixed, as in Detectron), batch norm over one or all processes, group norm of 32
groups."""


# Far more than any network has. Weights files hold a configuration, and nobody should be kept busy for hours by building it.
Width = Annotated[int, Field(ge=1, le=16_384)]
"""A number of channels."""
Layers = Annotated[int, Field(ge=0, le=100)]
Cells = Annotated[int, Field(ge=1, le=256)]
"""The side of a grid over a region."""


Positions = Annotated[tuple[Annotated[int, Field(ge=-36, le=36)], ...], Field(max_length=37)]
"""Between the residual blocks of a stage, of which no ResNet has more than 36."""


class BackboneConfig(Component):
    """Base of every backbone's configuration."""

    @property
    def title(self) -> str:
        """Its usual name: ResNet-50."""
        return type(self).__name__.removesuffix("Config")

    @property
    def title_alone(self) -> str:
        """The same with the name of its last map, for a detector that reads no other: ResNet-50-C4."""
        return self.title

    @abstractmethod
    def build(self) -> Backbone:
        """The backbone, with pretrained weights where the configuration names them."""


class NonLocalConfig(Config):
    """A non-local block (Wang et al., 2018), which starts as the identity; formulas are in `boxwood.models.backbones.non_local`."""

    pairwise: Literal["embedded_gaussian", "gaussian", "dot_product"] = "embedded_gaussian"
    """The weight of one position in the output of another: a softmax of products of two projections, a softmax of products of the
    features themselves, or products of two projections divided by the number of positions."""
    scale: bool = True
    """Divide the products ahead of the softmax by the square root of their number of channels, as the authors' released code does;
    the paper's formula does not."""
    pool: Literal["behind", "ahead"] | None = "behind"
    """Halve the resolution of the positions that are read, by 2x2 max pooling: behind the projections (the paper), ahead of them
    (the authors' released code), or not at all."""
    norm: Literal["bn", "sync_bn", "gn", "scale"] = "gn"
    """Behind the last convolution: a normalisation whose scale starts at 0, or (``scale``) a learnt scale per channel alone that
    starts at 0."""

    @field_validator("norm", mode="before")
    @classmethod
    def _refuse_frozen(cls, norm: Any) -> Any:
        if norm == "frozen_bn":
            raise ValueError(
                "is frozen_bn, whose scale would stay 0, so that the block would never learn; choose sync_bn, bn, gn or scale"
            )
        return norm


class NonLocalStagesConfig(NonLocalConfig):
    """Non-local blocks in the stages of a ResNet: by default the paper's one, before the last residual block of res4.

    Positions are those of ``list.insert``: 0 is before the stage's first residual block, -1 before its last, and the number of its
    residual blocks behind its last. The blocks are trained also where ``frozen_stages`` freezes their stage.
    """

    norm: Literal["bn", "sync_bn", "gn", "scale"] = "sync_bn"
    res3: Positions = ()
    """Positions in layer2 (stride 8)."""
    res4: Positions = (-1,)
    """Positions in layer3 (stride 16)."""
    res5: Positions = ()
    """Positions in layer4."""


class ResNetConfig(BackboneConfig):
    """A ResNet or ResNeXt backbone that returns layer1 .. layer4, or layer1 .. layer3 with layer4 as its tail.

    ResNeXt-101 32x8d is ``depth=101, groups=32, width_per_group=8``.
    """

    short_kind: ClassVar[str] = "resnet"

    depth: Literal[18, 34, 50, 101, 152] = 50
    width: Width = 64
    """Channels of the stem; the stages have 1, 2, 4 and 8 times as many inside their blocks. 64 in the paper and in all weights."""
    groups: Width = 1
    """Into how many the 3x3 convolutions of bottlenecks are divided: ResNeXt's cardinality."""
    width_per_group: Width = 64
    """Channels of a group in layer1's 3x3 convolutions, for a ``width`` of 64."""
    norm: Norm = "frozen_bn"
    stride_in: Literal["1x1", "3x3"] = "3x3"
    """Which convolution of a bottleneck strides: 3x3 in torchvision's weights, 1x1 in the paper and in MSRA's weights."""
    last_stage: Literal["map", "dilated", "tail"] = "map"
    """The use of layer4: the map of stride 32; a map of stride 16, of which every second cell is that of stride 32, since the
    3x3 convolutions behind the one that no longer strides are dilated by 2 (R-FCN, section 2); or the tail, run on single regions
    (the C4 of Mask R-CNN, section 3)."""
    frozen_stages: Literal[0, 1, 2, 3, 4, 5] = 2
    """How many stages are not trained: 0 none, 1 the stem, 2 the stem and layer1 (Detectron's FREEZE_AT 2), ... 5 all."""
    weights: str | None = "IMAGENET1K_V1"
    """A member of torchvision's weights enum for this network; None starts from random weights."""
    non_local: NonLocalStagesConfig | None = None
    """Non-local blocks between the residual blocks; None for none."""

    @property
    def title(self) -> str:
        """ResNet-50, or ResNeXt-101-32x8d."""
        return f"ResNet-{self.depth}" if self.groups == 1 else f"ResNeXt-{self.depth}-{self.groups}x{self.width_per_group}d"

    @property
    def title_alone(self) -> str:
        return self.title + {"map": "-C5", "dilated": "-C5-dilated", "tail": "-C4"}[self.last_stage]

    def build(self) -> ResNet:
        from boxwood.models.backbones.resnet import ResNet

        return ResNet(self)


class MobileNetV2Config(BackboneConfig):
    """A MobileNetV2 backbone that returns the last map of each stride from 4 to 32."""

    short_kind: ClassVar[str] = "mobilenet_v2"

    norm: Norm = "frozen_bn"
    dilated: bool = False
    """The last map has stride 16 instead of 32: the last strided convolution takes every pixel, and the 3x3 convolutions behind it
    are dilated by 2 (for R-FCN). Every second of its pixels is a pixel of the strided map."""
    weights: str | None = "IMAGENET1K_V1"
    """A member of torchvision's `MobileNet_V2_Weights`; None starts from random weights."""

    @property
    def title(self) -> str:
        return "MobileNetV2"

    def build(self) -> MobileNetV2:
        from boxwood.models.backbones.mobilenet import MobileNetV2

        return MobileNetV2(self)


class VGG16Config(BackboneConfig):
    """A VGG-16 backbone that returns conv3_3, conv4_3 and conv5_3, with fc6 and fc7 as its tail."""

    short_kind: ClassVar[str] = "vgg16"

    fully_connected: bool = True
    """Whether there are fc6 and fc7, 120 million weights that a pyramid over the maps would not use."""
    frozen_stages: Literal[0, 1, 2, 3, 4, 5] = 2
    """How many stages are not trained: 0 none, 2 conv1_* and conv2_* (as in Detectron), 5 all convolutions. The tail is trained."""
    weights: Literal["IMAGENET1K_V1"] | None = "IMAGENET1K_V1"
    """The member of torchvision's `VGG16_Weights` that was trained with the other backbones' pixel mean and deviation; None starts
    from random weights."""

    @property
    def title(self) -> str:
        return "VGG16"

    def build(self) -> VGG16:
        from boxwood.models.backbones.vgg import VGG16

        return VGG16(self)


class VGGCNNM1024Config(BackboneConfig):
    """A VGG_CNN_M_1024 backbone that returns conv5, with fc6 and fc7 as its tail. Nobody publishes weights for PyTorch."""

    short_kind: ClassVar[str] = "vgg_cnn_m_1024"

    frozen_stages: Literal[0, 1, 2, 3, 4, 5] = 1
    """How many convolutions are not trained: 0 none, 1 conv1 (as in Detectron), ... 5 all. The tail is trained."""

    @property
    def title(self) -> str:
        return "VGG-CNN-M-1024"

    def build(self) -> VGGCNNM1024:
        from boxwood.models.backbones.vgg import VGGCNNM1024

        return VGGCNNM1024(self)


class TimmConfig(BackboneConfig):
    """A network of timm as a backbone that returns its last map of each stride from 4 to 32, as far as it has them."""

    short_kind: ClassVar[str] = "timm"

    name: str
    """As timm calls it, with or without the name of its weights: ``convnext_tiny``, ``resnet50.a1_in1k``."""
    frozen_bn: bool = True
    """Whether batch norms keep their statistics and scales, which batches of few images would spoil. Other norms are trained."""
    weights: Literal["pretrained"] | None = "pretrained"
    """The weights that timm publishes under this name; None starts from random weights."""

    @property
    def title(self) -> str:
        return self.name

    def build(self) -> TimmBackbone:
        from boxwood.models.backbones.timm_backbone import TimmBackbone

        return TimmBackbone(self)
