"""Commands that are killed end well when they are called again; tests/kills.py does it more often."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "commands", [("train",), ("eval", "predict", "label", "convert"), ("import", "download")], ids=lambda commands: commands[0]
)
def test_killed_commands(commands: tuple[str, ...]) -> None:
    """In a process of its own, which forks and has few threads."""
    command = [sys.executable, "-m", "tests.kills", "--random", "2", "--every", "15", "--commands", *commands]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("; 0 failures;") == len(commands)
