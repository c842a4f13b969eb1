"""Caffe's ImageNet networks (``.caffemodel``) as Detectron's blobs: under its names, batch norms folded into scale and shift.

The file is a protocol buffer, ``NetParameter`` of caffe.proto, of which only the fields below are read; it holds no code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood.errors import UserError

__all__ = ["read_caffemodel"]

Arrays = list[NDArray[np.float32]]

MAX_BYTES = 2**31 - 1
"""The limit of protocol buffers."""

MESSAGES = {
    "BlobShape": {"dim": (1, "int64", "packed")},
    "Blob": {
        **{name: (number, "int32", "") for number, name in enumerate(("num", "channels", "height", "width"), start=1)},
        "data": (5, "float", "packed"),
        "shape": (7, "BlobShape", ""),
    },
    "BatchNorm": {"eps": (3, "float", "")},
    "Layer": {
        "name": (1, "string", ""),
        "type": (2, "string", ""),
        "blobs": (7, "Blob", "repeated"),
        "batch_norm_param": (139, "BatchNorm", ""),
    },
    "OldLayer": {"name": (4, "string", ""), "type": (5, "int32", ""), "blobs": (6, "Blob", "repeated")},
    "Net": {"layers": (2, "OldLayer", "repeated"), "layer": (100, "Layer", "repeated")},
}
"""Message -> field -> number, type, and whether it is repeated."""
OLD_TYPES = {4: "Convolution", 14: "InnerProduct"}


def read_caffemodel(path: Path) -> dict[str, NDArray[np.float32]]:
    """The blobs of a ResNet or a VGG under Detectron's names: ``conv1_w``, ``res_conv1_bn_s``, ``res2_0_branch2a_w``, ``fc6_b``.

    Raises `UserError` where the file cannot be read, is no network of Caffe, or has a batch norm without its scale or a scale
    without its batch norm. Needs protobuf.
    """
    blobs: dict[str, NDArray[np.float32]] = {}
    norms: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    scales: dict[str, Arrays] = {}
    for name, kind, arrays, eps in _layers(path):
        if kind in ("Convolution", "InnerProduct") and arrays:
            base, weight = _detectrons(name), arrays[0]
            blobs[f"{base}_w"] = weight.reshape(weight.shape[-2:]) if kind == "InnerProduct" else weight
            if len(arrays) > 1:
                blobs[f"{base}_b"] = arrays[1].ravel()
        elif kind == "BatchNorm" and len(arrays) == 3:
            # The third array is the factor that the mean and the variance have to be divided by.
            total = float(arrays[2].ravel()[0]) or 1.0
            norms[_normed(name)] = (arrays[0].ravel() / total, np.sqrt(arrays[1].ravel() / total + np.float32(eps)))
        elif kind == "Scale" and len(arrays) == 2:
            scales[_normed(name)] = [array.ravel() for array in arrays]
    if norms.keys() != scales.keys():
        raise UserError(
            f"{path}: batch norm and scale of {sorted(norms.keys() ^ scales.keys())[0]} do not both exist; copy the file again"
        )
    if not blobs:
        raise UserError(f"{path}: has no convolutions; name a .caffemodel of an ImageNet network")
    for base, (mean, deviation) in norms.items():
        gain, shift = scales[base]
        scale = gain / deviation
        bias = blobs.pop(f"{base}_b", np.float32(0))  # bias of the convolution before the norm
        norm = "res_conv1" if base == "conv1" else base
        blobs[f"{norm}_bn_s"], blobs[f"{norm}_bn_b"] = scale, shift + (bias - mean) * scale
    return blobs


def _layers(path: Path) -> Iterator[tuple[str, str, Arrays, float]]:
    """For every layer: name, type, arrays, and the epsilon of a batch norm."""
    try:
        from google.protobuf.message import DecodeError
    except ImportError:
        raise UserError(
            f"{path}: Caffe's files are read by protobuf, which is not installed; run: pip install 'boxwood[caffe]'"
        ) from None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: is larger than a network of Caffe can be")
        net = _message("Net").FromString(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({(error.strerror or '').lower()}); name an existing file") from None
    except DecodeError:
        raise UserError(f"{path}: is no network of Caffe, or cut short; copy it again") from None
    if any(isinstance(text, bytes) for layer in (*net.layer, *net.layers) for text in (layer.name, layer.type)):
        raise UserError(f"{path}: is damaged: the name of a layer is no text; copy it again")  # protobuf gives what is not UTF-8 so
    for layer in net.layer:
        eps = layer.batch_norm_param.eps if layer.batch_norm_param.HasField("eps") else 1e-5
        yield layer.name, layer.type, [_array(blob, path, layer.name) for blob in layer.blobs], eps
    for layer in net.layers:
        yield layer.name, OLD_TYPES.get(layer.type, ""), [_array(blob, path, layer.name) for blob in layer.blobs], 1e-5


def _array(blob: Any, path: Path, layer: str) -> NDArray[np.float32]:
    shape = list(blob.shape.dim) if blob.HasField("shape") else [blob.num, blob.channels, blob.height, blob.width]
    values = np.array(blob.data, dtype=np.float32)
    if any(side < 0 for side in shape) or np.prod(shape, dtype=np.float64) != len(values):
        raise UserError(f"{path}: layer {layer}: {len(values)} numbers do not fill the shape {shape}; copy the file again")
    return values.reshape(shape)


def _message(name: str) -> Any:
    """The protobuf class of a message of `MESSAGES`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    scalars = {"int32": field.TYPE_INT32, "int64": field.TYPE_INT64, "float": field.TYPE_FLOAT, "string": field.TYPE_STRING}
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for message, fields in MESSAGES.items():
        described = file.message_type.add(name=message)
        for key, (number, kind, many) in fields.items():
            added = described.field.add(name=key, number=number, label=field.LABEL_REPEATED if many else field.LABEL_OPTIONAL)
            added.type = scalars.get(kind, field.TYPE_MESSAGE)
            if kind not in scalars:
                added.type_name = f".caffe.{kind}"
            added.options.packed = many == "packed"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))


def _normed(name: str) -> str:
    """The convolution that a batch norm or a scale belongs to.

    >>> _normed("bn4b11_branch2c"), _normed("scale_conv1")
    ('res4_11_branch2c', 'conv1')
    """
    return _detectrons(re.sub(r"^(?:bn|scale)(?=\d)", "res", re.sub(r"^(?:bn|scale)_", "", name)))


def _detectrons(name: str) -> str:
    """Detectron's name of a layer: blocks are counted from 0; Caffe's blocks have letters, and in long stages ``a, b1, b2, ...``.

    >>> _detectrons("res2c_branch2a"), _detectrons("res4b11_branch2c"), _detectrons("conv1_2")
    ('res2_2_branch2a', 'res4_11_branch2c', 'conv1_2')
    """
    match = re.fullmatch(r"res(\d)([a-z])(\d*)_(branch\w+)", name)
    if match is None:
        return name
    return f"res{match[1]}_{match[3] or ord(match[2]) - ord('a')}_{match[4]}"
