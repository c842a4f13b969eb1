"""Generated pictures of figures who do things with objects, as a COCO data set with human-object interactions.

Made for demonstrations and tests of `boxwood.models.tasks.InteractionTask`: it is learnt in minutes, and not without looking. Class
and colour of an object say nothing of the verb: the pose of the arms, of the legs and of the head alone does, each on its own.
Objects of hold, kick and look lie to the left or to the right, so that a fixed offset does not find them. One object in ten
is missing, and several that nobody uses lie about.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from boxwood.data.synthetic.paint import color, develop, mix, smooth_noise
from boxwood.data.synthetic.writing import CONTRIBUTOR, Tree, write_set

__all__ = ["CLASSES", "SIZE", "VERBS", "write_figures"]

SIZE = 128
"""Side of a picture."""
CLASSES = ("person", "disk", "square", "triangle")
VERBS = ("hold", "lift", "kick", "sit_on", "look", "walk")
"""All but walk have an object."""
_ARMS, _LEGS = ((("hold", 0.4), ("lift", 0.25), ("", 0.35)), (("kick", 0.25), ("sit_on", 0.25), ("walk", 0.25), ("", 0.25)))
_LOOKS, _MISSING = 0.35, 0.1
NOSE = 2.4
"""Radius of the red nose of a figure that looks at something."""
_FINE = 4
"""Pictures are drawn so many times as large, each way."""
_TRIES = 60

Rng = np.random.Generator
Box = tuple[float, float, float, float]
"""xyxy."""


@dataclass
class _Thing:
    """An object."""

    label: int
    x: float
    y: float
    radius: float

    @property
    def box(self) -> Box:
        if self.label == 3:  # the corners of a triangle
            half = self.radius * np.sqrt(3) / 2
            return self.x - half, self.y - self.radius, self.x + half, self.y + self.radius / 2
        return self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius


@dataclass
class _Figure:
    """A figure: its lines, its head, and what it does with which object."""

    lines: list[tuple[float, float, float, float]]
    width: float
    """Of the body; limbs are a third of it."""
    head: tuple[float, float, float]
    """x, y, radius."""
    nose: int
    """The direction in which it looks: -1 left, 1 right, 0 none."""
    deeds: dict[str, _Thing | None] = field(default_factory=dict)

    @property
    def box(self) -> Box:
        x, y, radius = self.head
        margin = self.width / 6
        body_x, top, _, bottom = self.lines[0]
        xs = [c for x1, _, x2, _ in self.lines[1:] for c in (x1 - margin, x1 + margin, x2 - margin, x2 + margin)]
        ys = [c for _, y1, _, y2 in self.lines[1:] for c in (y1 - margin, y1 + margin, y2 - margin, y2 + margin)]
        xs += [x + self.nose * (radius + NOSE), x - radius, x + radius, body_x - self.width / 2, body_x + self.width / 2]
        return min(xs), min([*ys, y - radius, top]), max(xs), max([*ys, bottom])


def write_figures(out: str | Path, train: int = 3000, val: int = 400, seed: int = 0, *, workers: int = 0) -> None:
    """Write ``train`` and ``val`` pictures below ``out``: train.json, train/, val.json, val/.

    Picture k of a split depends only on ``seed``, the split and k, so a larger set begins with the pictures of a smaller one.
    ``workers`` as of `write_shapes`.
    """
    write_set(out, train, val, _sections(), partial(_draw, seed), image_format="PNG", workers=workers)


def _draw(seed: int, tree: Tree, split: int, number: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng([seed, split, number + 1])
    figures, things = _scene(rng)
    pixels = _paint(figures, things, rng)
    _annotate(tree, number + 1, figures, things)
    return pixels


# -------------------------------------------------------------------------------------------------------------- geometry


def _scene(rng: Rng) -> tuple[list[_Figure], list[_Thing]]:
    """One or two figures, and all objects: theirs, and three to five that nobody uses."""
    figures: list[_Figure] = []
    boxes: list[Box] = []
    things: list[_Thing] = []
    wanted = 1 + int(rng.random() < 0.4)
    for _ in range(_TRIES):
        figure = _figure(rng)
        own = [thing for thing in figure.deeds.values() if thing is not None]
        new = [figure.box, *(thing.box for thing in own)]
        if all(_inside(box) and not _near(box, boxes, 2.0) for box in new) and _apart([thing.box for thing in own]):
            figures.append(figure)
            things += own
            boxes += new
        if len(figures) == wanted:
            break
    for _ in range(int(rng.integers(3, 6))):
        for _ in range(_TRIES):
            radius = rng.uniform(4, 6)
            x, y = rng.uniform(radius + 1, SIZE - radius - 1, size=2).tolist()
            thing = _Thing(int(rng.integers(1, 4)), x, y, radius)
            if not _near(thing.box, boxes, 2.0):
                things.append(thing)
                boxes.append(thing.box)
                break
    return figures, things


def _figure(rng: Rng) -> _Figure:
    """A figure at a random place in a random pose, with the objects of its deeds; they may lie outside the picture."""
    width, height = rng.uniform(9, 12), rng.uniform(34, 44)
    x, top = rng.uniform(14, SIZE - 14), rng.uniform(4, SIZE - 50)
    radius = width * 0.42
    shoulder, hip, foot = top + 2 * radius + 2, top + 0.62 * height, top + height
    body = (x, top + 2 * radius, x, hip)
    reach, side = width * 0.5 + rng.uniform(5, 7), 0.5 * width
    figure = _Figure([body], width, (x, top + radius, radius), 0)

    def thing(at_x: float, at_y: float, away_x: float, away_y: float) -> _Thing | None:
        """An object that touches a point from a side, or none."""
        size = rng.uniform(4, 6)
        made = _Thing(int(rng.integers(1, 4)), at_x + away_x * (size + 1), at_y + away_y * (size + 1), size)
        return None if rng.random() < _MISSING else made

    arms, legs = (str(rng.choice([name for name, _ in kind], p=[share for _, share in kind])) for kind in (_ARMS, _LEGS))
    way = 1 if rng.random() < 0.5 else -1
    if arms == "hold":
        figure.lines += [(x, shoulder, x + way * reach, shoulder + 3), (x, shoulder, x - way * side, shoulder + 9)]
        figure.deeds["hold"] = thing(x + way * reach, shoulder + 3, way, 0)
    elif arms == "lift":
        figure.lines += [(x - side, shoulder, x - side, top - 2), (x + side, shoulder, x + side, top - 2)]
        figure.deeds["lift"] = thing(x, top - 1, 0, -1)
    else:
        figure.lines += [(x - side, shoulder, x - side, shoulder + 12), (x + side, shoulder, x + side, shoulder + 12)]
    way = 1 if rng.random() < 0.5 else -1
    if legs == "kick":
        figure.lines += [(x, hip, x + way * (reach + 2), foot - 4), (x, hip, x - way * 1, foot)]
        figure.deeds["kick"] = thing(x + way * (reach + 2), foot - 4, way, 0.2)
    elif legs == "sit_on":
        seat = hip + 1
        figure.lines += [(x, hip, x + 8, seat + 1), (x + 8, seat, x + 8, seat + 9)]
        figure.lines += [(x, hip, x - 8, seat + 1), (x - 8, seat, x - 8, seat + 9)]
        figure.deeds["sit_on"] = thing(x, seat + 2, 0, 1)
    elif legs == "walk":
        figure.lines += [(x, hip, x + 7, foot), (x, hip, x - 7, foot)]
        figure.deeds["walk"] = None
    else:
        figure.lines += [(x - 2, hip, x - 2, foot), (x + 2, hip, x + 2, foot)]
    if rng.random() < _LOOKS:
        figure.nose = 1 if rng.random() < 0.5 else -1
        figure.deeds["look"] = thing(x + figure.nose * rng.uniform(28, 44), top + radius + rng.uniform(-2, 2), 0, 0)
    return figure


def _inside(box: Box) -> bool:
    return min(box) >= 1 and max(box) <= SIZE - 1


def _near(box: Box, others: list[Box], margin: float) -> bool:
    return any(
        box[0] < other[2] + margin and other[0] < box[2] + margin and box[1] < other[3] + margin and other[1] < box[3] + margin
        for other in others
    )


def _apart(boxes: list[Box]) -> bool:
    return not any(_near(box, boxes[:number], 1.0) for number, box in enumerate(boxes))


# ------------------------------------------------------------------------------------------------------ pixels and truth


def _paint(figures: list[_Figure], things: list[_Thing], rng: Rng) -> NDArray[np.uint8]:
    """(SIZE, SIZE, 3): everything on a ground of two near colours; what stands on it differs from it."""
    first = color(rng, (0.05, 0.3), (0.25, 0.9))
    field_of_tones = smooth_noise(rng, (SIZE, SIZE), 20.0)
    below = mix(field_of_tones, first, np.clip(first * rng.uniform(0.75, 1.25), 0, 1).astype(np.float32))
    canvas = Image.fromarray((below * 255).clip(0, 255).astype(np.uint8)).resize((SIZE * _FINE, SIZE * _FINE))
    draw = ImageDraw.Draw(canvas)

    def ink() -> tuple[int, int, int]:
        tones = [color(rng, (0.3, 1.0), (0.1, 1.0)) for _ in range(8)]
        best = max(tones, key=lambda tone: float(min(np.abs(tone - first).sum(), 1.0)))
        red, green, blue = (best * 255).astype(int).tolist()
        return red, green, blue

    def scaled(*numbers: float) -> list[float]:
        return [number * _FINE for number in numbers]

    for thing in things:
        if thing.label == 1:
            draw.ellipse(scaled(*thing.box), ink())
        elif thing.label == 2:
            draw.rectangle(scaled(*thing.box), ink())
        else:
            x1, y1, x2, y2 = scaled(*thing.box)
            draw.polygon([((x1 + x2) / 2, y1), (x2, y2), (x1, y2)], ink())
    for figure in figures:
        tone, limbs = ink(), ink()
        for line in figure.lines[1:]:
            draw.line(scaled(*line), limbs, round(figure.width / 3 * _FINE))
        x, y1, _, y2 = figure.lines[0]
        draw.rectangle(scaled(x - figure.width / 2, y1, x + figure.width / 2, y2), tone)
        x, y, radius = figure.head
        draw.ellipse(scaled(x - radius, y - radius, x + radius, y + radius), limbs)
        if figure.nose:
            tip = x + figure.nose * radius
            draw.ellipse(scaled(tip - NOSE, y - NOSE, tip + NOSE, y + NOSE), (235, 20, 20))
    small = np.asarray(canvas.reduce(_FINE), dtype=np.float32) / np.float32(255)
    return develop(small, rng)


def _sections() -> Tree:
    roles: list[Any] = [[] if name == "walk" else [{"name": "obj", "include": []}] for name in VERBS]
    return {
        "info": {"description": "Generated figures who do things with objects", "contributor": CONTRIBUTOR},
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)],
        "verbs": [{"id": number, "name": name, "roles": roles[number - 1]} for number, name in enumerate(VERBS, start=1)],
        "interactions": [],
    }


def _annotate(tree: Tree, image_id: int, figures: list[_Figure], things: list[_Thing]) -> None:
    """Append the annotations and interactions of a picture."""
    ids: dict[int, int] = {}
    parts: list[_Figure | _Thing] = [*figures, *things]
    for part in parts:
        x1, y1, x2, y2 = (round(float(side), 2) for side in part.box)
        label = part.label if isinstance(part, _Thing) else 0
        ids[id(part)] = len(tree["annotations"]) + 1
        row = {"id": ids[id(part)], "image_id": image_id, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        row |= {"area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
        tree["annotations"].append(row | ({"verbs_known": True} if isinstance(part, _Figure) else {}))
    for figure in figures:
        for verb, thing in figure.deeds.items():
            targets = {} if verb == "walk" else {"obj": None if thing is None else ids[id(thing)]}
            number = len(tree["interactions"]) + 1
            deed = {"id": number, "image_id": image_id, "human_id": ids[id(figure)], "verb_id": VERBS.index(verb) + 1}
            tree["interactions"].append({**deed, "targets": targets})
