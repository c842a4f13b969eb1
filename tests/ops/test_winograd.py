"""Winograd's algorithm against the definition in double precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood.ops import winograd
from boxwood.ops.winograd import winograd_conv2d

SIDES = st.integers(1, 19)


@settings(max_examples=60)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), SIDES, SIDES, st.booleans(), st.sampled_from([1, 400, 10**6]))
def test_the_result_is_that_of_the_definition(
    images: int, channels: int, channels_out: int, height: int, width: int, bias: bool, part: int
) -> None:
    """Whatever the memory format, and however many rows of tiles or images a part has."""
    generator = torch.Generator().manual_seed(height * 100 + width)
    x = torch.randn(images, channels, height, width, generator=generator)
    weight = torch.randn(channels_out, channels, 3, 3, generator=generator)
    shift = torch.randn(channels_out, generator=generator) if bias else None
    expected = F.conv2d(x.double(), weight.double(), None if shift is None else shift.double(), 1, 1).float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "PART", part)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            result = winograd_conv2d(x.to(memory_format=memory_format), weight, shift)
            assert result.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(result, expected, rtol=0, atol=2e-4)


def test_rounding_errors_of_a_wide_layer() -> None:
    """256 channels: at most a ten-thousandth of the deviation of the outputs."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 256, 24, 40, generator=generator), torch.randn(64, 256, 3, 3, generator=generator)
    expected = F.conv2d(x.double(), weight.double(), None, 1, 1)
    error = (winograd_conv2d(x, weight) - expected).abs().max()
    assert 0 < error < 1e-4 * expected.std()


def test_an_image_that_is_not_finite_changes_no_other() -> None:
    x = torch.randn(3, 4, 14, 14, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    clean = winograd_conv2d(x, weight)
    x[1] = torch.nan
    result = winograd_conv2d(x, weight)
    assert result[1].isnan().all()
    assert torch.equal(result[[0, 2]], clean[[0, 2]])
