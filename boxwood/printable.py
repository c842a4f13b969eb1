"""Text from files, such as names of classes and files, made safe for terminals and pages."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup

__all__ = ["PrintableStream", "printable", "printable_json"]

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline: terminals obey them
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks of direction: what follows is shown in another order
    "\u2028\u2029\ud800-\udfff]"  # separators of lines, and half characters, which cannot be written
)


def printable(text: str) -> str:
    """The text with control characters, marks of direction and half characters written as their codes, as Python writes them.

    A terminal then shows what a name holds, and obeys none of it. Markup stays markup.

    >>> print(printable("nut\\x1b[2J"), printable("\\u202egpj.exe"))
    nut\\x1b[2J \\u202egpj.exe
    """
    escaped = _UNSAFE.sub(lambda match: _code(match.group()), text)
    return Markup(escaped) if isinstance(text, Markup) else escaped


def printable_json(text: str) -> str:
    """The same for JSON, which stays JSON of equal content.

    >>> print(printable_json('"\\u202egpj.exe"'))
    "\\u202egpj.exe"
    """
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


class PrintableStream:
    """A text stream that writes what is `printable`; all but its ``write`` is the stream's."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; bytes go to ``buffer``."""
        return int(self._stream.write(printable(text)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _code(character: str) -> str:
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"
