"""boxwood bench."""

from __future__ import annotations

import click

__all__ = ["bench"]


@click.command(
    short_help="Measure speed and memory beside torchvision.",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure speed and memory beside torchvision: runs benchmarks/speed.py of the checkout."""
    from boxwood.library.benchmark import bench as run

    run(*arguments)
