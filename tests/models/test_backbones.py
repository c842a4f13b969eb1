"""Backbones against torchvision's networks with the same weights; norms, frozen stages, channels and strides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from boxwood.config import from_tree, to_tree
from boxwood.errors import UserError
from boxwood.models.backbones import Backbone, BackboneConfig, ConvNorm, MobileNetV2Config, ResNetConfig, check_backbone
from boxwood.models.backbones.mobilenet import ReLU6
from boxwood.models.backbones.resnet import from_torchvision

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


@pytest.mark.parametrize(("depth", "norm"), [(18, "bn"), (18, "frozen_bn"), (34, "frozen_bn"), (50, "frozen_bn")])
def test_resnet_is_torchvisions(depth: Any, norm: Any) -> None:
    network = with_random_norms(torchvision.models.get_model(f"resnet{depth}", weights=None))
    ours = ResNetConfig(depth=depth, norm=norm, frozen_stages=0, weights=None).build().eval()
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


def test_stride_in_selects_the_strided_convolution() -> None:
    strides = {}
    for where in ("1x1", "3x3"):
        with torch.device("meta"):
            block: Any = ResNetConfig(stride_in=where, weights=None).build().layer2[0]
        strides[where] = [block.conv1.conv.stride[0], block.conv2.conv.stride[0], block.downsample.conv.stride[0]]
    assert strides == {"1x1": [2, 1, 2], "3x3": [1, 2, 2]}


def test_striding_in_the_1x1_reads_every_second_pixel() -> None:
    """A change of the other pixels does not change the output of a stage."""
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
def test_every_norm_is_built_and_has_gradients(norm: Any) -> None:
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
    check_backbone(backbone)
    check_backbone(backbone, (96, 160))
    assert from_tree(BackboneConfig, to_tree(config)) == config


def test_a_norm_is_folded_into_a_convolution_with_bias() -> None:
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


class Small(Backbone):
    """Two maps of strides 4 and 8, and a tail."""

    def __init__(self, **declared: Any) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 4, 4), nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 16, 2, 2))
        self.channels, self.strides, self.tail_channels, self.tail_resolution = (8, 16), (4, 8), 32, 6
        self.tail = nn.Conv2d(16, 32, 3, 2, 1)  # type: ignore[misc]  # a property; a module becomes its value
        for name, value in declared.items():
            setattr(self, name, value)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.first(images)
        return [x, self.second(x)]


@pytest.mark.parametrize(
    ("declared", "line"),
    [
        (
            {"channels": (8, 32)},
            "map 1 of 128x192 images is (2, 16, 16, 24); its declared channels, 32, and stride, 8, make it (2, 32, 16, 24)",
        ),
        (
            {"strides": (8, 16)},
            "map 0 of 128x192 images is (2, 8, 32, 48); its declared channels, 8, and stride, 8, make it (2, 8, 16, 24)",
        ),
        (
            {"strides": (4, 4)},
            "map 1 of 128x192 images is (2, 16, 16, 24); its declared channels, 16, and stride, 4, make it (2, 16, 32, 48)",
        ),
        ({"strides": (8, 4)}, "strides=(8, 4); expected the finest first, each the same as or twice the one before"),
        ({"strides": (4, 8, 16)}, "channels=(8, 16), strides=(4, 8, 16); expected one of each for every map"),
        ({"channels": (8,), "strides": (4,)}, "forward returns 2 maps, but channels and strides declare a list of 1 maps"),
        ({"forward": lambda images: images}, "forward returns Tensor, but"),
        ({"tail_channels": 16}, "the tail makes (2, 32, 3, 3) of (2, 16, 6, 6), but tail_channels=16 declares (2, 16, P, P)"),
        ({"tail_channels": None}, "a tail, tail_channels=None, tail_resolution=6; expected all three or none"),
        ({"tail": None}, "no tail, tail_channels=32, tail_resolution=6; expected all three or none"),
    ],
)
def test_a_wrong_declaration_is_refused(declared: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        check_backbone(Small(**declared))
    assert str(error.value).startswith(f"Small: {line}")


def test_checking_a_backbone_changes_nothing() -> None:
    backbone = Small()
    backbone.second.eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert "tail.weight" in before and backbone.tail is backbone.get_submodule("tail")
    check_backbone(backbone)
    check_backbone(backbone.double())
    assert backbone.training and not backbone.second.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    with pytest.raises(UserError, match=r"size=\(100, 100\): expected multiples of the last stride, 8"):
        check_backbone(backbone, (100, 100))


def test_relu6_is_pytorchs_with_one_map_less_in_memory() -> None:
    x = torch.tensor([-1.0, 0.0, 1e-9, 3.0, 6 - 1e-6, 6.0, 7.0], requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):  # type: ignore[func-returns-value]
        source = x * 1
        output = ReLU6()(source)
    assert output.data_ptr() == source.data_ptr() and [tensor.data_ptr() for tensor in kept[-1:]] == [output.data_ptr()]
    plain = F.relu6(x * 1)
    assert torch.equal(output, plain)
    assert torch.equal(*(torch.autograd.grad(each.sum(), x)[0] for each in (output, plain)))
    with torch.no_grad():
        assert torch.equal(ReLU6()(x * 1), plain)


def test_the_constants_of_a_frozen_norm_follow_its_buffers() -> None:
    """They are computed once, and again after a change in place, new weights, or a move."""
    layer: Any = ConvNorm(nn.Conv2d(3, 4, 1, bias=False), FrozenBatchNorm2d(4))
    image = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))

    def check() -> None:
        torch.testing.assert_close(layer(image.to(layer.conv.weight)), layer.norm(layer.conv(image.to(layer.conv.weight))))

    check()
    scale = layer.folded() and layer._constants[2]
    check()
    assert layer._constants[2] is scale
    layer.norm.running_var.fill_(4.0)
    check()
    layer.load_state_dict({name: value + 1 for name, value in layer.state_dict().items()})
    check()
    layer.double()
    check()
    with torch.inference_mode():
        check()
    layer(image.double().requires_grad_()).sum().backward()  # nothing of inference mode is left
