"""The weights file: a round trip, and a message of one line for every wrong file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

from boxwood.config import differences
from boxwood.errors import UserError
from boxwood.models.inference_config import TestConfig
from boxwood.structures import Categories, KeypointFacts
from boxwood.weights import load_state, read_weights, save_weights
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
