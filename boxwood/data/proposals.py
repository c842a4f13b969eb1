"""Files of proposals: boxes of an image that may hold something, found beforehand by an RPN or by another method.

    RPN alone -> boxwood eval -> proposals.safetensors -> data.train.proposals -> Fast R-CNN

Boxes are xyxy in pixels of the original image, with continuous coordinates, best first in each image.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from boxwood import safe_pickle
from boxwood.errors import UserError
from boxwood.files import write_whole

__all__ = ["ProposalFile", "prepared", "read_proposals", "write_proposals"]

FORMAT = "boxwood proposals 1"
MIN_SIDE = 2.0
"""Pixels of the original image; proposals with a side that is not longer are left out, as in Detectron."""


@dataclass(frozen=True)
class ProposalFile:
    """The proposals of a data set's images, in flat arrays. Letters: I images, P proposals of all."""

    path: str
    image_ids: NDArray[np.int64]
    """(I,) ascending."""
    starts: NDArray[np.int64]
    """(I + 1,): image i has the rows from ``starts[i]`` up to ``starts[i + 1]``."""
    boxes: NDArray[np.float32]
    """(P, 4) xyxy, pixels of the original image."""
    scores: NDArray[np.float32]
    """(P,), descending in each image."""
    lists_all: bool
    """Whether an image without proposals is listed; where not, one that is not in the file has none."""

    def of(self, image_id: int) -> NDArray[np.float32]:
        """The boxes of an image (n, 4), best first. Raises `UserError` where the file does not have the image."""
        row = int(np.searchsorted(self.image_ids, image_id))
        if row == len(self.image_ids) or self.image_ids[row] != image_id:
            if not self.lists_all:
                return self.boxes[:0]
            raise UserError(f"{self.path}: has no proposals for image id {image_id}; make them for these images")
        return self.boxes[self.starts[row] : self.starts[row + 1]]

    def check_images(self, image_ids: Sequence[int], of: str) -> None:
        """Raises `UserError` where an image of the annotation file ``of`` is not in this file; or none of them, where
        images without proposals are not listed."""
        missing = np.setdiff1d(np.asarray(image_ids, dtype=np.int64), self.image_ids)
        if len(missing) and (self.lists_all or len(missing) == len(image_ids)):
            raise UserError(
                f"{self.path}: has no proposals for {len(missing)} of the {len(image_ids)} images of {of}, such as image id "
                f"{missing[0]}; make them for these images"
            )


def prepared(boxes: NDArray[np.float32], size: tuple[int, int], limit: int) -> NDArray[np.float32]:
    """Proposals of one image as a detector takes them: clipped, those of no size and repeated ones left out, the best ``limit``.

    ``boxes`` (P, 4), ``size`` height and width of the original image. Boxes are the same if they are so in whole pixels; the first
    stays.

    >>> prepared(np.float32([[-5, 0, 20, 9], [0, 0.2, 20, 9], [3, 3, 4, 90]]), (10, 30), 100).tolist()
    [[0.0, 0.0, 20.0, 9.0]]
    """
    height, width = size
    clipped: NDArray[np.float32] = boxes.clip(0, np.array([width, height, width, height], dtype=np.float32))
    clipped = clipped[(clipped[:, 2:] - clipped[:, :2]).min(axis=1, initial=np.inf) > MIN_SIDE]
    _, first = np.unique(np.round(clipped).astype(np.int64), axis=0, return_index=True)
    return clipped[np.sort(first)][:limit]


def write_proposals(path: Path, proposals: Iterable[tuple[int, NDArray[Any], NDArray[Any]]]) -> None:
    """Write an image's id, boxes (n, 4) xyxy and scores (n,) after the other, whole or not at all.

    Raises `UserError` where the file cannot be written.
    """
    rows = sorted(proposals, key=lambda row: row[0])
    tensors: dict[str, NDArray[Any]] = {
        "image_ids": np.array([image_id for image_id, _, _ in rows], dtype=np.int64),
        "counts": np.array([len(boxes) for _, boxes, _ in rows], dtype=np.int64),
        "boxes": np.concatenate([np.zeros((0, 4)), *(boxes for _, boxes, _ in rows)]).astype(np.float32),
        "scores": np.concatenate([np.zeros(0), *(scores for _, _, scores in rows)]).astype(np.float32),
    }

    def write(temporary: Path) -> None:
        try:
            safetensors.numpy.save_file(tensors, temporary, {"format": FORMAT})
        except SafetensorError as error:
            raise OSError(" ".join(str(error).split())) from None

    write_whole(path, write)


def read_proposals(path: str | Path) -> ProposalFile:
    """Read a file of proposals: our own ``.safetensors``, Detectron's ``.pkl``, or COCO results as ``.json`` (``image_id``,
    ``bbox`` as x, y, width, height, ``score``), from any program; in JSON an image without proposals is not listed.

    Raises `UserError` where the file is missing, is not one of these, is cut short, or holds what is no proposal.
    """
    path = Path(path)
    readers = {".safetensors": _from_safetensors, ".pkl": _from_pickle, ".json": _from_json}
    if path.suffix not in readers:
        raise UserError(f"{path}: proposals are read from {', '.join(readers)}, not from {path.suffix or 'a file without ending'}")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of proposals; boxwood eval of an RPN writes one")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty; make the proposals again")
    return _checked(path, *readers[path.suffix](path))


Columns = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
"""Image ids (I,), counts (I,), boxes (P, 4), scores (P,)."""


def _from_safetensors(path: Path) -> Columns:
    try:
        with safe_open(path, "np") as archive:
            if (archive.metadata() or {}).get("format") != FORMAT:
                raise UserError(f"{path}: holds something else than proposals; name the file that boxwood eval of an RPN wrote")
            ids, counts, boxes, scores = (archive.get_tensor(name) for name in ("image_ids", "counts", "boxes", "scores"))
    except SafetensorError as error:
        raise UserError(f"{path}: is cut short or damaged ({' '.join(str(error).split())}); make the proposals again") from None
    if counts.shape != ids.shape or counts.dtype.kind != "i" or (counts < 0).any() or counts.sum() != len(boxes):
        raise UserError(f"{path}: its counts do not add up to its {len(boxes)} boxes; make the proposals again")
    return ids, counts, boxes, scores


def _from_pickle(path: Path) -> Columns:
    """Detectron's dictionary of lists. Its boxes name the last pixel that is inside, so continuous ones end one later."""
    content = safe_pickle.read(path)
    if not isinstance(content, dict) or "boxes" not in content or "scores" not in content or not {"ids", "indexes"} & set(content):
        raise UserError(f"{path}: is no file of proposals: Detectron's have the keys 'boxes', 'scores' and 'ids'")
    ids = content["ids"] if "ids" in content else content["indexes"]
    boxes, scores = list(content["boxes"]), list(content["scores"])
    if not len(ids) == len(boxes) == len(scores):
        raise UserError(f"{path}: has {len(boxes)} lists of boxes and {len(scores)} of scores for {len(ids)} images")
    for image_id, own_boxes, own_scores in zip(ids, boxes, scores, strict=True):
        if np.ndim(own_boxes) != 2 or np.shape(own_boxes)[1] != 4 or np.size(own_scores) != len(own_boxes):
            raise UserError(
                f"{path}: image id {image_id}: expected boxes (n, 4) and n scores, got {np.shape(own_boxes)} and "
                f"{np.shape(own_scores)}; make the proposals again"
            )
    joined = np.concatenate([np.zeros((0, 4), dtype=np.float32), *boxes]) + np.array([0, 0, 1, 1], dtype=np.float32)
    return (
        np.array([int(image_id) for image_id in ids], dtype=np.int64),
        np.array([len(own) for own in boxes], dtype=np.int64),
        joined,
        np.concatenate([np.zeros(0), *(np.ravel(own) for own in scores)]),
    )


def _from_json(path: Path) -> Columns:
    try:
        records = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({' '.join(str(error).split())}); make the proposals again") from None
    if not isinstance(records, list):
        raise UserError(f"{path}: proposals in JSON are a list of records with image_id, bbox and score")
    by_image: dict[int, list[tuple[float, list[float]]]] = {}
    for row, record in enumerate(records):
        try:
            x, y, width, height = (float(value) for value in record["bbox"])
            by_image.setdefault(int(record["image_id"]), []).append((float(record["score"]), [x, y, x + width, y + height]))
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{path}: row {row}: expected image_id, bbox (x, y, width, height) and score, got {record!r:.120}"
            ) from None
    pairs = [pair for own in by_image.values() for pair in own]
    return (
        np.array(list(by_image), dtype=np.int64),
        np.array([len(own) for own in by_image.values()], dtype=np.int64),
        np.array([box for _, box in pairs], dtype=np.float64).reshape(-1, 4),
        np.array([score for score, _ in pairs], dtype=np.float64),
    )


def _checked(path: Path, ids: NDArray[Any], counts: NDArray[Any], boxes: NDArray[Any], scores: NDArray[Any]) -> ProposalFile:
    """The columns as a file, sorted by image and score; refused where a box or a score is none."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1] or ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise UserError(
            f"{path}: expected boxes (P, 4) with P scores, got {boxes.shape} and {scores.shape}; make the proposals again"
        )
    image_of_row = np.repeat(ids, counts)

    def refuse(wrong: NDArray[np.bool_], what: str) -> None:
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"{path}: {int(wrong.sum())} {what}, such as row {row} of image id {image_of_row[row]}: {boxes[row].tolist()}, "
                f"score {scores[row]}; make the proposals again"
            )

    refuse(~np.isfinite(boxes).all(axis=1) | ~np.isfinite(scores), "proposals are not finite")
    refuse(np.any(boxes[:, 2:] < boxes[:, :2], axis=1), "boxes are inverted (x2 < x1 or y2 < y1)")
    unique, first = np.unique(ids, return_index=True)
    if len(unique) < len(ids):
        twice = np.delete(ids, first)[0]
        raise UserError(f"{path}: image id {twice} stands twice; make the proposals again")
    order = np.lexsort((-scores, image_of_row))
    lengths = counts[first]
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])
    return ProposalFile(
        str(path),
        unique.astype(np.int64),
        starts,
        boxes[order].astype(np.float32),
        scores[order].astype(np.float32),
        lists_all=path.suffix != ".json",
    )
