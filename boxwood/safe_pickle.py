"""Pickles of plain data: dictionaries, lists, text, numbers and numpy arrays, written by Python 2 or 3; anything else is refused.

A pickle is a program for a small stack machine, and Python's machine calls whatever the program names. The machine below knows
only how to make data: it imports nothing and calls nothing but the functions of its table. Types are checked before a value is used
or becomes text in a message, since a value of 30 nested pairs, each of the same part twice, has a thousand million parts and takes
60 bytes in the file. Nesting, the number of operations, what functions make, and how often parts are repeated are limited.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
from codecs import escape_decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from boxwood.errors import UserError

__all__ = ["explained", "parse", "read", "run"]

MAX_BYTES = 16_000_000_000
MAX_DEPTH = 50
MAX_OPERATIONS = 20_000_000
"""Of one file, each of which may make an object; those in `COSTLY` count several times. A numpy array counts about 60, so a
proposal file of COCO's 118,000 training images three quarters of these."""
COSTLY = {pickle.REDUCE: 8, pickle.BUILD: 8, pickle.EMPTY_DICT: 4, pickle.SETITEM: 4}
"""Operations that make objects of some hundred bytes."""
MAX_GROWTH, SPARE = 4, 1_000_000
"""What functions make, in bytes, and the values with each repetition counted, are at most ``MAX_GROWTH`` times the bytes of the
file, and ``SPARE``."""
MAX_INTEGER_BYTES = 128
MAX_KEY = 2**63
"""Larger integers are not keys: many of them may have the same hash, and a dictionary of those takes hours."""


def read(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """What a pickle file holds. Raises `UserError` where it cannot be read, is larger than ``max_bytes``, is no pickle, is cut
    short, or asks for more than plain data."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size > max_bytes:
                raise UserError(f"{path}: has {size} bytes, more than the {max_bytes} that are read; split it")
            return _load(file, size, str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name an existing file") from None


def parse(content: bytes, where: str) -> Any:
    """`read` of bytes; ``where`` names them in messages. Text of Python 2 becomes text by latin-1, byte for character.

    >>> parse(pickle.dumps({"scores": np.float32([0.5, 0.25])}), "x.pkl")
    {'scores': array([0.5 , 0.25], dtype=float32)}
    """
    return _load(io.BytesIO(content), len(content), where)


def run(file: IO[bytes], size: int, names: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any] | None = None) -> Any:
    """The value of the pickle that begins at the position of ``file``, which has ``size`` bytes; the position is then behind it.

    ``names`` are what its names stand for: a function, or a value. ``persistent`` gives the value of an id of a value outside the
    pickle; it gets the id unchecked. Errors are those that `explained` turns into `UserError`.
    """
    machine = _Machine(file, size, names, persistent)
    value = machine.run()
    _measure(value, [], {}, machine.limit)
    return value


@contextmanager
def explained(
    where: str, what: str = "pickle", allowed: str = "plain data and numpy arrays are read from a pickle"
) -> Iterator[None]:
    """Turn every error of `run` but OSError into a `UserError` of one line that begins with ``where``."""
    try:
        yield
    except _Refused as error:
        raise UserError(f"{where}: refused: it wants {error}, and only {allowed}") from None
    except (EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{where}: is no {what}, or is cut short or damaged ({_line(error)}); copy it again") from None
    except (OSError, UserError):
        raise
    except Exception as error:  # damaged operands lead to errors of every sort
        raise UserError(f"{where}: is a damaged {what} ({type(error).__name__}: {_line(error)}); copy it again") from None


def _load(file: IO[bytes], size: int, where: str) -> Any:
    with explained(where):
        return run(file, size, FUNCTIONS)


class _Refused(Exception):
    """A name in a pickle that is not allowed."""


# ---------------------------------------------------------------------------------- what the names in a pickle stand for


class _Kind:
    """``numpy.dtype(code, align, copy)``, whose byte order comes with its state."""

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(code, str):
            raise _Refused(f"an array of a {type(code).__name__}")
        if not re.fullmatch(r"[<>|=]?([biuf][0-9]{1,2}|[SU][0-9]{1,9})", code):
            raise _Refused(f"an array of {'objects' if code in ('O4', 'O8', '|O') else _printable(code)}")
        self.dtype = np.dtype(code)

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple):
            raise _Refused(f"a numpy type with a state of type {type(state).__name__}")
        order: Any = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if any(part is not None for part in state[2:5]):
            raise _Refused("an array of records")
        big, little = (isinstance(order, str) and order == sign for sign in "><")
        self.dtype = self.dtype.newbyteorder(">" if big else "<" if little else "=")


class _Blank:
    """A numpy array before its state has come."""

    def __init__(self, *_: Any) -> None:
        self.places: list[int] = []
        """Where it is filed."""


def _array(shape: Any, kind: Any, raw: Any, order: Any) -> np.ndarray[Any, np.dtype[Any]]:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(kind, _Kind) or not isinstance(raw, bytes):
        raise _Refused("an array of objects")
    if (
        not isinstance(shape, tuple)
        or len(shape) > MAX_DEPTH
        or not all(type(side) is int and 0 <= side < MAX_KEY for side in shape)
    ):
        raise pickle.UnpicklingError("an array whose shape is not a few whole numbers")
    # An empty array has a size too: that of its other sides, which a reader may ask for.
    sides = math.prod(side or 1 for side in shape) * kind.dtype.itemsize
    if math.prod(shape) * kind.dtype.itemsize != len(raw) or sides > max(len(raw), SPARE):
        raise pickle.UnpicklingError(f"an array of shape {shape} and type {kind.dtype} with {len(raw)} bytes")
    flat = np.frombuffer(raw, dtype=kind.dtype) if raw else np.zeros(0, dtype=kind.dtype)
    return flat.reshape(shape, order=order).astype(kind.dtype.newbyteorder("="))


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """How protocol 5 writes an array."""
    return _array(shape, kind, raw, "F" if isinstance(order, str) and order == "F" else "C")


def _scalar(kind: Any, raw: Any) -> Any:
    return _array((), kind, raw, "C").item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or not isinstance(encoding, str):
        raise _Refused(f"a {type(text).__name__} encoded by a {type(encoding).__name__}")
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"text encoded by {_printable(encoding)}")
    return text.encode("latin1")


def _no_bytes(*parts: Any) -> bytes:
    if parts:
        raise _Refused("bytes made of something")
    return b""


def _dictionary(pairs: Any = ()) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key, value in pairs:
        _set(made, key, value)
    return made


FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): _Blank,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): _dictionary,
}


class _Name:
    """A name in a pickle, with the function that stands in for it; None for a name that is only an argument."""

    def __init__(self, function: Callable[..., Any] | None) -> None:
        self.function = function


def _named(module: Any, name: Any, names: Mapping[tuple[str, str], Any]) -> Any:
    """What a name stands for: a `_Name` of a function, or a value."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise _Refused(f"a name of a {type(module).__name__} and a {type(name).__name__}")
    if (module, name) == ("numpy", "ndarray"):  # an argument that is never called
        return _Name(None)
    module = "builtins" if module == "__builtin__" else re.sub(r"^numpy\._core\b", "numpy.core", module)
    if (module, name) not in names:
        raise _Refused(f"{_printable(module)}.{_printable(name)}")
    value = names[module, name]
    return _Name(value) if callable(value) else value


# ------------------------------------------------------------------------------------------------------- the machine


FIXED = {
    pickle.BININT: "<i",
    pickle.BININT1: "<B",
    pickle.BININT2: "<H",
    pickle.BINFLOAT: ">d",
}
"""Operations that push a number, and its form."""


def _integer(line: bytes) -> int:
    if len(line) > 2 * MAX_INTEGER_BYTES:
        raise _Refused(f"an integer of {len(line)} digits")
    return int(line)


def _long(content: bytes) -> int:
    if len(content) > MAX_INTEGER_BYTES:
        raise _Refused(f"an integer of {len(content)} bytes")
    return pickle.decode_long(content)


def _latin1(content: bytes) -> str:
    return content.decode("latin1")


def _utf8(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


COUNTED: dict[bytes, tuple[str, Callable[[bytes], Any]]] = {
    pickle.SHORT_BINSTRING: ("<B", _latin1),
    pickle.BINSTRING: ("<i", _latin1),
    pickle.SHORT_BINUNICODE: ("<B", _utf8),
    pickle.BINUNICODE: ("<I", _utf8),
    pickle.BINUNICODE8: ("<Q", _utf8),
    pickle.SHORT_BINBYTES: ("<B", bytes),
    pickle.BINBYTES: ("<I", bytes),
    pickle.BINBYTES8: ("<Q", bytes),
    pickle.BYTEARRAY8: ("<Q", bytes),
    pickle.LONG1: ("<B", _long),
    pickle.LONG4: ("<i", _long),
}
"""Operations that push what so many bytes say: the form of the count, and what the bytes become."""


def _line_to_int(line: bytes) -> int | bool:
    return {b"00": False, b"01": True}[line] if line in (b"00", b"01") else _integer(line)


LINES: dict[bytes, Callable[[bytes], Any]] = {
    pickle.INT: _line_to_int,
    pickle.LONG: lambda line: _integer(line.rstrip(b"L")),
    pickle.FLOAT: float,
    pickle.STRING: lambda line: _latin1(escape_decode(line.strip()[1:-1])[0]),
    pickle.UNICODE: lambda line: line.decode("raw-unicode-escape"),
}
"""Operations of protocol 0 that push what the rest of the line says."""
CONSTANTS: dict[bytes, Any] = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False, pickle.EMPTY_TUPLE: ()}
TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}
PUTS = {pickle.BINPUT: "<B", pickle.LONG_BINPUT: "<I"}
GETS = {pickle.BINGET: "<B", pickle.LONG_BINGET: "<I"}


class _Machine:
    """Carries out a pickle's operations, as `pickletools` describes them: a stack, marks in it, and a file of numbered values."""

    def __init__(
        self, file: IO[bytes], size: int, names: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any] | None
    ) -> None:
        self.file, self.size, self.names, self.persistent = file, size, names, persistent
        self.limit, self.made = MAX_GROWTH * size + SPARE, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.filed: dict[int, Any] = {}

    def run(self) -> Any:
        count = 0
        while count < MAX_OPERATIONS:
            code = self.file.read(1)
            if code == pickle.STOP:
                return self.stack.pop()
            self._do(code)
            count += COSTLY.get(code, 1)
        raise _Refused(f"more than {MAX_OPERATIONS} operations")

    def _do(self, code: bytes) -> None:
        stack = self.stack
        if code in FIXED:
            stack.append(self._number(FIXED[code]))
        elif code in COUNTED:
            form, make = COUNTED[code]
            stack.append(make(self._read(self._number(form))))
        elif code in GETS:
            stack.append(self.filed[self._number(GETS[code])])
        elif code in PUTS:
            self._put(self._number(PUTS[code]))
        elif code in TUPLES:
            stack[-TUPLES[code] :] = [tuple(self._top(TUPLES[code]))]
        elif code in CONSTANTS:
            stack.append(CONSTANTS[code])
        elif code in LINES:
            stack.append(LINES[code](self._line()))
        elif code == pickle.MARK:
            self.marks.append(len(stack))
        elif code == pickle.TUPLE:
            stack.append(tuple(self._marked()))
        elif code == pickle.EMPTY_LIST:
            stack.append([])
        elif code == pickle.LIST:
            stack.append(self._marked())
        elif code == pickle.APPEND:
            self._extend([stack.pop()])
        elif code == pickle.APPENDS:
            self._extend(self._marked())
        elif code == pickle.EMPTY_DICT:
            stack.append({})
        elif code == pickle.DICT:
            parts = self._marked()
            stack.append(_dictionary(zip(parts[::2], parts[1::2], strict=True)))
        elif code == pickle.SETITEM:
            value, key = stack.pop(), stack.pop()
            _set(stack[-1], key, value)
        elif code == pickle.SETITEMS:
            parts = self._marked()
            for key, value in zip(parts[::2], parts[1::2], strict=True):
                _set(stack[-1], key, value)
        elif code == pickle.MEMOIZE:
            self._put(len(self.filed))
        elif code == pickle.PUT:
            self._put(_integer(self._line()))
        elif code == pickle.GET:
            stack.append(self.filed[_integer(self._line())])
        elif code == pickle.GLOBAL:
            stack.append(_named(_utf8(self._line()), _utf8(self._line()), self.names))
        elif code == pickle.STACK_GLOBAL:
            name, module = stack.pop(), stack.pop()
            stack.append(_named(module, name, self.names))
        elif code == pickle.REDUCE:
            self._call()
        elif code == pickle.BUILD:
            self._fill()
        elif code == pickle.BINPERSID and self.persistent is not None:
            stack.append(self.persistent(stack.pop()))
        elif code == pickle.POP:
            if self.marks and self.marks[-1] == len(stack):
                self.marks.pop()
            else:
                stack.pop()
        elif code == pickle.POP_MARK:
            self._marked()
        elif code == pickle.DUP:
            stack.append(stack[-1])
        elif code == pickle.PROTO:
            self._read(1)
        elif code == pickle.FRAME:
            self._read(8)
        else:
            self._refuse(code)

    def _refuse(self, code: bytes) -> None:
        if code == b"":
            raise EOFError("it ends too early")
        name = next((name for name in dir(pickle) if name.isupper() and getattr(pickle, name) == code), None)
        if name is None:
            raise pickle.UnpicklingError(f"there is no operation {code!r}")
        raise _Refused(f"the operation {name}")

    def _read(self, count: int) -> bytes:
        # A count is believed only as far as the file goes: to read makes room for all of it first.
        content = self.file.read(min(count, self.size)) if count >= 0 else b""
        if len(content) != count:
            raise EOFError("it ends too early")
        return content

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._read(struct.calcsize(form)))[0]

    def _line(self) -> bytes:
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise EOFError("it ends too early")
        return line[:-1]

    def _top(self, count: int) -> list[Any]:
        if len(self.stack) < count + (self.marks[-1] if self.marks else 0):
            raise pickle.UnpicklingError("an empty stack")
        return self.stack[-count:]

    def _marked(self) -> list[Any]:
        """What stands above the last mark, taken from the stack."""
        mark = self.marks.pop()
        parts = self.stack[mark:]
        del self.stack[mark:]
        return parts

    def _put(self, place: int) -> None:
        value = self.filed[place] = self.stack[-1]
        if isinstance(value, _Blank):
            value.places.append(place)

    def _extend(self, parts: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise pickle.UnpicklingError("a list was expected")
        self.stack[-1].extend(parts)

    def _call(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or name.function is None or not isinstance(arguments, tuple):
            raise _Refused("a call of something else than a name")
        self.stack.append(self._counted(name.function(*arguments)))

    def _fill(self) -> None:
        state, value = self.stack.pop(), self.stack[-1]
        if isinstance(value, _Kind):
            value.set_state(state)
        elif isinstance(value, _Blank):
            _, shape, kind, fortran, raw = state
            self.stack[-1] = self._counted(_array(shape, kind, raw, "F" if isinstance(fortran, int) and fortran else "C"))
            for place in value.places:
                self.filed[place] = self.stack[-1]
        elif self.persistent is None or not isinstance(value, dict):  # torch gives dictionaries a state that no weights need
            raise _Refused(f"to change the state of a {type(value).__name__}")

    def _counted(self, made: Any) -> Any:
        """What a function made. The arguments of many calls may be the same values, so that a small file makes many large ones."""
        self.made += 100 * len(made) if isinstance(made, dict) else _bytes_of(made)
        if self.made > self.limit:
            raise _Refused(f"more than {self.limit} bytes, made of the same parts")
        return made


def _set(into: Any, key: Any, value: Any) -> None:
    # A tuple in a tuple in ... is hashed by a function that calls itself, as deep as the file likes.
    if not isinstance(key, str | bytes | int | float | None):
        raise _Refused(f"a dictionary with a key of type {type(key).__name__}")
    if isinstance(key, int) and abs(key) >= MAX_KEY:
        raise _Refused("a dictionary with a key of more than 64 bits")
    if not isinstance(into, dict):
        raise pickle.UnpicklingError("a dictionary was expected")
    into[key] = value


def _measure(value: Any, above: list[int], known: dict[int, tuple[int, int]], limit: int) -> tuple[int, int]:
    """How many containers lie in each other, and how many values these are if each repetition is counted, 16 bytes of text or of an
    array as one. Raises where these are too many, or where something is left that is no data."""
    if isinstance(value, _Blank | _Kind | _Name):
        raise _Refused("an object without its data")
    if not isinstance(value, dict | list | tuple):
        return 0, 1 + _bytes_of(value) // 16
    height, count = known.get(id(value), (0, 0))
    if id(value) in above or len(above) + height > MAX_DEPTH:
        raise pickle.UnpicklingError(f"nested deeper than {MAX_DEPTH}")
    if not count:
        above.append(id(value))
        count = 1 + (sum(1 + _bytes_of(key) // 16 for key in value) if isinstance(value, dict) else 0)
        for part in value.values() if isinstance(value, dict) else value:
            part_height, part_count = _measure(part, above, known, limit)
            height, count = max(height, part_height), count + part_count
            if count > limit:
                raise pickle.UnpicklingError(f"more than {limit} values, which repeat the same parts")
        known[id(value)] = height + 1, count
        above.pop()
    return known[id(value)]


def _bytes_of(value: Any) -> int:
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    return value.nbytes if isinstance(value, np.ndarray) else 0


def _printable(text: str) -> str:
    """The first letters of a text that a file holds, without those that a terminal would obey."""
    return ascii(text[:80])[1:-1]


def _line(error: BaseException) -> str:
    return _printable(" ".join(str(error).split())[:200])
