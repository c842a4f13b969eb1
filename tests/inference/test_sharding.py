"""`boxwood predict` on several processes writes what one process writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from boxwood.errors import UserError
from boxwood.inference.sharding import absorb, blocks_of_rank
from boxwood.weights.file import save_weights
from tests.inference.test_predictor import network, picture, run_config
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


def _predict(folder: Path, out: str, processes: int) -> str:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    options = ["predict", "photos", "--model", "weights.safetensors", "--out", out, "--score", "0", "--batch", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "boxwood", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(out, "OUT")


@pytest.mark.slow
def test_two_processes_write_the_files_of_one(tmp_path: Path) -> None:
    config = run_config()
    model = network(config)
    save_weights(tmp_path / "weights.safetensors", model.state_dict(), config, model.categories)
    (tmp_path / "photos").mkdir()
    for number in range(7):
        Image.fromarray(picture(60 + 8 * number, 80, number)).save(
            tmp_path / "photos" / f"{number // 2}.{('png', 'bmp')[number % 2]}"
        )
    printed = _predict(tmp_path, "one", 1)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert len(json.loads(expected["predictions.json"])) > 7
    assert _predict(tmp_path, "two", 2) == printed
    assert {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()} == expected
