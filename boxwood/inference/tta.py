"""Test-time augmentation: an image goes through the network mirrored, at other scales and widened, and the outputs are merged.

    the image -> views of it -> boxes of each -> suppressed together -> in them, masks and keypoints of each view, averaged

This is Detectron's (its BBOX_AUG, MASK_AUG and KPS_AUG); Mask R-CNN's appendix B describes it. Everything is brought back to the
pixels of the original image. Letters: D instances, M the side of a mask, J keypoints.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from boxwood.data.loader import collate
from boxwood.data.transforms import HorizontalFlip, ResizeShortestEdge, Transform
from boxwood.errors import UserError
from boxwood.models import RCNN, RFCN, RetinaNet
from boxwood.models.inference_config import TestConfig, ViewsConfig
from boxwood.models.postprocess import (
    Candidates,
    Instances,
    to_detections,
    to_original,
    top_instances,
)
from boxwood.models.second_stage import class_boxes
from boxwood.models.tasks import InstanceTask
from boxwood.ops.geometry import Geometry
from boxwood.structures import Batch, Categories, Detections, Sample

__all__ = ["AugmentedDetector", "View", "augmented", "views_of"]


@dataclass(frozen=True)
class View:
    """One augmentation of an image."""

    transforms: tuple[Transform, ...]
    flipped: bool = False
    ratio: float = 1.0
    """Factor by which the image is widened before it is scaled."""
    larger: int = 0
    """1 where the image is larger than in the ordinary view, -1 where it is smaller."""


def augmented(model: nn.Module, transforms: Sequence[Transform], test: TestConfig) -> tuple[nn.Module, Sequence[Transform]]:
    """The model that applies the views of ``test.tta``, and the transforms for its images: none, since it applies them itself.
    Without ``test.tta`` both are returned unchanged."""
    if test.tta is None:
        return model, transforms
    return AugmentedDetector(model, transforms, test), ()


def views_of(config: ViewsConfig, transforms: Sequence[Transform]) -> list[View]:
    """The views of an image, the ordinary one last; ``transforms`` are those of the ordinary view.

    Raises `UserError` where other scales are requested and none of the transforms is a `ResizeShortestEdge`.
    """
    ordinary, mirror = tuple(transforms), HorizontalFlip(p=1.0)
    resizes = [place for place, transform in enumerate(ordinary) if isinstance(transform, ResizeShortestEdge)]
    if config.scales and not resizes:
        raise UserError(
            "test.tta looks at other scales, and data.val.transforms has no resize_shortest_edge that gives the ordinary"
        )
    views = [View((*ordinary, mirror), flipped=True)] if config.flip else []
    for scale in config.scales:
        place = resizes[0]
        usual = ordinary[place]
        assert isinstance(usual, ResizeShortestEdge)
        other = ResizeShortestEdge(short=(scale,), long=config.long, antialias=usual.antialias)
        scaled = (*ordinary[:place], other, *ordinary[place + 1 :])
        larger = (scale > usual.short[0]) - (scale < usual.short[0])
        views.append(View(scaled, larger=larger))
        if config.scale_flip:
            views.append(View((*scaled, mirror), flipped=True, larger=larger))
    for ratio in config.ratios:
        views.append(View(ordinary, ratio=ratio))
        if config.ratio_flip:
            views.append(View((*ordinary, mirror), flipped=True, ratio=ratio))
    return [*views, View(ordinary)]


class AugmentedDetector(nn.Module):
    """Stands for a detector in evaluation and prediction: its batches hold images as they are in their files.

    ``model`` is one of Boxwood's detectors, ``transforms`` those of the val set. Raises `UserError` for an RPN alone, and where
    ``test.tta`` averages boxes that do not come with the data.
    """

    def __init__(self, model: nn.Module, transforms: Sequence[Transform], test: TestConfig) -> None:
        super().__init__()
        assert test.tta is not None
        if not isinstance(model, RCNN | RFCN | RetinaNet):
            raise UserError(f"test.tta is for detectors with classes, not for {type(model).__name__}; set test.tta=null")
        self.model = model
        self.test, self.tta, self.transforms = test, test.tta, tuple(transforms)
        boxes = self.tta.boxes
        if boxes is not None and "union" in (boxes.scores, boxes.boxes):
            if boxes.scores != boxes.boxes:
                raise UserError("test.tta.boxes: union of the scores goes with union of the boxes; set both")
        elif boxes is not None and (isinstance(model, RetinaNet) or model.rpn is not None):
            raise UserError(
                f"test.tta.boxes: {boxes.scores} and {boxes.boxes} are for proposals that come with the data, "
                "and this model finds its own; set both to union"
            )

    @property
    def categories(self) -> Categories:
        return self.model.categories

    def forward(self, batch: Batch) -> Batch:
        """Returns ``batch``: `detections` runs the network, one image after another."""
        return batch

    def detections(self, output: Batch, batch: Batch) -> list[Detections]:
        """The instances of each image, in pixels of the original."""
        return [self._detections(sample, output.images.device) for sample in _samples(output)]

    def _detections(self, sample: Sample, device: torch.device) -> Detections:
        whole = collate([replace(sample, image=sample.image[:, :1, :1])], [0], with_targets=False).to(device)
        whole.sizes = whole.scaled_sizes = whole.originals  # so that every pixel is one of the original
        instances = self._boxes(sample, device)
        network = self.model
        if isinstance(network, RCNN):
            rows = torch.arange(instances.boxes.shape[1], device=device)
            for task in network.tasks:
                values = self._merged(network, task, sample, instances.boxes[0], instances.labels[0])
                instances.fields[task.name] = task.decode(network, values, rows, instances, whole)[None]
            for task in network.tasks:
                instances.keep(task.survivors(network, instances))
            (detections,) = network.detections_of(instances, whole)
        else:
            (detections,) = to_detections(instances, whole, self.categories, network.geometry)
        return detections

    # ---------------------------------------------------------------------------------------------------------- boxes

    def _boxes(self, sample: Sample, device: torch.device) -> Instances:
        """The final boxes (1, D, 4), in pixels of the original."""
        config, geometry = self.tta.boxes, self.model.geometry
        views = views_of(config or ViewsConfig(), self.transforms)
        if config is not None and config.scores != "union":
            instances = top_instances(self._averaged(sample, views, device), self.test, geometry)
        else:
            parts: list[Candidates] = []
            for view in views:
                batch = _batch(sample, view, device)
                candidates = self._output(batch).candidates
                assert candidates is not None
                boxes = _to_original(candidates.boxes[0], batch, view, geometry)
                possible = candidates.possible[0] & _looked_for(boxes, view, config)
                parts.append(Candidates(boxes, candidates.scores[0], candidates.labels[0], possible))
            names = ("boxes", "scores", "labels", "possible")
            union = Candidates(*(torch.cat([getattr(part, name) for part in parts])[None] for name in names))
            instances = top_instances(union, self.test, geometry)
        rows = instances.valid[0]  # what is not valid is left out here, so that no head computes it
        boxes, scores, labels = (column[0, rows][None] for column in (instances.boxes, instances.scores, instances.labels))
        return Instances(boxes, scores, labels, instances.valid[:, rows])

    def _averaged(self, sample: Sample, views: Sequence[View], device: torch.device) -> Candidates:
        """Scores and boxes of given proposals, each averaged over the views or taken from the ordinary one, which is last."""
        assert self.tta.boxes is not None and not isinstance(self.model, RetinaNet)
        scores, boxes = [], []
        for view in views:
            batch = _batch(sample, view, device)
            output, weights = self._output(batch), self.model.config.rois.box_weights
            scales = self.model.geometry.scales(batch.scaled_sizes, batch.originals)
            view_scores, view_boxes = class_boxes(
                output.proposals, output.class_logits, output.box_deltas, batch, scales, weights, self.model.geometry
            )
            scores.append(view_scores[0])
            boxes.append(_to_original(view_boxes[0].flatten(0, 1), batch, view, self.model.geometry))
        best = torch.stack(scores).mean(dim=0) if self.tta.boxes.scores == "avg" else scores[-1]
        placed = torch.stack(boxes).mean(dim=0) if self.tta.boxes.boxes == "avg" else boxes[-1]
        labels = torch.arange(best.shape[1], device=device).expand_as(best)
        large = (placed[:, 2:] - placed[:, :2]).amin(dim=1) >= self.model.geometry.smallest_detection
        possible = (best.flatten() > self.test.score_threshold) & large
        return Candidates(placed[None], best.flatten()[None], labels.flatten()[None], possible[None])

    # ----------------------------------------------------------------------------------------------------------- tasks

    def _merged(self, network: RCNN, task: InstanceTask, sample: Sample, boxes: Tensor, labels: Tensor) -> Tensor:
        """A task's values (D, ...) in boxes (D, 4) of the original with labels (D,), merged for every instance over the views that
        are for its size."""
        config = task.views(self.tta)
        values, used = [], []
        for view in views_of(config, self.transforms):
            batch = _batch(sample, view, boxes.device)
            of_view = network.task_values(task, batch, _to_view(boxes, batch, view, network.geometry), labels)
            values.append(task.mirrored(network, of_view) if view.flipped else of_view)
            used.append(_looked_for(boxes, view, config))
        stacked = torch.stack(values)
        return task.merge(self.tta, stacked, torch.stack(used).view(len(used), -1, *[1] * (stacked.dim() - 2)))

    def _output(self, batch: Batch) -> Any:
        """The output of the network for boxes alone, without the other tasks."""
        return self.model(batch, boxes_only=True) if isinstance(self.model, RCNN) else self.model(batch)


# ------------------------------------------------------------------------------------------------------------ internals


def _samples(batch: Batch) -> list[Sample]:
    """The images of a batch without padding, as readers give them."""
    nothing = torch.zeros(0, dtype=torch.int64)
    return [
        Sample(
            image=batch.images[index, :, :height, :width].cpu(),
            image_id=batch.image_ids[index],
            file_name=batch.file_names[index],
            original_size=(height, width),
            boxes=torch.zeros(0, 4),
            labels=nothing,
            crowd=nothing.bool(),
            proposals=None if batch.proposals is None else batch.proposals[index].cpu(),
        )
        for index, (height, width) in enumerate(batch.sizes.tolist())
    ]


def _batch(sample: Sample, view: View, device: torch.device) -> Batch:
    """A batch of the image in one view."""
    seen, rng = copy.copy(sample), np.random.default_rng(0)
    if view.ratio != 1.0:
        height, width = sample.size
        seen = seen.resized((height, max(1, round(width * view.ratio))))
    for transform in view.transforms:
        seen = transform(seen, rng)
    return collate([seen], [0], with_targets=False).to(device)


def _to_original(boxes: Tensor, batch: Batch, view: View, geometry: Geometry) -> Tensor:
    """Boxes (N, 4) of the geometry's second stage, in pixels of the original, unmirrored."""
    scales = geometry.scales(batch.scaled_sizes, batch.originals).to(boxes)
    in_view = geometry.rescale(boxes, scales.expand(len(boxes), 2))
    (original,) = to_original(in_view[None], batch.scaled_sizes, batch.originals, geometry)
    return _mirrored(original, batch.original_sizes[0][1]) if view.flipped else original


def _to_view(boxes: Tensor, batch: Batch, view: View, geometry: Geometry) -> Tensor:
    """Boxes (N, 4) of the original, in pixels of what the network sees."""
    boxes = _mirrored(boxes, batch.original_sizes[0][1]) if view.flipped else boxes
    scale = (batch.scaled_sizes[0] / batch.originals[0]).flip(0)
    return geometry.rescale(boxes, scale.expand(len(boxes), 2))


def _mirrored(boxes: Tensor, width: int) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=1)


def _looked_for(boxes: Tensor, view: View, config: ViewsConfig | None) -> Tensor:
    """(N,) bool: which instances a view is for, by their size."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    if config is None or config.areas is None or view.larger == 0:
        return torch.ones_like(areas, dtype=torch.bool)
    return areas >= config.areas[0] if view.larger < 0 else areas < config.areas[1]
