"""Every architecture overfits eight generated pictures: ground truth, losses, inference and evaluation fit each other.

Each is trained in the same way, about half a minute of one core. This is short, where larger networks on larger pictures took
minutes, because of:

* a backbone of four convolutions for pictures of 128 x 160 pixels, with maps from stride 4 on: instances smaller than a map's cell
  are detected, but their boxes are not exact, and AP asks for an IoU of up to 0.95;
* all eight pictures in every step, so that batch norm's averages are those of the pictures, and each step has the gradient of all;
* RoIs that overlap their instance by 0.7 (`foreground_iou`), as those of inference do once the RPN is trained: the second stage
  need not learn worse ones (masks gain 0.1 of AP, boxes come to 1);
* a fast AdamW: the large rate needs the second moment's shorter memory.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boxwood.data import CocoConfig
from boxwood.data.loader import eval_batches, train_batches
from boxwood.data.proposals import write_proposals
from boxwood.data.synthetic.shapes import write_shapes
from boxwood.evaluation import CocoEvaluator, evaluate, make_evaluator
from boxwood.models.backbones import Backbone, BackboneConfig
from boxwood.models.config import (
    OCTAVES,
    FPNConfig,
    ModelConfig,
    ProposerConfig,
    RCNNConfig,
    RetinaNetConfig,
    RetinaNetHeadConfig,
    RFCNConfig,
    RoIConfig,
    RPNConfig,
)
from boxwood.models.heads import ConvKeypointHeadConfig, ConvMaskHeadConfig, TwoFCHeadConfig
from boxwood.models.inference_config import TestConfig
from boxwood.ops.masks import mask_targets
from boxwood.structures import Detections

pytestmark = pytest.mark.usefixtures("one_thread")  # after hundreds of steps rounding moves AP by 0.03

STEPS = 150
"""Two thirds of them are enough for boxes; masks gain until the last."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The first eight pictures with at most four shapes, none of them narrower than 24 pixels."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, train=15, val=0, seed=120, size=(128, 160))
    return CocoConfig(annotations=str(with_few_large_shapes(folder / "train.json", 8)), images=str(folder / "train")).open()


def with_few_large_shapes(path: Path, num_images: int) -> Path:
    coco = json.loads(path.read_text())
    sides: dict[int, list[float]] = {}
    for one in coco["annotations"]:
        sides.setdefault(one["image_id"], []).append(min(one["bbox"][2:]))
    coco["images"] = [image for image in coco["images"] if len(sides[image["id"]]) <= 4 and min(sides[image["id"]]) >= 24]
    coco["images"] = coco["images"][:num_images]
    assert len(coco["images"]) == num_images
    image_ids = {image["id"] for image in coco["images"]}
    coco["annotations"] = [one for one in coco["annotations"] if one["image_id"] in image_ids]
    out = path.with_name("selected.json")
    out.write_text(json.dumps(coco))
    return out


# ------------------------------------------------------------------------------------------------- the small networks


class FewConvsConfig(BackboneConfig):
    dilated: bool = False

    def build(self) -> Backbone:
        return FewConvs(self.dilated)


class FewConvs(Backbone):
    """Four 3x3 convolutions of stride 2, each with batch norm and a ReLU; the last three make the maps. Dilated, the last keeps the
    stride and has a dilation of 4."""

    def __init__(self, dilated: bool) -> None:
        super().__init__()
        self.channels, self.strides = (32, 64, 128), (4, 8, 8 if dilated else 16)
        self.layers = nn.ModuleList()
        for channels_in, channels_out in itertools.pairwise((3, 16, *self.channels)):
            stride, reach = (1, 4) if dilated and channels_out == 128 else (2, 1)
            conv = nn.Conv2d(channels_in, channels_out, 3, stride, padding=reach, dilation=reach, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.layers.append(nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps[2:]


def rpn(*anchor_sizes: tuple[float, ...]) -> RPNConfig:
    return RPNConfig(
        anchor_sizes=anchor_sizes or ((16.0,), (32.0,), (64.0,), (128.0,)),
        samples_per_image=64,
        train_candidates=100,
        train_proposals=50,
        test_candidates=100,
        test_proposals=50,
    )


def rcnn(**parts: Any) -> RCNNConfig:
    return RCNNConfig(
        backbone=FewConvsConfig(),
        fpn=FPNConfig(channels=32),
        rpn=parts.pop("rpn", rpn()),
        rois=RoIConfig(samples_per_image=16, positive_fraction=0.5, foreground_iou=0.7, smooth_l1_beta=1 / 9),
        box_head=TwoFCHeadConfig(width=256),
        **parts,
    )


def rfcn() -> RFCNConfig:
    """On maps of stride 8: from a single map of stride 16 small boxes would not be exact."""
    rois = RoIConfig(
        samples_per_image=50, positive_fraction=1.0, hardest=24, foreground_iou=0.7, class_agnostic=True, smooth_l1_beta=1 / 9
    )
    return RFCNConfig(backbone=FewConvsConfig(dilated=True), rpn=rpn((16.0, 32.0, 64.0, 128.0)), rois=rois, width=128, grid=3)


def retinanet() -> RetinaNetConfig:
    sizes = tuple(tuple(4 * stride * octave for octave in OCTAVES) for stride in (8, 16, 32, 64))
    return RetinaNetConfig(
        backbone=FewConvsConfig(),
        fpn=FPNConfig(channels=32, top="conv_c5"),
        head=RetinaNetHeadConfig(anchor_sizes=sizes, convs=1, norm="gn"),
    )


# ---------------------------------------------------------------------------------------------------------- the tests


def learn(pictures: Any, config: ModelConfig, *, steps: int = STEPS, seed: int = 0) -> dict[str, Any]:
    """The scores of a network on the pictures that it was trained on from random weights."""
    torch.manual_seed(seed)
    model: Any = config.build(pictures.categories, TestConfig()).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0, fused=True)
    # The same pictures with ten draws of anchors and RoIs.
    batches = list(itertools.islice(train_batches(pictures, (), batch_size=len(pictures), seed=seed, workers=0), 10))
    for step, batch in enumerate(itertools.islice(itertools.cycle(batches), steps)):
        rate = 5e-3 * min(1, (step + 1) / 10) * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.param_groups[0]["lr"] = rate
        assert batch.targets is not None
        loss = torch.stack(list(model.losses(model(batch), batch.targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    evaluator = make_evaluator(pictures.to_coco(), pictures.categories, class_agnostic=config.class_agnostic)
    return evaluate(model, eval_batches(pictures, (), batch_size=8, workers=0), evaluator, "cpu")


def test_mask_targets_evaluate_as_the_ground_truth(pictures: Any) -> None:
    """The mask targets of the ground-truth boxes, which a perfect network would predict, pasted and evaluated; a shift of half a
    pixel lowers AP."""
    scores = []
    for shift in (0.0, 0.5):
        evaluator = CocoEvaluator(pictures.to_coco(), pictures.categories, tasks=("bbox", "segm"))
        for batch in eval_batches(pictures, (), batch_size=1, workers=0, with_targets=True):
            assert batch.targets is not None and batch.targets[0].masks is not None
            (target,), count = batch.targets, len(batch.targets[0].boxes)
            masks = mask_targets(target.masks.bitmaps, target.masks.boxes, target.boxes, torch.arange(count), 28)
            detections = Detections(target.boxes + shift, torch.ones(count), target.labels, batch.original_sizes[0], (), masks)
            evaluator.add(batch.image_ids[0], detections)
        scores.append(evaluator.compute()["segm"]["AP"])
    assert scores[0] > 0.985
    assert scores[1] < scores[0] - 0.02


@pytest.mark.slow
def test_faster_rcnn_overfits(pictures: Any) -> None:
    metrics = learn(pictures, rcnn())
    assert metrics["bbox"]["AP"] > 0.9, metrics["bbox"]


@pytest.mark.slow
def test_mask_rcnn_overfits(pictures: Any) -> None:
    metrics = learn(pictures, rcnn(mask_head=ConvMaskHeadConfig(convs=2, width=64)))
    assert metrics["bbox"]["AP"] > 0.9, metrics["bbox"]
    assert metrics["segm"]["AP"] > 0.9, metrics["segm"]


@pytest.mark.slow
def test_retinanet_overfits(pictures: Any) -> None:
    metrics = learn(pictures, retinanet())
    assert metrics["bbox"]["AP"] > 0.9, metrics["bbox"]


@pytest.mark.slow
def test_keypoint_rcnn_overfits(pictures: Any) -> None:
    metrics = learn(pictures, rcnn(keypoint_head=ConvKeypointHeadConfig(convs=2, width=64)), steps=200)
    assert metrics["bbox"]["AP"] > 0.9, metrics["bbox"]
    assert metrics["keypoints"]["AP"] > 0.9, metrics["keypoints"]


@pytest.mark.slow
def test_rfcn_overfits(pictures: Any) -> None:
    metrics = learn(pictures, rfcn(), steps=200)
    assert metrics["bbox"]["AP"] > 0.9, metrics["bbox"]


@pytest.mark.slow
def test_rpn_overfits(pictures: Any) -> None:
    """AR is of 50 proposals, all that there are."""
    config = ProposerConfig(backbone=FewConvsConfig(), fpn=FPNConfig(channels=64), rpn=rpn())
    metrics = learn(pictures, config, steps=300)
    assert metrics["proposals"]["AR100"] > 0.9, metrics["proposals"]


@pytest.mark.slow
def test_fast_rcnn_overfits(pictures: Any, tmp_path: Path) -> None:
    """On proposals that are the ground-truth boxes moved and stretched by up to a fifth of their sides, and on others."""
    rng = np.random.default_rng(0)
    rows = []
    for image in range(len(pictures)):
        sample = pictures[image]
        true = sample.boxes.double().numpy().repeat(8, axis=0)
        sides = np.tile(true[:, 2:] - true[:, :2], 2)
        near = true + sides * rng.uniform(-0.1, 0.1, true.shape)
        start = rng.uniform(0, 90, (20, 2))
        boxes = np.concatenate([near, np.concatenate([start, start + rng.uniform(20, 60, (20, 2))], axis=1)])
        rows.append((sample.image_id, boxes, rng.uniform(size=len(boxes))))
    write_proposals(tmp_path / "p.safetensors", rows)
    file = pictures.file.path
    with_proposals = CocoConfig(annotations=str(file), images=pictures.folder, proposals=str(tmp_path / "p.safetensors")).open()
    metrics = learn(with_proposals, rcnn(rpn=None))
    assert metrics["bbox"]["AP"] > 0.9, metrics["bbox"]
