"""Predicted interactions in the files of other programs: V-COCO's pickle and HICO-DET's MATLAB files.

Their boxes name the last pixel that is inside; `PredictedInteractions` has continuous coordinates.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood import safe_matlab, safe_pickle
from boxwood.columns import MAX_COORDINATE, is_number, is_whole, short
from boxwood.errors import UserError
from boxwood.evaluation.interactions import AGENT, PredictedInteractions, Verbs
from boxwood.files import make_folder, write_whole

__all__ = ["read_vcoco_results", "vcoco_rows", "write_hico_results", "write_vcoco_results"]

INSIDE = np.array([0.0, 0.0, 1.0, 1.0])
"""From the last pixel to the end of the box."""


def read_vcoco_results(path: Path, verbs: Verbs) -> PredictedInteractions:
    """Read the pickle that V-COCO's program reads, without running what it might name. Raises `UserError` where it is malformed."""
    return vcoco_rows(safe_pickle.read(path), verbs, str(path))


def vcoco_rows(content: Any, verbs: Verbs, where: str) -> PredictedInteractions:
    """V-COCO's list of dictionaries, one for a person: ``image_id``, ``person_box``, ``VERB_agent`` and ``VERB_ROLE``. A score
    that is NaN or None says that nothing is predicted; a box of zeros or NaN, that there is no object."""
    if not isinstance(content, list):
        raise UserError(f"{where}: is no file of V-COCO's results, which is a list; name another file")

    def rows() -> Iterator[tuple[int, list[float], int, int, list[float] | None, int, float]]:
        for number, row in enumerate(content):
            image_id = row.get("image_id") if isinstance(row, dict) else None
            if not isinstance(row, dict) or not is_whole(_plain(image_id)):
                raise UserError(
                    f"{where}: row {number}: expected a mapping with 'image_id', got {short(row)}; write the file again"
                )
            human = _numbers(row.get("person_box"), 4)
            if human is None or any(map(math.isnan, human)):
                raise UserError(f"{where}: row {number}: 'person_box' must be four numbers; write the file again")
            for verb, name in enumerate(verbs.names):
                for role, role_name in ((AGENT, "agent"), *enumerate(verbs.roles[verb])):
                    key = f"{name}_{role_name}"
                    values = _numbers(row[key], 1 if role == AGENT else 5) if key in row else [math.nan] * 5
                    if values is None:
                        raise UserError(
                            f"{where}: row {number}: '{key}' must be {'a number' if role == AGENT else 'five numbers'}, got "
                            f"{short(row[key])}; write the file again"
                        )
                    if math.isnan(values[-1]):
                        continue
                    box = values[:4] if role != AGENT else []
                    nothing = not any(box) or all(map(math.isnan, box))
                    yield (
                        *(int(_plain(image_id)), (np.array(human) + INSIDE).tolist(), verb, role),
                        *(None if nothing else (np.array(box) + INSIDE).tolist(), -1, values[-1]),
                    )

    return PredictedInteractions.of_rows(rows())


def write_vcoco_results(path: Path, predicted: PredictedInteractions, verbs: Verbs) -> None:
    """Write the pickle that V-COCO's program reads. A second claim of a person and role, such as that there is no object, is in a
    further dictionary of the person."""
    nothing = {f"{name}_agent": math.nan for name in verbs.names} | {
        f"{verbs.names[verb]}_{verbs.roles[verb][role]}": [math.nan] * 5 for verb, role in verbs.actions()
    }
    persons: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    last_pixels = [(predicted.humans - INSIDE).tolist(), (predicted.objects - INSIDE).tolist()]
    for row, (image_id, verb, role, score) in enumerate(
        zip(*(column.tolist() for column in (predicted.image_ids, predicted.verbs, predicted.roles, predicted.scores)), strict=True)
    ):
        box = last_pixels[0][row]
        entries = persons.setdefault((image_id, *box), [])
        key = f"{verbs.names[verb]}_{'agent' if role == AGENT else verbs.roles[verb][role]}"
        entry = next((entry for entry in entries if key not in entry), None)
        if entry is None:
            entry = {"image_id": image_id, "person_box": box}
            entries.append(entry)
        target = [0.0] * 4 if np.isnan(predicted.objects[row]).all() else last_pixels[1][row]
        entry[key] = score if role == AGENT else [*target, score]
    rows = [{**nothing, **entry} for entries in persons.values() for entry in entries]

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            pickle.dump(rows, file, protocol=2)

    write_whole(path, write)


def write_hico_results(folder: Path, predicted: PredictedInteractions, truth: Mapping[str, Any]) -> None:
    """Write ``detections_01.mat`` ... , a file for each class of object in the order of the ids, as HICO-DET's program reads them
    with ``format='obj'``: ``all_boxes``, classes of that object x images, each (n, 9) human, object, score; pixels count from 0.

    Raises `UserError` where scipy is not installed.
    """
    verbs = Verbs.of(truth)
    columns = {image["id"]: column for column, image in enumerate(truth["images"])}
    rows_of: dict[tuple[int, int, int], list[int]] = {}
    places = zip(predicted.verbs.tolist(), predicted.category_ids.tolist(), predicted.image_ids.tolist(), strict=True)
    for row, (verb, category, image) in enumerate(places):
        if image in columns and predicted.roles[row] != AGENT:
            rows_of.setdefault((verbs.ids[verb], category, image), []).append(row)
    table = np.concatenate([predicted.humans - INSIDE, predicted.objects - INSIDE, predicted.scores[:, None]], axis=1)
    make_folder(folder)
    for number, category in enumerate(sorted({hoi["category_id"] for hoi in truth["hois"]}), start=1):
        hois: Sequence[Any] = [hoi for hoi in truth["hois"] if hoi["category_id"] == category]
        cells: NDArray[Any] = np.empty((len(hois), len(columns)), dtype=object)
        for line, hoi in enumerate(hois):
            for image, column in columns.items():
                cells[line, column] = table[rows_of.get((hoi["verb_id"], category, image), [])]
        safe_matlab.write(folder / f"detections_{number:02d}.mat", {"all_boxes": cells})


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _numbers(value: Any, length: int) -> list[float] | None:
    """Numbers of a list, an array or alone, in which None stands for NaN; None where there is something else, or a number from a
    million on."""
    value = value.tolist() if isinstance(value, np.ndarray) and value.size == length else _plain(value)
    values = value if isinstance(value, list | tuple) else [value]
    numbers = [math.nan if _plain(number) is None else _plain(number) for number in values]
    if len(numbers) != length or not all(is_number(number) and not abs(number) >= MAX_COORDINATE for number in numbers):
        return None
    return [float(number) for number in numbers]
