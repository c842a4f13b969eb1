"""A large JSON file read in parts: the rows of its lists come a few megabytes at a time, and never are all objects at once.

The file is mapped into memory, and pages that were read are given back to the system.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["JsonSections"]

WINDOW = 1 << 22
"""Bytes of a part; as Python's objects they take six to ten times as many."""
_BETWEEN_ROWS = re.compile(rb"\}([ \t\r\n]*,[ \t\r\n]*)\{")
_TAIL = 1 << 15
"""Bytes at the end of a part that are searched for the end of a row."""
_TRIES = 4


class JsonSections:
    """A JSON file that holds one mapping, with the lists of rows ``streamed`` left unread; ``others`` has the rest, decoded, of
    the keys ``wanted``.

    Raises ValueError or OSError where the file cannot be mapped or is not such a mapping in standard JSON.
    """

    def __init__(self, path: Path, streamed: tuple[str, ...], wanted: tuple[str, ...]) -> None:
        with path.open("rb") as file:
            self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        sections = msgspec.json.decode(self._content, type=dict[str, msgspec.Raw])
        self._raw = {key: sections.pop(key) for key in streamed if key in sections}
        decoded = ((key, msgspec.json.decode(raw)) for key, raw in sections.items())  # all, so that no damage is passed over
        self.others: dict[str, Any] = {key: value for key, value in decoded if key in wanted}
        self._give_back()

    def rows(self, key: str) -> Iterator[list[Any]]:
        """The rows of a list, some at a time, each once and in their order. Raises ValueError where they are no list, or are
        written so that the end of a row is not recognised."""
        view = memoryview(self._raw[key])
        if bytes(view[:1]) != b"[":
            raise ValueError(f"'{key}' is no list")
        start, end = 1, len(view) - 1
        while start < end:
            stop, rows, after = _whole_rows(view, start, end)
            yield rows
            del rows
            self._give_back()
            start = stop + after

    def _give_back(self) -> None:
        """Unmap the pages that were read; they are read again where they are used again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._content.madvise(mmap.MADV_DONTNEED)


def _whole_rows(view: memoryview, start: int, end: int) -> tuple[int, list[Any], int]:
    """Where the last whole row of a part ends, the rows, and how many bytes there are to the next row.

    What begins with the first row, ends with ``}``, and is a list when brackets are put around it consists of whole rows: at any
    other ``}`` a bracket or a text would be open.
    """
    size = WINDOW
    while start + size < end:
        tail = max(start, start + size - _TAIL)
        cuts = [(tail + match.start() + 1, len(match[1])) for match in _BETWEEN_ROWS.finditer(view[tail : start + size])]
        for stop, after in cuts[: -_TRIES - 1 : -1]:
            try:
                return stop, _decoded(view[start:stop]), after
            except msgspec.DecodeError:
                continue
        if cuts:
            raise ValueError("rows that hold lists of mappings, or are damaged")
        size *= 2
    return end, _decoded(view[start:end]), 0


def _decoded(content: memoryview) -> list[Any]:
    rows: list[Any] = msgspec.json.decode(b"".join((b"[", content, b"]")))
    return rows
