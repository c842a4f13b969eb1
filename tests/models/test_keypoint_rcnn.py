"""Keypoint R-CNN: torchvision's numbers from torchvision's weights; masks and keypoints together; odd images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import keypointrcnn_resnet50_fpn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from boxwood.data.categories import keypoint_facts
from boxwood.errors import UserError
from boxwood.inference.predictor import prepare
from boxwood.interop.torchvision import rcnn_config, rcnn_state
from boxwood.models import rpn, second_stage
from boxwood.models.backbones import ResNetConfig
from boxwood.models.config import FPNConfig, RCNNConfig, RoIConfig, RPNConfig
from boxwood.models.heads import ConvKeypointHeadConfig, ConvMaskHeadConfig, TwoFCHeadConfig
from boxwood.models.inference_config import TestConfig
from boxwood.models.rcnn import RCNN
from boxwood.structures import Batch, Categories, InstanceMasks, Target
from tests.models.peers import ExactAnchors, batch_of, photos, randomize_norms, randomize_predictor
from tests.models.test_parity import our_sampler, their_sampler

PERSON = Categories((1,), ("person",), keypoint_facts(tuple(f"point{i}" for i in range(17)), ((0, 1), (1, 2))))

# ------------------------------------------------------------------------------------------------------- beside torchvision


@torch.no_grad()
def peer(image: Tensor) -> Any:
    """torchvision's network with random weights that give detections in ``image`` (3, H, W) uint8."""
    torch.manual_seed(0)
    network: Any = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    randomize_norms(network.backbone.body)
    heads = network.roi_heads
    network.rpn.anchor_generator = ExactAnchors(network.rpn.anchor_generator, 4)
    network.transform.min_size, heads.score_thresh = (min(image.shape[-2:]),), 0.0
    network.transform.postprocess = lambda results, *sizes: results

    def run() -> Any:
        return network([image.float() / 255])

    network.rpn._post_nms_top_n["testing"], heads.detections_per_img = 200, 10  # enough to measure the deviation of outputs
    randomize_predictor(network, network.rpn.head.cls_logits, 3.0, run)
    randomize_predictor(network, network.rpn.head.bbox_pred, 0.2, run)
    randomize_predictor(network, heads.box_predictor.cls_score, 2.0, run)
    randomize_predictor(network, heads.box_predictor.bbox_pred, 0.5, run)
    randomize_predictor(network, heads.keypoint_predictor.kps_score_lowres, 3.0, run)
    network.rpn._post_nms_top_n["testing"], heads.detections_per_img = 1000, 100
    heads.score_thresh = 0.05
    return network


def ours_with(network: Any) -> RCNN:
    model = rcnn_config(keypoints=True).build(PERSON, TestConfig()).eval()
    model.load_state_dict(rcnn_state(network.state_dict()))
    return model


def assert_same_detections(image: Tensor) -> None:
    network = peer(image)
    model = ours_with(network)
    batch = batch_of(image)
    with torch.no_grad():
        (expected,) = network([image.float() / 255])
        (before,) = model.detections(model(batch), batch)
        prepare(model)
        (after,) = model.detections(model(batch), batch)
    assert 20 <= len(expected["boxes"]) <= 100
    assert expected["keypoints_scores"].std() > 0.5
    for detections in (before, after):
        assert len(detections) == len(expected["boxes"])
        torch.testing.assert_close(detections.boxes, expected["boxes"], rtol=0, atol=0.01)
        torch.testing.assert_close(detections.scores, expected["scores"], rtol=0, atol=1e-5)
        assert detections.keypoints is not None and detections.skeleton == ((0, 1), (1, 2))
        torch.testing.assert_close(detections.keypoints[..., 2], expected["keypoints_scores"], rtol=0, atol=1e-3)
        # Of two peaks equally high up to rounding either may be taken.
        apart = (detections.keypoints[..., :2] - expected["keypoints"][..., :2]).abs().amax(dim=-1)
        assert (apart < 0.01).float().mean() > 0.995, apart.max()


@pytest.mark.slow
def test_detections_at_full_size_are_torchvisions() -> None:
    for image in photos((800, 1216)):
        assert_same_detections(image)


@pytest.mark.slow
def test_losses_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one image with three instances, one of them without a labelled keypoint; and the gradients."""
    monkeypatch.setattr(BalancedPositiveNegativeSampler, "__call__", their_sampler)
    monkeypatch.setattr(rpn, "sample_balanced", our_sampler)
    monkeypatch.setattr(second_stage, "sample_balanced", our_sampler)
    (image, *_) = photos((256, 320))
    network = peer(image).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    model = ours_with(network).train()
    boxes = torch.tensor([[20.0, 30, 140, 200], [150.5, 10.25, 300, 120], [100, 150, 131, 190]])
    labels = torch.zeros(3, dtype=torch.int64)
    keypoints = boxes[:, None, :2] + torch.rand(3, 17, 2, generator=torch.Generator().manual_seed(0)) * 110
    visibility = torch.randint(0, 3, (3, 17, 1), generator=torch.Generator().manual_seed(1)).float()
    visibility[2] = 0
    keypoints = torch.cat([keypoints, visibility], dim=2)
    expected = network([image.float() / 255], [{"boxes": boxes, "labels": labels + 1, "keypoints": keypoints}])
    target = Target(boxes, labels, torch.zeros(0, 4), keypoints=keypoints)
    losses = model.losses(model(batch_of(image, (target,))), (target,))
    names = {"loss_objectness": "loss_rpn_objectness", "loss_rpn_box_reg": "loss_rpn_box", "loss_classifier": "loss_class",
             "loss_box_reg": "loss_box", "loss_keypoint": "loss_keypoint"}  # fmt: skip
    assert {names[name] for name in expected} == set(losses)
    for name, loss in expected.items():
        assert losses[names[name]].item() == pytest.approx(loss.item(), rel=1e-5), name
    losses["loss_keypoint"].backward()
    expected["loss_keypoint"].backward()
    # A value that is 0 up to rounding passes a ReLU here and not there, so single weights may differ.
    weight, head = network.roi_heads.keypoint_head[0].weight.grad, model.keypoint_head
    assert head is not None
    assert (head.convs[0].weight.grad - weight).norm() < 1e-2 * weight.norm()  # type: ignore[index,operator]


# ---------------------------------------------------------------------------------------------------------- small networks

THREE = Categories((1, 2), ("a", "b"), keypoint_facts(("top", "left", "right")))


def small(*, masks: bool = True, categories: Categories = THREE) -> RCNN:
    torch.manual_seed(0)
    config = RCNNConfig(
        backbone=ResNetConfig(depth=18, width=32, norm="gn", frozen_stages=0, weights=None),
        fpn=FPNConfig(channels=32),
        rpn=RPNConfig(anchor_sizes=((16.0,), (32.0,), (48.0,), (64.0,), (96.0,)), samples_per_image=64, test_proposals=40),
        rois=RoIConfig(samples_per_image=32),
        box_head=TwoFCHeadConfig(width=32),
        mask_head=ConvMaskHeadConfig(convs=1, width=16) if masks else None,
        keypoint_head=ConvKeypointHeadConfig(convs=2, width=16),
    )
    return config.build(categories, TestConfig(score_threshold=0.0))


def target(count: int) -> Target:
    boxes = torch.tensor([[10.0, 12, 60, 70], [70, 20, 110, 80]])[:count]
    points = torch.cat([boxes[:, None, :2] + torch.tensor([[5.0, 5], [9, 30], [30, 9]]), torch.full((count, 3, 1), 2.0)], dim=2)
    masks = InstanceMasks(torch.ones(count, 112, 112, dtype=torch.uint8), boxes)
    return Target(boxes, torch.arange(count), torch.zeros(0, 4), masks, points)


def noise(*targets: Target, count: int = 2) -> Batch:
    images = torch.randint(0, 256, (count, 3, 96, 128), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sizes = torch.tensor([[96, 128]] * count)
    return Batch(images, sizes, ((96, 128), (48, 64))[:count], (1, 2)[:count], (), (1, 2)[:count], targets or None)


@pytest.mark.parametrize("masks", [False, True])
def test_every_weight_has_a_gradient(masks: bool) -> None:
    model = small(masks=masks)
    targets = (target(2), target(0))
    losses = model.losses(model(noise(*targets)), targets)
    assert ("loss_mask" in losses) == masks and "loss_keypoint" in losses
    assert all(loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    # Level 5 of so small an image has no RoI.
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(name.startswith("fpn.outer.") for name in without), without


def test_images_without_instances() -> None:
    model = small()
    targets = (target(0), target(0))
    losses = model.losses(model(noise(*targets)), targets)
    assert losses["loss_keypoint"] == 0 and all(loss.isfinite() for loss in losses.values())
    model.test.score_threshold = 1.0
    with torch.no_grad():
        detections = model.detections(model(noise()), noise())
    assert [len(each) for each in detections] == [0, 0]
    assert detections[0].keypoints is not None and detections[0].keypoints.shape == (0, 3, 3)


def test_keypoints_are_in_the_originals_pixels() -> None:
    """The second image is half as large in its file: its keypoints lie in their boxes."""
    model = small()
    with torch.no_grad():
        detections = model.detections(model(noise()), noise())[1]
    assert len(detections) > 5 and detections.keypoints is not None and detections.mask_probabilities is not None
    x, y = detections.keypoints[..., 0], detections.keypoints[..., 1]
    x1, y1, x2, y2 = (side[:, None] for side in detections.boxes.unbind(1))
    assert ((x >= x1 - 0.5) & (x <= x2 + 0.5) & (y >= y1 - 0.5) & (y <= y2 + 0.5)).all()
    assert float(detections.boxes[:, 2].max()) <= 64


def test_data_without_keypoints_is_refused() -> None:
    with pytest.raises(UserError, match="keypoint_head=null"):
        small(categories=Categories((1,), ("a",)))
