"""Files that are written whole or not at all: in a temporary folder beside the target, to the disk, then renamed. And the formats
of the images that are opened."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from boxwood.errors import UserError

__all__ = ["IMAGE_FORMATS", "file_word", "make_folder", "remove_left_overs", "write_text", "write_whole"]

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
    """Let ``write`` fill a temporary file, bring it to the disk, and give it the name ``path`` in one step.

    A reader sees the old file or the new one, after a crash or a power cut too. Raises `UserError` where it cannot be written
    (a full disk, a folder that cannot be made); the old file is then untouched. What a killed process has left in the folder is
    removed.
    """
    make_folder(path.parent)
    _clean_once(path.parent, os.getpid())
    try:
        with _temporary_folder(path) as folder:
            temporary = folder / "file"
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


def write_text(path: Path, text: str) -> None:
    """A text file, UTF-8, written whole; a file's name in it that is no UTF-8 is escaped, as in JSON. Raises `UserError` as
    `write_whole` does."""
    write_whole(path, lambda temporary: _fill(temporary, text))


def remove_left_overs(folder: Path) -> None:
    """Remove what killed processes have left in a folder: the temporary folders of `write_whole` that no process holds."""
    for temporary in folder.glob(".*.tmp"):
        if not temporary.is_dir():
            continue
        try:
            with _locked(temporary) as is_locked:
                if is_locked:
                    shutil.rmtree(temporary, ignore_errors=True)
        except OSError:  # another process has removed it
            continue


@cache
def _clean_once(folder: Path, process: int) -> None:
    """`remove_left_overs` at the first write of a process to a folder, since a folder may get thousands of files."""
    remove_left_overs(folder)


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path``, removed on leaving; locked, so that other processes know that it is in use.

    A folder, because libraries may write temporary files of their own beside the file that they are given.
    """
    folder = path.with_name(f".{path.name[:40]}.{os.getpid()}.tmp")  # short, since a name may have 255 bytes
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder, which ends with the process; yields whether it was free and the file system has locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        except OSError:
            is_locked = False
        yield is_locked
    finally:
        os.close(descriptor)


def _fill(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _sync(path: Path) -> None:
    """Bring a file's bytes, or a directory's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
