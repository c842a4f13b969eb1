"""Data sets in COCO's format."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boxwood.data.annotations import read_annotations
from boxwood.data.coco_file import POLYGONS, CocoFile
from boxwood.data.images import read_image
from boxwood.data.proposals import merged, prepared, read_proposals
from boxwood.data.quality.checks import check_areas, check_boxes, check_identities, check_images, check_masks, refuse
from boxwood.data.sampler import repeat_factors
from boxwood.errors import UserError
from boxwood.structures import Bitmap, Categories, KeypointFacts, Polygons, Sample

__all__ = ["CocoDataset", "categories_of", "keypoint_facts"]

logger = logging.getLogger(__name__)

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


class CocoDataset:
    """The samples of a COCO file, or of another that `read_annotations` reads.

    Boxes are clipped to the image; annotations whose box has no area are left out, with a line in the log. COCO gives
    keypoints as indices of pixels, so half a pixel is added to make them the continuous coordinates of a `Sample`.

    With ``proposals`` (files that `read_proposals` reads) each sample has its best ``proposal_limit`` proposals, including those in
    crowd regions: evaluation needs them, and RoI sampling excludes them from the negatives
    (`boxwood.models.second_stage.sample_rois`).

    Raises `UserError` where the file or the folder has errors (`boxwood.data.quality.checks`), and where the proposals do not
    belong to these images.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        *,
        split: str | None = None,
        keep_empty: bool = True,
        exif: bool = True,
        proposals: str | Path | Sequence[str | Path] | None = None,
        proposal_limit: int | None = 2000,
        repeat_threshold: float | None = None,
    ) -> None:
        self.file = read_annotations(annotations, images, split)
        self.folder = str(images)
        self.exif = exif
        # First, because the other checks need an image for every annotation.
        refuse(check_identities(self.file), str(annotations))
        refuse(check_images(self.file, images), str(annotations))
        repaired, box_findings = check_boxes(self.file)
        self._usable_parts, mask_findings = check_masks(self.file)
        refuse(mask_findings, str(annotations))
        for finding in [*box_findings, *check_areas(self.file), *mask_findings]:
            logger.warning("%s: %s", annotations, finding)
        self._boxes, self._usable = repaired.boxes, repaired.usable
        self.categories = categories_of(self.file)
        order = np.argsort(self.categories.ids)
        self._labels = order[np.searchsorted(np.array(self.categories.ids)[order], self.file.category_ids)]
        self._has_masks = bool(self._usable_parts.any() or (self.file.mask_kinds > POLYGONS).any())
        self._warned_of_exif = False
        self._rows = self._kept_rows(keep_empty)
        self.repeats = None if repeat_threshold is None else repeat_factors(self._classes_of_images()[self._rows], repeat_threshold)
        paths = [proposals] if isinstance(proposals, str | Path) else proposals
        self._proposals = merged([read_proposals(path) for path in paths]) if paths else None
        self._proposal_limit = proposal_limit
        if self._proposals is not None:
            self._proposals.check_images(self.file.image_ids[self._rows].tolist(), of=str(annotations))

    def __len__(self) -> int:
        return len(self._rows)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of image ``index`` as the annotation file gives it."""
        height, width = self.file.image_sizes[self._rows[index]].tolist()
        return height, width

    def file_name(self, index: int) -> str:
        """The name of image ``index`` in the annotation file."""
        return self.file.file_name(int(self._rows[index]))

    def to_coco(self) -> dict[str, Any]:
        """The images, annotations and categories of the file, with its ids."""
        return self.file.to_coco()

    def __getitem__(self, index: int) -> Sample:
        file = self.file
        row = int(self._rows[index])
        annotations = file.by_image[file.starts[row] : file.starts[row + 1]]
        annotations = annotations[self._usable[annotations]]
        image = self._image(row)
        facts = self.categories.keypoints
        image_id, size = int(file.image_ids[row]), (image.shape[1], image.shape[2])
        proposals = None if self._proposals is None else prepared(self._proposals.of(image_id), size, self._proposal_limit)
        return Sample(
            image=image,
            image_id=image_id,
            file_name=file.file_name(row),
            original_size=size,
            boxes=torch.from_numpy(self._boxes[annotations]),
            labels=torch.from_numpy(np.where(file.ignore[annotations], -1, self._labels[annotations])),
            crowd=torch.from_numpy(file.crowd[annotations] | file.ignore[annotations]),
            segmentations=[self._segmentation(annotation) for annotation in annotations.tolist()] if self._has_masks else None,
            keypoints=None if facts is None else torch.from_numpy(self._keypoints(annotations, len(facts.names))),
            keypoint_flip=() if facts is None else facts.flip,
            proposals=None if proposals is None else torch.from_numpy(proposals),
        )

    def _kept_rows(self, keep_empty: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
        if keep_empty:
            return np.arange(len(self.file.image_ids))
        instances = self.file.image_rows[self._usable & ~self.file.crowd & ~self.file.ignore]
        rows = np.flatnonzero(np.bincount(instances, minlength=len(self.file.image_ids)))
        if not len(rows):
            raise UserError(f"{self.file.path}: no image has a usable annotation; annotate some, or set keep_empty=true")
        return rows

    def _classes_of_images(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(images of the file, K) whether an image shows a class."""
        shown = self._usable & ~self.file.crowd & ~self.file.ignore
        has = np.zeros((len(self.file.image_ids), len(self.categories)), dtype=np.bool_)
        has[self.file.image_rows[shown], self._labels[shown]] = True
        return has

    def _image(self, row: int) -> torch.Tensor:
        name = self.file.file_name(row)
        path = Path(self.folder, name)
        expected = tuple(self.file.image_sizes[row].tolist())
        image = read_image(path, exif=self.exif)
        if image.shape[1:] == expected:
            return image
        if self.exif:
            stored = read_image(path, exif=False)
            if stored.shape[1:] == expected:
                if not self._warned_of_exif:
                    self._warned_of_exif = True
                    logger.warning("%s: its size in %s has no EXIF orientation; it is read as stored", path, self.file.path)
                return stored
        height, width = image.shape[1:]
        raise UserError(
            f"{path}: the image is {width} x {height} pixels, but {self.file.path} says {expected[1]} x {expected[0]} "
            f"(image id {self.file.image_ids[row]}); correct 'width' and 'height' or replace the image"
        )

    def _segmentation(self, annotation: int) -> Polygons | Bitmap:
        file = self.file
        if file.mask_kinds[annotation] <= POLYGONS:
            parts = range(int(file.parts[annotation]), int(file.parts[annotation + 1]))
            return Polygons(
                [
                    file.coordinates[file.points[part] : file.points[part + 1]].astype(np.float32).reshape(-1, 2)
                    for part in parts
                    if self._usable_parts[part]
                ]
            )
        try:
            mask = file.decoded(annotation)
        except ValueError as error:
            where = f"{file.path}: {file.describe(annotation)}"
            raise UserError(f"{where}: 'segmentation' cannot be decoded ({error}); correct the file") from None
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return Polygons([])
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        return Bitmap(np.ascontiguousarray(mask[top:bottom, left:right]), (float(left), float(top), float(right), float(bottom)))

    def _keypoints(
        self, annotations: np.ndarray[Any, np.dtype[np.int64]], num_keypoints: int
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        keypoints = np.zeros((len(annotations), num_keypoints, 3), dtype=np.float32)
        rows = self.file.keypoint_rows[annotations]
        given = self.file.keypoints[rows[rows >= 0]].reshape(-1, num_keypoints, 3)
        keypoints[rows >= 0] = given
        keypoints[..., :2] += np.where(keypoints[..., 2:] > 0, np.float32(0.5), np.float32(0))
        return keypoints


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


def _other_side(name: str) -> str:
    swap = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}
    return re.sub(r"left|right|Left|Right|LEFT|RIGHT", lambda side: swap[side.group()], name)


def categories_of(file: CocoFile) -> Categories:
    """The classes in the order of their ids, so that train and val agree even if their files have other orders."""
    rows = sorted(file.categories, key=lambda category: int(category["id"]))
    ids, names = tuple(int(row["id"]) for row in rows), tuple(str(row["name"]) for row in rows)
    return Categories(ids, names, _declared_keypoints(file, rows))


def _declared_keypoints(file: CocoFile, rows: list[dict[str, Any]]) -> KeypointFacts | None:
    declared = [row for row in rows if row.get("keypoints")]
    num_given = file.keypoints.shape[1] // 3
    if not declared or num_given == 0:
        return None
    first = declared[0]
    names = tuple(str(name) for name in first["keypoints"])
    if any(tuple(row["keypoints"]) != names for row in declared) or len(names) != num_given or len(set(names)) != len(names):
        logger.warning("%s: keypoints are left out: its categories and annotations do not all have the same ones", file.path)
        return None
    pairs = [pair for pair in first.get("skeleton") or [] if len(pair) == 2 and all(1 <= end <= len(names) for end in pair)]
    skeleton = tuple((int(a) - 1, int(b) - 1) for a, b in pairs)
    sigmas = tuple(float(sigma) for sigma in first.get("sigmas") or ())
    return keypoint_facts(names, skeleton, sigmas if len(sigmas) == len(names) else ())
