"""What a door is: a kind of file that enters, with a valid one and the function that reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Door", "text"]


@dataclass(frozen=True)
class Door:
    """A kind of file."""

    name: str
    """Of the file, relative to the folder of the door: what is damaged."""
    valid: bytes
    read: Callable[[Path], Any]
    """Reads the file at this path; `UserError` is the only exception that it may raise."""
    others: tuple[tuple[str, bytes], ...] = ()
    """Further files that it needs, by name."""


def text(tree: Any) -> bytes:
    """JSON."""
    return json.dumps(tree).encode()
