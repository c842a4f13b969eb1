"""Human-object interactions as evaluators compare them: what a data set's verbs are, and predictions as flat arrays.

Detections -> records with "interactions" -> PredictedInteractions -> VcocoEvaluator, HicoEvaluator
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood.columns import MAX_COORDINATE, are_numbers, is_number, is_whole, short
from boxwood.errors import UserError
from boxwood.evaluation.truth import Results

__all__ = ["AGENT", "PredictedInteractions", "Ties", "Verbs", "grouped", "overlaps", "ranked"]

AGENT = -1
"""The role of the human himself: the claim that he does the verb, whatever its objects."""

Ties = str
"""``first`` or ``last``: which of two predictions with equal scores is compared first, the earlier or the later one."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Verbs:
    """The verbs of a data set, with the names of their roles; a verb without objects has none."""

    ids: tuple[int, ...]
    names: tuple[str, ...]
    roles: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, truth: Mapping[str, Any]) -> Verbs:
        """Those of a COCO dictionary. Raises `UserError` where it has none."""
        if not truth.get("verbs") or "interactions" not in truth:
            raise UserError(
                "this measure compares human-object interactions, and the truth has no 'verbs' and 'interactions'; make it with "
                "boxwood data convert --from vcoco or --from hico, or take another measure"
            )
        verbs = truth["verbs"]
        roles = tuple(tuple(role["name"] for role in verb["roles"]) for verb in verbs)
        return cls(tuple(verb["id"] for verb in verbs), tuple(verb["name"] for verb in verbs), roles)

    def actions(self) -> Iterator[tuple[int, int]]:
        """Each verb's index with each of its roles' indices."""
        return ((verb, role) for verb, roles in enumerate(self.roles) for role in range(len(roles)))

    def action_name(self, verb: int, role: int) -> str:
        """Such as ``cut-instr``."""
        return self.names[verb] if role == AGENT else f"{self.names[verb]}-{self.roles[verb][role]}"


@dataclass(slots=True)
class PredictedInteractions:
    """Claims of a detector: a human does a verb, to an object or to none. Letter: N claims."""

    image_ids: NDArray[np.int64]
    humans: Array
    """(N, 4) xyxy in continuous coordinates, pixels of the original image."""
    verbs: NDArray[np.int64]
    """(N,) index of the verb."""
    roles: NDArray[np.int64]
    """(N,) index of the role; `AGENT` where the claim is of the human alone."""
    objects: Array
    """(N, 4) as ``humans``; NaN where the claim is that there is no object, and for agents."""
    category_ids: NDArray[np.int64]
    """(N,) of the objects; -1 where there is none or it is not known."""
    scores: Array

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: NDArray[Any]) -> PredictedInteractions:
        columns = (getattr(self, name) for name in self.__slots__)
        return PredictedInteractions(*(column[rows] for column in columns))

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[int, list[float], int, int, list[float] | None, int, float]]) -> PredictedInteractions:
        """From image id, human, verb, role, object or None, category id and score of each claim."""
        nothing = [np.nan] * 4
        columns = list(zip(*rows, strict=True)) or [()] * 7
        objects = [nothing if box is None else box for box in columns[4]]
        return cls(
            np.array(columns[0], dtype=np.int64),
            np.array(columns[1], dtype=np.float64).reshape(-1, 4),
            np.array(columns[2], dtype=np.int64),
            np.array(columns[3], dtype=np.int64),
            np.array(objects, dtype=np.float64).reshape(-1, 4),
            np.array(columns[5], dtype=np.int64),
            np.array(columns[6], dtype=np.float64),
        )

    @classmethod
    def of_results(cls, results: Results, verbs: Verbs) -> PredictedInteractions:
        """Those of collected detections. Raises `UserError` where an entry of "interactions" is malformed or names an unknown
        verb or role."""
        names = {name: index for index, name in enumerate(verbs.names)}

        def rows() -> Iterator[tuple[int, list[float], int, int, list[float] | None, int, float]]:
            for image_id in sorted(results):
                detections = results[image_id]
                for rank, others in enumerate(detections.others or ()):
                    x, y, width, height = detections.boxes[rank].tolist()
                    for entry in others.get("interactions", ()):
                        verb, role, box, category, score = _entry(entry, verbs, names, image_id)
                        yield image_id, [x, y, x + width, y + height], verb, role, box, category, score

        return cls.of_rows(rows())


def _entry(entry: Any, verbs: Verbs, names: Mapping[str, int], image_id: int) -> tuple[int, int, list[float] | None, int, float]:
    """Verb, role, object, its category id and the score of one claim of a record."""

    def refuse(problem: str) -> UserError:
        return UserError(f"image id {image_id}: 'interactions': {problem}; write the detections again")

    if not isinstance(entry, dict) or not isinstance(entry.get("verb"), str) or entry["verb"] not in names:
        raise refuse(f"expected a mapping with a verb of the data set, got {short(entry)}")
    verb, role, target = names[entry["verb"]], entry.get("role"), entry.get("object")
    score: Any = entry.get("score")
    if role not in ("agent", *verbs.roles[verb]):
        raise refuse(f"the verb '{entry['verb']}' has the roles {', '.join(('agent', *verbs.roles[verb]))}, got {short(role)}")
    if not is_number(score) or not np.isfinite(score):
        raise refuse(f"'score' must be a number, got {short(score)}")
    if target is None:
        return verb, AGENT if role == "agent" else verbs.roles[verb].index(role), None, -1, float(score)
    box: Any = target.get("bbox") if isinstance(target, dict) else None
    if (
        role == "agent"
        or not isinstance(box, list)
        or len(box) != 4
        or not are_numbers(box)
        or not all(abs(side) < MAX_COORDINATE for side in box)
    ):
        raise refuse(f"'object' must have 'bbox', four numbers x, y, w, h, and an agent has none, got {short(target)}")
    x, y, width, height = (float(number) for number in box)
    category = target.get("category_id", -1)
    if not is_whole(category):
        raise refuse(f"'category_id' of an object must be a whole number, got {short(category)}")
    return verb, verbs.roles[verb].index(role), [x, y, x + width, y + height], category, float(score)


def overlaps(boxes: Array, others: Array) -> Array:
    """IoU (N, M) of boxes (N, 4) and (M, 4), xyxy in continuous coordinates; 0 where a box is NaN."""
    start = np.maximum(boxes[:, None, :2], others[None, :, :2])
    end = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(end - start, 0, None).prod(axis=2)
    areas = [(part[:, 2:] - part[:, :2]).prod(axis=1) for part in (boxes, others)]
    total = areas[0][:, None] + areas[1][None, :] - shared
    shares: Array = np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)
    return shares


def grouped(values: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """The rows of each value, in their order.

    >>> {value: rows.tolist() for value, rows in grouped(np.array([7, 5, 7])).items()}
    {5: [1], 7: [0, 2]}
    """
    order = np.argsort(values, kind="stable")
    unique, starts = np.unique(values[order], return_index=True)
    return dict(zip(unique.tolist(), np.split(order, starts)[1:], strict=True))


def ranked(scores: Array, ties: Ties) -> NDArray[np.int64]:
    """The rows by descending score; of equal ones the first or the last in front.

    >>> ranked(np.array([0.5, 0.9, 0.5]), "first").tolist(), ranked(np.array([0.5, 0.9, 0.5]), "last").tolist()
    ([1, 0, 2], [1, 2, 0])
    """
    order: NDArray[np.int64] = np.argsort(-scores, kind="stable") if ties == "first" else np.argsort(scores, kind="stable")[::-1]
    return order
