"""How a batch is sent from a worker process to the training process, and from there to a GPU.

Each tensor that is sent to another process costs a file descriptor, of which there are few, and a connection, which takes 0.7 ms;
each copy to a GPU costs time. A batch with masks and keypoints has dozens of tensors. So all but the images are concatenated, and
the objects that hold them are sent as bytes.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from boxwood.structures import Batch

__all__ = ["PackedBatch"]


@dataclass
class PackedBatch:
    """A `Batch` as bytes and two tensors; works for fields of any class."""

    content: bytes
    """The pickled batch, with a number in place of each tensor."""
    images: Tensor
    """Tensor number 0, by far the largest; it is not copied."""
    values: Tensor
    """The bytes of the others, (N,) uint8."""
    places: list[tuple[int, torch.dtype, torch.Size]]
    """Of each of the others: its first byte, and what it is."""

    @classmethod
    def of(cls, batch: Batch) -> PackedBatch:
        """Pack a batch."""
        stream = io.BytesIO()
        pickler = _Pickler(stream, batch.images)
        pickler.dump(batch)
        rest = pickler.tensors[1:]
        starts, num_bytes = [0] * len(rest), 0
        order = sorted(range(len(rest)), key=lambda number: -rest[number].itemsize)  # each begins at a multiple of its item size
        for number in order:
            starts[number] = num_bytes
            num_bytes += rest[number].nbytes
        parts = [rest[number].reshape(-1).view(torch.uint8) for number in order]
        values = torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)
        places = [(start, tensor.dtype, tensor.shape) for start, tensor in zip(starts, rest, strict=True)]
        return cls(stream.getvalue(), batch.images, values, places)

    def unpack(self) -> Batch:
        """The batch; its tensors are views of `values`."""
        tensors = [self.images]
        for start, dtype, shape in self.places:
            tensors.append(self.values[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape))
        batch: Batch = _Unpickler(io.BytesIO(self.content), tensors).load()
        return batch

    def pin_memory(self) -> PackedBatch:
        """The same in page-locked memory, from which copies to a GPU are asynchronous. Called by torch's loader."""
        return PackedBatch(self.content, self.images.pin_memory(), self.values.pin_memory(), self.places)

    def to(self, device: torch.device | str | None) -> PackedBatch:
        """The same on ``device``, by two copies, however many tensors there are."""
        images, values = self.images.to(device, non_blocking=True), self.values.to(device, non_blocking=True)
        return PackedBatch(self.content, images, values, self.places)


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, images: Tensor) -> None:
        super().__init__(stream, pickle.HIGHEST_PROTOCOL)
        self.tensors = [images]

    def persistent_id(self, item: Any) -> int | None:
        if not isinstance(item, Tensor):
            return None
        if item is self.tensors[0]:
            return 0
        self.tensors.append(item)
        return len(self.tensors) - 1


class _Unpickler(pickle.Unpickler):  # reads only bytes that `PackedBatch.of` has written
    def __init__(self, stream: io.BytesIO, tensors: Sequence[Tensor]) -> None:
        super().__init__(stream)
        self.tensors = tensors

    def persistent_load(self, number: int) -> Tensor:
        return self.tensors[number]
