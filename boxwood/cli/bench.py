"""boxwood bench."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import click

import boxwood
from boxwood.errors import UserError

__all__ = ["bench"]


@click.command(
    short_help="Measure speed and memory beside torchvision.",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure speed and memory beside torchvision: runs benchmarks/speed.py of the checkout."""
    script = Path(boxwood.__file__).parent.parent / "benchmarks" / "speed.py"
    if not script.is_file():
        raise UserError(f"{script}: not there; boxwood bench runs in a checkout of the project (git clone, pip install -e .)")
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")
