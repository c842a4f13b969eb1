"""Generated figures: what their annotations say is what their pictures show, and their surface has the distances of a body."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxwood.data import CocoConfig
from boxwood.data.synthetic import bodies
from boxwood.data.synthetic.bodies import FINE, LIMBS, PLACE, figure_annotation, random_figures, surface, write_bodies
from boxwood.dense_pose import DensePose, coarse_parts, read_symmetry
from boxwood.evaluation.surface import read_surface
from boxwood.fields import Affine
from boxwood.ops.dense_pose import COARSE_OF_PART, MIRRORED_PARTS
from tests.conftest import Boxwood

SIZE = (120, 160)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bodies")
    write_bodies(folder, train=4, val=2, seed=0, size=SIZE)
    return folder


def test_every_chart_belongs_to_one_limb() -> None:
    charts = sorted({chart for limb in LIMBS for chart in (limb.back, limb.front)})
    assert charts == list(range(1, 25)) and len(LIMBS) == 14
    for name, place in PLACE.items():
        if name.startswith("left_"):
            other = LIMBS[PLACE[name.replace("left_", "right_")]]
            limb = LIMBS[place]
            assert (MIRRORED_PARTS[limb.back], MIRRORED_PARTS[limb.front]) == (other.back, other.front)


def test_the_data_set_is_read_and_grows(folder: Path, tmp_path: Path) -> None:
    dataset = CocoConfig(annotations=str(folder / "train.json"), images=str(folder / "train")).open()
    assert len(dataset) == 4 and dataset.categories.names == ("figure",)
    fields = [sample.fields["dense_pose"] for sample in dataset]  # type: ignore[attr-defined]  # it has __getitem__
    assert any(field.annotated.any() for field in fields)
    write_bodies(tmp_path, train=5, val=1, seed=0, size=SIZE)
    assert (tmp_path / "train" / "000003.jpg").read_bytes() == (folder / "train" / "000003.jpg").read_bytes()
    first, more = (json.loads((path / "train.json").read_text())["annotations"] for path in (folder, tmp_path))
    assert more[: len(first)] == first


def test_annotations_say_what_is_seen() -> None:
    """Points lie on pixels of their part, with the coordinates that were drawn; the coarse parts are those of the parts."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        figures, seen, _ = random_figures(rng, SIZE)
        for number, figure in enumerate(figures):
            annotation = figure_annotation(figure, seen, number, np.random.default_rng(0))
            if annotation is None:
                continue
            x, y, width, height = annotation["bbox"]
            assert x >= 0 and x + width <= SIZE[1] and y >= 0 and y + height <= SIZE[0]
            columns = ((np.array(annotation["dp_x"]) * width / 256 + x) * FINE).astype(int)
            rows = ((np.array(annotation["dp_y"]) * height / 256 + y) * FINE).astype(int)
            assert (seen.figure[rows, columns] == number).all()
            assert (seen.part[rows, columns] == annotation["dp_I"]).all()
            np.testing.assert_allclose(seen.u[rows, columns], annotation["dp_U"], atol=1e-4)
            np.testing.assert_allclose(seen.v[rows, columns], annotation["dp_V"], atol=1e-4)
            coarse = coarse_parts(annotation["dp_masks"])
            shown = {COARSE_OF_PART[part] for part in np.unique(seen.part[seen.figure == number]).tolist()}
            assert set(np.unique(coarse).tolist()) - {0} <= shown


def test_a_mirrored_figure_is_the_mirror_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A figure is drawn, and drawn again with its left and right exchanged: parts, U and V are those of the mirrored truth."""
    write_symmetry(tmp_path / "body.npz")
    rng = np.random.default_rng(2)
    figure = bodies.random_figure(rng, SIZE, bodies.ALONE)
    seen = bodies._render([figure], SIZE)
    other = bodies.Figure(
        figure.centers.copy(), figure.frames.copy(), figure.scale, np.array([SIZE[1] - figure.place[0], figure.place[1]])
    )
    for name, place in PLACE.items():
        swapped = name.replace("left", "?").replace("right", "left").replace("?", "right")
        other.centers[PLACE[swapped]] = figure.centers[place] * [-1, 1, 1]
        other.frames[PLACE[swapped]] = figure.frames[place] * [[-1, 1, 1], [1, -1, -1], [-1, 1, 1]]
    again = bodies._render([other], SIZE)
    rows, columns = np.nonzero(seen.figure == 0)
    some = np.random.default_rng(0).permutation(len(rows))[:200]
    rows, columns = rows[some], columns[some]
    truth = np.stack([columns, rows, seen.part[rows, columns], seen.u[rows, columns], seen.v[rows, columns]], axis=1)
    known = torch.ones(1, dtype=torch.bool)
    field = DensePose(
        torch.from_numpy(truth[None].astype(np.float32)),
        torch.zeros(1, 4),
        torch.zeros(1, 256, 256, dtype=torch.uint8),
        known,
        known,
        read_symmetry(str(tmp_path / "body.npz")),
    )
    mirrored = field.transformed(Affine.flip(SIZE)).points[0].numpy()
    at = rows, seen.figure.shape[1] - 1 - columns
    same = again.part[at] == mirrored[:, 2]
    assert same.all()
    np.testing.assert_allclose(again.u[at], mirrored[:, 3], atol=0.02)
    np.testing.assert_allclose(again.v[at], mirrored[:, 4], atol=0.02)


def write_symmetry(path: Path) -> None:
    arrays: dict[str, Any] = surface()
    np.savez(path, **{name: arrays[name] for name in ("symmetry_u", "symmetry_v")})


def test_the_surface_has_the_distances_of_a_body(folder: Path) -> None:
    body = read_surface(folder / "body.npz")
    assert len(body.parts) == 24 * 36 and np.isfinite(body.distances).all() and body.distances.min() > 0
    points = {name: body.nearest(np.array([limb.front]), np.array([[0.5, 0.5]])) for name, limb in zip(PLACE, LIMBS, strict=True)}

    def apart(first: str, second: str) -> float:
        return float(body.distance(points[first], points[second])[0])

    assert apart("head", "left_foot") > 1.5 > apart("head", "torso") > 0.2  # metres
    assert apart("left_hand", "left_lower_arm") < apart("left_hand", "left_upper_arm") < apart("left_hand", "right_hand")
    assert apart("left_hand", "left_foot") == pytest.approx(apart("right_hand", "right_foot"), rel=0.05)
    # Ways along the surface are no shorter than straight ones: the triangle inequality through a third vertex.
    a, b, c = np.random.default_rng(0).integers(0, 864, (3, 500))
    assert (body.distance(a, b) <= body.distance(a, c) + body.distance(c, b) + 1e-5).all()


def test_the_command(boxwood: Boxwood, tmp_path: Path) -> None:
    done = boxwood("data", "shapes", "--surface", "--out", tmp_path, "--train", 1, "--val", 1)
    assert done.status == 0, done.err
    assert {path.name for path in tmp_path.iterdir()} == {"train", "train.json", "val", "val.json", "body.npz"}
