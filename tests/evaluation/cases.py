"""Ground truth and detections for the tests, and their metrics by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from boxwood.structures import Categories, Detections

SIZE = 160
NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


class FixedMasks(Detections):
    """Detections whose masks are given as run-length codes, so that a test decides every pixel."""

    def __init__(self, *columns: Any, codes: Sequence[dict[str, Any]] = (), **more: Any) -> None:
        super().__init__(*columns, **more)
        self.codes = list(codes)

    def rles(self) -> list[dict[str, Any]]:
        return self.codes

    def to(self, device: torch.device | str) -> Detections:
        return self


def encode(mask: np.ndarray) -> dict[str, Any]:
    code = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode()}


def detections(boxes: Any, scores: Any, labels: Any, masks: list[dict[str, Any]] | None = None, size: int = SIZE) -> Detections:
    tensors = (
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
    )
    if masks is None:
        return Detections(*tensors, (size, size))
    return FixedMasks(*tensors, (size, size), mask_probabilities=torch.zeros(len(masks), 2, 2), codes=masks)


def categories(truth: dict[str, Any]) -> Categories:
    return Categories(tuple(c["id"] for c in truth["categories"]), tuple(c["name"] for c in truth["categories"]))


def quiet_coco(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def reference(truth: dict[str, Any], predictions: dict[int, Detections], task: str) -> dict[str, float]:
    """The twelve numbers of pycocotools' ``summarize``, computed without Boxwood's code."""
    coco = quiet_coco(truth)
    ids = categories(truth).ids
    records = []
    for image_id, one in predictions.items():
        codes = one.rles() if task == "segm" else None
        for rank in range(len(one)):
            x1, y1, x2, y2 = one.boxes[rank].double().tolist()
            record: dict[str, Any] = {"image_id": image_id, "category_id": ids[one.labels[rank]], "score": one.scores[rank].item()}
            if codes is None:
                record["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            else:
                record["segmentation"] = codes[rank]
            records.append(record)
    with contextlib.redirect_stdout(io.StringIO()):
        result = coco.loadRes(records) if records else quiet_coco({**truth, "annotations": []})
        evaluation = COCOeval(coco, result, task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, evaluation.stats.tolist(), strict=True))


def random_case(
    seed: int,
    *,
    images: int = 6,
    classes: int = 3,
    instances: int = 6,
    extra: int = 4,
    size: int = SIZE,
    masks: bool = True,
    score_levels: int = 4,
) -> tuple[dict[str, Any], dict[int, Detections]]:
    """Instances of all sizes, some crowds and some empty images; detections near them and elsewhere, many with equal scores."""
    rng = np.random.default_rng(seed)
    ids = sorted(rng.choice(90, classes, replace=False).tolist())
    image_ids = rng.choice(100_000, images, replace=False).tolist()
    truth: dict[str, Any] = {
        "images": [{"id": i, "height": size, "width": size} for i in image_ids],
        "categories": [{"id": c, "name": f"class {c}"} for c in ids],
        "annotations": [],
    }
    predictions = {}
    for image_id in image_ids:
        boxes, labels, codes = [], [], []
        for _ in range(rng.integers(0, instances + 1)):
            side = rng.choice([12.0, 32.0, 60.0, 96.0, 120.0])
            width, height = np.round(side * rng.uniform(0.7, 1.2, 2))
            x, y = np.floor(rng.uniform(0, np.maximum(1, size - np.array([width, height]))))
            mask = ellipse(x, y, width, height, size)
            label = int(rng.integers(classes))
            truth["annotations"].append(_annotation(rng, truth, image_id, ids[label], (x, y, width, height), mask, masks))
            for _ in range(rng.integers(0, 3)):
                dx, dy, dw, dh = np.round(rng.normal(0, rng.choice([0, 0.03, 0.1, 0.3]) * side, 4))
                box = (x + dx, y + dy, max(1.0, width + dw), max(1.0, height + dh))
                boxes.append([box[0], box[1], box[0] + box[2], box[1] + box[3]])
                labels.append(label if rng.random() < 0.8 else int(rng.integers(classes)))
                codes.append(encode(ellipse(*box, size)) if masks else None)
        for _ in range(rng.integers(0, extra + 1)):
            x, y, width, height = rng.uniform(0, size / 2, 4)
            boxes.append([x, y, x + width, y + height])
            labels.append(int(rng.integers(classes)))
            codes.append(encode(ellipse(x, y, width, height, size)) if masks else None)
        scores = np.sort(rng.integers(1, score_levels + 1, len(boxes)) / (score_levels + 1))[::-1].astype(np.float32)
        if boxes or rng.random() < 0.5:
            predictions[image_id] = detections(boxes, scores.copy(), labels, codes if masks else None, size)
    return truth, predictions


def ellipse(x: float, y: float, width: float, height: float, size: int) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] + 0.5
    return ((columns - x - width / 2) / width) ** 2 + ((rows - y - height / 2) / height) ** 2 <= 0.25


def _annotation(
    rng: np.random.Generator, truth: dict[str, Any], image_id: int, category: int, box: Any, mask: np.ndarray, masks: bool
) -> dict[str, Any]:
    x, y, width, height = (float(v) for v in box)
    crowd = int(rng.random() < 0.15)
    segmentation: Any = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    if crowd:  # as in COCO's files: uncompressed run lengths
        flat = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F").astype(np.int8), [0]])))
        counts = np.diff(np.concatenate([[0], flat, [mask.size]])).tolist()
        segmentation = {"size": list(mask.shape), "counts": counts}
    elif rng.random() < 0.5:
        segmentation = encode(mask)
    area = float(mask.sum()) if masks else width * height
    return {
        "id": 1000 + 3 * len(truth["annotations"]),
        "image_id": image_id,
        "category_id": category,
        "bbox": [x, y, width, height],
        "area": area,
        "iscrowd": crowd,
        "segmentation": segmentation,
    }
