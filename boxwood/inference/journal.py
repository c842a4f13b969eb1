"""The journal of `boxwood predict`: results on disk as they come, so that an interrupted run resumes and none of them stays in
memory."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from boxwood.errors import UserError
from boxwood.files import write_text

__all__ = ["Journal", "Line", "whole_lines"]

logger = logging.getLogger(__name__)

Line = dict[str, Any]
"""Of a picture: ``file_name``, ``detections`` (records), ``picture`` (the drawn file's name); or ``file_name`` and ``error``.
Frames of a video have ``frame`` and ``time`` too, and the last is followed by a line with ``frames``, their number."""


class Journal:
    """A file of JSON lines: one about the call, then those of pictures and frames as they come.

    Raises `UserError` where the file belongs to another call.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self.done: set[str] = set()
        """The images and videos that are done; those that could not be read are tried again."""
        self.frames: dict[str, int] = {}
        """How many frames of each video are done."""
        self.pictures: dict[str, str] = {}
        """The name of the drawn file of each image and video."""
        self._first_frame: dict[str, int] = {}
        """Where in the file the lines of each video begin."""
        if path.exists():
            self._resume(about)
        else:
            write_text(path, _encoded(about).decode())
        self._file = path.open("ab")

    def add(self, line: Line) -> None:
        """Append a line."""
        self._index(line, self._file.tell())
        try:
            self._file.write(_encoded(line))
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); free some space, and the same command resumes"
            ) from None

    def lines(self, names: Container[str]) -> Iterator[Line]:
        """The lines of pictures and frames, in the order in which they were added, of the images and videos that are named."""
        return (line for _, _, line in whole_lines(self.path) if "detections" in line and line["file_name"] in names)

    def lines_in_order(self, names: Sequence[str]) -> Iterator[Line]:
        """The same in the order of ``names``; positions in the file are in memory, its lines are not."""
        places: dict[str, list[int]] = {name: [] for name in names}
        for start, _, line in whole_lines(self.path):
            if "detections" in line and line["file_name"] in places:
                places[line["file_name"]].append(start)
        return (next(whole_lines(self.path, start))[2] for starts in places.values() for start in starts)

    def frames_of(self, name: str) -> Iterator[Line]:
        """The lines of one video's frames."""
        lines = whole_lines(self.path, self._first_frame[name])
        return (line for _, _, line in lines if line["file_name"] == name and "frame" in line)

    def close(self) -> None:
        """Close the file, which stays on disk."""
        self._file.close()

    def _resume(self, about: dict[str, Any]) -> None:
        """Index the lines that are there, and cut off an incomplete last one, so that nothing is appended to it."""
        complete = 0
        for start, end, line in whole_lines(self.path):
            if start == 0 and line != about:
                break
            if start > 0:
                self._index(line, start)
            complete = end
        if complete == 0:
            raise UserError(
                f"{self.path}: is of a call with another model or other options; name another --out, or remove the file"
            )
        os.truncate(self.path, complete)
        frames = sum(count for name, count in self.frames.items() if name not in self.done)
        logger.info("%d pictures are done already%s", len(self.done), f", and {frames} frames" if frames else "")

    def _index(self, line: Line, start: int) -> None:
        name = line["file_name"]
        if "picture" in line:
            self.pictures[name] = line["picture"]
        if "frame" in line:
            self.frames[name] = line["frame"] + 1
            self._first_frame.setdefault(name, start)
        elif "error" not in line:
            self.done.add(name)


def _encoded(line: dict[str, Any]) -> bytes:
    """JSON in UTF-8; a file name that cannot be encoded is escaped."""
    return (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def whole_lines(path: Path, start: int = 0) -> Iterator[tuple[int, int, Any]]:
    """Start, end and content of each line, up to the first that is incomplete."""
    with path.open("rb") as file:
        file.seek(start)
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                return
            if not text.endswith(b"\n"):
                return
            end = start + len(text)
            yield start, end, line
            start = end
