"""boxwood data: look at a data set before it is trained on, generate one, or bring one in from another format."""

from __future__ import annotations

import click

from boxwood.cli import LazyGroup

__all__ = ["data"]


@click.group(cls=LazyGroup, package=__name__, names=("check", "stats", "show", "shapes", "convert", "proposals", "select"))
def data() -> None:
    """Check a data set, count what is in it, look at its samples, generate one, or bring one in from another format."""
