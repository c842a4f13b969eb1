"""Human-object interactions in a COCO file, beside its images, annotations and categories::

    annotations[i].verbs_known   true for a human whose verbs were annotated; of all others nothing is known
    verbs          [{id, name, roles: [{name, include: [category ids, empty for any]}]}]
    interactions   [{id, image_id, human_id, verb_id, targets: {role: annotation id or null}, visible, hoi_id, group}]
    hois           [{id, verb_id, category_id, train_pairs, rare}]        classes of verb and object, where there are such
    images[i].hois {positive, negative, ambiguous: ids of hois}           which are shown; of all others nothing is known

``human_id`` and ``targets`` are annotations of the same image. ``visible`` is false for an interaction without boxes, which has no
human. ``hoi_id`` and ``group`` are HICO-DET's: a human may then have several interactions of one verb.
Letters: A annotations, P interactions, R the most roles of a verb.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boxwood.columns import Columns, is_whole
from boxwood.errors import UserError

if TYPE_CHECKING:  # it needs torch, which a folder of labelled pictures is read without
    from boxwood.interactions import InteractionFacts, Interactions

__all__ = ["SECTIONS", "InteractionTable", "read_interactions", "with_known_targets"]

SECTIONS = ("verbs", "interactions", "hois")
MAX_ROLES = 100
"""Of a verb; the memory of a file's interactions is as large as the most roles of a verb."""
NOTHING = np.iinfo(np.int64).min
"""In place of an id, where there is none."""
Ids = NDArray[np.int64]


@dataclass(slots=True)
class InteractionTable:
    """The sections of a file, unchanged; the interactions as arrays in the order of the file."""

    verbs: list[dict[str, Any]]
    hois: list[dict[str, Any]]
    facts: InteractionFacts
    ids: Ids
    image_ids: Ids
    human_ids: Ids
    """(P,) `NOTHING` where no human is visible."""
    verb_rows: Ids
    targets: Ids
    """(P, R) annotation ids by the verb's roles; `NOTHING` where there is none."""
    visible: NDArray[np.bool_]
    hoi_ids: Ids
    groups: Ids
    known: NDArray[np.bool_]
    """(A,) bool: the annotations that are humans whose verbs are known."""
    by_image: Ids
    """(P,) rows in the order of their image ids."""
    strange_targets: int = 0
    """Targets of a category that their role does not include."""

    def sections(self) -> dict[str, Any]:
        """``verbs``, ``interactions``, and ``hois`` where there are some, as they stand in a file."""
        rows = []
        for row, (number, image, human, verb) in enumerate(
            zip(*(column.tolist() for column in (self.ids, self.image_ids, self.human_ids, self.verb_rows)), strict=True)
        ):
            targets = [None if target == NOTHING else target for target in self.targets[row].tolist()]
            entry: dict[str, Any] = {
                "id": number,
                "image_id": image,
                "human_id": None if human == NOTHING else human,
                "verb_id": self.facts.verb_ids[verb],
                "targets": dict(zip(self.facts.roles[verb], targets, strict=False)),
            }
            if not self.visible[row]:
                entry["visible"] = False
            entry |= {
                key: int(column[row])
                for key, column in (("hoi_id", self.hoi_ids), ("group", self.groups))
                if column[row] != NOTHING
            }
            rows.append(entry)
        sections = {"verbs": [dict(verb) for verb in self.verbs], "interactions": rows}
        return sections | ({"hois": [dict(hoi) for hoi in self.hois]} if self.hois else {})

    def of_image(self, image_id: int, annotation_ids: Ids, known: NDArray[np.bool_]) -> Interactions:
        """The field of an image whose instances have these ids (N,), of which the humans ``known`` (N,)."""
        first, last = (np.searchsorted(self.image_ids[self.by_image], image_id, side=side) for side in ("left", "right"))
        place = {number: row for row, number in enumerate(annotation_ids.tolist())}
        import torch

        from boxwood.interactions import AGENT, Interactions

        actions = {action: index for index, action in enumerate(self.facts.actions)}
        pairs = []
        for row in self.by_image[first:last].tolist():
            human, verb = place.get(int(self.human_ids[row]), -1), int(self.verb_rows[row])
            if human < 0 or not self.visible[row]:
                continue
            roles = range(len(self.facts.roles[verb]))
            targets = [(role, place.get(int(self.targets[row, role]), -1)) for role in roles] or [(AGENT, -1)]
            pairs += [(human, actions[verb, role], target) for role, target in targets]
        return Interactions(torch.from_numpy(known), torch.tensor(pairs, dtype=torch.int64).view(-1, 3))


def read_interactions(
    tree: Mapping[str, Any],
    path: str,
    *,
    ids: Ids,
    image_ids: Ids,
    category_ids: Ids,
    known: NDArray[np.bool_],
    categories: Sequence[Mapping[str, Any]],
) -> InteractionTable | None:
    """The interactions of a COCO file; None where it has no section ``verbs``. The arrays are columns of its annotations.

    Raises `UserError`, naming the row, where a section is malformed, an interaction is not of humans and objects of its image, or a
    human has the same verb twice (with ``hoi_id``, with the same object).
    """
    if tree.get("verbs") is None:
        return None
    verbs, rows, hois = (_Columns(_list(tree, key, path), path, key) for key in SECTIONS)
    facts = verbs.facts(categories)
    facts = replace(facts, classes=hois.pairs(facts, categories))
    place = {number: row for row, number in enumerate(facts.verb_ids)}
    for row, number in enumerate(rows.integers("verb_id").tolist()):
        if number not in place:
            rows.refuse(row, "verb_id", "the id of a verb")
    verb_rows = np.array([place[int(row["verb_id"])] for row in rows.records], dtype=np.int64)
    humans = rows.optional("human_id")
    rows.check("visible", [row.get("visible", True) for row in rows.records], lambda value: type(value) is bool, "true or false")
    table = InteractionTable(
        verbs=list(verbs.records),
        hois=list(hois.records),
        facts=facts,
        ids=rows.integers("id"),
        image_ids=rows.integers("image_id"),
        human_ids=humans,
        verb_rows=verb_rows,
        targets=rows.targets(facts, verb_rows),
        visible=np.array([row.get("visible", True) for row in rows.records], dtype=np.bool_),
        hoi_ids=rows.optional("hoi_id"),
        groups=rows.optional("group"),
        known=known,
        by_image=np.argsort(rows.integers("image_id"), kind="stable"),
    )
    _check_annotations(table, rows, ids, image_ids, category_ids, {row["id"] for row in categories if row["name"] == "person"})
    table.strange_targets = _strange(table, ids, category_ids)
    return table


def with_known_targets(tree: dict[str, Any], done: Counter[str]) -> dict[str, Any]:
    """A COCO dictionary whose interactions name its annotations alone: those of others' humans are left out, others' targets become
    null; ``done`` counts them."""
    rows = tree.get("interactions")
    if not isinstance(rows, list):
        return tree
    ids = {row["id"] for row in tree["annotations"] if isinstance(row, dict) and "id" in row}
    images = {row["id"] for row in tree["images"] if isinstance(row, dict) and "id" in row}
    kept = []
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("targets"), dict):
            kept.append(row)
        elif row.get("image_id") not in images or row.get("human_id") not in (None, *ids):
            done["interactions of missing images or humans left out"] += 1
        else:
            lost = [role for role, target in row["targets"].items() if target is not None and target not in ids]
            done["objects of interactions that are missing set to null"] += len(lost)
            kept.append({**row, "targets": row["targets"] | dict.fromkeys(lost)} if lost else row)
    return {**tree, "interactions": kept}


# ------------------------------------------------------------------------------------------------------------ internals


def _list(tree: Mapping[str, Any], key: str, path: str) -> list[Any]:
    rows = tree.get(key, [])
    if not isinstance(rows, list):
        raise UserError(f"{path}: '{key}' must be a list, got a {type(rows).__name__}; correct the file")
    return rows


class _Columns(Columns):
    """The columns of the three sections."""

    def optional(self, key: str) -> Ids:
        """(P,) whole numbers; `NOTHING` where a row has none or null."""
        values = [NOTHING if record.get(key) is None else record[key] for record in self.records]
        self.check(key, values, lambda value: value == NOTHING or (is_whole(value) and value is not True), "a whole number or null")
        return np.array(values, dtype=np.int64)

    def unique(self, key: str) -> list[Any]:
        """The values of a key, of which no two are equal."""
        values: list[Any] = self.texts(key) if key == "name" else self.integers(key).tolist()
        seen: set[Any] = set()
        for row, value in enumerate(values):
            if value in seen:
                self.refuse(row, key, "another one than those before")
            seen.add(value)
        return values

    def facts(self, categories: Sequence[Mapping[str, Any]]) -> InteractionFacts:
        """Those of the section ``verbs``."""
        from boxwood.interactions import InteractionFacts

        if not self.records:
            raise UserError(f"{self.path}: 'verbs' is empty; name the verbs of its interactions")
        known = {int(row["id"]) for row in categories}
        roles = []
        for row, record in enumerate(self.records):
            given = record.get("roles")
            if (
                not isinstance(given, list)
                or len(given) > MAX_ROLES
                or not all(isinstance(role, dict) and isinstance(role.get("name"), str) for role in given)
            ):
                self.refuse(row, "roles", f"a list of at most {MAX_ROLES} mappings with 'name' and 'include'")
            names = [role["name"] for role in given]
            if len(set(names)) < len(names) or "agent" in names or not all(names):
                self.refuse(row, "roles", "different names other than 'agent'")
            for role in given:
                include = role.get("include", [])
                if not isinstance(include, list) or not all(is_whole(number) and number in known for number in include):
                    self.refuse(row, "roles", "roles whose 'include' lists ids of categories")
            roles.append(tuple(names))
        return InteractionFacts(tuple(self.unique("id")), tuple(self.unique("name")), tuple(roles))

    def pairs(self, facts: InteractionFacts, categories: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, int], ...]:
        """Verb and category of each row of the section ``hois``."""
        verbs, classes = self.integers("verb_id").tolist(), self.integers("category_id").tolist()
        known = {int(row["id"]) for row in categories}
        self.unique("id")
        for row, (verb, category) in enumerate(zip(verbs, classes, strict=True)):
            if verb not in facts.verb_ids or category not in known:
                self.fail(row, f"the verb {verb} or the category {category} is unknown")
            if "rare" in self.records[row] and not isinstance(self.records[row]["rare"], bool):
                self.refuse(row, "rare", "true or false")
        return tuple(zip(verbs, classes, strict=True))

    def targets(self, facts: InteractionFacts, verb_rows: Ids) -> Ids:
        """(P, R) the annotation ids of the section ``interactions``."""
        targets = np.full((len(self.records), max(map(len, facts.roles))), NOTHING)
        for row, (record, verb) in enumerate(zip(self.records, verb_rows.tolist(), strict=True)):
            given, roles = record.get("targets", {}), facts.roles[verb]
            if not isinstance(given, dict) or not set(given) <= set(roles):
                self.refuse(row, "targets", f"a mapping of the roles {', '.join(roles) or '(none)'}")
            for role, target in given.items():
                if target is not None and (not is_whole(target) or target is True):
                    self.refuse(row, "targets", "ids of annotations or null")
                targets[row, roles.index(role)] = NOTHING if target is None else target
        return targets


def _check_annotations(
    table: InteractionTable, rows: _Columns, ids: Ids, image_ids: Ids, category_ids: Ids, humans: set[int]
) -> None:
    """Raise `UserError` where an interaction is not of a known human and of objects of its image, or stands twice."""
    of_id = {number: row for row, number in enumerate(ids.tolist())}
    hois = {int(hoi["id"]): int(hoi["verb_id"]) for hoi in table.hois}
    seen = set()
    for row, (image, human) in enumerate(zip(table.image_ids.tolist(), table.human_ids.tolist(), strict=True)):
        hoi, verb = int(table.hoi_ids[row]), table.facts.verb_ids[table.verb_rows[row]]
        if hoi != NOTHING and hois.get(hoi) != verb:
            rows.refuse(row, "hoi_id", "the id of one of 'hois' that has the same verb")
        if human == NOTHING:
            if table.visible[row]:
                rows.refuse(row, "human_id", "the id of a human, where visible is not false")
            continue
        annotation = of_id.get(human, -1)
        if (
            annotation < 0
            or image_ids[annotation] != image
            or category_ids[annotation] not in humans
            or not table.known[annotation]
        ):
            rows.refuse(row, "human_id", f"an annotation of image {image} that is a person with verbs_known true")
        targets = tuple(table.targets[row].tolist())
        for target in targets:
            if target != NOTHING and (target not in of_id or image_ids[of_id[target]] != image):
                rows.fail(row, f"the target {target} is no annotation of image {image}")
        key = (human, verb, *(() if hoi == NOTHING else targets))
        if key in seen:
            rows.fail(row, f"human {human} has the verb {verb} in another row too")
        seen.add(key)


def _strange(table: InteractionTable, ids: Ids, category_ids: Ids) -> int:
    """How many targets are of a category that their role does not include."""
    category_of = dict(zip(ids.tolist(), category_ids.tolist(), strict=True))
    include = [[set(role.get("include", ())) for role in verb["roles"]] for verb in table.verbs]
    return sum(
        target != NOTHING and bool(include[verb][role]) and category_of[target] not in include[verb][role]
        for verb, targets in zip(table.verb_rows.tolist(), table.targets.tolist(), strict=True)
        for role, target in enumerate(targets)
        if role < len(include[verb])
    )
