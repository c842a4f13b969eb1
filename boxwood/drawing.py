"""Instances drawn on pictures: boxes, names, masks and keypoints, legible on any photograph.

Colours tell the class and are those of Okabe and Ito, made for all kinds of colour vision (https://jfly.uni-koeln.de/color), in
three shades; where one class fills the picture, each of its instances has a colour. Every coloured line has a dark rim, so that it
stands out on light and on dark ground; names stand on plates of the colour. What is large is drawn first, so that what is small
stays visible; names that would cover others or hide small objects are left out.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from boxwood.errors import UserError
from boxwood.pixels import decode_image, from_array, from_pillow, is_image_source

__all__ = ["Crop", "class_color", "contact_sheet", "draw_instances", "draw_link", "instance_colors", "one_by_one", "side_by_side"]

Color: TypeAlias = tuple[int, int, int]
Crop: TypeAlias = Callable[[int], tuple[int, int, NDArray[np.bool_]]]
Overlay: TypeAlias = Callable[[Image.Image, int, Sequence[float], Color, int], None]
"""Draws something of an instance: onto a picture, its row, its box xyxy, its colour, the width of a line."""
"""Gives of instance i the part of its mask that lies in the picture: its first row and column, and (h, w) pixels. Made when it is
drawn, it takes no memory before."""
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

OKABE_ITO: tuple[Color, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (204, 121, 167),  # reddish purple
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermillion
)
DARK: Color = (20, 20, 20)
LIGHT: Color = (255, 255, 255)
RIM = (*DARK, 130)
"""The dark line beside each coloured one."""
MASK_OPACITY = 0.4
MOST_PLATES = 0.25
"""The part of a picture that names may cover."""
COVERED, HIDDEN = 0.1, 0.5
"""A name is left out where it would cover more of the names before it, or more than half of a small box."""
CROWD = 6, 0.75
"""One class fills a picture where it has at least so many instances, and this part of all."""


def class_color(label: int) -> Color:
    """The colour of a class: seven hues, then the same lighter, then darker, then again from the first.

    >>> class_color(0), class_color(7), class_color(21) == class_color(0)
    ((230, 159, 0), (242, 207, 128), True)
    """
    hue = OKABE_ITO[label % len(OKABE_ITO)]
    shade = label // len(OKABE_ITO) % 3
    if shade == 0:
        return hue
    towards, share = (255, 0.5) if shade == 1 else (0, 0.4)
    red, green, blue = (round(c + (towards - c) * share) for c in hue)
    return red, green, blue


def instance_colors(labels: Sequence[int]) -> list[Color]:
    """The colour of each instance: that of its class, or a different one for each where one class fills the picture.

    >>> instance_colors([0, 0, 1]) == [class_color(0), class_color(0), class_color(1)]
    True
    >>> len(set(instance_colors([4] * 21)))
    21
    """
    colors = [class_color(int(label)) for label in labels]
    ((label, count),) = Counter(labels).most_common(1) or [(0, 0)]
    if count < CROWD[0] or count < CROWD[1] * len(labels):
        return colors
    others = {color for color, other in zip(colors, labels, strict=True) if other != label}
    palette = [color for color in map(class_color, range(3 * len(OKABE_ITO))) if color not in others]
    rows = [row for row, other in enumerate(labels) if other == label]
    for number, row in enumerate(rows):
        colors[row] = palette[number % len(palette)]
    return colors


def draw_instances(
    image: Any,
    *,
    boxes: NDArray[Any],
    labels: Sequence[int],
    names: Sequence[str],
    scores: Sequence[float | None] | None = None,
    masks: NDArray[Any] | Crop | None = None,
    keypoints: NDArray[Any] | None = None,
    skeleton: Sequence[tuple[int, int]] = (),
    overlays: Sequence[Overlay] = (),
    colors: Sequence[Color] | None = None,
) -> Image.Image:
    """A copy of a picture with N instances drawn on it; N = 0 is ordinary.

    ``image`` is a path, the bytes of an image file, a binary file object, a PIL image (EXIF orientation is applied to all of
    these), an (H, W, 3) RGB or (H, W) array, or a (3, H, W) tensor, converted by `boxwood.pixels`. ``boxes`` (N, 4) xyxy in its
    pixels, ``labels`` and ``names`` the class of each instance, ``scores`` written behind the name (None: no score), ``masks``
    (N, H, W) bool, or a function from i to the mask of instance i (`Crop`), ``keypoints`` (N, K, 3) x, y and a number above 0 where
    the point is drawn, ``skeleton`` the pairs of keypoints to link, ``overlays`` additional drawings of each instance, ``colors``
    the colour of each, those of `instance_colors` by default. A name without room beside those before it is left out: order
    instances best first.

    Raises `UserError` where the picture cannot be read.

    >>> gray = np.full((60, 80, 3), 128, np.uint8)
    >>> draw_instances(gray, boxes=np.array([[10, 10, 50, 40]]), labels=[0], names=["nut"], scores=[0.9]).size
    (80, 60)
    """
    canvas = np.array(_pixels_of(image), order="C")
    height, width = canvas.shape[:2]
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    count = len(boxes)
    assert len(labels) == len(names) == count
    assert scores is None or len(scores) == count
    assert not isinstance(masks, np.ndarray) or masks.shape == (count, height, width)
    colors = instance_colors(labels) if colors is None else colors
    finite = np.isfinite(boxes.sum(axis=1))
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1, where=finite[:, None])
    largest_first = [int(i) for i in np.argsort(-areas, kind="stable") if finite[i]]
    line = max(1, round(math.sqrt(width * height) / 330))

    if masks is not None:
        for i in largest_first:
            top, left, crop = (0, 0, masks[i]) if isinstance(masks, np.ndarray) else masks(i)
            _blend_mask(canvas, top, left, crop, colors[i], line)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture, "RGBA")
    for i in largest_first:
        # Where a mask shows the outline, the box is only a hint.
        _draw_box(draw, boxes[i], colors[i], max(1, line // 2) if masks is not None else line, picture.size)
    if keypoints is not None:
        for i in largest_first:
            _draw_pose(picture, np.asarray(keypoints[i], dtype=np.float64), colors[i], skeleton, line)
    for overlay in overlays:
        for i in largest_first:
            overlay(picture, i, boxes[i].tolist(), colors[i], line)
    texts = [name if score is None else f"{name} {score:.2f}" for name, score in zip(names, scores or [None] * count, strict=True)]
    _draw_names(picture, boxes, texts, colors, [i for i in range(count) if finite[i]], line)
    return picture


def one_by_one(crops: Any, probabilities: Any, boxes: Any, size: tuple[int, int], threshold: float) -> Crop | None:
    """Masks that are scaled to their boxes when they are drawn, for `draw_instances`.

    ``crops`` is `boxwood.ops.masks.mask_crops` or another rule, ``probabilities`` (N, M, M) and ``boxes`` (N, 4) are tensors on the
    CPU; None gives None.
    """

    def crop(index: int) -> tuple[int, int, NDArray[np.bool_]]:
        row = slice(index, index + 1)
        ((top, left, pixels),) = crops(probabilities[row], boxes[row], size, threshold)
        return top, left, pixels.numpy()

    return None if probabilities is None else crop


def side_by_side(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Pictures in a row, each under its caption.

    >>> side_by_side([Image.new("RGB", (80, 60))] * 2, ["truth", "prediction"]).width > 160
    True
    """
    assert pictures and len(pictures) == len(captions)
    size = _text_size(pictures[0])
    font = ImageFont.load_default(size * 1.3)
    cells = []
    for picture, caption in zip(pictures, captions, strict=True):
        head = round(size * 2.2)
        cell = Image.new("RGB", (picture.width, picture.height + head), LIGHT)
        cell.paste(picture, (0, head))
        ImageDraw.Draw(cell).text((picture.width / 2, head / 2), _shorten(caption, font, picture.width), DARK, font, anchor="mm")
        cells.append(cell)
    return contact_sheet(cells, len(cells))


def contact_sheet(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures in rows of ``columns`` on white ground, each as large as it is, in the middle of its cell.

    >>> contact_sheet([Image.new("RGB", (40, 30))] * 3, columns=2).size
    (92, 72)
    """
    assert pictures and columns > 0
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    gap = max(4, width // 80)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), LIGHT)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        left = gap + column * (width + gap) + (width - picture.width) // 2
        top = gap + row * (height + gap) + (height - picture.height) // 2
        sheet.paste(picture, (left, top))
    return sheet


def _pixels_of(image: Any) -> NDArray[np.uint8]:
    """(H, W, 3) RGB; may be the memory of ``image``."""
    if is_image_source(image):
        return decode_image(image)
    if isinstance(image, Image.Image):
        return from_pillow(image)
    if hasattr(image, "cpu"):  # a tensor, recognised by its method: this file does not import torch
        image = image.cpu().numpy().transpose(1, 2, 0) if image.ndim == 3 else image.cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"cannot draw on {type(image).__name__}: expected a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W)"
        )
    return from_array(image)


def _text_size(picture: Image.Image, factor: float = 1) -> float:
    """Height of letters in pixels, for a picture of this size."""
    return max(10.0, math.sqrt(picture.width * picture.height) / 42 * factor)


# ------------------------------------------------------------------------------------------------------- instances


def _blend_mask(canvas: NDArray[np.uint8], top: int, left: int, crop: NDArray[np.bool_], color: Color, line: int) -> None:
    """Tint the mask's pixels, and draw its outline inside it with a dark rim outside."""
    rows, columns = np.flatnonzero(crop.any(axis=1)), np.flatnonzero(crop.any(axis=0))
    if not len(rows):
        return
    mask = np.asarray(crop[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], dtype=bool)
    y, x = top + int(rows[0]), left + int(columns[0])
    height, width = canvas.shape[:2]
    y1, x1 = max(0, y - 1), max(0, x - 1)  # and a pixel around it
    window = (slice(y1, min(height, y + mask.shape[0] + 1)), slice(x1, min(width, x + mask.shape[1] + 1)))
    inside = np.zeros(canvas[window].shape[:2], dtype=bool)
    inside[y - y1 : y - y1 + mask.shape[0], x - x1 : x - x1 + mask.shape[1]] = mask
    core = inside
    for _ in range(line):
        core = _shrink(core)
    pixels = canvas[window].astype(np.float32)
    pixels[core] += (np.array(color, np.float32) - pixels[core]) * MASK_OPACITY
    pixels[inside & ~core] = color
    rim = ~inside & ~_shrink(~inside, border=True)
    pixels[rim] += (np.array(DARK, np.float32) - pixels[rim]) * (RIM[3] / 255)
    canvas[window] = pixels.round().astype(np.uint8)


def _shrink(mask: NDArray[np.bool_], border: bool = False) -> NDArray[np.bool_]:
    """The pixels whose four neighbours are in the mask too; ``border``: whether what lies outside the array is."""
    wide = np.pad(mask, 1, constant_values=border)
    shrunk: NDArray[np.bool_] = mask & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return shrunk


def _draw_box(draw: ImageDraw.ImageDraw, box: NDArray[np.float64], color: Color, line: int, size: tuple[int, int]) -> None:
    """The outline, centred on the box's edge, with a dark rim: on both sides, on the outer only where the line is thin."""
    x1, y1, x2, y2 = _to_pixels(box, size)
    if min(x2 - x1, y2 - y1) < 6 * line:
        line = 1
    out = line // 2
    for grow, width, ink in ((out + 1, line + 2 if line > 1 else 1, RIM), (out, line, (*color, 255))):
        draw.rectangle((x1 - grow, y1 - grow, x2 + grow, y2 + grow), outline=ink, width=width)


def _to_pixels(box: NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last pixel of the box across and down; what lies far outside the picture is brought to just outside it."""
    far = np.array([*size, *size]) + 100
    x1, y1, x2, y2 = np.clip(box, -100, far)
    first_x, first_y = math.floor(x1 + 0.5), math.floor(y1 + 0.5)
    return first_x, first_y, max(first_x, math.ceil(x2 - 0.5) - 1), max(first_y, math.ceil(y2 - 0.5) - 1)


def _draw_pose(
    picture: Image.Image, points: NDArray[np.float64], color: Color, skeleton: Sequence[tuple[int, int]], line: int
) -> None:
    """Links, then points, drawn at twice the size and brought down, so that slanting lines are smooth."""
    near = (np.abs(points[:, :2]) < 4 * max(picture.size)).all(axis=1)
    seen = np.isfinite(points).all(axis=1) & (points[:, 2] > 0) & near
    if not seen.any():
        return
    radius = 1.4 * line + 1
    low = np.maximum(np.floor(points[seen, :2].min(axis=0) - 2 * radius), 0).astype(int)
    high = np.minimum(np.ceil(points[seen, :2].max(axis=0) + 2 * radius), picture.size).astype(int)
    if (high <= low).any():
        return
    scale = 2
    layer = Image.new("RGBA", (int(high[0] - low[0]) * scale, int(high[1] - low[1]) * scale), (*color, 0))
    draw = ImageDraw.Draw(layer)
    placed = [(float(x), float(y)) for x, y in (points[:, :2] - low) * scale]
    links = [(placed[a], placed[b]) for a, b in skeleton if seen[a] and seen[b]]
    for width, ink in ((1.3 * line + 2, DARK), (1.3 * line, color)):
        for link in links:
            draw.line(link, ink, round(width * scale))
    for x, y in (place for place, shown in zip(placed, seen, strict=True) if shown):
        for r, ink in ((radius + 1, DARK), (radius, LIGHT), (radius - 0.3 * line - 0.7, color)):
            draw.ellipse((x - r * scale, y - r * scale, x + r * scale, y + r * scale), ink)
    layer = layer.reduce(scale)
    picture.paste(layer, (int(low[0]), int(low[1])), layer)


def draw_link(
    picture: Image.Image, start: tuple[float, float], end: tuple[float, float], text: str, color: Color, line: int
) -> None:
    """A line from one point to another, with dots at its ends and ``text`` on a plate at its middle; text alone where both points
    are the same."""
    if not np.isfinite([*start, *end]).all():
        return
    if start != end:
        points = np.array([[*start, 1], [*end, 1]], dtype=np.float64)
        _draw_pose(picture, points, color, [(0, 1)], line)
    font = ImageFont.load_default(_text_size(picture, 0.85))
    pad = max(2, line)
    text = _shorten(text, font, picture.width - 2 * pad)
    wide, high = font.getlength(text) + 2 * pad, _text_size(picture, 0.85) * 1.2 + pad
    left = min(max((start[0] + end[0] - wide) / 2, 0), max(0, picture.width - wide))
    top = min(max((start[1] + end[1] - high) / 2, 0), max(0, picture.height - high))
    draw = ImageDraw.Draw(picture, "RGBA")
    draw.rounded_rectangle((left, top, left + wide, top + high), pad, (*color, 225), (*DARK, 120))
    draw.text((left + pad, top + high / 2), text, _ink_on(color), font, anchor="lm")


# ----------------------------------------------------------------------------------------------------------- names


def _draw_names(
    picture: Image.Image, boxes: NDArray[np.float64], texts: Sequence[str], colors: Sequence[Color], order: Sequence[int], line: int
) -> None:
    """Each name on a plate at its box, inside the picture, where it covers the least of the names before it and of small boxes."""
    width, height = picture.size
    size = _text_size(picture, 1 if len(order) <= 12 else 0.85 if len(order) <= 40 else 0.7)
    font = ImageFont.load_default(size)
    pad, high = max(2, round(size / 5)), round(size * 1.2) + max(2, round(size / 5))
    taken = np.zeros((height, width), bool)
    worth = _worth(boxes[order], (height, width), small=12 * high**2)
    room = MOST_PLATES * width * height
    plates: list[tuple[tuple[int, int, int, int], str, Color]] = []
    for i in order:
        x1, y1, x2, y2 = boxes[i]
        text = _shorten(texts[i], font, width - 2 * pad)
        wide = math.ceil(font.getlength(text)) + 2 * pad
        if not text or wide * high > room or x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            continue
        spots = []
        for x, y in _places(boxes[i], wide, high, line):
            left, top = round(min(max(x, 0), max(0, width - wide))), round(min(max(y, 0), max(0, height - high)))
            area = (slice(top, top + high), slice(left, left + wide))
            covered, hidden = float(taken[area].mean()), float(worth[area].sum())
            spots.append((round(covered + 0.4 * hidden, 2), covered, hidden, left, top))
        _, covered, hidden, left, top = min(spots, key=lambda spot: spot[0])
        if not plates or (covered <= COVERED and hidden <= HIDDEN):
            taken[top : top + high, left : left + wide] = True
            room -= wide * high
            plates.append(((left, top, left + wide - 1, top + high - 1), text, colors[i]))
    draw = ImageDraw.Draw(picture, "RGBA")
    for plate, text, color in reversed(plates):
        draw.rounded_rectangle(plate, pad, (*color, 225), (*DARK, 120))
        draw.text((plate[0] + pad, plate[1] + high / 2), text, _ink_on(color), font, anchor="lm")


def _worth(boxes: NDArray[np.float64], size: tuple[int, int], small: float) -> NDArray[np.float32]:
    """For each pixel, which part of the boxes of less than ``small`` area would be hidden by covering it."""
    worth = np.zeros(size, np.float32)
    low = np.floor(boxes[:, :2].clip(0, size[::-1])).astype(int)
    high = np.ceil(boxes[:, 2:].clip(0, size[::-1])).astype(int)
    for (x1, y1), (x2, y2) in zip(low, high, strict=True):
        if 0 < (x2 - x1) * (y2 - y1) < small:
            worth[y1:y2, x1:x2] += 1 / ((x2 - x1) * (y2 - y1))
    return worth


def _places(box: NDArray[np.float64], wide: int, high: int, line: int) -> list[tuple[float, float]]:
    """Where the plate's upper left corner may be, best first: above, inside at the top, below, inside at the bottom, beside."""
    x1, y1, x2, y2 = box
    left, right = x1 - line / 2, x2 + line / 2 - wide
    above, below = y1 - high - line, y2 + line
    rows = [above, y1 + line, below, y2 - high - line]
    return [(x, y) for y in rows for x in ((left, right) if y in (above, below) else (x1 + line, x2 - line - wide))] + [
        (x2 + line, y1),
        (x1 - line - wide, y1),
    ]


def _shorten(text: str, font: Font, width: float) -> str:
    """The text, cut where it is wider than ``width``."""
    text = text.replace("\n", " ")
    if font.getlength(text) <= width:
        return text
    keep = bisect.bisect_right(range(1, len(text)), width, key=lambda count: font.getlength(text[:count] + "..."))
    return text[:keep] + "..."


def _ink_on(color: Color) -> Color:
    """Dark or light, whichever has the stronger contrast with ``color`` (WCAG 2.2, relative luminance)."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return DARK if luminance > 0.18 else LIGHT
