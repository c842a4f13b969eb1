"""`evaluate` over batches, and two processes against one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from boxwood.evaluation import CocoEvaluator, evaluate, save_detections, save_metrics
from boxwood.structures import Batch, Detections
from tests.evaluation import keypoint_cases
from tests.evaluation.cases import categories, random_case

ROOT = Path(__file__).parents[2]


class Oracle(nn.Module):
    """A model that returns the given detections of each image."""

    def __init__(self, predictions: dict[int, Detections]) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm2d(3)
        self.learning = nn.BatchNorm2d(3)
        self.frozen.eval()
        self.predictions = predictions

    def forward(self, batch: Batch) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        assert not self.learning.training
        out: torch.Tensor = self.learning(batch.images.float())
        return out

    def detections(self, output: torch.Tensor, batch: Batch) -> list[Detections]:
        if 0 in batch.image_ids:
            raise RuntimeError("broken")
        return [self.predictions[image_id] for image_id in batch.image_ids]


def batches(image_ids: list[int]) -> list[Batch]:
    return [
        Batch(
            torch.zeros(len(some), 3, 32, 32, dtype=torch.uint8),
            torch.full((len(some), 2), 32),
            ((32, 32),) * len(some),
            tuple(some),
        )
        for some in (image_ids[start : start + 2] for start in range(0, len(image_ids), 2))
    ]


class Slow:
    """An evaluator that notes what it is given, and refuses an image."""

    def __init__(self, refused: int | None = None) -> None:
        self.added: list[int] = []
        self.threads: set[int] = set()
        self.refused = refused

    def add(self, image_id: int, detections: Detections) -> None:
        if image_id == self.refused:
            raise RuntimeError("refused")
        self.threads.add(threading.get_ident())
        self.added.append(image_id)

    def gather(self) -> None: ...

    def compute(self) -> dict[str, Any]:
        return {"images": list(self.added)}


def test_a_thread_beside_the_network_adds_the_images_in_their_order() -> None:
    _, predictions = random_case(11)
    ids, evaluator = list(predictions)[::-1], Slow()
    assert evaluate(Oracle(predictions), batches(ids), evaluator, "cpu")["images"] == ids
    assert len(evaluator.threads) == 1 and threading.get_ident() not in evaluator.threads
    refusing = Slow(refused=ids[3])
    with pytest.raises(RuntimeError, match="refused"):
        evaluate(Oracle(predictions), batches(ids), refusing, "cpu")
    assert refusing.added[:3] == ids[:3]


def test_evaluate() -> None:
    truth, predictions = random_case(11)
    model = Oracle(predictions)
    statistics = model.learning.running_var.clone()
    metrics = evaluate(model, batches(list(predictions)), CocoEvaluator(truth, categories(truth)), "cpu")
    alone = CocoEvaluator(truth, categories(truth))
    for image_id, one in predictions.items():
        alone.add(image_id, one)
    assert metrics.pop("images_per_second") > 0
    assert metrics == alone.compute()
    assert 0 < metrics["bbox"]["AP"] < 1
    assert model.training
    assert model.learning.training
    assert not model.frozen.training
    assert torch.equal(model.learning.running_var, statistics)


def test_the_mode_is_restored_after_an_error() -> None:
    truth, predictions = random_case(11)
    model = Oracle(predictions)
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, batches([0]), CocoEvaluator(truth, categories(truth)), "cpu")
    assert model.learning.training


def test_no_images() -> None:
    truth, predictions = random_case(11)
    metrics = evaluate(Oracle(predictions), [], CocoEvaluator(truth, categories(truth)), "cpu")
    assert metrics["bbox"]["AP"] == 0
    assert "images_per_second" not in metrics


def evaluate_share(out: Path, rank: int, world_size: int) -> None:
    """Evaluate the share of one process: its images, and the first one, which every process sees (a sampler's padding)."""
    masks, sigmas = random_case(21, images=9, instances=8, score_levels=3), keypoint_cases.SIGMAS["four"]
    keypoints = keypoint_cases.random_case(21, sigmas, images=9, levels=3)
    for name, (truth, predictions), classes in (
        ("masks", masks, categories(masks[0])),
        ("keypoints", keypoints, keypoint_cases.categories(keypoints[0], sigmas)),
    ):
        evaluator = CocoEvaluator(truth, classes)
        ids = list(predictions)
        for image_id in [*ids[rank::world_size], ids[0]]:
            evaluator.add(image_id, predictions[image_id])
        evaluator.gather()
        save_metrics(evaluator.compute(), out / f"metrics-{name}-{rank}-of-{world_size}.json")
        save_detections(evaluator.records, out / f"records-{name}-{rank}-of-{world_size}.json")


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    evaluate_share(tmp_path, 0, 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.evaluation.test_evaluator", str(tmp_path)]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen(command, cwd=ROOT, env={**shared, "RANK": str(rank)}) for rank in range(2)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    for name in ("metrics-masks", "metrics-keypoints", "records-masks", "records-keypoints"):
        one = (tmp_path / f"{name}-0-of-1.json").read_text()
        assert json.loads(one)
        for rank in range(2):
            assert (tmp_path / f"{name}-{rank}-of-2.json").read_text() == one


def main() -> Any:
    torch.distributed.init_process_group("gloo")
    try:
        evaluate_share(Path(sys.argv[1]), torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
