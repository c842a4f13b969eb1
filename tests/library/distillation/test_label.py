"""Labels of a detector: which detections they are, what the file holds, and what happens to calls that are interrupted."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwood.data import CocoConfig
from boxwood.data.annotations import read_annotations
from boxwood.errors import UserError
from boxwood.inference.predict import predict
from boxwood.inference.predictor import Predictor
from boxwood.inference.tta import views_of
from boxwood.library.distillation.label import label, with_views
from boxwood.models.heads import ConvKeypointHeadConfig
from boxwood.recipes import resolve
from boxwood.weights import save_weights
from tests.conftest import Boxwood, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``photos`` with three pictures, one of them in a folder, and the labelled set ``train.json``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name in ("000000.jpg", "000001.jpg"):
        shutil.copy(shapes / "train" / name, tmp_path / "photos")
    shutil.copy(shapes / "val" / "000000.jpg", tmp_path / "photos" / "more")
    shutil.copy(shapes / "train.json", tmp_path)
    return tmp_path


def read(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(path.read_text())
    return tree


def test_one_view_is_plain_prediction(trained: Path, folder: Path) -> None:
    """The labels are the best predictions of each class, to the bit, and as many as the labelled set has instances an image."""
    labels = label(trained, "photos", "train.json", "labels.json", floor=0.0, one_view=True)
    predictions = {Path(p.file_name): p.records for p in predict(trained, ["photos", "photos/more"], score=0.0)}
    truth, coco = read(folder / "train.json"), read(folder / "labels.json")
    names = {row["id"]: row["name"] for row in truth["categories"]}
    drawn = Counter(names[row["category_id"]] for row in truth["annotations"] if not row["iscrowd"])
    expected = []
    for name, count in drawn.items():
        wanted = int(count / 4 * 3 + 0.5)  # of 4 images there, for 3 pictures
        scores = sorted((r["score"] for records in predictions.values() for r in records if r["category"] == name), reverse=True)
        if scores:
            lowest = scores[:wanted][-1]
            assert labels.thresholds[name].score == lowest and labels.thresholds[name].wanted == wanted
            expected += [
                (str(file.relative_to("photos")), name, r["score"], r["bbox"], r["segmentation"])
                for file, records in predictions.items()
                for r in records
                if r["category"] == name and r["score"] >= lowest
            ]
    files = {row["id"]: row["file_name"] for row in coco["images"]}
    actual = [
        (files[row["image_id"]], names[row["category_id"]], row["score"], row["bbox"], row["segmentation"])
        for row in coco["annotations"]
    ]
    assert sorted(actual, key=str) == sorted(expected, key=str) and expected
    assert {row["source"] for row in coco["annotations"]} == {"auto"}
    assert labels.num_instances == len(actual) and labels.num_pictures == 3


def test_the_file_and_the_page(trained: Path, folder: Path, boxwood: Boxwood, caplog: pytest.LogCaptureFixture) -> None:
    """The file is read as any COCO file, with scores; the page loads nothing; the journal is gone."""
    views = ("test.tta.boxes.scales=[48]", "test.tta.masks.scales=[48]")
    done = boxwood("distill", "label", trained, "photos", "--like", "train.json", "--out", "labels.json", "--floor", "0", *views)
    assert done.status == 0, done.err
    file, tree = read_annotations(folder / "labels.json"), read(folder / "labels.json")
    caplog.set_level(logging.INFO, logger="boxwood")
    assert file.to_coco()["annotations"] == tree["annotations"] != []
    assert tree["categories"] == read(folder / "train.json")["categories"]
    assert [row["id"] for row in tree["images"]] == [1, 2, 3]
    for task in ("boxes", "masks"):
        assert tree["info"]["views"][task]["scales"] == [48] and tree["info"]["views"][task]["scale_flip"]
    caplog.clear()
    dataset = CocoConfig(annotations="labels.json", images="photos", keep_empty=False).open()
    count = len(tree["annotations"])
    assert f"labels.json: {count} of {count} annotations were made by a detector (source: auto)" in caplog.text
    assert len(dataset) == tree["info"]["images_with_labels"] and dataset[0].segmentations is not None
    page = (folder / "labels.html").read_text()
    assert "Automatic labels" in page and "data:image/jpeg;base64," in page and "http" not in page.replace("http-equiv", "")
    assert f"{len(tree['annotations'])} labels on" in done.out and "lowest score" in done.out
    assert sorted(path.name for path in folder.iterdir()) == ["labels.html", "labels.json", "photos", "train.json"]


def test_views() -> None:
    """Those of the paper for a detector of 800 pixels; keypoints are joined in boxes of one view."""
    config = with_views(resolve("mask_rcnn_r50_fpn_1x"))
    assert config.test.tta is not None and config.test.tta.boxes is not None and config.test.vote is not None
    views = views_of(config.test.tta.boxes, config.data.val.transforms)
    sides = [[t.short[0] for t in view.transforms if hasattr(t, "short")] for view in views]
    assert len(views) == 18 and sum(view.flipped for view in views) == 9
    assert sorted(side for (side,) in sides) == sorted([*range(400, 1300, 100)] * 2)
    assert config.test.tta.masks is not None and config.test.tta.masks.combine == "soft_avg"

    own = resolve("mask_rcnn_r50_fpn_1x", ["test.tta={boxes: {flip: true}}"])
    assert with_views(own).test.tta == own.test.tta and with_views(own).test.vote is not None

    pose = with_views(resolve("keypoint_rcnn_r50_fpn_1x")).test
    assert pose.tta is not None and pose.tta.boxes is None and pose.vote is None and pose.tta.keypoints is not None
    assert pose.tta.keypoints.combine == "probability_avg" and len(views_of(pose.tta.keypoints, config.data.val.transforms)) == 18


def test_keypoints(shapes: Path, folder: Path) -> None:
    """As many keypoints an instance as in the labelled set; the others are not labelled."""
    config = resolve("demo_shapes", tiny(shapes))
    config.model.mask_head, config.model.keypoint_head = None, ConvKeypointHeadConfig(convs=1, width=16)  # type: ignore[attr-defined]
    categories = config.data.train.open().categories
    torch.manual_seed(0)
    save_weights(folder / "pose.safetensors", config.model.build(categories, config.test).state_dict(), config, categories)
    tree = read(folder / "train.json")
    for row in tree["annotations"]:  # half of the keypoints are labelled
        row["keypoints"][2::3] = [2 * (number % 2) for number in range(len(row["keypoints"]) // 3)]
    (folder / "train.json").write_text(json.dumps(tree))
    label("pose.safetensors", "photos", "train.json", "labels.json", floor=0.0)
    made = read(folder / "labels.json")
    threshold, rows = made["info"]["keypoint_threshold"], made["annotations"]
    visible = [sum(value > 0 for value in row["keypoints"][2::3]) for row in tree["annotations"]]
    assert threshold["target"] == pytest.approx(sum(visible) / len(visible))
    assert threshold["wanted"] == int(threshold["target"] * len(rows) + 0.5) == threshold["labels"]
    assert [row["num_keypoints"] for row in rows] == [sum(v == 2 for v in row["keypoints"][2::3]) for row in rows]
    assert sum(row["num_keypoints"] for row in rows) == threshold["labels"]
    assert {
        tuple(row["keypoints"][i : i + 2])
        for row in rows
        for i in range(0, len(row["keypoints"]), 3)
        if not row["keypoints"][i + 2]
    } == {(0, 0)}
    assert made["info"]["views"]["boxes"] is None


def test_an_interrupted_call_resumes(trained: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures that are done are not seen again, half a line of the journal is cut off, and the files are the same."""
    options: dict[str, Any] = {"floor": 0.0, "one_view": True}
    label(trained, "photos", "train.json", "whole/labels.json", **options)
    detect, seen = Predictor.detect, []

    def stopped(after: int) -> Callable[..., Any]:
        def call(self: Predictor, samples: Any) -> Any:
            if len(seen) == after:
                raise KeyboardInterrupt
            seen.append(samples[0].file_name)
            return detect(self, samples)

        return call

    monkeypatch.setattr(Predictor, "detect", stopped(2))
    with pytest.raises(KeyboardInterrupt):
        label(trained, "photos", "train.json", "part/labels.json", **options)
    assert not (folder / "part" / "labels.json").exists()
    with (folder / "part" / "labels.json.part.jsonl").open("a") as journal:
        journal.write('{"file_name": "more/0000')
    monkeypatch.setattr(Predictor, "detect", stopped(99))
    label(trained, "photos", "train.json", "part/labels.json", **options)
    assert len(seen) == len(set(seen)) == 3
    assert (folder / "part" / "labels.json").read_bytes() == (folder / "whole" / "labels.json").read_bytes()
    with pytest.raises(UserError, match="no detection has a score of 1 "):
        label(trained, "photos", "train.json", "part/labels.json", **options | {"floor": 1.0})
    with pytest.raises(UserError, match="call with another model or other options"):  # its journal stays
        label(trained, "photos", "train.json", "part/labels.json", floor=0.0)


@pytest.mark.slow
def test_a_killed_call_loses_nothing(trained: Path, folder: Path) -> None:
    """SIGKILL while pictures are labelled: the next call goes on, with the result of a call that was never killed."""
    arguments = ["distill", "label", str(trained), "photos", "--like", "train.json", "--floor", "0", "--out"]
    command = [sys.executable, "-m", "boxwood", *arguments]
    subprocess.run([*command, "whole.json"], check=True, capture_output=True, timeout=300)
    journal = folder / "labels.json.part.jsonl"
    with subprocess.Popen([*command, "labels.json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        start = time.monotonic()
        while not journal.exists() or journal.read_bytes().count(b"\n") < 2:  # the call, and a picture
            assert process.poll() is None and time.monotonic() - start < 300
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    done = journal.read_bytes().count(b"\n") - 1
    assert 1 <= done < 3 and not (folder / "labels.json").exists()
    again = subprocess.run([*command, "labels.json"], check=True, capture_output=True, text=True, timeout=300)
    assert f"{done} pictures are done already" in again.stderr
    assert (folder / "labels.json").read_bytes() == (folder / "whole.json").read_bytes()
    assert not journal.exists()


def label_command(trained: Path, *options: Any) -> list[Any]:
    return ["distill", "label", trained, "photos", "--like", "train.json", "--out", "labels.json", "--one-view", *options]


def test_pictures_that_cannot_be_read_are_named(trained: Path, folder: Path, boxwood: Boxwood) -> None:
    (folder / "photos" / "broken.png").write_bytes(b"no picture")
    done = boxwood(*label_command(trained, "--floor", "0"))
    assert done.status == 2 and "1 of 4 pictures could not be read: broken.png; the others are labelled" in done.err
    assert len(read(folder / "labels.json")["images"]) == 3


def other_classes(folder: Path) -> list[Any]:
    tree = read(folder / "train.json")
    tree["categories"][0]["name"] = "wheel"
    (folder / "train.json").write_text(json.dumps(tree))
    return []


def no_instances(folder: Path) -> list[Any]:
    (folder / "train.json").write_text(json.dumps(read(folder / "train.json") | {"annotations": []}))
    return []


def no_pictures(folder: Path) -> list[Any]:
    shutil.rmtree(folder / "photos")
    (folder / "photos").mkdir()
    return []


def no_folder(folder: Path) -> list[Any]:
    shutil.rmtree(folder / "photos")
    return []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_classes, "have different categories"),
        (no_instances, "train.json: has no instance, so by the rule of as many instances an image there is no label"),
        (no_pictures, "photos: has no picture; name the folder of the pictures"),
        (no_folder, "photos: is no folder; name the folder of the pictures"),
        (lambda folder: ["--floor", "1"], "no detection has a score of 1 (the best has 0."),
        (lambda folder: ["test.detections_per_image=1"], "instances an image, and the model gives at most 1; raise test."),
        (lambda folder: ["train.steps=3"], "train.steps=3: the model is built as it was trained; only keys of test can be changed"),
        (lambda folder: ["--out", "labels.yaml"], "labels.yaml: the labels are a COCO file, which is written as .json"),
    ],
)  # fmt: skip
def test_wrong_input_has_one_line(
    change: Callable[[Path], list[Any]], message: str, trained: Path, folder: Path, boxwood: Boxwood
) -> None:
    done = boxwood(*label_command(trained, *change(folder)))
    errors = [line for line in done.err.splitlines() if line.startswith("boxwood: ")]
    assert done.status == 2 and len(errors) == 1 and message in errors[0], done.err
    assert not (folder / "labels.json").exists()


def test_labels_of_other_classes_are_not_mixed(shapes: Path, folder: Path, boxwood: Boxwood) -> None:
    """A student's mixture whose labels come from a model with other classes."""
    tree = read(folder / "train.json")
    tree["categories"][0]["name"] = "wheel"
    (folder / "labels.json").write_text(json.dumps(tree))
    parts = [
        {"kind": "coco", "annotations": str(shapes / "train.json"), "images": str(shapes / "train")},
        {"kind": "coco", "annotations": "labels.json", "images": str(shapes / "train")},
    ]
    (folder / "mixed.yaml").write_text(
        json.dumps({"base": "demo_shapes", "data": {"train": {"kind": "mixture", "parts": parts, "ratio": [1, 1]}}})
    )
    wanted = [override for override in tiny(shapes) if not override.startswith("data.train.")]
    done = boxwood("train", "mixed.yaml", *wanted, "--out", "run")
    assert done.status == 2 and "part 0 of a mixture and part 1 have different categories" in done.err


def test_several_processes_are_refused(trained: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would write one journal."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="runs in one process; start it without torchrun"):
        label(trained, "photos", "train.json", "labels.json")
