"""From files to batches: readers, checks, transforms, the loader, and generated pictures."""

from boxwood.data.coco import CocoConfig, CocoDataset
from boxwood.data.dataset import DataConfig, Dataset, DatasetConfig
from boxwood.data.transforms import HorizontalFlip, ResizeShortestEdge, Transform

__all__ = [
    "CocoConfig",
    "CocoDataset",
    "DataConfig",
    "Dataset",
    "DatasetConfig",
    "HorizontalFlip",
    "ResizeShortestEdge",
    "Transform",
]
