"""Keypoints (He et al., Mask R-CNN, 2017, section 5): a heatmap of every keypoint over each box.

Letters: B images, D final instances of an image, R RoIs of the batch in one row, J keypoints of an instance, S the side of a
heatmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.fields import DetectedKeypoints
from boxwood.models.detector import Network
from boxwood.models.ground_truth import padded
from boxwood.models.heads import ConvKeypointHeadConfig, KeypointHeadConfig
from boxwood.models.inference_config import KeypointViewsConfig, TTAConfig
from boxwood.models.postprocess import Instances, distinct_poses, find_keypoints
from boxwood.models.second_stage import RoISample, instance_rows
from boxwood.models.tasks.task import InstanceTask
from boxwood.ops.geometry import CONTINUOUS, Geometry
from boxwood.ops.keypoints import keypoint_targets
from boxwood.ops.losses import global_mean
from boxwood.structures import Batch, Categories, FirstSample, Target

__all__ = ["KeypointTask", "keypoint_loss"]


class KeypointTask(InstanceTask):
    """A heatmap of each keypoint, whose highest place is the keypoint."""

    short_kind: ClassVar[str] = "keypoints"
    name: ClassVar[str] = "keypoints"
    prefix: ClassVar[str] = "keypoint"
    title: ClassVar[str] = "Keypoint"

    head: KeypointHeadConfig = ConvKeypointHeadConfig()

    def check_data(self, categories: Categories, first: FirstSample, key: str) -> None:
        if categories.keypoints is None:
            raise UserError(
                f"{key}: has no keypoints that its categories name, and a keypoint head learns nothing else: annotations need "
                "'keypoints' and each category the same list 'keypoints' of their names (`boxwood data check` shows them); "
                "or take a recipe without a keypoint head, such as faster_rcnn_mobilenetv2_fpn, or set model.keypoint_head=null"
            )

    def predictors(self, channels: int, categories: Categories) -> dict[str, nn.Module]:
        if categories.keypoints is None:
            raise UserError(
                "a keypoint head learns keypoints, and this data set has none: set model.keypoint_head=null or use another data set"
            )
        layer = nn.ConvTranspose2d(channels, len(categories.keypoints.names), 4, 2, padding=1)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has a bias
        return {"keypoint_logits": layer}

    def logits(self, network: Network, features: Tensor) -> Tensor:
        """-> (R, J, S, S); the deconvolution's output is enlarged twice more."""
        coarse = network.get_submodule("keypoint_logits")(network.get_submodule("keypoint_head")(features))
        return network.geometry.enlarge(coarse)

    def loss(self, network: Network, logits: Tensor, rows: Tensor, sample: RoISample, targets: Sequence[Target]) -> Tensor:
        if any(target.keypoints is None and len(target.labels) for target in targets):
            raise UserError(
                "a keypoint head learns from keypoints, and this data set has none: set model.keypoint_head=null or use another "
                "data set"
            )
        keypoints = [logits.new_zeros(0, logits.shape[1], 3) if t.keypoints is None else t.keypoints for t in targets]
        return keypoint_loss(logits, rows, sample, keypoints, len(network.categories), network.geometry)

    def values(self, network: Network, logits: Tensor, labels: Tensor) -> Tensor:
        """The heatmaps (R, J, S, S)."""
        return logits.float()

    def decode(self, network: Network, values: Tensor, rows: Tensor, instances: Instances, batch: Batch) -> Tensor:
        """-> (R, J, 3): x, y in pixels of the network's input, and the logit of the peak."""
        scales = network.geometry.scales(batch.scaled_sizes, batch.originals)
        compiling = torch.compiler.is_compiling()
        largest = network.geometry.largest(batch.images.shape[-2:], batch.original_sizes) if compiling else None
        return find_keypoints(values, rows, instances, scales, network.geometry, largest)

    def survivors(self, network: Network, instances: Instances) -> Tensor:
        return distinct_poses(instances, network.categories, network.test)

    def to_original(self, values: Tensor, factors: Tensor) -> Tensor:
        return torch.cat([values[..., :2] * factors[:, None], values[..., 2:]], dim=-1)

    def field(self, network: Network, values: Tensor) -> DetectedKeypoints:
        facts = network.categories.keypoints
        return DetectedKeypoints(values, skeleton=() if facts is None else facts.skeleton)

    def views(self, tta: TTAConfig) -> KeypointViewsConfig:
        return tta.keypoints or KeypointViewsConfig()

    def mirrored(self, network: Network, values: Tensor) -> Tensor:
        facts = network.categories.keypoints
        assert facts is not None
        return values[:, list(facts.flip)].flip(-1)

    def merge(self, tta: TTAConfig, values: Tensor, used: Tensor) -> Tensor:
        if self.views(tta).combine == "max":
            return values.masked_fill(~used, -torch.inf).amax(dim=0)
        if self.views(tta).combine == "probability_avg":
            probabilities = values.flatten(-2).softmax(dim=-1).view_as(values)
            return super().merge(tta, probabilities, used).clamp(min=torch.finfo(values.dtype).tiny).log()
        return super().merge(tta, values, used)


def keypoint_loss(
    keypoint_logits: Tensor,
    rows: Tensor,
    sample: RoISample,
    keypoints: Sequence[Tensor],
    num_classes: int,
    geometry: Geometry = CONTINUOUS,
) -> Tensor:
    """Cross-entropy over the cells of each heatmap, averaged over the labelled keypoints inside their RoI (Mask R-CNN, section 5).

    ``keypoint_logits`` (R, J, S, S) belong to ``rows`` of the flattened sample, ``keypoints`` (n_i, J, 3) to the images.
    """
    labels = sample.labels.flatten()[rows]
    cells, inside = _targets(rows, sample, keypoints, keypoint_logits.shape[-1], geometry)
    is_target = inside & ((labels >= 0) & (labels < num_classes))[:, None]
    losses = F.cross_entropy(keypoint_logits.float().flatten(0, 1).flatten(1), cells.flatten(), reduction="none")
    return global_mean((losses * is_target.flatten()).sum(), is_target.sum())


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the number of instances is another for every batch
@torch.no_grad()
def _targets(rows: Tensor, sample: RoISample, keypoints: Sequence[Tensor], size: int, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """The cell of each keypoint (R, J) of each row's instance, and whether it is labelled and inside the RoI (R, J)."""
    instance_points = padded(keypoints)
    points = instance_points.flatten(0, 1)[instance_rows(rows, sample, instance_points.shape[1])]
    shift = geometry.keypoint_shift * sample.scales[rows // sample.boxes.shape[1]]
    points = torch.cat([points[..., :2] - shift[:, None], points[..., 2:]], dim=-1)
    return keypoint_targets(points, geometry.region(sample.boxes.flatten(0, 1)[rows]), size)
