"""Facts that tests compare with, so that a clone of the project needs nothing beside it. Their origin is in README.md."""

from __future__ import annotations

from pathlib import Path

__all__ = ["FACTS"]

FACTS = Path(__file__).parent
