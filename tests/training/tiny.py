"""A detector of a few layers and images of one coloured rectangle, trained in a second; also used by subprocesses.

``TINY_SIGNAL=SIGTERM:5:0`` in the environment sends that signal to the process of that rank in its fifth forward pass of training;
``TINY_LARGE=100`` has blocks of 100 parameters sharded by themselves.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.data.config import DataConfig, DatasetConfig
from boxwood.data.dataset import Dataset
from boxwood.models.config import ModelConfig
from boxwood.models.detector import normalize_images
from boxwood.models.inference_config import TestConfig
from boxwood.ops.losses import global_mean
from boxwood.run_config import RunConfig, SGDConfig, TrainConfig
from boxwood.structures import Batch, Categories, Detections, Sample, Target
from boxwood.training import parallel

SIDE = 32
parallel.LARGE = int(os.environ.get("TINY_LARGE", parallel.LARGE))


class TinyData(DatasetConfig):
    """``count`` images of ``SIDE`` x ``SIDE`` pixels with one box each; image ids begin at 100."""

    short_kind: ClassVar[str] = "tiny"

    count: int = 8
    seed: int = 0
    ids: tuple[int, ...] = (3, 7)
    nan_box_in: int | None = None
    """The id of the image whose box is NaN."""
    without_boxes: tuple[int, ...] = ()
    """The ids of the images without boxes."""

    def open(self) -> Dataset:
        return TinyDataset(self)


class TinyDataset:
    def __init__(self, config: TinyData) -> None:
        self.config = config
        self.categories = Categories(config.ids, tuple(f"class{i}" for i in config.ids))

    def __len__(self) -> int:
        return self.config.count

    def size(self, index: int) -> tuple[int, int]:
        return SIDE, SIDE

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.config.seed, index])
        label = index % len(self.config.ids)
        x, y = rng.integers(0, SIDE // 2, 2).tolist()
        w, h = rng.integers(SIDE // 4, SIDE // 2, 2).tolist()
        image = torch.from_numpy(rng.integers(0, 40, (3, SIDE, SIDE), dtype=np.uint8))
        image[label % 3, y : y + h, x : x + w] += 200
        boxes = torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32)
        if self.config.nan_box_in == 100 + index:
            boxes = boxes * float("nan")
        count = 0 if 100 + index in self.config.without_boxes else 1
        return Sample(
            image,
            100 + index,
            f"{index}.png",
            (SIDE, SIDE),
            boxes[:count],
            torch.tensor([label])[:count],
            torch.zeros(count, dtype=torch.bool),
        )

    def to_coco(self) -> dict[str, Any]:
        annotations = []
        for index in range(len(self)):
            for box in self[index].boxes.tolist():
                x1, y1, x2, y2 = box
                annotations.append(
                    {
                        "id": index + 1,
                        "image_id": 100 + index,
                        "category_id": self.config.ids[index % len(self.config.ids)],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                    }
                )
        images = [{"id": 100 + i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE} for i in range(len(self))]
        categories = [{"id": i, "name": f"class{i}"} for i in self.config.ids]
        return {"images": images, "annotations": annotations, "categories": categories}


class TinyConfig(ModelConfig):
    short_kind: ClassVar[str] = "tiny"

    width: int = 8
    dropout: float = 0.0
    batch_norm: bool = False

    def build(self, categories: Categories, test: TestConfig) -> nn.Module:
        return TinyDetector(self, categories)


@dataclass
class TinyOutput:
    logits: Tensor
    """(images, classes + 1), the background last."""
    boxes: Tensor
    """(images, 4) x1, y1, x2, y2 in pixels; in training only of the images that have a box."""


class TinyDetector(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, config: TinyConfig, categories: Categories) -> None:
        super().__init__()
        self.config, self.categories = config, categories
        self.register_buffer("mean", torch.tensor(config.pixel_mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.pixel_std), persistent=False)
        width = config.width
        self.backbone = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width) if config.batch_norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=4, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(config.dropout),
        )
        features = width * (SIDE // 8) ** 2
        self.classify = nn.Linear(features, len(categories) + 1)
        self.locate = nn.Linear(features, 4)
        self.calls = 0

    def forward(self, batch: Batch) -> TinyOutput:
        self.calls += self.training
        name, call, rank = os.environ.get("TINY_SIGNAL", "SIGINT:-1:0").split(":")
        if self.training and self.calls == int(call) and int(rank) == int(os.environ.get("RANK", "0")):
            os.kill(os.getpid(), signal.Signals[name])
        features = self.backbone(normalize_images(batch.images, batch.sizes, self.mean, self.std))
        logits = self.classify(features)
        if batch.targets is not None:
            features = features[torch.tensor([len(target.labels) > 0 for target in batch.targets])]
        centre, size = self.locate(features).sigmoid().mul(SIDE).split(2, dim=1)
        return TinyOutput(logits, torch.cat([centre - size / 2, centre + size / 2], dim=1))

    def losses(self, output: TinyOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        background = torch.tensor([len(self.categories)])
        labels = torch.cat([torch.cat([target.labels, background])[:1] for target in targets])
        truth = torch.cat([target.boxes[:1] for target in targets])
        distance = F.l1_loss(output.boxes, truth, reduction="sum") / SIDE
        return {
            "loss_class": global_mean(F.cross_entropy(output.logits, labels, reduction="sum"), len(targets)),
            "loss_box": global_mean(distance, len(truth)),
        }

    def detections(self, output: TinyOutput, batch: Batch) -> list[Detections]:
        scores, labels = output.logits.softmax(dim=1)[:, :-1].max(dim=1)
        return [
            Detections(box[None], score[None], label[None], size, self.categories.names)
            for box, score, label, size in zip(output.boxes, scores, labels, batch.original_sizes, strict=True)
        ]


def tiny_run(**train: Any) -> RunConfig:
    """A run of 12 steps with batches of 4 of the 8 images; ``train`` changes settings of the section ``train``."""
    settings = {
        "steps": 12,
        "batch_size": 4,
        "eval_every": 0,
        "checkpoint_every": 1000,
        "log_every": 4,
        "device": "cpu",
        **train,
    }
    return RunConfig(
        model=TinyConfig(),
        data=DataConfig(train=TinyData(), val=TinyData(count=4, seed=1), workers=0),
        optim=SGDConfig(lr=0.02, warmup_steps=4),
        train=TrainConfig(**settings),
    )
