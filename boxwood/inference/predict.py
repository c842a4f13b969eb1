"""Detection in many pictures and videos: read, detect, draw, crop, write; a call that was interrupted resumes.

predict            a list of all predictions
iter_predictions   the same one by one, so that memory does not grow with the number of pictures and frames

Files written to ``out``: a drawn picture or video for each input, ``crops/``, ``predictions.json`` (all detections as records) and
``coco.json`` (the same as COCO results).
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from boxwood.data.coco_file import read_coco_file
from boxwood.data.images import read_header, read_image
from boxwood.data.transforms import ResizeShortestEdge, resized_size
from boxwood.distributed import barrier, gather_objects, on_rank_zero, rank, world_size
from boxwood.errors import UserError
from boxwood.evaluation import save_detections
from boxwood.files import file_word, make_folder, media_kind, write_whole
from boxwood.inference.journal import Journal, Line, whole_lines
from boxwood.inference.predictor import Predictor, load
from boxwood.inference.records import draw_records, records_of
from boxwood.inference.sharding import absorb, blocks_of_rank, shard_path
from boxwood.inference.sources import DRAWN_BY, is_drawing, is_video, source_files
from boxwood.inference.video import Frame, Shown, Video, need_av, write_frames
from boxwood.pixels import ValueRange
from boxwood.printable import printable
from boxwood.structures import Categories, Detections, Sample
from boxwood.threads import MAX_BYTES, in_order, num_threads, worker_threads

__all__ = ["Prediction", "iter_predictions", "predict"]

logger = logging.getLogger(__name__)
Item = TypeVar("Item")

JOURNAL = "predictions.part.jsonl"
"""What is done so far, until predictions.json is written."""
JPEG_QUALITY = 90
"""Of drawings, whose colours are stored at each pixel, so that thin lines stay sharp."""
LEAST_SIDE = 32
"""Pixels of the network's input: two cells of the third feature map, of stride 16. A picture that is lower or narrower is named."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The detections in a picture or a frame of a video, or the error of a file that cannot be read."""

    file_name: str
    """Path of the image or video, as it was given, or listed from a folder or pattern."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """A record per detection: ``file_name``, ``category`` (its name), ``bbox`` (x, y, width, height), ``score``, and
    ``segmentation`` (run lengths) and ``keypoints`` where the model has them; ``frame`` and ``time`` of a video."""
    detections: Detections | None = None
    """The same with tensors; None where there is an ``error``, or where the result is from the call that is resumed."""
    picture: str | None = None
    """The name of the drawn file in ``out``."""
    frame: int | None = None
    """Number of the frame, from 0; None for a picture."""
    time: float | None = None
    """Seconds from the beginning of the video."""
    error: str | None = None
    """Why the file could not be read."""
    resumed: bool = False
    """Whether the result is from an earlier call, which this one resumes."""

    def line(self) -> Line:
        """The prediction as one line of JSON holds it."""
        if self.error is not None:
            return {"file_name": self.file_name, "error": self.error}
        about = {"file_name": self.file_name} | ({} if self.frame is None else {"frame": self.frame, "time": self.time})
        return {**about, "detections": self.records} | ({} if self.picture is None else {"picture": self.picture})


def predict(
    model: str | Path | Predictor,
    sources: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    score: float = 0.5,
    batch: int = 1,
    pictures: bool = True,
    crops: bool = False,
    coco: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> list[Prediction]:
    """Detect objects in pictures and videos, and write the results to the folder ``out`` if there is one.

    ``model`` is a run, a weights file, a name of the zoo, or a `Predictor`. ``sources`` is an image, a video, a folder of them, or
    a pattern (``photos/**/*.jpg``), or a list of these. Detections with a score of at least ``score`` are kept, also where the
    model's ``test.score_threshold`` is higher (a `Predictor` keeps its threshold); ``overrides`` (``test.KEY=VALUE``) change how
    outputs become detections. ``batch`` pictures or frames go through the model at once. In ``out``, ``pictures`` draws each input
    and ``crops`` cuts out each detection; ``coco`` is the COCO file of the images, for which the detections are written as COCO
    results too.

    A file that cannot be read has a prediction with an ``error`` and does not stop the others. Where a call with the same ``out``
    was interrupted, this one resumes it. Raises `UserError` where no source exists, the model cannot be loaded, or a file cannot
    be written.
    """
    return list(
        iter_predictions(
            model, sources, out, score=score, batch=batch, pictures=pictures, crops=crops, coco=coco, overrides=overrides
        )
    )


def iter_predictions(
    model: str | Path | Predictor,
    sources: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    score: float = 0.5,
    batch: int = 1,
    pictures: bool = True,
    crops: bool = False,
    coco: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Iterator[Prediction]:
    """The predictions of `predict`, made one after another as they are asked for; with ``out``, ``predictions.json`` is written
    after the last."""
    folder = None if out is None else Path(out)
    if folder is None and (crops or coco is not None):
        raise UserError("crops and coco write files; name a folder with out")
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    files = list(dict.fromkeys(file for source in named for file in source_files(source, folder)))
    files = _without_unreadable_videos(files, named, coco is not None)
    image_ids = None if coco is None else _image_ids(Path(coco), files)
    if isinstance(model, Predictor) and overrides:
        raise UserError("overrides belong to a model that is loaded by its name; give them to boxwood.load")
    predictor = model if isinstance(model, Predictor) else load(model, overrides=overrides, score=score)
    call = _Call(predictor, score, batch, folder, pictures and folder is not None, crops, tuple(overrides))
    return _all_predictions(call, files, image_ids)


# ------------------------------------------------------------------------------------------------------------ internals


def _all_predictions(call: _Call, files: Sequence[Path], image_ids: dict[str, int] | None) -> Iterator[Prediction]:
    """The predictions of all files; the files that need all of them are written at the end."""
    folder = call.folder
    if folder is None:
        yield from call.predictions(files)
        return
    make_folder(folder)
    names = [str(file) for file in files]
    about = {"model": call.predictor.source, "score": call.score, "crops": call.crops, "pictures": call.draw}
    about |= {"overrides": list(call.overrides)} if call.overrides else {}
    # Input files that lie in the folder are not overwritten by drawings.
    call.taken_names |= {file.name for file in files if call.draw and file.resolve().parent == folder.resolve()}
    on_rank_zero(lambda: absorb(folder / JOURNAL, about))
    if world_size() > 1:
        yield from _sharded_predictions(call, folder, files, about, image_ids)
        return
    with closing(Journal(folder / JOURNAL, about)) as call.journal:
        call.taken_names |= set(call.journal.pictures.values())
        call.crop_folders |= {Path(name).stem for name in call.journal.pictures.values() if call.crops}
        yield from (_from_line(line) for line in call.journal.lines(set(names)))
        yield from call.predictions(files)
        _write_records(folder / "predictions.json", call.journal.lines_in_order(names))
        if image_ids is not None:
            _write_coco(folder / "coco.json", call.journal.lines_in_order(names), image_ids, call.predictor.categories)
    (folder / JOURNAL).unlink()


@dataclass(frozen=True, eq=False)
class _Picture:
    """A picture or a frame of a video on its way through the network."""

    file: Path
    image: Tensor | None = None
    """(3, H, W) uint8 RGB; None where there is an ``error``."""
    sample: Sample | None = None
    """What the network gets; None where there is an ``error``, and after the network."""
    suffix: str = ".png"
    """Of the drawing's name."""
    frame: Frame | None = None
    """Of a video."""
    error: UserError | None = None
    detections: Detections | None = None
    name: str | None = None
    """The drawing's."""

    def num_bytes(self) -> int:
        return 0 if self.image is None else self.image.numel()


def _sharded_predictions(
    call: _Call, folder: Path, files: Sequence[Path], about: dict[str, Any], image_ids: dict[str, int] | None
) -> Iterator[Prediction]:
    """Those of this process as they come, then those of the others; all processes must exhaust it. Rank 0 merges and writes."""
    path, names = folder / JOURNAL, [str(file) for file in files]
    plan: list[Any] = []

    def plan_names() -> None:
        with closing(Journal(path, about)) as journal:
            call.taken_names |= set(journal.pictures.values())
            call.crop_folders |= {Path(name).stem for name in journal.pictures.values() if call.crops}
            todo = [file for file in files if str(file) not in journal.done]
            pictures = {str(file): journal.pictures.get(str(file)) or call._new_name(file, _drawing_suffix(file)) for file in todo}
            plan.extend([todo, pictures, set(journal.frames)])

    on_rank_zero(plan_names)
    todo, call.planned_names, started = gather_objects(plan)[0]
    mine, errors = set(), {}
    with closing(Journal(shard_path(path, rank()), about)) as call.journal:
        for block in blocks_of_rank(todo, call.batch, started, rank(), world_size()):
            for prediction in call.predictions(block):
                mine.add(prediction.file_name)
                if prediction.error is not None:
                    errors[prediction.file_name] = prediction.error
                yield prediction
    all_errors = {name: error for part in gather_objects(errors) for name, error in part.items()}

    def merge() -> None:
        absorb(path, about)
        with closing(Journal(path, about)) as journal:
            _write_records(folder / "predictions.json", journal.lines_in_order(names))
            if image_ids is not None:
                _write_coco(folder / "coco.json", journal.lines_in_order(names), image_ids, call.predictor.categories)

    on_rank_zero(merge)
    others = set(names) - mine
    lines = (line for _, _, line in whole_lines(path) if "detections" in line and line["file_name"] in others)
    yield from (_from_line(line) for line in lines)
    yield from (Prediction(name, error=error) for name, error in all_errors.items() if name not in mine)
    barrier()
    on_rank_zero(path.unlink)


@dataclass
class _Call:
    """One call: its options, and the names and results so far."""

    predictor: Predictor
    score: float
    batch: int
    folder: Path | None
    """Where files are written; None writes none."""
    draw: bool
    crops: bool
    overrides: tuple[str, ...]
    journal: Journal | None = None
    taken_names: set[str] = field(default_factory=set)
    """Names of files in the folder that belong to another picture."""
    crop_folders: set[str] = field(default_factory=set)
    """Names of the folders in ``crops/`` that belong to another picture."""
    planned_names: dict[str, str | None] = field(default_factory=dict)
    """The names of drawn files, where several processes share the inputs."""

    def predictions(self, files: Iterable[Path]) -> Iterator[Prediction]:
        """Those of the images and videos that are not done yet, in order."""
        todo = [file for file in files if self.journal is None or str(file) not in self.journal.done]
        for videos, group in itertools.groupby(todo, is_video):
            if videos:
                for file in group:
                    yield from self._of_video(file)
            else:
                yield from self._of_images(list(group))

    def _of_images(self, files: Sequence[Path]) -> Iterator[Prediction]:
        """Read ahead of the network, and finish behind it, so that neither waits for the other."""
        threads = num_threads()
        with worker_threads(threads) as pool:
            pictures = in_order(pool, self._read, files, ahead=threads + self.batch, size=_bytes_to_decode)
            detected = self._detected(pictures)
            finished = in_order(pool, self._finish, detected, ahead=threads + self.batch, size=_Picture.num_bytes)
            for picture, prediction in _with_progress(finished, "pictures", len(files)):
                self._report(picture, prediction)
                yield prediction

    def _read(self, file: Path) -> _Picture:
        """In a worker thread: the picture, ready for the network, or with the error."""
        image = _read(file, self.predictor.value_range)
        if isinstance(image, UserError):
            return _Picture(file, error=image)
        return _Picture(file, image, self.predictor.sample(image), _drawing_suffix(file))

    def _detected(self, pictures: Iterable[_Picture], video_name: str | None = None) -> Iterator[_Picture]:
        """The same pictures with their detections and the names of their drawings; those of one video share one."""
        for group in self._batches(pictures):
            detections = iter(self.predictor.detect([picture.sample for picture in group if picture.sample is not None]))
            for picture in group:
                if picture.sample is None:
                    yield picture
                else:
                    name = video_name if picture.frame is not None else self._new_name(picture.file, picture.suffix)
                    yield replace(picture, sample=None, detections=next(detections), name=name)

    def _finish(self, picture: _Picture) -> tuple[_Picture, Prediction]:
        """In a worker thread: write the files of a picture."""
        if picture.image is None or picture.detections is None:
            return picture, Prediction(str(picture.file), error=str(picture.error))
        if self.folder is not None and picture.name is not None and self.draw:
            drawing = picture.detections.draw(picture.image, self.score)
            write_whole(self.folder / picture.name, partial(_save_drawing, drawing, Path(picture.name).suffix))
        return picture, self._prediction(str(picture.file), picture.image, picture.detections, picture.name)

    def _report(self, picture: _Picture, prediction: Prediction) -> None:
        """Log what was seen, and add it to the journal, now that its files are written."""
        if picture.error is not None:
            logger.error("%s", picture.error)
        elif picture.image is not None:
            self._warn_of_low(picture.file, picture.image)
        self._add_to_journal(prediction)
        if picture.error is None:
            logger.info("%s: %s", picture.file, _counts(prediction))

    def _of_video(self, file: Path) -> Iterator[Prediction]:
        """Detect in all frames of a video; then draw them."""
        try:
            video = Video(file)
        except UserError as error:
            yield self._failed(file, error)
            return
        earlier_names = {} if self.journal is None else self.journal.pictures
        name = earlier_names.get(str(file)) or self._new_name(file, ".mp4")
        start = count = 0 if self.journal is None else self.journal.frames.get(str(file), 0)
        threads = num_threads()
        with worker_threads(threads) as pool, self._frames(video, start) as frames:
            detected = self._detected(frames, name)
            finished = in_order(pool, self._finish_frame, detected, ahead=threads + self.batch, size=_Picture.num_bytes)
            for picture, prediction in _with_progress(finished, file.name, max(0, video.expected - start)):
                if count == start and picture.image is not None:
                    self._warn_of_low(file, picture.image)
                self._add_to_journal(prediction)
                yield prediction
                count += 1
        if not count:
            yield self._failed(file, UserError(f"{file}: no frame of the video can be read; replace it or leave it out"))
            return
        if video.missing:
            logger.warning("%s: %s", file, video.missing)
        if self.folder is not None and name is not None and self.draw:
            write_whole(self.folder / name, partial(self._draw_video, video))
        if self.journal is not None:
            self.journal.add({"file_name": str(file), "frames": count})
        logger.info("%s: %d frames", file, count)

    @contextmanager
    def _frames(self, video: Video, start: int = 0, *, for_network: bool = True) -> Iterator[Iterator[_Picture]]:
        """The frames of a video, which a thread reads ahead."""

        def read(frames: Iterator[Frame]) -> _Picture | None:
            frame = next(frames, None)
            if frame is None:
                return None
            return _Picture(video.path, frame.image, self.predictor.sample(frame.image) if for_network else None, frame=frame)

        with closing(video.frames(start)) as frames, worker_threads(1) as reader:
            ahead = max(1, min(2 * self.batch, MAX_BYTES // video.frame_bytes))
            pictures = in_order(reader, read, itertools.repeat(frames), ahead=ahead)
            yield itertools.takewhile(lambda picture: picture is not None, pictures)  # type: ignore[arg-type]

    def _finish_frame(self, picture: _Picture) -> tuple[_Picture, Prediction]:
        """In a worker thread: write the crops of a frame."""
        assert picture.image is not None and picture.frame is not None and picture.detections is not None
        number, time = picture.frame.number, round(picture.frame.time, 6)
        return picture, self._prediction(str(picture.file), picture.image, picture.detections, picture.name, number, time)

    def _draw_video(self, video: Video, path: Path) -> None:
        """Write the video with the detections of the journal drawn on its frames."""
        assert self.journal is not None
        categories = self.predictor.categories
        ids = dict(zip(categories.names, categories.ids, strict=True))
        lines = self.journal.frames_of(str(video.path))

        def draw(work: tuple[_Picture, Line]) -> Shown:
            frame, line = work[0].frame, work[1]
            assert frame is not None
            records = [{**record, "category_id": ids[record["category"]]} for record in line["detections"]]
            return Shown(draw_records(frame.image, records, categories, colors_of_classes=True), frame.time, frame.duration)

        threads = num_threads()
        with worker_threads(threads) as pool, self._frames(video, for_network=False) as frames:
            work = zip(frames, lines, strict=False)
            drawn = in_order(pool, draw, work, ahead=threads + 1, size=lambda both: both[0].num_bytes())
            write_frames(path, _with_progress(drawn, f"drawing {video.path.name}", video.expected), video.rate, DRAWN_BY)

    def _batches(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """As many items as go through the model at once."""
        remaining = iter(items)
        return iter(lambda: list(itertools.islice(remaining, self.batch)), [])

    def _prediction(
        self,
        file_name: str,
        image: Tensor,
        detections: Detections,
        name: str | None,
        frame: int | None = None,
        time: float | None = None,
    ) -> Prediction:
        """The detections with enough score, whose crops are written."""
        detections = detections[detections.scores >= self.score]
        if self.folder is not None and name is not None and self.crops:
            _write_crops(detections, image, self.folder / "crops" / Path(name).stem, "" if frame is None else f"{frame:06d}-")
        about = {"file_name": file_name} | ({} if frame is None else {"frame": frame, "time": time})
        return Prediction(file_name, records_of(detections, **about), detections, name, frame, time)

    def _failed(self, file: Path, error: UserError) -> Prediction:
        logger.error("%s", error)
        prediction = Prediction(str(file), error=str(error))
        self._add_to_journal(prediction)
        return prediction

    def _add_to_journal(self, prediction: Prediction) -> None:
        if self.journal is not None:
            self.journal.add(prediction.line())

    def _new_name(self, file: Path, suffix: str) -> str | None:
        """``photo.png`` for ``photo.tif``; ``photo-2.png`` for another photo of that name, and where a file of that name is there
        that no call has drawn, or a folder of crops of another picture; None where no name is needed."""
        if self.folder is None or not (self.draw or self.crops):
            return None
        if (planned := self.planned_names.get(str(file))) is not None:
            return planned
        name, number = f"{file.stem}{suffix}", 1
        while (
            name in self.taken_names
            or Path(name).stem in self.crop_folders
            or (self.draw and self._is_of_others(self.folder / name))
        ):
            number += 1
            name = f"{file.stem}-{number}{suffix}"
        self.taken_names.add(name)
        if self.crops:
            self.crop_folders.add(Path(name).stem)
        return name

    @staticmethod
    def _is_of_others(path: Path) -> bool:
        return path.is_file() and not is_drawing(path)

    def _warn_of_low(self, file: Path, image: Tensor) -> None:
        """Say where the network sees a picture only a few pixels high or wide, since its long side limits its scale."""
        resize = next((t for t in self.predictor.transforms if isinstance(t, ResizeShortestEdge)), None)
        if resize is None:
            return
        height, width = resized_size((image.shape[-2], image.shape[-1]), min(resize.short), resize.long)
        if min(height, width) < min(LEAST_SIDE, *resize.short):
            logger.warning(
                "%s: the network sees this picture %d x %d pixels (width x height), too few for most objects; cut the picture of "
                "%d x %d into parts that are nearer to a square",
                file,
                width,
                height,
                image.shape[-1],
                image.shape[-2],
            )


def _from_line(line: Line) -> Prediction:
    """A prediction of the call that is resumed."""
    return Prediction(
        line["file_name"],
        line["detections"],
        picture=line.get("picture"),
        frame=line.get("frame"),
        time=line.get("time"),
        resumed=True,
    )


def _read(file: Path, value_range: ValueRange | None) -> Tensor | UserError:
    """The image, or why it cannot be read."""
    try:
        return read_image(file, value_range=value_range)
    except UserError as error:
        known = media_kind(file) if file.is_file() else None
        return UserError(f"{file}: {known.way_out}") if known is not None and known.kind == "unread" else error


def _bytes_to_decode(file: Path) -> int:
    """The bytes of a picture by its header; 0 where it cannot be read."""
    try:
        height, width = read_header(file).stored
    except UserError:
        return 0
    return 3 * height * width


def _drawing_suffix(file: Path) -> str:
    """``.mp4`` for a video, ``.jpg`` for a picture whose content is JPEG, else ``.png``."""
    if is_video(file):
        return ".mp4"
    try:
        return ".jpg" if read_header(file).format in ("JPEG", "MPO") else ".png"
    except UserError:
        return ".png"


def _save_drawing(drawing: Image.Image, suffix: str, path: Path) -> None:
    """As JPEG where the input was one, else as PNG, compressed fast; both with the mark of drawings."""
    if suffix == ".jpg":
        drawing.save(path, format="JPEG", quality=JPEG_QUALITY, subsampling=0, comment=DRAWN_BY)
        return
    mark = PngInfo()
    mark.add_text("Software", DRAWN_BY)
    drawing.save(path, format="PNG", pnginfo=mark, compress_level=1)


def _without_unreadable_videos(files: list[Path], sources: Sequence[str | Path], coco: bool) -> list[Path]:
    """The files; without videos, which a warning names, where these lie in a folder of images and cannot be processed.

    Raises `UserError` where such a video was named itself, or nothing else is left.
    """
    videos = [file for file in files if is_video(file)]
    if not videos:
        return files
    try:
        if coco:
            raise UserError(f"{videos[0]}: --coco is for the images of a COCO file, and this is a video; leave one of the two out")
        need_av()
    except UserError as error:
        images = [file for file in files if not is_video(file)]
        if not images or any(not Path(source).is_dir() and is_video(Path(source)) for source in sources):
            raise
        logger.warning("%d videos are left out, such as %s: %s", len(videos), videos[0], error)
        return images
    return files


def _image_ids(path: Path, files: Sequence[Path]) -> dict[str, int]:
    """The ids of a COCO file's images by the last part of their names.

    Raises `UserError` where two are the same, or ``files`` has others.
    """
    file = read_coco_file(path)
    names = [Path(file.file_name(row)).name for row in range(len(file.image_ids))]
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: two images are called {repeated}, so their results cannot be distinguished; rename one")
    known = set(names)
    if unknown := [file for file in files if file.name not in known]:
        raise UserError(f"{unknown[0]}: is no image of {path}; name the COCO file of these pictures")
    return dict(zip(names, file.image_ids.tolist(), strict=True))


def _write_records(path: Path, lines: Iterable[Line]) -> None:
    """The records of all lines as one JSON list, one after another."""

    def write(temporary: Path) -> None:
        separator = "\n"
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("[")
            for line in lines:
                for record in line["detections"]:
                    file.write(separator + json.dumps(record, ensure_ascii=False))
                    separator = ",\n"
            file.write("\n]\n")

    write_whole(path, write)


def _write_coco(path: Path, lines: Iterable[Line], image_ids: dict[str, int], categories: Categories) -> None:
    """The detections as COCO results, with the ids of the images and of the model's classes."""
    category_ids = dict(zip(categories.names, categories.ids, strict=True))
    results = []
    for line in lines:
        image_id = image_ids[Path(line["file_name"]).name]
        for record in line["detections"]:
            values = {key: value for key, value in record.items() if key not in ("file_name", "category")}
            results.append({"image_id": image_id, "category_id": category_ids[record["category"]], **values})
    save_detections(results, path)


def _write_crops(detections: Detections, image: Tensor, folder: Path, prefix: str) -> None:
    """A picture of each detection, its box in whole pixels."""
    from torchvision.transforms.v2.functional import to_pil_image

    boxes = detections.boxes.round().int().tolist()
    for place, ((x1, y1, x2, y2), name) in enumerate(zip(boxes, detections.names, strict=True)):
        if x2 > x1 and y2 > y1:
            crop = to_pil_image(image[:, y1:y2, x1:x2])
            write_whole(folder / f"{prefix}{place:03d}-{file_word(name)}.png", partial(crop.save, format="PNG", compress_level=1))


def _with_progress(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """The items, with a progress bar on a terminal; ``total`` is 0 where their number is not known."""
    if not sys.stderr.isatty() or total == 1 or world_size() > 1:
        yield from items
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    yield from track(items, escape(printable(what)), total=total or None, console=Console(stderr=True))


def _counts(prediction: Prediction) -> str:
    """How many of each class there are, in words."""
    names = [record["category"] for record in prediction.records]
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
