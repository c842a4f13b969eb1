"""Colours, textures and grounds of generated pictures.

Images are (H, W, 3) float32 in 0..1; a texture is a field (H, W) float32 in 0..1 that mixes two colours. In memory an image is
three planes, one a channel: NumPy is several times faster along them than along the three values of a pixel.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["Field", "Picture", "color", "develop", "ground", "mix", "smooth_noise", "texture"]

Field = NDArray[np.float32]
Picture = NDArray[np.float32]
Rng = np.random.Generator


def color(rng: Rng, saturation: tuple[float, float], value: tuple[float, float], hue: tuple[float, float] = (0.0, 1.0)) -> Field:
    """A random colour, (3,) float32 RGB, of a hue, saturation and value within the given ranges."""
    hsv = (rng.uniform(*hue) % 1, rng.uniform(*saturation), rng.uniform(*value))
    return np.array(colorsys.hsv_to_rgb(*hsv), dtype=np.float32)


def mix(field: Field, first: Field, second: Field) -> Picture:
    """The colour ``first`` where the field is 0, ``second`` where it is 1."""
    return (first[:, None, None] + field * (second - first)[:, None, None]).transpose(1, 2, 0)


def smooth_noise(rng: Rng, size: tuple[int, int], cell: float) -> Field:
    """Random values about ``cell`` pixels apart, with smooth passages between them."""
    height, width = size
    coarse = rng.random((max(2, int(height / cell) + 2), max(2, int(width / cell) + 2)), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)


def texture(rng: Rng, size: tuple[int, int], kind: str) -> Field:
    """A field of one of the kinds plain, gradient, noise, stripes, dots, checks, waves; phase, angle and scale are random."""
    height, width = size
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 16)
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = x * cosine + y * sine, y * cosine - x * sine
    wave = np.float32(2 * np.pi / period)
    phase = np.float32(rng.uniform(0, 2 * np.pi))
    field: NDArray[Any]
    if kind == "plain":
        field = np.zeros(size, dtype=np.float32)
    elif kind == "gradient":
        field = (u - u.min()) / np.float32(max(float(np.ptp(u)), 1.0))
    elif kind == "noise":
        field = 0.6 * smooth_noise(rng, size, period) + 0.4 * smooth_noise(rng, size, 2.5)
    elif kind == "stripes":
        field = _edge(np.sin(wave * u + phase))
    elif kind == "dots":
        field = _edge(np.cos(wave * u + phase) + np.cos(wave * v) - 0.9)
    elif kind == "checks":
        field = _edge(np.sin(wave / 1.5 * u + phase) * np.sin(wave / 1.5 * v))
    else:
        field = 0.5 + 0.5 * np.sin(wave * u + phase + 2.0 * np.sin(wave / 2 * v))
    return field.astype(np.float32)


def _edge(field: NDArray[Any]) -> Field:
    """Two tones with a soft passage, so that a pattern does not alias."""
    edge: Field = np.clip(field * np.float32(2) + np.float32(0.5), 0, 1)
    return edge


# ------------------------------------------------------------------------------------------------------------ grounds


def ground(rng: Rng, size: tuple[int, int]) -> Picture:
    """What lies behind the objects: a gradient, noise, a tiling or blurred clutter, in muted colours."""
    kinds: tuple[Callable[[Rng, tuple[int, int], Field, Field], Picture], ...] = (_gradient, _clouds, _tiles, _clutter)
    first = color(rng, (0.05, 0.4), (0.25, 0.9))
    second = np.clip(first * rng.uniform(0.6, 1.4) + rng.uniform(-0.12, 0.12, 3), 0.08, 0.95).astype(np.float32)
    picture = kinds[int(rng.integers(len(kinds)))](rng, size, first, second)
    grain = smooth_noise(rng, size, rng.uniform(1.5, 4)) - 0.5
    picture += np.float32(rng.uniform(0.0, 0.11)) * grain[:, :, None]
    return picture


def _gradient(rng: Rng, size: tuple[int, int], first: Field, second: Field) -> Picture:
    return mix(texture(rng, size, "gradient"), first, second)


def _clouds(rng: Rng, size: tuple[int, int], first: Field, second: Field) -> Picture:
    cell = rng.uniform(24, 90)
    field = (
        0.6 * smooth_noise(rng, size, cell) + 0.28 * smooth_noise(rng, size, cell / 3) + 0.12 * smooth_noise(rng, size, cell / 9)
    )
    return mix(np.clip(field * 2 - 0.5, 0, 1), first, second)


def _tiles(rng: Rng, size: tuple[int, int], first: Field, second: Field) -> Picture:
    """A brick wall, or another regular pattern, at the scale of the picture."""
    if rng.random() < 0.4:
        kind = ("stripes", "checks", "waves", "dots")[int(rng.integers(4))]
        return mix(texture(rng, size, kind) * np.float32(rng.uniform(0.4, 0.9)), first, second)
    height, width = size
    brick_width, brick_height = rng.uniform(26, 60), rng.uniform(12, 30)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    row = np.floor(y / brick_height).astype(np.int64)
    across = x / brick_width + (row % 2) * 0.5 + rng.random()
    column = np.floor(across).astype(np.int64)
    tones = rng.random((97, 89), dtype=np.float32)[row % 97, column % 89]
    joint = np.minimum((across % 1) * brick_width, y % brick_height) < 1.6
    return np.where(joint[:, :, None], second * np.float32(0.65), mix(tones, first, second)).astype(np.float32)


def _clutter(rng: Rng, size: tuple[int, int], first: Field, second: Field) -> Picture:
    """Things out of focus."""
    height, width = size
    canvas = Image.fromarray(_bytes(_clouds(rng, size, first, second)))
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(12, 36))):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(6, 44) * min(size) / 240
        tone = tuple((255 * np.clip(0.5 * color(rng, (0.1, 0.6), (0.2, 0.9)) + 0.5 * first, 0, 1)).astype(int).tolist())
        corners = np.array([x, y]) + rng.uniform(-r, r, (int(rng.integers(3, 7)), 2))
        if rng.random() < 0.5:
            draw.polygon([(float(a), float(b)) for a, b in corners], fill=tone)
        else:
            draw.ellipse((x - r, y - r * 0.7, x + r, y + r * 0.7), fill=tone)
    blurred = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(2.5, 6)))
    return _planes(blurred) / np.float32(255)


# ------------------------------------------------------------------------------------------------------------- camera


def develop(picture: Picture, rng: Rng) -> NDArray[np.uint8]:
    """The picture as a camera would give it: light from one side, exposure, tint, a little blur and noise; (H, W, 3) uint8."""
    size = (picture.shape[0], picture.shape[1])
    light = 1 + rng.uniform(0.0, 0.5) * (texture(rng, size, "gradient") - 0.5)
    tint = rng.uniform(0.92, 1.08, 3).astype(np.float32)
    exposure = light.astype(np.float32) * (tint * np.float32(rng.uniform(0.8, 1.15)))[:, None, None]
    canvas = Image.fromarray(_bytes(picture * exposure.transpose(1, 2, 0)))
    if rng.random() < 0.6:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
    noise = rng.standard_normal(size, dtype=np.float32) * np.float32(255 * rng.uniform(0.0, 0.03))
    return _rounded_down(_planes(canvas) + noise[:, :, None])


def _planes(image: Image.Image) -> Picture:
    """(H, W, 3) float32, 0..255, as three planes in memory."""
    return np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C").transpose(1, 2, 0)


def _bytes(picture: Picture) -> NDArray[np.uint8]:
    return _rounded_down(picture * np.float32(255))


def _rounded_down(values: Picture) -> NDArray[np.uint8]:
    """Values of 0..255 as bytes, pixel by pixel in memory, as files and Pillow have them."""
    return np.clip(values, 0, 255, out=values).astype(np.uint8).copy(order="C")
