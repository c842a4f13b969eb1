"""Pickles of plain data: dictionaries, lists, text, numbers and numpy arrays, written by Python 2 or 3; anything else is refused.

A pickle is a program. Here it can call nothing but the stand-ins below, which make arrays of bytes that the file really holds.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from boxwood.errors import UserError

__all__ = ["parse", "read"]

MAX_BYTES = 16_000_000_000
MAX_DEPTH = 50


def read(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """What a pickle file holds. Raises `UserError` where it cannot be read, is larger than ``max_bytes``, is no pickle, is cut
    short, or asks for more than plain data."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise UserError(f"{path}: has {size} bytes, more than the {max_bytes} that are read; split it")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name an existing file") from None
    return parse(content, str(path))


def parse(content: bytes, where: str) -> Any:
    """`read` of bytes; ``where`` names them in messages. Text of Python 2 becomes text by latin-1, byte for character.

    >>> parse(pickle.dumps({"scores": np.float32([0.5, 0.25])}), "x.pkl")
    {'scores': array([0.5 , 0.25], dtype=float32)}
    """
    try:
        return _plain(_Unpickler(content).load(), {}, 0)
    except _Refused as error:
        raise UserError(
            f"{where}: refused: it wants {error}, and only plain data and numpy arrays are read from a pickle"
        ) from None
    except (EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{where}: is no pickle, or is cut short or damaged ({_line(error)}); copy it again") from None
    except Exception as error:  # a damaged pickle makes the unpickler raise whatever its operands lead to
        raise UserError(f"{where}: is a damaged pickle ({type(error).__name__}: {_line(error)}); copy it again") from None


class _Refused(Exception):
    """Names what was asked for."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        # New ones for each file: a pickle can set attributes of what it is handed.
        self.allowed = _stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "numpy.core.multiarray": "numpy._core.multiarray"}.get(module, module)
        if (module, name) not in self.allowed:
            raise _Refused(f"{module}.{name}")
        return self.allowed[module, name]

    def persistent_load(self, identifier: Any) -> Any:
        raise _Refused("an object from outside the file")


def _stand_ins() -> dict[tuple[str, str], Any]:
    class DType:
        """``numpy.dtype(code, align, copy)`` with its byte order as state."""

        def __init__(self, code: str, *_: Any) -> None:
            self.code, self.order = code, "="

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            self.order = state[1]

        def make(self) -> np.dtype[Any]:
            dtype = np.dtype(self.code)
            if dtype.kind not in "biufSU" or dtype.shape:
                raise _Refused(f"an array of {dtype}")
            return dtype.newbyteorder(">" if self.order == ">" else "<" if self.order == "<" else "=")

    class Array:
        """``numpy.ndarray``, empty until its state comes."""

        value: np.ndarray[Any, Any]

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            _, shape, dtype, fortran, raw = state
            if isinstance(raw, str):
                raw = raw.encode("latin1")
            if not isinstance(dtype, DType) or not isinstance(raw, bytes):
                raise _Refused("an array of objects")
            kind = dtype.make()
            if math.prod(shape) * kind.itemsize != len(raw) or any(side < 0 for side in shape):
                raise pickle.UnpicklingError(f"an array of shape {shape} and type {kind} with {len(raw)} bytes")
            flat = np.frombuffer(raw, dtype=kind)
            self.value = flat.reshape(shape, order="F" if fortran else "C").astype(kind.newbyteorder("="))

    def reconstruct(*_: Any) -> Array:
        return Array()

    def scalar(dtype: Any, raw: Any) -> Any:
        if not isinstance(dtype, DType) or not isinstance(raw, str | bytes):
            raise _Refused("a number of objects")
        kind = dtype.make()
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        if len(content) != kind.itemsize:
            raise pickle.UnpicklingError(f"a number of type {kind} with {len(content)} bytes")
        return np.frombuffer(content, dtype=kind)[0].item()

    def encode(text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _Refused(f"text encoded by {encoding!r}")
        return text.encode("latin1")

    def from_bytes(*parts: Any) -> bytes:
        if parts:
            raise _Refused("bytes made of something")
        return b""

    def ordered(pairs: Any = ()) -> dict[Any, Any]:
        return dict(pairs)

    named: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "dtype"): DType,
        ("numpy", "ndarray"): Array,
        ("numpy._core.multiarray", "_reconstruct"): reconstruct,
        ("numpy._core.multiarray", "scalar"): scalar,
        ("_codecs", "encode"): encode,
        ("builtins", "bytes"): from_bytes,
        ("collections", "OrderedDict"): ordered,
    }
    return named


def _plain(value: Any, done: dict[int, Any], depth: int) -> Any:
    """The value with arrays in the place of their stand-ins; what occurs several times is made once."""
    if depth > MAX_DEPTH:
        raise pickle.UnpicklingError(f"nested deeper than {MAX_DEPTH}")
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, dict):
        made: Any = {_plain(k, done, depth + 1): _plain(v, done, depth + 1) for k, v in value.items()}
    elif isinstance(value, list | tuple):
        made = type(value)(_plain(part, done, depth + 1) for part in value)
    elif value is None or isinstance(value, str | bytes | bool | int | float):
        return value
    elif isinstance(getattr(value, "value", None), np.ndarray):
        made = value.value
    else:
        raise _Refused(f"an object of type {type(value).__name__}")
    done[id(value)] = made
    return made


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
