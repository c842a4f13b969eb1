"""From files to batches: readers, checks, transforms, the loader, and generated pictures.

Names are imported when they are first used, so that a configuration is read without torch.
"""

from typing import TYPE_CHECKING

from boxwood.lazy import lazy_names

if TYPE_CHECKING:
    from boxwood.data.coco import CocoDataset
    from boxwood.data.config import CocoConfig, DataConfig, DatasetConfig, MixtureConfig
    from boxwood.data.dataset import Dataset
    from boxwood.data.mixture import MixtureDataset
    from boxwood.data.transforms import (
        CopyPaste,
        DrawingTransform,
        HorizontalFlip,
        Mosaic,
        RandomCrop,
        ResizeShortestEdge,
        ScaleJitter,
        Transform,
    )

__all__ = [
    "CocoConfig",
    "CocoDataset",
    "CopyPaste",
    "DataConfig",
    "Dataset",
    "DatasetConfig",
    "DrawingTransform",
    "HorizontalFlip",
    "MixtureConfig",
    "MixtureDataset",
    "Mosaic",
    "RandomCrop",
    "ResizeShortestEdge",
    "ScaleJitter",
    "Transform",
]

__getattr__ = lazy_names(
    __name__,
    {
        "coco": ("CocoDataset",),
        "config": (
            "CocoConfig",
            "DataConfig",
            "DatasetConfig",
            "MixtureConfig",
        ),
        "dataset": ("Dataset",),
        "mixture": ("MixtureDataset",),
        "transforms": (
            "CopyPaste",
            "DrawingTransform",
            "HorizontalFlip",
            "Mosaic",
            "RandomCrop",
            "ResizeShortestEdge",
            "ScaleJitter",
            "Transform",
        ),
    },
)
