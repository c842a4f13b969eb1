"""boxwood predict."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from boxwood.cli.arguments import imports_option
from boxwood.cli.looking import VIDEOS, Looking, is_video
from boxwood.errors import UserError
from boxwood.inference.journal import Kept, Line

if TYPE_CHECKING:
    from boxwood.inference.predictor import Predictor

__all__ = ["predict", "source_files"]

logger = logging.getLogger(__name__)

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"}
"""Of the files that are taken from a folder, beside `VIDEOS`."""
PART = "predictions.part.jsonl"
"""What is done so far, until predictions.json is written."""


@click.command(short_help="Detect objects in pictures and videos, and draw them.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--model", required=True, metavar="RUN|FILE|NAME", help="A run, a .safetensors file, or a name of the zoo.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="predictions by default; none with --json.")
@click.option("--score", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="The least score that is kept.")
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="How many pictures go through the model at once."
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a picture or frame, for other programs.")
@click.option("--crops", is_flag=True, help="Write each detection's part of the picture too.")
@click.option("--no-pictures", is_flag=True, help="Draw nothing.")
@click.option("--coco", type=click.Path(path_type=Path), metavar="FILE.json", help="A COCO file of the images: write COCO results.")
@imports_option
def predict(
    sources: tuple[str, ...],
    model: str,
    out: Path | None,
    score: float,
    batch: int,
    as_json: bool,
    crops: bool,
    no_pictures: bool,
    coco: Path | None,
) -> None:
    """Detect objects in pictures and videos: one drawn picture or video an input, and predictions.json.

    SOURCE is an image, a video, a folder of them, or a pattern such as 'photos/*.jpg'. What cannot be read is named and left out;
    the others are done all the same. What is found is kept as it comes: the same command again goes on where it was stopped.

    \b
      boxwood predict photos --model runs/nuts
      boxwood predict walk.mp4 --model runs/nuts --batch 8
      boxwood predict 'photos/**/*.jpg' --model runs/nuts --no-pictures --crops --out cut
      boxwood predict photos --model runs/nuts --json | jq .detections[].category
    """
    from boxwood.files import make_folder
    from boxwood.inference.predictor import load

    files = list(dict.fromkeys(file for source in sources for file in source_files(source)))
    folder = None if as_json and out is None else out or Path("predictions")
    if folder is None and (crops or coco):
        raise UserError("--crops and --coco write files, and --json alone writes none; name a folder with --out")
    files = _without_stray_videos(files, sources, coco)
    image_ids = {} if coco is None else _image_ids(coco, files)
    call = Looking(load(model), score, batch, folder, not no_pictures, crops, as_json)
    if folder is None:
        call.look_at(files)
    else:
        make_folder(folder)
        # So that no drawing takes the place of what it is made from.
        call.taken |= {file.name for file in files if file.resolve().parent == folder.resolve()}
        about = {"model": model, "score": score, "crops": crops, "pictures": not no_pictures}
        with closing(Kept(folder / PART, about)) as kept:
            call.kept = kept
            call.taken |= set(kept.pictures.values())
            call.look_at(files)
            names = {str(file) for file in files}
            found = _write_found(folder / "predictions.json", kept.lines(names))
            if coco is not None:
                _write_coco(folder / "coco.json", kept.lines(names), image_ids, call.predictor)
        (folder / PART).unlink()
        if not as_json:
            seen = f"{len(files) - len(call.failed)} {'seen' if no_pictures else 'drawn'}"
            click.echo(f"{folder}: {seen}, {found} detections in predictions.json")
    if call.failed:
        what = "pictures and videos" if any(map(is_video, files)) else "pictures"
        raise UserError(
            f"{len(call.failed)} of {len(files)} {what} could not be read: {', '.join(call.failed)}; the others are done"
        )


def source_files(source: str) -> list[Path]:
    """The images and videos that a person means by a file, a folder or a pattern. Raises `UserError` where there is none."""
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES | VIDEOS and file.is_file())
        if not files:
            raise UserError(f"{path}: no images in this folder, and no videos ({', '.join(sorted(IMAGES | VIDEOS))})")
        return files
    if path.exists():
        return [path]
    files = sorted(Path(name) for name in glob.glob(source, recursive=True) if Path(name).is_file())
    if not files:
        raise UserError(f"{source}: no such file, folder, or pattern that fits a file")
    return files


# ------------------------------------------------------------------------------------------------------------ internals


def _without_stray_videos(files: list[Path], sources: Sequence[str], coco: Path | None) -> list[Path]:
    """The files; without videos, which a warning names, where these lie in a folder of images and cannot be looked at.

    Raises `UserError` where one that was named itself cannot be read, or what is asked for is for images.
    """
    from boxwood.inference.video import need_av

    videos = [file for file in files if is_video(file)]
    if not videos:
        return files
    try:
        if coco is not None:
            raise UserError(f"{videos[0]}: --coco is for the images of a COCO file, and this is a video; leave one of the two out")
        need_av()
    except UserError as error:
        images = [file for file in files if not is_video(file)]
        if not images or any(not Path(source).is_dir() and is_video(Path(source)) for source in sources):
            raise
        logger.warning("%d videos are left out, such as %s: %s", len(videos), videos[0], error)
        return images
    return files


def _write_found(path: Path, lines: Iterable[Line]) -> int:
    """The records of all lines as one list, one after another; how many they are."""
    from boxwood.files import write_whole

    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("[")
            for line in lines:
                for record in line["detections"]:
                    file.write((",\n" if count else "\n") + json.dumps(record, ensure_ascii=False))
                    count += 1
            file.write("\n]\n")

    write_whole(path, write)
    return count


def _image_ids(path: Path, files: Sequence[Path]) -> dict[str, int]:
    """The ids of a COCO file's images by the last part of their names. Raises `UserError` where two are the same, or ``files`` has
    others."""
    from boxwood.data.coco_file import read_coco_file

    file = read_coco_file(path)
    names = [Path(file.file_name(row)).name for row in range(len(file.image_ids))]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: two images are called {twice}, so results cannot be told apart; rename one")
    known = set(names)
    if strangers := [file for file in files if file.name not in known]:
        raise UserError(f"{strangers[0]}: is no image of {path}; name the COCO file of these pictures")
    return dict(zip(names, file.image_ids.tolist(), strict=True))


def _write_coco(path: Path, lines: Iterable[Line], image_ids: dict[str, int], predictor: Predictor) -> None:
    """The detections as COCO results, with the ids of the images and of the model's classes."""
    from boxwood.evaluation import save_detections

    ids = dict(zip(predictor.categories.names, predictor.categories.ids, strict=True))
    results = []
    for line in lines:
        image_id = image_ids[Path(line["file_name"]).name]
        for record in line["detections"]:
            own = {key: value for key, value in record.items() if key not in ("file_name", "category")}
            results.append({"image_id": image_id, "category_id": ids[record["category"]], **own})
    save_detections(results, path)
