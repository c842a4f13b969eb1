"""Every architecture at toy size, and batches for it, for tests that run on all architectures.

The backbone of C4 and R-FCN is a ResNet-18 of an eighth of its width, that of the others five convolutions, since the time of an
export grows with the number of layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from boxwood.dense_pose import DensePose
from boxwood.interactions import InteractionFacts, Interactions
from boxwood.models.backbones import Backbone, BackboneConfig, ResNetConfig
from boxwood.models.config import (
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
from boxwood.models.heads import (
    AverageHeadConfig,
    ConvDensePoseHeadConfig,
    ConvKeypointHeadConfig,
    ConvMaskHeadConfig,
    InteractionHeadConfig,
    MaskXHeadConfig,
    TwoFCHeadConfig,
)
from boxwood.models.inference_config import TestConfig
from boxwood.structures import Batch, Categories, InstanceMasks, KeypointFacts, Target

__all__ = ["ARCHITECTURES", "CATEGORIES", "TEST", "batch", "build"]

CATEGORIES = Categories(
    (1, 2, 3),
    ("disc", "ring", "star"),
    KeypointFacts(("left", "right"), (1, 0), sigmas=(0.1, 0.1)),
    InteractionFacts((1, 2, 3), ("hold", "roll", "cut"), (("obj",), (), ("instr", "obj"))),
)
TEST = TestConfig(score_threshold=0.05, detections_per_image=10)
PROPOSALS = 12
"""The largest number of given proposals per image, for Fast R-CNN."""


class FiveConvsConfig(BackboneConfig):
    def build(self) -> Backbone:
        return FiveConvs()


class FiveConvs(Backbone):
    """Convolutions of stride 2, each with a ReLU; the last four make the maps."""

    channels, strides = (8, 8, 16, 16), (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1) for i, o in itertools.pairwise((3, 8, *self.channels)))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for layer in self.layers:
            maps.append(layer(maps[-1]).relu())
        return maps[2:]


def _resnet(last_stage: Any) -> ResNetConfig:
    return ResNetConfig(depth=18, width=8, last_stage=last_stage, frozen_stages=0, weights=None)


def _rpn(*anchor_sizes: tuple[float, ...]) -> RPNConfig:
    return RPNConfig(
        anchor_sizes=anchor_sizes or ((8.0,), (16.0,), (32.0,), (64.0,), (128.0,)),
        samples_per_image=32,
        train_candidates=40,
        train_proposals=24,
        test_candidates=40,
        test_proposals=20,
    )


def _rcnn(**parts: Any) -> RCNNConfig:
    rois = RoIConfig(samples_per_image=16, positive_fraction=0.5)
    common = {
        "backbone": FiveConvsConfig(),
        "fpn": FPNConfig(channels=16),
        "rpn": _rpn(),
        "rois": rois,
        "box_head": TwoFCHeadConfig(width=24),
    }
    return RCNNConfig(**{**common, **parts})


def _c4(**parts: Any) -> RCNNConfig:
    one_level = _rpn((16.0, 32.0, 64.0))
    rois = RoIConfig(samples_per_image=16, positive_fraction=0.5, sampling_ratio=0)
    return _rcnn(backbone=_resnet("tail"), fpn=None, rpn=one_level, rois=rois, box_head=AverageHeadConfig(), **parts)


def _mask_head(**parts: Any) -> ConvMaskHeadConfig:
    return ConvMaskHeadConfig(convs=1, width=16, **parts)


ARCHITECTURES: dict[str, Callable[[], ModelConfig]] = {
    "fast_rcnn_fpn": lambda: _rcnn(rpn=None),
    "faster_rcnn_fpn": _rcnn,
    "mask_rcnn_fpn": lambda: _rcnn(mask_head=_mask_head()),
    "mask_x_rcnn_fpn": lambda: _rcnn(mask_head=MaskXHeadConfig(convs=1, width=16, resolution=7)),
    "keypoint_rcnn_fpn": lambda: _rcnn(keypoint_head=ConvKeypointHeadConfig(convs=1, width=16)),
    "dense_pose_rcnn_fpn": lambda: _rcnn(
        dense_pose_head=ConvDensePoseHeadConfig(convs=1, width=16, resolution=7, parts=3, segmentation_confidence=True)
    ),
    "interactnet_fpn": lambda: _rcnn(interaction_head=InteractionHeadConfig(width=16, human="disc")),
    "faster_rcnn_c4": _c4,
    "mask_rcnn_c4": lambda: _c4(mask_head=ConvMaskHeadConfig(convs=0, width=16, source="tail")),
    "rpn_fpn": lambda: ProposerConfig(backbone=FiveConvsConfig(), fpn=FPNConfig(channels=16), rpn=_rpn()),
    "rfcn": lambda: RFCNConfig(
        backbone=_resnet("dilated"),
        rpn=_rpn((16.0, 32.0, 64.0)),
        rois=RoIConfig(samples_per_image=16, positive_fraction=0.5, hardest=8, class_agnostic=True),
        width=16,
        grid=3,
    ),
    "retinanet": lambda: RetinaNetConfig(
        backbone=FiveConvsConfig(),
        fpn=FPNConfig(channels=16, top="conv_c5"),
        head=RetinaNetHeadConfig(anchor_sizes=tuple((2.0 * s, 3.0 * s) for s in (8, 16, 32, 64, 128)), convs=1, test_candidates=40),
    ),
}
"""One of each kind."""


def build(name: str, test: TestConfig = TEST, *, randomized: bool = True) -> Any:
    """The network ``name`` with random weights of seed 0. ``randomized``: its outputs differ from place to place, as those
    of a newly built network hardly do."""
    torch.manual_seed(0)
    model = ARCHITECTURES[name]().build(CATEGORIES, test).eval()
    if randomized:
        randomize_weights(model)
    return model


@torch.no_grad()
def randomize_weights(model: nn.Module) -> None:
    """Random weights with which scores, boxes and masks differ from place to place."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        gain = 1 if "backbone" in name else 2
        spread = 0.1 if parameter.dim() == 1 else (gain / parameter[0].numel()) ** 0.5
        parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))


def batch(
    sizes: Sequence[tuple[int, int]], instances: Sequence[int] | None = None, *, proposals: bool = False, seed: int = 0
) -> Batch:
    """Noise of ``sizes`` (height, width), padded to multiples of 32. ``instances``: the number of instances in each image's target,
    None for no targets. The number of proposals differs by image. ``seed`` also decides the random samples of a network."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (-(-max(size[axis] for size in sizes) // 32) * 32 for axis in (0, 1))
    images = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    for image, (h, w) in zip(images, sizes, strict=True):
        coarse = torch.rand(1, 3, 6, 8, generator=generator) * 255
        image[:, :h, :w] = nn.functional.interpolate(coarse, (h, w), mode="bilinear")[0].to(torch.uint8)
    return Batch(
        images,
        torch.tensor(sizes),
        tuple(sizes),
        tuple(range(len(sizes))),
        seeds=tuple(1000 * seed + index for index in range(len(sizes))),
        targets=None if instances is None else tuple(target(s, n, generator) for s, n in zip(sizes, instances, strict=True)),
        proposals=tuple(boxes(s, PROPOSALS - i, generator) for i, s in enumerate(sizes)) if proposals else None,
    )


def boxes(size: tuple[int, int], number: int, generator: torch.Generator) -> Tensor:
    """Boxes inside an image, of sides from an eighth of its sides on."""
    height, width = size
    corner = torch.rand(number, 2, generator=generator) * 0.6
    side = 0.125 + torch.rand(number, 2, generator=generator) * (0.875 - corner)
    return torch.cat([corner, corner + side], dim=1) * torch.tensor([width, height, width, height])


def target(size: tuple[int, int], number: int, generator: torch.Generator) -> Target:
    """``number`` instances with masks, keypoints, interactions and dense pose, which the last of several lacks, and an ignored
    region where there are two or more."""
    truth = boxes(size, number, generator)
    bitmaps = (torch.rand(number, 28, 28, generator=generator) > 0.3).to(torch.uint8)
    keypoints = truth[:, None, :2] + torch.rand(number, 2, 2, generator=generator) * (truth[:, None, 2:] - truth[:, None, :2])
    labels = torch.randint(len(CATEGORIES), (number,), generator=generator)
    humans = [row for row, label in enumerate(labels.tolist()) if label == 0]
    pairs = [(row, action, (row + action) % (number + 1) - 1) for row in humans for action in (0, 1, 3)]
    deeds = Interactions(labels == 0, torch.tensor(pairs, dtype=torch.int64).view(-1, 3))
    made = Target(
        truth,
        labels,
        boxes(size, int(number >= 2), generator),
        InstanceMasks(bitmaps, truth),
        torch.cat([keypoints, torch.full((number, 2, 1), 2.0)], dim=2),
        fields={"interactions": deeds},
    )
    made.fields["dense_pose"] = dense_pose(truth)
    return made


def dense_pose(truth: Tensor) -> DensePose:
    """Random points of three parts in boxes (N, 4), 5 of each instance but the last of several."""
    number, generator = len(truth), torch.Generator().manual_seed(len(truth))
    places = 256 * torch.rand(number, 5, 2, generator=generator)
    parts = torch.randint(1, 4, (number, 5, 1), generator=generator)
    points = torch.cat([places, parts, torch.rand(number, 5, 2, generator=generator)], dim=2)
    segmentation = torch.randint(0, 15, (number, 256, 256), dtype=torch.uint8, generator=generator)
    known = torch.arange(number) < max(1, number - 1)
    return DensePose(points, truth, segmentation, known, known)
