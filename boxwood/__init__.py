"""Boxwood: object detection research in PyTorch.

>>> import boxwood
>>> model = boxwood.load("runs/nuts")              # doctest: +SKIP
>>> model("photo.jpg").draw("photo.jpg").save("seen.png")  # doctest: +SKIP

Importing the package imports neither torch nor torchvision; the names below are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxwood.inference.predictor import load
    from boxwood.run_config import RunConfig
    from boxwood.structures import Batch, Categories, Detections, Sample, Target
    from boxwood.training.loop import train

__version__ = "0.1.0"
__all__ = ["Batch", "Categories", "Detections", "RunConfig", "Sample", "Target", "__version__", "load", "train"]

_HOME = {
    "load": "boxwood.inference.predictor",
    "train": "boxwood.training.loop",
    "RunConfig": "boxwood.run_config",
    **dict.fromkeys(("Batch", "Categories", "Detections", "Sample", "Target"), "boxwood.structures"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'boxwood' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
