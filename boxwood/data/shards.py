"""Pictures in a folder or in tar files, read by the name that annotations give them; nothing is unpacked.

open_pictures    a folder, a tar file, a folder of tar files, or a pattern such as ``shards-{000..099}.tar``

A tar file is scanned once, header by header; then a picture is one read at its offset. Links, devices and the like are not
followed, and nothing is written, so no name can lead anywhere.
"""

from __future__ import annotations

import bisect
import hashlib
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood.data.coco_file import Texts
from boxwood.data.file_names import LocatedNames, locate
from boxwood.errors import UserError
from boxwood.pixels import MAX_MEMORY, InMemory

__all__ = ["PictureFolder", "Shards", "are_shards", "open_pictures", "shard_paths"]

MAX_HEADER = 1 << 20
"""Bytes of one header of a member, its long name or its attributes included."""
MAX_MEMBERS = 50_000_000
"""Members of all tar files of a set, under a hundred bytes of memory each."""
MAX_SHARDS = 1_000_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class PictureFolder:
    """Pictures that are files of a folder."""

    folder: Path

    def locate(self, names: Sequence[str]) -> LocatedNames:
        """Where the images of these names lie."""
        return locate(names, self.folder)

    def source(self, name: str) -> Path:
        """What `read_image` reads."""
        return self.folder / name

    def size(self, name: str) -> int | None:
        """Bytes of a picture's file; None where there is none."""
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def digest(self, name: str) -> bytes:
        """SHA-256 of a picture's file."""
        with self.source(name).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()


@dataclass(frozen=True, eq=False)
class Shards:
    """Pictures and other members of tar files: flat arrays, which worker processes share. M members, in the order of their names.

    Every read opens its tar file and closes it, so processes share no file handle and a set may have any number of files.
    """

    paths: tuple[Path, ...]
    names: Texts
    """(M) UTF-8, without a leading ``./``."""
    shards: NDArray[np.int32]
    """(M,) index of the tar file."""
    offsets: NDArray[np.int64]
    """(M,) first byte of the content."""
    sizes: NDArray[np.int64]
    order: NDArray[np.int64]
    """(M,) the members as they lie in the tar files, one file after the other."""
    ignored: tuple[tuple[str, int], ...] = ()
    """What is no regular file, by description, counted."""

    def name(self, member: int) -> str:
        return self.names[member].decode()

    def member(self, name: str) -> int | None:
        """The index of a member; None where no tar file has it."""
        key = name.removeprefix("./").encode(errors="replace")
        index = bisect.bisect_left(range(len(self.shards)), key, key=self.names.__getitem__)
        return index if index < len(self.shards) and self.names[index] == key else None

    def locate(self, names: Sequence[str]) -> LocatedNames:
        """Which members the images of these names are."""
        return locate(names, self.paths[0].parent, members=[self.name(member) for member in range(len(self.shards))])

    def source(self, name: str) -> InMemory:
        """What `read_image` reads; messages name the tar file and the member. Raises `UserError` where there is no such member, or
        it cannot be read."""
        member = self.member(name)
        if member is None:
            raise UserError(f"{self.paths[0]}: no member '{name}' in this or the others of {len(self.paths)} tar files")
        return InMemory(f"{self.where(member)}", self.content(member))

    def where(self, member: int) -> str:
        """The tar file and the member, as messages call it."""
        return f"{self.paths[self.shards[member]]}: {self.name(member)}"

    def content(self, member: int, limit: int = MAX_MEMORY) -> bytes:
        """The bytes of a member. Raises `UserError` where it has more than ``limit``, or the file was changed since its scan."""
        size = int(self.sizes[member])
        if size > limit:
            raise UserError(f"{self.where(member)}: has {size:,} bytes, over the {limit:,} that are read; remove it")
        try:
            with self.paths[self.shards[member]].open("rb") as file:
                file.seek(int(self.offsets[member]))
                content: bytes = file.read(size)
        except OSError as error:
            raise UserError(f"{self.where(member)}: cannot be read ({(error.strerror or '').lower()}); look at the disk") from None
        if len(content) != size:
            raise UserError(f"{self.where(member)}: the tar file was cut off after it was opened; start again")
        return content

    def size(self, name: str) -> int | None:
        """Bytes of a picture; None where there is none."""
        member = self.member(name)
        return None if member is None else int(self.sizes[member])

    def digest(self, name: str) -> bytes:
        """SHA-256 of a picture's bytes."""
        return hashlib.sha256(self.source(name).content).digest()


def are_shards(images: str | Path) -> bool:
    """Whether pictures lie in tar files: a name that ends in .tar, or a folder that has such files.

    >>> are_shards("shards-{000..099}.tar"), are_shards("photos")
    (True, False)
    """
    path = Path(images)
    if path.suffix.lower() == ".tar":
        return not path.is_dir()
    return path.is_dir() and next(_tar_files(path), None) is not None


def shard_paths(images: str | Path) -> list[Path]:
    """The tar files of a folder, or those that a name means; ``{000..099}`` stands for the numbers with as many digits.

    >>> [str(path) for path in shard_paths("a-{08..10}.tar")]
    ['a-08.tar', 'a-09.tar', 'a-10.tar']
    """
    path = Path(images)
    if path.is_dir():
        return sorted(_tar_files(path))
    names = [""]
    rest = str(images)
    while match := _RANGE.search(rest):
        first, last, digits = int(match[1]), int(match[2]), len(match[1])
        if first > last or (last - first + 1) * len(names) > MAX_SHARDS:
            raise UserError(f"{images}: {match[0]} must go from a number to one that is not smaller, at most {MAX_SHARDS:,} in all")
        names = [f"{name}{rest[: match.start()]}{n:0{digits}}" for name in names for n in range(first, last + 1)]
        rest = rest[match.end() :]
    return [Path(name + rest) for name in names]


def open_pictures(images: str | Path) -> PictureFolder | Shards:
    """The pictures of a folder or of tar files; scanning is not repeated while these are unchanged.

    Raises `UserError` where a tar file is missing, damaged or compressed, or two members have one name.
    """
    if not are_shards(images):
        return PictureFolder(Path(images))
    paths = shard_paths(images)
    stamps = []
    for path in paths:
        try:
            about = path.stat()
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise UserError(f"{path}: the tar file cannot be read ({reason}); correct {images}") from None
        stamps.append((path, about.st_mtime_ns, about.st_size))
    return _scanned(tuple(stamps))


# ------------------------------------------------------------------------------------------------------------ internals


def _tar_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*.tar") if path.is_file() and not path.name.startswith("._"))


@lru_cache(maxsize=8)
def _scanned(stamps: tuple[tuple[Path, int, int], ...]) -> Shards:
    paths = tuple(path for path, _, _ in stamps)
    names: list[bytes] = []
    places: list[tuple[int, int, int]] = []
    ignored: Counter[str] = Counter()
    for number, (path, _, length) in enumerate(stamps):
        for name, offset, size in _members(path, length, ignored):
            names.append(name)
            places.append((number, offset, size))
            if len(names) > MAX_MEMBERS:
                raise UserError(f"{path}: there are more than {MAX_MEMBERS:,} members in all; name fewer tar files")
    order = sorted(range(len(names)), key=names.__getitem__)
    for one, other in pairwise(order):
        if names[one] == names[other]:
            where = f"{paths[places[one][0]]} and {paths[places[other][0]]}"
            raise UserError(f"{where}: both have a member '{names[one].decode()}'; rename one of them")
    columns = np.array([places[index] for index in order], dtype=np.int64).reshape(-1, 3)
    rank = np.empty(len(order), dtype=np.int64)
    rank[np.array(order, dtype=np.int64)] = np.arange(len(order))
    return Shards(
        paths,
        Texts.of([names[index] for index in order]),
        columns[:, 0].astype(np.int32),
        columns[:, 1].copy(),
        columns[:, 2].copy(),
        rank,
        tuple(ignored.items()),
    )


def _members(path: Path, length: int, ignored: Counter[str]) -> Iterator[tuple[bytes, int, int]]:
    """Name, first byte and size of each regular file of a tar file; what else there is is counted in ``ignored``."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=_Bounded(file), mode="r:") as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                tar.members.clear()  # Tarfile would hold them all.
                if member.isreg() and not member.issparse():
                    if member.offset_data + member.size > length:
                        raise tarfile.ReadError("unexpected end of data")
                    yield _plain_name(path, member.name), member.offset_data, member.size
                elif not member.isdir():
                    ignored["links in tar files" if member.issym() or member.islnk() else "special files in tar files"] += 1
    except (OSError, tarfile.TarError, ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:100]
        raise UserError(f"{path}: cannot be read as a tar file ({reason}); make it again, without compression") from None


def _plain_name(path: Path, name: str) -> bytes:
    try:
        return name.removeprefix("./").encode()
    except UnicodeEncodeError:
        raise UserError(f"{path}: the name of member {ascii(name)[:80]} is not UTF-8; make the tar file again") from None


class _Bounded:
    """A file of which no header may be larger than `MAX_HEADER`, since tarfile reads one as a whole."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        content: bytes = self._file.read(size)
        return content
