"""Position-sensitive pooling against torchvision's operator, and against Caffe's arithmetic written out cell by cell."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor

from boxwood.ops.ps_roi_pool import ps_roi_align, ps_roi_pool
from boxwood.ops.roi_align import roi_align

HEIGHT, WIDTH, STRIDE = 9, 12, 16


def rois(count: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes of all sizes, some of them partly or wholly outside, some without area; and their images."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(count, 2, generator=generator) * torch.tensor([220.0, 170]) - 20
    sides = torch.exp(torch.rand(count, 2, generator=generator) * 5.5)
    boxes = torch.cat([start, start + sides], dim=1)
    special = torch.tensor([[8.0, 8, 40, 24], [16, 16, 16, 16], [0, 0, 192, 144], [500, 500, 600, 600], [-90, -90, -40, -40]])
    return torch.cat([boxes, special]), torch.arange(count + len(special)) % 2


def maps(channels: int, seed: int = 1) -> Tensor:
    return torch.randn(2, channels, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [1, 3, 7])
def test_rounded_cells_are_torchvisions(size: int) -> None:
    boxes, images = rois()
    features, reference = maps(5 * size**2).requires_grad_(), maps(5 * size**2).requires_grad_()
    ours = ps_roi_pool(features, boxes, images, size, scale=1 / STRIDE, rounding="cells")
    # torchvision's operator never reads the last row and column of a map, so it is given one more of each.
    padded = F.pad(reference, (0, 1, 0, 1))
    theirs = torchvision.ops.ps_roi_pool(padded, torch.cat([images[:, None].float(), boxes], dim=1), size, 1 / STRIDE)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    # Its backward pass does read them, so gradients are compared of RoIs that end in the map.
    inside = (boxes[:, 2] <= WIDTH * STRIDE) & (boxes[:, 3] <= HEIGHT * STRIDE)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2)) * inside[:, None, None, None]
    assert inside.sum() > 10
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(features.grad, reference.grad, rtol=1e-4, atol=1e-5)


def by_hand(features: np.ndarray, box: np.ndarray, size: int, *, whole_pixels: bool) -> np.ndarray:
    """One image's (C * k * k, H, W) and one RoI: the mean over the pixels of each cell, as R-FCN's operator defines it."""
    channels = features.shape[0] // size**2
    if whole_pixels:
        round_c = [math.copysign(math.floor(abs(v) + 0.5), v) for v in box.tolist()]
        x1, y1, x2, y2 = round_c[0] / STRIDE, round_c[1] / STRIDE, (round_c[2] + 1) / STRIDE, (round_c[3] + 1) / STRIDE
    else:
        x1, y1, x2, y2 = (float(v) / STRIDE for v in box)
    width, height = max(x2 - x1, 0.1) / size, max(y2 - y1, 0.1) / size
    pooled = np.zeros((channels, size, size))
    for channel in range(channels):
        for row in range(size):
            for column in range(size):
                top, bottom = math.floor(y1 + row * height), math.ceil(y1 + (row + 1) * height)
                left, right = math.floor(x1 + column * width), math.ceil(x1 + (column + 1) * width)
                top, bottom = min(max(top, 0), HEIGHT), min(max(bottom, 0), HEIGHT)
                left, right = min(max(left, 0), WIDTH), min(max(right, 0), WIDTH)
                if bottom > top and right > left:
                    score_map = features[(channel * size + row) * size + column]
                    pooled[channel, row, column] = score_map[top:bottom, left:right].mean()
    return pooled


@pytest.mark.parametrize("rounding", ["none", "pixels"])
@pytest.mark.parametrize("size", [3, 7])
def test_unrounded_and_pixel_rounded_cells_by_hand(size: int, rounding: str) -> None:
    boxes, images = rois(seed=3)
    features = maps(2 * size**2).double()
    ours = ps_roi_pool(features, boxes.double(), images, size, scale=1 / STRIDE, rounding=rounding)  # type: ignore[arg-type]
    for index, (box, image) in enumerate(zip(boxes.double().numpy(), images.tolist(), strict=True)):
        expected = by_hand(features[image].numpy(), box, size, whole_pixels=rounding == "pixels")
        np.testing.assert_allclose(ours[index].numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_ps_roi_align_is_roi_align_of_each_cells_map(size: int) -> None:
    boxes, images = rois()
    features = maps(5 * size**2).requires_grad_()
    ours = ps_roi_align(features, boxes, images, size, scale=1 / STRIDE)
    everything = roi_align(features, boxes, images, size, scale=1 / STRIDE, sampling_ratio=2, aligned=True)
    everything = everything.view(len(boxes), 5, size, size, size, size)  # of channel (c, row, column) the cell (row, column)
    expected = everything.diagonal(dim1=2, dim2=4).diagonal(dim1=2, dim2=3)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    (slopes,) = torch.autograd.grad((ours * weights).sum(), features, retain_graph=True)
    (reference,) = torch.autograd.grad((expected * weights).sum(), features)
    torch.testing.assert_close(slopes, reference, rtol=0, atol=1e-3)


def test_no_roi_and_half_precision() -> None:
    features = maps(18).half()
    assert ps_roi_pool(features, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 3, scale=1 / 16).shape == (0, 2, 3, 3)
    pooled = ps_roi_pool(features, torch.tensor([[0.0, 0, 64, 64]]), torch.tensor([0]), 3, scale=1 / 16)
    assert pooled.dtype == torch.float16
    assert pooled.isfinite().all()
