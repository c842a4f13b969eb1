"""DensePose R-CNN beside numbers of detectron2's program (``tests/facts/dense_pose``): networks, losses, gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boxwood.dense_pose import DensePose
from boxwood.fields import InstanceMasks
from boxwood.models.backbones.config import NonLocalConfig
from boxwood.models.heads import ConvDensePoseHeadConfig, DeepLabDensePoseHeadConfig, DensePoseHeadConfig
from boxwood.models.heads.dense_pose import Decoder, DensePosePredictor, channels_of, split_maps
from boxwood.models.second_stage import RoISample
from boxwood.models.tasks.dense_pose import _targets, dense_pose_losses
from boxwood.ops.dense_pose import cells_of, coarse_targets, read_cells
from boxwood.ops.geometry import CONTINUOUS
from boxwood.ops.roi_align import assign_levels, pool_levels
from boxwood.structures import Target

FACTS = Path(__file__).parents[1] / "facts" / "dense_pose"
CLOSE = {"rtol": 3e-5, "atol": 3e-5}
THEIRS = {
    "coarse": "ann_index",
    "fine": "index_uv",
    "u": "u",
    "v": "v",
    "sigma": "sigma_2",
    "kappa_u": "kappa_u",
    "kappa_v": "kappa_v",
    "fine_confidence": "fine_segm_confidence",
    "coarse_confidence": "coarse_segm_confidence",
}
"""Our names of the maps, and detectron2's names of the layers that predict them."""
OUTPUTS = THEIRS | {"coarse": "coarse_segm", "fine": "fine_segm"}


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
            f"layers.{ours}.{leaf}": facts[f"predictor.{THEIRS[ours]}_lowres.{leaf}"]
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
    maps = split_maps(predictor(features, CONTINUOUS), config)
    assert len(maps) == sum(key.startswith("out.") for key in facts)
    for ours, values in maps.items():
        torch.testing.assert_close(values, facts[f"out.{OUTPUTS[ours]}"], **CLOSE)


def test_fifteen_coarse_channels_are_detectron2s() -> None:
    facts = golden("head_v1convx_15")
    config = ConvDensePoseHeadConfig(convs=3, width=8, coarse=15, decoder=False, resolution=14)
    network = config.build(6)
    fill_convolutions(network.convs, facts)  # type: ignore[arg-type]
    predictor = DensePosePredictor(config, 8)
    known = {f"layers.{ours}.{leaf}": facts[f"predictor.{THEIRS[ours]}_lowres.{leaf}"]
             for ours in ("coarse", "u") for leaf in ("weight", "bias")}  # fmt: skip
    predictor.load_state_dict(known, strict=False)
    features = network(facts["x"])
    torch.testing.assert_close(features, facts["features"], **CLOSE)
    maps = split_maps(predictor(features, CONTINUOUS), config)
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
    losses = dense_pose_losses(maps, torch.arange(3), golden_sample(facts), truth_of(facts), head, 1)
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
        u = read_cells(facts["pred.u"][row : row + 1], cells, points[None, :, 2].long())[0, valid]
        torch.testing.assert_close(u, facts["point.u_at_label"][start:end][valid], rtol=1e-5, atol=1e-5)
        start = end


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
