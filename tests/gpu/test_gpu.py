"""On a CUDA GPU: each architecture has the detections of the CPU, and trains in every precision. Skipped without a GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d, box_iou

from boxwood.inference.predictor import prepare
from boxwood.models.backbones.backbone import conv_relu
from boxwood.models.config import without_pretrained
from boxwood.ops.nms import _survivors_on_gpu, nms_mask
from boxwood.ops.roi_align import _kernel_on_gpu, pool_levels
from boxwood.recipes import resolve
from boxwood.structures import Batch, Categories, Detections, InstanceMasks, KeypointFacts, Target
from tests.conftest import Boxwood, tiny
from tests.models.peers import randomize_predictor

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.*TF32")]

DEVICE = "cuda"
CLASSES = Categories((1, 2, 5), ("a", "b", "c"), KeypointFacts(("nose", "left_ear", "right_ear"), (0, 2, 1), (), (0.05,) * 3))
REGIONS = ["model.rpn.train_candidates=100", "model.rpn.test_candidates=100", "model.rpn.test_proposals=50"]
POOLED = ["model.rois.samples_per_image=24"]
ARCHITECTURES: dict[str, list[str]] = {
    "faster_rcnn_mobilenetv2_fpn": [*REGIONS, *POOLED],
    "mask_rcnn_mobilenetv2_fpn": [*REGIONS, *POOLED],
    "keypoint_rcnn_mobilenetv2_fpn": [*REGIONS, *POOLED],
    "fast_rcnn_mobilenetv2_fpn": POOLED,
    "faster_rcnn_r50_c4_1x": [*REGIONS, *POOLED],
    "mask_rcnn_r18_fpn_gn_scratch": [*REGIONS, *POOLED],
    "rfcn_mobilenetv2": REGIONS,
    "rpn_mobilenetv2_fpn": REGIONS,
    "retinanet_mobilenetv2_fpn": [],
}
EVERY_ARCHITECTURE = pytest.mark.parametrize("recipe", ARCHITECTURES)


@pytest.fixture(autouse=True)
def without_tf32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def detector(recipe: str) -> Any:
    """A network with random weights whose scores are far enough apart that rounding does not reorder them."""
    config = resolve(recipe, ARCHITECTURES[recipe])
    torch.manual_seed(0)
    network: Any = without_pretrained(config.model).build(CLASSES, config.test).eval()
    for name, module in network.named_modules():
        if isinstance(module, FrozenBatchNorm2d) and name.endswith("conv3.norm"):
            module.weight.fill_(0.2)  # or else the maps of a deep random backbone explode
        if isinstance(module, nn.Conv2d) and name.startswith("backbone.features"):
            nn.init.kaiming_normal_(module.weight, mode="fan_in")  # or else those of a MobileNet vanish
    batch = two_images()
    batch.targets = None
    for name, deviation in (("rpn.objectness", 2.0), ("class_maps", 10.0), ("class_logits", 2.0)):
        if any(name == each for each, _ in network.named_modules()):
            randomize_predictor(network, network.get_submodule(name), deviation, lambda: detect(network, batch))
    return network


def two_images() -> Batch:
    """One image with two instances and one without any, which is smaller."""
    boxes = torch.tensor([[4.0, 4.0, 60.0, 64.0], [40.0, 20.0, 120.0, 80.0]])
    keypoints = torch.tensor([[[10.0, 10, 2], [20, 30, 1], [0, 0, 0]], [[50, 40, 2], [60, 30, 2], [80, 50, 2]]])
    masks = InstanceMasks(torch.ones(2, 28, 28, dtype=torch.uint8), boxes.clone())
    no_masks = InstanceMasks(torch.zeros(0, 28, 28, dtype=torch.uint8), torch.zeros(0, 4))
    labels, no_boxes = torch.tensor([0, 2]), torch.zeros(0, 4)
    targets = (
        Target(boxes, labels, no_boxes, masks, keypoints),
        Target(no_boxes, labels[:0], no_boxes, no_masks, keypoints[:0]),
    )
    images = torch.randint(0, 256, (2, 3, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = ((96, 128), (90, 120))
    proposals = (torch.cat([boxes + 2, torch.tensor([[0.0, 0, 50, 50]])]), no_boxes)
    return Batch(images, torch.tensor(sizes), sizes, (1, 2), ("a", "b"), (1, 2), targets, proposals)


def detect(network: Any, batch: Batch) -> list[Detections]:
    with torch.no_grad():
        results: list[Detections] = network.detections(network(batch), batch)
    return [detections.to("cpu") for detections in results]


@EVERY_ARCHITECTURE
def test_detections_are_those_of_the_cpu(recipe: str) -> None:
    """Nearly all of them: where two overlaps or two scores are equal up to rounding, the devices may decide differently."""
    network, batch = prepare(detector(recipe)), two_images()
    batch.targets = None
    on_cpu = detect(network, batch)
    on_gpu = detect(network.to(DEVICE), batch.to(DEVICE))
    assert len(on_cpu[0]) > 0
    for ours, theirs in zip(on_cpu, on_gpu, strict=True):
        assert abs(len(ours) - len(theirs)) <= len(ours) / 20
        if len(ours) == 0:
            continue
        alike = box_iou(ours.boxes, theirs.boxes) - (ours.scores[:, None] - theirs.scores).abs()
        best, index = alike.where(ours.labels[:, None] == theirs.labels, 0.0).max(dim=1)
        same = best > 0.99
        assert same.float().mean() >= 0.95
        ours, theirs = ours[same], theirs[index[same]]
        torch.testing.assert_close(ours.boxes, theirs.boxes, atol=0.01, rtol=0)
        torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-3, rtol=0)
        if ours.mask_probabilities is not None:
            torch.testing.assert_close(ours.mask_probabilities, theirs.mask_probabilities, atol=1e-3, rtol=0)
            assert ours.masks is not None and theirs.masks is not None
            assert (ours.masks != theirs.masks).float().mean() < 1e-3
        if ours.keypoints is not None:
            assert theirs.keypoints is not None
            apart = (ours.keypoints - theirs.keypoints)[..., :2].norm(dim=-1)
            assert (apart < 0.1).float().mean() >= 0.95


def test_the_nms_kernel_keeps_what_the_cpu_keeps() -> None:
    """Many groups of many sizes, equal scores, and boxes that are left out."""
    assert _survivors_on_gpu() is not None
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(20_000, 4, generator=generator) * 300
    boxes[:, 2:] = boxes[:, :2] + torch.rand(20_000, 2, generator=generator) * 100
    scores = (torch.rand(20_000, generator=generator) * 5000).round()
    groups = (torch.rand(20_000, generator=generator) ** 3 * 40).long()
    valid = torch.rand(20_000, generator=generator) > 0.1
    for threshold in (0.3, 0.5, 0.7):
        expected = nms_mask(boxes, scores, groups, threshold, valid)
        on_gpu = nms_mask(boxes.to(DEVICE), scores.to(DEVICE), groups.to(DEVICE), threshold, valid.to(DEVICE))
        assert torch.equal(on_gpu.cpu(), expected)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_the_roi_align_kernel_gives_the_features_and_gradients_of_the_cpu(ratio: int, aligned: bool) -> None:
    assert _kernel_on_gpu() is not None
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 256, side, side + 8, generator=generator) for side in (64, 32, 16, 8)]
    corners = torch.rand(200, 2, generator=generator) * 250 - 20
    rois = torch.cat([corners, corners + torch.rand(200, 2, generator=generator) * 100], dim=1)
    levels, images = (torch.randint(count, (200,), generator=generator) for count in (4, 2))
    weights = torch.randn(200, 256, 7, 7, generator=generator)
    results = []
    for device in ("cpu", DEVICE):
        leaves = [level.to(device).to(memory_format=torch.channels_last).requires_grad_() for level in maps]
        places = levels.to(device), rois.to(device), images.to(device)
        pooled = pool_levels(leaves, (4, 8, 16, 32), *places, 7, sampling_ratio=ratio, aligned=aligned)
        results.append([pooled, *torch.autograd.grad((pooled * weights.to(device)).sum(), leaves)])
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (7, 2, 1)])
@pytest.mark.parametrize("with_shortcut", [False, True])
def test_a_convolution_with_relu_is_that_of_the_cpu(kernel: int, stride: int, dilation: int, with_shortcut: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 16, kernel, stride, dilation * (kernel // 2), dilation)
    x = torch.randn(2, 8, 21, 30)
    shortcut = torch.randn_like(layer(x)) if with_shortcut else None
    weights = torch.randn_like(layer(x))
    results = []
    for device in ("cpu", DEVICE):
        layer.to(device)
        leaves = [tensor.to(device).requires_grad_() for tensor in (x, shortcut) if tensor is not None]
        output = conv_relu(layer, *(leaf.clone() for leaf in leaves))
        results.append([output, *torch.autograd.grad((output * weights.to(device)).sum(), [*leaves, *layer.parameters()])])
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@EVERY_ARCHITECTURE
def test_a_training_step_changes_the_weights(recipe: str, precision: torch.dtype) -> None:
    network, batch = detector(recipe).to(DEVICE).to(memory_format=torch.channels_last).train(), two_images().to(DEVICE)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in trained]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=8.0, enabled=precision is torch.float16)
    with torch.autocast(DEVICE, precision, enabled=precision is not torch.float32):
        losses = network.losses(network(batch), batch.targets)
        total = torch.stack(list(losses.values())).sum()
    scaler.scale(total).backward()
    scaler.step(optimizer)
    assert all(loss.isfinite() for loss in losses.values())
    gradients = [parameter.grad for parameter in trained]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(not torch.equal(parameter, old) for parameter, old in zip(trained, before, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_trains_and_evaluates(boxwood: Boxwood, shapes: Path, tmp_path: Path, precision: str) -> None:
    overrides = [*tiny(shapes), f"train.device={DEVICE}", f"train.precision={precision}", "train.log_every=1", "data.workers=1"]
    outcome = boxwood("train", "demo_shapes", *overrides, "--out", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2]
    assert all(line["loss"] is not None for line in lines)
    assert boxwood("eval", tmp_path / "run").status == 0
