"""boxwood data: check, count, draw, generate and convert data sets."""

from __future__ import annotations

import click

from boxwood.cli import LazyGroup

__all__ = ["data"]


@click.group(cls=LazyGroup, package=__name__, names=("check", "stats", "show", "split", "shapes", "convert", "proposals", "select"))
def data() -> None:
    """Check a data set, count its boxes, draw its samples, divide it, generate one, or convert one from another format."""
