"""Video files frame by frame: read upright, and written as mp4, by PyAV (``pip install 'boxwood[video]'``)."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from boxwood.errors import UserError

__all__ = ["MAX_FRAME_PIXELS", "Frame", "Shown", "Video", "need_av", "write_frames", "write_video"]

MAX_FRAME_PIXELS = 40_000_000
"""Larger frames are not decoded; 8K has 35,389,440 pixels."""

_OPTIONS = {
    # The content of a file chooses its demuxer, and those of playlists (concat, hls, dash) open other files and addresses.
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi",
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_FRAME_PIXELS),
}


class Frame(NamedTuple):
    """One frame of a video."""

    number: int
    """Index among the frames that can be read, from 0."""
    time: float
    """Seconds from the beginning of the video."""
    image: Tensor
    """(3, H, W) uint8 RGB, rotated as the file's metadata say."""
    duration: float
    """Seconds for which it is shown, by the file's metadata; where these have none, that of the average frame."""


class Shown(NamedTuple):
    """A picture of a video to be written."""

    picture: Image.Image
    time: float
    """Seconds from the beginning of the video; it is shown until the time of the next."""
    duration: float
    """Seconds for which the last one is shown."""


class Video:
    """A video file. Raises `UserError` where it cannot be opened, or holds no pictures."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.missing = ""
        """After the last of `frames`: what could not be read, in words; empty where all frames were."""
        with self._opened() as (container, stream):
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            """Frames a second, on average."""
            self._length = float(stream.duration * stream.time_base if stream.duration else (container.duration or 0) / 1e6)
            self._count: int = stream.frames
            self.expected: int = self._count or int(self._length * self.rate)
            """The number of frames in the file's metadata, or an estimate by its length; 0 where there is neither."""
            self.frame_bytes: int = 3 * stream.width * stream.height
            """Of a frame as RGB."""
            if stream.width * stream.height > MAX_FRAME_PIXELS:
                size = f"{stream.width} x {stream.height}"
                raise UserError(
                    f"{path}: has frames of {size} pixels, over the {MAX_FRAME_PIXELS:,} that are accepted; scale it down"
                )

    def frames(self, start: int = 0) -> Generator[Frame, None, None]:
        """The frames from ``start`` on, one in memory at a time. Those before are decoded too, since seeking is not exact.

        Damaged parts are skipped, and a truncated file ends early; `missing` then says so.
        """
        av = need_av()
        count = damaged = 0
        end = 0.0
        with self._opened() as (container, stream):
            begin = float((stream.start_time or 0) * stream.time_base)
            packets = container.demux(stream)
            while True:
                try:
                    packet = next(packets, None)
                    decoded = [] if packet is None else packet.decode()
                except av.FFmpegError:
                    damaged += 1
                    continue
                if packet is None:
                    break
                damaged += packet.is_corrupt
                for frame in decoded:
                    time = count / float(self.rate) if frame.time is None else frame.time - begin
                    duration = (
                        float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 1 / float(self.rate)
                    )
                    end = max(end, time + duration)
                    if count >= start:
                        yield Frame(count, time, _pixels(frame), duration)
                    count += 1
        # What the metadata say may be a little off. Matroska files have no number of frames, and their rate may vary.
        if self._count and (damaged or count < 0.95 * self._count):
            self.missing = f"cut short or damaged: {count} of {max(count, self._count)} frames could be read"
        elif not self._count and (damaged or end < 0.95 * self._length):
            self.missing = f"cut short or damaged: {end:.2f} of {max(end, self._length):.2f} seconds could be read, {count} frames"

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """The container and its first video stream."""
        av = need_av()
        try:
            container = av.open(f"file:{self.path}", options=dict(_OPTIONS))
        except av.ArgumentError:  # the demuxer is not among those that are allowed
            raise UserError(
                f"{self.path}: is not a video of a kind that is read (MP4, MOV, AVI, Matroska, WebM), whatever its name says; "
                "convert it to MP4, or leave it out"
            ) from None
        except (av.FFmpegError, OSError) as error:
            reason = (error.strerror or "").lower()
            raise UserError(f"{self.path}: the video cannot be read ({reason}); replace it or leave it out") from None
        with container:
            if not container.streams.video:
                raise UserError(f"{self.path}: holds no pictures; leave it out")
            stream = container.streams.video[0]
            stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
            yield container, stream


def need_av() -> Any:
    """PyAV. Raises `UserError` where it is not installed."""
    try:
        import av
    except ImportError:
        raise UserError("videos are read by PyAV, which is not installed; run: pip install 'boxwood[video]'") from None
    return av


def write_video(path: Path, pictures: Iterable[Image.Image], rate: Fraction) -> None:
    """Write pictures of one size as an mp4 file (H.264) with ``rate`` frames a second; they are encoded one by one."""
    write_frames(path, (Shown(picture, float(index / rate), float(1 / rate)) for index, picture in enumerate(pictures)), rate)


def write_frames(path: Path, frames: Iterable[Shown], rate: Fraction, comment: str = "") -> None:
    """Write pictures of one size as an mp4 file (H.264), each at its time; they are encoded one by one.

    ``rate`` is the average number of frames a second; times that are within 2 ms of this rate follow it exactly.
    ``comment`` is written into the file's metadata.
    """
    av = need_av()
    # A unit of time of which the frames of a constant rate are whole multiples, and that is fine enough for others.
    unit = Fraction(1, rate.numerator * -(-90_000 // rate.numerator))
    stream: Any = None
    pts, last = -1, 0.0
    with av.open(str(path), "w", format="mp4") as container:
        if comment:
            container.metadata["comment"] = comment
        for index, (picture, time, duration) in enumerate(frames):
            # yuv420p has one colour for 2 x 2 pixels, so both sides must be even: an odd one is padded by its last pixels.
            pixels = np.pad(np.asarray(picture), ((0, picture.height % 2), (0, picture.width % 2), (0, 0)), mode="edge")
            if stream is None:
                stream = container.add_stream("h264", rate=rate)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = unit
                stream.codec_context.max_b_frames = 0  # packets then come in the order of their times
                stream.codec_context.colorspace = 5  # BT.601, by which RGB is converted; players guess another for large pictures
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            exact = index / rate
            pts = max(pts + 1, round((exact if abs(time - exact) < 2e-3 else time) / unit))
            frame.pts, frame.time_base, last = pts, unit, duration
            container.mux(stream.encode(frame))
        if stream is not None:
            for packet in stream.encode():
                if packet.pts == pts:
                    packet.duration = round(last / packet.time_base)
                container.mux(packet)


def _pixels(frame: Any) -> Tensor:
    """(3, H, W) RGB. Phones store the sensor's orientation, and the degrees to rotate it by, counter-clockwise, as metadata."""
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
