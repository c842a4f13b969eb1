"""Eight generated pictures learnt by heart: truth, losses, inference and scores fit each other."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from boxwood.data import CocoConfig
from boxwood.data.loader import eval_batches, train_batches
from boxwood.data.shapes import write_shapes
from boxwood.evaluation import CocoEvaluator, evaluate
from boxwood.models.backbones import ResNetConfig
from boxwood.models.detector import ModelConfig, TestConfig
from boxwood.models.fpn import FPNConfig
from boxwood.models.heads import ConvMaskHeadConfig, TwoFCHeadConfig
from boxwood.models.rcnn import RCNNConfig
from boxwood.models.retinanet import RetinaNetConfig, RetinaNetHeadConfig
from boxwood.models.rois import RoIConfig
from boxwood.models.rpn import RPNConfig
from boxwood.ops.masks import mask_targets
from boxwood.structures import Detections

pytestmark = pytest.mark.usefixtures("one_thread")  # after hundreds of steps rounding moves AP by 0.03


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """33 instances, from 28 pixels a side."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, train=8, val=0, seed=34, size=(192, 240))
    return CocoConfig(annotations=str(folder / "train.json"), images=str(folder / "train")).open()


def rcnn(*, masks: bool) -> RCNNConfig:
    return RCNNConfig(
        backbone=ResNetConfig(depth=18, width=16, norm="bn", frozen_stages=0, weights=None),
        fpn=FPNConfig(channels=32),
        rpn=RPNConfig(
            anchor_sizes=((16.0,), (32.0,), (64.0,), (128.0,), (256.0,)),
            samples_per_image=128,
            train_candidates=200,
            train_proposals=200,
            test_candidates=100,
            test_proposals=100,
        ),
        rois=RoIConfig(samples_per_image=32, positive_fraction=0.5, smooth_l1_beta=1 / 9),
        box_head=TwoFCHeadConfig(width=128),
        mask_head=ConvMaskHeadConfig(convs=2, width=48) if masks else None,
    )


def retinanet() -> RetinaNetConfig:
    return RetinaNetConfig(
        backbone=ResNetConfig(depth=18, width=16, norm="bn", frozen_stages=0, weights=None),
        fpn=FPNConfig(channels=64, top="conv_c5"),
        head=RetinaNetHeadConfig(convs=2, norm="gn"),
    )


def learn(pictures: Any, config: ModelConfig, *, steps: int, tasks: tuple[str, ...] = ("bbox",)) -> dict[str, Any]:
    """The scores of a small network after ``steps`` of four pictures."""
    torch.manual_seed(0)
    model: Any = config.build(pictures.categories, TestConfig()).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0, fused=True)
    batches = list(itertools.islice(train_batches(pictures, (), batch_size=4, seed=0, workers=0), 40))
    for step, batch in enumerate(itertools.islice(itertools.cycle(batches), steps)):
        rate = 2.5e-3 * min(1, (step + 1) / 20) * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.param_groups[0]["lr"] = rate
        assert batch.targets is not None
        loss = torch.stack(list(model.losses(model(batch), batch.targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    evaluator = CocoEvaluator(pictures.to_coco(), pictures.categories, tasks=tasks)
    return evaluate(model, eval_batches(pictures, (), batch_size=8, workers=0), evaluator, "cpu")


def test_the_truth_as_a_mask_head_is_taught_it_is_the_truth(pictures: Any) -> None:
    """What a perfect network would say (the targets of the true boxes), pasted and scored; half a pixel beside it is
    noticed."""
    scores = []
    for shift in (0.0, 0.5):
        evaluator = CocoEvaluator(pictures.to_coco(), pictures.categories, tasks=("bbox", "segm"))
        for batch in eval_batches(pictures, (), batch_size=1, workers=0, with_targets=True):
            assert batch.targets is not None and batch.targets[0].masks is not None
            (target,), count = batch.targets, len(batch.targets[0].boxes)
            masks = mask_targets(target.masks.bitmaps, target.masks.boxes, target.boxes, torch.arange(count), 28)
            found = Detections(target.boxes + shift, torch.ones(count), target.labels, batch.original_sizes[0], (), masks)
            evaluator.add(batch.image_ids[0], found)
        scores.append(evaluator.compute()["segm"]["AP"])
    assert scores[0] > 0.985
    assert scores[1] < scores[0] - 0.02


@pytest.mark.slow
def test_faster_rcnn_learns_by_heart(pictures: Any) -> None:
    metrics = learn(pictures, rcnn(masks=False), steps=250)
    assert metrics["bbox"]["AP"] > 0.9, metrics["bbox"]


@pytest.mark.slow
def test_mask_rcnn_learns_by_heart(pictures: Any) -> None:
    metrics = learn(pictures, rcnn(masks=True), steps=450, tasks=("bbox", "segm"))
    assert metrics["bbox"]["AP"] > 0.9, metrics["bbox"]
    assert metrics["segm"]["AP50"] > 0.95, metrics["segm"]
    assert metrics["segm"]["AP"] > 0.9, metrics["segm"]


@pytest.mark.slow
def test_retinanet_learns_by_heart(pictures: Any) -> None:
    metrics = learn(pictures, retinanet(), steps=250)
    assert metrics["bbox"]["AP"] > 0.9, metrics["bbox"]
