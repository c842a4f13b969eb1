"""timm's networks as backbones."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from boxwood.config import from_tree, to_tree
from boxwood.errors import UserError
from boxwood.models.backbones import BackboneConfig, TimmConfig, check_backbone
from tests.models.test_backbones import IMAGE
from tests.models.test_resnets import assert_all_have_gradients, assert_equal

timm: Any = pytest.importorskip("timm", reason="needs the extra boxwood[timm]")
TIMM = tuple(map(int, timm.__version__.split(".")[:3]))


def backbone_of(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    return TimmConfig(name=name, weights=None, **settings).build()


@pytest.mark.parametrize(
    ("name", "strides", "channels"),
    [
        ("resnet18", (4, 8, 16, 32), (64, 128, 256, 512)),  # it has a map of stride 2, which is left out
        ("mobilenetv3_small_050.lamb_in1k", (4, 8, 16, 32), (8, 16, 24, 288)),
        ("convnext_atto", (4, 8, 16, 32), (40, 80, 160, 320)),
        ("swin_tiny_patch4_window7_224", (4, 8, 16, 32), (96, 192, 384, 768)),  # channels last, made for one size
        ("vit_tiny_patch16_224", (16,), (192,)),  # three maps of one stride, made for one size
    ],
)
def test_maps_are_timms(name: str, strides: tuple[int, ...], channels: tuple[int, ...]) -> None:
    backbone = backbone_of(name).train()
    assert (backbone.strides, backbone.channels, backbone.tail) == (strides, channels, None)
    check_backbone(backbone)
    assert_all_have_gradients(backbone, backbone(torch.cat([IMAGE, IMAGE.flip(3)])))
    assert from_tree(BackboneConfig, to_tree(TimmConfig(name=name))) == TimmConfig(name=name)


def test_maps_are_those_of_the_classifier() -> None:
    """The features of timm's whole ResNet-18, layer by layer, with the same weights and random batch norms."""
    network = timm.create_model("resnet18").eval()
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
                norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    backbone = backbone_of("resnet18").eval()
    backbone.network.load_state_dict(network.state_dict(), strict=False)
    with torch.no_grad():
        x, expected = network.maxpool(network.act1(network.bn1(network.conv1(IMAGE)))), []
        for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
            x = layer(x)
            expected.append(x)
        assert_equal(backbone(IMAGE), expected)


def test_batch_norms_are_frozen_or_not() -> None:
    frozen, free = backbone_of("resnet18").train(), backbone_of("resnet18", frozen_bn=False).train()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    assert len([module for module in frozen.modules() if "FrozenBatchNorm" in type(module).__name__]) == 20
    assert any(isinstance(module, nn.BatchNorm2d) for module in free.modules())
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in free.modules())
    statistics = {name: value.clone() for name, value in free.state_dict().items() if "running" in name}
    check_backbone(free)  # changes neither the statistics nor the mode
    assert all(torch.equal(value, statistics[name]) for name, value in free.state_dict().items() if "running" in name)
    assert all(module.training for module in free.modules())


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"name": "resnet18x"}, "model.backbone.name=resnet18x: timm has no network 'resnet18x' (did you mean 'resnet18'?)"),
        ({"name": "resnet18.a1_in2k"}, "timm has no weights 'a1_in2k' of resnet18 (did you mean 'a1_in1k'?)"),
        ({"name": "botnet50ts_256", "weights": "pretrained"}, "timm publishes no weights of it; set model.backbone.weights=null"),
        pytest.param(
            {"name": "crossvit_9_240"},
            "timm's network has maps of strides [12, 17]; a backbone needs some of 4, 8, 16, 32",
            marks=pytest.mark.skipif(TIMM < (1, 0, 20), reason="this timm cannot show the maps of crossvit"),
        ),
        ({"name": "mixer_s32_224"}, "not a backbone for images of any size: Input height (128) doesn't match model (224)."),
    ],
)
def test_unusable_networks_are_refused(settings: Any, line: str) -> None:
    with pytest.raises(UserError) as error:
        TimmConfig(**{"weights": None, **settings}).build()
    assert line in str(error.value) and "\n" not in str(error.value)


def test_without_an_internet_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **options: Any) -> None:
        raise FileNotFoundError("we cannot find the requested files\nin the local cache")

    monkeypatch.setattr("timm.create_model", unreachable)
    with pytest.raises(
        UserError,
        match=r"name=resnet18: .* cannot be downloaded \(we .* files in the local cache\); set model.backbone.weights=null",
    ):
        TimmConfig(name="resnet18").build()


def test_pixels_of_another_scale_give_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    create = timm.create_model
    monkeypatch.setattr("timm.create_model", lambda *arguments, **options: create(*arguments, **{**options, "pretrained": False}))
    with caplog.at_level(logging.WARNING):
        TimmConfig(name="resnet18.a1_in1k").build()
        assert not caplog.records
        TimmConfig(name="mobilenetv3_small_100.lamb_in1k").build()
        assert not caplog.records
        TimmConfig(name="efficientnet_lite0.ra_in1k").build()
        TimmConfig(name="tf_mobilenetv3_small_075.in1k").build()
    assert all("model.pixel_mean=[127.5, 127.5, 127.5] model.pixel_std=[127.5, 127.5, 127.5]" in r.message for r in caplog.records)
    assert caplog.records


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"kind=timm: timm is not installed; pip install 'boxwood\[timm\]'"):
        TimmConfig(name="resnet18").build()
