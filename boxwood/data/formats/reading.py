"""Shared by the readers of other formats: their result, and how their folders, XML files and tables are read.

Errors are messages of one line (`boxwood.columns` reads JSON). Each element of a source is in the COCO dictionary or in the list of
what was lost.
"""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from boxwood.errors import UserError
from boxwood.files import media_kind

__all__ = [
    "MAX_BYTES",
    "Reading",
    "descriptions",
    "files_below",
    "is_true",
    "pictures_below",
    "read_table",
    "read_xml",
    "xml_root_tag",
]

MAX_BYTES = 2**29
"""Memory that the pixels of one image's masks may take while a file is read."""
MAX_MARKS = 5_000_000
"""Tags and attributes of one XML file; a hundred bytes of memory each."""
MANY_ATTRIBUTES = re.compile(rb"<(?:[^<=]*+=){100}")
"""A tag with more attributes than any format has; the names of millions of them would take far more memory than the file."""
TRUE, FALSE = frozenset({"true", "yes", "y", "t"}), frozenset({"", "false", "no", "n", "f", "none", "unspecified"})


class Reading(NamedTuple):
    """What a reader makes of a source."""

    coco: dict[str, Any]
    """A COCO dictionary: ``images``, ``annotations``, ``categories``."""
    pictures: Path | None
    """The folder that the file names are relative to, where it is known."""
    lost: Sequence[str] = ()
    """Descriptions of what the source holds and the dictionary does not, each with a count."""


def descriptions(lost: Mapping[str, int]) -> list[str]:
    """Counts by description as texts, such as "3 masks", without those that are 0."""
    return [f"{count:,} {what}" for what, count in lost.items() if count]


def files_below(folder: Path, pattern: str) -> list[Path]:
    """The files whose path below ``folder`` is like ``pattern``, in order; not the ``._`` files that macOS puts into archives."""
    files = (path for path in folder.glob(pattern) if not path.name.startswith("._") and "__MACOSX" not in path.parts)
    return sorted(path for path in files if path.is_file())


def pictures_below(folder: Path, pattern: str = "**/*") -> tuple[list[Path], dict[str, int]]:
    """The pictures in a folder, and counts of those in formats that are not read, by description."""
    files = files_below(folder, pattern)
    kinds = [media_kind(file).kind for file in files]
    unread: dict[str, int] = {}
    for file, kind in zip(files, kinds, strict=True):
        if kind in ("unread", "video"):
            what = f"pictures of a format that is not read ({file.suffix.lower()})"
            unread[what] = unread.get(what, 0) + 1
    return [file for file, kind in zip(files, kinds, strict=True) if kind == "image"], unread


def is_true(text: str | None) -> bool | None:
    """Whether a text says yes, as tools write it: 1, True, yes; None where it says neither yes nor no.

    >>> is_true("True"), is_true("0"), is_true(None), is_true("-1")
    (True, False, False, None)
    """
    word = (text or "").strip().lower()
    if re.fullmatch(r"\d+(\.0+)?", word, re.ASCII):
        return float(word) != 0
    return True if word in TRUE else False if word in FALSE else None


def xml_root_tag(path: Path) -> str:
    """The name of an XML file's outermost element; empty where the file is not XML. Reads its beginning alone."""
    try:
        with path.open("rb") as file:
            for _, element in ElementTree.iterparse(file, ("start",)):
                return str(element.tag)
        return ""
    except (OSError, ElementTree.ParseError, ValueError, LookupError):
        return ""


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file.

    Raises `UserError` where it cannot be read, is not XML, has more than `MAX_MARKS` tags and attributes, or defines entities,
    which annotations do not need and which may expand without limit.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError where the name has a NUL
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        name = str(path).replace("\0", "\\0")
        raise UserError(f"{name}: cannot be read ({reason}); add the file, or remove it from the list") from None
    if b"\0" in content:  # where the search for entities would not find one
        raise UserError(f"{path}: is UTF-16 or not text; save it as UTF-8")
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise UserError(f"{path}: refused: it defines entities, which annotations do not")
    if (marks := content.count(b"<") + content.count(b"=")) > MAX_MARKS:
        raise UserError(f"{path}: has {marks:,} tags and attributes, more than the {MAX_MARKS:,} that are read; export it in parts")
    if MANY_ATTRIBUTES.search(content):
        raise UserError(f"{path}: refused: a tag has a hundred attributes or more, which no format of annotations has")
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: is not XML ({error}); copy it again") from None
    except (ValueError, LookupError) as error:  # an encoding that is not known, or of several bytes a character
        raise UserError(f"{path}: its text cannot be decoded ({error}); save it as UTF-8") from None


def read_table(path: Path, columns: Sequence[str], advice: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The line number and the columns of each row of a .csv with a header.

    Raises `UserError`, which ends in ``advice``, where the file cannot be read or lacks one of ``columns``; and where a row has
    more values than there are columns, or a value with the end of a line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            if missing := [name for name in columns if name not in reader.fieldnames]:
                raise UserError(f"{path}: has no column {missing[0]}; {advice}")
            for row in reader:
                if None in row:
                    raise UserError(f"{path}:{reader.line_num}: has more values than columns; correct the line")
                if any(value and ("\n" in value or "\r" in value) for value in row.values()):
                    raise UserError(f"{path}:{reader.line_num}: a value goes over several lines; close its quotes")
                yield reader.line_num, {name: value or "" for name, value in row.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:80]}); {advice}") from None
