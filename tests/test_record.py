"""Nothing has changed: networks of toy size say what they said, and recipes are what they were, when the record was made.

Where a change is meant, ``python -m tests.record write`` makes the record anew; its difference then belongs to the change. On one
machine `tests.record` compares bit by bit, which finds what rounding hides here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from tests import record

pytestmark = pytest.mark.usefixtures("one_thread")

CASES, RECIPES = record.read_record()["cases"], record.read_recipes()


class Near(NamedTuple):
    """How near the numbers must be: the losses and the gradient's length relative to themselves, the others, in their units or
    relative to themselves."""

    losses: float = 1e-6
    gradient: float = 1e-6
    scores: float = 1e-6
    boxes: float = 1e-6
    mask_means: float = 1e-6
    mask_areas: float = 0
    keypoints: float = 1e-6


SAME = record.read_record()["machine"] == record.machine()
NEAR = Near() if SAME else Near(3e-5, 2e-3, 1e-4, 5e-3, 2e-5, 4, 1e-3)
"""Another processor rounds otherwise, and a deep network enlarges that: with fewer vector instructions, SSE or AVX2 instead of
AVX512, about a quarter of these was seen."""


def test_every_case_is_recorded() -> None:
    assert list(CASES) == list(record.CASES)
    assert list(RECIPES) == list(record.recipes.names())


@pytest.mark.parametrize("name", record.CASES)
def test_case(name: str) -> None:
    """The tensors' names and shapes, what they begin with, a step's losses and its gradient, what is found in three pictures."""
    found, expected = record.recorded(record.find(record.CASES[name], CASES[name]["tuned"], record.total)), CASES[name]
    assert found["state"] == expected["state"]
    assert found["initial"] == pytest.approx(expected["initial"], abs=1e-6 * expected["initial"][1])
    assert list(found["losses"]) == list(expected["losses"])
    assert found["losses"] == pytest.approx(expected["losses"], rel=NEAR.losses, abs=1e-6)
    assert found["gradient"] == pytest.approx(expected["gradient"], rel=NEAR.gradient)
    for index, (ours, theirs) in enumerate(zip(found["detections"], expected["detections"], strict=True)):
        assert list(ours) == list(theirs), index
        assert ours["labels"] == theirs["labels"], index
        for part in theirs.keys() - {"labels"}:
            near = getattr(NEAR, part)
            np.testing.assert_allclose(
                ours[part], theirs[part], rtol=min(near, 1e-5), atol=near, err_msg=f"{part}, picture {index}"
            )


MOVED = {
    "optim.schedule": "optim.schedule.kind",
    "optim.drops": "optim.schedule.drops",
    "optim.gamma": "optim.schedule.gamma",
}
"""Keys that have another name since the record was made. Of a schedule or an optimizer only its own keys are left."""


@pytest.mark.parametrize("name", RECIPES)
def test_names_and_shapes_of_a_recipe(name: str) -> None:
    """At its own size; without its memory."""
    assert record.sha(*record.state_of_recipe(record.recipes.resolve(name))) == RECIPES[name]["state"]


@pytest.mark.parametrize("name", RECIPES)
def test_configuration_of_a_recipe(name: str) -> None:
    """Every key that was there is there, with its value; there may be others. And the configuration that was written down then is
    read as the recipe of now, whatever keys have come."""
    config, expected = record.recipes.resolve(name), RECIPES[name]["tree"]
    ours, theirs = dict(record.flat(record.tree_of(config))), dict(record.flat(expected))
    missing = object()
    moved = {MOVED.get(key, key): value for key, value in theirs.items()}
    dropped = {"optim.schedule.drops", "optim.schedule.gamma"} if ours["optim.schedule.kind"] == "cosine" else set()
    dropped |= {"optim.momentum"} if ours["optim.kind"] == "adamw" else set()
    changed = {
        key: (value, ours.get(key)) for key, value in moved.items() if ours.get(key, missing) != value and key not in dropped
    }
    assert not changed
    assert record.from_recorded(expected) == config
