"""Pickles as data: what Python 2 and 3 and numpy write is read, and nothing else happens."""

from __future__ import annotations

import io
import os
import pickle
import struct
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from boxwood.errors import UserError
from boxwood.safe_pickle import read_pickle

DTYPES = ["<f4", "<f8", ">f4", "<i4", ">i8", "|u1", "|b1", "<f2"]


def read(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    return read_pickle(path)


def same(one: Any, other: Any) -> bool:
    if isinstance(other, np.ndarray):
        equal_types = isinstance(one, np.ndarray) and one.dtype.newbyteorder("=") == other.dtype.newbyteorder("=")
        return equal_types and np.array_equal(one, other, equal_nan=other.dtype.kind == "f")
    if isinstance(other, dict):
        return isinstance(one, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in other)
    if isinstance(other, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(np.dtype(dtype), array_shapes(min_side=0, max_dims=3, max_side=4)))
    | st.floats(width=32, allow_nan=False).map(np.float32)
)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner)
)


@settings(max_examples=150, deadline=None)
@given(trees, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_data_come_back(tmp_path_factory: pytest.TempPathFactory, tree: Any, protocol: int) -> None:
    assert same(read(tmp_path_factory.getbasetemp(), pickle.dumps(tree, protocol)), tree)


def test_an_ordered_dict_becomes_a_dict(tmp_path: Path) -> None:
    assert read(tmp_path, pickle.dumps(OrderedDict(a=1, b=[2]), 2)) == {"a": 1, "b": [2]}


def python2_array(array: np.ndarray[Any, Any]) -> bytes:
    """The operations by which Python 2's cPickle, protocol 2, writes an array: its text are byte strings, numpy's old names."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def whole(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    shape = b"(" + b"".join(map(whole, array.shape)) + b"t"
    kind = b"cnumpy\ndtype\n" + text(array.dtype.str[1:].encode()) + b"K\x00K\x01\x87R"
    kind += b"(K\x03" + text(array.dtype.str[:1].encode()) + b"NNN" + whole(-1) * 2 + b"K\x00tb"
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    return start + b"(K\x01" + shape + kind + b"\x89" + text(array.tobytes()) + b"tb"


def python2_dict(entries: dict[str, bytes]) -> bytes:
    body = b"".join(b"U" + bytes([len(key)]) + key.encode() + value for key, value in entries.items())
    return b"\x80\x02}(" + body + b"u."


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_python_2_wrote(tmp_path: Path, dtype: str) -> None:
    array = np.arange(120).reshape(30, 4).astype(dtype)
    content = python2_dict({"blobs": b"](" + python2_array(array) + python2_array(array[:0]) + b"e", "cfg": b"U\x04a: 1"})
    assert same(read(tmp_path, content), {"blobs": [array, array[:0]], "cfg": "a: 1"})
    # The same bytes mean the same to Python's own reader, so they are a pickle and not a mistake of this test.
    assert same(pickle.loads(content, encoding="latin1")["blobs"][0], array)  # noqa: S301  (of this test's making)


class Runs:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_does_not_run(tmp_path: Path, protocol: int) -> None:
    victim = tmp_path / "victim"
    content = pickle.dumps({"boxes": Runs(os.mkdir, str(victim))}, protocol)
    with pytest.raises(UserError, match=r"a.pkl: is a pickle that asks for (posix|nt).mkdir; only numbers, text"):
        read(tmp_path, content)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", "asks for builtins.eval"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "asks for __builtin__.eval"),
        (b"cnumpy.core.multiarray\nfromfile\n(S'/etc/passwd'\ntR.", "asks for numpy.core.multiarray.fromfile"),
        (b"cnumpy\ndtype.newbyteorder\n.", "asks for numpy.dtype.newbyteorder"),
        (b"(S'ls'\nios\nsystem\n.", "objects of its own"),
        (b"(cos\nsystem\nS'ls'\no.", "objects of its own"),
        (b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x81.", "objects of its own"),
        (b"Pthing\n.", "objects of its own"),
        (b"\x80\x02\x82\x01.", "objects of its own"),
    ],
)
def test_what_is_not_data_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read(tmp_path, content)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\x80\x02Nr\xff\xff\xff\x7f.", id="a value filed under a huge number"),
        pytest.param(b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.", id="a frame longer than the file"),
        pytest.param(b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"N.", id="bytes longer than the file"),
        pytest.param(b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", id="bytes of a length"),
        pytest.param(
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\xff\xff\xff\x7f\x85U\x01b\x87RK\x01b.",
            id="an array of a shape",
        ),
        pytest.param(b"\x80\x02c_codecs\nencode\nU\x02aaU\x03zip\x86R.", id="another codec"),
        pytest.param(b"\x80\x02cnumpy\ndtype\nU\x0bV1000000000K\x00K\x01\x87R.", id="a huge type"),
        pytest.param(b"\x80\x02cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R.", id="an array of objects"),
    ],
)  # fmt: skip
def test_a_small_file_takes_little_memory(tmp_path: Path, content: bytes) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"a.pkl: (is|asks)"):
        read(tmp_path, content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_what_is_no_pickle_or_cut_short(tmp_path: Path) -> None:
    whole = pickle.dumps({"a": np.arange(40.0), "b": [1, "two", (3.0,)]}, 2)
    for length in range(len(whole)):
        with pytest.raises(UserError, match=r"a.pkl: is (empty|cut short or damaged|no pickle|a damaged pickle)") as caught:
            read(tmp_path, whole[:length])
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is no pickle"):
        read(tmp_path, b"\x00this is text")
    (tmp_path / "a.pkl").write_bytes(whole)
    with pytest.raises(UserError, match=r"more than the 10 of the largest"):
        read_pickle(tmp_path / "a.pkl", max_bytes=10)
    with pytest.raises(UserError, match="No such file"):
        read_pickle(tmp_path / "absent.pkl")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_is_a_user_error_or_data(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    protocol = data.draw(st.integers(0, pickle.HIGHEST_PROTOCOL))
    content = bytearray(pickle.dumps({"boxes": [np.ones((2, 4), np.float32)], "ids": [1, np.int64(5)], "n": "x"}, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UserError):
        read(tmp_path_factory.getbasetemp(), bytes(content))


def test_a_file_of_many_arrays_is_read_in_seconds(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pickle.dump([np.ones((3, 4), np.float32) for _ in range(20_000)], buffer, 2)
    start = time.process_time()
    assert len(read(tmp_path, buffer.getvalue())) == 20_000
    assert time.process_time() - start < 20  # 118,000 images then take a minute at the very most
