"""boxwood predict."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boxwood.cli.arguments import imports_option
from boxwood.errors import UserError

if TYPE_CHECKING:
    from boxwood.structures import Detections

__all__ = ["image_files", "predict", "records"]

logger = logging.getLogger(__name__)

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"}
"""Of the files that are taken from a folder."""


@click.command(short_help="Detect objects in pictures, and draw them.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--model", required=True, metavar="RUN|FILE|NAME", help="A run, a .safetensors file, or a name of the zoo.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("predictions"), show_default=True, metavar="DIR")
@click.option("--score", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="The least score that is kept.")
@imports_option
def predict(sources: tuple[str, ...], model: str, out: Path, score: float) -> None:
    """Detect objects in pictures: one drawn picture an input, and predictions.json.

    SOURCE is an image, a folder of images, or a pattern such as 'photos/*.jpg'. A picture that cannot be read is named and left
    out; the others are done all the same.
    """
    from boxwood.files import make_folder, write_text, write_whole
    from boxwood.inference.predictor import load

    files = [file for source in sources for file in image_files(source)]
    predictor = load(model)
    make_folder(out)
    found: list[dict[str, Any]] = []
    failed: list[str] = []
    taken: set[str] = set()
    for file in files:
        try:
            detections = predictor(file)
        except UserError as error:
            logger.error("%s", error)
            failed.append(str(file))
            continue
        picture = detections.draw(file, score)
        write_whole(out / _new_name(file, taken), partial(picture.save, format="PNG"))
        kept = detections[detections.scores >= score]
        found.extend(records(kept, str(file)))
        logger.info("%s: %s", file, _summary(kept.names))
    write_text(out / "predictions.json", json.dumps(found, ensure_ascii=False, indent=1))
    click.echo(f"{out}: {len(files) - len(failed)} drawn, {len(found)} detections in predictions.json")
    if failed:
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
