"""Files of proposals: candidate boxes of an image, computed beforehand by an RPN or another method.

    RPN alone -> boxwood eval -> proposals.safetensors -> data.train.proposals -> Fast R-CNN

Boxes are xyxy in pixels of the original image, with continuous coordinates, best first in each image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from boxwood import safe_pickle
from boxwood.columns import Columns, are_numbers, is_whole, read_json
from boxwood.errors import UserError
from boxwood.files import write_whole

__all__ = ["ProposalFile", "merged", "prepared", "read_proposals", "write_proposals"]

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

    def columns(self) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
        """The id, the boxes (n, 4) and the scores (n,) of every image."""
        for image_id, start, end in zip(self.image_ids.tolist(), self.starts[:-1], self.starts[1:], strict=True):
            yield image_id, self.boxes[start:end], self.scores[start:end]

    def check_images(self, image_ids: Sequence[int], of: str) -> None:
        """Raises `UserError` where an image of the annotation file ``of`` is not in this file; or none of them, where
        images without proposals are not listed."""
        missing = np.setdiff1d(np.asarray(image_ids, dtype=np.int64), self.image_ids)
        if len(missing) and (self.lists_all or len(missing) == len(image_ids)):
            raise UserError(
                f"{self.path}: has no proposals for {len(missing)} of the {len(image_ids)} images of {of}, such as image id "
                f"{missing[0]}; make them for these images"
            )


def merged(files: Sequence[ProposalFile]) -> ProposalFile:
    """Several files as one; Detectron wrote one for each part of its training set. Raises `UserError` where two have an image."""
    if len(files) == 1:
        return files[0]
    ids = np.concatenate([file.image_ids for file in files])
    of = np.repeat(np.arange(len(files)), [len(file.image_ids) for file in files])
    order = np.argsort(ids, kind="stable")
    ids, of = ids[order], of[order]
    if len(twice := np.flatnonzero(ids[1:] == ids[:-1])):
        first = int(twice[0])
        raise UserError(
            f"image id {ids[first]} is in two files of proposals, {files[of[first]].path} and {files[of[first + 1]].path}; "
            "keep it in one"
        )
    lengths = np.concatenate([np.diff(file.starts) for file in files])[order]
    offsets = np.cumsum([0, *(len(file.boxes) for file in files[:-1])])
    begins = np.concatenate([file.starts[:-1] + offset for file, offset in zip(files, offsets, strict=True)])[order]
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])
    rows = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths) + np.repeat(begins, lengths)
    return ProposalFile(
        " and ".join(file.path for file in files),
        ids,
        starts,
        np.concatenate([file.boxes for file in files])[rows],
        np.concatenate([file.scores for file in files])[rows],
        lists_all=all(file.lists_all for file in files),
    )


def prepared(boxes: NDArray[np.float32], size: tuple[int, int], limit: int | None) -> NDArray[np.float32]:
    """Proposals of one image as a detector takes them: clipped, those of no size and repeated ones left out, the best ``limit``
    or all.

    ``boxes`` (P, 4), ``size`` height and width of the original image. Boxes are the same if they are so in whole pixels; the first
    stays.

    >>> prepared(np.float32([[-5, 0, 20, 9], [0, 0.2, 20, 9], [3, 3, 4, 90]]), (10, 30), 100).tolist()
    [[0.0, 0.0, 20.0, 9.0]]
    """
    height, width = size
    clipped: NDArray[np.float32] = boxes.clip(0, np.array([width, height, width, height], dtype=np.float32))
    clipped = clipped[(clipped[:, 2:] - clipped[:, :2]).min(axis=1, initial=np.inf) > MIN_SIDE]
    # Corners as two numbers a box: numpy sorts rows of four much more slowly. The sort is stable, so of equals the first is first.
    corners = np.round(clipped).astype(np.int32).view(np.int64)
    order = np.lexsort((corners[:, 1], corners[:, 0]))
    repeated = np.zeros(len(order), dtype=np.bool_)
    repeated[order[1:]] = (corners[order[1:]] == corners[order[:-1]]).all(axis=1)
    return clipped[~repeated][:limit]


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
    """Read a file of proposals: Boxwood's ``.safetensors``, Detectron's ``.pkl``, or COCO results as ``.json`` (``image_id``,
    ``bbox`` as x, y, width, height, ``score``), from any program; in JSON an image without proposals is not listed.

    Raises `UserError` where the file is missing, is not one of these, is cut short, or has invalid proposals.
    """
    path = Path(path)
    readers = {".safetensors": _from_safetensors, ".pkl": _from_pickle, ".json": _from_json}
    if path.suffix not in readers:
        raise UserError(f"{path}: proposals are read from {', '.join(readers)}, not from {path.suffix or 'a file without ending'}")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of proposals; boxwood eval of an RPN writes one")
    try:
        with path.open("rb") as file:
            empty = file.read(1) == b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name another file of proposals") from None
    if empty:
        raise UserError(f"{path}: is empty; make the proposals again")
    return _checked(path, *readers[path.suffix](path))


Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
"""Image ids (I,), counts (I,), boxes (P, 4), scores (P,)."""


def _from_safetensors(path: Path) -> Arrays:
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


def _from_pickle(path: Path) -> Arrays:
    """Detectron's dictionary of lists. Its boxes name the last pixel that is inside, so continuous ones end one later."""
    content = safe_pickle.read(path)
    if not isinstance(content, dict) or "boxes" not in content or "scores" not in content or not {"ids", "indexes"} & set(content):
        raise UserError(f"{path}: is no file of proposals: Detectron's have the keys 'boxes', 'scores' and 'ids'")
    key = "ids" if "ids" in content else "indexes"
    for name in ("boxes", "scores", key):
        if not isinstance(content[name], list | tuple | np.ndarray) or (
            isinstance(content[name], np.ndarray) and not content[name].ndim
        ):
            raise UserError(f"{path}: expected {name!r} to be a list, one item per image, got a {type(content[name]).__name__}")
    ids = [image_id.item() if isinstance(image_id, np.generic) else image_id for image_id in content[key]]
    if wrong := [image_id for image_id in ids if not is_whole(image_id)]:
        raise UserError(f"{path}: expected {key!r} to be whole numbers, got {wrong[0]!r:.60}; correct the file")
    boxes = [_numbers(value, (-1, 4)) for value in content["boxes"]]
    scores = [_numbers(value, (-1,)) for value in content["scores"]]
    if not len(ids) == len(boxes) == len(scores):
        raise UserError(f"{path}: has {len(boxes)} lists of boxes and {len(scores)} of scores for {len(ids)} images")
    for image_id, image_boxes, image_scores in zip(ids, boxes, scores, strict=True):
        if image_boxes is None or image_scores is None or len(image_boxes) != len(image_scores):
            got = "none" if image_boxes is None else str(len(image_boxes))
            raise UserError(
                f"{path}: image id {image_id}: expected boxes (n, 4) and n scores, all of them numbers, got {got} and "
                f"{'none' if image_scores is None else len(image_scores)}; make the proposals again"
            )
    joined = np.concatenate([np.zeros((0, 4), dtype=np.float32), *(rows for rows in boxes if rows is not None)])
    return (
        np.array(ids, dtype=np.int64),
        np.array([len(rows) for rows in boxes if rows is not None], dtype=np.int64),
        joined + np.array([0, 0, 1, 1], dtype=np.float32),
        np.concatenate([np.zeros(0), *(rows for rows in scores if rows is not None)]),
    )


def _numbers(value: Any, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """An image's boxes or scores, an array or lists, in a ``shape``; None where they do not have it or are no numbers."""
    if isinstance(value, list | tuple):
        # One list may stand in a pickle many times, so what it makes is limited before it is made.
        rows = [row if isinstance(row, list | tuple) else [row] for row in value]
        if any(len(row) not in (1, 4) or not are_numbers(row) for row in rows):
            return None
        try:
            value = np.array(value, dtype=np.float64)
        except ValueError:
            return None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        return None
    # The scores of old files are a column, and an image without proposals may have an empty list.
    if value.ndim > 2 or (len(shape) == 2 and value.size and value.shape[1:] != shape[1:]):
        return None
    return value.reshape(shape)


def _from_json(path: Path) -> Arrays:
    records = read_json(path, "make the proposals again")
    if not isinstance(records, list):
        raise UserError(f"{path}: proposals in JSON are a list of records with image_id, bbox and score")
    columns = Columns(records, path, id_key="image_id")
    of_record, boxes, scores = (
        columns.integers("image_id"),
        columns.vectors("bbox", 4, "four numbers x, y, width, height"),
        columns.numbers("score"),
    )
    with np.errstate(over="ignore", invalid="ignore"):  # such boxes are refused later
        boxes[:, 2:] += boxes[:, :2]
    order = np.argsort(of_record, kind="stable")
    image_ids, counts = np.unique(of_record, return_counts=True)
    return image_ids, counts.astype(np.int64), boxes[order], scores[order]


def _checked(path: Path, ids: NDArray[Any], counts: NDArray[Any], boxes: NDArray[Any], scores: NDArray[Any]) -> ProposalFile:
    """The columns as a file, sorted by image and score; refused where a box or a score is none."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1] or ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise UserError(
            f"{path}: expected boxes (P, 4) with P scores, got {boxes.shape} and {scores.shape}; make the proposals again"
        )
    if boxes.dtype.kind not in "iuf" or scores.dtype.kind not in "iuf":
        raise UserError(
            f"{path}: expected numbers, got boxes of {boxes.dtype} and scores of {scores.dtype}; make the proposals again"
        )
    image_of_row = np.repeat(ids, counts)

    def refuse(wrong: NDArray[np.bool_], what: str) -> None:
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            first = int(np.flatnonzero(image_of_row == image_of_row[row])[0])
            raise UserError(
                f"{path}: {int(wrong.sum())} {what}, such as row {row - first} of image id {image_of_row[row]}: "
                f"{boxes[row].tolist()}, score {scores[row]}; make the proposals again"
            )

    # In the precision in which they are used: a large float64 is infinite there.
    with np.errstate(over="ignore"):
        boxes, scores = boxes.astype(np.float32), scores.astype(np.float32)

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
        boxes[order],
        scores[order],
        lists_all=path.suffix != ".json",
    )
