"""VGG-16 against torchvision's with the same weights; VGG_CNN_M_1024, which has no peer, against formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models
from torch import Tensor, nn

from boxwood.config import from_tree, to_tree
from boxwood.errors import UserError
from boxwood.models.backbones import BackboneConfig, VGG16Config, VGGCNNM1024Config, check_backbone
from tests.models.test_backbones import IMAGE
from tests.models.test_resnets import assert_all_have_gradients, assert_equal


@torch.no_grad()
def random_vgg16() -> Any:
    with torch.device("meta"):
        network = torchvision.models.vgg16(weights=None, init_weights=False)
    network.to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in network.parameters():
        bound = (6 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.uniform_(-bound, bound)
    return network.eval()


@pytest.mark.slow
def test_vgg16_is_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are loaded as the published ones are."""
    network = random_vgg16()
    requests = []

    def give(members: Any, name: str) -> dict[str, Tensor]:
        requests.append((members.__name__, name))
        return network.state_dict()  # type: ignore[no-any-return]

    monkeypatch.setattr("boxwood.models.backbones.vgg.imagenet_weights", give)
    backbone = VGG16Config().build()
    assert requests == [("VGG16_Weights", "IMAGENET1K_V1")]
    regions = torch.rand(2, 512, 7, 7)
    with torch.no_grad():
        x, expected = IMAGE, []
        for index, layer in enumerate(network.features):
            x = layer(x)
            if index in (15, 22, 29):  # behind the ReLU of conv3_3, conv4_3, conv5_3
                expected.append(x)
        fc6 = network.classifier[:3](regions.flatten(1))
        fc7 = network.classifier[:6](regions.flatten(1))
    maps, tail = backbone(IMAGE), backbone.tail
    assert isinstance(tail, nn.Sequential)
    features = tail(regions)
    assert features.shape == (2, 4096, 1, 1)
    assert_equal([*maps, tail[:3](regions), features.flatten(1)], [*expected, fc6, fc7])
    assert_all_have_gradients(backbone, [*maps, features])
    assert {name.split(".")[0] for name, parameter in backbone.named_parameters() if not parameter.requires_grad} == {
        "conv1",
        "conv2",
    }
    check_backbone(backbone)


def test_the_names_of_the_weights() -> None:
    with torch.device("meta"):
        backbone = VGG16Config(weights=None).build()
        alone = VGG16Config(fully_connected=False, weights=None).build()
    names = [f"conv{stage}.{i}" for stage, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(count)] + ["fc6", "fc7"]
    assert list(backbone.state_dict()) == [f"{name}.{leaf}" for name in names for leaf in ("weight", "bias")]
    assert list(alone.state_dict()) == list(backbone.state_dict())[:-4]
    assert alone.tail is None
    check_backbone(backbone)
    check_backbone(alone)


@pytest.mark.parametrize("frozen", [0, 1, 2, 5])
@pytest.mark.parametrize("config", [VGG16Config(weights=None), VGGCNNM1024Config()], ids=lambda config: config.kind())
def test_frozen_stages(config: Any, frozen: Any) -> None:
    config = config.model_copy(update={"frozen_stages": frozen})
    with torch.device("meta"):
        backbone = config.build()
    for name, parameter in backbone.named_parameters():
        stage = int(name.removeprefix("conv").removeprefix("fc")[0])
        assert parameter.requires_grad == (stage > frozen)
    assert from_tree(BackboneConfig, to_tree(config)) == config


# ------------------------------------------------------------------------------------------------- VGG_CNN_M_1024


def response_norm(x: Any) -> Any:
    """Krizhevsky et al., 2012, section 3.3, with k = 2, n = 5, beta = 0.75, alpha / n = 1e-4: (C, H, W)."""
    out = np.empty_like(x)
    for i in range(len(x)):
        out[i] = x[i] / (2 + 5e-4 / 5 * (x[max(0, i - 2) : i + 3] ** 2).sum(0)) ** 0.75
    return out


def pooled(x: Any) -> Any:
    """The largest of 3x3, every second cell, nothing padded."""
    height, width = ((side - 3) // 2 + 1 for side in x.shape[1:])
    shifts = [x[:, dy : dy + 2 * height - 1 : 2, dx : dx + 2 * width - 1 : 2] for dy in range(3) for dx in range(3)]
    return np.max(shifts, axis=0)


@torch.no_grad()
def test_vgg_cnn_m_by_the_papers_formulas() -> None:
    torch.manual_seed(0)
    backbone = VGGCNNM1024Config().build().double()
    image = 20 * torch.randn(1, 3, 96, 112, dtype=torch.float64)  # large enough that the normalisation has an effect
    runs: dict[str, tuple[Any, Any]] = {}
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5"):  # input, and output before the ReLU
        getattr(backbone, name).register_forward_hook(
            lambda module, inputs, output, name=name: runs.update({name: (inputs[0][0].numpy().copy(), output[0].numpy().copy())})
        )
    (features,) = backbone(image)
    for before, after in (("conv1", "conv2"), ("conv2", "conv3")):
        expected = pooled(response_norm(np.maximum(runs[before][1], 0)))
        np.testing.assert_allclose(runs[after][0], expected, rtol=1e-9)
        assert np.abs(expected / pooled(np.maximum(runs[before][1], 0)).clip(1e-12) - 2**-0.75).max() > 0.05
    for before, after in (("conv3", "conv4"), ("conv4", "conv5")):
        np.testing.assert_array_equal(runs[after][0], np.maximum(runs[before][1], 0))
    np.testing.assert_array_equal(features[0].numpy(), np.maximum(runs["conv5"][1], 0))
    shapes = {name: tuple(getattr(backbone, name).weight.shape) for name in (*runs, "fc6", "fc7")}
    assert shapes == {
        "conv1": (96, 3, 7, 7),
        "conv2": (256, 96, 5, 5),
        "conv3": (512, 256, 3, 3),
        "conv4": (512, 512, 3, 3),
        "conv5": (512, 512, 3, 3),
        "fc6": (4096, 512 * 6 * 6),
        "fc7": (1024, 4096),
    }
    assert runs["conv1"][1].shape == (96, 45, 53) and runs["conv2"][1].shape == (256, 9, 11) and features.shape == (1, 512, 4, 5)


def test_gradients_and_tail_of_vgg_cnn_m() -> None:
    torch.manual_seed(0)
    backbone = VGGCNNM1024Config().build()
    regions = torch.rand(2, 512, 6, 6)
    assert backbone.tail is not None
    features = backbone.tail(regions)
    assert features.shape == (2, 1024, 1, 1)
    hidden = (regions.flatten(1) @ backbone.fc6.weight.T + backbone.fc6.bias).relu()
    expected = (hidden @ backbone.fc7.weight.T + backbone.fc7.bias).relu()
    torch.testing.assert_close(features.flatten(1), expected)
    assert_all_have_gradients(backbone, [*backbone(IMAGE), features])
    assert {name.split(".")[0] for name, parameter in backbone.named_parameters() if not parameter.requires_grad} == {"conv1"}


def test_receptive_fields_of_vgg_cnn_m() -> None:
    """NaN passes through every layer, so it shows the receptive field of a cell: 139 pixels around pixel 16 j + 21."""
    backbone = VGGCNNM1024Config().build()
    cell, reach = 6, 69
    centre = 16 * cell + 21
    columns = (centre - reach - 1, centre - reach, centre, centre + reach, centre + reach + 1)
    images = torch.zeros(len(columns), 3, 64, 256)
    for image, column in zip(images, columns, strict=True):
        image[:, :, column] = torch.nan
    with torch.no_grad():
        (features,) = backbone(images)
    assert features.shape[-1] == 256 // 16 - 2
    assert features[:, 0, 0, cell].isnan().tolist() == [False, True, True, True, False]
    with pytest.raises(UserError, match=r"VGGCNNM1024: map 0 .* is \(2, 512, 6, 10\); .* stride, 16, make it \(2, 512, 8, 12\)"):
        check_backbone(backbone)  # as its docstring says
