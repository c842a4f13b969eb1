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
from boxwood.data.annotations import read_annotations, read_tree
from boxwood.data.coco_file import CocoFile
from boxwood.data.quality import checks, warnings
from boxwood.data.quality.checks import Finding
from boxwood.data.quality.keypoints import check_keypoints
from boxwood.data.quality.repair import repaired
from boxwood.errors import UserError
from boxwood.files import write_text
from boxwood.library.annotations import coco_parts, is_annotation_file, overview, run_config
from boxwood.run_config import RunConfig

__all__ = ["CheckedFile", "check", "check_files", "repair"]


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

    ``source`` is an annotation file (``.json``) whose images are in the folder ``images``, or a configuration, whose train and val
    set are checked, and whether images are in both. ``decode`` reads the pixels of every image, not only its header; ``exif=False``
    says that the annotations were made without EXIF orientation. ``fix`` writes a repaired copy of an annotation file there, also
    where rows of it cannot be read, which is then a finding.

    A finding knows its file (``where``), and whether training repairs the fault, refuses it, or takes it as it is (``verdict``:
    ``repaired``, ``refused``, ``look``). Raises `UserError` where a file cannot be read, or the two sets have different classes.
    """
    if fix is not None:
        _check_repairable(source)
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

    With ``repairing`` an annotation file whose rows cannot be read has that as its one finding; else it is a `UserError`.
    """
    if is_annotation_file(source):
        if overrides:
            raise UserError(f"'{overrides[0]}': key=value goes with a configuration, not with an annotation file")
        try:
            file = read_annotations(str(source))
        except UserError as error:
            if not repairing:
                raise
            message = str(error).removeprefix(f"{source}: ").partition("; correct the file")[0]
            unreadable = Finding("rows that cannot be read, at least", 1, (message,), "", "nothing else could be checked")
            yield CheckedFile(str(source), "", [unreadable])
            return
        yield CheckedFile(file.path, overview(file), _findings(file, "" if images is None else str(images), exif, decode))
        return
    parts = coco_parts(run_config(source, overrides))
    files = []
    for part in parts:
        file = read_annotations(part.annotations, part.images, part.split)
        findings = _findings(file, part.images, part.exif, decode)
        yield CheckedFile(file.path, overview(file), [*findings, *_tiny_boxes(file, part, findings)])
        files.append(file)
    if shared := warnings.look_at_both(files[0], parts[0].images, files[1], parts[1].images):
        yield CheckedFile("train and val", "", shared)
    checks.check_same_categories(*(part.open().categories for part in parts))


def repair(source: str | Path | RunConfig, out: str | Path, *, images: str | Path | None = None, exif: bool = True) -> list[str]:
    """Write a copy of an annotation file that can be trained on to ``out``; returns what was left out or corrected, in words.

    Raises `UserError` where ``source`` is no annotation file or is ``out`` itself, or nothing would be left of it.
    """
    path, out = _check_repairable(source), Path(out)
    if out.suffix != ".json":
        raise UserError(f"{out}: COCO files are written as .json; change the ending")
    if out.exists() and out.samefile(path):
        raise UserError(f"{out}: is the file itself, which stays as it is; name another")
    if images is None:
        raise UserError(f"--images: name the folder in which the images of {path} lie")
    content, done = repaired(read_tree(path), path, images, exif=exif)
    write_text(out, json.dumps(content, ensure_ascii=False) + "\n")
    return done


# ------------------------------------------------------------------------------------------------------------ internals


def _check_repairable(source: str | Path | RunConfig) -> Path:
    if isinstance(source, RunConfig) or not is_annotation_file(source):
        raise UserError("--fix repairs one annotation file; name it, and its --images, in place of a configuration")
    return Path(source)


def _findings(file: CocoFile, folder: str, exif: bool, decode: bool) -> list[Finding]:
    if not folder:
        raise UserError(f"--images: name the folder in which the images of {file.path} lie")
    file, names = checks.locate_images(file, folder)
    if wrong_ids := checks.check_identities(file):
        return [*wrong_ids, *names]  # The other checks rely on every annotation having its image.
    _, boxes = checks.check_boxes(file)
    _, masks = checks.check_masks(file)
    images = names
    if not any(finding.refused for finding in names):
        images = [*names, *checks.check_pixels(file, folder, exif=exif, decode=decode)]
    shapes = [*boxes, *checks.check_areas(file), *masks, *checks.check_run_lengths(file)]
    return [*checks.check_readings(file), *shapes, *check_keypoints(file), *images, *warnings.look_at(file)]


def _tiny_boxes(file: CocoFile, part: CocoConfig, findings: Sequence[Finding]) -> list[Finding]:
    """Boxes that are tiny at the smallest scale of a configuration."""
    resizes = [transform for transform in part.transforms if isinstance(transform, ResizeShortestEdge)]
    if not resizes or (findings and checks.check_identities(file)):
        return []
    return warnings.look_at_sizes(file, min(resizes[0].short), resizes[0].long)
