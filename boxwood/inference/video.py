"""Video files frame by frame: read upright, and written as mp4, by PyAV (``pip install 'boxwood[video]'``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from boxwood.errors import UserError

__all__ = ["Frame", "Video", "need_av", "write_video"]


class Frame(NamedTuple):
    """One frame of a video."""

    number: int
    """Index among the frames that can be read, from 0."""
    time: float
    """Seconds from the beginning of the video."""
    image: Tensor
    """(3, H, W) uint8 RGB, rotated as the file's metadata say."""


class Video:
    """A video file. Raises `UserError` where it cannot be opened, or holds no pictures."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.missing = ""
        """After the last of `frames`: what could not be read, in words; empty where all frames were."""
        with self._opened() as (container, stream):
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            """Frames a second, on average."""
            self.expected: int = stream.frames or int((container.duration or 0) * self.rate / 1_000_000)
            """The number of frames in the file's metadata; 0 where there is none."""

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """The frames from ``start`` on, one in memory at a time. Those before are decoded too, since seeking is not exact.

        Damaged parts are skipped, and a truncated file ends early; `missing` then says so.
        """
        av = need_av()
        count = damaged = 0
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
                    if count >= start:
                        time = count / float(self.rate) if frame.time is None else frame.time - begin
                        yield Frame(count, time, _pixels(frame))
                    count += 1
        # The number in the metadata may be a little off; for Matroska files it is estimated from the duration.
        if damaged or count < 0.95 * self.expected:
            self.missing = f"cut short or damaged: {count} of {max(count, self.expected)} frames could be read"

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """The container and its first video stream."""
        av = need_av()
        try:
            container = av.open(str(self.path))
        except (av.FFmpegError, OSError) as error:
            reason = (error.strerror or "").lower()
            raise UserError(f"{self.path}: the video cannot be read ({reason}); replace it or leave it out") from None
        with container:
            if not container.streams.video:
                raise UserError(f"{self.path}: holds no pictures; leave it out")
            yield container, container.streams.video[0]


def need_av() -> Any:
    """PyAV. Raises `UserError` where it is not installed."""
    try:
        import av
    except ImportError:
        raise UserError("videos are read by PyAV, which is not installed; run: pip install 'boxwood[video]'") from None
    return av


def write_video(path: Path, pictures: Iterable[Image.Image], rate: Fraction, comment: str = "") -> None:
    """Write pictures of one size as an mp4 file (H.264) with ``rate`` frames a second; they are encoded one by one. ``comment`` is
    written into the file's metadata."""
    av = need_av()
    stream: Any = None
    with av.open(str(path), "w", format="mp4") as container:
        if comment:
            container.metadata["comment"] = comment
        for index, picture in enumerate(pictures):
            # yuv420p has one colour for 2 x 2 pixels, so both sides must be even: an odd one is padded by its last pixels.
            pixels = np.pad(np.asarray(picture), ((0, picture.height % 2), (0, picture.width % 2), (0, 0)), mode="edge")
            if stream is None:
                stream = container.add_stream("h264", rate=rate)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.colorspace = 5  # BT.601, by which RGB is converted; players guess another for large pictures
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())


def _pixels(frame: Any) -> Tensor:
    """(3, H, W) RGB. Phones store the sensor's orientation, and the degrees to rotate it by, counter-clockwise, as metadata."""
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
