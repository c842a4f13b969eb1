"""Files of torch.save are read as torch reads them; damaged and hostile ones are refused in one line."""

from __future__ import annotations

import contextlib
import io
import pickle
import stat
import struct
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from boxwood.errors import UserError
from boxwood.weights.torch_file import read_torch_file

TIED = torch.arange(12.0).view(3, 4)
TREE: dict[str, Any] = {
    "model": nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).state_dict(),
    "types": [torch.ones(3).to(dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32)]
    + [torch.ones(3).to(dtype) for dtype in (torch.int16, torch.int8, torch.uint8, torch.bool)],
    "tied": (TIED, TIED[1], TIED.t(), TIED[:, ::2]),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(7),
    "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "parameter": nn.Parameter(torch.rand(2, 2)),
    "state": {0: {"step": 3, "momentum_buffer": None}, 1: {"lr": 0.1, "text": "ä", "deep": [1, [2, (3, True)]]}},
    "milestones": Counter([3, 5, 5]),
    "size": torch.Size([2, 3]),
    "device": torch.device("cpu"),
}


def assert_same(one: Any, other: Any) -> None:
    """``one`` as we read it is ``other`` as torch does."""
    if isinstance(other, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert one.stride() == other.stride() or not one.numel()
        assert torch.equal(one, other.detach())
    elif isinstance(other, dict):
        assert list(one) == list(other)
        for key in other:
            assert_same(one[key], other[key])
    elif isinstance(other, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == (str(other) if isinstance(other, torch.device) else other)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_files_are_read_as_torch_reads_them(tmp_path: Path, archive: bool, protocol: int) -> None:
    path = tmp_path / "a.pth"
    torch.save(TREE, path, _use_new_zipfile_serialization=archive, pickle_protocol=protocol)
    tree = read_torch_file(path)
    assert_same(tree, torch.load(path, weights_only=True) if protocol == 2 else TREE)  # torch reads only protocol 2 so
    tree["tied"][0][1, 2] = -5.0
    assert tree["tied"][1][2] == -5 and tree["tied"][2][2, 1] == -5, "tensors that share memory share it"
    ordered = tmp_path / "b.pth"
    torch.save(OrderedDict(a=torch.ones(2)), ordered, _use_new_zipfile_serialization=archive)
    assert_same(read_torch_file(ordered), {"a": torch.ones(2)})


def edited(path: Path, change: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED, link: str = "") -> Path:
    """An archive of torch.save with other contents of some entries, new ones, and an entry that is a symbolic link."""
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(4)}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        contents = {entry.filename.partition("/")[2]: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {**contents, **change}.items():
            archive.writestr(f"a/{name}", content)
        if link:
            entry = zipfile.ZipInfo("a/data/9")
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, link)
    return path


def program(
    shape: bytes,
    strides: bytes,
    *,
    offset: bytes = b"K\x00",
    count: bytes = b"K\x04",
    key: bytes = b"X\x01\0\0\x000",
    view: bytes = b"",
) -> bytes:
    """The pickle of one tensor, by hand."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\n" + key + b"X\x03\0\0\0cpu" + count + view + b"tQ"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides + b"\x89}tR."


PAIRS = b"N" + b"2\x86" * 40
GIANT = b"\x8a\x06" + (2**40).to_bytes(6, "little")
PROGRAMS = {
    "a tensor as it should be": (program(b"K\x04\x85", b"K\x01\x85"), ""),
    "stride 0": (program(GIANT + b"\x85", b"K\x00\x85"), "elements in a storage of 4"),
    "beyond the storage": (program(b"K\x04\x85", b"K\x02\x85"), "elements in a storage of 4"),
    "an offset beyond it": (program(b"K\x04\x85", b"K\x01\x85", offset=b"K\x01"), "elements in a storage of 4"),
    "a negative offset": (program(b"K\x04\x85", b"K\x01\x85", offset=b"J\xff\xff\xff\xff"), "whole numbers"),
    "an empty giant": (program(b"K\x00" + GIANT + b"\x86", b"K\x01K\x01\x86"), "giant shape"),
    "a giant storage": (program(b"K\x04\x85", b"K\x01\x85", count=GIANT), "in a file that has 16"),
    "a storage that is not there": (program(b"K\x04\x85", b"K\x01\x85", key=b"X\x01\0\0\x007"), "in a file that has none"),
    "a path as a storage": (program(b"K\x04\x85", b"K\x01\x85", key=b"X\x0b\0\0\0/etc/passwd"), "in a file that has none"),
    "a shape of pairs": (program(PAIRS, b"K\x01\x85"), "whole numbers"),
    "strides of text": (program(b"K\x04\x85", b"X\x01\0\0\0a\x85"), "whole numbers"),
    "a storage of pairs": (b"\x80\x02" + PAIRS + b"Q.", "no storage"),
    "a name of pairs": (b"\x80\x04" + PAIRS + b"\x8c\x01a\x93.", "a name of a tuple"),
    "a call of pairs": (b"\x80\x02" + PAIRS + b")R.", "a call of something else"),
    "code": (b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.", "os.system"),
    "an object": (b"\x80\x02cargparse\nNamespace\n)\x81.", "argparse.Namespace"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile_tensors(tmp_path: Path, name: str) -> None:
    content, message = PROGRAMS[name]
    path = edited(tmp_path / "a.pth", {"data.pkl": content})
    if not message:
        assert torch.equal(read_torch_file(path), torch.ones(4))
        return
    with pytest.raises(UserError, match=message) as raised:
        read_torch_file(path)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_hostile_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(path: Path) -> str:
        with pytest.raises(UserError) as raised:
            read_torch_file(path)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    zeros = b"\0" * 5_000_000
    assert "compressed" in message(edited(tmp_path / "bomb.pth", {"data/0": zeros}, compression=zipfile.ZIP_DEFLATED))
    other = edited(tmp_path / "other.pth", {})
    other.write_bytes(other.read_bytes().replace(b"data.pkl", b"data.txt"))
    assert "without data.pkl" in message(other)
    assert torch.equal(read_torch_file(edited(tmp_path / "link.pth", {}, link="/etc/passwd"))["a"], torch.ones(4))
    with monkeypatch.context() as patch:
        patch.setattr("boxwood.weights.torch_file.MAX_ENTRIES", 100)
        assert "entries" in message(edited(tmp_path / "many.pth", {f"data/{i}": b"" for i in range(101)}))
    assert "byte order" in message(
        edited(tmp_path / "order.pth", {"byteorder": b"big" if sys.byteorder == "little" else b"little"})
    )
    # Entries of the directory that all name the same bytes.
    whole = edited(tmp_path / "overlap.pth", {"data/0": b"\0" * 1_000_000}).read_bytes()
    start, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    of_storage = whole.rindex(b"PK\x01\x02", start, whole.index(b"a/data/0", start))
    entry = whole[of_storage : whole.find(b"PK\x01\x02", of_storage + 4) if b"PK\x01\x02" in whole[of_storage + 4 : end] else end]
    copies = b"".join(entry.replace(b"a/data/0", b"a/data/" + bytes([letter])) for letter in range(65, 91))
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 30, 30, len(copies) + end - start, start, 0)
    (tmp_path / "overlap.pth").write_bytes(whole[:start] + whole[start:end] + copies + tail)
    assert "damaged" in message(tmp_path / "overlap.pth")
    (tmp_path / "text.pth").write_text("no weights")
    assert "is no file of torch.save" in message(tmp_path / "text.pth")
    assert "cannot be read" in message(tmp_path / "none.pth") and "cannot be read" in message(tmp_path)


def test_a_flipped_bit_of_a_tensor_is_noticed(tmp_path: Path) -> None:
    path = edited(tmp_path / "a.pth", {})
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<4f", 1, 1, 1, 1)) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="Bad CRC-32"):
        read_torch_file(path)


def stream(*values: Any, raw: bytes = b"") -> bytes:
    return b"".join(value if isinstance(value, bytes) else pickle.dumps(value, 2) for value in values) + raw


HEAD = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": sys.byteorder == "little", "type_sizes": {}})
TENSOR = program(b"K\x04\x85", b"K\x01\x85", view=b"N")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (stream(*HEAD, TENSOR, ["0"], raw=struct.pack("<q4f", 4, 1, 1, 1, 1)), ""),
        (stream(*HEAD, TENSOR, ["0"], raw=struct.pack("<q2f", 4, 1, 1)), "ends too early"),
        (stream(*HEAD, TENSOR, ["0"], raw=struct.pack("<q4f", 2**40, 1, 1, 1, 1)), "two sizes"),
        (stream(*HEAD, TENSOR, ["1"], raw=struct.pack("<q4f", 4, 1, 1, 1, 1)), "other storages"),
        (stream(*HEAD, TENSOR, 7, raw=struct.pack("<q4f", 4, 1, 1, 1, 1)), "other storages"),
        (stream(*HEAD, program(b"K\x04\x85", b"K\x01\x85", count=GIANT), ["0"]), "in a file of"),
        (stream(HEAD[0], 7), "begins as no such file"),
        (stream(HEAD[0], HEAD[1], [1]), "damaged"),
        (stream(HEAD[0], HEAD[1], {"little_endian": sys.byteorder != "little"}), "byte order"),
    ],
)
def test_streams_of_old_torch(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    if not message:
        assert torch.equal(read_torch_file(path), torch.ones(4)) and torch.equal(torch.load(path, weights_only=True), torch.ones(4))
        return
    with pytest.raises(UserError, match=message):
        read_torch_file(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.booleans(), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 10**6)
)
def test_damaged_files_raise_only_user_errors(tmp_path: Path, archive: bool, bytes_: list[tuple[int, int]], cut: int) -> None:
    buffer = io.BytesIO()
    torch.save({"a": TIED, "b": [1, "x"]}, buffer, _use_new_zipfile_serialization=archive)
    content = bytearray(buffer.getvalue())
    for place, value in bytes_:
        content[place % len(content)] = value
    path = tmp_path / "a.pth"
    path.write_bytes(bytes(content[: len(content) - (cut % len(content) if cut % 3 == 0 else 0)]))
    with contextlib.suppress(UserError):  # no other error
        read_torch_file(path)


@pytest.mark.slow
def test_a_large_file_needs_its_size_in_memory(tmp_path: Path) -> None:
    """In a process with 300 MB more than its start takes, a file of 200 MB is read."""
    torch.save({"a": torch.zeros(50_000_000)}, tmp_path / "a.pth")
    code = (
        "import resource, sys, torch\nfrom pathlib import Path\nfrom boxwood.weights.torch_file import read_torch_file\n"
        "start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nread_torch_file(Path(sys.argv[1]))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1000)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.pth"], capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 300
