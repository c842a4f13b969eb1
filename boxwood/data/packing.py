"""A batch on its way from a worker process: whatever its fields are, a few tensors cross.

Each tensor that is sent to another process costs a file descriptor, and those are scarce; a batch with masks and keypoints has
dozens. So the tensors are concatenated by their dtype, and what holds them is sent as bytes.
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
    """A `Batch` as bytes and one tensor for each dtype. Fields of any class come out as they went in."""

    content: bytes
    """The pickled batch, with a number in place of each tensor."""
    images: Tensor
    """Tensor number 0, by far the largest, is not copied."""
    buffers: dict[torch.dtype, Tensor]
    """The values of the others, by dtype."""
    shapes: list[tuple[torch.dtype, torch.Size]]

    @classmethod
    def of(cls, batch: Batch) -> PackedBatch:
        """Take a batch apart."""
        stream = io.BytesIO()
        pickler = _Pickler(stream, batch.images)
        pickler.dump(batch)
        rest = pickler.tensors[1:]
        dtypes = {tensor.dtype: None for tensor in rest}
        buffers = {dtype: torch.cat([tensor.reshape(-1) for tensor in rest if tensor.dtype == dtype]) for dtype in dtypes}
        return cls(stream.getvalue(), batch.images, buffers, [(tensor.dtype, tensor.shape) for tensor in rest])

    def unpack(self) -> Batch:
        """The batch; its tensors are views of the buffers."""
        sizes = {dtype: [shape.numel() for kind, shape in self.shapes if kind == dtype] for dtype in self.buffers}
        parts = {dtype: iter(torch.split(buffer, sizes[dtype])) for dtype, buffer in self.buffers.items()}
        tensors = [self.images, *(next(parts[dtype]).view(shape) for dtype, shape in self.shapes)]
        batch: Batch = _Unpickler(io.BytesIO(self.content), tensors).load()
        return batch

    def pin_memory(self) -> PackedBatch:
        """The same in page-locked memory, from which a GPU reads without waiting. Torch's loader calls it."""
        buffers = {dtype: buffer.pin_memory() for dtype, buffer in self.buffers.items()}
        return PackedBatch(self.content, self.images.pin_memory(), buffers, self.shapes)


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


class _Unpickler(pickle.Unpickler):  # reads nothing but bytes that this program has just written
    def __init__(self, stream: io.BytesIO, tensors: Sequence[Tensor]) -> None:
        super().__init__(stream)
        self.tensors = tensors

    def persistent_load(self, number: int) -> Tensor:
        return self.tensors[number]
