"""Open Images' tables of boxes: one box in each line, its sides as fractions of the image's width and height."""

from __future__ import annotations

import csv
from pathlib import Path

from boxwood.data.formats.collect import Collected, origin_of
from boxwood.data.formats.reading import Reading, pictures_below, read_table
from boxwood.errors import UserError
from boxwood.pixels import read_header

__all__ = ["read_open_images"]

COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
READ = frozenset({*COLUMNS, "IsGroupOf", "Source", "Confidence"})
NOTHING = frozenset({"", "0", "-1"})
"""Values of marks such as ``IsOccluded`` that say no, or that it is not known."""


def read_open_images(path: Path, images: Path, classes: Path | None = None) -> Reading:
    """A table of boxes (``train-annotations-bbox.csv``) for the images in a folder, ``IMAGEID.jpg``.

    Image sizes are read from the headers of the images; boxes of images that are not in the folder are left out and counted.
    ``classes`` is the table of class names (``class-descriptions-boxable.csv``); without it classes have the names of the table,
    such as ``/m/01g317``. Boxes around a group become crowd regions. Raises `UserError` where a file cannot be read or a line is
    not valid.
    """
    if not images.is_dir():
        raise UserError(f"{images}: is no folder; name the folder of the images with --images")
    names = dict(_pairs(classes)) if classes is not None else {}
    collected = Collected(tuple(dict.fromkeys(names.values())))
    files, unread = pictures_below(images, "*")
    collected.lost.update(unread)
    ids: dict[str, tuple[int, int, int]] = {}
    for file in files:
        if file.stem in ids:
            collected.lost["images that differ from others in their ending alone"] += 1
            continue
        height, width = read_header(file).oriented
        ids[file.stem] = (collected.image(file.name, height, width), height, width)
    missing_images: set[str] = set()
    for line, row in read_table(path, COLUMNS, "name a table of Open Images' boxes"):
        try:
            x1, x2, y1, y2 = (float(row[key]) for key in COLUMNS[2:])
        except ValueError:
            raise UserError(f"{path}:{line}: XMin, XMax, YMin and YMax must be numbers; correct the line") from None
        if not all(-1 <= share <= 2 for share in (x1, x2, y1, y2)):
            raise UserError(f"{path}:{line}: XMin, XMax, YMin and YMax must be shares of the image, 0 to 1; correct the line")
        if not row["ImageID"] or not row["LabelName"]:
            raise UserError(f"{path}:{line}: must have an ImageID and a LabelName; correct the line")
        if row["ImageID"] not in ids:
            missing_images.add(row["ImageID"])
            collected.lost[f"boxes of images that are not in {images}"] += 1
            continue
        image_id, height, width = ids[row["ImageID"]]
        corners = (x1 * width, y1 * height, x2 * width, y2 * height)
        crowd = row.get("IsGroupOf") == "1"
        collected.box(image_id, names.get(row["LabelName"], row["LabelName"]), corners, crowd=crowd)
        collected.instances[-1] |= origin_of(_confidence(row, f"{path}:{line}"), row.get("Source"))
        for column, value in row.items():
            if column not in READ and value not in NOTHING:
                collected.lost[f"values of the column {column:.40}"] += 1
    if missing_images:
        collected.lost[f"images of the table are not in {images}"] = len(missing_images)
    coco, lost = collected.coco()
    return Reading(coco, images, lost)


def _confidence(row: dict[str, str], where: str) -> float | None:
    """The score of a box that a detector predicted; None where the column has 1, as for all boxes that people drew or verified."""
    text = row.get("Confidence", "")
    try:
        confidence = float(text or 1)
    except ValueError:
        raise UserError(f"{where}: Confidence must be a number, got {text!r:.40}; correct the line") from None
    return confidence if 0 <= confidence < 1 else None


def _pairs(path: Path) -> list[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:80]}); name the table of classes") from None
    if any(len(row) != 2 for row in rows):
        raise UserError(f"{path}: must have two columns, the class and its name")
    return [(row[0], row[1]) for row in rows if row[0] != "LabelName"]
