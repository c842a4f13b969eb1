"""Proposal recall against pycocotools with useCats = 0, exactly equal."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from boxwood.evaluation import ProposalEvaluator
from boxwood.structures import Detections
from tests.evaluation.cases import detections, quiet_coco, random_case


def reference(truth: dict[str, Any], predictions: dict[int, Detections], limits: list[int]) -> dict[str, float]:
    records = []
    for image_id, one in predictions.items():
        for rank in range(len(one)):
            x1, y1, x2, y2 = one.boxes[rank].double().tolist()
            record = {"image_id": image_id, "category_id": truth["categories"][0]["id"], "score": one.scores[rank].item()}
            records.append({**record, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = quiet_coco(truth)
        evaluation = COCOeval(coco, coco.loadRes(records), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval["recall"]
    table = {}
    for m, limit in enumerate(limits):
        for a, size in enumerate(["", "s", "m", "l"]):
            known = recall[:, :, a, m][recall[:, :, a, m] > -1]
            table[f"AR{size}{limit}"] = float(np.mean(known)) if known.size else -1.0
    return table


@pytest.mark.parametrize("seed", range(6))
def test_recall_equals_the_reference(seed: int) -> None:
    truth, predictions = random_case(seed, masks=False, instances=12, extra=250, images=3)
    for limits in ((10, 100), (100, 1000)):
        for backend in ("hotcoco", "pycocotools"):
            evaluator = ProposalEvaluator(truth, limits, backend)
            for image_id, one in predictions.items():
                evaluator.add(image_id, one)
            evaluator.gather()
            assert evaluator.compute()["proposals"] == reference(truth, predictions, list(limits))


def test_classes_are_ignored_and_notes_are_given() -> None:
    box = {"id": 1, "image_id": 5, "category_id": 2, "bbox": [0, 0, 40, 40], "area": 1600, "iscrowd": 0}
    truth = {
        "images": [{"id": 5, "height": 99, "width": 99}, {"id": 6, "height": 99, "width": 99}],
        "categories": [{"id": 2, "name": "fig"}, {"id": 3, "name": "date"}],
        "annotations": [box],
    }
    evaluator = ProposalEvaluator(truth)
    evaluator.add(5, detections([[0, 0, 40, 40]], [0.9], [1]))
    evaluator.add(8, detections([[0, 0, 40, 40]], [0.9], [1]))
    metrics = evaluator.compute()
    assert metrics["proposals"]["AR100"] == metrics["proposals"]["ARm1000"] == 1
    assert metrics["proposals"]["ARs100"] == -1
    assert len(metrics["notes"]) == 2
    del box["area"]
    assert "1 annotations have no positive 'area' (ids 1)" in ProposalEvaluator(truth).compute()["notes"][0]
    nothing = ProposalEvaluator({"images": [], "categories": [], "annotations": []})
    assert nothing.compute()["proposals"]["AR100"] == -1
    assert nothing.compute()["notes"] == ["the truth has no instances, so every AR is -1"]
