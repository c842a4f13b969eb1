"""Any network of timm (Wightman, PyTorch Image Models) that returns its maps. Needs the extra ``boxwood[timm]``."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from boxwood.config import did_you_mean
from boxwood.errors import UserError
from boxwood.models.backbones.backbone import Backbone
from boxwood.models.backbones.check import check_backbone
from boxwood.models.backbones.config import TimmConfig

__all__ = ["TimmBackbone"]

logger = logging.getLogger(__name__)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TimmBackbone(Backbone):
    """The backbone. Its channels and strides are timm's; they are compared with the maps when it is built."""

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        timm = _timm()
        published = _published(timm, config)
        network: Any = _create(timm, config, published.fixed_input_size)
        last = {stride: index for index, stride in enumerate(network.feature_info.reduction()) if 4 <= stride <= 32}
        if not last or any(stride & (stride - 1) for stride in last):
            raise UserError(
                f"model.backbone.name={config.name}: timm's network has maps of strides {network.feature_info.reduction()}; "
                "a backbone needs some of 4, 8, 16, 32"
            )
        self.taps = tuple(last.values())
        self.strides = tuple(last)
        self.channels = tuple(network.feature_info.channels()[index] for index in self.taps)
        self.channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        if config.frozen_bn:
            if config.weights is None:
                _open(network)
            network = timm.layers.freeze_batch_norm_2d(network)
        self.network = network
        try:
            check_backbone(self)
        except (AssertionError, RuntimeError, UserError) as error:
            raise UserError(f"model.backbone.name={config.name}: not a backbone for images of any size: {_line(error)}") from None

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.network(images)
        return [maps[index].permute(0, 3, 1, 2) if self.channels_last else maps[index] for index in self.taps]


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError:
        raise UserError("kind=timm: timm is not installed; pip install 'boxwood[timm]'") from None
    return timm


def _published(timm: Any, config: TimmConfig) -> Any:
    """timm's configuration of the network and its weights. Raises `UserError` where there is no such name, or no such weights."""
    architecture, _, tag = config.name.partition(".")
    known = timm.list_models()
    if architecture not in known:
        raise UserError(
            f"model.backbone.name={config.name}: timm has no network {architecture!r}{did_you_mean(architecture, known)}"
        )
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UserError(
            f"model.backbone.name={config.name}: timm has no weights {tag!r} of {architecture}{did_you_mean(tag, tags)}"
        )
    if config.weights is not None and not timm.is_model_pretrained(config.name):
        raise UserError(f"model.backbone.name={config.name}: timm publishes no weights of it; set model.backbone.weights=null")
    published = timm.get_pretrained_cfg(config.name)
    if config.weights is not None and (tuple(published.mean), tuple(published.std)) != (IMAGENET_MEAN, IMAGENET_STD):
        logger.warning(
            "%s was trained with pixels of another scale: set model.pixel_mean=%s model.pixel_std=%s",
            config.name,
            [round(255 * value, 3) for value in published.mean],
            [round(255 * value, 3) for value in published.std],
        )
    return published


def _create(timm: Any, config: TimmConfig, fixed_size: bool) -> Any:
    # Options with which a transformer that was trained for one size takes others: Swin's, ViT's, or none.
    options: list[dict[str, bool]] = [{"strict_img_size": False}, {"dynamic_img_size": True}] if fixed_size else []
    for option in [*options, {}]:
        try:
            return timm.create_model(config.name, pretrained=config.weights is not None, features_only=True, **option)
        except TypeError:
            if not option:
                raise
        except OSError as error:  # no connection
            raise UserError(
                f"model.backbone.name={config.name}: the weights are not in the cache of the Hugging Face hub and cannot be "
                f"downloaded ({_line(error)}); set model.backbone.weights=null to train from random weights"
            ) from None
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            raise UserError(f"model.backbone.name={config.name}: timm cannot show its maps ({_line(error)})") from None
    raise AssertionError


def _open(network: nn.Module) -> None:
    """timm initialises some scales with 0, for training to raise. A frozen one would disable its branch for good."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
