"""Weights of DensePose: every tensor of detectron2's seven kinds of models, and the blobs of the program before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwood.data.known_classes import PERSON
from boxwood.errors import UserError
from boxwood.interop import dense_pose, detectron, detectron2, weights
from boxwood.models import RCNNConfig, TestConfig
from boxwood.recipes import resolve
from tests.facts import FACTS
from tests.interop.detectron_blobs import convolution, network, random_blobs, write

MODELS = ("s1x", "s1x_legacy", "DL_s1x", "WC1_s1x", "WC2_s1x", "WC1M_s1x", "WC2M_s1x")


def shapes_of(model: str) -> dict[str, list[int]]:
    """Name -> shape of every tensor of detectron2's network."""
    facts = json.loads((FACTS / "dense_pose" / "state_dict_names.json").read_text())
    tensors = dict(facts["base"]["tensors"])
    if model != "s1x":
        other = facts["others"][f"densepose_rcnn_R_50_FPN_{model}"]
        tensors = {name: shape for name, shape in tensors.items() if name not in other["absent"]} | other["added_or_other_shape"]
    return tensors


def recipe_of(model: str) -> str:
    variant = model.replace("_s1x", "").replace("s1x_", "").replace("s1x", "").lower()
    return f"dense_pose_rcnn_r50_fpn_s1x{'_' if variant else ''}{variant}"


@pytest.mark.parametrize("model", MODELS)
def test_every_tensor_of_detectron2s_models_has_its_place(model: str) -> None:
    config = resolve(recipe_of(model)).model
    shapes = shapes_of(model)
    with torch.device("meta"):
        built: Any = config.build(PERSON, TestConfig())
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
    converted, report = detectron2.convert(state, built, config, model)
    assert converted.keys() == built.state_dict().keys()
    assert sorted([*report.loaded.values(), *report.reordered.values()]) == sorted(shapes)
    assert not (report.unused or report.constant or report.initialised)


@pytest.mark.parametrize("model", MODELS)
def test_the_network_is_recognised_by_its_tensors(model: str) -> None:
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in shapes_of(model).items()}
    recognised = dense_pose.of_state(state, model)
    assert recognised is not None
    assert recognised.model == resolve(recipe_of(model)).model
    assert dense_pose.of_state({"roi_heads.box_predictor.cls_score.bias": torch.zeros(2)}, "x") is None


def test_a_file_without_settings_is_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in shapes_of("WC1_s1x").items()}
    monkeypatch.setattr(weights, "read_tensors", lambda path: state)
    imported = weights.import_weights(tmp_path / "model_final_289019.pkl", "detectron2")
    model = imported.saved.config.model
    assert isinstance(model, RCNNConfig) and not model.rois.aligned and model.rois.sampling_ratio == 2
    assert imported.saved.categories.names == ("person",) and imported.notes == (dense_pose.NOTE,)
    assert model.title == "DensePose R-CNN, ResNet-50-FPN"
    del state["backbone.bottom_up.res4.5.conv1.weight"]
    for name in list(state):
        if name.startswith("backbone.bottom_up.res4.5."):
            del state[name]
    with pytest.raises(UserError, match="has 5 residual blocks in res4, where published models have 6 or 23"):
        weights.import_weights(tmp_path / "model.pkl", "detectron2")


def blobs_of_dense_pose(**parts: Any) -> dict[str, tuple[int, ...]]:
    shapes = network(classes=2, **parts)
    for number in range(8):
        convolution(shapes, f"body_conv_fcn{number + 1}", 512, 512 if number else 256, 3, 3)
    for name, channels in (("AnnIndex", 15), ("Index_UV", 25), ("U", 25), ("V", 25)):
        shapes[f"{name}_lowres_w"], shapes[f"{name}_lowres_b"] = (512, channels, 4, 4), (channels,)
    for name in ("AnnIndex", "Index_UV", "U_estimated", "V_estimated"):
        shapes[f"{name}_w"], shapes[f"{name}_b"] = (25, 25, 4, 4), (25,)
    return shapes  # type: ignore[return-value]


@pytest.mark.slow
def test_the_blobs_of_the_program_before_are_imported(tmp_path: Path) -> None:
    blobs = random_blobs(blobs_of_dense_pose())  # type: ignore[arg-type]
    write(tmp_path / "model.pkl", blobs, "MODEL: {}\nBODY_UV_RCNN: {}\n")
    imported = weights.import_weights(tmp_path / "model.pkl", "detectron")
    model, state = imported.saved.config.model, imported.saved.state
    assert isinstance(model, RCNNConfig) and model.geometry == "detectron1" and model.dense_pose_head is not None
    assert not model.dense_pose_head.decoder and model.dense_pose_head.coarse == 15
    assert torch.equal(state["dense_pose_maps.layers.fine.weight"], torch.from_numpy(blobs["Index_UV_lowres_w"]))
    assert torch.equal(state["dense_pose_head.convs.7.bias"], torch.from_numpy(blobs["body_conv_fcn8_b"]))
    assert torch.equal(state["class_logits.bias"], torch.from_numpy(blobs["cls_score_b"]).flip(0))  # background is last here
    assert len(imported.report.unused) == 8 and imported.notes == (dense_pose.NOTE,)


def test_the_blobs_tell_the_network() -> None:
    for parts, expected in (
        ({}, (50, 1, False, True)),
        ({"depth": 101, "groups": 32, "width": 8}, (101, 32, False, True)),
        ({"masks": True, "keypoints": True}, (50, 1, True, True)),
        ({"proposes": False}, (50, 1, False, False)),
    ):
        shapes = blobs_of_dense_pose(**parts)
        blobs = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        run = dense_pose.of_blobs(blobs, "x")
        assert run is not None and isinstance(run.model, RCNNConfig)
        backbone: Any = run.model.backbone
        heads = run.model.mask_head is not None and run.model.keypoint_head is not None
        assert (backbone.depth, backbone.groups, heads, run.model.rpn is not None) == expected
        with torch.device("meta"):
            built: Any = run.model.build(PERSON, TestConfig())
        names = detectron._rules(run.model)
        for ours in built.state_dict():
            if not ours.endswith(("running_mean", "running_var")):
                assert any(name in blobs for name in detectron._blobs_of(ours, names, run.model)), ours
    assert dense_pose.of_blobs({"conv1_w": torch.zeros(1)}, "x") is None
