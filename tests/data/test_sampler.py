"""The order of training images: deterministic, complete, and grouped by shape."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood.data.sampler import PATIENCE, Place, batch_seed, mixed_order, repeat_factors, rng_at, train_order
from boxwood.errors import UserError

shapes = st.lists(st.booleans(), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(shapes, st.integers(1, 9), st.integers(0, 5), st.booleans())
def test_no_image_is_dropped_and_batches_are_whole(wide: list[bool], size: int, seed: int, grouping: bool) -> None:
    epochs = 4
    num_batches = epochs * len(wide) // size
    batches = list(itertools.islice(train_order(np.array(wide), size, seed, grouping), num_batches))
    assert all(len(batch) == size for batch in batches)
    seen = Counter(place for batch in batches for place in batch)
    assert set(seen.values()) <= {1}  # an image occurs once per epoch
    # Fewer images than a batch may be missing, and only from the last epochs.
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


def test_random_numbers_depend_only_on_seed_and_place() -> None:
    places = [Place(epoch, image) for epoch in range(5) for image in range(20)]
    seeds = {batch_seed(seed, place) for seed in range(3) for place in places}
    draws = {float(rng_at(seed, place).random()) for seed in range(3) for place in places}
    assert len(seeds) == len(draws) == 300 and all(0 <= seed < 2**63 for seed in seeds)
    assert rng_at(1, places[7]).random() == rng_at(1, places[7]).random()


def test_repeated_images() -> None:
    """Repeat factors by hand; the average number of repeats equals the factor, and each repeat has different random numbers."""
    has = np.zeros((100, 3), dtype=bool)
    has[:, 0] = True
    has[:4, 1] = True  # frequency 0.04 at a threshold of 0.1: sqrt(2.5)
    has[0, 2] = True  # frequency 0.01: sqrt(10)
    repeats = repeat_factors(has, 0.1)
    assert repeats[0] == 10**0.5 and repeats[1] == repeats[3] == 2.5**0.5 and repeats[4:].tolist() == [1] * 96
    order = train_order(np.ones(100, dtype=bool), 1, 0, repeats=repeats)
    places = list(itertools.takewhile(lambda place: place.epoch < 300, (place for batch in order for place in batch)))
    counts = Counter(place.image for place in places)
    assert counts[0] / 300 == pytest.approx(10**0.5, abs=0.1) and counts[2] / 300 == pytest.approx(2.5**0.5, abs=0.1)
    assert all(counts[image] == 300 for image in range(4, 100))
    assert len(set(places)) == len(places)
    turns = [rng_at(0, Place(7, 0, turn)).random() for turn in range(3)]
    assert len(set(turns)) == 3 and turns[0] == np.random.default_rng([0, 7, 0]).random()


def test_a_data_set_without_images_is_an_error() -> None:
    with pytest.raises(UserError, match=r"data.train: the data set has no images"):
        train_order(np.zeros(0, dtype=bool), 2, 0)
    with pytest.raises(UserError, match=r"data.train.parts.1: the data set has no images"):
        mixed_order(np.zeros(3, dtype=bool), 2, 0, starts=[0, 3, 3], ratio=[1, 1])
    with pytest.raises(
        UserError, match=r"train.batch_size: 4 images cannot be divided as 2, 1 \(data.train.ratio\); .* multiple of 3"
    ):
        mixed_order(np.zeros(6, dtype=bool), 4, 0, starts=[0, 3, 6], ratio=[2, 1])


parts = st.lists(st.tuples(shapes, st.integers(1, 3)), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(parts, st.integers(1, 3), st.integers(0, 5), st.booleans(), st.booleans())
def test_the_ratio_holds_in_every_batch(
    mixed: list[tuple[list[bool], int]], turns: int, seed: int, grouping: bool, repeated: bool
) -> None:
    wide, ratio = np.array([value for part, _ in mixed for value in part]), [count for _, count in mixed]
    starts = np.cumsum([0, *(len(part) for part, _ in mixed)]).tolist()
    size, count = turns * sum(ratio), 60
    repeats = np.random.default_rng(seed).uniform(1, 3, len(wide)) if repeated else None
    order = mixed_order(wide, size, seed, grouping, repeats, starts=starts, ratio=ratio)
    batches = list(itertools.islice(order, count))
    period = sum(ratio)
    for batch in batches:
        part_of = [int(np.searchsorted(starts, place.image, side="right")) - 1 for place in batch]
        for turn in range(turns):  # in each turn of the batch, so that the shares of processes have the ratio too
            assert Counter(part_of[turn * period : (turn + 1) * period]) == Counter(dict(enumerate(ratio)))
    seen = Counter(place for batch in batches for place in batch)
    assert set(seen.values()) == {1}
    # Of each part, all images but those of the last shares have occurred.
    for part, (start, end) in enumerate(itertools.pairwise(starts)):
        epochs = [place.epoch for place in seen if start <= place.image < end]
        waiting = PATIENCE * (PATIENCE + 1) * turns * ratio[part]
        for epoch in range(max(epochs) - 1 - waiting // (end - start)):
            assert {place.image for place in seen if place.epoch == epoch and start <= place.image < end} == set(range(start, end))


def test_batches_of_mixed_parts_are_grouped_by_shape() -> None:
    wide = np.random.default_rng(0).random(400) < 0.7
    for grouping in (True, False):
        order = mixed_order(wide, 8, 0, grouping, starts=[0, 200, 300, 400], ratio=[2, 1, 1])
        batches = list(itertools.islice(order, 200))
        mixed = sum(len({bool(wide[place.image]) for place in batch}) == 2 for batch in batches)
        assert mixed < 40 if grouping else mixed > 150
    assert batches == list(itertools.islice(mixed_order(wide, 8, 0, False, starts=[0, 200, 300, 400], ratio=[2, 1, 1]), 200))


def test_parts_of_equal_size_are_shuffled_differently() -> None:
    order = mixed_order(np.ones(40, dtype=bool), 2, 0, starts=[0, 20, 40], ratio=[1, 1])
    firsts, seconds = zip(*((a.image, b.image - 20) for a, b in itertools.islice(order, 20)), strict=True)
    assert sorted(firsts) == sorted(seconds) == list(range(20)) and firsts != seconds
