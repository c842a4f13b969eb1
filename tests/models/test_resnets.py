"""The ResNet family against torchvision's with the same weights: deep ones, ResNeXt, a dilated or detached last stage, GN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.models.backbones import Backbone, ConvNorm, MobileNetV2Config, ResNetConfig, check_backbone
from boxwood.models.backbones.resnet import from_torchvision
from tests.models.test_backbones import IMAGE, fused, torchvisions_maps, with_random_norms

NETWORKS = {
    "resnet50": {"depth": 50},
    "resnet101": {"depth": 101},
    "resnet152": {"depth": 152},
    "resnext50_32x4d": {"depth": 50, "groups": 32, "width_per_group": 4},
    "resnext101_32x8d": {"depth": 101, "groups": 32, "width_per_group": 8},
    "resnext101_64x4d": {"depth": 101, "groups": 64, "width_per_group": 4},
    "wide_resnet50_2": {"depth": 50, "width_per_group": 128},
}
LARGE = {"resnet101", "resnet152", "wide_resnet50_2", "resnext101_32x8d", "resnext101_64x4d"}


def peer(name: str) -> Any:
    torch.manual_seed(3)
    return with_random_norms(torchvision.models.get_model(name, weights=None))


def ours_with(network: nn.Module, **settings: Any) -> Any:
    """Our backbone with the network's tensors, in evaluation mode."""
    with torch.device("meta"):
        backbone = ResNetConfig(weights=None, **settings).build()
    backbone.load_state_dict(from_torchvision(network.state_dict()), assign=True)
    return backbone.eval()


def assert_equal(maps: list[Tensor], expected: list[Tensor]) -> None:
    for level, reference in zip(maps, expected, strict=True):
        scale = reference.abs().max()
        torch.testing.assert_close(level / scale, reference / scale, rtol=0, atol=1e-4)


def assert_all_have_gradients(backbone: Backbone, features: list[Tensor]) -> None:
    """A gradient reaches every parameter that is not frozen, and no other."""
    torch.stack([level.square().mean() for level in features]).sum().backward()
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.any() and parameter.grad.isfinite().all(), name
        else:
            assert parameter.grad is None, name


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in NETWORKS])
def test_maps_are_torchvisions(name: str) -> None:
    network = peer(name)
    backbone = ours_with(network, **NETWORKS[name])
    with torch.no_grad():
        expected = torchvisions_maps(network, IMAGE)
    maps = backbone(IMAGE)
    assert_equal(maps, expected)
    assert_all_have_gradients(backbone, [level / level.detach().abs().max() for level in maps])
    with torch.no_grad():
        assert_equal(fused(backbone)(IMAGE), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_tensors_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        theirs = from_torchvision(torchvision.models.get_model(name, weights=None).state_dict())
        for last_stage in ("map", "dilated", "tail"):  # the names of the weights are the same in all three
            settings: Any = {**NETWORKS[name], "last_stage": last_stage}
            ours = ResNetConfig(norm="bn", frozen_stages=0, weights=None, **settings).build().state_dict()
            assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


# ------------------------------------------------------------------------------------------------- the last stage


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
def test_a_dilated_last_stage_is_torchvisions(name: str) -> None:
    torch.manual_seed(3)
    network = with_random_norms(torchvision.models.get_model(name, weights=None, replace_stride_with_dilation=[False, False, True]))
    backbone = ours_with(network, last_stage="dilated", **NETWORKS[name])
    with torch.no_grad():
        expected = torchvisions_maps(network, IMAGE)
    maps = backbone(IMAGE)
    assert backbone.strides == (4, 8, 16, 16) and maps[3].shape[-2:] == maps[2].shape[-2:] == (4, 6)
    assert_equal(maps, expected)
    assert_all_have_gradients(backbone, [level / level.detach().abs().max() for level in maps])
    check_backbone(backbone)


@pytest.mark.parametrize(
    "config",
    [
        ResNetConfig(depth=18, weights=None),
        ResNetConfig(depth=50, weights=None),
        ResNetConfig(depth=50, stride_in="1x1", weights=None),
        MobileNetV2Config(weights=None),
    ],
    ids=["resnet18", "resnet50", "resnet50 as MSRA's", "mobilenetv2"],
)
def test_every_second_cell_of_a_dilated_map_is_the_strided_one(config: Any) -> None:
    dilated = {"dilated": True} if isinstance(config, MobileNetV2Config) else {"last_stage": "dilated"}
    strided, backbone = config.build().eval(), config.model_copy(update=dilated).build().eval()
    backbone.load_state_dict(strided.state_dict())
    image = torch.rand(1, 3, 144, 176)  # an odd number of cells of stride 16
    with torch.no_grad():
        assert_equal([backbone(image)[-1][:, :, ::2, ::2]], [strided(image)[-1]])


@pytest.mark.parametrize(("name", "stride_in"), [("resnet18", "3x3"), ("resnet50", "1x1"), ("resnext50_32x4d", "3x3")])
def test_the_tail_is_layer4(name: str, stride_in: Any) -> None:
    network = peer(name)
    backbone = ours_with(network, last_stage="tail", stride_in=stride_in, **NETWORKS.get(name, {"depth": 18}))
    for layer in (network.layer2, network.layer3, network.layer4):
        if stride_in == "1x1" and name != "resnet18":
            layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    assert backbone.strides == (4, 8, 16) and backbone.tail is backbone.layer4
    regions = torch.randn(3, backbone.channels[-1], 14, 14, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = torchvisions_maps(network, IMAGE)[:3]
        expected_regions = network.layer4(regions)
    maps, features = backbone(IMAGE), backbone.tail(regions)
    assert features.shape == (3, backbone.tail_channels, 7, 7)
    assert_equal([*maps, features], [*expected, expected_regions])
    assert_all_have_gradients(backbone, [level / level.detach().abs().max() for level in (*maps, features)])
    check_backbone(backbone)


def test_a_tail_is_frozen_with_the_other_stages() -> None:
    with torch.device("meta"):
        backbones = [ResNetConfig(last_stage="tail", frozen_stages=n, norm="bn", weights=None).build() for n in (4, 5)]  # type: ignore[arg-type]
    for backbone, learns in zip(backbones, (True, False), strict=True):
        assert backbone.tail is not None
        assert {parameter.requires_grad for parameter in backbone.tail.parameters()} == {learns}
        assert any(isinstance(module, nn.BatchNorm2d) for module in backbone.tail.modules()) == learns


def test_no_tail_by_default() -> None:
    with torch.device("meta"):
        backbone = ResNetConfig(weights=None).build()
    assert (backbone.tail, backbone.tail_channels, backbone.tail_resolution) == (None, None, None)


# ------------------------------------------------------------------------------------------------- group norm


@pytest.mark.parametrize(("depth", "norms"), [(50, 53), (101, 104), (152, 155)])
def test_every_convolution_of_a_gn_backbone_has_its_norm(depth: Any, norms: int) -> None:
    """One for the stem, three a block, one for each of four projections."""
    with torch.device("meta"):
        backbone = ResNetConfig(depth=depth, norm="gn", weights=None).build()
    layers = [module for module in backbone.modules() if isinstance(module, ConvNorm)]
    assert len(layers) == norms
    assert len([module for module in backbone.modules() if isinstance(module, nn.Conv2d)]) == norms
    for layer in layers:
        norm: Any = layer.norm
        assert isinstance(norm, nn.GroupNorm)
        assert (norm.num_groups, norm.num_channels, norm.eps) == (32, layer.conv.out_channels, 1e-5)
        assert layer.conv.bias is None
    check_backbone(backbone)


def group_norm(x: Any, weight: Any, bias: Any) -> Any:
    """Equation 1 of Wu and He with the set S_i of equation 7: (C, H, W), 32 groups."""
    groups = x.reshape(32, -1)
    mean, variance = groups.mean(1, keepdims=True), groups.var(1, keepdims=True)
    return ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


def convolved(x: Any, weight: Any, stride: int, groups: int) -> Any:
    """(C, H, W) by (O, C / groups, k, k), padded by k // 2."""
    side = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2))
    height, width = x.shape[1] // stride, x.shape[2] // stride
    out = np.zeros((len(weight), height, width))
    for o in range(len(weight)):
        first = o // (len(weight) // groups) * weight.shape[1]
        for dy in range(side):
            for dx in range(side):
                window = padded[
                    first : first + weight.shape[1], dy : dy + stride * height : stride, dx : dx + stride * width : stride
                ]
                out[o] += np.tensordot(weight[o, :, dy, dx], window, axes=1)
    return out


@pytest.mark.parametrize("groups", [1, 4])
def test_a_gn_block_by_the_papers_formulas(groups: int) -> None:
    torch.manual_seed(0)
    config = ResNetConfig(width=32, groups=groups, width_per_group=64 // groups, norm="gn", frozen_stages=0, weights=None)
    block: Any = config.build().layer2[0].double()
    with torch.no_grad():
        for norm in block.modules():
            if isinstance(norm, nn.GroupNorm):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.2)
    state = {name: value.numpy() for name, value in block.state_dict().items()}
    x = torch.randn(1, 128, 6, 8, dtype=torch.float64)

    def layer(name: str, values: Any, stride: int = 1, groups: int = 1) -> Any:
        values = convolved(values, state[f"{name}.conv.weight"], stride, groups)
        return group_norm(values, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"])

    inner = np.maximum(layer("conv1", x[0].numpy()), 0)
    inner = np.maximum(layer("conv2", inner, stride=2, groups=groups), 0)
    expected = np.maximum(layer("conv3", inner) + layer("downsample", x[0].numpy(), stride=2), 0)
    assert state["conv2.conv.weight"].shape == (64, 64 // groups, 3, 3)
    np.testing.assert_allclose(block(x)[0].detach().numpy(), expected, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------- sizes and refusals


def test_resnext_152_32x8d_by_hand() -> None:
    """Detectron's largest. Inner and outer widths are both 256 x 2^i; a 3x3 of w channels in 32 groups has 9 w w / 32."""
    with torch.device("meta"):
        backbone = ResNetConfig(depth=152, groups=32, width_per_group=8, weights=None).build()
    assert backbone.channels == (256, 512, 1024, 2048)
    stem = 64 * 3 * 7 * 7
    layer1 = 64 * 256 + 18432 + 65536 + 64 * 256 + 2 * (65536 + 18432 + 65536)
    layer2 = 256 * 512 + 73728 + 262144 + 256 * 512 + 7 * (262144 + 73728 + 262144)
    layer3 = 512 * 1024 + 294912 + 1048576 + 512 * 1024 + 35 * (1048576 + 294912 + 1048576)
    layer4 = 1024 * 2048 + 1179648 + 4194304 + 1024 * 2048 + 2 * (4194304 + 1179648 + 4194304)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == stem + layer1 + layer2 + layer3 + layer4 == 120_028_352
    check_backbone(backbone)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"depth": 152, "groups": 32, "width_per_group": 8, "weights": "IMAGENET1K_V1"},
            "depth=152, width=64, groups=32, width_per_group=8",
        ),
        ({"width": 32, "weights": "IMAGENET1K_V1"}, "torchvision publishes none for a ResNet of depth=50, width=32"),
        ({"depth": 18, "groups": 32, "weights": None}, "groups=32, width_per_group=64: the blocks of a ResNet-18 have no groups"),
        ({"groups": 0, "weights": None}, "'groups' should be greater than or equal to 1"),
        ({"width": 32, "groups": 2, "width_per_group": 1, "weights": None}, "no channels are left in layer1"),
    ],
)
def test_impossible_settings_are_refused(settings: Any, line: str) -> None:
    with torch.device("meta"), pytest.raises(UserError) as error:
        ResNetConfig(**settings).build()
    assert line in str(error.value) and "\n" not in str(error.value)


def test_published_weights_of_a_resnext_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The right file of torchvision's is requested, and its values are loaded."""
    network = torchvision.models.resnext50_32x4d(weights=None)
    requests = []

    def give(members: Any, name: str) -> dict[str, Tensor]:
        requests.append((members.__name__, name))
        return network.state_dict()

    monkeypatch.setattr("boxwood.models.backbones.resnet.imagenet_weights", give)
    backbone = ResNetConfig(depth=50, groups=32, width_per_group=4, weights="IMAGENET1K_V2").build()
    assert requests == [("ResNeXt50_32X4D_Weights", "IMAGENET1K_V2")]
    assert torch.equal(backbone.state_dict()["layer4.2.conv2.conv.weight"], network.layer4[2].conv2.weight)  # type: ignore[union-attr]
