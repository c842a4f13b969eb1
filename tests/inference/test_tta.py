"""Augmentation at test time against plain loops: the outputs of each view are computed here and merged in numpy."""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwood.data import ResizeShortestEdge
from boxwood.data.loader import collate
from boxwood.errors import UserError
from boxwood.inference.tta import AugmentedDetector, View, _to_original, augmented, views_of
from boxwood.models import RCNN, RCNNConfig, RetinaNetConfig, RFCNConfig
from boxwood.models.backbones import ResNetConfig
from boxwood.models.config import FPNConfig, ProposerConfig, RetinaNetHeadConfig, RoIConfig, RPNConfig
from boxwood.models.heads import ConvKeypointHeadConfig, ConvMaskHeadConfig, TwoFCHeadConfig
from boxwood.models.inference_config import (
    BoxViewsConfig,
    KeypointViewsConfig,
    MaskViewsConfig,
    SoftNMSConfig,
    TestConfig,
    TTAConfig,
    ViewsConfig,
    VoteConfig,
)
from boxwood.models.postprocess import suppress
from boxwood.models.tasks import KeypointTask, MaskTask
from boxwood.ops.detectron1 import DETECTRON1
from boxwood.ops.geometry import CONTINUOUS
from boxwood.structures import Batch, Categories, Detections, KeypointFacts, Sample
from tests.facts import FACTS

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = Categories((1, 2, 3), ("a", "b", "c"), KeypointFacts(("left", "right", "top"), (1, 0, 2), (), (0.1, 0.1, 0.1)))
HEIGHT, WIDTH = 60, 80
RESIZE = (ResizeShortestEdge(short=(96,), long=200),)
FLIP, SCALE, RATIO = ({"flip": True}, {"scales": (64, 128), "scale_flip": True}, {"ratios": (1.5,)})
ALL: dict[str, Any] = FLIP | SCALE | RATIO


def network(kind: str = "mask", geometry: str = "continuous", **test: Any) -> Any:
    """A small detector with random weights that has detections."""
    torch.manual_seed(3)
    backbone, fpn = ResNetConfig(depth=18, weights=None), FPNConfig(channels=16)
    rpn = RPNConfig(test_candidates=60, test_proposals=25)
    common: dict[str, Any] = {"backbone": backbone, "geometry": geometry}
    config: Any
    if kind == "retinanet":
        config = RetinaNetConfig(**common, fpn=FPNConfig(channels=16, top="conv_p5"), head=RetinaNetHeadConfig(test_candidates=40))
    elif kind == "rfcn":
        config = RFCNConfig(**common, rpn=RPNConfig(test_candidates=60, test_proposals=25, anchor_sizes=((32.0, 64.0),)), width=16)
    elif kind == "rpn":
        config = ProposerConfig(**common, fpn=fpn, rpn=rpn)
    else:
        mask = ConvMaskHeadConfig(convs=1, width=8) if kind == "mask" else None
        pose = ConvKeypointHeadConfig(convs=1, width=8) if kind == "keypoints" else None
        config = RCNNConfig(
            **common, fpn=fpn, rpn=None if kind == "fast" else rpn, rois=RoIConfig(),
            box_head=TwoFCHeadConfig(width=16), mask_head=mask, keypoint_head=pose,
        )  # fmt: skip
    model = config.build(CLASSES, TestConfig(**({"score_threshold": 0.1, "detections_per_image": 12} | test)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("class_logits", "box_deltas", "rpn.", "mask_logits", "class_maps", "box_maps", "keypoint_logits")):
                wide = kind == "rfcn" and name.startswith(("box_maps", "rpn"))  # from many channels
                parameter.normal_(std=0.01 if wide else 0.3 if name.endswith("weight") else 0.1)
    return model.eval()


def picture(seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, HEIGHT // 10, WIDTH // 10, generator=random)
    return (F.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")[0] * 255).to(torch.uint8)


def whole(image: Tensor, proposals: Tensor | None = None) -> Batch:
    """The image as it is in its file."""
    nothing = torch.zeros(0, dtype=torch.int64)
    sample = Sample(image, 7, "a.jpg", (HEIGHT, WIDTH), torch.zeros(0, 4), nothing, nothing.bool(), proposals=proposals)
    return collate([sample], [0], with_targets=False)


def detect(model: Any, image: Tensor, tta: TTAConfig, proposals: Tensor | None = None) -> Detections:
    test = model.test.model_copy(update={"tta": tta})
    batch = whole(image, proposals)
    with torch.no_grad():
        detector = AugmentedDetector(model, RESIZE, test)
        (detections,) = detector.detections(detector(batch), batch)
    return detections


def plain_views(config: dict[str, Any]) -> list[tuple[int, bool, float]]:
    """Short side, mirrored, widened."""
    views = [(96, True, 1.0)] if config.get("flip") else []
    for scale in config.get("scales", ()):
        views += [(scale, False, 1.0)] + ([(scale, True, 1.0)] if config.get("scale_flip") else [])
    for ratio in config.get("ratios", ()):
        views += [(96, False, ratio)] + ([(96, True, ratio)] if config.get("ratio_flip") else [])
    return [*views, (96, False, 1.0)]


def plain_batch(image: Tensor, view: tuple[int, bool, float], proposals: Tensor | None = None) -> Batch:
    """Widened, scaled so that the shorter side is right, mirrored, padded to a multiple of 32."""
    short, flipped, ratio = view
    if ratio != 1:
        size = (HEIGHT, round(WIDTH * ratio))
        image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    scale = short / min(image.shape[-2:])
    size = (round(image.shape[1] * scale), round(image.shape[2] * scale))
    image = F.interpolate(image[None].contiguous(memory_format=torch.channels_last), size, mode="bilinear", antialias=True)[0]
    if flipped:
        image = image.flip(-1)
    padded = F.pad(image, (0, -size[1] % 32, 0, -size[0] % 32))
    given = None
    if proposals is not None:
        x, y = size[1] / WIDTH, size[0] / HEIGHT
        given = proposals * torch.tensor([x, y, x, y])
        given = torch.stack([size[1] - given[:, 2], given[:, 1], size[1] - given[:, 0], given[:, 3]], dim=1) if flipped else given
    return Batch(padded[None], torch.tensor([size]), ((HEIGHT, WIDTH),), proposals=None if given is None else (given,))


def back(boxes: np.ndarray[Any, Any], view: tuple[int, bool, float], batch: Batch) -> np.ndarray[Any, Any]:
    height, width = batch.sizes[0].tolist()
    boxes = boxes * np.tile([WIDTH / width, HEIGHT / height], 2)
    if view[1]:
        boxes = np.stack([WIDTH - boxes[:, 2], boxes[:, 1], WIDTH - boxes[:, 0], boxes[:, 3]], axis=1)
    return boxes.clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT])


def plain_nms(rows: list[tuple[float, int, Any]], threshold: float) -> list[tuple[float, int, Any]]:
    survivors: list[tuple[float, int, Any]] = []
    for score, label, box in sorted(rows, key=lambda row: -row[0]):
        free = True
        for _, other_label, other in survivors:
            if other_label == label:
                sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
                shared = max(sides[0], 0) * max(sides[1], 0)
                total = (box[2:] - box[:2]).prod() + (other[2:] - other[:2]).prod() - shared
                free &= shared / total <= threshold
        if free:
            survivors.append((score, label, box))
    return survivors


@pytest.mark.parametrize(
    "config", [FLIP, SCALE, RATIO, ALL, ALL | {"areas": (300.0, 900.0)}], ids=["flip", "scale", "ratio", "all", "size"]
)
def test_union_of_boxes(config: dict[str, Any]) -> None:
    model, image = network("box"), picture()
    rows: list[tuple[float, int, Any]] = []
    views = plain_views(config)
    for view in views:
        batch = plain_batch(image, view)
        with torch.no_grad():
            candidates = model(batch).candidates
        boxes = back(candidates.boxes[0].double().numpy(), view, batch)
        for box, score, label in zip(boxes, candidates.scores[0].tolist(), candidates.labels[0].tolist(), strict=True):
            area = (box[2:] - box[:2]).prod()
            low, high = config.get("areas", (0.0, np.inf))
            wrong_size = (view[0] < 96 and area < low) or (view[0] > 96 and area >= high)
            if score > 0.1 and not wrong_size:
                rows.append((score, label, box))
    expected = plain_nms(rows, 0.5)[:12]
    detections = detect(model, image, TTAConfig(boxes=BoxViewsConfig(**config)))
    assert len(detections) == len(expected) >= 5 and len(rows) > 100
    np.testing.assert_allclose(detections.scores.numpy(), [row[0] for row in expected], atol=1e-6)
    np.testing.assert_allclose(detections.boxes.numpy(), np.stack([row[2] for row in expected]), atol=1e-3)
    assert detections.labels.tolist() == [row[1] for row in expected]


@pytest.mark.parametrize("combine", ["soft_avg", "soft_max", "logit_avg"])
def test_masks_of_views(combine: Any) -> None:
    model, image = network("mask"), picture(1)
    config = ALL | {"areas": (1000.0, 2500.0)}
    detections = detect(model, image, TTAConfig(masks=MaskViewsConfig(**config, combine=combine)))
    once = detect(model, image, TTAConfig())
    assert torch.equal(detections.boxes, once.boxes) and len(detections) > 3
    assert detections.mask_probabilities is not None and once.mask_probabilities is not None
    probabilities = of_views(model, image, detections, config, "mask")
    for index, values in enumerate(probabilities):
        stacked = np.stack(values)
        if combine == "soft_avg":
            expected = stacked.mean(axis=0)
        elif combine == "soft_max":
            expected = stacked.max(axis=0)
        else:
            logits = -np.log((1 - stacked) / np.maximum(stacked, 1e-20))
            expected = 1 / (1 + np.exp(-logits.mean(axis=0)))
        np.testing.assert_allclose(detections.mask_probabilities[index].numpy(), expected, atol=2e-5)
    assert len({len(values) for values in probabilities}) > 1, "some views are left out by size"
    assert not torch.allclose(detections.mask_probabilities, once.mask_probabilities, atol=1e-3)


def of_views(
    model: RCNN, image: Tensor, detections: Detections, config: dict[str, Any], what: str
) -> list[list[np.ndarray[Any, Any]]]:
    """For each detection the values of the views that are used for its size, unmirrored."""
    result: list[list[np.ndarray[Any, Any]]] = [[] for _ in range(len(detections))]
    for view in plain_views(config):
        batch = plain_batch(image, view)
        height, width = batch.sizes[0].tolist()
        boxes = detections.boxes
        if view[1]:
            boxes = torch.stack([WIDTH - boxes[:, 2], boxes[:, 1], WIDTH - boxes[:, 0], boxes[:, 3]], dim=1)
        boxes = boxes * torch.tensor([width / WIDTH, height / HEIGHT] * 2)
        with torch.no_grad():
            (task,) = model.tasks
            outputs = model.task_values(task, batch, boxes, detections.labels)
        for index, box in enumerate(detections.boxes.tolist()):
            area, (low, high) = (box[2] - box[0]) * (box[3] - box[1]), config["areas"]
            if (view[0] < 96 and area < low) or (view[0] > 96 and area >= high):
                continue
            values = outputs[index].double().numpy()
            if what == "keypoints" and view[1]:
                values = values[[1, 0, 2]]
            result[index].append(values[..., ::-1] if view[1] else values)
    return result


@pytest.mark.parametrize("combine", ["avg", "max"])
def test_keypoints_of_views(combine: Any) -> None:
    """The peak of the combined heatmap; it is read in the pixels of the original."""
    from boxwood.ops.keypoints import decode_keypoints

    model, image = network("keypoints"), picture(2)
    config = ALL | {"areas": (1000.0, 2500.0)}
    detections = detect(model, image, TTAConfig(keypoints=KeypointViewsConfig(**config, combine=combine)))
    assert detections.keypoints is not None and len(detections) > 3
    for index, values in enumerate(of_views(model, image, detections, config, "keypoints")):
        stacked = np.stack(values)
        heatmap = stacked.mean(axis=0) if combine == "avg" else stacked.max(axis=0)
        expected = decode_keypoints(torch.from_numpy(heatmap[None]).float(), detections.boxes[index : index + 1])[0]
        torch.testing.assert_close(detections.keypoints[index], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("scores", ["avg", "id"])
@pytest.mark.parametrize("boxes", ["avg", "id"])
def test_averages_over_given_proposals(scores: Any, boxes: Any) -> None:
    model, image = network("fast"), picture(3)
    start = torch.rand(20, 2, generator=torch.Generator().manual_seed(0)) * 40
    proposals = torch.cat([start, start + 8 + start.flip(0) / 2], dim=1)
    config = FLIP | SCALE
    all_scores, all_boxes = [], []
    for view in plain_views(config):
        batch = plain_batch(image, view, proposals)
        with torch.no_grad():
            output = model(batch)
        all_scores.append(output.class_logits[0].softmax(dim=1)[:, :3].double().numpy())
        regions, deltas = output.proposals.boxes[0].double().numpy(), output.box_deltas[0].double().numpy()
        sides, middle = regions[:, 2:] - regions[:, :2], (regions[:, 2:] + regions[:, :2]) / 2
        centre = middle[:, None] + deltas[..., :2] / 10 * sides[:, None]
        half = np.exp(deltas[..., 2:] / 5) * sides[:, None] / 2
        decoded = np.concatenate([centre - half, centre + half], axis=2)
        height, width = batch.sizes[0].tolist()
        decoded = decoded.clip(0, [width, height, width, height])
        all_boxes.append(back(decoded.reshape(-1, 4), view, batch).reshape(20, 3, 4))
    merged_scores = np.mean(all_scores, axis=0) if scores == "avg" else all_scores[-1]
    merged_boxes = np.mean(all_boxes, axis=0) if boxes == "avg" else all_boxes[-1]
    rows = [(merged_scores[i, c], c, merged_boxes[i, c]) for i in range(20) for c in range(3) if merged_scores[i, c] > 0.1]
    expected = plain_nms(rows, 0.5)[:12]
    detections = detect(model, image, TTAConfig(boxes=BoxViewsConfig(**config, scores=scores, boxes=boxes)), proposals)
    assert len(detections) == len(expected) > 5
    np.testing.assert_allclose(detections.scores.numpy(), [row[0] for row in expected], atol=1e-6)
    np.testing.assert_allclose(detections.boxes.numpy(), np.stack([row[2] for row in expected]), atol=2e-3)


@pytest.mark.parametrize("geometry", ["continuous", "detectron1"])
@pytest.mark.parametrize("kind", ["mask", "keypoints", "retinanet", "rfcn"])
def test_one_view_equals_the_network(kind: str, geometry: str) -> None:
    model, image = network(kind, geometry, score_threshold=0.0), picture(4)
    batch = plain_batch(image, (96, False, 1.0))
    with torch.no_grad():
        (expected,) = model.detections(model(batch), batch)
    detections = detect(model, image, TTAConfig(boxes=BoxViewsConfig(), masks=MaskViewsConfig()))
    assert len(detections) == len(expected) > 3
    torch.testing.assert_close(detections.boxes, expected.boxes, atol=1e-3, rtol=0)
    torch.testing.assert_close(detections.scores, expected.scores, atol=1e-6, rtol=0)
    if kind == "mask":
        torch.testing.assert_close(detections.mask_probabilities, expected.mask_probabilities, atol=1e-4, rtol=0)
    assert (detections.keypoints is None) == (kind != "keypoints")


@pytest.mark.parametrize("geometry", ["continuous", "detectron1"])
@pytest.mark.parametrize("kind", ["mask", "retinanet"])
def test_detections_of_a_mirrored_image_are_mirrored(kind: str, geometry: str) -> None:
    """With a mirrored view for every view, an image and its mirror image have the same detections."""
    model, image = network(kind, geometry), picture(5)
    views: dict[str, Any] = ALL | {"ratio_flip": True}
    tta = TTAConfig(boxes=BoxViewsConfig(**views), masks=MaskViewsConfig(**views))
    one, other = detect(model, image, tta), detect(model, image.flip(-1), tta)
    mirrored = torch.stack([WIDTH - other.boxes[:, 2], other.boxes[:, 1], WIDTH - other.boxes[:, 0], other.boxes[:, 3]], dim=1)
    torch.testing.assert_close(one.boxes, mirrored, atol=1e-3, rtol=0)
    torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
    if one.mask_probabilities is not None and other.mask_probabilities is not None:
        torch.testing.assert_close(one.mask_probabilities, other.mask_probabilities.flip(-1), atol=1e-4, rtol=0)


def test_soft_nms_and_voting_apply_to_views() -> None:
    model = network("box", soft_nms=SoftNMSConfig(decay="gaussian"), vote=VoteConfig(threshold=0.6, scoring="avg"))
    plain = network("box")
    tta = TTAConfig(boxes=BoxViewsConfig(**ALL))
    soft, hard = detect(model, picture(), tta), detect(plain, picture(), tta)
    assert len(soft) == 12 and not torch.allclose(soft.scores[: len(hard)], hard.scores)


def test_an_image_without_detections() -> None:
    model = network("mask", score_threshold=2.0)
    detections = detect(model, picture(), TTAConfig(boxes=BoxViewsConfig(**ALL), masks=MaskViewsConfig(**ALL)))
    assert len(detections) == 0 and detections.masks is not None and detections.masks.shape == (0, HEIGHT, WIDTH)


def test_without_views_the_network_is_unchanged() -> None:
    model = network("box")
    assert augmented(model, RESIZE, model.test) == (model, RESIZE)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("rpn", BoxViewsConfig(), "not for Proposer"),
        ("box", BoxViewsConfig(scores="avg", boxes="avg"), "finds its own"),
        ("retinanet", BoxViewsConfig(scores="avg", boxes="avg"), "finds its own"),
        ("fast", BoxViewsConfig(scores="union", boxes="avg"), "union of the scores goes with union of the boxes"),
    ],
)
def test_incompatible_settings_are_refused(kind: str, config: BoxViewsConfig, message: str) -> None:
    test = TestConfig(tta=TTAConfig(boxes=config))
    with pytest.raises(UserError, match=message):
        augmented(network(kind), RESIZE, test)


def test_other_scales_need_a_resize_transform() -> None:
    with pytest.raises(UserError, match="resize_shortest_edge"):
        views_of(ViewsConfig(scales=(100,)), ())
    assert len(views_of(ViewsConfig(flip=True), ())) == 2


# ------------------------------------------------------------------- an independent calculation of Data Distillation's steps

DISTILLATION = FACTS / "distillation"


def distillation_facts(part: str) -> Any:
    return json.loads(gzip.decompress((DISTILLATION / "facts.json.gz").read_bytes()))[part]


def test_boxes_of_eighteen_views_are_brought_back() -> None:
    facts = distillation_facts("boxes")
    original = (facts["image"]["height"], facts["image"]["width"])
    boxes = []
    for transform in facts["transforms"]:
        size = (round(original[0] * transform["scale"]), round(original[1] * transform["scale"]))
        nothing = torch.zeros(0, dtype=torch.int64)
        sample = Sample(torch.zeros(3, *size, dtype=torch.uint8), 1, "", original, torch.zeros(0, 4), nothing, nothing.bool())
        batch = collate([sample], [0], with_targets=False)
        batch.scaled_sizes = torch.tensor([original], dtype=torch.float64) * transform["scale"]
        view = View((), flipped=transform["flip"])
        boxes.append(_to_original(torch.tensor(transform["boxes"], dtype=torch.float64), batch, view, CONTINUOUS))
    expected = torch.tensor(facts["union"]["boxes"], dtype=torch.float64)
    torch.testing.assert_close(torch.cat(boxes), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", range(5))
@pytest.mark.parametrize("scoring", ["id", "avg"])
def test_suppression_and_voting_of_the_union(case: int, scoring: Any) -> None:
    facts = distillation_facts("boxes")
    union, result = facts["union"], facts["results"][case]
    boxes, scores = (torch.tensor(union[key], dtype=torch.float64) for key in ("boxes", "scores"))
    labels = torch.tensor(union["classes"])
    test = TestConfig(nms_threshold=result["nms_iou"], vote=VoteConfig(threshold=result["vote_iou"], scoring=scoring))
    geometry = DETECTRON1 if result["plus_one"] else CONTINUOUS
    voted, new_scores, survives = suppress(boxes, scores, labels, torch.ones_like(labels, dtype=torch.bool), test, geometry)
    expected = result["detections"]
    rows = [detection["union_index"] for detection in expected]
    assert sorted(rows) == survives.nonzero()[:, 0].tolist()
    torch.testing.assert_close(voted[rows], torch.tensor([d["voted_box"] for d in expected]).double(), rtol=0, atol=1e-4)
    key = "score" if scoring == "id" else "score_avg"
    torch.testing.assert_close(new_scores[rows], torch.tensor([d[key] for d in expected]).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("combine", "part", "peak"),
    [("avg", "logit_average", "peak_logit"), ("probability_avg", "probability_average", "peak_probability")],
)
def test_heatmaps_of_four_views(combine: Any, part: str, peak: str) -> None:
    facts, maps = distillation_facts("heatmaps")[part], np.load(DISTILLATION / "heatmaps.npz")
    names = tuple(str(number) for number in range(17))
    categories = Categories((1,), ("person",), KeypointFacts(names, tuple(maps["left_right"].tolist()), (), (0.1,) * 17))
    owner: Any = type("Network", (), {"categories": categories})
    task, tta = KeypointTask(), TTAConfig(keypoints=KeypointViewsConfig(combine=combine))
    logits = torch.from_numpy(maps["logits"]).double()
    views = torch.stack([task.mirrored(owner, view) if flip else view for view, flip in zip(logits, maps["flip"], strict=True)])
    merged = task.merge(tta, views, torch.ones(4, 1, 1, 1, 1, dtype=torch.bool))[0]
    highest, cells = merged.flatten(1).max(dim=1)
    assert torch.stack([cells % 28, cells // 28], dim=1).tolist() == facts["argmax_xy"][0]
    values = highest.exp() if combine == "probability_avg" else highest
    torch.testing.assert_close(values, torch.tensor(facts[peak][0]).double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("combine", ["soft_avg", "logit_avg", "soft_max"])
def test_masks_of_four_views(combine: Any) -> None:
    facts = np.load(DISTILLATION / "masks.npz")
    task, tta = MaskTask(), TTAConfig(masks=MaskViewsConfig(combine=combine))
    views = torch.from_numpy(facts["probabilities"])
    owner: Any = None
    views = torch.stack([task.mirrored(owner, view) if flip else view for view, flip in zip(views, facts["flip"], strict=True)])
    merged = task.merge(tta, views, torch.ones(4, 1, 1, 1, dtype=torch.bool))
    # Ours takes probabilities below 1e-7 for it, so that a certain view has no infinite logit.
    torch.testing.assert_close(merged, torch.from_numpy(facts[combine]), rtol=0, atol=2e-5 if combine == "logit_avg" else 1e-6)
    if combine == "soft_avg":
        assert ((merged >= 0.5).numpy() == facts["binary_soft_avg"]).all()


def test_probabilities_of_one_view_are_its_heatmap() -> None:
    """The logarithm of a softmax is the logits minus a number, so the highest places are the same."""
    task, logits = KeypointTask(), torch.randn(3, 2, 56, 56, generator=torch.Generator().manual_seed(0))
    merged = task.merge(
        TTAConfig(keypoints=KeypointViewsConfig(combine="probability_avg")),
        logits[None],
        torch.ones(1, 3, 1, 1, 1, dtype=torch.bool),
    )
    torch.testing.assert_close(merged, logits.flatten(2).log_softmax(dim=2).view_as(logits))
