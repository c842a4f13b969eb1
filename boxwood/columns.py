"""JSON of other programs: a file is read here, and columns of numbers are taken out of its records here.

All readers of JSON share these rules of what is a number, a whole number, a point. What breaks a rule is refused with one line that
names the file, the row and the key.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from boxwood.errors import UserError

__all__ = [
    "MAX_COORDINATE",
    "UNWRITABLE",
    "Columns",
    "are_counts",
    "are_numbers",
    "are_run_lengths",
    "is_area",
    "is_number",
    "is_point",
    "is_whole",
    "read_json",
    "short",
]

UNWRITABLE = re.compile("[\0\ud800-\udfff]")
"""What no name of a file may have, and half a character, which UTF-8 does not know."""
MAX_COORDINATE = 1e6
"""Pixels; points further out cannot be meant, and would make outlines that no image can hold."""


def read_json(path: Path, advice: str) -> Any:
    """The content of a JSON file, as `json.loads` reads its bytes: with or without a byte order mark, NaN and Infinity included.

    Raises `UserError`, which ends in ``advice``, where the file cannot be read or is not JSON.
    """
    collecting = gc.isenabled()
    gc.disable()  # Millions of new objects, none of them garbage: collecting would double the time.
    try:
        content = path.read_bytes()
        try:
            # More than twice as fast, with equal results. It refuses what `json` allows beyond the standard.
            return msgspec.json.decode(content)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return json.loads(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({(error.strerror or '').lower()}); {advice}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: is not JSON ({error.msg}, column {error.colno}); {advice}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({' '.join(str(error).split())[:100]}); {advice}") from None
    finally:
        if collecting:
            gc.enable()


class Columns:
    """Columns of a list of records, as arrays with one row per record.

    ``section`` is the key under which the file ``path`` lists the records, ``id_key`` the key by which a message names a record.
    Raises `UserError` where a record is not a mapping; every method does where one lacks the key or has a value of another type.
    """

    def __init__(self, records: Sequence[Any], path: str | Path, section: str = "", id_key: str = "id") -> None:
        self.records, self.path, self.section, self.id_key = records, path, section, id_key
        for row, record in enumerate(records):
            if type(record) is not dict:
                self.fail(row, f"must be a mapping, got {short(record)}")

    @property
    def advice(self) -> str:
        """What a person can do, as the end of a message."""
        return "correct the file"

    def integers(self, key: str, default: int | None = None) -> NDArray[np.int64]:
        """(N,) whole numbers; ``default`` where a record does not have the key."""
        values = [record.get(key, default) for record in self.records]
        self.check(key, values, is_whole, "a whole number")
        return np.array(values, dtype=np.int64)

    def numbers(self, key: str, *, optional: bool = False, finite: bool = False) -> NDArray[np.float64]:
        """(N,) numbers; with ``optional``, NaN where a record has none."""
        values = [record.get(key) for record in self.records]
        self.check(key, values, lambda v: (optional and v is None) or is_number(v), "a number")
        numbers = np.array(values, dtype=np.float64)
        if finite:
            self._check_finite(key, numbers, "a number")
        return numbers

    def vectors(self, key: str, length: int, expected: str = "", *, finite: bool = False) -> NDArray[np.float64]:
        """(N, length) numbers. ``expected`` says in a message what they are."""
        expected = expected or f"{length} numbers"
        values = [record.get(key) for record in self.records]
        self.check(key, values, lambda v: isinstance(v, list) and len(v) == length and are_numbers(v), expected)
        vectors = np.array(values, dtype=np.float64).reshape(len(values), length)
        if finite:
            self._check_finite(key, vectors, expected)
        return vectors

    def texts(self, key: str) -> list[str]:
        """N texts that are not empty and may name a file."""
        values: list[Any] = [record.get(key) for record in self.records]
        self.check(key, values, lambda v: isinstance(v, str) and bool(v) and not UNWRITABLE.search(v), "text")
        return values

    def check(self, key: str, values: Sequence[Any], right: Callable[[Any], bool], expected: str) -> None:
        """Refuse the first record whose value is not ``right``."""
        for row, value in enumerate(values):
            if not right(value):
                self.refuse(row, key, expected)

    def refuse(self, row: int, key: str, expected: str) -> NoReturn:
        """Raise `UserError`: a record's ``key`` must be what is ``expected``."""
        record = self.records[row]
        self.fail(row, f"'{key}' must be {expected}, got {short(record[key]) if key in record else 'nothing'}", key)

    def fail(self, row: int, problem: str, key: str = "") -> NoReturn:
        """Raise `UserError`: the file, the row and its id (unless ``key`` is that), the problem."""
        record = self.records[row]
        known = record.get(self.id_key) if type(record) is dict and key != self.id_key else None
        name = "" if known is None else f" ({self.id_key.replace('_', ' ')} {short(known)})"
        where = f"{self.section} row" if self.section else "row"
        raise UserError(f"{self.path}: {where} {row}{name}: {problem}; {self.advice}")

    def _check_finite(self, key: str, numbers: NDArray[np.float64], expected: str) -> None:
        wrong = np.flatnonzero(~np.isfinite(numbers).all(axis=tuple(range(1, numbers.ndim))))
        if len(wrong):
            self.refuse(int(wrong[0]), key, expected)


def is_whole(value: Any) -> bool:
    """Whether a value is an integer that fits int64; 640.0 and true count, as some tools write them."""
    return (isinstance(value, int) or (isinstance(value, float) and value.is_integer())) and abs(value) < 2**63


def is_number(value: Any) -> bool:
    """Whether a value is a number of at most 64 bits; NaN and infinity are, true is none."""
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def are_numbers(values: Sequence[Any]) -> bool:
    """Whether all are numbers, as `is_number` has it."""
    return all(map(is_number, values))


def is_area(value: Any) -> bool:
    """Whether a value is the area of something: a number above 0 and below 2**63, not NaN; true is none, NumPy's numbers are.

    >>> [is_area(value) for value in (0.5, 12, 0, -840.0, float("nan"), float("inf"), None, "12", True)]
    [True, True, False, False, False, False, False, False, False]
    """
    return isinstance(value, int | float | np.integer | np.floating) and value is not True and bool(0 < value < 2**63)


def are_counts(values: Any) -> bool:
    """Whether a value is a list of uint32, as uncompressed run lengths are."""
    return isinstance(values, list) and all(type(count) is int and 0 <= count < 2**32 for count in values)


def are_run_lengths(mask: Any) -> bool:
    """Whether a value is a mask as COCO writes run lengths: a size (height, width), and counts as numbers or as compressed text."""
    if not isinstance(mask, dict):
        return False
    size, counts = mask.get("size"), mask.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and 0 <= side < 2**31 for side in size)):
        return False
    # A text b'...' is how Python prints bytes; the quotes are no run lengths.
    return counts.isascii() and counts[:2] not in ("b'", 'b"') if isinstance(counts, str) else are_counts(counts)


def is_point(value: Any) -> bool:
    """Whether a value is [x, y] in pixels."""
    return isinstance(value, list) and len(value) == 2 and all(is_number(n) and abs(n) < MAX_COORDINATE for n in value)


def short(value: Any) -> str:
    """A value in a message: at most 60 characters of it, and how many values a list has.

    >>> short([1.5] * 100)
    '[1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1... (100 values)'
    """
    text = _start(value, depth=3)
    if len(text) <= 60:
        return text
    return f"{text[:57]}... ({len(value)} values)" if isinstance(value, list) else f"{text[:57]}..."


def _start(value: Any, depth: int) -> str:
    """The beginning of a value's repr, over 60 characters where there are more; no value takes long or much memory."""
    if isinstance(value, str | bytes):
        return repr(value[:70])
    if isinstance(value, int) and abs(value) >= 10**70:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, list | tuple | dict):
        if depth == 0:
            return "[...]" if isinstance(value, list | tuple) else "{...}"
        inside = ", ".join(_start(item, depth - 1) for item in list(islice(value, 24)))
        if isinstance(value, dict):
            inside = ", ".join(f"{_start(key, depth - 1)}: {_start(item, depth - 1)}" for key, item in islice(value.items(), 24))
            return "{" + inside + "}"
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return repr(value)[:70]
