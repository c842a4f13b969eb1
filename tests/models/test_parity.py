"""Same weights, same numbers as torchvision's Faster and Mask R-CNN: detections, and losses of the same samples.

The networks have random weights, scaled so that each of three photographs has some dozens of detections with scores from 0.05 to
about 0.7. The comparison is exact, and suppression has a sharp threshold: of two boxes whose overlap equals it up to rounding,
one network may drop one and the other keep both, and then a detection more or less is right. With ``SEED`` that happens in none of
the photographs, before and after `prepare`. Three seeds were tried: the other two gave one of the photographs fewer than 50
detections, and were not compared.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import (
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from boxwood.inference.predictor import prepare
from boxwood.interop.torchvision import rcnn_config, rcnn_state
from boxwood.models import rpn, second_stage
from boxwood.models.inference_config import TestConfig
from boxwood.models.rcnn import RCNN
from boxwood.structures import InstanceMasks, Target
from tests.models.peers import CLASSES, ExactAnchors, batch_of, photos, randomize_norms, randomize_predictor

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


SEED, BACKGROUNDS = 1, (8.25, 8.5, 9.4)
"""Of the random weights, and for each photograph the bias of the background's score, which decides the number of detections."""
BACKGROUNDS_V2 = (7.25, 7.0, 8.25)
SIZE = (800, 1216)


@torch.no_grad()
def random_network(image: Tensor, seed: int, *, masks: bool = True) -> Any:
    """torchvision's network with random weights that give detections in ``image`` (3, H, W) uint8."""
    torch.manual_seed(seed)
    build = maskrcnn_resnet50_fpn if masks else fasterrcnn_resnet50_fpn
    network: Any = build(weights=None, weights_backbone=None, num_classes=91).eval()
    randomize_norms(network.backbone.body)
    heads = network.roi_heads

    def run() -> Any:
        return network([image.float() / 255])

    network.rpn.anchor_generator = ExactAnchors(network.rpn.anchor_generator, 4)
    network.transform.min_size, heads.score_thresh = (min(image.shape[-2:]),), 0.0
    randomize_predictor(network, network.rpn.head.cls_logits, 3.0, run)
    randomize_predictor(network, network.rpn.head.bbox_pred, 0.2, run)
    randomize_predictor(network, heads.box_predictor.cls_score, 3.5, run)
    randomize_predictor(network, heads.box_predictor.bbox_pred, 0.5, run)
    if masks:
        randomize_predictor(network, heads.mask_predictor.mask_fcn_logits, 2.0, run)
    network.transform.min_size, heads.score_thresh = (SIZE[0],), 0.05
    return network


# ------------------------------------------------------------------------------------------------------------- detections


@pytest.fixture(scope="module")
def theirs() -> Any:
    """torchvision's Mask R-CNN."""
    network = random_network(photos((256, 384))[0], SEED)
    network.transform.postprocess = lambda results, *sizes: results  # the masks over their boxes, not pasted
    return network


def ours_with(network: Any, *, masks: bool) -> RCNN:
    model = rcnn_config(masks=masks).build(CLASSES, TestConfig()).eval()
    model.load_state_dict(rcnn_state(network.state_dict()))
    return model


def without_masks(network: Any, build: Any = fasterrcnn_resnet50_fpn) -> Any:
    """torchvision's Faster R-CNN with the weights of its Mask R-CNN."""
    faster: Any = build(weights=None, weights_backbone=None, num_classes=91).eval()
    faster.load_state_dict({name: value for name, value in network.state_dict().items() if "mask" not in name})
    faster.rpn.anchor_generator = network.rpn.anchor_generator
    faster.transform.min_size, faster.transform.postprocess = (SIZE[0],), network.transform.postprocess
    return faster


@pytest.mark.parametrize("masks", [False, True], ids=["faster", "mask"])
def test_detections_are_torchvisions(theirs: Any, masks: bool) -> None:
    network = theirs if masks else without_masks(theirs)
    compare(network, ours_with(network, masks=masks), BACKGROUNDS)


def compare(network: Any, model: RCNN, backgrounds: tuple[float, ...]) -> None:
    """Detections in the photographs, before and after `prepare`, with each photograph's bias of the background."""
    batches = [batch_of(image) for image in photos(SIZE)]
    with torch.no_grad():
        expected, before, after = [], [], []
        for batch, bias in zip(batches, backgrounds, strict=True):
            network.roi_heads.box_predictor.cls_score.bias[0] = model.class_logits.bias[-1] = bias
            expected.append(network([batch.images[0].float() / 255])[0])
            before.append(model.detections(model(batch), batch)[0])
        prepare(model)
        for batch, bias in zip(batches, backgrounds, strict=True):
            model.class_logits.bias[-1] = bias
            after.append(model.detections(model(batch), batch)[0])
    for results in (before, after):
        for detections, reference in zip(results, expected, strict=True):
            assert 50 <= len(reference["boxes"]) < 100
            assert len(detections) == len(reference["boxes"])
            assert torch.equal(detections.labels, reference["labels"] - 1)
            torch.testing.assert_close(detections.boxes, reference["boxes"], rtol=0, atol=0.01)
            torch.testing.assert_close(detections.scores, reference["scores"], rtol=0, atol=1e-5)
            if "masks" in reference:
                assert detections.mask_probabilities is not None
                assert reference["masks"].std() > 0.1
                torch.testing.assert_close(detections.mask_probabilities, reference["masks"][:, 0], rtol=0, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------------- losses


def first_ones(positive: Tensor, negative: Tensor, num: int, fraction: float) -> tuple[Tensor, Tensor]:
    """The first candidates instead of random ones: indices of positives and of negatives."""
    positives = positive.nonzero()[:, 0][: int(num * fraction)]
    return positives, negative.nonzero()[:, 0][: num - len(positives)]


def our_sampler(positive: Tensor, negative: Tensor, num: int, fraction: float, chance: Tensor) -> tuple[Tensor, Tensor]:
    if positive.dim() == 2:  # of a batch
        columns = zip(positive, negative, chance, strict=True)
        indices, valid = zip(*(our_sampler(p, n, num, fraction, c) for p, n, c in columns), strict=True)
        return torch.stack(indices), torch.stack(valid)
    sampled = torch.cat(first_ones(positive, negative, num, fraction))
    missing = min(num, len(positive)) - len(sampled)
    valid = torch.cat([torch.ones(len(sampled), dtype=torch.bool), torch.zeros(missing, dtype=torch.bool)])
    return torch.cat([sampled, sampled.new_zeros(missing)]), valid


def their_sampler(self: Any, matched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    masks: tuple[list[Tensor], list[Tensor]] = ([], [])
    for indices in matched:
        for mask, sampled in zip(
            masks, first_ones(indices >= 1, indices == 0, self.batch_size_per_image, self.positive_fraction), strict=True
        ):
            mask.append(torch.zeros_like(indices, dtype=torch.uint8).index_fill(0, sampled, 1))
    return masks


NAMES = {
    "loss_objectness": "loss_rpn_objectness",
    "loss_rpn_box_reg": "loss_rpn_box",
    "loss_classifier": "loss_class",
    "loss_box_reg": "loss_box",
    "loss_mask": "loss_mask",
}


@pytest.mark.parametrize("masks", [False, True], ids=["faster", "mask"])
def test_losses_are_torchvisions(masks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one image with three instances; and their gradients, of all weights that Boxwood trains."""
    monkeypatch.setattr(BalancedPositiveNegativeSampler, "__call__", their_sampler)
    monkeypatch.setattr(rpn, "sample_balanced", our_sampler)
    monkeypatch.setattr(second_stage, "sample_balanced", our_sampler)
    height, width = 256, 320
    (image, *_) = photos((height, width))
    network = random_network(image, SEED, masks=masks)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # ours are frozen
    network.transform.min_size = (height,)
    model = ours_with(network, masks=masks).train()

    boxes = torch.tensor([[20.0, 30, 140, 200], [150.5, 10.25, 300, 120], [100, 150, 131, 190]])
    labels = torch.tensor([4, 0, 77])
    bitmaps = (torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    truth: dict[str, Tensor] = {"boxes": boxes, "labels": labels + 1}
    # torchvision's pixel 0 is from -0.5 to 0.5.
    pixels = InstanceMasks(bitmaps, torch.tensor([[-0.5, -0.5, width - 0.5, height - 0.5]]).repeat(3, 1))
    if masks:
        truth["masks"] = bitmaps
    expected = network([image.float() / 255], [truth])
    target = Target(boxes, labels, torch.zeros(0, 4), pixels if masks else None)
    batch = batch_of(image, (target,))
    output = model(batch)
    losses = model.losses(output, (target,))

    assert output.roi_sample is not None and (output.roi_sample.labels < 90).sum() >= 3
    assert {NAMES[name] for name in expected} == set(losses)
    for name, loss in expected.items():
        assert losses[NAMES[name]].item() == pytest.approx(loss.item(), rel=1e-5), name
        assert loss > 1e-3, name

    torch.stack(list(expected.values())).sum().backward()
    torch.stack(list(losses.values())).sum().backward()
    norms = {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    gradients = rcnn_state({name: value.grad for name, value in network.named_parameters() if name.rpartition(".")[0] not in norms})
    trained = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    assert len(trained) > 60
    for name, gradient in trained.items():
        assert gradient is not None
        # None of the first candidates is on the coarsest maps, whose weights then have gradients of zero.
        scale = float(gradients[name].abs().max())
        assert scale > 0 or name.startswith("fpn.outer."), name
        scale = scale or 1.0
        torch.testing.assert_close(
            gradient / scale, gradients[name] / scale, rtol=0, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


# --------------------------------------------------------------------------------------------- the second version of torchvision's


@torch.no_grad()
def second_version(image: Tensor, *, masks: bool) -> Any:
    """torchvision's network of version 2, with batch norms in pyramid and heads, that gives detections in ``image``."""
    torch.manual_seed(SEED)
    build = maskrcnn_resnet50_fpn_v2 if masks else fasterrcnn_resnet50_fpn_v2
    network: Any = build(weights=None, weights_backbone=None, num_classes=91).eval()
    randomize_norms(network)
    heads = network.roi_heads

    def run() -> Any:
        return network([image.float() / 255])

    network.rpn.anchor_generator = ExactAnchors(network.rpn.anchor_generator, 4)
    network.transform.min_size, heads.score_thresh = (min(image.shape[-2:]),), 0.0
    network.transform.postprocess = lambda results, *sizes: results
    network.rpn._post_nms_top_n["testing"], heads.detections_per_img = 200, 20  # enough to measure the deviation of outputs
    randomize_predictor(network, network.rpn.head.cls_logits, 3.0, run)
    randomize_predictor(network, network.rpn.head.bbox_pred, 0.2, run)
    randomize_predictor(network, heads.box_predictor.cls_score, 3.5, run)
    randomize_predictor(network, heads.box_predictor.bbox_pred, 0.5, run)
    if masks:
        randomize_predictor(network, heads.mask_predictor.mask_fcn_logits, 2.0, run)
    network.rpn._post_nms_top_n["testing"], heads.detections_per_img = 1000, 100
    heads.box_predictor.cls_score.bias[0], heads.score_thresh = 8.0, 0.05
    return network


@pytest.mark.parametrize("masks", [False, True], ids=["faster", "mask"])
def test_detections_of_the_second_version(masks: bool) -> None:
    network = second_version(photos((320, 448))[0], masks=True)
    network.transform.min_size = (SIZE[0],)
    network = network if masks else without_masks(network, fasterrcnn_resnet50_fpn_v2)
    model = rcnn_config(masks=masks, v2=True).build(CLASSES, TestConfig()).eval()
    model.load_state_dict(rcnn_state(network.state_dict()))
    with torch.no_grad():
        compare(network, model, BACKGROUNDS_V2)


@pytest.mark.parametrize("masks", [False, True], ids=["faster", "mask"])
def test_detections_and_losses_of_the_second_version(masks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Detections, before and after `prepare`, and losses with their gradients."""
    (image, *_) = photos((320, 448))
    network = second_version(image, masks=masks)
    model = rcnn_config(masks=masks, v2=True).build(CLASSES, TestConfig()).eval()
    model.load_state_dict(rcnn_state(network.state_dict()))
    batch = batch_of(image)
    with torch.no_grad():
        (expected,) = network([image.float() / 255])
        (before,) = model.detections(model(batch), batch)
    assert 20 <= len(expected["boxes"]) <= 100

    monkeypatch.setattr(BalancedPositiveNegativeSampler, "__call__", their_sampler)
    monkeypatch.setattr(rpn, "sample_balanced", our_sampler)
    monkeypatch.setattr(second_stage, "sample_balanced", our_sampler)
    for module in (*network.train().modules(), *model.train().modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    boxes = torch.tensor([[20.0, 30, 140, 200], [150.5, 10.25, 300, 120], [100, 150, 131, 190]])
    labels, (height, width) = torch.tensor([4, 0, 77]), image.shape[-2:]
    bitmaps = (torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    pixels = InstanceMasks(bitmaps, torch.tensor([[-0.5, -0.5, width - 0.5, height - 0.5]]).repeat(3, 1))
    target = Target(boxes, labels, torch.zeros(0, 4), pixels if masks else None)
    theirs = network([image.float() / 255], [{"boxes": boxes, "labels": labels + 1, **({"masks": bitmaps} if masks else {})}])
    learning = batch_of(image, (target,))
    losses = model.losses(model(learning), (target,))
    for name, loss in theirs.items():
        assert losses[NAMES[name]].item() == pytest.approx(loss.item(), rel=1e-5), name
    torch.stack(list(theirs.values())).sum().backward()
    torch.stack(list(losses.values())).sum().backward()
    gradients = rcnn_state({name: value.grad for name, value in network.named_parameters() if value.grad is not None})
    trained = {name: value.grad for name, value in model.named_parameters() if name in gradients}
    assert len(trained) > 60
    for name, gradient in trained.items():
        # A value that is 0 up to rounding passes a ReLU here and not there, so single weights may differ.
        norm = float(gradients[name].norm())
        assert gradient is not None and float((gradient - gradients[name]).norm()) <= 1e-2 * norm, name

    with torch.no_grad():
        prepare(model)
        (after,) = model.detections(model(batch), batch)
    for detections in (before, after):
        assert torch.equal(detections.labels, expected["labels"] - 1)
        torch.testing.assert_close(detections.boxes, expected["boxes"], rtol=0, atol=0.01)
        torch.testing.assert_close(detections.scores, expected["scores"], rtol=0, atol=1e-5)
        if masks:
            assert detections.mask_probabilities is not None
            torch.testing.assert_close(detections.mask_probabilities, expected["masks"][:, 0], rtol=0, atol=1e-4)
