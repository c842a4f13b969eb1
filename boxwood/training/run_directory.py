"""A run's directory: refused where it would be overwritten, checked where a run goes on in it.

config.yaml        complete; trains again as it is
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

FREE = {
    "data.workers",
    "train.device",
    "train.compile",
    "train.tensorboard",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.log_every",
}
"""Keys that may differ when a run goes on: how it is run and watched, not what it learns."""

SCHEDULE = {"train.steps", "optim.drops"}
"""Keys that may differ as long as every update already made had the same learning rate."""


def check_new(out: Path) -> None:
    """Raise `UserError` where ``out`` holds what would be lost: a run that has got as far as a line of its log, or a
    configuration that a person wrote; or where it is no directory.

    A run that ended before its first update, such as for a broken image, has left nothing that counts.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a directory with --out")
    for path in [*(out / "checkpoints").glob("*.pt"), out / "metrics.jsonl", out / "best.safetensors", out / "last.safetensors"]:
        if path.exists() and path.stat().st_size:
            raise UserError(f"{out}: holds a run already ({path.name}); go on with --resume, or name another directory with --out")
    if (out / "config.yaml").exists() and not (out / "environment.json").exists():
        raise UserError(f"{out}: holds a config.yaml that no run wrote, and that would be lost; name another directory with --out")


def check_resumed(out: Path, config: RunConfig) -> Checkpoint:
    """The newest good checkpoint of the run in ``out``. Raises `UserError` where there is none, or ``config`` is another run's."""
    checkpoint = newest_checkpoint(out / "checkpoints")
    if checkpoint is None:
        raise UserError(f"{out}: holds no checkpoint to go on from; train without --resume, into a directory without a run")
    check_same_run(out, config, checkpoint.step)
    return checkpoint


def check_same_run(out: Path, config: RunConfig, steps_done: int) -> None:
    """Raise `UserError` where ``config`` differs from the run's own in what decides its result; it names the keys.

    A run may be made longer: ``train.steps`` and ``optim.drops`` may differ if the updates already made keep their learning rates.
    """
    path = out / "config.yaml"
    tree, lines = safe_yaml.read(path)
    old = from_tree(RunConfig, tree, where=str(path), lines=lines)
    found = {key: (before, now) for key, before, now in differences(old, config) if key not in FREE}
    if found and set(found) <= SCHEDULE and config.train.steps >= steps_done:
        if all(learning_rate(step, old) == learning_rate(step, config) for step in range(steps_done)):
            return
        raise UserError(
            f"{out}: with another {' and '.join(found)} the {steps_done} updates already made would have had other learning rates; "
            "give optim.drops as fractions that leave them where they were, or start anew with train.weights"
        )
    if found:
        told = "; ".join(f"{key} was {before!r}, is {now!r}" for key, (before, now) in found.items())
        raise UserError(
            f"{out}: cannot go on with another configuration ({told}); resume with its own config.yaml, or name another --out"
        )


def begin(out: Path, config: RunConfig, device: torch.device, processes: int) -> None:
    """Make the directory, remove what a kill left half-written, write the configuration and the environment."""
    make_folder(out)
    make_folder(out / "checkpoints")
    for left in [*out.glob(".*.tmp"), *(out / "checkpoints").glob(".*.tmp")]:
        left.unlink(missing_ok=True)
    # In this order, so that a config.yaml alone is never a run's.
    write_text(out / "environment.json", json.dumps(environment(device, processes), indent=2, ensure_ascii=False) + "\n")
    write_text(out / "config.yaml", to_yaml(config))


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """What a result depends on beside the configuration."""
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
    """The commit of the checkout that Boxwood runs from, with ``+`` where files differ from it; None outside of one."""
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
