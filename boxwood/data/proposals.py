"""Proposals that were computed before: a file of boxes for each image, for a detector that does not propose its own.

Files are Boxwood's own (``.safetensors``, made by ``boxwood eval`` of an RPN), Detectron's (``.pkl``), or COCO results (``.json``),
the easiest to write for boxes of any other source, such as selective search.

Letters: I images, P proposals of all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from boxwood.data.coco_file import lookup, read_json
from boxwood.errors import UserError
from boxwood.files import write_whole
from boxwood.safe_pickle import read_pickle

__all__ = ["ProposalFile", "make_proposals", "read_proposals", "write_proposals"]

FORMAT = "boxwood proposals 1"
MIN_SIDE = 2.0
"""Of what is left inside the image, in pixels; proposals with a side of no more are left out, as Detectron does."""


@dataclass(frozen=True)
class ProposalFile:
    """The proposals of I images as four flat arrays, best first in each image.

    The proposals of image i are the rows ``starts[i] : starts[i + 1]``.
    """

    image_ids: NDArray[np.int64]
    """(I,), each once."""
    starts: NDArray[np.int64]
    """(I + 1,)."""
    boxes: NDArray[np.float32]
    """(P, 4) xyxy in pixels of the original image, continuous coordinates."""
    scores: NDArray[np.float32]
    """(P,) of any scale: they only say which is better."""

    def rows_of(self, image_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each image; -1 where it is not here."""
        return lookup(self.image_ids, image_ids)

    def usable(self, row: int, size: tuple[int, int], limit: int) -> NDArray[np.float32]:
        """The best proposals of the image in ``row``, (N, 4), N <= ``limit``, best first.

        They are clipped to the image of ``size`` (height, width). Those with a side of which no more than 2 pixels are left are
        not used, and of those that are equal in whole pixels only the best is.
        """
        boxes = self.boxes[self.starts[row] : self.starts[row + 1]]
        height, width = size
        boxes = boxes.clip(0, np.array([width, height, width, height], dtype=np.float32))
        boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) > MIN_SIDE).all(axis=1)]
        return boxes[_first_of_each(np.rint(boxes).astype(np.int32))][:limit]


def make_proposals(
    image_ids: Sequence[int] | NDArray[np.int64],
    boxes: Sequence[NDArray[Any]],
    scores: Sequence[NDArray[Any]],
    where: str = "proposals",
) -> ProposalFile:
    """Proposals from the boxes (n, 4) xyxy and the scores (n,) of each image; they are sorted, best first.

    Raises `UserError`, which begins with ``where``: no images, an image that comes twice or has not as many scores as boxes, boxes
    that are not (n, 4), not finite, or inverted (x2 < x1 or y2 < y1).

    >>> proposals = make_proposals([7], [np.array([[0, 0, 4, 4], [1, 1, 9, 5]])], [np.array([0.2, 0.9])])
    >>> proposals.boxes[0].tolist()
    [1.0, 1.0, 9.0, 5.0]
    """
    if not len(image_ids) == len(boxes) == len(scores):
        raise UserError(
            f"{where}: has {len(image_ids)} image ids, boxes of {len(boxes)} images and scores of {len(scores)}; "
            "give each image its own"
        )
    for image_id, some, numbers in zip(image_ids, boxes, scores, strict=True):
        if some.size and (some.ndim != 2 or some.shape[1] != 4):
            raise UserError(f"{where}: image id {image_id}: boxes must be (n, 4), got {some.shape}; write x1, y1, x2, y2")
        if numbers.shape != (count := some.size // 4,):
            raise UserError(f"{where}: image id {image_id}: {count} boxes need {count} scores, got {numbers.shape}")
    starts = np.concatenate([[0], np.cumsum([len(numbers) for numbers in scores], dtype=np.int64)]).astype(np.int64)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
        all_boxes = np.concatenate([np.zeros((0, 4)), *(some.reshape(-1, 4) for some in boxes)], dtype=np.float32, casting="unsafe")
        all_scores = np.concatenate([np.zeros(0), *scores], dtype=np.float32, casting="unsafe")
    return _checked(np.asarray(image_ids, dtype=np.int64), starts, all_boxes, all_scores, where)


def write_proposals(path: Path | str, proposals: ProposalFile) -> None:
    """Write a ``.safetensors`` file, whole or not at all. Raises `UserError` where it cannot be written."""
    tensors: dict[str, NDArray[Any]] = {
        "image_ids": proposals.image_ids,
        "starts": proposals.starts,
        "boxes": proposals.boxes,
        "scores": proposals.scores,
    }
    write_whole(Path(path), lambda temporary: safetensors.numpy.save_file(tensors, temporary, {"format": FORMAT}))


def read_proposals(path: Path | str) -> ProposalFile:
    """Read a proposal file; its suffix says in which format it is.

    ``.safetensors``  written by `write_proposals`
    ``.pkl``          Detectron's: ``boxes`` (a list of (n, 4) arrays), ``scores`` and ``ids`` (before: ``indexes``); its x2 and y2,
                      which are the last pixels inside, become continuous coordinates. No code of the file runs
    ``.json``         COCO results: a list of ``{"image_id", "bbox": [x, y, width, height], "score"}``; without scores, the first
                      is the best

    Raises `UserError` where the file is missing, empty, cut short or of another format, and as `make_proposals` does.
    """
    path = Path(path)
    readers = {".safetensors": _read_safetensors, ".pkl": _read_detectron, ".json": _read_results}
    if path.suffix not in readers:
        raise UserError(
            f"{path}: a proposal file ends in .safetensors (Boxwood's), .pkl (Detectron's) or .json (COCO results); "
            "rename it or name another"
        )
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name an existing proposal file") from None
    if empty:
        raise UserError(f"{path}: is empty; make the proposals again or name another file")
    return readers[path.suffix](path)


# ------------------------------------------------------------------------------------------------------ the formats


def _read_safetensors(path: Path) -> ProposalFile:
    try:
        with safe_open(path, "np") as archive:
            if (archive.metadata() or {}).get("format") != FORMAT:
                raise UserError(
                    f"{path}: is safetensors, but not a proposal file ({FORMAT!r}); name one that boxwood eval of an RPN wrote"
                )
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118  (it is no mapping)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name an existing proposal file") from None
    except SafetensorError as error:
        words = " ".join(str(error).split())
        raise UserError(f"{path}: is cut short, damaged, or no safetensors file ({words}); make the proposals again") from None
    expected = {"image_ids": (1, np.int64), "starts": (1, np.int64), "boxes": (2, np.float32), "scores": (1, np.float32)}
    for name, (dimensions, dtype) in expected.items():
        found = tensors.get(name)
        if found is None or found.ndim != dimensions or found.dtype != dtype:
            got = "nothing" if found is None else f"{found.dtype} {found.shape}"
            raise UserError(
                f"{path}: {name!r} must be {np.dtype(dtype)} with {dimensions} dimensions, got {got}; make the file again"
            )
    return _checked(**{name: tensors[name] for name in expected}, where=str(path))


def _read_detectron(path: Path) -> ProposalFile:
    tree = read_pickle(path)
    if not isinstance(tree, dict):
        raise UserError(
            f"{path}: must be a dict with 'boxes', 'scores' and 'ids', got a {type(tree).__name__}; name a proposal file"
        )
    ids_key = "ids" if "ids" in tree else "indexes"
    missing = [name for name in ("boxes", "scores", ids_key) if name not in tree]
    if missing:
        raise UserError(f"{path}: is no proposal file: {', '.join(map(repr, missing))} missing; its keys are {list(tree)[:8]}")
    columns = {}
    for name in ("boxes", "scores"):
        if not isinstance(tree[name], list | np.ndarray):
            raise UserError(f"{path}: {name!r} must be a list with an array for each image, got a {type(tree[name]).__name__}")
        columns[name] = [_numbers(part, f"{path}: {name!r} of image {index}") for index, part in enumerate(tree[name])]
    ids = _numbers(tree[ids_key], f"{path}: {ids_key!r}").reshape(-1)
    if ids.size and ids.dtype.kind not in "iu":
        raise UserError(f"{path}: {ids_key!r} must be whole numbers, got {ids.dtype}; correct the file")
    # Detectron's arithmetic is float32; adding to it in float64 first changes nothing.
    boxes = [part + np.array([0, 0, 1, 1]) if part.ndim == 2 and part.shape[1] == 4 else part for part in columns["boxes"]]
    return make_proposals(ids.astype(np.int64), boxes, [part.reshape(-1) for part in columns["scores"]], str(path))


def _numbers(value: Any, where: str) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        array = np.zeros(0, dtype=object)
    if array.size and array.dtype.kind not in "iuf":
        raise UserError(f"{where}: must be numbers; correct the file")
    return array.astype(np.float64) if array.dtype.kind == "f" or not array.size else array


def _read_results(path: Path) -> ProposalFile:
    rows = read_json(path, "proposal file")
    if not isinstance(rows, list):
        raise UserError(f"{path}: must be COCO results, a list of {{image_id, bbox, score}}, got a {type(rows).__name__}")
    with_scores = bool(rows) and isinstance(rows[0], dict) and "score" in rows[0]
    for index, row in enumerate(rows):
        problem = _wrong(row, with_scores)
        if problem:
            raise UserError(f"{path}: row {index}: {problem}; correct the file")
    ids = np.array([row["image_id"] for row in rows], dtype=np.int64)
    boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([row["score"] if with_scores else 0.0 for row in rows], dtype=np.float64)
    order = np.argsort(ids, kind="stable")
    image_ids, starts = np.unique(ids[order], return_index=True)
    starts = np.append(starts, len(ids)).astype(np.int64)
    with np.errstate(over="ignore"):
        return _checked(image_ids, starts, boxes[order].astype(np.float32), scores[order].astype(np.float32), str(path))


def _wrong(row: Any, with_scores: bool) -> str:
    """What is wrong with a record of COCO results; empty where nothing is."""
    if not isinstance(row, dict):
        return f"must be a record {{image_id, bbox, score}}, got a {type(row).__name__}"
    image_id, box = row.get("image_id"), row.get("bbox")
    if type(image_id) is not int or abs(image_id) >= 2**63:
        return f"'image_id' must be a whole number, got {str(image_id)[:40]}"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"image id {image_id}: 'bbox' must be four numbers x, y, width, height, got {str(box)[:60]}"
    if with_scores != ("score" in row):
        return f"image id {image_id}: either every record has a 'score' or none has"
    if with_scores and not _is_number(row["score"]):
        return f"image id {image_id}: 'score' must be a number, got {str(row['score'])[:40]}"
    return ""


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


# ------------------------------------------------------------------------------------------------------- the checks


def _checked(
    image_ids: NDArray[np.int64], starts: NDArray[np.int64], boxes: NDArray[np.float32], scores: NDArray[np.float32], where: str
) -> ProposalFile:
    """Sound arrays, sorted; raises `UserError` where they are not sound."""
    if not len(image_ids):
        raise UserError(f"{where}: holds no images; make the proposals again or name another file")
    if len(starts) != len(image_ids) + 1 or starts[0] != 0 or starts[-1] != len(boxes) or (np.diff(starts) < 0).any():
        raise UserError(f"{where}: 'starts' does not share {len(boxes)} boxes among {len(image_ids)} images; make the file again")
    if boxes.shape[1:] != (4,):
        raise UserError(f"{where}: boxes must be (n, 4), got {boxes.shape}; write x1, y1, x2, y2")
    if len(scores) != len(boxes):
        raise UserError(f"{where}: {len(boxes)} boxes need {len(boxes)} scores, got {len(scores)}; make the file again")
    values, counts = np.unique(image_ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{where}: image id {values[counts > 1][0]} has proposals twice; keep one")
    for wrong, problem in (
        (~np.isfinite(boxes).all(axis=1), "is not finite"),
        (~np.isfinite(scores), "has a score that is not finite"),
        ((boxes[:, 2:] < boxes[:, :2]).any(axis=1), "is inverted (x2 < x1 or y2 < y1)"),
    ):
        if wrong.any():
            first = int(wrong.argmax())
            image = int(np.searchsorted(starts, first, side="right")) - 1
            box = ", ".join(f"{value:g}" for value in boxes[first].tolist())
            raise UserError(
                f"{where}: image id {image_ids[image]}, box {first - starts[image]}: ({box}) {problem}"
                f"; {int(wrong.sum())} of {len(boxes)} boxes are so; correct the file"
            )
    images = np.repeat(np.arange(len(image_ids)), np.diff(starts))
    falling = (np.diff(scores) <= 0) | (np.diff(images) > 0)
    if not falling.all():
        order = np.lexsort((-scores, images))
        boxes, scores = boxes[order], scores[order]
    return ProposalFile(image_ids, starts, np.ascontiguousarray(boxes), np.ascontiguousarray(scores))


def _first_of_each(rows: NDArray[np.int32]) -> NDArray[np.int64]:
    """Indices, ascending, of the rows that no earlier row equals."""
    # Two numbers a row sort much faster than four: x1, y1 and x2, y2 side by side in 64 bits each.
    pairs = np.ascontiguousarray(rows).view(np.int64)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))  # stable, so the first of equals comes first
    ordered = pairs[order]
    new = np.ones(len(rows), dtype=np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return np.sort(order[new])
