"""Dense pose for the gallery: pictures of parts that lie over the image, and annotated points.

A surface is ``[picture, x, y, width, height, points]``: a data URL (empty for none) and where it lies, in pixels of the small
picture, and points ``[x, y, colour]``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from boxwood.dense_pose import coarse_parts, part_colors, placed_box, stored_planes, surface_layer
from boxwood.ops.dense_pose import BOX_SIDE, COARSE_OF_PART

__all__ = ["detected_surface", "true_surface"]

PART_OF_COARSE = np.array([COARSE_OF_PART.index(coarse) for coarse in range(max(COARSE_OF_PART) + 1)])
"""The part whose colour a coarse part has: the first of those that it joins."""


def detected_surface(record: Mapping[str, Any], box: Sequence[float], scale: float) -> list[Any] | None:
    """The surface of a detection's parts, and lines of equal U and V; None where the record has none, or one that is damaged.

    ``box`` is x, y, width, height in pixels of the image, ``scale`` the small picture's pixels for each of them.
    """
    try:
        planes = stored_planes(record, box)
    except ValueError:
        return None
    left, top, width, height = placed_box((box[0], box[1], box[0] + box[2], box[1] + box[3]))
    parts, u, v = _resized(planes, scale)
    return _surface((left, top, width, height), scale, surface_layer(parts, u / np.float32(255), v / np.float32(255)), [])


def true_surface(annotation: Mapping[str, Any], scale: float) -> list[Any] | None:
    """The surface of an annotation: its coarse parts, and its points in the colours of their parts; None where it has neither."""
    masks, xs = annotation.get("dp_masks"), annotation.get("dp_x") or []
    x, y, width, height = annotation["bbox"]
    points = [
        [round((x + px * width / BOX_SIDE) * scale, 1), round((y + py * height / BOX_SIDE) * scale, 1), _color(int(part))]
        for px, py, part in zip(xs, annotation.get("dp_y") or [], annotation.get("dp_I") or [], strict=False)
    ]
    layer = None
    if isinstance(masks, list) and any(masks):  # one mask of the whole body tells no parts
        try:
            coarse = PART_OF_COARSE[coarse_parts(masks)]
        except ValueError:
            coarse = np.zeros((1, 1), dtype=np.int64)
        (parts,) = _resized(coarse[None].astype(np.uint8), scale, (height, width))
        layer = surface_layer(parts, *np.zeros((2, *parts.shape), dtype=np.float32))
    return _surface((x, y, width, height), scale, layer, points) if points or layer is not None else None


# ------------------------------------------------------------------------------------------------------------ internals


def _resized(planes: NDArray[np.uint8], scale: float, size: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """(C, h, w) at ``scale`` of ``size`` (height, width), by default of its own."""
    height, width = size or planes.shape[1:]
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack([np.asarray(Image.fromarray(plane).resize(shape, Image.Resampling.NEAREST)) for plane in planes])


def _surface(box: Sequence[float], scale: float, layer: Image.Image | None, points: list[list[Any]]) -> list[Any]:
    address = ""
    if layer is not None:
        content = io.BytesIO()
        layer.save(content, "PNG", optimize=True)
        address = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    return [address, *(round(value * scale, 1) for value in box), points]


def _color(part: int) -> str:
    colors = part_colors()
    return "#" + "".join(f"{round(float(value)):02x}" for value in colors[part if 0 <= part < len(colors) else 0])
