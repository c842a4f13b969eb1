"""Recipes: functions that return a complete configuration; and `resolve`, which finds a configuration by name or file.

A user-defined recipe is such a function in any module: ``boxwood train my_work:mine``.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import boxwood
from boxwood.config import ConfigError, apply_overrides, did_you_mean, from_tree, overlay, read_yaml
from boxwood.errors import UserError
from boxwood.recipes import (
    backbones,
    c4_and_vgg,
    coco,
    demo,
    dense_pose,
    detectron,
    distillation,
    group_norm,
    interactnet,
    mask_x,
    non_local,
    small,
)
from boxwood.recipes.backbones import *
from boxwood.recipes.c4_and_vgg import *
from boxwood.recipes.coco import *
from boxwood.recipes.demo import *
from boxwood.recipes.dense_pose import *
from boxwood.recipes.distillation import *
from boxwood.recipes.group_norm import *
from boxwood.recipes.interactnet import *
from boxwood.recipes.mask_x import *
from boxwood.recipes.non_local import *
from boxwood.recipes.small import *
from boxwood.run_config import RunConfig

MODULES = (coco, backbones, c4_and_vgg, group_norm, non_local, mask_x, dense_pose, interactnet, small, demo, distillation)
"""The docstring of each says what its recipes have in common."""

RECIPES: tuple[Callable[[], RunConfig], ...] = tuple(getattr(module, name) for module in MODULES for name in module.__all__)

__all__ = ["describe", "import_module", "names", "override", "resolve", *(recipe.__name__ for recipe in RECIPES)]


def names() -> tuple[str, ...]:
    """The names of the recipes that come with Boxwood: those of `RECIPES`, then Detectron's.

    >>> "mask_rcnn_r50_fpn_1x" in names(), "detectron/e2e_mask_rcnn_R-50-FPN_1x" in names()
    (True, True)
    """
    return (*(recipe.__name__ for recipe in RECIPES), *detectron.BASELINES)


def describe(name: str) -> str:
    """The description of the recipe ``name``, with its published results.

    >>> describe("rfcn_r50")
    'R-FCN, ResNet-50 with res5 dilated, online hard example mining, 120,000 steps of 8 images. No AP on COCO is published.'
    """
    if name in detectron.BASELINES:
        return detectron.describe(name)
    recipe = next(recipe for recipe in RECIPES if recipe.__name__ == name)
    return " ".join((recipe.__doc__ or "").split("\n\n")[0].split())


def resolve(config: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration that ``config`` names, with the ``dotted.key=value`` overrides applied.

    ``config`` is the name of a recipe, ``module:function`` (the current folder is searched), a YAML file, or a run's directory. A
    YAML file holds all keys, or only those that differ from its ``base``: a recipe, module:function, or another file, named
    relative to it. Raises `UserError` where the name or file does not exist, `ConfigError` where keys or values are wrong.

    ``data=FOLDER``, or ``data: FOLDER`` in a YAML file, takes the data sets that lie in a folder or file (`boxwood.data.layouts`).

    >>> resolve("faster_rcnn_r50_fpn_1x", ["optim.lr=0.01"]).optim.lr
    0.01
    """
    return override(_find(config, ()), overrides)


def override(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """A copy of ``config`` with the overrides of `resolve` applied. Raises as `resolve`."""
    return apply_overrides(*_with_other_data(config, overrides))


def import_module(name: str) -> ModuleType:
    """Import a user's module, also from the current folder. Raises `UserError` where there is no module of this name."""
    if (folder := os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module exists, and imports another that does not
        hint = f"; write {name.removesuffix('.py')!r}" if name.endswith(".py") else ""
        raise UserError(f"no module {name!r} in {folder} or among the installed packages{hint}") from None
    except (ValueError, TypeError):
        raise UserError(f"{name!r} is no module's name; write it as in a Python import, such as my_work") from None


def _find(config: str, above: tuple[Path, ...]) -> RunConfig:
    """The configuration of a recipe, function, file or run; ``above`` are the files whose base it is."""
    for recipe in RECIPES:
        if config == recipe.__name__:
            return recipe()
    if config in detectron.BASELINES:
        return detectron.build(config)
    path = Path(config)
    if path.suffix in {".yaml", ".yml"}:
        return _read(path, above)
    if path.is_dir():
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path}: is a folder without config.yaml, so it is no run; name a run or a recipe{_as_data(path)}")
        return _read(path / "config.yaml", above)
    module, colon, function = config.partition(":")
    if colon:
        return _call(module, function)
    hint = _as_data(path) if path.is_file() else did_you_mean(config, names())
    raise UserError(f"unknown recipe {config!r}{hint}; boxwood config list shows all, and module:function and file.yaml work too")


def _with_other_data(config: RunConfig, overrides: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """The configuration after ``data=FOLDER``, whatever the place of that override, and the others. A set whose annotations are
    overridden is read whole, where it was a part of the images of others."""
    values = dict(text.split("=", 1) for text in overrides if "=" in text)
    if not values.get("data", "{").startswith("{"):
        config = _with_data(config, values["data"])
        overrides = [text for text in overrides if not text.startswith("data=")]
    sets = [name for name in ("train", "val") if getattr(getattr(config.data, name), "holdout", None)]
    whole = [name for name in sets if f"data.{name}.annotations" in values and f"data.{name}.holdout" not in values]
    return config, [*overrides, *(f"data.{name}.holdout=null" for name in whole)]


def _with_data(config: RunConfig, source: str) -> RunConfig:
    from boxwood.data.layouts import data_from  # it reads all formats, which most configurations do not need

    config = config.model_copy(deep=True)
    config.data = data_from(source, config.data)
    return config


def _read(path: Path, above: tuple[Path, ...]) -> RunConfig:
    if path.resolve() in above:
        raise UserError(f"{path}: is its own base, by way of {above[-1]}; remove this circle")
    tree, lines = read_yaml(path)
    if "base" not in tree:
        if tree.keys() & {"names", "nc"} and not tree.keys() & {"model", "data"}:
            raise UserError(f"{path}: is YOLO's and no configuration; name a run or a recipe{_as_data(path)}")
        if isinstance(source := tree.get("data"), str):
            raise UserError(f"{path}:{lines['data']}: data: {source} needs a base, whose transforms it takes; add base: RECIPE")
        return from_tree(RunConfig, tree, str(path), lines)
    base, line = tree.pop("base"), lines.pop("base")
    if not isinstance(base, str):
        raise UserError(f"{path}:{line}: base should be the name of a recipe or of a file, got {base!r}")
    beside = path.parent / base
    try:
        config = _find(str(beside) if beside.exists() or beside.suffix in {".yaml", ".yml"} else base, (*above, path.resolve()))
    except ConfigError:
        raise  # it names the file and lines of the base
    except UserError as error:
        raise UserError(f"{path}:{line}: base: {error}") from None
    if isinstance(tree.get("data"), str):
        config = _with_data(config, tree.pop("data"))
    return overlay(config, tree, str(path), lines)


def _as_data(path: Path) -> str:
    """The end of a message: how a path that is no configuration is given as data."""
    return f" ({path} may be data: faster_rcnn_mobilenetv2_fpn data={path})"


def _call(module: str, function: str) -> RunConfig:
    """Call a user's recipe. Errors in its configuration name the line of the recipe."""
    imported = import_module(module)
    recipe = getattr(imported, function, None)
    if not callable(recipe):
        hint = did_you_mean(
            function, [name for name, value in vars(imported).items() if callable(value) and not name.startswith("_")]
        )
        raise UserError(f"{imported.__file__}: has no function {function!r}{hint}")
    try:
        config = recipe()
    except ConfigError as error:
        ours = str(Path(boxwood.__file__).parent)
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
        place = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
        raise ConfigError([place + problem for problem in error.problems]) from None
    if not isinstance(config, RunConfig):
        raise UserError(f"{imported.__file__}: {function}() should return a RunConfig, got {type(config).__name__}")
    return config
