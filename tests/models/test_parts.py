"""R-CNN of other parts: given proposals, one map instead of a pyramid, the backbone's tail, class-agnostic boxes, the hardest RoIs;
R-FCN and RPN alone."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.ops
from torch import Tensor

from boxwood.errors import UserError
from boxwood.models.backbones import ResNetConfig
from boxwood.models.config import FPNConfig, ProposerConfig, RCNNConfig, RFCNConfig, RoIConfig, RPNConfig
from boxwood.models.fpn import FPN
from boxwood.models.ground_truth import ground_truth_of
from boxwood.models.heads import AverageHeadConfig, ConvMaskHeadConfig, TwoFCHeadConfig
from boxwood.models.inference_config import TestConfig
from boxwood.models.postprocess import select_instances
from boxwood.models.proposal_network import Proposer
from boxwood.models.rcnn import RCNN
from boxwood.models.rfcn import RFCN
from boxwood.models.rpn import Proposals
from boxwood.models.second_stage import RoISample, box_losses, candidates_of, given_proposals, pool_regions, sample_rois
from boxwood.structures import Batch
from tests.models.test_rcnn import CLASSES, HEIGHT, NONE, ONE, TWO, WIDTH, batch_of, target_of

EVERYTHING = TestConfig(score_threshold=0.0)
ANCHORS = ((16.0, 32.0, 48.0, 64.0, 96.0),)
GIVEN = (torch.tensor([[8.0, 10, 58, 72], [68, 22, 112, 78], [0, 0, 40, 40], [90, 5, 120, 30]]), torch.tensor([[28.0, 28, 52, 68]]))


def backbone(last_stage: Any = "map") -> ResNetConfig:
    return ResNetConfig(depth=18, width=32, norm="gn", frozen_stages=0, weights=None, last_stage=last_stage)


def on_c4(mask_source: Any = "tail", box_resolution: int = 14, mask_resolution: int = 14) -> RCNN:
    torch.manual_seed(0)
    return RCNNConfig(
        backbone=backbone("tail"),
        fpn=None,
        rpn=RPNConfig(anchor_sizes=ANCHORS, samples_per_image=64, test_proposals=40),
        rois=RoIConfig(samples_per_image=32, sampling_ratio=0),
        box_head=AverageHeadConfig(resolution=box_resolution),
        mask_head=ConvMaskHeadConfig(convs=0, width=16, source=mask_source, resolution=mask_resolution),
    ).build(CLASSES, EVERYTHING)


def fast(**rois: Any) -> RCNN:
    torch.manual_seed(0)
    return RCNNConfig(
        backbone=backbone(),
        fpn=FPNConfig(channels=32),
        rpn=None,
        rois=RoIConfig(samples_per_image=32, **rois),
        box_head=TwoFCHeadConfig(width=32),
    ).build(CLASSES, EVERYTHING)


def rfcn(**rois: Any) -> RFCN:
    torch.manual_seed(0)
    config = RFCNConfig(backbone=backbone("dilated"), width=32, grid=3)
    assert config.rpn is not None
    config.rpn.anchor_sizes, config.rpn.test_proposals, config.rpn.train_proposals = ANCHORS, 40, 60
    config.rois = config.rois.model_copy(update={"samples_per_image": 60, "hardest": 16, **rois})
    return config.build(CLASSES, EVERYTHING)


def with_proposals(batch: Batch, proposals: tuple[Tensor, ...] = GIVEN) -> Batch:
    return dataclasses.replace(batch, proposals=proposals)


def assert_all_have_gradients(model: torch.nn.Module, losses: dict[str, Tensor]) -> None:
    """Every loss is finite and every trained parameter has a gradient."""
    assert all(loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not without


# ------------------------------------------------------------------------------------------------------- given proposals


def test_given_proposals_are_padded() -> None:
    proposals = given_proposals(with_proposals(batch_of(ONE, TWO)), torch.ones(2, 2))
    assert proposals.boxes.shape == (2, 4, 4)
    assert torch.equal(proposals.boxes[0], GIVEN[0]) and torch.equal(proposals.boxes[1, :1], GIVEN[1])
    assert proposals.valid.tolist() == [[True] * 4, [True, False, False, False]]
    none = given_proposals(with_proposals(batch_of(ONE), (torch.zeros(0, 4),)), torch.ones(1, 2))
    assert none.valid.tolist() == [[False]]


def test_fast_rcnn_learns_from_given_proposals() -> None:
    model = fast().train()
    batch = with_proposals(batch_of(ONE, NONE))
    assert batch.targets is not None
    output = model(batch)
    losses = model.losses(output, batch.targets)
    assert set(losses) == {"loss_class", "loss_box"}
    assert_all_have_gradients(model, losses)
    sample = output.roi_sample
    # Both ground-truth boxes and the two proposals near them; the second image has one proposal, of background.
    assert sample.valid.sum(dim=1).tolist() == [6, 1]
    assert sorted(sample.labels[0][sample.valid[0]].tolist()) == [0, 0, 2, 2, 3, 3]
    assert sample.labels[1][sample.valid[1]].tolist() == [3]


def test_fast_rcnn_detects_only_in_given_proposals() -> None:
    model = fast().eval()
    batch = with_proposals(batch_of(None, None), (GIVEN[0], torch.zeros(0, 4)))
    with torch.no_grad():
        detections = model.detections(model(batch), batch)
    assert len(detections[0]) > 3 and len(detections[1]) == 0
    with pytest.raises(UserError, match=r"data\.train\.proposals"):
        model(batch_of(None))


def test_a_proposal_mostly_in_a_crowd_is_no_background() -> None:
    crowd = target_of([[10, 12, 60, 70]], [0], ignore=[[85, 0, 128, 40]])
    batch, scales = batch_of(crowd), torch.ones(1, 2)
    proposals = given_proposals(with_proposals(batch_of(crowd), GIVEN[:1]), scales)
    sample = sample_rois(proposals, ground_truth_of((crowd,)), batch, scales, RoIConfig(samples_per_image=8), 3)
    backgrounds = sample.boxes[0][sample.labels[0] == 3].tolist()
    assert [0, 0, 40, 40] in backgrounds and [90, 5, 120, 30] not in backgrounds


# ---------------------------------------------------------------------------------------------------- the backbone's tail


@pytest.mark.parametrize("source", ["tail", "own_tail", "maps"])
def test_rcnn_on_c4(source: Any) -> None:
    model = on_c4(source)
    batch = batch_of(ONE, NONE)
    assert batch.targets is not None
    assert_all_have_gradients(model.train(), model.losses(model(batch), batch.targets))
    tail_tensors = sum("mask_tail" in name for name in model.state_dict())
    assert (tail_tensors > 0) == (source == "own_tail")
    plain = batch_of(None, None)
    with torch.no_grad():
        results = model.eval().detections(model(plain), plain)
    assert all(len(detections) > 3 for detections in results)
    side = 28 if source == "maps" else 14
    assert results[0].mask_probabilities is not None and results[0].mask_probabilities.shape[1:] == (side, side)


def test_a_tail_that_no_head_reads_is_not_trained() -> None:
    """It would have no gradient, and training on several GPUs waits for that of every parameter."""
    config = RCNNConfig(backbone=backbone("tail"), fpn=None, rpn=None, box_head=TwoFCHeadConfig(width=32))
    model = config.build(CLASSES, EVERYTHING)
    batch = with_proposals(batch_of(ONE, NONE))
    assert batch.targets is not None
    assert_all_have_gradients(model.train(), model.losses(model(batch), batch.targets))


def test_the_shared_tail_runs_once() -> None:
    """In training the mask head reads the tail's output for the box head: the same numbers as if it were run again, and the
    gradients of both heads reach the tail."""
    model = on_c4().train()
    batch = batch_of(ONE, TWO)
    assert batch.targets is not None
    calls: list[int] = []
    tail = model.backbone.tail
    assert tail is not None
    tail.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    output = model(batch)
    assert len(calls) == 1

    maps = model.fpn(model.backbone(model.normalized(batch)))
    rows, sample = output.task_rows["masks"], output.roi_sample
    pooled = pool_regions(maps, (16,), sample.boxes, rows, 14, model.config.rois)
    again = model.mask_logits(model.mask_head(tail(pooled)))
    positive = sample.labels.flatten()[rows] < 3
    assert positive.sum() >= 3
    torch.testing.assert_close(output.task_logits["masks"][positive], again[positive], rtol=1e-4, atol=1e-5)
    model.losses(output, batch.targets)["loss_mask"].backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in tail.parameters())


def test_c4_by_plain_modules() -> None:
    """Box logits of given regions: RoIAlign of the 1/16 map, the last stage, a mean, a linear layer."""
    model = on_c4().eval()
    batch = batch_of(None)
    with torch.no_grad():
        output = model(batch)
        features = model.backbone(model.normalized(batch))[-1]
        assert features.shape[-2:] == (HEIGHT // 16, WIDTH // 16)
        rois = [output.proposals.boxes[0][output.proposals.valid[0]]]
        pooled = torchvision.ops.roi_align(features, rois, 14, 1 / 16, sampling_ratio=0, aligned=True)
        hidden = model.backbone.layer4(pooled)
        assert hidden.shape[-2:] == (7, 7)
        expected = model.class_logits(hidden.mean(dim=(2, 3)))
    torch.testing.assert_close(output.class_logits[0][output.proposals.valid[0]], expected, rtol=1e-3, atol=1e-4)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="last_stage=tail"):
        RCNNConfig(backbone=backbone(), fpn=None, box_head=AverageHeadConfig(), rpn=None).build(CLASSES, EVERYTHING)
    with pytest.raises(UserError, match=r"anchor_sizes has 5 levels, but the maps are 1, of strides 16"):
        RCNNConfig(backbone=backbone("tail"), fpn=None, box_head=AverageHeadConfig()).build(CLASSES, EVERYTHING)
    with pytest.raises(UserError, match=r"model\.box_head\.resolution=7"):
        on_c4(box_resolution=7, mask_resolution=14)


def test_roi_pool_is_torchvisions() -> None:
    features = torch.randn(2, 8, 6, 8, generator=torch.Generator().manual_seed(0))
    boxes = torch.stack([GIVEN[0], GIVEN[0].flip(0)])
    rows = torch.tensor([0, 2, 5, 7])
    pooled = pool_regions([features], (16,), boxes, rows, 7, RoIConfig(pooling="max"))
    rois = torch.cat([torch.tensor([[0.0], [0], [1], [1]]), boxes.flatten(0, 1)[rows]], dim=1)
    assert torch.equal(pooled, torchvision.ops.roi_pool(features, rois, 7, 1 / 16))


def test_laterals_may_begin_with_zeros() -> None:
    fpn = FPN(FPNConfig(channels=8, zero_init_lateral=True), (4, 6), (4, 8))
    coarse = torch.randn(1, 6, 4, 4)
    one, other = (fpn([torch.randn(1, 4, 8, 8), coarse]) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)
    assert one[1].abs().sum() > 0


# ------------------------------------------------------------------------------------------- class-agnostic, the hardest


def some_proposals(count: int) -> Proposals:
    generator = torch.Generator().manual_seed(5)
    start = torch.rand(2, count, 2, generator=generator) * 80
    boxes = torch.cat([start, start + 5 + torch.rand(2, count, 2, generator=generator) * 40], dim=2)
    places = torch.zeros(2, count, dtype=torch.int64)
    return Proposals(boxes, torch.zeros(2, count), torch.ones(2, count, dtype=torch.bool), places, 1)


def test_class_agnostic_boxes_are_those_of_every_class() -> None:
    proposals, generator = some_proposals(30), torch.Generator().manual_seed(6)
    logits, deltas = torch.randn(2, 30, 4, generator=generator), torch.randn(2, 30, 1, 4, generator=generator)
    weights, scales = (10.0, 10.0, 5.0, 5.0), torch.ones(2, 2)
    batch = Batch(torch.zeros(2, 3, 128, 128, dtype=torch.uint8), torch.tensor([[90, 110], [100, 100]]), ((45, 50), (10, 10)))
    ours, same = (
        select_instances(candidates_of(proposals, logits, box_deltas, batch, scales, weights, EVERYTHING), scales, EVERYTHING)
        for box_deltas in (deltas, deltas.expand(-1, -1, 3, -1))
    )
    for field in ("boxes", "scores", "labels", "valid"):
        assert torch.equal(getattr(ours, field), getattr(same, field))


def test_class_agnostic_boxes_have_the_loss_of_every_class() -> None:
    model = fast(class_agnostic=True).train()
    assert model.box_deltas.out_features == 4
    batch = with_proposals(batch_of(ONE, TWO))
    assert batch.targets is not None
    output = model(batch)
    losses = model.losses(output, batch.targets)
    everywhere = box_losses(output.class_logits, output.box_deltas.expand(-1, -1, 3, -1), output.roi_sample, model.config.rois)
    torch.testing.assert_close(losses["loss_box"], everywhere["loss_box"])
    assert losses["loss_box"] > 0


@pytest.mark.parametrize("hardest", [1, 3, 100])
def test_the_hardest_by_numpy(hardest: int) -> None:
    """OHEM: of each image the RoIs with the largest sum of both losses count, the others do not, not even in the denominator."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.tensor([[2, 0, 3, 3, 1, 3], [1, 3, 3, 3, -1, -1]])
    logits, deltas = torch.randn(2, 6, 4, generator=generator) * 2, torch.randn(2, 6, 3, 4, generator=generator)
    goals = torch.randn(2, 6, 4, generator=generator)
    sample = RoISample(torch.zeros(2, 6, 4), labels >= 0, labels, torch.zeros_like(labels), goals, torch.ones(2, 2))
    logits.requires_grad_()
    losses = box_losses(logits, deltas, sample, RoIConfig(hardest=hardest))
    classes = box = count = 0.0
    used = np.zeros((2, 6), dtype=bool)
    for image in range(2):
        parts = []
        for place in range(6):
            label = int(labels[image, place])
            if label < 0:
                continue
            row = logits[image, place].detach().double().numpy()
            difficulty = math.log(np.exp(row).sum()) - row[label]
            distance = 0.0
            if label < 3:
                for x in (deltas[image, place, label] - goals[image, place]).abs().tolist():
                    distance += 0.5 * x * x if x < 1 else x - 0.5
            parts.append((difficulty + distance, difficulty, distance, place))
        for _, difficulty, distance, place in sorted(parts, reverse=True)[:hardest]:
            classes, box, count = classes + difficulty, box + distance, count + 1
            used[image, place] = True
    assert losses["loss_class"].item() == pytest.approx(classes / count, rel=1e-5)
    assert losses["loss_box"].item() == pytest.approx(box / count, rel=1e-5)
    losses["loss_class"].backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert np.array_equal(logits.grad.abs().sum(dim=2).numpy() > 0, used)


# ------------------------------------------------------------------------------------------------------------------ R-FCN


@pytest.mark.parametrize("class_agnostic", [True, False])
def test_rfcn_has_gradients_and_detections(class_agnostic: bool) -> None:
    model = rfcn(class_agnostic=class_agnostic).train()
    assert model.box_maps.out_channels == 9 * 4 * (1 if class_agnostic else 3)
    batch = batch_of(ONE, NONE)
    assert batch.targets is not None
    losses = model.losses(model(batch), batch.targets)
    assert set(losses) == {"loss_rpn_objectness", "loss_rpn_box", "loss_class", "loss_box"}
    assert_all_have_gradients(model, losses)
    plain = batch_of(None, None)
    with torch.no_grad():
        results = model.eval().detections(model(plain), plain)
    assert all(10 < len(detections) <= 100 for detections in results)


def test_the_vote_by_numpy() -> None:
    """Logit c of an RoI is the mean over its cells of the mean of that cell's map (R-FCN, equations 1 and 2)."""
    model = rfcn().eval()
    batch = batch_of(None)
    with torch.no_grad():
        output = model(batch)
        maps = model.backbone(model.normalized(batch))
        assert maps[-1].shape[-2:] == maps[-2].shape[-2:]  # both of stride 16
        assert model.reduce is not None
        scores = model.class_maps(model.reduce(maps[-1]).relu())[0].double().numpy()
    height, width = scores.shape[-2:]
    for row in (0, 7, 20):
        x1, y1, x2, y2 = (value / 16 for value in output.proposals.boxes[0, row].tolist())
        for label in range(4):
            votes = []
            for i in range(3):
                for j in range(3):
                    top, bottom = math.floor(y1 + i * (y2 - y1) / 3), math.ceil(y1 + (i + 1) * (y2 - y1) / 3)
                    left, right = math.floor(x1 + j * (x2 - x1) / 3), math.ceil(x1 + (j + 1) * (x2 - x1) / 3)
                    top, bottom, left, right = max(top, 0), min(bottom, height), max(left, 0), min(right, width)
                    cell = scores[(label * 3 + i) * 3 + j, top:bottom, left:right]
                    votes.append(cell.mean() if cell.size else 0.0)
            assert float(output.class_logits[0, row, label]) == pytest.approx(np.mean(votes), abs=1e-5)


def test_rfcn_on_given_proposals() -> None:
    config = RFCNConfig(backbone=backbone("dilated"), width=None, grid=3, rpn=None)
    torch.manual_seed(0)
    model = config.build(CLASSES, EVERYTHING).train()
    batch = with_proposals(batch_of(ONE, TWO))
    assert batch.targets is not None
    losses = model.losses(model(batch), batch.targets)
    assert set(losses) == {"loss_class", "loss_box"}
    assert_all_have_gradients(model, losses)


# -------------------------------------------------------------------------------------------------------------- RPN alone


@pytest.mark.parametrize("pyramid", [True, False])
def test_rpn_alone(pyramid: bool) -> None:
    torch.manual_seed(0)
    rpn = RPNConfig(anchor_sizes=((16.0,), (32.0,), (48.0,), (64.0,), (96.0,)) if pyramid else ANCHORS, test_proposals=30)
    model: Proposer = ProposerConfig(
        backbone=backbone("map" if pyramid else "tail"), fpn=FPNConfig(channels=32) if pyramid else None, rpn=rpn
    ).build(CLASSES, TestConfig(detections_per_image=5))
    batch = batch_of(ONE, NONE)
    assert batch.targets is not None
    losses = model.train().losses(model(batch), batch.targets)
    assert_all_have_gradients(model, losses)
    assert set(losses) == {"loss_rpn_objectness", "loss_rpn_box"}
    assert losses["loss_rpn_objectness"].item() == pytest.approx(math.log(2), abs=0.1)
    plain = batch_of(None, None)
    with torch.no_grad():
        results = model.eval().detections(model(plain), plain)
    for detections in results:
        assert 10 < len(detections) <= 30  # not the five of TestConfig
        assert detections.class_names == ("object",) and not detections.labels.any()
        assert (detections.scores[:-1] >= detections.scores[1:]).all()
