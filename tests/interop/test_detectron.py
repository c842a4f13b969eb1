"""Detectron's files: every tensor is accounted for and in our order, and the network computes the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from boxwood.errors import UserError
from boxwood.interop.detectron import convert, read_detectron, with_mask_head
from boxwood.interop.weights import import_weights
from boxwood.models import ModelConfig, RCNNConfig, RetinaNetConfig, RFCNConfig
from boxwood.models.backbones import ResNetConfig, VGG16Config, VGGCNNM1024Config
from boxwood.models.config import RoIConfig, without_pretrained
from boxwood.models.heads import AverageHeadConfig, ConvMaskHeadConfig, MaskXHeadConfig
from boxwood.models.inference_config import TestConfig
from boxwood.recipes import resolve
from boxwood.structures import Categories, KeypointFacts
from boxwood.zoo.table import entries
from tests.interop.detectron_blobs import NETWORKS, backbone, convolution, network, parts_of, random_blobs, read_back, write

PERSON = Categories((1,), ("person",), KeypointFacts(tuple(f"k{i}" for i in range(17)), tuple(range(17))))
COCO = Categories(tuple(range(1, 81)), tuple(f"c{i}" for i in range(80)))


def every_network() -> dict[str, dict[str, Any]]:
    """Each different network of the model zoo once, as name -> arguments of `network`; first those with known numbers of blobs."""
    networks = {name: parts_of(name) for name in NETWORKS}
    for entry in entries():
        if entry.source == "detectron" and entry.task != "imagenet":
            name = entry.name.removeprefix("detectron/")
            parts = parts_of(name)
            if parts not in networks.values():
                networks[name] = parts
    return networks


def built(config: ModelConfig, classes: int) -> Any:
    categories = PERSON if classes == 2 else Categories(COCO.ids[: classes - 1], COCO.names[: classes - 1])
    with torch.device("meta"):
        return without_pretrained(config).build(categories, TestConfig())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_blobs_are_detectrons(name: str) -> None:
    """As many blobs and values as Detectron's builder makes."""
    parts, count, numbers = NETWORKS[name]
    shapes = network(**parts)
    assert shapes == network(**parts_of(name))
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (count, numbers)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "e2e_mask_rcnn_R-50-FPN_1x" else pytest.mark.slow) for name in every_network()]
)
def test_every_tensor_is_accounted_for(name: str, tmp_path: Path) -> None:
    parts = every_network()[name]
    blobs = random_blobs(network(**parts))
    shapes = [array.shape for array in blobs.values()]
    extra = {
        "fc1000_w": np.zeros((10, 4), np.float32),
        "conv1_b": np.zeros(64, np.float32),
        "fc6_w_momentum": np.ones(3, np.float32),
    }
    file = tmp_path / "model_final.pkl"
    write(file, blobs | extra)
    del blobs
    config = resolve(f"detectron/{name}").model
    model = built(config, parts.get("classes", 81))
    state, report = convert(read_detectron(file).blobs, model, config, str(file))
    written = read_back(file)["blobs"]

    fixed = {"kps_score_w", "kps_score_b"} & written.keys()
    assert set(report.unused) == extra.keys() | fixed
    assert {*report.loaded.values(), *report.reordered.values(), *report.unused} == written.keys()
    assert {*report.loaded, *report.reordered, *report.constant, *report.initialised} == state.keys()
    assert all(n.startswith("backbone.layer4.") for n in report.initialised) and bool(report.initialised) == (
        parts["kind"] == "rpn_c4"
    )
    assert all(n.endswith(("running_mean", "running_var")) for n in report.constant)
    for ours, theirs in report.loaded.items():
        assert torch.equal(state[ours], torch.from_numpy(written[theirs])), ours
    counts = [state[ours].numel() for ours in (*report.loaded, *report.reordered)]
    assert len(counts) == len(shapes) - len(fixed)
    expected = {"conv1_w"} | ({"cls_score_w", "cls_score_b", "bbox_pred_w", "bbox_pred_b"} & written.keys())
    expected |= {"mask_fcn_logits_w", "mask_fcn_logits_b"} & written.keys()
    expected |= {f"retnet_{part}_pred_fpn3_{leaf}" for part in ("cls", "bbox") for leaf in "wb"} & written.keys()
    assert set(report.reordered.values()) == expected
    affine = state["backbone.conv1.norm.running_var"] + 1e-5 if "backbone.conv1.norm.running_var" in state else torch.ones(1)
    assert torch.equal(affine, torch.ones_like(affine))


def arrays(classes: int, per_class: int, channels: int) -> tuple[Any, Any]:
    values = torch.arange(classes * per_class).float()
    return values[:, None].expand(-1, channels).numpy().copy(), values.numpy().copy()


def test_background_is_put_last() -> None:
    """81 logits become 1..80 and 0; boxes and masks lose those of class 0."""
    blobs = random_blobs(network(masks=True))
    blobs["cls_score_w"], blobs["cls_score_b"] = arrays(81, 1, 1024)
    blobs["bbox_pred_w"], blobs["bbox_pred_b"] = arrays(81, 4, 1024)
    blobs["mask_fcn_logits_b"] = np.arange(81, dtype=np.float32)
    config = resolve("detectron/e2e_mask_rcnn_R-50-FPN_1x").model
    state, _ = convert(blobs, built(config, 81), config, "x")
    assert state["class_logits.bias"].tolist() == [*range(1, 81), 0]
    assert state["class_logits.weight"][:, 7].tolist() == [*range(1, 81), 0]
    assert state["box_deltas.bias"].tolist() == list(range(4, 4 * 81)) == state["box_deltas.weight"][:, 3].tolist()
    assert state["mask_logits.bias"].tolist() == list(range(1, 81))
    assert np.array_equal(state["backbone.conv1.conv.weight"][:, 0], blobs["conv1_w"][:, 2])


SEGMENT_EVERY_THING = """
FAST_RCNN: {ROI_BOX_HEAD: head_builder.add_roi_2mlp_head, ROI_XFORM_METHOD: RoIAlign, ROI_XFORM_RESOLUTION: 7}
FPN: {FPN_ON: true, MULTILEVEL_ROIS: true, MULTILEVEL_RPN: true}
MODEL: {CONV_BODY: FPN.add_fpn_ResNet50_conv5_body, MASK_ON: true, NUM_CLASSES: 81, TYPE: mask_rcnn_frozen_features}
MRCNN:
  BBOX2MASK: {BBOX2MASK_ON: true, INCLUDE_BBOX_PRED: true, STOP_DET_W_GRAD: true, TYPE: 2_layer}
  JOINT_FCN_MLP_HEAD: true
  ROI_MASK_HEAD: mask_rcnn_heads.ResNet_mask_rcnn_fcn_head_v1up4convs
  RESOLUTION: 14
  ROI_XFORM_METHOD: RoIAlign
  ROI_XFORM_RESOLUTION: 7
  ROI_XFORM_SAMPLING_RATIO: 2
  DILATION: 1
  CONV_INIT: MSRAFill
TRAIN: {TRAIN_MASK_HEAD_ONLY: true, DATASETS: [coco_2014_train], SCALES: [800], MAX_SIZE: 1333}
TEST: {DATASETS: [coco_2014_minival], SCALE: 800, MAX_SIZE: 1333}
"""
"""Keys of the second stage of Learning to Segment Every Thing, with masks half as fine, so that its largest layer is small."""


@pytest.mark.slow
def test_weights_of_learning_to_segment_every_thing(tmp_path: Path) -> None:
    """The transfer function and the branch for all classes are recognised; the kernels are those of the blobs in Caffe2's order."""
    blobs = random_blobs(network(masks=True, proposes=False))
    del blobs["mask_fcn_logits_w"], blobs["mask_fcn_logits_b"]
    blobs |= random_blobs({"bbox2mask_mlp_l1_w": (256, 5120), "bbox2mask_mlp_l1_b": (256,)}, seed=1)
    blobs |= random_blobs({"mask_fcn_logits_w_flat_w": (256, 256), "mask_fcn_logits_w_flat_b": (256,)}, seed=2)
    blobs |= random_blobs({"mask_mlp_logits_raw_w": (196, 50176), "mask_mlp_logits_raw_b": (196,)}, seed=3)
    write(tmp_path / "seg.pkl", blobs | {"cls_score_w_jcvbackup": np.ones((5, 2), np.float32)}, SEGMENT_EVERY_THING)
    imported = import_weights(tmp_path / "seg.pkl", "detectron")
    assert imported.report.unused == {"cls_score_w_jcvbackup": "a copy of weights of more classes"}
    head = imported.saved.config.model.mask_head  # type: ignore[attr-defined]  # of RCNNConfig
    assert isinstance(head, MaskXHeadConfig) and (head.inputs, head.layers, head.mlp_branch) == ("cls+box", 2, True)
    model: Any = imported.saved.config.model.build(imported.saved.categories, TestConfig())
    model.load_state_dict(imported.saved.state)
    weights = np.concatenate([blobs["cls_score_w"], blobs["bbox_pred_w"].reshape(81, 4096)], axis=1)
    hidden = weights @ blobs["bbox2mask_mlp_l1_w"].T + blobs["bbox2mask_mlp_l1_b"]
    kernels = np.maximum(hidden, 0.1 * hidden) @ blobs["mask_fcn_logits_w_flat_w"].T + blobs["mask_fcn_logits_w_flat_b"]
    torch.testing.assert_close(model.tasks[0].kernels(model), torch.from_numpy(kernels[1:]), rtol=1e-4, atol=1e-2)
    assert torch.equal(model.mask_mlp.weight, torch.from_numpy(blobs["mask_mlp_logits_raw_w"]))


@pytest.mark.parametrize(
    ("shapes", "inputs", "layers"),
    [
        ({"mask_fcn_logits_w_flat_w": (256, 5120)}, "cls+box", 1),
        ({"bbox2mask_mlp_l1_w": (256, 1024), "mask_fcn_logits_w_flat_w": (256, 256)}, "cls", 2),
        (
            {"bbox2mask_mlp_l1_w": (256, 4096), "bbox2mask_mlp_l2_w": (256, 256), "mask_fcn_logits_w_flat_w": (256, 256)},
            "box",
            3,
        ),
        ({"mask_fcn_logits_w": (1, 256, 1, 1)}, None, 1),
    ],
)
def test_variants_of_the_mask_head_are_recognised(shapes: dict[str, tuple[int, ...]], inputs: str | None, layers: int) -> None:
    blobs = random_blobs(network(masks=True))
    del blobs["mask_fcn_logits_w"], blobs["mask_fcn_logits_b"]
    biases = {name.removesuffix("_w") + "_b": shape[:1] for name, shape in shapes.items()}
    blobs |= random_blobs({**shapes, **biases})
    config = with_mask_head(resolve("detectron/e2e_mask_rcnn_R-50-FPN_1x").model, blobs)
    head = config.mask_head  # type: ignore[attr-defined]  # of RCNNConfig
    assert isinstance(head, MaskXHeadConfig) and (head.inputs, head.layers, head.mlp_branch) == (inputs, layers, False)
    state, _ = convert(blobs, built(config, 81), config, "x")
    last = "mask_logits" if inputs is None else f"mask_transfer.layers.{layers - 1}"
    assert torch.equal(state[f"{last}.bias"], torch.from_numpy(blobs[list(biases)[-1]]))


def test_anchors_of_retinanet_are_reordered() -> None:
    """Channel (octave, ratio, class) becomes (ratio, octave, class)."""
    blobs = random_blobs(network(kind="retinanet"))
    blobs["retnet_cls_pred_fpn3_b"] = np.arange(720, dtype=np.float32)
    blobs["retnet_bbox_pred_fpn3_b"] = np.arange(36, dtype=np.float32)
    config = resolve("detectron/retinanet_R-50-FPN_1x").model
    assert isinstance(config, RetinaNetConfig) and config.head.anchor_ratios == (1.0, 2.0, 0.5)
    state, _ = convert(blobs, built(config, 81), config, "x")
    logits, deltas = state["class_logits.bias"].view(3, 3, 80), state["box_deltas.bias"].view(3, 3, 4)
    for ratio in range(3):
        for octave in range(3):
            anchor = octave * 3 + ratio
            assert logits[ratio, octave].tolist() == list(range(anchor * 80, anchor * 80 + 80))
            assert deltas[ratio, octave].tolist() == list(range(anchor * 4, anchor * 4 + 4))


def test_an_imagenet_backbone() -> None:
    """A file of a backbone's blobs alone: the heads keep the model's values."""
    shapes = backbone(50)
    convolution(shapes, "fc1000", 1000, 2048)
    config = resolve("detectron/e2e_faster_rcnn_R-50-FPN_1x").model
    model = without_pretrained(config).build(COCO, TestConfig())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, report = convert(random_blobs(shapes), model, config, "R-50.pkl")
    assert all(not name.startswith("backbone.") for name in report.initialised) and "rpn.objectness.weight" in report.initialised
    assert all(torch.equal(state[name], before[name]) for name in report.initialised)
    assert not torch.equal(state["backbone.layer3.0.conv1.conv.weight"], before["backbone.layer3.0.conv1.conv.weight"])
    assert list(report.unused) == ["fc1000_b", "fc1000_w"]


@pytest.mark.parametrize("change", ["missing", "shape", "depth"])
def test_tensors_that_do_not_fit_are_named(change: str) -> None:
    blobs = random_blobs(network(depth=101 if change == "depth" else 50))
    if change == "missing":
        del blobs["fc7_w"], blobs["rpn_bbox_pred_fpn2_b"]
    if change == "shape":
        blobs["fc7_w"] = np.zeros((1024, 1000), np.float32)
    config = resolve("detectron/e2e_faster_rcnn_R-50-FPN_1x").model
    expected = {
        "missing": "lacks 2 tensors.*rpn_bbox_pred_fpn2_b, fc7_w",
        "shape": r"fc7_w gives .*\(1024, 1000\)",
        "depth": "res4_5_sum",
    }
    with pytest.raises(UserError, match=expected[change]):
        convert(blobs, built(config, 81), config, "model.pkl")


def test_blobs_without_a_place_are_refused() -> None:
    """But for those that Detectron kept of the file that it began with: it saved a momentum of the ones it trained."""
    config = resolve("detectron/rpn_R-50-C4_1x").model
    model = built(config, 81)
    blobs = {name: np.broadcast_to(np.float32(1), shape) for name, shape in network(kind="rpn_c4").items()}
    mask = {"conv5_mask_w": np.ones((2, 2), np.float32)}
    trained = {"conv_rpn_w_momentum": np.ones(3, np.float32), "lr": np.ones(1, np.float32)}
    for extra in (mask, mask | trained | {"conv5_mask_w_momentum": np.ones(3, np.float32)}):
        with pytest.raises(UserError, match="1 tensors that the model has no place for: conv5_mask_w;"):
            convert(blobs | extra, model, config, "model_final.pkl")
    _, report = convert(blobs | mask | trained, model, config, "model_final.pkl")
    assert report.unused == {
        "conv5_mask_w": "of an earlier network, not trained",
        "conv_rpn_w_momentum": "of the optimizer",
        "lr": "of the optimizer",
    }


@pytest.mark.parametrize("shared", [True, False])
def test_mask_heads_on_c4(shared: bool) -> None:
    """v0upshare reads the box head's res5; v0up has another res5, which copies that one where the file lacks values."""
    config = RCNNConfig(
        backbone=ResNetConfig(last_stage="tail", stride_in="1x1", weights=None),
        fpn=None,
        rpn=None,
        box_head=AverageHeadConfig(),
        mask_head=ConvMaskHeadConfig(convs=0, source="tail" if shared else "own_tail"),
    )
    blobs = random_blobs(network(kind="c4", masks=True))
    blobs = {name: value for name, value in blobs.items() if "rpn" not in name}
    tail_weight = "_[mask]_res5_1_branch2b_w"
    if not shared:
        blobs[tail_weight] = random_blobs({tail_weight: blobs["res5_1_branch2b_w"].shape}, seed=5)[tail_weight]
    state, report = convert(blobs, built(config, 81), config, "x")
    assert any(name.startswith("mask_tail.") for name in state) != shared and not report.unused
    if not shared:
        assert torch.equal(state["mask_tail.1.conv2.conv.weight"], torch.from_numpy(blobs[tail_weight]))
        assert torch.equal(state["mask_tail.0.conv1.conv.weight"], torch.from_numpy(blobs["res5_0_branch2a_w"]))


def test_rfcn() -> None:
    """3 x 3 score maps per class: those of background become the last, and its box maps are dropped."""
    shapes = backbone(50)
    convolution(shapes, "conv_dim_reduce", 1024, 2048, 1, 1)
    convolution(shapes, "conv_cls", 729, 1024, 1, 1)
    convolution(shapes, "conv_bbox_pred", 2916, 1024, 1, 1)
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (165, 29_342_333)
    blobs = random_blobs(shapes)
    blobs["conv_cls_b"], blobs["conv_bbox_pred_b"] = np.arange(729, dtype=np.float32), np.arange(2916, dtype=np.float32)
    dilated, rois = ResNetConfig(last_stage="dilated", stride_in="1x1", weights=None), RoIConfig(class_agnostic=False)
    config = RFCNConfig(geometry="detectron1", backbone=dilated, rpn=None, rois=rois, grid=3)
    state, report = convert(blobs, built(config, 81), config, "x")
    assert not report.unused
    assert state["class_maps.bias"].tolist() == [*range(9, 729), *range(9)]
    assert state["box_maps.bias"].tolist() == list(range(36, 2916))


@pytest.mark.parametrize(
    ("config", "numbers"), [(VGG16Config(weights=None), (34, 134_690_729)), (VGGCNNM1024Config(frozen_stages=0), (18, 86_333_161))]
)
def test_vgg(config: Any, numbers: tuple[int, int]) -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    medium = isinstance(config, VGGCNNM1024Config)
    if medium:
        for layer, shape in enumerate(
            [(96, 3, 7, 7), (256, 96, 5, 5), (512, 256, 3, 3), (512, 512, 3, 3), (512, 512, 3, 3)], start=1
        ):
            convolution(shapes, f"conv{layer}", *shape)
    else:
        channels = 3
        for stage, (width, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], start=1):
            for layer in range(1, count + 1):
                convolution(shapes, f"conv{stage}_{layer}", width, channels, 3, 3)
                channels = width
    convolution(shapes, "fc6", 4096, 512 * (36 if medium else 49))
    convolution(shapes, "fc7", 1024 if medium else 4096, 4096)
    convolution(shapes, "cls_score", 21, 1024 if medium else 4096)
    convolution(shapes, "bbox_pred", 84, 1024 if medium else 4096)
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == numbers
    blobs = random_blobs(shapes)
    rcnn = RCNNConfig(backbone=config, fpn=None, rpn=None, box_head=AverageHeadConfig(resolution=6 if medium else 7))
    state, report = convert(blobs, built(rcnn, 21), rcnn, "x")
    assert (
        not report.unused
        and not report.initialised
        and set(report.reordered.values()) >= {"conv1_w" if medium else "conv1_1_w", "cls_score_w"}
    )
    name = "backbone.conv1.weight" if medium else "backbone.conv1.0.weight"
    assert np.array_equal(state[name][:, 2], blobs["conv1_w" if medium else "conv1_1_w"][:, 0])


def test_the_backbone_computes_the_same_as_detectron() -> None:
    """Stem and first block: plain operations with the blobs on BGR against our backbone on RGB."""
    blobs = random_blobs(backbone(50))
    blobs = {name: value * 0.05 if name.endswith("_w") else value for name, value in blobs.items()}
    shapes = network()
    blobs |= {name: np.zeros(shapes[name], np.float32) for name in shapes.keys() - blobs.keys()}
    config = resolve("detectron/e2e_faster_rcnn_R-50-FPN_1x").model
    model: Any = without_pretrained(config).build(COCO, TestConfig())
    state, _ = convert(blobs, model, config, "x")
    model.load_state_dict(state)
    rgb = torch.randint(0, 255, (1, 3, 64, 96), generator=torch.Generator().manual_seed(0)).float()
    bgr = rgb.flip(1) - torch.tensor([102.9801, 115.9465, 122.7717])[:, None, None]

    def layer(x: torch.Tensor, name: str, bn: str, **options: int) -> torch.Tensor:
        x = F.conv2d(x, torch.from_numpy(blobs[f"{name}_w"]), **options)
        return x * torch.from_numpy(blobs[f"{bn}_s"])[:, None, None] + torch.from_numpy(blobs[f"{bn}_b"])[:, None, None]

    x = F.max_pool2d(layer(bgr, "conv1", "res_conv1_bn", stride=2, padding=3).relu(), 3, 2, 1)
    hidden = layer(x, "res2_0_branch2a", "res2_0_branch2a_bn").relu()
    hidden = layer(hidden, "res2_0_branch2b", "res2_0_branch2b_bn", padding=1).relu()
    expected = (layer(hidden, "res2_0_branch2c", "res2_0_branch2c_bn") + layer(x, "res2_0_branch1", "res2_0_branch1_bn")).relu()
    with torch.no_grad():
        images = (rgb - model.mean[:, None, None]) / model.std[:, None, None]
        stem = F.max_pool2d(F.relu(model.backbone.conv1(images)), 3, stride=2, padding=1)
        ours = model.backbone.layer1[0](stem)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-3 * float(expected.abs().max()))
