"""A user-defined data set: a folder of JPEGs and a CSV file of boxes, read as they are, not converted to COCO first.

    file,x1,y1,x2,y2,class
    street/0001.jpg,34,50,120.5,301,person

A data set is a sequence of samples that knows its classes, sizes and truth (`boxwood.data.Dataset`); its configuration opens it:
    boxwood train examples.own_dataset:recipe data.train.annotations=boxes.csv data.train.images=photos ... --out runs/mine
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from boxwood import Categories, RunConfig, Sample
from boxwood.data import Dataset, DatasetConfig
from boxwood.data.images import read_header, read_image
from boxwood.errors import UserError
from boxwood.recipes import faster_rcnn_mobilenetv2_fpn


class CsvConfig(DatasetConfig):
    annotations: str
    images: str
    classes: tuple[str, ...] = ("person", "car")
    """Their order decides the labels; train and val must have the same."""

    def open(self) -> Dataset:
        return CsvDataset(self)


class CsvDataset:
    def __init__(self, config: CsvConfig) -> None:
        self.categories = Categories(ids=tuple(range(1, len(config.classes) + 1)), names=config.classes)
        self.folder = Path(config.images)
        self.names = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*.jpg"))
        self.sizes = [read_header(self.folder / name).oriented for name in self.names]
        boxes: dict[str, list[list[float]]] = {name: [] for name in self.names}  # an image without a line is a negative
        with open(config.annotations, newline="") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                try:
                    label = config.classes.index(row["class"])
                    boxes[row["file"]].append([float(row[key]) for key in ("x1", "y1", "x2", "y2")] + [label])
                except (KeyError, TypeError, ValueError) as error:  # a UserError is one line on the terminal: say where
                    raise UserError(f"{config.annotations}:{number}: {error!r}; correct the line or the classes") from None
        # Worker processes copy this: one tensor per image takes little memory, one object per box would take much.
        self.boxes = [torch.tensor(boxes[name]).reshape(-1, 5) for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def size(self, index: int) -> tuple[int, int]:
        return self.sizes[index]

    def __getitem__(self, index: int) -> Sample:
        image, rows = read_image(self.folder / self.names[index]), self.boxes[index]
        crowd = torch.zeros(len(rows), dtype=torch.bool)
        return Sample(image, index, self.names[index], self.sizes[index], rows[:, :4].clone(), rows[:, 4].long(), crowd)

    def to_coco(self) -> dict[str, Any]:
        """The truth that detections are compared with; AP is then what it is everywhere."""
        categories = [{"id": i, "name": name} for i, name in zip(self.categories.ids, self.categories.names)]
        coco: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": categories}
        for image, (height, width) in enumerate(self.sizes):
            coco["images"].append({"id": image, "file_name": self.names[image], "height": height, "width": width})
            for x1, y1, x2, y2, label in self.boxes[image].tolist():
                box = {"image_id": image, "category_id": int(label) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
                coco["annotations"].append({"id": len(coco["annotations"]), **box})
        return coco


def recipe() -> RunConfig:
    """Faster R-CNN for CPUs and small data, on this data set."""
    config = faster_rcnn_mobilenetv2_fpn()
    config.data.train = CsvConfig(annotations="train.csv", images="images", transforms=config.data.train.transforms)
    config.data.val = CsvConfig(annotations="val.csv", images="images", transforms=config.data.val.transforms)
    return config
