"""Open Images' tables of boxes: one box in each line, its sides as fractions of the image's width and height."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from boxwood.data.formats.collect import Collected
from boxwood.data.images import read_header
from boxwood.errors import UserError

__all__ = ["read_open_images"]

COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")


def read_open_images(path: Path, images: Path, classes: Path | None = None) -> tuple[dict[str, Any], list[str]]:
    """A COCO dictionary of a table of boxes (``train-annotations-bbox.csv``) for the images in a folder, ``IMAGEID.jpg``.

    Image sizes are read from the headers of the images; images of the table that are not in the folder are skipped and counted.
    ``classes`` is the table of class names (``class-descriptions-boxable.csv``); without it classes have the names of the table,
    such as ``/m/01g317``. Boxes around a group become crowd regions. The second result describes what the dictionary lacks. Raises
    `UserError` where a file cannot be read or a line is not valid.
    """
    if not images.is_dir():
        raise UserError(f"{images}: is no folder; name the folder of the images with --images")
    names = dict(_pairs(classes)) if classes is not None else {}
    files = {file.stem: file for file in sorted(images.iterdir()) if file.suffix.lower() in (".jpg", ".jpeg", ".png")}
    collected = Collected(tuple(dict.fromkeys(names.values())))
    ids: dict[str, tuple[int, int, int]] = {}
    for stem, file in files.items():
        height, width = read_header(file).oriented
        ids[stem] = (collected.image(file.name, height, width), height, width)
    missing_images: set[str] = set()
    for line, row in _rows(path):
        if row["ImageID"] not in ids:
            missing_images.add(row["ImageID"])
            continue
        image_id, height, width = ids[row["ImageID"]]
        try:
            x1, x2, y1, y2 = (float(row[key]) for key in COLUMNS[2:])
        except (TypeError, ValueError):
            raise UserError(f"{path}:{line}: XMin, XMax, YMin and YMax must be numbers; correct the line") from None
        if not all(-1 <= share <= 2 for share in (x1, x2, y1, y2)):
            raise UserError(f"{path}:{line}: XMin, XMax, YMin and YMax must be shares of the image, 0 to 1; correct the line")
        corners = (x1 * width, y1 * height, x2 * width, y2 * height)
        collected.box(image_id, names.get(row["LabelName"], row["LabelName"]), corners, crowd=row.get("IsGroupOf") == "1")
    if missing_images:
        collected.lost[f"images of the table are not in {images}"] = len(missing_images)
    return collected.coco()


def _rows(path: Path) -> Any:
    """The line number and the columns of each row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise UserError(f"{path}: has no column {missing[0]}; name a table of Open Images' boxes")
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:80]}); name a table of boxes") from None


def _pairs(path: Path) -> list[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:80]}); name the table of classes") from None
    if any(len(row) != 2 for row in rows):
        raise UserError(f"{path}: must have two columns, the class and its name")
    return [(row[0], row[1]) for row in rows if row[0] != "LabelName"]
