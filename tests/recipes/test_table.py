"""Every recipe trains one step, detects, and gives the same detections after saving and restoring."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from boxwood import recipes
from boxwood.interactions import InteractionFacts
from boxwood.models import ModelConfig
from boxwood.models.config import without_pretrained
from boxwood.structures import Batch, Categories, InstanceMasks, KeypointFacts, Target
from boxwood.weights.file import read_weights, restore_model, save_weights

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = [recipe.__name__ for recipe in recipes.RECIPES]
CLASSES = Categories(
    (1, 2, 5), ("a", "b", "c"), KeypointFacts(("nose", "left_ear", "right_ear"), (0, 2, 1), ((0, 1),), (0.05,) * 3)
)
LIGHT = ("demo", "rfcn_mobilenetv2")
LOSSES = {
    "RPN": {"loss_rpn_objectness", "loss_rpn_box"},
    "Fast R-CNN": {"loss_class", "loss_box"},
    "Faster R-CNN": {"loss_rpn_objectness", "loss_rpn_box", "loss_class", "loss_box"},
    "R-FCN": {"loss_rpn_objectness", "loss_rpn_box", "loss_class", "loss_box"},
    "Mask R-CNN": {"loss_rpn_objectness", "loss_rpn_box", "loss_class", "loss_box", "loss_mask"},
    "Mask^X R-CNN": {"loss_rpn_objectness", "loss_rpn_box", "loss_class", "loss_box", "loss_mask"},
    "DensePose R-CNN": {
        *("loss_rpn_objectness", "loss_rpn_box", "loss_class", "loss_box"),
        *("loss_dense_pose_coarse", "loss_dense_pose_fine", "loss_dense_pose_u", "loss_dense_pose_v"),
    },
    "InteractNet R-CNN": {
        *("loss_rpn_objectness", "loss_rpn_box", "loss_class", "loss_box"),
        *("loss_interaction_action", "loss_interaction_target", "loss_interaction_pair"),
    },
    "Keypoint R-CNN": {"loss_rpn_objectness", "loss_rpn_box", "loss_class", "loss_box", "loss_keypoint"},
    "RetinaNet": {"loss_class", "loss_box"},
}


def two_images(height: int, width: int) -> Batch:
    """A batch of an image with two instances and a smaller image without instances."""
    boxes = torch.tensor([[4.0, 4.0, 40.0, 44.0], [30.0, 20.0, 90.0, 60.0]])
    masks = InstanceMasks(torch.ones(2, 28, 28, dtype=torch.uint8), boxes.clone())
    nothing = InstanceMasks(torch.zeros(0, 28, 28, dtype=torch.uint8), torch.zeros(0, 4))
    keypoints = torch.tensor([[[10.0, 10, 2], [20, 30, 1], [0, 0, 0]], [[50, 40, 2], [60, 30, 2], [80, 50, 2]]])
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(
        images,
        torch.tensor([[height, width], [height - 4, width - 6]]),
        ((height, width), (height - 4, width - 6)),
        (1, 2),
        ("a.jpg", "b.jpg"),
        (1, 2),
        (
            Target(boxes, torch.tensor([0, 2]), torch.zeros(0, 4), masks, keypoints),
            Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), nothing, torch.zeros(0, 3, 3)),
        ),
        (torch.cat([boxes + 2, torch.tensor([[0.0, 0, 30, 30]])]), torch.zeros(0, 4)),
    )


def with_few_regions(model: ModelConfig) -> ModelConfig:
    """The same network from random weights, with few regions, which changes no shape and saves time."""
    light: Any = without_pretrained(model)
    rpn, rois = getattr(light, "rpn", None), getattr(light, "rois", None)
    if rpn is not None:
        rpn.train_candidates = rpn.test_candidates = 100
        rpn.train_proposals = rpn.test_proposals = 24
    if rois is not None:
        rois.samples_per_image = 24
        rois.hardest = None if rois.hardest is None else 16
    built: ModelConfig = light
    return built


@contextmanager
def uninitialised_weights() -> Iterator[None]:
    """Networks are built without initialisation, so values that a file does not restore are arbitrary; this also saves time."""

    def leave(tensor: Tensor, *_: object, **__: object) -> Tensor:
        return tensor

    with pytest.MonkeyPatch.context() as patch:
        for name in ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"):
            patch.setattr(nn.init, name, leave)
        yield


@pytest.mark.parametrize(
    "name",
    [name if any(part in name for part in LIGHT) else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)
def test_every_recipe_trains_detects_and_is_restored(name: str) -> None:
    config = getattr(recipes, name)()
    config.model = with_few_regions(config.model)
    torch.manual_seed(0)
    classes = CLASSES
    if getattr(config.model, "interaction_head", None):
        verbs = InteractionFacts((1, 2), ("hold", "walk"), (("obj",), ()))
        classes = replace(CLASSES, names=("person", *CLASSES.names[1:]), interactions=verbs)
    model: Any = config.model.build(classes, config.test).train()
    for key, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d) and key.endswith("conv3.norm"):
            module.weight.fill_(0.2)  # with random weights and no statistics, activations of a hundred blocks would overflow
    # The first layers of VGG-CNN-M-1024 have no padding: a smaller image would have an empty map.
    batch = two_images(*((96, 128) if "vgg_cnn_m" in name else (64, 96)))
    assert batch.targets is not None
    losses = model.losses(model(batch), batch.targets)
    expected = LOSSES[config.model.title.partition(",")[0]]
    if "_wc" in name:  # one loss of U and V
        expected = expected - {"loss_dense_pose_u", "loss_dense_pose_v"} | {"loss_dense_pose_uv"}
    assert set(losses) == expected
    assert all(loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {key: value.grad for key, value in model.named_parameters() if value.requires_grad}
    assert len(gradients) >= 6
    assert [key for key, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []
    model.zero_grad()

    images = batch.images.clone()
    images[1] = 0
    plain = replace(batch, images=images, targets=None)
    model.eval()
    config.test.score_threshold, config.test.detections_per_image = 0.0, 4
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        detections = model.detections(model(plain), plain)
        save_weights(Path(folder, "model.safetensors"), model.state_dict(), config, classes)
        del model
        saved = read_weights(Path(folder, "model.safetensors"))
        assert saved.config == config
        with uninitialised_weights():
            restored: Any = restore_model(saved, test=config.test).eval()
        again = restored.detections(restored(plain), plain)
    assert len(detections[0]) > 0
    for one, other in zip(detections, again, strict=True):
        assert torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores)
        assert (one.mask_probabilities is None) == (other.mask_probabilities is None) == ("Mask" not in config.model.title)
        assert (one.keypoints is None) == (other.keypoints is None) == ("Keypoint" not in config.model.title)
