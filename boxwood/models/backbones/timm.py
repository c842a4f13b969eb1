"""Any body of the library timm that can return its features: ConvNeXt, EfficientNet, RegNet, and some hundreds more."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from boxwood.config import did_you_mean
from boxwood.errors import UserError
from boxwood.models.backbones.backbone import Backbone, BackboneConfig

__all__ = ["Timm", "TimmConfig"]


class TimmConfig(BackboneConfig):
    """A body of timm that returns its maps of strides 4 to 32. Needs the extra ``boxwood[timm]``.

    timm's weights expect the mean and the deviation of the pixels that timm names; those of ImageNet are the default here too.
    """

    short_kind: ClassVar[str] = "timm"

    name: str
    """As timm knows it, such as ``convnext_tiny``."""
    weights: str | None = "default"
    """``default`` are those that timm has for the name; None starts from random weights."""

    @property
    def title(self) -> str:
        return self.name

    def build(self) -> Timm:
        return Timm(self)


class Timm(Backbone):
    """The body. ``forward`` returns the maps of strides 4 and coarser, at most 32."""

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        try:
            import timm
        except ImportError:
            raise UserError("a body of timm needs the library timm: pip install 'boxwood[timm]'") from None
        known = timm.list_models()
        if config.name.partition(".")[0] not in known:
            raise UserError(f"model.backbone.name={config.name}: timm has no such body{did_you_mean(config.name, known)}")
        if config.weights not in (None, "default"):
            raise UserError(
                f"model.backbone.weights={config.weights}: must be default or null; timm names weights in {config.name}.TAG"
            )
        try:
            self.network: Any = timm.create_model(config.name, pretrained=config.weights is not None, features_only=True)
        except (RuntimeError, AttributeError) as error:
            raise UserError(f"model.backbone.name={config.name}: timm cannot return its features ({_line(error)})") from None
        except OSError as error:
            raise UserError(
                f"model.backbone.name={config.name}: its weights are not on this machine and cannot be had ({_line(error)}); "
                "train from random weights with model.backbone.weights=null"
            ) from None
        facts: Any = self.network.feature_info
        strides, channels = facts.reduction(), facts.channels()
        self.taps = tuple(index for index, stride in enumerate(strides) if 4 <= stride <= 32)
        self.strides = tuple(strides[index] for index in self.taps)
        self.channels = tuple(channels[index] for index in self.taps)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.network(images)
        return [maps[index] for index in self.taps]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
