"""The tables of boxes that TensorFlow's Object Detection API is fed from, as ``xml_to_csv`` and Roboflow write them.

filename,width,height,class,xmin,ymin,xmax,ymax
a.jpg,640,480,nut,12,30,80,95
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

from boxwood.data.formats.collect import Collected, origin_of
from boxwood.data.formats.reading import Reading, pictures_below, read_table
from boxwood.errors import UserError
from boxwood.pixels import read_header

__all__ = ["has_tensorflows_columns", "read_tensorflow_csv"]

COLUMNS = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")
ORIGIN = ("score", "source")
"""Further columns that are read: where a detector labelled the box (`boxwood.data.coco_file.ANNOTATION_EXTRAS`)."""


def has_tensorflows_columns(path: Path) -> bool:
    """Whether a .csv begins with the names of these columns, in any order."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader([file.readline(10_000)]), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return {"filename", "class", "xmin"} <= {name.strip() for name in header}


def read_tensorflow_csv(path: Path, images: Path | None = None) -> Reading:
    """A table of boxes in pixels, one in each line.

    ``images`` is the folder of the pictures; by default that of the table, where they lie there. A size of 0 is read from the
    picture. A table names only images with boxes: other pictures of the folder are counted. Classes are ordered by name. Raises
    `UserError` where the file cannot be read or a line is not valid.
    """
    collected = Collected()
    ids: dict[str, int] = {}
    sizes: dict[str, tuple[int, int]] = {}
    folder = images or path.parent
    for line, row in read_table(path, COLUMNS, f"name a table of {', '.join(COLUMNS)}"):
        name, where = row["filename"].replace("\\", "/"), f"{path}:{line}"
        if not name:
            raise UserError(f"{where}: has no filename; correct the line")
        size = _size(row, where) or sizes.get(name) or _size_of_picture(folder / name, where)
        if sizes.setdefault(name, size) != size:
            raise UserError(f"{where}: {name} has another size than in a line before; correct the line")
        if name not in ids:
            ids[name] = collected.image(name, *size)
        for column, value in row.items():
            collected.lost[f"values of the column {column:.40}"] += bool(value) and column not in (*COLUMNS, *ORIGIN)
        if any(row[key] for key in COLUMNS[3:]):  # else an image without boxes
            x1, y1, x2, y2 = (_number(row, key, where) for key in COLUMNS[4:])
            if not row["class"]:
                raise UserError(f"{where}: has no class; correct the line")
            collected.box(ids[name], row["class"], (x1, y1, x2, y2))
            score = _number(row, "score", where) if row.get("score") else None
            collected.instances[-1] |= origin_of(score, row.get("source"))
    if not ids:
        raise UserError(f"{path}: has no lines of images; name another table")
    is_folder = images is not None or os.path.isfile(folder / next(iter(ids)))
    pictures, unread = pictures_below(folder, "*") if is_folder else ([], {})
    collected.lost["pictures without a line"] = sum(picture.name not in ids for picture in pictures)
    collected.lost.update(unread)
    coco, lost = collected.coco()
    return Reading(coco, folder if is_folder else None, lost)


def _size(row: dict[str, str], where: str) -> tuple[int, int] | None:
    """(height, width); None where the line has 0 or nothing."""
    height, width = (_number(row, key, where) if row[key] else 0 for key in ("height", "width"))
    if min(height, width) < 0 or height % 1 or width % 1:
        raise UserError(f"{where}: an image cannot have {width:g} x {height:g} pixels; correct the line")
    return (int(height), int(width)) if min(height, width) > 0 else None


def _size_of_picture(picture: Path, where: str) -> tuple[int, int]:
    if not os.path.isfile(picture):
        raise UserError(
            f"{where}: has no size of the image, and {picture} is not there to be asked; name the pictures with --images"
        )
    return read_header(picture).oriented


def _number(row: dict[str, str], key: str, where: str) -> float:
    try:
        number = float(row[key])
        if abs(number) < 1e9:  # neither nan nor inf
            return number
    except ValueError:
        pass
    raise UserError(f"{where}: '{key}' must be a number, got {row[key]!r:.40}; correct the line")
