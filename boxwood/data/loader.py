"""From a data set to batches: transforms, targets, padding, and the worker processes that prepare batches in advance."""

from __future__ import annotations

import itertools
import math
import signal
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from boxwood.data.dataset import Dataset
from boxwood.data.mixture import MixtureDataset
from boxwood.data.packing import PackedBatch
from boxwood.data.sampler import Place, batch_seed, mixed_order, rng_at, train_order
from boxwood.data.transforms import DrawingTransform, Transform
from boxwood.errors import UserError
from boxwood.fields import MASK_SIZE, ImageField
from boxwood.structures import Batch, Sample, Target

__all__ = ["MASK_SIZE", "STRIDE", "collate", "eval_batches", "make_target", "train_batches", "transformed_sample"]

FILES_OF_PROCESS, FILES_OF_WORKER = 64, 32
"""File descriptors of a process, and of each of its workers: pipes, and the tensors of batches that wait."""
STRIDE = 32
"""Batches are padded to multiples of this, the coarsest stride of a backbone with four stages."""


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
    device: torch.device | None = None,
) -> Generator[Batch]:
    """Endless training batches of this process, from batch number ``start`` on. Closing it ends its worker processes. With
    ``device`` their tensors are there.

    ``batch_size`` counts the images of one batch over all processes; each process gets a contiguous part. The content of a batch
    depends only on the data, the seed and the batch number (`boxwood.data.sampler`), so any number of workers gives the same
    batches, and ``start`` = k gives those from number k on.

    Raises `UserError` where the batch cannot be divided evenly, where there are no images, and where an image cannot be used.
    """
    if batch_size % world_size:
        raise UserError(f"train.batch_size: {batch_size} images cannot be shared by {world_size} processes; choose a multiple")
    wide = np.array([width >= height for height, width in map(dataset.size, range(len(dataset)))], dtype=np.bool_)
    share = batch_size // world_size
    repeats = getattr(dataset, "repeats", None)
    if isinstance(dataset, MixtureDataset) and dataset.ratio is not None:
        endless = mixed_order(wide, batch_size, seed, aspect_grouping, repeats, starts=dataset.starts, ratio=dataset.ratio)
    else:
        endless = train_order(wide, batch_size, seed, aspect_grouping, repeats)
    order = itertools.islice(endless, start, None)
    places = (batch[rank * share : (rank + 1) * share] for batch in order)
    load = partial(_load, dataset, tuple(transforms), seed, True)
    return _batches(load, places, workers, device)


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
    """Each image once over all processes: landscape images first, then portrait ones. The processes get the batches in turn.

    ``batch_size`` counts the images of one process's batch. Raises `UserError` where an image cannot be used, and where a transform
    draws other samples.
    """
    for transform in transforms:
        if isinstance(transform, DrawingTransform):
            raise transform.refusal()
    tall = np.array([width < height for height, width in map(dataset.size, range(len(dataset)))], dtype=np.bool_)
    order = [Place(0, image) for image in np.argsort(tall, kind="stable").tolist()]
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    load = partial(_load, dataset, tuple(transforms), seed, with_targets)
    return _batches(load, iter(batches[rank::world_size]), workers)


def transformed_sample(dataset: Dataset, transforms: Sequence[Transform], seed: int, place: Place) -> Sample:
    """Image ``place.image`` as it is trained on in epoch ``place.epoch``."""
    return _transformed(dataset, transforms, place.image, rng_at(seed, place))


def _transformed(dataset: Dataset, transforms: Sequence[Transform], index: int, rng: np.random.Generator) -> Sample:
    """An image after the transforms. They, and the samples that they draw, use no other randomness than ``rng``."""
    if isinstance(dataset, MixtureDataset):
        part, place = dataset.part_of(index)
        sample = _transformed(dataset.parts[part], dataset.transforms[part], place, rng)
    else:
        sample = dataset[index]
    for number, transform in enumerate(transforms):
        if isinstance(transform, DrawingTransform):
            sample = transform.mix(sample, rng, partial(_drawn, dataset, transforms[:number], rng))
        else:
            sample = transform(sample, rng)
    return sample


def _drawn(dataset: Dataset, transforms: Sequence[Transform], rng: np.random.Generator) -> Sample:
    """A random image after the transforms."""
    return _transformed(dataset, transforms, int(rng.integers(len(dataset))), rng)


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
        image_fields=_image_fields(samples),
        scaled_sizes=torch.tensor([sample.scaled_size or sample.size for sample in samples]),
        extent=(max(sample.size[0] for sample in samples), max(sample.size[1] for sample in samples)),
    )


def _image_fields(samples: Sequence[Sample]) -> dict[str, tuple[ImageField, ...]]:
    """The fields that all samples have."""
    names = [name for name in samples[0].image_fields if all(name in sample.image_fields for sample in samples)]
    return {name: tuple(sample.image_fields[name] for sample in samples) for name in names}


def make_target(sample: Sample) -> Target:
    """The training target of a sample: its instances and their fields; crowd regions are to be ignored."""
    for name, field in sample.fields.items():
        if len(field) != len(sample.boxes):
            raise ValueError(f"the field {name!r} of {sample.file_name} has {len(field)} rows for {len(sample.boxes)} instances")
    instances = sample.select(~sample.crowd)
    fields = {name: field.for_training(instances.boxes) for name, field in instances.fields.items()}
    ignore, ignore_labels = sample.boxes[sample.crowd], sample.labels[sample.crowd]
    return Target(instances.boxes, instances.labels, ignore, fields=fields, ignore_labels=ignore_labels)


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


def _batches(load: Load, places: Iterator[list[Place]], workers: int, device: torch.device | None = None) -> Generator[Batch]:
    on_gpu = device is not None and device.type == "cuda"
    if workers == 0:
        for batch in map(load, places):
            yield PackedBatch.of(batch).pin_memory().to(device).unpack() if on_gpu else batch
        return
    _check_open_files(workers)
    loader = DataLoader(
        _ByPlaces(load),
        batch_size=None,  # A list of places is one item: the worker makes the whole batch.
        sampler=_Places(places),
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=on_gpu,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # Otherwise the loader would advance the run's global generator.
    )
    for item in _received(loader):
        if isinstance(item, _Failure):
            item.throw()
        yield (item.to(device) if on_gpu else item).unpack()


def _received(loader: DataLoader[PackedBatch | _Failure]) -> Iterator[PackedBatch | _Failure]:
    """What the workers send. Raises `UserError` where the system has ended one of them."""
    items = iter(loader)
    while True:
        try:
            item = next(items, None)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                "the system has ended a process that loads images, probably because memory ran out; lower data.workers or "
                f"train.batch_size, or close other programs ({' '.join(str(error).split())})"
            ) from None
        if item is None:
            return
        yield item


def _check_open_files(workers: int) -> None:
    """Raise `UserError` where this process may not open as many files as batches from ``workers`` processes need: it would hang.

    A soft limit is raised first, as far as it may be.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    needed = FILES_OF_PROCESS + FILES_OF_WORKER * workers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"this process may open {hard} files, and data.workers={workers} needs {needed}; raise the limit (ulimit -n {needed}) "
            "or lower data.workers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class _ByPlaces(TorchDataset["PackedBatch | _Failure"]):
    """Runs in a worker process. Exceptions are returned as values, because the loader would wrap them in another traceback."""

    def __init__(self, load: Load) -> None:
        self.load = load

    def __getitem__(self, places: list[Place]) -> PackedBatch | _Failure:
        try:
            return PackedBatch.of(self.load(places))
        except UserError as error:
            return _Failure(str(error), "")
        except MemoryError:
            return _Failure("memory ran out while images were loaded; lower data.workers or train.batch_size", "")
        except Exception as error:
            return _Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


@dataclass
class _Failure:
    message: str
    trace: str
    """Empty for a `UserError`."""

    def throw(self) -> NoReturn:
        if not self.trace:
            raise UserError(self.message)
        raise RuntimeError(f"a worker process failed with {self.message}\n\n{self.trace}")


class _Places(torch.utils.data.Sampler[list[Place]]):
    """The order of places as a sampler of torch's loader; it can be iterated once."""

    def __init__(self, places: Iterator[list[Place]]) -> None:
        self.places = places

    def __iter__(self) -> Iterator[list[Place]]:
        return self.places


def _unchanged(item: Any) -> Any:
    return item


def _start_worker(worker: int) -> None:
    # Ctrl-C and the closing of a terminal are sent to each of its processes, SIGTERM to every process of a job (torchrun, batch
    # systems). The training process finishes its step and saves, for which it needs its workers. They end with the loader or with
    # the training process.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)
