"""Detections: indexing, iteration, and conversion for other programs."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hotcoco import mask

from boxwood.errors import UserError
from boxwood.evaluation.results import select_again
from boxwood.evaluation.truth import ImageResults
from boxwood.fields import TensorField
from boxwood.inference.records import records_of
from boxwood.structures import Detections


def three() -> Detections:
    """Three detections with masks, keypoints and a user-defined field, in an image of 20 x 30 (height x width) pixels."""
    boxes = torch.tensor([[2.0, 3, 12, 9], [0, 0, 30, 20], [5, 5, 6, 6]])
    return Detections(
        *(boxes, torch.tensor([0.9, 0.5, 0.25]), torch.tensor([1, 0, 1]), (20, 30), ("cat", "dog")),
        mask_probabilities=torch.ones(3, 28, 28),
        keypoints=torch.tensor([[[4.5, 5.5, 1.0]]] * 3),
        fields={"depth": TensorField(torch.tensor([1.0, 2.0, 3.0]))},
    )


def test_an_index_gives_one_detection() -> None:
    detections = three()
    for index, same in ((0, 0), (2, 2), (-1, 2), (-3, 0)):
        one = detections[index]
        assert len(one) == 1 and torch.equal(one.boxes, detections.boxes[same : same + 1])
        assert one.names == [detections.names[same]] and one.fields["depth"].values.tolist() == [same + 1.0]  # type: ignore[attr-defined]
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"detection {index} of 3"):
            detections[index]
    with pytest.raises(IndexError):
        detections[:0][0]


def test_iteration_ends() -> None:
    assert [one.names for one in three()] == [["dog"], ["cat"], ["dog"]]
    assert list(three()[:0]) == []


def test_coco_results() -> None:
    """The second box is the whole image, so its mask, decoded by hotcoco, has every pixel."""
    records = three().to_coco(7, (10, 20))
    assert [record["category_id"] for record in records] == [20, 10, 20]
    assert records[0]["bbox"] == [2, 3, 10, 6] and records[0]["keypoints"] == [4.0, 5.0, 1.0]
    pixels = mask.decode(records[1]["segmentation"])
    assert pixels.shape == (20, 30) and pixels.all()
    assert {record["image_id"] for record in records} == {7} and "depth" not in records[0]


class Depths(TensorField):
    def records(self, boxes: torch.Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
        return [{"depth": depth} for depth in self.values.tolist()]


def test_a_user_defined_field_in_every_record() -> None:
    """In COCO results, in the file of ``boxwood predict``, and in results of an evaluation, also after another selection."""
    detections = three()
    detections.fields["depth"] = Depths(torch.tensor([1.0, 2.0, 3.0]))
    results = ImageResults.of(detections, with_masks=False)
    (selected,) = select_again({7: results}, lambda boxes, scores, labels: (boxes[1:], scores[1:], torch.tensor([1, 2]))).values()
    assert [record["depth"] for record in detections.to_coco(7, (10, 20))] == [1, 2, 3]
    assert [record["depth"] for record in records_of(detections, file_name="a.jpg")] == [1, 2, 3]
    assert results.records(7, (10, 20)) == [
        {key: value for key, value in record.items() if key != "segmentation"} for record in detections.to_coco(7, (10, 20))
    ]
    assert [record["depth"] for record in selected.records(7, (10, 20))] == [2, 3]


def test_to_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    """The columns passed to pandas, which is replaced here, since the tests do not depend on it."""
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict))
    table = three().to_pandas()
    assert list(table) == ["x1", "y1", "x2", "y2", "score", "label", "name"]
    assert table["name"] == ["dog", "cat", "dog"] and table["x2"].tolist() == [12, 30, 6]
    assert {len(column) for column in three()[:0].to_pandas().values()} == {0}


def test_to_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments passed to ``supervision.Detections``, which is replaced here, since the tests do not depend on it."""
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=lambda **columns: columns))
    columns = three().to_supervision()
    assert columns["xyxy"].shape == (3, 4) and columns["mask"].shape == (3, 20, 30) and columns["mask"].dtype == np.bool_
    assert columns["class_id"].tolist() == [1, 0, 1] and columns["data"]["class_name"].tolist() == ["dog", "cat", "dog"]


def test_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "supervision"):
        monkeypatch.setitem(sys.modules, name, None)
    for make in (three().to_pandas, three().to_supervision):
        with pytest.raises(UserError, match=r"is not installed; run: pip install (pandas|supervision)"):
            make()
