"""Which classes teach masks: the splits of the paper, lists, files, and what the reader makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxwood.config import apply_overrides
from boxwood.data import CocoConfig, CocoDataset, MixtureDataset
from boxwood.data.class_order import in_order_of
from boxwood.data.known_classes import COCO
from boxwood.data.mask_classes import describe_masks, listed_classes
from boxwood.data.transforms import CopyPaste
from boxwood.errors import UserError
from boxwood.structures import Categories, Polygons
from tests.data.cases import sound, write
from tests.facts import FACTS


def two_classes(folder: Path, **config: Any) -> CocoDataset:
    """The small data set: one nut with polygons, one with run lengths; and a fig with polygons instead of a crowd region."""
    tree = sound()
    tree["annotations"][1] |= {"iscrowd": 0, "segmentation": [[0, 0, 60, 0, 60, 40]]}
    return CocoDataset(write(folder, tree), folder, **config)


def masks_of(data: CocoDataset) -> list[bool]:
    """Whether each instance of each image has a mask; every reading of a sample gives a list where one has."""
    samples = [data[index] for index in range(len(data))]
    return [not (isinstance(item, Polygons) and not item.parts) for sample in samples for item in sample.segmentations or ()]


@pytest.mark.parametrize("split", ["voc", "nonvoc"])
def test_splits_are_the_papers(split: str) -> None:
    ids = json.loads((FACTS / "mask_x" / "splits.json").read_text())[split]
    assert [COCO.ids[label] for label in COCO.labels_of(listed_classes(split), "")] == ids


def test_a_file_has_a_name_or_an_id_a_line(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("\ufeffnut\n\n  -4\n", encoding="utf-8")
    assert listed_classes(str(path)) == ("nut", "-4")
    path.write_text("cat\n7\n3\n", encoding="utf-8")
    assert Categories((3, 7, 9), ("dog", "cat", "3"), None).labels_of(listed_classes(str(path)), "") == (1, 2)  # names first
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"classes.txt: is no text in UTF-8; name a text file with one class a line"):
        listed_classes(str(path))
    path.write_bytes(b"cat\n" * 250_001)
    with pytest.raises(UserError, match="is larger than a list of classes"):
        listed_classes(str(path))
    with pytest.raises(UserError, match="mask_classes=vocs: is neither voc nor nonvoc, and no file; name classes in a list"):
        listed_classes("vocs")


def test_instances_of_other_classes_keep_their_boxes_and_lose_their_masks(tmp_path: Path) -> None:
    every, nuts, figs = (two_classes(tmp_path, mask_classes=classes) for classes in (None, ["nut"], [-4]))
    assert masks_of(every) == [True, True, True]
    assert masks_of(nuts) == [False, True, True]
    assert masks_of(figs) == [True, False, False]
    for data in (nuts, figs):
        for index in range(len(data)):
            assert torch.equal(data[index].boxes, every[index].boxes) and torch.equal(data[index].labels, every[index].labels)
        assert data.to_coco() == every.to_coco()
    assert every.mask_counts.tolist() == [[1, 1], [2, 2]] and nuts.mask_counts.tolist() == [[0, 1], [2, 2]]


def test_classes_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.json: mask_classes: names unknown classes: date, 7; name some of fig, nut"):
        two_classes(tmp_path, mask_classes=["nut", "date", 7])
    path = write(tmp_path, sound())  # of the figs there is a crowd region alone
    for classes, names in ((["fig"], "fig"), ([], "it names none")):
        with pytest.raises(UserError, match=rf"data.json: mask_classes leaves no class that teaches masks \({names}\)"):
            CocoDataset(path, tmp_path, mask_classes=classes)


def test_the_key_of_the_configuration(tmp_path: Path) -> None:
    two_classes(tmp_path)
    config = CocoConfig(annotations=str(tmp_path / "data.json"), images=str(tmp_path))
    assert masks_of(apply_overrides(config, ["mask_classes=[nut]"]).open()) == [False, True, True]
    assert masks_of(apply_overrides(config, ["mask_classes=[-4]"]).open()) == [True, False, False]
    (tmp_path / "figs.txt").write_text("fig")
    assert masks_of(apply_overrides(config, [f"mask_classes={tmp_path / 'figs.txt'}"]).open()) == [True, False, False]
    with pytest.raises(
        UserError, match="names unknown classes: person, bicycle, car, motorcycle, airplane, bus, train, boat and 12 more"
    ):
        apply_overrides(config, ["mask_classes=voc"]).open()


def test_masks_are_counted_through_mixtures_and_orders_of_classes(tmp_path: Path) -> None:
    nuts, figs = two_classes(tmp_path / "a", mask_classes=["nut"]), two_classes(tmp_path / "b", mask_classes=["fig"])
    counts = MixtureDataset([nuts, figs]).mask_counts
    assert counts is not None and counts.tolist() == [[1, 2], [2, 4]]
    reordered: Any = in_order_of(Categories((1, 2), ("nut", "fig")), nuts, "", "")
    assert reordered.mask_counts.tolist() == [[2, 2], [0, 1]]


def test_the_line_of_the_log() -> None:
    names = Categories((1, 2), ("fig", "nut"))
    assert describe_masks(names, np.array([[3, 3], [4, 4]])) == "masks of all 2 classes teach"
    assert describe_masks(names, np.array([[2, 3], [4, 4]])) == "masks of 2 of 2 classes teach: fig (2 of 3), nut (4)"
    many = Categories(tuple(range(80)), tuple(f"c{number}" for number in range(80)))
    assert describe_masks(many, np.array([[1, 1]] * 79 + [[0, 2]])).endswith("c29 (1) and 49 more; boxes alone: c79 (2)")


def test_copy_paste_leaves_instances_without_masks_where_they_are(tmp_path: Path) -> None:
    data = two_classes(tmp_path, mask_classes=["nut"])
    assert data[0].labels.tolist() == [0, 1] and data[1].labels.tolist() == [1]
    pasted = set()
    for seed in range(12):
        after = CopyPaste().mix(data[1], np.random.default_rng(seed), lambda: data[0])
        assert after.labels.tolist() in ([1], [1, 1])
        pasted.add(len(after.labels))
    assert pasted == {1, 2}
