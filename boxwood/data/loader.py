"""From a data set to batches: transforms, targets, padding, and the processes that do it ahead of the training step."""

from __future__ import annotations

import itertools
import math
import signal
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from boxwood.data.dataset import Dataset
from boxwood.data.sampler import Place, batch_seed, rng_at, train_order
from boxwood.data.transforms import Transform
from boxwood.errors import UserError
from boxwood.ops.masks import rasterize_polygons, resize_bitmap
from boxwood.structures import Batch, InstanceMasks, Polygons, Sample, Target

__all__ = ["MASK_SIZE", "STRIDE", "collate", "eval_batches", "make_target", "train_batches", "transformed_sample"]

STRIDE = 32
"""Batches are padded to multiples of this, the coarsest stride of a backbone with four stages."""
MASK_SIZE = 112
"""Side of the grid on which an instance's mask is stored over its own extent: four times the finest mask that heads learn."""


def train_batches(
    dataset: Dataset,
    transforms: Sequence[Transform],
    *,
    batch_size: int,
    seed: int,
    workers: int,
    aspect_grouping: bool = True,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Generator[Batch]:
    """Endless training batches of this process, from batch number ``start`` on. Closing it ends its worker processes.

    ``batch_size`` counts the images of one batch over all processes; each process gets its contiguous share. What a batch holds
    depends only on the data, the seed and its number (`boxwood.data.sampler`), so any number of workers gives the same batches,
    and starting at k gives what follows after k.

    Raises `UserError` where the batch cannot be shared evenly, or where an image is found to be wrong as it is read.
    """
    if batch_size % world_size:
        raise UserError(f"train.batch_size: {batch_size} images cannot be shared by {world_size} processes; choose a multiple")
    wide = np.array([width >= height for height, width in map(dataset.size, range(len(dataset)))], dtype=np.bool_)
    share = batch_size // world_size
    repeats = getattr(dataset, "repeats", None)
    order = itertools.islice(train_order(wide, batch_size, seed, aspect_grouping, repeats), start, None)
    places = (batch[rank * share : (rank + 1) * share] for batch in order)
    load = partial(_load, dataset, tuple(transforms), seed, True)
    return _batches(load, places, workers, pin_memory)


def eval_batches(
    dataset: Dataset,
    transforms: Sequence[Transform],
    *,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    with_targets: bool = False,
    seed: int = 0,
) -> Generator[Batch]:
    """Each image once over all processes: landscape images first, then portrait ones, whole batches dealt out in turn.

    ``batch_size`` counts the images of one process's batch. Raises `UserError` where an image is found to be wrong as it is read.
    """
    tall = np.array([width < height for height, width in map(dataset.size, range(len(dataset)))], dtype=np.bool_)
    order = [Place(0, image) for image in np.argsort(tall, kind="stable").tolist()]
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    load = partial(_load, dataset, tuple(transforms), seed, with_targets)
    return _batches(load, iter(batches[rank::world_size]), workers, pin_memory=False)


def transformed_sample(dataset: Dataset, transforms: Sequence[Transform], seed: int, place: Place) -> Sample:
    """Image ``place.image`` as it is trained on in epoch ``place.epoch``."""
    sample = dataset[place.image]
    rng = rng_at(seed, place)
    for transform in transforms:
        sample = transform(sample, rng)
    return sample


def collate(samples: Sequence[Sample], seeds: Sequence[int], *, with_targets: bool) -> Batch:
    """One batch of ``samples``, padded with zeros at the right and the bottom to the largest height and width, in multiples of 32.

    ``seeds`` has one integer a sample (`Batch.seeds`).
    """
    height, width = (math.ceil(max(sizes) / STRIDE) * STRIDE for sizes in zip(*(sample.size for sample in samples), strict=True))
    images = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    for padded, sample in zip(images, samples, strict=True):
        padded[:, : sample.size[0], : sample.size[1]] = sample.image
    return Batch(
        images=images,
        sizes=torch.tensor([sample.size for sample in samples]),
        original_sizes=tuple(sample.original_size for sample in samples),
        image_ids=tuple(sample.image_id for sample in samples),
        file_names=tuple(sample.file_name for sample in samples),
        seeds=tuple(seeds),
        targets=tuple(make_target(sample) for sample in samples) if with_targets else None,
        proposals=_proposals(samples),
    )


def _proposals(samples: Sequence[Sample]) -> tuple[Tensor, ...] | None:
    given = tuple(sample.proposals for sample in samples if sample.proposals is not None)
    return given if len(given) == len(samples) else None


def make_target(sample: Sample) -> Target:
    """What to learn from a sample: its instances with masks on a grid over their own extent; crowd regions are ignored.

    An instance that has no mask, or one without area, gets a bitmap of zeros over its box: to be left out of a mask loss.
    """
    single = ~sample.crowd
    boxes = sample.boxes[single]
    masks = None
    if sample.segmentations is not None:
        segmentations = [sample.segmentations[index] for index in torch.nonzero(single).flatten().tolist()]
        bitmaps = np.zeros((len(segmentations), MASK_SIZE, MASK_SIZE), dtype=np.uint8)
        extents = boxes.clone()
        for index, segmentation in enumerate(segmentations):
            if isinstance(segmentation, Polygons):
                extent = _extent(segmentation)
                if extent is None:
                    continue
                bitmaps[index] = rasterize_polygons(segmentation.parts, extent, MASK_SIZE)
            else:
                extent = segmentation.box
                bitmaps[index] = resize_bitmap(segmentation.values, MASK_SIZE)
            extents[index] = torch.tensor(extent)
        masks = InstanceMasks(torch.from_numpy(bitmaps), extents)
    keypoints = None if sample.keypoints is None else sample.keypoints[single]
    return Target(boxes, sample.labels[single], sample.boxes[sample.crowd], masks, keypoints)


def _extent(polygons: Polygons) -> tuple[float, float, float, float] | None:
    """xyxy around all parts; None where that has no area."""
    if not polygons.parts:
        return None
    points = np.concatenate(polygons.parts)
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


# --------------------------------------------------------------------------------------------------- worker processes


def _load(dataset: Dataset, transforms: tuple[Transform, ...], seed: int, with_targets: bool, places: list[Place]) -> Batch:
    samples = []
    for place in places:
        try:
            samples.append(transformed_sample(dataset, transforms, seed, place))
        except UserError:
            raise
        except Exception as error:
            error.add_note(f"while image {place.image} of the data set was read and transformed (seed {seed}, epoch {place.epoch})")
            raise
    return collate(samples, [batch_seed(seed, place) for place in places], with_targets=with_targets)


Load = Callable[[list[Place]], Batch]


def _batches(load: Load, places: Iterator[list[Place]], workers: int, pin_memory: bool) -> Generator[Batch]:
    if workers == 0:
        for batch in map(load, places):
            yield batch.pin_memory() if pin_memory else batch
        return
    loader = DataLoader(
        _ByPlaces(load),
        batch_size=None,  # A place list is one item: the worker makes the whole batch.
        sampler=_Places(places),
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # Else the loader would draw from the run's own random numbers.
    )
    for item in loader:
        if isinstance(item, _Failure):
            item.throw()
        yield item.unpack()


class _ByPlaces(TorchDataset["_Packed | _Failure"]):
    """What a worker process runs; an exception is sent as a value, since the loader would bury it in a traceback of its own."""

    def __init__(self, load: Load) -> None:
        self.load = load

    def __getitem__(self, places: list[Place]) -> _Packed | _Failure:
        try:
            return _Packed.of(self.load(places))
        except UserError as error:
            return _Failure(str(error), "")
        except Exception as error:
            return _Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


@dataclass
class _Failure:
    message: str
    trace: str
    """Empty where the user's data is at fault."""

    def throw(self) -> None:
        if not self.trace:
            raise UserError(self.message)
        raise RuntimeError(f"a worker process failed with {self.message}\n\n{self.trace}")


@dataclass
class _Packed:
    """A batch with its targets and proposals concatenated: each tensor that crosses processes costs a file descriptor, and those
    are scarce."""

    batch: Batch
    """Without targets and proposals."""
    proposals: tuple[Tensor, list[int]] | None
    """Those of all images, and how many each has."""
    counts: list[tuple[int, int]]
    """Instances and ignored regions of each image."""
    columns: tuple[Tensor, Tensor, Tensor] | None
    """Boxes, labels and ignored boxes of all images."""
    masks: tuple[Tensor, Tensor] | None
    keypoints: Tensor | None

    @classmethod
    def of(cls, batch: Batch) -> _Packed:
        targets, batch.targets = batch.targets, None
        given, batch.proposals = batch.proposals, None
        proposals = None if given is None else (torch.cat(given), [len(boxes) for boxes in given])
        if targets is None:
            return cls(batch, proposals, [], None, None, None)
        masks = [target.masks for target in targets if target.masks is not None]
        keypoints = [target.keypoints for target in targets if target.keypoints is not None]
        return cls(
            batch,
            proposals,
            [(len(target.boxes), len(target.ignore)) for target in targets],
            (torch.cat([t.boxes for t in targets]), torch.cat([t.labels for t in targets]), torch.cat([t.ignore for t in targets])),
            (torch.cat([m.bitmaps for m in masks]), torch.cat([m.boxes for m in masks])) if masks else None,
            torch.cat(keypoints) if keypoints else None,
        )

    def unpack(self) -> Batch:
        if self.proposals is not None:
            self.batch.proposals = torch.split(*self.proposals)
        if self.columns is None:
            return self.batch
        instances, ignored = [count for count, _ in self.counts], [count for _, count in self.counts]
        none = [None] * len(instances)
        boxes, labels = (torch.split(column, instances) for column in self.columns[:2])
        ignore = torch.split(self.columns[2], ignored)
        masks = none if self.masks is None else map(InstanceMasks, *(torch.split(column, instances) for column in self.masks))
        keypoints = none if self.keypoints is None else torch.split(self.keypoints, instances)
        self.batch.targets = tuple(map(Target, boxes, labels, ignore, masks, keypoints))
        return self.batch

    def pin_memory(self) -> _Packed:
        """Called by torch's loader."""
        self.batch.pin_memory()
        return self


class _Places(torch.utils.data.Sampler[list[Place]]):
    """The order as torch's loader wants it; it is read once."""

    def __init__(self, places: Iterator[list[Place]]) -> None:
        self.places = places

    def __iter__(self) -> Iterator[list[Place]]:
        return self.places


def _unchanged(item: Any) -> Any:
    return item


def _start_worker(worker: int) -> None:
    # Ctrl-C reaches every process of a terminal, SIGTERM every process of a job (torchrun, batch systems). The training process
    # finishes its step and saves; a worker that died before would break that. Workers end when they are told to, or find it gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
