"""Speed and memory beside torchvision and pycocotools, in one run on one machine.

    python benchmarks/speed.py                          everything; about 10 minutes on two cores
    python benchmarks/speed.py --only inference roi_align --repeats 9

Both contenders of a row do the same work on the same input and take turns; a row gives the median of each, their ratio, and how
far the results are apart. Networks have the same random weights, scaled so that 50 to 94 detections come out, and run at 800 x
1216, one image at a time. Peak memory is that of a fresh process that runs the network three times. What torchvision has not
(R-CNN on C4, R-FCN) has its time alone, and the share of each of its stages.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import (
    fasterrcnn_resnet50_fpn,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    retinanet_resnet50_fpn,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, Mask

from boxwood.data import CocoConfig, HorizontalFlip, ResizeShortestEdge
from boxwood.data.loader import collate, transformed_sample
from boxwood.data.sampler import Place
from boxwood.data.synthetic.shapes import write_shapes
from boxwood.evaluation import CocoEvaluator
from boxwood.fields import Keypoints
from boxwood.files import IMAGE_FORMATS
from boxwood.inference.predictor import prepare
from boxwood.interop.torchvision import rcnn_config, rcnn_state, retinanet_config, retinanet_state
from boxwood.models.config import ModelConfig, without_pretrained
from boxwood.models.inference_config import TestConfig
from boxwood.ops import roi_align as roi_align_module
from boxwood.ops.masks import paste_masks
from boxwood.ops.roi_align import roi_align
from boxwood.recipes import resolve
from boxwood.structures import Batch, Categories, Detections, InstanceMasks, KeypointFacts, Target
from boxwood.training.loop import update
from boxwood.training.state import TrainingState, start

HEIGHT, WIDTH = 800, 1216
CLASSES = 80

Contender = Callable[[], Any]
Row = dict[str, Any]


def take_turns(ours: Contender, peer: Contender, repeats: int) -> tuple[float, float]:
    """Median seconds of each, after one uncounted turn; they alternate, so that a drift of the machine's speed meets both."""
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for turn in range(repeats + 1):
        for name, work in (("ours", ours), ("peer", peer)):
            start = time.perf_counter()
            work()
            if turn > 0:
                times[name].append(time.perf_counter() - start)
    return statistics.median(times["ours"]), statistics.median(times["peer"])


# -------------------------------------------------------------------------------------------------------------- networks


def picture(height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """A smooth random image, (3, H, W) uint8."""
    coarse = torch.rand(1, 3, height // 32, width // 32, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0].clamp(0, 1) * 255).to(torch.uint8)


class ExactAnchors(AnchorGenerator):
    """torchvision's anchors at the true strides: its stride of the coarsest map is 800 // 13 = 61 instead of 64."""

    def __init__(self, like: AnchorGenerator, finest: int) -> None:
        super().__init__(like.sizes, like.aspect_ratios)
        self.finest = finest

    def forward(self, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
        strides = [[torch.tensor(self.finest * 2**level)] * 2 for level in range(len(feature_maps))]
        self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
        anchors = self.grid_anchors([[*features.shape[-2:]] for features in feature_maps], strides)
        return [torch.cat(anchors)] * len(image_list.image_sizes)


@torch.no_grad()
def enliven(backbone: nn.Module) -> None:
    """Set norms so that the maps of a deep backbone with random weights neither vanish nor explode."""
    for name, module in backbone.named_modules():
        if name.rpartition(".")[2] in ("bn1", "bn2", "bn3", "1") and hasattr(module, "running_var"):
            module.weight.fill_(0.2 if name.endswith("bn3") else 1.0)
            module.bias.normal_(0, 0.1)


@torch.no_grad()
def spread(layers: Sequence[tuple[Any, float]], run: Callable[[], Any]) -> None:
    """Random weights for predictors, one after the other, whose outputs then deviate by so much where ``run`` looks."""
    for layer, deviation in layers:
        layer.weight.copy_(torch.empty(layer.weight.shape).normal_(0, 0.01))  # the same on every device
        seen: list[Tensor] = []
        hook = layer.register_forward_hook(lambda _module, _input, output, seen=seen: seen.append(output.flatten()))
        run()
        hook.remove()
        layer.weight.mul_(deviation / torch.cat(seen).std())


PEERS: dict[str, Callable[..., Any]] = {
    "Faster R-CNN": fasterrcnn_resnet50_fpn,
    "Mask R-CNN": maskrcnn_resnet50_fpn,
    "Keypoint R-CNN": keypointrcnn_resnet50_fpn,
    "RetinaNet": retinanet_resnet50_fpn,
}


def unscaled_network(name: str) -> Any:
    """torchvision's detector as it comes, with random weights."""
    classes = 1 if name == "Keypoint R-CNN" else CLASSES
    return PEERS[name](weights=None, weights_backbone=None, num_classes=classes + 1).eval()


@torch.no_grad()
def torchvision_network(name: str, device: torch.device | str = "cpu", size: tuple[int, int] = (HEIGHT, WIDTH)) -> Any:
    """torchvision's detector with random weights, scaled so that it gives 50 to 94 detections in a `picture`."""
    torch.manual_seed(0)
    network = unscaled_network(name)
    network.transform.min_size = (size[0],)
    enliven(network.backbone.body)
    image, small = (picture(*each).to(device).float() / 255 for each in (size, (320, 480)))

    def set_bias(value: float) -> None:
        """Larger values give fewer detections."""
        if name == "RetinaNet":
            bias = network.head.classification_head.cls_logits.bias.fill_(-value)
            bias.view(9, -1)[:, 0] = -100  # the class 0 that nothing belongs to
        else:
            network.roi_heads.box_predictor.cls_score.bias[0] = value

    if name == "RetinaNet":
        head, network.detections_per_img = network.head, 100
        network.anchor_generator = ExactAnchors(network.anchor_generator, 8)
        for tower in (head.classification_head.conv, head.regression_head.conv):
            for layer in tower.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight)
        layers = [(head.classification_head.cls_logits, 1.0), (head.regression_head.bbox_reg, 0.3)]
        low, high = 0.0, 12.0
    else:
        heads = network.roi_heads
        network.rpn.anchor_generator = ExactAnchors(network.rpn.anchor_generator, 4)
        layers = [(network.rpn.head.cls_logits, 2.0), (network.rpn.head.bbox_pred, 0.3)]
        layers += [(heads.box_predictor.cls_score, 2.5), (heads.box_predictor.bbox_pred, 0.5)]
        layers += [(heads.mask_predictor.mask_fcn_logits, 2.0)] if name == "Mask R-CNN" else []
        layers += [(heads.keypoint_predictor.kps_score_lowres, 3.0)] if name == "Keypoint R-CNN" else []
        low, high = (0.0, 30.0) if name == "Keypoint R-CNN" else (-10.0, 10.0)  # one class against the background needs more
    network.to(device)
    spread(layers, lambda: network([small]))
    for _ in range(12):
        middle = (low + high) / 2
        set_bias(middle)
        count = len(network([image])[0]["boxes"])
        if 50 <= count < 95:
            return network
        low, high = (middle, high) if count >= 95 else (low, middle)
    raise RuntimeError(f"{name}: no bias gives 50 to 94 detections")


def our_network(name: str, peer: Any) -> Any:
    classes = 1 if name == "Keypoint R-CNN" else CLASSES
    names = tuple(f"class {index}" for index in range(classes))
    points = KeypointFacts(tuple(f"point {index}" for index in range(17)), tuple(range(17)), (), (0.05,) * 17)
    categories = Categories(tuple(range(classes)), names, points if name == "Keypoint R-CNN" else None)
    if name == "RetinaNet":
        network, state = retinanet_config().build(categories, TestConfig()), retinanet_state(peer.state_dict())
    else:
        config = rcnn_config(masks=name == "Mask R-CNN", keypoints=name == "Keypoint R-CNN")
        network, state = config.build(categories, TestConfig()), rcnn_state(peer.state_dict())
    network.load_state_dict(state)
    return network


def detector(who: str, network: Any, image: Tensor) -> Callable[[], Any]:
    """One call from a uint8 image to its boxes, scores, labels, keypoints and pasted masks."""
    if who == "torchvision":
        return lambda: network([image.float() / 255])[0]
    size = (image.shape[-2], image.shape[-1])

    def detect() -> Detections:
        batch = Batch(image[None], torch.tensor([size]), (size,)).to(image.device)
        detections: Detections = network.detections(network(batch), batch)[0]
        _ = detections.masks
        return detections

    return detect


def bench_inference(repeats: int) -> Iterator[Row]:
    for name in PEERS:
        peer = torchvision_network(name)
        network = prepare(our_network(name, peer))
        ours, theirs = detector("boxwood", network, picture()), detector("torchvision", peer, picture())
        with torch.no_grad():
            a, b = ours(), theirs()
            seconds = take_turns(ours, theirs, repeats)
        apart = f"{len(a)} and {len(b['boxes'])} detections"
        if len(a) == len(b["boxes"]):
            boxes, scores = (a.boxes - b["boxes"]).abs().max(), (a.scores - b["scores"]).abs().max()
            apart += f", boxes within {boxes:.1e} px, scores within {scores:.1e}"
        yield row(f"{name} R50-FPN, {HEIGHT}x{WIDTH}", "torchvision", *seconds, apart)
        memory = [peak_memory(who, name) for who in ("boxwood", "torchvision")]
        yield {"what": f"{name}, peak memory", "peer": "torchvision", "ours": memory[0], "theirs": memory[1], "unit": "MB"}


def peak_memory(who: str, name: str) -> float:
    """Megabytes of a fresh process that runs one network."""
    command = [sys.executable, __file__, "--memory-of", who, name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_own_memory(who: str, name: str) -> None:
    """The network is built at rest: from the weights alone, so that nothing else has raised the peak."""
    network = unscaled_network(name)
    owner = network if name == "RetinaNet" else network.roi_heads
    owner.score_thresh = 0.0
    if who == "boxwood":
        ours = our_network(name, network)
        ours.test.score_threshold = 0.0
        network = prepare(ours)
    with torch.no_grad():
        for _ in range(3):
            detector(who, network, picture())()
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())  # ru_maxrss would begin with the parent's size
    assert peak is not None
    print(int(peak[1]) / 1024)


STAGES = {
    "backbone": "ResNet.forward",
    "RPN": "RPN.forward",
    "proposals": "propose",
    "RoIAlign": "pool_regions",
    "res5 of the regions": "RCNN._features",
    "score maps and their pooling": "RFCN._vote",
    "selection": "select_instances",
}
"""Where time may go: a function, with all that it calls."""


@torch.no_grad()
def recipe_network(recipe: str, device: torch.device | str = "cpu") -> Any:
    """The detector of a recipe without a peer in torchvision (C4, R-FCN, RPN alone), with random weights that find something."""
    torch.manual_seed(0)
    names = tuple(f"class {index}" for index in range(CLASSES))
    config = without_pretrained(resolve(recipe).model)
    network: Any = config.build(Categories(tuple(range(CLASSES)), names), TestConfig()).eval()
    enliven(network.backbone)
    network.to(device)
    layers = [(network.rpn.objectness, 2.0), (network.rpn.deltas, 0.3)]
    if hasattr(network, "class_maps"):  # R-FCN: the mean over 49 cells of a map deviates less than the map
        layers += [(network.class_maps, 17.5), (network.box_maps, 3.5)]
    elif hasattr(network, "class_logits"):
        layers += [(network.class_logits, 2.5), (network.box_deltas, 0.5)]
    spread(layers, detector("boxwood", network, picture(320, 480).to(device)))
    return network


def bench_alone(repeats: int) -> Iterator[Row]:
    """Detectors that torchvision lacks, at their recipes' settings: their time, and the share of each stage."""
    for recipe in ("faster_rcnn_r50_c4_1x", "rfcn_r50"):
        network = recipe_network(recipe)
        with torch.no_grad():
            detect = detector("boxwood", prepare(network), picture())
            seconds, _ = take_turns(detect, lambda: None, repeats)
            profile = cProfile.Profile()
            detections = profile.runcall(detect)
        shares = {stage: share for stage, place in STAGES.items() if (share := time_of(profile, place)) > 0}
        whole = time_of(profile, "detector.<locals>.detect")
        if "res5 of the regions" in shares:
            shares["res5 of the regions"] -= shares["RoIAlign"]
        shares["the rest"] = whole - sum(shares.values())
        listed = ", ".join(f"{stage} {share / whole:.0%}" for stage, share in shares.items())
        yield {
            "what": f"{recipe}, {HEIGHT}x{WIDTH}",
            "ours": 1000 * seconds,
            "unit": "ms",
            "apart": f"{len(detections)} detections; {listed}",
        }


def time_of(profile: cProfile.Profile, function: str) -> float:
    """Seconds in a function of this qualified name and in what it calls."""
    return sum(entry.totaltime for entry in profile.getstats() if getattr(entry.code, "co_qualname", None) == function)


def freeze_as_ours(peer: Any) -> None:
    """No learning in torchvision's stem, first stage and norms: as in Boxwood's, and in torchvision's with published weights."""
    for parameter in [*peer.backbone.body.conv1.parameters(), *peer.backbone.body.layer1.parameters()]:
        parameter.requires_grad_(False)
    for module in peer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)


def training_case(
    name: str, count: int, instances: int, size: tuple[int, int]
) -> tuple[Batch, list[Tensor], list[dict[str, Tensor]]]:
    """``count`` images of one size with random instances: as our batch, and as torchvision's images and targets."""
    height, width = size
    random = torch.Generator().manual_seed(1)
    corners = torch.rand(count, instances, 2, generator=random) * torch.tensor([0.625 * width, 0.5625 * height])
    boxes = torch.cat([corners, corners + torch.tensor([0.3125 * width, 0.375 * height])], dim=-1)
    labels = torch.zeros(instances, dtype=torch.int64) if name == "Keypoint R-CNN" else torch.arange(instances)
    grid = torch.ones(instances, 112, 112, dtype=torch.uint8)
    inside = torch.rand(count, instances, 17, 2, generator=random)
    points = boxes[:, :, None, :2] + inside * (boxes[:, :, None, 2:] - boxes[:, :, None, :2])
    keypoints = torch.cat([points, torch.full_like(points[..., :1], 2.0)], dim=-1)  # all visible
    targets, truths = [], []
    for of_image, points_of_image in zip(boxes, keypoints, strict=True):
        target = Target(of_image, labels, torch.zeros(0, 4))
        truth = {"boxes": of_image, "labels": labels + 1}
        if name == "Mask R-CNN":
            target.fields["masks"] = InstanceMasks(grid, of_image)
            truth["masks"] = paste_masks(grid.float(), of_image, size).to(torch.uint8)
        elif name == "Keypoint R-CNN":
            truth["keypoints"] = points_of_image
            target.fields["keypoints"] = Keypoints(points_of_image)
        targets.append(target)
        truths.append(truth)
    images = [picture(height, width)] * count
    sizes = torch.tensor([[height, width]] * count)
    batch = Batch(torch.stack(images), sizes, (size,) * count, seeds=tuple(range(1, count + 1)), targets=tuple(targets))
    return batch, images, truths


def training_state(name: str, model: ModelConfig, weights: dict[str, Tensor], categories: Categories) -> TrainingState:
    """A run at its first step as `boxwood train` starts it, but for its weights."""
    recipe = resolve("retinanet_r50_fpn_1x" if name == "RetinaNet" else "mask_rcnn_r50_fpn_1x")
    settings = recipe.train.model_copy(update={"device": "cpu", "weights": None, "batch_size": 2})
    optimizer = recipe.optim.model_copy(update={"lr": 1e-5, "reference_batch_size": 2})
    config = recipe.model_copy(update={"model": model, "train": settings, "optim": optimizer})
    state = start(config, Path("unused"), torch.device("cpu"), categories, None, {})
    state.model.load_state_dict(weights)
    return state


def bench_training(repeats: int) -> Iterator[Row]:
    """Two images with eight instances each: forward, losses, backward, an update of the weights; ours by the functions that
    `boxwood train` calls."""
    cases = [("Mask R-CNN", (320, 480)), ("Mask R-CNN", (HEIGHT, WIDTH)), ("Faster R-CNN", (320, 480)), ("RetinaNet", (320, 480))]
    for name, size in cases:
        peer = torchvision_network(name).train()
        freeze_as_ours(peer)
        network = our_network(name, peer)
        state = training_state(name, network.config, network.state_dict(), network.categories)
        batch, images, truths = training_case(name, 2, 8, size)
        peer.transform.min_size, peer.transform.max_size = (min(size),), max(size)
        optimizer = torch.optim.SGD([p for p in peer.parameters() if p.requires_grad], lr=1e-5, momentum=0.9)

        def theirs(peer: Any = peer, optimizer: Any = optimizer, images: Any = images, truths: Any = truths) -> None:
            optimizer.zero_grad()
            losses = peer([image.float() / 255 for image in images], [dict(truth) for truth in truths])
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()

        batches = itertools.repeat(batch)
        seconds = take_turns(lambda state=state, batches=batches: update(state, batches), theirs, repeats)  # type: ignore[misc]
        yield row(f"training step, {name} R50-FPN, 2 x {size[0]}x{size[1]}", "torchvision", *seconds, "")


def bench_patches(repeats: int) -> Iterator[Row]:
    """A training step of RetinaNet, which learns boxes from patches around the cells with positives, against one that computes
    boxes in all cells."""
    name = "RetinaNet"
    network = our_network(name, torchvision_network(name))
    states = [training_state(name, network.config, network.state_dict(), network.categories) for _ in range(2)]
    batches = itertools.repeat(training_case(name, 2, 8, (HEIGHT, WIDTH))[0])

    def everywhere() -> None:
        with unittest.mock.patch("boxwood.models.retinanet.MOST_PATCHES", 0):
            update(states[1], batches)

    seconds = take_turns(lambda: update(states[0], batches), everywhere, repeats)
    yield row(f"training step, RetinaNet R50-FPN, 2 x {HEIGHT}x{WIDTH}", "boxes in all cells", *seconds, "")


def bench_light(repeats: int) -> Iterator[Row]:
    """A training step of the light recipes, which have no peer: four images with eight instances each, by the functions that
    `boxwood train` calls."""
    for recipe in ("faster_rcnn_mobilenetv2_fpn", "mask_rcnn_mobilenetv2_fpn"):
        config = resolve(recipe)
        settings = config.train.model_copy(update={"device": "cpu", "weights": None, "batch_size": 4})
        optimizer = config.optim.model_copy(update={"lr": 1e-5, "reference_batch_size": 4})
        model = without_pretrained(config.model)
        config = config.model_copy(update={"model": model, "train": settings, "optim": optimizer})
        categories = Categories(tuple(range(8)), tuple(f"class {index}" for index in range(8)))
        state = start(config, Path("unused"), torch.device("cpu"), categories, None, {})
        batch, _, _ = training_case("Mask R-CNN" if "mask" in recipe else "Faster R-CNN", 4, 8, (320, 448))
        batches = itertools.repeat(batch)
        seconds, _ = take_turns(lambda state=state, batches=batches: update(state, batches), lambda: None, repeats)  # type: ignore[misc]
        yield {"what": f"training step, {recipe}, 4 x 320x448", "ours": 1000 * seconds, "unit": "ms"}


# ------------------------------------------------------------------------------------------------------------- operators


def bench_roi_align(repeats: int) -> list[Row]:
    """7 x 7 of 256 channels, sampling ratio 2, from a 200 x 304 map."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(1, 256, HEIGHT // 4, WIDTH // 4, generator=random).contiguous(memory_format=torch.channels_last)
    plain = features.contiguous()
    centres = torch.rand(1000, 2, generator=random) * torch.tensor([WIDTH, HEIGHT])
    half = torch.exp(torch.rand(1000, 2, generator=random) * 3 + 2)
    rois = torch.cat([centres - half, centres + half], dim=1).clamp(min=0)
    images = torch.zeros(1000, dtype=torch.int64)
    indexed = torch.cat([images[:, None].float(), rois], dim=1)

    def ours(map_: Tensor, count: int) -> Tensor:
        return roi_align(map_, rois[:count], images[:count], 7, scale=0.25, sampling_ratio=2)

    def theirs(map_: Tensor, count: int) -> Tensor:
        pooled: Tensor = torchvision.ops.roi_align(map_, indexed[:count], 7, 0.25, 2, True)
        return pooled

    def both_ways(pool: Callable[[Tensor, int], Tensor], map_: Tensor) -> Tensor:
        map_ = map_.detach().requires_grad_()
        pool(map_, 512).square().sum().backward()
        assert map_.grad is not None
        return map_.grad

    with torch.no_grad():
        apart = (ours(features, 1000) - theirs(plain, 1000)).abs().max()
        forward = take_turns(lambda: ours(features, 1000), lambda: theirs(plain, 1000), repeats)
    gradients = (both_ways(ours, plain) - both_ways(theirs, plain)).abs().max()
    return [
        row("RoIAlign of 1000", "torchvision", *forward, f"within {apart:.1e}"),
        row(
            "RoIAlign of 512, forward and backward",
            "torchvision",
            *take_turns(lambda: both_ways(ours, plain), lambda: both_ways(theirs, plain), repeats),
            f"gradients within {gradients:.1e}",
        ),
        _roi_align_of_light_recipes(repeats),
    ]


def _roi_align_of_light_recipes(repeats: int) -> Row:
    """Forward and backward of 400 regions of 7 x 7 of 128 channels, from four 80 x 80 maps; beside the gradient that
    `embedding_bag` has of itself, in whose place there is a sparse product where pixels are read often."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(4, 128, 80, 80, generator=random).contiguous(memory_format=torch.channels_last).requires_grad_()
    corners = torch.rand(400, 2, generator=random) * 280
    rois = torch.cat([corners, corners + 12 + torch.rand(400, 2, generator=random) * 80], dim=1)
    images = torch.arange(400) % 4

    def both_ways(reads: float) -> Tensor:
        features.grad = None
        with unittest.mock.patch.object(roi_align_module, "READS", reads):
            roi_align(features, rois, images, 7, scale=0.25, sampling_ratio=2).sum().backward()
        assert features.grad is not None
        return features.grad

    apart = (both_ways(0) - both_ways(math.inf)).abs().max()
    times = take_turns(lambda: both_ways(roi_align_module.READS), lambda: both_ways(math.inf), repeats)
    return row("RoIAlign of 400 on 80 x 80, forward and backward", "embedding_bag", *times, f"gradients within {apart:.1e}")


def bench_paste(repeats: int) -> list[Row]:
    """100 masks of 28 x 28 into an image of 800 x 1216."""
    random = torch.Generator().manual_seed(0)
    masks = torch.rand(100, 1, 28, 28, generator=random)
    corners = torch.rand(100, 2, generator=random) * torch.tensor([900.0, 600.0])
    boxes = torch.cat([corners, corners + 20 + torch.rand(100, 2, generator=random) * 250], dim=1)
    paste = torchvision.models.detection.roi_heads.paste_masks_in_image
    seconds = take_turns(
        lambda: paste_masks(masks[:, 0], boxes, (HEIGHT, WIDTH)), lambda: paste(masks, boxes, (HEIGHT, WIDTH)) >= 0.5, repeats
    )
    return [row("pasting 100 masks", "torchvision", *seconds, "torchvision rounds boxes to pixels, so masks differ at the rim")]


# ------------------------------------------------------------------------------------------------------------ data and AP


def bench_loader(repeats: int) -> list[Row]:
    """Decode, resize to 800, flip, make targets with masks.

    The peer is what torchvision's detection references do: Pillow, masks of the whole image by pycocotools, v2 transforms, and the
    resize of `GeneralizedRCNNTransform`, which they leave to the model; its normalisation is not counted.
    """
    from pycocotools import mask as peer_mask

    with tempfile.TemporaryDirectory() as folder:
        write_shapes(Path(folder), train=8, val=1, seed=0, size=(480, 640))
        for file in Path(folder, "train").iterdir():  # photographs come as JPEG
            Image.open(file, formats=IMAGE_FORMATS).convert("RGB").save(file, format="JPEG", quality=90)
        dataset = CocoConfig(annotations=f"{folder}/train.json", images=f"{folder}/train").open()
        transforms = (ResizeShortestEdge(short=(800,), long=1333), HorizontalFlip(p=0.5))
        coco = dataset.to_coco()
        by_image = {image["id"]: [a for a in coco["annotations"] if a["image_id"] == image["id"]] for image in coco["images"]}
        peer_transforms = v2.Compose([v2.RandomHorizontalFlip(0.5), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
        peer_resize = GeneralizedRCNNTransform(800, 1333, [0.0] * 3, [1.0] * 3).train()

        def ours() -> None:
            for index in range(len(dataset)):
                collate([transformed_sample(dataset, transforms, 0, Place(0, index))], [0], with_targets=True)

        def theirs() -> None:
            for image in coco["images"]:
                height, width = image["height"], image["width"]
                file = Path(folder, "train", image["file_name"])
                opened = Image.open(file, formats=IMAGE_FORMATS).convert("RGB")
                truth = by_image[image["id"]]
                codes = [peer_mask.frPyObjects(a["segmentation"], height, width) for a in truth]
                masks = [peer_mask.decode(peer_mask.merge(code) if isinstance(code, list) else code) for code in codes]
                boxes = torch.tensor([a["bbox"] for a in truth], dtype=torch.float32).reshape(-1, 4)
                boxes[:, 2:] += boxes[:, :2]
                target = {
                    "boxes": BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
                    "masks": Mask(torch.from_numpy(np.stack(masks))),
                    "labels": torch.tensor([a["category_id"] for a in truth]),
                }
                peer_resize.resize(*peer_transforms(opened, target))

        seconds = take_turns(ours, theirs, repeats)
    return [row("training sample, 480x640 to 800, with masks", "torchvision", *(each / 8 for each in seconds), "")]


def bench_ap(repeats: int) -> list[Row]:
    """COCO AP of boxes: 1,000 images of 10 instances and 100 detections each, 80 classes."""
    random = np.random.default_rng(0)
    categories = Categories(tuple(range(1, CLASSES + 1)), tuple(f"class {index}" for index in range(CLASSES)))
    truth: dict[str, Any] = {
        "images": [{"id": image, "width": 640, "height": 480, "file_name": f"{image}.jpg"} for image in range(1000)],
        "annotations": [],
        "categories": [{"id": i, "name": n} for i, n in zip(categories.ids, categories.names, strict=True)],
    }
    detections_of_images: list[Detections] = []
    for image in range(1000):
        boxes = np.concatenate([random.uniform(0, 400, (10, 2)), random.uniform(10, 200, (10, 2))], axis=1)
        labels = random.integers(0, CLASSES, 10)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            number = len(truth["annotations"]) + 1
            record = {"id": number, "image_id": image, "category_id": label + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            truth["annotations"].append(record)
        near = np.repeat(boxes, 10, axis=0) + random.normal(0, 8, (100, 4))
        near[:, 2:] = near[:, :2] + near[:, 2:].clip(1)
        scores = torch.from_numpy(random.uniform(0, 1, 100)).float().sort(descending=True).values
        predicted = np.where(random.uniform(size=100) < 0.7, np.repeat(labels, 10), random.integers(0, CLASSES, 100))
        near_boxes, predicted_labels = torch.from_numpy(near).float(), torch.from_numpy(predicted)
        detections_of_images.append(Detections(near_boxes, scores, predicted_labels, (480, 640), categories.names))

    results: dict[str, Any] = {}

    def ap(backend: str) -> None:
        evaluator = CocoEvaluator(truth, categories, tasks=("bbox",), backend=backend)  # type: ignore[arg-type]
        for image, detections in enumerate(detections_of_images):
            evaluator.add(image, detections)
        results[backend] = evaluator.compute()["bbox"]

    seconds = take_turns(lambda: ap("hotcoco"), lambda: ap("pycocotools"), min(repeats, 3))
    equal = results["hotcoco"] == results["pycocotools"]
    return [row("COCO AP, 1,000 images x 100 detections", "pycocotools", *seconds, f"equal to the last digit: {equal}")]


# ---------------------------------------------------------------------------------------------------------------- report


def row(what: str, peer: str, ours: float, theirs: float, apart: str) -> Row:
    return {"what": what, "peer": peer, "ours": 1000 * ours, "theirs": 1000 * theirs, "unit": "ms", "apart": apart}


BENCHES: dict[str, Callable[[int], Iterable[Row]]] = {
    "roi_align": bench_roi_align,
    "paste": bench_paste,
    "loader": bench_loader,
    "ap": bench_ap,
    "training": bench_training,
    "patches": bench_patches,
    "light": bench_light,
    "inference": bench_inference,
    "alone": bench_alone,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(BENCHES), default=list(BENCHES))
    parser.add_argument("--repeats", type=int, default=5, help="counted turns of each contender")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--memory-of", nargs=2, metavar=("WHO", "NETWORK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print_own_memory(*arguments.memory_of)
        return
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {platform.machine()}, {arguments.threads} threads")
    print(f"median of {arguments.repeats} turns each\n")
    print(f"{'':48}{'ours':>10}{'peer':>10}  {'ratio':>6}")
    rows = []
    for name in arguments.only:
        for result in BENCHES[name](arguments.repeats):
            rows.append(result)
            beside = f"{'':18}"
            if "theirs" in result:
                ratio = result["theirs"] / result["ours"]
                beside = f"{result['theirs']:8,.0f} {result['unit']}{ratio:6.2f}x  {result['peer']}"
            print(f"{result['what']:48}{result['ours']:8,.0f} {result['unit']}{beside}  {result.get('apart', '')}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
