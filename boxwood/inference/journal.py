"""What `boxwood predict` has done so far, in a file: a call that is stopped goes on, and nothing of it is held in memory."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from boxwood.errors import UserError

__all__ = ["Kept", "Line"]

logger = logging.getLogger(__name__)

Line = dict[str, Any]
"""Of a picture: ``file_name``, ``detections`` (records), ``picture`` (the drawn file's name); or ``file_name`` and ``error``.
Frames of a video have ``frame`` and ``time`` too, and after the last a line has ``frames``, their number."""


class Kept:
    """A file of lines: one about the call, then those of pictures and frames as they come.

    Raises `UserError` where what is there is of another call.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        from boxwood.files import write_text

        self.path = path
        self.done: set[str] = set()
        """The images and videos that are done; those that could not be read are tried again."""
        self.frames: dict[str, int] = {}
        """How many frames of each video are done."""
        self.pictures: dict[str, str] = {}
        """The name of the drawn file of each image and video."""
        self._begin: dict[str, int] = {}
        if path.exists():
            self._take_up(about)
        else:
            write_text(path, _text(about).decode())
        self._file = path.open("ab")

    def add(self, line: Line) -> None:
        """Keep another line."""
        self._note(line, self._file.tell())
        try:
            self._file.write(_text(line))
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); make room, and the same command goes on") from None

    def lines(self, names: Container[str]) -> Iterator[Line]:
        """Those of pictures and frames, one after another, of the images and videos that are named."""
        return (line for _, _, line in _whole_lines(self.path) if "detections" in line and line["file_name"] in names)

    def frames_of(self, name: str) -> Iterator[Line]:
        """The lines of one video's frames."""
        return (line for _, _, line in _whole_lines(self.path, self._begin[name]) if line["file_name"] == name and "frame" in line)

    def close(self) -> None:
        """Keep no more; the file stays."""
        self._file.close()

    def _take_up(self, about: dict[str, Any]) -> None:
        """Note what is there, and cut off a last line that is not whole, so that it is not continued."""
        end = 0
        for place, after, line in _whole_lines(self.path):
            if place == 0 and line != about:
                break
            if place > 0:
                self._note(line, place)
            end = after
        if end == 0:
            raise UserError(
                f"{self.path}: is of a call with another model or other options; name another --out, or remove the file"
            )
        os.truncate(self.path, end)
        frames = sum(count for name, count in self.frames.items() if name not in self.done)
        logger.info("%d pictures are done already%s", len(self.done), f", and {frames} frames" if frames else "")

    def _note(self, line: Line, place: int) -> None:
        name = line["file_name"]
        if "picture" in line:
            self.pictures[name] = line["picture"]
        if "frame" in line:
            self.frames[name] = line["frame"] + 1
            self._begin.setdefault(name, place)
        elif "error" not in line:
            self.done.add(name)


def _text(line: dict[str, Any]) -> bytes:
    """UTF-8; a file's name that is none is escaped."""
    return (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _whole_lines(path: Path, start: int = 0) -> Iterator[tuple[int, int, Any]]:
    """Where each line begins and ends and what it holds, up to one that was cut short."""
    with path.open("rb") as file:
        file.seek(start)
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                return
            if not text.endswith(b"\n"):
                return
            place, start = start, start + len(text)
            yield place, start, line
