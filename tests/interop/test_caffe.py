"""Caffe's networks, encoded by the test itself, become Detectron's blobs and then our backbones."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxwood.errors import UserError
from boxwood.interop.caffe import read_caffemodel
from boxwood.interop.weights import import_weights
from boxwood.recipes import resolve
from tests.interop.detectron_blobs import backbone

Array = np.ndarray[Any, np.dtype[np.float32]]

# ------------------------------------------------------------------------------------- the wire format, written by hand


def varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def text(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def whole(field: int, number: int) -> bytes:
    return varint(field << 3) + varint(number)


def blob(array: Array, old: bool) -> bytes:
    if old:
        sides = (1,) * (4 - array.ndim) + array.shape
        shape = b"".join(whole(field, side) for field, side in enumerate(sides, start=1))
    else:
        shape = text(7, text(1, b"".join(map(varint, array.shape))))
    return text(5, array.astype("<f4").tobytes()) + shape


def layer(name: str, kind: str, arrays: list[Array], eps: float | None = None) -> bytes:
    norm = b"" if eps is None else text(139, varint(3 << 3 | 5) + struct.pack("<f", eps))
    content = text(1, name.encode()) + text(2, kind.encode()) + whole(10, 1) + norm
    return text(100, content + b"".join(text(7, blob(array, old=False)) for array in arrays))


def old_layer(name: str, kind: int, arrays: list[Array]) -> bytes:
    return text(2, text(4, name.encode()) + whole(5, kind) + b"".join(text(6, blob(array, old=True)) for array in arrays))


def values(*shape: int) -> Array:
    return np.resize(np.random.default_rng(len(shape)).normal(size=997), shape).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------ the tests


def test_a_norm_and_its_scale_are_folded(tmp_path: Path) -> None:
    """y = (conv + bias - mean / f) / sqrt(variance / f + eps) * gain + shift, with f the third array of the norm."""
    mean, variance, gain, shift, bias = np.float32([[2, -4], [8, 18], [3, 5], [0.5, 0.25], [1, 2]])
    content = text(1, b"net")
    content += layer("data", "Input", [])
    content += layer("res4b11_branch2c", "Convolution", [values(2, 3, 1, 1), bias])
    content += layer("bn4b11_branch2c", "BatchNorm", [mean, variance, np.float32([2])], eps=0.5)
    content += layer("scale4b11_branch2c", "Scale", [gain, shift])
    content += layer("fc1000", "InnerProduct", [values(4, 2), values(4)])
    (tmp_path / "net.caffemodel").write_bytes(content)
    blobs = read_caffemodel(tmp_path / "net.caffemodel")
    assert set(blobs) == {f"res4_11_branch2c_{end}" for end in ("w", "bn_s", "bn_b")} | {"fc1000_w", "fc1000_b"}
    scale = gain / np.sqrt(variance / 2 + 0.5)
    np.testing.assert_allclose(blobs["res4_11_branch2c_bn_s"], scale, rtol=1e-6)
    np.testing.assert_allclose(blobs["res4_11_branch2c_bn_b"], (bias - mean / 2) * scale + shift, rtol=1e-6)
    assert np.array_equal(blobs["res4_11_branch2c_w"], values(2, 3, 1, 1)) and blobs["fc1000_w"].shape == (4, 2)


def test_a_resnet(tmp_path: Path) -> None:
    """Every blob of ResNet-50 from Caffe's layers, as its authors named them."""
    content, shapes = b"", backbone()
    for name, shape in shapes.items():
        if not name.endswith("_w"):
            continue
        stage, _, rest = name.removesuffix("_w").partition("_")
        block, _, branch = rest.partition("_")
        middle = "_conv1" if name == "conv1_w" else f"{stage.removeprefix('res')}{'abcdef'[int(block or 0)]}_{branch}"
        convolution = "conv1" if name == "conv1_w" else f"res{middle}"
        content += layer(convolution, "Convolution", [values(*shape)])
        content += layer(f"bn{middle}", "BatchNorm", [values(shape[0]), values(shape[0]) ** 2, np.float32([1])])
        content += layer(f"scale{middle}", "Scale", [values(shape[0]), values(shape[0])])
    content += layer("fc1000", "InnerProduct", [values(10, 2048), values(10)])
    (tmp_path / "ResNet-50-model.caffemodel").write_bytes(content)
    blobs = read_caffemodel(tmp_path / "ResNet-50-model.caffemodel")
    assert {name: blob.shape for name, blob in blobs.items() if "fc1000" not in name} == shapes
    config = resolve("detectron/e2e_faster_rcnn_R-50-FPN_1x")
    imported = import_weights(tmp_path / "ResNet-50-model.caffemodel", "caffe", config)
    assert {*imported.report.loaded.values(), *imported.report.reordered.values()} == shapes.keys()
    assert list(imported.report.unused) == ["fc1000_b", "fc1000_w"] and not any(
        n.startswith("backbone.") for n in imported.report.initialised
    )
    stem = imported.saved.state["backbone.conv1.conv.weight"]
    assert torch.equal(stem, torch.from_numpy(values(64, 3, 7, 7)).flip(1))


def test_a_network_of_the_old_format(tmp_path: Path) -> None:
    """VGG's format: four sides for every array, types as numbers."""
    content = old_layer("conv1_1", 4, [values(2, 3, 3, 3), values(2)]) + old_layer("relu1_1", 18, [])
    content += old_layer("fc6", 14, [values(5, 7), values(5)])
    (tmp_path / "vgg.caffemodel").write_bytes(content)
    blobs = read_caffemodel(tmp_path / "vgg.caffemodel")
    assert {name: blob.shape for name, blob in blobs.items()} == {
        "conv1_1_w": (2, 3, 3, 3), "conv1_1_b": (2,), "fc6_w": (5, 7), "fc6_b": (5,),
    }  # fmt: skip
    assert np.array_equal(blobs["fc6_w"], values(5, 7))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (layer("conv1", "Convolution", [values(2, 3, 1, 1)])[:-3], "cut short"),
        (b"", "no convolutions"),
        (b"hello world", "no network of Caffe"),
        (layer("bn_conv1", "BatchNorm", [values(2), values(2) ** 2, np.float32([1])]), "do not both exist"),
        (text(100, text(1, b"conv1") + text(2, b"Convolution") + text(7, text(7, text(1, b"\x05")))), "do not fill the shape"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_is_one_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_caffemodel(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
