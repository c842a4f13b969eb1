"""The configurations of DensePose R-CNN's heads; ``build`` imports the network, so that a configuration is read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from boxwood.models.backbones.config import Cells, Layers, NonLocalConfig, Width
from boxwood.models.heads.config import RoIHeadConfig

if TYPE_CHECKING:
    from boxwood.models.heads.head import RoIHead
    from boxwood.models.tasks.dense_pose import DensePoseTask

__all__ = ["ConvDensePoseHeadConfig", "DeepLabDensePoseHeadConfig", "DensePoseHeadConfig"]

Weight = Annotated[float, Field(ge=0, le=1e6)]


class DensePoseHeadConfig(RoIHeadConfig):
    """Base of the heads whose output becomes maps of body parts and of surface coordinates, four times as fine as the head's
    output. The defaults are detectron2's improved models."""

    resolution: Cells = 28
    decoder: bool = True
    """Add up all levels of the pyramid into one map, as Panoptic FPN does, and read regions of every size from it; False: each
    region from the level of its size, as in the paper."""
    coarse: Literal[2, 15] = 2
    """Channels of the segmentation that decides where a person is: background and body, or background and 14 coarse parts."""
    parts: Annotated[int, Field(ge=1, le=200)] = 24
    """Charts of the surface, without the background."""
    confidence: Literal["iid_iso", "indep_aniso"] | None = None
    """Predict the error of U and V: one variance for both (WC1), or also its direction (WC2)."""
    segmentation_confidence: bool = False
    """Predict a factor of the logits of each segmentation (M)."""
    coarse_weight: Weight = 5.0
    fine_weight: Weight = 1.0
    uv_weight: Weight = 0.01
    coarse_from_masks: bool = False
    """The coarse segmentation learns from the instances' masks, also of those without dense pose."""

    @model_validator(mode="after")
    def _check_coarse(self) -> Self:
        if self.coarse_from_masks and self.coarse != 2:
            raise ValueError(f"coarse_from_masks: masks tell body from background, which are 2 channels; coarse is {self.coarse}")
        return self

    def task(self) -> DensePoseTask:
        """The task that this head serves."""
        from boxwood.models.tasks.dense_pose import DensePoseTask

        return DensePoseTask(head=self)


class ConvDensePoseHeadConfig(DensePoseHeadConfig):
    """A stack of 3x3 convolutions (Güler et al., DensePose, 2018, section 3.2)."""

    short_kind: ClassVar[str] = "conv_dense_pose"

    convs: Layers = 8
    width: Width = 512

    def build(self, channels: int) -> RoIHead:
        from boxwood.models.heads.dense_pose import ConvDensePoseHead

        return ConvDensePoseHead(self, channels)


class DeepLabDensePoseHeadConfig(DensePoseHeadConfig):
    """Dilated convolutions side by side (DeepLab's ASPP), then 3x3 convolutions with group norm, as detectron2's DL models."""

    short_kind: ClassVar[str] = "deeplab_dense_pose"

    convs: Layers = 8
    width: Width = 512
    dilations: Annotated[tuple[Annotated[int, Field(ge=1, le=256)], ...], Field(max_length=20)] = (6, 12, 56)
    non_local: NonLocalConfig | None = None
    """A non-local block behind the dilated convolutions; None for none, as in all published models."""

    def build(self, channels: int) -> RoIHead:
        from boxwood.models.heads.dense_pose import DeepLabDensePoseHead

        return DeepLabDensePoseHead(self, channels)
