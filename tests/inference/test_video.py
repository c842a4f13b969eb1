"""Videos: read frame by frame, upright, as far as possible; written with the same rate and size."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from boxwood.errors import UserError
from boxwood.inference.video import Shown, Video, write_frames, write_video


def encode(path: Path, pictures: list[np.ndarray[Any, Any]], codec: str = "h264", rotation: int = 0, **options: str) -> Path:
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(30000, 1001))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def greys(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray[Any, Any]]:
    """Each frame a little lighter than the one before, so that its mean gives its number."""
    return [np.full((*size, 3), 10 * (number + 1), dtype=np.uint8) for number in range(count)]


def noise(count: int) -> list[np.ndarray[Any, Any]]:
    """Frames that compress badly, for large files."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "h264"), ("a.mov", "h264"), ("a.m4v", "h264"), ("a.avi", "mpeg4"), ("a.mkv", "h264"), ("a.webm", "libvpx")],
)
def test_frames_of_every_format(tmp_path: Path, name: str, codec: str) -> None:
    video = Video(encode(tmp_path / name, greys(12), codec))
    frames = list(video.frames())
    assert [frame.number for frame in frames] == list(range(12))
    assert [frame.time for frame in frames] == pytest.approx([number * 1.001 / 30 for number in range(12)], abs=2e-3)
    assert float(video.rate) == pytest.approx(29.97, abs=0.01) and video.expected == pytest.approx(12, abs=1)
    assert video.missing == ""
    for number, frame in enumerate(frames):
        assert frame.image.shape == (3, 48, 64)
        assert frame.image.float().mean().item() == pytest.approx(10 * (number + 1), abs=6)


def test_reading_from_a_frame_on(tmp_path: Path) -> None:
    video = Video(encode(tmp_path / "a.mp4", greys(12)))
    every, rest = list(video.frames()), list(video.frames(start=9))
    assert [frame.number for frame in rest] == [9, 10, 11]
    assert all(bool((a.image == b.image).all()) and a.time == b.time for a, b in zip(every[9:], rest, strict=True))
    assert list(video.frames(start=12)) == [] and video.missing == ""


@pytest.mark.skipif(not hasattr(av.video.stream.VideoStream, "set_display_rotation"), reason="this PyAV cannot write it")
@pytest.mark.parametrize(("rotation", "corner"), [(90, "bottom left"), (-90, "top right"), (180, "bottom right")])
def test_a_video_is_turned_upright(tmp_path: Path, rotation: int, corner: str) -> None:
    """The upper left corner is white; a phone that is held upright stores -90, to be turned clockwise."""
    picture = np.zeros((48, 64, 3), dtype=np.uint8)
    picture[:16, :16] = 255
    (frame, *_) = Video(encode(tmp_path / "a.mp4", [picture] * 3, rotation=rotation)).frames()
    height, width = frame.image.shape[1:]
    assert (height, width) == ((48, 64) if rotation == 180 else (64, 48))
    rows = slice(0, 16) if "top" in corner else slice(height - 16, height)
    columns = slice(0, 16) if "left" in corner else slice(width - 16, width)
    assert frame.image[:, rows, columns].float().mean() > 240
    assert frame.image.float().mean() < 40  # and nothing else is white


@pytest.mark.parametrize("size", [(48, 64), (47, 65), (48, 63)])
def test_written_videos(tmp_path: Path, size: tuple[int, int]) -> None:
    """An odd side gets one pixel more."""
    path = tmp_path / "a"
    write_video(path, (Image.fromarray(grey) for grey in greys(6, size)), Fraction(24000, 1001))
    video = Video(path)
    frames = list(video.frames())
    assert video.rate == Fraction(24000, 1001) and video.expected == len(frames) == 6
    assert frames[0].image.shape == (3, size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert [frame.image.float().mean().item() for frame in frames] == pytest.approx([10 * (n + 1) for n in range(6)], abs=6)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.pix_fmt, context.colorspace) == ("yuv420p", av.video.reformatter.Colorspace.ITU601)


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.mp4"])
def test_a_video_of_varying_rate_keeps_its_times(tmp_path: Path, name: str) -> None:
    """Three frames in 1.03 seconds, in a file that names a rate of 30: none is missing, and what is written lasts as long."""
    milliseconds = [0, 40, 1000]
    with av.open(str(tmp_path / name), "w") as container:
        stream: Any = container.add_stream("libvpx" if name == "a.webm" else "h264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.max_b_frames = 0
        for grey, time in zip(greys(3), milliseconds, strict=True):
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        for packet in stream.encode():
            packet.duration = round(Fraction(33, 1000) / packet.time_base)
            container.mux(packet)
    video = Video(tmp_path / name)
    frames = list(video.frames())
    assert video.missing == ""
    assert [frame.time for frame in frames] == pytest.approx([0, 0.04, 1.0], abs=1e-3)
    assert [frame.time for frame in video.frames(start=1)] == pytest.approx([0.04, 1.0], abs=1e-3)
    out = tmp_path / "drawn.mp4"
    shown = (Shown(Image.fromarray(frame.image.permute(1, 2, 0).numpy()), frame.time, frame.duration) for frame in frames)
    write_frames(out, shown, video.rate)
    drawn = Video(out)
    assert [frame.time for frame in drawn.frames()] == pytest.approx([0, 0.04, 1.0], abs=1e-3)
    with av.open(str(out)) as container:
        assert container.duration == pytest.approx(1_033_000, abs=8_000)


def test_a_constant_rate_stays_exact_where_times_are_rounded(tmp_path: Path) -> None:
    """Matroska rounds times to milliseconds."""
    rate = Fraction(30000, 1001)
    pictures = [Image.fromarray(grey) for grey in greys(8)]
    shown = (Shown(picture, round(1000 * n / rate) / 1000, 0.033) for n, picture in enumerate(pictures))
    write_frames(tmp_path / "a.mp4", shown, rate)
    assert [frame.time for frame in Video(tmp_path / "a.mp4").frames()] == pytest.approx(
        [float(n / rate) for n in range(8)], abs=1e-6
    )


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile inner.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ninner.mp4\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        "<Representation><BaseURL>inner.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>",
    ],
    ids=["concat", "hls", "sdp", "dash"],
)
def test_a_playlist_opens_no_other_file(tmp_path: Path, content: str) -> None:
    encode(tmp_path / "inner.mp4", greys(3))
    (tmp_path / "a.mp4").write_text(content)
    with pytest.raises(UserError, match=r"a\.mp4: (is not a video of a kind that is read|the video cannot be read)") as error:
        Video(tmp_path / "a.mp4")
    assert "\n" not in str(error.value)


def test_addresses_and_devices_are_names_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "inner.mp4", greys(3))
    for name in ("concat:inner.mp4|inner.mp4", "http://127.0.0.1:1/a.mp4", "subfile,,start,0,end,100,,:inner.mp4"):
        with pytest.raises(UserError, match=r"the video cannot be read .no such file"):
            Video(Path(name))
    (tmp_path / "inner.mp4").rename(tmp_path / "at 10:30.mp4")
    assert len(list(Video(Path("at 10:30.mp4")).frames())) == 3


def test_frames_that_are_too_large_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "a.mp4", greys(3))
    monkeypatch.setattr("boxwood.inference.video.MAX_FRAME_PIXELS", 3000)
    with pytest.raises(UserError, match=r"a\.mp4: has frames of 64 x 48 pixels, over the 3,000"):
        Video(path)
    # The decoder has the limit too, for files whose header gives another size than their frames have.
    monkeypatch.undo()
    video = Video(path)
    monkeypatch.setattr("boxwood.inference.video.MAX_FRAME_PIXELS", 3000)
    assert list(video.frames()) == [] and "0 of 3 frames could be read" in video.missing


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("a.mp4", "h264", {"movflags": "faststart"}), ("a.avi", "mpeg4", {}), ("a.mkv", "h264", {}), ("a.webm", "libvpx", {})],
)
def test_a_video_that_was_cut_short(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    whole = encode(tmp_path / name, noise(40), codec, **options)
    expected = [frame.image for frame in Video(whole).frames()]
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    video = Video(whole)
    frames = list(video.frames())
    assert 10 < len(frames) < 30
    assert all(bool((frame.image == image).all()) for frame, image in zip(frames[:-2], expected, strict=False))
    known = name.endswith((".mp4", ".avi"))  # Matroska files have a length, and no number of frames
    assert f"cut short or damaged: {len(frames) if known else f'{frames[-1].time + 1 / 30:.2f}'} of " in video.missing


def test_a_damaged_part_is_left_out(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", noise(40), movflags="faststart")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    path.write_bytes(content)
    video = Video(path)
    frames = list(video.frames())
    assert 30 < len(frames) < 40 and frames[-1].time > 1.2  # the end is there
    assert [frame.number for frame in frames] == list(range(len(frames)))
    assert f"{len(frames)} of 40 frames could be read" in video.missing


def test_files_that_are_no_videos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"a\.mp4: the video cannot be read \(invalid data"):
        Video(tmp_path / "a.mp4")
    with pytest.raises(UserError, match=r"absent\.mp4: the video cannot be read \(no such file"):
        Video(tmp_path / "absent.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream: Any = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UserError, match=r"sound\.mp4: holds no pictures"):
        Video(tmp_path / "sound.mp4")


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'boxwood\[video\]'"):
        Video(tmp_path / "a.mp4")
