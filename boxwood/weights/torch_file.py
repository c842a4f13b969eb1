"""Files of ``torch.save`` (``.pth``, ``.pt``, checkpoints): tensors and plain values, read without torch's own reader.

That one runs no code either, with ``weights_only``, but a file of some hundred bytes can keep it busy for hours or make it ask for
any amount of memory. Here the pickle in the file is read by `boxwood.safe_pickle`, and all tensors together have no more bytes than
the file:

    zip archive    data.pkl, data/0, data/1, ...; stored, not compressed         torch from 1.6 on
    stream         four pickles, the keys of the storages, and their bytes       older

A tensor is a view of its storage, so tensors that share memory in the file share it after reading.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from torch import Tensor

from boxwood.errors import UserError
from boxwood.safe_pickle import FUNCTIONS, explained, run

__all__ = ["read_torch_file"]

MAX_ENTRIES = 100_000
"""Of an archive; each storage is one."""
MAX_PICKLE_BYTES = 200_000_000
"""Of the pickle in an archive, without the tensors' values."""
ENTRY_BYTES = 30
"""The least that an entry of an archive takes in the file besides its content."""
CHUNK = 1 << 24
"""Bytes that are read at once."""
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""The first two values of a stream."""
DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
"""The types of storages, by the first part of their names in a file."""


def read_torch_file(path: Path) -> Any:
    """The contents of a file of ``torch.save``: tensors, on the CPU, and plain values; reading runs no code.

    An ordered dictionary becomes a dictionary, a parameter the tensor of its values. Raises `UserError` where the file cannot be
    read, is not of ``torch.save``, is cut short or damaged (in an archive by a check sum), or holds anything else.
    """
    try:
        with _torch_errors(str(path)), path.open("rb") as file:
            size = path.stat().st_size
            return _from_archive(file, size) if file.read(4) == b"PK\x03\x04" else _from_stream(file, size)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); name an existing file") from None


# ------------------------------------------------------------------------------------------------------------ internals


@contextmanager
def _torch_errors(where: str) -> Iterator[None]:
    with explained(where, "file of torch.save", "tensors and plain values are read from a file of torch.save; save a state dict"):
        try:
            yield
        except (zipfile.BadZipFile, NotImplementedError) as error:  # the latter for an archive of many disks, a strange compression
            raise UnpicklingError(str(error)) from None


@dataclass(frozen=True)
class _Storage:
    """The memory of tensors: bytes, and the type that its name in the file gives them; None for bytes of any type."""

    content: Tensor
    dtype: torch.dtype | None


@dataclass(frozen=True)
class _StorageKind:
    dtype: torch.dtype | None


def _from_archive(file: IO[bytes], size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        if len(entries) > MAX_ENTRIES:
            raise UnpicklingError(f"it has {len(entries)} entries")
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries.values()):
            raise UnpicklingError("it has compressed entries, which torch.save does not write")
        if sum(entry.file_size + ENTRY_BYTES for entry in entries.values()) > size:
            raise UnpicklingError("its entries have more bytes than the file")
        if "data.pkl" not in entries:
            raise UnpicklingError("an archive without data.pkl")
        if entries["data.pkl"].file_size > MAX_PICKLE_BYTES:
            raise UnpicklingError(f"its pickle has {entries['data.pkl'].file_size} bytes")
        if "byteorder" in entries and _content(archive, entries["byteorder"]) != sys.byteorder.encode():
            raise UnpicklingError("written on a machine of the other byte order")
        storages: dict[str, _Storage] = {}

        def storage(key: str, dtype: torch.dtype | None, num_bytes: int) -> _Storage:
            entry = entries.get(f"data/{key}")
            if entry is None or entry.file_size != num_bytes:
                raise UnpicklingError(f"a storage of {num_bytes} bytes, in a file that has {entry.file_size if entry else 'none'}")
            if key not in storages:
                content = torch.empty(num_bytes, dtype=torch.uint8)
                with archive.open(entry) as part:
                    _fill(part, content)
                storages[key] = _Storage(content, dtype)
            return _Storage(storages[key].content, dtype)

        with archive.open(entries["data.pkl"]) as part:
            tree = run(part, entries["data.pkl"].file_size, NAMES, _persistent(storage))
            part.read()  # to the end, where the check sum is compared
        return tree


def _from_stream(file: IO[bytes], size: int) -> Any:
    file.seek(0)
    if run(file, size, {}) != MAGIC or run(file, size, {}) != PROTOCOL:
        raise UnpicklingError("it begins as no such file")
    if run(file, size, {}).get("little_endian") is not (sys.byteorder == "little"):
        raise UnpicklingError("written on a machine of the other byte order")
    storages: dict[str, _Storage] = {}
    total = 0

    def storage(key: str, dtype: torch.dtype | None, num_bytes: int) -> _Storage:
        nonlocal total
        if key not in storages:
            total += num_bytes + 8  # each begins with its length
            if total > size:
                raise UnpicklingError(f"storages of {total} bytes in a file of {size}")
            storages[key] = _Storage(torch.empty(num_bytes, dtype=torch.uint8), dtype)
        made = storages[key]
        if made.dtype != dtype or len(made.content) != num_bytes:
            raise UnpicklingError("a storage of two sizes")
        return made

    tree = run(file, size, NAMES, _persistent(storage))
    keys = run(file, size, {})
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise UnpicklingError("the bytes of other storages than its tensors have")
    for key in keys:
        kind, content = storages[key].dtype, storages[key].content
        assert kind is not None
        if int.from_bytes(file.read(8), "little") * kind.itemsize != len(content):
            raise UnpicklingError("a storage of two sizes")
        _fill(file, content)
    return tree


def _fill(file: IO[bytes], content: Tensor) -> None:
    room = memoryview(content.numpy())  # type: ignore[arg-type]  # an array is a buffer
    while room:
        count = file.readinto(room[:CHUNK])  # type: ignore[attr-defined]  # of files in binary mode and of those in an archive
        if not count:
            raise EOFError("it ends too early")
        room = room[count:]
    if isinstance(file, zipfile.ZipExtFile):
        file.read()  # to the end, where the check sum is compared


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    return archive.read(entry) if entry.file_size < 100 else b""


def _persistent(storage: Callable[[str, torch.dtype | None, int], _Storage]) -> Callable[[Any], _Storage]:
    """The function for ids of storages: ``("storage", type, key, device, number of elements)``, and a view in streams."""

    def load(name: Any) -> _Storage:
        if not isinstance(name, tuple) or len(name) not in (5, 6) or (len(name) == 6 and name[5] is not None):
            raise UnpicklingError("a value outside the pickle that is no storage")
        word, kind, key, _, count = name[:5]
        if not isinstance(word, str) or word != "storage" or not isinstance(kind, _StorageKind) or not isinstance(key, str):
            raise UnpicklingError("a value outside the pickle that is no storage")
        if type(count) is not int or not 0 <= count < 2**48:
            raise UnpicklingError("a storage without a number of elements")
        return storage(key, kind.dtype, count * (kind.dtype.itemsize if kind.dtype else 1))

    return load


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    """``_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks, metadata)``."""
    if not isinstance(storage, _Storage) or storage.dtype is None or len(rest) > 3 or rest[2:] not in ((), (None,)):
        raise UnpicklingError("a tensor without a storage, or with marks that change its values")
    return _view(storage.content, storage.dtype, offset, shape, strides)


def _tensor_v3(storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any) -> Tensor:
    if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype) or dtype not in DTYPES.values() or len(rest) > 1:
        raise UnpicklingError("a tensor without a storage")
    return _view(storage.content, dtype, offset, shape, strides)


def _view(content: Tensor, dtype: torch.dtype, offset: Any, shape: Any, strides: Any) -> Tensor:
    numbers = (offset, *shape, *strides) if isinstance(shape, tuple) and isinstance(strides, tuple) else (None,)
    if (
        len(numbers) > 100
        or not all(type(number) is int and 0 <= number < 2**48 for number in numbers)
        or len(shape) != len(strides)
    ):
        raise UnpicklingError("a tensor whose shape is not a few whole numbers")
    elements, count = len(content) // dtype.itemsize, 1
    for side in shape:
        count *= side
    # Of stride 0 a tensor has any number of elements; a copy of it would have their memory.
    if count > elements or (
        count and offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True)) >= elements
    ):
        raise UnpicklingError(f"a tensor of {count} elements in a storage of {elements}")
    if not count:
        if max(shape) > 1_000_000:
            raise UnpicklingError("an empty tensor of a giant shape")
        return torch.empty(shape, dtype=dtype)
    return content[: elements * dtype.itemsize].view(dtype).as_strided(shape, strides, offset)


def _parameter(value: Any, *rest: Any) -> Tensor:
    if not isinstance(value, Tensor) or len(rest) > 3:
        raise UnpicklingError("a parameter without its values")
    return value


def _size(sides: Any = ()) -> tuple[Any, ...]:
    if not isinstance(sides, tuple):
        raise UnpicklingError("a shape that is no tuple")
    return sides


def _counts(counts: Any) -> dict[Any, Any]:
    """A `collections.Counter`, which schedules have."""
    if not isinstance(counts, dict):
        raise UnpicklingError("counts that are no dictionary")
    return dict(counts)


def _device(kind: Any, *_: Any) -> str:
    if not isinstance(kind, str):
        raise UnpicklingError("a device without a name")
    return kind


NAMES: dict[tuple[str, str], Any] = {
    **FUNCTIONS,
    **{("torch", f"{name}Storage"): _StorageKind(dtype) for name, dtype in DTYPES.items()},
    ("collections", "Counter"): _counts,
    ("torch", "device"): _device,
    ("torch.storage", "UntypedStorage"): _StorageKind(None),
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in DTYPES.values()},
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}
"""What the names in the pickle of a file of torch stand for."""
