"""V-COCO's average precision of verbs and of their objects (Gupta and Malik, 2015), by the rules of its program vsrl_eval.py.

agent        a person who does the verb, whatever the objects
scenario 1   also the box of the role's object; where the truth has none, an empty prediction alone is right
scenario 2   the same; where the truth has none, any prediction is right
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood.evaluation.evaluator import CollectingEvaluator, Metrics
from boxwood.evaluation.interaction_files import write_vcoco_results
from boxwood.evaluation.interactions import AGENT, PredictedInteractions, Ties, Verbs, grouped, overlaps, ranked
from boxwood.evaluation.voc import average_precision
from boxwood.structures import Categories

__all__ = ["ActionPrecision", "VcocoEvaluator", "vcoco_precisions"]

Array = NDArray[np.float64]
HARDEST = 20
"""How many of the pairs that are missed most are in the metrics."""
LEFT_OUT = ("point",)
"""Verbs without which papers give AP_role: 24 of V-COCO's 25 roles."""


@dataclass(slots=True)
class ActionPrecision:
    """The result of one verb, or of one of its roles."""

    ap: float
    """0..1; NaN where nobody does the verb."""
    positives: int
    """The persons who do the verb, with or without an object."""
    counted: int
    """The predictions that count: those of persons whose verbs are not known do not."""
    right: int


@dataclass(slots=True)
class _Judged:
    """Scores, and whether each prediction is right, in the order in which they were compared."""

    scores: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)


@dataclass(slots=True)
class _Persons:
    """The persons of an image."""

    boxes: Array
    """(P, 4) xyxy, continuous."""
    known: list[bool]
    targets: list[dict[int, list[tuple[Array, int] | None]]]
    """Of each person the verbs that he does, by index, with the box and the category id of each role's object, or None."""


class VcocoEvaluator(CollectingEvaluator):
    """AP of verbs and of their objects.

    ``truth`` is a COCO dictionary with verbs and interactions (`boxwood.data.interactions`). A prediction is compared with the one
    person of its image that it overlaps most, whatever the overlap; where that person's verbs are not known, it does not count. Of
    a person and a verb the best prediction is right, all others are wrong. Classes of objects play no part. `compute` gives
    ``{"vcoco": {"AP_role", "AP_role_2", "AP_agent"}, "per_class", "notes"}``, fractions; -1 where there is no truth. Raises
    `UserError` where the truth has no verbs.
    """

    def __init__(self, truth: Mapping[str, Any], categories: Categories, min_overlap: float = 0.5, ties: Ties = "last") -> None:
        super().__init__(truth, categories, with_masks=False)
        self.verbs, self.tree, self.min_overlap, self.ties = Verbs.of(truth), truth, min_overlap, ties

    def compute(self) -> Metrics:
        """The metrics of all detections; an image of the truth that was not added has none."""
        predicted = PredictedInteractions.of_results(self.results, self.verbs)
        tables, pairs = _compare(self.tree, predicted, self.min_overlap, self.ties)
        agent, first, second = tables["agent"], tables["scenario_1"], tables["scenario_2"]
        papers = [name for name in first if name.rpartition("-")[0] not in LEFT_OUT]
        numbers = {
            "AP_role": _mean([first[name].ap for name in papers]),
            "AP_role_2": _mean([second[name].ap for name in papers]),
            "AP_agent": _mean([row.ap for row in agent.values()]),
        }
        rows = {**first, **{name: row for name, row in agent.items() if name not in {n.rpartition("-")[0] for n in first}}}
        per_class = {name: {"vcoco": _known(row.ap), "count": row.positives} for name, row in rows.items()}
        notes = [
            f"AP by V-COCO's rules: an IoU of {self.min_overlap:g} of person and object; AP_role is scenario 1 (where no object is "
            "annotated, only an empty prediction is right), AP_role_2 scenario 2 (any is)"
        ]
        if left_out := [name for name in first if name not in papers]:
            means = (_mean([row.ap for row in table.values()]) for table in (first, second))
            with_all = " and ".join(f"{mean:.3f}" for mean in means)
            notes.append(f"the means are of {len(papers)} roles, without {', '.join(left_out)} as in papers; of all: {with_all}")
        if unknown := [name for name, row in {**first, **agent}.items() if not row.positives]:
            notes.append(f"nobody does {len(unknown)} verbs or roles ({', '.join(unknown[:5])}), which are in no mean")
        per_agent = {name: _known(row.ap) for name, row in agent.items()}
        return {"vcoco": numbers, "per_class": per_class, "per_agent": per_agent, "hardest_pairs": pairs, "notes": notes}

    def write_results(self, folder: Path) -> None:
        """Write ``results.pkl``, which V-COCO's program reads."""
        write_vcoco_results(folder / "results.pkl", PredictedInteractions.of_results(self.results, self.verbs), self.verbs)


def vcoco_precisions(
    truth: Mapping[str, Any], predicted: PredictedInteractions, min_overlap: float = 0.5, ties: Ties = "last"
) -> dict[str, dict[str, ActionPrecision]]:
    """AP by name of the verb (``agent``) and of verb and role (``scenario_1``, ``scenario_2``).

    The mean over 25 roles is what V-COCO's program prints. Where that program stops, at verbs without positives or predictions and
    images without persons, AP is NaN or 0, and all predictions of such an image are wrong.
    """
    return _compare(truth, predicted, min_overlap, ties)[0]


# ------------------------------------------------------------------------------------------------------------ internals


def _compare(
    truth: Mapping[str, Any], predicted: PredictedInteractions, min_overlap: float, ties: Ties
) -> tuple[dict[str, dict[str, ActionPrecision]], list[dict[str, Any]]]:
    """The tables of `vcoco_precisions`, and the pairs of verb and object that are missed most."""
    verbs = Verbs.of(truth)
    persons = _persons_of(truth, verbs)
    found: dict[int, set[tuple[str, int, int, int]]] = {}
    positives = [sum(verb in does for image in persons.values() for does in image.targets) for verb in range(len(verbs.names))]
    judged: dict[tuple[str, int, int], _Judged] = {}
    predicted = predicted[~np.isnan(predicted.scores)]
    for image_id, rows in grouped(predicted.image_ids).items():
        if image_id in persons:
            found[image_id] = _judge_image(persons[image_id], predicted[rows], min_overlap, ties, judged)
    tables: dict[str, dict[str, ActionPrecision]] = {}
    for table in ("agent", "scenario_1", "scenario_2"):
        actions = [(verb, AGENT) for verb in range(len(verbs.names))] if table == "agent" else verbs.actions()
        tables[table] = {
            verbs.action_name(*action): _precision(judged.get((table, *action), _Judged()), positives[action[0]], ties)
            for action in actions
        }
    names = {category["id"]: str(category["name"]) for category in truth["categories"]}
    return tables, _hardest(persons, found, verbs, names)


def _hardest(
    persons: Mapping[int, _Persons], found: Mapping[int, set[tuple[str, int, int, int]]], verbs: Verbs, names: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Verbs with a role and the class of its object, of which most are not found in scenario 1 by any prediction, most first."""
    counts, hits = Counter[str](), Counter[str]()
    for image_id, image in persons.items():
        for person, does in enumerate(image.targets):
            for verb, targets in does.items():
                for role, target in enumerate(targets):
                    pair = f"{verbs.action_name(verb, role)} {'nothing seen' if target is None else names[target[1]]}"
                    counts[pair] += 1
                    hits[pair] += ("scenario_1", verb, role, person) in found.get(image_id, ())
    missed = sorted(counts, key=lambda pair: hits[pair] - counts[pair])
    return [{"pair": pair, "count": counts[pair], "found": hits[pair]} for pair in missed[:HARDEST] if hits[pair] < counts[pair]]


def _persons_of(truth: Mapping[str, Any], verbs: Verbs) -> dict[int, _Persons]:
    """The persons of each image: those that can be seen, crowd regions too."""
    human_categories = {category["id"] for category in truth["categories"] if category["name"] == "person"}
    place = {verb_id: index for index, verb_id in enumerate(verbs.ids)}
    of_human: dict[int, dict[int, Mapping[str, int | None]]] = {}
    for row in truth["interactions"]:
        if row.get("human_id") is not None:
            of_human.setdefault(row["human_id"], {})[place[row["verb_id"]]] = row["targets"]
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    boxes, humans = dict[int, tuple[Array, int]](), dict[int, list[Mapping[str, Any]]]()
    for annotation in truth["annotations"]:
        box = None
        if annotation["image_id"] in sizes and not annotation.get("ignore") and annotation["area"] > 0:
            box = _visible(annotation["bbox"], *sizes[annotation["image_id"]])
        if box is not None:
            boxes[annotation["id"]] = box, annotation["category_id"]
            if annotation["category_id"] in human_categories:
                humans.setdefault(annotation["image_id"], []).append(annotation)
    persons = {}
    for image_id in sizes:
        rows = humans.get(image_id, [])
        targets = []
        for row in rows:
            does = of_human.get(row["id"], {}) if row.get("verbs_known") else {}
            targets.append({verb: [boxes.get(found.get(role) or 0) for role in verbs.roles[verb]] for verb, found in does.items()})
        corners = np.array([boxes[row["id"]][0] for row in rows]).reshape(-1, 4)
        persons[image_id] = _Persons(corners, [bool(row.get("verbs_known")) for row in rows], targets)
    return persons


def _visible(box: Sequence[float], width: int, height: int) -> Array | None:
    """A COCO box as the program reads it: its last pixel is x + w - 1, clipped to the image; None where nothing is left."""
    x, y, w, h = box
    x1, x2 = (min(max(side, 0.0), width - 1.0) for side in (x, x + max(0.0, w - 1)))
    y1, y2 = (min(max(side, 0.0), height - 1.0) for side in (y, y + max(0.0, h - 1)))
    return np.array([x1, y1, x2 + 1, y2 + 1]) if x2 > x1 and y2 > y1 else None


def _judge_image(
    persons: _Persons,
    predicted: PredictedInteractions,
    min_overlap: float,
    ties: Ties,
    judged: dict[tuple[str, int, int], _Judged],
) -> set[tuple[str, int, int, int]]:
    """Append the results of an image's predictions to those of each verb and role; returns table, verb, role and person of the
    right ones."""
    ious = overlaps(predicted.humans, persons.boxes)
    best = ious.argmax(axis=1) if len(persons.boxes) else np.zeros(len(predicted), dtype=np.int64)
    empty = [bool(row.all()) for row in np.isnan(predicted.objects)]
    matched: set[tuple[str, int, int, int]] = set()
    for row in ranked(predicted.scores, ties).tolist():
        verb, role, person = int(predicted.verbs[row]), int(predicted.roles[row]), int(best[row])
        if len(persons.boxes) and not persons.known[person]:
            continue
        targets = persons.targets[person].get(verb) if len(persons.boxes) else None
        fits = targets is not None and ious[row, person] >= min_overlap
        for table in ("agent",) if role == AGENT else ("scenario_1", "scenario_2"):
            right = fits and (table, verb, role, person) not in matched
            if right and targets is not None and role != AGENT:
                target = targets[role]
                if target is None:
                    right = empty[row] or table == "scenario_2"
                else:
                    right = bool(overlaps(predicted.objects[row : row + 1], target[0][None])[0, 0] >= min_overlap)
            if right:
                matched.add((table, verb, role, person))
            of_action = judged.setdefault((table, verb, role), _Judged())
            of_action.scores.append(float(predicted.scores[row]))
            of_action.right.append(right)
    return matched


def _precision(judged: _Judged, positives: int, ties: Ties) -> ActionPrecision:
    right = np.array(judged.right, dtype=np.bool_)
    if not positives:
        return ActionPrecision(float("nan"), 0, len(right), 0)
    order = ranked(np.array(judged.scores, dtype=np.float64), ties)
    hits = np.cumsum(right[order])
    ap = average_precision(hits / positives, hits / np.arange(1, len(hits) + 1), "voc2010")
    return ActionPrecision(ap, positives, len(right), int(right.sum()))


def _known(ap: float) -> float:
    return -1.0 if np.isnan(ap) else ap


def _mean(aps: Sequence[float]) -> float:
    """Of those that are known; -1 where none is."""
    known = [ap for ap in aps if not np.isnan(ap)]
    return float(np.mean(known)) if known else -1.0
