"""From files to batches: readers, checks, transforms, the loader, and generated pictures."""

from boxwood.data.coco import CocoConfig, CocoDataset
from boxwood.data.dataset import DataConfig, Dataset, DatasetConfig
from boxwood.data.mixture import MixtureConfig, MixtureDataset
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
