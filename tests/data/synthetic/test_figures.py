"""Generated figures: what is written is a data set, the same for the same seed, and says what the pictures show."""

import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from boxwood.cli.data.shapes import shapes
from boxwood.data import CocoConfig
from boxwood.data.coco_file import read_coco_file
from boxwood.data.synthetic.figures import VERBS, _scene, write_figures


def test_a_data_set_with_interactions(tmp_path: Path) -> None:
    done = CliRunner().invoke(shapes, ["--interactions", "--out", str(tmp_path / "a"), "--train", "3", "--val", "1"])
    assert done.exit_code == 0, done.output
    data = CocoConfig(annotations=str(tmp_path / "a/train.json"), images=str(tmp_path / "a/train")).open()
    facts = data.categories.interactions
    assert facts is not None and facts.verbs == VERBS and facts.has_object.count(False) == 1
    assert len(data) == 3 and all(bool(data[index].fields["interactions"].known.any()) for index in range(3))  # type: ignore[attr-defined]
    write_figures(tmp_path / "b", train=2, val=1)
    for name in ("train/000001.png", "val/000000.png", "val.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    write_figures(tmp_path / "c", train=1, val=1, seed=1)
    assert (tmp_path / "c/train/000000.png").read_bytes() != (tmp_path / "a/train/000000.png").read_bytes()


def test_boxes_are_where_the_figures_are(tmp_path: Path) -> None:
    """Away from all boxes neighbouring pixels are alike; at the sides of an object's box they are not."""
    write_figures(tmp_path, train=4, val=1)
    file = read_coco_file(tmp_path / "train.json")
    inside, outside = [], []
    for row in range(4):
        pixels = np.asarray(Image.open(tmp_path / f"train/{row:06d}.png"), dtype=np.float64)
        covered = np.zeros(pixels.shape[:2], dtype=np.bool_)
        for x, y, w, h in file.boxes[file.by_image[file.starts[row] : file.starts[row + 1]]]:
            assert x >= 0 and y >= 0 and x + w <= 128 and y + h <= 128
            covered[int(y) : int(y + h) + 1, int(x) : int(x + w) + 1] = True
        steps = np.abs(np.diff(pixels, axis=1)).sum(axis=2)
        inside.append(steps[covered[:, 1:]].max())
        outside.append(steps[~covered[:, 1:] & ~covered[:, :-1]].mean())
    assert min(inside) > 5 * max(outside)


def test_poses_are_as_frequent_as_they_are_said_to_be() -> None:
    figures = [figure for number in range(400) for figure in _scene(np.random.default_rng(number))[0]]
    share = {verb: np.mean([verb in figure.deeds for figure in figures]) for verb in VERBS}
    assert abs(share["hold"] - 0.4) < 0.08 and abs(share["lift"] - 0.25) < 0.08 and abs(share["look"] - 0.35) < 0.1
    missing = [thing is None for figure in figures for verb, thing in figure.deeds.items() if verb != "walk"]
    assert 0.05 < np.mean(missing) < 0.17
    sides = [np.sign(t.x - f.head[0]) for f in figures for v, t in f.deeds.items() if v in ("hold", "kick", "look") and t]
    assert abs(np.mean(sides)) < 0.15


def test_the_truth_is_complete_json(tmp_path: Path) -> None:
    write_figures(tmp_path, train=1, val=2)
    tree = json.loads((tmp_path / "val.json").read_text())
    assert {"verbs", "interactions"} < tree.keys() and len(tree["images"]) == 2
