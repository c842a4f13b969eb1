"""Detections in a file are scored, drawn and selected without running the network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from boxwood.data import CocoConfig
from boxwood.inference.records import draw_records
from tests.conftest import Boxwood, tiny


@pytest.fixture(scope="module")
def detections(trained: Path) -> Path:
    return trained / "eval" / "detections.json"


def metrics(folder: Path) -> dict[str, object]:
    values: dict[str, object] = json.loads((folder / "metrics.json").read_text())
    values.pop("images_per_second", None)
    return values


def test_eval_of_a_detections_file_gives_the_same_metrics(
    boxwood: Boxwood, trained: Path, detections: Path, tmp_path: Path
) -> None:
    assert boxwood("eval", trained, "--out", tmp_path / "first").status == 0
    done = boxwood("eval", trained, "--detections", tmp_path / "first" / "detections.json", "--out", tmp_path / "again")
    assert done.status == 0, done.err
    assert metrics(tmp_path / "again") == metrics(tmp_path / "first")
    assert not (tmp_path / "again" / "detections.json").exists()  # the file is there already
    assert "detections on 2 images" in done.out


def test_eval_of_a_detections_file_with_other_test_settings(
    boxwood: Boxwood, trained: Path, detections: Path, tmp_path: Path
) -> None:
    """The selection from the file equals the network's selection under the same settings."""
    setting = "test.detections_per_image=3"
    assert boxwood("eval", trained, setting, "--out", tmp_path / "network").status == 0
    done = boxwood("eval", trained, setting, "--detections", detections, "--out", tmp_path / "file")
    assert done.status == 0, done.err
    records = json.loads((tmp_path / "file" / "detections.json").read_text())
    assert 0 < len(records) <= 6 and records == json.loads((tmp_path / "network" / "detections.json").read_text())
    assert "after the selection of test.*" in done.out


def test_eval_of_a_detections_file_on_fewer_images(
    boxwood: Boxwood, trained: Path, detections: Path, shapes: Path, tmp_path: Path
) -> None:
    """Detections in images without ground truth are left out, with a note."""
    coco = json.loads((shapes / "val.json").read_text())
    first = coco["images"][0]["id"]
    coco["images"] = coco["images"][:1]
    coco["annotations"] = [row for row in coco["annotations"] if row["image_id"] == first]
    (tmp_path / "half.json").write_text(json.dumps(coco))
    done = boxwood("eval", trained, f"data.val.annotations={tmp_path / 'half.json'}", "--detections", detections, "--out", tmp_path)
    assert done.status == 0 and "are not in the truth" in " ".join(done.out.split())


def test_eval_of_a_proposals_file(boxwood: Boxwood, shapes: Path, tmp_path: Path) -> None:
    data = [override for override in tiny(shapes) if override.startswith(("data.", "train."))]
    small = ("model.backbone.weights=null", "model.fpn.channels=16", "model.rpn.test_proposals=30")
    assert boxwood("train", "rpn_mobilenetv2_fpn", *data, *small, "--out", tmp_path / "rpn").status == 0
    assert boxwood("eval", tmp_path / "rpn").status == 0
    file = tmp_path / "rpn" / "eval" / "proposals.safetensors"
    done = boxwood("eval", tmp_path / "rpn", "--detections", file)
    assert done.status == 0, done.err
    assert metrics(tmp_path / "rpn" / "eval-again") == metrics(tmp_path / "rpn" / "eval")
    refused = boxwood("data", "show", tmp_path / "rpn", "--detections", file, "--out", tmp_path / "seen")
    assert refused.status == 2 and "boxes without classes" in refused.err


def test_wrong_files_and_options_are_refused(boxwood: Boxwood, trained: Path, detections: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_text('[{"image_id": 1, "category_id": 99, "score": 1, "bbox": [0, 0, 1, 1]}]')
    for file, message in (("wrong.json", "row 0 (image id 1): 'category_id'"), ("missing.json", "cannot be read")):
        done = boxwood("eval", trained, "--detections", tmp_path / file, "--out", tmp_path / "out")
        assert done.status == 2 and len(done.error_lines) == 1 and message in done.err and not (tmp_path / "out").exists()
    both = boxwood("eval", trained, "--detections", detections, "--weights", trained / "last.safetensors")
    assert both.status == 2 and "--weights has nothing to do" in both.err
    augmented = boxwood("eval", trained, "--detections", detections, "test.tta={boxes: {flip: true}}", "--out", tmp_path / "out")
    assert augmented.status == 2 and "test.tta has nothing to do" in augmented.err and not (tmp_path / "out").exists()


def test_detections_are_drawn_beside_the_ground_truth(boxwood: Boxwood, trained: Path, detections: Path, tmp_path: Path) -> None:
    done = boxwood("data", "show", trained, "--detections", detections, "--out", tmp_path, "--score", "0", "--count", "1")
    assert done.status == 0, done.err
    (path,) = tmp_path.iterdir()
    few = tmp_path / "few"
    boxwood("data", "show", trained, "--detections", detections, "--out", few, "--score", "1")
    with Image.open(path) as all_drawn, Image.open(few / path.name) as none_drawn:
        assert all_drawn.size == none_drawn.size and all_drawn.width > 2 * 128
        left, right = ((0, 0, 120, all_drawn.height), (all_drawn.width - 120, 0, all_drawn.width, all_drawn.height))
        assert all_drawn.crop(left).tobytes() == none_drawn.crop(left).tobytes()
        assert all_drawn.crop(right).tobytes() != none_drawn.crop(right).tobytes()


def test_select_detections_of_listed_images(boxwood: Boxwood, detections: Path, tmp_path: Path) -> None:
    """As for COCO's lists of test images, which have no annotations."""
    records = json.loads(detections.read_text())
    image_id = records[0]["image_id"]
    info, out = tmp_path / "image_info.json", tmp_path / "selected.json"
    info.write_text(json.dumps({"images": [{"id": image_id}, {"id": 10**9}], "categories": []}))
    done = boxwood("data", "select", detections, "--images", info, "--out", out)
    assert done.status == 0, done.err
    expected = [record for record in records if record["image_id"] == image_id]
    assert json.loads(out.read_text()) == expected and len(expected) < len(records)
    assert done.out == f"{out}: {len(expected)} of {len(records)} detections, in 1 of 2 images\n"
    info.write_text(json.dumps({"images": [{"id": 10**9}]}))
    none = boxwood("data", "select", detections, "--images", info, "--out", tmp_path / "none.json")
    assert none.status == 2 and "no detection in an image of" in none.err and not (tmp_path / "none.json").exists()


def test_error_analysis(boxwood: Boxwood, trained: Path, detections: Path, tmp_path: Path) -> None:
    done = boxwood("eval", trained, "--detections", detections, "--out", tmp_path / "file")
    assert done.status == 0, done.err
    again = boxwood("eval", trained, "--out", tmp_path / "network")
    errors = [json.loads((tmp_path / name / "metrics.json").read_text())["errors"] for name in ("file", "network")]
    assert errors[0] == errors[1] and errors[0]["cost"].keys() == errors[0]["count"].keys()
    assert "if one kind of error alone were corrected, by" in done.out and "background" in again.out


def test_maxdets(boxwood: Boxwood, trained: Path, detections: Path, tmp_path: Path) -> None:
    """``test.maxdets`` is printed; its default follows ``test.detections_per_image``, and is at least 100."""
    for setting, most in (("test.maxdets=7", 7), ("test.detections_per_image=250", 250), ("test.detections_per_image=20", 100)):
        done = boxwood("eval", trained, setting, "--detections", detections, "--out", tmp_path / "out")
        assert done.status == 0, done.err
        metrics_tree = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert metrics_tree["max_detections"] == most and f"AR{most}" in metrics_tree["bbox"]
        assert f"counted: an image's best {most} detections of a class" in done.out
    wrong = boxwood("eval", trained, "test.maxdets=0", "--detections", detections, "--out", tmp_path / "out")
    assert wrong.status == 2 and "test.maxdets" in wrong.err


def test_ground_truth_is_drawn_without_keypoints_on_request(shapes: Path) -> None:
    """For drawings beside the detections of a detector without keypoints."""
    dataset = CocoConfig(annotations=str(shapes / "val.json"), images=str(shapes / "val")).open()
    sample = dataset[0]
    truth = [row for row in dataset.to_coco()["annotations"] if row["image_id"] == sample.image_id]
    assert any(row.get("keypoints") for row in truth)
    bare = [{key: value for key, value in row.items() if key != "keypoints"} for row in truth]
    without = draw_records(sample.image, truth, dataset.categories, with_keypoints=False)
    assert without.tobytes() == draw_records(sample.image, bare, dataset.categories).tobytes()
    assert without.tobytes() != draw_records(sample.image, truth, dataset.categories).tobytes()


def test_scores_are_drawn_where_there_are_some(shapes: Path) -> None:
    """Of a data set that a detector has labelled in part; a score that is no number is not drawn."""
    dataset = CocoConfig(annotations=str(shapes / "val.json"), images=str(shapes / "val")).open()
    image, row = dataset[0].image, {"category_id": dataset.categories.ids[0], "bbox": [4, 40, 90, 80]}
    plain, scored, wrong = ([{**row, **more}, row] for more in ({}, {"score": 0.5}, {"score": "high"}))
    drawn = [draw_records(image, records, dataset.categories).tobytes() for records in (plain, scored, wrong)]
    assert drawn[0] == drawn[2] != drawn[1]
