"""HICO-DET (Chao et al., Learning to Detect Human-Object Interactions, 2018): pairs of boxes for 600 classes of verb and object.

``anno.mat`` says which classes an image shows, ``anno_bbox.mat`` has their boxes. The boxes of each class of an image were drawn
apart (a group): one person under two classes is two annotations. The dictionary is COCO's with verbs, interactions and ``hois``
(`boxwood.data.interactions`); nothing that the files say is lost in it but nested descriptions of classes, which are counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood import safe_matlab
from boxwood.columns import is_number, short
from boxwood.data.formats.reading import Reading, descriptions
from boxwood.errors import UserError
from boxwood.files import make_folder

__all__ = ["RARE", "TEST_IDS", "is_hico", "read_hico", "write_hico"]

RARE = 10
"""Classes with fewer pairs in training are rare."""
TEST_IDS = 1_000_000
"""Added to the number in the name of a test image."""
SPLITS = ("train", "test")
BOX = ("x1", "x2", "y1", "y2")
KINDS = {"positive": 1, "negative": -1, "ambiguous": 0}
"""The numbers of anno.mat."""


def is_hico(folder: Path) -> bool:
    """Whether a folder has HICO-DET's two files."""
    return (folder / "anno.mat").is_file() and (folder / "anno_bbox.mat").is_file()


def read_hico(folder: Path, split: str | None = None) -> Reading:
    """Read the folder with ``anno.mat`` and ``anno_bbox.mat``; ``split`` is train or test, None both.

    Image ids are the numbers in the file names, of test images ``TEST_IDS`` more. Raises `UserError` where a file is missing or
    malformed, or scipy is not installed.
    """
    if split not in (None, *SPLITS):
        raise UserError(f"{folder}: has no part '{split}'; choose train or test")
    labels = _load(folder / "anno.mat", ("list_action", *(f"{name}_{part}" for name in ("list", "anno") for part in SPLITS)))
    boxes = _load(folder / "anno_bbox.mat", [f"bbox_{part}" for part in SPLITS])
    lost: Counter[str] = Counter()
    where = folder / "anno.mat"
    actions = [_action(where, number, row, lost) for number, row in enumerate(_rows(labels, "list_action", where), start=1)]
    verbs = {name: number for number, name in enumerate(sorted({row["vname"] for row in actions}), start=1)}
    categories = _categories_of([row["nname"] for row in actions])
    builder = _Builder(folder / "anno_bbox.mat", [(verbs[row["vname"]], categories[row["nname"]]) for row in actions])
    for part in SPLITS:
        if split in (None, part):
            builder.add_split(part, _rows(boxes, f"bbox_{part}", builder.where), _image_labels(labels, part, where, len(actions)))
    pairs = Counter[int]() if split == "test" else builder.train_pairs
    if split == "test":
        for image in _rows(boxes, "bbox_train", builder.where):
            for hoi in _many(_of(image, "hoi", builder.where)):
                pairs[int(_number(hoi, "id", builder.where))] += len(_connections(hoi, builder.where)) * (not hoi.get("invis"))
    hois = [
        {"id": number, "verb_id": verbs[row["vname"]], "category_id": categories[row["nname"]], "train_pairs": pairs[number]}
        | {"rare": pairs[number] < RARE, "fields": {key: value for key, value in row.items() if key not in ("vname", "nname")}}
        for number, row in enumerate(actions, start=1)
    ]
    coco = {
        "images": builder.images,
        "annotations": builder.annotations,
        "categories": [
            {"id": number, "name": name.replace("_", " "), "hico_name": name}
            for name, number in sorted(categories.items(), key=lambda item: item[1])
        ],
        "verbs": [{"id": number, "name": name, "roles": [{"name": "obj", "include": []}]} for name, number in verbs.items()],
        "interactions": builder.interactions,
        "hois": hois,
    }
    return Reading(coco, None, descriptions(lost))


def write_hico(coco: Mapping[str, Any], folder: Path) -> list[str]:
    """Write ``anno.mat`` and ``anno_bbox.mat`` as HICO-DET's programs read them; their ids or names say of which split images are.
    Returns descriptions of what these files cannot hold. Raises `UserError` where there are no ``hois``, or scipy is not installed.
    """
    if not coco.get("hois"):
        raise UserError(f"{folder}: HICO-DET's files need the classes of verb and object, and the source has no 'hois'; add them")
    if [hoi["id"] for hoi in coco["hois"]] != list(range(1, len(coco["hois"]) + 1)):
        raise UserError(f"{folder}: the ids of 'hois' must be 1, 2, ... in this order, as HICO-DET's are; correct the source")
    names = {category["id"]: category.get("hico_name", category["name"].replace(" ", "_")) for category in coco["categories"]}
    verbs = {verb["id"]: verb["name"] for verb in coco["verbs"]}
    if wrong := [hoi["id"] for hoi in coco["hois"] if not isinstance(hoi.get("fields", {}), dict)]:
        raise UserError(f"{folder}: 'fields' of class {wrong[0]} in 'hois' must be a mapping of names to texts; correct the source")
    actions = [
        {"nname": names[hoi["category_id"]], "vname": verbs[hoi["verb_id"]], **hoi.get("fields", {})} for hoi in coco["hois"]
    ]
    images = {part: [image for image in coco["images"] if _split_of(image) == part] for part in SPLITS}
    labels: dict[str, Any] = {"list_action": _structs(actions).T}
    boxes: dict[str, Any] = {"list_action": labels["list_action"]}
    grouped = _grouped(coco)
    lost: Counter[str] = Counter()
    for part, rows in images.items():
        labels[f"list_{part}"] = np.array([row["file_name"].rpartition("/")[2] for row in rows], dtype=object).reshape(-1, 1)
        structs = [_image_struct(row, grouped.get(row["id"], {}), _checked_labels(row, len(actions))) for row in rows]
        labels[f"anno_{part}"] = _label_table(rows, len(actions))
        boxes[f"bbox_{part}"] = _structs(structs, ("filename", "size", "hoi"))
    lost["crowd regions' marks"] = sum(bool(row.get("iscrowd")) for row in coco["annotations"])
    make_folder(folder)
    safe_matlab.write(folder / "anno.mat", labels)
    safe_matlab.write(folder / "anno_bbox.mat", boxes)
    return descriptions(lost)


# --------------------------------------------------------------------------------------------------------------- reading


class _Builder:
    """Rows of the COCO dictionary, image after image."""

    def __init__(self, where: Path, hois: Sequence[tuple[int, int]]) -> None:
        self.where, self.hois = where, hois
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.interactions: list[dict[str, Any]] = []
        self.train_pairs: Counter[int] = Counter()

    def add_split(self, part: str, rows: Sequence[Mapping[str, Any]], labels: Mapping[str, Mapping[str, list[int]]]) -> None:
        names = [str(_of(row, "filename", self.where)) for row in rows]
        if different := set(names) ^ labels.keys():
            raise UserError(
                f"{self.where}: '{min(different):.80}' of the {part} images is in one of anno.mat and anno_bbox.mat alone; "
                "copy both files again"
            )
        if len(set(names)) < len(names):
            raise UserError(f"{self.where}: lists an image of bbox_{part} twice; copy the file again")
        by_name = dict(zip(names, rows, strict=True))
        for name in labels:  # the order of anno.mat, in which results are written
            self._add_image(part, name, by_name[name], dict(labels[name]))

    def _add_image(self, part: str, name: str, row: Mapping[str, Any], hois: dict[str, Any]) -> None:
        digits = re.search(r"(\d{1,9})\.[^.]*$", name)
        if digits is None:
            raise UserError(f"{self.where}: '{name:.80}': the name of an image must end in its number; copy the file again")
        image_id = int(digits[1]) + (TEST_IDS if part == "test" else 0)
        size = _of(row, "size", self.where)
        width, height, depth = (int(_number(size, key, self.where)) for key in ("width", "height", "depth"))
        groups = []
        for group, hoi in enumerate(_many(_of(row, "hoi", self.where))):
            number = int(_number(hoi, "id", self.where))
            if not 1 <= number <= len(self.hois):
                raise UserError(f"{self.where}: image '{name:.80}': class {number} is none of the {len(self.hois)}; copy the file")
            groups.append({"hoi_id": number, "invisible": int(bool(np.any(hoi.get("invis", 0))))})
            self._add_group(part, image_id, group, number, hoi, groups[-1]["invisible"])
        self.images.append(
            {
                "id": image_id,
                "file_name": name,
                "height": height,
                "width": width,
                "hois": {**hois, "groups": groups, "depth": depth},
            }
        )

    def _add_group(self, part: str, image_id: int, group: int, number: int, hoi: Mapping[str, Any], invisible: int) -> None:
        verb_id, category_id = self.hois[number - 1]
        of_role = []
        for key, category, known in (("bboxhuman", 1, True), ("bboxobject", category_id, False)):
            ids = []
            for box in _many(hoi.get(key)):
                x1, x2, y1, y2 = (_number(box, side, self.where) for side in BOX)
                corner = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
                annotation = {"id": len(self.annotations) + 1, "image_id": image_id, "category_id": category, "bbox": corner}
                annotation |= {"area": corner[2] * corner[3], "iscrowd": 0, "group": group}
                self.annotations.append(annotation | ({"verbs_known": True} if known else {}))
                ids.append(annotation["id"])
            of_role.append(ids)
        humans, objects = of_role
        common = {"image_id": image_id, "verb_id": verb_id, "hoi_id": number, "group": group}
        if invisible:
            self._add_interaction({**common, "human_id": None, "targets": {"obj": None}, "visible": False})
        for human, target in _connections(hoi, self.where):
            if not (1 <= human <= len(humans) and 1 <= target <= len(objects)):
                raise UserError(
                    f"{self.where}: image id {image_id}: connection {human}, {target} has no boxes; copy the file again"
                )
            self._add_interaction(
                {**common, "human_id": humans[human - 1], "targets": {"obj": objects[target - 1]}, "visible": not invisible}
            )
            self.train_pairs[number] += int(part == "train" and not invisible)

    def _add_interaction(self, row: dict[str, Any]) -> None:
        self.interactions.append({"id": len(self.interactions) + 1, **row})


def _load(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """A MATLAB file as dictionaries, lists and arrays."""
    return safe_matlab.read(
        path, names, "name the folder of HICO-DET's anno.mat and anno_bbox.mat, or copy it again", simplify=True
    )


def _many(value: Any) -> list[Any]:
    """A MATLAB array of structures, which scipy gives as a list, as one of them, or as an empty array."""
    if isinstance(value, dict):
        return [value]
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list | np.ndarray) else []


def _rows(content: Mapping[str, Any], key: str, where: Path) -> list[Any]:
    if key not in content:
        raise UserError(f"{where}: holds no '{key}'; name HICO-DET's file")
    return _many(content[key])


def _of(row: Mapping[str, Any], key: str, where: Path) -> Any:
    if key not in row:
        raise UserError(f"{where}: an image or class lacks '{key}'; copy the file again")
    return row[key]


def _number(row: Any, key: str, where: Path) -> float:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, int | float | np.number) or not abs(float(value)) < 1e6:
        raise UserError(f"{where}: '{key}' must be a number below a million, got {short(value)}; copy the file again")
    return float(value) if float(value) % 1 else int(value)


def _connections(hoi: Mapping[str, Any], where: Path) -> list[tuple[int, int]]:
    table = np.asarray(hoi.get("connection", ()))
    if table.size % 2 or (table.size and table.dtype.kind not in "iuf"):
        raise UserError(f"{where}: 'connection' must be pairs of numbers, got {short(table.tolist())}; copy the file again")
    return [(int(human), int(target)) for human, target in table.reshape(-1, 2).tolist()]


def _action(where: Path, number: int, row: Mapping[str, Any], lost: Counter[str]) -> dict[str, str]:
    if not all(isinstance(row.get(key), str) and row[key] for key in ("nname", "vname")):
        raise UserError(
            f"{where}: class {number} of 'list_action' must name its object and verb (nname, vname); copy the file again"
        )
    texts = {key: value for key, value in row.items() if isinstance(value, str)}
    for key in row.keys() - texts.keys():
        lost[f"'{key:.40}' of classes"] += 1
    return texts


def _categories_of(names: Iterable[str]) -> dict[str, int]:
    """The ids of HICO's objects: COCO's, and from 91 on those of others."""
    from boxwood.data.known_classes import COCO  # it needs torch

    known = dict(zip(COCO.names, COCO.ids, strict=True))
    others = sorted({name for name in names if name.replace("_", " ") not in known} - {"person"})
    ids = {name: known[name.replace("_", " ")] for name in names if name not in others} | {"person": 1}
    return ids | {name: number for number, name in enumerate(others, start=91)}


def _image_labels(content: Mapping[str, Any], part: str, where: Path, count: int) -> dict[str, dict[str, list[int]]]:
    """Of each image by its name the classes that it shows, does not show, and where it is not clear; of all others nobody knows."""
    names = [str(name) for name in np.atleast_1d(np.asarray(content.get(f"list_{part}", ()), dtype=object)).ravel()]
    table = np.asarray(content.get(f"anno_{part}", ()))
    if table.size != count * len(names) or (table.size and table.dtype.kind not in "iuf"):
        raise UserError(
            f"{where}: expected 'anno_{part}' of {count} x {len(names)} numbers, got {list(table.shape)}; copy the file"
        )
    table = table.reshape(count, len(names))
    labels = {
        name: {kind: (np.flatnonzero(table[:, place] == value) + 1).tolist() for kind, value in KINDS.items()}
        for place, name in enumerate(names)
    }
    if len(labels) < len(names):
        raise UserError(f"{where}: lists an image of list_{part} twice; copy the file again")
    return labels


# --------------------------------------------------------------------------------------------------------------- writing


def _split_of(image: Mapping[str, Any]) -> str:
    return "test" if image["id"] >= TEST_IDS or "test" in image["file_name"] else "train"


def _grouped(coco: Mapping[str, Any]) -> dict[int, dict[int, dict[str, list[Any]]]]:
    """By image and group the annotations of humans and objects, and the interactions."""
    grouped: dict[int, dict[int, dict[str, list[Any]]]] = {}

    def of(row: Mapping[str, Any]) -> dict[str, list[Any]]:
        groups, number = grouped.setdefault(row["image_id"], {}), row.get("group", 0)
        if type(number) is not int:
            raise UserError(f"image id {row['image_id']}: 'group' must be a whole number, got {short(number)}; correct the file")
        return groups.setdefault(number, {"humans": [], "objects": [], "interactions": []})

    for row in coco["annotations"]:
        of(row)["humans" if row.get("verbs_known") else "objects"].append(row)
    for row in coco["interactions"]:
        of(row)["interactions"].append(row)
    return grouped


def _checked_labels(image: Mapping[str, Any], count: int) -> Mapping[str, Any]:
    """``hois`` of an image. Raises `UserError` where it lacks the class of a group of boxes, or names an unknown class."""
    labels = image.get("hois")
    groups = labels.get("groups") if isinstance(labels, dict) else None
    if not isinstance(groups, list) or not all(isinstance(block, dict) and block.get("invisible") in (0, 1) for block in groups):
        raise UserError(
            f"image id {image['id']}: lacks 'hois.groups', for each group of boxes its 'hoi_id' and 'invisible', 0 or 1; add them"
        )
    if not is_number((labels or {}).get("depth", 3)):
        raise UserError(
            f"image id {image['id']}: 'hois.depth' must be a number, got {short((labels or {})['depth'])}; correct the file"
        )
    named = [block.get("hoi_id") for block in groups]
    for kind in KINDS:
        numbers = (labels or {}).get(kind, [])
        if not isinstance(numbers, list):
            raise UserError(
                f"image id {image['id']}: 'hois.{kind}' must list ids of classes, got {short(numbers)}; correct the file"
            )
        named += numbers
    if wrong := [number for number in named if type(number) is not int or not 1 <= number <= count]:
        raise UserError(f"image id {image['id']}: 'hois' names the class {short(wrong[0])} of {count}; correct the file")
    return labels or {}


def _image_struct(
    image: Mapping[str, Any], groups: Mapping[int, Mapping[str, list[Any]]], labels: Mapping[str, Any]
) -> dict[str, Any]:
    blocks, hois = labels["groups"], []
    if lost := sorted(set(groups) - set(range(len(blocks)))):
        raise UserError(f"image id {image['id']}: has boxes of group {lost[0]} of {len(blocks)}; correct 'hois.groups'")
    for number, block in enumerate(blocks):
        group = groups.get(number, {"humans": [], "objects": [], "interactions": []})
        humans, objects = ([row["id"] for row in group[key]] for key in ("humans", "objects"))
        named = [row for row in group["interactions"] if row.get("human_id") is not None]
        if any(row["human_id"] not in humans or row["targets"].get("obj") not in objects for row in named):
            raise UserError(f"image id {image['id']}: an interaction of group {number} has boxes of others; correct it")
        pairs = [(humans.index(row["human_id"]) + 1, objects.index(row["targets"]["obj"]) + 1) for row in named]
        hois.append(
            {
                "id": float(block["hoi_id"]),
                "bboxhuman": _box_structs(group["humans"]),
                "bboxobject": _box_structs(group["objects"]),
                "connection": np.array(pairs, dtype=np.float64).reshape(-1, 2),
                "invis": float(block["invisible"]),
            }
        )
    size = {"width": float(image["width"]), "height": float(image["height"]), "depth": float(labels.get("depth", 3))}
    fields = ("id", "bboxhuman", "bboxobject", "connection", "invis")
    return {"filename": image["file_name"].rpartition("/")[2], "size": size, "hoi": _structs(hois, fields)}


def _box_structs(rows: Sequence[Mapping[str, Any]]) -> NDArray[Any]:
    boxes = []
    for row in rows:
        x, y, width, height = (float(number) for number in row["bbox"])
        boxes.append({"x1": x + 1, "x2": x + width, "y1": y + 1, "y2": y + height})
    return _structs(boxes, BOX)


def _structs(rows: Sequence[Mapping[str, Any]], fields: Sequence[str] | None = None) -> NDArray[Any]:
    """(1, n) structures with the same fields, as MATLAB has them."""
    fields = fields or list(dict.fromkeys(key for row in rows for key in row))
    table = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    for place, row in enumerate(rows):
        table[0, place] = tuple(row.get(field, "") for field in fields)
    return table


def _label_table(images: Sequence[Mapping[str, Any]], count: int) -> NDArray[np.float64]:
    table = np.full((count, len(images)), np.nan)
    for column, image in enumerate(images):
        for kind, value in KINDS.items():
            table[np.array(image.get("hois", {}).get(kind, ()), dtype=np.int64) - 1, column] = value
    return table
