"""``boxwood predict`` on videos: drawings, records per frame, continuing after an interruption, damaged videos."""

from __future__ import annotations

import json
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxwood.inference.predictor import Predictor, load
from boxwood.inference.records import draw_records
from boxwood.inference.sources import is_drawing, is_video
from boxwood.inference.video import Video, write_video
from tests.conftest import Boxwood


@pytest.fixture
def videos(shapes: Path, tmp_path: Path) -> Path:
    """A folder with a video of eight frames, an image, and a file ``broken.mov`` that is not a video."""
    folder = tmp_path / "videos"
    folder.mkdir()
    make_video(folder / "clip.mp4", shapes)
    (folder / "broken.mov").write_text("no video")
    (folder / "photo.jpg").write_bytes((shapes / "val" / "000000.jpg").read_bytes())
    return folder


def make_video(path: Path, shapes: Path, count: int = 8) -> Path:
    pictures = [Image.open(picture) for picture in sorted((shapes / "train").iterdir())]
    write_video(path, (pictures[number % len(pictures)] for number in range(count)), Fraction(10))
    for picture in pictures:
        picture.close()
    return path


def test_a_video_is_drawn_and_recorded(boxwood: Boxwood, trained: Path, videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = boxwood("predict", videos, "--model", trained, "--score", "0", "--out", out)
    assert done.status == 2 and "1 of 3 pictures and videos could not be read" in done.err
    (line,) = done.error_lines
    assert "broken.mov" in line and "clip.mp4" not in line
    assert {path.name for path in out.iterdir()} == {"clip.mp4", "photo.jpg", "predictions.json"}
    source, drawn = Video(videos / "clip.mp4"), Video(out / "clip.mp4")
    assert drawn.rate == source.rate == 10
    frames, pictures = list(source.frames()), list(drawn.frames())
    assert len(frames) == len(pictures) == 8 and frames[0].image.shape == pictures[0].image.shape
    predictions = json.loads((out / "predictions.json").read_text())
    predictor = load(trained)
    ids = dict(zip(predictor.categories.names, predictor.categories.ids, strict=True))
    for frame, picture in zip(frames, pictures, strict=True):
        records = [record for record in predictions if record.get("frame") == frame.number]
        expected = predictor(frame.image)
        assert [record["score"] for record in records] == pytest.approx(expected.scores.tolist(), abs=1e-6)
        assert all(record["time"] == pytest.approx(frame.number / 10) for record in records)
        of_coco = [{**record, "category_id": ids[record["category"]]} for record in records]
        with_boxes = draw_records(frame.image, of_coco, predictor.categories, colors_of_classes=True)
        shown = np.asarray(with_boxes).transpose(2, 0, 1).astype(float)
        drawn_difference, frame_difference = (np.abs(shown - other.image.numpy()).mean() for other in (picture, frame))
        assert drawn_difference < frame_difference / 2, "the video shows no detections, or others"
    of_photo = [record for record in predictions if "frame" not in record]
    assert of_photo and {Path(record["file_name"]).name for record in of_photo} == {"photo.jpg"}


def test_a_video_continues_after_an_interruption(
    boxwood: Boxwood, trained: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("predict", videos / "clip.mp4", "--model", trained, "--score", "0", "--batch", "2")
    assert boxwood(*arguments, "--out", tmp_path / "whole").status == 0
    calls: list[int] = []
    detect = Predictor.detect

    def stopping(self: Predictor, samples: Any) -> Any:
        calls.append(len(samples))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return detect(self, samples)

    parts = tmp_path / "parts"
    monkeypatch.setattr(Predictor, "detect", stopping)
    assert boxwood(*arguments, "--out", parts).status == 130
    part = parts / "predictions.part.jsonl"
    assert [json.loads(line)["frame"] for line in part.read_text().splitlines()[1:]] == [0, 1, 2, 3]
    with part.open("a") as file:
        file.write('{"file_name": "cut sho')
    # Interrupt again in the second pass, when all detections are known and the drawing is partly written.
    with monkeypatch.context() as patched:
        patched.setattr("boxwood.inference.video.np.pad", interrupt)
        assert boxwood(*arguments, "--out", parts).status == 130
    assert calls == [2, 2, 2, 2, 2]  # the third was interrupted
    assert [path.name for path in parts.iterdir()] == ["predictions.part.jsonl"]
    done = boxwood(*arguments, "--out", parts)
    assert done.status == 0 and "8 frames" in done.err and len(calls) == 5
    assert (parts / "predictions.json").read_text() == (tmp_path / "whole" / "predictions.json").read_text()
    assert {path.name for path in parts.iterdir()} == {"clip.mp4", "predictions.json"}
    assert len(list(Video(parts / "clip.mp4").frames())) == 8


def interrupt(*arguments: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def test_frames_as_json_lines(
    boxwood: Boxwood, trained: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = boxwood("predict", videos, "--model", trained, "--score", "0", "--json", "--batch", "3")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [Path(line["file_name"]).name for line in lines] == ["broken.mov", *["clip.mp4"] * 8, "photo.jpg"]
    assert "error" in lines[0] and [line["frame"] for line in lines[1:9]] == list(range(8))
    assert [line["time"] for line in lines[1:9]] == pytest.approx([number / 10 for number in range(8)])
    assert all(record["frame"] == line["frame"] for line in lines[1:9] for record in line["detections"])
    assert done.status == 2 and [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_crops_of_frames(boxwood: Boxwood, trained: Path, videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--model", trained, "--score", "0", "--crops", "--no-pictures", "--out", out)
    assert boxwood("predict", videos / "clip.mp4", *arguments).status == 0
    assert {path.name for path in out.iterdir()} == {"crops", "predictions.json"}
    crops = sorted((out / "crops" / "clip").iterdir())
    assert {int(crop.name.split("-")[0]) for crop in crops} == set(range(8))
    frame, rank = (int(number) for number in crops[-1].name.split("-")[:2])
    records = [record for record in json.loads((out / "predictions.json").read_text()) if record["frame"] == frame]
    x, y, w, h = records[rank]["bbox"]
    with Image.open(crops[-1]) as crop:
        assert crop.size == (round(x + w) - round(x), round(y + h) - round(y))


def test_a_video_that_was_cut_short(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.mp4", shapes, count=30)
    import av

    with av.open(str(whole)) as old, av.open(str(tmp_path / "cut.mkv"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    done = boxwood("predict", cut, "--model", trained, "--out", tmp_path / "out")
    assert done.status == 0 and "warning" in done.err and "cut.mkv: cut short or damaged" in done.err
    count = len(list(Video(cut).frames()))
    assert 5 < count < 30 and len(list(Video(tmp_path / "out" / "cut.mp4").frames())) == count
    empty = boxwood("predict", tmp_path / "whole.mp4", "--model", trained, "--coco", shapes / "val.json")
    assert empty.status == 2 and "--coco is for the images" in empty.err and len(empty.error_lines) == 1


def test_drawings_of_videos_of_one_name_do_not_replace_files(boxwood: Boxwood, trained: Path, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    source = make_video(out / "a.mp4", shapes, count=2)
    before = source.read_bytes()
    (tmp_path / "a.m4v").write_bytes(before)
    assert boxwood("predict", source, tmp_path / "a.m4v", "--model", trained, "--out", out).status == 0
    assert {path.name for path in out.iterdir()} == {"a.mp4", "a-2.mp4", "a-3.mp4", "predictions.json"}
    assert source.read_bytes() == before


def test_without_pyav(boxwood: Boxwood, trained: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    video = next(file for file in videos.iterdir() if is_video(file))
    refused = boxwood("predict", video, "--model", trained, "--out", tmp_path / "out")
    assert refused.status == 2 and "pip install 'boxwood[video]'" in refused.err and len(refused.error_lines) == 1
    assert boxwood("predict", videos / "photo.jpg", "--model", trained, "--out", tmp_path / "out").status == 0


def test_a_video_among_pictures_without_pyav_or_with_coco(
    boxwood: Boxwood, trained: Path, videos: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A video in a folder is left out with a warning; a video given by its path is an error that says to install PyAV."""
    (tmp_path / "photos").mkdir()
    for file in [*sorted((shapes / "val").iterdir())[:1], *sorted(videos.iterdir())[:1]]:
        shutil.copy(file, tmp_path / "photos" / file.name)
    video = next(file for file in (tmp_path / "photos").iterdir() if is_video(file))
    options = ("--model", trained, "--out", tmp_path / "seen")
    coco = boxwood("predict", tmp_path / "photos", *options, "--coco", shapes / "val.json")
    assert coco.status == 0 and "1 videos are left out" in coco.err and (tmp_path / "seen" / "coco.json").exists()
    monkeypatch.setitem(sys.modules, "av", None)
    done = boxwood("predict", tmp_path / "photos", *options)
    assert done.status == 0 and "1 videos are left out" in done.err and "pip install" in done.err
    named = boxwood("predict", tmp_path / "photos", video, *options)
    assert named.status == 2 and "pip install 'boxwood[video]'" in named.err and len(named.error_lines) == 1


def test_drawn_videos_are_not_inputs(boxwood: Boxwood, trained: Path, videos: Path) -> None:
    """A folder that is input and output: the drawing of ``walk.mov`` is ``walk.mp4``."""
    (videos / "broken.mov").unlink()
    (videos / "clip.mp4").rename(videos / "walk.mov")
    arguments = ("predict", videos, "--model", trained, "--out", videos)
    files = []
    for _ in range(2):
        done = boxwood(*arguments)
        assert done.status == 0 and "2 drawn" in done.out
        files.append({path.name for path in videos.iterdir()})
    assert files == [{"walk.mov", "walk.mp4", "photo.jpg", "photo-2.jpg", "predictions.json"}] * 2
    assert is_drawing(videos / "walk.mp4") and not is_drawing(videos / "walk.mov")
