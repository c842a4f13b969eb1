"""Checks of keypoints: what the categories say of them, and whether the annotations agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from boxwood.columns import MAX_COORDINATE
from boxwood.data.categories import keypoint_declaration
from boxwood.data.coco_file import CocoFile
from boxwood.data.quality.checks import NUM_EXAMPLES, Finding, or_fix

__all__ = ["check_keypoints", "placed_keypoints"]


def check_keypoints(file: CocoFile) -> list[Finding]:
    """Names, skeletons and sigmas of categories that cannot be used (refused), skeletons that are written in another way than
    COCO's, and keypoints that are left out because categories and annotations do not agree, or because they have no place."""
    declared = {str(row["name"]): keypoint_declaration(row) for row in file.categories}
    wrong = [f"'{name}': {declaration.problem}" for name, declaration in declared.items() if declaration.problem]
    read = [f"'{name}': {declaration.reading}" for name, declaration in declared.items() if declaration.reading]
    findings = []
    if wrong:
        advice = or_fix(file, "name them keypoint_1, keypoint_2, ... and remove what cannot be read")
        findings.append(Finding("categories whose keypoints cannot be used", len(wrong), tuple(wrong[:NUM_EXAMPLES]), "", advice))
    if read:
        problem, repair = (
            "categories whose skeleton is not written as COCO's",
            "read as they are meant; COCO has lists of two numbers, counted from 1",
        )
        findings.append(Finding(problem, len(read), tuple(read[:NUM_EXAMPLES]), repair, look=True))
    if not wrong:
        findings += _disagreement(file, {name: declaration.names for name, declaration in declared.items() if declaration.names})
    unplaced = np.zeros(len(file.ids), dtype=np.bool_)
    rows = np.flatnonzero(file.keypoint_rows >= 0)
    unplaced[rows] = _unplaced(file.keypoints[file.keypoint_rows[rows]].reshape(len(rows), file.keypoints.shape[1] // 3, 3)).any(
        axis=1
    )
    if len(rows := np.flatnonzero(unplaced)):
        problem = "instances with keypoints at nan, infinity or over a million pixels"
        examples = tuple(file.describe(int(row)) for row in rows[:NUM_EXAMPLES])
        findings.append(Finding(problem, len(rows), examples, "these keypoints count as not labelled"))
    return findings


def placed_keypoints(keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., K, 3) keypoints x, y, visibility, in which those without a place are zeros: not labelled."""
    return np.where(_unplaced(keypoints)[..., None], 0.0, keypoints)


# ------------------------------------------------------------------------------------------------------------ internals


def _unplaced(keypoints: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(..., K) True where a number is nan, infinity, or beyond what can be meant."""
    unplaced: NDArray[np.bool_] = np.logical_not(np.all(np.abs(keypoints) < MAX_COORDINATE, axis=-1))
    return unplaced


def _disagreement(file: CocoFile, names: dict[str, tuple[str, ...]]) -> list[Finding]:
    """Why `boxwood.data.categories.categories_of` leaves all keypoints out, if it does."""
    num_given, num_annotations = file.keypoints.shape[1] // 3, len(file.keypoints)
    if num_given == 0:
        return []
    repair = "keypoints are not read"
    if not names:
        example = file.describe(int(np.flatnonzero(file.keypoint_rows >= 0)[0]))
        advice = or_fix(file, "name them keypoint_1, keypoint_2, ...")
        repair += f": give the categories 'keypoints', a list of {num_given} names; {advice}"
        return [Finding("annotations with keypoints that no category names", num_annotations, (example,), repair)]
    first, *others = names.items()
    if other := [f"'{name}' has {len(has)}: {', '.join(has[:4])}" for name, has in others if has != first[1]]:
        examples = (f"'{first[0]}' has {len(first[1])}: {', '.join(first[1][:4])}", *other[:2])
        repair += ", because a keypoint head has one list of them for all classes; give all categories the same 'keypoints'"
        return [Finding("categories with other keypoints than the first", len(other), examples, repair)]
    if len(first[1]) != num_given:
        example = f"'{first[0]}' names {len(first[1])}, annotations have {num_given}"
        return [
            Finding("categories with another number of keypoints than annotations", len(names), (example,), f"{repair}: name all")
        ]
    return []
