"""Which images make which batch: a pure function of the seed and of the images' sizes.

An endless stream of epochs, each a random permutation of all images. Nothing here depends on processes or workers, so a run
is resumed from the number of batches it has seen, and is the same on any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Place", "batch_seed", "rng_at", "train_order"]


class Place(NamedTuple):
    """One image's turn: with the run's seed it decides every random choice that is made about it."""

    epoch: int
    image: int


def rng_at(seed: int, place: Place) -> np.random.Generator:
    """The generator from which the transforms of this image draw."""
    return np.random.default_rng([seed, place.epoch, place.image])


def batch_seed(seed: int, place: Place) -> int:
    """63 bits for the model's own random choices about this image, independent of its transforms'.

    >>> batch_seed(0, Place(0, 0)) == batch_seed(0, Place(0, 0)), batch_seed(0, Place(0, 0)) == batch_seed(0, Place(1, 0))
    (True, False)
    """
    sequence = np.random.SeedSequence([seed, place.epoch, place.image], spawn_key=(1,))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


def train_order(wide: NDArray[np.bool_], batch_size: int, seed: int, aspect_grouping: bool = True) -> Iterator[list[Place]]:
    """Endless batches of ``batch_size`` places; image i is landscape where ``wide[i]``.

    With ``aspect_grouping`` a batch holds only landscape or only portrait images. What an epoch leaves over in the two groups
    (under two batches) is put together, and what then still fills no batch is filled up by the first images of the next epoch: two
    mixed batches an epoch at most. No image is dropped or waits: an epoch's images are used up by the first batch of the next.

    >>> order = train_order(np.array([True, True, False]), batch_size=2, seed=0)
    >>> batches = [next(order) for _ in range(3)]
    >>> sorted(place.image for batch in batches for place in batch)
    [0, 0, 1, 1, 2, 2]
    """
    carried: list[Place] = []
    epoch = 0
    while True:
        permutation = np.random.default_rng([seed, epoch]).permutation(len(wide))
        stream = carried + [Place(epoch, image) for image in permutation.tolist()]
        if aspect_grouping and carried and len(stream) >= batch_size:
            yield stream[:batch_size]
            stream = stream[batch_size:]
        batches, carried = _grouped(stream, wide, batch_size) if aspect_grouping else _cut(stream, batch_size)
        yield from batches
        epoch += 1


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
