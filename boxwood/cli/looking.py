"""What `boxwood predict` does with every picture: look at it, draw it, cut it up, keep what was found."""

from __future__ import annotations

import itertools
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from boxwood.errors import UserError
from boxwood.inference.journal import Kept, Line

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from boxwood.inference.predictor import Predictor
    from boxwood.inference.video import Video
    from boxwood.structures import Detections

__all__ = ["VIDEOS", "Looking", "is_video"]

logger = logging.getLogger(__name__)
Item = TypeVar("Item")

VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}


def is_video(file: Path) -> bool:
    """Whether the name says so."""
    return file.suffix.lower() in VIDEOS


@dataclass
class Looking:
    """One call of the command: what is asked for, and how far it has come."""

    predictor: Predictor
    score: float
    batch: int
    folder: Path | None
    """Where pictures go; None where nothing is written."""
    draw: bool
    crops: bool
    as_json: bool
    kept: Kept | None = None
    taken: set[str] = field(default_factory=set)
    """Names of files in the folder that are another picture's."""
    failed: list[str] = field(default_factory=list)

    def look_at(self, files: Iterable[Path]) -> None:
        """The images and videos that are not done yet, in their order."""
        todo = [file for file in files if self.kept is None or str(file) not in self.kept.done]
        for videos, group in itertools.groupby(todo, is_video):
            if not videos:
                self._images(list(group))
                continue
            for file in group:
                self._video(file)

    def _images(self, files: Sequence[Path]) -> None:
        for group in self._batches(files, "pictures", len(files)):
            read = [(file, _read(file)) for file in group]
            found = iter(self.predictor([image for _, image in read if not isinstance(image, UserError)]))
            for file, image in read:
                if isinstance(image, UserError):
                    self._fail(file, image)
                else:
                    self._image(file, image, next(found))

    def _image(self, file: Path, image: Tensor, found: Detections) -> None:
        from boxwood.files import write_whole

        name = self._new_name(file, ".png")
        if self.folder is not None and name is not None and self.draw:
            picture = found.draw(image, self.score)
            write_whole(self.folder / name, partial(picture.save, format="PNG"))
        names = self._found(image, found, name, {"file_name": str(file)})
        logger.info("%s: %s", file, _summary(names))

    def _video(self, file: Path) -> None:
        """Look at a video's frames; then, when they are all known, draw them."""
        from boxwood.files import write_whole
        from boxwood.inference.video import Video

        try:
            video = Video(file)
        except UserError as error:
            self._fail(file, error)
            return
        before = {} if self.kept is None else self.kept.pictures
        name = before.get(str(file)) or self._new_name(file, ".mp4")
        start = count = 0 if self.kept is None else self.kept.frames.get(str(file), 0)
        for group in self._batches(video.frames(start), file.name, max(0, video.expected - start)):
            for frame, found in zip(group, self.predictor([frame.image for frame in group]), strict=True):
                about = {"file_name": str(file), "frame": frame.number, "time": round(frame.time, 6)}
                self._found(frame.image, found, name, about)
                count += 1
        if not count:
            self._fail(file, UserError(f"{file}: no frame of the video can be read; replace it or leave it out"))
            return
        if video.missing:
            logger.warning("%s: %s", file, video.missing)
        if self.folder is not None and name is not None and self.draw:
            write_whole(self.folder / name, partial(self._draw_video, video))
        if self.kept is not None:
            self.kept.add({"file_name": str(file), "frames": count})
        logger.info("%s: %d frames", file, count)

    def _draw_video(self, video: Video, path: Path) -> None:
        """The video with what was found in its frames drawn on them."""
        from boxwood.inference.records import draw_records
        from boxwood.inference.video import write_video

        assert self.kept is not None
        categories = self.predictor.categories
        ids = dict(zip(categories.names, categories.ids, strict=True))

        def drawn() -> Iterator[Image.Image]:
            assert self.kept is not None
            for frame, line in zip(video.frames(), self.kept.frames_of(str(video.path)), strict=False):
                records = [{**record, "category_id": ids[record["category"]]} for record in line["detections"]]
                yield draw_records(frame.image, records, categories)

        write_video(path, _with_progress(drawn(), f"drawing {video.path.name}", video.expected), video.rate)

    def _batches(self, items: Iterable[Item], what: str, total: int) -> Iterator[list[Item]]:
        """As many as go through the model at once, with a bar."""
        every = iter(_with_progress(items, what, total))
        return iter(lambda: list(itertools.islice(every, self.batch)), [])

    def _found(self, image: Tensor, found: Detections, name: str | None, about: dict[str, Any]) -> list[str]:
        """Write the crops and the line of a picture; the names of what is in it."""
        from boxwood.inference.records import records_of

        kept = found[found.scores >= self.score]
        if self.folder is not None and name is not None and self.crops:
            prefix = f"{about['frame']:06d}-" if "frame" in about else ""
            _write_crops(kept, image, self.folder / "crops" / Path(name).stem, prefix)
        line: Line = {**about, "detections": records_of(kept, **about)}
        if name is not None:
            line["picture"] = name
        self._note(line)
        return kept.names

    def _fail(self, file: Path, error: UserError) -> None:
        logger.error("%s", error)
        self.failed.append(str(file))
        self._note({"file_name": str(file), "error": str(error)})

    def _note(self, line: Line) -> None:
        if self.kept is not None:
            self.kept.add(line)
        if self.as_json:
            click.echo(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace"))

    def _new_name(self, file: Path, suffix: str) -> str | None:
        """``photo.png`` for ``photo.jpg``; ``photo-2.png`` for another photo of that name; None where none is needed."""
        if self.folder is None or not (self.draw or self.crops):
            return None
        name, number = f"{file.stem}{suffix}", 1
        while name in self.taken:
            number += 1
            name = f"{file.stem}-{number}{suffix}"
        self.taken.add(name)
        return name


def _read(file: Path) -> Tensor | UserError:
    """The image, or why there is none."""
    from boxwood.data.images import read_image

    try:
        return read_image(file)
    except UserError as error:
        return error


def _with_progress(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """The items, with a bar on a terminal; ``total`` is 0 where their number is not known."""
    if not sys.stderr.isatty() or total == 1:
        yield from items
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    yield from track(items, escape(what), total=total or None, console=Console(stderr=True))


def _write_crops(found: Detections, image: Tensor, folder: Path, prefix: str) -> None:
    """A picture of each detection, its box in whole pixels."""
    from torchvision.transforms.v2.functional import to_pil_image

    from boxwood.files import file_word, write_whole

    for rank, ((x1, y1, x2, y2), name) in enumerate(zip(found.boxes.round().int().tolist(), found.names, strict=True)):
        if x2 > x1 and y2 > y1:
            crop = to_pil_image(image[:, y1:y2, x1:x2])
            write_whole(folder / f"{prefix}{rank:03d}-{file_word(name)}.png", partial(crop.save, format="PNG"))


def _summary(names: Sequence[str]) -> str:
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
