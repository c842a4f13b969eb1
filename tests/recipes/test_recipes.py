"""Every recipe: complete, small enough to read, the same after a save and a load, and able to learn a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from boxwood import recipes
from boxwood.config import differences, from_yaml, to_yaml
from boxwood.models.detector import without_pretrained
from boxwood.run import RunConfig
from boxwood.structures import Batch, Categories, InstanceMasks, Target


@pytest.mark.parametrize("name", recipes.names())
def test_round_trip(name: str) -> None:
    config = getattr(recipes, name)()
    text = to_yaml(config)
    assert from_yaml(RunConfig, text) == config
    assert to_yaml(from_yaml(RunConfig, text)) == text
    assert differences(config, from_yaml(RunConfig, text)) == []
    assert len(text.splitlines()) < 100


@pytest.mark.parametrize("name", recipes.names())
def test_each_call_gives_a_fresh_configuration(name: str) -> None:
    first = getattr(recipes, name)()
    first.optim.lr = 123
    assert getattr(recipes, name)().optim.lr != 123


@pytest.mark.parametrize("name", recipes.names())
def test_the_docstring_says_how_to_run_it(name: str) -> None:
    text = getattr(recipes, name).__doc__
    assert f"boxwood train {name}" in text


def test_detectrons_schedule() -> None:
    """The settings of Detectron's e2e_{faster,mask}_rcnn_R-50-FPN_1x.yaml and its defaults (config.py), by hand."""
    for config in (recipes.faster_rcnn_r50_fpn_1x(), recipes.mask_rcnn_r50_fpn_1x()):
        optim, train = config.optim, config.train
        assert (optim.kind, optim.lr, optim.momentum, optim.gamma) == ("sgd", 0.02, 0.9, 0.1)
        assert (train.steps, train.batch_size) == (90_000, 16)
        assert [round(drop * train.steps) for drop in optim.drops] == [60_000, 80_000]
        assert (optim.warmup_steps, round(optim.warmup_factor, 9)) == (500, 0.333333333)
        assert (optim.weight_decay, optim.norm_weight_decay, optim.bias_weight_decay, optim.bias_lr_factor) == (1e-4, 0, 0, 2)
        assert [(t.kind()) for t in config.data.train.transforms] == ["resize_shortest_edge", "horizontal_flip"]
        assert [(t.kind()) for t in config.data.val.transforms] == ["resize_shortest_edge"]
        assert (config.test.score_threshold, config.test.nms_threshold, config.test.detections_per_image) == (0.05, 0.5, 100)
    assert recipes.faster_rcnn_r50_fpn_1x().model.mask_head is None  # type: ignore[attr-defined]  # of RCNNConfig
    assert [key for key, _, _ in differences(recipes.faster_rcnn_r50_fpn_1x(), recipes.mask_rcnn_r50_fpn_1x())] == [
        "model.mask_head"
    ]


def test_detectrons_retinanet() -> None:
    """Of retinanet_R-50-FPN_1x.yaml: Faster R-CNN's schedule at half its rate."""
    config, faster = recipes.retinanet_r50_fpn_1x(), recipes.faster_rcnn_r50_fpn_1x()
    assert config.optim.lr == 0.01
    assert {key.split(".")[0] for key, _, _ in differences(faster, config)} == {"model", "optim"}
    head = config.model.head  # type: ignore[attr-defined]  # of RetinaNetConfig
    assert (head.convs, head.prior, head.focal_alpha, head.focal_gamma, head.smooth_l1_beta) == (4, 0.01, 0.25, 2.0, 0.11)
    assert (head.foreground_iou, head.background_iou, head.test_candidates) == (0.5, 0.4, 1000)


def two_images() -> Batch:
    """One image with two instances and one without any, 64 x 96 pixels."""
    boxes = torch.tensor([[4.0, 4.0, 40.0, 44.0], [30.0, 20.0, 90.0, 60.0]])
    masks = InstanceMasks(torch.ones(2, 28, 28, dtype=torch.uint8), boxes.clone())
    nothing = InstanceMasks(torch.zeros(0, 28, 28, dtype=torch.uint8), torch.zeros(0, 4))
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(
        images,
        torch.tensor([[64, 96], [60, 90]]),
        ((64, 96), (60, 90)),
        (1, 2),
        ("a.jpg", "b.jpg"),
        (1, 2),
        (
            Target(boxes, torch.tensor([0, 2]), torch.zeros(0, 4), masks),
            Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), nothing),
        ),
    )


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_learns_a_step(name: str) -> None:
    config = getattr(recipes, name)()
    model_config = without_pretrained(config.model)
    torch.manual_seed(0)
    model: Any = model_config.build(Categories((1, 2, 5), ("a", "b", "c")), config.test)
    batch = two_images()
    assert batch.targets is not None
    losses = model.losses(model(batch), batch.targets)
    sum(losses.values()).backward()
    expected = {"loss_class", "loss_box"}
    if not name.startswith("retinanet"):
        expected |= {"loss_rpn_objectness", "loss_rpn_box"}
    if name.startswith(("mask", "demo")):
        expected |= {"loss_mask"}
    assert set(losses) == expected
    assert all(torch.isfinite(loss) for loss in losses.values())
    gradients = {key: value.grad for key, value in model.named_parameters() if value.requires_grad}
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients.values())
