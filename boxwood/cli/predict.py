"""boxwood predict."""

from __future__ import annotations

import glob
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boxwood.cli.arguments import imports_option
from boxwood.errors import UserError

if TYPE_CHECKING:
    from boxwood.inference.predictor import Predictor
    from boxwood.structures import Detections

__all__ = ["image_files", "predict", "records"]

logger = logging.getLogger(__name__)

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"}
"""Of the files that are taken from a folder."""
PART = "predictions.part.jsonl"
"""What is done so far: a line about the call, then one a picture."""

Line = dict[str, Any]
"""Of one picture: ``file_name``, ``detections`` (records), ``picture`` (the drawn file's name); or ``file_name`` and ``error``."""


@click.command(short_help="Detect objects in pictures, and draw them.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--model", required=True, metavar="RUN|FILE|NAME", help="A run, a .safetensors file, or a name of the zoo.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="predictions by default; none with --json.")
@click.option("--score", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="The least score that is kept.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a picture, for other programs.")
@click.option("--crops", is_flag=True, help="Write each detection's part of the picture too.")
@click.option("--no-pictures", is_flag=True, help="Draw nothing.")
@click.option("--coco", type=click.Path(path_type=Path), metavar="FILE.json", help="A COCO file of the images: write COCO results.")
@imports_option
def predict(
    sources: tuple[str, ...],
    model: str,
    out: Path | None,
    score: float,
    as_json: bool,
    crops: bool,
    no_pictures: bool,
    coco: Path | None,
) -> None:
    """Detect objects in pictures: one drawn picture an input, and predictions.json.

    SOURCE is an image, a folder of images, or a pattern such as 'photos/*.jpg'. A picture that cannot be read is named and left
    out; the others are done all the same. What is found is kept as it comes: the same command again goes on where it was stopped.

    \b
      boxwood predict photos --model runs/nuts
      boxwood predict 'photos/**/*.jpg' --model runs/nuts --no-pictures --crops --out cut
      boxwood predict photos --model runs/nuts --json | jq .detections[].category
    """
    from boxwood.files import make_folder, write_text
    from boxwood.inference.predictor import load

    files = list(dict.fromkeys(file for source in sources for file in image_files(source)))
    folder = None if as_json and out is None else out or Path("predictions")
    if folder is None and (crops or coco):
        raise UserError("--crops and --coco write files, and --json alone writes none; name a folder with --out")
    image_ids = {} if coco is None else _image_ids(coco, files)
    predictor = load(model)
    lines: dict[str, Line] = {}
    taken: set[str] = set()

    def one(file: Path) -> Line:
        return _predicted(predictor, file, score, folder, taken, draw=not no_pictures, crops=crops)

    if folder is None:
        for file in _with_progress(files):
            lines[str(file)] = line = one(file)
            click.echo(json.dumps(line, ensure_ascii=False))
    else:
        make_folder(folder)
        about = {"model": model, "score": score, "crops": crops, "pictures": not no_pictures}
        with _kept(folder / PART, about, lines) as keep:
            taken |= {line["picture"] for line in lines.values() if "picture" in line}
            for file in _with_progress([file for file in files if str(file) not in lines]):
                lines[str(file)] = line = one(file)
                keep(line)
                if as_json:
                    click.echo(json.dumps(line, ensure_ascii=False))
        done = [lines[str(file)] for file in files]
        found = [record for line in done for record in line.get("detections", [])]
        write_text(folder / "predictions.json", json.dumps(found, ensure_ascii=False, indent=1))
        if coco is not None:
            _write_coco(folder / "coco.json", done, image_ids, predictor)
        (folder / PART).unlink()
        drawn = sum("error" not in line for line in done)
        if not as_json:
            click.echo(f"{folder}: {drawn} {'seen' if no_pictures else 'drawn'}, {len(found)} detections in predictions.json")
    if failed := [str(file) for file in files if "error" in lines[str(file)]]:
        raise UserError(f"{len(failed)} of {len(files)} pictures could not be read: {', '.join(failed)}; the others are done")


def image_files(source: str) -> list[Path]:
    """The image files that a person means by a file, a folder or a pattern. Raises `UserError` where there is none."""
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise UserError(f"{path}: no images in this folder ({', '.join(sorted(SUFFIXES))})")
        return files
    if path.exists():
        return [path]
    files = sorted(Path(name) for name in glob.glob(source, recursive=True) if Path(name).is_file())
    if not files:
        raise UserError(f"{source}: no such file, folder, or pattern that fits a file")
    return files


def records(detections: Detections, file_name: str) -> list[dict[str, Any]]:
    """The detections of one picture as COCO-like records, with the names of the file and of the categories; keypoints are x, y
    as indices of pixels, as COCO has them, and a score."""
    rles = detections.rles()
    result: list[dict[str, Any]] = []
    for index, (name, score, box) in enumerate(
        zip(detections.names, detections.scores.tolist(), detections.boxes.tolist(), strict=True)
    ):
        x1, y1, x2, y2 = box
        record = {"file_name": file_name, "category": name, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        if rles is not None:
            record["segmentation"] = rles[index]
        if detections.keypoints is not None:
            record["keypoints"] = [v for x, y, score in detections.keypoints[index].tolist() for v in (x - 0.5, y - 0.5, score)]
        result.append(record)
    return result


# ------------------------------------------------------------------------------------------------------------ internals


def _predicted(
    predictor: Predictor, file: Path, score: float, folder: Path | None, taken: set[str], *, draw: bool, crops: bool
) -> Line:
    """Look at one picture, and write what is asked for."""
    from boxwood.files import write_whole

    try:
        detections = predictor(file)
    except UserError as error:
        logger.error("%s", error)
        return {"file_name": str(file), "error": str(error)}
    kept = detections[detections.scores >= score]
    line: Line = {"file_name": str(file), "detections": records(kept, str(file))}
    if folder is not None and (draw or crops):
        name = _new_name(file, taken)
        line["picture"] = name
        if draw:
            picture = detections.draw(file, score)
            write_whole(folder / name, partial(picture.save, format="PNG"))
        if crops:
            _write_crops(kept, file, folder / "crops" / Path(name).stem)
    logger.info("%s: %s", file, _summary(kept.names))
    return line


@contextmanager
def _kept(path: Path, about: dict[str, Any], lines: dict[str, Line]) -> Iterator[Callable[[Line], None]]:
    """Append lines to a file as they come, after those that a call before left there, which are put into ``lines``.

    Raises `UserError` where what is there is of another call.
    """
    from boxwood.files import write_text

    if path.exists():
        told = list(_whole_lines(path))
        if not told or told[0] != about:
            raise UserError(f"{path}: is of a call with another model or other options; name another --out, or remove the file")
        lines |= {line["file_name"]: line for line in told[1:] if "error" not in line}
        logger.info("%d pictures are done already", len(lines))
    # What is there is written whole, so that a line that was cut short is not continued; then line after line.
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (about, *lines.values())))
    with path.open("a", encoding="utf-8") as file:

        def keep(line: Line) -> None:
            try:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
            except OSError as error:
                raise UserError(f"{path}: cannot be written ({error.strerror}); make room, and the same command goes on") from None

        yield keep


def _whole_lines(path: Path) -> Iterator[Any]:
    """What the lines of a file hold, up to one that was cut short."""
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield json.loads(text)
        except ValueError:
            return


def _with_progress(files: Sequence[Path]) -> Iterable[Path]:
    """The files, with a bar on a terminal."""
    if not sys.stderr.isatty() or len(files) < 2:
        yield from files
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(files, description="pictures", console=Console(stderr=True))


def _write_crops(found: Detections, file: Path, folder: Path) -> None:
    """A picture of each detection, its box in whole pixels."""
    from torchvision.transforms.v2.functional import to_pil_image

    from boxwood.data.images import read_image
    from boxwood.files import write_whole

    image = read_image(file)
    for rank, ((x1, y1, x2, y2), name) in enumerate(zip(found.boxes.round().int().tolist(), found.names, strict=True)):
        if x2 > x1 and y2 > y1:
            word = "".join(character if character.isalnum() else "-" for character in name)
            crop = to_pil_image(image[:, y1:y2, x1:x2])
            write_whole(folder / f"{rank:03d}-{word}.png", partial(crop.save, format="PNG"))


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


def _write_coco(path: Path, lines: Sequence[Line], image_ids: dict[str, int], predictor: Predictor) -> None:
    """The detections as COCO results, with the ids of the images and of the model's classes."""
    from boxwood.evaluation import save_detections

    ids = dict(zip(predictor.categories.names, predictor.categories.ids, strict=True))
    results = []
    for line in lines:
        image_id = image_ids[Path(line["file_name"]).name]
        for record in line.get("detections", []):
            own = {key: value for key, value in record.items() if key not in ("file_name", "category")}
            results.append({"image_id": image_id, "category_id": ids[record["category"]], **own})
    save_detections(results, path)


def _new_name(file: Path, taken: set[str]) -> str:
    """``photo.png`` for ``photo.jpg``; ``photo-2.png`` for another photo of that name."""
    name, number = f"{file.stem}.png", 1
    while name in taken:
        number += 1
        name = f"{file.stem}-{number}.png"
    taken.add(name)
    return name


def _summary(names: Sequence[str]) -> str:
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
