"""Human-object interactions (Gkioxari, Girshick, Dollar and He, Detecting and Recognizing Human-Object Interactions, 2018).

    features of a RoI -> human-centric head -> what a human there does (A logits), and where the object of each action is (4A)
                      -> pair head -> of which actions it is the object (A logits)

At test time each final box passes the heads once; then every human and action gets the object that fits best, by what both say and
by how well it lies where the human's action has its objects (`boxwood.ops.interactions`).
Letters: B images, D final instances of an image, R RoIs of the batch in one row, A actions, T annotated pairs of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.fields import field_of
from boxwood.interactions import DetectedInteractions, InteractionFacts, Interactions
from boxwood.models.detector import Network
from boxwood.models.ground_truth import padded
from boxwood.models.heads import InteractionHeadConfig
from boxwood.models.inference_config import TTAConfig, ViewsConfig
from boxwood.models.postprocess import Instances
from boxwood.models.second_stage import RoISample, scatter_rows
from boxwood.models.tasks.task import InstanceTask
from boxwood.ops.boxes import encode
from boxwood.ops.interactions import best_triples, log_density, relative_boxes
from boxwood.ops.losses import global_mean, smooth_l1
from boxwood.structures import Batch, Categories, FirstSample, Target

__all__ = ["InteractionTask"]


class InteractionTask(InstanceTask):
    """What humans do, and with which of the detected objects."""

    short_kind: ClassVar[str] = "interactions"
    name: ClassVar[str] = "interactions"
    prefix: ClassVar[str] = "interaction"
    title: ClassVar[str] = "InteractNet"

    head: InteractionHeadConfig = InteractionHeadConfig()

    def check_data(self, categories: Categories, first: FirstSample, key: str) -> None:
        try:
            self._facts(categories)
        except UserError as error:
            raise UserError(f"{key}: {error}") from None

    def _facts(self, categories: Categories) -> InteractionFacts:
        """The verbs of a data set. Raises `UserError` where it has none, or no class of humans."""
        if categories.interactions is None:
            raise UserError(
                "has no human-object interactions ('verbs' in the annotation file), which InteractNet learns; make such a file "
                "with boxwood data convert --from vcoco or --from hico, or set model.interaction_head=null"
            )
        if self.head.human not in categories.names:
            raise UserError(
                f"has no class '{self.head.human}', whose instances do something; set model.interaction_head.human to one of "
                f"{', '.join(categories.names[:8])}"
            )
        return categories.interactions

    def predictors(self, channels: int, categories: Categories) -> dict[str, nn.Module]:
        count = len(self._facts(categories).actions)
        modules: dict[str, nn.Module] = {"interaction_actions": _linear(channels, count, 0.01)}
        return modules | ({"interaction_targets": _linear(channels, 4 * count, 0.001)} if self.head.density else {})

    def modules(self, network: Network, channels: int) -> dict[str, nn.Module]:
        modules = self.predictors(channels, network.categories)
        modules["interaction_tables"] = _Tables(self._facts(network.categories), network.categories)
        if self.head.interaction_branch:
            count = len(self._facts(network.categories).actions)
            pair_head, _ = cast(Any, network).build_head("interaction_pair_head", self.head)  # an R-CNN's
            modules |= {"interaction_pair_head": pair_head, "interaction_pair_objects": _linear(channels, count, 0.01)}
            modules |= {} if self.head.share_human_logits else {"interaction_pair_humans": _linear(channels, count, 0.01)}
        return modules

    def logits(self, network: Network, features: Tensor) -> Tensor:
        """-> (R, L): what `_parts` takes apart."""
        hidden = network.get_submodule("interaction_head")(features)
        columns = [network.get_submodule("interaction_actions")(hidden)]
        columns += [network.get_submodule("interaction_targets")(hidden)] if self.head.density else []
        if self.head.interaction_branch:
            hidden = network.get_submodule("interaction_pair_head")(features)
            names = ["interaction_pair_objects", *([] if self.head.share_human_logits else ["interaction_pair_humans"])]
            columns += [network.get_submodule(name)(hidden) for name in names]
        return torch.cat(columns, dim=1).float()

    def _parts(self, network: Network, logits: Tensor) -> _Logits:
        count = len(self._facts(network.categories).actions)
        sizes = [count, *([4 * count] if self.head.density else []), *([count] if self.head.interaction_branch else [])]
        sizes += [count] if self.head.interaction_branch and not self.head.share_human_logits else []
        parts = list(torch.split(logits, sizes, dim=-1))
        actions = parts.pop(0)
        means = torch.unflatten(parts.pop(0), -1, (count, 4)) if self.head.density else None
        objects = parts.pop(0) if self.head.interaction_branch else None
        return _Logits(actions, means, objects, parts.pop(0) if parts else actions)

    # ---------------------------------------------------------------------------------------------------------- training

    def loss(
        self, network: Network, logits: Tensor, rows: Tensor, sample: RoISample, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """``loss_interaction_action`` and ``loss_interaction_pair``, binary cross-entropies averaged over RoIs or pairs and
        actions, and ``loss_interaction_target``, smooth L1 of the places, summed over the four numbers and averaged over the pairs.

        Only humans whose actions are known teach actions; only pairs of RoIs whose instances are an annotated pair teach the
        interaction branch, and of these all actions with an object, those of the pair as right and the others as wrong.
        """
        facts = self._facts(network.categories)
        parts, truth = self._parts(network, logits), _Truth.of(targets)
        images, instances = rows // sample.boxes.shape[1], sample.instances.flatten()[rows]
        labels = sample.labels.flatten()[rows]
        positive = (labels >= 0) & (labels < len(network.categories))
        humans = _first_of_image(positive & truth.known[images, instances], images, self.head.humans_per_image)
        same_image = images[:, None] == truth.images
        does = humans[:, None] & same_image & (instances[:, None] == truth.humans)
        done_to = positive[:, None] & same_image & (instances[:, None] == truth.objects)
        actions = F.one_hot(truth.actions, len(facts.actions)).float()
        right = (does.float() @ actions).clamp(max=1)
        action_losses = _entropy(parts.actions, right) * humans[:, None]
        action_loss = global_mean(action_losses.sum(), humans.sum() * right.shape[1])
        losses = {"loss_interaction_action": self.head.action_weight * action_loss}
        if parts.means is not None:
            boxes = network.geometry.from_data(truth.boxes, sample.scales[truth.images])
            rois = sample.boxes.flatten(0, 1)[rows]
            places = does & (truth.objects >= 0)
            with torch.no_grad():
                shape = (*does.shape, 4)
                relative = encode(boxes[None].expand(shape), rois[:, None].expand(shape))
                relative = torch.where(places[..., None], relative, 0.0)
            errors = smooth_l1(parts.means[:, truth.actions], relative, 1.0).sum(dim=-1) * places
            losses["loss_interaction_target"] = global_mean(errors.sum(), places.sum())
        if parts.objects is not None:
            of_pair = torch.einsum("rt,qt,ta->rqa", does.float(), done_to.float(), actions).clamp(max=1)
            has_object = cast(Tensor, network.get_submodule("interaction_tables").has_object)
            pairs = of_pair.any(dim=-1)
            pair_losses = _entropy(parts.humans[:, None] + parts.objects[None], of_pair) * (pairs[..., None] & has_object)
            losses["loss_interaction_pair"] = global_mean(pair_losses.sum(), pairs.sum() * has_object.sum())
        return losses

    # --------------------------------------------------------------------------------------------------------- inference

    def decode(self, network: Network, values: Tensor, rows: Tensor, instances: Instances, batch: Batch) -> Tensor:
        """-> (R, A, 9) as `boxwood.interactions.DetectedInteractions` has them, in pixels of the network's input."""
        tables = cast(_Tables, network.get_submodule("interaction_tables"))
        num_images, most = instances.valid.shape
        parts = self._parts(network, scatter_rows(values, rows, instances.valid.shape))
        humans = instances.valid & (instances.labels == network.categories.names.index(self.head.human))
        others = ~torch.eye(most, dtype=torch.bool, device=values.device)
        allowed = (humans[:, :, None] & instances.valid[:, None] & others)[..., None]
        allowed = allowed & tables.classes[instances.labels][:, None]
        density = None
        if parts.means is not None:
            density = log_density(relative_boxes(instances.boxes, instances.boxes), parts.means, self.head.sigma)
        pair_logits = None if parts.objects is None else parts.humans[:, :, None] + parts.objects[:, None]
        scores = torch.where(instances.valid, instances.scores, 0.0)
        found = best_triples(scores * humans, scores, parts.actions, allowed, density=density, pair_logits=pair_logits)
        image = torch.arange(num_images, device=values.device)[:, None, None]
        exists = found.exists[..., None]
        objects = torch.cat(
            [instances.boxes[image, found.objects], scores[image, found.objects][..., None]], dim=-1
        ) * exists  # fmt: skip
        label = torch.where(found.exists, instances.labels[image, found.objects], -1)[..., None]
        has_object = tables.has_object
        triples = torch.stack([found.agent, found.score * has_object, found.empty * has_object], dim=-1)
        return torch.cat([triples, objects, label.to(triples.dtype)], dim=-1).flatten(0, 1)[rows]

    def to_original(self, values: Tensor, factors: Tensor) -> Tensor:
        boxes = values[..., 3:7] * torch.cat([factors, factors], dim=-1)[:, None]
        return torch.cat([values[..., :3], boxes, values[..., 7:]], dim=-1)

    def field(self, network: Network, values: Tensor) -> DetectedInteractions:
        categories = network.categories
        return DetectedInteractions(values, self._facts(categories), categories.ids, categories.names, self.head.least_score)

    # ------------------------------------------------------------------------------------------- test-time augmentation

    def views(self, tta: TTAConfig) -> ViewsConfig:
        """Those of the boxes."""
        return tta.boxes or ViewsConfig()

    def mirrored(self, network: Network, values: Tensor) -> Tensor:
        """Objects lie on the other side."""
        if not self.head.density:
            return values
        count = len(self._facts(network.categories).actions)
        signs = torch.ones(values.shape[1], device=values.device)
        signs[count : 5 * count : 4] = -1
        return values * signs


class _Tables(nn.Module):
    """Constants of a data set's verbs, on the device of the network."""

    has_object: Tensor
    """(A,) bool."""
    classes: Tensor
    """(C, A) bool: the actions that a class may be the object of."""

    def __init__(self, facts: InteractionFacts, categories: Categories) -> None:
        super().__init__()
        known = set(facts.classes)
        actions = list(zip(facts.actions, facts.has_object, strict=True))
        table = [
            [has_object and (not known or (facts.verb_ids[verb], category) in known) for (verb, _), has_object in actions]
            for category in categories.ids
        ]
        self.register_buffer("has_object", torch.tensor(facts.has_object, dtype=torch.bool), persistent=False)
        self.register_buffer("classes", torch.tensor(table, dtype=torch.bool), persistent=False)


@dataclass(slots=True)
class _Logits:
    """The logits of R boxes by what they are."""

    actions: Tensor
    """(..., R, A)."""
    means: Tensor | None
    """(..., R, A, 4) where the object of each action is, relative to the box; None without ``density``."""
    objects: Tensor | None
    """(..., R, A) of the box as an object; None without ``interaction_branch``."""
    humans: Tensor
    """(..., R, A) what is added to them."""


@dataclass(slots=True)
class _Truth:
    """The annotated pairs of a batch."""

    known: Tensor
    """(B, N) bool: the instances that are humans whose actions are known."""
    images: Tensor
    """(T,) int64."""
    humans: Tensor
    """(T,) int64: instance of the image."""
    actions: Tensor
    objects: Tensor
    """(T,) int64; -1 where none is annotated."""
    boxes: Tensor
    """(T, 4) xyxy of the objects, pixels of the network's input; any box where there is none."""

    @classmethod
    def of(cls, targets: Sequence[Target]) -> _Truth:
        """Of an image without the field nothing is known."""
        fields = [field_of(target.fields, "interactions", Interactions) for target in targets]
        known = [
            torch.zeros_like(target.labels, dtype=torch.bool) if field is None else field.known
            for target, field in zip(targets, fields, strict=True)
        ]
        pairs = [
            target.labels.new_zeros(0, 3) if field is None else field.pairs for target, field in zip(targets, fields, strict=True)
        ]
        images = torch.cat([torch.full_like(rows[:, 0], image) for image, rows in enumerate(pairs)])
        humans, actions, objects = torch.cat(pairs).unbind(dim=1)
        boxes = padded([target.boxes for target in targets])[images, objects.clamp(min=0)]
        return cls(padded(known), images, humans, actions, objects, boxes)


def _first_of_image(rows: Tensor, images: Tensor, most: int) -> Tensor:
    """(R,) bool: the first ``most`` of the ``rows`` (R,) bool of each of the ``images`` (R,)."""
    places = torch.arange(len(rows), device=rows.device)
    up_to = rows & (images == images[:, None]) & (places <= places[:, None])
    return rows & (up_to.sum(dim=1) <= most)


def _entropy(logits: Tensor, right: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, right, reduction="none")


def _linear(inputs: int, outputs: int, deviation: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=deviation)
    nn.init.zeros_(layer.bias)
    return layer
