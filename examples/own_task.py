"""A user-defined task: points of an instance with two values each, which a mirror image changes (boxwood train own_task:points)."""

from types import SimpleNamespace
from typing import Any

import torch
from PIL import ImageDraw

from boxwood.data import Transform
from boxwood.evaluation.measures import EvaluatorConfig
from boxwood.fields import Affine, TensorField
from boxwood.models.ground_truth import padded
from boxwood.models.heads import ConvMaskHeadConfig, MaskHeadConfig
from boxwood.models.second_stage import instance_rows
from boxwood.models.tasks import InstanceTask
from boxwood.recipes import demo_shapes

PLACES = torch.tensor([(0.2, 0.3), (0.7, 0.4), (0.4, 0.8)])


class Points(TensorField):  # of the truth, (N, P, 4): x, y in pixels of the image, and the two values
    def transformed(self, affine: Affine) -> "Points":
        places, (u, v) = affine.points(self.values[..., :2]), self.values[..., 2:].unbind(-1)
        return Points(torch.cat([places, torch.stack([1 - u if affine.mirrors else u, v], dim=-1)], dim=-1))


class AddPoints(Transform):  # the reader of a data set that has such points would do this
    def __call__(self, sample: Any, rng: Any) -> Any:
        places = torch.lerp(*sample.boxes[:, None].chunk(2, dim=-1), PLACES)
        sample.fields = {**sample.fields, "points": Points(torch.cat([places, PLACES.expand_as(places)], dim=-1))}
        return sample


class ValueMaps(TensorField):  # of the detections, (N, 2, M, M) over their boxes
    def at(self, places: torch.Tensor) -> torch.Tensor:  # (N or 1, P, 2) 0..1 in the box -> (N, P, 2)
        grid = 2 * places[:, None].expand(len(self), 1, -1, -1) - 1
        return torch.nn.functional.grid_sample(self.values, grid, align_corners=False)[:, :, 0].mT

    def records(self, boxes: Any, size: Any) -> Any:  # in predictions.json
        return [{"values": values} for values in self.at(PLACES[None].to(self.values)).tolist()]

    def draw(self, picture: Any, row: int, box: Any, color: Any, line: int) -> None:
        (x1, y1, x2, y2), (u, v) = box, self.at(PLACES[None])[row, 0].tolist()
        ImageDraw.Draw(picture).line([(x1, y1), (x1 + u * (x2 - x1), y1 + v * (y2 - y1))], color, line)


class PointTask(InstanceTask):
    name, prefix, field_class = "points", "point", ValueMaps
    head: MaskHeadConfig = ConvMaskHeadConfig(convs=1, width=32)

    def predictors(self, channels: int, categories: Any) -> dict[str, torch.nn.Module]:
        return {"point_maps": torch.nn.Conv2d(channels, 2, 1)}

    def logits(self, network: Any, features: torch.Tensor) -> torch.Tensor:
        return network.point_maps(network.point_head(features)).float().sigmoid()

    def loss(self, network: Any, logits: torch.Tensor, rows: torch.Tensor, sample: Any, targets: Any) -> torch.Tensor:
        points, labels = padded([target.fields["points"].values for target in targets]), sample.labels.flatten()[rows]
        points, boxes = points.flatten(0, 1)[instance_rows(rows, sample, points.shape[1])], sample.boxes.flatten(0, 1)[rows]
        places = (points[..., :2] - boxes[:, None, :2]) / (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)[:, None]
        errors = (ValueMaps(logits).at(places) - points[..., 2:]).abs().mean(dim=(1, 2))
        return (errors * ((labels >= 0) & (labels < len(network.categories)))).sum() / max(len(rows), 1)


class Accuracy(EvaluatorConfig):  # 1 less the mean error of the values at the points of all detections
    def build(self, truth: Any, categories: Any, **limits: Any) -> Any:
        errors: list[torch.Tensor] = []
        return SimpleNamespace(
            add=lambda image_id, result: errors.append((result.fields["points"].at(PLACES[None]) - PLACES).abs().flatten()),
            gather=lambda: None,
            compute=lambda: {"points": {"accuracy": 1 - float(torch.cat(errors).mean())}},
        )


def points() -> Any:
    run = demo_shapes()
    run.model.tasks, run.evaluator = (PointTask(),), Accuracy()
    for part in (run.data.train, run.data.val):
        part.transforms = (*part.transforms[:1], AddPoints(), *part.transforms[1:])
    return run
