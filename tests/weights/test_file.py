"""The weights file: a round trip, and a message of one line for every wrong file."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

from boxwood import recipe
from boxwood.config import ConfigError, differences, to_yaml
from boxwood.errors import UserError
from boxwood.models.heads.config import ConvFCHeadConfig
from boxwood.models.inference_config import TestConfig
from boxwood.structures import Categories, KeypointFacts
from boxwood.weights import load_state, read_weights, restore_model, save_weights
from tests.training.tiny import TinyConfig, tiny_run

CLASSES = Categories((3, 70), ("Katze", "胡桃"), KeypointFacts(("l", "r"), (1, 0), ((0, 1),), (0.1, 0.2)))


def model_of(classes: int, width: int = 8) -> nn.Module:
    categories = Categories(tuple(range(classes)), tuple(f"c{i}" for i in range(classes)))
    return TinyConfig(width=width).build(categories, TestConfig())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    save_weights(path, model_of(2).state_dict(), tiny_run(), CLASSES)
    return path


def one_line(error: pytest.ExceptionInfo[UserError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_weights_are_read_as_saved(saved: Path) -> None:
    read = read_weights(saved)
    assert read.categories == CLASSES
    assert differences(read.config, tiny_run()) == []
    expected = model_of(2).state_dict()
    assert set(read.state) == set(expected)
    model = model_of(2)
    assert load_state(model, read.state) == []
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, read.state[name])


def test_any_safetensors_reader_finds_the_metadata(saved: Path) -> None:
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "boxwood"
    assert metadata["format_version"] == "1"
    assert json.loads(metadata["categories"])["names"] == ["Katze", "胡桃"]
    assert "model:" in metadata["config"]


def test_tied_and_strided_tensors(tmp_path: Path) -> None:
    tied = torch.arange(6.0).view(2, 3)
    strided = torch.rand(2, 4, 5, 5).to(memory_format=torch.channels_last)
    state = {"a": tied, "b": tied, "c": strided, "n": torch.tensor(3), "empty": torch.zeros(0, 4)}
    path = tmp_path / "w.safetensors"
    save_weights(path, state, tiny_run(), CLASSES)
    read = read_weights(path).state
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_a_failed_save_keeps_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(path: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError) as error:
        save_weights(saved, model_of(3).state_dict(), tiny_run(), CLASSES)
    one_line(error, "No space left on device", str(saved))
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "not a safetensors file"),
        (b"hello", "not a safetensors file"),
        (b"PK\x03\x04" + b"\0" * 500, "not a safetensors file"),
        (b"\xff" * 100, "not a safetensors file"),
        (b"\x10\0\0\0\0\0\0\0not json at all!", "not a safetensors file"),
        (b"\x02\0\0\0\0\0\0\0[]", "not a safetensors file"),
    ],
)
def test_files_of_other_formats_are_refused(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_weights(path)
    one_line(error, str(path), word)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_weights(tmp_path / "no.safetensors")
    one_line(error, "no.safetensors", "No such file")


@pytest.mark.parametrize("left", [4, 30, 300, -1])
def test_truncated(saved: Path, left: int) -> None:
    saved.write_bytes(saved.read_bytes()[:left])
    with pytest.raises(UserError) as error:
        read_weights(saved)
    one_line(error, "cut short" if left > 8 or left < 0 else "not a safetensors file")


def test_files_without_configuration_or_of_a_newer_format_are_refused(tmp_path: Path, saved: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(UserError) as error:
        read_weights(path)
    one_line(error, "not Boxwood's")
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, {**metadata, "format_version": "2"})
    with pytest.raises(UserError) as error:
        read_weights(path)
    one_line(error, "format version 2", "newer")


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("categories", "[1, 2]", "damaged"),
        ("categories", "{", "damaged"),
        ("config", "[1]", "mapping"),
        ("config", "a: &x [1]\nb: *x", "alias"),
        ("config", "model: {kind: nowhere:Class}", "import its module first"),
    ],
)
def test_damaged_metadata(tmp_path: Path, saved: Path, key: str, value: str, word: str) -> None:
    with safe_open(saved, "pt") as file:
        metadata = {**file.metadata(), key: value}
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, metadata)
    with pytest.raises(UserError) as error:
        read_weights(path)
    one_line(error, "other.safetensors", word)


def with_metadata(path: Path, **metadata: str) -> Path:
    """A weights file without tensors, of a network that Boxwood has, with other metadata."""
    whole = {
        "format": "boxwood",
        "format_version": "1",
        "config": to_yaml(recipe("faster_rcnn_mobilenetv2_fpn", "model.backbone.weights=null")),
        "categories": json.dumps({"ids": [1], "names": ["cat"], "keypoints": None}),
    }
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, {**whole, **metadata})
    return path


@pytest.mark.parametrize(
    ("categories", "word"),
    [
        ({"ids": [1, 1], "names": ["a", "b"], "keypoints": None}, "2 names of classes for 1 ids"),
        ({"ids": [1, 2], "names": ["a"], "keypoints": None}, "1 names of classes for 2 ids"),
        ({"ids": [], "names": [], "keypoints": None}, "0 names"),
        ({"ids": ["1"], "names": ["a"], "keypoints": None}, "damaged"),
        ({"ids": [1], "names": [{"a": 1}], "keypoints": None}, "damaged"),
        ({"ids": [1], "names": ["a"], "keypoints": {"names": ["l", "r"], "flip": [1, 7], "skeleton": [], "sigmas": []}}, "mirror"),
        ({"ids": [1], "names": ["a"], "keypoints": {"names": ["l", "r"], "flip": [1], "skeleton": [], "sigmas": []}}, "mirror"),
        ({"ids": [1], "names": ["a"], "keypoints": 7}, "damaged"),
    ],
)
def test_classes_that_contradict_themselves_are_refused(tmp_path: Path, categories: dict[str, object], word: str) -> None:
    with pytest.raises(UserError) as error:
        read_weights(with_metadata(tmp_path / "w.safetensors", categories=json.dumps(categories)))
    one_line(error, "w.safetensors", "damaged", word)


def test_names_of_classes_that_stand_twice_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, model_of(3).state_dict(), tiny_run(), Categories((1, 2, 3), ("cat", "dog", "cat")))
    with caplog.at_level(logging.WARNING):
        assert read_weights(path).categories.names == ("cat", "dog", "cat")
    [message] = caplog.messages
    assert message == f"{path}: 1 names of classes stand more than once (cat)"


@pytest.mark.parametrize(
    "change",
    [
        "model.fpn.channels=1000000000",
        "model.box_head.width=0",
        "model.box_head={kind: conv_fc, convs: 1000000000}",
        "model.box_head.resolution=100000",
        "model.rpn.convs=1000000000",
        "model.rpn.test_proposals=-1",
        "model.pixel_std=[0.0, 1.0, 1.0]",
        "model.rpn.anchor_ratios=[]",
        "model.rpn.anchor_ratios=[-1.0]",
        "model.rpn.anchor_sizes=[[32.0], [], [128.0], [256.0], [512.0]]",
        f"model.rpn.anchor_sizes={[[8.0]] * 21}",
        f"model.rpn.anchor_sizes={[[8.0] * 101]}",
        f"model.rpn.anchor_ratios={[1.0] * 101}",
        "model.backbone={kind: resnet, width: 100000}",
    ],
)
def test_configurations_have_bounds(change: str) -> None:
    with pytest.raises(ConfigError, match=change.split("=")[0].removesuffix(".box_head").removesuffix(".backbone")):
        recipe("faster_rcnn_mobilenetv2_fpn", change)


def test_a_network_larger_than_its_file_is_refused_before_it_is_built(tmp_path: Path) -> None:
    """The layers of this head would have 200 GB; on a machine with less memory the process would be killed."""
    config = recipe("faster_rcnn_mobilenetv2_fpn", "model.backbone.weights=null")
    config.model = config.model.model_copy(update={"box_head": ConvFCHeadConfig(convs=20, conv_width=16_384, width=16_384)})
    saved = read_weights(with_metadata(tmp_path / "w.safetensors", config=to_yaml(config)))
    with pytest.raises(UserError) as error:
        restore_model(saved, where="w.safetensors")
    one_line(error, "w.safetensors: of another architecture", "missing", "1 tensors unexpected (a)")


def test_parts_that_do_not_fit_each_other_are_the_files_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    width = recipe("faster_rcnn_mobilenetv2_fpn", "model.backbone={kind: resnet, width: 40, norm: gn, weights: null}")
    saved = read_weights(with_metadata(tmp_path / "w.safetensors", config=to_yaml(width)))
    with pytest.raises(UserError) as error:
        restore_model(saved, where="w.safetensors")
    one_line(error, "w.safetensors: norm=gn: a layer of 40 channels cannot be divided into 32 groups")
    monkeypatch.setattr(type(width.model), "build", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(UserError) as error:
        restore_model(saved, where="w.safetensors")
    one_line(error, "w.safetensors: its configuration is that of no network (RuntimeError: ")


def test_the_configuration_in_a_file_has_the_limit_of_configuration_files(tmp_path: Path) -> None:
    path = with_metadata(tmp_path / "w.safetensors", config="a: " + "[[[]]]," * 100_000)
    with pytest.raises(UserError) as error:
        read_weights(path)
    one_line(error, str(path), "larger than 100000 bytes")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_named(value: float) -> None:
    state = model_of(2).state_dict()
    state["locate.weight"].view(-1)[3:5] = value
    model = model_of(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_state(model, state, where="x.safetensors")
    one_line(
        error,
        "x.safetensors: has values that are NaN or infinite in 1 of",
        f"(locate.weight: 2 of {before['locate.weight'].numel()})",
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def header(tensors: dict[str, object], size: int = 8) -> bytes:
    metadata = {
        "format": "boxwood",
        "format_version": "1",
        "config": "a: 1",
        "categories": '{"ids":[1],"names":["a"],"keypoints":null}',
    }
    text = json.dumps({"__metadata__": metadata, **tensors}).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * size


@pytest.mark.parametrize(
    "content",
    [
        header({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}}),
        header({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}}),
        header({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}),
        header({"a": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}}),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}),
        header({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"}),
        header(
            {
                "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]},
            }
        ),
        header({"a": 7}),
        (2**63).to_bytes(8, "little") + b"{",
        (30_000_000).to_bytes(8, "little") + b"{" + b" " * 30_000_000,
    ],
    ids=["short", "offset", "giant", "negative", "type", "backwards", "shared", "overlap", "number", "length", "long"],
)
def test_headers_that_lie(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_weights(path)
    one_line(error, str(path))


def test_layers_of_other_classes_keep_the_models_values() -> None:
    state, model = model_of(2).state_dict(), model_of(5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    skipped = load_state(model, state, saved_classes=2)
    assert skipped == ["classify.weight", "classify.bias"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name in skipped else state[name])


@pytest.mark.parametrize(("state", "saved_classes"), [(model_of(2), None), (model_of(5, width=16), 2), (model_of(2, width=16), 2)])
def test_another_architecture_is_refused_and_changes_nothing(state: nn.Module, saved_classes: int | None) -> None:
    model = model_of(5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_state(model, state.state_dict(), saved_classes=saved_classes, where="x.safetensors")
    one_line(error, "x.safetensors", "of another shape", "instead of")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_missing_and_unexpected_tensors_are_named() -> None:
    state = model_of(2).state_dict()
    state["extra.weight"] = state.pop("locate.weight")
    with pytest.raises(UserError) as error:
        load_state(model_of(2), state)
    one_line(error, "1 tensors missing (locate.weight)", "1 tensors unexpected (extra.weight)")
