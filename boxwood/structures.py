"""The data that flows between the stages: one dataclass for each stage.

    reader -> Sample -> transforms -> Sample -> loader -> Batch(Target, ...) -> model -> Detections

Letters in shapes: B images of a batch, N instances of an image, K keypoints of an instance, H x W pixels,
S x S and M x M the resolutions of stored and of predicted masks.

Boxes are ``xyxy`` float32 in absolute pixels with continuous coordinates: a box from pixel 3 up to and
including pixel 5 is (3, 6), its width is x2 - x1. Labels are 0..C-1; there is no background class here.
Images are RGB, uint8, (3, H, W). A sample's and a target's boxes are in the frame of their image as the network
sees it; detections are in the pixels of the original image.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwood.errors import UserError
from boxwood.fields import (
    Affine,
    Bitmap,
    Boxes,
    DetectedKeypoints,
    Field,
    ImageField,
    InstanceField,
    InstanceMasks,
    Keypoints,
    MaskProbabilities,
    Polygons,
    Segmentations,
    field_of,
)
from boxwood.interactions import InteractionFacts
from boxwood.ops.boxes import area, clip
from boxwood.ops.masks import Crops, mask_crops, paste_masks

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "Batch",
    "Bitmap",
    "Categories",
    "Detections",
    "FirstSample",
    "InstanceMasks",
    "KeypointFacts",
    "Polygons",
    "Sample",
    "Target",
]

AnyField = TypeVar("AnyField", bound=Field)


# ------------------------------------------------------------------------------------------- facts of a data set


@dataclass(frozen=True)
class KeypointFacts:
    """The keypoints of a data set's instances: names, which swap on a mirror image, links to draw, OKS sigmas."""

    names: tuple[str, ...]
    flip: tuple[int, ...]
    """Index of each keypoint's mirror image; its own index where it has none."""
    skeleton: tuple[tuple[int, int], ...] = ()
    """Pairs of indices, counted from 0."""
    sigmas: tuple[float, ...] = ()


@dataclass(frozen=True)
class Categories:
    """The classes of a data set: category ``id`` (any integers) -> name -> index 0..C-1 (the label).

    >>> classes = Categories(ids=(3, 7), names=("cat", "dog"))
    >>> classes.index[7], len(classes)
    (1, 2)
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    keypoints: KeypointFacts | None = None
    interactions: InteractionFacts | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def index(self) -> dict[int, int]:
        """Label of each category id."""
        return {category: label for label, category in enumerate(self.ids)}

    def labels_of(self, classes: Iterable[int | str], where: str) -> tuple[int, ...]:
        """The labels of classes given by name or category id, in order; a name that several classes have stands for all of them.

        Raises `UserError`, which begins with ``where`` and names all that are no classes of these.

        >>> Categories((3, 7), ("cat", "dog")).labels_of(["dog", 3], "mask_classes")
        (0, 1)
        """
        labels: set[int] = set()
        unknown = []
        for given in classes:
            named = [label for label, name in enumerate(self.names) if name == given]
            is_id = isinstance(given, int) or given.isdecimal()
            if not named and is_id and int(given) in self.index:
                named = [self.index[int(given)]]
            labels.update(named)
            unknown += [] if named else [str(given)]
        if unknown:
            more, others = (f" and {len(names) - 8} more" if len(names) > 8 else "" for names in (unknown, self.names))
            raise UserError(
                f"{where}: names unknown classes: {', '.join(unknown[:8])}{more}; name some of {', '.join(self.names[:8])}{others}"
            )
        return tuple(sorted(labels))

    def table(self) -> str:
        """One line per class: id, name, label."""
        rows = zip(self.ids, self.names, strict=True)
        return "\n".join(f"  id {category} -> '{name}' -> label {label}" for label, (category, name) in enumerate(rows))


# ------------------------------------------------------------------------------------------------ one image's truth


@dataclass(init=False, slots=True)
class Sample:
    """One image with its truth, as a reader gives it and as transforms change it.

    Crowd regions are among the instances (``crowd`` True: a region of many instances, to be ignored). ``fields`` has all other data
    of the instances by name, ``image_fields`` that of the image. Masks, keypoints and proposals are such fields and have
    properties.
    """

    image: Tensor
    """(3, H, W) uint8 RGB."""
    image_id: int
    file_name: str
    original_size: tuple[int, int]
    """(height, width) of the image in the file, after EXIF orientation."""
    boxes: Tensor
    """(N, 4) float32 xyxy, pixels of ``image``."""
    labels: Tensor
    """(N,) int64; -1 where a region is to be ignored and has no class to learn."""
    crowd: Tensor
    """(N,) bool."""
    fields: dict[str, InstanceField]
    """By name, N rows each. To change one, assign a new dictionary: copies of a sample share theirs."""
    image_fields: dict[str, ImageField]
    """By name; also to be replaced as a whole."""
    scaled_size: tuple[float, float] | None
    """(height, width): ``original_size`` times the scale of everything, of which the image's size is rounded; None: `size`."""

    def __init__(
        self,
        image: Tensor,
        image_id: int,
        file_name: str,
        original_size: tuple[int, int],
        boxes: Tensor,
        labels: Tensor,
        crowd: Tensor,
        segmentations: list[Polygons | Bitmap] | None = None,
        keypoints: Tensor | None = None,
        keypoint_flip: tuple[int, ...] = (),
        proposals: Tensor | None = None,
        *,
        fields: Mapping[str, InstanceField] | None = None,
        image_fields: Mapping[str, ImageField] | None = None,
        scaled_size: tuple[float, float] | None = None,
    ) -> None:
        self.scaled_size = scaled_size
        self.image, self.image_id, self.file_name, self.original_size = image, image_id, file_name, original_size
        self.boxes, self.labels, self.crowd = boxes, labels, crowd
        self.fields, self.image_fields = dict(fields or {}), dict(image_fields or {})
        if segmentations is not None:
            self.segmentations = segmentations
        if keypoints is not None:
            self.fields["keypoints"] = Keypoints(keypoints, keypoint_flip)
        if proposals is not None:
            self.proposals = proposals

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of ``image`` now."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def segmentations(self) -> list[Polygons | Bitmap] | None:
        """The items of the field "masks": one for each instance; None where the data set has no masks."""
        field = field_of(self.fields, "masks", Segmentations)
        return None if field is None else field.items

    @segmentations.setter
    def segmentations(self, items: list[Polygons | Bitmap] | None) -> None:
        self.fields = _with(self.fields, "masks", None if items is None else Segmentations(items))

    @property
    def keypoints(self) -> Tensor | None:
        """The values of the field "keypoints" (`Keypoints`): (N, K, 3) float32; None where the data set has none."""
        field = field_of(self.fields, "keypoints", Keypoints)
        return None if field is None else field.values

    @keypoints.setter
    def keypoints(self, values: Tensor | None) -> None:
        self.fields = _with(self.fields, "keypoints", None if values is None else Keypoints(values, self.keypoint_flip))

    @property
    def keypoint_flip(self) -> tuple[int, ...]:
        """`KeypointFacts.flip` of the data set; empty where there are no keypoints."""
        field = field_of(self.fields, "keypoints", Keypoints)
        return () if field is None else field.flip

    @property
    def proposals(self) -> Tensor | None:
        """The values of the image field "proposals": (P, 4) float32 xyxy, best first; None where the data set has none."""
        field = field_of(self.image_fields, "proposals", Boxes)
        return None if field is None else field.values

    @proposals.setter
    def proposals(self, values: Tensor | None) -> None:
        self.image_fields = _with(self.image_fields, "proposals", None if values is None else Boxes(values))

    def select(self, index: Tensor) -> Sample:
        """The sample with the selected instances only; ``index`` is int64 or bool."""
        fields = {name: field[index] for name, field in self.fields.items()}
        return replace(self, boxes=self.boxes[index], labels=self.labels[index], crowd=self.crowd[index], fields=fields)

    def transformed(self, affine: Affine, image: Tensor) -> Sample:
        """The sample with another image, of size ``affine.size``; boxes and fields are mapped by ``affine``.

        Nothing is clipped to the new image: see `clipped`.
        """
        if tuple(image.shape[-2:]) != affine.size:
            raise ValueError(f"the image is {tuple(image.shape[-2:])}, the transform makes {affine.size}")
        return replace(
            self,
            image=image,
            boxes=affine.boxes(self.boxes),
            fields={name: field.transformed(affine) for name, field in self.fields.items()},
            image_fields={name: field.transformed(affine) for name, field in self.image_fields.items()},
            scaled_size=self.scaled_size if affine.size == self.size else None,
        )

    def flipped(self) -> Sample:
        """The sample mirrored left to right; keypoints swap sides by the data set's flip map."""
        return self.transformed(Affine.flip(self.size), self.image.flip(-1))

    def resized(self, size: tuple[int, int], *, antialias: bool = True, scale: float | None = None) -> Sample:
        """The sample with an image of ``size`` (height, width), and everything else scaled with it.

        ``scale`` is the factor of which ``size`` is rounded: then everything is scaled by it, without averaging, as OpenCV does.
        """
        if size == self.size:
            return self
        # uint8 in channels_last is torch's fast path here, more than twice as fast as Pillow, with its pixels.
        image = self.image[None].contiguous(memory_format=torch.channels_last)
        if scale is not None:
            (image,) = torch.ops.aten.upsample_bilinear2d(image, size, False, scale, scale)
            height, width = self.scaled_size or self.size
            return replace(
                self.transformed(Affine(scale, 0.0, scale, 0.0, size), image), scaled_size=(height * scale, width * scale)
            )
        image = F.interpolate(image, size, mode="bilinear", antialias=antialias)[0]
        # The scale follows from the rounded size, so that a box at the border stays at the border.
        return self.transformed(Affine.resize(self.size, size), image)

    def cropped(
        self,
        top: int,
        left: int,
        size: tuple[int, int],
        min_area: float = 0.0,
        fill: tuple[int, int, int] = (0, 0, 0),
    ) -> Sample:
        """The window of ``size`` (height, width) with its corner at (``left``, ``top``), padded with ``fill`` beyond the image.

        Instances that keep at most the fraction ``min_area`` of the area of their box are dropped (`clipped`).
        """
        inside = self.image[:, max(top, 0) : max(top + size[0], 0), max(left, 0) : max(left + size[1], 0)]
        image = torch.tensor(fill, dtype=torch.uint8)[:, None, None].repeat(1, *size)
        y, x = max(-top, 0), max(-left, 0)
        image[:, y : y + inside.shape[1], x : x + inside.shape[2]] = inside
        return self.transformed(Affine.crop(top, left, size), image).clipped(min_area)

    def clipped(self, min_area: float = 0.0) -> Sample:
        """The sample clipped to its image: boxes, masks, keypoints and proposals.

        The box of a clipped instance becomes the bounding box of the rest of its mask, where it has one. Instances that keep at
        most the fraction ``min_area`` of the area of their box are dropped; crowd regions only where no area is left.
        """
        boxes = clip(self.boxes, torch.tensor(self.size))
        cut = replace(
            self,
            boxes=boxes,
            fields={name: field.clipped(self.size) for name, field in self.fields.items()},
            image_fields={name: field.clipped(self.size) for name, field in self.image_fields.items()},
        )
        return cut._without_lost(self.boxes, (boxes != self.boxes).any(dim=1), min_area)

    def covered(self, pixels: Tensor, image: Tensor, min_area: float = 0.0) -> Sample:
        """The sample with another image of the same size, in which something was painted over ``pixels`` (H, W) bool.

        Masks lose these pixels; boxes are updated and instances dropped as in `clipped`.
        """
        corners = torch.cat([self.boxes[:, :2].floor(), self.boxes[:, 2:].ceil()], dim=1)
        windows = clip(corners, torch.tensor(self.size)).long().tolist()
        hidden = torch.tensor([int(pixels[y1:y2, x1:x2].count_nonzero()) for x1, y1, x2, y2 in windows], dtype=torch.int64)
        whole = torch.tensor([(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in windows], dtype=torch.int64)
        boxes = torch.where((hidden < whole)[:, None], self.boxes, 0.0)
        painted = replace(self, image=image, boxes=boxes, fields={name: f.covered(pixels) for name, f in self.fields.items()})
        return painted._without_lost(self.boxes, hidden > 0, min_area)

    def joined(self, other: Sample) -> Sample:
        """The sample with the instances of ``other`` appended; both are in the same frame and must have the same instance fields.

        Raises ValueError where the fields differ.
        """
        if self.fields.keys() != other.fields.keys():
            names = " and ".join(str(sorted(sample.fields)) for sample in (self, other))
            raise ValueError(f"{self.file_name} and {other.file_name} cannot be joined: their instances have the fields {names}")
        return replace(
            self,
            boxes=torch.cat([self.boxes, other.boxes]),
            labels=torch.cat([self.labels, other.labels]),
            crowd=torch.cat([self.crowd, other.crowd]),
            fields={name: type(field).cat([field, other.fields[name]]) for name, field in self.fields.items()},
        )

    def _without_lost(self, before: Tensor, changed: Tensor, min_area: float) -> Sample:
        """Fit the boxes of the instances ``changed`` to their masks, and drop instances with too little area left of ``before``."""
        extents = self.boxes
        for values in self.fields.values():
            extents = values.extents(extents)
        tight = torch.cat([extents[:, :2].maximum(self.boxes[:, :2]), extents[:, 2:].minimum(self.boxes[:, 2:])], dim=1)
        boxes = torch.where(changed[:, None], tight, self.boxes)
        remains = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        enough = self.crowd | (area(boxes) > min_area * area(before))
        return replace(self, boxes=boxes).select(remains & enough)


FirstSample: TypeAlias = Callable[[], Sample | None]
"""Reads the first sample of a data set; None where it is empty."""


@dataclass(init=False, slots=True)
class Target:
    """What a network is trained on for one image: its instances without the crowd regions, which are ``ignore``."""

    boxes: Tensor
    """(N, 4) float32 xyxy, pixels of the network's input. N = 0 is ordinary."""
    labels: Tensor
    """(N,) int64."""
    ignore: Tensor
    """(M, 4) float32 xyxy: regions where a detection is neither right nor wrong."""
    ignore_labels: Tensor
    """(M,) int64: the class of each crowd region; -1 where there is none to learn."""
    fields: dict[str, InstanceField]
    """By name, N rows each, as `InstanceField.for_training` made them."""

    def __init__(
        self,
        boxes: Tensor,
        labels: Tensor,
        ignore: Tensor,
        masks: InstanceMasks | None = None,
        keypoints: Tensor | None = None,
        *,
        fields: Mapping[str, InstanceField] | None = None,
        ignore_labels: Tensor | None = None,
    ) -> None:
        self.boxes, self.labels, self.ignore, self.fields = boxes, labels, ignore, dict(fields or {})
        self.ignore_labels = labels.new_full(ignore.shape[:1], -1) if ignore_labels is None else ignore_labels
        if masks is not None:
            self.fields["masks"] = masks
        if keypoints is not None:
            self.fields["keypoints"] = Keypoints(keypoints)

    @property
    def masks(self) -> InstanceMasks | None:
        """The field "masks"."""
        return field_of(self.fields, "masks", InstanceMasks)

    @property
    def keypoints(self) -> Tensor | None:
        """The values of the field "keypoints": (N, K, 3) float32."""
        field = field_of(self.fields, "keypoints", Keypoints)
        return None if field is None else field.values

    def to(self, device: torch.device | str) -> Target:
        boxes, labels, ignore = (tensor.to(device, non_blocking=True) for tensor in (self.boxes, self.labels, self.ignore))
        fields = {name: field.to(device) for name, field in self.fields.items()}
        return Target(boxes, labels, ignore, fields=fields, ignore_labels=self.ignore_labels.to(device, non_blocking=True))


@dataclass(init=False, slots=True)
class Batch:
    """Images of one step, padded with zeros at the right and the bottom to one size.

    Every random choice that a model makes for image i (which anchors, which RoIs) comes from a generator seeded with ``seeds[i]``,
    so it depends on neither the other images nor the number of processes.
    """

    images: Tensor
    """(B, 3, H, W) uint8 RGB; H and W are multiples of 32."""
    sizes: Tensor
    """(B, 2) int64: (height, width) of each image without its padding."""
    original_sizes: tuple[tuple[int, int], ...]
    image_ids: tuple[int, ...]
    file_names: tuple[str, ...]
    seeds: tuple[int, ...]
    targets: tuple[Target, ...] | None
    image_fields: dict[str, tuple[ImageField, ...]]
    """By name, one for each image: those fields that all images of the batch have."""
    extent: tuple[int, int] | None
    """The largest height and width of ``sizes``, known on the host; None: to be read from ``sizes``."""
    originals: Tensor
    """(B, 2) int64: ``original_sizes`` on the device of the images; None: made again from ``original_sizes``, for a
    copy with other ones."""
    scaled_sizes: Tensor
    """(B, 2) height and width: ``original_sizes`` times the scale of everything in the image, of which ``sizes`` are rounded; None:
    ``sizes``, whose scale differs a little from x to y."""

    def __init__(
        self,
        images: Tensor,
        sizes: Tensor,
        original_sizes: tuple[tuple[int, int], ...],
        image_ids: tuple[int, ...] = (),
        file_names: tuple[str, ...] = (),
        seeds: tuple[int, ...] = (),
        targets: tuple[Target, ...] | None = None,
        proposals: tuple[Tensor, ...] | None = None,
        *,
        image_fields: Mapping[str, tuple[ImageField, ...]] | None = None,
        extent: tuple[int, int] | None = None,
        originals: Tensor | None = None,
        scaled_sizes: Tensor | None = None,
    ) -> None:
        self.scaled_sizes = sizes if scaled_sizes is None else scaled_sizes
        self.images, self.sizes, self.original_sizes, self.extent = images, sizes, original_sizes, extent
        self.originals = torch.tensor(original_sizes).view(-1, 2).to(images.device) if originals is None else originals
        self.image_ids, self.file_names, self.seeds = image_ids, file_names, seeds
        self.targets, self.image_fields = targets, dict(image_fields or {})
        if proposals is not None:
            self.image_fields["proposals"] = tuple(map(Boxes, proposals))

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def proposals(self) -> tuple[Tensor, ...] | None:
        """The values of the image field "proposals": (P, 4) float32 xyxy an image, pixels of the network's input, best first."""
        fields = self.image_fields.get("proposals")
        return None if fields is None else tuple(boxes.values for boxes in fields if isinstance(boxes, Boxes))

    def to(self, device: torch.device | str) -> Batch:
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            sizes=self.sizes.to(device, non_blocking=True),
            scaled_sizes=self.scaled_sizes.to(device, non_blocking=True),
            originals=self.originals.to(device, non_blocking=True),
            targets=None if self.targets is None else tuple(target.to(device) for target in self.targets),
            image_fields={name: tuple(field.to(device) for field in fields) for name, fields in self.image_fields.items()},
        )


def _with(fields: Mapping[str, AnyField], name: str, field: AnyField | None) -> dict[str, AnyField]:
    """A copy of the dictionary in which ``name`` is ``field``, or is absent."""
    others = {key: value for key, value in fields.items() if key != name}
    return others if field is None else {**others, name: field}


# ------------------------------------------------------------------------------------------------------- results


@dataclass(init=False)
class Detections:
    """The detections of one image, best first, in pixels of the original image.

    >>> result = Detections(torch.tensor([[1.0, 2.0, 5.0, 6.0]]), torch.tensor([0.9]), torch.tensor([1]), (8, 8), ("cat", "dog"))
    >>> result.names, len(result)
    (['dog'], 1)
    """

    boxes: Tensor
    """(N, 4) float32 xyxy."""
    scores: Tensor
    """(N,) float32, 0..1, descending."""
    labels: Tensor
    """(N,) int64, 0..C-1."""
    size: tuple[int, int]
    """(height, width) of the original image."""
    class_names: tuple[str, ...]
    fields: dict[str, InstanceField]
    """More of the instances, N rows each, by name: ``masks`` (`MaskProbabilities`), ``keypoints`` (`DetectedKeypoints`), and those
    of user-defined tasks."""

    def __init__(
        self,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        size: tuple[int, int],
        class_names: tuple[str, ...] = (),
        mask_probabilities: Tensor | None = None,
        keypoints: Tensor | None = None,
        mask_threshold: float = 0.5,
        mask_crops: Crops = mask_crops,
        skeleton: tuple[tuple[int, int], ...] = (),
        *,
        fields: Mapping[str, InstanceField] | None = None,
    ) -> None:
        self.boxes, self.scores, self.labels, self.size, self.class_names = boxes, scores, labels, size, class_names
        self.fields = dict(fields or {})
        if mask_probabilities is not None:
            self.fields["masks"] = MaskProbabilities(mask_probabilities, mask_threshold, mask_crops)
        if keypoints is not None:
            self.fields["keypoints"] = DetectedKeypoints(keypoints, skeleton=skeleton)

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def __getitem__(self, index: Tensor | slice | int) -> Detections:
        """The detections of a slice, a boolean mask, indices, or one index; always `Detections`. Raises IndexError past the end."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"detection {index} of {len(self)}")
            index = slice(index % len(self), index % len(self) + 1)
        rows = torch.arange(len(self), device=self.boxes.device)[index] if isinstance(index, slice) else index
        fields = {name: field[rows] for name, field in self.fields.items()}
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows], fields=fields)

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.class_names[label] if label < len(self.class_names) else str(label) for label in self.labels.tolist()]

    @property
    def mask_probabilities(self) -> Tensor | None:
        """(N, M, M) float32, 0..1: the mask over the detection's box; None where the model has no masks."""
        field = field_of(self.fields, "masks", MaskProbabilities)
        return None if field is None else field.probabilities

    @property
    def keypoints(self) -> Tensor | None:
        """(N, K, 3) float32: x, y, score; None where the model has no keypoints."""
        field = field_of(self.fields, "keypoints", DetectedKeypoints)
        return None if field is None else field.values

    @property
    def skeleton(self) -> tuple[tuple[int, int], ...]:
        """Pairs of keypoints that are linked where they are drawn."""
        field = field_of(self.fields, "keypoints", DetectedKeypoints)
        return () if field is None else field.skeleton

    @cached_property
    def masks(self) -> Tensor | None:
        """(N, H, W) bool in the original image, pasted when first asked for; None where the model has no masks."""
        field = field_of(self.fields, "masks", MaskProbabilities)
        if field is None:
            return None
        return paste_masks(field.probabilities, self.boxes, self.size, field.threshold, field.crops)

    def rles(self) -> list[dict[str, Any]] | None:
        """The masks as COCO run-length codes (``size``, ``counts`` as text), made inside the boxes without whole-image masks."""
        field = field_of(self.fields, "masks", MaskProbabilities)
        return None if field is None else [record["segmentation"] for record in field.records(self.boxes, self.size)]

    def to(self, device: torch.device | str) -> Detections:
        fields = {name: field.to(device, non_blocking=False) for name, field in self.fields.items()}
        return replace(
            self, boxes=self.boxes.to(device), scores=self.scores.to(device), labels=self.labels.to(device), fields=fields
        )

    def __iter__(self) -> Iterator[Detections]:
        """One detection after another, best first."""
        return (self[row] for row in range(len(self)))

    def to_coco(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """COCO results: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height), ``score``, and what each field adds
        (``segmentation``, ``keypoints``). ``category_ids`` has the id of each label (`Categories.ids`).

        >>> detections = Detections(torch.tensor([[1.0, 2.0, 5.0, 8.0]]), torch.tensor([0.5]), torch.tensor([1]), (8, 8))
        >>> detections.to_coco(7, (10, 20))
        [{'image_id': 7, 'category_id': 20, 'bbox': [1.0, 2.0, 4.0, 6.0], 'score': 0.5}]
        """
        return [{"image_id": image_id, "category_id": category_ids[label], **record} for label, record in self.records()]

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Of each detection its label, and its ``bbox``, ``score`` and fields as COCO results have them."""
        of_fields = [field.records(self.boxes, self.size) for field in self.fields.values()]
        columns = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        for row, ((x1, y1, x2, y2), score, label) in enumerate(columns):
            record = {"bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            yield label, record | {key: value for field in of_fields for key, value in field[row].items()}

    def to_pandas(self) -> Any:
        """A table (`pandas.DataFrame`) with a row per detection: x1, y1, x2, y2, score, label, name. Raises `UserError` where
        pandas is not installed."""
        pandas = _imported("pandas")
        columns = dict(zip(("x1", "y1", "x2", "y2"), self.boxes.cpu().numpy().T, strict=True))
        return pandas.DataFrame(
            {**columns, "score": self.scores.cpu().numpy(), "label": self.labels.cpu().numpy(), "name": self.names}
        )

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, with masks of the whole image and names. Raises `UserError` where supervision is
        not installed."""
        supervision = _imported("supervision")
        return supervision.Detections(
            xyxy=self.boxes.cpu().numpy(),
            mask=None if self.masks is None else self.masks.cpu().numpy(),
            confidence=self.scores.cpu().numpy(),
            class_id=self.labels.cpu().numpy(),
            data={"class_name": np.array(self.names)},
        )

    def draw(self, image: Any, score: float = 0.5) -> Image.Image:
        """The picture with the detections of at least ``score`` drawn on it.

        ``image`` is the original picture: a path, a PIL image, an (H, W, 3) uint8 array or a (3, H, W) uint8 tensor.
        """
        from boxwood.drawing import draw_instances, one_by_one

        shown = self[self.scores >= score].to("cpu")
        masks = field_of(shown.fields, "masks", MaskProbabilities)
        return draw_instances(
            image,
            boxes=shown.boxes.numpy(),
            labels=shown.labels.tolist(),
            names=shown.names,
            scores=shown.scores.tolist(),
            masks=None if masks is None else one_by_one(masks.crops, masks.probabilities, shown.boxes, self.size, masks.threshold),
            keypoints=None if shown.keypoints is None else shown.keypoints.numpy(),
            skeleton=shown.skeleton,
            overlays=[field.draw for field in shown.fields.values()],
        )


def _imported(name: str) -> Any:
    """A package that Boxwood does not need itself."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{name} is not installed; run: pip install {name}") from None
