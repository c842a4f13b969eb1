"""V-COCO (Gupta and Malik, Visual Semantic Role Labeling, 2015): verbs of COCO's persons, and the objects of each verb's roles.

Its files name annotations of COCO's. The dictionary that is made of both is COCO's with verbs and interactions
(`boxwood.data.interactions`); nothing of V-COCO's is lost in it, and `write_vcoco` makes the files again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boxwood.columns import is_whole, read_json, short
from boxwood.data.coco_file import coco_file_of, read_coco_tree
from boxwood.data.formats.reading import Reading, descriptions
from boxwood.errors import UserError
from boxwood.files import make_folder, write_text

__all__ = ["is_vcoco", "read_vcoco", "write_vcoco"]

KEYS = ("action_name", "role_name", "include", "image_id", "ann_id", "label", "role_object_id")
INSTANCES = "instances_vcoco_all_2014.json"
"""V-COCO's name of the COCO file of its images, which its program ``script_pick_annotations.py`` makes."""


def is_vcoco(source: Path) -> bool:
    """Whether a .json file is named as V-COCO's are and holds a list, which no COCO file does."""
    try:
        with source.open("rb") as file:
            return source.stem.startswith("vcoco_") and file.read(64).lstrip()[:1] == b"["
    except OSError:
        return False


def read_vcoco(source: Path, instances: Path | None = None) -> Reading:
    """Read a file such as ``vcoco_test.json``, the COCO file of its images, and the list of the images of the split.

    ``instances`` is that COCO file; None: ``instances_vcoco_all_2014.json`` in the folder of ``source`` or the one above. The list
    is ``NAME.ids`` beside ``source`` or in ``../splits``; without one, images without listed persons are left out.

    Raises `UserError` where a file is missing or malformed, or names persons or objects that the COCO file lacks.
    """
    verbs = read_json(source, "name a file of V-COCO such as vcoco_test.json")
    if not isinstance(verbs, list) or not verbs or not all(isinstance(verb, dict) for verb in verbs):
        raise UserError(f"{source}: is no file of V-COCO, which is a list of verbs; name one such as vcoco_test.json")
    coco_path = instances or _instances_of(source)
    tree = read_coco_tree(coco_path)
    coco_file_of(tree, coco_path)  # which refuses malformed rows
    names = {category["name"]: category["id"] for category in tree["categories"]}
    if not all("id" in row for row in tree["annotations"]):
        raise UserError(
            f"{coco_path}: an annotation has no 'id', by which V-COCO's files name it; name the COCO file of its images"
        )
    of_annotation = {row["id"]: row for row in tree["annotations"]}
    tables = [_Verb(source, number, verb, of_annotation, names) for number, verb in enumerate(verbs)]
    for table in tables[1:]:
        if table.persons != tables[0].persons:
            table.refuse(f"lists other persons than '{tables[0].name}'", "each verb must list the same ones in the same order")
    persons = set(tables[0].persons)
    images = _split(source) or {of_annotation[person]["image_id"] for person in persons}
    if strangers := sorted({of_annotation[person]["image_id"] for person in persons} - images):
        raise UserError(f"{source}: image id {strangers[0]} is not in the list of the split; copy both files of one split")
    if missing := sorted(images - {image["id"] for image in tree["images"]}):
        raise UserError(
            f"{source}: the COCO file lacks {len(missing)} images, such as id {missing[0]}; name the one of these images"
        )
    interactions = [row for table in tables for row in table.interactions(of_annotation)]
    annotations = [row for row in tree["annotations"] if row["image_id"] in images]
    coco = {
        **tree,
        "images": [image for image in tree["images"] if image["id"] in images],
        "annotations": [{**row, "verbs_known": True} if row["id"] in persons else row for row in annotations],
        "verbs": [{"id": table.number + 1, "name": table.name, "roles": table.roles} for table in tables],
        "interactions": [{"id": number, **row} for number, row in enumerate(interactions, start=1)],
    }
    return Reading(coco, None)


def write_vcoco(coco: Mapping[str, Any], folder: Path, split: str) -> list[str]:
    """Write ``vcoco/vcoco_SPLIT.json``, ``splits/vcoco_SPLIT.ids`` and ``instances_vcoco_all_2014.json`` as V-COCO's programs read
    them; returns descriptions of what these files cannot hold."""
    names = {category["id"]: category["name"] for category in coco["categories"]}
    persons = [row for row in coco["annotations"] if row.get("verbs_known")]
    lost: Counter[str] = Counter()
    targets: dict[tuple[int, int], Mapping[str, int | None]] = {}
    for row in coco["interactions"]:
        if row.get("human_id") is None or not row.get("visible", True):
            lost["interactions without a human"] += 1
        elif (row["human_id"], row["verb_id"]) in targets:
            lost["further objects of one person and verb"] += 1
        else:
            targets[row["human_id"], row["verb_id"]] = row["targets"]
    verbs = []
    for verb in coco["verbs"]:
        done = [targets.get((person["id"], verb["id"])) for person in persons]
        roles = [role["name"] for role in verb["roles"]]
        objects = [[(found or {}).get(role) or 0 for found in done] for role in roles]
        verbs.append(
            {
                "image_id": [person["image_id"] for person in persons],
                "ann_id": [person["id"] for person in persons],
                "role_object_id": [number for column in ([p["id"] for p in persons], *objects) for number in column],
                "label": [int(found is not None) for found in done],
                "action_name": verb["name"],
                "role_name": ["agent", *roles],
                "include": [[], *([names[number] for number in role.get("include", ())] for role in verb["roles"])],
            }
        )
    lost["descriptions of HICO-DET's classes"] = len(coco.get("hois", ()))
    instances = {key: rows for key, rows in coco.items() if key not in ("verbs", "interactions", "hois")}
    instances["annotations"] = [{k: v for k, v in row.items() if k != "verbs_known"} for row in coco["annotations"]]
    for part in ("vcoco", "splits"):
        make_folder(folder / part)
    write_text(folder / INSTANCES, json.dumps(instances, ensure_ascii=False) + "\n")
    write_text(
        folder / "splits" / f"vcoco_{split}.ids", "".join(f"{number}\n" for number in sorted(i["id"] for i in coco["images"]))
    )
    write_text(folder / "vcoco" / f"vcoco_{split}.json", json.dumps(verbs, ensure_ascii=False) + "\n")
    return descriptions(lost)


# ------------------------------------------------------------------------------------------------------------ internals


class _Verb:
    """One element of V-COCO's list, checked."""

    def __init__(
        self, source: Path, number: int, verb: Mapping[str, Any], annotations: Mapping[int, Any], categories: Mapping[str, int]
    ) -> None:
        self.source, self.number, self.name = source, number, str(verb.get("action_name", ""))
        if missing := [key for key in KEYS if not isinstance(verb.get(key), str if key == "action_name" else list)]:
            self.refuse(f"'{missing[0]}' must be {'a text' if missing[0] == 'action_name' else 'a list'}")
        names, include = verb["role_name"], verb["include"]
        if names[:1] != ["agent"] or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            self.refuse(f"'role_name' must be 'agent' and other names, got {short(names)}")
        if len(include) != len(names) or not all(isinstance(allowed, list) for allowed in include):
            self.refuse(f"'include' must be {len(names)} lists of names of categories, got {short(include)}")
        if unknown := [name for allowed in include for name in allowed if not isinstance(name, str) or name not in categories]:
            self.refuse(f"'include' names {short(unknown[0])}, which the COCO file lacks")
        pairs = zip(names[1:], include[1:], strict=True)
        self.roles = [{"name": name, "include": [categories[category] for category in allowed]} for name, allowed in pairs]
        self.persons, self.labels = self._column(verb, "ann_id"), self._column(verb, "label")
        images, flat = self._column(verb, "image_id"), self._column(verb, "role_object_id")
        count = len(self.persons)
        if len(images) != count or len(self.labels) != count or len(flat) != count * len(names):
            self.refuse(f"expected {count} images and labels and {count * len(names)} objects of roles for {count} persons")
        if twice := [person for person, times in Counter(self.persons).items() if times > 1]:
            self.refuse(f"lists person {twice[0]} twice")
        for person, image in zip(self.persons, images, strict=True):
            if person not in annotations or annotations[person]["image_id"] != image:
                self.refuse(f"person {person} of image id {image} is not in the COCO file")
        self.objects = (
            [flat[start : start + count] for start in range(count, len(flat), count)] if count else [[] for _ in names[1:]]
        )
        if flat[:count] != self.persons:
            self.refuse("'role_object_id' must begin with the persons themselves")

    def refuse(self, problem: str, advice: str = "copy the file again") -> None:
        """Raise `UserError` that names the file and the verb."""
        raise UserError(f"{self.source}: verb {self.number} '{self.name:.40}': {problem}; {advice}")

    def _column(self, verb: Mapping[str, Any], key: str) -> list[int]:
        values: Sequence[Any] = verb[key]
        if wrong := [value for value in values if isinstance(value, bool) or not is_whole(value)]:
            self.refuse(f"'{key}' must be whole numbers, got {short(wrong[0])}")
        return [int(value) for value in values]

    def interactions(self, annotations: Mapping[int, Any]) -> list[dict[str, Any]]:
        """One for each person who does the verb."""
        rows = []
        for place, (person, label) in enumerate(zip(self.persons, self.labels, strict=True)):
            objects = [column[place] or None for column in self.objects]
            image = annotations[person]["image_id"]
            if label not in (0, 1) or (not label and any(objects)):
                self.refuse(f"person {person}: expected the label 1, or 0 and no object, got {label} and {short(objects)}")
            for number in objects:
                if number is not None and (number not in annotations or annotations[number]["image_id"] != image):
                    self.refuse(f"person {person}: the object {number} is no annotation of image id {image}")
            if label:
                targets = {role["name"]: number for role, number in zip(self.roles, objects, strict=True)}
                rows.append({"image_id": image, "human_id": person, "verb_id": self.number + 1, "targets": targets})
        return rows


def _instances_of(source: Path) -> Path:
    for folder in (source.parent, source.parent.parent):
        if (path := folder / INSTANCES).is_file():
            return path
    raise UserError(f"{source}: no {INSTANCES} lies beside it or above; name the COCO file of its images with --instances")


def _split(source: Path) -> set[int] | None:
    """The images of the split, or None where there is no list of them."""
    for folder in (source.parent, source.parent.parent / "splits"):
        path = folder / f"{source.stem}.ids"
        if path.is_file():
            words = path.read_text(encoding="utf-8", errors="replace").split()
            if wrong := [word for word in words if not (word.isascii() and word.isdecimal() and len(word) < 19)]:
                raise UserError(f"{path}: expected an image id a line, got {short(wrong[0])}; copy the file again")
            return set(map(int, words))
    return None
