"""``boxwood data``: its output, files and exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from boxwood.cli.data import data
from boxwood.errors import UserError
from tests.data.cases import sound, write


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(data, [str(argument) for argument in arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    return result


def test_check_of_a_sound_set(tmp_path: Path) -> None:
    result = run("check", write(tmp_path, sound()), "--images", tmp_path, "--decode")
    assert result.exit_code == 0 and result.output.splitlines()[1:] == ["  nothing wrong"]
    assert "3 images, 3 annotations, 2 classes" in result.output


def test_check_reports_all_faults_at_once(tmp_path: Path) -> None:
    tree = sound()
    tree["annotations"][0]["bbox"] = [0, 0, 0, 0]
    tree["annotations"][1]["segmentation"]["counts"] = [0, 9999]
    path = write(tmp_path, tree)
    Image.new("RGB", (7, 7)).save(tmp_path / "empty.png")
    result = run("check", path, "--images", tmp_path)
    lines = [line.strip().partition(":")[::2] for line in result.output.splitlines()[1:]]
    assert result.exit_code == 1
    assert [(verdict, line.split(":")[0].strip()) for verdict, line in lines] == [
        ("repaired", "1 boxes without width or height"),
        ("refused", "1 run-length masks that cannot be decoded"),
        ("refused", "1 images of another size than the annotation file says"),
        ("look", "1 masks that do not meet their boxes"),
    ]


def test_check_with_unknown_image_ids_and_missing_images(tmp_path: Path) -> None:
    tree = sound()
    tree["annotations"][0]["image_id"] = 1
    path = write(tmp_path, tree)
    (tmp_path / "tall.png").unlink()
    result = run("check", path, "--images", tmp_path)
    assert result.exit_code == 1 and result.output.count("refused:") == 2
    with pytest.raises(UserError, match="--images: name the folder"):
        run("check", write(tmp_path / "alone", tree, images=False))


def data_overrides(tmp_path: Path) -> list[str]:
    run("shapes", "--out", tmp_path, "--train", 3, "--val", 2)
    return [f"data.{split}.{key}" for split in ("train", "val") for key in
            (f"annotations={tmp_path / f'{split}.json'}", f"images={tmp_path / split}")]  # fmt: skip


def test_shapes_check_stats_and_show_with_a_configuration(tmp_path: Path) -> None:
    overrides = data_overrides(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "train.json", "val", "val.json"]
    checked = run("check", "demo_shapes", *overrides)
    assert checked.exit_code == 0 and "refused" not in checked.output and "repaired" not in checked.output
    counted = run("stats", "demo_shapes", *overrides).output
    boxes = len(json.loads((tmp_path / "train.json").read_text())["annotations"])
    assert f"3 images, {boxes} annotations, 6 classes" in counted
    shown = run("show", "demo_shapes", *overrides, "data.train.transforms.0.short=[120]", "--out", tmp_path / "seen", "--count", 5)
    assert shown.exit_code == 0
    pictures = sorted((tmp_path / "seen").iterdir())
    assert len(pictures) == 5
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size == (160, 120)


def test_different_classes_in_val_are_refused(tmp_path: Path) -> None:
    overrides = data_overrides(tmp_path)
    tree = json.loads((tmp_path / "val.json").read_text())
    tree["categories"].append({"id": 7, "name": "moon"})
    (tmp_path / "val.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"only data\.val has 7 'moon'"):
        run("check", "demo_shapes", *overrides)


def test_statistics(tmp_path: Path) -> None:
    lines = run("stats", write(tmp_path, sound())).output.splitlines()
    assert "images without annotations: 1" in lines[1]
    rows = [line.split() for line in lines if line.endswith(("fig", "nut"))]
    assert rows[0] == ["-4", "1", "1", "49.0", "49.0", "49.0", "fig"]  # the root of 60 x 40
    assert rows[1] == ["900", "2", "2", "6.3", "10.3", "14.3", "nut"]
    tree = sound()
    tree["annotations"] = []
    assert "images without annotations: 3" in run("stats", write(tmp_path, tree)).output
