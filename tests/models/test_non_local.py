"""Non-local blocks: golden values of mmcv's block, the start as the identity, positions, loading, export.

``tests/facts/non_local.npz`` has inputs, weights, outputs and gradients of mmcv's ``NonLocal2d`` with 12 channels.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import boxwood
from boxwood.config import ConfigError, apply_overrides
from boxwood.errors import UserError
from boxwood.models.backbones import NonLocalBlock, NonLocalConfig, NonLocalStagesConfig, ResNetConfig, check_backbone
from boxwood.models.config import RCNNConfig
from boxwood.models.heads import ConvKeypointHeadConfig
from boxwood.recipes import resolve
from boxwood.run_config import RunConfig
from boxwood.training.initial_weights import load_initial_weights
from boxwood.weights import read_weights, save_weights
from tests.models import test_export as exported
from tests.models import toys

GOLDEN = {
    name: torch.from_numpy(value).float() for name, value in np.load(Path(__file__).parents[1] / "facts/non_local.npz").items()
}

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"scale": False, "pool": None, "norm": "scale"},
    "scale": {"pool": None, "norm": "scale"},
    "plain_sub": {"scale": False, "norm": "scale"},
    "scale_sub": {"norm": "scale"},
    "bn_eval": {"pool": None, "norm": "sync_bn"},
    "bn_train": {"pool": None, "norm": "bn"},
    "dot_product": {"pairwise": "dot_product", "pool": None, "norm": "scale"},
    "gaussian": {"pairwise": "gaussian", "scale": False, "pool": None, "norm": "scale"},
    "pool_first_scale": {"pool": "ahead", "norm": "scale"},
}
"""The variants without a norm are blocks with a scale, which is set to 1."""


def golden_name(name: str) -> str:
    """mmcv's name of a tensor of the block."""
    module, _, leaf = name.rpartition(".")
    return {"out.conv": "conv_out.conv", "out.norm": "conv_out.bn"}.get(module, f"{module}.conv") + f".{leaf}"


def golden_block(variant: str) -> NonLocalBlock:
    block = NonLocalBlock(12, NonLocalConfig(**VARIANTS[variant])).train(variant != "bn_eval")
    state = block.state_dict()
    for name in state:
        prefix = "bn_weight" if name.startswith("out.norm") else "weight"
        state[name] = GOLDEN.get(f"{prefix}.{golden_name(name)}", state[name])
    if VARIANTS[variant]["norm"] == "scale":
        state["out.norm.weight"] = torch.ones(12)
    block.load_state_dict(state)
    return block


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_golden_values(variant: str, memory_format: Any) -> None:
    """Outputs within 1e-5, gradients within 1e-5 of the layer's largest or of 1."""
    block = golden_block(variant)
    x = GOLDEN["x"].clone(memory_format=memory_format).requires_grad_()
    out = block(x)
    torch.testing.assert_close(out, GOLDEN[f"{variant}.out"], rtol=1e-5, atol=1e-5)
    (out * GOLDEN["cotangent"]).sum().backward()
    gradients = {"x": x.grad, **{golden_name(name): parameter.grad for name, parameter in block.named_parameters()}}
    expected = {name: value for key, value in GOLDEN.items() if (name := key.removeprefix(f"{variant}.grad.")) != key}
    assert len(expected) == {"dot_product": 0, "gaussian": 0, "pool_first_scale": 0}.get(variant, 9 if "bn" not in variant else 10)
    for name, value in expected.items():
        # Neither a softmax nor a batch norm depends on the bias before it, whose gradient is rounding of what the weight's sums up.
        layer = [one.abs().max() for other, one in expected.items() if other.rpartition(".")[0] == name.rpartition(".")[0]]
        largest = torch.stack(layer).max().clamp(min=1)
        gradient: Any = gradients[name]
        torch.testing.assert_close(
            gradient / largest, value / largest, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    if variant == "bn_train":
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(block.out.norm.get_buffer(name), GOLDEN[f"bn_train.{name}"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian", "dot_product"])
@pytest.mark.parametrize("pool", [None, "ahead", "behind"])
def test_the_formulas_with_a_matrix_of_all_pairs(pairwise: Any, pool: Any) -> None:
    """In float64, with the matrix that the block does not store."""
    torch.manual_seed(0)
    block = NonLocalBlock(8, NonLocalConfig(pairwise=pairwise, pool=pool, norm="scale")).double()
    toys.randomize_weights(block)
    x = torch.randn(2, 8, 4, 6, dtype=torch.float64)
    pooled = x.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))  # the 2 x 2 windows

    def projection(conv: Any, values: Tensor) -> Tensor:
        return torch.einsum("oc,bcn->bon", conv.weight[:, :, 0, 0], values.flatten(2)) + conv.bias[:, None]

    def read(conv: Any) -> Tensor:
        if pool != "behind":
            return projection(conv, pooled if pool == "ahead" else x)
        values = projection(conv, x).unflatten(2, (4, 6))
        return values.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5)).flatten(2)

    if pairwise == "gaussian":
        theta, phi = x.flatten(2), (x if pool is None else pooled).flatten(2)
    else:
        theta, phi = projection(block.theta, x), read(block.phi)
    products = torch.einsum("ben,bem->bnm", theta, phi)
    weights = products / phi.shape[2] if pairwise == "dot_product" else (products / theta.shape[1] ** 0.5).softmax(dim=2)
    y = torch.einsum("bnm,bem->ben", weights, read(block.g))
    scale: Any = block.out.norm.weight
    expected = x + (projection(block.out.conv, y) * scale[:, None]).unflatten(2, (4, 6))
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that an operator returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, Tensor):
                self.elements = max(self.elements, part.numel())
        return result


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian", "dot_product"])
def test_no_tensor_is_as_large_as_all_pairs(pairwise: Any) -> None:
    """Forward and backward; 1,200 positions have 1.44 million pairs."""
    block = NonLocalBlock(32, NonLocalConfig(pairwise=pairwise, pool=None))
    x = torch.randn(1, 32, 30, 40).to(memory_format=torch.channels_last).requires_grad_()
    with LargestTensor() as largest:
        block(x).sum().backward()
    assert largest.elements <= 32 * 1200


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian", "dot_product"])
@pytest.mark.parametrize("norm", ["bn", "sync_bn", "gn", "scale"])
def test_a_new_block_is_the_identity_and_learns(norm: Any, pairwise: Any) -> None:
    """At first only the norm has gradients; after one step of it all parameters but the biases ahead of a softmax have."""
    torch.manual_seed(0)
    block = NonLocalBlock(32, NonLocalConfig(norm=norm, pairwise=pairwise))
    x = torch.randn(2, 32, 6, 7)
    for training in (False, True):
        assert torch.equal(block.train(training)(x), x)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for learns in (False, True):
        optimizer.zero_grad()
        (block(x) - x.flip(3)).square().sum().backward()
        for name, parameter in block.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all()
            if name.startswith("out.norm") or name.endswith("weight"):
                assert bool(parameter.grad.any()) == (learns or name.startswith("out.norm")), name
        optimizer.step()


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian", "dot_product"])
@pytest.mark.parametrize("norm", ["bn", "gn", "scale"])
def test_bfloat16(norm: Any, pairwise: Any) -> None:
    """Under autocast the output has the type of the map and the values of float32, up to the rounding of a type of 8 bits."""
    torch.manual_seed(0)
    block = NonLocalBlock(32, NonLocalConfig(norm=norm, pairwise=pairwise)).eval()
    toys.randomize_weights(block)
    x = torch.randn(2, 32, 6, 7)
    with torch.autocast("cpu", torch.bfloat16):
        out = block(x.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), block(x), rtol=0.03, atol=0.06)


@pytest.mark.parametrize("norm", ["gn", "scale"])
def test_maps_of_one_cell_and_no_regions(norm: Any) -> None:
    block = NonLocalBlock(32, NonLocalConfig(norm=norm))
    for shape in ((2, 32, 1, 1), (2, 32, 1, 5), (0, 32, 14, 14)):
        out = block(torch.randn(shape, requires_grad=True))
        out.sum().backward()
        assert out.shape == shape


@pytest.mark.usefixtures("one_thread")
def test_a_block_learns_what_convolutions_cannot_see() -> None:
    """The target at the left of a row depends on a value 31 cells to the right; 3x3 convolutions see 2 cells of it."""
    losses = {}
    for has_block in (False, True):
        torch.manual_seed(0)
        block = NonLocalBlock(16, NonLocalConfig(norm="scale")) if has_block else nn.Identity()
        network = nn.Sequential(nn.Conv2d(2, 16, 3, padding=1), nn.ReLU(), block, nn.Conv2d(16, 1, 3, padding=1))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(100):
            sign = torch.randint(2, (16,)) * 2.0 - 1
            x = torch.zeros(16, 2, 4, 32)
            x[:, 0, :, 0], x[:, 1, :, 31] = 1, sign[:, None]
            loss = (network(x)[:, 0, 1, 0] - sign).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[has_block] = float(loss.detach())
    assert losses[False] > 0.8 and losses[True] < 0.05


# ------------------------------------------------------------------------------------------------- positions


def resnet(stages: NonLocalStagesConfig | None, **settings: Any) -> Any:
    """A narrow ResNet with random weights of seed 0."""
    torch.manual_seed(0)
    backbone = ResNetConfig(
        **{"depth": 18, "width": 8, "frozen_stages": 0, "weights": None, "non_local": stages, **settings}
    ).build()
    toys.randomize_weights(backbone)
    return backbone


@pytest.mark.parametrize(
    ("depth", "groups", "block"),
    [(50, 1, 5), pytest.param(101, 1, 22, marks=pytest.mark.slow), pytest.param(152, 32, 35, marks=pytest.mark.slow)],
)
def test_the_default_position_is_the_papers(depth: Any, groups: int, block: int) -> None:
    """Before the last residual block of res4, of 1,024 channels; 2.10 million weights; the names of other tensors stay."""
    settings: Any = {"depth": depth, "groups": groups, "width_per_group": 64 if groups == 1 else 8, "weights": None}
    with torch.device("meta"):
        plain = ResNetConfig(**settings).build()
        backbone: Any = ResNetConfig(non_local=NonLocalStagesConfig(), **settings).build()
    names = [name for name, _ in backbone.layer3.named_children()]
    assert names == [*map(str, range(block)), f"non_local{block}", str(block)]
    added = dict.fromkeys(name for name in backbone.state_dict() if name not in plain.state_dict())
    assert all(name.startswith(f"layer3.non_local{block}.") for name in added) and len(added) == 6 + 1 + 5
    assert [name for name in backbone.state_dict() if name not in added] == list(plain.state_dict())
    new: Any = backbone.get_submodule(f"layer3.non_local{block}")
    convolutions = [new.theta, new.phi, new.g, new.out.conv]
    assert sum(conv.weight.numel() for conv in convolutions) == 4 * 1024 * 512
    check_backbone(backbone)


def test_blocks_at_other_positions() -> None:
    """Before the first residual block a block has the channels of the stage before; behind the last, those of the map."""
    backbone = resnet(NonLocalStagesConfig(norm="scale", res3=(1,), res4=(0, -1, 2), res5=(2,)), last_stage="map")
    assert [
        list(dict(stage.named_children())) for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
    ] == [
        ["0", "1"],
        ["0", "non_local1", "1"],
        ["non_local0", "0", "non_local1", "1", "non_local2"],
        ["0", "1", "non_local2"],
    ]
    channels = {name: module.g.in_channels for name, module in backbone.named_modules() if isinstance(module, NonLocalBlock)}
    assert list(channels.values()) == [16, 16, 32, 32, 64]
    check_backbone(backbone)
    seen: dict[str, Tensor] = {}
    for name in ("layer3.0", "layer3.non_local1", "layer3.1"):
        backbone.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({f"{name} in": inputs[0], f"{name} out": output})
        )
    backbone.eval()(torch.randn(1, 3, 64, 96))
    assert torch.equal(seen["layer3.non_local1 in"], seen["layer3.0 out"])
    assert torch.equal(seen["layer3.1 in"], seen["layer3.non_local1 out"])
    assert not torch.equal(seen["layer3.non_local1 in"], seen["layer3.non_local1 out"])


def test_blocks_of_a_frozen_stage_are_trained() -> None:
    backbone = resnet(NonLocalStagesConfig(res3=(1,)), frozen_stages=5)
    assert {name.split(".")[1] for name, parameter in backbone.named_parameters() if parameter.requires_grad} == {"non_local1"}
    torch.stack([level.sum() for level in backbone.train()(torch.randn(1, 3, 64, 96))]).sum().backward()
    assert backbone.layer2.non_local1.g.weight.grad.any()


def test_a_position_is_refused() -> None:
    for positions, text in (((3,), "[3]"), ((-3,), "[-3]"), ((1, -1), "[1, -1]")):
        with pytest.raises(UserError, match="res4 has 2 residual blocks") as error:
            resnet(NonLocalStagesConfig(res4=positions))
        assert f"model.backbone.non_local.res4={text}: " in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.backbone.non_local.norm=frozen_bn"],
            "'model.backbone.non_local.norm' is frozen_bn, whose scale would stay 0, so that the block would never learn; choose "
            "sync_bn, bn, gn or scale",
        ),
        (["model.backbone.non_local.res4=[37]"], "'model.backbone.non_local.res4.0' should be less than or equal to 36, got 37"),
        (["model.backbone.non_local.res4=last"], "'model.backbone.non_local.res4' should be a list, got 'last'"),
        (["model.keypoint_head.non_local.norm=frozen_bn"], "'model.keypoint_head.non_local.norm' is frozen_bn, whose scale would"),
        (["model.keypoint_head.non_local.norm=sync_bn"], "'model.keypoint_head' non_local.norm=sync_bn: statistics over regions"),
        (["model.keypoint_head={convs: 1, non_local: {}}"], "'model.keypoint_head' convs=1: a non-local block stands after every"),
    ],
)
def test_settings_are_refused_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve("keypoint_rcnn_r50_fpn_1x", overrides)
    assert len(error.value.problems) == 1 and error.value.problems[0].startswith(message)


def test_blocks_are_added_by_one_key() -> None:
    backbone: Any = resolve("mask_rcnn_r50_fpn_1x", ["model.backbone.non_local={}"]).model
    assert backbone.backbone.non_local == NonLocalStagesConfig() == NonLocalStagesConfig(norm="sync_bn", res4=(-1,))
    other: Any = resolve("mask_rcnn_r50_fpn_1x", ["model.backbone.non_local.res3=[1, 3]"]).model
    assert other.backbone.non_local == NonLocalStagesConfig(res3=(1, 3))


def test_the_keypoint_head_has_a_block_after_every_second_convolution() -> None:
    torch.manual_seed(0)
    head: Any = ConvKeypointHeadConfig(convs=5, width=32, non_local=NonLocalConfig()).build(8)
    toys.randomize_weights(head)
    features = torch.randn(3, 8, 6, 6)
    x = features
    for index, conv in enumerate(head.convs):
        x = F.relu(conv(x))
        if index in (1, 3):
            x = head.non_local[index // 2](x)
    assert len(head.non_local) == 2
    assert torch.equal(head(features), x)
    with torch.device("meta"):
        assert len(ConvKeypointHeadConfig(non_local=NonLocalConfig()).build(256).non_local) == 4  # type: ignore[arg-type]


# ------------------------------------------------------------------------------- weights of a network without blocks

STAGES = NonLocalStagesConfig(res3=(0, 1), res4=(-1,), res5=(1,), norm="scale")
HEAD = NonLocalConfig(norm="scale")


def keypoint_rcnn(stages: NonLocalStagesConfig | None, head: NonLocalConfig | None) -> RCNNConfig:
    backbone = toys._resnet("map").model_copy(update={"non_local": stages})
    return toys._rcnn(backbone=backbone, keypoint_head=ConvKeypointHeadConfig(convs=4, width=16, non_local=head))


def run_of(model: Any, weights: Path | None = None) -> RunConfig:
    run = resolve("demo_shapes")
    run.model, run.train.weights = model, None if weights is None else str(weights)
    return run


def with_blocks(model: Any) -> Any:
    return model.model_copy(update={"backbone": model.backbone.model_copy(update={"non_local": STAGES})})


PAIRS: dict[str, tuple[Any, Any]] = {
    **{name: (toys.ARCHITECTURES[name](), with_blocks(toys.ARCHITECTURES[name]())) for name in ("mask_rcnn_c4", "rfcn")},
    "keypoint_rcnn_fpn": (keypoint_rcnn(None, None), keypoint_rcnn(STAGES, HEAD)),
}
"""Networks without blocks and with them."""


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", PAIRS)
def test_blocks_leave_detections_as_they_are(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """To the bit, after the weights of the network without blocks are loaded; the log has one line."""
    config, changed = PAIRS[name]
    torch.manual_seed(0)
    plain = config.build(toys.CATEGORIES, toys.TEST).eval()
    toys.randomize_weights(plain)
    save_weights(tmp_path / "plain.safetensors", plain.state_dict(), run_of(config), toys.CATEGORIES)
    network = changed.build(toys.CATEGORIES, toys.TEST).eval()
    with caplog.at_level(logging.INFO, "boxwood"):
        load_initial_weights(network, run_of(changed, tmp_path / "plain.safetensors"), toys.CATEGORIES)
    blocks = [key for key, module in network.named_modules() if isinstance(module, NonLocalBlock)]
    line = "has no weights of the non-local blocks; they start as the identity: " + ", ".join(blocks)
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [line]
    batch = toys.batch([(150, 200), (160, 180)])
    with torch.no_grad():
        expected, got = (model.detections(model(batch), batch) for model in (plain, network))
    assert all(len(one) for one in expected)
    for one, other in zip(expected, got, strict=True):
        assert torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores)
        assert torch.equal(one.labels, other.labels)
        for values, others in ((one.mask_probabilities, other.mask_probabilities), (one.keypoints, other.keypoints)):
            assert values is others is None or torch.equal(values, others)  # type: ignore[arg-type]  # both or none
    toys.randomize_weights(network)
    with torch.no_grad():
        assert not torch.equal(network.detections(network(batch), batch)[0].scores, got[0].scores)


@pytest.mark.usefixtures("one_thread")
def test_a_trained_run_is_continued_with_a_block(trained: Path, shapes: Path, tmp_path: Path) -> None:
    """Its weights with a block inserted detect the same, to the bit, when loaded for prediction."""
    saved = read_weights(trained / "last.safetensors")
    config = apply_overrides(saved.config, ["model.backbone.non_local={}", f"train.weights={trained / 'last.safetensors'}"])
    network = config.model.build(saved.categories, config.test)
    load_initial_weights(network, config, saved.categories)
    save_weights(tmp_path / "block.safetensors", network.state_dict(), config, saved.categories)
    pictures = [shapes / "val" / "000000.jpg", shapes / "val" / "000001.jpg"]
    for expected, got in zip(boxwood.load(trained)(pictures), boxwood.load(tmp_path / "block.safetensors")(pictures), strict=True):
        assert len(expected) and torch.equal(expected.boxes, got.boxes) and torch.equal(expected.scores, got.scores)
        assert torch.equal(expected.mask_probabilities, got.mask_probabilities)  # type: ignore[arg-type]


def test_other_missing_tensors_are_refused(tmp_path: Path) -> None:
    """Among them single tensors of a block."""
    config, changed = PAIRS["keypoint_rcnn_fpn"]
    network = changed.build(toys.CATEGORIES, toys.TEST)
    run = run_of(changed, tmp_path / "file.safetensors")
    for missing in ("keypoint_head.convs.1.bias", "keypoint_head.non_local.0.g.bias"):
        state = {key: value for key, value in network.state_dict().items() if key != missing and ".non_local1." not in key}
        save_weights(tmp_path / "file.safetensors", state, run_of(config), toys.CATEGORIES)
        with pytest.raises(UserError, match="1 tensors missing") as error:
            load_initial_weights(network, run, toys.CATEGORIES)
        assert missing in str(error.value)


# ------------------------------------------------------------------------------------------------- export


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian", "dot_product"])
def test_a_block_is_exported_for_all_sizes(pairwise: Any) -> None:
    torch.manual_seed(0)
    block = NonLocalBlock(8, NonLocalConfig(pairwise=pairwise, norm="scale")).eval()
    toys.randomize_weights(block)
    sides = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(block, (torch.randn(2, 8, 6, 9),), dynamic_shapes=(sides,)).module()
    for shape in ((2, 8, 6, 9), (3, 8, 11, 4)):
        x = torch.randn(shape)
        torch.testing.assert_close(program(x), block(x))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dynamic"), [("faster_rcnn_c4", True), ("keypoint_rcnn_fpn", False)])
def test_a_network_with_blocks_is_exported(name: str, dynamic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_blocks(toys.ARCHITECTURES[name]()) if name == "faster_rcnn_c4" else keypoint_rcnn(STAGES, HEAD)
    monkeypatch.setitem(toys.ARCHITECTURES, name, lambda: model)
    program = exported.export(name, dynamic=dynamic, strict=False, sizes=exported.TRACED if dynamic else exported.TRACED[:1])
    for sizes in exported.OTHERS if dynamic else ([(160, 224)], [(130, 210)]):
        exported.assert_same_instances(name, program.module(), sizes[: 2 if dynamic else 1])
