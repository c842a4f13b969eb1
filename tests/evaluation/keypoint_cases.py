"""Ground truth and detections with keypoints for the tests, and their metrics by pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
import torch
from pycocotools.cocoeval import COCOeval

from boxwood.structures import Categories, Detections, KeypointFacts
from tests.evaluation.cases import SIZE, quiet_coco

SIGMAS = {"persons": (0.026, 0.025, 0.025, 0.035, 0.035, *(0.08,) * 12), "four": (0.05, 0.1, 0.02, 0.07), "one": (0.05,)}
NAMES = ["AP", "AP50", "AP75", "APm", "APl", "AR20", "AR50", "AR75", "ARm", "ARl"]
"""In the order of pycocotools."""


def facts(sigmas: tuple[float, ...]) -> KeypointFacts:
    names = tuple(f"point {i}" for i in range(len(sigmas)))
    return KeypointFacts(names, tuple(range(len(sigmas))), (), sigmas)


def categories(truth: dict[str, Any], sigmas: tuple[float, ...]) -> Categories:
    rows = truth["categories"]
    return Categories(tuple(row["id"] for row in rows), tuple(row["name"] for row in rows), facts(sigmas))


def random_case(
    seed: int, sigmas: tuple[float, ...], *, images: int = 5, instances: int = 5, extra: int = 3, levels: int = 5
) -> tuple[dict[str, Any], dict[int, Detections]]:
    """Instances with some keypoints not labelled or none at all, crowds, empty images; detections near them and elsewhere."""
    rng, count = np.random.default_rng(seed), len(sigmas)
    names = [f"point {i}" for i in range(count)]
    truth: dict[str, Any] = {
        "images": [{"id": 3 * i + 1, "height": SIZE, "width": SIZE} for i in range(images)],
        "categories": [{"id": i, "name": f"class {i}", "keypoints": names, "skeleton": []} for i in (4, 9)],
        "annotations": [],
    }
    predictions = {}
    for image in truth["images"]:
        boxes, points, labels = [], [], []
        for _ in range(int(rng.integers(0, instances + 1))):
            side = rng.choice([20.0, 50.0, 110.0]) * rng.uniform(0.8, 1.2)
            x, y = rng.uniform(0, SIZE - side, 2).round(1)
            true = np.column_stack([np.floor(rng.uniform([x, y], [x + side, y + side], (count, 2))), rng.integers(0, 3, count)])
            if rng.random() < 0.15:
                true[:, 2] = 0
            true[true[:, 2] == 0] = 0
            label = int(rng.integers(2))
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": (4, 9)[label],
                    "bbox": [x, y, side, side],
                    "area": float(np.round(side * side * rng.uniform(0.4, 0.9), 2)),
                    "iscrowd": int(rng.random() < 0.1),
                    "keypoints": [float(v) for v in true.flatten()],
                    "num_keypoints": int((true[:, 2] > 0).sum()),
                }
            )
            for _ in range(int(rng.integers(0, 3))):
                noise = rng.choice([0.0, 0.01, 0.05, 0.3]) * side
                boxes.append([x, y, x + side, y + side])
                points.append(true[:, :2] + rng.normal(0, 1, (count, 2)) * noise)
                labels.append(label if rng.random() < 0.85 else 1 - label)
        for _ in range(int(rng.integers(0, extra + 1))):
            boxes.append([5, 5, 40, 40])
            points.append(rng.uniform(0, SIZE, (count, 2)))
            labels.append(int(rng.integers(2)))
        scores = np.sort(rng.integers(1, levels + 1, len(boxes)) / (levels + 1))[::-1].astype(np.float32)
        if boxes or rng.random() < 0.5:
            predictions[image["id"]] = detections(boxes, points, labels, scores, count)
    return truth, predictions


def detections(boxes: Any, points: Any, labels: Any, scores: Any, count: int) -> Detections:
    """``points`` are indices of pixels; those of `Detections` are continuous, half a pixel more."""
    continuous = torch.tensor(np.array(points).reshape(-1, count, 2) + 0.5, dtype=torch.float32)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(np.array(scores), dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
        (SIZE, SIZE),
        keypoints=torch.cat([continuous, torch.ones_like(continuous[..., :1])], dim=2),
    )


def reference(truth: dict[str, Any], predictions: dict[int, Detections], sigmas: tuple[float, ...]) -> dict[str, float]:
    """The ten numbers of pycocotools' ``summarize``, computed without Boxwood's code."""
    coco = quiet_coco(copy.deepcopy(truth))
    records = []
    for image_id, one in predictions.items():
        assert one.keypoints is not None
        for rank in range(len(one)):
            points = one.keypoints[rank].double().numpy() - np.array([0.5, 0.5, 0])
            records.append(
                {
                    "image_id": image_id,
                    "category_id": (4, 9)[one.labels[rank]],
                    "score": one.scores[rank].item(),
                    "keypoints": points.flatten().tolist(),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        result = coco.loadRes(records) if records else quiet_coco({**truth, "annotations": []})
        evaluation = COCOeval(coco, result, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, evaluation.stats.tolist(), strict=True))
