"""NaN and infinite outputs of a network: inference drops them, training stops at them.

The results with them are compared with those of the same outputs without their anchors or regions.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from boxwood.models.config import RetinaNetHeadConfig, RPNConfig
from boxwood.models.inference_config import TestConfig
from boxwood.models.retinanet import RetinaNetOutput
from boxwood.models.retinanet import candidates_of as candidates_of_levels
from boxwood.models.rpn import AnchorSample, Proposals, RPNOutput, propose, rpn_losses
from boxwood.models.second_stage import candidates_of, class_boxes
from boxwood.structures import Batch
from tests.models.toys import batch, build

WRONG = [math.nan, math.inf, -math.inf]
IMAGE = Batch(torch.zeros(1, 3, 128, 128, dtype=torch.uint8), torch.tensor([[128, 128]]), ((128, 128),), seeds=(1,))


def some_boxes(count: int) -> Tensor:
    start = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) * 80
    return torch.cat([start, start + 20], dim=1)


@pytest.mark.parametrize("wrong", WRONG)
def test_an_rpn_proposes_the_others(wrong: float) -> None:
    logits, config = torch.randn(1, 12, generator=torch.Generator().manual_seed(1)), RPNConfig(test_candidates=4, test_proposals=9)
    logits[0, [2, 3, 4, 5, 11]] = wrong
    ours = propose(RPNOutput(logits, torch.zeros(1, 12, 4), some_boxes(12), (6, 6)), IMAGE, (128, 128), config)
    places = torch.tensor([0, 1, 6, 7, 8, 9, 10])
    others = RPNOutput(logits[:, places], torch.zeros(1, 7, 4), some_boxes(12)[places], (2, 5))
    expected = propose(others, IMAGE, (128, 128), config)
    assert 4 <= expected.valid.sum() <= 6
    assert torch.equal(ours.boxes[ours.valid], expected.boxes[expected.valid])
    assert torch.equal(ours.logits[ours.valid], expected.logits[expected.valid])


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("everywhere", [False, True])
def test_retinanet_detects_the_others(everywhere: bool, wrong: float) -> None:
    logits = torch.randn(1, 12, 3, generator=torch.Generator().manual_seed(1))
    logits[0, 2:6, slice(None) if everywhere else 1] = wrong
    config, test = RetinaNetHeadConfig(test_candidates=4), TestConfig()
    output = RetinaNetOutput((logits,), (torch.zeros(1, 12, 4),), (some_boxes(12),), IMAGE.sizes, torch.ones(1, 2))
    ours = candidates_of_levels(output, config, test)
    finite = torch.where(logits.isfinite(), logits, -1e4)
    expected = torch.where(logits.isfinite(), logits, -1.0).sigmoid().flatten()[finite.flatten().topk(4).indices]
    assert ours.possible.all() and torch.equal(ours.scores[0], expected)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_the_second_stage_detects_the_others(wrong: float) -> None:
    count = 2100  # of three classes each: more than the candidates that are selected
    logits = torch.randn(1, count, 4, generator=torch.Generator().manual_seed(1))
    logits[0, 1000:, 1] = wrong
    boxes = some_boxes(count)[None]
    valid = torch.ones(1, count, dtype=torch.bool)
    proposals = Proposals(boxes, torch.zeros(1, count), valid, torch.arange(count)[None], count)
    rest = (IMAGE, torch.ones(1, 2), (10.0, 10.0, 5.0, 5.0))
    ours = candidates_of(proposals, logits, torch.zeros(1, count, 1, 4), *rest, TestConfig())
    scores = logits[0, :1000].softmax(dim=-1)[:, :3].flatten().sort(descending=True).values
    assert torch.equal(ours.scores[0, :3000], scores)
    assert torch.equal(ours.possible[0], ours.scores[0] > 0.05) and 1000 < ours.possible.sum() < 3000
    all_scores, _ = class_boxes(proposals, logits, torch.zeros(1, count, 1, 4), *rest)
    assert torch.equal(all_scores[0, 1000:], torch.zeros(1100, 3)) and all_scores.isfinite().all()


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("part", ["logits", "deltas"])
def test_the_losses_of_an_rpn_are_not_finite(part: str, wrong: float) -> None:
    """Also where the anchor was not sampled."""
    output = RPNOutput(torch.randn(1, 12), torch.randn(1, 12, 4), some_boxes(12), (12,))
    valid = torch.ones(1, 4, dtype=torch.bool)
    sample = AnchorSample(torch.arange(4)[None], valid, valid, torch.zeros(1, 4, 4))
    assert all(loss.isfinite() for loss in rpn_losses(output, sample, RPNConfig()).values())
    getattr(output, part)[0, 7] = wrong
    losses = rpn_losses(output, sample, RPNConfig())
    assert not losses["loss_rpn_objectness" if part == "logits" else "loss_rpn_box"].isfinite()


@pytest.mark.parametrize("wrong", WRONG)
def test_the_losses_of_retinanet_are_not_finite(wrong: float) -> None:
    """Of an infinite logit that is right, the focal loss itself is 0."""
    model, images = build("retinanet"), batch(((64, 96),), (2,))
    assert images.targets is not None
    output = model.train()(images)
    assert all(loss.isfinite() for loss in model.losses(output, images.targets).values())
    output.class_logits[-1].data[0, -1, 0] = wrong
    assert not model.losses(output, images.targets)["loss_class"].isfinite()
