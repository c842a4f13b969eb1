"""Masks of 100 detections in a photograph of 12 megapixels: pasting beside detectron2's published way, and predict's memory.

    python benchmarks/masks.py

detectron2 reads each mask at the pixels of its box by grid sampling, one after another on a CPU; here that is reimplemented from
its description. Prints milliseconds of both, how far apart the masks are, and the peak memory of a process that makes run lengths
of all masks and draws them.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwood.ops.masks import paste_masks
from boxwood.structures import Detections

HEIGHT, WIDTH, COUNT = 3000, 4000, 100


def case() -> tuple[Tensor, Tensor]:
    """Smooth masks (N, 28, 28) and boxes of a sixteenth to a half of the picture's sides."""
    random = torch.Generator().manual_seed(0)
    masks = F.interpolate(torch.rand(COUNT, 1, 5, 5, generator=random), (28, 28), mode="bilinear")[:, 0]
    sides = torch.tensor([WIDTH, HEIGHT]) * (torch.rand(COUNT, 2, generator=random) * 0.44 + 0.06)
    corners = torch.rand(COUNT, 2, generator=random) * (torch.tensor([WIDTH, HEIGHT]) - sides)
    return masks, torch.cat([corners, corners + sides], dim=1)


def by_grid_sampling(masks: Tensor, boxes: Tensor) -> Tensor:
    """(N, H, W) bool: in whole pixels around each box, the mask read bilinearly at every pixel's centre."""
    pasted = torch.zeros(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
    for index, (mask, (x1, y1, x2, y2)) in enumerate(zip(masks, boxes.tolist(), strict=True)):
        left, top = max(int(np.floor(x1)) - 1, 0), max(int(np.floor(y1)) - 1, 0)
        right, bottom = min(int(np.ceil(x2)) + 1, WIDTH), min(int(np.ceil(y2)) + 1, HEIGHT)
        rows = (torch.arange(top, bottom) + 0.5 - y1) / (y2 - y1) * 2 - 1
        columns = (torch.arange(left, right) + 0.5 - x1) / (x2 - x1) * 2 - 1
        grid = torch.stack([columns.expand(len(rows), -1), rows[:, None].expand(-1, len(columns))], dim=2)
        seen = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        pasted[index, top:bottom, left:right] = seen >= 0.5
    return pasted


def turns(ours: Callable[[], Tensor], theirs: Callable[[], Tensor], repeats: int = 5) -> tuple[float, float]:
    """Median milliseconds, one after the other."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for call, milliseconds in ((ours, times[0]), (theirs, times[1])):
            start = time.perf_counter()
            call()
            milliseconds.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])


def farthest(one: Tensor, other: Tensor) -> int:
    """How many pixels from the other's contour a pixel of one is that the other has not, at most 3."""
    worst = 0
    for first, second in zip(one, other, strict=True):
        differ = first ^ second
        for distance in (1, 2, 3):
            if not differ.any():
                break
            worst = max(worst, distance)
            # What differs within so many pixels of the contour is taken away.
            both = second[None, None].float()
            wide = F.max_pool2d(both, 2 * distance + 1, 1, distance)[0, 0] > 0
            narrow = -F.max_pool2d(-both, 2 * distance + 1, 1, distance)[0, 0] > 0
            differ &= ~(wide & ~narrow)
    return worst


def predict_like() -> None:
    """Run lengths and a drawing, as `boxwood predict` makes them; prints megabytes before and at the peak."""
    masks, boxes = case()
    scores, labels = torch.linspace(1, 0.5, COUNT), torch.arange(COUNT) % 80
    detections = Detections(boxes, scores, labels, (HEIGHT, WIDTH), ("thing",) * 80, masks)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    detections.rles()
    detections.draw(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8))
    print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def main() -> None:
    if sys.argv[1:] == ["--memory"]:
        predict_like()
        return
    # First, while this process is small: a child's peak begins with its parent's.
    megabytes = subprocess.run([sys.executable, __file__, "--memory"], capture_output=True, text=True, check=True).stdout.split()
    torch.set_num_threads(2)
    masks, boxes = case()
    ours, theirs = turns(lambda: paste_masks(masks, boxes, (HEIGHT, WIDTH)), lambda: by_grid_sampling(masks, boxes))
    apart = farthest(paste_masks(masks[:10], boxes[:10], (HEIGHT, WIDTH)), by_grid_sampling(masks[:10], boxes[:10]))
    print(
        f"pasting {COUNT} masks into {WIDTH} x {HEIGHT}: {ours:,.0f} ms, by grid sampling {theirs:,.0f} ms, {theirs / ours:.2f}x;"
    )
    print(f"the masks differ by at most {apart} pixels from the contour")
    print(f"run lengths and a drawing of all: {megabytes[1]} MB peak, of which {megabytes[0]} MB for the program and its libraries")


if __name__ == "__main__":
    main()
