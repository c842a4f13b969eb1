"""Generated pictures of textured shapes, with boxes, masks and keypoints, as a COCO data set.

Made for demonstrations and tests: learnt in minutes, yet not trivial. Colour and texture say nothing of the class; shapes
lean, overlap and leave the picture; the truth is what can be seen of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from boxwood.data.synthetic.paint import Picture, color, develop, ground, mix, texture
from boxwood.data.synthetic.writing import CONTRIBUTOR, Tree, write_set
from boxwood.ops.contours import run_lengths, signed_area, simplified, traced

__all__ = ["CLASSES", "KEYPOINTS", "Scene", "Shape", "annotation", "compose_scene", "random_scene", "write_shapes"]

LEAN = np.pi / 6
"""Shapes stand upright or lean by up to this either way, so that top, right, bottom and left mean something."""
CLASSES = ("disc", "triangle", "square", "star", "ring", "cross")
KEYPOINTS = ("top", "right", "bottom", "left")
"""The outermost points of the whole shape in each direction of the picture; left and right swap on a mirror image."""

_TEXTURES = ("plain", "plain", "gradient", "noise", "stripes", "dots", "checks", "waves")
_FINE = 2
"""The map of what is seen has so many pixels a pixel, each way."""
_MIN_VISIBLE = 0.6
"""Of each shape at least this share is seen..."""
_MIN_SIDE = 14.0
"""...and its visible part is at least so many pixels wide and high."""
_SMALLEST_PART = 4.0
"""Square pixels; slivers and pin holes below it are left out of the outline."""
_TRIES = 12

Rng = np.random.Generator


@dataclass
class Shape:
    """One object: where it is, and how it is drawn."""

    label: int
    outlines: list[NDArray[np.float64]]
    """The outer outline and, for a ring, the inner one: (n, 2) x, y in pixels of the picture."""
    left: int
    top: int
    cover: NDArray[np.float32]
    """(h, w) 0..1: the share of each pixel that the shape covers, from (left, top) on."""
    solid: NDArray[np.bool_]
    """(h * 2, w * 2): the same on the fine map."""


@dataclass
class Scene:
    """Shapes from back to front, and the map of which one is seen where."""

    size: tuple[int, int]
    shapes: list[Shape]
    seen: NDArray[np.int16]
    """(H * 2, W * 2): index of the shape that is in front, -1 for the ground."""


# ------------------------------------------------------------------------------------------------------------ geometry


def _unit_outlines(label: int, rng: Rng) -> list[NDArray[np.float64]]:
    """The outlines of a shape of radius 1 about the origin."""
    name = CLASSES[label]
    if name in ("disc", "ring"):
        circle = _polar(np.linspace(0, 2 * np.pi, 72, endpoint=False), 1.0)
        return [circle] if name == "disc" else [circle, circle * rng.uniform(0.45, 0.62)]
    if name == "triangle":
        half = rng.uniform(0.85, 1.2)  # Half the angle under which the base is seen.
        return [_polar(np.array([0.0, np.pi - half, np.pi + half]), 1.0)]
    if name == "square":
        return [_polar(np.pi / 4 + np.arange(4) * np.pi / 2, 1.0)]
    if name == "star":
        radii = np.where(np.arange(10) % 2 == 0, 1.0, rng.uniform(0.4, 0.52))
        return [_polar(np.arange(10) * np.pi / 5, radii)]
    arm = rng.uniform(0.24, 0.34)
    quarter = np.array([[arm, 1.0], [arm, arm], [1.0, arm]])
    turns = [np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) for t in -np.arange(4) * np.pi / 2]
    return [np.concatenate([quarter @ turn.T for turn in turns]) / np.hypot(1.0, arm)]


def _polar(angles: NDArray[np.float64], radii: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _random_shape(rng: Rng, size: tuple[int, int]) -> Shape:
    """A shape of random class, size, proportions and lean, near the origin."""
    label = int(rng.integers(len(CLASSES)))
    unit = min(size) / 240
    radius = unit * np.exp(rng.uniform(np.log(24.0), np.log(62.0)))
    angle, stretch = rng.uniform(-LEAN, LEAN), rng.uniform(0.8, 1.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = rng.random(2) + radius + 2
    outlines = [outline * (stretch, 1.0) @ turn.T * radius + shift for outline in _unit_outlines(label, rng)]
    side = int(2 * radius + 6)
    canvas = Image.new("L", (side * 4, side * 4))
    draw = ImageDraw.Draw(canvas)
    for outline, fill in zip(outlines, (255, 0)):
        # Pillow fills the pixels whose centres are inside when corners are given half a pixel back.
        draw.polygon([(float(x) * 4 - 0.5, float(y) * 4 - 0.5) for x, y in outline], fill=fill)
    cover = np.asarray(canvas.reduce(4), dtype=np.float32) / np.float32(255)
    return Shape(label, outlines, 0, 0, cover, np.asarray(canvas.reduce(4 // _FINE)) >= 128)


def _moved(shape: Shape, left: int, top: int) -> Shape:
    step = np.array([left - shape.left, top - shape.top])
    moved = [outline + step for outline in shape.outlines]
    return Shape(shape.label, moved, left, top, shape.cover, shape.solid)


def _window(shape: Shape, size: tuple[int, int], scale: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The visible rows and columns of the shape in the picture, and the same in its crop; ``scale`` cells per pixel."""
    height, width = shape.cover.shape
    rows = slice(max(shape.top, 0) * scale, min(shape.top + height, size[0]) * scale)
    columns = slice(max(shape.left, 0) * scale, min(shape.left + width, size[1]) * scale)
    crop_rows = slice(rows.start - shape.top * scale, rows.stop - shape.top * scale)
    crop_columns = slice(columns.start - shape.left * scale, columns.stop - shape.left * scale)
    return (rows, columns), (crop_rows, crop_columns)


def random_scene(rng: Rng, size: tuple[int, int]) -> Scene:
    """Three to seven shapes that overlap, each still to be recognised."""
    height, width = size
    scene = Scene(size, [], np.full((height * _FINE, width * _FINE), -1, dtype=np.int16))
    for _ in range(int(rng.integers(3, 8))):
        shape = _random_shape(rng, size)
        side = shape.cover.shape[0]
        for _ in range(_TRIES):
            if scene.shapes and rng.random() < 0.4:  # Beside another one, so that shapes cover each other.
                other = scene.shapes[int(rng.integers(len(scene.shapes)))]
                reach = (side + other.cover.shape[0]) / 2
                center = np.array([other.left, other.top]) + other.cover.shape[0] / 2 + rng.uniform(-0.8, 0.8, 2) * reach
            else:
                center = rng.uniform((0.2 * side, 0.2 * side), (width - 0.2 * side, height - 0.2 * side))
            left, top = (center - side / 2).astype(int).tolist()
            if _add(scene, _moved(shape, left, top)):
                break
    return scene


def _add(scene: Scene, shape: Shape) -> bool:
    """Put a shape in front of the others, unless one of them or it would then be too little to be seen."""
    (rows, columns), in_crop = _window(shape, scene.size, _FINE)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return False
    seen = scene.seen.copy()
    seen[rows, columns][shape.solid[in_crop]] = len(scene.shapes)
    shapes = [*scene.shapes, shape]
    behind = np.bincount(scene.seen[rows, columns].ravel() + 1, minlength=len(shapes) + 1)[1:]
    for index in (*np.flatnonzero(behind).tolist(), len(scene.shapes)):
        visible = _visible(seen, shapes[index], index, scene.size)
        if np.count_nonzero(visible) < _MIN_VISIBLE * np.count_nonzero(shapes[index].solid):
            return False
        across, down = np.flatnonzero(visible.any(axis=0)), np.flatnonzero(visible.any(axis=1))
        if min(np.ptp(across), np.ptp(down)) + 1 < _MIN_SIDE * _FINE * min(scene.size) / 240:
            return False
    scene.shapes, scene.seen = shapes, seen
    return True


def _visible(seen: NDArray[np.int16], shape: Shape, index: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The visible part of a shape on the fine map, within its window."""
    window, _ = _window(shape, size, _FINE)
    visible: NDArray[np.bool_] = seen[window] == index
    return visible


# ------------------------------------------------------------------------------------------------------------ painting


def compose_scene(scene: Scene, rng: Rng) -> Picture:
    """The scene in colour: its ground, and each shape with its texture, shading and shadow; (H, W, 3) float32, 0..1."""
    picture = ground(rng, scene.size)
    light = rng.uniform(0, 2 * np.pi)
    for shape in scene.shapes:
        _paint(picture, scene, shape, light, rng)
    return picture


def _paint(picture: Picture, scene: Scene, shape: Shape, light: float, rng: Rng) -> None:
    window, in_crop = _window(shape, scene.size, 1)
    cover = shape.cover[in_crop][:, :, None]
    below = picture[window]
    size = (shape.cover.shape[0], shape.cover.shape[1])
    blurred = Image.fromarray((shape.cover * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(max(1.2, size[0] / 24)))
    soft = np.asarray(blurred, dtype=np.float32)[:, :, None] / 255
    shadow = np.roll(soft, (round(2.5 * np.sin(light)), round(2.5 * np.cos(light))), axis=(0, 1))[in_crop]
    below *= 1 - np.float32(rng.uniform(0.1, 0.4)) * shadow * (1 - cover)
    first, second = _contrasting(below, cover, rng)
    surface = mix(texture(rng, size, _TEXTURES[int(rng.integers(len(_TEXTURES)))]), first, second)
    # Bright towards the light, dark at the rim: enough to look like an object.
    y, x = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None], np.linspace(-1, 1, size[1], dtype=np.float32)
    shade = 1 - np.float32(0.16 * np.cos(light)) * x - np.float32(0.16 * np.sin(light)) * y
    surface = np.clip(surface * (shade[:, :, None] * (0.62 + 0.38 * soft)), 0, 1).astype(np.float32)
    below += cover * (surface[in_crop] - below)


def _contrasting(below: Picture, cover: NDArray[np.float32], rng: Rng) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two tones of a colour for a texture whose mean stands out from what lies below."""
    around = (below * cover).sum(axis=(0, 1)) / max(float(cover.sum()), 1e-6)
    best, best_distance = None, -1.0
    for _ in range(8):
        first = color(rng, (0.3, 0.95), (0.4, 1.0))
        # The other tone is darker, paler, or a little of another colour.
        second = first * np.float32(rng.uniform(0.5, 0.8)) + np.float32(rng.uniform(0.0, 0.25)) * color(rng, (0.0, 1.0), (0.0, 1.0))
        distance = float(np.linalg.norm((first + second) / 2 - around))
        if distance > best_distance:
            best, best_distance = (first, second), distance
        if distance > 0.4:
            break
    assert best is not None
    return best


# ----------------------------------------------------------------------------------------------------------- annotation


def annotation(scene: Scene, index: int) -> dict[str, Any]:
    """What is seen of shape ``index``, as COCO writes it: polygons, or run lengths where it has holes.

    Its keypoints are those of the whole shape, hidden (1) where something is in front and not labelled (0) outside the picture.
    """
    shape = scene.shapes[index]
    visible = _visible(scene.seen, shape, index, scene.size)
    area = np.count_nonzero(visible)
    if area == np.count_nonzero(shape.solid) and len(shape.outlines) == 1:
        outline = shape.outlines[0].round(2)
        (x1, y1), (x2, y2) = outline.min(axis=0), outline.max(axis=0)
        segmentation, box = [outline.ravel().tolist()], [x1, y1, x2 - x1, y2 - y1]
    else:
        segmentation, box = _traced_segmentation(scene, shape, visible)
    return {
        "category_id": shape.label + 1,
        "bbox": [round(float(side), 2) for side in box],
        "area": area / _FINE**2,
        "iscrowd": 0,
        "segmentation": segmentation,
        **_keypoints(scene, shape, index),
    }


def _traced_segmentation(scene: Scene, shape: Shape, visible: NDArray[np.bool_]) -> tuple[Any, list[float]]:
    """The segmentation of a shape that is partly hidden or has a hole, and its box x, y, width, height."""
    (rows, columns), _ = _window(shape, scene.size, _FINE)
    outer, holes = traced(visible)
    sizes = [signed_area(outline) / _FINE**2 for outline in outer]
    parts = [outline for outline, area in zip(outer, sizes, strict=True) if area >= min(_SMALLEST_PART, max(sizes))]
    x1, y1 = np.min([part.min(axis=0) for part in parts], axis=0)
    x2, y2 = np.max([part.max(axis=0) for part in parts], axis=0)
    origin = np.array([columns.start, rows.start])
    if any(-signed_area(hole) / _FINE**2 >= _SMALLEST_PART for hole in holes):
        whole = np.zeros(scene.size, dtype=np.bool_)
        cells = [visible[y::_FINE, x::_FINE].astype(np.int64) for y in range(_FINE) for x in range(_FINE)]
        whole[_window(shape, scene.size, 1)[0]] = sum(cells) >= _FINE**2 / 2
        segmentation: Any = run_lengths(whole)
    else:
        # A slanted edge runs through the middles of its steps.
        middles = [(part + np.roll(part, -1, axis=0)) / 2 for part in parts]
        segmentation = [((simplified(part, 0.6) + origin) / _FINE).round(2).ravel().tolist() for part in middles]
    left, top = origin.tolist()
    return segmentation, [float(side) / _FINE for side in (x1 + left, y1 + top, x2 - x1, y2 - y1)]


def _keypoints(scene: Scene, shape: Shape, index: int) -> dict[str, Any]:
    outline = shape.outlines[0]
    center = outline.mean(axis=0)
    extremes = (outline[:, 1].argmin(), outline[:, 0].argmax(), outline[:, 1].argmax(), outline[:, 0].argmin())
    keypoints: list[float] = []
    for point in outline[list(extremes)]:
        height, width = scene.size
        if not (0.5 <= point[0] <= width - 0.5 and 0.5 <= point[1] <= height - 0.5):
            keypoints += [0, 0, 0]
            continue
        inward = point + (center - point) / max(float(np.hypot(*(center - point))), 1e-6) * 1.5
        column, row = (inward * _FINE).astype(int).tolist()
        # COCO counts pixels by their indices: the centre of pixel 0 is 0.
        x, y = (point - 0.5).round(1).tolist()
        keypoints += [x, y, 2 if scene.seen[row, column] == index else 1]
    return {"keypoints": keypoints, "num_keypoints": sum(v > 0 for v in keypoints[2::3])}


# --------------------------------------------------------------------------------------------------------------- files


def write_shapes(
    out: str | Path, train: int = 600, val: int = 100, seed: int = 0, size: tuple[int, int] = (240, 320), *, workers: int = 0
) -> None:
    """Write ``train`` and ``val`` pictures of ``size`` (height, width) below ``out``: train.json, train/, val.json, val/.

    Picture k of a split depends only on ``seed``, the split and k, so a larger set begins with the pictures of a smaller one. With
    ``workers`` so many processes draw; as those of a data loader, they need ``if __name__ == "__main__":`` in a script on systems
    that start processes anew.
    """
    categories = [
        {"id": number, "name": name, "supercategory": "shape", "keypoints": list(KEYPOINTS)}
        for number, name in enumerate(CLASSES, start=1)
    ]
    info = {"description": "Generated textured shapes", "contributor": CONTRIBUTOR}
    draw = partial(_draw, seed, size)
    write_set(out, train, val, {"info": info, "categories": categories}, draw, image_format="JPEG", workers=workers)


def _draw(seed: int, size: tuple[int, int], tree: Tree, split: int, number: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng([seed, split, number])
    scene = random_scene(rng, size)
    picture = develop(compose_scene(scene, rng), rng)
    for index in range(len(scene.shapes)):
        row = {"id": len(tree["annotations"]) + 1, "image_id": number + 1, **annotation(scene, index)}
        tree["annotations"].append(row)
    return picture
