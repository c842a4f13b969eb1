"""Matching against a plain loop and torchvision's matcher; the rules of sampling."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torchvision.models.detection._utils import Matcher

from boxwood.ops import matching
from boxwood.ops.boxes import iou
from boxwood.ops.matching import BACKGROUND, IGNORED, match, match_boxes
from boxwood.ops.sampling import sample_balanced


def plain_match(overlaps: list[list[float]], foreground: float, background: float, low_quality: bool) -> list[int]:
    result = []
    for candidate in range(len(overlaps[0])):
        column = [row[candidate] for row in overlaps]
        instance = column.index(max(column))
        keep = max(column) >= foreground
        if low_quality:
            keep |= any(row[candidate] == max(row) and max(row) > 0 for row in overlaps)
        result.append(instance if keep else BACKGROUND if max(column) < background else IGNORED)
    return result


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 10**6), st.booleans())
def test_match_equals_a_plain_loop_and_torchvisions(instances: int, candidates: int, seed: int, low_quality: bool) -> None:
    # Tenths: ties, zeros and values exactly at the thresholds are frequent.
    overlaps = torch.randint(0, 11, (instances, candidates), generator=torch.Generator().manual_seed(seed)) / 10
    ours = match(overlaps, 0.7, 0.3, allow_low_quality=low_quality)
    assert ours.tolist() == plain_match(overlaps.tolist(), *torch.tensor([0.7, 0.3]).tolist(), low_quality)
    if bool((overlaps.amax(dim=1) > 0).all()):  # torchvision gives an instance that nothing overlaps to every anchor
        theirs = Matcher(0.7, 0.3, allow_low_quality_matches=low_quality)(overlaps)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("pairs", [1, 70, 350, 10**6])
def test_match_boxes_is_match_and_holds_few_overlaps_at_a_time(
    low_quality: bool, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images of five boxes, forty candidates on a grid: ties are frequent; some candidates are not usable."""
    draw = torch.Generator().manual_seed(0)
    corners = [torch.randint(0, 6, shape, generator=draw).float() for shape in ((2, 5, 2), (40, 2))]
    instances, candidates = (torch.cat([corner, corner + 4], dim=-1) for corner in corners)
    usable = torch.rand((2, 40), generator=draw) > 0.2
    overlaps = iou(instances, candidates) * usable[:, None]
    expected = match(overlaps, 0.7, 0.3, allow_low_quality=low_quality)
    sizes: list[int] = []

    def counted(a: Tensor, b: Tensor) -> Tensor:
        result = iou(a, b)
        sizes.append(result.numel())
        return result

    monkeypatch.setattr(matching, "iou", counted)
    monkeypatch.setattr(matching, "PAIRS_AT_ONCE", pairs)
    matched, best = match_boxes(instances, candidates, 0.7, 0.3, allow_low_quality=low_quality, usable=usable)
    assert torch.equal(matched, expected) and torch.equal(best, overlaps.amax(dim=1))
    assert max(sizes) <= max(pairs, 10)  # one candidate at least


def test_an_instance_that_nothing_overlaps_is_matched_by_nothing() -> None:
    assert match(torch.tensor([[0.0, 0.0], [0.9, 0.1]]), 0.7, 0.3, allow_low_quality=True).tolist() == [1, BACKGROUND]


def test_ties_all_count() -> None:
    overlaps = torch.tensor([[0.4, 0.4, 0.2], [0.1, 0.4, 0.2]])
    assert match(overlaps, 0.7, 0.3, allow_low_quality=True).tolist() == [0, 0, BACKGROUND]
    assert match(overlaps, 0.7, 0.3).tolist() == [IGNORED, IGNORED, BACKGROUND]


@pytest.mark.parametrize("low_quality", [False, True])
def test_without_instances_all_is_background(low_quality: bool) -> None:
    assert match(torch.zeros(0, 4), 0.7, 0.3, allow_low_quality=low_quality).tolist() == [BACKGROUND] * 4
    assert match(torch.zeros(0, 0), 0.7, 0.3, allow_low_quality=low_quality).tolist() == []
    assert match(torch.zeros(3, 0), 0.7, 0.3).tolist() == []


# --------------------------------------------------------------------------------------------------------------- sampling


def draw(positive: Tensor, negative: Tensor, num: int, fraction: float, seed: int = 0) -> tuple[list[int], list[bool]]:
    chance = torch.rand(len(positive), generator=torch.Generator().manual_seed(seed))
    indices, valid = sample_balanced(positive, negative, num, fraction, chance)
    return indices.tolist(), valid.tolist()


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from("+-."), max_size=40), st.integers(1, 50), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 99)
)
def test_sampling_follows_its_rules(kinds: list[str], num: int, fraction: float, seed: int) -> None:
    positive, negative = (torch.tensor([kind == sign for kind in kinds], dtype=torch.bool) for sign in "+-")
    indices, valid = draw(positive, negative, num, fraction, seed)
    assert len(indices) == len(valid) == min(num, len(kinds))
    drawn = [kinds[index] for index, good in zip(indices, valid, strict=True) if good]
    assert sorted(valid, reverse=True) == valid, "valid ones come first"
    assert drawn == sorted(drawn, key="+-".index), "positives come first, then negatives; nothing else is drawn"
    assert len(set(indices)) == len(indices), "without replacement"
    positives = min(kinds.count("+"), int(num * fraction))
    assert drawn.count("+") == positives
    assert drawn.count("-") == min(kinds.count("-"), num - positives)


def test_the_largest_chances_are_drawn() -> None:
    positive = torch.tensor([True, False, True, True, False, False, False])
    chance = torch.tensor([0.2, 0.0, 0.3, 0.1, 0.9, 0.999, 0.5])
    indices, valid = sample_balanced(positive, torch.tensor([False] * 4 + [True] * 3), 4, 0.5, chance)
    assert indices.tolist() == [2, 0, 5, 4]
    assert valid.all()


def test_sampling_is_reproducible_and_uniform() -> None:
    positive, negative = torch.arange(40) < 8, torch.arange(40) >= 20
    assert draw(positive, negative, 8, 0.5, seed=3) == draw(positive, negative, 8, 0.5, seed=3)
    assert len({tuple(draw(positive, negative, 8, 0.5, seed)[0]) for seed in range(20)}) == 20
    counts = torch.zeros(40)
    for seed in range(400):
        counts[draw(positive, negative, 8, 0.5, seed)[0]] += 1
    # 4 of 8 positives and 4 of 20 negatives a draw: 200 and 80 times each, give or take 5 standard deviations.
    assert ((counts[:8] - 200).abs() < 50).all()
    assert ((counts[20:] - 80).abs() < 40).all()
    assert (counts[8:20] == 0).all()
