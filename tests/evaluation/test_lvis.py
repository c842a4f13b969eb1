"""LVIS's AP against the ``lvis`` API on generated cases."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwood.errors import UserError
from boxwood.evaluation import LvisEvaluator
from tests.evaluation.cases import FixedMasks, categories, detections, ellipse, encode

SIZE = 120
NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


def case(seed: int, images: int = 8, classes: int = 6, copies: int = 2) -> tuple[dict[str, Any], dict[int, FixedMasks]]:
    """Each image is annotated for some classes only, some of them not exhaustively. Category and image ids have gaps."""
    rng = np.random.default_rng(seed)
    rows = [{"id": 3 * k + 2, "name": f"class {k}", "frequency": "rcf"[k % 3]} for k in range(classes)]
    ids = [row["id"] for row in rows]
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": rows}
    predictions = {}
    for image_id in range(3, 7 * images, 7):
        there = rng.choice(classes, 2, replace=False)
        rest = [k for k in range(classes) if k not in there]
        truth["images"].append(
            {
                "id": image_id,
                "height": SIZE,
                "width": SIZE,
                "coco_url": "http://localhost/train2017/1.jpg",
                "neg_category_ids": [ids[k] for k in rest[: rng.integers(0, len(rest) + 1)]],
                "not_exhaustive_category_ids": [ids[there[0]]] if rng.random() < 0.4 else [],
            }
        )
        instances = []
        for label in np.repeat(there, rng.integers(1, 4, 2)):
            x, y, width, height = (float(v) for v in rng.integers(4, 60, 4))
            mask = ellipse(x, y, width, height, SIZE)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": ids[label],
                    "bbox": [x, y, width, height],
                    "area": float(mask.sum()),
                    "segmentation": encode(mask),
                }
            )
            instances.append((label, np.array([x, y, width, height])))
        prediction_rows = []
        for label, box in [*instances, *((rng.integers(classes), rng.integers(4, 60, 4)) for _ in range(4))]:
            for _ in range(copies):
                x, y, width, height = box * rng.normal(1, 0.1, 4)
                name = label if rng.random() < 0.8 else rng.integers(classes)
                prediction_rows.append(
                    (rng.random(), [x, y, x + width, y + height], name, encode(ellipse(x, y, width, height, SIZE)))
                )
        prediction_rows.sort(key=lambda row: -row[0])
        scores, boxes, labels, codes = zip(*prediction_rows, strict=True)
        of_image = detections(boxes, scores, labels, list(codes), SIZE)
        assert isinstance(of_image, FixedMasks)
        predictions[image_id] = of_image
    return truth, predictions


def reference(truth: dict[str, Any], records: list[dict[str, Any]], task: str, folder: Path, best: int = 300) -> dict[str, float]:
    from lvis import LVIS, LVISEval, LVISResults

    file = folder / "truth.json"
    file.write_text(json.dumps(truth))
    api = LVIS(str(file))
    if task == "segm":  # otherwise it would compare the boxes
        records = [{key: value for key, value in record.items() if key != "bbox"} for record in records]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its logging
        evaluation = LVISEval(api, LVISResults(api, copy.deepcopy(records), best), task)
        evaluation.params.max_dets = best
        evaluation.run()
    return dict(evaluation.results)


def evaluated(truth: dict[str, Any], predictions: dict[int, FixedMasks]) -> LvisEvaluator:
    evaluator = LvisEvaluator(truth, categories(truth))
    for image_id, one in predictions.items():
        evaluator.add(image_id, one)
    return evaluator


@pytest.fixture(autouse=True)
def old_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ``lvis`` package uses a name that NumPy removed."""
    monkeypatch.setattr(np, "float", float, raising=False)


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_lvis_api(seed: int, task: str, tmp_path: Path) -> None:
    truth, predictions = case(seed)
    evaluator = evaluated(truth, predictions)
    metrics = evaluator.compute()
    ours, expected = metrics[f"lvis_{task}"], reference(truth, evaluator.records, task, tmp_path)
    for name in (*NUMBERS, "AR@300"):
        assert ours[name.replace("@", "")] == pytest.approx(expected[name], abs=1e-12), name
    assert 0.02 < ours["AP"] < 0.98
    aps = [row[f"lvis_{task}"] for row in metrics["per_class"].values() if row[f"lvis_{task}"] >= 0]
    assert np.mean(aps) == pytest.approx(ours["AP"])


@pytest.mark.parametrize("best", [50, 300, 1000])
def test_more_detections_than_count(best: int, tmp_path: Path) -> None:
    """The best detections of an image count, over all classes."""
    truth, predictions = case(7, images=3, copies=60)
    assert all(len(one) > 400 for one in predictions.values())
    evaluator = evaluated(truth, predictions)
    evaluator.max_detections = best
    ours, expected = evaluator.compute()["lvis_bbox"], reference(truth, evaluator.records, "bbox", tmp_path, best)
    assert [ours[name] for name in NUMBERS] == pytest.approx([expected[name] for name in NUMBERS], abs=1e-12)
    assert ours[f"AR{best}"] == pytest.approx(expected[f"AR@{best}"], abs=1e-12)


def test_classes_not_annotated_in_an_image_do_not_count() -> None:
    """One instance, detected with the lowest score; above it a detection of an unannotated class and a wrong one of its class."""
    truth = {
        "images": [{"id": 1, "height": SIZE, "width": SIZE, "neg_category_ids": [], "not_exhaustive_category_ids": []}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600}],
        "categories": [{"id": 1, "name": "a", "frequency": "r"}, {"id": 2, "name": "b", "frequency": "f"}],
    }
    boxes, scores, labels = [[60, 60, 90, 90], [60, 60, 90, 90], [10, 10, 50, 50]], [0.9, 0.8, 0.7], [1, 0, 0]

    def numbers() -> tuple[float, float, float]:
        evaluator = LvisEvaluator(truth, categories(truth))
        evaluator.add(1, detections(boxes, scores, labels, size=SIZE))
        table = evaluator.compute()["lvis_bbox"]
        return table["AP"], table["APr"], table["APf"]

    assert numbers() == pytest.approx((0.5, 0.5, -1))  # of class a, a wrong one before the right one: precision 1 / 2
    truth["annotations"][0]["area"] = -1600  # does not change the numbers, but is said
    assert numbers() == pytest.approx((0.5, 0.5, -1))
    assert "1 annotations have no positive 'area' (ids 1)" in LvisEvaluator(truth, categories(truth)).compute()["notes"][1]
    truth["images"][0]["not_exhaustive_category_ids"] = [1]
    assert numbers() == pytest.approx((1, 1, -1))


def test_missing_keys_are_refused() -> None:
    truth, _ = case(0)
    broken = copy.deepcopy(truth)
    del broken["images"][1]["neg_category_ids"]
    with pytest.raises(UserError, match=r"image id 10: LVIS's rule needs 'neg_category_ids', a list of category ids, got None"):
        LvisEvaluator(broken, categories(broken))
    broken = copy.deepcopy(truth)
    broken["categories"][0]["frequency"] = "x"
    with pytest.raises(UserError, match="category id 2: LVIS's rule needs 'frequency'"):
        LvisEvaluator(broken, categories(broken))
