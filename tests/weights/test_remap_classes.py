"""Weights for other classes: each class takes the outputs of the old class with its name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwood.errors import UserError
from boxwood.models.inference_config import TestConfig
from boxwood.recipes import resolve
from boxwood.structures import Categories
from boxwood.weights.file import SavedWeights, load_state, read_weights, save_weights
from boxwood.weights.remap_classes import remap_classes
from tests.conftest import Boxwood

OLD = Categories((1, 2, 5, 9), ("person", "bicycle", "car", "dog"))
NEW = Categories((1, 2, 3), ("car", "rider", "person"))


def saved(recipe: str, *overrides: str) -> SavedWeights:
    config = resolve(recipe, overrides)
    torch.manual_seed(0)
    model: Any = config.model.build(OLD, TestConfig())
    state = {name: torch.randn_like(value) if value.is_floating_point() else value for name, value in model.state_dict().items()}
    return SavedWeights(state, config, OLD)


SMALL = ("model.backbone.weights=null",)


def test_mask_rcnn() -> None:
    old = saved("mask_rcnn_mobilenetv2_fpn", *SMALL)
    new, source = remap_classes(old, NEW, {"rider": "person"})
    assert source == {"car": "car", "rider": "person", "person": "person"} and new.categories == NEW
    logits, deltas, masks = (old.state[f"{name}.weight"] for name in ("class_logits", "box_deltas", "mask_logits"))
    assert torch.equal(new.state["class_logits.weight"], logits[[2, 0, 0, 4]])  # background stays last
    assert torch.equal(new.state["box_deltas.weight"].view(3, 4, -1), deltas.view(4, 4, -1)[[2, 0, 0]])
    assert torch.equal(new.state["mask_logits.weight"], masks[[2, 0, 0]])
    others = old.state.keys() - {
        f"{name}.{leaf}" for name in ("class_logits", "box_deltas", "mask_logits") for leaf in ("weight", "bias")
    }
    assert all(new.state[name] is old.state[name] for name in others)
    assert load_state(new.config.model.build(NEW, TestConfig()), new.state) == []


def test_outputs_of_new_classes_are_randomly_initialised_and_reproducible() -> None:
    old = saved("faster_rcnn_mobilenetv2_fpn", *SMALL)
    state = torch.random.get_rng_state()
    (new, source), (again, _) = remap_classes(old, NEW), remap_classes(old, NEW)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert source["rider"] is None
    rider = new.state["class_logits.weight"][1]
    assert torch.equal(rider, again.state["class_logits.weight"][1]) and 0 < rider.std() < 0.1  # initialised by the model
    assert new.state["class_logits.bias"][1] == 0


def test_retinanet() -> None:
    """Its outputs are classes within anchors, without background."""
    old = saved("retinanet_mobilenetv2_fpn", *SMALL)
    new, _ = remap_classes(old, NEW, {"rider": "dog"})
    before, after = (state["class_logits.weight"] for state in (old.state, new.state))
    assert torch.equal(after.view(9, 3, *after.shape[1:]), before.view(9, 4, *before.shape[1:])[:, [2, 3, 0]])
    assert new.state["box_deltas.weight"] is old.state["box_deltas.weight"]


def test_rfcn() -> None:
    """Each class has score maps of all its parts."""
    old = saved("rfcn_r50", "model.backbone.weights=null")
    new, _ = remap_classes(old, NEW, {"rider": "dog"})
    before, after = (state["class_maps.bias"] for state in (old.state, new.state))
    assert torch.equal(after.view(4, -1), before.view(5, -1)[[2, 3, 0, 4]])


def test_models_without_classes_and_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="no outputs per class"):
        remap_classes(saved("rpn_mobilenetv2_fpn", *SMALL), NEW)
    old = saved("faster_rcnn_mobilenetv2_fpn", *SMALL)
    for pair, message in (
        ({"ridr": "dog"}, "'ridr' is none of the classes of the new"),
        ({"rider": "dgo"}, "'dgo' is none of the classes of the w"),
    ):
        with pytest.raises(UserError, match=message):
            remap_classes(old, NEW, pair)


def test_a_class_that_stands_twice_is_refused() -> None:
    old = saved("faster_rcnn_mobilenetv2_fpn", *SMALL)
    twice = replace(old, categories=Categories(old.categories.ids, ("car", "car", *old.categories.names[2:])))
    with pytest.raises(UserError, match="more than one class 'car'"):
        remap_classes(twice, NEW, {"rider": "car"})


def test_the_command(boxwood: Boxwood, tmp_path: Path) -> None:
    old, data, out = saved("faster_rcnn_mobilenetv2_fpn", *SMALL), tmp_path / "data.json", tmp_path / "new.safetensors"
    save_weights(tmp_path / "old.safetensors", old.state, old.config, old.categories)
    categories = [{"id": i, "name": name} for i, name in zip(NEW.ids, NEW.names, strict=True)]
    images = [{"id": 1, "file_name": "a.jpg", "height": 5, "width": 5}]
    data.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    arguments = ("weights", "remap-classes", tmp_path / "old.safetensors", "--annotations", data)
    done = boxwood(*arguments, "--take", "rider=person", "--out", out)
    assert done.status == 0, done.err
    assert done.out.splitlines()[:3] == ["  car     of car", "  rider   of person", "  person  of person"]
    assert read_weights(out).categories == NEW
    wrong = boxwood(*arguments, "--take", "rider", "--out", tmp_path / "other.safetensors")
    assert wrong.status == 2 and "rider=person" in wrong.err and not (tmp_path / "other.safetensors").exists()
