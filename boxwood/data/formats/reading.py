"""XML files of other formats, read whole or refused in one line (`boxwood.columns` reads JSON)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from boxwood.errors import UserError

__all__ = ["read_xml"]


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file. Raises `UserError` where it cannot be read, is none, or defines entities, which may grow to anything
    and which annotations do not."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({(error.strerror or '').lower()}); bring the annotation, or take it out"
        ) from None
    if b"\0" in content:  # in which a definition would not be seen
        raise UserError(f"{path}: is written in UTF-16 or is no text; save it as UTF-8")
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise UserError(f"{path}: refused: it defines entities, which annotations do not")
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path}: is not XML ({error}); copy it again") from None
