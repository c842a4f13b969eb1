"""RetinaNet: torchvision's numbers from torchvision's weights; matching, losses and detections, for ordinary and odd images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.ops
from torch import Tensor, nn
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2

from boxwood.inference.predictor import prepare
from boxwood.interop.torchvision import retinanet_config, retinanet_state
from boxwood.models.backbones import ResNetConfig
from boxwood.models.config import FPNConfig, RetinaNetConfig, RetinaNetHeadConfig
from boxwood.models.fpn import FPN
from boxwood.models.ground_truth import ground_truth_of
from boxwood.models.inference_config import TestConfig
from boxwood.models.retinanet import RetinaNet, RetinaNetOutput, assign
from boxwood.ops.boxes import giou
from boxwood.ops.losses import focal
from boxwood.structures import Batch, Categories, Target
from tests.models.peers import CLASSES, ExactAnchors, batch_of, photos, randomize_norms, randomize_predictor

# ------------------------------------------------------------------------------------------------------- beside torchvision


@torch.no_grad()
def peer(image: Tensor, *, v2: bool, bias: float = -3.0) -> Any:
    """torchvision's network with random weights that give detections in ``image`` (3, H, W) uint8; ``bias`` decides how many."""
    torch.manual_seed(0)
    build = retinanet_resnet50_fpn_v2 if v2 else retinanet_resnet50_fpn
    network: Any = build(weights=None, weights_backbone=None, num_classes=91).eval()
    randomize_norms(network.backbone.body)
    network.anchor_generator = ExactAnchors(network.anchor_generator, 8)
    network.detections_per_img = 100
    network.transform.min_size = (min(image.shape[-2:]),)
    network.transform.postprocess = lambda results, *sizes: results
    for tower in (network.head.classification_head.conv, network.head.regression_head.conv):
        for layer in tower.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)

    def run() -> Any:
        return network([image.float() / 255])

    randomize_predictor(network, network.head.classification_head.cls_logits, 1.0, run)
    randomize_predictor(network, network.head.regression_head.bbox_reg, 0.3, run)
    network.head.classification_head.cls_logits.bias.fill_(bias)
    network.head.classification_head.cls_logits.bias.view(9, 91)[:, 0] = -100  # the class 0 that nothing belongs to
    return network


def ours_with(network: Any, *, v2: bool) -> RetinaNet:
    model = retinanet_config(v2=v2).build(CLASSES, TestConfig()).eval()
    model.load_state_dict(retinanet_state(network.state_dict()))
    return model


def assert_same_detections(image: Tensor, *, v2: bool, bias: float) -> None:
    network = peer(image, v2=v2, bias=bias)
    model = ours_with(network, v2=v2)
    batch = batch_of(image)
    with torch.no_grad():
        (expected,) = network([image.float() / 255])
        (before,) = model.detections(model(batch), batch)
        prepare(model)
        (after,) = model.detections(model(batch), batch)
    assert 50 <= len(expected["boxes"]) <= 100
    assert expected["labels"].unique().numel() > 3
    # Where there are more than a hundred, rounding decides which of several equal scores is the last.
    sure = int((expected["scores"] > expected["scores"][-1] + 1e-5).sum())
    assert sure >= 50
    for detections in (before, after):
        assert len(detections) == len(expected["boxes"])
        assert torch.equal(detections.labels[:sure], expected["labels"][:sure] - 1)
        torch.testing.assert_close(detections.boxes[:sure], expected["boxes"][:sure], rtol=0, atol=0.01)
        torch.testing.assert_close(detections.scores, expected["scores"], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_detections_are_torchvisions(v2: bool) -> None:
    """At 800 x 1216, before and after `prepare`, on each of three photographs."""
    for image in photos((800, 1216)):
        assert_same_detections(image, v2=v2, bias=-5.0)


@pytest.mark.slow
@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_losses_are_torchvisions(v2: bool) -> None:
    """Of one image with three instances, and their gradients."""
    height, width = 256, 384
    (image, *_) = photos((height, width))
    network = peer(image, v2=v2).train()
    model = ours_with(network, v2=v2).train()
    for module in (*network.modules(), *model.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    boxes = torch.tensor([[20.0, 30, 140, 200], [150.5, 10.25, 300, 120], [100, 150, 131, 190]])
    labels = torch.tensor([4, 0, 77])
    expected = network([image.float() / 255], [{"boxes": boxes, "labels": labels + 1}])
    target = Target(boxes, labels, torch.zeros(0, 4))
    losses = model.losses(model(batch_of(image, (target,))), (target,))
    assert losses["loss_box"].item() == pytest.approx(expected["bbox_regression"].item(), rel=1e-5)
    # torchvision's class 0 is far below: it adds nothing.
    assert losses["loss_class"].item() == pytest.approx(expected["classification"].item(), rel=1e-5)
    sum(expected.values()).backward()
    torch.stack(list(losses.values())).sum().backward()
    norms = {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    trained = {name: value.grad for name, value in model.named_parameters() if value.requires_grad and "norm" not in name}
    named = {n: v.grad if v.grad is not None else torch.zeros_like(v) for n, v in network.named_parameters()}
    gradients = retinanet_state({name: value for name, value in named.items() if name.rpartition(".")[0] not in norms})
    assert len(trained) > 60
    for name, gradient in trained.items():
        assert gradient is not None
        # A value that is 0 up to rounding passes a ReLU here and not there, so single weights may differ.
        norm = float(gradients[name].norm())
        assert norm > 0 and float((gradient - gradients[name]).norm()) < 1e-2 * norm, name


# ------------------------------------------------------------------------------------------------------------ by hand


def test_anchors_are_the_papers() -> None:
    """Areas of 32^2 to 512^2 on P3 to P7, three an octave, three ratios (section 4, anchors)."""
    head = RetinaNetHeadConfig()
    assert [level[0] for level in head.anchor_sizes] == [32, 64, 128, 256, 512]
    np.testing.assert_allclose(head.anchor_sizes[0], [32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)])
    model = small()
    assert model.cells.shape == (5, 9, 4)
    sides = model.cells[0, :, 2:] - model.cells[0, :, :2]
    np.testing.assert_allclose(sides.prod(dim=1).sqrt().reshape(3, 3), [head.anchor_sizes[0]] * 3, rtol=1e-5)
    np.testing.assert_allclose((sides[:, 1] / sides[:, 0]).reshape(3, 3).T, [[0.5, 1, 2]] * 3, rtol=1e-5)


def test_focal_loss_is_torchvisions_and_stays_finite() -> None:
    logits = torch.tensor([-200.0, -8, -1, 0, 0.3, 5, 90]).repeat(2, 1)
    positive = torch.tensor([[True], [False]]).expand(2, 7)
    expected = torchvision.ops.sigmoid_focal_loss(logits, positive.float(), 0.25, 2.0)
    torch.testing.assert_close(focal(logits, positive, 0.25, 2.0), expected)
    logits.requires_grad_()
    focal(logits, positive, 0.25, 2.0).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_giou_is_torchvisions() -> None:
    corners = torch.rand(64, 2, 2, generator=torch.Generator().manual_seed(0)) * 10
    sides = torch.rand(64, 2, 2, generator=torch.Generator().manual_seed(1)) * 6 + 0.1
    a, b = torch.cat([corners, corners + sides], dim=2).unbind(1)
    torch.testing.assert_close(giou(a, b), torchvision.ops.generalized_box_iou(a, b).diagonal())


def test_every_class_begins_at_the_prior() -> None:
    model = small()
    batch = noise_batch(64, 64)
    with torch.no_grad():
        logits = torch.cat(model(batch).class_logits, dim=1)
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.05)


def assigned(anchors: Tensor, target: Target, size: Sequence[int], config: RetinaNetHeadConfig) -> tuple[Tensor, Tensor, Tensor]:
    """`assign` for one image of three classes."""
    labels, boxes, count = assign(anchors, ground_truth_of((target,)), torch.tensor([size]), torch.ones(1, 2), config, 3)
    return labels[0], boxes[0], count


def test_targets_of_anchors_by_hand() -> None:
    """Anchors by hand: the same box, half of it, a box beside it, in the padding, in an ignored region, the best of a small
    instance."""
    anchors = torch.tensor(
        [[0.0, 0, 40, 40], [0, 0, 40, 18], [0, 0, 40, 16.1], [50, 0, 90, 40], [0, 100, 40, 140], [50, 50, 90, 90], [10, 60, 40, 90]]
    )
    target = Target(
        torch.tensor([[0.0, 0, 40, 40], [20, 60, 30, 90]]), torch.tensor([2, 0]), ignore=torch.tensor([[45.0, 45, 100, 99]])
    )
    labels, boxes, count = assigned(anchors, target, (100, 100), RetinaNetHeadConfig())
    assert count == 2
    # IoU 1, 0.45, 0.4025, 0, (padding), (ignored), 0.33 but the best of its instance
    assert labels.tolist() == [2, -1, -1, 3, -1, -1, 0]
    assert boxes[0].tolist() == [0, 0, 40, 40] and boxes[6].tolist() == [20, 60, 30, 90]
    assert torch.equal(boxes[1:6], anchors[1:6])


@pytest.mark.parametrize("top", ["conv_c5", "conv_p5"])
def test_the_top_of_the_pyramid(top: Any) -> None:
    """P6 and P7 halve the map below, rounded up."""
    fpn = FPN(FPNConfig(channels=8, top=top), (16, 24, 32), (8, 16, 32))
    assert fpn.strides == (8, 16, 32, 64, 128)
    maps = [torch.rand(1, channels, side, side) for channels, side in ((16, 20), (24, 10), (32, 5))]
    levels = fpn(maps)
    assert [level.shape[-1] for level in levels] == [20, 10, 5, 3, 2]
    source = maps[2] if top == "conv_c5" else levels[2]
    p6 = torch.conv2d(source, fpn.p6.weight, fpn.p6.bias, stride=2, padding=1)
    torch.testing.assert_close(levels[3], p6)
    torch.testing.assert_close(levels[4], torch.conv2d(p6.relu(), fpn.p7.weight, fpn.p7.bias, stride=2, padding=1))


# ---------------------------------------------------------------------------------------------------------- small networks


THREE = Categories((3, 5, 9), ("disc", "star", "ring"))


def small(*, seed: int = 0, shared: bool = False, norm: Any = None, loss: Any = "smooth_l1") -> RetinaNet:
    torch.manual_seed(seed)
    config = RetinaNetConfig(
        backbone=ResNetConfig(depth=18, width=32, norm="gn", frozen_stages=0, weights=None),
        fpn=FPNConfig(channels=64, top="conv_c5"),
        head=RetinaNetHeadConfig(convs=2, shared_tower=shared, norm=norm, box_loss=loss),
    )
    return config.build(THREE, TestConfig(score_threshold=0.0))


def noise_batch(height: int, width: int, *targets: Target) -> Batch:
    count = max(len(targets), 1)
    images = torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sizes = torch.tensor([[height, width]] * count)
    return Batch(images, sizes, ((height, width),) * count, tuple(range(count)), (), tuple(range(count)), targets or None)


ONE = Target(torch.tensor([[10.0, 12, 60, 70], [70, 20, 110, 80]]), torch.tensor([0, 2]), torch.zeros(0, 4))
EMPTY = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("loss", ["smooth_l1", "giou"])
def test_every_weight_has_a_gradient(shared: bool, loss: str) -> None:
    model = small(shared=shared, norm="gn", loss=loss)
    batch = noise_batch(96, 128, ONE, EMPTY)
    assert batch.targets is not None
    losses = model.losses(model(batch), batch.targets)
    assert set(losses) == {"loss_class", "loss_box"} and all(value.isfinite() for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    without = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    assert not without


def test_images_without_instances() -> None:
    model = small()
    batch = noise_batch(96, 128, EMPTY, EMPTY)
    losses = model.losses(model(batch), (EMPTY, EMPTY))
    assert losses["loss_box"] == 0 and losses["loss_class"].isfinite()
    model.test.score_threshold = 1.0
    with torch.no_grad():
        output = model(noise_batch(96, 128))
        (detections,) = model.detections(output, noise_batch(96, 128))
    assert len(detections) == 0 and detections.boxes.shape == (0, 4)


def test_losses_are_over_the_positives_of_the_batch() -> None:
    """The losses of images with one and two instances are one sum over all positives, divided by their number."""
    model = small().eval()
    single = Target(ONE.boxes[:1], ONE.labels[:1], torch.zeros(0, 4))
    batch = noise_batch(96, 128, ONE, single)
    output = model(batch)
    both = model.losses(output, (ONE, single))
    total = torch.zeros(2)
    count = 0
    for index, target in enumerate((ONE, single)):
        labels, _, counted = assigned(torch.cat(output.anchors), target, batch.sizes[index].tolist(), model.config.head)
        positives = int(((labels >= 0) & (labels < 3)).sum())
        assert counted == positives
        part = type(output)(
            tuple(logits[index, None] for logits in output.class_logits),
            tuple(deltas[index, None] for deltas in output.box_deltas),
            output.anchors,
            batch.sizes[index, None],
            output.scales[index, None],
        )
        losses = model.losses(part, (target,))
        total += torch.stack([losses["loss_class"], losses["loss_box"]]).detach() * positives
        count += positives
    torch.testing.assert_close(torch.stack([both["loss_class"], both["loss_box"]]).detach(), total / count)


def test_anchors_in_the_padding_are_not_used() -> None:
    model = small().eval()
    anchors = torch.cat(model(noise_batch(96, 128)).anchors)
    labels, _, _ = assigned(anchors, ONE, (80, 100), model.config.head)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    outside = (centres[:, 0] >= 100) | (centres[:, 1] >= 80)
    assert outside.any() and (labels[outside] == -1).all() and (labels[~outside] == 3).any()


def test_the_best_pairs_become_instances() -> None:
    """The top-k over the best anchors has the (anchor, class) pairs of that over all anchors."""
    model = small().eval()
    model.config.head.test_candidates = 50
    model.test.nms_threshold = 1.0
    model.test.detections_per_image = 30
    batch = noise_batch(96, 128)
    with torch.no_grad():
        nn.init.normal_(model.class_logits.weight, std=0.5)
        output = model(batch)
    assert output.instances is not None
    everything = torch.cat(output.class_logits, dim=1)[0].sigmoid().flatten()
    torch.testing.assert_close(output.instances.scores[0], everything.topk(30).values)
    assert (output.instances.boxes >= 0).all() and (output.instances.boxes[..., 2] <= 128).all()


def test_a_shared_tower_has_the_weights_of_one() -> None:
    one, two = small(shared=True), small()
    assert sum(p.numel() for p in two.parameters()) - sum(p.numel() for p in one.parameters()) == 2 * (64 * 64 * 9 + 64)


@pytest.mark.parametrize("convs", [0, 1, 3])
@pytest.mark.parametrize("loss", ["smooth_l1", "giou"])
def test_boxes_are_learnt_in_cells_with_positives_alone(convs: int, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and gradients are those of boxes everywhere, at the borders of the maps too."""
    config = RetinaNetConfig(
        backbone=ResNetConfig(depth=18, width=32, norm="gn", frozen_stages=0, weights=None),
        fpn=FPNConfig(channels=32, top="conv_c5"),
        head=RetinaNetHeadConfig(convs=convs, box_loss=loss),
    )
    torch.manual_seed(0)
    model = config.build(THREE, TestConfig())
    nn.init.normal_(model.box_deltas.weight, std=0.1)
    corners = Target(torch.tensor([[0.0, 0, 40, 50], [96, 64, 128, 96]]), torch.tensor([0, 2]), torch.zeros(0, 4))
    batch = noise_batch(96, 128, corners, EMPTY, ONE)
    assert batch.targets is not None

    def learn() -> tuple[RetinaNetOutput, dict[str, Tensor], list[Tensor]]:
        output = model(batch)
        losses = model.losses(output, batch.targets)
        return output, losses, list(torch.autograd.grad(torch.stack(list(losses.values())).sum(), list(model.parameters())))

    monkeypatch.setattr("boxwood.models.retinanet.MOST_PATCHES", math.inf)
    sparse, losses, gradients = learn()
    monkeypatch.setattr(RetinaNet, "_cells_with_boxes", lambda self, labels: None)
    dense, expected_losses, expected = learn()
    assert sparse.assigned is not None
    positive = (sparse.assigned[0] >= 0) & (sparse.assigned[0] < 3)
    deltas, everywhere = torch.cat(sparse.box_deltas, dim=1), torch.cat(dense.box_deltas, dim=1)
    assert 0 < (deltas != 0).any(dim=2).sum() < deltas.shape[0] * deltas.shape[1] / 2
    torch.testing.assert_close(deltas[positive], everywhere[positive], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-6)
    for gradient, truth in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, truth, rtol=1e-3, atol=1e-5 * max(1.0, float(truth.abs().max())))


def test_boxes_are_computed_everywhere_where_most_cells_have_positives() -> None:
    model = small()
    few, many = torch.full((2, 9 * 5000), 3), torch.full((2, 9 * 5000), 3)
    few[1, 7 * 9 + 4] = many[0, ::18] = 0  # of 10,000 cells: one, 2,500
    rows = model._cells_with_boxes(few)
    assert rows is not None and rows[0] == 5007 and len(rows) == 16
    assert model._cells_with_boxes(many) is None
    model.fixed_shapes = True
    assert model._cells_with_boxes(few) is None
