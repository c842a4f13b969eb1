"""Start training processes, and wait for them for a limited time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
import logging, sys
from pathlib import Path
from boxwood.errors import UserError
from boxwood.run_config import RunConfig
from boxwood.config import from_yaml
from boxwood.training import train
from tests.training import tiny

logging.basicConfig(level=logging.INFO, format="%(message)s")
config = from_yaml(RunConfig, Path(sys.argv[1]).read_text())
try:
    train(config, sys.argv[2], resume="--resume" in sys.argv)
except KeyboardInterrupt:
    sys.exit(130)
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


def start(config: Path, out: Path, *options: str, processes: int = 2, **environment: str) -> subprocess.Popen[str]:
    """Start training in ``processes`` processes under torchrun, or in one process without it."""
    script = out.parent / "script.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, str(script), str(config), str(out), *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str]:
    """The exit status and output of the process; after ``seconds``, kills its group and raises `subprocess.TimeoutExpired`."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output


def run(config: Path, out: Path, *options: str, processes: int = 2, **environment: str) -> tuple[int, str]:
    """`start` and `finish`."""
    return finish(start(config, out, *options, processes=processes, **environment))


def wait_for(path: Path, text: str, seconds: float = 90) -> None:
    """Wait until the file contains ``text``; raises `TimeoutError` after ``seconds``."""
    end = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text()):
        if time.monotonic() > end:
            raise TimeoutError(f"{path} never had {text!r}")
        time.sleep(0.05)
