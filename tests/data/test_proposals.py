"""Files of proposals: writing, reading of every format, errors, and their use in batches."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood.data import CocoConfig, HorizontalFlip, ResizeShortestEdge
from boxwood.data.loader import eval_batches, train_batches
from boxwood.data.proposals import merged, prepared, read_proposals, write_proposals
from boxwood.errors import UserError

ROWS = [
    (7, np.array([[1.0, 2, 30, 40], [5, 5, 9, 9]]), np.array([0.9, 0.3])),
    (3, np.zeros((0, 4)), np.zeros(0)),
    (11, np.array([[0.0, 0, 8, 8]]), np.array([0.5])),
]


def test_written_proposals_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    write_proposals(path, ROWS)
    file = read_proposals(path)
    assert file.image_ids.tolist() == [3, 7, 11]
    for image_id, boxes, scores in ROWS:
        assert np.array_equal(file.of(image_id), boxes.astype(np.float32))
        assert len(scores) == len(file.of(image_id))
    assert [path.name for path in tmp_path.iterdir()] == ["p.safetensors"]
    with pytest.raises(UserError, match="no proposals for image id 8"):
        file.of(8)
    file.check_images([3, 11], "train.json")
    with pytest.raises(UserError, match=r"no proposals for 2 of the 3 images of train\.json, such as image id 8"):
        file.check_images([8, 3, 9], "train.json")


@pytest.mark.parametrize("key", ["ids", "indexes"])
def test_detectrons_file(tmp_path: Path, key: str) -> None:
    """Its boxes include their last pixel, and need not be sorted."""
    path = tmp_path / "p.pkl"
    boxes = [np.float32([[5, 5, 8, 8], [1, 2, 29, 39]]), np.float32([[0, 0, 7, 7]])]
    content = {"boxes": boxes, "scores": [np.float32([0.3, 0.9]), np.float32([0.5])], key: [7, 11], "cfg": "MODEL: {}"}
    path.write_bytes(pickle.dumps(content, 2))
    file = read_proposals(path)
    assert file.of(7).tolist() == [[1, 2, 30, 40], [5, 5, 9, 9]]
    assert file.of(11).tolist() == [[0, 0, 8, 8]]


def test_coco_results(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(
        json.dumps(
            [
                {"image_id": 7, "bbox": [5, 5, 4, 4], "score": 0.3, "category_id": 1},
                {"image_id": 7, "bbox": [1, 2, 29, 38], "score": 0.9},
            ]
        )
    )
    file = read_proposals(path)
    assert file.of(7).tolist() == [[1, 2, 30, 40], [5, 5, 9, 9]]
    assert file.of(8).tolist() == []
    file.check_images([7, 8], "train.json")
    with pytest.raises(UserError, match="no proposals for 1 of the 1 images"):
        file.check_images([8], "train.json")


def broken(**changes: Any) -> dict[str, Any]:
    return {"boxes": [np.float32([[1, 2, 3, 4]])], "scores": [np.float32([0.5])], "ids": [1], **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (broken(boxes=[np.float32([[1, 2, np.nan, 4]])]), "1 proposals are not finite, such as row 0 of image id 1"),
        (broken(boxes=[np.float32([[9, 2, 3, 4]])]), r"1 boxes are inverted \(x2 < x1 or y2 < y1\), such as row 0 of image id 1"),
        (broken(boxes=[np.float32([[1, 2, 3]])]), r"image id 1: expected boxes \(n, 4\) and n scores"),
        (broken(scores=[np.float32([0.5, 0.4])]), r"image id 1: expected boxes \(n, 4\) and n scores"),
        (broken(ids=[1, 2]), "1 lists of boxes and 1 of scores for 2 images"),
        ({"boxes": []}, "is no file of proposals"),
        ([1, 2], "is no file of proposals"),
        (broken(boxes=3), "expected 'boxes' to be a list, one item per image, got a int"),
        (broken(ids=None), "expected 'ids' to be a list, one item per image, got a NoneType"),
        (broken(ids=["a"]), "expected 'ids' to be whole numbers, got 'a'"),
        (broken(ids=[1.5]), r"expected 'ids' to be whole numbers, got 1\.5"),
        (broken(ids=[2**70]), "expected 'ids' to be whole numbers, got 1180591620717411303424"),
        (broken(boxes=[[[1, 2], [3]]]), "image id 1: expected boxes .*, got none and 1"),
        (broken(boxes=[[["a", "b", "c", "d"]]]), "image id 1: expected boxes .*, got none and 1"),
        (broken(boxes=[np.array(["a"])]), "image id 1: expected boxes .*, got none and 1"),
        (broken(scores=[["a"]]), "image id 1: expected boxes .*, got 1 and none"),
        (broken(boxes=[[[1e300, 1, 2e300, 5]]]), "1 proposals are not finite, such as row 0 of image id 1"),
        (broken(scores=[[np.nan]]), "1 proposals are not finite, such as row 0 of image id 1"),
        (
            broken(boxes=[np.ones((3, 4))] * 2, scores=[np.array([1, 1, np.inf])] * 2, ids=[5, 6]),
            "2 .* such as row 2 of image id 5",
        ),
        (
            {"boxes": [np.float32([[1, 2, 3, 4]])] * 2, "scores": [np.float32([0.5])] * 2, "ids": [4, 4]},
            "image id 4 stands twice",
        ),
    ],
)
def test_invalid_pickles(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "p.pkl"
    path.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(UserError, match=message) as raised:
        read_proposals(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


def test_a_deeply_nested_list_is_refused_quickly(tmp_path: Path) -> None:
    bomb: Any = [1.0, 2.0, 3.0, 4.0]
    for _ in range(40):
        bomb = [bomb] * 4
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(broken(boxes=[bomb])))
    with pytest.raises(UserError, match="repeat the same parts"):
        read_proposals(tmp_path / "p.pkl")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 5), min_size=1, max_size=5), protocol=st.integers(0, 5))
def test_all_formats_give_the_same_proposals(
    tmp_path_factory: pytest.TempPathFactory, seed: int, counts: list[int], protocol: int
) -> None:
    """Boxwood's file, Detectron's in each pickle protocol (arrays and lists), and COCO results; equal scores keep their order."""
    rng, folder = np.random.default_rng(seed), tmp_path_factory.getbasetemp()
    ids = rng.permutation(100)[: len(counts)].tolist()
    corners = [np.sort(rng.integers(0, 50, (count, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32) for count in counts]
    scores = [rng.integers(0, 4, count).astype(np.float32) for count in counts]
    rows = list(zip(ids, corners, scores, strict=True))
    write_proposals(folder / "p.safetensors", rows)
    inclusive = [boxes - np.array([0, 0, 1, 1], np.float32) for boxes in corners]
    (folder / "a.pkl").write_bytes(
        pickle.dumps({"boxes": inclusive, "scores": [s[:, None] for s in scores], "indexes": ids}, protocol)
    )
    lists = {"boxes": [b.tolist() for b in inclusive], "scores": [s.tolist() for s in scores], "ids": np.array(ids)}
    (folder / "b.pkl").write_bytes(pickle.dumps(lists, protocol))
    records = [
        {"image_id": image_id, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for image_id, boxes, image_scores in rows
        for (x1, y1, x2, y2), score in zip(boxes.tolist(), image_scores.tolist(), strict=True)
    ]
    (folder / "p.json").write_text(json.dumps(records))
    for name in ("p.safetensors", "a.pkl", "b.pkl", "p.json"):
        file = read_proposals(folder / name)
        assert file.boxes.dtype == np.float32 and file.scores.dtype == np.float32
        for image_id, boxes, image_scores in rows:
            best_first = sorted(range(len(image_scores)), key=lambda index: -image_scores[index])
            assert file.of(image_id).tolist() == boxes[best_first].tolist()


def test_invalid_files_of_other_formats(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    write_proposals(path, ROWS)
    whole = path.read_bytes()
    for length, message in ((0, "is empty"), (5, "cut short"), (len(whole) - 9, "cut short")):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=message):
            read_proposals(path)
    safetensors.numpy.save_file({"boxes": np.zeros((1, 4))}, path)
    with pytest.raises(UserError, match="holds something else than proposals"):
        read_proposals(path)
    columns = {"image_ids": np.array([1]), "counts": np.array([2]), "boxes": np.zeros((1, 4)), "scores": np.zeros(1)}
    safetensors.numpy.save_file(columns, path, {"format": "boxwood proposals 1"})
    with pytest.raises(UserError, match="counts do not add up"):
        read_proposals(path)
    with pytest.raises(UserError, match="there is no such file"):
        read_proposals(tmp_path / "none.pkl")
    with pytest.raises(UserError, match=r"not from \.npy"):
        read_proposals(tmp_path / "a.npy")
    path = tmp_path / "p.json"
    row = '{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1}'
    for text, message in (
        ("{", "p.json:1: is not JSON"),
        ("{}", "a list of records"),
        ('[{"image_id": 1}]', r"row 0 \(image id 1\): 'bbox' must be four numbers x, y, width, height, got nothing"),
        (f"[{row}, 3]", "row 1: must be a mapping, got 3"),
        (f"[{row.replace('1,', '1.5,', 1)}]", "row 0: 'image_id' must be a whole number, got 1.5"),
        (f"[{row.replace('1,', '1' + '0' * 30 + ',', 1)}]", "row 0: 'image_id' must be a whole number"),
        (f"[{row.replace('3', '1' + '0' * 400)}]", "'bbox' must be four numbers"),
        (f"[{row.replace('3', 'null')}]", "'bbox' must be four numbers"),
        (f"[{row[:-2]}true}}]", r"row 0 \(image id 1\): 'score' must be a number, got True"),
        (f"[{row.replace('3', '1e300')}]", "1 proposals are not finite"),
        (f"[{row.replace('3', 'NaN')}]", "1 proposals are not finite"),
        (f"[{row.replace('3', '-3')}]", "1 boxes are inverted"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_proposals(path)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), limit=st.integers(1, 40))
def test_prepared_proposals(seed: int, limit: int) -> None:
    """Compared with the same rules applied to one box at a time."""
    rng = np.random.default_rng(seed)
    boxes = rng.integers(-6, 24, (30, 2)) + rng.choice([0.0, 0.125, 0.375], (30, 2))
    boxes = np.concatenate([boxes, boxes + rng.integers(0, 6, (30, 2))], axis=1).astype(np.float32)
    expected: list[list[float]] = []
    seen = set()
    for x1, y1, x2, y2 in boxes.tolist():
        clipped = [min(max(x1, 0), 20), min(max(y1, 0), 10), min(max(x2, 0), 20), min(max(y2, 0), 10)]
        key = tuple(round(np.float32(v)) for v in clipped)
        if clipped[2] - clipped[0] > 2 and clipped[3] - clipped[1] > 2 and key not in seen:
            seen.add(key)
            expected.append(clipped)
    ours = prepared(boxes, (10, 20), limit)
    assert ours.shape == (min(limit, len(expected)), 4)
    np.testing.assert_allclose(ours, np.array(expected[:limit]).reshape(-1, 4), atol=1e-5)


def with_proposals(shapes: Path, folder: Path, **settings: Any) -> CocoConfig:
    """The val set with its ground-truth boxes and one more box per image as proposals."""
    coco = json.loads((shapes / "val.json").read_text())
    rows = []
    for image in coco["images"]:
        truth = [a["bbox"] for a in coco["annotations"] if a["image_id"] == image["id"]]
        boxes = np.array([*([x, y, x + w, y + h] for x, y, w, h in truth), [0, 0, 50, 60]])
        rows.append((image["id"], boxes, np.linspace(0.9, 0.1, len(boxes))))
    write_proposals(folder / "p.safetensors", rows)
    return CocoConfig(
        annotations=str(shapes / "val.json"), images=str(shapes / "val"), proposals=str(folder / "p.safetensors"), **settings
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_proposals_are_transformed_with_the_boxes(shapes: Path, tmp_path: Path, workers: int) -> None:
    dataset = with_proposals(shapes, tmp_path).open()
    transforms = (ResizeShortestEdge(short=(77,), long=500), HorizontalFlip(p=1.0))
    batch = next(train_batches(dataset, transforms, batch_size=2, seed=0, workers=workers))
    assert batch.proposals is not None and batch.targets is not None and len(batch.proposals) == 2
    for boxes, target, (height, width) in zip(batch.proposals, batch.targets, batch.sizes.tolist(), strict=True):
        assert boxes.dtype == torch.float32
        for true in target.boxes:
            assert (boxes - true).abs().amax(dim=1).min() < 1e-3
        x, y = width / 128, height / 96
        torch.testing.assert_close(boxes[-1], torch.tensor([width - 50 * x, 0, width, 60 * y]))


def test_evaluation_batches_have_proposals(shapes: Path, tmp_path: Path) -> None:
    dataset = with_proposals(shapes, tmp_path, proposal_limit=1).open()
    (batch,) = eval_batches(dataset, (), batch_size=2, workers=0)
    assert batch.targets is None and batch.proposals is not None
    assert [len(boxes) for boxes in batch.proposals] == [1, 1]
    plain = CocoConfig(annotations=str(shapes / "val.json"), images=str(shapes / "val")).open()
    (batch,) = eval_batches(plain, (), batch_size=2, workers=0)
    assert batch.proposals is None


def test_a_file_for_other_images(shapes: Path, tmp_path: Path) -> None:
    config = with_proposals(shapes, tmp_path)
    config.annotations, config.images = str(shapes / "train.json"), str(shapes / "train")
    with pytest.raises(UserError, match=r"p\.safetensors: has no proposals for \d of the 4 images of .*train\.json"):
        config.open()


def test_several_files_are_merged(shapes: Path, tmp_path: Path) -> None:
    """Detectron wrote one file for each part of its training set; the parts may be in any order."""
    rng = np.random.default_rng(0)
    rows = [(image_id, np.sort(rng.uniform(0, 60, (n, 2, 2)), axis=1).reshape(n, 4), rng.random(n)) for image_id, n in
            ((1, 3), (2, 0), (3, 5), (4, 2))]  # fmt: skip
    for name, part in (("whole", rows), ("a", [rows[2], rows[0]]), ("b", [rows[3], rows[1]])):
        write_proposals(tmp_path / f"{name}.safetensors", part)
    whole, a, b = (read_proposals(tmp_path / f"{name}.safetensors") for name in ("whole", "a", "b"))
    both = merged([b, a])
    for image_id in (1, 2, 3, 4):
        np.testing.assert_array_equal(both.of(image_id), whole.of(image_id))
    assert both.image_ids.tolist() == [1, 2, 3, 4] and both.starts.tolist() == whole.starts.tolist()
    np.testing.assert_array_equal(both.scores, whole.scores)
    assert both.lists_all and both.path == f"{b.path} and {a.path}" and merged([a]) is a
    with pytest.raises(UserError, match=r"image id 1 is in two files of proposals, .*whole\.safetensors and .*a\.safetensors"):
        merged([whole, a])
    with pytest.raises(UserError, match="has no proposals for image id 9"):
        both.of(9)


def test_a_data_set_with_several_files(shapes: Path, tmp_path: Path) -> None:
    ids = [image["id"] for image in json.loads((shapes / "train.json").read_text())["images"]]
    box = np.array([[1.0, 1, 30, 30], [5, 5, 20, 40]])
    for index, image_id in enumerate(ids):
        write_proposals(tmp_path / f"{index}.safetensors", [(image_id, box + index, np.array([0.5, 0.25]))])
    files = tuple(str(tmp_path / f"{index}.safetensors") for index in range(len(ids)))
    annotations, images = str(shapes / "train.json"), str(shapes / "train")
    data = CocoConfig(annotations=annotations, images=images, proposals=files, proposal_limit=None).open()
    for index in range(len(data)):
        sample = data[index]
        assert sample.proposals is not None
        assert sample.proposals.tolist() == (box + ids.index(sample.image_id)).tolist()
    with pytest.raises(UserError, match=r"0\.safetensors and .* has no proposals for"):
        CocoConfig(annotations=annotations, images=images, proposals=files[:-1]).open()
    assert CocoConfig(annotations=annotations, images=images, proposals=()).open()[0].proposals is None
