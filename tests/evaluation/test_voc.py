"""PASCAL VOC's AP against the development kit's procedure, written here as one loop, and against cases computed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwood.errors import UserError
from boxwood.evaluation import VocEvaluator, format_table
from tests.conftest import Boxwood
from tests.evaluation.cases import categories, detections, random_case


def devkit(truth: dict[str, Any], predictions: dict[int, Any], category: int, label: int, eleven: bool) -> float:
    """The kit's AP of one class; in its coordinates pixels count from 1 and the last is included, so a side is x2 - x1 + 1."""
    instances: dict[int, list[dict[str, Any]]] = {}
    count = 0
    for row in truth["annotations"]:
        if row["category_id"] == category:
            x, y, w, h = row["bbox"]
            difficult = bool(row.get("ignore") or row.get("iscrowd"))
            instances.setdefault(row["image_id"], []).append(
                {"box": (x + 1, y + 1, x + w, y + h), "difficult": difficult, "matched": False}
            )
            count += not difficult
    lines = []
    for image_id in sorted(predictions):
        one = predictions[image_id]
        for box, score, box_label in zip(one.boxes.double().tolist(), one.scores.tolist(), one.labels.tolist(), strict=True):
            if box_label == label:
                lines.append((score, image_id, (box[0] + 1, box[1] + 1, box[2], box[3])))
    tp, fp = [], []
    for _, image_id, (x1, y1, x2, y2) in sorted(lines, key=lambda line: -line[0]):
        best, place = -np.inf, None
        for instance in instances.get(image_id, []):
            a1, b1, a2, b2 = instance["box"]
            iw, ih = min(x2, a2) - max(x1, a1) + 1, min(y2, b2) - max(y1, b1) + 1
            if iw > 0 and ih > 0:
                union = (x2 - x1 + 1) * (y2 - y1 + 1) + (a2 - a1 + 1) * (b2 - b1 + 1) - iw * ih
                if iw * ih / union > best:
                    best, place = iw * ih / union, instance
        if best >= 0.5 and place is not None:
            if place["difficult"]:
                continue
            tp.append(not place["matched"])
            fp.append(place["matched"])
            place["matched"] = True
        else:
            tp.append(False)
            fp.append(True)
    if count == 0:
        return -1.0
    hits, misses = np.cumsum(tp), np.cumsum(fp)
    recall, precision = hits / count, hits / (hits + misses) if len(tp) else np.zeros(0)
    if eleven:
        return float(
            sum(max([p for r, p in zip(recall, precision, strict=True) if r >= t / 10], default=0.0) for t in range(11)) / 11
        )
    mrec, mpre = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return float(sum((mrec[i + 1] - mrec[i]) * mpre[i + 1] for i in range(len(mrec) - 1) if mrec[i + 1] != mrec[i]))


@pytest.mark.parametrize("rule", ["voc2007", "voc2010"])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_development_kit(rule: Any, seed: int) -> None:
    truth, predictions = random_case(seed, images=8, score_levels=1000, masks=False)
    rng = np.random.default_rng(seed)
    for row in truth["annotations"]:
        row["ignore"] = int(rng.random() < 0.2)
    classes = categories(truth)
    evaluator = VocEvaluator(truth, classes, rule)
    for image_id, one in predictions.items():
        evaluator.add(image_id, one)
    metrics = evaluator.compute()
    expected = [devkit(truth, predictions, category, label, rule == "voc2007") for label, category in enumerate(classes.ids)]
    assert [row["voc"] for row in metrics["per_class"].values()] == pytest.approx(expected, abs=1e-12)
    known = [ap for ap in expected if ap >= 0]
    assert metrics["voc"]["AP"] == pytest.approx(np.mean(known), abs=1e-12) and 0 < metrics["voc"]["AP"] < 1


def case(boxes: list[list[float]], scores: list[float], truth: list[dict[str, Any]]) -> dict[str, Any]:
    coco = {
        "images": [{"id": 1, "file_name": "000001.jpg", "height": 100, "width": 100}],
        "categories": [{"id": 4, "name": "cat"}],
        "annotations": [{"id": i + 1, "image_id": 1, "category_id": 4, "area": 1, **row} for i, row in enumerate(truth)],
    }
    evaluator = VocEvaluator(coco, categories(coco), "voc2007")
    evaluator.add(1, detections(boxes, scores, [0] * len(boxes), size=100))
    return evaluator.compute()


TEN = {"bbox": [0, 0, 10, 10]}


def test_by_hand() -> None:
    """Right, wrong, right: precision 1 up to a recall of 0.5 (levels 0 to 0.5), 2/3 beyond it."""
    boxes = [[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30]]
    truth = [TEN, {"bbox": [20, 20, 10, 10]}]
    assert case(boxes, [0.9, 0.8, 0.7], truth)["voc"]["AP"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_an_overlap_of_just_a_half_is_enough() -> None:
    assert case([[0, 0, 10, 5]], [0.9], [TEN])["voc"]["AP"] == pytest.approx(1.0)
    assert case([[0, 0, 10, 4.99]], [0.9], [TEN])["voc"]["AP"] == 0


def test_difficult_instances_are_left_out() -> None:
    """They are neither right nor missed, and two detections of one are not wrong."""
    truth = [TEN, {"bbox": [40, 40, 10, 10], "ignore": 1}]
    boxes = [[40, 40, 50, 50], [40, 40, 50, 49], [0, 0, 10, 10]]
    assert case(boxes, [0.9, 0.8, 0.7], truth)["voc"]["AP"] == pytest.approx(1.0)
    assert case([], [], [{**TEN, "ignore": 1}])["voc"]["AP"] == -1
    assert case([], [], [TEN])["voc"]["AP"] == 0


def test_an_unknown_rule() -> None:
    with pytest.raises(UserError, match="voc2007"):
        VocEvaluator({"images": [], "annotations": [], "categories": []}, categories({"categories": []}), "voc2012")  # type: ignore[arg-type]


def test_class_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    names = ["car/truck", "car?truck", "../../out"]
    coco = {"images": [], "annotations": [], "categories": [{"id": 3 + n, "name": name} for n, name in enumerate(names)]}
    VocEvaluator(coco, categories(coco)).write_devkit(tmp_path / "a" / "voc", "val")
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(files) == [f"a/voc/comp4_det_val_{word}.txt" for word in ("..-..-out", "car-truck-3", "car-truck-4")]


def test_the_command(boxwood: Boxwood, trained: Path, tmp_path: Path) -> None:
    """The table, the kit's files, and the same numbers from the detections that were written."""
    done = boxwood("eval", trained, "--measure", "voc2007", "--out", tmp_path / "first")
    assert done.status == 0, done.err
    assert "VOC AP" in done.out and "eleven recalls" in " ".join(done.out.split())
    files = sorted(path.name for path in (tmp_path / "first" / "voc").iterdir())
    assert len(files) == 6 and all(name.startswith("comp4_det_val_") for name in files)
    records = json.loads((tmp_path / "first" / "detections.json").read_text())
    lines = [line.split() for name in files for line in (tmp_path / "first" / "voc" / name).read_text().splitlines()]
    assert len(lines) == len(records) > 0
    one = next(record for record in records if record["score"] == max(r["score"] for r in records))
    x, y, w, h = one["bbox"]
    line = max(lines, key=lambda words: float(words[1]))
    assert [float(word) for word in line[2:]] == pytest.approx([x + 1, y + 1, x + w, y + h], abs=1e-5)
    again = boxwood(
        "eval", trained, "--measure", "voc2007", "--detections", tmp_path / "first" / "detections.json", "--out", tmp_path / "b"
    )
    assert again.status == 0, again.err
    numbers = [json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "first", tmp_path / "b")]
    assert numbers[0]["voc"] == numbers[1]["voc"] and numbers[0]["per_class"] == numbers[1]["per_class"]
    assert format_table(numbers[1]).splitlines()[0].split() == ["AP"]
