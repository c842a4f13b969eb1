"""The classes of a COCO file and the keypoints that they name, checked and as `Categories`."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from boxwood.columns import are_numbers, is_number, is_whole, short
from boxwood.data.coco_file import CocoFile
from boxwood.errors import UserError
from boxwood.structures import Categories, KeypointFacts

__all__ = ["KeypointDeclaration", "categories_of", "keypoint_declaration", "keypoint_facts", "skeleton_edges"]

_PERSON_SIGMAS = {
    "nose": 0.026,
    "eye": 0.025,
    "ear": 0.035,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
}
"""The OKS constants of COCO's 17 keypoints (cocodataset.org, keypoints evaluation), by name without its side."""
_SIGMA = 0.05
"""The OKS constant of all other keypoints."""


@dataclass(frozen=True)
class KeypointDeclaration:
    """The keypoints that a category names."""

    names: tuple[str, ...] = ()
    """Empty where it names none."""
    skeleton: tuple[tuple[int, int], ...] = ()
    """Pairs of indices, counted from 0."""
    sigmas: tuple[float, ...] = ()
    problem: str = ""
    """Why they cannot be used."""
    reading: str = ""
    """In what other way than COCO's the skeleton is written, where it is read."""


def keypoint_facts(
    names: tuple[str, ...], skeleton: tuple[tuple[int, int], ...] = (), sigmas: tuple[float, ...] = ()
) -> KeypointFacts:
    """Keypoints by their names: those with ``left`` and ``right`` swap in a mirror image; COCO's 17 have published sigmas.

    >>> facts = keypoint_facts(("nose", "left_eye", "right_eye"))
    >>> facts.flip, facts.sigmas
    ((0, 2, 1), (0.05, 0.05, 0.05))
    """
    index = {name: i for i, name in enumerate(names)}
    flip = tuple(index.get(_other_side(name), i) for i, name in enumerate(names))
    if not sigmas:
        parts = [re.sub(r"^(left|right)_", "", name) for name in names]
        is_person = len(names) == 17 and set(parts) == set(_PERSON_SIGMAS)
        sigmas = tuple(_PERSON_SIGMAS[part] if is_person else _SIGMA for part in parts)
    return KeypointFacts(names, flip, skeleton, sigmas)


def categories_of(file: CocoFile) -> Categories:
    """The classes in the order of their ids, so that train and val agree even if their files have other orders.

    Raises `UserError` where what a category says of keypoints cannot be used (`keypoint_declaration`).
    """
    facts = None if file.interactions is None else file.interactions.facts
    rows = sorted(file.categories, key=lambda category: int(category["id"]))
    ids, names = tuple(int(row["id"]) for row in rows), tuple(str(row["name"]) for row in rows)
    declared = [keypoint_declaration(row) for row in rows]
    for name, declaration in zip(names, declared, strict=True):
        if declaration.problem:
            raise UserError(f"{file.path}: category '{name}': {declaration.problem}; correct the file")
    declared = [declaration for declaration in declared if declaration.names]
    num_given = file.keypoints.shape[1] // 3
    if not declared or any(other.names != declared[0].names for other in declared) or len(declared[0].names) != num_given:
        return Categories(ids, names, interactions=facts)  # `boxwood.data.quality.keypoints` reports what differs.
    skeleton = next((declaration.skeleton for declaration in declared if declaration.skeleton), ())
    sigmas = next((declaration.sigmas for declaration in declared if declaration.sigmas), ())
    return Categories(ids, names, keypoint_facts(declared[0].names, skeleton, sigmas), facts)


def keypoint_declaration(category: dict[str, Any]) -> KeypointDeclaration:
    """What a category says of keypoints: ``keypoints`` (their names), ``skeleton`` (the pairs to draw), ``sigmas``.

    >>> keypoint_declaration({"keypoints": ["tip", "end"], "skeleton": [[1, 2]]}).skeleton
    ((0, 1),)
    >>> keypoint_declaration({"keypoints": 2}).problem
    "'keypoints' must be the list of their names, got 2"
    """
    names, skeleton, sigmas = (category.get(key) or [] for key in ("keypoints", "skeleton", "sigmas"))
    if not isinstance(names, list) or not all((isinstance(name, str) and name) or _is_index(name) for name in names):
        return KeypointDeclaration(problem=f"'keypoints' must be the list of their names, got {short(names)}")
    names = tuple(str(name) for name in names)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        return KeypointDeclaration(problem=f"'keypoints' has the name {short(twice[0])} twice")
    if not names:
        return KeypointDeclaration()
    try:
        edges, reading = skeleton_edges(skeleton, names)
    except ValueError as error:
        return KeypointDeclaration(problem=str(error))
    if sigmas and not (isinstance(sigmas, list) and len(sigmas) == len(names) and are_numbers(sigmas) and min(sigmas) > 0):
        return KeypointDeclaration(
            problem=f"'sigmas' must be a positive number for each of {len(names)} keypoints, got {short(sigmas)}"
        )
    return KeypointDeclaration(names, edges, tuple(map(float, sigmas)), reading=reading)


def skeleton_edges(skeleton: Any, names: tuple[str, ...]) -> tuple[tuple[tuple[int, int], ...], str]:
    """Pairs of indices, counted from 0, and in what other way than COCO's the skeleton is written: names in place of numbers, no
    lists of two, or numbers counted from 0, which is sure where 0 occurs.

    Raises ValueError where it cannot be read.

    >>> skeleton_edges([[1, 2]], ("tip", "end")), skeleton_edges([[0, 1]], ("tip", "end"))
    ((((0, 1),), ''), (((0, 1),), 'counted from 0'))
    """
    wrong = ValueError(f"'skeleton' must be pairs of numbers from 1 to {len(names)}, got {short(skeleton)}")
    readings = []
    if not isinstance(skeleton, list):
        raise wrong
    if skeleton and not any(isinstance(edge, list) for edge in skeleton) and len(skeleton) % 2 == 0:
        skeleton = [skeleton[i : i + 2] for i in range(0, len(skeleton), 2)]
        readings.append("not in lists of two")
    if not all(isinstance(edge, list) and len(edge) == 2 for edge in skeleton):
        raise wrong
    ends = [end for edge in skeleton for end in edge]
    if ends and all(isinstance(end, str) and end in names for end in ends):
        ends = [names.index(end) + 1 for end in ends]
        readings.append("by the names of the keypoints")
    if not all(map(_is_index, ends)):
        raise wrong
    ends = [int(end) for end in ends]
    if 0 in ends and max(ends) < len(names):
        ends = [end + 1 for end in ends]
        readings.append("counted from 0")
    if not all(1 <= end <= len(names) for end in ends):
        raise wrong
    return tuple((ends[i] - 1, ends[i + 1] - 1) for i in range(0, len(ends), 2)), " and ".join(readings)


# ------------------------------------------------------------------------------------------------------------ internals


def _is_index(value: Any) -> bool:
    return not isinstance(value, bool) and is_number(value) and is_whole(value)


def _other_side(name: str) -> str:
    swap = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}
    return re.sub(r"left|right|Left|Right|LEFT|RIGHT", lambda side: swap[side.group()], name)
