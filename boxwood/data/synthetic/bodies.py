"""Generated pictures of jointed figures whose surface is known, with dense pose, as a COCO data set: dense correspondence without
a download, and without a licence.

A figure is 14 ellipsoids with DensePose's 24 charts: torso and limbs have one at the back and one at the front, the head one at
each side, hands and feet have one alone. V runs along an ellipsoid's axis, U around it: from the figure's right to its left, on the
head from the back to the front. So that few steps are enough, a figure's suit tells its sides: it is red on the right, blue on the
left, has white stripes in front, and white palms and insteps. `surface` has the distances by which the pictures are measured.

Frames: a figure's metres x (to its left), y (up), z (to its front); the picture's pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood.data.synthetic.paint import Picture, color, develop, ground
from boxwood.data.synthetic.writing import CONTRIBUTOR, Tree, write_set
from boxwood.files import write_whole
from boxwood.ops.contours import run_lengths
from boxwood.ops.dense_pose import BOX_SIDE, COARSE_OF_PART

__all__ = ["KEYPOINTS", "figure_annotation", "random_figures", "surface", "write_bodies"]

KEYPOINTS = ("head", "left_hand", "right_hand", "left_foot", "right_foot")
FINE = 2
"""The map of what is seen has so many pixels a pixel, each way."""
GRID = 6
"""Vertices a side of each chart of `surface`."""
MOST_POINTS = 90
ANNOTATED = 0.9
"""The share of figures with dense pose, as in DensePose-COCO not all have it."""
LEAST_PIXELS = 250
"""A figure of which less is seen is left out."""

ALONE, BESIDE = (0.2, 0.8), ((0.15, 0.35), (0.65, 0.85))
"""Where a figure stands in the width of the picture, and where each of two does."""

Rng = np.random.Generator
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Limb:
    """An ellipsoid between two joints."""

    name: str
    back: int
    """The chart at its back, or its only one."""
    front: int
    """The chart at its front; that of the back where it has one alone."""
    length: float
    """Metres."""
    width: float
    depth: float
    sides: bool = False
    """Its charts are those of the right (``back``) and of the left side (``front``)."""


def _pair(name: str, right: tuple[int, int], left: tuple[int, int], length: float, width: float, depth: float) -> list[Limb]:
    return [Limb(f"right_{name}", *right, length, width, depth), Limb(f"left_{name}", *left, length, width, depth)]


LIMBS = [
    Limb("torso", 1, 2, 0.62, 0.36, 0.22),
    *_pair("hand", (3, 3), (4, 4), 0.22, 0.19, 0.14),
    *_pair("foot", (6, 6), (5, 5), 0.27, 0.18, 0.14),
    *_pair("upper_leg", (7, 9), (8, 10), 0.46, 0.23, 0.23),
    *_pair("lower_leg", (11, 13), (12, 14), 0.46, 0.19, 0.19),
    *_pair("upper_arm", (16, 18), (15, 17), 0.32, 0.19, 0.19),
    *_pair("lower_arm", (20, 22), (19, 21), 0.30, 0.17, 0.17),
    Limb("head", 23, 24, 0.30, 0.26, 0.27, sides=True),
]
PLACE = {limb.name: index for index, limb in enumerate(LIMBS)}


@dataclass
class Figure:
    """A figure in the picture."""

    centers: Array
    """(14, 3) metres, x to the right of the picture, y down, z away from the viewer."""
    frames: Array
    """(14, 3, 3): rows are the limb's directions up its axis, to the figure's left, and to the front."""
    scale: float
    """Pixels a metre."""
    place: Array
    """(2,) x, y of the figure's origin in the picture."""


# ------------------------------------------------------------------------------------------------------------- skeleton


def _turn(axis: int, angle: float) -> Array:
    """The rotation by ``angle`` about an axis 0, 1 or 2."""
    (a, b), matrix = [(1, 2), (2, 0), (0, 1)][axis], np.eye(3)
    matrix[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return matrix


def _posed(angles: dict[str, tuple[float, float]]) -> tuple[Array, Array]:
    """Centres (14, 3) and directions (14, 3, 3) of the limbs in the figure's frame; ``angles`` are by limb how far it turns
    sidewards (away from the body) and forwards, from hanging down."""
    centers, frames = np.zeros((len(LIMBS), 3)), np.zeros((len(LIMBS), 3, 3))

    def put(name: str, start: Array, turn: Array, downwards: bool) -> Array:
        """Place a limb from a joint on, and return its other end."""
        limb, index = LIMBS[PLACE[name]], PLACE[name]
        frames[index] = np.stack([turn @ [0, 1.0, 0], turn @ [1.0, 0, 0], turn @ [0, 0, 1.0]])
        step = frames[index, 0] * limb.length * (-1 if downwards else 1) * 0.92  # limbs overlap a little
        centers[index] = start + step / 2
        end: Array = start + step
        return end

    neck = put("torso", np.zeros(3), np.eye(3), downwards=False)
    put("head", neck - [0, 0.02, 0], _turn(0, angles["head"][1]) @ _turn(2, angles["head"][0]), downwards=False)
    for side, sign in (("right", -1.0), ("left", 1.0)):
        for first, second, third, joint in (
            ("upper_arm", "lower_arm", "hand", np.array([sign * 0.19, 0.49, 0.0])),
            ("upper_leg", "lower_leg", "foot", np.array([sign * 0.09, 0.04, 0.0])),
        ):
            turn = np.eye(3)
            for part in (first, second):
                sidewards, forwards = angles[f"{side}_{part}"]
                turn = turn @ _turn(2, sign * sidewards) @ _turn(0, -forwards)
                joint = put(f"{side}_{part}", joint, turn, downwards=True)
            if third == "foot":
                turn = turn @ _turn(0, -np.pi / 2 * 0.8)  # its axis points ahead
                joint = joint - frames[PLACE[f"{side}_{second}"], 2] * 0.03
            put(f"{side}_{third}", joint, turn, downwards=True)
    return centers, frames


def _rest() -> dict[str, tuple[float, float]]:
    return {limb.name: (0.0, 0.0) for limb in LIMBS}


def _random_angles(rng: Rng) -> dict[str, tuple[float, float]]:
    angles = {"head": (rng.normal(0, 0.12), rng.normal(0, 0.12))}
    for side in ("left", "right"):
        angles[f"{side}_upper_arm"] = (rng.uniform(0.1, 2.6), rng.normal(0, 0.5))
        angles[f"{side}_lower_arm"] = (rng.uniform(0.0, 1.2) * rng.choice([-1, 1]), rng.uniform(0, 0.9))
        angles[f"{side}_upper_leg"] = (rng.uniform(0.0, 0.5), rng.normal(0, 0.4))
        angles[f"{side}_lower_leg"] = (0.0, -rng.uniform(0, 0.7))
    return angles


def random_figure(rng: Rng, size: tuple[int, int], across: tuple[float, float]) -> Figure:
    """A figure of random pose, direction, height and place in a picture of ``size`` (height, width); ``across`` are the least and
    the largest share of the width that may lie to its left."""
    centers, frames = _posed(_random_angles(rng))
    heading = rng.choice([0.0, np.pi]) + rng.normal(0, 0.45)
    view = np.diag([-1.0, -1.0, -1.0]) @ _turn(2, rng.normal(0, 0.12)) @ _turn(0, rng.normal(0, 0.08)) @ _turn(1, heading)
    # The figure's left is at the right of the picture where it looks at the viewer: mirror x once more.
    view = np.diag([-1.0, 1.0, 1.0]) @ view
    scale = min(size) * np.exp(rng.uniform(np.log(0.34), np.log(0.5)))
    place = np.array([rng.uniform(*across) * size[1], rng.uniform(0.45, 0.55) * size[0]])
    return Figure(centers @ view.T, frames @ view.T, scale, place)


# ------------------------------------------------------------------------------------------------------------- rendering


@dataclass
class Seen:
    """What is seen of figures, on the fine map (H * 2, W * 2)."""

    depth: NDArray[np.float32]
    figure: NDArray[np.int16]
    """The figure in front; -1 for the ground."""
    part: NDArray[np.uint8]
    u: NDArray[np.float32]
    v: NDArray[np.float32]
    shade: NDArray[np.float32]
    """0..1: how directly the surface faces the viewer."""


def _render(figures: list[Figure], size: tuple[int, int]) -> Seen:
    shape = (size[0] * FINE, size[1] * FINE)
    depth, figure = np.full(shape, np.inf, dtype=np.float32), np.full(shape, -1, dtype=np.int16)
    maps = [np.zeros(shape, dtype=np.float32) for _ in range(3)]
    seen = Seen(depth, figure, np.zeros(shape, dtype=np.uint8), *maps)
    for number, body in enumerate(figures):
        # One figure stands in front of another as a whole.
        own = Seen(np.full(shape, np.inf, dtype=np.float32), figure.copy(), seen.part.copy(), *(m.copy() for m in maps))
        for limb, center, frame in zip(LIMBS, body.centers, body.frames, strict=True):
            _draw_limb(own, limb, center, frame, body, number)
        front = np.isfinite(own.depth)
        for name in ("depth", "figure", "part", "u", "v", "shade"):
            getattr(seen, name)[front] = getattr(own, name)[front]
    return seen


def _draw_limb(seen: Seen, limb: Limb, center: Array, frame: Array, body: Figure, number: int) -> None:
    """The ellipsoid's near side, where nothing of the figure is nearer."""
    radii = np.array([limb.length, limb.width, limb.depth]) / 2
    unit = frame / radii[:, None]  # (3, 3): from metres to the unit sphere
    reach = np.sqrt(((frame * radii[:, None]) ** 2).sum(axis=0))[:2]
    scale = body.scale * FINE
    low, high = ((body.place * FINE + (center[:2] + sign * reach) * scale) for sign in (-1, 1))
    (left, top), (right, bottom) = np.floor(low).astype(int), np.ceil(high).astype(int) + 1
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, seen.depth.shape[1]), min(bottom, seen.depth.shape[0])
    if left >= right or top >= bottom:
        return
    window = np.s_[top:bottom, left:right]
    x = (np.arange(left, right) + 0.5 - body.place[0] * FINE) / scale - center[0]
    y = (np.arange(top, bottom) + 0.5 - body.place[1] * FINE) / scale - center[1]
    plane = unit[:, 0] * x[None, :, None] + unit[:, 1] * y[:, None, None]  # (h, w, 3)
    a, b, c = unit[:, 2] @ unit[:, 2], plane @ unit[:, 2], (plane**2).sum(axis=2) - 1
    inside = b**2 - a * c
    z = (-b - np.sqrt(inside.clip(min=0))) / a
    nearer = (inside > 0) & (z + center[2] < seen.depth[window])
    point = plane + z[..., None] * unit[:, 2]  # on the unit sphere: along, to the left, to the front
    across, ahead = (point[..., 2], point[..., 1]) if limb.sides else (point[..., 1], point[..., 2])
    is_front = ahead > 0
    two = limb.front != limb.back
    around = np.arctan2(across, np.abs(ahead) if two else ahead) / (np.pi if two else 2 * np.pi) + 0.5
    normal = point @ unit
    facing = -normal[..., 2] / np.linalg.norm(normal, axis=2).clip(min=1e-9)
    columns = {
        "depth": z + center[2],
        "figure": np.full(z.shape, number),
        "part": np.where(is_front, limb.front, limb.back),
        "u": around.clip(0, 1),
        "v": (np.arcsin(point[..., 0].clip(-1, 1)) / np.pi + 0.5).clip(0, 1),
        "shade": facing.clip(0, 1),
    }
    for name, values in columns.items():
        getattr(seen, name)[window][nearer] = values[nearer]


FRONTS = sorted({limb.front for limb in LIMBS if limb.front != limb.back and not limb.sides})
ENDS = sorted({limb.front for limb in LIMBS if limb.front == limb.back})
"""Hands and feet."""
TORSO, HEAD = ((LIMBS[PLACE[name]].back, LIMBS[PLACE[name]].front) for name in ("torso", "head"))
HUES = {"right": (-0.05, 0.1), "left": (0.5, 0.65)}
"""Of the clothes on each side: red to orange, cyan to blue."""
CLOTHES = {
    "arm": ((0.6, 0.95), (0.65, 0.95)),
    "leg": ((0.6, 0.95), (0.35, 0.6)),
    "hand": ((0.6, 0.95), (0.25, 0.45)),
    "foot": ((0.5, 1), (0.15, 0.3)),
}
"""Saturation and value."""


def _paint(picture: Picture, seen: Seen, number: int, rng: Rng) -> None:
    """Paint figure ``number``: a suit of two colours, white in front in stripes and on the palms; a face, and hair behind it."""
    rows, columns = (np.flatnonzero((seen.figure == number).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return
    window = tuple(slice(line[0] // FINE * FINE, -(-(line[-1] + 1) // FINE) * FINE) for line in (rows, columns))
    picture = picture[tuple(slice(part.start // FINE, part.stop // FINE) for part in window)]
    fine, part, u, v = (values[window] for values in (seen.figure == number, seen.part, seen.u, seen.v))
    skin = color(rng, (0.2, 0.5), (0.5, 0.95)) * np.array([1.0, 0.8, 0.65], dtype=np.float32)
    tones = np.zeros((25, 3), dtype=np.float32)
    for side, hue in HUES.items():
        for kind, (saturation, value) in CLOTHES.items():
            tone = color(rng, saturation, value, hue)
            for limb in LIMBS:
                if limb.name.startswith(side) and limb.name.endswith(kind):
                    tones[[limb.back, limb.front]] = tone
    right, left = (LIMBS[PLACE[f"{side}_upper_arm"]].back for side in HUES)
    surface = tones[part]
    torso, head, on_right = np.isin(part, TORSO), np.isin(part, HEAD), u < 0.5
    surface[torso & on_right], surface[torso & ~on_right] = tones[right], tones[left]
    striped = np.isin(part, FRONTS) & (np.floor(v * 7).astype(int) % 2 == 1)
    striped |= np.isin(part, ENDS) & (np.abs(u - 0.5) < 0.25)
    surface[striped] = 0.3 * surface[striped] + 0.7
    surface[head] = skin
    hair = head & ((v > 0.74) | (u < 0.5))
    surface[hair] = np.where((part == HEAD[0])[..., None], tones[right], tones[left])[hair]
    eyes = head & (np.abs(v - 0.58) < 0.05) & (np.abs(u - 0.83) < 0.06)
    mouth = head & (np.abs(v - 0.33) < 0.03) & (u > 0.86)
    surface[eyes | mouth] = 0.1
    surface *= (0.45 + 0.55 * seen.shade[window])[..., None]

    def reduced(values: NDArray[Any]) -> NDArray[Any]:
        height, width = picture.shape[:2]
        means: NDArray[Any] = values.reshape(height, FINE, width, FINE, -1).mean(axis=(1, 3), dtype=np.float32)
        return means

    picture *= 1 - reduced(fine)
    picture += reduced(surface * fine[..., None])


# ------------------------------------------------------------------------------------------------------------ annotation


def random_figures(rng: Rng, size: tuple[int, int]) -> tuple[list[Figure], Seen, Picture]:
    """One figure, or two side by side whose limbs may meet, from back to front; what is seen of them; and their picture (H, W, 3)
    float32, 0..1."""
    places = [ALONE] if rng.random() < 0.5 else [BESIDE[index] for index in rng.permutation(2)]
    figures = [random_figure(rng, size, place) for place in places]
    seen, picture = _render(figures, size), ground(rng, size)
    for number in range(len(figures)):
        _paint(picture, seen, number, rng)
    return figures, seen, picture


def figure_annotation(figure: Figure, seen: Seen, number: int, rng: Rng) -> dict[str, Any] | None:
    """What is seen of a figure, as DensePose-COCO writes it; None where that is too little."""
    own = seen.figure == number
    if own.sum() < LEAST_PIXELS * FINE**2:
        return None
    rows, columns = np.flatnonzero(own.any(axis=1)), np.flatnonzero(own.any(axis=0))
    x, y = columns[0] / FINE, rows[0] / FINE
    width, height = (columns[-1] + 1) / FINE - x, (rows[-1] + 1) / FINE - y
    box = [float(side) for side in (x, y, width, height)]
    size = (own.shape[0] // FINE, own.shape[1] // FINE)
    mask = own.reshape(size[0], FINE, size[1], FINE).mean(axis=(1, 3)) >= 0.5
    annotation = {
        "category_id": 1,
        "bbox": box,
        "area": float(own.sum() / FINE**2),
        "iscrowd": 0,
        "segmentation": run_lengths(mask),
        **_keypoints(figure, seen, number),
    }
    return annotation | _dense_pose(seen, own, box, rng) if rng.random() < ANNOTATED else annotation


def _dense_pose(seen: Seen, own: NDArray[np.bool_], box: list[float], rng: Rng) -> dict[str, Any]:
    x, y, width, height = box
    pixels = np.argwhere(own)
    pixels = pixels[rng.permutation(len(pixels))]
    of_pixels = np.array(COARSE_OF_PART)[seen.part[tuple(pixels.T)]]
    coarse_parts = np.unique(of_pixels).tolist()
    # As annotators were asked to: as many points of a small part of the body as of a large one.
    places = [pixels[of_pixels == part][: max(2, MOST_POINTS // len(coarse_parts))] for part in coarse_parts]
    rows, columns = np.concatenate(places).T
    values = {
        "dp_x": ((columns + 0.5) / FINE - x) * BOX_SIDE / width,
        "dp_y": ((rows + 0.5) / FINE - y) * BOX_SIDE / height,
        "dp_I": seen.part[rows, columns].astype(np.float64),
        "dp_U": seen.u[rows, columns].astype(np.float64),
        "dp_V": seen.v[rows, columns].astype(np.float64),
    }
    middle = (np.arange(BOX_SIDE) + 0.5) / BOX_SIDE
    lines = np.floor((y + middle * height) * FINE).astype(int).clip(0, own.shape[0] - 1)
    across = np.floor((x + middle * width) * FINE).astype(int).clip(0, own.shape[1] - 1)
    grid = np.ix_(lines, across)
    coarse = np.array(COARSE_OF_PART)[seen.part[grid]] * own[grid]
    masks = [run_lengths(coarse == number) if (coarse == number).any() else [] for number in range(1, max(COARSE_OF_PART) + 1)]
    return {key: numbers.round(4).tolist() for key, numbers in values.items()} | {"dp_masks": masks}


def _keypoints(figure: Figure, seen: Seen, number: int) -> dict[str, Any]:
    """The middles of head, hands and feet: visible where the limb is seen there."""
    keypoints: list[float] = []
    for name in KEYPOINTS:
        limb, center = LIMBS[PLACE[name]], figure.centers[PLACE[name]]
        x, y = figure.place + center[:2] * figure.scale
        column, row = int(x * FINE), int(y * FINE)
        if not (0 <= x < seen.part.shape[1] / FINE and 0 <= y < seen.part.shape[0] / FINE):
            keypoints += [0, 0, 0]
            continue
        shown = seen.figure[row, column] == number and seen.part[row, column] in (limb.front, limb.back)
        keypoints += [round(float(x) - 0.5, 1), round(float(y) - 0.5, 1), 2 if shown else 1]
    return {"keypoints": keypoints, "num_keypoints": sum(visible > 0 for visible in keypoints[2::3])}


# --------------------------------------------------------------------------------------------------------------- surface


@cache
def surface() -> dict[str, NDArray[Any]]:
    """The arrays of ``body.npz``: the vertices of the 24 charts (``chart_part``, ``chart_u``, ``chart_v``, ``chart_vertex``),
    metres along the surface between them (``distances``), and the tables of the mirror image (``symmetry_u``, ``symmetry_v``).

    Each chart has 6 x 6 vertices on the figure that stands at ease; paths run along the edges of the charts' grids, over the seams
    between back and front, and from limb to limb at the nearest vertices.
    """
    centers, frames = _posed(_rest())
    steps = (np.arange(GRID) + 0.5) / GRID
    parts, uv, points, places = [], [], [], []
    columns, rows = (values.ravel() for values in np.meshgrid(np.arange(GRID), np.arange(GRID), indexing="ij"))
    for index, limb in enumerate(LIMBS):
        for part in sorted({limb.back, limb.front}):
            two, behind = limb.front != limb.back, part == limb.back and limb.front != limb.back
            u, v = steps[columns], steps[rows]
            along, angle = np.sin((v - 0.5) * np.pi), (u - 0.5) * (np.pi if two else 2 * np.pi)
            ring = np.sqrt(1 - along**2)
            across, ahead = np.sin(angle) * ring, np.cos(angle) * ring * (-1 if behind else 1)
            local = np.stack([along, ahead, across] if limb.sides else [along, across, ahead], axis=1)
            points.append(centers[index] + (local * np.array([limb.length, limb.width, limb.depth]) / 2) @ frames[index])
            parts.append(np.full(len(u), part))
            uv.append(np.stack([u, v], axis=1))
            around = 2 * GRID - 1 - columns if behind else columns
            places.append(np.stack([np.full(len(u), index), rows, around], axis=1))
    order = np.argsort(np.concatenate(parts), kind="stable")
    charts, place, xyz, grid = (np.concatenate(column)[order] for column in (parts, uv, points, places))
    distances = _shortest(xyz, grid)
    higher, lower = np.tril_indices(len(xyz), -1)
    fine = np.arange(256, dtype=np.float32) / 255
    mirrored_u = np.broadcast_to(1 - fine, (24, 256, 256)).copy()
    mirrored_u[[chart - 1 for chart in HEAD]] = fine
    return {
        "chart_part": charts.astype(np.int64),
        "chart_u": place[:, 0],
        "chart_v": place[:, 1],
        "chart_vertex": np.arange(len(charts)),
        "distances": distances[higher, lower].astype(np.float32),
        "symmetry_u": mirrored_u,
        "symmetry_v": np.broadcast_to(fine[:, None], (24, 256, 256)).copy(),
    }


def _shortest(xyz: Array, grid: NDArray[np.int64]) -> Array:
    """(n, n) lengths of the shortest paths (Floyd and Warshall) between vertices ``xyz`` (n, 3); ``grid`` (n, 3) is the limb of
    each, its row along the limb and its place around it. Neighbours on the grid are joined, all of the outermost rows, and each
    limb with the next at their three nearest pairs."""
    limbs, rows, around = grid.T
    apart = np.linalg.norm(xyz[:, None] - xyz[None], axis=2)
    steps = np.abs(around[:, None] - around[None])
    turns = np.array([2 * GRID if limb.front != limb.back else GRID for limb in LIMBS])[limbs]
    beside = (np.minimum(steps, turns[:, None] - steps) <= 1) & (np.abs(rows[:, None] - rows[None]) <= 1)
    pole = (rows[:, None] == rows[None]) & np.isin(rows, (0, GRID - 1))[:, None]
    paths = np.where((limbs[:, None] == limbs[None]) & (beside | pole), apart, np.inf)
    for first, second in _joints():
        pairs = np.where((limbs[:, None] == PLACE[first]) & (limbs[None] == PLACE[second]), apart, np.inf)
        for index in np.argsort(pairs, axis=None)[:3].tolist():
            a, b = divmod(index, len(xyz))
            paths[a, b] = apart[a, b]
    paths = np.minimum(paths, paths.T)
    for middle in range(len(xyz)):
        np.minimum(paths, paths[:, middle, None] + paths[None, middle], out=paths)
    return paths


def _joints() -> Iterator[tuple[str, str]]:
    yield "torso", "head"
    for side in ("left", "right"):
        for chain in (("torso", "upper_arm", "lower_arm", "hand"), ("torso", "upper_leg", "lower_leg", "foot")):
            names = [name if name == "torso" else f"{side}_{name}" for name in chain]
            yield from pairwise(names)


# ----------------------------------------------------------------------------------------------------------------- files


def write_bodies(
    out: str | Path, train: int = 600, val: int = 100, seed: int = 0, size: tuple[int, int] = (240, 320), *, workers: int = 0
) -> None:
    """Write ``train`` and ``val`` pictures of figures of ``size`` (height, width) below ``out``: train.json, train/, val.json,
    val/, and ``body.npz``, the surface and its symmetry.

    Picture k of a split depends only on ``seed``, the split and k, so a larger set begins with the pictures of a smaller one.
    ``workers`` as of `boxwood.data.synthetic.shapes.write_shapes`.
    """
    categories = [{"id": 1, "name": "figure", "supercategory": "shape", "keypoints": list(KEYPOINTS)}]
    info = {"description": "Generated figures with dense pose", "contributor": CONTRIBUTOR}
    draw = partial(_draw, seed, size)
    write_set(out, train, val, {"info": info, "categories": categories}, draw, image_format="JPEG", workers=workers)
    write_whole(Path(out, "body.npz"), _write_surface)


def _draw(seed: int, size: tuple[int, int], tree: Tree, split: int, number: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng([seed, 2 + split, number])
    figures, seen, picture = random_figures(rng, size)
    pixels = develop(picture, rng)
    for index, figure in enumerate(figures):
        annotation = figure_annotation(figure, seen, index, rng)
        if annotation is not None:
            tree["annotations"].append({"id": len(tree["annotations"]) + 1, "image_id": number + 1, **annotation})
    return pixels


def _write_surface(path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **surface())  # type: ignore[arg-type]  # names of arrays
