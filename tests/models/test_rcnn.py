"""Faster and Mask R-CNN: outputs, sampling, losses by numpy and detections beside torchvision's, for ordinary and odd images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.ops
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from boxwood.errors import UserError
from boxwood.models.backbones import ResNetConfig
from boxwood.models.config import FPNConfig, RCNNConfig, RoIConfig, RPNConfig
from boxwood.models.detector import normalize_images
from boxwood.models.heads import ConvMaskHeadConfig, TwoFCHeadConfig
from boxwood.models.inference_config import TestConfig
from boxwood.models.postprocess import select_instances
from boxwood.models.rcnn import RCNN, RCNNOutput
from boxwood.models.rpn import AnchorSample, Proposals, RPNOutput, propose, rpn_losses
from boxwood.models.second_stage import RoISample, box_losses, candidates_of
from boxwood.models.tasks.mask import mask_loss
from boxwood.ops.boxes import ioa
from boxwood.ops.masks import mask_targets
from boxwood.structures import Batch, Categories, InstanceMasks, Target

CLASSES = Categories((3, 5, 9), ("disc", "star", "ring"))
LOSSES = {"loss_rpn_objectness", "loss_rpn_box", "loss_class", "loss_box"}
HEIGHT, WIDTH = 96, 128


def network(*, masks: bool = True, seed: int = 0, test: TestConfig | None = None) -> RCNN:
    torch.manual_seed(seed)
    config = RCNNConfig(
        backbone=ResNetConfig(depth=18, width=32, norm="gn", frozen_stages=0, weights=None),
        fpn=FPNConfig(channels=32),
        rpn=RPNConfig(anchor_sizes=((16.0,), (32.0,), (48.0,), (64.0,), (96.0,)), samples_per_image=64, test_proposals=40),
        rois=RoIConfig(samples_per_image=32),
        box_head=TwoFCHeadConfig(width=32),
        mask_head=ConvMaskHeadConfig(convs=1, width=16) if masks else None,
    )
    return config.build(CLASSES, test or TestConfig(score_threshold=0.0))


def target_of(
    boxes: list[list[float]], labels: list[int], ignore: list[list[float]] | None = None, *, masks: bool = True
) -> Target:
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    bitmaps = torch.zeros(len(boxes), 112, 112, dtype=torch.uint8)
    bitmaps[:, 20:90, 10:100] = 1
    return Target(
        corners,
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(ignore or [], dtype=torch.float32).reshape(-1, 4),
        InstanceMasks(bitmaps, corners.clone()) if masks else None,
    )


def batch_of(*targets: Target | None, seeds: tuple[int, ...] = (), sizes: list[list[int]] | None = None, noise: int = 0) -> Batch:
    """Images of noise, or of the ``sizes`` given, padded; the pixels of an image depend on its seed."""
    seeds = seeds or tuple(range(len(targets)))
    sizes = sizes or [[HEIGHT, WIDTH]] * len(targets)
    height, width = (math.ceil(max(sides) / 32) * 32 for sides in zip(*sizes, strict=True))
    images = torch.zeros(len(targets), 3, height, width, dtype=torch.uint8)
    for image, (h, w), seed in zip(images, sizes, seeds, strict=True):
        image[:, :h, :w] = torch.randint(0, 256, (3, h, w), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    truth = tuple(target for target in targets if target is not None)
    return Batch(
        images,
        torch.tensor(sizes),
        tuple((h, w) for h, w in sizes),
        tuple(range(len(targets))),
        (),
        seeds,
        truth if truth else None,
    )


ONE = target_of([[10, 12, 60, 70], [70, 20, 110, 80]], [0, 2])
TWO = target_of([[30, 30, 50, 66]], [1])
NONE = target_of([], [])


# --------------------------------------------------------------------------------------------------- losses and detections


@pytest.mark.parametrize("masks", [False, True])
def test_training_gives_losses(masks: bool) -> None:
    model = network(masks=masks).train()
    batch = batch_of(ONE, TWO)
    assert batch.targets is not None
    output = model(batch)
    losses = model.losses(output, batch.targets)
    assert set(losses) == (LOSSES | {"loss_mask"} if masks else LOSSES)
    assert all(loss.shape == () and loss.isfinite() and loss > 0 for loss in losses.values())
    assert output.instances is None
    # Newly built predictors: log 2 for a binary decision, else the log of the number of classes and background.
    assert losses["loss_rpn_objectness"].item() == pytest.approx(math.log(2), abs=0.1)
    assert losses["loss_class"].item() == pytest.approx(math.log(4), abs=0.2)


@pytest.mark.parametrize("masks", [False, True])
def test_inference_gives_detections(masks: bool) -> None:
    model = network(masks=masks).eval()
    batch = batch_of(None, None)
    with torch.no_grad():
        results = model.detections(model(batch), batch)
    assert len(results) == 2
    for detections in results:
        count = len(detections)
        assert 10 < count <= 100
        assert detections.boxes.shape == (count, 4)
        assert detections.size == (HEIGHT, WIDTH)
        assert detections.class_names == CLASSES.names
        assert (detections.scores[:-1] >= detections.scores[1:]).all()
        assert ((detections.scores > 0) & (detections.scores <= 1)).all()
        assert ((detections.labels >= 0) & (detections.labels < 3)).all()
        assert (detections.boxes >= 0).all()
        assert (detections.boxes <= torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])).all()
        assert (detections.boxes[:, 2:] > detections.boxes[:, :2]).all()
        if masks:
            assert detections.mask_probabilities is not None and detections.masks is not None
            assert detections.mask_probabilities.shape == (count, 28, 28)
            assert ((detections.mask_probabilities >= 0) & (detections.mask_probabilities <= 1)).all()
            assert detections.masks.shape == (count, HEIGHT, WIDTH)
        else:
            assert detections.mask_probabilities is None


PIXELS = target_of([[0, 0, 1, 1], [63, 40, 64, 41], [WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT]], [0, 1, 2])
CROWDED = target_of([], [], [[0, 0, WIDTH, HEIGHT]])


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(
    "targets",
    [(NONE,), (NONE, NONE), (PIXELS,), (NONE, ONE), (CROWDED,), (CROWDED, ONE), (target_of([[0, 0, WIDTH, HEIGHT]], [1]),)],
    ids=["empty", "two empty", "one pixel boxes", "one of two empty", "all ignored", "one of two ignored", "the whole image"],
)
def test_odd_images_have_finite_losses_and_gradients(targets: tuple[Target, ...], masks: bool) -> None:
    """Every loss and every gradient exists and is finite; the other processes would wait for one that lacked a gradient."""
    model = network(masks=masks).train()
    batch = batch_of(*targets)
    losses = model.losses(model(batch), targets)
    assert set(losses) == (LOSSES | {"loss_mask"} if masks else LOSSES)
    assert all(loss.isfinite() and loss >= 0 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing
    wrong = [name for name, parameter in model.named_parameters() if not parameter.grad.isfinite().all()]  # type: ignore[union-attr]
    assert not wrong
    if not any(len(target.boxes) for target in targets):
        assert losses["loss_box"] == losses["loss_rpn_box"] == losses.get("loss_mask", 0) == 0


def test_without_any_positive_roi() -> None:
    """A positive fraction of 0, so that not even the ground-truth boxes are sampled as positives."""
    model = network().train()
    model.config.rois.positive_fraction = 0.0
    batch = batch_of(ONE)
    output = model(batch)
    assert output.roi_sample is not None and "masks" in output.task_logits
    assert (output.roi_sample.labels == 3).all()
    assert len(output.task_logits["masks"]) == 0
    losses = model.losses(output, (ONE,))
    assert losses["loss_box"] == losses["loss_mask"] == 0
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_no_detections() -> None:
    model = network(test=TestConfig(score_threshold=1.0)).eval()
    batch = batch_of(None, None)
    with torch.no_grad():
        for detections in model.detections(model(batch), batch):
            assert len(detections) == 0
            assert detections.boxes.shape == (0, 4)
            assert detections.masks is not None and detections.masks.shape == (0, HEIGHT, WIDTH)
            assert detections.rles() == []


def test_a_state_dict_is_the_whole_network() -> None:
    first, second = network(seed=1).eval(), network(seed=2).eval()
    batch = batch_of(None)
    with torch.no_grad():
        (a,), (b,) = first.detections(first(batch), batch), second.detections(second(batch), batch)
        assert not torch.equal(a.scores[:5], b.scores[:5])
        second.load_state_dict(first.state_dict())
        (b,) = second.detections(second(batch), batch)
    assert torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores) and torch.equal(a.labels, b.labels)
    assert a.mask_probabilities is not None and b.mask_probabilities is not None
    assert torch.equal(a.mask_probabilities, b.mask_probabilities)


def test_images_are_normalised_and_padding_is_zero() -> None:
    images = torch.randint(0, 256, (2, 3, 32, 64), dtype=torch.uint8)
    mean, std = torch.tensor([120.0, 110, 100]), torch.tensor([60.0, 50, 40])
    result = normalize_images(images, torch.tensor([[32, 64], [20, 30]]), mean, std)
    expected = (images.numpy() - np.array([120, 110, 100])[:, None, None]) / np.array([60, 50, 40])[:, None, None]
    np.testing.assert_allclose(result[0].numpy(), expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result[1, :, :20, :30].numpy(), expected[1][:, :20, :30], rtol=1e-5, atol=1e-6)
    assert not result[1, :, 20:].any() and not result[1, :, :, 30:].any()


# ------------------------------------------------------------------------------------------------------------------- sampling


def outputs_and_samples(model: RCNN, batch: Batch) -> tuple[RCNNOutput, AnchorSample, RoISample]:
    with torch.no_grad():
        output = model(batch)
    assert output.anchor_sample is not None and output.roi_sample is not None
    return output, output.anchor_sample, output.roi_sample


def anchor_boxes(output: RCNNOutput, sample: AnchorSample, image: int) -> Tensor:
    return output.rpn.anchors[sample.indices[image][sample.valid[image]]]


def test_samples_match_the_ground_truth() -> None:
    output, anchors, rois = outputs_and_samples(network().train(), batch_of(ONE, TWO, NONE))
    for image, target in enumerate((ONE, TWO, NONE)):
        positive = anchors.positive[image]
        assert positive.any() == (len(target.boxes) > 0)
        assert (~positive & anchors.valid[image]).any()
        sampled = output.rpn.anchors[anchors.indices[image]]
        overlap = torchvision.ops.box_iou(sampled, target.boxes)
        best = torchvision.ops.box_iou(output.rpn.anchors, target.boxes).amax(dim=0) if len(target.boxes) else torch.zeros(0)
        right = (overlap >= 0.7).any(dim=1) | (overlap == best).any(dim=1)
        assert (right == positive)[anchors.valid[image]].all()
        assert (overlap[anchors.valid[image] & ~positive] < 0.3).all()

        labels, valid = rois.labels[image], rois.valid[image]
        assert valid.sum() <= 32 and (labels < 3).logical_and(valid).sum() <= 8
        assert (labels[~valid] == -1).all()
        overlap = torchvision.ops.box_iou(rois.boxes[image], target.boxes)
        for row in range(len(valid)):
            if valid[row] and labels[row] < 3:
                assert overlap[row].max() >= 0.5
                assert overlap[row].argmax() == rois.instances[image, row]
                assert labels[row] == target.labels[overlap[row].argmax()]
            elif valid[row]:
                assert labels[row] == 3
                assert len(target.boxes) == 0 or overlap[row].max() < 0.5
        assert (labels < 3).logical_and(valid).any() == (len(target.boxes) > 0), "ground-truth boxes are among the proposals"


def test_ignored_regions_are_never_background() -> None:
    crowd = [40.0, 0.0, float(WIDTH), float(HEIGHT)]
    target = target_of([[4, 10, 36, 60]], [1], [crowd])
    model = network().train()
    drawn_inside = 0
    for seed in range(4):
        output, anchors, rois = outputs_and_samples(model, batch_of(target, seeds=(seed,)))
        region = torch.tensor([crowd])
        negatives = anchor_boxes(output, anchors, 0)[~anchors.positive[0][anchors.valid[0]]]
        assert len(negatives) and (ioa(negatives, region) < 0.5).all()
        background = rois.boxes[0][rois.labels[0] == 3]
        assert (ioa(background, region) < 0.5).all()
        free = target_of([[4, 10, 36, 60]], [1])
        output, anchors, rois = outputs_and_samples(model, batch_of(free, seeds=(seed,)))
        drawn_inside += int((ioa(anchor_boxes(output, anchors, 0), region) >= 0.5).sum())
        drawn_inside += int((ioa(rois.boxes[0][rois.labels[0] == 3], region) >= 0.5).sum())
    assert drawn_inside > 50, "without the region they are sampled"


def test_padding_is_never_sampled() -> None:
    small = target_of([[10, 10, 40, 40]], [0])
    model = network().train()
    batch = batch_of(small, ONE, sizes=[[50, 70], [HEIGHT, WIDTH]])
    for seed in range(3):
        batch.seeds = (seed, seed)
        output, anchors, rois = outputs_and_samples(model, batch)
        boxes = anchor_boxes(output, anchors, 0)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        assert (centres < torch.tensor([70, 50])).all()
        assert (rois.boxes[0][rois.valid[0]] <= torch.tensor([70, 50, 70, 50])).all()
        other = anchor_boxes(output, anchors, 1)
        assert (((other[:, :2] + other[:, 2:]) / 2) >= torch.tensor([70, 50])).any()


def test_samples_depend_on_the_seed_alone() -> None:
    """Not on the image's place in the batch, nor on the other images."""
    model = network().train()
    _, alone, rois_alone = outputs_and_samples(model, batch_of(ONE, seeds=(11,)))
    _, again, _ = outputs_and_samples(model, batch_of(ONE, seeds=(11,)))
    _, last, rois_last = outputs_and_samples(model, batch_of(TWO, NONE, ONE, seeds=(5, 6, 11)))
    _, other, _ = outputs_and_samples(model, batch_of(ONE, seeds=(12,)))
    assert torch.equal(alone.indices, again.indices)
    assert torch.equal(alone.indices[0], last.indices[2])
    assert not torch.equal(alone.indices, other.indices)
    torch.testing.assert_close(rois_alone.boxes[0], rois_last.boxes[2], rtol=1e-4, atol=1e-3)
    assert torch.equal(rois_alone.labels[0], rois_last.labels[2])


def test_samples_do_not_depend_on_padding() -> None:
    """Images of other sizes pad this one, more or less; its anchors are the same, though their indices differ."""
    model = network().train()
    drawn = []
    for sizes in ([[64, 80]], [[64, 80], [96, 80]], [[64, 80], [64, 160]], [[64, 80], [200, 170]]):
        targets = [target_of([[10, 12, 60, 55]], [2]), NONE][: len(sizes)]
        output, anchors, _ = outputs_and_samples(model, batch_of(*targets, seeds=(11, 5)[: len(sizes)], sizes=sizes))
        drawn.append(output.rpn.anchors[anchors.indices[0]])
        assert torch.equal(anchors.valid[0], anchors.valid[0][:1].expand(64))
    assert all(torch.equal(boxes, drawn[0]) for boxes in drawn)


def test_losses_of_a_batch_are_the_mean_over_its_images() -> None:
    """The losses of two images are the mean of the losses of each, weighted by their denominators."""
    model = network().train()
    losses, counts = [], []
    for targets, seeds in (((ONE,), (1,)), ((TWO,), (2,)), ((ONE, TWO), (1, 2))):
        batch = batch_of(*targets, seeds=seeds)
        output, anchors, rois = outputs_and_samples(model, batch)
        losses.append({name: float(loss) for name, loss in model.losses(output, targets).items()})
        positives = float(((rois.labels >= 0) & (rois.labels < 3)).sum())
        counts.append({"rpn": float(anchors.valid.sum()), "roi": float(rois.valid.sum()), "mask": positives})
    for name in losses[0]:
        key = "rpn" if "rpn" in name else "mask" if "mask" in name else "roi"
        total = losses[0][name] * counts[0][key] + losses[1][name] * counts[1][key]
        assert losses[2][name] == pytest.approx(total / (counts[0][key] + counts[1][key]), rel=2e-4), name


# ----------------------------------------------------------------------------------------------------------------- losses


def test_rpn_losses_by_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, deltas = torch.randn(2, 9, generator=generator), torch.randn(2, 9, 4, generator=generator) / 5
    sample = AnchorSample(
        torch.tensor([[3, 8, 0], [5, 1, 2]]),
        torch.tensor([[True, True, True], [True, True, False]]),
        torch.tensor([[True, False, False], [True, True, False]]),
        torch.randn(2, 3, 4, generator=generator) / 5 * torch.tensor([[1, 0, 0], [1, 1, 0]])[..., None],
    )
    losses = rpn_losses(RPNOutput(logits, deltas, torch.zeros(9, 4), (9,)), sample, RPNConfig(smooth_l1_beta=0.25))
    objectness = box = 0.0
    for image, place in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)):
        anchor = int(sample.indices[image, place])
        p = 1 / (1 + math.exp(-float(logits[image, anchor])))
        positive = bool(sample.positive[image, place])
        objectness -= math.log(p if positive else 1 - p)
        if positive:
            for x in (deltas[image, anchor] - sample.deltas[image, place]).abs().tolist():
                box += 0.5 * x * x / 0.25 if x < 0.25 else x - 0.125
    assert losses["loss_rpn_objectness"].item() == pytest.approx(objectness / 5, rel=1e-5)
    assert losses["loss_rpn_box"].item() == pytest.approx(box / 5, rel=1e-5)


def roi_sample() -> RoISample:
    """Two images of three places: positives of classes 2, 0 and 1, two of background (3), one not used."""
    labels = torch.tensor([[2, 0, 3], [1, 3, -1]])
    generator = torch.Generator().manual_seed(1)
    deltas = torch.randn(2, 3, 4, generator=generator) * ((labels >= 0) & (labels < 3))[..., None]
    boxes = torch.tensor([[[4.0, 4, 20, 24], [30, 10, 60, 50], [0, 0, 9, 9]], [[8, 9, 40, 30], [1, 1, 7, 7], [0, 0, 0, 0]]])
    return RoISample(boxes, labels >= 0, labels, torch.tensor([[1, 0, 0], [0, 0, 0]]), deltas, torch.ones(2, 2))


def test_box_losses_by_numpy() -> None:
    sample, generator = roi_sample(), torch.Generator().manual_seed(2)
    logits, deltas = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 3, 3, 4, generator=generator)
    losses = box_losses(logits, deltas, sample, RoIConfig())
    classes = box = 0.0
    for image, place in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)):
        label = int(sample.labels[image, place])
        row = logits[image, place].double().numpy()
        classes -= row[label] - np.log(np.exp(row).sum())
        if label < 3:
            for x in (deltas[image, place, label] - sample.deltas[image, place]).abs().tolist():
                box += 0.5 * x * x if x < 1 else x - 0.5
    assert losses["loss_class"].item() == pytest.approx(classes / 5, rel=1e-5)
    assert losses["loss_box"].item() == pytest.approx(box / 5, rel=1e-5)


def masks_of(targets: Sequence[Target]) -> list[InstanceMasks]:
    return [target.masks for target in targets if target.masks is not None]


def test_mask_loss_by_numpy() -> None:
    """Only the mask of the RoI's class counts; its target is that of the matched instance."""
    sample, generator = roi_sample(), torch.Generator().manual_seed(3)
    targets = (target_of([[30, 8, 62, 50], [3, 3, 22, 24]], [0, 2]), target_of([[8, 8, 42, 31]], [1]))
    rows = torch.tensor([0, 1, 3])
    logits = torch.randn(3, 3, 14, 14, generator=generator)
    total = 0.0
    for (image, place, instance), maps in zip(((0, 0, 1), (0, 1, 0), (1, 0, 0)), logits, strict=True):
        masks = targets[image].masks
        assert masks is not None
        roi = sample.boxes[image, place][None]
        truth = mask_targets(masks.bitmaps, masks.boxes, roi, torch.tensor([instance]), 14)[0].double().numpy()
        assert 0.3 < truth.mean() < 0.95
        p = 1 / (1 + np.exp(-maps[int(sample.labels[image, place])].double().numpy()))
        total -= (truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()
    loss = mask_loss(logits, rows, sample, masks_of(targets))
    assert loss.item() == pytest.approx(total / 3, rel=1e-5)

    # Rows that are not positive add nothing.
    padded = torch.cat([logits, torch.full((2, 3, 14, 14), 9.0)])
    assert mask_loss(padded, torch.tensor([0, 1, 3, 2, 5]), sample, masks_of(targets)).item() == pytest.approx(total / 3, rel=1e-5)


def test_an_instance_without_a_mask_adds_no_mask_loss() -> None:
    sample = roi_sample()
    with_all = (target_of([[30, 8, 62, 50], [3, 3, 22, 24]], [0, 2]), target_of([[8, 8, 42, 31]], [1]))
    rows, logits = torch.tensor([0, 1, 3]), torch.randn(3, 3, 14, 14, generator=torch.Generator().manual_seed(3))
    parts = [float(mask_loss(logits[i : i + 1], rows[i : i + 1], sample, masks_of(with_all))) for i in range(3)]
    assert with_all[0].masks is not None
    with_all[0].masks.bitmaps[1] = 0  # the instance of the first RoI
    assert float(mask_loss(logits, rows, sample, masks_of(with_all))) == pytest.approx((parts[1] + parts[2]) / 2, rel=1e-5)


def test_a_mask_head_needs_masks() -> None:
    model = network().train()
    bare = target_of([[10, 12, 60, 70]], [0], masks=False)
    with torch.no_grad(), pytest.raises(UserError, match=r"model\.mask_head=null"):
        model.losses(model(batch_of(bare)), (bare,))
    empty = target_of([], [], masks=False)  # an image without instances cannot lack their masks
    with torch.no_grad():
        losses = model.losses(model(batch_of(empty, ONE)), (empty, ONE))
    assert losses["loss_mask"] > 0


# --------------------------------------------------------------------------------------------------------------- detections


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("candidates", [15, 1000])
def test_proposals_are_torchvisions(candidates: int, learning: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    lengths = (120, 40, 10)
    anchors = torch.rand(170, 2, generator=generator) * 100
    anchors = torch.cat([anchors, anchors + 4 + torch.rand(170, 2, generator=generator) * 40], dim=1)
    logits, deltas = torch.randn(2, 170, generator=generator), torch.randn(2, 170, 4, generator=generator) / 3
    sizes = [(90, 110), (60, 70)]
    used, other = ("train", "test") if learning else ("test", "train")
    counts_of = {f"{used}_candidates": candidates, f"{used}_proposals": 30, f"{other}_candidates": 7, f"{other}_proposals": 5}
    config = RPNConfig(nms_threshold=0.6, **counts_of)
    batch = Batch(
        torch.zeros(2, 3, 96, 128, dtype=torch.uint8), torch.tensor(sizes), tuple(sizes), targets=() if learning else None
    )
    ours = propose(RPNOutput(logits, deltas, anchors, lengths), batch, (96, 128), config)
    counts = {"training": candidates, "testing": candidates}
    limits = {"training": 30, "testing": 30}
    theirs = RegionProposalNetwork(AnchorGenerator(), torch.nn.Identity(), 0.7, 0.3, 256, 0.5, counts, limits, 0.6).eval()
    boxes = theirs.box_coder.decode(deltas.reshape(-1, 4), [anchors, anchors]).reshape(2, 170, 4)
    expected, scores = theirs.filter_proposals(boxes, logits.reshape(-1, 1), sizes, list(lengths))
    for image in range(2):
        valid = ours.valid[image]
        torch.testing.assert_close(ours.boxes[image][valid], expected[image], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(ours.logits[image][valid].sigmoid(), scores[image], rtol=1e-5, atol=1e-6)
        inside = ((anchors[:, :2] + anchors[:, 2:]) / 2 < torch.tensor(sizes[image]).flip(0)).all(dim=1)
        places = ours.source_index[image][valid]
        same_logit = logits[image][inside][places] == ours.logits[image][valid]  # anchors in the padding have no place
        assert same_logit.float().mean() > 0.5 and ours.num_sources == 170
        assert same_logit.sum() == torch.isin(ours.logits[image][valid], logits[image][inside]).sum()


@pytest.mark.parametrize("limit", [12, 100])
def test_instances_are_torchvisions(limit: int) -> None:
    generator = torch.Generator().manual_seed(5)
    start = torch.rand(2, 60, 2, generator=generator) * 80
    boxes = torch.cat([start, start + 5 + torch.rand(2, 60, 2, generator=generator) * 40], dim=2)
    valid = torch.arange(60) < torch.tensor([[60], [33]])
    logits = torch.randn(2, 60, 4, generator=generator) * 2
    deltas = torch.randn(2, 60, 3, 4, generator=generator)
    weights, sizes, scales = (10.0, 10.0, 5.0, 5.0), [(90, 110), (100, 100)], torch.ones(2, 2)
    test = TestConfig(score_threshold=0.1, nms_threshold=0.4, detections_per_image=limit)
    proposals = Proposals(boxes, torch.zeros(2, 60), valid, torch.zeros(2, 60, dtype=torch.int64), 1)
    batch = Batch(torch.zeros(2, 3, 128, 128, dtype=torch.uint8), torch.tensor(sizes), ((45, 50), (10, 10)))
    ours = select_instances(candidates_of(proposals, logits, deltas, batch, scales, weights, test), scales, test)

    nothing: Any = None
    heads = RoIHeads(nothing, nothing, nothing, 0.5, 0.5, 512, 0.25, weights, 0.1, 0.4, limit)
    with_background = torch.cat([logits[..., 3:], logits[..., :3]], dim=2)  # torchvision's background is class 0
    all_deltas = torch.cat([torch.zeros(2, 60, 1, 4), deltas], dim=2).flatten(2)
    expected = heads.postprocess_detections(
        torch.cat([with_background[i, valid[i]] for i in range(2)]),
        torch.cat([all_deltas[i, valid[i]] for i in range(2)]),
        [boxes[i, valid[i]] for i in range(2)],
        sizes,
    )
    for image, (their_boxes, their_scores, their_labels) in enumerate(zip(*expected, strict=True)):
        selected = ours.valid[image]
        assert 8 < selected.sum() <= limit
        torch.testing.assert_close(ours.boxes[image][selected], their_boxes, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(ours.scores[image][selected], their_scores, rtol=1e-5, atol=1e-6)
        assert torch.equal(ours.labels[image][selected], their_labels - 1)


def test_detections_are_in_the_originals_pixels() -> None:
    """A network's 96 x 128 pixels of a picture twice as high and three times as wide."""
    model = network().eval()
    batch = batch_of(None)
    with torch.no_grad():
        (near,) = model.detections(model(batch), batch)
        batch = replace(batch, original_sizes=((2 * HEIGHT, 3 * WIDTH),), originals=None)
        (far,) = model.detections(model(batch), batch)
    torch.testing.assert_close(far.boxes, near.boxes * torch.tensor([3, 2, 3, 2]))
    assert torch.equal(far.scores, near.scores)
    assert far.masks is not None
    assert far.masks.shape == (len(far), 2 * HEIGHT, 3 * WIDTH)


def test_detections_lie_in_their_image_without_its_padding() -> None:
    model = network().eval()
    batch = batch_of(None, None, sizes=[[50, 70], [HEIGHT, WIDTH]])
    batch = replace(
        batch, original_sizes=((33, 47), (HEIGHT, WIDTH)), originals=None
    )  # the ratios of height and width are not quite the same
    with torch.no_grad():
        small, _ = model.detections(model(batch), batch)
    assert len(small) > 5
    assert (small.boxes >= 0).all()
    assert (small.boxes <= torch.tensor([47, 33, 47, 33])).all()
    assert small.boxes[:, 2].max() > 40 and small.boxes[:, 3].max() > 28
