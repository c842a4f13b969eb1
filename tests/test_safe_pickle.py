"""Pickles of plain data by Python 2 and 3 are read; those that call functions or give wrong lengths are refused."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

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
    assert_same(parse(pickle.dumps(DATA, protocol), "x.pkl"), DATA)


def test_a_pickle_of_python_2() -> None:
    """Old module names, and bytes as text: ``cPickle.dumps({'boxes': array([[1., 2.]], dtype=float32)}, 2)`` of Python 2."""
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
    ("attack", "pattern"),
    [
        (Attack(os.system, "touch owned"), r"posix\.system|nt\.system"),
        (Attack(eval, "1"), r"builtins\.eval"),
        (Attack(getattr, {}, "pop"), r"builtins\.getattr"),
        (Attack(np.load, "x"), r"numpy\.load"),
        (np.array([{}], dtype=object), "object"),
    ],
)
def test_code_is_refused(attack: Any, pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in (0, 2, 4):
        with pytest.raises(UserError, match=rf"x\.pkl: refused: it wants .*({pattern})"):
            parse(pickle.dumps({"boxes": [attack]}, protocol), "x.pkl")
    assert not list(tmp_path.iterdir())


def test_an_array_larger_than_its_bytes_is_refused() -> None:
    content = pickle.dumps(np.zeros((2, 4), np.float32), 2).replace(b"K\x02K\x04\x86", b"J\x00\x00\x00\x7fK\x04\x86")
    with pytest.raises(UserError, match="with 32 bytes"):
        parse(content, "x.pkl")


def test_recursive_and_deeply_nested_data() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(UserError, match="nested deeper"):
        parse(pickle.dumps(circle), "x.pkl")
    bomb: Any = []
    for _ in range(40):
        bomb = [bomb] * 2  # 2^40 lists if copied
    assert len(parse(pickle.dumps(bomb), "x.pkl")) == 2
    chain: list[Any] = [[]]
    for _ in range(60):
        chain.append([chain[-1]])  # each is parsed before the list that contains it
    with pytest.raises(UserError, match="nested deeper"):
        parse(pickle.dumps(chain), "x.pkl")


class Python2(pickle._Pickler):  # type: ignore[name-defined,misc]  # Python's pickler in Python
    """Writes text as Python 2's ``str``, and the module names of Python 2."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def save_str(self, text: str) -> None:
        content = text.encode("latin1")
        if self.bin:
            self.write(
                b"U" + bytes([len(content)]) + content if len(content) < 256 else b"T" + struct.pack("<i", len(content)) + content
            )
        else:
            self.write(b"S" + repr(content)[1:].encode() + b"\n")
        if id(text) not in self.memo:  # the empty string may be there already
            self.memoize(text)

    def save_bytes(self, content: bytes) -> None:
        self.save_str(content.decode("latin1"))

    def save_global(self, value: Any, name: str | None = None) -> None:
        module = value.__module__.replace("numpy._core", "numpy.core").replace("builtins", "__builtin__")
        self.write(b"c" + f"{module}\n{value.__name__}\n".encode())
        self.memoize(value)

    dispatch[str] = save_str
    dispatch[bytes] = save_bytes
    dispatch[type] = save_global
    dispatch[type(len)] = save_global


plain = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
numbers = st.sampled_from(["<f4", "<f8", ">f4", "<i4", ">i8", "|u1", "|b1", "<f2"]).flatmap(
    lambda dtype: arrays(
        np.dtype(dtype), array_shapes(min_side=0, max_dims=3, max_side=4), elements={"allow_nan": False} if "f" in dtype else None
    )
)
latin1 = st.text(st.characters(max_codepoint=255), max_size=300)


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(latin1, inner, max_size=4) | st.tuples(inner, inner),
        max_leaves=12,
    )


@settings(max_examples=150, deadline=None)
@given(trees(plain | numbers | st.text() | st.binary()), st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_round_trip(tree: Any, protocol: int) -> None:
    assert_same(parse(pickle.dumps(tree, protocol), "x.pkl"), tree)


@settings(max_examples=150, deadline=None)
@given(trees(plain | numbers | latin1), st.sampled_from([0, 1, 2]))
def test_plain_data_of_python_2_round_trip(tree: Any, protocol: int) -> None:
    buffer = io.BytesIO()
    Python2(buffer, protocol).dump(tree)
    assert_same(pickle.loads(buffer.getvalue(), encoding="latin1"), tree)  # noqa: S301  (checks that Python reads the pickle)
    assert_same(parse(buffer.getvalue(), "x.pkl"), tree)


CRAFTED = {
    "a value filed under a huge number": (b"\x80\x02Nr\xff\xff\xff\x7f.", None),
    "a frame longer than the file": (b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.", None),
    "bytes longer than the file": (b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"N.", "cut short"),
    "bytes of a negative length": (b"\x80\x02T\xff\xff\xff\xff.", "cut short"),
    "bytes made by their number": (b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", "it wants bytes made of something"),
    "an array made by its shape": (b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.", "a call of something else than a name"),
    "a new array made by its shape": (b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x81.", "the operation NEWOBJ"),
    "a codec that inflates": (b"\x80\x02c_codecs\nencode\nU\x02aaU\x03zip\x86R.", "text encoded by 'zip'"),
    "tuples in tuples as a key": (b"\x80\x02}K\x01" + b"\x85" * 200_000 + b"K\x01s.", "a key of type tuple"),
    "tuples in tuples": (b"\x80\x02K\x01" + b"\x85" * 200_000 + b".", "nested deeper"),
    "a class": (b"(S'ls'\nios\nsystem\n.", "the operation INST"),
    "an object": (b"(cos\nsystem\nS'ls'\no.", "posix.system|os.system"),
    "something from outside": (b"Pthing\n.", "the operation PERSID"),
    "a name of a name": (b"cnumpy\ndtype.newbyteorder\n.", "numpy.dtype.newbyteorder"),
    "a state for a dictionary": (b"\x80\x02}}b.", "to change the state of a dict"),
    "a name for data": (b"cnumpy\nndarray\n.", "an object without its data"),
    "nothing on the stack": (b"\x80\x02\x86.", "an empty stack"),
    "text": (b"\x00this is text", "is no pickle"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_pickles(name: str) -> None:
    """None of them runs code, needs much memory, or ends the process."""
    content, message = CRAFTED[name]
    if message is None:
        assert parse(content, "x.pkl") is None
    else:
        with pytest.raises(UserError, match=f"^x.pkl: .*({message})") as raised:
            parse(content, "x.pkl")
        assert "\n" not in str(raised.value)


def test_operations_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boxwood.safe_pickle.MAX_OPERATIONS", 1000)
    with pytest.raises(UserError, match="more than 1000 operations"):
        parse(b"(" + b"}" * 2000 + b"l.", "x.pkl")


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 2000), flip=st.integers(0, 2000), bit=st.integers(0, 7))
def test_damaged_pickles_raise_only_user_errors(cut: int, flip: int, bit: int) -> None:
    content = bytearray(pickle.dumps(DATA, 2))
    content[flip % len(content)] ^= 1 << bit
    with contextlib.suppress(UserError):  # or it is read as other data; no other error may occur
        parse(bytes(content[: len(content) - cut % len(content)]), "x.pkl")


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    with pytest.raises(UserError, match="cannot be read"):
        read(path)
    path.write_bytes(pickle.dumps([1]))
    assert read(path) == [1]
    with pytest.raises(UserError, match="more than the 3 that are read"):
        read(path, max_bytes=3)
