"""Pickles of plain data by Python 2 and 3 are read; those that call functions or give wrong lengths are refused."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
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
        bomb = [bomb] * 2  # 2^40 lists if copied, which a reader may do
    with pytest.raises(UserError, match="repeat the same parts"):
        parse(pickle.dumps(bomb), "x.pkl")
    shared: list[Any] = [[1.5] * 4] * 100
    assert parse(pickle.dumps(shared), "x.pkl") == shared
    chain: list[Any] = [[]]
    for _ in range(60):
        chain.append([chain[-1]])  # each is parsed before the list that contains it
    with pytest.raises(UserError, match="nested deeper"):
        parse(pickle.dumps(chain), "x.pkl")


PAIRS = b"N" + b"2\x86" * 40
"""Pairs of the same pair, 40 deep: 81 bytes, and 2^41 parts if each repetition is counted."""
FLOAT = b"cnumpy\ndtype\n(U\x02f4I0\nI1\ntR"


def reduced(name: bytes, *arguments: bytes) -> bytes:
    return b"c" + name + b"\n(" + b"".join(arguments) + b"tR"


def buffer(raw: bytes, shape: bytes, dtype: bytes = FLOAT, order: bytes = b"U\x01C") -> bytes:
    return reduced(b"numpy.core.numeric\n_frombuffer", raw, dtype, shape, order) + b"."


HOSTILE = {
    "name": b"\x80\x04" + PAIRS + b"\x8c\x01a\x93.",
    "second name": b"\x80\x04\x8c\x01a" + PAIRS + b"\x93.",
    "type": reduced(b"numpy\ndtype", PAIRS) + b".",
    "state of a type": b"cnumpy\ndtype\n(U\x02f4tR" + PAIRS + b"b.",
    "byte order": b"cnumpy\ndtype\n(U\x02f4tR(K\x03" + PAIRS + b"NNNtb.",
    "encoding": reduced(b"_codecs\nencode", b"U\x01a", PAIRS) + b".",
    "encoded": reduced(b"_codecs\nencode", PAIRS, b"U\x06latin1") + b".",
    "shape": buffer(b"U\x04abcd", PAIRS),
    "side": buffer(b"U\x04abcd", b"(I0\n" + PAIRS + b"t"),
    "text as a side": buffer(b"U\x04abcd", b"(J\x00\x94\x35\x77U\x08aaaaaaaat"),
    "sides of an empty array": buffer(b"U\x00", b"(I0\nI1099511627776\nt"),
    "sides of nothing": buffer(b"U\x00", b"(I1099511627776\nt", reduced(b"numpy\ndtype", b"U\x02S0")),
    "giant text type": reduced(b"numpy.core.multiarray\nscalar", reduced(b"numpy\ndtype", b"U\x0aS999999999"), b"U\x00") + b".",
    "empty of a giant type": buffer(b"U\x00", b"(I0\nt", reduced(b"numpy\ndtype", b"U\x0aS999999999")),
    "many sides": buffer(b"U\x04abcd", b"(" + b"K\x01" * 5000 + b"t"),
    "raw": buffer(PAIRS, b"(I1\nt"),
    "order": buffer(b"U\x04abcd", b"(I1\nt", order=PAIRS)[:-1] + PAIRS + b"\x86.",
    "state of a list": b"]" + PAIRS + b"b.",
    "state of an array": b"cnumpy.core.multiarray\n_reconstruct\n(tR" + PAIRS + b"b.",
    "key": b"}" + PAIRS + b"Ns.",
    "values of a dictionary": b"}(U\x05boxes" + PAIRS + b"u.",
    "pairs of a dictionary": reduced(b"collections\nOrderedDict", PAIRS) + b".",
    "parts of a list": b"](" + PAIRS + b"e.",
    "lists": b"]" + b"2\x86" * 40 + b".",
    "a list in itself": b"]q\x00h\x00a.",
    "a list that doubles": b"]q\x00" + b"](h\x00h\x00eq\x00" * 60 + b".",
    "a dictionary in itself": b"}q\x00K\x01h\x00s.",
    "call of data": PAIRS + b")R.",
    "call with data": b"cnumpy\ndtype\n" + PAIRS + b"0]R.",
    "encoded again and again": b"T"
    + struct.pack("<i", 500_000)
    + b"a" * 500_000
    + b"q\x00U\x06latin1q\x010("
    + b"c_codecs\nencode\nq\x02"
    + b"h\x00h\x01\x86R"
    + b"h\x02h\x00h\x01\x86R" * 50_000
    + b"t.",
    "keys of one hash": b"}("
    + b"".join(b"\x8a\x18" + (k * (2**61 - 1)).to_bytes(24, "little") + b"N" for k in range(1, 100_000))
    + b"u.",
    "an endless integer": b"L" + b"9" * 1_000_000 + b"L\n.",
    "an integer of a megabyte": b"\x8b" + struct.pack("<i", 1_000_000) + b"\x11" * 1_000_000 + b".",
    "a name that commands a terminal": b"c\x1b[2Jos\nsystem\n.",
    "an extension": b"\x82\x01.",
    "text of a megabyte, a hundred thousand times": b"(T"
    + struct.pack("<i", 1_000_000)
    + b"a" * 1_000_000
    + b"2" * 100_000
    + b"t.",
}
"""Each has a value that takes hours or gigabytes where it is copied, printed or compared."""
LIMITED = """
import pickle, resource, sys, time
from boxwood.errors import UserError
from boxwood.safe_pickle import parse

resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000, 2_000_000_000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, content in pickle.load(sys.stdin.buffer).items():
    start = time.monotonic()
    try:
        print(name, "|", repr(parse(content, "x.pkl"))[:100])
    except UserError as error:
        print(name, "|", error)
    assert time.monotonic() - start < 30, name
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1000)
"""


def test_hostile_pickles_are_refused_at_once_and_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], input=pickle.dumps(HOSTILE), capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    *lines, megabytes = done.stdout.decode().splitlines()
    assert len(lines) == len(HOSTILE) and int(megabytes) < 100
    for line in lines:
        name, _, message = line.partition(" | ")
        assert message.startswith("x.pkl: ") and len(message) < 300 and message.isprintable(), f"{name}: {message}"


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
    "a codec that inflates": (b"\x80\x02c_codecs\nencode\nU\x02aaU\x03zip\x86R.", "text encoded by zip"),
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


PARTS = [
    *(
        b"N",
        b"K\x02",
        b"J\xff\xff\xff\x7f",
        b"U\x02f4",
        b"U\x04abcd",
        b"U\x06latin1",
        b"U\x00",
        b"U\x0aS999999999",
        b"G?\xf0\0\0\0\0\0\0",
    ),
    *(
        b"(",
        b")",
        b"]",
        b"}",
        b"t",
        b"\x85",
        b"\x86",
        b"\x87",
        b"l",
        b"d",
        b"a",
        b"e",
        b"s",
        b"u",
        b"0",
        b"1",
        b"2",
        b"R",
        b"b",
        b"\x93",
        b"\x94",
    ),
    *(
        b"q\x00",
        b"q\x01",
        b"h\x00",
        b"h\x01",
        FLOAT,
        b"cnumpy\ndtype\n",
        b"cnumpy.core.numeric\n_frombuffer\n",
        b"c_codecs\nencode\n",
    ),
    *(
        b"cnumpy.core.multiarray\n_reconstruct\n",
        b"cnumpy.core.multiarray\nscalar\n",
        b"cnumpy\nndarray\n",
        b"2\x86" * 10,
        b"2a" * 5,
    ),
    *(b"ccollections\nOrderedDict\n", b"c__builtin__\nbytes\n", b"\x8a\x08" + b"\x7f" * 8, b"2t", b"(h\x00h\x00e"),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=60))
def test_random_programs_make_small_data_or_are_refused(parts: list[bytes]) -> None:
    try:
        value = parse(b"".join(parts) + b".", "x.pkl")
    except UserError as error:
        message = str(error)
    else:
        message = "" if len(repr(value)) < 30_000_000 else "large"
    assert message == "" or (message.startswith("x.pkl: ") and len(message) < 300 and message.isprintable())


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    with pytest.raises(UserError, match="cannot be read"):
        read(path)
    path.write_bytes(pickle.dumps([1]))
    assert read(path) == [1]
    with pytest.raises(UserError, match="more than the 3 that are read"):
        read(path, max_bytes=3)
