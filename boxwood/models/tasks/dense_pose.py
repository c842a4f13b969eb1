"""DensePose R-CNN (Güler, Neverova and Kokkinos, 2018): the point of the body's surface that each pixel of a person shows.

    pyramid -> Decoder -> features of RoIs -> head -> DensePosePredictor -> maps (R, M, S / 2, S / 2)
        coarse parts, parts, and U and V of every part (`boxwood.models.heads.dense_pose.channels_of`)
    training:  -> the values at annotated points, and the coarse parts (R, S, S) -> losses
    inference: -> whole_maps (R, M, S, S) -> DetectedDensePose

Parts, U and V are learnt at annotated points, the coarse parts at every cell. The rules are detectron2's.
Letters: B images, R RoIs of the batch in one row, P points of an instance, M channels of all maps, S cells a side of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.dense_pose import DensePose, DetectedDensePose, filled, read_symmetry
from boxwood.errors import UserError
from boxwood.fields import field_of
from boxwood.models.detector import Network
from boxwood.models.ground_truth import padded
from boxwood.models.heads.dense_pose import Decoder, DensePosePredictor, channels_of, confidence, split_maps, whole_maps
from boxwood.models.heads.dense_pose_config import ConvDensePoseHeadConfig, DensePoseHeadConfig
from boxwood.models.inference_config import DensePoseViewsConfig, TTAConfig
from boxwood.models.second_stage import RoISample, instance_rows
from boxwood.models.tasks.task import InstanceTask
from boxwood.ops.boxes import area
from boxwood.ops.dense_pose import (
    BOX_SIDE,
    Cells,
    cells_of,
    coarse_targets,
    isotropic_loss,
    oriented_loss,
    read_corners,
    weighted_corners,
)
from boxwood.ops.geometry import CONTINUOUS, Geometry
from boxwood.ops.losses import global_mean, smooth_l1
from boxwood.ops.masks import mask_targets
from boxwood.structures import Categories, FirstSample, Target

__all__ = ["DensePoseTask", "dense_pose_losses"]

LEAST_OVERLAP = 0.7
"""A RoI learns dense pose where it overlaps its instance by more than this (IoU)."""
REFERENCE_IMAGES = 2
"""The losses of U and V are sums over a GPU's images in detectron2, whose recipes have two on each."""


class DensePoseTask(InstanceTask):
    """Maps of coarse parts, parts, U and V over each box."""

    short_kind: ClassVar[str] = "dense_pose"
    name: ClassVar[str] = "dense_pose"
    prefix: ClassVar[str] = "dense_pose"
    title: ClassVar[str] = "DensePose"

    head: DensePoseHeadConfig = ConvDensePoseHeadConfig()

    def check_data(self, categories: Categories, first: FirstSample, key: str) -> None:
        sample = first()
        field = None if sample is None else field_of(sample.fields, self.name, DensePose)
        if sample is not None and field is None:
            raise UserError(
                f"{key}: has no dense pose, and a DensePose head learns nothing else: annotations need dp_x, dp_y, dp_I, dp_U and "
                "dp_V as those of DensePose-COCO have, which are not for commercial use (boxwood data shapes --surface writes a "
                "set that is yours); or set model.dense_pose_head=null"
            )
        most = 0 if field is None or not field.points.numel() else int(field.points[..., 2].max())
        if most > self.head.parts:
            raise UserError(f"{key}: has part {most}, and model.dense_pose_head.parts is {self.head.parts}; set it to 24")

    def predictors(self, channels: int, categories: Categories) -> dict[str, nn.Module]:
        return {"dense_pose_maps": DensePosePredictor(self.head, channels)}

    def modules(self, network: Network, channels: int) -> dict[str, nn.Module]:
        modules = self.predictors(channels, network.categories)
        if not self.head.decoder:
            return modules
        fpn = network.get_submodule("fpn")
        if len(fpn.backbone_strides) < 2:  # type: ignore[arg-type]  # an FPN's strides
            raise UserError(
                "model.dense_pose_head.decoder=true: joins the levels of a pyramid, and model.fpn is null; set it to false"
            )
        return {"dense_pose_decoder": Decoder(fpn.channels, fpn.backbone_strides), **modules}  # type: ignore[arg-type]

    def logits(self, network: Network, features: Tensor) -> Tensor:
        """-> (R, M, S / 2, S / 2): the loss reads few cells of the larger maps."""
        hidden = network.get_submodule("dense_pose_head")(features)
        maps: Tensor = network.get_submodule("dense_pose_maps")(hidden)
        return maps

    def values(self, network: Network, logits: Tensor, labels: Tensor) -> Tensor:
        """-> (R, M, S, S)."""
        return whole_maps(logits.float(), self.head, network.geometry)

    def learns(self, network: Network, sample: RoISample, targets: Sequence[Target]) -> Tensor:
        rows = torch.arange(sample.valid.numel(), device=sample.valid.device)
        with_all = self.head.coarse_from_masks
        learns: Tensor = _learns(rows, sample, targets, len(network.categories), network.geometry, with_all=with_all)
        return learns.view_as(sample.valid)

    def loss(
        self, network: Network, logits: Tensor, rows: Tensor, sample: RoISample, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """``loss_dense_pose_coarse``, ``_fine``, ``_u`` and ``_v``; with predicted confidence of both ``_uv``."""
        losses = dense_pose_losses(logits, rows, sample, targets, self.head, len(network.categories), network.geometry)
        return {f"loss_dense_pose_{name}": loss for name, loss in losses.items()}

    def field(self, network: Network, values: Tensor) -> DetectedDensePose:
        return DetectedDensePose(values, self.head.coarse, self.head.parts)

    def views(self, tta: TTAConfig) -> DensePoseViewsConfig:
        return tta.dense_pose or DensePoseViewsConfig()

    def mirrored(self, network: Network, values: Tensor) -> Tensor:
        views = DensePoseViewsConfig() if network.test.tta is None else self.views(network.test.tta)
        if views.symmetry is None:
            raise UserError(
                "test.tta.dense_pose: a mirror image shows other U and V, which a table of the body model tells; set "
                "test.tta.dense_pose.symmetry to UV_symmetry_transforms.mat (https://dl.fbaipublicfiles.com/densepose/data/, not "
                "for commercial use), or flip and scale_flip to false"
            )
        if self.head.parts != 24:
            raise UserError(
                "test.tta.dense_pose: mirror images are for the 24 parts of DensePose; set flip and scale_flip to false"
            )
        kinds = split_maps(values, self.head)
        first = [kinds.pop(name) for name in ("coarse", "fine", "u", "v")]
        mirrored = read_symmetry(views.symmetry).maps(*first)
        return torch.cat([*mirrored, *(maps.flip(-1) for maps in kinds.values())], dim=1)


@dataclass(slots=True)
class _Points:
    """The annotated points of each RoI's instance."""

    cells: Cells
    learns: Tensor
    """(R, P) bool: the points inside a RoI that learns."""
    parts: Tensor
    """(R, P) int64, 0 where there is none."""
    u: Tensor
    v: Tensor


def dense_pose_losses(
    maps: Tensor,
    rows: Tensor,
    sample: RoISample,
    targets: Sequence[Target],
    head: DensePoseHeadConfig,
    num_classes: int,
    geometry: Geometry = CONTINUOUS,
) -> dict[str, Tensor]:
    """The weighted losses of the predictor's ``maps`` (R, M, S / 2, S / 2), which belong to ``rows`` of the flattened sample:
    coarse, fine, and u and v or uv.

    RoIs learn that overlap an instance with dense pose by more than 0.7. Coarse: cross-entropy, mean over the cells of RoIs whose
    instance has coarse parts; fine: the same of the parts, mean over points. U and V: a sum over the points of two images.
    """
    coarse, others = torch.split(maps.float(), [head.coarse, maps.shape[1] - head.coarse], dim=1)
    coarse = geometry.enlarge(coarse)
    if head.segmentation_confidence:
        coarse = coarse * confidence(geometry.enlarge(others[:, -1:]))
    size = coarse.shape[-1]
    points, coarse_parts, has_coarse = _targets(rows, sample, targets, head, size, num_classes, geometry)
    at = _at_points(others, points.cells, size, head, geometry)
    fine = F.cross_entropy(at["fine"], points.parts.clamp(max=head.parts), reduction="none")
    cells = F.cross_entropy(coarse, coarse_parts, reduction="none")
    learns = points.learns.float()
    losses = {
        "coarse": head.coarse_weight * global_mean((cells * has_coarse[:, None, None]).sum(), has_coarse.sum() * size**2),
        "fine": head.fine_weight * global_mean((fine * learns).sum(), learns.sum()),
    }
    return losses | _uv_losses(at, points, head, sample.boxes.shape[0])


def _at_points(maps: Tensor, cells: Cells, size: int, head: DensePoseHeadConfig, geometry: Geometry) -> dict[str, Tensor]:
    """The maps behind the coarse parts, by name, read at the points: each (R, channels, P)."""
    channels = channels_of(head)
    channels.pop("coarse")
    corners = torch.split(read_corners(maps, cells, size, geometry.beyond), list(channels.values()), dim=1)
    kinds = dict(zip(channels, corners, strict=True))
    if head.segmentation_confidence:
        kinds["fine"] = kinds["fine"] * confidence(kinds["fine_confidence"])
    return {name: weighted_corners(values, cells) for name, values in kinds.items()}


def _uv_losses(at: dict[str, Tensor], points: _Points, head: DensePoseHeadConfig, images: int) -> dict[str, Tensor]:
    """``u`` and ``v``, or ``uv``, of the points on the body; ``at`` as of `_at_points`."""
    learns = points.learns & (points.parts > 0)
    channel = points.parts.clamp(0, head.parts)[:, None]
    own = {name: values.gather(1, channel)[:, 0] for name, values in at.items() if values.shape[1] == head.parts + 1}

    def total(values: Tensor) -> Tensor:
        return head.uv_weight * REFERENCE_IMAGES * global_mean((values * learns).sum(), images)

    if head.confidence is None:
        return {name: total(smooth_l1(own[name], truth, 1.0)) for name, truth in (("u", points.u), ("v", points.v))}
    du, dv = points.u - own["u"], points.v - own["v"]
    if head.confidence == "iid_iso":
        return {"uv": total(isotropic_loss(du, dv, own["sigma"]))}
    return {"uv": total(oriented_loss(du, dv, own["sigma"], own["kappa_u"], own["kappa_v"]))}


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the number of instances and points is another for every batch
@torch.no_grad()
def _targets(
    rows: Tensor,
    sample: RoISample,
    targets: Sequence[Target],
    head: DensePoseHeadConfig,
    size: int,
    num_classes: int,
    geometry: Geometry,
) -> tuple[_Points, Tensor, Tensor]:
    """The points of each row, the coarse part of each of its cells (R, S, S) int64, and (R,) bool: whether it learns these."""
    fields = _fields(targets)
    most = max(field.points.shape[1] for field in fields)
    annotated, segmented = (padded([getattr(field, name) for field in fields]) for name in ("annotated", "segmented"))
    instances = instance_rows(rows, sample, annotated.shape[1])
    shown = geometry.from_data(padded([field.boxes for field in fields]), sample.scales[:, None])
    shown = geometry.region(shown).flatten(0, 1)
    close = _close(rows, instances, sample, targets, num_classes, geometry)
    regions = geometry.region(sample.boxes.flatten(0, 1)[rows])

    values = padded([filled(field.points, most) for field in fields]).flatten(0, 1)[instances]
    frame = shown[instances][:, None]
    places = frame[..., :2] + values[..., :2] * (frame[..., 2:] - frame[..., :2]) / BOX_SIDE
    cells = cells_of(places, regions, size)
    parts = values[..., 2].long()
    learns = cells.inside & (parts >= 0) & (close & annotated.flatten()[instances])[:, None]
    points = _Points(cells, learns, parts.clamp(min=0), values[..., 3], values[..., 4])
    if head.coarse_from_masks:
        coarse, has_mask = _coarse_from_masks(targets, regions, instances, size)
        return points, coarse, close & has_mask
    segmentation = padded([field.segmentation for field in fields]).flatten(0, 1)
    coarse = coarse_targets(segmentation, shown, regions, instances, size)
    coarse = coarse.clamp(max=1) if head.coarse == 2 else coarse
    return points, coarse, close & (annotated & segmented).flatten()[instances]


@torch.compiler.disable  # type: ignore[untyped-decorator]  # as `_targets`
@torch.no_grad()
def _learns(
    rows: Tensor, sample: RoISample, targets: Sequence[Target], num_classes: int, geometry: Geometry, *, with_all: bool
) -> Tensor:
    """(R,) bool: the rows close to their instance, ``with_all`` also those of instances without dense pose."""
    annotated = padded([field.annotated for field in _fields(targets)])
    instances = instance_rows(rows, sample, annotated.shape[1])
    close = _close(rows, instances, sample, targets, num_classes, geometry)
    return close if with_all else close & annotated.flatten()[instances]


def _close(
    rows: Tensor, instances: Tensor, sample: RoISample, targets: Sequence[Target], num_classes: int, geometry: Geometry
) -> Tensor:
    """(R,) bool: the positives that overlap their instance by more than `LEAST_OVERLAP`."""
    boxes = geometry.from_data(padded([target.boxes for target in targets]), sample.scales[:, None]).flatten(0, 1)
    rois, labels = sample.boxes.flatten(0, 1)[rows], sample.labels.flatten()[rows]
    return (labels >= 0) & (labels < num_classes) & (_overlaps(rois, boxes[instances]) > LEAST_OVERLAP)


def _coarse_from_masks(targets: Sequence[Target], regions: Tensor, instances: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Body or background of each cell (R, S, S) int64 from the instances' masks, and (R,) bool: whether there is a mask."""
    masks = [target.masks for target in targets]
    if any(mask is None for mask in masks):
        raise UserError("model.dense_pose_head.coarse_from_masks=true: the data set has no masks (segmentation); set it to false")
    bitmaps = padded([mask.bitmaps for mask in masks if mask is not None]).flatten(0, 1)
    boxes = padded([mask.boxes for mask in masks if mask is not None]).flatten(0, 1)
    covered = mask_targets(bitmaps, boxes, regions, instances, size)
    return (covered >= 0.5).long(), (bitmaps.flatten(1).amax(dim=1) > 0)[instances]


def _fields(targets: Sequence[Target]) -> list[DensePose]:
    return [field_of(target.fields, "dense_pose", DensePose) or _nothing(target) for target in targets]


def _nothing(target: Target) -> DensePose:
    """The field of an image without dense pose."""
    number, none = len(target.labels), torch.zeros_like(target.labels, dtype=torch.bool)
    segmentation = none.new_zeros(number, BOX_SIDE, BOX_SIDE, dtype=torch.uint8)
    return DensePose(target.boxes.new_zeros(number, 0, 5), target.boxes, segmentation, none, none)


def _overlaps(a: Tensor, b: Tensor) -> Tensor:
    """IoU (R,) of each box with its partner."""
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
    return shared / (area(a) + area(b) - shared).clamp(min=torch.finfo(a.dtype).tiny)
