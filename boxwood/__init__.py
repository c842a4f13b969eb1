"""Boxwood: object detection research in PyTorch.

>>> import boxwood
>>> model = boxwood.load("runs/nuts")              # doctest: +SKIP
>>> model("photo.jpg").draw("photo.jpg").save("seen.png")  # doctest: +SKIP

Each command of the command line is one function here; docs/library.md lists them. Importing the package imports neither torch nor
torchvision: the names below, and the packages in `PACKAGES`, are imported when they are first used.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxwood import config as config
    from boxwood import data as data
    from boxwood import evaluation as evaluation
    from boxwood import inference as inference
    from boxwood import interop as interop
    from boxwood import models as models
    from boxwood import ops as ops
    from boxwood import recipes as recipes
    from boxwood import training as training
    from boxwood import weights as weights
    from boxwood import zoo as zoo
    from boxwood.data.formats.convert import convert
    from boxwood.data.quality.checks import Finding
    from boxwood.data.synthetic.bodies import write_bodies as bodies
    from boxwood.data.synthetic.shapes import write_shapes as shapes
    from boxwood.errors import UserError
    from boxwood.inference.evaluate import Evaluation, evaluate
    from boxwood.inference.predict import Prediction, iter_predictions, predict
    from boxwood.inference.predictor import Predictor, load
    from boxwood.interop.open_weights import load_model, open_weights
    from boxwood.library.benchmark import bench
    from boxwood.library.check import check, repair
    from boxwood.library.configuration import config_schema
    from boxwood.library.demo import demo
    from boxwood.library.distillation.compare import compare as distill_compare
    from boxwood.library.distillation.label import label as distill_label
    from boxwood.library.imports import import_detectron_config, import_proposals
    from boxwood.library.samples import draw_samples
    from boxwood.library.selection import select_detections
    from boxwood.library.split import Split, split
    from boxwood.library.statistics import statistics
    from boxwood.library.weights import import_weights, inspect_weights, remap_classes
    from boxwood.models.detector import Detector
    from boxwood.run_config import RunConfig
    from boxwood.structures import Batch, Categories, Detections, Sample, Target
    from boxwood.training.loop import train
    from boxwood.zoo.download import download_model

__version__ = "0.2.0"

# Threads that wait for another soon sleep: beside a busy process two threads that spin take three times as long on two cores. GNU's
# OpenMP lets them spin for a moment first, since to wake them takes longer than many an operator. It is read when torch is loaded.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}
__all__ = [
    "Batch",
    "Categories",
    "Detections",
    "Detector",
    "Evaluation",
    "Finding",
    "Prediction",
    "Predictor",
    "RunConfig",
    "Sample",
    "Split",
    "Target",
    "UserError",
    "__version__",
    "bench",
    "bodies",
    "check",
    "config_schema",
    "convert",
    "demo",
    "distill_compare",
    "distill_label",
    "download_model",
    "draw_samples",
    "evaluate",
    "import_detectron_config",
    "import_proposals",
    "import_weights",
    "inspect_weights",
    "iter_predictions",
    "load",
    "load_model",
    "open_weights",
    "predict",
    "recipe",
    "remap_classes",
    "repair",
    "select_detections",
    "shapes",
    "split",
    "statistics",
    "train",
]

PACKAGES = (
    "config",
    "data",
    "evaluation",
    "inference",
    "interop",
    "models",
    "ops",
    "recipes",
    "training",
    "weights",
    "zoo",
)
"""Packages and modules that are attributes of ``boxwood`` without being imported first: ``boxwood.recipes.names()``."""

_HOME = {  # name -> module, or module:name where it is called otherwise there
    "Detector": "boxwood.models.detector",
    "Evaluation": "boxwood.inference.evaluate",
    "Finding": "boxwood.data.quality.checks",
    "Prediction": "boxwood.inference.predict",
    "Predictor": "boxwood.inference.predictor",
    "RunConfig": "boxwood.run_config",
    "Split": "boxwood.library.split",
    "UserError": "boxwood.errors",
    **dict.fromkeys(("Batch", "Categories", "Detections", "Sample", "Target"), "boxwood.structures"),
    "bench": "boxwood.library.benchmark",
    "bodies": "boxwood.data.synthetic.bodies:write_bodies",
    "check": "boxwood.library.check",
    "config_schema": "boxwood.library.configuration",
    "convert": "boxwood.data.formats.convert",
    "demo": "boxwood.library.demo",
    "distill_compare": "boxwood.library.distillation.compare:compare",
    "distill_label": "boxwood.library.distillation.label:label",
    "download_model": "boxwood.zoo.download",
    "draw_samples": "boxwood.library.samples",
    "evaluate": "boxwood.inference.evaluate",
    "import_detectron_config": "boxwood.library.imports",
    "import_proposals": "boxwood.library.imports",
    "import_weights": "boxwood.library.weights",
    "inspect_weights": "boxwood.library.weights",
    "iter_predictions": "boxwood.inference.predict",
    "load": "boxwood.inference.predictor",
    "load_model": "boxwood.interop.open_weights",
    "open_weights": "boxwood.interop.open_weights",
    "predict": "boxwood.inference.predict",
    "remap_classes": "boxwood.library.weights",
    "repair": "boxwood.library.check",
    "select_detections": "boxwood.library.selection",
    "shapes": "boxwood.data.synthetic.shapes:write_shapes",
    "split": "boxwood.library.split",
    "statistics": "boxwood.library.statistics",
    "train": "boxwood.training.loop",
}


def recipe(name: str | Path, *overrides: str) -> RunConfig:
    """The configuration ``name``, with ``dotted.key=value`` applied.

    ``name`` is a recipe, ``module:function`` (the current folder is searched), a YAML file, or a run. Raises `UserError` where
    there is none of that name, and `boxwood.config.ConfigError` where keys or values are wrong.

    >>> import boxwood
    >>> boxwood.recipe("faster_rcnn_r50_fpn_1x", "optim.lr=0.01").optim.lr
    0.01
    """
    from boxwood.recipes import resolve

    return resolve(str(name), overrides)


def __getattr__(name: str) -> Any:
    if name in PACKAGES:
        return importlib.import_module(f"boxwood.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'boxwood' has no attribute '{name}'")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted({*__all__, *PACKAGES})
