"""Files that other programs' parsers stumble over: one line, whatever they raise."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from boxwood.errors import UserError
from boxwood.interop.foreign import errors_of_file
from boxwood.interop.weights import import_weights, read_tensors
from boxwood.recipes import resolve
from tests.interop.test_caffe import layer


def test_any_damage_to_a_file_of_torch_is_one_line(tmp_path: Path) -> None:
    """Also of the form that torch wrote before 1.6, which is a stream of pickles; torch raises errors of several types."""
    raised = set()
    for old in (True, False):
        buffer = io.BytesIO()
        torch.save({"model": {"a.weight": torch.zeros(3, 3)}}, buffer, _use_new_zipfile_serialization=not old)
        intact, random = buffer.getvalue(), np.random.default_rng(0)
        for trial in range(200):
            content = bytearray(intact[: int(random.integers(1, len(intact)))] if trial % 2 else intact)
            for _ in range(trial % 4):
                content[int(random.integers(len(content)))] = int(random.integers(256))
            file = tmp_path / "model.pth"
            file.write_bytes(content)
            try:
                torch.load(file, weights_only=True)
            except Exception as error:
                raised.add(type(error))
            with contextlib.suppress(UserError):
                read_tensors(file)
    assert raised >= {IndexError, AssertionError, pickle.UnpicklingError}


def test_any_damage_to_a_file_of_caffe_is_one_line(tmp_path: Path) -> None:
    intact, random = layer("conv1", "Convolution", [np.ones((2, 3, 1, 1)), np.ones(2)]), np.random.default_rng(0)
    config = resolve("rpn_r50_c4_1x")
    for trial in range(12):
        content = bytearray(intact[: int(random.integers(1, len(intact)))] if trial % 2 else intact)
        for _ in range(trial % 4):
            content[int(random.integers(len(content)))] = int(random.integers(256))
        (tmp_path / "net.caffemodel").write_bytes(content)
        with pytest.raises(UserError):
            import_weights(tmp_path / "net.caffemodel", "caffe", config)


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), TypeError("a\nb\x1b[2J"), struct.error("4 bytes")])
def test_errors_of_another_programs_parser_become_one_line(error: Exception) -> None:
    with pytest.raises(UserError, match=r"^a\.pth: ") as raised, errors_of_file("a.pth"):
        raise error
    assert str(raised.value).isprintable()
    with pytest.raises(KeyboardInterrupt), errors_of_file("a.pth"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(1).expand(10**6, 10**6), torch.eye(3).to_sparse(), torch.zeros(3, dtype=torch.complex64)],
    ids=["expanded", "sparse", "complex"],
)
def test_a_tensor_that_does_not_hold_its_numbers_is_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"a.weight": tensor}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"model\.pth: "):
        read_tensors(tmp_path / "model.pth")
