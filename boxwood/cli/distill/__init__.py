"""boxwood distill: labels made by a detector, and what a student gains by them."""

from __future__ import annotations

import click

from boxwood.cli import LazyGroup

__all__ = ["distill"]


@click.group(cls=LazyGroup, package=__name__, names=("label", "compare"))
def distill() -> None:
    """Label pictures with a detector, and compare a student that learns from these labels with its teacher."""
