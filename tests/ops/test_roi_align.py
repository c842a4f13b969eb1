"""RoIAlign against torchvision's operator, values and gradients."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torchvision.ops
from torch import Tensor

import boxwood.ops.roi_align as module
from boxwood.ops.roi_align import assign_levels, pool_levels, roi_align, roi_align_planes

STRIDE = 4
HEIGHT, WIDTH = 13, 17  # of the map: 52 x 68 pixels of the input

RANDOM = torch.rand(12, 4, generator=torch.Generator().manual_seed(1)) * torch.tensor([40.0, 30, 28, 22])
ROIS = torch.cat(
    [
        torch.cat([RANDOM[:, :2], RANDOM[:, :2] + RANDOM[:, 2:]], dim=1),
        torch.tensor(
            [
                [0.0, 0, 68, 52],  # the whole map
                [0, 0, 1, 1],  # a pixel in the corner
                [67, 51, 68, 52],
                [30, 20, 30, 20],  # nothing
                [30.25, 20.5, 30.5, 20.75],  # a fraction of a pixel
                [60, 40, 68, 52],  # at the border
                [-30, -20, 25, 30],  # reaching out
                [50, 30, 150, 140],
                [-90, -90, -50, -60],  # outside
                [200, 10, 260, 40],
                [0, 51.9, 68, 52],  # a line along the border
                [10, 0, 12, 52],
                [10, 10, 40, 10],  # lines
                [20, 5, 20, 45],
            ]
        ),
    ]
)
IMAGES = torch.arange(len(ROIS)) % 3
WITHOUT_EXTENT = (15, 24, 25)
"""Aligned, with as many points as they have pixels, they have none."""


def features(height: int = HEIGHT, width: int = WIDTH, channels: int = 5) -> Tensor:
    return torch.randn(3, channels, height, width, generator=torch.Generator().manual_seed(0))


def theirs(maps: Tensor, rois: Tensor, images: Tensor, size: int, sampling_ratio: int, aligned: bool, scale: float) -> Tensor:
    indexed = torch.cat([images[:, None].float(), rois], dim=1)
    pooled: Tensor = torchvision.ops.roi_align(maps, indexed, size, scale, sampling_ratio, aligned)
    return pooled


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [7, 14])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("reads", [0, 10**9], ids=["sparse product", "embedding bag"])
def test_values_and_gradients_are_torchvisions(
    aligned: bool, sampling_ratio: int, size: int, channels_last: bool, reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READS", reads)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    mine = features().contiguous(memory_format=memory).requires_grad_()
    reference = features().requires_grad_()
    rois, images = ROIS, IMAGES
    ours = roi_align(mine, rois, images, size, scale=1 / STRIDE, sampling_ratio=sampling_ratio, aligned=aligned)
    expected = theirs(reference, rois, images, size, sampling_ratio, aligned, 1 / STRIDE)
    assert ours.shape == (len(rois), 5, size, size)
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)
    assert expected.abs().amax(dim=(1, 2, 3)).gt(0.1).sum() >= 18, "most RoIs see the map"

    towards = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (ours * towards).sum().backward()
    (expected * towards).sum().backward()
    assert mine.grad is not None and reference.grad is not None
    scale = float(reference.grad.abs().max())
    torch.testing.assert_close(mine.grad, reference.grad, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2)])
def test_tiny_maps(shape: tuple[int, int], aligned: bool, sampling_ratio: int) -> None:
    maps = features(*shape)
    rois, images = ROIS / 10, IMAGES
    ours = roi_align(maps, rois, images, 3, scale=1 / STRIDE, sampling_ratio=sampling_ratio, aligned=aligned)
    torch.testing.assert_close(ours, theirs(maps, rois, images, 3, sampling_ratio, aligned, 1 / STRIDE), rtol=0, atol=2e-5)


def test_a_region_without_extent_has_no_features() -> None:
    """As in the operator: with 0 points a cell there is nothing to average. Detectron's regions have a map pixel at least."""
    lines, maps = ROIS[list(WITHOUT_EXTENT)], features() + 5
    places = torch.zeros(len(lines), dtype=torch.int64)
    assert not roi_align(maps, lines, places, 7, scale=1 / STRIDE, sampling_ratio=0).any()
    assert roi_align(maps, lines, places, 7, scale=1 / STRIDE, sampling_ratio=0, aligned=False).abs().amin() > 0
    planes = roi_align_planes(maps[0], lines / STRIDE, places, 7)
    assert planes.shape == (3, 7, 7) and not planes.any()


def test_a_ramp_is_read_at_the_cells_centres() -> None:
    """On a map whose value is its x in pixels of the input, the aligned features are the x of the cells."""
    x = (torch.arange(20.0) + 0.5) * STRIDE
    maps = x.expand(1, 1, 20, 20)
    pooled = roi_align(maps, torch.tensor([[10.0, 20, 38, 48]]), torch.tensor([0]), 7, scale=1 / STRIDE)
    torch.testing.assert_close(pooled[0, 0, 0], 10 + 4 * (torch.arange(7) + 0.5))


def test_the_sparse_gradient_is_that_of_the_dense_matrix() -> None:
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(11, 5, generator=generator, requires_grad=True)
    pixel = torch.randint(0, 11, (7, 4), generator=generator, dtype=torch.int32)
    weight, upstream = torch.rand(7, 4, generator=generator), torch.randn(7, 5, generator=generator)
    sums = module._WeightedSums.apply(table, pixel, weight)
    matrix = torch.zeros(7, 11)
    for row in range(7):
        for column, value in zip(pixel[row].tolist(), weight[row].tolist(), strict=True):
            matrix[row, column] += value
    torch.testing.assert_close(sums, matrix @ table)
    sums.backward(upstream)
    torch.testing.assert_close(table.grad, matrix.T @ upstream)


def test_no_rois() -> None:
    maps = features().requires_grad_()
    pooled = roi_align(maps, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 7, scale=0.25)
    assert pooled.shape == (0, 5, 7, 7)
    pooled.sum().backward()
    assert maps.grad is not None and not maps.grad.any()


def test_no_gradient_flows_to_the_boxes() -> None:
    rois = ROIS.clone().requires_grad_()
    assert roi_align(features().requires_grad_(), rois, IMAGES, 3, scale=0.25).requires_grad
    assert not roi_align(features(), rois, IMAGES, 3, scale=0.25).requires_grad


# ----------------------------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_levels_are_torchvisions(sampling_ratio: int) -> None:
    generator = torch.Generator().manual_seed(5)
    strides = (4, 8, 16, 32)
    maps = [torch.randn(2, 3, 512 // stride, 640 // stride, generator=generator) for stride in strides]
    start, sides = torch.rand(40, 2, generator=generator) * 200, torch.exp(torch.rand(40, 2, generator=generator) * 5 + 1)
    rois = torch.cat([start, start + sides], dim=1)
    exact = torch.tensor([[0.0, 0, side, side] for side in (56, 112, 224, 448, 111.9, 112.1)])
    rois = torch.cat([rois, exact])
    images = torch.arange(len(rois)) % 2
    levels = assign_levels(rois, 4)
    assert set(levels.tolist()) == {0, 1, 2, 3}
    ours = pool_levels(maps, strides, levels, rois, images, 7, sampling_ratio=sampling_ratio, aligned=False)
    fixed = pool_levels(maps, strides, levels, rois, images, 7, sampling_ratio=sampling_ratio, aligned=False, fixed_shapes=True)
    torch.testing.assert_close(fixed, ours, rtol=0, atol=5e-5)

    pool = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, sampling_ratio)
    named = OrderedDict((str(index), level) for index, level in enumerate(maps))
    expected = pool(named, [rois[images == 0], rois[images == 1]], [(512, 640)] * 2)
    torch.testing.assert_close(torch.cat([ours[images == 0], ours[images == 1]]), expected, rtol=0, atol=5e-5)


def test_levels_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, side, side] for side in (1, 55, 111.9, 112, 223.9, 224, 447.9, 448, 5000)])
    assert assign_levels(boxes, 4).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert assign_levels(torch.tensor([[5.0, 5, 5, 5]]), 4).tolist() == [0]
    assert assign_levels(torch.zeros(0, 4), 4).tolist() == []
    assert assign_levels(torch.tensor([[0.0, 0, 64, 256]]), 4).tolist() == [1]  # by area: 128 a side


def test_only_the_map_of_the_level_has_gradients() -> None:
    maps = [torch.ones(1, 1, 8, 8, requires_grad=True), torch.ones(1, 1, 4, 4, requires_grad=True)]
    rois = torch.tensor([[0.0, 0, 16, 16], [8, 8, 24, 24]])
    pool_levels(maps, (4, 8), torch.tensor([1, 1]), rois, torch.tensor([0, 0]), 2).sum().backward()
    assert maps[0].grad is None or not maps[0].grad.any()
    assert maps[1].grad is not None and float(maps[1].grad.sum()) == pytest.approx(8.0)  # 2 RoIs of 4 cells, weights of 1


def test_planes_are_read_as_torchvision_reads_them() -> None:
    """RoIs inside, across each border, beyond it, and of many points a cell."""
    torch.manual_seed(0)
    planes = (torch.rand(3, 40, 30) < 0.5).to(torch.uint8)
    rois = torch.tensor([(3.2, 4.1, 20.7, 33.3), (-9, -12, 14, 18), (20, 30, 55, 70), (-90, -80, -50, -40), (-300, -200, 400, 500)])
    indices = torch.tensor([0, 1, 2, 0, 1])
    indexed = torch.cat([indices[:, None].float(), rois], dim=1)
    expected = torchvision.ops.roi_align(planes[:, None].float(), indexed, 7, aligned=True)[:, 0]
    torch.testing.assert_close(roi_align_planes(planes, rois, indices, 7), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_of_16_bits_do_not_round_the_rois(dtype: torch.dtype) -> None:
    """A ramp of the column's number, read near column 1000, where neighbouring numbers of bfloat16 are 4 apart."""
    ramp = (torch.arange(1200.0) % 8).expand(1, 1, 4, 1200)
    rois = torch.tensor([[1001.0, 0, 1003, 4], [1002.0, 0, 1004, 4]])
    # With fixed shapes and as many points as there are pixels, torchvision's operator does the work on a CPU as on a GPU.
    pooled = roi_align(ramp.to(dtype), rois, torch.zeros(2, dtype=torch.int64), 1, scale=1.0, sampling_ratio=0, fixed_shapes=True)
    assert pooled.dtype == dtype
    assert pooled.flatten().tolist() == [1.5, 2.5]  # the mean of columns 1001 and 1002 is that of 1 and 2


@pytest.mark.parametrize("sampling_ratio", [2, 0])
def test_gradients_of_16_bits_are_summed_in_float32(sampling_ratio: int) -> None:
    """400 RoIs read the same few pixels: a sum in bfloat16 grows no more where a summand is below half of its last place."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(1, 4, 8, 8, generator=generator).bfloat16().requires_grad_()
    rois = torch.tensor([8.0, 8, 40, 40]).repeat(400, 1)
    pooled = roi_align(maps, rois, torch.zeros(400, dtype=torch.int64), 2, scale=0.125, sampling_ratio=sampling_ratio)
    assert pooled.dtype == torch.bfloat16
    (gradient,) = torch.autograd.grad(pooled.sum(), maps)
    # Each cell of a RoI hands on a gradient of 1 in parts.
    torch.testing.assert_close(gradient.float().sum(dim=(2, 3)), torch.full((1, 4), 400.0 * 4), rtol=0.004, atol=0)


def test_planes_are_not_rounded_by_autocast() -> None:
    planes = torch.rand(2, 28, 28, generator=torch.Generator().manual_seed(0))
    rois = torch.tensor([[3.3, 4.1, 20.7, 22.2], [0.0, 0, 28, 28]])
    expected = roi_align_planes(planes, rois, torch.arange(2), 14)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(roi_align_planes(planes, rois, torch.arange(2), 14), expected)
