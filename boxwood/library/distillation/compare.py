"""`boxwood distill compare`: what a student gains, beside what longer training gains without the new pictures.

    teacher   trained on the labelled set
    student   trained longer, on the labelled set and the teacher's labels, with a ratio in every batch
    longer    a teacher that is trained as long as the student, the honest baseline
    oracle    trained as long on the labelled set and the true labels of the same pictures, where there are some

All start from the same weights (ImageNet's, or random ones), none from the teacher. The numbers are those of the last weights on
``data.val``.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxwood.config import to_tree
from boxwood.data import CocoConfig, DatasetConfig, MixtureConfig
from boxwood.errors import UserError
from boxwood.evaluation import Metrics
from boxwood.files import write_text
from boxwood.library.distillation.label import FLOOR, journal_of, label, pictures_in
from boxwood.run_config import RunConfig
from boxwood.training.loop import train

__all__ = ["Comparison", "compare"]

logger = logging.getLogger(__name__)

RUNS = ("teacher", "student", "longer", "oracle")
MEANING = {"teacher": "teacher", "student": "student", "longer": "teacher, trained as long", "oracle": "oracle (true labels)"}
TIMES_LONGER = 3
"""The steps of a student for each of its teacher: the paper's 360,000 and 130,000."""


@dataclass(frozen=True)
class Comparison:
    """The AP of each run, for every seed."""

    out: Path
    scores: dict[str, dict[str, list[float]]]
    """By task (``bbox``, ``segm``, ``keypoints``) and run: AP, 0 to 1, one for each seed."""

    def gain(self, task: str, over: str = "longer") -> tuple[float, float]:
        """Mean and standard deviation over the seeds of the student's AP minus that of another run; 0 for one seed."""
        pairs = zip(self.scores[task]["student"], self.scores[task][over], strict=True)
        differences = [student - other for student, other in pairs]
        return statistics.mean(differences), statistics.stdev(differences) if len(differences) > 1 else 0.0

    def text(self) -> str:
        """A table of every task for a terminal, in percent, and what the student has gained."""
        lines = []
        for task, runs in self.scores.items():
            count = len(runs["teacher"])
            seeds = "".join(f"{f'seed {seed}':>9}" for seed in range(count))
            lines += [f"{f'{task} AP, percent':28}{seeds}{'mean':>9}{'spread':>9}"]
            for name, values in runs.items():
                spread = f"{100 * statistics.stdev(values):9.1f}" if count > 1 else f"{'-':>9}"
                cells = "".join(f"{100 * value:9.1f}" for value in (*values, statistics.mean(values)))
                lines.append(f"{MEANING[name]:28}{cells}{spread}")
            for over in ("teacher", "longer"):
                mean, spread_of_gain = self.gain(task, over)
                seen = "one seed shows no spread" if count == 1 else f"spread over the seeds {100 * spread_of_gain:.1f}"
                lines.append(f"student - {MEANING[over]}: {100 * mean:+.1f} ({seen})")
            lines.append("")
        return "\n".join(lines[:-1])


def compare(
    config: RunConfig,
    unlabelled: str | Path,
    out: str | Path,
    *,
    truth: str | Path | None = None,
    seeds: int = 3,
    steps: int | None = None,
    ratio: tuple[int, int] = (3, 2),
    floor: float = FLOOR,
    per_class: bool = True,
    one_view: bool = False,
) -> Comparison:
    """Train a teacher, label the folder ``unlabelled`` with it, and train a student and its baselines, for each seed from 0.

    ``config`` is the teacher's: its ``data.train`` is the labelled set, ``data.val`` what all are measured on. The others train
    for ``steps``, by default three times the teacher's; the student with ``ratio``, labelled to automatic, in every batch.
    ``truth`` has the true annotations of the unlabelled pictures, for the oracle. ``floor``, ``per_class`` and ``one_view`` are
    those of `label`. Runs are written to ``out``/seed-N, the table to ``out``/results.json: a call that was interrupted resumes.
    Raises `UserError` where the data do not go together or a training cannot begin; nothing is trained then.
    """
    out, steps = Path(out), steps or TIMES_LONGER * config.train.steps
    labelled = config.data.train
    if not isinstance(labelled, CocoConfig):
        raise UserError(f"data.train: is a {labelled.kind()}; a comparison needs annotations and images as the labelled set")
    _check(config, labelled, Path(unlabelled), truth, seeds, ratio)
    options = {"steps": steps, "ratio": list(ratio), "floor": floor, "per_class": per_class, "one_view": one_view}
    about = {**options, "unlabelled": str(unlabelled), "truth": None if truth is None else str(truth), "config": to_tree(config)}
    results = _Results(out / "results.json", about)
    for seed in range(seeds):
        folder = out / f"seed-{seed}"
        labels = folder / "labels.json"

        def run(name: str, train_set: DatasetConfig, num_steps: int, seed: int = seed, folder: Path = folder) -> None:
            if not results.has(name, seed):
                logger.info("seed %d: %s, %d steps", seed, MEANING[name], num_steps)
                results.add(name, seed, train(_run_config(config, train_set, seed, num_steps), folder / name, resume=True))

        run("teacher", labelled, config.train.steps)
        if not labels.exists() or journal_of(labels).exists():
            model = folder / "teacher" / "last.safetensors"
            label(model, unlabelled, labelled, labels, floor=floor, per_class=per_class, one_view=one_view)
        run("student", MixtureConfig(parts=(labelled, _part(labelled, labels, unlabelled)), ratio=ratio), steps)
        run("longer", labelled, steps)
        if truth is not None:
            run("oracle", MixtureConfig(parts=(labelled, _part(labelled, Path(truth), unlabelled))), steps)
    return Comparison(out, results.table(seeds))


# ------------------------------------------------------------------------------------------------------------ internals


def _check(
    config: RunConfig, labelled: CocoConfig, unlabelled: Path, truth: str | Path | None, seeds: int, ratio: tuple[int, int]
) -> None:
    """Raise `UserError` for what would stop a later training."""
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: must be at least 1")
    if min(ratio) < 0 or not ratio[0]:
        raise UserError(
            f"--ratio {ratio[0]}:{ratio[1]}: must be labelled to automatic pictures, such as 3:2; the first is at least 1"
        )
    images = config.train.batch_size // config.train.accumulate
    if ratio[1] and images % sum(ratio):
        raise UserError(
            f"train.batch_size: {images} images cannot be divided as {ratio[0]}:{ratio[1]}; choose a multiple of {sum(ratio)}, or "
            "another --ratio"
        )
    pictures_in(unlabelled)
    parts = [labelled] if truth is None else [labelled, _part(labelled, Path(truth), unlabelled)]
    MixtureConfig(parts=tuple(parts)).open()


def _part(labelled: CocoConfig, annotations: Path, images: str | Path) -> CocoConfig:
    """The other part of a mixture, seen as the labelled one is; pictures without labels are not in it."""
    return CocoConfig(
        annotations=str(annotations),
        images=str(images),
        transforms=labelled.transforms,
        keep_empty=False,
        exif=labelled.exif,
        value_range=labelled.value_range,
    )


def _run_config(config: RunConfig, train_set: DatasetConfig, seed: int, steps: int) -> RunConfig:
    """A run's configuration; it is measured at its end alone, so that no run chooses its best weights on ``data.val``."""
    config = config.model_copy(deep=True)
    config.data.train = train_set
    config.train.seed, config.train.steps, config.train.eval_every = seed, steps, 0
    return config


class _Results:
    """The file of the results; it is written after each run. Raises `UserError` where it is of another comparison."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path, self.about = path, json.loads(json.dumps(about))
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            try:
                tree = json.loads(path.read_text(encoding="utf-8"))
                is_same, self.rows = tree["about"] == self.about, tree["runs"]
            except (OSError, ValueError, KeyError, TypeError):
                is_same = False
            if not is_same:
                raise UserError(f"{path}: is of a comparison with other options or another configuration; name another --out")

    def has(self, name: str, seed: int) -> bool:
        return any((row["run"], row["seed"]) == (name, seed) for row in self.rows)

    def add(self, name: str, seed: int, metrics: Metrics) -> None:
        tables = {
            task: table["AP"]
            for task, table in metrics.items()
            if isinstance(table, Mapping) and isinstance(table.get("AP"), float)
        }
        self.rows.append({"run": name, "seed": seed, "AP": tables})
        write_text(self.path, json.dumps({"about": self.about, "runs": self.rows}, indent=1, ensure_ascii=False) + "\n")

    def table(self, seeds: int) -> dict[str, dict[str, list[float]]]:
        scores: dict[str, dict[str, list[float]]] = {}
        for name in RUNS:
            rows: Sequence[dict[str, Any]] = sorted(
                (row for row in self.rows if row["run"] == name), key=lambda row: int(row["seed"])
            )
            for row in rows[:seeds]:
                for task, score in row["AP"].items():
                    scores.setdefault(task, {}).setdefault(name, []).append(float(score))
        return scores
