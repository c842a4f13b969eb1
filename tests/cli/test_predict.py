"""``boxwood predict`` on many pictures: batches, continuing after an interruption, JSON lines, crops, COCO results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from boxwood.data.images import read_image
from boxwood.inference.predictor import Predictor, load
from tests.conftest import Boxwood


@pytest.fixture
def photos(shapes: Path, tmp_path: Path) -> Path:
    """Four pictures and a file ``broken.jpg`` that is not an image."""
    shutil.copytree(shapes / "train", tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_text("no picture")
    return tmp_path / "photos"


def test_predict_continues_after_an_interruption(
    boxwood: Boxwood, trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = ("predict", photos, "--model", trained, "--score", "0")
    assert boxwood(*arguments, "--out", whole).status == 2  # broken.jpg
    seen: list[str] = []
    read = read_image

    def stopping(path: Path, **options: Any) -> Any:
        seen.append(path.name)
        if path.name == "000002.jpg" and seen.count(path.name) == 1:
            raise KeyboardInterrupt
        return read(path, **options)

    monkeypatch.setattr("boxwood.inference.predict.read_image", stopping)
    assert boxwood(*arguments, "--out", parts).status == 130
    part = parts / "predictions.part.jsonl"
    assert part.is_file() and not (parts / "predictions.json").exists()
    with part.open("a") as file:
        file.write('{"file_name": "cut sho')  # as a crash may leave it
    before = len(seen)
    other = boxwood("predict", photos, "--model", trained, "--score", "0.2", "--out", parts)
    assert other.status == 2 and "another model or other options" in other.err
    done = boxwood(*arguments, "--out", parts)
    assert done.status == 2 and "1 of 5 pictures could not be read" in done.err
    assert sorted(seen[before:]) == ["000002.jpg", "000003.jpg", "broken.jpg"]
    assert (parts / "predictions.json").read_text() == (whole / "predictions.json").read_text()
    assert {path.name for path in parts.iterdir()} == {path.name for path in whole.iterdir()}


def test_json_lines(boxwood: Boxwood, trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = boxwood("predict", photos, "--model", trained, "--score", "0", "--json")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [Path(line["file_name"]).name for line in lines] == sorted(path.name for path in photos.iterdir())
    assert [("error" in line) for line in lines] == [Path(line["file_name"]).name == "broken.jpg" for line in lines]
    assert all(
        {"bbox", "score", "category", "segmentation"} <= record.keys() for line in lines for record in line.get("detections", [])
    )
    assert not (tmp_path / "predictions").exists() and done.status == 2
    boxwood("predict", photos, "--model", trained, "--score", "0", "--out", tmp_path / "files")
    records = json.loads((tmp_path / "files" / "predictions.json").read_text())
    assert records == [record for line in lines for record in line.get("detections", [])]
    refused = boxwood("predict", photos, "--model", trained, "--json", "--crops")
    assert refused.status == 2 and "--out" in refused.err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_any_file_name(trained: Path, shapes: Path, tmp_path: Path) -> None:
    """Bytes that are not UTF-8, a newline, brackets as in a pattern, and the longest name that a file may have.

    Run in another process, since pytest's workers cannot report log messages with such names; in one process for both calls, since
    importing torch takes seconds."""
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [b"\xff\xfe.jpg", b"a\nb.jpg", b"[x].jpg", "ü".encode() * 125 + b".jpg"]
    for name in names:
        (folder / os.fsdecode(name)).write_bytes((shapes / "val" / "000000.jpg").read_bytes())
    script = (
        "import sys\nfrom boxwood.cli import main\n"
        "for more in (['--crops', '--out', sys.argv.pop()], ['--json']):\n"
        "    try:\n        main([*sys.argv[1:], *more])\n    except SystemExit as end:\n        assert not end.code\n"
        "    print('end of a call', flush=True)\n"
    )
    command = [sys.executable, "-c", script, "predict", folder, "--model", trained, "--score", "0", tmp_path / "out"]
    printed = subprocess.run(command, check=True, capture_output=True).stdout.decode()
    file_names = {record["file_name"] for record in json.loads((tmp_path / "out" / "predictions.json").read_text())}
    assert {os.fsencode(Path(name).name) for name in file_names} == set(names)
    assert {os.fsencode(path.name) for path in (tmp_path / "out").glob("*.jpg")} == set(names)
    lines = printed.split("end of a call\n")[1].splitlines()
    assert {json.loads(line)["file_name"] for line in lines} == file_names


def test_crops_and_no_pictures(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    picture = shapes / "val" / "000000.jpg"
    arguments = ("--model", trained, "--score", "0", "--crops", "--no-pictures", "--out", tmp_path)
    done = boxwood("predict", picture, *arguments)
    assert done.status == 0 and "1 seen" in done.out
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.json", "crops"}
    records = json.loads((tmp_path / "predictions.json").read_text())
    crops = sorted((tmp_path / "crops" / "000000").iterdir())
    assert 0 < len(crops) <= len(records)
    first = records[int(crops[0].name[:3])]
    assert crops[0].name.endswith(f"-{first['category']}.png")
    x, y, w, h = first["bbox"]
    with Image.open(crops[0]) as crop:
        assert crop.size == (round(x + w) - round(x), round(y + h) - round(y))


def test_crops_of_pictures_whose_names_differ_in_their_endings(
    boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path
) -> None:
    """Each has its folder, named as its drawing is."""
    photos = tmp_path / "photos"
    photos.mkdir()
    with Image.open(shapes / "val" / "000000.jpg") as picture:
        picture.save(photos / "a.jpg")
        picture.save(photos / "a.png")
    out = tmp_path / "out"
    assert boxwood("predict", photos, "--model", trained, "--score", "0", "--crops", "--out", out).status == 0
    assert {path.name for path in out.iterdir()} == {"a.jpg", "a-2.png", "crops", "predictions.json"}
    assert {path.name for path in (out / "crops").iterdir()} == {"a", "a-2"}


def test_coco_results(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    arguments = ("predict", shapes / "val", "--model", trained, "--score", "0", "--no-pictures", "--out", tmp_path / "out")
    assert boxwood(*arguments, "--coco", shapes / "val.json").status == 0
    scored = boxwood("eval", trained, "--detections", tmp_path / "out" / "coco.json", "--out", tmp_path / "scored")
    assert scored.status == 0, scored.err
    again, first = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "scored", trained / "eval"))
    assert again["bbox"] == pytest.approx(first["bbox"]) and again["segm"] == pytest.approx(first["segm"])
    (tmp_path / "stranger.jpg").write_bytes((shapes / "val" / "000000.jpg").read_bytes())
    stranger = boxwood("predict", tmp_path / "stranger.jpg", *arguments[2:], "--coco", shapes / "val.json")
    assert stranger.status == 2 and "is no image of" in stranger.err


def test_a_picture_given_twice_is_processed_once(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    picture = shapes / "val" / "000000.jpg"
    done = boxwood("predict", picture, picture, "--model", trained, "--out", tmp_path)
    assert done.status == 0 and "1 drawn" in done.out


def test_a_drawing_that_cannot_be_written(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "000000.jpg").mkdir()  # at the path of the drawing
    done = boxwood("predict", shapes / "val" / "000000.jpg", "--model", trained, "--out", tmp_path)
    assert done.status == 2 and "000000.jpg: cannot be written" in done.err and "could not be read" not in done.err


def test_batches(boxwood: Boxwood, trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches give the detections of single pictures; an unreadable picture does not affect the others in its batch."""
    (photos / "000001-broken.jpg").write_text("no picture")  # in the first batch
    sizes: list[int] = []
    detect = Predictor.detect

    def counting(self: Predictor, samples: Any) -> Any:
        sizes.append(len(samples))
        return detect(self, samples)

    monkeypatch.setattr(Predictor, "detect", counting)
    arguments = ("predict", photos, "--model", trained, "--score", "0")
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert boxwood(*arguments, "--out", alone).status == 2
    sizes.clear()
    done = boxwood(*arguments, "--out", together, "--batch", "3", "--json")
    assert done.status == 2 and "2 of 6 pictures could not be read" in done.err
    assert sizes == [2, 2]  # of three and three
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [Path(line["file_name"]).name for line in lines] == sorted(path.name for path in photos.iterdir())
    assert {path.name for path in alone.iterdir()} == {path.name for path in together.iterdir()}
    a, b = (json.loads((folder / "predictions.json").read_text()) for folder in (alone, together))
    assert len(a) == len(b) > 4
    for one, other in zip(a, b, strict=True):
        assert (one["file_name"], one["category"]) == (other["file_name"], other["category"])
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-2) and one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_batches_continue_after_an_interruption(
    boxwood: Boxwood, trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "broken.jpg").unlink()
    arguments = ("predict", photos, "--model", trained, "--score", "0", "--batch", "3", "--out", tmp_path / "out")
    detect = Predictor.detect

    def stopping(self: Predictor, samples: Any) -> Any:
        if len(samples) == 1:  # the second batch
            raise KeyboardInterrupt
        return detect(self, samples)

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "detect", stopping)
        assert boxwood(*arguments).status == 130
    done = boxwood(*arguments)
    assert done.status == 0 and "3 pictures are done already" in done.err and "4 drawn" in done.out


def test_a_drawing_does_not_replace_its_picture(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    with Image.open(shapes / "val" / "000000.jpg") as picture:
        picture.save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    assert boxwood("predict", tmp_path, "--model", trained, "--out", tmp_path).status == 0
    assert (tmp_path / "a.png").read_bytes() == before and (tmp_path / "a-2.png").is_file()


def test_a_score_below_the_models_threshold_lowers_it(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    picture = shapes / "val" / "000000.jpg"

    def scores(*arguments: object) -> list[float]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        done = boxwood("predict", picture, "--model", trained, "--no-pictures", "--out", out, *arguments)
        assert done.status == 0, done.err
        return [record["score"] for record in json.loads((out / "predictions.json").read_text())]

    everything = scores("--score", "0")
    middle = sorted(everything)[len(everything) // 2]
    above = f"test.score_threshold={middle}"
    assert scores("--score", "0", above) == everything  # the lower one decides which are detected
    assert len(scores("--score", middle, "test.score_threshold=0.99")) == sum(score >= middle for score in everything)
    assert min(load(trained, overrides=[above])(picture).scores.tolist()) >= middle > min(everything)
    assert len(scores("--score", "0", "test.detections_per_image=2")) == 2
    refused = boxwood("predict", picture, "model.rpn.test_proposals=5", "--model", trained)
    assert refused.status == 2 and "model.rpn.test_proposals=5" in refused.err
    alone = boxwood("predict", "test.nms_threshold=0.5", "--model", trained)
    assert alone.status == 2 and "Missing argument 'SOURCE...'" in alone.err


def test_drawings_are_not_inputs(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    """A folder that is the input and the output; a pattern that finds drawings and crops; a drawing that is named itself."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.png"):
        with Image.open(shapes / "val" / "000000.jpg") as picture:
            picture.save(photos / name)
    arguments = ("predict", photos, "--model", trained, "--score", "0", "--out", photos, "--crops")
    assert "2 drawn" in boxwood(*arguments).out
    files = {path.name for path in photos.iterdir()}
    assert files == {"a.jpg", "a-2.jpg", "b.png", "b-2.png", "crops", "predictions.json"}
    with Image.open(photos / "a-2.jpg") as drawing:
        assert drawing.format == "JPEG"
    records = (photos / "predictions.json").read_text()
    again = boxwood(*arguments)
    assert "2 drawn" in again.out and "left out: drawings and crops of an earlier call (2, such as" in again.err
    assert {path.name for path in photos.iterdir()} == files and (photos / "predictions.json").read_text() == records
    everything = boxwood("predict", photos / "**" / "*", *arguments[2:])
    assert "2 drawn" in everything.out and {path.name for path in photos.iterdir()} == files
    named = boxwood("predict", photos / "a-2.jpg", *arguments[2:-2], tmp_path / "out")
    assert named.status == 0 and "1 drawn" in named.out


def test_a_picture_of_another_program_is_not_written_over(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(shapes / "val" / "000000.jpg", tmp_path / "a.jpg")
    Image.new("RGB", (5, 5), "red").save(out / "a.jpg")
    before = (out / "a.jpg").read_bytes()
    for _ in range(2):  # the second call writes over the drawing of the first
        assert boxwood("predict", tmp_path / "a.jpg", "--model", trained, "--out", out).status == 0
    assert (out / "a.jpg").read_bytes() == before
    assert {path.name for path in out.iterdir()} == {"a.jpg", "a-2.jpg", "predictions.json"}


def test_files_that_are_not_read_are_counted(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    with Image.open(shapes / "val" / "000000.jpg") as picture:
        for name in ("a.jfif", "b.JPG", "more/c.jpg"):
            picture.save(photos / name, "JPEG")
        picture.save(photos / "d.jp2")
    for name in ("e.heic", "f.heic", "g.wmv", "._a.jfif", "notes.txt"):
        (photos / name).write_bytes(b"nothing of an image")
    done = boxwood("predict", photos, "--model", trained, "--out", tmp_path / "out")
    assert done.status == 0 and "3 drawn" in done.out
    assert "left out: 2 .heic, 1 .wmv, such as" in done.err and "e.heic, which is a photo of a kind that is not read" in done.err
    assert "the images in its sub-folders (1, such as more) are not taken" in done.err and f"'{photos}/**/*'" in done.err
    assert "._a" not in done.err and "notes" not in done.err
    everything = boxwood("predict", photos / "**" / "*", "--model", trained, "--out", tmp_path / "out")
    assert everything.status == 0 and "4 drawn" in everything.out
    film = boxwood("predict", photos / "g.wmv", "--model", trained, "--out", tmp_path / "out")
    assert film.status == 2 and "ffmpeg -i g.wmv g.mp4" in film.err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://example.org/a.jpg", "https://example.org/a.jpg: is an address"),
        ("rtsp://camera/1", "rtsp://camera/1: is an address"),
        ("model.pth", "model.pth: is a file of weights, not a picture; name it as the model (--model)"),
        ("nothing.jpg", "nothing.jpg: no such file"),
        ("folder", "folder: no images in this folder"),
        ("folder/*", "folder/*: fits 1 files, but none is an image or video"),
    ],
)
def test_a_source_that_is_no_picture(
    source: str, message: str, boxwood: Boxwood, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("model.pth", "folder/notes.txt"):
        (tmp_path / name).touch()
    refused = boxwood("predict", source, "--model", trained)
    assert refused.status == 2 and len(refused.error_lines) == 1 and message in refused.err
    assert not (tmp_path / "predictions").exists()


def test_the_folder_of_a_run_is_no_folder_of_pictures(boxwood: Boxwood, trained: Path) -> None:
    refused = boxwood("predict", trained, "--model", trained)
    assert refused.status == 2 and "it is the folder of a run: name it as the model (--model)" in refused.err


def test_a_picture_that_the_network_sees_a_few_pixels_high(boxwood: Boxwood, trained: Path, tmp_path: Path) -> None:
    """At most 320 pixels across (the recipe's ``long``): of 2000 x 30 pixels 320 x 5 remain."""
    Image.new("RGB", (2000, 30)).save(tmp_path / "pan.png")
    Image.new("RGB", (200, 100)).save(tmp_path / "plain.png")
    done = boxwood("predict", tmp_path / "pan.png", tmp_path / "plain.png", "--model", trained, "--out", tmp_path / "out")
    assert done.status == 0 and "pan.png: the network sees this picture 320 x 5 pixels" in done.err
    assert "plain.png: the network" not in done.err
