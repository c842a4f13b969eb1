"""Norms that fit their layers; ImageNet weights that are present, absent, damaged or misnamed."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models

from boxwood.errors import UserError
from boxwood.models.backbones import MobileNetV2Config, ResNetConfig
from boxwood.models.backbones.backbone import imagenet_weights, make_norm


@pytest.mark.parametrize("channels", [8, 24, 33, 100])
def test_group_norm_names_the_channels_that_do_not_divide(channels: int) -> None:
    with pytest.raises(UserError, match=f"norm=gn: a layer of {channels} channels cannot be divided into 32 groups") as error:
        make_norm("gn", channels)
    assert "\n" not in str(error.value)


def test_group_norm_of_channels_that_divide() -> None:
    norm: Any = make_norm("gn", 96)
    assert norm(torch.rand(2, 96, 3, 3)).shape == (2, 96, 3, 3)
    with pytest.raises(UserError, match="a layer of 16 channels"):  # MobileNetV2 has one
        MobileNetV2Config(norm="gn", weights=None).build()


@pytest.mark.parametrize(
    ("config", "nearest"),
    [
        (ResNetConfig(depth=18, weights="IMAGENET1K_V2"), "ResNet18_Weights (did you mean 'IMAGENET1K_V1'?)"),
        (ResNetConfig(depth=50, weights="IMAGENET1KV2"), "ResNet50_Weights (did you mean 'IMAGENET1K_V2'?)"),
        (MobileNetV2Config(weights="imagenet"), "MobileNet_V2_Weights (known: IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT)"),
    ],
)
def test_an_unknown_name_of_weights(config: Any, nearest: str) -> None:
    with pytest.raises(UserError) as error:
        config.build()
    assert str(error.value) == f"model.backbone.weights={config.weights}: not among torchvision's {nearest}"


@pytest.mark.parametrize("reason", ["absent", "damaged"])
def test_weights_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    folder = tmp_path / "hub" / "checkpoints"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    member = torchvision.models.ResNet18_Weights.IMAGENET1K_V1

    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", no_network)
    if reason == "damaged":
        folder.mkdir(parents=True)
        (folder / "resnet18-f37072fd.pth").write_bytes(b"cut short")
    with pytest.raises(UserError) as error:
        imagenet_weights(torchvision.models.ResNet18_Weights, "IMAGENET1K_V1")
    text = str(error.value)
    assert "\n" not in text
    for words in ("resnet18-f37072fd.pth", str(folder), member.url, "model.backbone.weights=null"):
        assert words in text


def test_weights_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that torchvision would download, made here: its values are loaded under our names."""
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(theirs, folder / "resnet18-f37072fd.pth")
    ours = ResNetConfig(depth=18).build().state_dict()
    assert torch.equal(ours["layer4.1.conv2.conv.weight"], theirs["layer4.1.conv2.weight"])
    assert torch.equal(ours["conv1.norm.running_var"], theirs["bn1.running_var"])
