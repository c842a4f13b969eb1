"""Files that are written whole or not at all: to a temporary name beside the target, to the disk, then renamed. And the formats of
the images that are opened."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path

from boxwood.errors import UserError

__all__ = ["IMAGE_FORMATS", "file_word", "make_folder", "write_text", "write_whole"]

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000") + (
    ("AVIF",) if importlib.util.find_spec("PIL.AvifImagePlugin") else ()  # Pillow has it from 11.3 on
)
"""The formats of images that are read, by Pillow's names; Pillow opens MPO as JPEG. Every call of ``Image.open`` gets them: the
content of a file chooses its decoder, and for other formats Pillow may start programs, such as Ghostscript for PostScript."""


def file_word(name: str) -> str:
    """A name that somebody gave, such as a class's, as part of a file's name: a hyphen for what some system forbids in one.

    >>> file_word("../car/truck?")
    '..-car-truck-'
    """
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "-", name)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are not there. Raises `UserError` where it cannot be made or written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: this folder cannot be made ({error.strerror}); name another with --out") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{path}: this folder may not be written to; name another with --out")


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, bring it to the disk, and give it its name in one step.

    A reader sees the old file or the new one, after a crash or a power cut too. Raises `UserError` where it cannot be written
    (a full disk, a folder that cannot be made); the old file is then untouched.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.tmp")  # short, since a name may have 255 bytes
    try:
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
        if os.name == "posix":
            _sync(path.parent)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise UserError(
            f"{path}: cannot be written ({reason}); what was there is untouched; make room or name another directory"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file, UTF-8, written whole; a file's name in it that is no UTF-8 is escaped, as in JSON. Raises `UserError` as
    `write_whole` does."""
    write_whole(path, lambda temporary: _fill(temporary, text))


def _fill(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _sync(path: Path) -> None:
    """Bring a file's bytes, or a directory's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
