"""Pickles of plain data by Python 2 and 3 are read; whatever would call something, or claims more than it holds, is refused."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood.errors import UserError
from boxwood.safe_pickle import parse, read

DATA = {
    "boxes": [np.float32([[1, 2, 3, 4]]), np.zeros((0, 4), np.float64), np.arange(6, dtype=">i4").reshape(2, 3)],
    "order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "ids": [1, 2**40, np.int64(7)],
    "text": ("cfg: {a: 1}", b"\x00\xff", None, True, 0.5),
    "names": OrderedDict([("a", np.array(["x", "yy"]))]),
}


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype.newbyteorder("=") and np.array_equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert type(one) is type(other) and len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol(protocol: int) -> None:
    if protocol == 5:
        with pytest.raises(UserError, match=r"numpy\._core\.numeric\._frombuffer"):
            parse(pickle.dumps(DATA, protocol), "x.pkl")
        return
    assert_same(parse(pickle.dumps(DATA, protocol), "x.pkl"), DATA)


def test_a_pickle_of_python_2() -> None:
    """Old module names, and bytes as text: what ``cPickle.dumps({'boxes': array([[1., 2.]], dtype=float32)}, 2)`` writes."""
    raw = np.float32([[1, 2]]).tobytes()
    content = (
        b"\x80\x02}q\x01U\x05boxescnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01K\x02\x86"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08" + raw + b"tbs."
    )
    assert_same(parse(content, "x.pkl"), {"boxes": np.float32([[1, 2]])})


class Attack:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.parts = (call, arguments)

    def __reduce__(self) -> Any:
        return self.parts


@pytest.mark.parametrize(
    ("attack", "wants"),
    [
        (Attack(os.system, "touch owned"), r"posix\.system|nt\.system"),
        (Attack(eval, "1"), r"builtins\.eval"),
        (Attack(getattr, {}, "pop"), r"builtins\.getattr"),
        (Attack(np.load, "x"), r"numpy\.load"),
        (np.array([{}], dtype=object), "object"),
    ],
)
def test_code_is_refused(attack: Any, wants: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in (0, 2, 4):
        with pytest.raises(UserError, match=rf"x\.pkl: refused: it wants .*({wants})"):
            parse(pickle.dumps({"boxes": [attack]}, protocol), "x.pkl")
    assert not list(tmp_path.iterdir())


def test_an_array_is_no_larger_than_its_bytes() -> None:
    content = pickle.dumps(np.zeros((2, 4), np.float32), 2).replace(b"K\x02K\x04\x86", b"J\x00\x00\x00\x7fK\x04\x86")
    with pytest.raises(UserError, match="with 32 bytes"):
        parse(content, "x.pkl")


def test_what_contains_itself_ends() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(UserError, match="nested deeper"):
        parse(pickle.dumps(circle), "x.pkl")
    bomb: Any = []
    for _ in range(40):
        bomb = [bomb] * 2  # 2^40 lists, if each were made on its own
    assert len(parse(pickle.dumps(bomb), "x.pkl")) == 2


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 2000), flip=st.integers(0, 2000), bit=st.integers(0, 7))
def test_damage_is_one_line(cut: int, flip: int, bit: int) -> None:
    content = bytearray(pickle.dumps(DATA, 2))
    content[flip % len(content)] ^= 1 << bit
    with contextlib.suppress(UserError):  # or it reads as something else; nothing but that may come out
        parse(bytes(content[: len(content) - cut % len(content)]), "x.pkl")


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    with pytest.raises(UserError, match="cannot be read"):
        read(path)
    path.write_bytes(pickle.dumps([1]))
    assert read(path) == [1]
    with pytest.raises(UserError, match="more than the 3 that are read"):
        read(path, max_bytes=3)
