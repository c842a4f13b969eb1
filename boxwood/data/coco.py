"""Data sets in COCO's format."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boxwood.data.annotations import Holdout, read_annotations
from boxwood.data.categories import categories_of
from boxwood.data.coco_file import POLYGONS
from boxwood.data.dense_pose import dense_pose_field, dense_pose_of
from boxwood.data.images import read_header, read_image
from boxwood.data.proposals import ProposalFile, merged, prepared, read_proposals
from boxwood.data.quality.checks import (
    check_areas,
    check_boxes,
    check_identities,
    check_masks,
    check_readings,
    locate_images,
    refuse,
)
from boxwood.data.quality.keypoints import check_keypoints, placed_keypoints
from boxwood.data.sampler import repeat_factors
from boxwood.data.shards import open_pictures
from boxwood.dense_pose import DensePose, read_symmetry
from boxwood.errors import UserError
from boxwood.fields import InstanceField
from boxwood.pixels import ValueRange
from boxwood.structures import Bitmap, Polygons, Sample

__all__ = ["CocoDataset"]

logger = logging.getLogger(__name__)


class CocoDataset:
    """The samples of a COCO file, or of another that `read_annotations` reads.

    Boxes are clipped to the image; annotations whose box has no area are left out, with a line in the log. COCO gives
    keypoints as indices of pixels, so half a pixel is added to make them the continuous coordinates of a `Sample`.

    With ``proposals`` (files that `read_proposals` reads) each sample has its best ``proposal_limit`` proposals, including those in
    crowd regions: evaluation needs them, and RoI sampling excludes them from the negatives
    (`boxwood.models.second_stage.sample_rois`).

    With ``mask_classes`` (names or category ids) instances of other classes have no mask, whatever the file says.

    Where annotations have dense pose, samples have the field ``dense_pose``; ``symmetry`` is the file by which it is mirrored
    (`boxwood.dense_pose.read_symmetry`).

    Raises `UserError` where the file or the folder has errors (`boxwood.data.quality.checks`), and where the proposals do not
    belong to these images. So it does where ``mask_classes`` names an unknown class, or no mask is left.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        *,
        split: str | None = None,
        holdout: Holdout | None = None,
        keep_empty: bool = True,
        exif: bool = True,
        value_range: ValueRange | None = None,
        proposals: str | Path | Sequence[str | Path] | None = None,
        proposal_limit: int | None = 2000,
        mask_classes: Sequence[int | str] | None = None,
        repeat_threshold: float | None = None,
        symmetry: str | Path | None = None,
    ) -> None:
        self.file = read_annotations(annotations, images, split, holdout)
        self.folder = str(images)
        self._pictures = open_pictures(images)
        self.exif = exif
        self.value_range = value_range
        # First, because the other checks need an image for every annotation.
        refuse(check_identities(self.file), str(annotations))
        self.file, name_findings = locate_images(self.file, images)
        refuse(name_findings, str(annotations))
        repaired, box_findings = check_boxes(self.file)
        self._usable_parts, mask_findings = check_masks(self.file)
        findings = [*box_findings, *mask_findings, *check_keypoints(self.file)]
        refuse(findings, str(annotations))
        for finding in [*check_readings(self.file), *name_findings, *findings, *check_areas(self.file)]:
            logger.warning("%s: %s", annotations, finding)
        if automatic := self.file.num_automatic():
            logger.info(
                "%s: %d of %d annotations were made by a detector (source: auto)", annotations, automatic, len(self.file.ids)
            )
        if (table := self.file.interactions) is not None and table.strange_targets:
            logger.warning("%s: %d objects are of classes that their role does not include", annotations, table.strange_targets)
        self._boxes, self._usable = repaired.boxes, repaired.usable
        self.categories = categories_of(self.file)
        order = np.argsort(self.categories.ids)
        self._labels = order[np.searchsorted(np.array(self.categories.ids)[order], self.file.category_ids)]
        self._masks = self._used_masks(mask_classes)
        self._has_masks = bool(self._masks.any())
        self._has_dense_pose = bool(len(self.file.dense_pose.buffer))
        self._symmetry = None if symmetry is None else read_symmetry(str(symmetry))
        self._warned_of_exif = False
        self._rows = self._kept_rows(keep_empty)
        if value_range is None:
            self._warn_of_deep_pixels()
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

    @property
    def proposals(self) -> ProposalFile | None:
        """The proposals of all images, where there are some."""
        return self._proposals

    @property
    def mask_counts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(K, 2) of each class the instances that have a mask, and all instances; crowd regions are not counted."""
        instances = self._usable & ~self.file.crowd & ~self.file.ignore
        with_masks = instances & self._masks
        counts = [np.bincount(self._labels[rows], minlength=len(self.categories)) for rows in (with_masks, instances)]
        return np.stack(counts, axis=1)

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
            fields=self._fields(image_id, annotations),
        )

    def _fields(self, image_id: int, annotations: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, InstanceField]:
        """Interactions and dense pose, where the file has them."""
        fields: dict[str, InstanceField] = {}
        if (table := self.file.interactions) is not None:
            fields["interactions"] = table.of_image(image_id, self.file.ids[annotations], table.known[annotations])
        if self._has_dense_pose:
            fields["dense_pose"] = self._dense_pose(annotations)
        return fields

    def _used_masks(self, mask_classes: Sequence[int | str] | None) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(A,) the annotations with a mask, of one of these classes. Raises `UserError` where classes leave none."""
        counts = np.concatenate([[0], np.cumsum(self._usable_parts)])[self.file.parts]
        masks: np.ndarray[Any, np.dtype[np.bool_]] = (np.diff(counts) > 0) | (self.file.mask_kinds > POLYGONS)
        if mask_classes is None:
            return masks
        labels = self.categories.labels_of(mask_classes, f"{self.file.path}: mask_classes")
        masks &= np.isin(self._labels, labels)
        if not (masks & self._usable & ~self.file.crowd & ~self.file.ignore).any():
            names = ", ".join(self.categories.names[label] for label in labels[:10]) or "it names none"
            raise UserError(
                f"{self.file.path}: mask_classes leaves no class that teaches masks ({names}): no instance of these has a "
                "mask; name classes with masks"
            )
        return masks

    def _warn_of_deep_pixels(self) -> None:
        """Where the first image has more than 8 bits, though nothing says which value is white."""
        if not len(self._rows):
            return
        try:
            path = self._pictures.source(self.file_name(0))
            deep = read_header(path).deep
        except UserError:
            return  # to be raised when the image is read
        if deep:
            logger.warning(
                "%s: has more than 8 bits, and value_range is not set, so each image is read by its own highest value; "
                "boxwood data check --decode names a range for all",
                path,
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
        path = self._pictures.source(name)
        expected = tuple(self.file.image_sizes[row].tolist())
        image = read_image(path, self.exif, self.value_range)
        if image.shape[1:] == expected:
            return image
        if self.exif:
            stored = read_image(path, False, self.value_range)
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
        if not self._masks[annotation]:
            return Polygons([])
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

    def _dense_pose(self, annotations: np.ndarray[Any, np.dtype[np.int64]]) -> DensePose:
        file = self.file
        rows = [dense_pose_of(file.dense_pose[annotation]) for annotation in annotations.tolist()]
        try:
            return dense_pose_field(rows, file.boxes[annotations], self._symmetry)
        except ValueError as error:
            image = file.describe(int(annotations[0]))
            raise UserError(f"{file.path}: 'dp_masks' beside {image} cannot be decoded ({error}); correct the file") from None

    def _keypoints(
        self, annotations: np.ndarray[Any, np.dtype[np.int64]], num_keypoints: int
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        keypoints = np.zeros((len(annotations), num_keypoints, 3), dtype=np.float32)
        rows = self.file.keypoint_rows[annotations]
        keypoints[rows >= 0] = placed_keypoints(self.file.keypoints[rows[rows >= 0]].reshape(-1, num_keypoints, 3))
        keypoints[..., :2] += np.where(keypoints[..., 2:] > 0, np.float32(0.5), np.float32(0))
        return keypoints
