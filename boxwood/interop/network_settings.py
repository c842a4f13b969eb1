"""The settings of a network that its weights do not tell: they change its results, and no shape."""

from __future__ import annotations

from typing import Any

from boxwood.config import to_tree
from boxwood.models.config import ModelConfig

__all__ = ["UNKNOWN_FROM_STATE", "differing_settings", "settings_of"]

SETTINGS = (
    *("geometry", "size_divisor", "pixel_mean", "pixel_std", "stride_in", "last_stage", "top", "aligned", "sampling_ratio"),
    *("pooling", "box_weights", "anchor_sizes", "anchor_ratios", "anchor_offset", "rounded_anchors"),
)
"""The last part of their keys."""
UNKNOWN_FROM_STATE = (
    "model.backbone.stride_in",
    "model.pixel_mean",
    "model.pixel_std",
    "model.rois.aligned",
    "model.rois.sampling_ratio",
)
"""Those that differ most often between programs."""


def settings_of(model: ModelConfig) -> dict[str, Any]:
    """The values of `SETTINGS` in a configuration, by dotted key."""
    flat: dict[str, Any] = {}

    def walk(tree: dict[str, Any], path: str) -> None:
        for key, value in tree.items():
            if isinstance(value, dict):
                walk(value, f"{path}.{key}")
            elif key in SETTINGS:
                flat[f"{path}.{key}"] = value

    walk(to_tree(model), "model")
    return flat


def differing_settings(model: ModelConfig, theirs: ModelConfig, whose: str) -> list[str]:
    """One line for each setting in which the caller's network differs from the one that the other program describes."""
    ours, others = settings_of(model), settings_of(theirs)
    return [
        f"differs: {key} = {ours[key]} of --model, and {whose} is {others[key]}"
        for key in ours
        if key in others and ours[key] != others[key]
    ]
