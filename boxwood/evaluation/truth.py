"""Ground truth and detections in the form in which they are compared: few fields, flat arrays, ids counted from 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood.columns import is_area, short
from boxwood.distributed import gather_objects
from boxwood.errors import UserError
from boxwood.fields import DetectedKeypoints, MaskProbabilities
from boxwood.ops.contours import instance_area
from boxwood.structures import Detections

__all__ = ["ImageResults", "Results", "Truth", "gather_results"]


@dataclass(slots=True)
class ImageResults:
    """The detections of one image, best first."""

    boxes: NDArray[np.float64]
    """(N, 4) x, y, width, height in pixels of the original image."""
    scores: NDArray[np.float64]
    """(N,)."""
    labels: NDArray[np.int64]
    """(N,) labels 0..C-1."""
    rles: list[dict[str, Any]] | None = None
    """Masks as COCO run lengths, in the original image."""
    keypoints: NDArray[np.float64] | None = None
    """(N, K * 3) x, y, score of each keypoint; x, y are indices of pixels, as in COCO."""
    others: list[dict[str, Any]] | None = None
    """The record entries of fields other than masks and keypoints, one dictionary per detection."""

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def of(cls, detections: Detections, with_masks: bool) -> ImageResults:
        boxes = detections.boxes.detach().cpu().double().numpy().reshape(-1, 4).copy()
        boxes[:, 2:] -= boxes[:, :2]
        scores = detections.scores.detach().cpu().double().numpy()
        keypoints = None
        if detections.keypoints is not None:
            half = np.array([0.5, 0.5, 0.0])  # keypoints of `Detections` are continuous: the centre of pixel 0 is 0.5
            keypoints = (detections.keypoints.detach().cpu().double().numpy() - half).reshape(
                len(scores), 3 * detections.keypoints.shape[1]
            )
        compared = (MaskProbabilities, DetectedKeypoints)
        of_fields = [
            field.records(detections.boxes, detections.size)
            for field in detections.fields.values()
            if not isinstance(field, compared)
        ]
        others = [{key: value for part in parts for key, value in part.items()} for parts in zip(*of_fields, strict=True)]
        rles = detections.rles() if with_masks else None
        return cls(boxes, scores, detections.labels.cpu().numpy(), rles, keypoints, others or None)

    def records(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """The detections as COCO results; with ``segmentation``, ``keypoints`` and the entries of other fields where there are
        any."""
        records = []
        for rank, label in enumerate(self.labels.tolist()):
            record = {
                "image_id": image_id,
                "category_id": category_ids[label],
                "bbox": self.boxes[rank].tolist(),
                "score": float(self.scores[rank]),
            }
            if self.rles is not None:
                record["segmentation"] = self.rles[rank]
            if self.keypoints is not None:
                record["keypoints"] = self.keypoints[rank].tolist()
            if self.others is not None:
                record |= self.others[rank]
            records.append(record)
        return records

    @classmethod
    def of_proposals(cls, boxes: NDArray[Any], scores: NDArray[Any]) -> ImageResults:
        """From boxes (N, 4) xyxy and scores (N,) without classes, best first."""
        corners = boxes.astype(np.float64)
        return cls(
            np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
            scores.astype(np.float64),
            np.zeros(len(boxes), dtype=np.int64),
        )


Results = dict[int, ImageResults]
"""Detections by image id."""


def gather_results(results: Results) -> Results:
    """The results of all processes; for an image that several processes evaluated, those of the first."""
    merged: Results = {}
    for part in gather_objects(results):
        for image_id, detections in part.items():
            merged.setdefault(image_id, detections)
    return merged


class Truth:
    """The ground truth of a data set, prepared for comparison.

    The COCO API compares images and classes in the order of their ids, which also decides between equal scores. Here ids are
    replaced by positions in that order, counted from 1, and annotations are renumbered from 1: the result is the same for
    any ids, and an annotation with the id 0, which the COCO API takes for "not matched", counts correctly. An ``area`` that is
    missing or not a positive number is that of the mask, or else of the box: the COCO API would ignore a negative one.

    Raises `UserError` where an annotation has no box, or annotations differ in their number of keypoints.
    """

    def __init__(self, coco: Mapping[str, Any]) -> None:
        self.images = sorted(coco["images"], key=lambda image: image["id"])
        self.categories = sorted(coco["categories"], key=lambda category: category["id"])
        self.image_position = {image["id"]: position for position, image in enumerate(self.images, start=1)}
        self.category_position = {category["id"]: position for position, category in enumerate(self.categories, start=1)}
        self.annotations: list[dict[str, Any]] = []
        self.given: list[Mapping[str, Any]] = []
        """The annotations as they came, in the order of `annotations`."""
        self.without_area: list[int] = []
        """The ids of annotations whose area was computed."""
        self.without_mask: list[int] = []
        self.num_keypoints = max((len(a.get("keypoints") or ()) // 3 for a in coco["annotations"]), default=0)
        for annotation in coco["annotations"]:
            if annotation["image_id"] in self.image_position and annotation["category_id"] in self.category_position:
                self.annotations.append(self._prepare(annotation))
                self.given.append(annotation)

    def _prepare(self, annotation: Mapping[str, Any]) -> dict[str, Any]:
        box = annotation.get("bbox") or ()
        if len(box) != 4 or not all(isinstance(number, Real) and math.isfinite(number) for number in box):
            raise UserError(
                f"annotation {annotation.get('id')} of image {annotation['image_id']}: "
                f"'bbox' must be x, y, width, height, got {short(box) if box else 'nothing'}; correct the truth"
            )
        area, segmentation = annotation.get("area"), annotation.get("segmentation") or None
        if not is_area(area):
            area = instance_area(segmentation, box)
            self.without_area.append(annotation.get("id", -1))
        if segmentation is None:
            self.without_mask.append(annotation.get("id", -1))
        keypoints = annotation.get("keypoints") or []
        expected = 3 * self.num_keypoints
        if keypoints and len(keypoints) != expected:
            raise UserError(
                f"annotation {annotation.get('id')} of image {annotation['image_id']}: 'keypoints' must be {expected} numbers "
                f"x, y, visibility, as elsewhere in the truth, got {len(keypoints)}; correct the truth"
            )
        return {
            "id": len(self.annotations) + 1,
            "image_id": self.image_position[annotation["image_id"]],
            "category_id": self.category_position[annotation["category_id"]],
            "bbox": box,
            "area": area,
            "iscrowd": int(annotation.get("iscrowd") or 0),
            "segmentation": segmentation,
            "keypoints": keypoints,
            "num_keypoints": sum(visibility > 0 for visibility in keypoints[2::3]),
        }

    def names(self) -> list[str]:
        """The categories' names in the order of their ids; a name that occurs twice is followed by its id."""
        names = [str(category.get("name", category["id"])) for category in self.categories]
        return [f"{n} ({c['id']})" if names.count(n) > 1 else n for n, c in zip(names, self.categories, strict=True)]

    def counts(self) -> list[int]:
        """The number of instances of each category, without crowd regions."""
        counts = [0] * len(self.categories)
        for annotation in self.annotations:
            if not annotation["iscrowd"]:
                counts[annotation["category_id"] - 1] += 1
        return counts

    def coco(self, task: str) -> dict[str, Any]:
        """The truth as a COCO dictionary. For ``segm`` the box of an instance without a mask becomes a crowd region, which is
        ignored. For ``keypoints`` the COCO API itself ignores instances without labelled keypoints."""
        images = [
            {"id": position, "height": image.get("height", 0), "width": image.get("width", 0)}
            for position, image in enumerate(self.images, start=1)
        ]
        categories = [{"id": position, "name": name} for position, name in enumerate(self.names(), start=1)]
        annotations: list[dict[str, Any]] = []
        for annotation in self.annotations:
            copy = dict(annotation)
            segmentation = copy.pop("segmentation")
            if task != "keypoints":
                del copy["keypoints"], copy["num_keypoints"]
            elif not copy["keypoints"]:
                copy["keypoints"] = [0] * self.num_keypoints * 3
            if task == "segm":
                x, y, width, height = annotation["bbox"]
                copy["segmentation"] = segmentation or [[x, y, x, y + height, x + width, y + height, x + width, y]]
                copy["iscrowd"] = annotation["iscrowd"] if segmentation else 1
            annotations.append(copy)
        return {"images": images, "categories": categories, "annotations": annotations}
