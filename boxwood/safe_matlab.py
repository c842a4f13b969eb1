"""MATLAB's files of numbers, texts, cells and structures, versions 5 to 7, as scipy reads them; checked before it does.

scipy makes room for as many cells as a file of 200 bytes asks for, and ends the process where cells stand in cells 100,000 deep. So
the elements of a file are walked first, in the order in which scipy reads them: no array has more values than bytes that follow it,
and nesting, the number of arrays and their bytes are limited.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from boxwood.errors import UserError
from boxwood.files import write_whole

__all__ = ["read", "write"]

MAX_BYTES = 2_000_000_000
"""Of a file, and of one of its variables when it is no longer compressed; HICO-DET's largest has 0.2 thousand million."""
MAX_VALUES = 400_000_000
"""Of all numbers of a file; each may take 8 bytes. HICO-DET's has 46 million, selective search's boxes of VOC 2007 80 million."""
MAX_ARRAYS = 10_000_000
"""Cells and fields of structures are arrays too; HICO-DET's boxes are about 3 million."""
MAX_DEPTH = 30
MAX_SIDES = 32
COMPRESSED, MATRIX, WORDS, SIGNED_WORDS, SIGNED_BYTES = 15, 14, 6, 5, 1
"""Types of elements."""
CELL, STRUCT, CHAR, NUMBERS = 1, 2, 4, range(6, 16)
"""Classes of arrays; there are others (objects, functions), which are not read."""
COMPLEX = 0x800
NUMBER_TYPES = frozenset((1, 2, 3, 4, 5, 6, 7, 9, 12, 13))
"""Types of elements of numbers. scipy looks any other one up beside its table, which ends the process."""
TEXT_TYPES = frozenset((1, 2, 4, 16, 17, 18))


def read(path: Path, names: Sequence[str], advice: str, *, simplify: bool = False) -> dict[str, Any]:
    """Those of the variables ``names`` that a MATLAB file has, as arrays; with ``simplify`` structures are dictionaries, and arrays
    of one value that value.

    Raises `UserError`, which ends in ``advice``, where the file cannot be read, is damaged, of another version, or too large, and
    where scipy is not installed.
    """
    scipy_io = _scipy(path)
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({(error.strerror or '').lower()}); {advice}") from None
    try:
        if size > MAX_BYTES:
            raise _Damaged(f"it has {size} bytes, more than the {MAX_BYTES} that are read")
        _check(content, names)
        tree: dict[str, Any] = scipy_io.loadmat(path, variable_names=list(names), simplify_cells=simplify)
    except Exception as error:  # scipy raises many types of errors on a damaged file
        problem = " ".join(str(error).split())[:150]
        raise UserError(f"{path}: is no MATLAB file, or a damaged one ({problem}); {advice}") from None
    return {name: tree[name] for name in names if name in tree}


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a MATLAB file, whole or not at all. Raises `UserError` where it cannot hold the content, or scipy is not installed."""
    savemat = _scipy(path).savemat
    try:
        write_whole(path, lambda temporary: savemat(temporary, dict(content), appendmat=False, do_compression=True))
    except (TypeError, ValueError, OverflowError) as error:
        problem = " ".join(str(error).split())[:150]
        raise UserError(f"{path}: MATLAB's format cannot hold this ({problem}); correct the source") from None


# ------------------------------------------------------------------------------------------------------------ internals


class _Damaged(Exception):
    """Why a file is not read."""


def _scipy(path: Path) -> Any:
    try:
        import scipy.io
    except ImportError:
        raise UserError(
            f"{path}: MATLAB's files are read and written by scipy, which is not installed; run: pip install 'boxwood[matlab]'"
        ) from None
    return scipy.io


def _check(content: bytes, names: Sequence[str]) -> None:
    """Raise an error where scipy should not read the variables ``names``."""
    if content[:8] == b"\x89HDF\r\n\x1a\n" or content[124:128] in (b"\x00\x02IM", b"\x02\x00MI"):
        raise _Damaged("it is of MATLAB's version 7.3; save it in MATLAB with the option -v7")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or 0 in content[:4]:
        raise _Damaged("it does not begin as one of version 5 to 7 does")
    totals = _Totals()
    for variable in _variables(content, order):
        if variable.name() in names:
            variable.check(totals)


def _variables(content: bytes, order: str) -> Iterator[_Variable]:
    """The variables of a file, one after the other."""
    position = 128
    while position < len(content):
        kind, size = struct.unpack_from(order + "II", content, position)
        end = position + 8 + size
        if size == 0 or end > len(content):
            raise _Damaged("it is cut short")
        if kind == COMPRESSED:
            stream = zlib.decompressobj()
            part = stream.decompress(memoryview(content)[position + 8 : end], MAX_BYTES + 1)
            if len(part) > MAX_BYTES:
                raise _Damaged(f"a variable has more than the {MAX_BYTES} bytes that are read")
            yield _Variable(part, order)
        else:
            yield _Variable(content[position:end], order)
        position = end


class _Totals:
    """What the variables of a file have so far."""

    def __init__(self) -> None:
        self.arrays = self.values = 0

    def add(self, values: int) -> None:
        self.arrays, self.values = self.arrays + 1, self.values + values
        if self.arrays > MAX_ARRAYS or self.values > MAX_VALUES:
            raise _Damaged(f"it has more than the {MAX_VALUES} values or {MAX_ARRAYS} arrays that are read")


class _Variable:
    """The elements of one variable, one after the other."""

    def __init__(self, content: bytes, order: str) -> None:
        self.content, self.order, self.position = content, order, 0
        self.two, self.numbers = struct.Struct(order + "II"), struct.Struct(order + "14I")

    def name(self) -> str:
        self.position = 8
        return self._header()[2].decode("latin1")

    def check(self, totals: _Totals) -> None:
        """Raise an error where scipy should not read it."""
        self.position = 0
        self._array(totals, 0)

    def _pair(self) -> tuple[int, int]:
        pair: tuple[int, int] = self.two.unpack_from(self.content, self.position)
        return pair

    def _element(self, *expected: int) -> tuple[int, int]:
        """Where the data of the next element begin, and how many bytes they have; goes on behind them. A short one has its data in
        the second half of its tag."""
        kind, size = self._pair()
        start = self.position + 8
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, self.position + 4
        self.position += 8 if start % 8 == 4 else 8 + (size + 7) // 8 * 8
        if start + size > len(self.content) or (start % 8 == 4 and size > 4):
            raise _Damaged("it is cut short")
        if kind not in expected:
            raise _Damaged(f"an element is of type {kind} in place of {', '.join(map(str, sorted(expected)))}")
        return start, size

    def _header(self) -> tuple[int, int, bytes]:
        """Flags (with the class), number of values, and name of the array that begins here."""
        start, size = self._element(WORDS)
        if size != 8:
            raise _Damaged(f"the flags of an array have {size} bytes in place of 8")
        flags = struct.unpack_from(self.order + "I", self.content, start)[0]
        start, size = self._element(SIGNED_WORDS)
        if size % 4 or not 2 <= size // 4 <= MAX_SIDES:  # with none scipy ends the process
            raise _Damaged(f"an array has a size of {size} bytes")
        sides = struct.unpack_from(f"{self.order}{size // 4}i", self.content, start)
        if any(side < 0 for side in sides):
            raise _Damaged(f"an array has the size {list(sides)[:4]}")
        start, size = self._element(SIGNED_BYTES)
        return flags, math.prod(sides), self.content[start : start + size]

    def _array(self, totals: _Totals, depth: int) -> None:
        """Go behind the array that begins here."""
        kind, size = self._pair()
        self.position += 8
        end = self.position + size
        if kind != MATRIX or end > len(self.content):
            raise _Damaged("it is cut short, or an element is no array")
        if size == 0:
            return totals.add(0)
        flags, count, _ = self._header()
        if count > len(self.content) - self.position:
            raise _Damaged(f"an array of {count} values has {len(self.content) - self.position} bytes")
        totals.add(count)
        kind = flags & 0xFF
        if kind in (CELL, STRUCT):
            self._arrays(count * (self._fields() if kind == STRUCT else 1), totals, depth + 1)
        elif kind == CHAR or kind in NUMBERS:
            for _ in range(2 if flags & COMPLEX and kind != CHAR else 1):
                self._element(*(TEXT_TYPES if kind == CHAR else NUMBER_TYPES))
        else:
            raise _Damaged(f"it holds an array of class {kind}; numbers, texts, cells and structures are read")
        if self.position != end and depth:
            raise _Damaged("an array has other contents than its size says")

    def _is_number(self) -> bool:
        """Go behind the array that begins here, if it is one number without a name, as most of HICO-DET's three million are."""
        if self.position + 56 > len(self.content):
            return False
        kind, size, six, eight, flags, _, *rest, data_kind, data_size = self.numbers.unpack_from(self.content, self.position)
        short = data_kind >> 16
        if (
            (kind, six, eight, rest) != (MATRIX, WORDS, 8, [SIGNED_WORDS, 8, 1, 1, SIGNED_BYTES, 0])
            or flags & (0xFF | COMPLEX) not in NUMBERS
            or data_kind & 0xFFFF not in NUMBER_TYPES
            or not (size == 48 if 0 < short <= 4 else size == 56 and data_size == 8 and not short)
        ):
            return False
        self.position += 8 + size
        return self.position <= len(self.content)

    def _arrays(self, count: int, totals: _Totals, depth: int) -> None:
        """Go behind so many arrays, of cells or of fields."""
        if depth > MAX_DEPTH:
            raise _Damaged(f"its cells and structures are nested more than {MAX_DEPTH} deep")
        if 8 * count > len(self.content) - self.position:
            raise _Damaged(f"{count} cells or fields have {len(self.content) - self.position} bytes")
        for _ in range(count):
            if self._is_number():
                totals.add(1)
            else:
                self._array(totals, depth)

    def _fields(self) -> int:
        """How many fields the structures have whose names begin here."""
        start, size = self._element(SIGNED_WORDS)
        length = struct.unpack_from(self.order + "i", self.content, start)[0] if size == 4 else 0
        start, size = self._element(SIGNED_BYTES)
        if length < 1 or size % length:
            raise _Damaged("the names of a structure's fields are damaged")
        return size // length
