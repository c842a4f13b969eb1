"""`boxwood bench`: speed and memory beside torchvision."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import boxwood
from boxwood.errors import UserError

__all__ = ["bench"]


def bench(*arguments: str) -> None:
    """Run ``benchmarks/speed.py`` of the checkout with the arguments of its command line, such as ``"--only", "nms"``.

    Raises `UserError` outside of a checkout, and `SystemExit` where an argument is wrong.
    """
    script = Path(boxwood.__file__).parent.parent / "benchmarks" / "speed.py"
    if not script.is_file():
        raise UserError(f"{script}: not there; boxwood bench runs in a checkout of the project (git clone, pip install -e .)")
    before = sys.argv
    sys.argv = [str(script), *arguments]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = before
