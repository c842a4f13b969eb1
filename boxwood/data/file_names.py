"""Where the images of an annotation file lie: names as other programs write them, matched with the files of a folder."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

__all__ = ["LocatedNames", "locate"]


@dataclass
class LocatedNames:
    """The images of a file by row: those whose name is that of a file of the folder are in none of these."""

    read: dict[int, str] = field(default_factory=dict)
    """The file that a name means in another notation: with backslashes, escapes such as %20, composed or decomposed letters, or as
    an address or a path of another computer."""
    likely: dict[int, str] = field(default_factory=dict)
    """A file of the same last part, elsewhere in the folder or with other case; which is likely meant, but not sure."""
    missing: list[int] = field(default_factory=list)
    """Rows of which there is no file, those of ``likely`` among them."""


def locate(names: Sequence[str], folder: str | Path, members: Sequence[str] | None = None) -> LocatedNames:
    """Find the file of each image name, which is relative to ``folder``; with ``members``, the one of these names.

    A name with its own file is taken as it is. No file is taken for two names. Each folder is listed once, all of ``folder`` only
    where a name has no file; no image is opened.
    """
    listing = _Listing(Path(folder), members)
    located = LocatedNames()
    unknown = [row for row, name in enumerate(names) if not listing.has(name)]
    if not unknown:
        return located
    taken = set(names) - {names[row] for row in unknown}
    meant = {row: listing.decoded(names[row]) for row in unknown}
    index: dict[str, list[str]] = {}
    if any(name is None for name in meant.values()):
        index = _index(_files_below(Path(folder)) if members is None else sorted(members))
    likely: dict[int, str] = {}
    for row in unknown:
        if meant[row] is None and (match := _by_last_parts(names[row], index)) is not None:
            foreign = _is_foreign(names[row]) and _composed(Path(match).name) == _composed(_plain(names[row]).rpartition("/")[2])
            (meant if foreign else likely)[row] = match
    claims = Counter([*(name for name in meant.values() if name is not None), *likely.values()])
    for row in unknown:
        name = meant[row]
        if name is not None and claims[name] == 1 and name not in taken:
            located.read[row] = name
            continue
        located.missing.append(row)
        if row in likely and claims[likely[row]] == 1 and likely[row] not in taken:
            located.likely[row] = likely[row]
    return located


# ------------------------------------------------------------------------------------------------------------ internals


class _Listing:
    """The names in the folders that were asked for."""

    def __init__(self, root: Path, members: Sequence[str] | None) -> None:
        self.root = root if members is None else None
        self._names: dict[str, set[str]] = {}
        for member in members or ():
            parent, _, base = member.rpartition("/")
            self._names.setdefault(parent, set()).add(base)
        self._composed: dict[str, dict[str, str]] = {}

    def has(self, name: str) -> bool:
        parent, _, base = name.rpartition("/")
        return base in self._list(parent or ("/" if name.startswith("/") else ""))

    def decoded(self, name: str) -> str | None:
        """The file that a name in another notation means, its folders included; None where there is none."""
        for variant in dict.fromkeys((name, name.replace("\\", "/"), unquote(name), _plain(name))):
            if ".." in variant.split("/") or variant.startswith("/") or "\0" in variant:
                continue
            parent, _, base = variant.rpartition("/")
            known = self._list(parent)
            if parent not in self._composed:
                self._composed[parent] = {_composed(other): other for other in sorted(known)}
            match = base if base in known else self._composed[parent].get(_composed(base))
            if match is not None and _is_text(match):
                return f"{parent}/{match}" if parent else match
        return None

    def _list(self, parent: str) -> set[str]:
        if parent not in self._names:
            try:
                self._names[parent] = set() if self.root is None else set(os.listdir(self.root / parent))
            except (OSError, ValueError):  # no folder, one that may not be read, or a name that no folder can have
                self._names[parent] = set()
        return self._names[parent]


def _files_below(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(parent).relative_to(folder)
        yield from ((inside / name).as_posix() for name in sorted(files))


def _index(paths: Iterable[str]) -> dict[str, list[str]]:
    """Files by their last part, composed and without case; hidden ones, such as a Mac's ``._``, are left out."""
    index: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        name = path.rpartition("/")[2]
        if not name.startswith(".") and _is_text(path):
            index[_composed(name).casefold()].append(path)
    return index


def _by_last_parts(name: str, index: dict[str, list[str]]) -> str | None:
    """The one file that shares the most last parts with a name; None where there is none, or several share as many."""
    parts = _composed(_plain(name)).casefold().split("/")
    shared: dict[str, int] = {}
    for path in index.get(parts[-1], ()):
        others = _composed(path).casefold().split("/")
        pairs = zip(reversed(parts), reversed(others), strict=False)
        shared[path] = next((count for count, (one, other) in enumerate(pairs) if one != other), min(len(parts), len(others)))
    best = [path for path, count in shared.items() if count == max(shared.values())]
    return best[0] if len(best) == 1 else None


def _is_foreign(name: str) -> bool:
    """Whether a name is an address or a path of another computer, whose folders say nothing of this one's."""
    return "\\" in name or "?d=" in name or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", name) is not None


def _plain(name: str) -> str:
    """A name without escapes: the path in an address, what follows ``?d=`` in Label Studio's, slashes for backslashes."""
    if "?d=" in name:
        name = name.partition("?d=")[2]
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name):
        name = re.split(r"[?#]", name.partition("://")[2].partition("/")[2])[0]
    return re.sub(r"^[A-Za-z]:/", "", unquote(name).replace("\\", "/"))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _is_text(name: str) -> bool:
    """Whether a file's name can be written in an annotation file."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
