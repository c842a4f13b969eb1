"""The order of training: pure, complete, grouped."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood.data.order import Place, batch_seed, rng_at, train_order

shapes = st.lists(st.booleans(), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(shapes, st.integers(1, 9), st.integers(0, 5), st.booleans())
def test_no_image_is_dropped_and_batches_are_whole(wide: list[bool], size: int, seed: int, grouping: bool) -> None:
    epochs = 4
    num_batches = epochs * len(wide) // size
    batches = list(itertools.islice(train_order(np.array(wide), size, seed, grouping), num_batches))
    assert all(len(batch) == size for batch in batches)
    seen = Counter(place for batch in batches for place in batch)
    assert set(seen.values()) <= {1}  # an image has one turn in an epoch
    # Only the last turns may still be waiting, fewer than a batch.
    missing = {Place(e, i) for e in range(epochs) for i in range(len(wide))} - set(seen)
    assert len(missing) < size and all(place.epoch >= epochs - 1 - size // len(wide) for place in missing)


@settings(max_examples=50, deadline=None)
@given(shapes, st.integers(1, 6), st.integers(0, 5))
def test_an_epoch_mixes_two_batches_at_most(wide: list[bool], size: int, seed: int) -> None:
    batches = list(itertools.islice(train_order(np.array(wide), size, seed), 6 * len(wide) // size))
    mixed = [batch for batch in batches if len({wide[place.image] for place in batch}) == 2]
    last = batches[-1][-1].epoch if batches else 0
    assert len(mixed) <= 2 * (last + 1)


def test_epochs_and_seeds_differ() -> None:
    def first_epoch(seed: int, skip: int = 0) -> list[int]:
        order = train_order(np.ones(50, dtype=bool), 5, seed)
        return [place.image for batch in itertools.islice(order, skip, skip + 10) for place in batch]

    assert first_epoch(1) == first_epoch(1) != first_epoch(2)
    assert first_epoch(1) != first_epoch(1, skip=10)
    assert sorted(first_epoch(1)) == sorted(first_epoch(1, skip=10)) == list(range(50))


def test_randomness_belongs_to_the_turn() -> None:
    places = [Place(epoch, image) for epoch in range(5) for image in range(20)]
    seeds = {batch_seed(seed, place) for seed in range(3) for place in places}
    draws = {float(rng_at(seed, place).random()) for seed in range(3) for place in places}
    assert len(seeds) == len(draws) == 300 and all(0 <= seed < 2**63 for seed in seeds)
    assert rng_at(1, places[7]).random() == rng_at(1, places[7]).random()
