"""The configurations of R-CNN's heads; ``build`` imports the network, so that a configuration is read without torch."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from boxwood.config import Component
from boxwood.models.backbones.config import Cells, Layers, NonLocalConfig, Norm, Width

if TYPE_CHECKING:
    from boxwood.models.heads.head import RoIHead
    from boxwood.models.tasks.mask import MaskTask

__all__ = [
    "AverageHeadConfig",
    "BoxHeadConfig",
    "ConvFCHeadConfig",
    "ConvKeypointHeadConfig",
    "ConvMaskHeadConfig",
    "KeypointHeadConfig",
    "MaskHeadConfig",
    "MaskXHeadConfig",
    "RoIHeadConfig",
    "TwoFCHeadConfig",
]


class RoIHeadConfig(Component):
    """Base of every head's configuration. Derive from `BoxHeadConfig`, `MaskHeadConfig` or `KeypointHeadConfig`."""

    resolution: Cells
    """P, cells a side of the features that are pooled from an RoI."""
    source: Literal["maps", "tail", "own_tail"] = "maps"
    """The head's input: the pooled features; the output of the backbone's tail (Detectron's C4: res5) on them, shared by all heads
    with this source; or that of a copy of the tail, which this head alone trains."""

    @abstractmethod
    def build(self, channels: int) -> RoIHead:
        """A head for features of ``channels`` channels."""


class BoxHeadConfig(RoIHeadConfig):
    """Base of the heads whose output is classified and regressed."""

    resolution: Cells = 7


class AverageHeadConfig(BoxHeadConfig):
    """The mean over the cells, behind a backbone's tail (ResNet, 2015, figure 3; R-CNN on C4).

    The tail decides the resolution: 14 for a ResNet's res5, 7 for VGG16's fully connected layers, 6 for VGG-CNN-M-1024's.
    """

    short_kind: ClassVar[str] = "average"

    resolution: Cells = 14
    source: Literal["maps", "tail", "own_tail"] = "tail"

    def build(self, channels: int) -> RoIHead:
        from boxwood.models.heads.box import AverageHead

        return AverageHead(channels)


class TwoFCHeadConfig(BoxHeadConfig):
    """Two fully connected layers (FPN, section 4.2)."""

    short_kind: ClassVar[str] = "two_fc"

    width: Width = 1024

    def build(self, channels: int) -> RoIHead:
        from boxwood.models.heads.box import TwoFCHead

        return TwoFCHead(channels * self.resolution**2, self.width)


class ConvFCHeadConfig(BoxHeadConfig):
    """3x3 convolutions and one fully connected layer, the head for training from scratch (Wu and He, 2018, section 5.2)."""

    short_kind: ClassVar[str] = "conv_fc"

    convs: Layers = 4
    conv_width: Width = 256
    width: Width = 1024
    norm: Norm | None = "gn"
    """After each convolution, which then has no bias; None for convolutions with bias alone."""

    def build(self, channels: int) -> RoIHead:
        from boxwood.models.heads.box import ConvFCHead

        return ConvFCHead(self, channels)


class MaskHeadConfig(RoIHeadConfig):
    """Base of the heads whose output becomes a mask per RoI and class; the head decides M."""

    resolution: Cells = 14
    binary_mask_targets: bool | None = None
    """Mask targets are 0 or 1 (Detectron), not the covered share of a cell; None: as ``geometry`` implies."""

    @property
    def title(self) -> str:
        """In the network's title: Mask (R-CNN)."""
        return "Mask"

    def task(self) -> MaskTask:
        """The task that this head serves."""
        from boxwood.models.tasks.mask import MaskTask

        return MaskTask(head=self)

    detectron1_rules: ClassVar[dict[str, Any]] = {"binary_mask_targets": True}
    continuous_rules: ClassVar[dict[str, Any]] = {"binary_mask_targets": False}


class ConvMaskHeadConfig(MaskHeadConfig):
    """A stack of 3x3 convolutions and a deconvolution that doubles the resolution (Mask R-CNN, figure 4).

    Detectron's names: v1up4convs is this, v1up has 2 convolutions; v0upshare has none and reads the ``tail``, v0up its
    ``own_tail``.
    """

    short_kind: ClassVar[str] = "conv_mask"

    convs: Layers = 4
    width: Width = 256
    norm: Norm | None = None
    """After each 3x3 convolution, which then has no bias; None for convolutions with bias alone."""

    def build(self, channels: int) -> RoIHead:
        from boxwood.models.heads.mask import ConvMaskHead

        return ConvMaskHead(self, channels)


class MaskXHeadConfig(ConvMaskHeadConfig):
    """A mask head whose last layer is predicted for each class from the weights that detect it (Hu et al., Learning to Segment
    Every Thing, 2018), so that classes without masks in training have masks too; the network is then called Mask^X R-CNN.

    With ``inputs`` null it is the paper's baseline: one mask for all classes.
    """

    short_kind: ClassVar[str] = "mask_x"

    inputs: Literal["cls", "box", "cls+box"] | None = "cls+box"
    """The weights of a class from which its kernel is predicted: of its logit, of its box deltas, or both."""
    layers: Literal[1, 2, 3] = 2
    """Fully connected layers of the transfer function, as wide as the head's output."""
    negative_slope: float = Field(0.1, ge=0, le=1)
    """Of the LeakyReLU between them; 0 is a ReLU."""
    mlp_branch: bool = True
    """Add to every class's logits a mask that one fully connected layer predicts for all classes (section 3.4). It has width x M^4
    weights, M the side of a mask: 157 million of 256 channels and 28 x 28 cells."""
    stop_gradient: bool = True
    """The mask loss does not train the detector's weights through the transfer function. It would change those of classes with
    masks alone, and the function would then suit the others less (section 3.3)."""

    @property
    def title(self) -> str:
        return "class-agnostic Mask" if self.inputs is None else "Mask^X"

    def task(self) -> MaskTask:
        from boxwood.models.tasks.mask_x import MaskXTask

        return MaskXTask(head=self)


class KeypointHeadConfig(RoIHeadConfig):
    """Base of the heads whose output becomes a heatmap per RoI and keypoint, four times as fine as the head's output."""

    resolution: Cells = 14


class ConvKeypointHeadConfig(KeypointHeadConfig):
    """A stack of 3x3 convolutions (Mask R-CNN, section 5)."""

    short_kind: ClassVar[str] = "conv_keypoint"

    convs: Layers = 8
    width: Width = 512
    non_local: NonLocalConfig | None = None
    """A non-local block after every second convolution (Wang et al., 2018); None for none."""

    @model_validator(mode="after")
    def _check_non_local(self) -> Self:
        if self.non_local is None:
            return self
        if self.non_local.norm in ("bn", "sync_bn"):
            raise ValueError(
                f"non_local.norm={self.non_local.norm}: statistics over regions would contain those that only fill up a batch; "
                "choose gn or scale"
            )
        if self.convs < 2:
            raise ValueError(f"convs={self.convs}: a non-local block stands after every second convolution, so there would be none")
        return self

    def build(self, channels: int) -> RoIHead:
        from boxwood.models.heads.keypoint import ConvKeypointHead

        return ConvKeypointHead(self, channels)
