"""Bodies against torchvision's networks with the same weights; norms, frozen stages, channels and strides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision.models
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from boxwood.config import from_tree, to_tree
from boxwood.errors import UserError
from boxwood.models.backbones import (
    Backbone,
    BackboneConfig,
    ConvNorm,
    MobileNetV2Config,
    ResNetConfig,
    TimmConfig,
    VGG16Config,
    VGGCNNM1024Config,
    check_backbone,
)
from boxwood.models.backbones.resnet import from_torchvision
from boxwood.models.backbones.vgg import from_torchvision as vgg_from_torchvision

IMAGE = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
LAYERS = ("layer1", "layer2", "layer3", "layer4")


@torch.no_grad()
def with_random_norms(network: nn.Module) -> nn.Module:
    """Statistics and scales as a trained network has them: none of them 0 or 1."""
    torch.manual_seed(7)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return network.eval()


def torchvisions_maps(network: Any, image: Tensor) -> list[Tensor]:
    x, maps = network.maxpool(network.relu(network.bn1(network.conv1(image)))), []
    for name in LAYERS:
        x = getattr(network, name)(x)
        maps.append(x)
    return maps


def fused(backbone: Backbone) -> Backbone:
    for module in backbone.modules():
        if isinstance(module, ConvNorm):
            module.fuse()
    return backbone


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet18", {"depth": 18, "norm": "bn"}),
        ("resnet18", {"depth": 18}),
        ("resnet34", {"depth": 34}),
        ("resnet50", {"depth": 50}),
        ("resnet101", {"depth": 101}),
        ("resnet152", {"depth": 152}),
        ("resnext50_32x4d", {"depth": 50, "groups": 32, "width_per_group": 4}),
        ("resnext101_32x8d", {"depth": 101, "groups": 32, "width_per_group": 8}),
        ("resnext101_64x4d", {"depth": 101, "groups": 64, "width_per_group": 4}),
    ],
)
def test_resnet_is_torchvisions(name: str, settings: Any) -> None:
    network = with_random_norms(torchvision.models.get_model(name, weights=None))
    ours = ResNetConfig(**{"norm": "frozen_bn", "frozen_stages": 0, "weights": None, **settings}).build().eval()
    ours.load_state_dict(from_torchvision(network.state_dict()))
    with torch.no_grad():
        expected = torchvisions_maps(network, IMAGE)
        for maps in (ours(IMAGE), fused(ours)(IMAGE)):
            for level, reference in zip(maps, expected, strict=True):
                scale = float(reference.abs().max())
                torch.testing.assert_close(level / scale, reference / scale, rtol=0, atol=1e-5)
    norms_left = [module for module in ours.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert not norms_left


@pytest.mark.parametrize("depth", [18, 50, 101, 152])
def test_resnet_has_torchvisions_tensors(depth: Any) -> None:
    with torch.device("meta"):
        theirs = from_torchvision(torchvision.models.get_model(f"resnet{depth}", weights=None).state_dict())
        ours = ResNetConfig(depth=depth, norm="bn", frozen_stages=0, weights=None).build().state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


def test_where_a_bottleneck_strides() -> None:
    strides = {}
    for where in ("1x1", "3x3"):
        with torch.device("meta"):
            block: Any = ResNetConfig(stride_in=where, weights=None).build().layer2[0]
        strides[where] = [block.conv1.conv.stride[0], block.conv2.conv.stride[0], block.downsample.conv.stride[0]]
    assert strides == {"1x1": [2, 1, 2], "3x3": [1, 2, 2]}


def test_striding_in_the_1x1_looks_at_every_second_pixel() -> None:
    """The first convolution of a stage then never sees the others, which a change of them shows."""
    torch.manual_seed(0)
    ours: Any = ResNetConfig(stride_in="1x1", frozen_stages=0, weights=None).build().eval()
    x = torch.randn(1, 256, 8, 8)
    other = x.clone()
    other[..., 1::2, :] += 1
    other[..., :, 1::2] += 1
    with torch.no_grad():
        torch.testing.assert_close(ours.layer2[0](x), ours.layer2[0](other))
        assert not torch.equal(ours.layer1(x[:, :64]), ours.layer1(other[:, :64]))


@pytest.mark.parametrize("norm", ["frozen_bn", "bn", "gn"])
def test_norms_build_and_learn(norm: Any) -> None:
    torch.manual_seed(0)
    ours = ResNetConfig(depth=18, width=32, norm=norm, frozen_stages=0, weights=None).build().train()
    kinds = {"frozen_bn": FrozenBatchNorm2d, "bn": nn.BatchNorm2d, "gn": nn.GroupNorm}
    assert {type(module.norm) for module in ours.modules() if isinstance(module, ConvNorm)} == {kinds[norm]}
    torch.stack([level.square().mean() for level in ours(IMAGE)]).sum().backward()
    gradients = [parameter.grad for parameter in ours.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() and gradient.any() for gradient in gradients)


@pytest.mark.parametrize("norm", ["bn", "gn", "frozen_bn"])
@pytest.mark.parametrize("frozen", [0, 1, 2, 5])
def test_frozen_stages_stay_as_they_are(norm: Any, frozen: Any) -> None:
    torch.manual_seed(0)
    ours = ResNetConfig(depth=18, width=32, norm=norm, frozen_stages=frozen, weights=None).build().train()
    stages = ["conv1", *LAYERS]
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    loss = torch.stack([level.square().mean() for level in ours(IMAGE)]).sum()
    if frozen < 5:
        loss.backward()
    for index, stage in enumerate(stages):
        parameters = list(getattr(ours, stage).parameters())
        assert parameters
        for parameter in parameters:
            assert parameter.requires_grad == (index >= frozen)
            assert (parameter.grad is not None) == (index >= frozen)
        statistics = [name for name in before if name.startswith(f"{stage}.") and name.endswith("running_mean")]
        moved = any(not torch.equal(before[name], ours.state_dict()[name]) for name in statistics)
        assert moved == (norm == "bn" and index >= frozen)
    assert not loss.requires_grad or frozen < 5


@pytest.mark.parametrize("norm", ["frozen_bn", "bn"])
def test_mobilenet_is_torchvisions(norm: Any) -> None:
    network: Any = with_random_norms(torchvision.models.mobilenet_v2(weights=None))
    ours = MobileNetV2Config(norm=norm, weights=None).build().eval()
    names = list(ours.state_dict())
    theirs = {name: value for name, value in network.features.state_dict().items() if "num_batches" not in name or norm == "bn"}
    # The order of the tensors is the same, the names are not: a convolution and its norm are one module here.
    assert [tuple(value.shape) for value in theirs.values()] == [tuple(value.shape) for value in ours.state_dict().values()]
    ours.load_state_dict(dict(zip(names, theirs.values(), strict=True)))
    with torch.no_grad():
        expected, x = [], IMAGE
        for index, block in enumerate(network.features):
            x = block(x)
            if index in (3, 6, 13, 18):
                expected.append(x)
        for maps in (ours(IMAGE), fused(ours)(IMAGE)):
            for level, reference in zip(maps, expected, strict=True):
                scale = float(reference.abs().max())
                torch.testing.assert_close(level / scale, reference / scale, rtol=0, atol=1e-5)
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in ours.modules())


@pytest.mark.parametrize(
    "config",
    [
        ResNetConfig(depth=18, weights=None),
        ResNetConfig(depth=18, width=32, weights=None),
        ResNetConfig(depth=50, weights=None),
        ResNetConfig(depth=50, stride_in="1x1", weights=None),
        MobileNetV2Config(weights=None),
    ],
    ids=lambda config: (
        f"{config.kind()}{getattr(config, 'depth', '')}{getattr(config, 'width', '')}{getattr(config, 'stride_in', '')}"
    ),
)
def test_channels_and_strides_are_as_declared(config: BackboneConfig) -> None:
    with torch.device("meta"):
        backbone = config.build()
        maps = backbone(torch.zeros(2, 3, 96, 160))
    expected = [(2, channels, 96 // s, 160 // s) for channels, s in zip(backbone.channels, backbone.strides, strict=True)]
    assert [tuple(level.shape) for level in maps] == expected
    assert [second / first for first, second in zip(backbone.strides, backbone.strides[1:])] == [2, 2, 2]
    assert from_tree(BackboneConfig, to_tree(config)) == config


def test_folding_a_norm_into_a_convolution_with_bias() -> None:
    torch.manual_seed(0)
    norm = FrozenBatchNorm2d(4)
    norm.load_state_dict(
        {"weight": torch.rand(4) + 0.5, "bias": torch.randn(4), "running_mean": torch.randn(4), "running_var": torch.rand(4) + 0.5}
    )
    layer = ConvNorm(nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=True), norm).eval()
    with torch.no_grad():
        expected = norm(layer.conv(IMAGE))
        torch.testing.assert_close(layer(IMAGE), expected, rtol=1e-5, atol=1e-5)
        layer.fuse()
        torch.testing.assert_close(layer.conv(IMAGE), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer(IMAGE), expected, rtol=1e-5, atol=1e-5)


# -------------------------------------------------------------------------------------------------- stages beyond the plain


def test_a_dilated_stage_sees_what_a_strided_one_would() -> None:
    """torchvision's last stage with its strides removed and all its 3x3 convolutions dilated by 2."""
    network: Any = with_random_norms(torchvision.models.resnet50(weights=None))
    ours = ResNetConfig(depth=50, frozen_stages=0, weights=None, last_stage="dilated").build().eval()
    ours.load_state_dict(from_torchvision(network.state_dict()))
    for module in network.layer4.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (2, 2)
    assert ours.strides == (4, 8, 16, 16)
    with torch.no_grad():
        for level, reference in zip(ours(IMAGE), torchvisions_maps(network, IMAGE), strict=True):
            scale = float(reference.abs().max())
            torch.testing.assert_close(level / scale, reference / scale, rtol=0, atol=1e-5)
    check_backbone(ours)


def test_the_last_stage_as_the_tail() -> None:
    network: Any = with_random_norms(torchvision.models.resnet50(weights=None))
    ours = ResNetConfig(depth=50, frozen_stages=0, weights=None, last_stage="tail").build().eval()
    ours.load_state_dict(from_torchvision(network.state_dict()))
    assert (ours.channels, ours.strides, ours.tail_channels) == ((256, 512, 1024), (4, 8, 16), 2048)
    regions = torch.randn(3, 1024, 14, 14, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert len(ours(IMAGE)) == 3
        features, expected = ours.tail(regions), network.layer4(regions)
    assert features.shape == (3, 2048, 7, 7)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    check_backbone(ours, tail_resolution=14)


def test_resnext_152_has_as_many_weights_as_by_hand() -> None:
    config = ResNetConfig(depth=152, groups=32, width_per_group=8, weights=None)
    with torch.device("meta"):
        body = config.build()
    expected = 3 * 64 * 49
    channels = 64
    for width, blocks in zip((256, 512, 1024, 2048), (3, 8, 36, 3), strict=True):
        for block in range(blocks):
            expected += channels * width + width * (width // 32) * 9 + width * width  # the block's output is as wide as its inside
            if block == 0:
                expected += channels * width
            channels = width
    assert sum(module.weight.numel() for module in body.modules() if isinstance(module, nn.Conv2d)) == expected
    assert config.title == "ResNeXt-152-32x8d"
    with pytest.raises(UserError, match=r"torchvision has none of a ResNeXt-152-32x8d"):
        ResNetConfig(depth=152, groups=32, width_per_group=8).build()


# ------------------------------------------------------------------------------------------------------------------- VGG


def test_vgg16_is_torchvisions() -> None:
    torch.manual_seed(0)
    network: Any = torchvision.models.vgg16(weights=None).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.bias, std=0.1)
    ours = VGG16Config(weights=None).build().eval()
    ours.load_state_dict(vgg_from_torchvision(network.state_dict()))
    taps, x = [], IMAGE
    with torch.no_grad():
        for index, layer in enumerate(network.features):
            x = layer(x)
            if index in (15, 22, 29):  # behind the ReLU of conv3_3, conv4_3, conv5_3
                taps.append(x)
        for level, reference in zip(ours(IMAGE), taps, strict=True):
            torch.testing.assert_close(level, reference, rtol=1e-4, atol=1e-5 * float(reference.abs().max()))
        regions = torch.randn(2, 512, 7, 7, generator=torch.Generator().manual_seed(1))
        expected = network.classifier[:6](regions.flatten(1))
        torch.testing.assert_close(ours.tail(regions)[:, :, 0, 0], expected, rtol=1e-4, atol=1e-5)
    check_backbone(ours, tail_resolution=7)
    frozen = {name.split(".")[1] for name, value in ours.named_parameters() if not value.requires_grad}
    assert frozen == {"0", "1"}


def test_vgg_cnn_m_1024() -> None:
    torch.manual_seed(0)
    ours = VGGCNNM1024Config().build().eval()
    with torch.no_grad():
        (features,) = ours(torch.randn(1, 3, 224, 224))
        # By hand: 224 -> 109 -> 54 -> 25 -> 12.
        assert features.shape == (1, 512, 12, 12)
        assert ours.tail(torch.randn(2, 512, 6, 6)).shape == (2, 1024, 1, 1)
        x = torch.rand(1, 9, 2, 2) * 20
        expected = torch.empty_like(x)
        for channel in range(9):
            around = x[:, max(channel - 2, 0) : channel + 3]
            expected[:, channel] = x[:, channel] / (2 + 5e-4 / 5 * (around**2).sum(dim=1)) ** 0.75
        torch.testing.assert_close(ours.norm(x), expected)
    assert [name for name, value in ours.named_parameters() if not value.requires_grad] == ["conv1.weight", "conv1.bias"]


# ------------------------------------------------------------------------------------------------------------------ timm


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "mobilenetv3_small_050"])
def test_bodies_of_timm(name: str) -> None:
    body = TimmConfig(name=name, weights=None).build()
    check_backbone(body)
    assert body.strides == (4, 8, 16, 32)


def test_what_timm_does_not_have() -> None:
    with pytest.raises(UserError, match=r"convnext_tinny: timm has no such body.*convnext_tiny"):
        TimmConfig(name="convnext_tinny", weights=None).build()


# --------------------------------------------------------------------------------------------------------- wrong declarations


def test_a_wrong_declaration_is_told() -> None:
    body = ResNetConfig(depth=18, width=32, norm="gn", frozen_stages=0, weights=None).build()
    body.strides, body.channels = (4, 8, 16, 16), (32, 64, 128, 300)
    with pytest.raises(ValueError, match=r"map 3: \(1, 300, 8, 12\) by its channels and stride 16, but returns \(1, 256, 4, 6\)"):
        check_backbone(body)
    body.channels, body.strides = (32, 64, 128, 256), (4, 8, 16)
    with pytest.raises(ValueError, match="declares 4 channels and 3 strides, and returns 4 maps"):
        check_backbone(body)
