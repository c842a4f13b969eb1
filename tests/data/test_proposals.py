"""Proposal files: three formats that say the same, faults that are named, and what a sample gets of them."""

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

from boxwood.data import CocoConfig, CocoDataset
from boxwood.data.proposals import ProposalFile, make_proposals, read_proposals, write_proposals
from boxwood.errors import UserError
from tests.data.cases import sound, write
from tests.test_safe_pickle import Runs, python2_array, python2_dict


def some(seed: int, counts: list[int]) -> tuple[list[int], list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]:
    """Ids, boxes on whole pixels, and scores of which some are equal."""
    rng = np.random.default_rng(seed)
    corners = [np.sort(rng.integers(0, 40, (count, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32) for count in counts]
    return list(range(50, 50 + len(counts))), corners, [rng.integers(0, 5, count).astype(np.float32) for count in counts]


def assert_same(one: ProposalFile, other: ProposalFile) -> None:
    for name in ("image_ids", "starts", "boxes", "scores"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 99), st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_every_format_comes_back(
    tmp_path_factory: pytest.TempPathFactory, seed: int, counts: list[int], protocol: int
) -> None:  # fmt: skip
    folder = tmp_path_factory.getbasetemp()
    ids, boxes, scores = some(seed, counts)
    made = make_proposals(ids, boxes, scores)
    for image, (own_boxes, own_scores) in enumerate(zip(boxes, scores, strict=True)):
        rows = slice(made.starts[image], made.starts[image + 1])
        best_first = sorted(range(len(own_scores)), key=lambda index: -own_scores[index])
        assert made.boxes[rows].tolist() == own_boxes[best_first].tolist()
        assert made.scores[rows].tolist() == own_scores[best_first].tolist()

    write_proposals(folder / "a.safetensors", made)
    assert_same(read_proposals(folder / "a.safetensors"), made)

    inclusive = [part - np.array([0, 0, 1, 1], np.float32) for part in boxes]
    (folder / "a.pkl").write_bytes(pickle.dumps({"boxes": inclusive, "scores": scores, "ids": ids, "cfg": "a: 1"}, protocol))
    assert_same(read_proposals(folder / "a.pkl"), made)

    # A list of results has no place for an image without boxes.
    kept = [index for index, count in enumerate(counts) if count]
    if kept:
        rows = [
            {"image_id": ids[index], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            for index in kept
            for (x1, y1, x2, y2), score in zip(boxes[index].tolist(), scores[index].tolist(), strict=True)
        ]
        (folder / "a.json").write_text(json.dumps(rows))
        expected = make_proposals([ids[i] for i in kept], [boxes[i] for i in kept], [scores[i] for i in kept])
        assert_same(read_proposals(folder / "a.json"), expected)


def test_detectrons_file_as_python_2_wrote_it(tmp_path: Path) -> None:
    """With the old key of the ids, scores that are one column, and pixels that are inside."""
    ids, boxes, scores = some(3, [4, 2])
    arrays = [b"](" + b"".join(python2_array(part) for part in parts) + b"e" for parts in (boxes, [s[:, None] for s in scores])]
    numbers = b"](" + b"".join(b"J" + int(image).to_bytes(4, "little") for image in ids) + b"e"
    (tmp_path / "a.pkl").write_bytes(python2_dict({"boxes": arrays[0], "scores": arrays[1], "indexes": numbers}))
    assert_same(read_proposals(tmp_path / "a.pkl"), make_proposals(ids, [b + np.array([0, 0, 1, 1]) for b in boxes], scores))


def test_results_without_scores_keep_their_order(tmp_path: Path) -> None:
    rows = [{"image_id": image, "bbox": [x, 0, 4, 4.5]} for x, image in enumerate((9, 3, 9, 3, 9))]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    read = read_proposals(tmp_path / "a.json")
    assert read.image_ids.tolist() == [3, 9] and read.starts.tolist() == [0, 2, 5]
    assert read.boxes[:, 0].tolist() == [1, 3, 0, 2, 4] and read.boxes[0].tolist() == [1, 0, 5, 4.5]


# ---------------------------------------------------------------------------------------------------------- faults

BOX, SCORE = np.array([[1, 2, 5, 6]], np.float32), np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("ids", "boxes", "scores", "words"),
    [
        ([], [], [], "holds no images"),
        ([4, 4], [BOX, BOX], [SCORE, SCORE], "image id 4 has proposals twice"),
        ([4], [BOX[:, :3]], [SCORE], r"image id 4: boxes must be \(n, 4\), got \(1, 3\)"),
        ([4], [BOX[0]], [SCORE], r"image id 4: boxes must be \(n, 4\), got \(4,\)"),
        ([4], [BOX], [np.ones(2)], r"image id 4: 1 boxes need 1 scores, got \(2,\)"),
        ([4, 5], [BOX], [SCORE], "has 2 image ids, boxes of 1 images and scores of 1"),
        ([4, 5], [BOX, np.array([[0, 0, 4, 4], [0, np.nan, 4, 4]])], [SCORE, np.ones(2)], r"image id 5, box 1: \(0, nan, 4"),
        ([4], [BOX * np.float32(np.inf)], [SCORE], "image id 4, box 0: .* is not finite"),
        ([4], [BOX.astype(np.float64) * 1e300], [SCORE], "image id 4, box 0: .* is not finite"),
        ([4], [BOX], [SCORE * np.nan], "image id 4, box 0: .* has a score that is not finite"),
        ([4], [np.array([[5, 2, 1, 6]])], [SCORE], r"image id 4, box 0: \(5, 2, 1, 6\) is inverted .*; 1 of 1 boxes are so"),
        ([4], [np.array([[1, 6, 5, 2]])], [SCORE], r"is inverted \(x2 < x1 or y2 < y1\)"),
    ],
)  # fmt: skip
def test_faults_are_named(tmp_path: Path, ids: list[int], boxes: list[Any], scores: list[Any], words: str) -> None:
    with pytest.raises(UserError, match="proposals: .*" + words):
        make_proposals(ids, boxes, scores)
    inclusive = [part - np.array([0, 0, 1, 1]) if part.shape[1:] == (4,) else part for part in boxes]
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"boxes": inclusive, "scores": scores, "ids": ids}, 2))
    with pytest.raises(UserError, match="a.pkl: .*" + words) as caught:
        read_proposals(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"a": 1}, "must be COCO results"),
        ([], "holds no images"),
        ([1], "row 0: must be a record"),
        ([{"image_id": 1, "bbox": [1, 2, 3], "score": 1}], "image id 1: 'bbox' must be four numbers x, y, width, height, got"),
        ([{"image_id": 1, "bbox": [1, 2, 3, "4"], "score": 1}], "'bbox' must be four numbers"),
        ([{"image_id": "1", "bbox": [1, 2, 3, 4], "score": 1}], "'image_id' must be a whole number"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1}, {"image_id": 1, "bbox": [1, 2, 3, 4]}], "row 1: .* either every"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": None}], "row 0: image id 1: 'score' must be a number, got None"),
        ([{"image_id": 1, "bbox": [1, 2, -3, 4], "score": 1}], r"image id 1, box 0: \(1, 2, -2, 6\) is inverted"),
        ([{"image_id": 1, "bbox": [1, 2, float("nan"), 4], "score": 1}], "is not finite"),
        ([{"image_id": 1, "bbox": [1, 2, 1e300, 4], "score": 1}], "is not finite"),
        ([{"image_id": 1, "bbox": [1, 2, 10**400, 4], "score": 1}], "'bbox' must be four numbers"),
    ],
)  # fmt: skip
def test_faults_of_results(tmp_path: Path, rows: Any, words: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match="a.json: .*" + words):
        read_proposals(tmp_path / "a.json")


@pytest.mark.parametrize("suffix", [".safetensors", ".pkl", ".json"])
def test_files_that_are_empty_cut_short_or_of_another_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(UserError, match=r"No such file .*name an existing"):
        read_proposals(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"is empty"):
        read_proposals(path)
    path.write_bytes(b"\x00this is another file altogether")
    with pytest.raises(UserError, match=r"is no pickle|no safetensors|is not JSON"):
        read_proposals(path)
    ids, boxes, scores = some(1, [3, 3])
    if suffix == ".safetensors":
        write_proposals(path, make_proposals(ids, boxes, scores))
    elif suffix == ".pkl":
        path.write_bytes(pickle.dumps({"boxes": boxes, "scores": scores, "ids": ids}))
    else:
        path.write_text(json.dumps([{"image_id": 1, "bbox": [1, 2, 3, 4]}]))
    whole = path.read_bytes()
    for length in (1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut short|is no pickle|is not JSON"):
            read_proposals(path)


def test_safetensors_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"boxes": BOX}, path)
    with pytest.raises(UserError, match="is safetensors, but not a proposal file"):
        read_proposals(path)
    arrays = {"image_ids": np.array([1]), "starts": np.array([0, 1]), "boxes": BOX, "scores": SCORE}
    for change, words in (
        ({"starts": np.array([0, 2])}, "'starts' does not share 1 boxes among 1 images"),
        ({"starts": np.array([0, 1], np.int32)}, r"'starts' must be int64 with 1 dimensions, got int32 \(2,\)"),
        ({"boxes": BOX[:, :3].copy()}, r"boxes must be \(n, 4\), got \(1, 3\)"),
        ({"scores": np.ones(3, np.float32)}, "1 boxes need 1 scores, got 3"),
        ({"boxes": BOX * np.float32(np.nan)}, "is not finite"),
    ):
        safetensors.numpy.save_file(arrays | change, path, {"format": "boxwood proposals 1"})
        with pytest.raises(UserError, match=words):
            read_proposals(path)
    with pytest.raises(UserError, match=r"a.npz: a proposal file ends in .safetensors .*, .pkl .* or .json"):
        read_proposals(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ([1], "must be a dict with 'boxes', 'scores' and 'ids', got a list"),
        ({"boxes": [], "ids": []}, "is no proposal file: 'scores' missing; its keys are"),
        ({"boxes": 3, "scores": [], "ids": []}, "'boxes' must be a list with an array for each image, got a int"),
        ({"boxes": [[["a"]]], "scores": [[1]], "ids": [1]}, "'boxes' of image 0: must be numbers"),
        ({"boxes": [[[1, 2], [3]]], "scores": [[1]], "ids": [1]}, "'boxes' of image 0: must be numbers|got"),
        ({"boxes": [BOX], "scores": [SCORE], "ids": ["a"]}, "'ids': must be numbers"),
        ({"boxes": [BOX], "scores": [SCORE], "ids": [1.5]}, "'ids' must be whole numbers"),
        ({"boxes": Runs(exec, "raise SystemExit")}, "a pickle that asks for builtins.exec"),
    ],
)
def test_pickles_that_are_something_else(tmp_path: Path, tree: Any, words: str) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(tree))
    with pytest.raises(UserError, match="a.pkl.*" + words):
        read_proposals(tmp_path / "a.pkl")


# --------------------------------------------------------------------------------------------------- in the data set


def test_a_sample_has_the_usable_ones_best_first(tmp_path: Path) -> None:
    tree = sound()  # images 70 (60 x 40), 3 (30 x 50), 5 (20 x 20)
    of_3 = np.array(
        [[25, 0, 99, 9], [-5, -5, 10, 10], [0.2, 0.3, 10.4, 9.6], [28, 0, 40, 9], [0, 48.5, 9, 60], [4, 4, 9, 9]], np.float32
    )
    path = tmp_path / "p.safetensors"
    write_proposals(path, make_proposals([1, 70, 3, 5], [BOX, BOX, of_3, BOX[:0]], [SCORE, SCORE, np.arange(6)[::-1], SCORE[:0]]))
    write(tmp_path, tree)
    config = CocoConfig(annotations=str(tmp_path / "data.json"), images=str(tmp_path), proposals=str(path))
    dataset = config.open()
    samples = [dataset[index].proposals for index in range(3)]
    assert samples[0] is not None and samples[0].tolist() == BOX.tolist() and samples[0].dtype == torch.float32
    # Clipped; [0.2 ...] equals the second in whole pixels; [28 ...] and [0 48.5 ...] have no more than 2 pixels left.
    assert samples[1] is not None and samples[1].tolist() == [[25, 0, 30, 9], [0, 0, 10, 10], [4, 4, 9, 9]]
    assert samples[2] is not None and samples[2].shape == (0, 4)
    few = config.model_copy(update={"proposal_limit": 2}).open()[1].proposals
    assert few is not None and few.tolist() == [[25, 0, 30, 9], [0, 0, 10, 10]]
    assert CocoDataset(tmp_path / "data.json", tmp_path)[0].proposals is None


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40))
def test_equal_in_whole_pixels_is_equal(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.uniform(-3, 12, (count, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
    made = make_proposals([1], [boxes], [np.arange(count)[::-1]])
    seen, expected = set(), []
    for box in boxes:
        x1, y1, x2, y2 = (min(max(float(value), 0), side) for value, side in zip(box, (9, 8, 9, 8), strict=True))
        whole = tuple(round(value) for value in (x1, y1, x2, y2))
        if np.float32(x2) - np.float32(x1) > 2 and np.float32(y2) - np.float32(y1) > 2 and whole not in seen:
            seen.add(whole)
            expected.append([x1, y1, x2, y2])
    assert made.usable(0, (8, 9), 1000).tolist() == expected


def test_proposals_of_other_images(tmp_path: Path) -> None:
    annotations, path = write(tmp_path, sound()), tmp_path / "p.safetensors"
    write_proposals(path, make_proposals([70, 4], [BOX, BOX], [SCORE, SCORE]))
    words = r"p.safetensors: has no proposals of 2 of the 3 images of .*data.json, the first of them image id 3 'tall.png'"
    with pytest.raises(UserError, match=words):
        CocoDataset(annotations, tmp_path, proposals=path)
    write_proposals(path, make_proposals([70, 3], [BOX, BOX], [SCORE, SCORE]))
    CocoDataset(annotations, tmp_path, proposals=path, keep_empty=False)  # the image that is not used needs none
