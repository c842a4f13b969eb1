"""Reads XML files of other formats; errors are messages of one line (`boxwood.columns` reads JSON)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from boxwood.errors import UserError

__all__ = ["read_xml"]


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file. Raises `UserError` where it cannot be read, is not XML, or defines entities, which annotations do
    not need and which may expand without limit."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({(error.strerror or '').lower()}); add the file, or remove it from the list"
        ) from None
    if b"\0" in content:  # where the search for entities would not find one
        raise UserError(f"{path}: is UTF-16 or not text; save it as UTF-8")
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise UserError(f"{path}: refused: it defines entities, which annotations do not")
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path}: is not XML ({error}); copy it again") from None
