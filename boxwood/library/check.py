"""`boxwood data check`: what is wrong in a data set, and a repaired copy of an annotation file.

check         all findings as one list
check_files   the same file by file
repair        a copy without faults
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from boxwood.data import CocoConfig, ResizeShortestEdge
from boxwood.data.annotations import read_any
from boxwood.data.class_order import check_same_names
from boxwood.data.coco_file import CocoFile
from boxwood.data.quality import checks, warnings
from boxwood.data.quality.checks import Finding
from boxwood.data.quality.deep_pixels import look_at_values
from boxwood.data.quality.keypoints import check_keypoints
from boxwood.data.quality.repair import repaired
from boxwood.errors import UserError
from boxwood.files import write_text
from boxwood.library.annotations import is_annotations, one_source, overview, parts_of
from boxwood.pixels import ValueRange
from boxwood.run_config import RunConfig
from boxwood.structures import Categories

__all__ = ["CheckedFile", "check", "check_files", "check_repairable", "repair"]


@dataclass(frozen=True)
class CheckedFile:
    """The findings in one annotation file, or those about both sets of a configuration."""

    path: str
    """The annotation file, or ``train and val``."""
    overview: str
    """What is in the file, in a few words; empty for both sets."""
    findings: list[Finding]

    @property
    def num_faults(self) -> int:
        """How many findings are faults, which training repairs or refuses."""
        return sum(not finding.look for finding in self.findings)


def check(
    source: str | Path | RunConfig,
    overrides: Sequence[str] = (),
    *,
    images: str | Path | None = None,
    decode: bool = False,
    exif: bool = True,
    fix: str | Path | None = None,
) -> list[Finding]:
    """Find what is wrong in a data set.

    ``source`` is a file or folder of annotations (`boxwood.data.layouts`), or a configuration; all its sets are checked, and
    whether images are in several. ``images`` is the folder of the pictures, where it is not found beside the annotations.
    ``decode`` reads the pixels of every image, not only its header; ``exif=False`` says that the annotations were made without
    EXIF orientation. ``fix`` writes a repaired copy of one set there as a COCO file, also where rows of a COCO file cannot be read,
    which is then a finding.

    A finding knows its file (``where``), and whether training repairs the fault, refuses it, or takes it as it is (``verdict``:
    ``repaired``, ``refused``, ``look``). Raises `UserError` where a file cannot be read, or the sets have different classes.
    """
    if fix is not None:
        check_repairable(source, images)
    findings = [
        replace(finding, where=file.path)
        for file in check_files(source, overrides, images=images, decode=decode, exif=exif, repairing=fix is not None)
        for finding in file.findings
    ]
    if fix is not None:
        repair(source, fix, images=images, exif=exif)
    return findings


def check_files(
    source: str | Path | RunConfig,
    overrides: Sequence[str] = (),
    *,
    images: str | Path | None = None,
    decode: bool = False,
    exif: bool = True,
    repairing: bool = False,
) -> Iterator[CheckedFile]:
    """The findings of `check` file by file, each as soon as it is checked.

    With ``repairing`` a COCO file whose rows cannot be read has that as its one finding; else it is a `UserError`.
    """
    parts = parts_of(source, overrides, images)
    of_configuration = not is_annotations(source)
    files: list[CocoFile] = []
    for part in parts:
        data = part.data if of_configuration else part.data.model_copy(update={"exif": exif})
        try:
            file = data.read()
        except UserError as error:
            if not repairing or not data.annotations.endswith(".json"):
                raise
            message = str(error).removeprefix(f"{data.annotations}: ").partition("; correct the file")[0]
            unreadable = Finding("rows that cannot be read, at least", 1, (message,), "", "nothing else could be checked")
            yield CheckedFile(data.annotations, "", [unreadable])
            return
        findings = _findings(file, data.images, data.exif, decode, data.value_range)
        where = file.path if not part.data.split and not part.data.holdout else f"{file.path} ({part.name})"
        yield CheckedFile(where, overview(file), [*findings, *(_tiny_boxes(file, data, findings) if of_configuration else [])])
        files.append(file)
    for other, file in zip(parts[1:], files[1:], strict=True):
        if shared := warnings.look_at_both(files[0], parts[0].data.images, file, other.data.images):
            yield CheckedFile(f"{parts[0].name} and {other.name}", "", shared)
        if not of_configuration:
            check_same_names(_classes(files[0]), _classes(file), parts[0].name, other.name)
    if of_configuration:
        train, val = (part.data.open().categories for part in parts)
        check_same_names(train, val, "data.train", "data.val")


def repair(source: str | Path | RunConfig, out: str | Path, *, images: str | Path | None = None, exif: bool = True) -> list[str]:
    """Write a copy of annotations that can be trained on to ``out``, a COCO file; returns what was left out or corrected, in words.

    Raises `UserError` where ``source`` is no file or folder of one set or is ``out`` itself, or nothing would be left of it.
    """
    data, out = check_repairable(source, images), Path(out)
    if out.suffix != ".json":
        raise UserError(f"{out}: COCO files are written as .json; change the ending")
    if out.exists() and out.samefile(data.annotations):
        raise UserError(f"{out}: is the file itself, which stays as it is; name another")
    if not data.images:
        raise UserError(f"--images: name the folder in which the images of {data.annotations} lie")
    tree, lost = read_any(data.annotations, data.images, data.split)
    content, done = repaired(tree, data.annotations, data.images, exif=exif)
    write_text(out, json.dumps(content, ensure_ascii=False) + "\n")
    return [*done, *(f"{what} not carried" for what in lost)]


def check_repairable(source: str | Path | RunConfig, images: str | Path | None = None) -> CocoConfig:
    """The data set that `repair` would repair. Raises `UserError` where ``source`` is not of one set."""
    if isinstance(source, RunConfig) or not is_annotations(source):
        raise UserError("--fix repairs one annotation file or folder; name it, and its --images, in place of a configuration")
    return one_source(source, images)


# ------------------------------------------------------------------------------------------------------------ internals


def _classes(file: CocoFile) -> Categories:
    """The classes without their keypoints, whose faults are findings."""
    rows = sorted(file.categories, key=lambda category: int(category["id"]))
    return Categories(tuple(int(row["id"]) for row in rows), tuple(str(row["name"]) for row in rows))


def _findings(file: CocoFile, folder: str, exif: bool, decode: bool, value_range: ValueRange | None = None) -> list[Finding]:
    if not folder:
        raise UserError(f"--images: name the folder in which the images of {file.path} lie")
    file, names = checks.locate_images(file, folder)
    if wrong_ids := checks.check_identities(file):
        return [*wrong_ids, *names]  # The other checks rely on every annotation having its image.
    _, boxes = checks.check_boxes(file)
    _, masks = checks.check_masks(file)
    readable = not any(finding.refused for finding in names)
    images = [*names, *(checks.check_pixels(file, folder, exif=exif, decode=decode) if readable else [])]
    shapes = [*boxes, *checks.check_areas(file), *masks, *checks.check_run_lengths(file)]
    values = look_at_values(file, folder, value_range) if decode and readable else []
    return [*checks.check_readings(file), *shapes, *check_keypoints(file), *images, *values, *warnings.look_at(file)]


def _tiny_boxes(file: CocoFile, part: CocoConfig, findings: Sequence[Finding]) -> list[Finding]:
    """Boxes that are tiny at the smallest scale of a configuration."""
    resizes = [transform for transform in part.transforms if isinstance(transform, ResizeShortestEdge)]
    if not resizes or (findings and checks.check_identities(file)):
        return []
    return warnings.look_at_sizes(file, min(resizes[0].short), resizes[0].long)
