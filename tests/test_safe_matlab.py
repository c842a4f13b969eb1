"""MATLAB's files: what is read is what scipy reads, and what would take all memory, or end the process, is refused before."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood import safe_matlab
from boxwood.errors import UserError

scipy_io = pytest.importorskip("scipy.io")

DOUBLE, UINT8, CHARS, COMPRESSED, MATRIX = 9, 2, 16, 15, 14
"""Types of elements."""


def element(kind: int, content: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def array(kind: int, sides: tuple[int, ...], content: bytes, name: bytes = b"", order: str = "<", flags: int = 0) -> bytes:
    """An array of a class, by the bytes of its values."""
    head = element(6, struct.pack(order + "II", kind | flags, 0), order) + element(
        5, struct.pack(f"{order}{len(sides)}i", *sides), order
    )
    return element(MATRIX, head + element(1, name, order) + content, order)


def file_of(*variables: bytes, order: str = "<") -> bytes:
    return (
        b"MATLAB 5.0 MAT-file".ljust(124)
        + struct.pack(order + "H", 0x100)
        + (b"IM" if order == "<" else b"MI")
        + b"".join(variables)
    )


def nested(depth: int, name: bytes = b"a") -> bytes:
    """Cells in cells; the sizes of the outer ones are made without the inner ones being copied so often."""
    inner = array(6, (1, 1), element(DOUBLE, struct.pack("<d", 1.0)))
    heads, size = [], len(inner)
    for level in range(depth):
        head = array(1, (1, 1), b"", name if level == depth - 1 else b"")[8:]
        size += len(head)
        heads.append(struct.pack("<II", MATRIX, size) + head)
        size += 8
    return file_of(b"".join(reversed(heads)) + inner)


ONE = element(DOUBLE, struct.pack("<d", 2.5))
NUMBER = array(6, (1, 1), ONE)
LONGER = NUMBER[:4] + struct.pack("<I", len(NUMBER)) + NUMBER[8:] + b"\0" * 8
FIELDS = element(5, struct.pack("<i", 2)) + element(1, b"x\0y\0")

REFUSED = {
    "cells of which there are none": (
        file_of(array(1, (1, 1), array(1, (30_000, 30_000), b""), b"a")),
        "an array of 900000000 values has",
    ),
    "cells that are fewer": (file_of(array(1, (1, 9), NUMBER, b"a")), "9 cells or fields have"),
    "structures of which there are none": (file_of(array(2, (1, 40), FIELDS + NUMBER * 2, b"a")), "80 cells or fields have"),
    "a text without letters": (file_of(array(4, (1, 2**30), element(CHARS, b""), b"a")), "an array of 1073741824 values has"),
    "names of fields without a length": (
        file_of(array(2, (1, 1), element(5, struct.pack("<i", 0)) + element(1, b"x\0"), b"a")),
        "the names of a structure's fields are damaged",
    ),
    "cells in cells": (nested(100_000), "nested more than 30 deep"),
    "an object": (file_of(array(3, (1, 1), b"", b"a")), "an array of 1 values has 0 bytes"),
    "a function": (file_of(array(16, (1, 1), NUMBER, b"a")), "it holds an array of class 16"),
    "numbers of no type": (
        file_of(array(6, (1, 1), element(200, b"\0" * 8), b"a")),
        "an element is of type 200 in place of 1, 2, 3",
    ),
    "numbers of no type in a cell": (
        file_of(array(1, (1, 1), array(6, (1, 1), element(11, b"\0" * 8)), b"a")),
        "an element is of type 11 in place of 1, 2, 3",
    ),
    "a text of no type": (
        file_of(array(4, (1, 1), element(200, b"\0" * 8), b"a")),
        "an element is of type 200 in place of 1, 2, 4",
    ),
    "a text without sides": (file_of(array(4, (), element(CHARS, b"a"), b"a")), "an array has a size of 0 bytes"),
    "a size below 0": (file_of(array(6, (1, -1), ONE, b"a")), r"an array has the size \[1, -1\]"),
    "a size of more than its content": (file_of(array(1, (1, 1), LONGER, b"a")), "than its size says"),
    "cut short": (file_of(array(6, (1, 1), ONE, b"a"))[:-9], "it is cut short"),
    "HDF5": (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM", "version 7.3; save it in MATLAB with the option -v7"),
    "version 4": (struct.pack("<5i", 0, 1, 1, 0, 2) + b"a\0" + struct.pack("<d", 1.0), "does not begin as one of version 5 to 7"),
    "nothing": (b"", "does not begin as one of version 5 to 7"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    content, problem = REFUSED[name]
    path = tmp_path / "x.mat"
    path.write_bytes(content)
    with pytest.raises(UserError, match=problem) as error:
        safe_matlab.read(path, ["a"], "copy it again")
    message = str(error.value)
    assert message.startswith(f"{path}: is no MATLAB file, or a damaged one (") and message.endswith("; copy it again")
    assert "\n" not in message and len(message) < 400


def test_what_is_larger_than_any_such_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.mat"
    zeros = zlib.compress(array(6, (1, 90_000), element(UINT8, b"\0" * 90_000), b"a"))
    path.write_bytes(file_of(struct.pack("<II", COMPRESSED, len(zeros)) + zeros))
    assert safe_matlab.read(path, ["a"], "copy it")["a"].shape == (1, 90_000)
    for limit, value, problem in (
        ("MAX_BYTES", 80_000, "a variable has more than the 80000 bytes"),
        ("MAX_VALUES", 80_000, "more than the 80000 values"),
        ("MAX_BYTES", 100, "bytes, more than the 100 that are read"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(safe_matlab, limit, value)
            with pytest.raises(UserError, match=problem):
                safe_matlab.read(path, ["a"], "copy it")
    path.write_bytes(file_of(array(1, (1, 3), NUMBER * 3, b"a")))
    monkeypatch.setattr(safe_matlab, "MAX_ARRAYS", 3)
    with pytest.raises(UserError, match="or 3 arrays that are read"):
        safe_matlab.read(path, ["a"], "copy it")
    with pytest.raises(UserError, match=r"y\.mat: cannot be read \(no such file or directory\); copy it"):
        safe_matlab.read(tmp_path / "y.mat", ["a"], "copy it")


def test_variables_that_are_not_asked_for_are_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    path.write_bytes(file_of(array(16, (1, 1), NUMBER, b"f"), array(6, (1, 1), ONE, b"a")))
    assert safe_matlab.read(path, ["a", "b"], "copy it")["a"].tolist() == [[2.5]]


def test_numbers_whose_first_byte_is_the_highest(tmp_path: Path) -> None:
    path, cells = tmp_path / "x.mat", array(6, (1, 1), element(DOUBLE, struct.pack(">d", 2.5), ">"), order=">") * 2
    path.write_bytes(file_of(array(1, (1, 2), cells, b"a", ">"), order=">"))
    assert [cell.item() for cell in safe_matlab.read(path, ["a"], "copy it")["a"].ravel()] == [2.5, 2.5]


def _cells(values: list[Any]) -> Any:
    table = np.empty(len(values), dtype=object)
    table[:] = values
    return table


NUMBERS = st.one_of(
    st.floats(allow_nan=False), st.integers(-300, 300), st.booleans(), st.complex_numbers(allow_nan=False, max_magnitude=9.0)
)
VALUES = st.recursive(
    st.one_of(
        NUMBERS,
        st.text("abc éж", max_size=5),
        st.lists(st.integers(0, 70_000), max_size=6).map(np.array),
        st.tuples(st.integers(0, 3), st.integers(0, 3)).map(np.zeros),
        st.lists(st.integers(0, 9), min_size=1, max_size=3).map(lambda row: np.array(row, dtype=np.uint8)),
    ),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("xyz"), inner, min_size=1, max_size=3),
        st.lists(inner, max_size=3).map(_cells),
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(VALUES, st.booleans(), st.booleans())
def test_whatever_scipy_writes_is_read_as_scipy_reads_it(
    tmp_path_factory: pytest.TempPathFactory, value: Any, compressed: bool, simplify: bool
) -> None:
    path = tmp_path_factory.mktemp("mat") / "x.mat"
    scipy_io.savemat(path, {"a": value, "b": 1}, do_compression=compressed)
    read = safe_matlab.read(path, ["a"], "copy it", simplify=simplify)
    assert read.keys() == {"a"}
    expected = scipy_io.loadmat(path, simplify_cells=simplify)["a"]
    assert without_addresses(read["a"]) == without_addresses(expected)


def without_addresses(value: Any) -> str:
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


def test_written_whole_and_read_again(tmp_path: Path) -> None:
    safe_matlab.write(tmp_path / "x.mat", {"a": np.arange(3.0)})
    assert safe_matlab.read(tmp_path / "x.mat", ["a"], "copy it", simplify=True)["a"].tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["x.mat"]
