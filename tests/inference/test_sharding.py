"""`boxwood predict` on several processes writes what one process writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from boxwood.errors import UserError
from boxwood.inference.sharding import absorb, blocks_of_rank
from boxwood.weights.file import read_weights, save_weights
from tests.inference.test_predictor import network, picture, run_config
from tests.inference.test_video import encode, greys
from tests.training.torchrun import ROOT


def test_every_input_is_in_one_shard_and_batches_are_those_of_one_process() -> None:
    files = [Path(name) for name in ("a.jpg", "b.jpg", "c.jpg", "d.mp4", "e.jpg", "f.mp4")]
    one = list(blocks_of_rank(files, 2, set(), 0, 1))
    assert [[file.stem for file in block] for block in one] == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]
    parts = [list(blocks_of_rank(files, 2, {"f.mp4", "d.mp4"}, rank, 3)) for rank in range(3)]
    assert sorted(block for part in parts for block in part) == sorted(one)
    assert [Path("d.mp4")] in parts[0] and [Path("f.mp4")] in parts[0]


def test_journals_become_one_also_after_a_kill_between(tmp_path: Path) -> None:
    path, shard = tmp_path / "p.jsonl", tmp_path / "p.rank1.jsonl"
    head, a, b = '{"model": "m"}\n', '{"file_name": "a", "detections": []}\n', '{"file_name": "b", "detections": []}\n'
    path.write_text(head + a + b)  # b was moved, then the process was killed before it removed the shard
    shard.write_text(head + b + '{"file_name": "c", "detections": []}\n{"file_na')
    absorb(path, {"model": "m"})
    assert [json.loads(line).get("file_name") for line in path.read_text().splitlines()] == [None, "a", "b", "c"]
    assert not shard.exists()
    shard.write_text('{"model": "other"}\n')
    with pytest.raises(UserError, match="another model"):
        absorb(path, {"model": "m"})
    assert shard.exists()


def _start(folder: Path, out: str, processes: int, *options: str) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    fixed = ["predict", "photos", "--model", "weights.safetensors", "--out", out, "--score", "0", "--batch", "2"]
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "boxwood", *fixed, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _predict(folder: Path, out: str, processes: int, *options: str, status: int = 0) -> str:
    process = _start(folder, out, processes, *options)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    return printed.replace(out, "OUT")


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with weights, and pictures in ``photos``."""
    config = run_config()
    model = network(config)
    save_weights(tmp_path / "weights.safetensors", model.state_dict(), config, model.categories)
    (tmp_path / "photos").mkdir()
    for number in range(7):
        name = f"{number // 2}.{('png', 'bmp')[number % 2]}"
        Image.fromarray(picture(60 + 8 * number, 80, number)).save(tmp_path / "photos" / name)
    return tmp_path


@pytest.mark.slow
def test_two_processes_write_the_files_of_one(photos: Path) -> None:
    printed = _predict(photos, "one", 1)
    expected = _files(photos / "one")
    assert len(json.loads(expected["predictions.json"])) > 7
    assert _predict(photos, "two", 2) == printed
    assert _files(photos / "two") == expected


@pytest.mark.slow
def test_videos_crops_and_coco_results_of_two_processes_are_those_of_one(photos: Path) -> None:
    for number in range(2):
        encode(photos / "photos" / f"walk{number}.mp4", greys(5 + number))
    printed = _predict(photos, "one", 1, "--crops")
    expected = _files(photos / "one")
    assert {"walk0.mp4", "walk1.mp4"} <= expected.keys() and any(name.startswith("crops") for name in expected)
    assert _predict(photos, "two", 2, "--crops") == printed
    assert _files(photos / "two") == expected

    for video in (photos / "photos").glob("*.mp4"):
        video.unlink()
    images = []
    for index, path in enumerate(sorted((photos / "photos").iterdir())):
        with Image.open(path) as image:
            images.append({"id": 10 + index, "file_name": path.name, "height": image.height, "width": image.width})
    names = read_weights(photos / "weights.safetensors").categories.names
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(names)]
    (photos / "images.json").write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    for out, processes in (("coco1", 1), ("coco2", 2)):
        _predict(photos, out, processes, "--coco", "images.json")
    assert _files(photos / "coco1") == _files(photos / "coco2")


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_the_next_call_resumes(photos: Path) -> None:
    """The rank is killed as soon as its journal has a line; then one process does the rest. Pictures go through the network one by
    one: the numbers of a picture depend on the padding of its batch, and batches on where the first call ended."""
    for number in range(100, 140):  # enough that some are left
        Image.fromarray(picture(96, 128, number)).save(photos / "photos" / f"{number}.png")
    _predict(photos, "one", 1, "--batch", "1")
    process = _start(photos, "two", 2, "--batch", "1")
    end = time.monotonic() + 60
    while not any(path.read_bytes().count(b"\n") > 1 for path in photos.glob("two/*rank1.jsonl")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(ranks[-1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0, errors
    assert not (photos / "two" / "predictions.json").exists()
    _predict(photos, "two", 1, "--batch", "1")
    assert _files(photos / "two") == _files(photos / "one")
