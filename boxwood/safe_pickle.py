"""Pickles of other programs, read as data: numbers, text, lists, dicts and numpy arrays, and nothing that runs.

A pickle is a program for a small machine, and the ordinary reader lets it call anything that Python can import. Here the program
is looked through first, and the few names that it may then call stand in a table of functions that make plain data. No pickle
takes much more memory than its file has bytes.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood.errors import UserError

__all__ = ["read_pickle"]

MAX_BYTES = 16 * 2**30
"""Of a file: four times the 2000 proposals of each of COCO's 118,000 training images."""
MAX_OPERATIONS = 20_000_000
"""Of the machine: each may make an empty dict of 64 bytes. A numpy array takes about 30."""
REFUSED_OPERATIONS = {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "NEXT_BUFFER"}
"""Ways to make objects that data do not need."""
NUMBER = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
"""The types of numpy arrays that are read."""


def read_pickle(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """What a pickle of any protocol holds, written by Python 2 or 3; Python 2's ``str`` become text (latin1).

    Dicts (an `OrderedDict` becomes a dict), lists, tuples, sets, text, bytes, numbers, and numpy's arrays and scalars of numbers.
    No code of the file's choosing runs. Raises `UserError` where the file cannot be read, is no pickle, is cut short, is larger
    than ``max_bytes``, or asks for anything else, which is then named.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "numbers.pkl")
    >>> _ = path.write_bytes(pickle.dumps({"a": [1, 2.5], "b": np.ones(2)}))
    >>> read_pickle(path)["b"].tolist()
    [1.0, 1.0]
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size == 0:
            raise UserError(f"{path}: is empty; copy it again or name another file")
        if size > max_bytes:
            raise UserError(f"{path}: has {size:,} bytes, more than the {max_bytes:,} of the largest pickle that is read")
        with path.open("rb") as file:
            _look_through(file, path, size)
            file.seek(0)
            return _Reader(file, path).load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name an existing file") from None
    except UserError:
        raise
    except (MemoryError, RecursionError):
        raise UserError(f"{path}: asks for more memory than there is; name another file") from None
    except Exception as error:  # Each operation of a damaged pickle fails in its own way.
        raise UserError(f"{path}: is a damaged pickle ({' '.join(str(error).split())[:120]}); copy it again") from None


def _look_through(file: Any, path: Path, size: int) -> None:
    """Refuse what would cost memory or make objects before any of it is done."""
    try:
        for count, (operation, argument, position) in enumerate(pickletools.genops(file), start=1):
            if operation.name in REFUSED_OPERATIONS:
                raise UserError(
                    f"{path}: is a pickle with objects of its own ({operation.name} at byte {position}); only plain data are read"
                )
            if operation.name == "FRAME" and int(str(argument)) > size:
                raise ValueError(f"a part of {argument} bytes at byte {position}")
            # The machine keeps a table as long as the largest number that a value is filed under.
            if count > MAX_OPERATIONS or ("PUT" in operation.name and not 0 <= int(str(argument)) <= count):
                raise UserError(f"{path}: is a pickle that would take far more memory than its {size:,} bytes; name another file")
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        words = " ".join(str(error).split())
        with path.open("rb") as again:
            start = again.read(1)
        is_one = start in {b"\x80", b"(", b"}", b"]"}
        problem = "is cut short or damaged" if is_one else "is no pickle"
        raise UserError(f"{path}: {problem} ({words[:120]}); copy it again or name another file") from None


class _Reader(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for. Nothing is imported."""
        place = re.sub(r"^numpy\._core\b", "numpy.core", module)
        if (place, name) == ("numpy", "ndarray"):
            return "ndarray"  # an argument of _reconstruct, never called
        function = FUNCTIONS.get((place, name))
        if function is None:
            raise UserError(
                f"{self.path}: is a pickle that asks for {module}.{name}; only numbers, text, lists, dicts and numpy arrays are "
                "read, since anything else could run code"
            )
        return partial(function)  # A new object: what the pickle does to it is forgotten with it.


class _Array(np.ndarray[Any, np.dtype[Any]]):
    """An array that is filled by its pickle, with its own numbers only."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        if isinstance(data, str):  # Python 2's bytes
            data = data.encode("latin1")
        full: Any = (1, shape, _dtype_of(kind), bool(fortran), data)
        super().__setstate__(full)


class _Kind:
    """A type of numbers in the making: its byte order comes with its state."""

    def __init__(self, name: Any, align: Any = False, copy: Any = True) -> None:
        name = name.decode("latin1") if isinstance(name, bytes) else name
        if not isinstance(name, str) or not NUMBER.fullmatch(name):
            raise TypeError(f"arrays of {name!r} are not read, only of numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise TypeError("arrays of records are not read, only of numbers")
        self.dtype = self.dtype if order == "|" else self.dtype.newbyteorder(order)


def _dtype_of(kind: Any) -> np.dtype[Any]:
    if not isinstance(kind, _Kind):
        raise TypeError("an array without a type of numbers")
    return kind.dtype


def _new_array(cls: Any, shape: Any, kind: Any) -> NDArray[Any]:
    return _Array(0)


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    """How protocol 5 writes arrays."""
    return np.frombuffer(data, _dtype_of(kind)).reshape(shape, order=order)


def _scalar(kind: Any, data: Any) -> Any:
    data = data.encode("latin1") if isinstance(data, str) else data
    (value,) = np.frombuffer(data, _dtype_of(kind))
    return value


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if encoding not in ("latin1", "latin-1"):
        raise TypeError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    return dict(pairs)


FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): _dict,
}
"""What a pickle may call, under the names that Python 2 and 3, and numpy before and since 2.0, give it."""
