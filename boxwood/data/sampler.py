"""Which images are in which batch: a pure function of the seed and of the images' sizes.

An endless sequence of epochs, each a random permutation of all images. Nothing here depends on processes or workers, so a run
can be resumed from the number of batches it has processed, and is the same with any number of processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from boxwood.errors import UserError

__all__ = ["PATIENCE", "Place", "batch_seed", "mixed_order", "repeat_factors", "rng_at", "train_order"]

PATIENCE = 8
"""A part's group of images is passed over at most so many times for one with the orientation of the batch."""


class Place(NamedTuple):
    """One occurrence of an image in the order: with the run's seed it determines every random choice for this occurrence."""

    epoch: int
    image: int
    turn: int = 0
    """How often the image occurred before in this epoch."""

    def seeds(self) -> list[int]:
        return [self.epoch, self.image, self.turn] if self.turn else [self.epoch, self.image]


def rng_at(seed: int, place: Place) -> np.random.Generator:
    """The random generator for the transforms of this image."""
    return np.random.default_rng([seed, *place.seeds()])


def batch_seed(seed: int, place: Place) -> int:
    """63 random bits for the choices of the model (`boxwood.structures.Batch.seeds`), independent of those of the transforms.

    >>> batch_seed(0, Place(0, 0)) == batch_seed(0, Place(0, 0)), batch_seed(0, Place(0, 0)) == batch_seed(0, Place(1, 0))
    (True, False)
    """
    sequence = np.random.SeedSequence([seed, *place.seeds()], spawn_key=(1,))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


def repeat_factors(has: NDArray[np.bool_], threshold: float) -> NDArray[np.float64]:
    """How often each image occurs in an epoch, (I,): repeat factor sampling (Gupta et al., arXiv 1908.03195, B.2).

    ``has`` (I, K): which classes an image shows. A class in a fraction f of the images has the factor max(1, sqrt(threshold / f)),
    an image the largest factor of its classes.

    >>> has = np.array([[True, False]] * 15 + [[True, True]])
    >>> repeat_factors(has, 0.25)[-2:]
    array([1., 2.])
    """
    share = has.mean(axis=0)
    of_class = np.sqrt(threshold / np.maximum(share, 1e-12)).clip(min=1.0)
    factors: NDArray[np.float64] = np.where(has, of_class, 1.0).max(axis=1, initial=1.0)
    return factors


def train_order(
    wide: NDArray[np.bool_],
    batch_size: int,
    seed: int,
    aspect_grouping: bool = True,
    repeats: NDArray[np.float64] | None = None,
) -> Iterator[list[Place]]:
    """Endless batches of ``batch_size`` places; image i is landscape where ``wide[i]``.

    Image i occurs ``repeats[i]`` times in an epoch, on average where that is no whole number; None: once.

    With ``aspect_grouping`` a batch has only landscape or only portrait images. The images that remain in the two groups at the
    end of an epoch (less than two batches) are combined; if they do not fill a batch, the first images of the next epoch complete
    it. So at most two batches of an epoch are mixed, no image is dropped, and all images of an epoch are used before the second
    batch of the next one.

    >>> order = train_order(np.array([True, True, False]), batch_size=2, seed=0)
    >>> batches = [next(order) for _ in range(3)]
    >>> sorted(place.image for batch in batches for place in batch)
    [0, 0, 1, 1, 2, 2]

    Raises `UserError` where there is no image.
    """
    if not len(wide):
        raise UserError("data.train: the data set has no images; choose annotations that have some")
    return _endless(wide, batch_size, seed, aspect_grouping, repeats)


def _endless(
    wide: NDArray[np.bool_], batch_size: int, seed: int, aspect_grouping: bool, repeats: NDArray[np.float64] | None
) -> Iterator[list[Place]]:
    carried: list[Place] = []
    epoch = 0
    while True:
        stream = carried + _epoch(epoch, len(wide), repeats, np.random.default_rng([seed, epoch]))
        if aspect_grouping and carried and len(stream) >= batch_size:
            yield stream[:batch_size]
            stream = stream[batch_size:]
        batches, carried = _grouped(stream, wide, batch_size) if aspect_grouping else _cut(stream, batch_size)
        yield from batches
        epoch += 1


def mixed_order(
    wide: NDArray[np.bool_],
    batch_size: int,
    seed: int,
    aspect_grouping: bool = True,
    repeats: NDArray[np.float64] | None = None,
    *,
    starts: Sequence[int],
    ratio: Sequence[int],
) -> Iterator[list[Place]]:
    """Endless batches, each with images of several data sets in the same ratio.

    Part p is the images from ``starts[p]`` up to, not including, ``starts[p + 1]``. Of every ``sum(ratio)`` images of a batch,
    ``ratio[p]`` are of part p; they alternate (2, 1: A A B A A B), so that each process's portion of the batch has nearly the same
    ratio. Each part has its own epochs (`train_order`).

    With ``aspect_grouping`` the part with the largest number decides whether a batch is landscape or portrait. Each other part
    contributes, of its next `PATIENCE` groups of images, the first with this orientation; if there is none, or if its first group
    has been passed over `PATIENCE` times, the first group.

    >>> order = mixed_order(np.ones(5, dtype=bool), 3, seed=0, starts=[0, 2, 5], ratio=[2, 1])
    >>> [[int(place.image >= 2) for place in next(order)] for _ in range(3)]
    [[0, 0, 1], [0, 0, 1], [0, 0, 1]]

    Raises `UserError` where a batch cannot be divided by the ratio, or where a part has no image.
    """
    turns, rest = divmod(batch_size, sum(ratio))
    if rest:
        raise UserError(
            f"train.batch_size: {batch_size} images cannot be divided as {', '.join(map(str, ratio))} (data.train.ratio); choose a "
            f"multiple of {sum(ratio)}"
        )
    streams = []
    for part, (start, end, count) in enumerate(zip(starts[:-1], starts[1:], ratio, strict=True)):
        if start == end:
            raise UserError(
                f"data.train.parts.{part}: the data set has no images; choose annotations that have some, or remove the part"
            )
        part_seed = int(np.random.SeedSequence(seed, spawn_key=(part,)).generate_state(1, np.uint64)[0])
        part_repeats = None if repeats is None else repeats[start:end]
        order = train_order(wide[start:end], turns * count, part_seed, aspect_grouping, part_repeats)
        streams.append(_shifted(order, start))
    leader = max(range(len(ratio)), key=lambda part: ratio[part])
    return _mixed(streams, wide, leader, turns, PATIENCE if aspect_grouping else 1)


def _mixed(
    streams: list[Iterator[list[Place]]], wide: NDArray[np.bool_], leader: int, turns: int, patience: int
) -> Iterator[list[Place]]:
    waiting: list[list[list[Place]]] = [[] for _ in streams]
    ages = [0] * len(streams)
    while True:
        lead = next(streams[leader])
        shape = _mostly_wide(lead, wide)
        shares = []
        for part, stream in enumerate(streams):
            if part == leader:
                shares.append(lead)
                continue
            queue = waiting[part]
            queue.extend(itertools.islice(stream, patience - len(queue)))
            matching = (number for number, share in enumerate(queue) if _mostly_wide(share, wide) == shape)
            number = 0 if ages[part] >= patience else next(matching, 0)
            ages[part] = 0 if number == 0 else ages[part] + 1  # of the first in the queue
            shares.append(queue.pop(number))
        yield [
            place
            for turn in range(turns)
            for share in shares
            for place in share[turn * len(share) // turns : (turn + 1) * len(share) // turns]
        ]


def _mostly_wide(places: list[Place], wide: NDArray[np.bool_]) -> bool:
    return 2 * sum(bool(wide[place.image]) for place in places) >= len(places)


def _shifted(order: Iterator[list[Place]], start: int) -> Iterator[list[Place]]:
    for batch in order:
        yield [place._replace(image=place.image + start) for place in batch]


def _epoch(epoch: int, num_images: int, repeats: NDArray[np.float64] | None, rng: np.random.Generator) -> list[Place]:
    permutation = rng.permutation(num_images)
    if repeats is None:
        return [Place(epoch, image) for image in permutation.tolist()]
    times = np.floor(repeats + rng.random(num_images)).astype(np.int64)
    images = rng.permutation(np.repeat(permutation, times[permutation]))
    seen = np.zeros(num_images, dtype=np.int64)
    places = []
    for image in images.tolist():
        places.append(Place(epoch, image, int(seen[image])))
        seen[image] += 1
    return places


def _grouped(stream: list[Place], wide: NDArray[Any], batch_size: int) -> tuple[list[list[Place]], list[Place]]:
    batches: list[list[Place]] = []
    waiting: dict[bool, list[Place]] = {True: [], False: []}
    is_wide = wide.tolist()
    for place in stream:
        group = waiting[is_wide[place.image]]
        group.append(place)
        if len(group) == batch_size:
            batches.append(group.copy())
            group.clear()
    mixed, carried = _cut(waiting[True] + waiting[False], batch_size)
    return batches + mixed, carried


def _cut(stream: list[Place], batch_size: int) -> tuple[list[list[Place]], list[Place]]:
    whole = len(stream) // batch_size * batch_size
    return [stream[start : start + batch_size] for start in range(0, whole, batch_size)], stream[whole:]
