"""Statistics compared with counts by hand, and their advice in cases with a known answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxwood.data import CocoConfig
from boxwood.data.coco_file import read_coco_file
from boxwood.data.quality.statistics import Anchors, Resize, Statistics, advice, count, reached
from boxwood.ops.boxes import iou
from tests.conftest import Boxwood, tiny

FPN = Anchors(((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)), (0.5, 1.0, 2.0))


def statistics(tmp_path: Path, boxes: list[tuple[int, int, Any]], images: int = 4, short: int = 100, **more: Any) -> Statistics:
    """The statistics of images of 200 x 100 pixels; a box is image id (from 1), category id, (x, y, width, height) in pixels."""
    coco = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 200, "height": 100} for i in range(1, images + 1)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": list(box), "area": 1, "iscrowd": 0}
            for n, (image, category, box) in enumerate(boxes, start=1)
        ],
        "categories": [{"id": 20, "name": "nut"}, {"id": 3, "name": "fig"}],
    }
    coco["annotations"] += more.get("others", [])
    path = tmp_path / "data.json"
    path.write_text(json.dumps(coco))
    return count(read_coco_file(path), short, 1000)


def test_counts(tmp_path: Path) -> None:
    """At twice the size. Crowd regions, ignored annotations and boxes without area are not trained on, so not counted."""
    uncounted = [
        {"id": 90, "image_id": 4, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        {"id": 91, "image_id": 4, "category_id": 3, "bbox": [0, 0, 9, 9], "ignore": 1},
        {"id": 92, "image_id": 4, "category_id": 3, "bbox": [0, 0, 0, 9]},
    ]
    counts = statistics(
        tmp_path, [(1, 3, (0, 0, 40, 10)), (1, 3, (0, 0, 8, 8)), (2, 20, (5, 5, 10, 20))], short=200, others=uncounted
    )
    assert counts.names == ["nut", "fig"] and counts.instances.tolist() == [1, 2] and counts.images.tolist() == [1, 1]
    assert counts.per_image.tolist() == [2, 1, 0, 0]
    assert counts.sizes.tolist() == [[80, 20], [16, 16], [20, 40]]
    assert counts.sides == pytest.approx([40, 16, 800**0.5]) and counts.ratios == pytest.approx([0.25, 1, 2])


def test_reached_is_the_share_of_boxes_with_an_iou_of_half() -> None:
    """Compared with the IoU of boxes and anchors around one point."""
    rng = np.random.default_rng(0)
    sizes = 2 ** rng.uniform(2, 9, (500, 2))
    anchors = [(s / r**0.5, s * r**0.5) for s in FPN.sizes for r in FPN.ratios]
    around = [torch.cat([-t / 2, t / 2], dim=1) for t in (torch.tensor(sizes), torch.tensor(anchors, dtype=torch.float64))]
    best = iou(*around).amax(dim=1)
    assert reached(sizes, FPN) == pytest.approx((best >= 0.5).double().mean().item())
    assert 0.3 < reached(sizes, FPN) < 0.95 and reached(np.zeros((0, 2)), FPN) == 1


def test_anchors_are_compared_and_none_are_suggested(tmp_path: Path) -> None:
    """Squares of 20 pixels overlap an anchor of 32 by an IoU of 0.39, those of 40 pixels by 0.64."""
    (line,) = advice(statistics(tmp_path, [(1, 3, (0, 0, 40, 40))] * 9 + [(1, 3, (0, 0, 20, 20))]), FPN, 100)
    assert line == "90.0% of the boxes can be overlapped by an anchor with an IoU of 0.5 or more"


def test_small_boxes_need_larger_images(tmp_path: Path) -> None:
    boxes = [(1, 3, (0, 0, 20, 20))] * 9
    size, _ = advice(
        statistics(tmp_path, boxes, short=50), FPN, 100, [Resize("data.train.transforms.0", (50,), 1000)]
    )  # images of 100 pixels, reduced to 50
    assert (
        "100% of the boxes are under 16 pixels" in size and "transforms.0.short=[96]" in size
    )  # 10 pixels to 16: a shorter side of 80
    at_100 = [Resize("data.train.transforms.0", (100,), 1000)]
    most, _ = advice(statistics(tmp_path, [(1, 3, (0, 0, 4, 4))] * 9, short=100), FPN, 100, at_100)
    assert "transforms.0.short=[192]" in most  # to 16 would need 400, four times the size of the images
    tiles, _ = advice(statistics(tmp_path, [(1, 3, (0, 0, 4, 4))] * 9, short=200), FPN, 100)
    assert "cut the originals into tiles" in tiles


def test_anchors_are_compared_at_the_size_that_is_suggested(tmp_path: Path) -> None:
    """Squares of 10 pixels in an input of 50: at 96 they have 19.2, which anchors of 32 overlap by 0.36."""
    resizes = (Resize("data.train.transforms.1", (50, 75), 500), Resize("data.val.transforms.0", (75,), 500))
    size, anchors = advice(statistics(tmp_path, [(1, 3, (0, 0, 20, 20))] * 9, short=50), FPN, 100, resizes)
    assert size.endswith(
        "data.train.transforms.1.short=[96,144] data.train.transforms.1.long=960 "
        "data.val.transforms.0.short=[144] data.val.transforms.0.long=960"
    )
    assert anchors.startswith("at a shorter side of 96, 0.0% of the boxes")


@pytest.mark.parametrize("recipe", ["faster_rcnn_mobilenetv2_fpn", "retinanet_r50_fpn_1x"])
def test_the_advice_can_be_pasted(recipe: str, boxwood: Boxwood, tmp_path: Path) -> None:
    """The keys of the advice, given to the same command, leave nothing to advise; those of the val set are not printed."""
    boxes = [{"id": n, "image_id": 1, "category_id": 1, "bbox": [n, n, 12, 30], "area": 360, "iscrowd": 0} for n in range(1, 121)]
    coco = {"images": [{"id": 1, "file_name": "a.jpg", "width": 400, "height": 300}], "annotations": boxes}
    (tmp_path / "data.json").write_text(json.dumps({**coco, "categories": [{"id": 1, "name": "nut"}]}))
    data = [f"data.{part}.{field}={tmp_path / name}" for part in ("train", "val") for field, name in
            (("annotations", "data.json"), ("images", ""))]  # fmt: skip
    small = [f"data.{part}.transforms.0.short=[150]" for part in ("train", "val")]
    printed = boxwood("data", "stats", recipe, *data, *small).out
    assert printed.count("in the input of") == 1
    keys = [word for word in printed.split() if word.startswith(("data.", "model.", "test."))]
    assert "test.detections_per_image=200" in keys and any(key.startswith("data.train.transforms.0.short=") for key in keys)
    again = boxwood("data", "stats", recipe, *data, *keys)
    assert again.status == 0
    assert not [word for word in again.out.split() if word.startswith(("data.", "model.", "test."))]


def test_rare_classes(tmp_path: Path) -> None:
    boxes = [(image, 3, (0, 0, 40, 40)) for image in range(1, 101)] + [(7, 20, (50, 50, 40, 40))]
    line, _ = reversed(advice(statistics(tmp_path, boxes, images=100), FPN, 100))
    # A share of 0.01 at a threshold of 0.1: the square root of 10.
    assert (
        "'nut' (1)" in line and "data.train.repeat_threshold=0.1 shows theirs up to 3.2 times an epoch, which grows by 2%" in line
    )


def test_crowded_images(tmp_path: Path) -> None:
    lines = advice(statistics(tmp_path, [(1, 3, (0, 0, 40, 40))] * 130), FPN, 100)
    assert lines[-1].startswith("1 images have more than 100 boxes, 130 at most") and "test.detections_per_image=200" in lines[-1]


def test_nothing_to_count(tmp_path: Path) -> None:
    assert advice(statistics(tmp_path, []), FPN, 100) == [] and statistics(tmp_path, []).per_image.tolist() == [0] * 4


def test_repeat_threshold_of_a_data_set(shapes: Path) -> None:
    """Repeat factors come from the usable boxes of the data set's images."""
    coco = json.loads((shapes / "train.json").read_text())
    opened = CocoConfig(annotations=str(shapes / "train.json"), images=str(shapes / "train"), repeat_threshold=1.0).open()
    categories_of_image = {
        image["id"]: {row["category_id"] for row in coco["annotations"] if row["image_id"] == image["id"]}
        for image in coco["images"]
    }
    share = {c["id"]: np.mean([c["id"] in ids for ids in categories_of_image.values()]) for c in coco["categories"]}
    expected = [max([1.0, *(share[c] ** -0.5 for c in ids)]) for ids in categories_of_image.values()]
    assert opened.repeats is not None and opened.repeats.tolist() == pytest.approx(expected) and max(expected) > 1
    assert CocoConfig(annotations=str(shapes / "train.json"), images=str(shapes / "train")).open().repeats is None


def test_data_stats_writes_a_report(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    done = boxwood("data", "stats", "demo_shapes", *tiny(shapes), "--out", tmp_path / "stats.html")
    assert done.status == 0, done.err
    assert "Mask R-CNN, ResNet-18-FPN (images of 64 to" in done.out and done.out.rstrip().endswith("stats.html")
    page = (tmp_path / "stats.html").read_text()
    boxes = len(json.loads((shapes / "train.json").read_text())["annotations"])
    assert page.count("<svg") == 6 and f"<b>{boxes}</b>boxes" in page and "train.json" in page and "val.json" in page
    refused = boxwood("data", "stats", shapes / "train.json", "--out", tmp_path / "stats.png")
    assert refused.status == 2 and "change the ending" in refused.err and len(refused.error_lines) == 1


def test_repeated_images_are_trained_on(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    done = boxwood("train", "demo_shapes", *tiny(shapes), "data.train.repeat_threshold=1", "--out", tmp_path / "run")
    assert done.status == 0, done.err
    wrong = boxwood("train", "demo_shapes", *tiny(shapes), "data.train.repeat_threshold=2", "--out", tmp_path / "no")
    assert wrong.status == 2 and "data.train.repeat_threshold" in wrong.err
