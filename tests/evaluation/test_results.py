"""Reading files of detections by Boxwood, by other programs and by Detectron; errors name the wrong row."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood.errors import UserError
from boxwood.evaluation import CocoEvaluator, save_detections
from boxwood.evaluation.results import read_records, read_results, select_again
from boxwood.evaluation.truth import ImageResults
from boxwood.structures import Categories
from tests.evaluation import keypoint_cases
from tests.evaluation.cases import NAMES, categories, random_case, reference
from tests.test_safe_pickle import Python2

TWO = Categories((3, 7), ("cat", "dog"))
SIZES = {5: (10, 12), 9: (10, 12)}


def sizes_of(truth: dict[str, Any]) -> dict[int, tuple[int, int]]:
    return {image["id"]: (image["height"], image["width"]) for image in truth["images"]}


def scored(path: Path, truth: dict[str, Any], classes: Categories) -> dict[str, Any]:
    evaluator = CocoEvaluator(truth, classes)
    evaluator.results, evaluator.tasks = read_results(path, classes, sizes_of(truth))
    return evaluator.compute()


@pytest.mark.parametrize("seed", range(4))
def test_written_detections_are_scored_the_same(seed: int, tmp_path: Path) -> None:
    truth, predictions = random_case(seed)
    evaluator = CocoEvaluator(truth, categories(truth), tasks=("bbox", "segm"))
    for image_id, one in predictions.items():
        evaluator.add(image_id, one)
    save_detections(evaluator.records, tmp_path / "detections.json")
    again = scored(tmp_path / "detections.json", truth, categories(truth))
    expected = evaluator.compute()
    assert again["bbox"] == expected["bbox"] and again["segm"] == expected["segm"]
    assert again["per_class"] == expected["per_class"]


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_results_of_another_program_against_pycocotools(task: str, tmp_path: Path) -> None:
    """A file with one task, in any order of images, with the truth's ids, as the COCO server accepts it."""
    truth, predictions = random_case(11)
    ids, records = categories(truth).ids, []
    for image_id in reversed(predictions):
        one = predictions[image_id]
        codes = one.rles()
        assert codes is not None
        for rank in range(len(one)):
            x1, y1, x2, y2 = one.boxes[rank].double().tolist()
            shape = {"bbox": [x1, y1, x2 - x1, y2 - y1]} if task == "bbox" else {"segmentation": codes[rank]}
            records.append(
                {"image_id": image_id, "category_id": ids[one.labels[rank]], "score": one.scores[rank].item(), "id": 7, **shape}
            )
    (tmp_path / "results.json").write_text(json.dumps(records))
    metrics = scored(tmp_path / "results.json", truth, categories(truth))
    assert {"bbox", "segm"} & metrics.keys() == {task}
    expected = reference(truth, predictions, task)
    assert [metrics[task][name] for name in NAMES] == [expected[name] for name in NAMES]


def test_keypoints_alone(tmp_path: Path) -> None:
    sigmas = keypoint_cases.SIGMAS["four"]
    truth, predictions = keypoint_cases.random_case(2, sigmas)
    classes = keypoint_cases.categories(truth, sigmas)
    evaluator = CocoEvaluator(truth, classes, tasks=("keypoints",))
    for image_id, one in predictions.items():
        evaluator.add(image_id, one)
    save_detections(evaluator.records, tmp_path / "keypoints.json")
    assert "bbox" not in json.loads((tmp_path / "keypoints.json").read_text())[0]
    assert scored(tmp_path / "keypoints.json", truth, classes)["keypoints"] == evaluator.compute()["keypoints"]


def test_detections_of_detectron(tmp_path: Path) -> None:
    """Classes with background first, images by id, boxes that include their last pixel, written by Python 2."""
    mask = {"size": [10, 12], "counts": "P14600000`1"}
    empty = np.zeros((0, 5), np.float32)
    content = {
        "all_boxes": [[], [np.float32([[1, 2, 4, 5, 0.5]]), empty], [empty, np.float32([[0, 0, 11, 9, 0.75], [2, 2, 2, 2, 0.25]])]],
        "all_segms": [[], [[mask], []], [[], [mask, mask]]],
        "all_keyps": [[], [[], []], [[], []]],
        "cfg": "MODEL: {}\n",
    }
    with (tmp_path / "detections.pkl").open("wb") as file:
        Python2(file, 2).dump(content)
    results, tasks = read_results(tmp_path / "detections.pkl", TWO, SIZES)
    assert tasks == ("bbox", "segm") and list(results) == [5, 9]
    assert results[5].boxes.tolist() == [[1, 2, 4, 4]] and results[5].labels.tolist() == [0]
    assert results[9].boxes.tolist() == [[0, 0, 12, 10], [2, 2, 1, 1]] and results[9].scores.tolist() == [0.75, 0.25]
    assert results[9].rles == [mask, mask]
    with pytest.raises(UserError, match="detections of 2 classes in 2 images, the data set has 1 and 2"):
        read_results(tmp_path / "detections.pkl", Categories((1,), ("cat",)), SIZES)
    content["all_boxes"] = [[], [np.zeros((1, 4)), empty], [empty, empty]]
    with (tmp_path / "wrong.pkl").open("wb") as file:
        Python2(file, 2).dump(content)
    with pytest.raises(UserError, match=r"image id 5: expected boxes \(n, 5\)"):
        read_results(tmp_path / "wrong.pkl", TWO, SIZES)
    one = np.float32([[1, 2, 4, 5, 0.5]])
    for masks in ([3], [{"size": None, "counts": "a"}], [{}], ["x"]):
        wrong = {"all_boxes": [[], [one, empty], [empty, empty]], "all_segms": [[], [masks, []], [[], []]]}
        with (tmp_path / "wrong.pkl").open("wb") as file:
            Python2(file, 2).dump(wrong)
        with pytest.raises(UserError, match="image id 5") as error:
            read_results(tmp_path / "wrong.pkl", TWO, SIZES)
        assert "\n" not in str(error.value)


def test_keypoints_of_detectron(tmp_path: Path) -> None:
    points = np.float32([[1, 2], [3, 4], [0.5, -1], [0.1, 0.2]])  # x, y, logit, probability of two keypoints
    content = {"all_boxes": [[], [np.float32([[1, 2, 4, 5, 0.5]]), []]], "all_segms": [[], []], "all_keyps": [[], [[points], []]]}
    with (tmp_path / "detections.pkl").open("wb") as file:
        Python2(file, 2).dump(content)
    results, tasks = read_results(tmp_path / "detections.pkl", Categories((1,), ("person",)), SIZES)
    assert tasks == ("bbox", "keypoints") and results[5].keypoints is not None
    assert results[5].keypoints.tolist() == [[1, 3, 0.5, 2, 4, -1]]


GOOD = {
    "image_id": 5,
    "category_id": 3,
    "score": 0.5,
    "bbox": [1, 2, 3, 4],
    "segmentation": {"size": [10, 12], "counts": "P14600000`1"},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("image_id"), "row 1: 'image_id' must be a whole number, got nothing"),
        (lambda row: row.update(image_id="5"), "row 1: 'image_id' must be a whole number, got '5'"),
        (
            lambda row: row.update(category_id=4),
            "row 1 (image id 5): 'category_id' must be one of the data set's classes (3 cat, 7",
        ),
        (lambda row: row.update(score=None), "'score' must be a number, got None"),
        (lambda row: row.update(score="0.5"), "'score' must be a number, got '0.5'"),
        (lambda row: row.update(score=float("nan")), "'score' must be a number, got nan"),
        (lambda row: row.update(score=1e308), "'score' must be a number between -1,000,000 and 1,000,000, got 1e+308"),
        (lambda row: row.update(bbox=[1, 2, 3]), "'bbox' must be 4 numbers, got [1, 2, 3]"),
        (lambda row: row.update(bbox=[0, 0, 1e6, 2]), "'bbox' must be 4 numbers between -1,000,000 and 1,000,000, got [0, 0, 100"),
        (lambda row: row.update(bbox=[1, 2, 3, "4"]), "'bbox' must be 4 numbers"),
        (lambda row: row.pop("bbox"), "'bbox' must be 4 numbers, got nothing"),
        (
            lambda row: row.update(bbox=[9, 2, -3, 4]),
            "'bbox' must be x, y, width and height, these two not negative, got [9, 2, -3,",
        ),
        (lambda row: row.update(segmentation=[[1, 2, 3, 4, 5, 6]]), "'segmentation' must be run lengths"),
        (lambda row: row["segmentation"].update(size=[10**6, 10**6]), "must have the size of its image, [10, 12]"),
        (lambda row: row["segmentation"].update(counts=[1, 2]), "counts whose sum is its pixels, got 3"),
        (lambda row: row["segmentation"].update(counts=7), "counts, as text or a list, got 7"),
    ],
)
def test_a_wrong_row_is_named(change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path) -> None:
    wrong = json.loads(json.dumps(GOOD))
    change(wrong)
    path = tmp_path / "results.json"
    path.write_text(json.dumps([GOOD, wrong]))
    with pytest.raises(UserError) as error:
        read_results(path, TWO, SIZES)
    assert str(error.value).startswith(f"{path}: row 1") and message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"), ("{", "is not JSON"), ('{"annotations": []}', "is no file of COCO results"), ("[3]", "row 0"),
        ('[{"image_id": 5, "category_id": 3, "score": 1}]', "must have 'bbox', 'segmentation' or 'keypoints'"),
        ("[[", "is not JSON"), ("[" * 100_000, "is not JSON"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_in_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        read_results(path, TWO, SIZES)
    assert str(error.value).startswith(str(path)) and message in str(error.value) and "\n" not in str(error.value)


def test_no_detections(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[]")
    assert read_results(tmp_path / "results.json", TWO, SIZES) == ({}, ("bbox", "segm", "keypoints"))
    assert read_records(tmp_path / "results.json") == []


def test_select_again() -> None:
    """Boxes, scores and rows are those that ``select`` returns; an unmoved box keeps its exact numbers."""
    rng = np.random.default_rng(0)
    predictions = ImageResults(
        np.concatenate([rng.uniform(0, 30, (40, 2)), rng.uniform(10, 40, (40, 2))], axis=1),
        np.sort(rng.random(40))[::-1].copy(),
        rng.integers(0, 2, 40),
        [{"size": [1, 1], "counts": str(i)} for i in range(40)],
        rng.random((40, 6)),
    )
    rows = torch.tensor([7, 3, 30])

    def select(boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> Any:
        assert boxes[5].tolist() == [*predictions.boxes[5, :2], *(predictions.boxes[5, :2] + predictions.boxes[5, 2:])]
        assert scores.tolist() == predictions.scores.tolist() and labels.tolist() == predictions.labels.tolist()
        moved = boxes[rows]
        moved[1] += 1
        return moved, scores[rows] / 2, rows

    (selected,) = select_again({4: predictions}, select).values()
    expected = predictions.boxes[[7, 3, 30]]
    expected[1, :2] += 1
    np.testing.assert_allclose(selected.boxes, expected, rtol=1e-12)
    assert selected.boxes[[0, 2]].tolist() == expected[[0, 2]].tolist()
    assert selected.scores.tolist() == (predictions.scores[[7, 3, 30]] / 2).tolist()
    assert selected.labels.tolist() == predictions.labels[[7, 3, 30]].tolist()
    assert [code["counts"] for code in selected.rles or ()] == ["7", "3", "30"]
    assert predictions.keypoints is not None and selected.keypoints is not None
    assert selected.keypoints.tolist() == predictions.keypoints[[7, 3, 30]].tolist()


PLAIN = {"image_id": 5, "category_id": 3, "score": 1, "bbox": [1, 2, 3, 4.5]}


def test_both_readers_of_boxes_alone_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast reader and the one that names rows: keys of other programs, integers, large ids, a byte order mark."""
    truth, predictions = random_case(4, masks=False)
    classes, path = categories(truth), tmp_path / "results.json"
    evaluator = CocoEvaluator(truth, classes, tasks=("bbox",))
    for image_id, one in predictions.items():
        evaluator.add(image_id, one)
    records = [{**record, "area": 3, "segmentation": None, "tags": ["a"]} for record in evaluator.records]
    records += [{**PLAIN, "category_id": classes.ids[-1], "image_id": 2**53 + 1}]
    path.write_text(json.dumps(records[::-1]))
    quick, tasks = read_results(path, classes, sizes_of(truth))
    assert tasks == ("bbox",)
    monkeypatch.setattr("boxwood.evaluation.results._boxes_alone", lambda path, categories: None)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    slow, _ = read_results(path, classes, sizes_of(truth))
    assert quick.keys() == slow.keys() and 2**53 + 1 in quick
    for image_id, one in slow.items():
        for name in ("boxes", "scores", "labels"):
            ours, expected = getattr(quick[image_id], name), getattr(one, name)
            assert ours.dtype == expected.dtype and np.array_equal(ours, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image_id": 5, "category_id": 4, "score": 1, "bbox": [1, 2, 3, 4]}', "'category_id' must be one of"),
        ('{"image_id": 5, "category_id": 3, "score": 1, "bbox": [1, 2, 3]}', "'bbox' must be 4 numbers"),
        ('{"image_id": 5, "category_id": 3, "score": 1, "bbox": [1, 2, 3, NaN]}', "'bbox' must be 4 numbers"),
        (
            '{"image_id": 5, "category_id": 3, "score": 1, "bbox": [1, 2, 3, -1e-9]}',
            "'bbox' must be x, y, width and height, these two",
        ),
        ('{"image_id": 5, "category_id": 3, "score": 1e999, "bbox": [1, 2, 3, 4]}', "'score' must be a number"),
        ('{"image_id": 5.5, "category_id": 3, "score": 1, "bbox": [1, 2, 3, 4]}', "'image_id' must be a whole number"),
        ('{"category_id": 3, "score": 1, "bbox": [1, 2, 3, 4]}', "'image_id' must be a whole number"),
        ("7", "must be a mapping"),
    ],
)
def test_a_wrong_box_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(f"[{json.dumps(PLAIN)}, {text}]")
    with pytest.raises(UserError) as error:
        read_results(path, TWO, SIZES)
    assert str(error.value).startswith(f"{path}: row 1") and message in str(error.value) and "\n" not in str(error.value)


ODD_VALUES = st.one_of(
    st.sampled_from(
        [None, True, "", "P14600000`1", [], {}, [[]], [{}], [10, 12], [1e308] * 4, [True] * 4, [10**400] * 4, b"x", 2**63, 10**400]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=9),
    st.binary(max_size=4),
    st.lists(st.one_of(st.none(), st.integers(-3, 20), st.floats(), st.text(max_size=2)), max_size=9),
)
FULL = {**GOOD, "keypoints": [1.0, 2.0, 0.5, 3.0, 4.0, 0.25]}
DETECTRON = {
    "all_boxes": [[], [[[1.0, 2, 4, 5, 0.5]], []], [[], [[0.0, 0, 11, 9, 0.75]]]],
    "all_segms": [[], [[GOOD["segmentation"]], []], [[], [GOOD["segmentation"]]]],
    "all_keyps": [[], [[], []], [[], []]],
}


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Each container and key within a value."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(value, key) for key, _ in pairs] + [place for _, inner in pairs for place in places_in(inner)]


def mutated(content: Any, data: st.DataObject) -> Any:
    """A copy of which one to three values are replaced by odd ones, or taken away."""
    content = copy.deepcopy(content)
    for _ in range(data.draw(st.integers(1, 3))):
        if places := places_in(content):
            container, key = data.draw(st.sampled_from(places))
            if data.draw(st.booleans()):
                container[key] = copy.deepcopy(data.draw(ODD_VALUES))
            else:
                del container[key]
    return content


def refusal_of(path: Path) -> str:
    """Why a file of detections is refused; empty where it can be scored."""
    instance = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    shapes = {"segmentation": FULL["segmentation"], "keypoints": [1, 2, 2, 3, 4, 2], "num_keypoints": 2}
    truth = {
        "images": [{"id": image_id, "height": height, "width": width} for image_id, (height, width) in SIZES.items()],
        "categories": [{"id": id, "name": name, "keypoints": ["a", "b"]} for id, name in zip(TWO.ids, TWO.names, strict=True)],
        "annotations": [{**instance, **shapes}],
    }
    try:
        evaluator = CocoEvaluator(truth, TWO)
        evaluator.results, evaluator.tasks = read_results(path, TWO, SIZES)
        evaluator.compute()
    except UserError as error:
        return str(error)
    return ""


def is_one_line_about(path: Path, message: str) -> bool:
    return str(path) in message and "\n" not in message and len(message) < 400


@given(st.data())
@settings(max_examples=100)
def test_a_mutated_file_is_scored_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    tasks = data.draw(st.sampled_from([("bbox",), ("segmentation",), ("keypoints",), ("bbox", "segmentation", "keypoints")]))
    keys = ("image_id", "category_id", "score", *tasks)
    records = [{key: FULL[key] for key in keys}, {key: FULL[key] for key in keys}]
    path = tmp_path_factory.getbasetemp() / "mutated.json"
    path.write_text(json.dumps(mutated(records, data), default=bytes.hex))
    message = refusal_of(path)
    assert not message or is_one_line_about(path, message)


@given(st.data())
@settings(max_examples=60)
def test_a_mutated_file_of_detectron_is_scored_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.pkl"
    path.write_bytes(pickle.dumps(mutated(DETECTRON, data), protocol=2))
    message = refusal_of(path)
    assert not message or is_one_line_about(path, message)
