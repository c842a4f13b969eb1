"""A comparison of teacher, student, teacher trained as long, and oracle: what each is trained on, and its table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from boxwood.data import MixtureConfig
from boxwood.library.distillation import compare as compare_module
from boxwood.library.distillation.compare import Comparison
from boxwood.recipes import resolve
from boxwood.run_config import RunConfig
from tests.conftest import Boxwood, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``unlabelled`` with the pictures of the val set."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shapes / "val", tmp_path / "unlabelled")
    return tmp_path


def arguments(shapes: Path, *more: str) -> list[str]:
    common = ["--out", "out", "--ratio", "1:1", "--seeds", "1", "--floor", "0", "--one-view"]
    return ["distill", "compare", "demo_shapes", "unlabelled", *tiny(shapes), *common, *more]


@pytest.mark.slow
def test_a_whole_comparison(shapes: Path, folder: Path, boxwood: Boxwood) -> None:
    """Runs and labels are there, the table has their AP, and a second call trains nothing."""
    call = arguments(shapes, "--steps", "3", "--truth", str(shapes / "val.json"))
    done = boxwood(*call)
    assert done.status == 0, done.err
    out = folder / "out"
    assert sorted(path.name for path in (out / "seed-0").iterdir()) == [
        *("labels.html", "labels.json", "longer", "oracle", "student", "teacher"),
    ]
    configs = {name: resolve(str(out / "seed-0" / name)) for name in ("teacher", "student", "longer", "oracle")}
    assert {name: config.train.steps for name, config in configs.items()} == {"teacher": 2, "student": 3, "longer": 3, "oracle": 3}
    student, oracle = configs["student"].data.train, configs["oracle"].data.train
    assert (
        isinstance(student, MixtureConfig)
        and student.ratio == (1, 1)
        and isinstance(oracle, MixtureConfig)
        and oracle.ratio is None
    )
    assert configs["longer"].data.train == configs["teacher"].data.train == student.parts[0] == oracle.parts[0]
    results = json.loads((out / "results.json").read_text())
    for row in results["runs"]:
        metrics = json.loads((out / "seed-0" / row["run"] / "eval" / "metrics.json").read_text())
        assert row["AP"] == {task: metrics[task]["AP"] for task in ("bbox", "segm")}
    assert "teacher, trained as long" in done.out and "one seed shows no spread" in done.out
    again = boxwood(*call)
    assert again.status == 0 and again.out == done.out and "step 3/3" not in again.err
    other = boxwood(*arguments(shapes, "--steps", "4"))
    assert other.status == 2 and "results.json: is of a comparison with other options" in other.err


def test_every_run_is_trained_as_it_should(shapes: Path, folder: Path, boxwood: Boxwood, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numbers in place of trainings: the order, steps and seeds; a call that was interrupted goes on."""
    calls: list[tuple[str, int, int]] = []

    def train(config: RunConfig, out: Path, resume: bool) -> dict[str, Any]:
        assert resume and config.train.eval_every == 0
        if len(calls) == 3:
            calls.append(("interrupted", 0, 0))
            raise KeyboardInterrupt
        calls.append((out.name, config.train.seed, config.train.steps))
        return {"bbox": {"AP": 0.1 * len(calls), "AP50": 1.0}, "per_class": {"AP": {"bbox": 0.0}}, "notes": []}

    def label(model: Path, images: Any, like: Any, out: Path, **options: Any) -> None:
        assert model.parts[-2:] == ("teacher", "last.safetensors") and options == {
            "floor": 0.0,
            "per_class": True,
            "one_view": True,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("{}")

    monkeypatch.setattr(compare_module, "train", train)
    monkeypatch.setattr(compare_module, "label", label)
    assert boxwood(*arguments(shapes, "--seeds", "2")).status == 130
    done = boxwood(*arguments(shapes, "--seeds", "2"))
    assert calls == [
        *(("teacher", 0, 2), ("student", 0, 6), ("longer", 0, 6), ("interrupted", 0, 0)),
        *(("teacher", 1, 2), ("student", 1, 6), ("longer", 1, 6)),
    ]
    assert done.status == 0 and "bbox AP, percent" in done.out and "oracle" not in done.out


def test_the_table() -> None:
    """Means, sample standard deviations, and gains by pairs of the same seed."""
    runs = {"teacher": [0.10, 0.20, 0.30], "student": [0.20, 0.25, 0.30], "longer": [0.15, 0.25, 0.20]}
    comparison = Comparison(Path("out"), {"bbox": runs})
    assert comparison.gain("bbox") == pytest.approx((0.05, 0.05))
    lines = comparison.text().splitlines()
    assert lines[1].split() == ["teacher", "10.0", "20.0", "30.0", "20.0", "10.0"]
    assert lines[-1] == "student - teacher, trained as long: +5.0 (spread over the seeds 5.0)"
    assert lines[-2] == "student - teacher: +5.0 (spread over the seeds 5.0)"


def other_classes(folder: Path, shapes: Path) -> list[str]:
    tree = json.loads((shapes / "val.json").read_text())
    tree["categories"][0]["name"] = "wheel"
    (folder / "truth.json").write_text(json.dumps(tree))
    return ["--truth", "truth.json"]


def no_pictures(folder: Path, shapes: Path) -> list[str]:
    shutil.rmtree(folder / "unlabelled")
    (folder / "unlabelled").mkdir()
    return []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_classes, "part 0 of a mixture and part 1 have different categories"),
        (no_pictures, "unlabelled: has no picture"),
        (lambda *_: ["--ratio", "3:2"], "train.batch_size: 2 images cannot be divided as 3:2; choose a multiple of 5, or"),
        (lambda *_: ["--ratio", "3to2"], "--ratio 3to2: must be labelled to automatic pictures, such as 3:2"),
        (lambda *_: ["--ratio", "0:2"], "--ratio 0:2: must be labelled to automatic pictures, such as 3:2; the first"),
    ],
)  # fmt: skip
def test_wrong_input_stops_before_anything_is_trained(
    change: Any, message: str, shapes: Path, folder: Path, boxwood: Boxwood
) -> None:
    done = boxwood(*arguments(shapes, *change(folder, shapes)))
    errors = [line for line in done.err.splitlines() if line.startswith("boxwood: ")]
    assert done.status == 2 and len(errors) == 1 and message in errors[0], done.err
    assert not (folder / "out").exists()
