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
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import boxwood
from boxwood import safe_yaml
from boxwood.config import differences, from_tree, to_yaml
from boxwood.errors import UserError
from boxwood.files import make_folder, write_text
from boxwood.run_config import RunConfig
from boxwood.training.checkpoint import Checkpoint, newest_checkpoint
from boxwood.training.optimizer import learning_rate

__all__ = ["begin", "check_new", "check_resumed", "check_same_run", "environment"]

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pydantic", "hotcoco", "safetensors")

FREE = (
    "data.workers",
    "train.device",
    "train.compile",
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


def check_new(out: Path) -> None:
    """Raise `UserError` where ``out`` is not a directory, or holds something that a new run would overwrite: a run with at least
    one line in its log, or a configuration file that no run wrote.

    A run that ended before its first update, for example at a broken image, may be overwritten.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a directory with --out")
    for path in [*(out / "checkpoints").glob("*.pt"), out / "metrics.jsonl", out / "best.safetensors", out / "last.safetensors"]:
        if path.exists() and path.stat().st_size:
            raise UserError(
                f"{out}: holds a run already ({path.name}); continue it with --resume, or name another directory with --out"
            )
    if (out / "config.yaml").exists() and not (out / "environment.json").exists():
        raise UserError(
            f"{out}: holds a config.yaml that no run wrote, which would be overwritten; name another directory with --out"
        )


def check_resumed(out: Path, config: RunConfig) -> Checkpoint:
    """The newest undamaged checkpoint of the run in ``out``. Raises `UserError` where there is none, or ``config`` differs from the
    run's."""
    checkpoint = newest_checkpoint(out / "checkpoints")
    if checkpoint is None:
        raise UserError(f"{out}: holds no checkpoint to resume from; train without --resume, into a directory without a run")
    check_same_run(out, config, checkpoint.step)
    return checkpoint


def check_same_run(out: Path, config: RunConfig, steps_done: int) -> None:
    """Raise `UserError` where ``config`` differs from the run's saved one in a key that changes its result; it names the keys.

    A run may be made longer: ``train.steps`` and the schedule may differ if the updates already made keep their learning rates.
    """
    path = out / "config.yaml"
    tree, lines = safe_yaml.read(path)
    saved = from_tree(RunConfig, tree, where=str(path), lines=lines)
    changed = {key: (old, new) for key, old, new in differences(saved, config) if not _is_below(key, FREE)}
    if changed and all(_is_below(key, SCHEDULE) for key in changed) and config.train.steps >= steps_done:
        if all(learning_rate(step, saved) == learning_rate(step, config) for step in range(steps_done)):
            return
        raise UserError(
            f"{out}: with another {' and '.join(changed)} the {steps_done} updates made would have had other learning rates; "
            "choose optim.schedule.drops (fractions of train.steps) that leave them, or start a new run with train.weights"
        )
    if changed:
        changes = "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in changed.items())
        raise UserError(
            f"{out}: cannot resume with another configuration ({changes}); resume with the run's config.yaml, or name another --out"
        )


def _is_below(key: str, sections: tuple[str, ...]) -> bool:
    return any(f"{key}.".startswith(f"{section}.") for section in sections)


def begin(out: Path, config: RunConfig, device: torch.device, processes: int) -> None:
    """Make the directory, remove partly written files of a killed process, write the configuration and the environment."""
    make_folder(out)
    make_folder(out / "checkpoints")
    for partial in [*out.glob(".*.tmp"), *(out / "checkpoints").glob(".*.tmp")]:
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
