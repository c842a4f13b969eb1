"""Scoring a file of detections: `boxwood eval --detections` beside pycocotools, each a process from the files to its numbers.

    python benchmarks/results.py                 5,000 images of 10 instances and 100 detections each, 80 classes, boxes

Prints seconds and peak memory of both, and whether their twelve numbers are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PEER = """
import json, sys
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
truth = COCO(sys.argv[1])
evaluation = COCOeval(truth, truth.loadRes(sys.argv[2]), "bbox")
evaluation.evaluate()
evaluation.accumulate()
evaluation.summarize()
json.dump(evaluation.stats.tolist(), open(sys.argv[3], "w"))
"""
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def write_case(folder: Path, num_images: int) -> None:
    """truth.json, results.json and the names of images, which nobody opens."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 81)]}
    results: list[dict[str, Any]] = []
    for image_id in range(1, num_images + 1):
        name = f"{image_id:06d}.jpg"
        (folder / "images" / name).touch()
        truth["images"].append({"id": image_id, "file_name": name, "height": 480, "width": 640})
        corners = random.uniform(0, 400, (10, 2))
        boxes = np.concatenate([corners, random.uniform(8, 200, (10, 2))], axis=1).clip(0, 79).round(2)
        labels = random.integers(1, 81, 10)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            area, number = box[2] * box[3], len(truth["annotations"]) + 1
            truth["annotations"].append(
                {"id": number, "image_id": image_id, "category_id": label, "bbox": box, "area": area, "iscrowd": 0}
            )
        near = np.repeat(boxes, 10, axis=0) * random.normal(1, 0.1, (100, 4))
        scores = random.random(100).round(4)
        for box, score, label in zip(near.round(2).tolist(), scores.tolist(), np.repeat(labels, 10).tolist(), strict=True):
            results.append({"image_id": image_id, "category_id": label, "bbox": box, "score": score})
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))


def measured(command: list[str]) -> tuple[float, int]:
    """Seconds and peak megabytes of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return time.perf_counter() - start, usage.ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3, help="of ours; the peer runs once")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_case(folder, arguments.images)
        data = [f"data.val.annotations={folder / 'truth.json'}", f"data.val.images={folder / 'images'}"]
        results = ["--detections", str(folder / "results.json"), "--out", str(folder / "ours")]
        ours = [sys.executable, "-m", "boxwood", "eval", "faster_rcnn_r50_fpn_1x", *data, *results]
        turns = sorted(measured(ours) for _ in range(arguments.repeats))
        files = (str(folder / "truth.json"), str(folder / "results.json"), str(folder / "theirs.json"))
        theirs = measured([sys.executable, "-c", PEER, *files])
        numbers = json.loads((folder / "ours" / "metrics.json").read_text())["bbox"]
        equal = [numbers[key] for key in NAMES] == json.loads((folder / "theirs.json").read_text())
    seconds, memory = turns[len(turns) // 2]
    print(f"{arguments.images} images x 100 detections, from the files to the numbers (median of {arguments.repeats})")
    print(f"boxwood eval --detections  {seconds:7.1f} s  {memory:6,} MB")
    print(f"pycocotools                {theirs[0]:7.1f} s  {theirs[1]:6,} MB  {theirs[0] / seconds:.1f}x, numbers equal: {equal}")


if __name__ == "__main__":
    main()
