"""Greedy suppression on a GPU as one Triton kernel: all groups at the same time, and no value is read on the host."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["survivors"]

BLOCK = 1024
"""Boxes that a program compares with one at a time."""


def survivors(boxes: Tensor, ends: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Which boxes are kept, of groups that lie one after another, each from the best box to the worst.

    ``boxes`` (N, 4) xyxy float32, ``ends`` (N,) int64 the index behind the last box of each one's group, ``valid`` (N,) bool as of
    `boxwood.ops.nms.nms_mask` -> (N,) bool. A box that overlaps a better one by an IoU above ``threshold`` is dropped; the IoU is
    that of torchvision's operator on a CPU, to the last bit.
    """
    alive = valid.to(torch.int32, copy=True)
    with torch.cuda.device_of(boxes):  # type: ignore[no-untyped-call]  # Triton starts kernels on the current GPU
        _suppress[(len(boxes),)](
            *(boxes.contiguous(), ends, alive, _largest(threshold)),
            BLOCK=BLOCK,
            num_warps=8,
            num_stages=1,
            enable_fp_fusion=False,  # products are rounded before they are added, as on a CPU
        )
    return alive.bool()


@cache
def _largest(threshold: float) -> float:
    """The largest number of 32 bits that is not above ``threshold``."""
    largest = torch.tensor(threshold, dtype=torch.float64).float()
    return largest.item() if largest.item() <= threshold else torch.nextafter(largest, torch.tensor(-torch.inf)).item()


@triton.jit  # type: ignore[untyped-decorator]
def _suppress(boxes, ends, alive, threshold, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """A program for each box; those of the first boxes of groups do the work."""
    first = tl.program_id(0)
    end = tl.load(ends + first)
    if tl.load(ends + first - 1, mask=first > 0, other=0) == first:
        for index in range(first, end):
            if tl.load(alive + index, volatile=True) != 0:
                x1 = tl.load(boxes + 4 * index)
                y1 = tl.load(boxes + 4 * index + 1)
                x2 = tl.load(boxes + 4 * index + 2)
                y2 = tl.load(boxes + 4 * index + 3)
                area = (x2 - x1) * (y2 - y1)
                for start in range(index + 1, end, BLOCK):
                    other = start + tl.arange(0, BLOCK)
                    inside = other < end
                    other_x1 = tl.load(boxes + 4 * other, mask=inside, other=0.0)
                    other_y1 = tl.load(boxes + 4 * other + 1, mask=inside, other=0.0)
                    other_x2 = tl.load(boxes + 4 * other + 2, mask=inside, other=0.0)
                    other_y2 = tl.load(boxes + 4 * other + 3, mask=inside, other=0.0)
                    width = tl.maximum(tl.minimum(x2, other_x2) - tl.maximum(x1, other_x1), 0.0)
                    height = tl.maximum(tl.minimum(y2, other_y2) - tl.maximum(y1, other_y1), 0.0)
                    shared = width * height
                    union = area + (other_x2 - other_x1) * (other_y2 - other_y1) - shared
                    overlap = tl.div_rn(shared, union)
                    tl.store(alive + other, 0, mask=inside & (overlap > threshold))
                tl.debug_barrier()  # what one thread has written the others read
