"""Generated pictures are the same for the same seed, and their annotations match the painted pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from boxwood.data import CocoDataset
from boxwood.data.synthetic.shapes import CLASSES, Scene, annotation, compose_scene, random_scene, write_shapes

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools under numpy 2
SIZE = (240, 320)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shapes")
    write_shapes(out, train=25, val=3, seed=4)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_depend_only_on_the_seed(folder: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path / "a", train=5, val=3, seed=4)
    write_shapes(tmp_path / "b", train=5, val=3, seed=4)
    write_shapes(tmp_path / "c", train=5, val=3, seed=5)
    a, b, c, longer = (contents(path) for path in (tmp_path / "a", tmp_path / "b", tmp_path / "c", folder))
    assert a == b and len(a) == 10
    assert all(a[name] != c[name] for name in a)
    # A larger set begins with the pictures of a smaller one; train and val have no picture in common.
    assert all(longer[name] == a[name] for name in a if name != "train.json")
    assert a["train/000000.jpg"] != a["val/000000.jpg"]


def test_the_files_open_without_a_fault(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split, count in (("train", 25), ("val", 3)):
        data = CocoDataset(folder / f"{split}.json", folder / split)
        assert len(data) == count and data.categories.names == CLASSES
        assert all(data[index].size == SIZE for index in range(count))
    assert not caplog.records
    facts = data.categories.keypoints
    assert facts is not None and facts.names == ("top", "right", "bottom", "left") and facts.flip == (0, 3, 2, 1)


def test_the_set_is_varied(folder: Path) -> None:
    tree = json.loads((folder / "train.json").read_text())
    rows = tree["annotations"]
    assert {row["category_id"] for row in rows} == set(range(1, 7))
    assert {type(row["segmentation"]) for row in rows} == {list, dict}
    sides = np.sqrt([row["area"] for row in rows])
    assert sides.min() < 30 and sides.max() > 70
    assert min(min(row["bbox"][2:]) for row in rows) >= 13.5
    visibilities = {v for row in rows for v in row["keypoints"][2::3]}
    assert visibilities == {0, 1, 2}
    counts = np.bincount([row["image_id"] for row in rows])[1:]
    assert counts.min() >= 1 and 6 <= counts.max() <= 8


def test_masks_are_the_visible_pixels() -> None:
    coco = COCO.__new__(COCO)
    for seed in range(12):
        scene = random_scene(np.random.default_rng(seed), SIZE)
        coco.imgs = {1: {"height": SIZE[0], "width": SIZE[1]}}
        for index, shape in enumerate(scene.shapes):
            row = annotation(scene, index)
            mask = coco.annToMask({**row, "image_id": 1}).astype(bool)
            seen = (scene.seen == index).reshape(SIZE[0], 2, SIZE[1], 2).mean(axis=(1, 3)) >= 0.5
            # Pixels differ only at the outline (the picture's border included), and only few of them.
            around = np.lib.stride_tricks.sliding_window_view(np.pad(seen, 1), (3, 3))
            rim = around.any(axis=(2, 3)) & ~around.all(axis=(2, 3))
            assert not (mask != seen)[~rim].any(), (seed, index, CLASSES[shape.label])
            assert (mask != seen).sum() < 0.3 * rim.sum()  # COCO fills a polygon up to half a pixel off
            assert abs(row["area"] - mask.sum()) < 0.08 * row["area"] + 12
            x, y, width, height = row["bbox"]
            down, across = np.nonzero(mask)  # visible parts thinner than a pixel may be missing in the outline
            np.testing.assert_allclose([x, y, x + width, y + height],
                                       [across.min(), down.min(), across.max() + 1, down.max() + 1], atol=1.6)  # fmt: skip


def test_painted_pixels_are_those_of_the_masks() -> None:
    for seed in range(6):
        scene = random_scene(np.random.default_rng(seed), SIZE)
        bare = compose_scene(Scene(SIZE, [], scene.seen), np.random.default_rng(1))
        painted = compose_scene(scene, np.random.default_rng(1))
        changed = np.abs(painted - bare).max(axis=2) > 0.12
        seen = (scene.seen >= 0).reshape(SIZE[0], 2, SIZE[1], 2).mean(axis=(1, 3))
        assert changed[seen == 1].mean() > 0.9  # objects differ from the background,
        assert changed[seen == 0].mean() < 0.05  # which changes only by shadows


def test_keypoints_are_in_the_image_on_the_outline_or_not_labelled(folder: Path) -> None:
    tree = json.loads((folder / "train.json").read_text())
    for row in tree["annotations"]:
        points = np.array(row["keypoints"]).reshape(4, 3)
        labelled = points[points[:, 2] > 0]
        assert row["num_keypoints"] == len(labelled)
        assert (labelled[:, :2] >= 0).all() and (labelled[:, 0] <= SIZE[1] - 1).all() and (labelled[:, 1] <= SIZE[0] - 1).all()
        assert not points[points[:, 2] == 0].any()
        x, y, width, height = row["bbox"]
        # A visible extreme point lies on its side of the box; a hidden one may lie outside.
        for (px, py, visible), edge, axis in zip(points, (y, x + width, y + height, x), (1, 0, 1, 0), strict=True):
            if visible == 2:
                assert abs((px, py)[axis] + 0.5 - edge) < 3.0


def test_every_shape_can_be_recognised() -> None:
    for seed in range(12):
        scene = random_scene(np.random.default_rng(seed), SIZE)
        for index, shape in enumerate(scene.shapes):
            assert (scene.seen == index).sum() >= 0.4 * shape.solid.sum()


def test_another_size() -> None:
    scene = random_scene(np.random.default_rng(0), (100, 60))
    assert compose_scene(scene, np.random.default_rng(0)).shape == (100, 60, 3)
    for index in range(len(scene.shapes)):
        x, y, width, height = annotation(scene, index)["bbox"]
        assert x >= 0 and y >= 0 and x + width <= 60 and y + height <= 100
