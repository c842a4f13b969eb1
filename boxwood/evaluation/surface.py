"""The surface of a body, as dense pose is measured on it: its charts' vertices, and the distances between them.

The published files of DensePose derive from SMPL, whose licence is not commercial, and do not come with Boxwood; a generated body
(`boxwood.data.synthetic.bodies`) is one file of the same numbers. Letters: K vertices of charts, n of the mesh, P points.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood import safe_pickle
from boxwood.dense_pose import GENERATE, WHERE_FROM, read_arrays, read_matlab
from boxwood.errors import UserError

__all__ = ["KAPPAS", "PART_GROUPS", "Surface", "read_surface", "similarity"]

FILES = ("SMPL_subdiv.mat", "SMPL_SUBDIV_TRANSFORM.mat", "Pdist_matrix.pkl")
ARRAYS = ("chart_part", "chart_u", "chart_v", "chart_vertex", "distances")
"""Of a generated body."""
PART_GROUPS = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 8, 8)
"""The group of each part: torso, hands, feet, upper legs, lower legs, upper arms, lower arms, head."""
GROUP_NAMES = ("torso", "hands", "feet", "upper_legs", "lower_legs", "upper_arms", "lower_arms", "head")
KAPPAS = (0.0, 0.351, 0.107, 0.126, 0.237, 0.173, 0.142, 0.128, 0.150)
"""Metres by group: at this distance a point counts e^-0.5. All released evaluators use these; the paper has 0.255 for all."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Surface:
    """A body's surface."""

    parts: NDArray[np.int64]
    """(K,) 1..24: the chart of each vertex of charts. Vertices on seams stand in several charts."""
    uv: Array
    """(K, 2)."""
    vertices: NDArray[np.int64]
    """(K,) the mesh's vertex, from 0."""
    distances: NDArray[np.floating[Any]]
    """(n (n - 1) / 2,) metres along the surface between vertices i > j, at i (i - 1) / 2 + j."""

    def nearest(self, parts: NDArray[np.int64], uv: Array) -> NDArray[np.int64]:
        """The mesh's vertex nearest to points ``parts`` (P,) and ``uv`` (P, 2) in their charts -> (P,); -1 for part 0."""
        found = np.full(len(parts), -1, dtype=np.int64)
        for part in set(parts.tolist()) - {0}:
            rows, chart = np.flatnonzero(parts == part), np.flatnonzero(self.parts == part)
            if len(chart):
                away = ((uv[rows, None] - self.uv[None, chart]) ** 2).sum(axis=2)
                found[rows] = self.vertices[chart[away.argmin(axis=1)]]
        return found

    def distance(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> Array:
        """Metres between vertices (P,) and (P,); infinite where one is -1."""
        high, low = np.maximum(a, b), np.minimum(a, b)
        apart = (low >= 0) & (high > low)
        metres = np.where(low < 0, np.inf, 0.0)
        metres[apart] = self.distances[high[apart] * (high[apart] - 1) // 2 + low[apart]]
        return metres


def similarity(metres: Array, parts: NDArray[np.int64], kappa: float | None = None) -> Array:
    """exp(-d^2 / (2 kappa^2)) of points (P,); ``parts`` are the true ones, by which kappa differs where it is None."""
    kappas = np.array(KAPPAS)[np.array(PART_GROUPS)[parts]] if kappa is None else kappa
    similarities: Array = np.exp(-(metres**2) / (2 * np.square(kappas)))
    return similarities


def read_surface(path: str | Path) -> Surface:
    """Read a surface: a folder with DensePose's ``SMPL_subdiv.mat``, ``SMPL_SUBDIV_TRANSFORM.mat`` and ``Pdist_matrix.pkl``, or the
    ``body.npz`` of a generated set. Raises `UserError` where files are missing or do not belong together."""
    path = Path(path)
    if path.suffix == ".npz" and not path.is_dir():
        if not path.is_file():
            raise UserError(f"{path}: no such file, with which dense pose is measured; {GENERATE}")
        part, u, v, vertices, distances = read_arrays(path, ARRAYS).values()
        return _checked(path, part, u, v, vertices, distances)
    if missing := [name for name in FILES if not (path / name).is_file()]:
        raise UserError(f"{path}: lacks {missing[0]}, with which dense pose is measured; {WHERE_FROM} and name its folder")
    charts = read_matlab(path / FILES[0], ("Part_ID_subdiv", "U_subdiv", "V_subdiv"))
    index = read_matlab(path / FILES[1], ("index",))["index"]
    content = safe_pickle.read(path / FILES[2])
    matrix = content.get("Pdist_matrix") if isinstance(content, dict) else None
    if not isinstance(matrix, np.ndarray):
        raise UserError(f"{path / FILES[2]}: has no array 'Pdist_matrix'; {WHERE_FROM}")
    columns = (charts["Part_ID_subdiv"], charts["U_subdiv"], charts["V_subdiv"])
    if any(column.dtype.kind not in "fiu" for column in (*columns, index)):
        raise UserError(f"{path}: {FILES[0]} and {FILES[1]} must hold numbers; {WHERE_FROM}")
    return _checked(path, *columns, index.astype(np.int64) - 1, matrix)


def _checked(path: Path, parts: Any, u: Any, v: Any, vertices: Any, distances: Any) -> Surface:
    columns = [np.asarray(column).ravel() for column in (parts, u, v, vertices, distances)]
    numbers = [column for column in columns if column.dtype.kind in "fiu"]
    count = len(columns[0])
    if len(numbers) != 5 or not count or any(len(column) != count for column in columns[1:4]):
        raise UserError(f"{path}: the parts, U, V and vertices of charts must be equally many numbers; take files of one body")
    most = int(columns[3].max()) + 1
    if columns[3].min() < 0 or len(columns[4]) != most * (most - 1) // 2:
        raise UserError(
            f"{path}: has {len(columns[4])} distances, and {most} vertices have {most * (most - 1) // 2}; take files of one body"
        )
    uv = np.stack(columns[1:3], axis=1).astype(np.float64)
    return Surface(columns[0].astype(np.int64), uv, columns[3].astype(np.int64), columns[4])
