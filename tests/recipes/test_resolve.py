"""Configurations by name of a recipe, function, file or run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from boxwood import recipes
from boxwood.config import ConfigError, to_yaml
from boxwood.errors import UserError
from boxwood.models.backbones import MobileNetV2Config
from boxwood.recipes import resolve


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run each test in a new folder, without modules that other tests imported; restore ``sys.path`` and ``sys.modules``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("my_")]:
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


MINE = """
from boxwood.recipes import faster_rcnn_mobilenetv2_fpn

def mine():
    config = faster_rcnn_mobilenetv2_fpn()
    config.optim.lr = 0.5
    return config

def misspelt():
    config = faster_rcnn_mobilenetv2_fpn()
    config.optim.rl = 0.5
    return config

def wrong_type():
    config = faster_rcnn_mobilenetv2_fpn()
    config.train.steps = "many"
    return config

def something_else():
    return 3
"""


def test_a_recipe_by_its_name() -> None:
    assert resolve("mask_rcnn_r50_fpn_1x") == recipes.mask_rcnn_r50_fpn_1x()


def test_overrides_reach_an_exchanged_backbone() -> None:
    config = resolve("faster_rcnn_r50_fpn_1x", ["model.backbone.kind=mobilenet_v2", "model.backbone.weights=null", "optim.lr=1e-3"])
    assert config.model.backbone == MobileNetV2Config(weights=None)  # type: ignore[attr-defined]  # of RCNNConfig
    assert config.optim.lr == 1e-3


@pytest.mark.parametrize("name", ["mask_rcnn_r50_fpn_1", "mask_rcn_r50_fpn_1x"])
def test_an_unknown_recipe_suggests_the_nearest(name: str) -> None:
    with pytest.raises(UserError, match=r"unknown recipe .* \(did you mean 'mask_rcnn_r50_fpn_1x'\?\)"):
        resolve(name)


def test_a_function_of_a_module_in_the_current_folder(in_folder: Path) -> None:
    (in_folder / "my_work.py").write_text(MINE)
    assert resolve("my_work:mine").optim.lr == 0.5
    assert resolve("my_work:mine", ["optim.lr=1"]).optim.lr == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_work:misspelt", "my_work.py:11: SGDConfig has no key 'rl' (did you mean 'lr'?)"),
        ("my_work:wrong_type", "my_work.py:16: TrainConfig: 'steps' should be a valid integer, got 'many'"),
        ("my_work:something_else", "something_else() should return a RunConfig, got int"),
        ("my_work:min", "has no function 'min' (did you mean 'mine'?)"),
        ("my_wrok:mine", "no module 'my_wrok' in "),
        ("my_work.py:mine", "; write 'my_work'"),
        (":mine", "is no module's name"),
        (".:mine", "is no module's name"),
    ],
)
def test_error_of_a_wrong_function_is_one_line(in_folder: Path, name: str, message: str) -> None:
    (in_folder / "my_work.py").write_text(MINE)
    with pytest.raises(UserError) as caught:
        resolve(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_imports_something_missing_keeps_its_traceback(in_folder: Path) -> None:
    (in_folder / "my_work.py").write_text("import my_missing\n")
    with pytest.raises(ModuleNotFoundError, match="my_missing"):
        resolve("my_work:mine")


def test_a_file_over_a_recipe(in_folder: Path) -> None:
    (in_folder / "a.yaml").write_text("base: mask_rcnn_r50_fpn_1x\noptim: {lr: 0.005}\nmodel: {backbone: {depth: 101}}\n")
    config = resolve("a.yaml", ["train.steps=7"])
    expected = recipes.mask_rcnn_r50_fpn_1x()
    expected.optim.lr = 0.005
    expected.train.steps = 7
    expected.model.backbone.depth = 101  # type: ignore[attr-defined]  # of RCNNConfig and ResNetConfig
    assert config == expected


def test_a_chain_of_files_relative_to_each(in_folder: Path) -> None:
    (in_folder / "sub").mkdir()
    (in_folder / "sub" / "b.yaml").write_text("base: ../a.yaml\noptim: {lr: 2}\n")
    (in_folder / "a.yaml").write_text("base: demo_shapes\noptim: {lr: 1, eps: 0.5}\n")
    config = resolve("sub/b.yaml")
    assert (config.optim.lr, config.optim.eps) == (2, 0.5)


def test_a_base_that_is_a_function(in_folder: Path) -> None:
    (in_folder / "my_work.py").write_text(MINE)
    (in_folder / "a.yaml").write_text("base: my_work:mine\ntrain: {steps: 3}\n")
    assert (resolve("a.yaml").optim.lr, resolve("a.yaml").train.steps) == (0.5, 3)


def test_a_run_and_its_file(in_folder: Path) -> None:
    (in_folder / "run").mkdir()
    (in_folder / "run" / "config.yaml").write_text(to_yaml(recipes.demo_shapes()))
    assert resolve("run") == resolve("run/config.yaml") == recipes.demo_shapes()


@pytest.mark.parametrize(
    ("files", "config", "message"),
    [
        ({"a.yaml": "base: a.yaml\n"}, "a.yaml", "a.yaml: is its own base"),
        ({"a.yaml": "base: b.yaml\n", "b.yaml": "base: ./a.yaml\n"}, "a.yaml", "a.yaml: is its own base, by way of"),
        ({"a.yaml": "\nbase: absent.yaml\n"}, "a.yaml", "a.yaml:2: base: absent.yaml: cannot be read"),
        ({"a.yaml": "base: demo_shape\n"}, "a.yaml", "a.yaml:1: base: unknown recipe 'demo_shape' (did you mean 'demo_shapes'?)"),
        ({"a.yaml": "base: 3\n"}, "a.yaml", "a.yaml:1: base should be the name of a recipe or of a file, got 3"),
        (
            {"a.yaml": "base: demo_shapes\noptim:\n  rl: 1\n"},
            "a.yaml",
            "a.yaml:3: unknown key 'optim.rl' (did you mean 'optim.lr'?)",
        ),
        (
            {"a.yaml": "base: b.yaml\n", "b.yaml": "base: demo_shapes\noptim: {lr: x}\n"},
            "a.yaml",
            "b.yaml:2: 'optim.lr' should be a valid number, got 'x'",
        ),
        ({"a.yaml": "optim: {lr: 1}\n"}, "a.yaml", "a.yaml: 'model' is missing; a.yaml: 'data' is missing"),
        ({"a.yaml": "basis: demo_shapes\n"}, "a.yaml", "a.yaml:1: unknown key 'basis'"),
        ({"empty/x": ""}, "empty", "empty: is a folder without config.yaml"),
        ({}, "absent.yaml", "absent.yaml: cannot be read (No such file or directory)"),
    ],
)
def test_error_of_a_wrong_file_names_its_line(in_folder: Path, files: dict[str, str], config: str, message: str) -> None:
    for name, text in files.items():
        (in_folder / name).parent.mkdir(exist_ok=True)
        (in_folder / name).write_text(text)
    with pytest.raises(UserError) as caught:
        resolve(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_users_component_is_found_after_its_import(in_folder: Path) -> None:
    (in_folder / "my_parts.py").write_text(
        "from boxwood.models.backbones import ResNetConfig\nclass OwnBody(ResNetConfig):\n    extra: int = 3\n"
    )
    overrides = ["model.backbone.kind=my_parts:OwnBody", "model.backbone.extra=4"]
    with pytest.raises(ConfigError, match="import its module first"):
        resolve("demo_shapes", overrides)
    recipes.import_module("my_parts")
    config = resolve("demo_shapes", overrides)
    assert config.model.backbone.extra == 4  # type: ignore[attr-defined]  # of OwnBody
    (in_folder / "saved.yaml").write_text(to_yaml(config))
    assert resolve("saved.yaml") == config
