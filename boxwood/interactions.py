"""Human-object interactions: the verbs of a data set, and the fields of truth and detections that hold who does what with what.

An action is a verb with one of its roles (``cut`` with ``instr`` and ``cut`` with ``obj``), or a verb that has none (``walk``).
Letters: N instances or detections of an image, A actions, P pairs of a human and an action.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from boxwood.fields import Affine, InstanceField, TensorField

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["AGENT", "DetectedInteractions", "InteractionFacts", "Interactions"]

AGENT = -1
"""In place of a role: the human alone."""


@dataclass(frozen=True)
class InteractionFacts:
    """The verbs of a data set.

    >>> facts = InteractionFacts((1, 2), ("cut", "walk"), (("instr", "obj"), ()))
    >>> facts.actions, facts.names
    (((0, 0), (0, 1), (1, -1)), ('cut-instr', 'cut-obj', 'walk'))
    """

    verb_ids: tuple[int, ...]
    verbs: tuple[str, ...]
    roles: tuple[tuple[str, ...], ...]
    """The names of each verb's roles; empty for a verb without objects."""
    classes: tuple[tuple[int, int], ...] = ()
    """Where not every verb goes with every object: the pairs of verb id and category id that there are (HICO-DET's 600)."""

    @cached_property
    def actions(self) -> tuple[tuple[int, int], ...]:
        """Index of the verb and of the role, or `AGENT`, of each action."""
        return tuple((verb, role) for verb, roles in enumerate(self.roles) for role in (range(len(roles)) if roles else (AGENT,)))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the actions."""
        return tuple(self.verbs[v] if r == AGENT else f"{self.verbs[v]}-{self.roles[v][r]}" for v, r in self.actions)

    @cached_property
    def has_object(self) -> tuple[bool, ...]:
        """Of each action whether it has a role."""
        return tuple(role != AGENT for _, role in self.actions)


@dataclass
class Interactions(InstanceField):
    """What the instances of an image do."""

    known: Tensor
    """(N,) bool: the humans whose actions are annotated; of all others nothing is known."""
    pairs: Tensor
    """(P, 3) int64: row of the human, action, and row of the object, -1 where none is annotated. A human who does something with
    two objects has two pairs."""

    def __len__(self) -> int:
        return len(self.known)

    def __getitem__(self, index: Tensor) -> Self:
        rows = torch.arange(len(self))[index.cpu()]
        new_row = torch.full((len(self) + 1,), -1)  # the last for no object, -1
        new_row[rows.flip(0)] = torch.arange(len(rows)).flip(0)
        humans, actions, objects = self.pairs.unbind(dim=1)
        pairs = torch.stack([new_row[humans], actions, new_row[objects]], dim=1)
        return type(self)(self.known[rows], pairs[pairs[:, 0] >= 0])

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        first, pairs = 0, []
        for part in parts:
            shift = torch.tensor([first, 0, first])
            pairs.append(torch.where(part.pairs < 0, part.pairs, part.pairs + shift))
            first += len(part)
        return cls(torch.cat([part.known for part in parts]), torch.cat(pairs))

    def transformed(self, affine: Affine) -> Self:
        return self


@dataclass
class DetectedInteractions(TensorField):
    """``values`` (N, A, 9) float32, of each detection, as a human, and each action: the score of the human doing it (0 where it is
    no human), of him doing it to the object, of him doing it to nothing that is seen; then the object: x1, y1, x2, y2 in pixels of
    the image, its score, and its label, -1 where there is none."""

    facts: InteractionFacts = InteractionFacts((), (), ())
    category_ids: tuple[int, ...] = ()
    """Of each label."""
    class_names: tuple[str, ...] = ()
    least_score: float = 0.0
    """Claims with a lower score are not in the records."""

    def transformed(self, affine: Affine) -> Self:
        boxes = affine.boxes(self.values[..., 3:7].reshape(-1, 4)).view(*self.values.shape[:2], 4)
        boxes = torch.where(self.values[..., 8:] >= 0, boxes, self.values[..., 3:7])
        return self.with_tensors([torch.cat([self.values[..., :3], boxes, self.values[..., 7:]], dim=-1)])

    def records(self, boxes: Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
        """``interactions`` of each human: a list of ``verb``, ``role`` (``agent`` for the human alone), ``score``, and ``object``
        (``bbox`` x, y, width, height, ``category_id``, ``score``), which is null for the claim that there is none."""
        records = []
        for row in self.values.tolist():
            claims = self._claims(row)
            records.append({"interactions": claims} if claims else {})
        return records

    def _claims(self, row: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
        """The claims of one detection; the score of a verb is the highest of its actions'."""
        agents = [0.0] * len(self.facts.verbs)
        claims: list[dict[str, Any]] = []
        for (verb, role), (agent, score, empty, x1, y1, x2, y2, object_score, label) in zip(self.facts.actions, row, strict=True):
            agents[verb] = max(agents[verb], agent)
            if role == AGENT:
                continue
            common = {"verb": self.facts.verbs[verb], "role": self.facts.roles[verb][role]}
            if label >= 0 and score > self.least_score:
                box = [x1, y1, x2 - x1, y2 - y1]
                target = {"bbox": box, "category_id": self.category_ids[int(label)], "score": object_score}
                claims.append({**common, "score": score, "object": target})
            if empty > self.least_score:
                claims.append({**common, "score": empty, "object": None})
        scored = [(name, score) for name, score in zip(self.facts.verbs, agents, strict=True) if score > self.least_score]
        return [*({"verb": name, "role": "agent", "score": score} for name, score in scored), *claims]

    def draw(self, picture: Image.Image, row: int, box: Sequence[float], color: tuple[int, int, int], line: int) -> None:
        """A line from the human to the object of each interaction with a score of at least `DRAWN`, with the verb; verbs without
        objects stand at the human's middle."""
        from boxwood.drawing import draw_link

        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        alone = []
        for (verb, role), values in zip(self.facts.actions, self.values[row].tolist(), strict=True):
            agent, score, empty, x1, y1, x2, y2, _, label = values
            if label >= 0 and score >= max(DRAWN, empty):
                draw_link(picture, middle, ((x1 + x2) / 2, (y1 + y2) / 2), self.facts.verbs[verb], color, line)
            elif agent >= 0.5 and (role == AGENT or empty > score):
                alone.append(self.facts.verbs[verb])
        if alone:
            draw_link(picture, middle, middle, ", ".join(dict.fromkeys(alone)), color, line)


DRAWN = 0.3
"""The least score of an interaction that is drawn; it is a product of four numbers below 1."""
