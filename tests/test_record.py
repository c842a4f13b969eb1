"""Small networks give the recorded results, and recipes have the recorded configurations (`tests.record`).

After an intended change, run ``python -m tests.record write`` and commit the new record with the change. The tolerances of these
tests allow for rounding; `tests.record` compares results of one machine exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests import record

pytestmark = pytest.mark.usefixtures("one_thread")

CASES, RECIPES = record.read_record()["cases"], record.read_recipes()


class Near(NamedTuple):
    """Tolerances: relative for the losses and the norm of the gradient; absolute, and relative up to 1e-5, for the others. Boxes
    and keypoints are in pixels of the original image."""

    losses: float = 1e-6
    gradient: float = 1e-6
    scores: float = 1e-6
    boxes: float = 1e-6
    mask_means: float = 1e-6
    mask_areas: float = 0
    keypoints: float = 1e-6


SAME = record.read_record()["machine"] == record.machine()
NEAR = Near() if SAME else Near(3e-5, 2e-3, 1e-4, 5e-3, 2e-5, 4, 1e-3)
"""Other processors round differently, and deep networks amplify that. SSE or AVX2 instead of AVX512 gave differences of about a
quarter of these tolerances."""


def test_every_case_is_recorded() -> None:
    assert list(CASES) == list(record.CASES)
    assert list(RECIPES) == list(record.recipes.names())


def by_name(names: Iterable[str]) -> list[Any]:
    """Parameters; `make check` leaves out Detectron's geometry and recipes."""
    return [pytest.param(name, marks=[pytest.mark.slow] * name.startswith(("detectron/", "detectron1/"))) for name in names]


@pytest.mark.parametrize("name", by_name(record.CASES))
def test_case(name: str) -> None:
    """Names and shapes of tensors, initial values, losses and gradient of one step, and detections in three pictures."""
    result, expected = record.recorded(record.run_case(record.CASES[name], CASES[name]["tuned"], record.total)), CASES[name]
    assert result["state"] == expected["state"]
    assert result["initial"] == pytest.approx(expected["initial"], abs=1e-6 * expected["initial"][1])
    assert list(result["losses"]) == list(expected["losses"])
    assert result["losses"] == pytest.approx(expected["losses"], rel=NEAR.losses, abs=1e-6)
    assert result["gradient"] == pytest.approx(expected["gradient"], rel=NEAR.gradient)
    for index, (ours, theirs) in enumerate(zip(result["detections"], expected["detections"], strict=True)):
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
"""Keys renamed since the record was made. Keys that the schedule or optimizer of a recipe does not have are ignored."""


@pytest.mark.parametrize("name", by_name(RECIPES))
def test_names_and_shapes_of_a_recipe(name: str) -> None:
    """At full size, without memory for the tensors."""
    assert record.sha(*record.state_of_recipe(record.recipes.resolve(name))) == RECIPES[name]["state"]


@pytest.mark.parametrize("name", RECIPES)
def test_configuration_of_a_recipe(name: str) -> None:
    """Every recorded key has its recorded value; there may be new keys. The recorded configuration is read as the present recipe,
    with defaults for new keys."""
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
