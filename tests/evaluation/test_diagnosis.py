"""Notes name each reason for a -1 or a 0; a good result has no notes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from boxwood.evaluation import CocoEvaluator
from boxwood.fields import MaskProbabilities
from boxwood.structures import Categories, Detections
from tests.evaluation.cases import detections

AREAS = (20.0, 50.0, 100.0)
CLASSES = Categories((4, 9), ("fig", "date"))


def good_truth() -> dict[str, Any]:
    """Three images with a small, a medium and a large instance each, of both classes."""
    annotations = []
    for image_id in (1, 2, 3):
        for x, (side, category) in zip((0.0, 30.0, 90.0), zip(AREAS, (4, 9, 4), strict=True), strict=True):
            polygon = [x, 60.0, x + side, 60.0, x + side, 60 + side, x, 60 + side]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [x, 60.0, side, side],
                    "area": side**2,
                    "iscrowd": 0,
                    "segmentation": [polygon],
                }
            )
    return {
        "images": [{"id": i, "height": 300, "width": 300} for i in (1, 2, 3)],
        "categories": [{"id": 4, "name": "fig"}, {"id": 9, "name": "date"}],
        "annotations": annotations,
    }


def perfect(truth: dict[str, Any]) -> dict[int, Detections]:
    predictions = {}
    for image in truth["images"]:
        annotations = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        boxes = torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        predictions[image["id"]] = detections(
            boxes.tolist(), [0.9] * len(annotations), [CLASSES.index[a["category_id"]] for a in annotations], size=300
        )
    return predictions


def notes(
    truth: dict[str, Any], predictions: dict[int, Detections], classes: Categories = CLASSES, tasks: tuple[str, ...] = ("bbox",)
) -> list[str]:
    evaluator = CocoEvaluator(truth, classes, tasks)
    for image_id, one in predictions.items():
        evaluator.add(image_id, one)
    return list(evaluator.compute()["notes"])


def the_note(
    truth: dict[str, Any], predictions: dict[int, Detections], classes: Categories = CLASSES, tasks: tuple[str, ...] = ("bbox",)
) -> str:
    """The only note."""
    (note,) = notes(truth, predictions, classes, tasks)
    return note


def changed(predictions: dict[int, Detections], change: Any) -> dict[int, Detections]:
    for one in predictions.values():
        one.boxes = change(one.boxes)
    return predictions


def test_good_detections_have_no_notes() -> None:
    truth = good_truth()
    assert notes(truth, perfect(truth)) == []


def test_no_truth() -> None:
    truth = {**good_truth(), "annotations": []}
    assert "the truth has no instances (3 images, 0 crowd regions), so every AP and AR is -1" in notes(truth, perfect(good_truth()))


@pytest.mark.parametrize(("side", "key", "word"), [(20.0, "APs", "small"), (50.0, "APm", "medium"), (100.0, "APl", "large")])
def test_no_truth_of_a_size(side: float, key: str, word: str) -> None:
    truth = good_truth()
    for annotation in truth["annotations"]:
        if annotation["area"] == side**2:
            annotation["area"] = next(a for a in AREAS if a != side) ** 2
    assert the_note(truth, perfect(truth)).startswith(f"{key} is -1: the truth has no {word} instances")


def test_a_class_without_truth() -> None:
    truth = good_truth()
    truth["categories"].append({"id": 11, "name": "gold"})
    assert "no instances of 1 of its 3 classes (gold)" in the_note(truth, perfect(truth))


def test_no_detections() -> None:
    truth = good_truth()
    empty = {image_id: one[:0] for image_id, one in perfect(truth).items()}
    assert "no detections in any of 3 images: every score is at or below the threshold" in the_note(truth, empty)


def test_image_ids_of_another_data_set() -> None:
    truth = good_truth()
    elsewhere = {image_id + 100: one for image_id, one in perfect(truth).items()}
    note = the_note(truth, elsewhere)
    assert "101, 102, 103" in note
    assert "1, 2, 3;" in note


def test_some_images_not_in_the_truth_and_some_not_evaluated() -> None:
    truth = good_truth()
    predictions = perfect(truth)
    predictions[77] = predictions.pop(2)
    lines = notes(truth, predictions)
    assert any("1 evaluated images are not in the truth (ids 77)" in note for note in lines)
    assert any("1 of the truth's 3 images were not evaluated (ids 2)" in note for note in lines)


def test_category_ids_of_another_data_set() -> None:
    truth = good_truth()
    note = the_note(truth, perfect(truth), Categories((1, 2), ("fig", "date")))
    assert "detections' category ids are 1, 2, the truth's are 4, 9" in note


def test_some_categories_unknown_to_the_truth() -> None:
    truth = good_truth()
    assert "left out (category ids 2)" in the_note(truth, perfect(truth), Categories((4, 2), ("fig", "date")))


def test_classes_exchanged() -> None:
    truth = good_truth()
    note = the_note(truth, perfect(truth), Categories((9, 4), ("date", "fig")))
    assert "boxes fit (best IoU 1.00): their classes never agree" in note


def test_truth_in_corners() -> None:
    truth = good_truth()
    predictions = perfect(truth)
    for annotation in truth["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["bbox"] = [x + 40, y, x + 40 + width, y + height]
    assert "the truth's 'bbox' looks like x1, y1, x2, y2" in the_note(
        truth, changed(predictions, lambda b: b + torch.tensor([40.0, 0, 40, 0]))
    )


def test_detections_as_sizes() -> None:
    truth = good_truth()
    for annotation in truth["annotations"]:
        annotation["bbox"][0] += 150

    def as_sizes(boxes: torch.Tensor) -> torch.Tensor:
        return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)

    assert "the detections look like x, y, width, height" in the_note(truth, changed(perfect(truth), as_sizes))


def test_x_and_y_exchanged() -> None:
    truth = good_truth()
    for annotation in truth["annotations"]:
        annotation["bbox"][1] += 120
    assert "x and y look exchanged" in the_note(truth, changed(perfect(truth), lambda b: b[:, [1, 0, 3, 2]]))


def test_another_image_size() -> None:
    truth = good_truth()
    assert "boxes look scaled" in the_note(truth, changed(perfect(truth), lambda b: b * torch.tensor([2.5, 2.0, 2.5, 2.0])))


def test_boxes_anywhere() -> None:
    truth = good_truth()
    note = the_note(truth, changed(perfect(truth), lambda b: b * 0 + torch.tensor([0.0, 0, 290, 20])))
    assert "the model has not learnt to place boxes" in note


def test_never_in_the_same_image() -> None:
    truth = good_truth()
    predictions = perfect(truth)
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] == 1]
    predictions[1] = predictions[1][:0]
    assert the_note(truth, predictions) == "bbox AP is 0: no image has both detections and instances"


def with_masks(predictions: dict[int, Detections], value: float) -> dict[int, Detections]:
    for one in predictions.values():
        one.fields["masks"] = MaskProbabilities(torch.full((len(one), 28, 28), value))
    return predictions


def test_no_masks_in_the_truth() -> None:
    truth = good_truth()
    for annotation in truth["annotations"]:
        del annotation["segmentation"]
    predictions = with_masks(perfect(truth), 1.0)
    assert the_note(truth, predictions, tasks=("bbox", "segm")) == "segm AP is -1: no annotation of the truth has a 'segmentation'"
    evaluator = CocoEvaluator(truth, CLASSES)
    for image_id, one in predictions.items():
        evaluator.add(image_id, one)
    metrics = evaluator.compute()
    assert set(metrics["segm"].values()) == {-1.0}
    assert metrics["bbox"]["AP"] == pytest.approx(1)


def test_some_masks_missing_in_the_truth() -> None:
    truth = good_truth()
    truth["annotations"][1]["segmentation"] = []
    predictions = with_masks(perfect(truth), 1.0)
    assert "1 of 9 annotations have no 'segmentation' (ids 2)" in the_note(truth, predictions, tasks=("bbox", "segm"))
    evaluator = CocoEvaluator(truth, CLASSES)
    for image_id, one in predictions.items():
        evaluator.add(image_id, one)
    assert evaluator.compute()["segm"]["AP"] == pytest.approx(1)  # the detection of that instance is not wrong


def test_masks_that_do_not_fit() -> None:
    truth = good_truth()
    note = the_note(truth, with_masks(perfect(truth), 0.0), tasks=("bbox", "segm"))
    assert "segm AP is 0 although boxes fit" in note


def test_areas_missing() -> None:
    truth = good_truth()
    whole = copy.deepcopy(truth)
    for annotation in truth["annotations"]:
        del annotation["area"]
    assert "9 annotations have no positive 'area' (ids 1, 2, 3, 4, 5, ...)" in the_note(truth, perfect(truth))
    tables = []
    for one in (truth, whole):
        evaluator = CocoEvaluator(one, CLASSES, ("bbox",))
        for image_id, prediction in perfect(whole).items():
            evaluator.add(image_id, prediction)
        tables.append(evaluator.compute()["bbox"])
    assert tables[0] == tables[1]
