"""Whatever file enters: no traceback, no hang over 5 seconds, no memory over 1 GB above the valid file's.

``BOXWOOD_FUZZ_SECONDS=600`` in the environment runs the slow test for so long, ``BOXWOOD_FUZZ_SEED`` with other damage.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.doors import DOORS

ROOT = Path(__file__).parents[2]


def damage(seconds: float, seed: int) -> None:
    """Run the worker, and compare what it reports with nothing."""
    command = [sys.executable, "-m", "tests.hostile.worker", "--seconds", str(seconds), "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    print(report["counts"])
    assert report["findings"] == {}
    assert report["counts"].keys() == DOORS.keys() and min(report["counts"].values()) > 0


def test_damaged_files_end_in_one_line() -> None:
    damage(2, seed=0)


@pytest.mark.slow
def test_many_damaged_files_end_in_one_line() -> None:
    damage(float(os.environ.get("BOXWOOD_FUZZ_SECONDS", "30")), seed=int(os.environ.get("BOXWOOD_FUZZ_SEED", "1")))
