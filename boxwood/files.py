"""Files that are written whole or not at all: in a temporary folder beside the target, to the disk, then renamed. And the formats
of the images that are opened, and what the ending of a name says."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from boxwood.errors import UserError

__all__ = [
    "IMAGE_ENDINGS",
    "IMAGE_FORMATS",
    "VIDEO_ENDINGS",
    "MediaKind",
    "file_word",
    "make_folder",
    "media_kind",
    "remove_left_overs",
    "write_text",
    "write_whole",
]

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000") + (
    ("AVIF",) if importlib.util.find_spec("PIL.AvifImagePlugin") else ()  # Pillow has it from 11.3 on
)
"""The formats of images that are read, by Pillow's names; Pillow opens MPO as JPEG. Every call of ``Image.open`` gets them: the
content of a file chooses its decoder, and for other formats Pillow may start programs, such as Ghostscript for PostScript."""

_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpx", ".jpf"),
    "AVIF": (".avif", ".avifs"),
}
IMAGE_ENDINGS = frozenset(ending for name in IMAGE_FORMATS for ending in _ENDINGS[name])
"""Endings, in lower case, of the images that are taken from a folder; a file that is named itself may have any."""
VIDEO_ENDINGS = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"))
"""Endings, in lower case, of the videos that are read."""

_FILM = "is a video of a kind that is not read; convert it: ffmpeg -i {name} {stem}.mp4"
_PHOTO = "is a photo of a kind that is not read; convert it to JPEG: magick {name} {stem}.jpg"
_RAW = "is a camera's raw file, which is not read; develop it to JPEG or to TIFF of 16 bits"
_DRAWING = "is a page or drawing of lines, which is not read; export it as PNG"
_LAYERS = "is a file of an image editor, which is not read; export it as PNG"
_SCIENCE = "is not read; export it as TIFF or PNG of 16 bits, or pass its pixels to the model as an array"
_WAYS_OUT = {
    _FILM: ".wmv .asf .flv .f4v .mpg .mpeg .mpe .m2v .vob .mts .m2ts .3gp .3g2 .ogv .ogm .rm .rmvb .divx .mxf .h264 .hevc",
    _PHOTO: ".heic .heif .hif .jxl .jxr .wdp .jls .avif .avifs .tga .ico .icns .pcx .dds .sgi .ras .xpm .xbm .qoi",
    _RAW: ".raw .dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .orf .rw2 .raf .pef .srw .x3f .3fr .iiq .rwl .erf .kdc .mrw",
    _DRAWING: ".svg .svgz .pdf .eps .ps .ai .wmf .emf .cdr .dxf",
    _LAYERS: ".psd .psb .xcf .kra .ora .afphoto",
    _SCIENCE: ".dcm .dicom .nii .nrrd .mha .mhd .fits .fit .fts .czi .nd2 .lif .lsm .vsi .svs .ndpi .mrxs .scn .ims .oib .oif"
    " .exr .hdr .npy",
}
_WAY_OUT = {ending: way_out for way_out, endings in _WAYS_OUT.items() for ending in endings.split()}


LONGEST_WORD = 100
"""Bytes of a class's name in a file's name, which may have 255 bytes in all."""


class MediaKind(NamedTuple):
    """What a file is by the ending of its name."""

    kind: Literal["image", "video", "unread", "other"]
    """An image or a video that is read, one of a kind that is not read, or neither image nor video."""
    way_out: str = ""
    """Of an unread one, the end of a message that begins with its path: what it is, and what to do."""


def media_kind(path: str | Path) -> MediaKind:
    """What a file is by the ending of its name, without opening it.

    >>> media_kind("photos/a.JFIF").kind, media_kind("notes.txt").kind
    ('image', 'other')
    >>> media_kind("films/a.wmv").way_out
    'is a video of a kind that is not read; convert it: ffmpeg -i a.wmv a.mp4'
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending in IMAGE_ENDINGS:
        return MediaKind("image")
    if ending in VIDEO_ENDINGS:
        return MediaKind("video")
    if ending not in _WAY_OUT:
        return MediaKind("other")
    return MediaKind("unread", _WAY_OUT[ending].format(name=shlex.quote(path.name), stem=shlex.quote(path.stem)))


def file_word(name: str) -> str:
    """A name that somebody gave, such as a class's, as part of a file's name: a hyphen for what some system forbids in one and for
    what is not printable, cut after 100 bytes of UTF-8.

    >>> file_word("../car/truck?")
    '..-car-truck-'
    """
    word = re.sub(r'[<>:"/\\|?*]', "-", name)
    word = "".join(character if character.isprintable() else "-" for character in word)
    return word.encode("utf-8", "replace")[:LONGEST_WORD].decode("utf-8", "ignore")


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
            temporary.touch()
            mode = stat.S_IMODE(temporary.stat().st_mode)  # what the umask gives; writers such as safetensors' take 0600 instead
            write(temporary)
            os.chmod(temporary, mode)
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
    # Short, since a name may have 255 bytes, so that two files that are written at once may differ behind what is left of it.
    folder = path.with_name(f".{path.name[:40]}.{os.getpid()}.{threading.get_native_id()}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    descriptor = None
    try:
        descriptor = _make_locked(folder)
        yield folder
    finally:
        if descriptor is not None:
            os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _make_locked(folder: Path) -> int | None:
    """Make a folder and lock it -> the descriptor that holds the lock; None where the system has no locks.

    Another process or thread may take it for left over, and remove it, before it is locked; it is then made again.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        folder.mkdir()
        return None
    while True:
        folder.mkdir(exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_there = os.path.samestat(os.fstat(descriptor), os.stat(folder))
        except (BlockingIOError, FileNotFoundError):
            is_there = False
        except OSError:  # a file system without locks
            is_there = True
        if is_there:
            return descriptor
        os.close(descriptor)
        time.sleep(0.001)


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
