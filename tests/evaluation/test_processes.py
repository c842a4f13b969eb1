"""Every evaluator gives exactly the same numbers on two processes as on one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from boxwood.evaluation import CollectingEvaluator, ProposalEvaluator, make_evaluator
from boxwood.structures import Detections
from tests.evaluation import keypoint_cases, test_cityscapes, test_lvis
from tests.evaluation.cases import categories, random_case
from tests.training.torchrun import ROOT

pytestmark = pytest.mark.slow

CASES = ("coco", "keypoints", "proposals", "voc2007", "voc2010", "lvis", "cityscapes")

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from boxwood.distributed import process_group, rank, world_size
from tests.evaluation.test_processes import CASES, evaluator_of
with process_group(torch.device("cpu")):
    for name in CASES:
        evaluator, predictions = evaluator_of(name)
        for place, (image_id, detections) in enumerate(predictions.items()):
            if place % world_size() == rank() or place == 0:  # both add the first, as the padding of a sampler
                evaluator.add(image_id, detections)
        evaluator.gather()
        if rank() == world_size() - 1:
            Path(sys.argv[1], name + ".json").write_text(json.dumps(evaluator.compute()))
"""


def evaluator_of(name: str) -> tuple[CollectingEvaluator | ProposalEvaluator, dict[int, Detections]]:
    """An evaluator, and detections for it, in an order other than that of the image ids."""
    predictions: dict[int, Any]
    if name == "keypoints":
        truth, predictions = keypoint_cases.random_case(3, keypoint_cases.SIGMAS["four"])
        return make_evaluator(truth, keypoint_cases.categories(truth, keypoint_cases.SIGMAS["four"])), predictions
    if name == "lvis":
        truth, predictions = test_lvis.case(3)
    elif name == "cityscapes":
        streets = [test_cityscapes.street(number) for number in range(6)]
        truth = test_cityscapes.as_coco([numbers for numbers, _ in streets])
        predictions = {image_id: test_cityscapes.detected(rows) for image_id, (_, rows) in enumerate(streets, start=1)}
    else:
        truth, predictions = random_case(5, images=9)
    evaluator = make_evaluator(truth, categories(truth), measure=name)
    return evaluator, dict(reversed(predictions.items()))


def torchrun(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    (folder / "script.py").write_text(SCRIPT)
    # Without torchrun, which would be a third process that imports torch.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        environment["MASTER_PORT"] = str(probe.getsockname()[1])
    command = [sys.executable, str(folder / "script.py"), str(folder)]
    processes = [subprocess.Popen(command, cwd=ROOT, env={**environment, "RANK": str(rank)}) for rank in range(2)]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(name: str, of_two: Path) -> None:
    evaluator, predictions = evaluator_of(name)
    for image_id, detections in predictions.items():
        evaluator.add(image_id, detections)
    text = json.dumps(evaluator.compute())
    assert text == (of_two / f"{name}.json").read_text()
    tables = [table for table in json.loads(text).values() if isinstance(table, dict) and ("AP" in table or "AR100" in table)]
    assert tables and all(any(0 < number < 1 for number in table.values()) for table in tables)


@pytest.mark.slow
def test_the_command(trained: Path, tmp_path: Path) -> None:
    """Including the network, the selection and the report."""
    subprocess.run([sys.executable, "-m", "boxwood", "eval", str(trained), "--out", str(tmp_path / "one")], check=True, cwd=ROOT)
    torchrun("-m", "boxwood", "eval", trained, "--out", tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert one.pop("images_per_second") > 0 and two.pop("images_per_second") > 0
    assert one == two
    assert (tmp_path / "one" / "detections.json").read_text() == (tmp_path / "two" / "detections.json").read_text()
