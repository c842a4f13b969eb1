"""DensePose R-CNN beside numbers of detectron2's program (``tests/facts/dense_pose``): networks, losses, gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boxwood.dense_pose import DensePose
from boxwood.errors import UserError
from boxwood.fields import InstanceMasks
from boxwood.interop.detectron2 import DENSE_POSE
from boxwood.models.backbones.config import NonLocalConfig
from boxwood.models.heads import (
    ConvDensePoseHeadConfig,
    ConvKeypointHeadConfig,
    ConvMaskHeadConfig,
    DeepLabDensePoseHeadConfig,
    DensePoseHeadConfig,
)
from boxwood.models.heads.dense_pose import Decoder, DensePosePredictor, channels_of, split_maps, whole_maps
from boxwood.models.inference_config import DensePoseViewsConfig, TestConfig, TTAConfig
from boxwood.models.second_stage import RoISample, valid_rows
from boxwood.models.tasks import DensePoseTask
from boxwood.models.tasks.dense_pose import _targets, dense_pose_losses
from boxwood.ops.dense_pose import cells_of, coarse_targets, read_corners, weighted_corners
from boxwood.ops.detectron1 import DETECTRON1
from boxwood.ops.geometry import CONTINUOUS, Geometry
from boxwood.ops.roi_align import assign_levels, pool_levels
from boxwood.structures import Batch, Sample, Target
from tests.models.toys import ARCHITECTURES, CATEGORIES, TEST, batch, build

FACTS = Path(__file__).parents[1] / "facts" / "dense_pose"
CLOSE = {"rtol": 3e-5, "atol": 3e-5}
OUTPUTS = DENSE_POSE | {"coarse": "coarse_segm", "fine": "fine_segm"}


def golden(*names: str) -> dict[str, Tensor]:
    """The arrays of files of facts; those of 16 bits are widened."""
    arrays = {name: value for file in names for name, value in np.load(FACTS / f"{file}.npz").items()}
    tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
    return {name: value.float() if value.dtype == torch.float16 else value for name, value in tensors.items()}


@torch.no_grad()
def fill(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a module all of its tensors, and use all of ``weights``."""
    own = module.state_dict()
    assert own.keys() == weights.keys()
    module.load_state_dict({name: value.reshape(own[name].shape) for name, value in weights.items()})


def fill_convolutions(module: nn.Module, facts: dict[str, Tensor]) -> None:
    """The weights ``head.body_conv_fcn{1..}`` of convolutions with bias."""
    found = {name.removeprefix("head.body_conv_fcn"): value for name, value in facts.items() if name.startswith("head.body_conv")}
    fill(module, {f"{int(name.split('.')[0]) - 1}.{name.split('.')[1]}": value for name, value in found.items()})


def fill_predictor(predictor: DensePosePredictor, facts: dict[str, Tensor]) -> None:
    fill(
        predictor,
        {
            f"layers.{ours}.{leaf}": facts[f"predictor.{DENSE_POSE[ours]}_lowres.{leaf}"]
            for ours in channels_of(predictor.head)
            for leaf in ("weight", "bias")
        },
    )


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("head_v1convx_wc1m", {"parts": 6, "confidence": "iid_iso", "segmentation_confidence": True}),
        ("head_v1convx_wc2m", {"parts": 6, "confidence": "indep_aniso", "segmentation_confidence": True}),
    ],
)
def test_the_convolutional_head_and_its_maps_are_detectron2s(name: str, head: dict[str, Any]) -> None:
    facts = golden(name)
    convs = sum("body_conv" in key and key.endswith("weight") for key in facts)
    config = ConvDensePoseHeadConfig(convs=convs, width=facts["head.body_conv_fcn1.bias"].numel(), **head)
    network = config.build(facts["x"].shape[1])
    fill_convolutions(network.convs, facts)  # type: ignore[arg-type]
    predictor = DensePosePredictor(config, network.channels)
    fill_predictor(predictor, facts)
    features = network(facts["x"])
    if "features" in facts:
        torch.testing.assert_close(features, facts["features"], **CLOSE)
    maps = split_maps(whole_maps(predictor(features), config, CONTINUOUS), config)
    assert len(maps) == sum(key.startswith("out.") for key in facts)
    for ours, values in maps.items():
        torch.testing.assert_close(values, facts[f"out.{OUTPUTS[ours]}"], **CLOSE)


def test_fifteen_coarse_channels_are_detectron2s() -> None:
    facts = golden("head_v1convx_15")
    config = ConvDensePoseHeadConfig(convs=3, width=8, coarse=15, decoder=False, resolution=14)
    network = config.build(6)
    fill_convolutions(network.convs, facts)  # type: ignore[arg-type]
    predictor = DensePosePredictor(config, 8)
    known = {f"layers.{ours}.{leaf}": facts[f"predictor.{DENSE_POSE[ours]}_lowres.{leaf}"]
             for ours in ("coarse", "u") for leaf in ("weight", "bias")}  # fmt: skip
    predictor.load_state_dict(known, strict=False)
    features = network(facts["x"])
    torch.testing.assert_close(features, facts["features"], **CLOSE)
    maps = split_maps(whole_maps(predictor(features), config, CONTINUOUS), config)
    assert maps["coarse"].shape == (2, 15, 16, 16)
    for ours in ("coarse", "u"):
        torch.testing.assert_close(maps[ours], facts[f"out.{OUTPUTS[ours]}"], **CLOSE)


def test_the_deeplab_head_is_detectron2s() -> None:
    facts = golden("head_deeplab", "head_deeplab_maps")
    head: Any = DeepLabDensePoseHeadConfig(convs=2, width=32).build(64)
    branches = {0: "branches.0", 1: "branches.1", 2: "branches.2", 3: "branches.3", 4: "pooled"}
    weights = {}
    for name, value in facts.items():
        parts = name.split(".")
        if name.startswith("head.ASPP.convs."):
            first = 1 if parts[3] == "4" else 0
            part = "conv" if int(parts[4]) == first else "norm"
            weights[f"aspp.{branches[int(parts[3])]}.{part}.{parts[5]}"] = value
        elif name.startswith("head.ASPP.project"):
            weights["aspp.project.weight"] = value
        elif name.startswith("head.body_conv_fcn"):
            part = "norm" if parts[2] == "norm" else "conv"
            weights[f"convs.{int(parts[1].removeprefix('body_conv_fcn')) - 1}.{part}.{parts[-1]}"] = value
    fill(head, weights)
    torch.testing.assert_close(head.aspp(facts["x"]), facts["aspp"], **CLOSE)
    torch.testing.assert_close(head(facts["x"]), facts["features"], **CLOSE)


def test_the_heads_non_local_block_is_detectron2s() -> None:
    facts = golden("deeplab_nonlocal")
    config = DeepLabDensePoseHeadConfig(convs=0, non_local=NonLocalConfig(scale=False, pool="behind", norm="gn"))
    block: Any = config.build(32).non_local  # type: ignore[union-attr]
    theirs = {"g": "g.0", "phi": "phi.0", "theta": "theta", "out.conv": "W.0", "out.norm": "W.1"}
    given = {f"{ours}.{leaf}": facts[f"block.{name}.{leaf}"] for ours, name in theirs.items() for leaf in ("weight", "bias")}
    bias = given.pop("out.conv.bias")
    block.load_state_dict(given)
    block.out.conv.bias = nn.Parameter(bias)  # theirs has one ahead of the norm, where ours has none
    torch.testing.assert_close(block(facts["x"]), facts["out"], **CLOSE)


def test_the_decoder_and_the_features_of_rois_are_detectron2s() -> None:
    facts = golden("decoder_roi")
    decoder = Decoder(6, (4, 8, 16, 32), width=5)
    weights = {}
    for name, value in facts.items():
        if name.startswith("decoder.p") and "predictor" not in name:
            _, level, place, leaf = name.split(".")
            weights[f"levels.{int(level[1:]) - 2}.{int(place) // 2}.{leaf}"] = value
        elif name.startswith("decoder.predictor"):
            weights[name.removeprefix("decoder.")] = value
    fill(decoder, weights)
    levels = [facts[f"feat.p{level}"] for level in (2, 3, 4, 5)]
    decoded = decoder(levels)
    torch.testing.assert_close(decoded, facts["decoded"], **CLOSE)

    def pooled(maps: list[Tensor], name: str, size: int, aligned: bool) -> Tensor:
        boxes = torch.cat([facts[f"{name}.0"], facts[f"{name}.1"]])
        images = torch.tensor([0] * len(facts[f"{name}.0"]) + [1] * len(facts[f"{name}.1"]))
        strides = (4, 8, 16, 32)[: len(maps)]
        return pool_levels(maps, strides, assign_levels(boxes, len(maps)), boxes, images, size, sampling_ratio=2, aligned=aligned)

    torch.testing.assert_close(pooled([decoded], "boxes", 4, False), facts["pooled.ROIAlign"], **CLOSE)
    torch.testing.assert_close(pooled([decoded], "boxes", 4, True), facts["pooled.ROIAlignV2"], **CLOSE)
    torch.testing.assert_close(pooled(levels, "boxes_multilevel", 5, False), facts["pooled_multilevel"], **CLOSE)


# -------------------------------------------------------------------------------------------------------------- losses

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "legacy15": ({"coarse": 15, "coarse_weight": 2, "fine_weight": 0.3, "uv_weight": 0.1}, {"u": "U", "v": "V"}),
    "improved2": ({}, {"u": "U", "v": "V"}),
    "wc1": ({"confidence": "iid_iso", "uv_weight": 0.0005}, {"uv": "UV"}),
    "wc2": ({"confidence": "indep_aniso", "uv_weight": 0.0005}, {"uv": "UV"}),
    "masks2": ({"coarse_from_masks": True, "coarse_weight": 1}, {"u": "U", "v": "V"}),
}
PREDICTIONS = {"fine": "fine_segm", "u": "u", "v": "v", "sigma": "sigma_2", "kappa_u": "kappa_u", "kappa_v": "kappa_v"}


class AsLarge(Geometry):
    """Maps that are as large as the losses read them already."""

    def enlarge(self, heatmaps: Tensor) -> Tensor:
        return heatmaps


def points_of(facts: dict[str, Tensor], row: int) -> Tensor:
    return torch.stack([facts[f"dp_{key}.{row}"] for key in ("x", "y", "I", "U", "V")], dim=1)


def truth_of(facts: dict[str, Tensor]) -> list[Target]:
    """Two images: two instances, of which the second has no dense pose, and one."""
    none = torch.zeros(0, 5)
    rows = [points_of(facts, 0), none, points_of(facts, 2)]
    segmentation = [facts["segm.0"], torch.zeros(256, 256, dtype=torch.uint8), facts["segm.2"]]
    targets = []
    for numbers in ((0, 1), (2,)):
        most = max(len(rows[number]) for number in numbers)
        points = torch.full((len(numbers), most, 5), -1.0)
        for place, number in enumerate(numbers):
            points[place, : len(rows[number])] = rows[number]
        boxes, known = facts["gt_boxes"][list(numbers)], facts["has_densepose"][list(numbers)]
        field = DensePose(points, boxes, torch.stack([segmentation[number] for number in numbers]), known, known)
        bits = facts["gt_mask_bits"][list(numbers)].to(torch.uint8)
        masks = InstanceMasks(bits, torch.tensor([[0.0, 0, bits.shape[2], bits.shape[1]]]).expand(len(numbers), 4))
        labels = torch.zeros(len(numbers), dtype=torch.int64)
        targets.append(Target(boxes, labels, torch.zeros(0, 4), fields={"dense_pose": field, "masks": masks}))
    return targets


def sample_of(boxes: Tensor, instances: Tensor, valid: Tensor) -> RoISample:
    shape = valid.shape
    labels = torch.where(valid, 0, -1)
    return RoISample(boxes.reshape(*shape, 4), valid, labels, instances, torch.zeros(*shape, 4), torch.ones(shape[0], 2))


def golden_sample(facts: dict[str, Tensor]) -> RoISample:
    boxes = torch.cat([facts["proposal_boxes"], torch.zeros(1, 4)])
    return sample_of(boxes, torch.tensor([[0, 1], [0, 0]]), torch.tensor([[True, True], [True, False]]))


def maps_of(facts: dict[str, Tensor], head: DensePoseHeadConfig) -> dict[str, Tensor]:
    return {name: facts[f"pred.{PREDICTIONS.get(name, f'coarse{head.coarse}')}"].requires_grad_() for name in channels_of(head)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_are_detectron2s(variant: str) -> None:
    facts = golden("losses", "losses_gradients")
    settings, names = VARIANTS[variant]
    head = ConvDensePoseHeadConfig(**settings)
    kinds = maps_of(facts, head)
    maps = torch.cat(list(kinds.values()), dim=1)
    losses = dense_pose_losses(maps, torch.arange(3), golden_sample(facts), truth_of(facts), head, 1, AsLarge())
    names = {**names, "fine": "I", "coarse": "S"}
    assert losses.keys() == names.keys()
    for ours, theirs in names.items():
        assert losses[ours].item() == pytest.approx(facts[f"loss.{variant}.loss_densepose_{theirs}"].item(), rel=1e-5, abs=1e-5)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    for name, prediction in kinds.items():
        theirs = PREDICTIONS.get(name, f"coarse{head.coarse}")
        expected = facts.get(f"grad.{variant}.{theirs}")
        if expected is None:  # the same as of another variant
            continue
        torch.testing.assert_close(prediction.grad, expected, rtol=1e-5, atol=1e-5)


def test_points_are_read_where_detectron2_reads_them() -> None:
    facts = golden("losses")
    size = int(facts["heatmap_size"])
    rows = {0: points_of(facts, 0), 2: points_of(facts, 2)}
    start = 0
    for row, points in rows.items():
        box, roi = facts["gt_boxes"][row], facts["proposal_boxes"][row]
        places = box[:2] + points[:, :2] * (box[2:] - box[:2]) / 256
        cells = cells_of(places[None], roi[None], size)
        end = start + len(points)
        valid = facts["point.valid"][start:end]
        assert cells.inside[0].tolist() == valid.tolist()
        for axis, name in enumerate("xy"):
            assert cells.low[0, valid, axis].tolist() == facts[f"point.{name}_lo"][start:end][valid].tolist()
            assert cells.high[0, valid, axis].tolist() == facts[f"point.{name}_hi"][start:end][valid].tolist()
        x, y = cells.weight[0, valid].unbind(1)
        torch.testing.assert_close(x * y, facts["point.w_yhi_xhi"][start:end][valid], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close((1 - x) * y, facts["point.w_yhi_xlo"][start:end][valid], rtol=1e-5, atol=1e-5)
        read = weighted_corners(read_corners(facts["pred.u"][row : row + 1], cells, size), cells)
        u = read.gather(1, points[None, None, :, 2].long())[0, 0, valid]
        torch.testing.assert_close(u, facts["point.u_at_label"][start:end][valid], rtol=1e-5, atol=1e-5)
        start = end


@pytest.mark.parametrize("geometry", [CONTINUOUS, DETECTRON1])
def test_points_are_read_as_in_the_enlarged_maps(geometry: Geometry) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 5, 5, requires_grad=True)
    rois, places = torch.tensor([[0.0, 0, 20, 20], [2, 3, 12, 33]]), torch.rand(2, 40, 2) * 36 - 4
    cells = cells_of(places, rois, 10)
    values = weighted_corners(read_corners(maps, cells, 10, geometry.beyond), cells)
    enlarged = geometry.enlarge(maps)
    expected = torch.zeros(2, 3, 40)
    for row in range(2):
        for point in range(40):
            (left, top), (right, bottom), (x, y) = (part[row, point] for part in (cells.low, cells.high, cells.weight))
            upper = enlarged[row, :, top, left] * (1 - x) + enlarged[row, :, top, right] * x
            lower = enlarged[row, :, bottom, left] * (1 - x) + enlarged[row, :, bottom, right] * x
            expected[row, :, point] = upper * (1 - y) + lower * y
    torch.testing.assert_close(values, expected)
    weights = torch.randn_like(values)
    gradients = [torch.autograd.grad((read * weights).sum(), maps, retain_graph=True)[0] for read in (values, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("variant", ["improved2", "wc2"])
def test_losses_read_the_maps_that_inference_makes(variant: str) -> None:
    """Also where confidences are multiplied into the logits."""
    facts = golden("losses")
    head = ConvDensePoseHeadConfig(**VARIANTS[variant][0], segmentation_confidence=True)
    torch.manual_seed(0)
    maps = torch.randn(3, sum(channels_of(head).values()), 28, 28)
    truth = [torch.arange(3), golden_sample(facts), truth_of(facts)]
    losses = dense_pose_losses(maps, *truth, head, 1)
    whole = whole_maps(maps, head, CONTINUOUS)
    without = head.model_copy(update={"segmentation_confidence": False})
    expected = dense_pose_losses(whole[:, :-2], *truth, without, 1, AsLarge())
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-5)


def test_the_coarse_parts_that_cells_learn_are_detectron2s() -> None:
    facts = golden("losses")
    size = int(facts["heatmap_size"])
    for place, row in enumerate((0, 2)):
        maps, boxes, rois = (facts[name][None] for name in (f"segm.{row}", "gt_boxes", "proposal_boxes"))
        labels = coarse_targets(maps, boxes[0, row : row + 1], rois[0, row : row + 1], torch.zeros(1, dtype=torch.int64), size)
        assert torch.equal(labels[0], facts["coarse_target"][place].long())
    head = ConvDensePoseHeadConfig(coarse_from_masks=True)
    _, coarse, learns = _targets(torch.arange(3), golden_sample(facts), truth_of(facts), head, size, 1, CONTINUOUS)
    assert torch.equal(coarse, facts["mask_target"].long()) and learns.all()


def test_rois_learn_that_overlap_a_person_with_dense_pose_by_more_than_0_7() -> None:
    facts = golden("filter")
    count = len(facts["iou"])
    known = facts["has_densepose"]
    points = torch.tensor([[[128.0, 128, 1, 0.5, 0.5]]]).expand(count, 1, 5)
    segmentation = torch.ones(count, 256, 256, dtype=torch.uint8)
    field = DensePose(points, facts["gt_boxes"], segmentation, known, known)
    labels = torch.zeros(count, dtype=torch.int64)
    target = Target(facts["gt_boxes"], labels, torch.zeros(0, 4), fields={"dense_pose": field})
    sample = sample_of(facts["proposal_boxes"], torch.arange(count)[None], torch.ones(1, count, dtype=torch.bool))
    _, _, learns = _targets(torch.arange(count), sample, [target], ConvDensePoseHeadConfig(), 8, 1, CONTINUOUS)
    assert learns.nonzero()[:, 0].tolist() == facts["kept"].tolist()


# ---------------------------------------------------------------------------------------------------------- the whole network


def losses_of(model: Any, images: Batch) -> dict[str, Tensor]:
    assert images.targets is not None
    losses: dict[str, Tensor] = model.losses(model(images), images.targets)
    return losses


def gradients_of(model: Any, losses: dict[str, Tensor]) -> dict[str, Tensor | None]:
    model.zero_grad()
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def without_dense_pose(target: Target, rows: slice = slice(None)) -> None:
    field = target.fields["dense_pose"]
    assert isinstance(field, DensePose)
    annotated, segmented = field.annotated.clone(), field.segmented.clone()
    annotated[rows] = False
    segmented[rows] = False
    target.fields["dense_pose"] = replace(field, annotated=annotated, segmented=segmented)


def no_persons(images: Batch) -> None:
    for target in images.targets or ():
        without_dense_pose(target)


def no_field(images: Batch) -> None:
    for target in images.targets or ():
        del target.fields["dense_pose"]


def no_field_in_the_first_image(images: Batch) -> None:
    assert images.targets is not None
    del images.targets[0].fields["dense_pose"]


def none_in_the_first_image(images: Batch) -> None:
    assert images.targets is not None
    without_dense_pose(images.targets[0])


def no_coarse_parts(images: Batch) -> None:
    for target in images.targets or ():
        field = target.fields["dense_pose"]
        assert isinstance(field, DensePose)
        target.fields["dense_pose"] = replace(field, segmented=torch.zeros_like(field.segmented))


@pytest.mark.parametrize("confidence", [None, "iid_iso", "indep_aniso"])
@pytest.mark.parametrize("change", [no_persons, no_field, no_field_in_the_first_image, none_in_the_first_image, no_coarse_parts])
def test_images_that_lack_dense_pose_train(
    change: Callable[[Batch], None], confidence: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image whose regions carry no dense pose is not left out of anything: every parameter has a finite gradient, on fixed
    shapes and others."""
    config: Any = ARCHITECTURES["dense_pose_rcnn_fpn"]()
    config.dense_pose_head.confidence = confidence
    monkeypatch.setitem(ARCHITECTURES, "dense_pose_rcnn_fpn", lambda: config)
    images = batch(((96, 128), (64, 96)), (3, 2))
    change(images)
    results = []
    for fixed in (False, True):
        model = build("dense_pose_rcnn_fpn").train()
        model.fixed_shapes = fixed
        losses = losses_of(model, images)
        gradients = gradients_of(model, losses)
        assert [name for name, value in gradients.items() if value is None or not value.isfinite().all()] == []
        results.append({name: loss.item() for name, loss in losses.items()})
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    dense = {name: value for name, value in results[0].items() if "dense_pose" in name}
    if change in (no_persons, no_field):
        assert set(dense.values()) == {0.0}
    if change is no_coarse_parts:
        assert dense.pop("loss_dense_pose_coarse") == 0 and all(value > 0 for value in dense.values())


MASKS = ConvDensePoseHeadConfig(convs=1, width=16, resolution=7, coarse_from_masks=True)
DEEPLAB = DeepLabDensePoseHeadConfig(convs=1, width=32, resolution=7)


@pytest.mark.parametrize(
    ("head", "change"),
    [
        (None, None),
        (None, none_in_the_first_image),
        (None, no_persons),
        (MASKS, no_persons),
        (DEEPLAB, None),
        (DEEPLAB, no_persons),
    ],
)
def test_rois_that_learn_nothing_are_not_computed(
    head: DensePoseHeadConfig | None, change: Callable[[Batch], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same losses and gradients as with all positives; zeros, but no absent gradients, where no RoI learns."""
    config: Any = ARCHITECTURES["dense_pose_rcnn_fpn"]()
    config.dense_pose_head, config.fpn.channels = head or config.dense_pose_head, 32
    config.rois.samples_per_image, config.rois.foreground_iou, config.rois.positive_fraction = 128, 0.05, 0.9
    monkeypatch.setitem(ARCHITECTURES, "dense_pose_rcnn_fpn", lambda: config)
    monkeypatch.setattr("boxwood.models.rcnn.valid_rows", lambda valid, most, **_: valid_rows(valid, most))  # without a multiple
    images = batch(((96, 128), (64, 96)), (3, 2))
    if change is not None:
        change(images)
    model = build("dense_pose_rcnn_fpn").train()
    results: list[tuple[int, dict[str, Tensor], dict[str, Tensor | None]]] = []
    for _ in range(2):
        output = model(images)
        assert images.targets is not None
        losses = model.losses(output, images.targets)
        results.append((len(output.task_rows["dense_pose"]), losses, gradients_of(model, losses)))
        monkeypatch.setattr(DensePoseTask, "learns", lambda *_: None)
    (few, losses, gradients), (all_positives, expected_losses, expected) = results
    nothing_learns = change is no_persons and head is not MASKS
    assert few < all_positives and (few == 0) == nothing_learns
    assert (losses["loss_dense_pose_coarse"] == 0) == nothing_learns
    for name, loss in expected_losses.items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-5, atol=1e-6)
    for name, gradient in expected.items():
        assert gradient is not None
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5)


def test_coarse_parts_are_learnt_from_masks_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    config: Any = ARCHITECTURES["dense_pose_rcnn_fpn"]()
    config.dense_pose_head.coarse_from_masks = True
    monkeypatch.setitem(ARCHITECTURES, "dense_pose_rcnn_fpn", lambda: config)
    images = batch(((96, 128), (64, 96)), (3, 2))
    no_persons(images)
    losses = losses_of(build("dense_pose_rcnn_fpn").train(), images)
    assert losses["loss_dense_pose_coarse"] > 0 and losses["loss_dense_pose_fine"] == 0
    assert images.targets is not None
    bitmaps: Any = images.targets[0].masks
    bitmaps.bitmaps[:] = 0  # a person without a mask
    bitmaps = images.targets[1].masks
    bitmaps.bitmaps[:] = 0
    assert losses_of(build("dense_pose_rcnn_fpn").train(), images)["loss_dense_pose_coarse"] == 0
    del images.targets[0].fields["masks"]
    with pytest.raises(UserError, match="coarse_from_masks=true: the data set has no masks"):
        losses_of(build("dense_pose_rcnn_fpn").train(), images)
    with pytest.raises(ValueError, match="coarse_from_masks: masks tell body from background"):
        ConvDensePoseHeadConfig(coarse_from_masks=True, coarse=15)


def test_two_halves_of_a_batch_have_the_losses_of_the_whole() -> None:
    """The sums of U and V are for two images, so the batch's size does not matter."""
    facts = golden("losses")
    head = ConvDensePoseHeadConfig()
    maps = torch.cat([value.detach() for value in maps_of(facts, head).values()], dim=1)
    sample, truth = golden_sample(facts), truth_of(facts)
    once = dense_pose_losses(maps, torch.arange(3), sample, truth, head, 1, AsLarge())
    twice = dense_pose_losses(
        torch.cat([maps, maps]),
        torch.tensor([0, 1, 2, 4, 5, 6]),
        RoISample(*(torch.cat([getattr(sample, n)] * 2) for n in ("boxes", "valid", "labels", "instances", "deltas", "scales"))),
        [*truth, *truth],
        head,
        1,
        AsLarge(),
    )
    for name, loss in once.items():
        assert twice[name].item() == pytest.approx(loss.item(), rel=1e-5)


def test_dense_pose_masks_and_keypoints_in_one_network() -> None:
    config: Any = ARCHITECTURES["dense_pose_rcnn_fpn"]()
    config.mask_head, config.keypoint_head = ConvMaskHeadConfig(convs=1, width=8), ConvKeypointHeadConfig(convs=1, width=8)
    assert config.task_names == ("masks", "keypoints", "dense_pose")
    assert config.title.startswith("Mask and Keypoint and DensePose R-CNN")
    torch.manual_seed(0)
    model = config.build(CATEGORIES, TEST).train()
    losses = losses_of(model, batch(((96, 128), (64, 96)), (3, 1)))
    assert {"loss_mask", "loss_keypoint", "loss_dense_pose_fine"} < set(losses)
    images = batch([(96, 128)])
    with torch.no_grad():
        (detections,) = model.eval().detections(model(images), images)
    assert set(detections.fields) == {"masks", "keypoints", "dense_pose"}
    for _, record in detections.records():
        assert {"segmentation", "keypoints", "uv_data"} <= record.keys()


def test_data_without_dense_pose_is_refused_before_training() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    sample = Sample(torch.zeros(3, 8, 8, dtype=torch.uint8), 1, "a.png", (8, 8), torch.zeros(0, 4), nothing, nothing.bool())
    config = ARCHITECTURES["dense_pose_rcnn_fpn"]()
    with pytest.raises(UserError, match=r"data\.train: has no dense pose, .*dp_x.*boxwood data shapes --surface"):
        config.check_data(CATEGORIES, lambda: sample, "data.train")


def test_a_decoder_needs_a_pyramid() -> None:
    config: Any = ARCHITECTURES["faster_rcnn_c4"]()
    config.dense_pose_head = ConvDensePoseHeadConfig(convs=1, width=8)
    with pytest.raises(UserError, match=r"model\.dense_pose_head\.decoder=true: joins the levels of a pyramid"):
        config.build(CATEGORIES, TEST)
    config.dense_pose_head = ConvDensePoseHeadConfig(convs=1, width=8, decoder=False, source="tail", resolution=14)
    assert "dense_pose_decoder" not in config.build(CATEGORIES, TEST)._modules


# ------------------------------------------------------------------------------------------------------------ several views


def test_maps_of_views_are_averaged_and_a_mirrored_one_needs_the_table(tmp_path: Path) -> None:
    table = tmp_path / "body.npz"
    u, v = np.meshgrid(np.arange(256, dtype=np.float32) / 255, np.arange(256, dtype=np.float32) / 255)
    np.savez(table, symmetry_u=np.broadcast_to(1 - u, (24, 256, 256)), symmetry_v=np.broadcast_to(v, (24, 256, 256)))
    head = ConvDensePoseHeadConfig(confidence="iid_iso")
    task = DensePoseTask(head=head)
    network: Any = SimpleNamespace(test=TestConfig(tta=TTAConfig(dense_pose=DensePoseViewsConfig(flip=True))))
    values = torch.randn(1, 102, 6, 6, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=r"set test\.tta\.dense_pose\.symmetry to UV_symmetry_transforms\.mat"):
        task.mirrored(network, values)
    network.test.tta.dense_pose.symmetry = str(table)
    mirrored = split_maps(task.mirrored(network, values), head)
    before = split_maps(values, head)
    torch.testing.assert_close(mirrored["coarse"], before["coarse"].flip(-1))
    torch.testing.assert_close(mirrored["fine"][:, 3], before["fine"][:, 4].flip(-1))  # hands
    clipped = (255 * before["u"][:, 4].clamp(0, 1)).floor() / 255
    torch.testing.assert_close(mirrored["u"][:, 3], 1 - clipped.flip(-1))
    torch.testing.assert_close(mirrored["sigma"], before["sigma"].flip(-1))
    used = torch.ones(2, 1, 1, 1, 1, dtype=torch.bool)
    torch.testing.assert_close(task.merge(network.test.tta, torch.stack([values, 3 * values]), used), 2 * values)
    assert isinstance(task.views(TTAConfig()), DensePoseViewsConfig) and not task.views(TTAConfig()).flip
