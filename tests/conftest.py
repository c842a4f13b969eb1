"""What several tests share: the command line, called in this process, and a small data set and run to call it with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from boxwood.cli import main

# No example has a time limit: how long one takes depends on what else the machine does.
hypothesis.settings.register_profile("boxwood", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("boxwood")


SHARED = Path(__file__).parents[2] / "shared"
"""Larger data than the repository has; it lies beside the repository where Boxwood is developed."""


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What the machine lacks is a single skip, however many tests need it."""
    import torch

    lacking: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            lacking.setdefault("no CUDA GPU", []).append(item)
        elif item.get_closest_marker("shared") and not SHARED.is_dir():
            lacking.setdefault(f"no folder {SHARED}", []).append(item)
        elif "chrome" in getattr(item, "fixturenames", ()) and not all(map(shutil.which, ("chromium", "chromedriver"))):
            reason = "no chromium and chromedriver on the PATH (Debian: apt install chromium chromium-driver)"
            lacking.setdefault(reason, []).append(item)
    for reason, (first, *others) in lacking.items():
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
        """What stands on stderr, without the log's own lines."""
        return [line for line in self.err.splitlines() if line.startswith("boxwood: ")]


Boxwood = Callable[..., Outcome]


@pytest.fixture
def boxwood(capsys: pytest.CaptureFixture[str]) -> Boxwood:
    """``boxwood("train", ...)`` as a person would type it."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Outcome(left.value.code, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six generated pictures: train.json, train/, val.json, val/."""
    from boxwood.data.synthetic.shapes import write_shapes

    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, train=4, val=2, size=(96, 128))
    return folder


def tiny(shapes: Path) -> list[str]:
    """Overrides of demo_shapes: a network and a schedule that take seconds."""
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
    """A run of two steps."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.raises(SystemExit) as left:
        main(["train", "demo_shapes", *tiny(shapes), "--out", str(run)])
    assert left.value.code == 0
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
    """The order of a sum, and so its rounding, depends on the number of threads: seeds and limits were found with one."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
