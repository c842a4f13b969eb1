"""A run's directory: never overwritten, and checked before a run resumes in it.

config.yaml        the complete configuration; it can be trained again
environment.json   versions, device, revision, command
metrics.jsonl      see `boxwood.training.log`
checkpoints/       see `boxwood.training.checkpoint`
best.safetensors, last.safetensors
eval/metrics.json, eval/detections.json
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import boxwood
from boxwood.config import ConfigError, differences, from_yaml, to_yaml
from boxwood.distributed import gather_objects
from boxwood.errors import UserError
from boxwood.files import make_folder, write_text
from boxwood.run_config import RunConfig
from boxwood.training.checkpoint import Checkpoint, newest_checkpoint
from boxwood.training.optimizer import learning_rate

__all__ = ["begin", "check_new", "check_resumed", "check_same_data", "check_same_run", "environment"]

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pydantic", "hotcoco", "safetensors")

FREE = (
    "data.workers",
    "train.device",
    "train.compile",
    "train.parallel",
    "train.loggers",
    "train.tensorboard",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.log_every",
)
"""Keys, and those below, that may differ when a run resumes: they do not change how the weights are trained."""
SCHEDULE = ("train.steps", "optim.schedule")
"""Keys, and those below, that may differ as long as every update already made had the same learning rate."""
PLACES = ("annotations", "images", "proposals")
"""Keys of the data sets that may differ as long as the data are the same (`fingerprint`): where their files lie."""


def check_new(out: Path) -> None:
    """Raise `UserError` where ``out`` holds something that a new run would overwrite: a run with at least one line in its log, or a
    configuration file that no run wrote.

    A run that ended before its first update, for example at a broken image, may be overwritten.
    """
    for path in [*(out / "checkpoints").glob("*.pt"), out / "metrics.jsonl", out / "best.safetensors", out / "last.safetensors"]:
        if path.exists() and path.stat().st_size:
            raise UserError(
                f"{out}: holds a run already ({path.name}); continue it with --resume, or name another directory with --out"
            )
    _check_config_is_of_a_run(out)


def _check_config_is_of_a_run(out: Path) -> None:
    if (out / "config.yaml").exists() and not (out / "environment.json").exists():
        raise UserError(
            f"{out}: holds a config.yaml that no run wrote, which would be overwritten; name another directory with --out"
        )


def check_resumed(out: Path, config: RunConfig, *, other_data: bool = False) -> Checkpoint | None:
    """The newest undamaged checkpoint of the run in ``out``; None where the run ended before its first one, or never began.

    All processes must call it. Raises `UserError` where ``config`` differs from the run's, where the checkpoints of a run were
    deleted, and where processes have other files in ``out``. With ``other_data`` the keys of the data may differ.
    """
    checkpoint = newest_checkpoint(out / "checkpoints")
    steps = gather_objects(None if checkpoint is None else checkpoint.step)
    if len(set(steps)) > 1:
        raise UserError(
            f"{out}: the processes see checkpoints of other steps there ({steps}, by rank); name a directory that all share"
        )
    if checkpoint is not None:
        check_same_run(out, config, checkpoint, other_data=other_data)
        return checkpoint
    if (out / "last.safetensors").exists():
        raise UserError(
            f"{out}: holds the weights of a run, but no checkpoint to resume from; start a new run from them with "
            "train.weights=last.safetensors and another --out"
        )
    _check_config_is_of_a_run(out)
    logger.info("%s: holds no checkpoint, so the run begins", out)
    return None


def check_same_run(out: Path, config: RunConfig, checkpoint: Checkpoint, *, other_data: bool = False) -> None:
    """Raise `UserError` where ``config`` differs from that of the checkpoint in a key that changes the result: one line a key.

    A run may be made longer: ``train.steps`` and the schedule may differ if the updates already made keep their learning rates.
    """
    saved, steps_done = (
        from_yaml(RunConfig, checkpoint.config, where=f"the checkpoint of step {checkpoint.step} in {out}"),
        checkpoint.step,
    )

    def is_free(key: str) -> bool:
        if _is_below(key, FREE):
            return True
        is_data = _is_below(key, ("data.train", "data.val"))
        return is_data and (other_data or (bool(checkpoint.data) and key.rpartition(".")[2] in PLACES))

    changed = {key: (old, new) for key, old, new in differences(saved, config) if not is_free(key)}
    if changed and all(_is_below(key, SCHEDULE) for key in changed) and config.train.steps >= steps_done:
        if all(learning_rate(step, saved) == learning_rate(step, config) for step in range(steps_done)):
            return
        raise UserError(
            f"{out}: with another {' and '.join(changed)} the {steps_done} updates made would have had other learning rates; "
            "choose optim.schedule.drops (fractions of train.steps) that leave them, or start a new run with train.weights"
        )
    if changed:
        raise ConfigError(
            [
                *(f"{out}: {key} was {old!r} in the {steps_done} updates made, is {new!r}" for key, (old, new) in changed.items()),
                f"{out}: cannot resume with another configuration; set these keys as they were, or name another --out",
            ]
        )


def check_same_data(out: Path, checkpoint: Checkpoint, data: dict[str, dict[str, str]], *, other_data: bool) -> None:
    """Raise `UserError` where the data sets are not those of the checkpoint; with ``other_data`` a warning is logged instead.

    ``data`` has the `fingerprint` of the data sets ``train`` and ``val``.
    """
    problems = []
    for split, saved in checkpoint.data.items():
        parts = [name for name in dict.fromkeys([*saved, *data[split]]) if saved.get(name) != data[split].get(name)]
        if parts:
            problems.append(f"data.{split}: other {' and '.join(parts)} than in the {checkpoint.step} updates made")
    if not problems:
        return
    if not other_data:
        way_out = "restore the data, name another --out, or go on with them by --other-data"
        raise ConfigError([f"{out}: {problem}; {way_out}" for problem in problems])
    for problem in problems:
        logger.warning("%s: %s, taken because of --other-data", out, problem)


def _is_below(key: str, sections: tuple[str, ...]) -> bool:
    return any(f"{key}.".startswith(f"{section}.") for section in sections)


def begin(out: Path, config: RunConfig, device: torch.device, processes: int) -> None:
    """Make the directory, remove partly written files of a killed process, write the configuration and the environment."""
    make_folder(out / "checkpoints")
    for folder in (out, out / "checkpoints", out / "eval"):
        for partial in folder.glob(".*.tmp"):  # of any process: this one alone trains here
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)
    # In this order, so that a directory with a config.yaml alone is never a run.
    write_text(out / "environment.json", json.dumps(environment(device, processes), indent=2, ensure_ascii=False) + "\n")
    write_text(out / "config.yaml", to_yaml(config))


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """What a result depends on besides the configuration: versions, hardware, number of processes."""
    return {
        "boxwood": boxwood.__version__,
        "revision": _revision(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cuda": torch.version.cuda,
        "processes": processes,
        "command": sys.argv,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    """The commit of the checkout that Boxwood runs from, with ``+`` where files differ from it; None outside a checkout."""
    root = Path(boxwood.__file__).parent.parent
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
