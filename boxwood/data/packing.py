"""How a batch is sent from a worker process to the training process, and from there to a GPU.

Each tensor that is sent to another process costs a file descriptor, and their number is limited; each copy to a GPU costs time. A
batch with masks and keypoints has dozens of tensors. So tensors of the same dtype are concatenated, and the objects that hold them
are sent as bytes.
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
    """A `Batch` as bytes and one tensor for each dtype; works for fields of any class."""

    content: bytes
    """The pickled batch, with a number in place of each tensor."""
    images: Tensor
    """Tensor number 0, by far the largest; it is not copied."""
    buffers: dict[torch.dtype, Tensor]
    """The values of the others, by dtype."""
    shapes: list[tuple[torch.dtype, torch.Size]]

    @classmethod
    def of(cls, batch: Batch) -> PackedBatch:
        """Pack a batch."""
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
        """The same in page-locked memory, from which copies to a GPU are asynchronous. Called by torch's loader."""
        buffers = {dtype: buffer.pin_memory() for dtype, buffer in self.buffers.items()}
        return PackedBatch(self.content, self.images.pin_memory(), buffers, self.shapes)

    def to(self, device: torch.device | str | None) -> PackedBatch:
        """The same on ``device``: a copy for each dtype, however many tensors there are."""
        buffers = {dtype: buffer.to(device, non_blocking=True) for dtype, buffer in self.buffers.items()}
        return PackedBatch(self.content, self.images.to(device, non_blocking=True), buffers, self.shapes)


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
