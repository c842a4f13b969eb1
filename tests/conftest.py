"""Shared fixtures: the command line called in this process, a small data set, and a run trained on it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from boxwood.cli import main

# Examples have no time limit: their durations depend on the load of the machine.
hypothesis.settings.register_profile("boxwood", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("boxwood")

Property = TypeVar("Property", bound=Callable[..., None])


def repeatable(test: Property) -> Property:
    """A hypothesis test, above ``@settings`` and ``@given``, that runs for BOXWOOD_HYPOTHESIS_SECONDS where that is set, with the
    seeds 0, 1, 2, ..., and prints how many (``pytest -s``); else once."""
    seconds = float(os.environ.get("BOXWOOD_HYPOTHESIS_SECONDS", "0"))
    if seconds <= 0:
        return test

    @functools.wraps(test)
    def repeated(*arguments: object, **fixtures: object) -> None:
        end, seed = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            try:
                hypothesis.seed(seed)(test)(*arguments, **fixtures)
            except BaseException as error:
                error.add_note(f"with hypothesis.seed({seed})")
                raise
            seed += 1
        print(f"\n{test.__name__}: {seed} seeds of {test._hypothesis_internal_use_settings.max_examples} examples")  # type: ignore[attr-defined]

    return repeated  # type: ignore[return-value]


SHARED = Path(__file__).parents[2] / "shared"
"""A folder beside the repository with data that is too large for it; tests marked ``shared`` are skipped without it."""


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Report each missing requirement (GPU, shared data, browser) as one skip, however many tests need it."""
    import torch

    skipped: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            skipped.setdefault("no CUDA GPU", []).append(item)
        elif item.get_closest_marker("shared") and not SHARED.is_dir():
            skipped.setdefault(f"no folder {SHARED}", []).append(item)
        elif "chrome" in getattr(item, "fixturenames", ()) and not all(map(shutil.which, ("chromium", "chromedriver"))):
            reason = "no chromium and chromedriver on the PATH (Debian: apt install chromium chromium-driver)"
            skipped.setdefault(reason, []).append(item)
    for reason, (first, *others) in skipped.items():
        first.add_marker(pytest.mark.skip(reason=f"{reason}, for {len(others) + 1} tests"))
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


@dataclass
class Outcome:
    status: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        """The lines of stderr that are errors, without log messages."""
        return [line for line in self.err.splitlines() if line.startswith("boxwood: ")]


Boxwood = Callable[..., Outcome]


@pytest.fixture
def boxwood(capsys: pytest.CaptureFixture[str]) -> Boxwood:
    """``boxwood("train", ...)``: run a command in this process; returns its exit status and output."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(exited.value.code, int)
        return Outcome(exited.value.code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six generated pictures: train.json, train/, val.json, val/."""
    from boxwood.data.synthetic.shapes import write_shapes

    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, train=4, val=2, size=(96, 128))
    return folder


def tiny(shapes: Path) -> list[str]:
    """Overrides of demo_shapes for a small network and two training steps."""
    return [
        f"data.train.annotations={shapes / 'train.json'}",
        f"data.train.images={shapes / 'train'}",
        f"data.val.annotations={shapes / 'val.json'}",
        f"data.val.images={shapes / 'val'}",
        "data.workers=0",
        "data.train.transforms.0.short=[64]",
        "data.val.transforms.0.short=[64]",
        "model.fpn.channels=32",
        "model.box_head.width=32",
        "model.mask_head={convs: 1, width: 32}",
        "model.rois.samples_per_image=16",
        "model.rpn.train_candidates=100",
        "model.rpn.test_proposals=20",
        "test.detections_per_image=10",
        "test.score_threshold=0.0",
        "train.steps=2",
        "train.batch_size=2",
        "train.device=cpu",
    ]


@pytest.fixture(scope="session")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two training steps."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.raises(SystemExit) as exited:
        main(["train", "demo_shapes", *tiny(shapes), "--out", str(run)])
    assert exited.value.code == 0
    return run


@pytest.fixture
def edited(shapes: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, list[dict[str, object]]]], None]], Path]:
    """``edited(change)``: val.json changed by a function, as a new file."""

    def edit(change: Callable[[dict[str, list[dict[str, object]]]], None]) -> Path:
        coco = json.loads((shapes / "val.json").read_text())
        change(coco)
        path = tmp_path / "edited.json"
        path.write_text(json.dumps(coco))
        return path

    return edit


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One torch thread: the rounding of sums depends on the number of threads, and seeds and limits were chosen with one."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
