"""Checks that run when a data set is opened: every kind of fault at once, each either repaired or refused.

Checks are vectorised, so that a file of a million annotations is checked in the time that its JSON takes to parse.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood.columns import MAX_COORDINATE
from boxwood.data.coco_file import NO_MASK, POLYGONS, CocoFile, Texts
from boxwood.data.file_names import LocatedNames
from boxwood.data.images import MAX_PIXELS, read_header, read_image
from boxwood.data.quality.box_layouts import recognised_layout, turned
from boxwood.data.shards import PictureFolder, open_pictures
from boxwood.errors import UserError

__all__ = [
    "Finding",
    "RepairedBoxes",
    "check_areas",
    "check_boxes",
    "check_identities",
    "check_masks",
    "check_pixels",
    "check_readings",
    "check_run_lengths",
    "locate_images",
    "or_fix",
    "refuse",
]

MIN_SIDE = 0.01
"""Boxes with a side under this many pixels are left out: their regression targets would be infinite in float32."""
TOLERANCE = 1.0
"""A box may reach beyond the image by so many pixels before that is worth a line; it is clipped in any case."""
LONGEST_EXAMPLE = 400
"""Letters of an example in a message: names of classes may be of any length."""
NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """One kind of fault: how often, the first examples, and what was done about it."""

    problem: str
    count: int
    examples: tuple[str, ...]
    repair: str = ""
    """What Boxwood does about it; empty where only a person can."""
    advice: str = ""
    """What a person can do, where Boxwood cannot."""
    look: bool = False
    """Allowed, but rarely intended (`boxwood.data.quality.warnings`)."""
    where: str = ""
    """The annotation file, or ``train and val``, where `boxwood.check` reports it."""

    @property
    def refused(self) -> bool:
        return not self.repair and not self.look

    @property
    def verdict(self) -> str:
        """What training does about it: ``repaired``, ``refused``, or ``look`` (nothing)."""
        return "look" if self.look else "refused" if self.refused else "repaired"

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        examples = [text if len(text) <= LONGEST_EXAMPLE else f"{text[: LONGEST_EXAMPLE - 3]}..." for text in self.examples]
        return f"{self.count} {self.problem}: {'; '.join(examples)}{more} -- {self.repair or self.advice}"


@dataclass(frozen=True)
class RepairedBoxes:
    """The boxes to train on."""

    boxes: NDArray[np.float32]
    """(A, 4) xyxy, clipped to the image; zeros where they are not usable."""
    usable: NDArray[np.bool_]
    """(A,) False for boxes without area inside the image."""


def or_fix(file: CocoFile, what: str) -> str:
    """Advice to correct a file, or to let the command that repairs a copy do ``what``, where it can repair the file."""
    if not file.path.endswith(".json"):
        return "correct the annotation file"
    command = f"boxwood data check {file.path} --images DIR --fix OUT.json"
    return f"correct the annotation file, or let this command {what} in a copy: {command}"


def check_readings(file: CocoFile) -> list[Finding]:
    """What is written in another way than COCO's, and is read as it is meant."""
    return [Finding(one.problem, one.count, tuple(one.examples), one.reading, look=True) for one in file.readings]


def check_identities(file: CocoFile) -> list[Finding]:
    """Duplicate ids and names, and ids that refer to nothing; every such finding is refused."""
    category_ids = np.array([category["id"] for category in file.categories], dtype=np.int64)
    names = [str(category["name"]) for category in file.categories]
    findings = [
        _finding(
            "duplicate image ids", _repeated(file.image_ids), lambda i: f"{file.image_ids[i]} '{file.file_name(i)}' (row {i})"
        ),
        _finding("duplicate image names", _repeated(_names(file)), lambda i: f"'{file.file_name(i)}' (row {i})"),
        _finding("duplicate annotation ids", _repeated(file.ids), file.describe),
        _finding("duplicate category ids", _repeated(category_ids), lambda i: f"{category_ids[i]} '{names[i]}' (row {i})"),
        _finding("duplicate category names", _repeated(np.array(names)), lambda i: f"'{names[i]}' (row {i})"),
        _finding("annotations of images that the file does not have", file.image_rows < 0, file.describe),
        _finding(
            "annotations of categories that the file does not have",
            ~np.isin(file.category_ids, category_ids),
            lambda i: f"category {file.category_ids[i]}, {file.describe(i)}",
        ),
        _finding(
            "images without a positive size",
            np.any((file.image_sizes <= 0) | (file.image_sizes >= 2**31), axis=1),
            lambda i: f"'{file.file_name(i)}' (row {i}): {_by(file.image_sizes[i])}",
        ),
    ]
    return [finding for finding in findings if finding]


def check_boxes(file: CocoFile) -> tuple[RepairedBoxes, list[Finding]]:
    """Boxes without area, outside or partly outside their image; all are repaired, by leaving them out or by clipping."""
    x, y, width, height = file.boxes.T
    limits = file.image_sizes[file.image_rows][:, [1, 0, 1, 0]].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.stack([x, y, x + width, y + height], axis=1)
        finite = np.isfinite(corners).all(axis=1)
        degenerate = finite & ((width < MIN_SIDE) | (height < MIN_SIDE))
        sound = finite & ~degenerate
        clipped = np.clip(np.where(finite[:, None], corners, 0.0), 0.0, limits)
        outside = sound & (clipped[:, 2:] - clipped[:, :2] < MIN_SIDE).any(axis=1)
        partly = sound & ~outside & (np.abs(clipped - corners) > TOLERANCE).any(axis=1)

    def describe(i: int) -> str:
        return f"{file.describe(i)}: bbox {file.boxes[i].tolist()}"

    def describe_in_image(i: int) -> str:
        return f"{describe(i)} in {int(limits[i, 0])} x {int(limits[i, 1])} pixels"

    left_out = "left out of training"
    negative = degenerate & (np.minimum(width, height) < 0)
    findings = [
        _unusable(file, sound & ~outside, describe_in_image),
        _finding("boxes with nan or infinity", ~finite, describe, repair=f"{left_out} and of the truth"),
        _finding(
            "boxes of negative width or height", negative, describe, repair=f"{left_out}; {_if_turned(file, negative, limits)}"
        ),
        _finding("boxes without width or height", degenerate & ~negative, describe, repair=left_out),
        _finding("boxes outside their image", outside, describe_in_image, repair=left_out),
        _finding("boxes partly outside their image", partly, describe_in_image, repair="clipped to the image"),
    ]
    usable = sound & ~outside
    return RepairedBoxes(np.where(usable[:, None], clipped, 0.0).astype(np.float32), usable), [
        finding for finding in findings if finding
    ]


def _unusable(file: CocoFile, usable: NDArray[np.bool_], describe: Callable[[int], str]) -> Finding | None:
    """Boxes that are all written in another way than COCO's, or of which training could use none."""
    everything = np.ones(len(usable), dtype=np.bool_)
    if (layout := recognised_layout(file)) is not None:
        advice = or_fix(file, "write them as x, y, width, height in pixels")
        return _finding(f"boxes that look like {layout.description}", everything, describe, advice=advice)
    if usable.any():
        return None
    advice = or_fix(file, "turn boxes whose corners are swapped")
    return _finding("annotations, of which none has a box that can be used", everything, describe, advice=advice)


def _if_turned(file: CocoFile, negative: NDArray[np.bool_], limits: NDArray[np.float64]) -> str:
    boxes = turned(file.boxes[negative])
    inside = (boxes[:, :2] >= -TOLERANCE) & (boxes[:, :2] + boxes[:, 2:] <= limits[negative, :2] + TOLERANCE)
    if not inside.all():
        return "correct the annotation file"
    return f"their corners look swapped; {or_fix(file, 'turn them')}"


def check_areas(file: CocoFile) -> list[Finding]:
    """Areas that are missing or not a positive number, of instances that have a box or a mask; all are computed.

    COCO's rule takes an instance for small, medium or large by its area, and ignores one of negative area.
    """
    has_shape = (np.isfinite(file.boxes).all(axis=1) & (file.boxes[:, 2:] > 0).all(axis=1)) | (file.mask_kinds != NO_MASK)
    wrong = has_shape & ~((file.areas > 0) & (file.areas < 2.0**63))

    def describe(i: int) -> str:
        return f"{file.describe(i)}: {'no number' if np.isnan(file.areas[i]) else file.areas[i]}"

    repair = "for evaluation computed from the mask, or else from the box"
    finding = _finding("annotations whose 'area' is missing or not a positive number", wrong, describe, repair=repair)
    return [finding] if finding else []


def check_masks(file: CocoFile) -> tuple[NDArray[np.bool_], list[Finding]]:
    """Which polygon parts are usable, (P,), and the findings.

    Parts that are no polygon are left out; run lengths of another size than the image are refused.
    """
    lengths = np.diff(file.points)
    # The cumulative count of numbers that are not finite or cannot be meant shows for all parts at once which have any.
    broken = np.concatenate([[0], np.cumsum(~(np.abs(file.coordinates) < MAX_COORDINATE))])
    usable = (lengths >= 6) & (lengths % 2 == 0) & (np.diff(broken[file.points]) == 0)
    owner = np.repeat(np.arange(len(file.ids)), np.diff(file.parts))
    is_rle = file.mask_kinds > POLYGONS
    other_size = is_rle & np.any(file.rle_sizes != file.image_sizes[file.image_rows], axis=1)
    usable_parts = np.diff(np.concatenate([[0], np.cumsum(usable)])[file.parts])
    without = ~is_rle & (usable_parts == 0)
    findings = [
        _finding(
            "polygon parts with under 3 points or with nan",
            ~usable,
            lambda part: f"{file.describe(int(owner[part]))}: {lengths[part]} numbers",
            repair="these parts left out",
        ),
        _finding(
            "run-length masks of another size than their image",
            other_size,
            lambda i: f"{file.describe(i)}: mask {_by(file.rle_sizes[i])}, image {_by(file.image_sizes[file.image_rows[i]])}",
            advice=_about_sizes(file, np.flatnonzero(other_size)),
        ),
    ]
    if not without.all():
        problem = "annotations without a mask beside others that have one"
        findings.append(_finding(problem, without, file.describe, repair="these are left out of the mask loss"))
    return usable, [finding for finding in findings if finding]


def _about_sizes(file: CocoFile, rows: NDArray[np.int64]) -> str:
    advice = or_fix(file, "remove these masks")
    if np.array_equal(file.rle_sizes[rows], file.image_sizes[file.image_rows[rows], ::-1]):
        advice = f"'size' is height, width, and these look like width, height: {advice}"
    return advice


def check_run_lengths(file: CocoFile) -> list[Finding]:
    """Run-length masks that cannot be decoded. All are decoded, which takes too long to be done whenever a file is opened."""
    damaged: dict[int, str] = {}
    for annotation in np.flatnonzero(file.mask_kinds > POLYGONS).tolist():
        try:
            if file.rle_sizes[annotation].prod() > MAX_PIXELS:
                raise ValueError(f"{_by(file.rle_sizes[annotation])} pixels are too many")
            file.decoded(annotation)
        except ValueError as error:
            damaged[annotation] = f"{file.describe(annotation)}: {error}"
    finding = _listed("run-length masks that cannot be decoded", damaged, advice="correct the annotation file")
    return [finding] if finding else []


def locate_images(file: CocoFile, folder: str | Path) -> tuple[CocoFile, list[Finding]]:
    """The file with the names that its images have in the folder, and the findings: names that are written in another way, and
    images that the folder does not have, which are refused. Each folder is listed once, and no image is opened."""
    pictures = open_pictures(folder)
    if isinstance(pictures, PictureFolder) and not Path(folder).is_dir():
        raise UserError(
            f"{folder}: is no folder; name the one in which '{file.file_name(0)}' and the other images of {file.path} lie"
        )
    names = [file.file_name(row) for row in range(len(file.image_ids))]
    located = pictures.locate(names)
    findings = [
        _listed(
            "image names that are written in another way than those of the files",
            {row: _other_name(names[row], name) for row, name in located.read.items()},
            repair="read as these files",
            look=True,
        ),
        _listed(
            f"of {len(names)} images of {file.path} are not in {folder}",
            {row: f"'{names[row]}'" for row in located.missing},
            advice=_where_images_are(file, located, names, folder),
        ),
    ]
    if located.read:
        file = replace(file, file_names=Texts.of([located.read.get(row, name).encode() for row, name in enumerate(names)]))
    return file, [finding for finding in findings if finding]


def _other_name(name: str, of_file: str) -> str:
    same_look = unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", of_file)
    return f"'{name}' is '{of_file}'" + (", whose accents are composed in another way" if same_look else "")


def _where_images_are(file: CocoFile, located: LocatedNames, names: list[str], folder: str | Path) -> str:
    if not located.likely:
        return "correct the image folder, or take them out of the file"
    row, name = next(iter(located.likely.items()))
    count = "all" if len(located.likely) == len(located.missing) else f"{len(located.likely)}"
    return (
        f"{count} of them may be there by another name ('{names[row]}' as '{name}'): correct the image folder, or write these "
        f"names to a copy: boxwood data check {file.path} --images {folder} --fix OUT.json"
    )


def check_pixels(file: CocoFile, folder: str | Path, *, exif: bool = True, decode: bool = False) -> list[Finding]:
    """Images that cannot be read, or whose size differs from the file's: reads every header, with ``decode`` all pixels too."""
    unreadable: dict[int, str] = {}
    turned: dict[int, str] = {}
    resized: dict[int, str] = {}
    pictures = open_pictures(folder)
    for row, size in enumerate(file.image_sizes.tolist()):
        name = file.file_name(row)
        try:
            picture = pictures.source(name)
            header = read_header(picture)
            if decode:
                read_image(picture)
        except UserError as error:
            unreadable[row] = str(error)
            continue
        seen = header.oriented if exif else header.stored
        if tuple(size) == seen:
            continue
        text = f"'{name}' is {_by(seen)}, {file.path} says {_by(size)}"
        if exif and tuple(size) == header.stored:
            turned[row] = text
        else:
            resized[row] = text
    findings = [
        _listed("images that cannot be read", unreadable),
        _listed(
            "images whose annotations were made without their EXIF orientation",
            turned,
            repair="these are read as they are stored, so that boxes and pixels agree",
        ),
        _listed("images of another size than the annotation file says", resized, advice="correct 'height' and 'width'"),
    ]
    return [finding for finding in findings if finding]


def refuse(findings: Iterable[Finding], where: str) -> None:
    """Raise one `UserError` with all findings that are refused, if there are any."""
    refused = [str(finding) for finding in findings if finding.refused]
    if refused:
        raise UserError(f"{where}: " + " | ".join(refused))


def _finding(
    problem: str,
    wrong: NDArray[np.bool_],
    describe: Callable[[int], str],
    *,
    repair: str = "",
    advice: str = "correct the annotation file",
) -> Finding | None:
    rows = np.flatnonzero(wrong)
    if not len(rows):
        return None
    return Finding(problem, len(rows), tuple(describe(int(row)) for row in rows[:NUM_EXAMPLES]), repair, advice)


def _listed(
    problem: str, examples: dict[int, str], *, repair: str = "", advice: str = "replace these files", look: bool = False
) -> Finding | None:
    if not examples:
        return None
    return Finding(problem, len(examples), tuple(list(examples.values())[:NUM_EXAMPLES]), repair, advice, look)


def _repeated(values: NDArray[Any]) -> NDArray[np.bool_]:
    """True at every value that occurs earlier."""
    _, first = np.unique(values, return_index=True)
    repeated = np.ones(len(values), dtype=np.bool_)
    repeated[first] = False
    return repeated


def _names(file: CocoFile) -> NDArray[np.bytes_]:
    return np.array([file.file_names[row] for row in range(len(file.image_ids))])


def _by(size: Iterable[int]) -> str:
    height, width = size
    return f"{width} x {height}"
